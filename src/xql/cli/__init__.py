"""The command line: parses, calls, prints."""

import contextlib
import errno
import functools
import importlib
import importlib.metadata
import inspect
import io
import os
import platform
import re
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from xql import __version__
from xql.cli.console import EventLines, print_anything, print_words, with_flags
from xql.errors import (
    EnvironmentFault,
    InputError,
    MissingExtra,
    Terminated,
    nearest,
    printable,
    reason,
)
from xql.output import Output, output, shown
from xql.programs import is_of_cache, keep_programs
from xql.runs.origin import command_line

Command = Callable[..., Any]

LONGEST = 600
"""Letters of a line of error: more of them are somebody's value, or a path."""

# Where each command lives: a module of this package, and a function in it. Only the command that
# was typed is imported, so that every other line of help comes at once.
COMMANDS: dict[str, Any] = {
    "demo": "demo:demo",
    "train": {
        "offline": "train:offline",
        "online": "train:online",
        "finetune": "finetune:finetune",
    },
    "sweep": "sweep:sweep",
    "resume": "resume:resume",
    "evaluate": "evaluate:evaluate",
    "reproduce": "reproduce:reproduce",
    "compare": "compare:compare",
    "report": "report:report",
    "ope": "ope:ope",
    "select": "ope:select",
    "export": "export:export",
    "serve": "serve:serve",
    "data": {
        "list": "data:list_",
        "info": "data:info",
        "check": "data:check",
        "make": "make:make",
        "convert": "data:convert",
    },
    "gumbel": {"demo": "gumbel:demo", "fit": "gumbel:fit", "errors": "gumbel:errors"},
    "paper": {
        "list": "paper:list_",
        "figure1": "paper:figure1",
        "figure2": "paper:figure2",
        "figure3": "paper:figure3",
        "videos": "paper:videos",
        "table1": "tables:table1",
        "table2": "tables:table2",
        "table3": "tables:table3",
    },
}

SHOWN = (
    *("offline", "online", "finetune", "sweep", "resume"),
    *("evaluate", "compare", "ope", "select"),
)
"""The functions of commands that take the flags of `SHOWING`."""

SHOWING = {
    "quiet": "show nothing but warnings, errors and the result.",
    "json": "write one JSON object per line to standard output in place of text "
    "(docs/command-line.md).",
}

_OPTIONS = ("--help", "--version", "--print-completion")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)
"""What the system says of a file that a user named, and that cannot be used."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; the entry point of `xql`.

    Exit status: 0 done, 1 a check found errors, a run is not the same when made again or an
    environment failed, 2 bad input, 70 a fault of xql itself, 130 interrupted, 141 nobody reads the
    output any more, 143 terminated. One line on standard error says what, where and the hint; with
    XQL_DEBUG=1, the traceback of an error stands above it.
    """
    warnings.showwarning = _show_warning
    print_anything()
    words = [_at_home(one) for one in (sys.argv[1:] if arguments is None else arguments)]
    try:
        with command_line(words):
            _dispatch(words, COMMANDS, ["xql"])
        # Here, where a reader that has gone or a full disk is still caught.
        sys.stdout.flush()
    except (InputError, MissingExtra) as error:
        _debug(error)
        _fail(str(error))
    except EnvironmentFault as fault:
        _debug(fault)
        print(f"xql: {with_flags(str(fault))}", file=sys.stderr)
        sys.exit(1)
    except Terminated:
        print("xql: terminated", file=sys.stderr)
        sys.exit(143)
    except KeyboardInterrupt:
        print("xql: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python would complain once more at exit.
        _discard_output()
        sys.exit(141)
    except Exception as error:
        sys.exit(_unexpected(error, words))


def _at_home(word: str) -> str:
    """`--out=~/runs` with the home folder: a shell puts it in only where a word begins with ~."""
    flag, _, value = word.partition("=")
    if flag.startswith("--") and (value == "~" or value.startswith("~/")):
        return f"{flag}={Path(value).expanduser()}"
    return word


def _discard_output() -> None:
    """Let what is still to be printed go nowhere: Python would complain at its own end."""
    with contextlib.suppress(OSError, ValueError):  # a stream in memory has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _debug(error: Exception) -> None:
    """Show what raised an error where the user asks for it: their environment's code may be it."""
    if os.environ.get("XQL_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)


def _unexpected(error: Exception, words: list[str]) -> int:
    """Say in one line what no command foresaw, and where its report lies; the exit status."""
    if isinstance(error, OSError) and error.errno in _FULL:
        _discard_output()
        _fail(f"there is no space left ({reason(error)})")
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename is not None:
        _fail(f"{error.filename}: {error.strerror}")
    _debug(error)
    about = "not enough memory: " if isinstance(error, MemoryError) else ""
    try:
        place = f"the report is {_save_report(error, words)}"
    except OSError as failed:
        place = f"no report can be written ({failed.strerror}), XQL_DEBUG=1 shows it"
    said = printable(f"{about}{reason(error)}; this should not happen: {place}")
    print(f"xql: {said}", file=sys.stderr)
    return 70


def _save_report(error: Exception, words: list[str]) -> str:
    """Write what a fault's finder needs to a new file that only its user can read."""
    packages = ("jax", "jaxlib", "numpy", "gymnasium", "equinox", "optax", "orbax-checkpoint")
    lines = [
        f"xql {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ", ".join(f"{name} {_release(name)}" for name in packages),
        "arguments: " + " ".join(map(shlex.quote, words)),
        "",
        *traceback.format_exception(error),
    ]
    handle, name = tempfile.mkstemp(prefix="xql-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("\n".join(line.rstrip("\n") for line in lines) + "\n")
    return name


def _release(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line without the place in the code, which says nothing to a user."""
    if is_of_cache(str(message)):
        return
    text = " ".join(with_flags(str(message)).split())
    print(f"warning: {printable(text)}", file=sys.stderr)


def _load(place: str) -> Command:
    module, name = place.split(":")
    command: Command = getattr(importlib.import_module(f"xql.cli.{module}"), name)
    return command


def _dispatch(arguments: list[str], commands: dict[str, Any], path: list[str]) -> None:
    """Find the command that the first words name, and let tyro parse the rest for it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _help(commands, path)
        return
    word = arguments[0]
    if path == ["xql"] and word == "--version":
        print(f"xql {__version__}")
        return
    if path == ["xql"] and word == "--print-completion":
        from xql.cli.completion import SHELLS, print_completion

        if len(arguments) != 2:
            raise InputError(f"{word} takes one shell", hint=f"choose from {', '.join(SHELLS)}")
        print_completion(arguments[1], commands, _OPTIONS)
        return
    if word not in commands:
        name = " ".join([*path, word])
        if word.startswith("-"):
            raise InputError(f"unknown option '{name}'", hint=nearest(word, _OPTIONS))
        raise InputError(f"unknown command '{name}'", hint=nearest(word, commands))
    chosen = commands[word]
    if isinstance(chosen, dict):
        _dispatch(arguments[1:], chosen, [*path, word])
    else:
        _run(_load(chosen), arguments[1:], " ".join([*path, word]))


def _help(commands: dict[str, Any], path: list[str]) -> None:
    """The commands of one group, a line each."""
    print(f"usage: {' '.join(path)} COMMAND …\n")
    for name, chosen in commands.items():
        if isinstance(chosen, dict):
            about = "{" + ", ".join(chosen) + "}"
        else:
            about = (_load(chosen).__doc__ or "").strip().splitlines()[0]
        print_words(f"  {name:10} {about}", indent=13)
    print(f"\n{' '.join(path)} COMMAND --help shows the options.")


def _run(command: Command, arguments: list[str], name: str) -> None:
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            bound = tyro.cli(_deferred(command), args=arguments, prog=name)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        _fail(_one_line(complaint.getvalue()))
    keep_programs()
    bound()


def _deferred(command: Command) -> Command:
    """The same signature, but returning the call instead of making it: parsing is then over.

    Commands that are in `SHOWN` have the flags of `SHOWING` besides.
    """

    @functools.wraps(command)
    def bind(
        *args: Any, quiet: bool = False, json: bool = False, **kwargs: Any
    ) -> Callable[[], Any]:
        call = functools.partial(command, *args, **kwargs)
        return functools.partial(_show_as_asked, call, quiet, json) if quiet or json else call

    del bind.__wrapped__  # tyro would read the signature of that
    signature = inspect.signature(command)
    more = _showing() if command.__name__ in SHOWN else []
    bind.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *more]
    )
    bind.__annotations__ = command.__annotations__ | {one.name: one.annotation for one in more}
    return bind


def _showing() -> list[inspect.Parameter]:
    """The flags of `SHOWING`, as parameters for tyro."""
    import tyro

    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=text, help_behavior_hint="")
            ],
        )
        for name, text in SHOWING.items()
    ]


def _show_as_asked(call: Callable[[], Any], quiet: bool, as_json: bool) -> None:
    """Make a call with less to see, or as events in place of text."""
    if not as_json:
        with shown(Output(quiet)):
            call()
        return
    with (
        shown(Output(quiet, sys.stdout)),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(EventLines()),
    ):
        try:
            call()
        except (Exception, KeyboardInterrupt) as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(OSError):  # the reader has gone: the error still counts
                text = "interrupted" if interrupted else with_flags(reason(error))
                output().emit("error", text=text)
            raise


def _one_line(box: str) -> str:
    """tyro's boxed complaint as one line: its frame, rules and pointers to --help taken away."""
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯ ") for line in box.splitlines()]
    if len(plain) > 1 and re.fullmatch("-+", plain[1]):
        del plain[0]  # the title, where the terminal's encoding has no letters for a frame
    lines = []
    for text in plain:
        if re.fullmatch(r"[─ ]*|-+|─.*─", text) or text.startswith(("For full helptext", "in xql")):
            continue
        lines.append(re.sub(r"^(Perhaps you meant|Argument helptext):", r"; \1", text).strip())
    joined = " ".join(line for line in lines if not line.endswith("--help"))
    joined = joined.replace("invalid literal for int() with base 10:", "no whole number:")
    joined = joined.replace("could not convert string to float:", "no number:")
    joined = " ".join(joined.split())
    # Of a flag that may be left out, tyro says what each of its kinds has against the word.
    joined = re.sub(r"no type matching .*?(no (?:whole )?number: '[^']*')", r"\1", joined)
    return re.sub(r"\s+;", ";", joined)


def _fail(text: str) -> NoReturn:
    line = printable(" ".join(with_flags(text).split()))
    if len(line) > LONGEST:
        line = f"{line[: LONGEST - 200]} … {line[-200:]}"  # the hint stands at the end
    print(f"xql: {line}", file=sys.stderr)
    sys.exit(2)

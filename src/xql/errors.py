"""The errors that a user can cause, each one line, and the checks that many modules share.

Everything below the command line raises these for bad input; the command line prints the line and
exits with status 2. Any other exception is a defect of this library and keeps its traceback.
"""

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from types import ModuleType


def printable(text: str) -> str:
    """`text`, but what a terminal would act on or cannot show written out: \\x1b for an escape.

    Names come from files that others wrote.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def _one_line(what: str, where: str, hint: str) -> str:
    """`where: what; hint`, printable; where that is long, as names in a file may be, each cut."""
    parts = [printable(" ".join(part.split())) for part in (what, where, hint)]
    if sum(map(len, parts)) > 650:
        parts = [part if len(part) <= 215 else f"{part[:130]} … {part[-80:]}" for part in parts]
    what, where, hint = parts
    line = f"{where}: {what}" if where else what
    return f"{line}; {hint}" if hint else line


class InputError(ValueError):
    """Something that the user gave cannot be used: what is wrong, where, and a hint.

    `str(error)` is one line: `where: what; hint`. Arguments stand in it as Python takes them,
    between backticks, such as `steps=0` or `env`; the command line shows its flags instead.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(_one_line(what, where, hint))


class EnvironmentFault(RuntimeError):
    """An environment raised, or returned what no environment may: which one, and what it did.

    `str(fault)` is one line: `where: what; hint`.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(_one_line(what, where, hint))


class Terminated(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM), as a batch scheduler does."""


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


DISTRIBUTION = "extreme-q-learning"
"""What pip calls this package."""


def missing_extra(what: str, extra: str) -> MissingExtra:
    """The error that says what is missing, and the command that installs it."""
    return MissingExtra(f"{what}; run: pip install '{DISTRIBUTION}[{extra}]'")


def brief(value: object) -> str:
    """`repr(value)`, cut to a few dozen letters."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # one of more than 4,300 digits within it, or depth
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(names)}"


def require_seed(seed: int, name: str = "seed") -> int:
    """`seed`, where a random key can be made of it without meeting another seed's.

    Raises:
        InputError: it is no whole number, below 0 or above 2³² − 1.
    """
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**32:
        raise InputError(
            f"`{name}={brief(seed)}` is no seed", hint="give a number from 0 to 4294967295"
        )
    return seed


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of this package installs it.

    Raises:
        MissingExtra: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise missing_extra(f"{module} is not installed", extra) from None


def require_matplotlib() -> None:
    """Import matplotlib, whatever backend the environment asks for: figures here need none.

    A notebook's kernel hands its own backend down to the processes that it starts, and matplotlib
    cannot be imported where it is not installed.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    if "matplotlib" in sys.modules:
        require("matplotlib", "report")
        return
    backend = os.environ.pop("MPLBACKEND", "")
    try:
        matplotlib = require("matplotlib", "report")
    finally:
        if backend:
            os.environ["MPLBACKEND"] = backend
    if backend:
        # As matplotlib itself does, for the rest of the program.
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@contextlib.contextmanager
def decoration(what: str, say: Callable[[str], object] = _to_stderr) -> Iterator[None]:
    """Run what decorates a result, and must not fail it: a failure is one line, "no WHAT: why".

    Args:
        what: what is missing then, such as "figure".
        say: where the line goes; standard error unless given.
    """
    try:
        yield
    except Exception as error:
        say(f"no {what}: {reason(error)}")


def reason(error: BaseException) -> str:
    """What an exception says, in one line."""
    text = " ".join(str(error).split())[:300]
    expected = isinstance(error, InputError | EnvironmentFault | MissingExtra | OSError)
    if expected and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

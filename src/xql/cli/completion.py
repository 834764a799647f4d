"""`xql --print-completion SHELL`: a script that completes commands and flags in a shell.

tyro's own knows one command with its subcommands, and would import every command to parse one.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import tyro

from xql.errors import InputError, nearest

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
_xql() {{
    local at=xql word words=
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$at $word" in
            {paths}) at="$at $word" ;;
            *) break ;;
        esac
    done
    case "$at" in
        {cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _xql xql"""

_ZSH = """\
#compdef xql
_xql() {{
    local at=xql word
    local -a found
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case "$at $word" in
            {paths}) at="$at $word" ;;
            *) break ;;
        esac
    done
    case "$at" in
        {cases}
    esac
    compadd -- $found
    _files
}}
if [[ "${{funcstack[1]}}" == _xql ]]; then _xql "$@"; else compdef _xql xql; fi"""

_FISH = """\
function __xql_at
    set -l at xql
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
            case {paths}
                set at "$at $word"
            case '*'
                break
        end
    end
    test "$at" = "$argv[1]"
end
{cases}"""


def print_completion(shell: str, commands: Mapping[str, Any], flags: tuple[str, ...]) -> None:
    """Print the script.

    Args:
        shell: one of `SHELLS`.
        commands: as `xql.cli.COMMANDS`.
        flags: those of xql itself.

    Raises:
        InputError: another shell.
    """
    if shell not in SHELLS:
        raise InputError(f"there is no completion for '{shell}'", hint=nearest(shell, SHELLS))
    words = {"xql": [*commands, *flags], **dict(_words(commands, "xql"))}
    paths = [f"'{path}'" for path in words if path != "xql"]
    if shell == "bash":
        cases = [f"'{path}') words='{' '.join(found)}' ;;" for path, found in words.items()]
        print(_BASH.format(paths="|".join(paths), cases="\n        ".join(cases)))
    elif shell == "zsh":
        cases = [f"'{path}') found=({' '.join(found)}) ;;" for path, found in words.items()]
        print(_ZSH.format(paths="|".join(paths), cases="\n        ".join(cases)))
    else:
        cases = [
            f"complete -c xql -n \"__xql_at '{path}'\" "
            + (f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}")
            for path, found in words.items()
            for word in found
        ]
        print(_FISH.format(paths=" ".join(paths), cases="\n".join(cases)))


def _words(commands: Mapping[str, Any], path: str) -> Iterator[tuple[str, list[str]]]:
    """What can follow each command: subcommands, or flags."""
    from xql.cli import _deferred, _load

    for name, chosen in commands.items():
        here = f"{path} {name}"
        if isinstance(chosen, dict):
            yield here, [*chosen, "--help"]
            yield from _words(chosen, here)
        else:
            yield here, [*_flags(_deferred(_load(chosen))), "--help"]


def _flags(command: Callable[..., Any]) -> Iterator[str]:
    """The flags of a command, as tyro calls them."""
    for parameter in inspect.signature(command).parameters.values():
        kind: Any = parameter.annotation
        notes: list[Any] = []
        if get_origin(kind) is Annotated:
            kind, *notes = get_args(kind)
        if tyro.conf.Positional in notes:
            continue
        names = [getattr(note, "name", None) for note in notes]
        name = next(filter(None, names), parameter.name).replace("_", "-")
        yield f"--{name}"
        if kind is bool and tyro.conf.FlagCreatePairsOff not in notes:
            yield f"--no-{name}"

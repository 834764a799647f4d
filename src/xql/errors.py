"""The errors that a user can cause, each one line, and the checks that many modules share.

Everything below the command line raises these for bad input; the command line prints the line and
exits with status 2. Any other exception is a defect of this library and keeps its traceback.
"""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class InputError(ValueError):
    """Something that the user gave cannot be used: what is wrong, where, and a hint.

    `str(error)` is one line: `where: what; hint`.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        line = f"{where}: {what}" if where else what
        super().__init__(" ".join(f"{line}; {hint}".split()) if hint else " ".join(line.split()))


class EnvironmentFault(RuntimeError):
    """An environment raised, or returned what no environment may: which one, and what it did.

    `str(fault)` is one line: `where: what; hint`.
    """

    def __init__(self, what: str, *, where: str, hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        line = f"{where}: {what}; {hint}" if hint else f"{where}: {what}"
        super().__init__(" ".join(line.split()))


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(names)}"


def require_seed(seed: int, name: str = "--seed") -> int:
    """`seed`, where a random key can be made of it without meeting another seed's.

    Raises:
        InputError: it is below 0 or above 2³² − 1.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"{name} {seed} is no seed", hint="give a number from 0 to 4294967295")
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
        raise MissingExtra(f"{module} is not installed; run: pip install 'xql[{extra}]'") from None

"""How much a command says and in which form, and letters for encodings that lack them."""

import codecs
import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TextIO


class Output(NamedTuple):
    """What a command was asked to show."""

    quiet: bool = False
    """Nothing but warnings, errors and the result."""
    stream: TextIO | None = None
    """Takes one JSON object per line in place of text for people; None without --json."""

    def emit(self, event: str, **values: Any) -> None:
        """Write one event; nothing without a stream.

        Raises:
            OSError: the stream takes no more.
        """
        if self.stream is not None:
            line = json.dumps({"event": event, **_plain(values)}, allow_nan=False)
            print(line, file=self.stream, flush=True)


_PLAIN = Output()
_CURRENT: ContextVar[Output] = ContextVar("output", default=_PLAIN)


def output() -> Output:
    """What holds now."""
    return _CURRENT.get()


@contextlib.contextmanager
def shown(chosen: Output) -> Iterator[None]:
    """Let `chosen` hold in the block."""
    token = _CURRENT.set(chosen)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _plain(value: Any) -> Any:
    """The same for JSON, which knows no nan and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


_SPELLED = {
    "β": "beta",
    "γ": "gamma",
    "×": "x",
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "±": "+/-",
    "≥": ">=",
    "≤": "<=",
    "→": "->",
    "·": "|",
    "━": "-",
}


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(
        _SPELLED.get(one) or one.encode("unicode_escape").decode() for one in wrong
    ), error.end


SPELLED = "xql-spelled"
"""The name of the error handler that writes beta for β where the encoding has no such letter."""
codecs.register_error(SPELLED, _spell)


def spelled(text: str, encoding: str | None) -> str:
    """`text` with such letters as the encoding has."""
    try:
        encoding = codecs.lookup(encoding or "utf-8").name
    except LookupError:
        encoding = "ascii"
    return text.encode(encoding, SPELLED).decode(encoding)

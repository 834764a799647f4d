"""Where the commands print tables and bars: names and messages as they are, on any terminal."""

import contextlib
import io
import re
import shutil
import sys
import textwrap
from typing import Any

from rich.console import Console

from xql.errors import printable
from xql.output import SPELLED, output


class _Plain(Console):
    def on_broken_pipe(self) -> None:
        # rich's own would end the program with status 1.
        raise BrokenPipeError


def plain_console(**settings: Any) -> Console:
    """A console that takes no text for markup: "[x]" in a name, an interval or an extra stays.

    Args:
        **settings: of rich's console.
    """
    return _Plain(markup=False, emoji=False, highlight=False, **settings)


FLAGS = {
    "dataset_id": "out-id",
    "options": "set",
    "trust": "trust-environment",
    "env_kwargs": "env-arg",
}
"""The flags that are not called as the arguments of Python are."""


def with_flags(text: str) -> str:
    """A message about arguments of Python, `name` or `name=value`, with their flags instead.

    Backticks within a word, as of a file's name, are the user's own and stay.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        shown = f"--{FLAGS.get(name, name).replace('_', '-')}"
        if value in (None, "True"):
            return shown
        option = re.fullmatch(r"\{'(\w+)': (.*)\}", value)
        plain = f"{option[1]}={option[2]}" if option else value.strip("[]'")
        return f"{shown} {plain}"

    return re.sub(r"(?<![\w./\\-])`(\w+)(?:=([^`]+))?`(?![\w/\\-]|\.\w)", flag, text)


def is_terminal(stream: Any) -> bool:
    """Whether someone reads along; there may be no stream at all."""
    return stream is not None and bool(stream.isatty())


def sign_of_life(text: str) -> None:
    """On a terminal, say what the command begins with, before the libraries are loaded for it.

    A file or a pipe gets the results and, of bad input, the one line that says what is wrong.
    """
    if is_terminal(sys.stderr):
        note(text)


def note(text: str) -> None:
    """A line on standard error that is no result; nothing with --quiet."""
    if not output().quiet:
        print(printable(text), file=sys.stderr, flush=True)


def result(**values: Any) -> None:
    """What a command comes to, for programs: the last line of --json, and nothing without it."""
    output().emit("end", **values)


def print_words(text: str, indent: int = 0) -> None:
    """Print each line of a text; on a terminal no word or number is cut at the edge.

    Args:
        text: any number of lines.
        indent: of the rows that a line goes on in.
    """
    if not is_terminal(sys.stdout):
        print(text)
        return
    width = max(20, shutil.get_terminal_size().columns)
    for line in text.splitlines():
        rows = textwrap.fill(
            line,
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        print(rows)


def print_anything() -> None:
    """Let standard output and error take letters that their encoding lacks: β as beta.

    A legacy code page is no reason to fail when all is done; nor is closed output, which Python
    makes None.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        own = getattr(stream, "errors", "") in ("strict", "backslashreplace")
        if reconfigure is not None and own:
            reconfigure(errors=SPELLED)


class EventLines(io.TextIOBase):
    """Standard error as events: a line is a note, or a warning where it says so."""

    def __init__(self) -> None:
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(None, map(str.strip, lines)):
            said = line.removeprefix("warning: ")
            with contextlib.suppress(OSError):  # a reader that has gone ends no training
                output().emit("note" if said == line else "warning", text=said)
        return len(text)

"""Where the commands print tables and bars: names and messages as they are, on any terminal."""

import io
import sys
from typing import Any

from rich.console import Console


def plain_console(**settings: Any) -> Console:
    """A console that takes no text for markup: "[x]" in a name, an interval or an extra stays.

    Args:
        **settings: of rich's console.
    """
    return Console(markup=False, emoji=False, highlight=False, **settings)


def print_anything() -> None:
    """Let standard output and error take letters that their encoding lacks, such as β, as "?".

    A legacy code page is no reason to fail when all is done; nor is closed output, which Python
    makes None.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and getattr(stream, "errors", "") == "strict":
            reconfigure(errors="replace")

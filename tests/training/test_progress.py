"""The progress bar says what it is told, and never stops a run."""

import errno
import io
import sys

import pytest

from xql.training.progress import ProgressBar

INTERVAL = "12.0 [n/a (1 seed)] return"
HINT = "no figure: matplotlib is not installed; run: pip install 'extreme-q-learning[report]'"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(Terminal):
    """Standard error on a full disk, or of a reader that has gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    flush = close = lambda self: None


def use(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar(3000, 2, unit="steps", skip=500, enabled=True) as bar:
        bar.say(HINT)
        bar.warn_once("[red]x[/] a[b] :smile:")
        bar.advance(500)
        bar.advance(1000)
        bar.scored(1000, INTERVAL)
        bar.advance(2000)
        bar.advance(3000)


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_names_and_intervals_stay_as_they_are(
    kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    stream = kind()
    use(stream, monkeypatch)
    printed = stream.getvalue()
    assert HINT in printed
    assert "[red]x[/] a[b] :smile:" in printed
    assert INTERVAL in printed


@pytest.mark.parametrize(
    "environment",
    [
        {"TERM": "dumb"},
        {"TERM": ""},
        {"TERM": "no-such-terminal", "COLUMNS": "1", "LINES": "1"},
        {"COLUMNS": "0"},
        {"COLUMNS": "wide", "LINES": "-3"},
        {"NO_COLOR": "1"},
        {"FORCE_COLOR": "1"},
    ],
)
def test_odd_terminals(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    use(Terminal(), monkeypatch)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ValueError("I/O operation on closed file"),
        UnicodeEncodeError("ascii", "β", 0, 1, "ordinal not in range(128)"),
    ],
)
def test_a_stream_that_fails_does_not_stop_training(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Broken(error), monkeypatch)


def test_without_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(None, monkeypatch)


def test_what_is_said_is_text_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(10, 1, enabled=True) as bar:
        bar.say("name[/bold] \x1b[31m: 5 transitions")
        bar.warn_once("[red]jumps\x07[/nothing]")
    printed = capsys.readouterr().err
    assert "name[/bold] \\x1b[31m: 5 transitions" in printed
    assert "warning: [red]jumps\\x07[/nothing]" in printed

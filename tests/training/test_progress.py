"""The progress bar shows what it is given, whole, and never stops a run."""

import errno
import io
import re
import sys
import time

import numpy as np
import pytest

from xql.output import SPELLED
from xql.runs.config import Member
from xql.runs.folder import Evaluation
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


LONG = "3 steps are larger than 1,234,567.5 in 12 of 4,321 episodes; give next_observations"


def long_run(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """A run of numbers as long as they come, at a step every 10 s; what was printed of it."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", stream)
    clock = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    with ProgressBar(100_000_000, 16, enabled=True) as bar:
        bar.say(LONG)
        bar.compiling()
        for step in range(1, 9):
            clock += 10.0
            metrics = {"beta": np.array([0.5, 2.0]), "kl": np.array([0.0125, np.nan])}
            bar.advance(10_000_000 + 1_234_567 * step, metrics)
        bar.scored(20_000_000, "-12345.6 (β = 0.5), -23456.7 (β = 2), 34567.8 (β = 10) score")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
@pytest.mark.parametrize("columns", [80, 60])
def test_a_terminal_cuts_no_word_and_no_number(
    columns: int, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = long_run(Terminal(), monkeypatch, COLUMNS=str(columns), **environment)
    rows = [row.strip() for row in re.split(r"[\r\n]+", printed.rstrip())]
    assert all(len(row) <= columns and "…" not in row for row in rows)
    shown = " ".join(rows)
    assert LONG in shown
    assert "step 20,000,000: -12345.6 (β = 0.5), -23456.7 (β = 2), 34567.8 (β = 10) score" in shown
    assert re.search(r"step 19,876,536 of 100,000,000 [━╸╺ ]*19% 0:10:49 left", printed)
    assert rows[-1] == "1,975,307 updates/s, β 0.5 to 2, KL 0.0125"


def evaluations(returns: dict[int, float]) -> list[Evaluation]:
    return [
        Evaluation(1000, member, member, 0, value, 10, None, None)
        for member, value in returns.items()
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize("columns", [120, 40])
def test_the_display_has_the_last_score_and_fits(
    columns: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding, errors=SPELLED)
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    members = [Member(seed, {}) for seed in range(2)]
    with ProgressBar(4000, 2, enabled=True) as bar:
        bar.say("β × γ")
        for step in (1000, 2000):
            bar.advance(step, {"beta": np.array([0.5, 0.5]), "kl": np.array([0.1, 0.1])})
        bar.evaluated(2000, evaluations({0: 10.0, 1: 20.0}), members)
    stream.flush()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", content.getvalue().decode(encoding))
    rows = [row.strip() for row in re.split(r"[\r\n]+", shown.rstrip())]
    assert all(len(row) <= columns for row in rows)
    assert rows[-1 if columns > 40 else -2].endswith(
        ("15.0 [10.0, 20.0] return at step 2,000, β 0.5, KL 0.1".replace("β", BETA[encoding]))
        if columns > 40
        else "15.0 [10.0, 20.0] return at step 2,000"
    )
    assert f"{BETA[encoding]} {'x' if encoding == 'ascii' else '×'} " in shown


BETA = {"utf-8": "β", "cp1252": "beta", "ascii": "beta"}


@pytest.mark.parametrize("columns", ["40", "200"])
@pytest.mark.parametrize(("kind", "environment"), [(io.StringIO, {}), (Terminal, {"TERM": "dumb"})])
def test_a_file_gets_whole_rows_now_and_then(
    columns: str,
    kind: type[io.StringIO],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = long_run(kind(), monkeypatch, COLUMNS=columns, **environment)
    assert printed.splitlines() == [
        LONG,
        "compiling",
        "step 13,703,701 of 100,000,000: 1,975,307 updates/s, 0:11:39 left",
        "step 17,407,402 of 100,000,000: 1,975,307 updates/s, 0:11:09 left",
        "step 20,000,000: -12345.6 (β = 0.5), -23456.7 (β = 2), 34567.8 (β = 10) score",
    ]


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

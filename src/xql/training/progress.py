"""The progress of a run: a display on a terminal, plain lines in a file, or events for programs."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from xql.errors import printable
from xql.output import output, spelled
from xql.runs.config import Member
from xql.runs.folder import Evaluation
from xql.runs.summary import UNITS, results

PLAIN_EVERY = 30.0
"""Seconds between two lines on how far it is, where there is no display."""

WIDEST = 100
"""Columns of a line on a terminal, where it has more."""

EVENT_EVERY = 1.0
"""Seconds between two progress events."""

SHOWN = {"beta": "β", "kl": "KL"}
"""The metrics of the display, where an agent has them, and how they are called there."""


class StandardError(Console):
    """rich's console, which leaves a pipe that breaks to the program."""

    def on_broken_pipe(self) -> None:
        # rich's own would end the program, and the training with it.
        raise BrokenPipeError


class ProgressBar:
    """How far a run is: a display on a terminal, plain lines now and then elsewhere.

    With `--json` it is events, and with `--quiet` there are only warnings.
    """

    def __init__(
        self, steps: int, members: int, *, unit: str = "updates", skip: int = 0, enabled: bool
    ) -> None:
        """Make a display for `steps` of each of `members`.

        Args:
            steps: what `advance` counts to.
            members: how many do as much side by side.
            unit: of the speed that is shown.
            skip: steps that come faster than the rest, and are no measure of its speed.
            enabled: whether anything is shown, warnings aside.
        """
        self._output = output()
        self._steps, self._members = steps, members
        self._enabled = enabled and not self._output.quiet
        self._unit, self._skip = unit, skip
        self._console = StandardError(
            file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = self._enabled and terminal
        self._display = _Display(steps)
        self._area = Live(self._display, console=self._console, refresh_per_second=4)
        self._warned: set[str] = set()
        self._broken = False
        self._began: float | None = None
        self._first_step = 0
        self._last_row = time.perf_counter()
        self._last_event = -EVENT_EVERY

    def __enter__(self) -> "ProgressBar":
        if self._live:
            self._show(self._area.start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._show(self._area.stop)

    def _show(self, draw: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Draw, and where standard error cannot take it, draw nothing any more: training goes on.

        It may be closed, on a full disk, or a terminal that went away.
        """
        if self._broken:
            return
        try:
            draw(*args, **kwargs)
        except (OSError, ValueError, LookupError):
            self._broken = True

    def _print(self, text: str, style: str | None = None) -> None:
        """One line above the display; on a terminal no word is cut at the edge."""
        text = printable(text)
        if self._live:
            text = textwrap.fill(
                spelled(text, self._console.encoding),
                max(20, min(self._console.width, WIDEST)),
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        self._last_row = time.perf_counter()
        self._show(self._console.print, text, style=style)

    def say(self, text: str) -> None:
        """One line above the display."""
        if self._enabled:
            self._print(text)

    def compiling(self) -> None:
        """All is said, and the first chunk takes a while; the display shows that itself."""
        if not self._live:
            self.say("compiling")

    def warn_once(self, text: str) -> None:
        """One line, the first time that it is said."""
        if text not in self._warned:
            self._warned.add(text)
            self._print(f"warning: {text}", "yellow")

    def advance(self, step: int, metrics: Mapping[str, np.ndarray] | None = None) -> None:
        """`step` steps are done.

        Args:
            step: the run's.
            metrics: per name one number for each member, of which `SHOWN` are shown.
        """
        display = self._display
        display.step = step
        display.metrics = {
            name: np.atleast_1d(values)
            for name, values in (metrics or {}).items()
            if name in SHOWN and np.isfinite(values).any()
        }
        speed = left = None
        if step > self._skip and self._began is None:
            # The first chunk holds the compilation, which is no measure of the speed to come.
            self._began, self._first_step = time.perf_counter(), step
        elif self._began is not None:
            done = (step - self._first_step) / max(time.perf_counter() - self._began, 1e-9)
            speed, left = done * self._members, (self._steps - step) / max(done, 1e-9)
            display.pace = f"{speed:,.0f} {self._unit}/s"
            display.rest = f"{_clock(left)} left"
            due = time.perf_counter() - self._last_row >= PLAIN_EVERY
            if not self._live and self._output.stream is None and due:
                self.say(f"step {step:,} of {self._steps:,}: {display.pace}, {display.rest}")
        now = time.perf_counter()
        if now - self._last_event >= EVENT_EVERY or step == self._steps:
            self._last_event = now
            self._emit(
                "progress",
                step=step,
                steps=self._steps,
                per_second=speed,
                seconds_left=left,
                **{name: values.tolist() for name, values in display.metrics.items()},
            )

    def scored(self, step: int, text: str) -> None:
        """An evaluation is done, which comes to `text`."""
        if self._output.stream is None:
            self.say(f"step {step:,}: {text}")

    def evaluated(self, step: int, rows: Sequence[Evaluation], members: Sequence[Member]) -> None:
        """Show an evaluation's score with its interval in the display, and as an event."""
        found = results(rows, members)
        unit = UNITS[found[0].quantity]
        self._display.score = f"{_interval([one.last.interval for one in found])} {unit}"
        self._display.score_step = step
        self._emit("evaluation", step=step, results=[one.as_plain() for one in found])

    def _emit(self, event: str, **values: Any) -> None:
        if self._enabled:
            self._show(self._output.emit, event, **values)


class _Display:
    """What the display shows: where the run is, and below that how it goes."""

    def __init__(self, steps: int) -> None:
        self.steps, self.step, self.score_step = steps, 0, 0
        self.pace = self.rest = self.score = ""
        self.metrics: dict[str, np.ndarray] = {}

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        width, encoding = options.max_width, console.encoding
        below = [self.pace]
        if self.score:
            below.append(f"{self.score} at step {self.score_step:,}")
        below += [f"{SHOWN[name]} {_range(self.metrics[name])}" for name in self.metrics]
        lines = _packed([spelled(part, encoding) for part in below if part], width)
        yield self._first_row(width)
        for line in lines:
            yield Text(line, style="dim", overflow="fold")

    def _first_row(self, width: int) -> Table:
        """The step, a bar as wide as there is room, the share that is done, the time left."""
        known = self.step > 0 or self.steps == 0
        head = f"step {self.step:,} of {self.steps:,}" if known else "compiling"
        share = f"{100 * self.step // max(self.steps, 1)}%" if known else ""
        words = [head, *filter(None, (share, self.rest))]
        room = width - sum(len(word) + 1 for word in words)
        if room < 0 and known:
            words[0] = f"step {self.step:,}"
        row: list[Text | Bar] = [Text(word, no_wrap=True) for word in words]
        if room >= 5:
            total = self.steps if known else None
            row.insert(1, Bar(total=total, completed=self.step, width=min(40, room)))
        grid = Table.grid(padding=(0, 1, 0, 0))
        for _ in row:
            grid.add_column(no_wrap=True)
        grid.add_row(*row)
        return grid


def _packed(parts: Sequence[str], width: int) -> list[str]:
    """Parts as lines, with commas between, as many in a line as there is room for."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines


def _range(values: np.ndarray) -> str:
    low, high = f"{np.nanmin(values):.3g}", f"{np.nanmax(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _interval(found: Sequence[Any]) -> str:
    """One interval whole; of several settings the range of their estimates."""
    if len(found) == 1:
        one = found[0]
        if one.low is None or not np.isfinite([one.low, one.high]).all():
            return f"{one.estimate:.1f}"
        return f"{one.estimate:.1f} [{one.low:.1f}, {one.high:.1f}]"
    return _range(np.array([one.estimate for one in found]))


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}"

"""The progress of a run: a bar with updates per second and time left, and each score in a row."""

import sys
import textwrap
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from xql.errors import printable

PLAIN_EVERY = 30.0
"""Seconds between two rows on how far it is, where there is no bar."""


class _StandardError(Console):
    def on_broken_pipe(self) -> None:
        # rich's own would end the program, and the training with it.
        raise BrokenPipeError


class ProgressBar:
    """A progress bar on a terminal, and plain rows now and then where standard error is a file."""

    def __init__(
        self, steps: int, members: int, *, unit: str = "updates", skip: int = 0, enabled: bool
    ) -> None:
        """Make a bar for `steps` of each of `members`.

        Args:
            steps: what `advance` counts to.
            members: how many do as much side by side.
            unit: of the speed that is shown.
            skip: steps that come faster than the rest, and are no measure of its speed.
            enabled: whether anything is shown, warnings aside.
        """
        self._steps, self._members, self._enabled = steps, members, enabled
        self._unit, self._skip = unit, skip
        self._console = _StandardError(
            file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._live = enabled and self._console.is_terminal and not self._console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("{task.fields[speed]}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rest]}", markup=False),
            console=self._console,
            disable=not self._live,
        )
        # Without a total the bar moves to and fro.
        self._task = self._bar.add_task("", total=None, speed="compiling", rest="")
        self._warned: set[str] = set()
        self._broken = False
        self._began: float | None = None
        self._first_step = 0
        self._last_row = time.perf_counter()

    def __enter__(self) -> "ProgressBar":
        self._show(self._bar.start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show(self._bar.stop)

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
        """One row above the bar; on a terminal no word is cut at the edge."""
        text = printable(text)
        if self._live:
            text = textwrap.fill(
                text,
                max(20, self._console.width),
                break_long_words=False,
                break_on_hyphens=False,
            )
        self._last_row = time.perf_counter()
        self._show(self._console.print, text, style=style)

    def say(self, text: str) -> None:
        """One row above the bar."""
        if self._enabled:
            self._print(text)

    def compiling(self) -> None:
        """All is said, and the first chunk takes a while; the bar shows that itself."""
        if not self._live:
            self.say("compiling")

    def warn_once(self, text: str) -> None:
        """One line, the first time that it is said."""
        if text not in self._warned:
            self._warned.add(text)
            self._print(f"warning: {text}", "yellow")

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        if step <= self._skip:
            self._show(self._bar.update, self._task, completed=step, total=self._steps)
            return
        if self._began is None:
            # The first chunk holds the compilation, which is no measure of the speed to come.
            self._began, self._first_step = time.perf_counter(), step
            self._show(
                self._bar.update, self._task, completed=step, total=self._steps, speed="training"
            )
            return
        speed = (step - self._first_step) / max(time.perf_counter() - self._began, 1e-9)
        left = (self._steps - step) / max(speed, 1e-9)
        pace = f"{speed * self._members:,.0f} {self._unit}/s"
        rest = f"{_clock(left)} left"
        if not self._live and time.perf_counter() - self._last_row >= PLAIN_EVERY:
            self.say(f"step {step:,} of {self._steps:,}: {pace}, {rest}")
        self._show(
            self._bar.update,
            self._task,
            completed=step,
            total=self._steps,
            speed=pace,
            rest=rest,
        )

    def scored(self, step: int, text: str) -> None:
        """An evaluation is done."""
        self.say(f"step {step:,}: {text}")


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}"

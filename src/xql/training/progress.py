"""The progress bar of a run: updates per second, time left, last score."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from xql.errors import printable


class _StandardError(Console):
    def on_broken_pipe(self) -> None:
        # rich's own would end the program, and the training with it.
        raise BrokenPipeError


class ProgressBar:
    """A progress bar on a terminal, and plain lines now and then where standard error is a file."""

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
        self._live = enabled and self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.fields[speed]}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rest]}", markup=False),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=steps, speed="compiling", rest="")
        self._score = ""
        self._warned: set[str] = set()
        self._broken = False
        self._began: float | None = None
        self._first_step = 0

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

    def say(self, text: str) -> None:
        """One line above the bar."""
        if self._enabled:
            self._show(self._console.print, printable(text))

    def warn_once(self, text: str) -> None:
        """One line, the first time that it is said."""
        if text not in self._warned:
            self._warned.add(text)
            self._show(self._console.print, printable(f"warning: {text}"), style="yellow")

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        if step <= self._skip:
            self._show(self._bar.update, self._task, completed=step)
            return
        if self._began is None:
            # The first chunk holds the compilation, which is no measure of the speed to come.
            self._began, self._first_step = time.perf_counter(), step
            return
        speed = (step - self._first_step) / max(time.perf_counter() - self._began, 1e-9)
        left = (self._steps - step) / max(speed, 1e-9)
        self._show(
            self._bar.update,
            self._task,
            completed=step,
            speed=f"{speed * self._members:,.0f} {self._unit}/s",
            rest=" · ".join(part for part in (f"{_clock(left)} left", self._score) if part),
        )

    def scored(self, step: int, text: str) -> None:
        """An evaluation is done."""
        self._score = f"last score {text}"
        if self._enabled and not self._live:
            self._show(self._console.print, f"step {step:,}: {text}")


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}"

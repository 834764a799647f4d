"""Saving a run's whole state: what there is to save, when it is due, and what goes beside it."""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from xql.agents import TrainState
from xql.errors import InputError
from xql.runs.checkpoints import CheckpointWriter, Retention, flatten
from xql.runs.folder import RunFolder
from xql.training.population import MemberMetrics
from xql.training.progress import ProgressBar
from xql.training.saved import Saved, settings_of


class Moment(NamedTuple):
    """A run between two calls of its compiled updates."""

    step: int
    population: TrainState
    totals: MemberMetrics
    """The sums of the metrics since they were last logged."""
    logged: int
    """The step at which they were."""
    rest: Callable[[], Mapping[str, np.ndarray]] = dict
    """Gives what else the next update depends on."""


class StateSaver:
    """Hands whole states to the writer of checkpoints, as often as the run's configuration says.

    Attributes:
        saved_step: the last step that was saved; None before the first.
    """

    def __init__(
        self,
        folder: RunFolder,
        writer: CheckpointWriter,
        progress: ProgressBar,
        saved: Saved | None,
    ) -> None:
        self._folder, self._writer, self._progress = folder, writer, progress
        self._seeds = [one.seed for one in folder.config.members]
        self._steps, self._seconds = folder.config.checkpoints.interval()
        self.saved_step = None if saved is None else saved.step
        self._saved_at = time.monotonic()

    def next_step(self, step: int) -> int:
        """The next step whose state is to be saved, where checkpoints are counted in steps."""
        if self._steps is None:
            return self._folder.config.steps
        return (step // self._steps + 1) * self._steps

    def due(self, step: int) -> bool:
        """Whether the state of a step is to be saved."""
        if self._seconds is not None:
            return time.monotonic() - self._saved_at >= self._seconds
        if self._steps is not None:
            # Several environments may step over the multiple itself.
            return step // self._steps > (self.saved_step or 0) // self._steps
        return False

    def save(
        self,
        now: Moment,
        good: TrainState,
        notes: Mapping[str, Any],
        more: Mapping[str, np.ndarray],
        best: Collection[int],
    ) -> None:
        """Hand the whole state to the writer, which keeps it in a thread of its own.

        Args:
            now: what to save.
            good: the population that a diverged member would be rolled back to.
            notes: what the host remembers, in plain values.
            more: and in arrays by name.
            best: the steps that have the highest score so far, or may have it.
        """
        folder, plan = self._folder, self._folder.config.checkpoints
        # Where metrics were just logged, the sums are zero and the good population is this one.
        apart = now.step != now.logged
        extra = {**now.rest(), **more}
        if apart:
            extra |= flatten(now.totals, "totals") | flatten(good, "good")
        try:
            self._writer.wait()
        except InputError as error:
            self._progress.warn_once(f"{error}; training goes on, and tries again")
        # The rows that lie before a checkpoint must not be lost where it survives.
        with contextlib.suppress(InputError):  # it was said when they could not be written
            folder.flush()
        folder.sync()
        own = {
            "logged": now.logged,
            "good": apart,
            "waiting": folder.waiting,
            "settings": settings_of(folder.config),
        }
        self.saved_step, self._saved_at = now.step, time.monotonic()
        self._writer.save(
            folder.checkpoints,
            now.step,
            now.population,
            seeds=self._seeds,
            extra=extra,
            notes={**own, **notes},
            keep=Retention(plan.keep_last, plan.keep_every, best if plan.keep_best else ()),
        )

    def wait(self) -> None:
        """Return when what was handed over is on the disk.

        Raises:
            InputError: it cannot be written.
        """
        self._writer.wait()

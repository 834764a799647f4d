"""Who hears of a run besides its folder: loggers, and the user's own functions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from xql.errors import InputError, brief
from xql.runs.config import Member
from xql.runs.folder import Evaluation
from xql.runs.summary import member_means, quantity_of
from xql.training.loggers import Loggers


class Event(NamedTuple):
    """What a callback is called with; nothing in it can be changed."""

    kind: Literal["metrics", "evaluation"]
    step: int
    """Gradient updates done; online, environment steps."""
    values: Mapping[str, tuple[float, ...]]
    """Per name one number for each member: the metrics' means since the last such event, or the
    evaluation's mean return, score or success rate (in per cent)."""
    episodes: tuple[Evaluation, ...]
    """Of an evaluation, every episode; else none."""
    members: tuple[Member, ...]
    run: Path
    """The run's folder."""


Callback = Callable[[Event], object]
"""Called at each log and each evaluation. What it raises ends the run, whose state is saved."""


def check_callbacks(callbacks: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        InputError: says which.
    """
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise InputError(f"`callbacks={brief(callbacks)}` is no list of functions")


class Listeners:
    """Hands on what is logged: to loggers at once, to callbacks where the state can be saved."""

    def __init__(
        self,
        run: Path,
        members: Sequence[Member],
        loggers: Loggers | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._run, self._members = run, tuple(members)
        self._loggers, self._callbacks = loggers, callbacks
        self._waiting: list[Event] = []

    def metrics(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Of a stretch of updates, per name one number for each member."""
        each = {name: tuple(map(float, np.atleast_1d(one))) for name, one in values.items()}
        self._hear("metrics", step, each)

    def evaluation(self, step: int, rows: Sequence[Evaluation]) -> None:
        """All episodes of one."""
        quantity = quantity_of(rows)
        means = tuple(member_means(rows, quantity).values())
        self._hear("evaluation", step, {quantity: means}, tuple(rows))

    def _hear(
        self,
        kind: Literal["metrics", "evaluation"],
        step: int,
        values: dict[str, tuple[float, ...]],
        rows: tuple[Evaluation, ...] = (),
    ) -> None:
        if self._loggers is not None:
            finite = {
                f"{name}/{index}": number
                for name, numbers in values.items()
                for index, number in enumerate(numbers)
                if np.isfinite(number)
            }
            self._loggers.log(step, finite)
        if self._callbacks:
            seen = MappingProxyType(values)
            self._waiting.append(Event(kind, step, seen, rows, self._members, self._run))

    @property
    def waiting(self) -> bool:
        """Whether there is an event that no callback has had."""
        return bool(self._waiting)

    def call(self) -> None:
        """Give the events that wait to every callback."""
        events, self._waiting = self._waiting, []
        for event in events:
            for callback in self._callbacks:
                callback(event)

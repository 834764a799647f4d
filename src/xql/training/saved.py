"""What a run goes on from: its latest checkpoint, and all that lies beside the population in it."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xql.agents import TrainState
from xql.errors import InputError
from xql.runs import origin
from xql.runs.checkpoints import load_extra, tidy, unflatten
from xql.runs.config import RunConfig
from xql.runs.folder import RunFolder
from xql.runs.lock import locked
from xql.runs.policy import load_population
from xql.training.population import MemberMetrics


class Saved(NamedTuple):
    """A run as it was at a step."""

    folder: RunFolder
    step: int
    population: TrainState
    extra: dict[str, np.ndarray]
    """What else the next update depends on, by name."""
    notes: dict[str, Any]
    """What the host remembers, in plain values."""

    @property
    def logged(self) -> int:
        """The step at which metrics were last logged.

        Raises:
            InputError: the notes do not say one.
        """
        logged = self.notes.get("logged", self.step)
        if type(logged) is not int or not 0 <= logged <= self.step:
            raise self.not_of_a_run()
        return int(logged)

    def not_of_a_run(self) -> InputError:
        """What to say of notes that no run writes."""
        return InputError(
            "the notes of this checkpoint are not those of a run",
            where=str(self.folder.checkpoints / str(self.step)),
            hint="restore the folder as the run wrote it, or make the run again",
        )

    def totals(self, zeros: MemberMetrics) -> MemberMetrics:
        """The sums of the metrics since then; `zeros` where they had just been logged."""
        if self.logged == self.step:
            return zeros
        totals: MemberMetrics = unflatten(self.extra, "totals", zeros)
        return totals

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with `prefix.`, by the rest of their names."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): array
            for name, array in self.extra.items()
            if name.startswith(start)
        }

    def go_on(self, config: RunConfig) -> RunFolder:
        """The run's folder with its configuration from now on, and no row of what will be repeated.

        Raises:
            InputError: it cannot be written.
        """
        evaluated = self.step if self.evaluated(config) else self.step - 1
        before = self.evaluating
        if before is not None and not self.evaluated(config, before):
            evaluated = before - 1
        return _go_on(self.folder, config, self.step, evaluated=evaluated)

    @property
    def evaluating(self) -> int | None:
        """The step before this one whose evaluation was still being played; mostly none.

        Raises:
            InputError: the notes do not say one.
        """
        step = self.notes.get("evaluating")
        if step is not None and (type(step) is not int or not 0 <= step <= self.step):
            raise self.not_of_a_run()
        return step

    def evaluated(self, config: RunConfig, step: int | None = None) -> bool:
        """Whether all episodes are there that a configuration asks for at a step; this one if None.

        There may be more: a step was the last one before the run became longer. One that is none
        of its steps to evaluate at any more keeps what was an evaluation.
        """
        plan, step = config.evaluation, self.step if step is None else step
        if step in config.evaluation_steps:
            each = plan.episodes_at(step, config.steps)
        else:
            each = min(plan.episodes, plan.last_episodes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a row cut short, which will be written again
            rows = self.folder.read_evaluations()
        return sum(row.step == step for row in rows) >= each * len(config.members)

    def require_whole(self) -> None:
        """Refuse a run of which not all is there that going on takes.

        Raises:
            InputError: its log is compressed, as results/ keeps one; or its checkpoint keeps the
                networks alone: one that stayed for its step or its score, or of xql 0.2 online.
        """
        if not (self.folder.path / "metrics.jsonl").is_file():
            raise InputError(
                "only a part of this run's log is kept, so that it cannot go on",
                where=str(self.folder.path),
                hint="give the folder that the run wrote",
            )
        needed = self.notes.get("good") or self.evaluating is not None
        if not self.extra and (needed or self.folder.config.online):
            raise InputError(
                "this checkpoint keeps the networks alone, from which no run goes on",
                where=str(self.folder.checkpoints / str(self.step)),
                hint="train it again; its policy can be evaluated",
            )


def _go_on(folder: RunFolder, config: RunConfig, step: int, *, evaluated: int) -> RunFolder:
    # A half-written replay buffer, which a kill may leave, is hundreds of megabytes.
    for home in (folder.path, folder.checkpoints):
        tidy(home)
    folder.rewind(step, evaluated=evaluated)
    if config.to_dict() != folder.config.to_dict():
        folder.configure(config)
    origin.append(folder.path, step)
    return folder


def settings_of(config: RunConfig) -> dict[str, str]:
    """What the updates depend on and no resumption changes: texts by name, of long ones a hash."""
    plain = config.to_dict()
    found = {}
    parts = [plain.get(part, {}) for part in ("hyperparameters", "scaling", "loop", "finetune")]
    drawn = {"precision": config.precision, "streamed": config.data.streamed}
    for part in (*parts, drawn):
        for name, value in part.items():
            text = json.dumps(value)
            short = len(text) <= 60
            found[name] = text if short else hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _require_own_settings(folder: RunFolder, notes: Mapping[str, Any]) -> None:
    """Check that config.yaml is as the run wrote it, in what its checkpoint notes of it.

    Raises:
        InputError: it was edited.
    """
    # xql 0.2 noted nothing; and what a version knows that another does not is no edit.
    before = notes.get("settings", {})
    for name, now in settings_of(folder.config).items():
        if before.get(name, now) != now:
            raise InputError(
                f"the run trained with {name} {before[name]}, config.yaml says {now}",
                where=str(folder.path),
                hint="restore config.yaml as the run wrote it, or make the run again",
            )


def load_saved(folder: RunFolder) -> Saved:
    """The latest state of a run that can be read.

    Raises:
        InputError: there is none, or config.yaml was edited since.
    """
    _, population, step = load_population(folder)
    extra, notes = load_extra(folder.checkpoints, step)
    _require_own_settings(folder, notes)
    if step > folder.config.steps:
        raise InputError(
            f"its latest checkpoint is of step {step:,}, config.yaml says {folder.config.steps:,}",
            where=str(folder.path),
            hint="restore config.yaml as the run wrote it",
        )
    return Saved(folder, step, population, extra, notes)


def start_or_go_on(
    stack: contextlib.ExitStack,
    out: str | Path | RunFolder | None,
    name: str,
    config: RunConfig,
    saved: Saved | None,
) -> RunFolder:
    """The folder of a new run, held and closed by `stack`; or that of a run that goes on.

    Args:
        stack: what ends with the run.
        out, name: as `RunFolder.start` takes them; or the folder, held already, of a run that ended
            before it saved anything, which begins anew.
        config: the run's.
        saved: where it goes on from, its folder held already.

    Raises:
        InputError: as `RunFolder.start` and `Saved.go_on` say.
    """
    if saved is not None:
        folder = saved.go_on(config)
    elif isinstance(out, RunFolder):
        folder = _go_on(out, config, 0, evaluated=-1)
    else:
        folder = RunFolder.start(out, name, config)
        stack.enter_context(locked(folder.path))
    return folder

"""Optuna's part of a sweep: proposals, and trials that are ended early.

A study lives in a journal, a file that the driver and every worker append to. The driver asks for
points; a worker reports the scores of its trial as they come, ends it where they are too low, and
says at the end what it came to. A trial that nothing was said of was killed, and is trained again.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xql.errors import require
from xql.experiments.sweep_spec import Asha, Method, Point, SweepSpec
from xql.runs.config import RunConfig
from xql.runs.summary import Quantity, member_means, quantity_of
from xql.training.listeners import Event

if TYPE_CHECKING:
    import optuna


class Trial(NamedTuple):
    """One proposal, as a worker needs to know it."""

    journal: Path
    study: str
    number: int
    point: Point
    metric: Quantity | None
    asha: Asha | None


class Trials:
    """The trials of one method on one data set: first those that were killed, then new ones."""

    def __init__(
        self, spec: SweepSpec, journal: Path, method: Method, source: str, cell: str
    ) -> None:
        """Open the study, or begin one.

        Args:
            spec: the sweep.
            journal: its file, which need not exist.
            method, source: what is trained, and on what.
            cell: the name of one of its cells, which changes with the data and with all else that
                scores depend on.
        """
        require("optuna", "cluster")
        self.method, self.source = method, source
        self._spec = spec
        self._journal = journal.absolute()  # a worker's current folder may be another
        # Of all that its scores depend on: under another specification it is another study, and so
        # it is with other data of the same name.
        plain = spec.to_plain()
        for name in (
            *("agents", "presets", "data", "envs", "trials", "members", "resources"),
            *("checkpoint_every", "trust"),
        ):
            plain.pop(name, None)
        of = json.dumps([cell, plain], sort_keys=True)
        digest = hashlib.sha256(of.encode()).hexdigest()[:8]
        self._name = f"{source} {method.agent} {method.preset} {digest}"

    @property
    def total(self) -> int:
        """How many there are to be."""
        return self._spec.trials

    def _begun(self) -> bool:
        """Whether the journal has this study; writes nothing."""
        if not self._journal.exists():
            return False
        import optuna

        _hush(optuna)
        names = optuna.get_all_study_names(_storage(self._journal))
        return self._name in names

    def done(self) -> Iterator[tuple[Trial, bool]]:
        """The trials that came to something before, and whether each was ended early."""
        if not self._begun():
            return
        import optuna

        states = optuna.trial.TrialState
        study = optuna.load_study(study_name=self._name, storage=_storage(self._journal))
        for one in study.get_trials(states=(states.COMPLETE, states.PRUNED, states.FAIL)):
            yield self._trial(one.number, one.params), one.state == states.PRUNED

    def __iter__(self) -> Iterator[Trial]:
        import optuna

        _hush(optuna)
        study = self._study()
        for one in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            yield self._trial(one.number, one.params)
        while (number := len(study.get_trials(deepcopy=False))) < self._spec.trials:
            # Known by its number, so that a sweep that was killed proposes what it would have.
            [seed] = np.random.SeedSequence([self._spec.seed, number]).generate_state(1)
            study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
            asked = study.ask(self._distributions())
            yield self._trial(asked.number, asked.params)

    def _trial(self, number: int, params: dict[str, Any]) -> Trial:
        space = self._spec.space_of(self.method)
        point = {
            name: json.loads(value) if space[name].kind == "choice" else value
            for name, value in params.items()
        }
        spec = self._spec
        return Trial(self._journal, self._name, number, point, spec.metric, spec.asha)

    def _study(self) -> "optuna.Study":
        import optuna

        return optuna.create_study(
            storage=_storage(self._journal),
            study_name=self._name,
            direction=self._spec.direction,
            load_if_exists=True,
        )

    def _distributions(self) -> dict[str, Any]:
        from optuna import distributions as kinds

        found: dict[str, Any] = {}
        for name, one in self._spec.space_of(self.method).items():
            if one.kind == "choice":
                found[name] = kinds.CategoricalDistribution([json.dumps(v) for v in one.values])
            elif one.kind == "int":
                found[name] = kinds.IntDistribution(*one.values)
            else:
                log = one.kind == "log_uniform"
                low, high = map(float, one.values)
                found[name] = kinds.FloatDistribution(low, high, log=log)
        return found


def _storage(journal: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(journal)))


def _hush(optuna: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def pruning(trial: Trial, ended: type[Exception]) -> Callable[[Event], None]:
    """A callback that reports every evaluation of a trial, and raises `ended` where it is ended.

    Args:
        trial: the trial.
        ended: what to raise.
    """
    import optuna

    _hush(optuna)
    storage = _storage(trial.journal)
    study = optuna.load_study(study_name=trial.study, storage=storage)
    # Of the storage's own numbers; a study's count from 0 in each.
    own = study.trials[trial.number]._trial_id
    asha = trial.asha
    pruner = (
        optuna.pruners.NopPruner()
        if asha is None
        else optuna.pruners.SuccessiveHalvingPruner(
            min_resource=asha.first, reduction_factor=asha.factor
        )
    )

    def report(event: Event) -> None:
        if event.kind != "evaluation":
            return
        steps = RunConfig.load(event.run).evaluation_steps
        quantity = trial.metric or quantity_of(event.episodes)
        score = float(np.mean(list(member_means(event.episodes, quantity).values())))
        storage.set_trial_intermediate_value(own, steps.index(event.step) + 1, score)
        if event.step < steps[-1] and pruner.prune(study, storage.get_trial(own)):
            raise ended

    return report


def tell(trial: Trial, score: float | None) -> None:
    """Say what a trial came to; None where it was ended early, not finite where it failed."""
    import optuna

    _hush(optuna)
    study = optuna.load_study(study_name=trial.study, storage=_storage(trial.journal))
    states = optuna.trial.TrialState
    if score is None:
        study.tell(trial.number, state=states.PRUNED, skip_if_finished=True)
    elif math.isfinite(score):
        study.tell(trial.number, score, skip_if_finished=True)
    else:  # every member diverged
        study.tell(trial.number, state=states.FAIL, skip_if_finished=True)

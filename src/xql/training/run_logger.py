"""What every training loop does between its compiled chunks: log, evaluate, checkpoint, report."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from xql.agents import Agent, TrainState
from xql.agents.hyperparameters import learning_rates
from xql.data.dataset import DeviceData
from xql.errors import EnvironmentFault, InputError, decoration
from xql.runs.checkpoints import (
    CheckpointWriter,
    Retention,
    flatten,
    latest_step,
    save_checkpoint,
    unflatten,
)
from xql.runs.folder import SMALLER, Divergence, RunFolder
from xql.runs.summary import in_brief, member_means, quantity_of
from xql.training.diagnosis import Cause, replayed_causes
from xql.training.divergence import DivergenceGuard, RewardRange
from xql.training.evaluate import PopulationEvaluator
from xql.training.health import EARLIEST, LOWER_RATE, HealthMonitor
from xql.training.interrupt import Interruption
from xql.training.population import MemberMetrics
from xql.training.progress import ProgressBar
from xql.training.saved import Saved, settings_of
from xql.training.units import in_own_unit, reward_unit


@contextlib.contextmanager
def saying_what_is_kept(folder: RunFolder, progress: ProgressBar) -> Iterator[None]:
    """Where the block is interrupted, say what the run's folder holds."""
    try:
        yield
    except KeyboardInterrupt:
        step = latest_step(folder.checkpoints)
        if step is None:
            progress.say(
                f"interrupted: {folder.path} keeps the log and no policy yet; {_anew(folder)}"
            )
        else:
            progress.say(
                f"interrupted: {folder.path} keeps the log and all of step {step:,}; "
                f"{going_on(folder)}"
            )
        raise


def going_on(folder: RunFolder) -> str:
    """How to continue a run."""
    return f"xql resume {shlex.quote(str(folder.path))} goes on from there"


def _anew(folder: RunFolder) -> str:
    """What to do with a run that saved nothing."""
    if folder.config.finetune is not None:
        return "fine-tune again"
    return f"xql resume {shlex.quote(str(folder.path))} begins anew"


class RunLogger:
    """Keeps a run's folder and its progress bar, and guards against diverging members.

    Attributes:
        stopped: whether every member has diverged, so that there is nothing left to train.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: ProgressBar,
        evaluator: PopulationEvaluator | None,
        agent: Agent,
        population: TrainState,
        *,
        writer: CheckpointWriter,
        data: DeviceData | None = None,
        saved: Saved | None = None,
        interruption: Interruption | None = None,
    ) -> None:
        """Start the clock, or let it go on.

        Args:
            folder: the run's.
            progress: where lines and warnings go.
            evaluator: of the run's environment; None where nothing is evaluated.
            agent: what is trained.
            population: as training starts.
            writer: of the run's checkpoints.
            data: offline, what it draws from, to find out what broke first where a member diverges.
            saved: where it started from, of a run that goes on.
            interruption: what notes that the run is to end.
        """
        self._folder, self._progress, self._evaluator = folder, progress, evaluator
        self._agent, self._data = agent, data
        self._interruption = interruption or Interruption()
        self._guard = DivergenceGuard(population)
        self._beyond: dict[str, set[int]] = {"above": set(), "below": set()}
        self.stopped = False
        self._step = 0 if saved is None else saved.step
        config = folder.config
        self._seeds = [one.seed for one in config.members]
        configs = [config.member_config(index) for index in range(len(config.members))]
        self._unit = reward_unit(config.scaling)
        scalable = not config.online and config.scaling.rewards != "auto"
        self._health = HealthMonitor(agent, configs, scalable=scalable, unit=self._unit)
        self._writer = writer
        self._every = config.checkpoints.interval()
        self._scores: dict[int, float] = {}
        spent = 0.0
        if saved is not None:
            spent = self._restore(saved, population)
        self._saved_step, self._saved_at = None if saved is None else saved.step, time.monotonic()
        self._began = time.perf_counter() - spent

    def _restore(self, saved: Saved, population: TrainState) -> float:
        """Take up what a checkpoint keeps of the logger, and give the seconds that were spent.

        Raises:
            InputError: it keeps what no run notes.
        """
        notes = saved.notes
        good = unflatten(saved.extra, "good", population) if notes.get("good") else population
        # A run of xql 0.2 has no notes.
        guard = {"rolled_back": {}, "frozen": self._folder.read_frozen()}
        try:
            self._guard.restore(good, notes.get("guard", guard), saved.logged)
            self._health.restore(notes.get("health", {}))
            for side, members in notes.get("beyond", {}).items():
                self._beyond[side] = set(members)
            self._folder.wait_with(notes.get("waiting", {}))
            seconds = float(notes.get("seconds", 0.0))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise saved.not_of_a_run() from error
        rows = self._folder.read_evaluations()
        if rows:
            quantity = quantity_of(rows)
            for step in {row.step for row in rows}:
                means = member_means([row for row in rows if row.step == step], quantity)
                self._scores[step] = float(np.mean(list(means.values())))
        return seconds

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._began

    def say(self, text: str) -> None:
        """One row above the progress bar."""
        self._progress.say(text)

    def metrics(
        self,
        step: int,
        population: TrainState,
        metrics: Mapping[str, np.ndarray],
        rewards: RewardRange,
        **more: Any,
    ) -> TrainState:
        """Log a stretch of updates; put back the members that diverged in it.

        Args:
            step: the run's, at the stretch's end.
            population: as it is then.
            metrics: per name one number for each member; what is not finite is divergence. They
                are logged and shown in the data's own unit where rewards were scaled by "auto".
            rewards: of what was learned from, to find a critic above all returns that they allow.
            **more: numbers that are no sign of divergence.

        Returns:
            The population to go on with.
        """
        folder, progress = self._folder, self._progress
        self._step = step
        shown = in_own_unit(metrics, self._unit)
        everything = {**shown, **more, "seconds": self.seconds}
        self._log(folder.log_metrics, step, everything)
        scalars = {
            f"{name}/{index}": float(value)
            for name, values in {**shown, **more}.items()
            for index, value in enumerate(np.atleast_1d(values))
            if np.isfinite(value)  # tensorboardX prints a line for each that is not
        }
        if missing := folder.tensorboard(step, scalars):
            progress.say(missing)
        population, diverged = self._check(step, population, metrics)
        members = len(folder.config.members)
        if diverged and len(self._guard.frozen) == members:
            self.stopped = True
            wrong = [one for one in metrics if not np.isfinite(metrics[one]).all()]
            why = f"not finite: {', '.join(wrong) or 'parameters'}"
            who = "every member has" if members > 1 else "the member has"
            progress.warn_once(
                f"{who} diverged by step {step:,} ({why}), so training stops here; "
                f"{self._health.remedy(diverged[0].member)}; the run is kept in {folder.path}"
            )
            return population
        # What was learned by members that were put back is thrown away.
        away = [*self._guard.frozen, *(one.member for one in diverged)]
        if away:
            metrics, shown = _without(metrics, away), _without(shown, away)
        # A critic with entropy in its values has no such bound.
        if not self._agent.values_include_entropy:
            for name, called in (("q", "critic"), ("v", "V")):
                if name in metrics:
                    self._warn_of_impossible_values(step, called, metrics[name], rewards)
        for line in self._health.check(step, shown):
            progress.warn_once(line)
        progress.advance(step)
        return population

    def _check(
        self, step: int, population: TrainState, metrics: Mapping[str, np.ndarray]
    ) -> tuple[TrainState, list[Divergence]]:
        """Put diverged members back, and say of each what was done, and what broke first."""
        before, since = self._guard.good, self._guard.step
        population, found = self._guard.check(population, metrics, step)
        replayed: dict[int, Cause] = {}
        if found and self._data is not None:
            members = [one.member for one, _ in found]
            with decoration("diagnosis of the divergence", self._progress.say):
                replayed = replayed_causes(
                    before, members, since, step - since, self._data, self._agent
                )
        for one, at_the_end in found:
            cause = replayed.get(one.member, at_the_end)
            rates = {
                name: float(f"{np.asarray(getattr(population.config, name))[one.member]:.6g}")
                for name in learning_rates(population.config)
            }
            plain = cause.as_plain() | {"learning_rates": rates}
            self._log(self._folder.log_divergence, one, plain)
            who = f"member {one.member} has diverged"
            if one.action == "rolled back":
                now = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
                what = (
                    f"{who} by step {step:,} and goes on from step {one.step:,}, with "
                    f"{one.lost:,} fewer updates and learning rates divided by {SMALLER} ({now})"
                )
            else:
                what = f"{who} again by step {step:,} and is frozen as it was at step {one.step:,}"
            self._progress.warn_once(
                f"{what}; {cause.describe()}; {self._health.remedy(one.member)}"
            )
        return population, [one for one, _ in found]

    def verdict(self) -> str:
        """Whether training looked healthy, in one line."""
        found = [*self._health.problems]
        members = len(self._folder.config.members)
        if frozen := len(self._guard.frozen):
            found.append(f"{frozen} of {members} diverged and stopped")
        if slower := len(self._guard.rolled_back.keys() - self._guard.frozen.keys()):
            found.append(f"{slower} of {members} diverged and went on with smaller steps")
        found += [
            f"values {side} all possible returns" for side in self._beyond if self._beyond[side]
        ]
        if found:
            return f"look at the warnings: {'; '.join(found)}"
        if self._step < EARLIEST:
            return "too short to say whether training is healthy"
        return "training looks healthy"

    def _warn_of_impossible_values(
        self, step: int, called: str, values: np.ndarray, rewards: RewardRange
    ) -> None:
        """Warn, once a member and side, that its values are beyond all possible returns."""
        for index, value in enumerate(np.atleast_1d(values).astype(float).tolist()):
            discount = getattr(self._folder.config.member_config(index), "discount", 1.0)
            if rewards.overestimated(value, discount):
                side, bound = "above", rewards.highest_return(discount)
                advice = self._health.advice(index)
            # Not the critic: CQL's is to be too low.
            elif called == "V" and rewards.underestimated(value, discount):
                side, bound, advice = "below", rewards.lowest_return(discount), LOWER_RATE
            else:
                continue
            if index in self._beyond[side]:
                continue
            self._beyond[side].add(index)
            self._progress.warn_once(
                f"member {index}'s {called} stands at {_shown(value * self._unit)} by step "
                f"{step:,}, but no return can be {side} {_shown(bound * self._unit)} here: do not "
                f"trust its policy; try {advice}"
            )

    def end(
        self,
        population: TrainState,
        totals: MemberMetrics,
        more: Callable[[], Mapping[str, np.ndarray]] = dict,
    ) -> None:
        """Save and evaluate what diverged, at the last step: going on would not have changed it."""
        if self.stopped:
            self.milestone(self._folder.config.steps, population, totals, more)

    def _log(self, write: Callable[..., None], *rows: Any) -> None:
        """Write rows; where they cannot be, training goes on and the folder keeps them for later.

        A full disk is no reason to lose what is learned: the next checkpoint says whether it is.
        """
        try:
            write(*rows)
        except InputError as error:
            self._progress.warn_once(f"{error}; training goes on, and tries again")

    def catch_up(self, step: int, population: TrainState, totals: MemberMetrics) -> None:
        """Of a run that goes on: the evaluation that it was to make at this step, if it did not."""
        if step in self._folder.config.evaluation_steps and step not in self._scores:
            self.milestone(step, population, totals)

    def next_save(self, step: int) -> int:
        """The next step whose state is to be saved, where checkpoints are counted in steps."""
        every = self._every[0]
        return self._folder.config.steps if every is None else (step // every + 1) * every

    def between(
        self,
        step: int,
        population: TrainState,
        totals: MemberMetrics,
        logged: int,
        more: Callable[[], Mapping[str, np.ndarray]] = dict,
    ) -> None:
        """Save the state where that is due, and where the run is to end.

        Args:
            step: the run's.
            population: as it is then.
            totals: the sums of the metrics since they were last logged.
            logged: the step at which they were.
            more: gives what else the next update depends on.

        Raises:
            KeyboardInterrupt: the run is to end; its state is saved.
            InputError: then, and the state cannot be saved.
        """
        steps, seconds = self._every
        due = False
        if steps is not None:
            # Several environments may step over the multiple itself.
            due = step // steps > (self._saved_step or 0) // steps
        if seconds is not None:
            due = time.monotonic() - self._saved_at >= seconds
        ending = self._interruption.requested is not None
        if (due or ending) and step != self._saved_step:
            try:
                self._save(step, population, totals, logged, more)
                if ending:
                    self._writer.wait()
            except InputError as error:
                if ending:
                    raise
                self._progress.warn_once(f"{error}; training goes on, and tries again")
        if ending:
            self._writer.wait()
            self._interruption.end()

    def rescue(
        self,
        fault: EnvironmentFault,
        step: int,
        population: TrainState,
        totals: MemberMetrics,
        logged: int,
        more: Callable[[], Mapping[str, np.ndarray]],
    ) -> NoReturn:
        """Save the state, since the environment failed; then raise what it raised.

        Args:
            fault: what it raised.
            step, population, totals, logged, more: as `between` takes them.

        Raises:
            EnvironmentFault: always.
        """
        kept = going_on(self._folder) if step > 0 or self._saved_step == 0 else ""
        try:
            if step > 0 and step != self._saved_step:
                self._save(step, population, totals, logged, more)
            self._writer.wait()
        except InputError as error:
            kept = str(error)
        hint = "; ".join(filter(None, (fault.hint, kept)))
        raise EnvironmentFault(fault.what, where=fault.where, hint=hint) from fault

    def _save(
        self,
        step: int,
        population: TrainState,
        totals: MemberMetrics,
        logged: int,
        more: Callable[[], Mapping[str, np.ndarray]],
    ) -> None:
        """Hand the whole state to the writer."""
        folder, plan = self._folder, self._folder.config.checkpoints
        # Where metrics were just logged, the sums are zero and the guard's copy is the population.
        apart = step != logged
        extra = dict(more())
        if apart:
            extra |= flatten(totals, "totals") | flatten(self._guard.good, "good")
        try:
            self._writer.wait()
        except InputError as error:
            self._progress.warn_once(f"{error}; training goes on, and tries again")
        # The rows that lie before a checkpoint must not be lost where it survives.
        with contextlib.suppress(InputError):  # it was said when they could not be written
            folder.flush()
        folder.sync()
        notes = {
            "logged": logged,
            "good": apart,
            "guard": self._guard.notes(),
            "health": self._health.notes(),
            "beyond": {side: sorted(members) for side, members in self._beyond.items()},
            "seconds": self.seconds,
            "waiting": folder.waiting,
            "settings": settings_of(folder.config),
        }
        best = max(self._scores, key=lambda one: (self._scores[one], one), default=None)
        self._saved_step, self._saved_at = step, time.monotonic()
        self._writer.save(
            folder.checkpoints,
            step,
            population,
            seeds=self._seeds,
            extra=extra,
            notes=notes,
            keep=Retention(plan.keep_last, plan.keep_every, best if plan.keep_best else None),
        )

    def milestone(
        self,
        step: int,
        population: TrainState,
        totals: MemberMetrics,
        more: Callable[[], Mapping[str, np.ndarray]] = dict,
    ) -> None:
        """Save the whole state, then evaluate as the run's configuration says.

        Args:
            step: the run's, at which metrics were just logged.
            population, totals, more: as `between` takes them.

        Raises:
            InputError: the state cannot be saved, or by the last step the log is not whole.
            EnvironmentFault: the environment failed in the evaluation; the state is saved by then.
        """
        if step != self._saved_step:
            self._save(step, population, totals, step, more)
        self._writer.wait()
        folder, config = self._folder, self._folder.config
        saved = f"the policy of step {step:,} is kept in {folder.path}"
        try:
            with self._interruption.released():
                if config.keep_policies:
                    actors = jax.vmap(self._agent.actor)(population)
                    save_checkpoint(
                        folder.policies, step, actors, seeds=self._seeds, name=str(step)
                    )
                self._evaluate(step, population)
            if step == config.steps:
                folder.flush()
        except (EnvironmentFault, InputError) as fault:
            hint = f"{fault.hint}; {saved}" if fault.hint else saved
            raise type(fault)(fault.what, where=fault.where, hint=hint) from fault

    def _evaluate(self, step: int, population: TrainState) -> None:
        folder, config = self._folder, self._folder.config
        episodes = config.evaluation.episodes_at(step, config.steps)
        if self._evaluator is None or episodes == 0:
            return
        rows = self._evaluator.evaluate(population, step, episodes)
        self._log(folder.log_evaluations, step, rows)
        self._progress.scored(step, in_brief(rows, config.members))
        quantity = quantity_of(rows)
        means = member_means(rows, quantity)
        self._scores[step] = float(np.mean(list(means.values())))
        scalars = {f"{quantity}/{m}": mean for m, mean in means.items()}
        if missing := folder.tensorboard(step, scalars):
            self._progress.say(missing)


def _shown(value: float) -> str:
    """Whole, or three digits where it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _without(metrics: Mapping[str, np.ndarray], members: Sequence[int]) -> dict[str, np.ndarray]:
    """The same with nan for some members."""
    return {
        name: np.where(np.isin(np.arange(len(values)), members), np.nan, values)
        for name, values in metrics.items()
    }

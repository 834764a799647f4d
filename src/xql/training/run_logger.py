"""What every training loop does between its compiled chunks: log, evaluate, checkpoint, report."""

import concurrent.futures
import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from xql.agents import Agent, TrainState
from xql.agents.hyperparameters import learning_rates
from xql.errors import EnvironmentFault, InputError, decoration
from xql.runs.checkpoints import (
    CheckpointWriter,
    flatten,
    latest_step,
    save_checkpoint,
    unflatten,
)
from xql.runs.folder import SMALLER, Divergence, Evaluation, RunFolder
from xql.runs.summary import in_brief, member_means, quantity_of
from xql.training.diagnosis import Cause, replayed_causes
from xql.training.divergence import DivergenceGuard, RewardRange
from xql.training.evaluate import PopulationEvaluator
from xql.training.evaluation_worker import (
    EvaluationWorker,
    WorkerLost,
    policies_of,
    worth_a_worker,
)
from xql.training.health import EARLIEST, HealthMonitor
from xql.training.interrupt import Interruption
from xql.training.listeners import Listeners
from xql.training.progress import ProgressBar
from xql.training.saved import Saved
from xql.training.saving import Moment, StateSaver
from xql.training.streaming import DataSource
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


class _Playing(NamedTuple):
    """An evaluation that is not over."""

    step: int
    policies: Any
    """What plays it, as `policies_of` gives it."""
    rows: concurrent.futures.Future[list[Evaluation]] | None = None
    """Its episodes, once the worker has played them; None where no worker was given it."""


class RunLogger:
    """Keeps a run's folder and its progress bar, and guards against diverging members.

    A worker may play an evaluation while training goes on (`evaluation_worker`). Its rows are
    logged, and loggers and callbacks hear of it, when they are there: after metrics of later steps,
    before the next evaluation. A checkpoint that is saved meanwhile holds the policies that play,
    so that a run that goes on from it evaluates them again.

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
        source: DataSource | None = None,
        saved: Saved | None = None,
        interruption: Interruption | None = None,
        listeners: Listeners | None = None,
    ) -> None:
        """Start the clock, or let it go on.

        Args:
            folder: the run's.
            progress: where lines and warnings go.
            evaluator: of the run's environment; None where nothing is evaluated.
            agent: what is trained.
            population: as training starts.
            writer: of the run's checkpoints.
            source: offline, what it draws from, to find out what broke first where a member
                diverges.
            saved: where it started from, of a run that goes on.
            interruption: what notes that the run is to end.
            listeners: who else hears of it.
        """
        self._folder, self._progress, self._evaluator = folder, progress, evaluator
        self._agent, self._source = agent, source
        self._interruption = interruption or Interruption()
        self._guard = DivergenceGuard(population)
        self.stopped = False
        self._step = 0 if saved is None else saved.step
        config = folder.config
        self._listeners = listeners or Listeners(folder.path, config.members)
        configs = [config.member_config(index) for index in range(len(config.members))]
        self._unit = reward_unit(config.scaling)
        scalable = not config.online and config.scaling.rewards != "auto"
        self._health = HealthMonitor(agent, configs, scalable=scalable, unit=self._unit)
        self._saver = StateSaver(folder, writer, progress, saved)
        self._scores: dict[int, float] = {}
        self._worker: EvaluationWorker | None = None
        self._alone = False  # no worker can evaluate
        self._playing: _Playing | None = None
        spent = 0.0
        if saved is not None:
            spent = self._restore(saved, population)
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
            config = self._folder.config
            everyone = len(self._guard.frozen) == len(config.members)
            self.stopped = everyone and saved.step == config.steps
            self._health.restore(notes.get("health", {}))
            self._folder.wait_with(notes.get("waiting", {}))
            seconds = float(notes.get("seconds", 0.0))
            if (step := saved.evaluating) is not None and self._evaluator is not None:
                policies = unflatten(saved.extra, "policies", policies_of(self._agent, population))
                self._playing = _Playing(step, policies)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise saved.not_of_a_run() from error
        rows = self._folder.read_evaluations()
        if rows:
            quantity = quantity_of(rows)
            for step in {row.step for row in rows}:
                means = member_means([row for row in rows if row.step == step], quantity)
                self._scores[step] = float(np.mean(list(means.values())))
        if self._playing is not None and self._playing.step in self._scores:
            self._playing = None  # it was over soon after the checkpoint
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
        self._listeners.metrics(step, {**shown, **more})
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
        beyond = self._health.check_values(step, metrics, rewards)
        for line in [*beyond, *self._health.check(step, shown)]:
            progress.warn_once(line)
        progress.advance(step, shown)
        return population

    def _check(
        self, step: int, population: TrainState, metrics: Mapping[str, np.ndarray]
    ) -> tuple[TrainState, list[Divergence]]:
        """Put diverged members back, and say of each what was done, and what broke first."""
        before, since = self._guard.good, self._guard.step
        population, found = self._guard.check(population, metrics, step)
        replayed: dict[int, Cause] = {}
        if found and self._source is not None:
            members = [one.member for one, _ in found]
            with decoration("diagnosis of the divergence", self._progress.say):
                replayed = replayed_causes(
                    before, members, since, step - since, self._source, self._agent
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
        if found:
            return f"look at the warnings: {'; '.join(found)}"
        if self._step < EARLIEST:
            return "too short to say whether training is healthy"
        return "training looks healthy"

    def end(self, now: Moment) -> None:
        """Save and evaluate what diverged, at the last step: going on would not have changed it."""
        if self.stopped:
            step = self._folder.config.steps
            self.milestone(now._replace(step=step, logged=step))

    def _log(self, write: Callable[..., None], *rows: Any) -> None:
        """Write rows; where they cannot be, training goes on and the folder keeps them for later.

        A full disk is no reason to lose what is learned: the next checkpoint says whether it is.
        """
        try:
            write(*rows)
        except InputError as error:
            self._progress.warn_once(f"{error}; training goes on, and tries again")

    def catch_up(self, now: Moment) -> None:
        """Of a run that goes on: the evaluations that it had to make by this step, and did not."""
        self._receive(now)
        if now.step in self._folder.config.evaluation_steps and now.step not in self._scores:
            self.milestone(now)

    def next_save(self, step: int) -> int:
        """The next step whose state is to be saved, where checkpoints are counted in steps."""
        return self._saver.next_step(step)

    def between(self, now: Moment) -> None:
        """Save the state where that is due, and where the run is to end.

        Raises:
            KeyboardInterrupt: the run is to end; its state is saved.
            InputError: then, and the state cannot be saved.
        """
        self._receive(now)
        self._call(now)
        ending = self._interruption.requested is not None
        if (ending or self._saver.due(now.step)) and now.step != self._saver.saved_step:
            try:
                self._save(now)
                if ending:
                    self._saver.wait()
            except InputError as error:
                if ending:
                    raise
                self._progress.warn_once(f"{error}; training goes on, and tries again")
        if ending:
            self._saver.wait()
            self._interruption.end()

    def rescue(self, fault: EnvironmentFault, now: Moment) -> NoReturn:
        """Save the state, since the environment failed; then raise what it raised.

        Raises:
            EnvironmentFault: always.
        """
        kept = going_on(self._folder) if now.step > 0 or self._saver.saved_step == 0 else ""
        try:
            self._save_unless_saved(now)
            self._saver.wait()
        except InputError as error:
            kept = str(error)
        hint = "; ".join(filter(None, (fault.hint, kept)))
        raise EnvironmentFault(fault.what, where=fault.where, hint=hint) from fault

    def _save(self, now: Moment) -> None:
        notes: dict[str, Any] = {
            "guard": self._guard.notes(),
            "health": self._health.notes(),
            "seconds": self.seconds,
        }
        best: list[int] = []
        if self._scores:
            best.append(max(self._scores, key=lambda one: (self._scores[one], one)))
        more = {}
        if self._playing is not None:
            notes["evaluating"] = self._playing.step
            more = flatten(self._playing.policies, "policies")
            best.append(self._playing.step)
        self._saver.save(now, self._guard.good, notes, more, best)

    def milestone(self, now: Moment) -> None:
        """Save the whole state, then evaluate as the run's configuration says.

        Args:
            now: the run, where metrics were just logged.

        Raises:
            InputError: the state cannot be saved, or by the last step the log is not whole.
            EnvironmentFault: the environment failed in the evaluation; the state is saved by then.
            KeyboardInterrupt: the run is to end; its state is saved.
        """
        waited = self._playing is not None
        while self._playing is not None and not self._arrived(0.1):
            if self._interruption.requested is not None:
                self.between(now)
        self._receive(now)
        # Where the worker was lost, this step is saved with policies that are evaluated by now.
        if waited or now.step != self._saver.saved_step:
            self._save(now)
        folder, config = self._folder, self._folder.config
        beside = self._worker_for(now.step)
        if not beside:
            # A simulator may end this process.
            self._saver.wait()
        with self._saying_what_is_kept(now.step):
            with self._interruption.released():
                if config.keep_policies:
                    seeds = [one.seed for one in config.members]
                    actors = jax.vmap(self._agent.actor)(now.population)
                    save_checkpoint(
                        folder.policies, now.step, actors, seeds=seeds, name=str(now.step)
                    )
                if beside:
                    self._begin_evaluation(now.step, now.population)
                else:
                    self._evaluate(now.step, now.population)
            if now.step == config.steps:
                folder.flush()
        self._call(now)

    @contextlib.contextmanager
    def _saying_what_is_kept(self, step: int) -> Iterator[None]:
        """Add to what stops the evaluation of a step that its policy is kept."""
        try:
            yield
        except (EnvironmentFault, InputError) as fault:
            saved = f"the policy of step {step:,} is kept in {self._folder.path}"
            hint = f"{fault.hint}; {saved}" if fault.hint else saved
            raise type(fault)(fault.what, where=fault.where, hint=hint) from fault

    def _call(self, now: Moment) -> None:
        """Call the callbacks; what one raises ends the run, whose state is saved first."""
        if not self._listeners.waiting:
            return
        try:
            with self._interruption.released():
                self._listeners.call()
        except BaseException:
            self._save_unless_saved(now)
            self._saver.wait()
            raise

    def _evaluate(self, step: int, population: TrainState) -> None:
        config = self._folder.config
        episodes = config.evaluation.episodes_at(step, config.steps)
        if self._evaluator is None or episodes == 0:
            return
        self._evaluated(step, self._evaluator.evaluate(population, step, episodes))

    def _begin_evaluation(self, step: int, population: TrainState) -> None:
        """The same by the worker."""
        assert self._worker is not None
        config, policies = self._folder.config, policies_of(self._agent, population)
        episodes = config.evaluation.episodes_at(step, config.steps)
        self._playing = _Playing(step, policies, self._worker.begin(policies, step, episodes))

    def _worker_for(self, step: int) -> bool:
        """Whether a worker plays the evaluation of a step; it is started where it pays now."""
        evaluator, config = self._evaluator, self._folder.config
        if step == config.steps:
            self.close()  # there is nothing left to do meanwhile
            return False
        if evaluator is None or config.evaluation.episodes_at(step, config.steps) == 0:
            return False
        left = sum(step <= one < config.steps for one in config.evaluation_steps)
        started = self._worker is not None or self._alone
        if not started and worth_a_worker(left, evaluator.seconds):
            try:
                self._worker = EvaluationWorker(config, evaluator.environment)
                self._progress.say("evaluations are played beside training from here on")
            except WorkerLost:
                self._alone = True
        return self._worker is not None

    def _arrived(self, patience: float = 0.0) -> bool:
        """Whether the evaluation that was begun is over, at the latest after so many seconds."""
        assert self._playing is not None
        if (rows := self._playing.rows) is None:
            return True
        concurrent.futures.wait([rows], timeout=patience)
        return rows.done()

    def _receive(self, now: Moment) -> None:
        """Log the evaluation that a worker was given, if it is over.

        Raises:
            InputError: it cannot be played.
            EnvironmentFault: the environment failed in it; the state is saved by then.
        """
        if self._playing is None or not self._arrived():
            return
        step, policies, arriving = self._playing
        evaluator, config = self._evaluator, self._folder.config
        assert evaluator is not None
        with self._saying_what_is_kept(step):
            try:
                if arriving is None:
                    raise WorkerLost
                rows = arriving.result()
            except WorkerLost as lost:
                self._save_unless_saved(now)
                if arriving is not None:
                    self.close()
                    self._alone = True
                    self._progress.warn_once(
                        f"no worker can evaluate ({lost}): this process does it from here on"
                    )
                episodes = config.evaluation.episodes_at(step, config.steps)
                with self._interruption.released():
                    rows = evaluator.play(policies, step, episodes)
            except (EnvironmentFault, InputError):
                self._save_unless_saved(now)
                raise
        self._playing = None
        self._evaluated(step, rows)

    def _save_unless_saved(self, now: Moment) -> None:
        if now.step > 0 and now.step != self._saver.saved_step:
            self._save(now)

    def _evaluated(self, step: int, rows: list[Evaluation]) -> None:
        """Log an evaluation, and hand it on."""
        folder, config = self._folder, self._folder.config
        self._log(folder.log_evaluations, step, rows)
        self._progress.scored(step, in_brief(rows, config.members))
        quantity = quantity_of(rows)
        means = member_means(rows, quantity)
        self._scores[step] = float(np.mean(list(means.values())))
        self._progress.evaluated(step, rows, config.members)
        self._listeners.evaluation(step, rows)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            worker, self._worker = self._worker, None
            worker.close()


def _without(metrics: Mapping[str, np.ndarray], members: Sequence[int]) -> dict[str, np.ndarray]:
    """The same with nan for some members."""
    return {
        name: np.where(np.isin(np.arange(len(values)), members), np.nan, values)
        for name, values in metrics.items()
    }

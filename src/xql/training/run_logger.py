"""What every training loop does between its compiled chunks: log, evaluate, checkpoint, report."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from xql.agents import Agent, TrainState
from xql.errors import EnvironmentFault, InputError
from xql.runs.checkpoints import latest_step, save_checkpoint
from xql.runs.folder import RunFolder
from xql.runs.summary import in_brief, member_means, quantity_of
from xql.training.divergence import DivergenceGuard, RewardRange
from xql.training.evaluate import PopulationEvaluator
from xql.training.health import EARLIEST, LOWER_RATE, HealthMonitor
from xql.training.progress import ProgressBar
from xql.training.units import in_own_unit, reward_unit


@contextlib.contextmanager
def saying_what_is_kept(folder: RunFolder, progress: ProgressBar) -> Iterator[None]:
    """Where the block is interrupted, say what the run's folder holds."""
    try:
        yield
    except KeyboardInterrupt:
        step = latest_step(folder.checkpoints)
        policy = "no policy yet" if step is None else f"the policy of step {step:,}"
        progress.say(f"interrupted: {folder.path} keeps the log and {policy}")
        raise


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
        step: int = 0,
    ) -> None:
        """Start the clock.

        Args:
            folder: the run's.
            progress: where lines and warnings go.
            evaluator: of the run's environment; None where nothing is evaluated.
            agent: what is trained.
            population: as training starts.
            step: what it has behind it.
        """
        self._folder, self._progress, self._evaluator = folder, progress, evaluator
        self._agent = agent
        self._guard = DivergenceGuard(population, step)
        self._beyond: dict[str, set[int]] = {"above": set(), "below": set()}
        self.stopped = False
        self._step = step
        config = folder.config
        configs = [config.member_config(index) for index in range(len(config.members))]
        self._unit = reward_unit(config.scaling)
        scalable = not config.online and config.scaling.rewards != "auto"
        self._health = HealthMonitor(agent, configs, scalable=scalable, unit=self._unit)
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._began

    def metrics(
        self,
        step: int,
        population: TrainState,
        metrics: Mapping[str, np.ndarray],
        rewards: RewardRange,
        **more: Any,
    ) -> TrainState:
        """Log a stretch of updates; freeze the members that diverged in it.

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
        population, newly = self._guard.check(population, metrics, step)
        for index in newly:
            good = self._guard.frozen[index]
            self._log(folder.log_frozen, index, good, step)
            progress.warn_once(
                f"member {index} has diverged by step {step:,} and is frozen as it was at step "
                f"{good:,}; metrics.jsonl says which number is not finite"
            )
        members = len(folder.config.members)
        if newly and len(self._guard.frozen) == members:
            self.stopped = True
            wrong = [one for one in metrics if not np.isfinite(metrics[one]).all()]
            why = f"not finite: {', '.join(wrong) or 'parameters'}"
            who = "every member has" if members > 1 else "the member has"
            progress.warn_once(
                f"{who} diverged by step {step:,} ({why}), so training stops here; "
                f"{self._health.remedy(newly[0])}; the run is kept in {folder.path}"
            )
            return population
        # A critic with entropy in its values has no such bound.
        if not self._agent.values_include_entropy:
            for name, called in (("q", "critic"), ("v", "V")):
                if name in metrics:
                    self._warn_of_impossible_values(step, called, metrics[name], rewards)
        for line in self._health.check(step, shown):
            progress.warn_once(line)
        progress.advance(step)
        return population

    def verdict(self) -> str:
        """Whether training looked healthy, in one line."""
        found = [*self._health.problems]
        if self._guard.frozen:
            members = len(self._folder.config.members)
            found.append(f"{len(self._guard.frozen)} of {members} diverged")
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

    def end(self, population: TrainState) -> None:
        """Save and evaluate what diverged, at the last step: going on would not have changed it."""
        if self.stopped:
            self.milestone(self._folder.config.steps, population)

    def _log(self, write: Callable[..., None], *rows: Any) -> None:
        """Write rows; where they cannot be, training goes on and the folder keeps them for later.

        A full disk is no reason to lose what is learned: the next checkpoint says whether it is.
        """
        try:
            write(*rows)
        except InputError as error:
            self._progress.warn_once(f"{error}; training goes on, and tries again")

    def milestone(self, step: int, population: TrainState) -> None:
        """Save the whole state, then evaluate as the run's configuration says.

        Raises:
            InputError: the state cannot be saved, or by the last step the log is not whole.
            EnvironmentFault: the environment failed in the evaluation; the state is saved by then.
        """
        folder, config = self._folder, self._folder.config
        seeds = [one.seed for one in config.members]
        save_checkpoint(folder.checkpoints, step, population, seeds=seeds)
        saved = f"the policy of step {step:,} is kept in {folder.path}"
        try:
            if config.keep_policies:
                actors = jax.vmap(self._agent.actor)(population)
                save_checkpoint(folder.policies, step, actors, seeds=seeds, name=str(step))
            self._evaluate(step, population)
            if step == config.steps:
                folder.flush()
        except (EnvironmentFault, InputError) as fault:
            hint = f"{fault.hint}; {saved}" if fault.hint else saved
            raise type(fault)(fault.what, where=fault.where, hint=hint) from fault

    def _evaluate(self, step: int, population: TrainState) -> None:
        folder, config = self._folder, self._folder.config
        plan = config.evaluation
        episodes = plan.last_episodes if step == config.steps else plan.episodes
        if self._evaluator is None or episodes == 0:
            return
        rows = self._evaluator.evaluate(population, step, episodes)
        self._log(folder.log_evaluations, step, rows)
        self._progress.scored(step, in_brief(rows, config.members))
        quantity = quantity_of(rows)
        means = member_means(rows, quantity)
        scalars = {f"{quantity}/{m}": mean for m, mean in means.items()}
        if missing := folder.tensorboard(step, scalars):
            self._progress.say(missing)


def _shown(value: float) -> str:
    """Whole, or three digits where it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

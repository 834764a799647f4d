"""What every training loop does between its compiled chunks: write down, evaluate, save, say."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xql.agents import TrainState, beta_of
from xql.errors import InputError, require_seed
from xql.runs.checkpoints import save_checkpoint
from xql.runs.folder import RunFolder
from xql.runs.summary import in_brief, member_means, quantity_of
from xql.training.divergence import DivergenceGuard, RewardRange
from xql.training.evaluate import PopulationEvaluator
from xql.training.population import Member
from xql.training.progress import Line


class RunLogger:
    """Keeps a run's folder, its live line and its watch over diverging members."""

    def __init__(
        self,
        folder: RunFolder,
        line: Line,
        judge: PopulationEvaluator | None,
        population: TrainState,
    ) -> None:
        self._folder, self._line, self._judge = folder, line, judge
        self._watch = DivergenceGuard(population)
        self._overvalued: set[int] = set()
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
        """Log a stretch of updates; freeze who diverged in it.

        Args:
            step: the run's, at the stretch's end.
            population: as it is then.
            metrics: per name one number for each member; what is not finite is divergence.
            rewards: of what was learned from; a critic above all returns that they allow is told.
            **more: numbers that are no sign of divergence.

        Returns:
            The population to go on with.
        """
        folder, line = self._folder, self._line
        everything = {**metrics, **more, "seconds": self.seconds}
        folder.log_metrics(step, everything)
        scalars = {
            f"{name}/{index}": float(value)
            for name, values in {**metrics, **more}.items()
            for index, value in enumerate(np.atleast_1d(values))
        }
        if missing := folder.tensorboard(step, scalars):
            line.say(missing)
        population, newly = self._watch.check(population, metrics, step)
        for index in newly:
            good = self._watch.frozen[index]
            folder.log_frozen(index, good, step)
            line.warn_once(
                f"member {index} has diverged by step {step:,} and is frozen as it was at step "
                f"{good:,}; metrics.jsonl says which number is not finite"
            )
        # SAC's values hold discounted entropy beside the rewards, which has no such bound.
        if "critic" in metrics and folder.config["agent"] != "sac":
            self._tell_overvalued(step, metrics["critic"], rewards)
        line.advance(step)
        return population

    def _tell_overvalued(self, step: int, critic: np.ndarray, rewards: RewardRange) -> None:
        """Warn, once a member, that its values are above all that is possible."""
        told = self._folder.config["settings"]
        high = np.flatnonzero(rewards.overvalued(critic, told["discount"]))
        for index in sorted(set(map(int, high)) - self._overvalued):
            self._overvalued.add(index)
            hint = "a larger β" if "beta" in told else "a smaller learning rate"
            most = rewards.highest_return(told["discount"])
            self._line.warn_once(
                f"member {index}'s critic stands at {critic[index]:,.0f} by step {step:,}, but no "
                f"return can be above {most:,.0f} here: do not trust its policy; {hint} may hint it"
            )

    def milestone(self, step: int, population: TrainState) -> None:
        """Evaluate, as the run's configuration says, and save the whole state."""
        folder = self._folder
        told = folder.config["evaluation"]
        last = step == folder.config["steps"]
        episodes = told["last_episodes"] if last else told["episodes"]
        if self._judge is not None and episodes > 0:
            rows = self._judge.evaluate(population, step, episodes)
            folder.log_evaluations(step, rows)
            self._line.scored(step, in_brief(rows))
            quantity = quantity_of(rows)
            means = member_means(rows, quantity)
            folder.tensorboard(step, {f"{quantity}/{m}": mean for m, mean in means.items()})
        if folder.config.get("keep_policies"):
            networks = population.policy.network
            save_checkpoint(folder.policies, step, networks, name=str(step))
        save_checkpoint(folder.checkpoints, step, population)


def milestones(steps: int, evaluations: int, stride: int = 1) -> list[int]:
    """The steps to evaluate at: evenly spaced multiples of `stride`, the last step included."""
    strides = steps // stride
    return sorted({-(-strides * i // evaluations) * stride for i in range(1, evaluations + 1)})


def check_counts(steps: int, evaluations: int, episodes: int, last_episodes: int) -> None:
    """Refuse counts with which nothing would be learned or judged.

    Raises:
        InputError: one is too small.
    """
    for name, value, least in (
        ("steps", steps, 1),
        ("evaluations", evaluations, 1),
        ("episodes", episodes, 0),
        ("last-episodes", last_episodes, 0),
    ):
        if value < least:
            raise InputError(f"--{name} {value} is too small", hint=f"give at least {least}")


def choose_members(
    agent: str, config: Any, seeds: int | Sequence[int], beta: float | Sequence[float] | None
) -> list[Member]:
    """Seeds × β, β outermost.

    Raises:
        InputError: no seed, one given twice, or a β that is none or that the agent lacks.
    """
    which = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not which:
        raise InputError("there is no seed to train", hint="give --seeds 1 or more")
    if len(set(which)) < len(which):
        raise InputError(f"a seed is given twice in {which}", hint="give each one once")
    for seed in which:
        require_seed(seed)
    if beta is None:
        return [Member(seed, {}) for seed in which]
    if beta_of(config) is None:
        raise InputError(f"agent {agent} has no β", hint="leave --beta out")
    betas = [float(beta)] if isinstance(beta, int | float) else [float(one) for one in beta]
    for one in betas:
        if not (np.isfinite(one) and one > 0):
            raise InputError(f"--beta {one:g} is no temperature", hint="give a number above 0")
    if not betas or len(set(betas)) < len(betas):
        raise InputError(f"--beta {beta} is no list of temperatures", hint="give each one once")
    return [Member(seed, {"beta": one}) for one in betas for seed in which]


def describe_members(members: Sequence[Member]) -> list[dict[str, Any]]:
    """The members, for config.yaml."""
    return [{"seed": one.seed, "changes": dict(one.changes)} for one in members]

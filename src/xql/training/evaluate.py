"""Evaluate a population in the environment that its data came from."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, PyTree

from xql.agents import TrainState
from xql.data.actions import action_spec
from xql.envs.checked import name_of
from xql.envs.given import Given
from xql.envs.make import check_fits, make_environment, try_out
from xql.errors import require_seed
from xql.evaluation.rollout import LONGEST_EPISODE, Evaluator, time_limit
from xql.jax_config import standard_jax
from xql.runs.config import RunConfig, require_at_least
from xql.runs.folder import Evaluation, RunFolder, evaluation_rows
from xql.runs.policy import act_members, load_population, scale

EVALUATION_SEED = 10_000
"""Episode e starts from this seed + e, whatever the agent, the step or the member."""


class PopulationEvaluator:
    """The copies of the environment, kept from one evaluation to the next.

    Attributes:
        environment: what is played in.
        members: how many policies play.
        bounds: what to say where the environment's actions are not the policies'; else "".
        notes: what to say before the first update.
        seconds: what the last evaluation took, but for the first call of the policies, which may
            compile.
    """

    def __init__(
        self, config: RunConfig, actor: Callable[[Any], Any], env: Given | None = None
    ) -> None:
        """Make the environments.

        Args:
            config: the run's.
            actor: the agent's.
            env: another environment than the run's own.

        Raises:
            InputError: there is no such environment, or its spaces do not fit the data.
            EnvironmentFault: it fails in its first step.
        """
        environment, data = config.require_environment(config.data.name, env), config.data
        keys = data.observation_keys
        probe = make_environment(environment, keys=keys)
        try:
            check_fits(probe, data.observation_size, data.actions, data.name)
            name = name_of(probe)
            theirs = action_spec(probe.action_space, name, bounded=False)
            self.bounds = data.actions.compare(theirs, name)
            self.notes = [self.bounds] if self.bounds else []
            self.notes += try_out(probe)
            if time_limit(probe) is None:
                self.notes.append(
                    f"the environment states no time limit: evaluation episodes are cut after "
                    f"{LONGEST_EPISODE:,} steps (--episode-limit, in Python episode_limit, states "
                    "one)"
                )
            if environment.alone:
                self.notes.append(
                    f"{name} cannot be made again from its spec: this one instance plays every "
                    "episode (a function that makes new ones is faster)"
                )
        finally:
            probe.close()
        self.environment, self.members, self.seconds = environment, len(config.members), 0.0
        self._config, self._actor = config, actor
        self._evaluator = Evaluator(
            lambda: make_environment(environment, keys=keys),
            len(config.members),
            alone=environment.alone,
        )

    def evaluate(
        self, population: TrainState, step: int, episodes: int, seed: int = EVALUATION_SEED
    ) -> list[Evaluation]:
        """Every member plays the same episodes with its most likely actions."""
        return self._play(population, self._actor, step, episodes, seed)

    def play(self, policies: PyTree, step: int, episodes: int) -> list[Evaluation]:
        """The same of policies that were taken out of their population: its actors, stacked."""
        return self._play(policies, _itself, step, episodes, EVALUATION_SEED)

    @standard_jax()
    def _play(
        self, states: Any, actor: Callable[[Any], Any], step: int, episodes: int, seed: int
    ) -> list[Evaluation]:
        config = self._config
        began = first = time.perf_counter()

        def act(
            observations: Float32[np.ndarray, "members parallel observation"],
        ) -> Float32[np.ndarray, "members parallel action"]:
            nonlocal first
            scaled = scale(observations, config.scaling)
            actions = np.asarray(act_members(states, scaled, actor=actor))
            if first == began:
                first = time.perf_counter()
            return actions

        results = self._evaluator.rollout(
            act, episodes, seed, stop_at_success=config.evaluation.stop_at_success
        )
        self.seconds = time.perf_counter() - first
        seeds = [one.seed for one in config.members]
        return evaluation_rows(step, results, seeds, config.data.reference)

    def close(self) -> None:
        """Close the environments."""
        self._evaluator.close()


def _itself(policy: Any) -> Any:
    return policy


@standard_jax()
def evaluate_run(
    run: Path | str,
    *,
    episodes: int = 100,
    seed: int = EVALUATION_SEED,
    env: Given | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int | None = None,
    trust: Sequence[str] = (),
    step: int | None = None,
) -> list[Evaluation]:
    """Play more episodes with every member of a finished run.

    Args:
        run: the run's folder, which is left as it is.
        episodes: episodes for each member.
        seed: the first episode's seed.
        env: the environment to play in: an id, an instance, or a factory that makes one; the run's
            own where None. A run that was trained in an instance or a nameless factory needs it.
        env_kwargs: arguments of `env`.
        episode_limit: steps after which an episode is truncated, in place of the environment's own
            limit.
        trust: packages and ids of environments that the run may name besides those of
            `xql.envs.trusted.PACKAGES`.
        step: of the checkpoint; the latest where None.

    Raises:
        InputError: no run, no checkpoint, or no environment that is trusted.
    """
    folder = RunFolder.open(Path(run))
    require_seed(seed)
    require_at_least("episodes", episodes, 1)
    environment = folder.config.require_environment(
        str(run), env, trust, env_kwargs=env_kwargs, limit=episode_limit
    )
    agent, population, step = load_population(folder, step)
    evaluator = PopulationEvaluator(folder.config, agent.actor, environment)
    if evaluator.bounds:
        warnings.warn(evaluator.bounds, UserWarning, stacklevel=2)
    try:
        return evaluator.evaluate(population, step, episodes, seed)
    finally:
        evaluator.close()

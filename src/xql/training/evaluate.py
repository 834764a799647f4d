"""Judge a population in the simulator that its data came from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from xql.agents import Act, TrainState
from xql.agents.presets import suite
from xql.data.dataset import Dataset
from xql.data.recipes import Recipe
from xql.envs.make import check_fits, make_environment
from xql.evaluation.rollout import Evaluator
from xql.evaluation.scores import reference_score
from xql.runs.folder import Evaluation, evaluation_rows
from xql.runs.policy import act_members, scale
from xql.training.population import Member

EVALUATION_SEED = 10_000
"""Episode e starts from this seed + e, whatever the agent, the step or the member."""


class Judge:
    """The environment copies, kept from one evaluation to the next, and what their scores mean."""

    def __init__(
        self,
        dataset: Dataset,
        environment: str,
        recipe: Recipe,
        act: Act,
        members: Sequence[Member],
        beta: float | None,
        *,
        stop_at_success: bool | None = None,
    ) -> None:
        """Make the environments.

        Args:
            dataset: whose spaces the environment must fit, and whose references scale its returns.
            environment: a Gymnasium id or the JSON of an EnvSpec.
            recipe: what the networks' inputs went through.
            act: the agent's.
            members: the population.
            beta: the members' β where they do not change it.
            stop_at_success: end an episode at its first success; where None, for AntMaze.

        Raises:
            InputError: there is no such environment, or its spaces do not fit the data.
        """
        keys = tuple(dataset.metadata.get("observation_keys") or ()) or None
        probe = make_environment(environment, keys=keys)
        try:
            check_fits(probe, dataset.observation_size, dataset.action_size, dataset.name)
        finally:
            probe.close()
        self.environment = environment
        self.stop_at_success = (
            suite(dataset.name) == "antmaze" if stop_at_success is None else stop_at_success
        )
        self._act, self._recipe = act, recipe
        self._seeds = [one.seed for one in members]
        self._betas: list[Any] = [one.changes.get("beta", beta) for one in members]
        self._reference = reference_score(dataset.name, dataset.metadata)
        self._evaluator = Evaluator(lambda: make_environment(environment, keys=keys), len(members))

    def evaluate(self, population: TrainState, step: int, episodes: int) -> list[Evaluation]:
        """Every member plays the same episodes with its most likely actions."""

        def act(
            observations: Float32[np.ndarray, "members parallel observation"],
        ) -> Float32[np.ndarray, "members parallel action"]:
            scaled = scale(observations, self._recipe)
            return np.asarray(act_members(population.policy.network, scaled, act=self._act))

        results = self._evaluator.rollout(
            act, episodes, EVALUATION_SEED, stop_at_success=self.stop_at_success
        )
        return evaluation_rows(step, results, self._seeds, self._betas, self._reference)

    def close(self) -> None:
        """Close the environments."""
        self._evaluator.close()

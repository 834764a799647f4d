"""PopulationEvaluator a population in the simulator that its data came from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from xql.agents import Act, TrainState, beta_of
from xql.data.scaling import Scaling
from xql.envs.make import check_fits, make_environment
from xql.errors import InputError, require_seed
from xql.evaluation.rollout import Evaluator
from xql.evaluation.scores import Reference
from xql.presets import configure
from xql.runs.checkpoints import latest_step
from xql.runs.folder import Evaluation, RunFolder, evaluation_rows
from xql.runs.policy import act_members, load_population, scale

EVALUATION_SEED = 10_000
"""Episode e starts from this seed + e, whatever the agent, the step or the member."""


class PopulationEvaluator:
    """The environment copies, kept from one evaluation to the next, and what their scores mean."""

    def __init__(self, config: Mapping[str, Any], act: Act) -> None:
        """Make the environments.

        Args:
            config: what a run's config.yaml holds; its environment must not be None.
            act: the agent's.

        Raises:
            InputError: there is no such environment, or its spaces do not fit the data.
        """
        environment, data = str(config["environment"]), config["data"]
        keys = tuple(data["observation_keys"] or ()) or None
        probe = make_environment(environment, keys=keys)
        try:
            check_fits(probe, data["observation_size"], len(data["action_low"]), data["name"])
        finally:
            probe.close()
        members = config["members"]
        beta = beta_of(configure(str(config["agent"]), config["settings"]))
        self._act, self._recipe = act, Scaling.from_dict(config["scaling"])
        self._seeds = [one["seed"] for one in members]
        self._betas = [one["changes"].get("beta", beta) for one in members]
        reference = data["reference"]
        self._reference = None if reference is None else Reference(**reference)
        self._stop_at_success = bool(config["evaluation"]["stop_at_success"])
        self._evaluator = Evaluator(lambda: make_environment(environment, keys=keys), len(members))

    def evaluate(
        self, population: TrainState, step: int, episodes: int, seed: int = EVALUATION_SEED
    ) -> list[Evaluation]:
        """Every member plays the same episodes with its most likely actions."""

        def act(
            observations: Float32[np.ndarray, "members parallel observation"],
        ) -> Float32[np.ndarray, "members parallel action"]:
            scaled = scale(observations, self._recipe)
            return np.asarray(act_members(population.policy.network, scaled, act=self._act))

        results = self._evaluator.rollout(
            act, episodes, seed, stop_at_success=self._stop_at_success
        )
        return evaluation_rows(step, results, self._seeds, self._betas, self._reference)

    def close(self) -> None:
        """Close the environments."""
        self._evaluator.close()


def evaluate_run(
    run: Path | str, *, episodes: int = 100, seed: int = EVALUATION_SEED, env: str | None = None
) -> list[Evaluation]:
    """Play every member of a finished run again, from its latest checkpoint.

    Args:
        run: the run's folder, which is left as it is.
        episodes: episodes for each member.
        seed: the first episode's seed.
        env: another simulator than the run's own.

    Raises:
        InputError: no run, no checkpoint, or no environment.
    """
    folder = RunFolder.open(Path(run))
    require_seed(seed)
    if episodes < 1:
        raise InputError(f"--episodes {episodes} is too small", hint="give at least 1")
    config = folder.config | ({"environment": env} if env else {})
    if config["environment"] is None:
        raise InputError("this run has no environment", where=str(run), hint="give one with --env")
    agent, population = load_population(folder)
    step = latest_step(folder.checkpoints)
    assert step is not None, "a population was loaded from it"
    judge = PopulationEvaluator(config, agent.act)
    try:
        return judge.evaluate(population, step, episodes, seed)
    finally:
        judge.close()

"""The Bellman errors of a finished run, on transitions like those that it learned from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from xql.agents import Batch, member
from xql.data.dataset import Dataset
from xql.data.scaling import apply_scaling
from xql.envs.given import Simulator
from xql.errors import InputError, require_seed
from xql.evaluation.bellman import bellman_errors
from xql.jax_config import standard_jax
from xql.runs.config import RunConfig
from xql.runs.folder import RunFolder
from xql.runs.policy import Policy, load_population
from xql.training.actors import Actors
from xql.training.recipe import Recipe, training_environment
from xql.training.reopen import Source, reopen
from xql.training.replay import Rows, read_replay
from xql.training.units import reward_unit


class RunErrors(NamedTuple):
    """Bellman errors, and what they are."""

    errors: Float[np.ndarray, " transitions"]
    """In the unit of the run's scaled rewards; in the data's own where "auto" scaled them."""
    formula: str
    """Of the backup that they are of."""
    origin: str
    """Of the transitions."""


@standard_jax()
def run_errors(
    run: Path | str,
    *,
    index: int = 0,
    step: int | None = None,
    transitions: int = 5_000,
    seed: int = 0,
    trust: Sequence[str] = (),
    data: Source | None = None,
) -> RunErrors:
    """The errors of one member of a run, at its latest checkpoint or that of `step`.

    The transitions are drawn from the run's replay.npz where it has kept one. Else an online run
    plays as many steps with its exploring policy, and an offline run opens its data again.

    Args:
        run: the run's folder.
        index: which member, in the order of config.yaml.
        step: of the checkpoint; the latest where None.
        transitions: how many; all where there are fewer.
        seed: of the draw, of the play and of the policy's actions.
        trust: packages and ids of environments that an online run may name besides those of
            `xql.envs.trusted.PACKAGES`.
        data: an offline run's data, where it lies elsewhere now or was given as arrays.

    Raises:
        InputError: no run, no checkpoint, no such member, an agent without a critic, or data that
            is not there any more or has changed.
    """
    require_seed(seed)
    if transitions < 2:
        raise InputError(f"`transitions={transitions}` is too small", hint="give at least 2")
    folder = RunFolder.open(Path(run))
    config = folder.config
    config.require_member(index, str(run))
    agent, population, _ = load_population(folder, step)
    state = member(population, index)
    if agent.backup is None:
        raise InputError(
            f"agent {config.agent} has no critic, and so no Bellman errors",
            where=str(run),
            hint="take another agent's run",
        )
    random = np.random.default_rng(seed)
    play_key, error_key = jax.random.split(jax.random.key(seed))
    online = config.online and data is None  # `reopen` refuses data for an online run
    if online and os.path.lexists(folder.replay):
        rows = read_replay(folder.replay, config)
        batch, origin = _replayed(rows, index, transitions, random)
    elif online:
        policy = Policy(agent.actor(state), config.scaling, config.data.actions)
        environment = config.require_environment(str(run), trust=trust)
        batch = _played(config, environment, policy, transitions, seed, play_key)
        origin = f"{transitions:,} steps that its exploring policy played"
    else:
        scaled = apply_scaling(reopen(config, folder.path, data), config.scaling)
        batch, origin = _logged(scaled, transitions, random)
    on_device = jax.tree.map(jnp.asarray, batch)
    errors = np.asarray(bellman_errors(state, on_device, error_key, backup=agent.backup))
    errors = errors.astype(np.float64) * reward_unit(config.scaling)
    return RunErrors(errors, f"r + γ · mask · {agent.backup.formula} − Q₁(s, a)", origin)


def _replayed(kept: Rows, index: int, count: int, random: np.random.Generator) -> tuple[Batch, str]:
    """Transitions of a member's replay buffer, none twice."""
    filled = kept.rewards.shape[1]
    rows = random.choice(filled, min(count, filled), replace=False)
    batch = Batch(*(column[index][rows] for column in kept))
    return batch, f"{len(rows):,} of {filled:,} transitions in its replay.npz"


def _played(
    config: RunConfig,
    environment: Simulator,
    policy: Policy,
    steps: int,
    seed: int,
    play_key: PRNGKeyArray,
) -> Batch:
    """The transitions of one copy of the environment while the policy explores in it, scaled."""
    recipe = Recipe(config.scaling)
    actors = Actors(lambda: training_environment(config, environment), [seed], 1)
    try:
        keys = jax.random.split(play_key, steps)
        played = [recipe.rows(actors.step(policy.flat(actors.observations, key))) for key in keys]
    finally:
        actors.close()
    return Batch(*(np.concatenate(column, axis=1)[0] for column in zip(*played, strict=True)))


def _logged(scaled: Dataset, count: int, random: np.random.Generator) -> tuple[Batch, str]:
    """Transitions of a dataset, none twice."""
    starts = scaled.starts
    rows = random.choice(starts, min(count, len(starts)), replace=False)
    batch = Batch(
        observations=scaled.observations[rows],
        actions=scaled.actions[rows],
        rewards=scaled.rewards[rows],
        masks=scaled.masks[rows],
        next_observations=scaled.observations[rows + 1],
    )
    return batch, f"{len(rows):,} of {len(starts):,} transitions of {scaled.name}"

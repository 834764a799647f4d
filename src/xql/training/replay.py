"""A replay buffer on the device: a ring of transitions for each member of a population.

All members act in lockstep, so one position serves them all: writing is a plain update of a block,
in place where the caller donates the buffer, and a batch is one gather for each member.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, PRNGKeyArray

from xql.agents import Batch, EnvironmentSpec
from xql.errors import InputError


class Replay(NamedTuple):
    """The last `capacity` transitions of each member, oldest overwritten first."""

    observations: Float32[Array, "*members capacity observation"]
    actions: Float32[Array, "*members capacity action"]
    rewards: Float32[Array, "*members capacity"]
    masks: Float32[Array, "*members capacity"]
    next_observations: Float32[Array, "*members capacity observation"]

    @property
    def capacity(self) -> int:
        """Rows of each member."""
        return int(self.rewards.shape[-1])


class Rows(NamedTuple):
    """Transitions on the host, as they came from the simulators; fields as in `Batch`."""

    observations: Float32[np.ndarray, "members rows observation"]
    actions: Float32[np.ndarray, "members rows action"]
    rewards: Float32[np.ndarray, "members rows"]
    masks: Float32[np.ndarray, "members rows"]
    next_observations: Float32[np.ndarray, "members rows observation"]


def ring_capacity(wanted: int, steps: int, environments: int) -> int:
    """Rows that a buffer of `wanted` rows gets: never more than a run of `steps` fills.

    It is a multiple of `environments`, so that the block written at one step never straddles the
    ring's end.

    Raises:
        InputError: a buffer that could not hold one step.
    """
    capacity = min(wanted, steps) // environments * environments
    if capacity < environments:
        raise InputError(
            f"a replay buffer of {wanted} transitions is too small",
            hint=f"give `buffer` at least {environments}",
        )
    return capacity


def empty_replay(members: int, capacity: int, spec: EnvironmentSpec) -> Replay:
    """A buffer of zeros."""
    rows = (members, capacity)
    return Replay(
        observations=jnp.zeros((*rows, spec.observation_size), jnp.float32),
        actions=jnp.zeros((*rows, spec.actions.size), jnp.float32),
        rewards=jnp.zeros(rows, jnp.float32),
        masks=jnp.zeros(rows, jnp.float32),
        next_observations=jnp.zeros((*rows, spec.observation_size), jnp.float32),
    )


def row_size(spec: EnvironmentSpec) -> int:
    """The length of one packed transition."""
    return 2 * spec.observation_size + spec.actions.size + 2


def pack(rows: Rows) -> Float32[np.ndarray, "members rows packed"]:
    """Transitions as one array: one transfer to the device instead of five."""
    numbers = (rows.rewards[..., None], rows.masks[..., None])
    columns = (rows.observations, rows.actions, *numbers, rows.next_observations)
    return np.concatenate(columns, axis=-1, dtype=np.float32)


def insert(
    replay: Replay, packed: Float32[Array, "members rows packed"], position: Int[Array, ""]
) -> Replay:
    """Write a block of rows for every member at `position`, where it must fit whole."""
    size, actions = replay.observations.shape[-1], replay.actions.shape[-1]
    at = (size, size + actions, size + actions + 1, size + actions + 2)
    observations, taken, rewards, masks, following = jnp.split(packed, at, axis=-1)
    columns = (observations, taken, rewards[..., 0], masks[..., 0], following)
    start = [jnp.zeros_like(position), position, jnp.zeros_like(position)]
    return Replay(
        *(
            jax.lax.dynamic_update_slice(column, new, start[: column.ndim])
            for column, new in zip(replay, columns, strict=True)
        )
    )


def sample(replay: Replay, key: PRNGKeyArray, filled: Int[Array, ""], size: int) -> Batch:
    """`size` transitions of one member, uniformly with replacement among the first `filled`."""
    rows = jax.random.randint(key, (size,), 0, filled)
    return Batch(*(column[rows] for column in replay))

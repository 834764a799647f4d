"""A replay buffer on the device: a ring of transitions for each member of a population.

All members act in lockstep, so one position serves them all: writing is a plain update of a block,
in place where the caller donates the buffer, and a batch is one gather for each member.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, PRNGKeyArray

from xql.agents import Batch, EnvironmentSpec
from xql.data.schema import check_finite, require_columns
from xql.data.tables import read_columns
from xql.errors import InputError
from xql.runs.config import RunConfig


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


def read_replay(path: Path, config: RunConfig) -> Rows:
    """The buffers that an online run kept in replay.npz, oldest transition first.

    Raises:
        InputError: the file is damaged, or not of this run.
    """
    loop, members, where = config.loop, len(config.members), str(path)
    if loop is None:
        raise InputError("an offline run keeps no replay buffer", where=where, hint="remove it")
    kept = read_columns(path, Rows._fields)
    require_columns(kept, Rows._fields, where)
    capacity = ring_capacity(loop.buffer, config.steps, loop.environments)
    sizes = {"observations": config.spec.observation_size, "actions": config.spec.actions.size}
    sizes["next_observations"] = sizes["observations"]
    for name in Rows._fields:
        shape = (members, capacity, *([sizes[name]] if name in sizes else []))
        found = kept[name]
        if found.shape != shape or found.dtype.kind != "f":
            what = f"'{name}' is {found.dtype}{list(found.shape)}, not numbers {list(shape)}"
            hint = "this is no replay buffer of this run: make the run again"
            raise InputError(what, where=where, hint=hint)
        check_finite(found.reshape(members * capacity, -1), name, where)
    if not np.isin(kept["masks"], (0, 1)).all():
        hint = "restore the file as the run wrote it"
        raise InputError("a mask is neither 0 nor 1", where=where, hint=hint)
    return Rows(*(kept[name].astype(np.float32) for name in Rows._fields))


def read_episode_lengths(path: Path, steps: int) -> list[int]:
    """The steps of each episode that the first member finished, as its run's replay.npz says.

    Raises:
        InputError: they are missing, or more than `steps` in all.
    """
    name, where = "episode_lengths_0", str(path)
    kept = read_columns(path, [name])
    require_columns(kept, [name], where)
    lengths = kept[name]
    whole = lengths.ndim == 1 and (lengths.dtype.kind == "i" or lengths.size == 0)
    if not whole or (lengths < 1).any() or sum(lengths.tolist()) > steps:
        raise InputError(
            f"{name} is not the lengths of episodes of {steps:,} steps in all",
            where=where,
            hint="restore the file as the run wrote it",
        )
    return [int(length) for length in lengths]


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
    return rows_at(replay, jax.random.randint(key, (size,), 0, filled))


def rows_at(replay: Replay, rows: Int[Array, " batch"]) -> Batch:
    """The transitions of one member in these rows."""
    return Batch(*(column[rows] for column in replay))

"""What an online run keeps on the devices, and its programs: explore, remember, learn.

Remembering is apart from learning, because a program that both writes a buffer and reads it in a
loop copies it whole.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from xql.agents import Agent, Metrics, Spec, TrainState
from xql.training.population import MemberMetrics, by_cores, mesh_of, place, side_by_side
from xql.training.replay import Replay, Rows, empty_replay, insert, pack, sample

_EXPLORATION = 2**31 - 1


class Learner(NamedTuple):
    """All that lives on the devices; every leaf has a leading member axis."""

    population: TrainState
    replay: Replay
    keys: Key[Array, " members"]
    """Of the exploration."""
    totals: MemberMetrics
    """Sums over the updates since they were last logged."""


def fresh_learner(
    population: TrainState, agent: Agent, spec: Spec, capacity: int, seeds: Sequence[int]
) -> Learner:
    """Empty buffers, the exploration's keys and zero sums, spread as the population is."""

    def metrics_of(state: TrainState) -> Metrics:
        batch = sample(empty, state.key, jnp.int32(1), agent.transitions)
        return agent.update(state, batch)[1]

    empty = empty_replay(1, 1, spec)
    empty = jax.tree.map(lambda column: column[0], empty)
    shapes = jax.eval_shape(jax.vmap(metrics_of), population)
    totals = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    # A key that no split of the member's own key gives: splitting folds in 0, 1, 2, …
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), _EXPLORATION) for seed in seeds])
    replay = empty_replay(len(seeds), capacity, spec)
    return Learner(population, *place((replay, keys, totals), mesh_of(population)))


def _explore_on_devices(
    networks: PyTree,
    keys: Key[Array, " members"],
    observations: Float[Array, "members environments observation"],
    *,
    agent: Agent,
    mesh: Mesh,
) -> tuple[Key[Array, " members"], Float[Array, "members environments action"]]:
    """A draw from every member's policy, and the keys of the next one."""

    def one(network: PyTree, key: PRNGKeyArray, rows: Array) -> tuple[PRNGKeyArray, Array]:
        key, draw_key = jax.random.split(key)
        return key, agent.act(network, rows, draw_key)

    members = PartitionSpec("members")  # type: ignore[no-untyped-call]
    drawn: tuple[Array, Array] = jax.shard_map(
        side_by_side(one),
        mesh=mesh,
        in_specs=(members, members, members),
        out_specs=members,
        check_vma=False,
    )(networks, keys, observations)
    return drawn


def _remember_on_devices(
    replay: Replay,
    packed: Float[Array, "members rows packed"],
    position: Int[Array, ""],
    *,
    mesh: Mesh,
) -> Replay:
    """Write the new transitions at `position`, in place."""

    def of_device(replay: Replay, packed: Array) -> Replay:
        return insert(replay, packed, position)

    members = PartitionSpec("members")  # type: ignore[no-untyped-call]
    written: Replay = jax.shard_map(
        of_device, mesh=mesh, in_specs=(members, members), out_specs=members, check_vma=False
    )(replay, packed)
    return written


def _learn_on_devices(
    population: TrainState,
    totals: MemberMetrics,
    replay: Replay,
    filled: Int[Array, ""],
    updates: Int[Array, ""],
    *,
    agent: Agent,
    mesh: Mesh,
) -> tuple[TrainState, MemberMetrics]:
    """`updates` updates of every member from the first `filled` rows of its buffer."""

    def one(state: TrainState, totals: Metrics, memory: Replay) -> tuple[TrainState, Metrics]:
        def body(
            _: Int[Array, ""], carry: tuple[TrainState, Metrics]
        ) -> tuple[TrainState, Metrics]:
            key, batch_key = jax.random.split(carry[0].key)
            batch = sample(memory, batch_key, filled, agent.transitions)
            state, metrics = agent.update(carry[0]._replace(key=key), batch)
            return state, jax.tree.map(jnp.add, carry[1], metrics)

        learned: tuple[TrainState, Metrics] = jax.lax.fori_loop(0, updates, body, (state, totals))
        return learned

    members = PartitionSpec("members")  # type: ignore[no-untyped-call]
    learned: tuple[TrainState, MemberMetrics] = jax.shard_map(
        side_by_side(one),
        mesh=mesh,
        in_specs=(members, members, members),
        out_specs=members,
        check_vma=False,
    )(population, totals, replay)
    return learned


_explore = by_cores(_explore_on_devices, static=("agent",), donate=("keys",))
_remember = by_cores(_remember_on_devices, static=(), donate=("replay",))
_learn = by_cores(_learn_on_devices, static=("agent",), donate=("population", "totals"))


def explore(
    learner: Learner,
    observations: Float[np.ndarray, "members environments observation"],
    agent: Agent,
) -> tuple[Learner, Float[Array, "members environments action"]]:
    """Every member's next actions, drawn; dispatched, not awaited."""
    keys, actions = _explore(
        learner.population.policy.network,
        learner.keys,
        observations,
        agent=agent,
        mesh=mesh_of(learner.population),
    )
    return learner._replace(keys=keys), actions


def remember(learner: Learner, rows: Rows, position: int) -> Learner:
    """Write new transitions at `position` of every member's buffer; `learner` is given up."""
    replay = _remember(
        learner.replay, pack(rows), jnp.int32(position), mesh=mesh_of(learner.population)
    )
    return learner._replace(replay=replay)


def learn(learner: Learner, filled: int, updates: int, agent: Agent) -> Learner:
    """Make updates from the first `filled` transitions; `learner` is given up. Not awaited."""
    population, totals = _learn(
        learner.population,
        learner.totals,
        learner.replay,
        jnp.int32(filled),
        jnp.int32(updates),
        agent=agent,
        mesh=mesh_of(learner.population),
    )
    return learner._replace(population=population, totals=totals)

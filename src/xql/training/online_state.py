"""What an online run keeps on the devices, and its programs: explore, insert, learn.

Inserting is apart from learning, because a program that both writes a buffer and reads it in a
loop copies it whole.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from xql.agents import Agent, EnvironmentSpec, Metrics, TrainState
from xql.data.dataset import DeviceData
from xql.errors import InputError
from xql.runs.checkpoints import flatten, unflatten
from xql.training.population import MemberMetrics, Update, by_cores, mesh_of, place, side_by_side
from xql.training.recipe import SCRATCH, Mixture, Recipe, draw_batch
from xql.training.replay import Replay, Rows, empty_replay, insert, pack

_EXPLORATION = 2**31 - 1


class OnlineState(NamedTuple):
    """All that lives on the devices; every array has a leading member axis.

    The population is kept as its arrays and the tree that they make: to take a tree of Equinox
    modules apart and put it together again at every step takes a twentieth of the step
    (results/online-speed.md).
    """

    arrays: list[Array]
    """The population's."""
    tree: PyTreeDef
    replay: Replay
    keys: Key[Array, " members"]
    """Of the exploration."""
    totals: MemberMetrics
    """Sums over the updates since they were last logged."""

    @property
    def population(self) -> TrainState:
        """What learns."""
        population: TrainState = jax.tree.unflatten(self.tree, self.arrays)
        return population

    def restart(self, population: TrainState) -> "OnlineState":
        """The same with another population of the same shapes, and the sums at zero."""
        totals = jax.tree.map(jnp.zeros_like, self.totals)
        return self._replace(arrays=jax.tree.leaves(population), totals=totals)

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        sharding = self.arrays[0].sharding
        assert isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh)
        return sharding.mesh


def initial_online_state(
    population: TrainState,
    agent: Agent,
    spec: EnvironmentSpec,
    capacity: int,
    seeds: Sequence[int],
    recipe: Recipe = SCRATCH,
) -> OnlineState:
    """Empty buffers, the exploration's keys and zero sums, spread as the population is."""

    def metrics_of(state: TrainState) -> Metrics:
        drawn = (recipe.log, state.key, jnp.int32(1), agent.transitions, recipe.mixture)
        return agent.update(state, draw_batch(empty, *drawn))[1]

    empty = empty_replay(1, 1, spec)
    empty = jax.tree.map(lambda column: column[0], empty)
    shapes = jax.eval_shape(jax.vmap(metrics_of), population)
    totals = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    # A key that no split of the member's own key gives: splitting folds in 0, 1, 2, …
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), _EXPLORATION) for seed in seeds])
    replay = empty_replay(len(seeds), capacity, spec)
    arrays, tree = jax.tree.flatten(population)
    return OnlineState(arrays, tree, *place((replay, keys, totals), mesh_of(population)))


def online_arrays(state: OnlineState, filled: int) -> dict[str, np.ndarray]:
    """What a checkpoint keeps beside the population and the sums: keys, and the rows filled."""
    columns = state.replay._asdict().items()
    rows = {f"replay.{name}": np.asarray(column)[:, :filled] for name, column in columns}
    return {**rows, **flatten(state.keys, "keys")}


def restored_online_state(
    fresh: OnlineState, arrays: Mapping[str, np.ndarray], filled: int
) -> OnlineState:
    """The state that `online_arrays` was taken of.

    Args:
        fresh: from `initial_online_state`, with the population and at least `filled` rows.
        arrays: by name.
        filled: rows of each member's buffer.

    Raises:
        InputError: an array is missing, or not of this run.
    """
    columns: dict[str, Any] = {}
    for name, column in fresh.replay._asdict().items():
        kept = arrays.get(f"replay.{name}")
        wanted = (column.shape[0], filled, *column.shape[2:])
        if kept is None or kept.shape != wanted:
            found = "missing" if kept is None else f"{list(kept.shape)}, not {list(wanted)}"
            raise InputError(
                f"the replay buffer's {name} is {found}",
                where="checkpoint",
                hint="restore the folder as the run wrote it, or make the run again",
            )
        whole = np.zeros(column.shape, np.float32)
        whole[:, :filled] = kept
        columns[name] = whole
    keys = unflatten(arrays, "keys", fresh.keys)
    return fresh._replace(replay=place(Replay(**columns), fresh.mesh), keys=keys)


def _explore_on_devices(
    arrays: list[Array],
    keys: Key[Array, " members"],
    observations: Float[Array, "members environments observation"],
    *,
    tree: PyTreeDef,
    actor: Callable[[Any], Any],
    mesh: Mesh,
) -> tuple[Key[Array, " members"], Float[Array, "members environments action"]]:
    """A draw from every member's policy, and the keys of the next one."""

    def one(state: TrainState, key: PRNGKeyArray, rows: Array) -> tuple[PRNGKeyArray, Array]:
        key, draw_key = jax.random.split(key)
        return key, actor(state)(rows, draw_key)

    population: TrainState = jax.tree.unflatten(tree, arrays)
    members = PartitionSpec("members")  # type: ignore[no-untyped-call]
    drawn: tuple[Array, Array] = jax.shard_map(
        side_by_side(one),
        mesh=mesh,
        in_specs=(members, members, members),
        out_specs=members,
        check_vma=False,
    )(population, keys, observations)
    return drawn


def _insert_on_devices(
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
    arrays: list[Array],
    totals: MemberMetrics,
    replay: Replay,
    log: DeviceData | None,
    filled: Int[Array, ""],
    updates: Int[Array, ""],
    *,
    tree: PyTreeDef,
    update: Update,
    transitions: int,
    mixture: Mixture | None,
    mesh: Mesh,
) -> tuple[list[Array], MemberMetrics]:
    """`updates` updates of every member from the first `filled` rows of its buffer, and the log."""

    def of_device(
        states: TrainState, totals: MemberMetrics, replay: Replay, log: DeviceData | None
    ) -> tuple[TrainState, MemberMetrics]:
        def one(state: TrainState, totals: Metrics, memory: Replay) -> tuple[TrainState, Metrics]:
            def body(
                _: Int[Array, ""], carry: tuple[TrainState, Metrics]
            ) -> tuple[TrainState, Metrics]:
                key, batch_key = jax.random.split(carry[0].key)
                batch = draw_batch(memory, log, batch_key, filled, transitions, mixture)
                state, metrics = update(carry[0]._replace(key=key), batch)
                return state, jax.tree.map(jnp.add, carry[1], metrics)

            done: tuple[TrainState, Metrics] = jax.lax.fori_loop(0, updates, body, (state, totals))
            return done

        learned: tuple[TrainState, MemberMetrics] = side_by_side(one)(states, totals, replay)
        return learned

    members, everywhere = PartitionSpec("members"), PartitionSpec()  # type: ignore[no-untyped-call]
    population, totals = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(members, members, members, everywhere),
        out_specs=members,
        check_vma=False,
    )(jax.tree.unflatten(tree, arrays), totals, replay, log)
    return jax.tree.leaves(population), totals


_explore = by_cores(_explore_on_devices, static=("tree", "actor"), donate=("keys",))
_insert = by_cores(_insert_on_devices, static=(), donate=("replay",))
_learn = by_cores(
    _learn_on_devices,
    static=("tree", "update", "transitions", "mixture"),
    donate=("arrays", "totals"),
)
# Numbers are passed as numpy's: making a JAX array of one takes 0.1 ms, a fiftieth of a step.


def explore(
    state: OnlineState,
    observations: Float[np.ndarray, "members environments observation"],
    agent: Agent,
) -> tuple[OnlineState, Float[Array, "members environments action"]]:
    """Every member's next actions, drawn; dispatched, not awaited."""
    keys, actions = _explore(
        state.arrays,
        state.keys,
        observations,
        tree=state.tree,
        actor=agent.actor,
        mesh=state.mesh,
    )
    return state._replace(keys=keys), actions


def add(state: OnlineState, rows: Rows, position: int) -> OnlineState:
    """Write new transitions at `position` of every member's buffer; `state` is given up."""
    replay = _insert(state.replay, pack(rows), np.int32(position), mesh=state.mesh)
    return state._replace(replay=replay)


def learn(
    state: OnlineState, filled: int, updates: int, agent: Agent, recipe: Recipe = SCRATCH
) -> OnlineState:
    """Make updates from the first `filled` transitions; `state` is given up. Not awaited."""
    arrays, totals = _learn(
        state.arrays,
        state.totals,
        state.replay,
        recipe.log,
        np.int32(filled),
        np.int32(updates),
        tree=state.tree,
        update=agent.update,
        transitions=agent.transitions,
        mixture=recipe.mixture,
        mesh=state.mesh,
    )
    return state._replace(arrays=arrays, totals=totals)

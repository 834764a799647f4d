"""Many training runs as one: seeds × swept hyperparameters, one compiled program.

A population is a state whose every leaf has a leading member axis. The compiled chunk draws
its own batches from data on the device and never speaks to the host before it ends.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from xql.agents import Agent, Batch, EnvironmentSpec, Metrics, TrainState
from xql.data.dataset import DeviceData
from xql.jax_config import cores, known_options
from xql.runs import origin
from xql.runs.config import Member

Update = Callable[[Any, Batch], tuple[Any, Metrics]]

MemberMetrics = dict[str, Float[Array, " members"]]
"""What an agent reports, one number per member."""


def initial_population(
    agent: Agent, spec: EnvironmentSpec, members: Sequence[Member]
) -> TrainState:
    """A fresh state per member, stacked and spread over as many devices as divide it evenly.

    A member depends on its own seed and changes only.
    """

    # Not under vmap, which would compile a program for each operation and shape.
    states = []
    for one in members:
        changed = dataclasses.replace(agent.config, **one.changes)
        config = jax.tree.map(np.float32, changed)
        states.append(agent.init(jax.random.key(one.seed), spec, config))
    population: TrainState = place(jax.tree.map(_stacked, *states), mesh_for(len(members)))
    return population


def _stacked(*leaves: Any) -> Any:
    """Leaves of single members as one with the member axis."""
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        numbers = _stacked(*map(jax.random.key_data, leaves))
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaves[0]))
    return np.stack([np.asarray(leaf) for leaf in leaves])


def mesh_for(members: int) -> Mesh:
    """As many devices as share the members evenly."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if members % n == 0)
    return Mesh(np.array(devices[:count]), ("members",))


def place(members: PyTree, mesh: Mesh) -> PyTree:
    """A pytree whose every leaf has the member axis, spread over the mesh's devices."""
    spec = PartitionSpec("members")  # type: ignore[no-untyped-call]
    return jax.device_put(members, NamedSharding(mesh, spec))


def replicated(population: TrainState) -> NamedSharding:
    """Where the data must lie: whole, on each of the population's devices."""
    return NamedSharding(mesh_of(population), PartitionSpec())  # type: ignore[no-untyped-call]


def mesh_of(population: TrainState) -> Mesh:
    """The devices that the population is spread over."""
    sharding = population.step.sharding
    assert isinstance(sharding, NamedSharding), "not a population: place() it first"
    assert isinstance(sharding.mesh, Mesh)
    return sharding.mesh


def draw(data: DeviceData, key: PRNGKeyArray, size: int) -> Batch:
    """`size` transitions, uniformly with replacement."""
    return transitions_at(data, jax.random.randint(key, (size,), 0, len(data.starts)))


def transitions_at(data: DeviceData, drawn: Int[Array, " batch"]) -> Batch:
    """The transitions of these numbers, counted over all of the data."""
    rows = data.starts[drawn]
    following = data.starts[jnp.minimum(drawn + 1, len(data.starts) - 1)]
    return Batch(
        observations=data.observations[rows],
        actions=data.actions[rows],
        rewards=data.rewards[rows],
        masks=data.masks[rows],
        next_observations=data.observations[rows + 1],
        next_actions=data.actions[rows + 1],
        next_acted=(following == rows + 1).astype(jnp.float32),
        returns=None if data.returns is None else data.returns[rows],
    )


def train_chunk(
    population: TrainState,
    totals: MemberMetrics,
    data: DeviceData,
    updates: int,
    *,
    agent: Agent,
) -> tuple[TrainState, MemberMetrics]:
    """`updates` updates of every member, and the sums of their metrics, one per member.

    The sums go on from `totals`, so that they are the same bits however the updates are divided
    into chunks.

    Args:
        population: from `initial_population`; its memory is given up to the result.
        totals: the sums so far, from `zero_totals` or the chunk before; given up likewise.
        data: on the same devices (`Dataset.to_device(replicated(population))`).
        updates: how many; chunks of any length share one compilation.
        agent: the population's.
    """
    result: tuple[TrainState, MemberMetrics] = _compiled_chunk(
        population,
        totals,
        data,
        jnp.int32(updates),
        update=agent.update,
        transitions=agent.transitions,
        mesh=mesh_of(population),
    )
    return result


def zero_totals(population: TrainState, data: DeviceData, agent: Agent) -> MemberMetrics:
    """Sums of no updates: a zero for each metric and member, spread as the population is."""
    members = population.step.shape
    one = jax.tree.map(_of_member, population)
    metrics = functools.partial(_metrics, update=agent.update, transitions=agent.transitions)
    shapes = jax.eval_shape(metrics, one, data)
    zeros = jax.tree.map(lambda metric: np.zeros(members + metric.shape, metric.dtype), shapes)
    totals: MemberMetrics = place(zeros, mesh_of(population))
    return totals


def _of_member(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)  # type: ignore[no-untyped-call]


@functools.partial(jax.jit, static_argnames=("update", "transitions"))
def _metrics(state: TrainState, data: DeviceData, *, update: Update, transitions: int) -> Metrics:
    """Of one update, for their shapes alone: jitted, so that a second run need not trace again."""
    return update(state, draw(data, state.key, transitions))[1]


def _chunk(
    population: TrainState,
    totals: MemberMetrics,
    data: DeviceData,
    updates: Int[Array, ""],
    *,
    update: Update,
    transitions: int,
    mesh: Mesh,
) -> tuple[TrainState, MemberMetrics]:
    def on_device(
        states: TrainState, totals: MemberMetrics, data: DeviceData, updates: Int[Array, ""]
    ) -> tuple[TrainState, MemberMetrics]:
        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            key, batch_key = jax.random.split(state.key)
            return update(state._replace(key=key), draw(data, batch_key, transitions))

        def run(state: TrainState, totals: Metrics) -> tuple[TrainState, Metrics]:
            def body(
                _: Int[Array, ""], carry: tuple[TrainState, Metrics]
            ) -> tuple[TrainState, Metrics]:
                state, metrics = step(carry[0])
                return state, jax.tree.map(jnp.add, carry[1], metrics)

            done: tuple[TrainState, Metrics] = jax.lax.fori_loop(0, updates, body, (state, totals))
            return done

        # On one core, one after the other takes the time that vmap takes (results/speed.md).
        each = side_by_side(run, in_turn=on_cpu(mesh))
        result: tuple[TrainState, MemberMetrics] = each(states, totals)
        return result

    members, everywhere = PartitionSpec("members"), PartitionSpec()  # type: ignore[no-untyped-call]
    result: tuple[TrainState, MemberMetrics] = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(members, members, everywhere, everywhere),
        out_specs=members,
        check_vma=False,
    )(population, totals, data, updates)
    return result


def side_by_side(function: Callable[..., Any], *, in_turn: bool = False) -> Callable[..., Any]:
    """`function` of one member, for the members of one device; every argument has their axis.

    Args:
        function: takes and gives arrays of one member.
        in_turn: one member after the other, instead of all in one vectorised program. Each gets the
            bits that it has alone where XLA compiles the function's loop as it does alone: it does
            for most agents (tests/truth/test_same_bits.py).
    """

    def each(*args: PyTree) -> PyTree:
        if len(jax.tree.leaves(args)[0]) > 1:
            if in_turn:
                return jax.lax.map(lambda one: function(*one), args)
            return jax.vmap(function)(*args)
        # Not under vmap: XLA multiplies a batch of one matrix slower than the matrix.
        alone = function(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: leaf[None], alone)

    return each


def on_cpu(mesh: Mesh) -> bool:
    """Whether the devices are cores of the CPU."""
    return bool(mesh.devices.flat[0].platform == "cpu")


def by_cores(
    function: Callable[..., Any], *, static: Sequence[str], donate: Sequence[str]
) -> Callable[..., Any]:
    """`function`, jitted for a population on the processor's cores or on accelerators.

    Eigen splits each matrix product over all cores. Where the cores have members of their own to
    work on, the splitting only costs (results/speed.md). So there are two programs, of which a run
    compiles one; `function` must take the population's mesh as the keyword `mesh`.
    """
    jitted = functools.partial(jax.jit, static_argnames=(*static, "mesh"), donate_argnames=donate)
    on_own_cores = jitted(function, compiler_options={"xla_cpu_multi_thread_eigen": False})

    @functools.cache
    def on_shared_cores() -> Callable[..., Any]:
        # XLA's newer matrix products (YNNPACK) keep to one core at these sizes, Eigen's do not
        # (results/speed.md). The option that turns them off is experimental.
        options = known_options({"xla_cpu_experimental_ynn_fusion_type": ""})
        return jitted(function, compiler_options=options)

    def call(*args: Any, mesh: Mesh, **kwargs: Any) -> Any:
        share = not on_cpu(mesh) or 2 * mesh.size <= cores()
        chosen = on_shared_cores() if share else on_own_cores
        return chosen(*args, mesh=mesh, **kwargs)

    return call


_compiled_chunk = by_cores(
    _chunk, static=("update", "transitions"), donate=("population", "totals")
)


def use_all_cores() -> None:
    """Let populations spread over the processor's cores: one JAX device each.

    JAX counts its devices once, at first use; afterwards this does nothing.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores())  # type: ignore[no-untyped-call]


def use_devices_of(run: Path | str) -> None:
    """Give JAX as many devices of the processor as a run had: a member's bits depend on that.

    One for each core, as the command line has, where the run does not say. It does nothing once JAX
    has been used.
    """
    session = next(iter(origin.read(Path(run))), {})
    count = session.get("devices")
    if session.get("device") != "cpu" or type(count) is not int or not 1 <= count <= 256:
        use_all_cores()
        return
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)  # type: ignore[no-untyped-call]

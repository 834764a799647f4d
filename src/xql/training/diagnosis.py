"""What broke first where a member diverged: the update, the networks, the metrics, the batch.

Offline, a population determines all its later updates, since they draw from data that never
changes. So the updates since it was last sound are made again from a copy, by the program that
made them, up to the first number that is not finite. Online, the replay buffer has moved on: what
can be said is what is not finite at the end.
"""

import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from xql.agents import Agent, Batch, Metrics, Trainable, TrainState, member
from xql.data.dataset import DeviceData
from xql.training.population import MemberMetrics, draw, train_chunk, zero_totals
from xql.training.streaming import DataSource

BLOCK = 32
"""Updates that are made again at once, to find in which of them a member broke."""

Copied = TypeVar("Copied")

NO_NETWORKS = ("key", "step", "config")


class Cause(NamedTuple):
    """What is not finite in a member that diverged."""

    networks: tuple[str, ...]
    """Fields of its state; " optimizer" is added where that is all that is not finite in one."""
    metrics: tuple[str, ...]
    update: int | None = None
    """The run's step of the first update with a number that is not finite. Then `networks` and
    `metrics` are those of this update, in the order in which it computes them."""
    batch: dict[str, float] | None = None
    """Of that update: the largest |observation|, the lowest and the highest reward, and the largest
    |action|, as the agent sees them."""

    def describe(self) -> str:
        """In words, for a warning."""
        named = [f"networks: {', '.join(self.networks)}"] * bool(self.networks)
        named += [f"metrics: {', '.join(self.metrics)}"] * bool(self.metrics)
        what = "; ".join(named) or "a number of its configuration"
        if self.update is None or self.batch is None:
            return f"not finite by then, and which was first is not known: {what}"
        observation, low, high, action = (f"{number:.3g}" for number in self.batch.values())
        return (
            f"update {self.update:,} was the first that was not finite, in this order: {what}; its "
            f"batch: |observation| up to {observation}, reward {low} to {high}, |action| up to "
            f"{action}"
        )

    def as_plain(self) -> dict[str, Any]:
        """As JSON values: six digits of each number, or its name, such as "nan"."""
        batch = {name: _plain(value) for name, value in (self.batch or {}).items()}
        return self._asdict() | {"batch": batch or None}


def _plain(number: float) -> float | str:
    return float(f"{number:.6g}") if math.isfinite(number) else str(number)


def cause_at_the_end(
    population: TrainState, metrics: Mapping[str, np.ndarray], index: int
) -> Cause:
    """What of a member is not finite, after updates of which the first to break is unknown."""
    return Cause(tuple(_broken_networks(population, index)), tuple(_broken(metrics, index)))


def replayed_causes(
    good: TrainState,
    members: Collection[int],
    since: int,
    updates: int,
    source: DataSource,
    agent: Agent,
) -> dict[int, Cause]:
    """Make the updates again in which members diverged offline, up to the first that broke each.

    Args:
        good: the population before; it is left as it is.
        members: which of it diverged.
        since: the run's step then.
        updates: how many were made.
        source: what they drew from.
        agent: the population's.

    Returns:
        By member. One is left out where no number of a single update is infinite or NaN, but the
        sum of a metric over all.
    """
    causes: dict[int, Cause] = {}
    data, _ = source(since)
    zeros = zero_totals(good, data, agent)
    places = _places(agent, good, data)

    def again(
        data: DeviceData, population: TrainState, count: int
    ) -> tuple[TrainState, MemberMetrics]:
        # The chunk takes the memory of both.
        own, totals = copied((population, zeros))
        return train_chunk(own, totals, data, count, agent=agent)

    def broke(population: TrainState, metrics: MemberMetrics) -> list[int]:
        sound = sound_members(population, jax.tree.map(np.asarray, metrics))
        return [index for index in members if index not in causes and not sound[index]]

    done = 0
    while done < updates and len(causes) < len(members):
        data, left = source(since + done)
        block = min(BLOCK, updates - done, left)
        after, totals = again(data, good, block)
        if broke(after, totals):
            for update in range(since + done + 1, since + done + block + 1):
                before = good
                good, totals = again(data, before, 1)
                for index in broke(good, totals):
                    batch = _next_batch(data, before.key[index], agent.transitions)
                    causes[index] = _cause_of(good, totals, index, update, batch, places)
        good = after
        done += block
    return causes


def _cause_of(
    population: TrainState,
    metrics: MemberMetrics,
    index: int,
    update: int,
    batch: Batch,
    places: "_Places",
) -> Cause:
    """What is not finite in a member after the first update that broke it, which drew `batch`."""
    # Within an update what is not finite spreads: a V that is NaN makes the policy and Q NaN too.
    networks = _broken_networks(population, index)
    networks.sort(key=lambda name: places.fields[name.split()[0]])
    numbers = {name: np.asarray(values) for name, values in metrics.items()}
    return Cause(
        networks=tuple(networks),
        metrics=tuple(sorted(_broken(numbers, index), key=places.metrics.__getitem__)),
        update=update,
        batch={
            "largest_observation": float(np.abs(np.asarray(batch.observations)).max()),
            "lowest_reward": float(np.asarray(batch.rewards).min()),
            "highest_reward": float(np.asarray(batch.rewards).max()),
            "largest_action": float(np.abs(np.asarray(batch.actions)).max()),
        },
    )


@functools.partial(jax.jit, static_argnums=2)
def _next_batch(data: DeviceData, key: PRNGKeyArray, transitions: int) -> Batch:
    """What the compiled chunk draws for the next update of the state with this key."""
    return draw(data, jax.random.split(key)[1], transitions)


class _Places(NamedTuple):
    """When an update computes what: places in its program."""

    fields: dict[str, int]
    """Of each field of the state."""
    metrics: dict[str, int]


def _places(agent: Agent, population: TrainState, data: DeviceData) -> _Places:
    def update(state: Any) -> tuple[Any, Metrics]:
        return agent.update(state, draw(data, state.key, agent.transitions))

    state = jax.eval_shape(lambda: member(population, 0))
    program, shapes = jax.make_jaxpr(update, return_shape=True)(state)
    made = {
        id(variable): place
        for place, equation in enumerate(program.jaxpr.eqns)
        for variable in equation.outvars
    }
    # What is no equation's result stays as it was, and is last.
    end = len(program.jaxpr.eqns)
    places = [made.get(id(variable), end) for variable in program.jaxpr.outvars]
    after, metrics = jax.tree.unflatten(jax.tree.structure(shapes), places)
    # Of a network's leaves the first: some are projected onto their bounds at the update's end.
    fields = {
        name: min(jax.tree.leaves(_network(getattr(after, name))), default=end)
        for name in after._fields
    }
    return _Places(fields, metrics)


def _network(field: PyTree) -> PyTree:
    return field.network if isinstance(field, Trainable) else field


def _broken_networks(population: TrainState, index: int) -> list[str]:
    """The fields of the state that are not finite in a member."""
    broken = []
    for name in population._fields:  # type: ignore[attr-defined]
        field = getattr(population, name)
        if name in NO_NETWORKS or _finite(field, index):
            continue
        broken.append(f"{name} optimizer" if _finite(_network(field), index) else name)
    return broken


def _finite(field: PyTree, index: int) -> bool:
    return all(np.isfinite(np.asarray(leaf)[index]).all() for leaf in _floating(field))


def _broken(metrics: Mapping[str, np.ndarray], index: int) -> list[str]:
    return [name for name, values in metrics.items() if not np.isfinite(values[index])]


def sound_members(
    population: TrainState, metrics: Mapping[str, np.ndarray]
) -> Bool[np.ndarray, " members"]:
    """Whether all numbers of each member are finite."""
    sound: Bool[np.ndarray, " members"] = np.asarray(_all_finite(population))
    for values in metrics.values():
        sound = sound & np.isfinite(values)
    return sound


@jax.jit
def copied(arrays: Copied) -> Copied:
    """A copy in memory of its own, which the compiled chunk may take."""
    copy: Copied = jax.tree.map(jnp.copy, arrays)
    return copy


@jax.jit
def _all_finite(population: TrainState) -> Bool[Array, " members"]:
    """Whether all of a member's floating-point numbers are finite."""
    each = [jnp.isfinite(leaf.reshape(len(leaf), -1)).all(-1) for leaf in _floating(population)]
    return functools.reduce(jnp.logical_and, each)


def _floating(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]

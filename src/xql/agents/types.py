"""The few types that every agent shares: what goes in, what comes out, and all in between."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray, PyTree

Metrics = dict[str, Float[Array, ""]]


class Batch(NamedTuple):
    """Transitions (s, a, r, s') drawn from the data, one per row.

    `masks` is 0 only where the episode truly terminated at s', so that r + γ·mask·V(s') bootstraps
    across time limits and log ends.
    """

    observations: Float32[Array, "batch observation"]
    actions: Float32[Array, "batch action"]
    rewards: Float32[Array, " batch"]
    masks: Float32[Array, " batch"]
    next_observations: Float32[Array, "batch observation"]
    next_actions: Float32[Array, "batch action"] | None = None
    """What was done at s', where `next_acted` is 1; logged data has it, a replay buffer has not."""
    next_acted: Float32[Array, " batch"] | None = None
    """0 where the log ends at s', or the episode does."""


class Spec(NamedTuple):
    """The sizes and bounds that the networks are built for. Bounds are in the data's own units."""

    observation_size: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]

    @property
    def action_size(self) -> int:
        """The length of one action."""
        return len(self.action_low)


class Trainable(NamedTuple):
    """A network and the state of the optimizer that trains it."""

    network: PyTree
    optimizer: PyTree


class TrainState(NamedTuple):
    """Everything that the next update depends on, as one pytree of arrays.

    A population is a TrainState whose every leaf has a leading member axis. Agents leave the
    networks that they do not have at None.
    """

    policy: Trainable
    key: PRNGKeyArray
    step: Int[Array, ""]
    hyper: Any
    value: Trainable | None = None
    critic: Trainable | None = None
    target_critic: PyTree = None
    target_policy: PyTree = None
    target_value: PyTree = None
    temperature: Trainable | None = None
    """The log of the entropy's weight, where an agent learns it."""
    multiplier: Trainable | None = None
    """The log of a constraint's Lagrange multiplier, where an agent learns it."""


Init = Callable[[PRNGKeyArray, Spec, Any], TrainState]
Update = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Act = Callable[[PyTree, Float[Array, "*batch observation"], PRNGKeyArray | None], Array]


class Agent(NamedTuple):
    """An algorithm: three pure functions, the numbers it may sweep, and how much data it eats.

    Attributes:
        init: `(key, spec, hyper) -> TrainState`.
        update: `(TrainState, Batch) -> (TrainState, metrics)`; the batch has `transitions` rows.
        act: `(policy network, observations, key | None) -> actions`; without a key, the mode.
        hyper: a NamedTuple of floats with this configuration's values, the leaves of
            `TrainState.hyper`; one value each, or swept along the population.
        transitions: the rows that one update consumes.
    """

    init: Init
    update: Update
    act: Act
    hyper: Any
    transitions: int


def member(population: PyTree, index: int) -> PyTree:
    """One member of a population."""
    return jax.tree.map(lambda leaf: leaf[index], population)

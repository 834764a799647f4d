"""The types that every agent shares: what goes in, what comes out, and what an agent is."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray, PyTree

from xql.data.actions import ActionSpec, Box

Metrics = dict[str, Float[Array, ""]]
Scalar = Float[Array, ""]
Number = Scalar | float


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
    """The action taken at s', where `next_acted` is 1; an online run from scratch has none."""
    next_acted: Float32[Array, " batch"] | None = None
    """0 where the log ends at s', or the episode does."""
    returns: Float32[Array, " batch"] | None = None
    """A bound from below on the discounted return from s on under the behaviour policy, −∞ where
    none is known; only for an agent with `wants_returns`."""


class EnvironmentSpec(NamedTuple):
    """What networks are built for: the length of an observation, and the actions."""

    observation_size: int
    actions: ActionSpec
    unit_actions: bool = False
    """Whether critics see continuous actions rescaled from their bounds to ±1, as policies do."""


class Trainable(NamedTuple):
    """A network and the state of the optimizer that trains it."""

    network: PyTree
    optimizer: PyTree


@runtime_checkable
class TrainState(Protocol):
    """Everything that an agent's next update depends on, as one pytree of arrays.

    Each agent has a NamedTuple of its own with these fields and the networks that it needs. A
    population is a state whose every leaf has a leading member axis.
    """

    @property
    def policy(self) -> Trainable:
        """The policy and its optimizer."""

    @property
    def key(self) -> PRNGKeyArray:
        """The random key that the next update splits."""

    @property
    def step(self) -> Int[Array, ""]:
        """The updates made so far."""

    @property
    def config(self) -> Any:
        """The agent's configuration, its swept fields as arrays."""

    def _replace(self, **changes: Any) -> Any: ...


class Actor(Protocol):
    """What acts: a pytree that can be called."""

    def __call__(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch action"]:
        """The most likely actions, or with a key a draw to explore with."""


class Backup(NamedTuple):
    """What an agent's critic bootstraps from, for Bellman errors."""

    formula: str
    """In symbols, such as "V(s')"."""
    next_values: Callable[[Any, Batch, PRNGKeyArray | None], Float[Array, " batch"]]
    """`(state, batch, key) -> values of s'`, from the online networks, not their targets.

    The key draws a'; without one a' is the policy's mean action."""


class ScaleHint(NamedTuple):
    """The hyperparameters with a scale of returns in them, and what helps where it is wrong."""

    names: tuple[str, ...] = ()
    advice: str = "a smaller learning rate"
    """What helps where none of these does."""


class Agent(NamedTuple):
    """An algorithm: three pure functions, its configuration, and what is true of it.

    Attributes:
        init: `(key, spec, config) -> state`; fresh networks.
        update: `(state, batch) -> (state, metrics)`; the batch has `transitions` rows.
        actor: `state -> Actor`: what acts and is evaluated, exported and served.
        config: its configuration, with one number for each swept field.
        transitions: the rows that one update consumes.
        backup: what its critic bootstraps from; None without a critic.
        values_include_entropy: whether its values hold discounted entropy beside the rewards, so
            that no bound on returns is a bound on them.
        scale_hint: what helps where its values or its policy's weights do not fit the rewards.
        wants_returns: whether its batches need `Batch.returns`.
        takes: the kinds of actions that it learns, as it is configured.
        takes_by: the option that decides it, such as "policy=flow"; "" where none does.
    """

    init: Callable[[PRNGKeyArray, EnvironmentSpec, Any], Any]
    update: Callable[[Any, Batch], tuple[Any, Metrics]]
    actor: Callable[[Any], Any]
    config: Any
    transitions: int
    backup: Backup | None = None
    values_include_entropy: bool = False
    scale_hint: ScaleHint = ScaleHint()
    wants_returns: bool = False
    takes: tuple[type[ActionSpec], ...] = (Box,)
    takes_by: str = ""


def member(population: PyTree, index: int) -> PyTree:
    """One member of a population."""
    return jax.tree.map(lambda leaf: leaf[index], population)

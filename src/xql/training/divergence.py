"""A member that diverges is frozen at its last good state, and the others go on.

A value beyond every possible return is warned of: it is wrong long before it overflows.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree, Shaped

from xql.agents import TrainState


class DivergenceGuard:
    """Checks a population now and then, and keeps a copy of it as it last was.

    Divergence is a number that is not finite: among the metrics, or among the parameters and
    optimizer states. What exploded but is still finite goes on (see `RewardRange`).

    Attributes:
        frozen: for each frozen member the step of the state that it was put back to.
    """

    def __init__(self, population: TrainState, step: int = 0) -> None:
        self.frozen: dict[int, int] = {}
        self._good, self._step = _copy(population), step

    def check(
        self, population: TrainState, metrics: Mapping[str, np.ndarray], step: int
    ) -> tuple[TrainState, list[int]]:
        """Put diverged members back to their last good state.

        Args:
            population: as it is at `step`.
            metrics: per name one number for each member, over the updates since the last check.
            step: the run's.

        Returns:
            The population to go on with, and the members that this check froze.
        """
        sound = np.asarray(_all_finite(population))
        for values in metrics.values():
            sound = sound & np.isfinite(values)
        newly = [int(index) for index in np.flatnonzero(~sound) if int(index) not in self.frozen]
        self.frozen |= dict.fromkeys(newly, self._step)
        if self.frozen:
            # A frozen member computes on, since its place in the program is fixed; what it learns
            # is thrown away here.
            mask = np.isin(np.arange(len(sound)), list(self.frozen))
            population = _put_back(jnp.asarray(mask), population, self._good)
        self._good, self._step = _copy(population), step
        return population, newly


class RewardRange(NamedTuple):
    """The lowest and highest reward that an agent learns from, as it sees them."""

    low: float
    high: float

    def highest_return(self, discount: float) -> float:
        """No discounted return is above this; 0 is the return of an episode that ends at once.

        Without discounting it is infinite where a reward is positive: episodes have any length.
        """
        return _without_end(max(0.0, self.high), discount)

    def lowest_return(self, discount: float) -> float:
        """No discounted return is below this."""
        return _without_end(min(0.0, self.low), discount)

    def overestimated(self, value: float, discount: float) -> bool:
        """Whether a mean Q or V is above all possible returns.

        A tenth of the span of all possible returns is left for noise, since a mean over states and
        actions lies well inside it wherever learning goes well; and 1 for a fresh network.
        """
        return value > self.highest_return(discount) + self._noise(discount)

    def underestimated(self, value: float, discount: float) -> bool:
        """Whether a mean V is below all possible returns, by more than the same noise."""
        return -math.inf < value < self.lowest_return(discount) - self._noise(discount)

    def _noise(self, discount: float) -> float:
        return 0.1 * (self.highest_return(discount) - self.lowest_return(discount)) + 1.0


def _without_end(reward: float, discount: float) -> float:
    """The return of an endless episode that gives this reward at every step."""
    if reward == 0.0:
        return 0.0
    return reward / (1.0 - discount) if discount < 1.0 else math.copysign(math.inf, reward)


@jax.jit
def _copy(population: TrainState) -> TrainState:
    copied: TrainState = jax.tree.map(jnp.copy, population)
    return copied


@jax.jit
def _all_finite(population: TrainState) -> Bool[Array, " members"]:
    """Whether all of a member's floating-point numbers are finite."""
    leaves = [
        leaf for leaf in jax.tree.leaves(population) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    each = [jnp.isfinite(leaf.reshape(len(leaf), -1)).all(-1) for leaf in leaves]
    return functools.reduce(jnp.logical_and, each)


@functools.partial(jax.jit, donate_argnums=1)
def _put_back(mask: Bool[Array, " members"], population: TrainState, good: TrainState) -> PyTree:
    def chosen(now: Shaped[Array, "members ..."], then: Shaped[Array, "members ..."]) -> Array:
        return jnp.where(mask.reshape(-1, *(1,) * (now.ndim - 1)), then, now)

    return jax.tree.map(chosen, population, good)

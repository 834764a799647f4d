"""A member that diverges goes on with smaller steps; where it diverges again, it is frozen.

Either way it is put back to its last good state, and the other members do not notice. A value
beyond every possible return is warned of: it is wrong long before it overflows.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

from xql.agents import TrainState
from xql.agents.hyperparameters import learning_rates
from xql.runs.folder import SMALLER, Divergence
from xql.training.diagnosis import Cause, cause_at_the_end, copied, sound_members
from xql.training.population import mesh_of, place

_OTHER_BATCHES = 2**31 - 2


class DivergenceGuard:
    """Checks a population now and then, and keeps a copy of it as it last was.

    Divergence is a number that is not finite: among the metrics, or among the parameters and
    optimizer states. What exploded but is still finite goes on (see `RewardRange`).

    A member that diverges is put back to its last good state. The first time it goes on from there
    with its learning rates divided by `SMALLER`, and with another random key, so that it does not
    draw the same batches again; the second time it is frozen for good.

    Attributes:
        good: the population as it was at the last check, diverged members put back already.
        step: the run's at that check.
        rolled_back: for each member that went on, the step of the state that it was put back to.
        frozen: likewise for each frozen member.
    """

    def __init__(self, population: TrainState, step: int = 0) -> None:
        self.rolled_back: dict[int, int] = {}
        self.frozen: dict[int, int] = {}
        self.good, self.step = copied(population), step

    def check(
        self, population: TrainState, metrics: Mapping[str, np.ndarray], step: int
    ) -> tuple[TrainState, list[tuple[Divergence, Cause]]]:
        """Put diverged members back to their last good state.

        Args:
            population: as it is at `step`; its memory is given up.
            metrics: per name one number for each member, over the updates since the last check.
            step: the run's.

        Returns:
            The population to go on with, and what this check found and did, by member.
        """
        sound = sound_members(population, metrics)
        newly = [int(index) for index in np.flatnonzero(~sound) if int(index) not in self.frozen]
        found = [
            (self._decide(population, index, step), cause_at_the_end(population, metrics, index))
            for index in newly
        ]
        if newly or self.frozen:
            # A frozen member computes on, since its place in the program is fixed; what it learns
            # is thrown away here.
            again = [one.member for one, _ in found if one.action == "rolled back"]
            back = np.isin(np.arange(len(sound)), [*again, *self.frozen])
            smaller = np.isin(np.arange(len(sound)), again)
            population = _put_back(jnp.asarray(back), jnp.asarray(smaller), population, self.good)
        self.good, self.step = copied(population), step
        return population, found

    def _decide(self, population: TrainState, index: int, step: int) -> Divergence:
        """Decide what becomes of a member that has diverged by `step`."""
        lost = int(np.asarray(population.step)[index] - np.asarray(self.good.step)[index])
        if index in self.rolled_back:
            self.frozen[index] = self.step
            return Divergence(index, self.step, step, "frozen", lost)
        self.rolled_back[index] = self.step
        return Divergence(index, self.step, step, "rolled back", lost)

    def notes(self) -> dict[str, Any]:
        """What it remembers besides the copy, as JSON values."""
        return {
            name: {str(index): step for index, step in steps.items()}
            for name, steps in (("rolled_back", self.rolled_back), ("frozen", self.frozen))
        }

    def restore(self, good: TrainState, notes: Mapping[str, Any], step: int) -> None:
        """Go on as another guard would have.

        Args:
            good: its copy; any arrays of the population's shapes.
            notes: from its `notes`.
            step: of its last check.
        """
        self.good, self.step = copied(place(good, mesh_of(self.good))), step
        self.rolled_back, self.frozen = (
            {int(index): int(at) for index, at in notes[name].items()}
            for name in ("rolled_back", "frozen")
        )


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


@functools.partial(jax.jit, donate_argnums=2)
def _put_back(
    back: Bool[Array, " members"],
    smaller: Bool[Array, " members"],
    population: TrainState,
    good: TrainState,
) -> TrainState:
    """The population with some members as they were, and some of these with smaller steps."""

    def choose(mask: Bool[Array, " members"], one: TrainState, other: TrainState) -> TrainState:
        def chosen(one: Shaped[Array, "members ..."], other: Shaped[Array, "members ..."]) -> Array:
            return jnp.where(mask.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

        result: TrainState = jax.tree.map(chosen, one, other)
        return result

    config = good.config
    rates = {name: getattr(config, name) / SMALLER for name in learning_rates(config)}
    slower = good._replace(
        config=dataclasses.replace(config, **rates),
        # No split of the key gives this one: splitting folds in 0, 1, 2, …
        key=jax.vmap(lambda key: jax.random.fold_in(key, _OTHER_BATCHES))(good.key),
    )
    return choose(back, choose(smaller, slower, good), population)

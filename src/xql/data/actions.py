"""What an action is: a vector within bounds, or one of n choices. Nothing else asks a space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from xql.errors import InputError


@dataclass(frozen=True)
class Box:
    """Continuous actions: `size` numbers, each within its own bounds."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """The length of one flat action, which is what networks and replay buffers hold."""
        return len(self.low)

    @property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.low, np.float32), np.array(self.high, np.float32)

    def clip(self, actions: Float[np.ndarray, "*batch action"]) -> Float32[np.ndarray, "..."]:
        """The nearest actions within the bounds; nan counts as 0."""
        finite = np.nan_to_num(np.asarray(actions, np.float32))
        return np.clip(finite, *self._bounds)

    def sample(self, random: np.random.Generator, count: int) -> Float32[np.ndarray, "count ..."]:
        """Uniform actions within the bounds."""
        drawn = random.uniform(*self._bounds, (count, self.size))
        return drawn.astype(np.float32)

    def flatten(self, actions: Shaped[np.ndarray, "batch *action"]) -> Float32[np.ndarray, "..."]:
        """Actions as a policy or a log gives them, as rows of `size` numbers."""
        return np.asarray(actions, np.float32).reshape(len(actions), self.size)

    def unflatten(self, action: Float[np.ndarray, " action"]) -> Float[np.ndarray, " action"]:
        """One flat action as the environment takes it."""
        return action


@dataclass(frozen=True)
class Discrete:
    """One of `n` actions, 0 to n − 1; flat, a one-hot row."""

    n: int

    @property
    def size(self) -> int:
        """The length of one flat action."""
        return self.n

    def clip(self, actions: Float[np.ndarray, "*batch action"]) -> Float32[np.ndarray, "..."]:
        """The one-hot row of each row's largest entry."""
        best = np.nan_to_num(np.asarray(actions)).argmax(-1)
        return self._rows(best)

    def sample(self, random: np.random.Generator, count: int) -> Float32[np.ndarray, "count ..."]:
        """Uniform actions."""
        return self.flatten(random.integers(self.n, size=count))

    def flatten(self, actions: Int[np.ndarray, " batch"]) -> Float32[np.ndarray, "..."]:
        """Action numbers as one-hot rows.

        Raises:
            InputError: a number is not one of the `n` actions.
        """
        numbers = np.asarray(actions)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < self.n):
            raise InputError(
                f"an action is {numbers.min()} or {numbers.max()}, outside 0 to {self.n - 1}",
                hint="check the action column, or the number of actions",
            )
        return self._rows(numbers)

    def _rows(self, numbers: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        rows: np.ndarray = np.eye(self.n, dtype=np.float32)[numbers]
        return rows

    def unflatten(self, action: Float[np.ndarray, " action"]) -> int:
        """One flat action as the environment takes it."""
        return int(action.argmax())


ActionSpec = Box | Discrete


def action_spec(space: gymnasium.Space[Any], where: str, *, bounded: bool = True) -> ActionSpec:
    """The actions of a Gymnasium space.

    Args:
        space: of an environment's actions.
        where: the environment's name, for the message.
        bounded: whether the bounds of a Box must be finite, as every agent needs them.

    Raises:
        InputError: neither one flat Box nor a Discrete that starts at 0; or the bounds.
    """
    if isinstance(space, gymnasium.spaces.Discrete) and int(space.start) == 0:
        return Discrete(int(space.n))
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise InputError(
            f"its actions are {space}",
            where=where,
            hint="one flat Box, or a Discrete that starts at 0, is needed",
        )
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    if bounded and not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(
            "its actions have no bounds",
            where=where,
            hint="wrap it in gymnasium.wrappers.RescaleAction, which needs to know the range",
        )
    return box(low, high)


def box(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> Box:
    """A Box from any two sequences of numbers."""
    return Box(tuple(map(float, low)), tuple(map(float, high)))


def require_box(spec: ActionSpec, where: str) -> Box:
    """`spec`, where its actions are continuous.

    Raises:
        InputError: they are discrete, which no agent of this version learns from.
    """
    if not isinstance(spec, Box):
        raise InputError(
            f"its actions are {spec}",
            where=where,
            hint="discrete actions are not supported yet; use an environment with a Box",
        )
    return spec

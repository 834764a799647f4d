"""What an action is: a vector within bounds, or one of n choices. Nothing else asks a space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from xql.errors import InputError

MOST_CHOICES = 10_000
"""Of one decision, or of one observation: a dataset has a number for each of them in every row."""
_MOST_UNCOUNTED = 1000
"""Of one decision in a log that does not say how many there are: its numbers may be quantities."""


@dataclass(frozen=True)
class Box:
    """Continuous actions: `size` numbers, each within its own bounds."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    kind: ClassVar = "continuous"

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

    def unflatten(
        self, actions: Float[np.ndarray, "*batch action"]
    ) -> Float[np.ndarray, "*batch action"]:
        """Flat actions as the environment takes them and as a policy gives them."""
        return actions

    def takes(self, size: int) -> bool:
        """Whether flat actions of this size are actions of these."""
        return size == self.size

    @property
    def is_unit(self) -> bool:
        """Whether the bounds are ±1."""
        return all(bounds == (-1.0, 1.0) for bounds in zip(self.low, self.high, strict=True))

    @property
    def words(self) -> str:
        """What they are, for messages."""
        return f"action size {self.size}"

    def compare(self, theirs: "ActionSpec", name: str) -> str:
        """What to say where policies act by these in an environment that takes others; else "".

        Args:
            theirs: the environment's, of the same kind and size.
            name: the environment's.
        """
        assert isinstance(theirs, Box)
        for column, (low, high, least, most) in enumerate(
            zip(self.low, self.high, theirs.low, theirs.high, strict=True)
        ):
            slack = 1e-3 * (high - low)
            wide = f"the policies act within [{low:g}, {high:g}] in action {column}, and {name} "
            wide += f"takes [{least:g}, {most:g}]"
            if low < least - slack or high > most + slack:
                return f"{wide}: what lies beyond is clipped; are they in its units?"
            # Bounds that were read off the data are a little narrower: nothing to say of that.
            if np.isfinite([least, most]).all() and 2 * (high - low) < most - least:
                return f"{wide}: the rest of it is never used"
        return ""


@dataclass(frozen=True)
class Discrete:
    """One of `n` actions, 0 to n − 1; flat, a one-hot row of float32."""

    n: int

    kind: ClassVar = "discrete"

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

    def flatten(
        self, actions: Shaped[np.ndarray, "batch *one"], where: str = ""
    ) -> Float32[np.ndarray, "..."]:
        """Action numbers, one in each row, as one-hot rows.

        Args:
            actions: the numbers.
            where: their source, for the message.

        Raises:
            InputError: a number is not one of the `n` actions.
        """
        numbers = np.asarray(actions).reshape(len(actions))
        known = (numbers >= 0) & (numbers < self.n) & (numbers == np.floor(numbers))
        if not known.all():
            raise InputError(
                f"an action is {numbers[np.argmin(known)]}, not one of 0 to {self.n - 1}",
                where=where,
                hint="check the action column, or the number of actions",
            )
        return self._rows(numbers.astype(np.int64))

    def _rows(self, numbers: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        rows: np.ndarray = np.asarray(numbers)[..., None] == np.arange(self.n)
        return rows.astype(np.float32)

    def unflatten(
        self, actions: Float[np.ndarray, "*batch action"]
    ) -> Int[np.ndarray, "*batch"] | np.integer[Any]:
        """The numbers of flat actions, as the environment takes them and as a policy gives them.

        Raises:
            InputError: an entry is NaN, which no whole number can say.
        """
        if np.isnan(actions).any():
            hint = "fill in what was not measured"
            raise InputError("the policy's answer is NaN, which is no action", hint=hint)
        numbers: np.ndarray | np.integer[Any] = actions.argmax(-1)
        return numbers

    def takes(self, size: int) -> bool:
        """Whether flat actions of this size are actions of these: the first of them, at least."""
        return size <= self.n

    @property
    def words(self) -> str:
        """What they are, for messages."""
        return f"{self.n} discrete actions"

    def compare(self, theirs: "ActionSpec", name: str) -> str:
        """What to say where policies act by these in an environment that takes others; else "".

        Args:
            theirs: the environment's, at least as many.
            name: the environment's.
        """
        if theirs.size == self.n:
            return ""
        return (
            f"the policies choose among the actions 0 to {self.n - 1}, and {name} takes 0 to "
            f"{theirs.size - 1}: the rest is never used"
        )


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


def upper_bounds(
    low: Float32[np.ndarray, " action"], high: Float32[np.ndarray, " action"]
) -> Float32[np.ndarray, " action"]:
    """`high`, the largest numbers of logged actions, but above `low` also where none moves.

    A column that never moves has no range to scale by. It gets a thousandth of its size, at least
    0.001: less is nothing beside a large number in float32.
    """
    moves = high - low > 1e-30  # half of a smaller range may be 0 on a device
    return np.where(moves, high, low + 1e-3 * np.maximum(1.0, np.abs(low)))


def require_box(spec: ActionSpec, where: str = "") -> Box:
    """`spec`, where its actions are continuous.

    Raises:
        InputError: they are discrete.
    """
    if not isinstance(spec, Box):
        hint = "continuous actions are needed: a Box of floats"
        raise InputError(f"its actions are {spec}", where=where, hint=hint)
    return spec


def whole_numbers(
    actions: Shaped[np.ndarray, "steps *one"], where: str, count: int | None = None
) -> Discrete:
    """The actions of a log that numbers them: one whole number, from 0 on, in each row.

    Args:
        actions: of a whole-number type, or booleans.
        where: the source, for the message.
        count: how many there are, where it is known; else the largest in the log is the last.

    Raises:
        InputError: more than one number in a row, or numbers that count no actions.
    """
    quantity = "give quantities as floats"
    if actions.size != len(actions):
        what = f"actions are {actions.size // len(actions)} whole numbers a row ({actions.dtype})"
        hint = f"{quantity}, or number every combination in one column"
        raise InputError(what, where=where, hint=hint)
    if actions.dtype.kind == "b":
        return Discrete(2)
    low, high = int(actions.min(initial=0)), int(actions.max(initial=0))
    most = _MOST_UNCOUNTED if count is None else count
    if low < 0 or high >= most:
        what = f"actions are whole numbers ({actions.dtype}) from {low} to {high}"
        hint = f"number discrete actions from 0 to at most {most - 1}, or {quantity}"
        raise InputError(what, where=where, hint=hint)
    return Discrete(high + 1 if count is None else count)

"""Named scalings of rewards and observations, printed and stored with the run.

A trained policy applies the scaling of observations to its own, so it takes them as they are:

    r' = reward_scale · r + reward_shift
    s' = (s − observation_shift) · observation_scale

Scaling rewards by c scales every value by c, so it is the same as dividing the temperature by c:
a β belongs to a scaling. Rewards:

    raw            as they are
    minus_one      r − 1: a sparse 0/1 reward becomes a cost per step (AntMaze, as IQL and XQL)
    return_range   r · 1000 / (largest − smallest episode return) (MuJoCo, as IQL and XQL)
    auto           r · 2^k, so that the discounted returns-to-go of the data deviate by about 1
    scale:X        r · X
    shift:X        r + X
    affine:X,Y     r · X + Y

A power of two changes no digit of a reward: data whose rewards differ by such a factor alone scale
to the same bits, and so train to the same bits.

Observations:

    raw            as they are
    standardised   mean 0 and standard deviation 1 in each column over all stored observations, less
                   where a value would be beyond ±10
    auto           standardised where the columns differ in scale, else as they are (docs/data.md)
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from xql.data.dataset import Dataset, empty
from xql.errors import InputError, nearest

REWARDS = ("raw", "minus_one", "return_range", "auto", "scale:X", "shift:X", "affine:X,Y")
OBSERVATIONS = ("raw", "standardised", "auto")

DEFAULT_DISCOUNT = 0.99
"""Of the returns that `rewards="auto"` measures, for an agent without a discount."""

_NUMBERS = {"scale": "0.1", "shift": "0.1", "affine": "10,-5"}
"""The scalings that take numbers, with an example."""

SMALLEST_DEVIATION = 1e-3  # the floor that TD3+BC adds: a column that hardly moves is no signal
WIDEST = 100.0
"""How far standard deviations may lie apart, and means from 0, before `auto` standardises."""
LARGEST = 10.0
"""Up to here `auto` leaves values alone that are constant, of two kinds or rare."""
FARTHEST = 10.0
"""How far from its mean standardising takes no value, in deviations: a joint that stands still but
for a few knocks would be at hundreds, where what a network says is anything
(docs/choosing-beta.md)."""
_BLOCK = 65536  # rows at a time, so that no float64 copy of the data is ever made


class Scaling(NamedTuple):
    """What was done to rewards and observations, as numbers (see the head of this file)."""

    rewards: str
    observations: str
    reward_scale: float
    reward_shift: float
    observation_shift: Float32[np.ndarray, " observation"]
    observation_scale: Float32[np.ndarray, " observation"]

    def of_rewards(self) -> "Scaling":
        """The same, but that observations stay as they are."""
        shift, scale = self.observation_shift, self.observation_scale
        return self._replace(
            observation_shift=np.zeros_like(shift), observation_scale=np.ones_like(scale)
        )

    @property
    def changes_observations(self) -> bool:
        """Whether there is anything to do to observations."""
        return bool((self.observation_shift != 0.0).any() or (self.observation_scale != 1.0).any())

    def describe(self) -> str:
        """One line for people."""
        parts = []
        if self.reward_scale != 1.0 or self.reward_shift != 0.0:
            times = f"{self.reward_scale:.6g} · r" if self.reward_scale != 1.0 else "r"
            shift = f"{self.reward_shift:+.6g}" if self.reward_shift != 0.0 else ""
            sign = f" {'−' if shift[0] == '-' else '+'} {shift[1:]}" if shift else ""
            parts.append(f"rewards {self.rewards}: r' = {times}{sign}")
        else:
            already = ": r' = r (the returns deviate by about 1, or not at all)"
            parts.append(f"rewards {self.rewards}" + already * (self.rewards == "auto"))
        size = len(self.observation_shift)
        detail = "" if self.observations == "raw" else f" ({size} columns to mean 0, deviation 1)"
        if self.observations == "auto":
            changed = int(((self.observation_shift != 0) | (self.observation_scale != 1)).sum())
            rest = f", {size - changed} left as they are" * (changed < size)
            detail = f" ({changed} of {size} columns standardised{rest})"
            detail = detail if changed else f" (all {size} columns left as they are)"
        parts.append(f"observations {self.observations}{detail}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for YAML or JSON."""
        return {
            "rewards": self.rewards,
            "observations": self.observations,
            "reward_scale": float(self.reward_scale),
            "reward_shift": float(self.reward_shift),
            "observation_shift": [float(value) for value in self.observation_shift],
            "observation_scale": [float(value) for value in self.observation_scale],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scaling":
        """The inverse of `to_dict`.

        Raises:
            InputError: a key is unknown or missing.
        """
        for key in values:
            if key not in cls._fields:
                hint = nearest(key, cls._fields)
                raise InputError(f"unknown key '{key}'", where="scaling", hint=hint)
        for key in cls._fields:
            if key not in values:
                raise InputError(f"there is no '{key}'", where="scaling", hint="add it")
        return cls(
            rewards=str(values["rewards"]),
            observations=str(values["observations"]),
            reward_scale=float(values["reward_scale"]),
            reward_shift=float(values["reward_shift"]),
            observation_shift=np.asarray(values["observation_shift"], np.float32),
            observation_scale=np.asarray(values["observation_scale"], np.float32),
        )


def reward_unit(scaling: Scaling) -> float:
    """How many of the data's own rewards one scaled reward is, where that is to be undone."""
    return 1.0 / scaling.reward_scale if scaling.rewards == "auto" else 1.0


def fit_scaling(
    dataset: Dataset,
    rewards: str = "raw",
    observations: str = "raw",
    *,
    discount: float = DEFAULT_DISCOUNT,
    part: Dataset | None = None,
) -> Scaling:
    """Turn two names into numbers, measured on `dataset` where the name asks for it.

    Args:
        dataset: what is learned from.
        rewards, observations: names in `REWARDS` and `OBSERVATIONS`.
        discount: of the returns that `rewards="auto"` measures.
        part: whose observations are measured; None for those of `dataset`.

    Raises:
        InputError: an unknown name, or returns that cannot be scaled.
    """
    reward_scale, reward_shift = _fit_rewards(dataset, rewards, discount)
    if observations == "raw":
        shift = np.zeros(dataset.observation_size, np.float32)
        scale = np.ones(dataset.observation_size, np.float32)
    elif observations == "standardised":
        shift, scale = _standardise(part or dataset)
    elif observations == "auto":
        shift, scale = _auto(part or dataset)
    else:
        hint = nearest(observations, OBSERVATIONS)
        raise InputError(f"unknown observation scaling '{observations}'", hint=hint)
    return Scaling(rewards, observations, reward_scale, reward_shift, shift, scale)


def _fit_rewards(dataset: Dataset, rewards: str, discount: float) -> tuple[float, float]:
    name, colon, text = rewards.partition(":")
    if colon and name in _NUMBERS:
        words = text.split(",")
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        scale = numbers[0] if numbers and name != "shift" else 1.0
        shift = numbers[-1] if numbers and name != "scale" else 0.0
        right = len(numbers) == (2 if name == "affine" else 1)
        if not right or not np.isfinite(numbers).all() or scale == 0.0:
            hint = f"write it as {name}:{_NUMBERS[name]}"
            raise InputError(f"cannot read the number in reward scaling '{rewards}'", hint=hint)
        return scale, shift
    if rewards == "raw":
        return 1.0, 0.0
    if rewards == "minus_one":
        return 1.0, -1.0
    if rewards == "auto":
        return _unit_scale(dataset, discount), 0.0
    if rewards == "return_range":
        returns = dataset.returns
        spread = float(returns.max() - returns.min())
        if spread == 0.0:
            raise InputError(
                f"reward scaling 'return_range' needs returns that differ, all {len(returns)} "
                f"episodes return {returns[0]:g}",
                where=dataset.name,
                hint="use raw, or scale:X",
            )
        return 1000.0 / spread, 0.0
    raise InputError(f"unknown reward scaling '{rewards}'", hint=nearest(rewards, REWARDS))


def returns_to_go(dataset: Dataset, discount: float) -> Float64[np.ndarray, " rows"]:
    """Σᵢ γⁱ rₜ₊ᵢ to the end of the episode, for every stored row (0 in each episode's last).

    By doubling: the sum over 2s steps is that over s and γˢ times that over the s after them, so
    that the longest episode of a million steps takes 20 passes over the table.
    """
    returns = dataset.rewards.astype(np.float64)
    left = _rows_left(dataset)
    span = 1
    while span < dataset.lengths.max():
        factor = discount**span
        # Upwards, so that what a block reads beyond itself is still the sum over `span` steps.
        for first in range(0, len(returns) - span, _BLOCK):
            last = min(first + _BLOCK, len(returns) - span)
            later = np.where(left[first:last] > span, returns[first + span : last + span], 0.0)
            returns[first:last] += factor * later
        span *= 2
    return returns


def _rows_left(dataset: Dataset) -> Int[np.ndarray, " rows"]:
    """How many rows of its episode come after each row."""
    kind = np.int32 if len(dataset.rewards) < 2**31 else np.int64
    left = np.repeat((dataset.firsts + dataset.lengths).astype(kind), dataset.lengths + 1)
    left -= np.arange(len(left), dtype=kind)
    return left


def least_returns(dataset: Dataset, discount: float) -> Float32[np.ndarray, " rows"]:
    """A bound from below on the discounted return from each row on, of the policy that acted.

    The rewards to the end of the log and, where the episode did not terminate, the lowest reward of
    the data for ever after, or 0 if that is less.
    """
    returns = returns_to_go(dataset, discount)
    lowest = min(float(dataset.rewards[dataset.acted].min()), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        after = np.divide(lowest, 1.0 - discount) if lowest else 0.0
    left = _rows_left(dataset)
    goes_on = np.repeat(~dataset.terminated, dataset.lengths + 1)
    bound = returns + np.where(goes_on, discount**left * after, 0.0)
    return np.asarray(bound, np.float32)


def _unit_scale(dataset: Dataset, discount: float) -> float:
    """The power of two that brings the deviation of the returns-to-go nearest to 1.

    1 where they do not differ by more than float32 rounds rewards.
    """
    returns = returns_to_go(dataset, discount)[dataset.acted]
    deviation = float(returns.std())
    if not math.isfinite(deviation):
        raise InputError(
            "reward scaling 'auto' needs returns that are finite",
            where=dataset.name,
            hint="find the rewards that are not: xql data check",
        )
    if deviation <= np.finfo(np.float32).eps * float(max(-returns.min(), returns.max())):
        return 1.0
    # Exactly, so that a deviation times a power of two never rounds another way.
    mantissa, exponent = math.frexp(deviation)
    exponent -= mantissa < math.sqrt(0.5)
    if not -126 <= -exponent <= 127:  # float32's own powers of two
        raise InputError(
            f"reward scaling 'auto' cannot scale returns that deviate by {deviation:.3g}",
            where=dataset.name,
            hint=f"give rewards in a {'smaller' if exponent < 0 else 'larger'} unit",
        )
    return math.ldexp(1.0, -exponent)


def _auto(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Standardise if the columns differ in scale, but for those that this would not serve.

    They differ in scale if their standard deviations, and 1, lie more than `WIDEST` apart, or a
    mean lies further than that from 0; and where the data was made of a table of one's own.
    Columns that are constant, have two values (one-hot) or seldom move are never scaled up: within
    ±`LARGEST` they stay as they are, beyond it their mean is subtracted and a deviation above 1
    divided out. Goals, and positions to compare them with, keep their common coordinates.
    """
    table = dataset.observations
    mean, deviation = _moments(table)
    low, high = table.min(axis=0), table.max(axis=0)
    seldom = np.array([_seldom_moves(*of) for of in zip(table.T, deviation, strict=True)])
    special = seldom | (low == high)
    goals = _of_goals(dataset)
    ordinary = ~special & ~goals
    spread = [1.0, *deviation[ordinary]]
    apart = max(spread) > WIDEST * min(spread) or (np.abs(mean[ordinary]) > WIDEST).any()
    # A table is in units of its own: a temperature of 45 ± 3 alone saturates a network's tanh.
    apart = apart or dataset.metadata.get("columns") is not None
    large = special & ~goals & (np.maximum(-low, high) > LARGEST)
    floored = _floored(deviation, np.maximum(high - mean, mean - low))
    divisor = np.where(special, np.maximum(deviation, 1.0), floored)
    changed = large | (ordinary & apart)
    shift = np.where(changed, np.where(low == high, low, mean), 0.0)
    scale = np.where(changed, 1.0 / divisor, 1.0)
    return shift.astype(np.float32), scale.astype(np.float32)


def _seldom_moves(column: Float32[np.ndarray, " rows"], deviation: float) -> bool:
    """Whether a column has two values, or lies within one deviation in 95 % of its rows.

    Of a normal distribution 95 % span 3.9 deviations; of what differs from its usual value in one
    row of a thousand they span none, and dividing by the deviation would give 30 there.
    """
    ends = (column == column.min()) | (column == column.max())
    span = np.subtract(*np.quantile(column, (0.975, 0.025)))
    return bool(ends.all() or span < deviation)


def _of_goals(dataset: Dataset) -> Bool[np.ndarray, " observation"]:
    """The columns of goals that vary, and those in the same coordinates.

    Those are the achieved goal, and the columns of the observation that repeat it, up to the noise
    of a sensor. Where the data has a goal without the achieved one, any column may be a position.
    """
    size = dataset.observation_size
    layout = dataset.metadata.get("observation_layout") or []
    paths = [str(path) for path, count in layout for _ in range(int(count))]
    none = np.zeros(size, bool)
    if len(paths) != size:
        return none
    achieved = np.array(["achieved_goal" in path.split("/") for path in paths])
    wanted = np.array(["goal" in path for path in paths]) & ~achieved
    table = dataset.observations
    if not (table[:, wanted] != table[0, wanted]).any():
        return none
    if not achieved.any():
        return ~none
    few = table[np.linspace(0, len(table) - 1, min(len(table), 10_000)).astype(int)]
    repeats = none.copy()
    for goal in few[:, achieved].T:
        noise = np.sqrt(np.square(few - goal[:, None]).mean(axis=0))
        repeats |= noise <= 0.1 * goal.std()
    return np.asarray(wanted | achieved | repeats)


def _standardise(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    table = dataset.observations
    mean, deviation = _moments(table)
    low, high = table.min(axis=0), table.max(axis=0)
    constant = low == high
    floored = _floored(deviation, np.maximum(high - mean, mean - low))
    scale = np.where(constant, 1.0, 1.0 / floored)
    shift = np.where(constant, table[0], mean)
    return shift.astype(np.float32), scale.astype(np.float32)


def _floored(
    deviation: Float64[np.ndarray, " observation"], farthest: Float64[np.ndarray, " observation"]
) -> Float64[np.ndarray, " observation"]:
    """What a column is divided by, whose value that is farthest from the mean is so far from it."""
    return np.asarray(np.maximum(np.maximum(deviation, SMALLEST_DEVIATION), farthest / FARTHEST))


def _moments(
    table: Float32[np.ndarray, "rows observation"],
) -> tuple[Float64[np.ndarray, " observation"], Float64[np.ndarray, " observation"]]:
    """Each column's mean and standard deviation."""
    blocks = [table[first : first + _BLOCK] for first in range(0, len(table), _BLOCK)]
    total: Float64[np.ndarray, " observation"] = np.zeros(table.shape[1])
    for block in blocks:
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / len(table)
    squares: Float64[np.ndarray, " observation"] = np.zeros(table.shape[1])
    for block in blocks:
        apart = block - mean
        squares += np.square(apart, out=apart).sum(axis=0)
        del apart  # not two at once
    return mean, np.sqrt(squares / len(table))


def scale_rows(observations: Float32[np.ndarray, "rows observation"], scaling: Scaling) -> None:
    """Scale observations where they are."""
    if scaling.changes_observations:
        observations -= scaling.observation_shift
        observations *= scaling.observation_scale


def apply_scaling(dataset: Dataset, scaling: Scaling, *, in_place: bool = False) -> Dataset:
    """The same episodes with rewards and observations scaled, in new arrays.

    What the scaling leaves as it is stays shared with `dataset`.

    Args:
        dataset: as it was opened.
        scaling: of rewards and observations.
        in_place: whether observations are scaled where they are, so that those of `dataset` cannot
            be used any more; else nothing is written to it.

    Raises:
        InputError: the scaling was fitted to observations of another size.
    """
    if len(scaling.observation_shift) != dataset.observation_size:
        raise InputError(
            f"the scaling is for observations of size {len(scaling.observation_shift)}, "
            f"these have {dataset.observation_size}",
            where=dataset.name,
            hint="fit the scaling to this data",
        )
    changes: dict[str, np.ndarray] = {}
    if scaling.reward_scale != 1.0 or scaling.reward_shift != 0.0:
        rewards = empty(dataset.rewards.shape)
        np.multiply(dataset.rewards, np.float32(scaling.reward_scale), out=rewards)
        rewards += np.float32(scaling.reward_shift)
        # Each episode's last row is no step: were its reward not zero, it would count in a return.
        rewards[dataset.firsts + dataset.lengths] = 0.0
        changes["rewards"] = rewards
    if in_place:
        scale_rows(dataset.observations, scaling)
    elif scaling.changes_observations:
        observations = empty(dataset.observations.shape)
        np.subtract(dataset.observations, scaling.observation_shift, out=observations)
        observations *= scaling.observation_scale
        changes["observations"] = observations
    return dataset.with_metadata(**changes) if changes else dataset

"""Named scalings of rewards and observations, printed and stored with the run.

A trained policy applies the scaling of observations to its own, so it takes them as they are:

    r' = reward_scale · r + reward_shift
    s' = (s − observation_shift) · observation_scale

Scaling rewards by c scales every value by c, so it is the same as dividing the temperature by c:
a β belongs to a scaling. Rewards:

    raw            as they are
    minus_one      r − 1: a sparse 0/1 reward becomes a cost per step (AntMaze, as IQL and XQL)
    return_range   r · 1000 / (largest − smallest episode return) (MuJoCo, as IQL and XQL)
    scale:X        r · X
    shift:X        r + X
    affine:X,Y     r · X + Y

Observations:

    raw            as they are
    standardised   mean 0 and standard deviation 1 in each column over all stored observations
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from xql.data.dataset import Dataset, empty
from xql.errors import InputError, nearest

REWARDS = ("raw", "minus_one", "return_range", "scale:X", "shift:X", "affine:X,Y")
OBSERVATIONS = ("raw", "standardised")

_NUMBERS = {"scale": "0.1", "shift": "0.1", "affine": "10,-5"}
"""The scalings that take numbers, with an example."""

SMALLEST_DEVIATION = 1e-3  # the floor that TD3+BC adds: a column that hardly moves is no signal
_BLOCK = 65536  # rows at a time, so that no float64 copy of the data is ever made


class Scaling(NamedTuple):
    """What was done to rewards and observations, as numbers (see the head of this file)."""

    rewards: str
    observations: str
    reward_scale: float
    reward_shift: float
    observation_shift: Float32[np.ndarray, " observation"]
    observation_scale: Float32[np.ndarray, " observation"]

    def describe(self) -> str:
        """One line for people."""
        parts = []
        if self.reward_scale != 1.0 or self.reward_shift != 0.0:
            times = f"{self.reward_scale:.6g} · r" if self.reward_scale != 1.0 else "r"
            shift = f"{self.reward_shift:+.6g}" if self.reward_shift != 0.0 else ""
            sign = f" {'−' if shift[0] == '-' else '+'} {shift[1:]}" if shift else ""
            parts.append(f"rewards {self.rewards}: r' = {times}{sign}")
        else:
            parts.append(f"rewards {self.rewards}")
        size = len(self.observation_shift)
        detail = "" if self.observations == "raw" else f" ({size} columns to mean 0, deviation 1)"
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


def fit_scaling(dataset: Dataset, rewards: str = "raw", observations: str = "raw") -> Scaling:
    """Turn two names into numbers, measured on `dataset` where the name asks for it.

    Raises:
        InputError: an unknown name, or returns without a range to divide by.
    """
    reward_scale, reward_shift = _fit_rewards(dataset, rewards)
    if observations == "raw":
        shift = np.zeros(dataset.observation_size, np.float32)
        scale = np.ones(dataset.observation_size, np.float32)
    elif observations == "standardised":
        shift, scale = _standardise(dataset)
    else:
        hint = nearest(observations, OBSERVATIONS)
        raise InputError(f"unknown observation scaling '{observations}'", hint=hint)
    return Scaling(rewards, observations, reward_scale, reward_shift, shift, scale)


def _fit_rewards(dataset: Dataset, rewards: str) -> tuple[float, float]:
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


def _standardise(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    table = dataset.observations
    blocks = [table[first : first + _BLOCK] for first in range(0, len(table), _BLOCK)]
    total: Float64[np.ndarray, " observation"] = np.zeros(table.shape[1])
    for block in blocks:
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / len(table)
    squares: Float64[np.ndarray, " observation"] = np.zeros(table.shape[1])
    for block in blocks:
        squares += np.square(block - mean).sum(axis=0)
    deviation = np.sqrt(squares / len(table))
    constant = table.min(axis=0) == table.max(axis=0)
    scale = np.where(constant, 1.0, 1.0 / np.maximum(deviation, SMALLEST_DEVIATION))
    shift = np.where(constant, table[0], mean)
    return shift.astype(np.float32), scale.astype(np.float32)


def apply_scaling(dataset: Dataset, scaling: Scaling) -> Dataset:
    """The same episodes with rewards and observations scaled, in new arrays.

    What the scaling leaves as it is stays shared with `dataset`, which is never written to.

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
    if (scaling.observation_shift != 0.0).any() or (scaling.observation_scale != 1.0).any():
        observations = empty(dataset.observations.shape)
        np.subtract(dataset.observations, scaling.observation_shift, out=observations)
        observations *= scaling.observation_scale
        changes["observations"] = observations
    return dataset.with_metadata(**changes) if changes else dataset

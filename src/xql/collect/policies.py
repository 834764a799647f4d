"""Trained policies from .npz files, in the layout of `docs/data.md`."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from xql.data.schema import check_finite, require_columns
from xql.data.tables import read_columns
from xql.errors import InputError

Act = Callable[
    [Float[np.ndarray, "batch inputs"], Float32[np.ndarray, "batch action"]],
    Float32[np.ndarray, "batch action"],
]
"""Inputs and standard normal deviates in, actions out; deviates of 0 give the mean action."""

GOAL_INPUTS = 29
"""27 joint observations of the ant, and the relative goal rescaled to length 10."""

GOAL_ACTIONS = 8

# As in the library that D4RL's ant was trained with.
_LOG_STD_RANGE = (-20.0, 2.0)

_Layer = tuple[Float32[np.ndarray, "inputs outputs"], Float32[np.ndarray, " outputs"]]


class FilePolicy(NamedTuple):
    """A policy read from a file."""

    act: Act
    file: str
    """The file's name, without its folder."""
    sha256: str
    """Of the file."""


def load_goal_policy(path: Path) -> FilePolicy:
    """Read an ant that walks towards a goal: ReLU layers, a tanh-squashed Gaussian on top.

    Without the two `last_fc_log_std` arrays it is the squashed mean alone.

    Raises:
        InputError: no such file, an array missing, of the wrong shape or not finite.
    """
    columns, where = _arrays(path), str(path)
    hidden: list[_Layer] = []
    size = GOAL_INPUTS
    require_columns(columns, ("fc0.weight",), where)
    while f"fc{len(hidden)}.weight" in columns:
        hidden.append(_layer(columns, f"fc{len(hidden)}", size, where))
        size = len(hidden[-1][1])
    mean = _layer(columns, "last_fc", size, where, GOAL_ACTIONS)
    spread = (
        _layer(columns, "last_fc_log_std", size, where, GOAL_ACTIONS)
        if "last_fc_log_std.weight" in columns
        else None
    )

    def act(
        inputs: Float[np.ndarray, "batch inputs"], deviates: Float32[np.ndarray, "batch action"]
    ) -> Float32[np.ndarray, "batch action"]:
        x = inputs.astype(np.float32)
        for weight, bias in hidden:
            x = np.maximum(x @ weight + bias, 0.0)
        u = x @ mean[0] + mean[1]
        if spread is not None:
            u = u + np.exp(np.clip(x @ spread[0] + spread[1], *_LOG_STD_RANGE)) * deviates
        return np.tanh(u)

    return FilePolicy(act, path.name, _sha256(path))


def load_hand_policy(path: Path, observation_size: int, action_size: int) -> FilePolicy:
    """Read a policy for the Adroit hand: tanh layers, inputs and outputs shifted and scaled.

    Its Gaussian has one standard deviation for all states; without the array `log_std` it has none.

    Raises:
        InputError: no such file, an array missing, of the wrong shape or not finite.
    """
    columns, where = _arrays(path), str(path)
    stem = "model.fc_layers."
    require_columns(columns, (f"{stem}0.weight", f"{stem}1.weight"), where)
    count = sum(name.startswith(stem) and name.endswith(".weight") for name in columns)
    layers, size = [], observation_size
    for number in range(count):
        wanted = action_size if number == count - 1 else None
        layers.append(_layer(columns, f"{stem}{number}", size, where, wanted))
        size = len(layers[-1][1])
    in_shift = _vector(columns, "model.in_shift", observation_size, where)
    in_scale = _vector(columns, "model.in_scale", observation_size, where)
    out_shift = _vector(columns, "model.out_shift", action_size, where)
    out_scale = _vector(columns, "model.out_scale", action_size, where)
    still = np.zeros(action_size, np.float32)
    spread = (
        np.exp(_vector(columns, "log_std", action_size, where)) if "log_std" in columns else still
    )

    def act(
        inputs: Float[np.ndarray, "batch inputs"], deviates: Float32[np.ndarray, "batch action"]
    ) -> Float32[np.ndarray, "batch action"]:
        # The 1e-8 belongs to the policies of the Adroit papers, whose scales may be 0.
        x = (inputs.astype(np.float32) - in_shift) / (in_scale + np.float32(1e-8))
        for weight, bias in layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = layers[-1]
        actions: np.ndarray = (x @ weight + bias) * out_scale + out_shift + spread * deviates
        return actions

    return FilePolicy(act, path.name, _sha256(path))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix != ".npz":
        raise InputError(
            "this is no policy file", where=str(path), hint="give an .npz file (docs/data.md)"
        )
    return read_columns(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _layer(
    columns: dict[str, np.ndarray], name: str, inputs: int, where: str, outputs: int | None = None
) -> _Layer:
    """A linear layer, stored as `weight` [outputs, inputs] and `bias` [outputs]."""
    require_columns(columns, (f"{name}.weight", f"{name}.bias"), where)
    found = columns[f"{name}.weight"].shape
    if outputs is None:
        outputs = found[0] if found else 0
    weight = _checked(columns, f"{name}.weight", (outputs, inputs), where)
    # Contiguous, since numpy's product of a transposed view would copy it at every step.
    return np.ascontiguousarray(weight.T), _vector(columns, f"{name}.bias", outputs, where)


def _vector(
    columns: dict[str, np.ndarray], name: str, size: int, where: str
) -> Float32[np.ndarray, " size"]:
    require_columns(columns, (name,), where)
    return _checked(columns, name, (size,), where)


def _checked(
    columns: dict[str, np.ndarray], name: str, shape: tuple[int, ...], where: str
) -> Float32[np.ndarray, "..."]:
    values = columns[name]
    if values.shape != shape or values.dtype.kind != "f":
        found = "x".join(map(str, values.shape)) or "a single value"
        fits = "x".join(map(str, shape))
        raise InputError(
            f"{name} is {found} of {values.dtype}, where {fits} of floats fits",
            where=where,
            hint="is it a policy for this task? docs/data.md has the layout",
        )
    check_finite(values, name, where)
    return values.astype(np.float32)

"""Acts by a policy that `xql export --format numpy` wrote. Needs Python and NumPy, nothing else.

policy = Policy("policy.npz")
policy(observation)               # one observation or a batch, in the units of the data
policy.act({"t_in": 301.5, …})    # a row of the table that it was trained on, by column names
policy.unfamiliar(observation)    # what of an observation, or a row, the data did not have
"""

import json
import re
from typing import Any

import numpy as np


class Policy:
    """The most likely actions for raw observations; `about` is what policy.json says."""

    def __init__(self, path: Any) -> None:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        self.about = json.loads(arrays.pop("xql").tobytes())
        self.network = Network(json.loads(arrays.pop("program").tobytes()), arrays)

    def __call__(self, observation: Any) -> Any:
        x, size = np.asarray(observation, np.float32), self.about["observation"]["size"]
        if x.shape[-1:] != (size,) or not np.isfinite(x).all():
            raise ValueError(f"the observation has shape {x.shape}; give {size} finite numbers")
        return self.network(x)

    def act(self, row: Any) -> dict[str, Any]:
        """The action for one row, by the names of its columns."""
        action, columns = self(self.encode(row)), self.about["action"]["columns"]
        if self.about["action"]["kind"] == "discrete":
            labels = columns[0]["categories"]
            return {columns[0]["name"]: labels[action] if labels else int(action)}
        pairs = zip(columns, action, strict=True)
        return {column["name"]: float(number) + column["offset"] for column, number in pairs}

    def unfamiliar(self, observation: Any) -> list[str]:
        """What of one observation or row lies outside of the training data, a sentence each."""
        x = self.encode(observation) if isinstance(observation, dict) else observation
        return unfamiliar(x, self.about["observation"])

    def encode(self, row: Any) -> list[float]:
        """The observation of one row."""
        numbers: list[float] = []
        marks = self.about["observation"]["missing_values"]  # such as -999, or flow=-1
        for column in self.about["observation"]["columns"]:
            name, labels, value = column["name"], column["categories"], row[column["name"]]
            missing = {"", *(_number(one.removeprefix(f"{name}=")) for one in marks)}
            number = _number(value)
            if value is None or number in missing or (number != number and value not in labels):
                raise ValueError(f"{name} is missing; fill it as the table was filled")
            if labels:
                label = re.sub(r"^([-+]?\d+)\.0*$", r"\1", str(value).strip())
                label = label.lower() if label.lower() in ("true", "false") else label
                if label not in labels:
                    raise ValueError(f"{name} is {label!r}, which the table never had")
                numbers += [float(label == one) for one in labels]
            elif isinstance(number, float):
                numbers.append(number - column["offset"])
            else:
                raise ValueError(f"{name} is {value!r}, which is no number")
        return numbers


def _number(value: Any) -> Any:
    """A cell as a number, or else as a text in small letters."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value).strip().lower()


def unfamiliar(observation: Any, about: Any) -> list[str]:
    """The same of one observation; `about` it says what is familiar."""
    if not about.get("familiar"):
        raise ValueError("what is familiar is not known; export the policy with its data")
    numbers, found = np.asarray(observation, np.float32).tolist(), []
    for number, one in zip(numbers, about["familiar"], strict=True):
        if not one["low"] <= number <= one["high"]:
            ends = number, one["low"], one["high"]
            value, low, high = (f"{end + one['offset']:.7g}" for end in ends)
            found.append(f"{one['name']} is {value}; familiar are {low} to {high}")
    return found


class Network:
    """The policy's arithmetic: steps `[result, operation, *inputs]` on arrays, all by name."""

    def __init__(self, program: Any, arrays: dict[str, Any]) -> None:
        self.program = [(result, OPERATIONS[name], inputs) for result, name, *inputs in program]
        self.arrays = arrays

    def __call__(self, x: Any) -> Any:
        values = {**self.arrays, "observation": x.reshape(-1, x.shape[-1])}
        for result, operation, inputs in self.program:
            values[result] = operation(*[values[name] for name in inputs])
        return values["action"].reshape(x.shape[:-1] + values["action"].shape[1:])[()]


def _layer_norm(x: Any, scale: Any, shift: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-6)) * scale + shift


def _largest(scores: Any, axis: int) -> Any:
    if not np.isfinite(scores).all():
        raise ValueError("the policy's answer is not finite, which is no action")
    return scores.argmax(axis)


def _best(actions: Any, values: Any) -> Any:
    return np.take_along_axis(actions, _largest(values, 0)[None], axis=0)[0]


PLAIN = ("add", "subtract", "multiply", "matmul", "maximum", "minimum", "tanh")  # NumPy's own
OPERATIONS: dict[str, Any] = {
    **{name: getattr(np, name) for name in PLAIN},
    "relu": lambda x: np.maximum(x, 0),
    "layer_norm": _layer_norm,
    "most_likely": lambda logits: _largest(logits, -1),
    "best": _best,
}

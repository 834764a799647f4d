"""Acts by a policy that `xql export --format numpy` wrote. Needs Python and NumPy, nothing else.

policy = Policy("policy.npz")
policy(observation)               # one observation or a batch, in the units of the data
policy.act({"t_in": 301.5, …})    # a row of the table that it was trained on, by column names
"""

import contextlib
import json
import re
from itertools import pairwise
from typing import Any

import numpy as np


class Policy:
    """The most likely actions for raw observations; `about` is what policy.json says."""

    def __init__(self, path: Any) -> None:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        self.about = json.loads(arrays.pop("xql").tobytes())
        self.network = Network(self.about["network"], arrays)

    def __call__(self, observation: Any) -> Any:
        x, size = np.asarray(observation, np.float32), self.about["observation"]["size"]
        if x.shape[-1:] != (size,) or not np.isfinite(x).all():
            raise ValueError(f"the observation has shape {x.shape}; give {size} finite numbers")
        return self.network(x)

    def act(self, row: Any) -> dict[str, Any]:
        """The action for one row, by the names of its columns."""
        numbers: list[float] = []
        marks = self.about["observation"]["missing_values"]  # such as -999, or flow=-1
        for column in self.about["observation"]["columns"]:
            name, labels, value = column["name"], column["categories"], row[column["name"]]
            missing = {"", *(_as_marker(one.removeprefix(f"{name}=")) for one in marks)}
            if value is None or _as_marker(value) in missing:
                raise ValueError(f"{name} is missing; fill it as the table was filled")
            if labels:
                label = re.sub(r"^([-+]?\d+)\.0*$", r"\1", str(value).strip())
                label = label.lower() if label.lower() in ("true", "false") else label
                if label not in labels:
                    raise ValueError(f"{name} is {label!r}, which the table never had")
                numbers += np.eye(len(labels))[labels.index(label)].tolist()
            else:
                try:
                    numbers.append(float(value) - column["offset"])
                except (TypeError, ValueError):
                    raise ValueError(f"{name} is {value!r}, which is no number") from None
        action, columns = self(numbers), self.about["action"]["columns"]
        if self.about["action"]["kind"] == "discrete":
            labels = columns[0]["categories"]
            return {columns[0]["name"]: labels[action] if labels else int(action)}
        pairs = zip(columns, action, strict=True)
        return {column["name"]: float(number) + column["offset"] for column, number in pairs}


def _as_marker(value: Any) -> Any:
    text = str(value).strip().lower()
    with contextlib.suppress(ValueError):
        return float(text)
    return text


class Network:
    """Raw float32 observations in, actions out; `kind` says how, `arrays` has the numbers."""

    def __init__(self, kind: str, arrays: dict[str, Any]) -> None:
        self.kind, self.arrays = kind, arrays
        self.mlps: dict[str, list[list[Any]]] = {}
        for name in sorted(arrays):
            if ".weight" in name:
                parts = [name.replace("weight", one) for one in ("weight", "bias", "norm", "shift")]
                self.mlps.setdefault(name.split(".")[0], []).append([*map(arrays.get, parts)])

    def __call__(self, x: Any) -> Any:
        a = self.arrays
        x = (x - a["observation_shift"]) * a["observation_scale"]
        if self.kind == "best_of_n":
            return self._best_of_n(x)
        weight, bias, _, _ = self.mlps["policy"][0]
        x = _after_first(x @ weight + bias, self.mlps["policy"])
        if self.kind == "argmax":
            if not np.isfinite(x).all():
                raise ValueError("the policy's answer is not finite, which is no action")
            return x.argmax(-1)
        if self.kind == "tanh":
            return a["centre"] + a["half_range"] * np.tanh(x)
        return self._in_units(x)

    def _in_units(self, x: Any) -> Any:
        a = self.arrays
        return np.clip(a["centre"] + a["half_range"] * x, a["low"], a["high"])

    def _best_of_n(self, x: Any) -> Any:
        noise, times, flow = self.arrays["noise"], self.arrays["times"], self.mlps["flow"]
        inputs, (weight, bias, _, _) = x.shape[-1], flow[0]
        of_state = x @ weight[:inputs] + bias
        a = noise.reshape(len(noise), *(1 for _ in x.shape[:-1]), noise.shape[-1])
        for time in times:  # Euler steps that carry the noise to actions
            first = of_state + a @ weight[inputs:-1] + time * weight[-1]
            a = a + _after_first(first, flow) / np.float32(len(times))
        a = self._in_units(np.clip(a, -1, 1))
        q = []
        for name in sorted(name for name in self.mlps if name.startswith("critic")):
            weight, bias, _, _ = self.mlps[name][0]
            first = x @ weight[:inputs] + bias + a @ weight[inputs:]
            q.append(_after_first(first, self.mlps[name]))
        best = np.min(q, axis=0).argmax(0)[None]
        return np.take_along_axis(a, best, axis=0)[0]


def _after_first(x: Any, layers: list[list[Any]]) -> Any:
    """An MLP's output from that of its first layer: LayerNorm if any, ReLU, the next layer."""
    for (_, _, norm, shift), (weight, bias, _, _) in pairwise(layers):
        if norm is not None:
            x = x - x.mean(-1, keepdims=True)
            x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-6)) * norm + shift
        x = np.maximum(x, 0) @ weight + bias
    return x

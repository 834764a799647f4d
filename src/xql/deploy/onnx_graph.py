"""A policy as an ONNX graph: raw observations in, actions in the data's units out."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from xql.deploy.served import KEY
from xql.errors import require
from xql.runs.as_arrays import PolicyArrays
from xql.version import __version__

OPSET, IR = 17, 8
"""ONNX 1.12's: with LayerNormalization, and read by every ONNX Runtime since 1.12 and by Netron."""


def onnx_model(policy: PolicyArrays, about: Mapping[str, Any], name: str) -> bytes:
    """The serialised model.

    Its input is `observation`, float32 [batch, size]; its output `action`, float32 [batch, size],
    or of discrete actions their numbers, int64 [batch].

    Args:
        policy: what acts.
        about: becomes the metadata's JSON.
        name: the graph's.

    Raises:
        MissingExtra: onnx is not installed.
    """
    onnx = require("onnx", "export")
    graph = _Graph(onnx, policy.arrays)
    size = len(policy.arrays["observation_shift"])
    x = graph.add("Sub", "observation", "observation_shift")
    x = graph.add("Mul", x, "observation_scale")
    output, shape = onnx.TensorProto.FLOAT, ["batch", len(policy.arrays.get("low", ()))]
    if policy.kind == "best_of_n":
        action = _best_of_n(graph, x, size)
    else:
        first = graph.add("Gemm", x, "policy.weight00", "policy.bias00")
        y = graph.after_first(first, "policy")
        if policy.kind == "argmax":
            action = graph.add("ArgMax", y, axis=-1, keepdims=0)
            output, shape = onnx.TensorProto.INT64, ["batch"]
        elif policy.kind == "tanh":
            half = graph.add("Mul", graph.add("Tanh", y), "half_range")
            action = graph.add("Add", half, "centre")
        else:
            action = graph.in_units(y)
    graph.add("Identity", action, name="action")
    helper = onnx.helper
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", size])],
            [helper.make_tensor_value_info("action", output, shape)],
            graph.constants(),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="xql",
        producer_version=__version__,
    )
    helper.set_model_props(model, {KEY: json.dumps(about, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _Graph:
    """Nodes in order, and the constants that they use."""

    def __init__(self, onnx: Any, arrays: Mapping[str, np.ndarray]) -> None:
        self.onnx, self.nodes = onnx, list[Any]()
        self._arrays, self._used = dict(arrays), dict[str, np.ndarray]()

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node; its output's name."""
        name = name or f"{kind}_{len(self.nodes)}"
        for one in inputs:
            if one in self._arrays:
                self._used[one] = self._arrays[one]
        node = self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes)
        self.nodes.append(node)
        return name

    def constant(self, name: str, value: Any) -> str:
        """Make `value` known under `name`."""
        self._arrays[name] = np.asarray(value)
        return name

    def names(self, start: str) -> list[str]:
        """The known names that begin with `start`."""
        return [name for name in self._arrays if name.startswith(start)]

    def array(self, name: str) -> np.ndarray:
        """The array of a name."""
        return self._arrays[name]

    def constants(self) -> list[Any]:
        """The arrays that nodes use."""
        used = self._used.items()
        return [self.onnx.numpy_helper.from_array(array, name) for name, array in used]

    def after_first(self, x: str, mlp: str) -> str:
        """An MLP's output from that of its first layer."""
        index = 1
        while f"{mlp}.weight{index:02}" in self._arrays:
            norm, shift = (f"{mlp}.{part}{index - 1:02}" for part in ("norm", "shift"))
            if norm in self._arrays:
                x = self.add("LayerNormalization", x, norm, shift, axis=-1, epsilon=1e-6)
            x = self.add("MatMul", self.add("Relu", x), f"{mlp}.weight{index:02}")
            x = self.add("Add", x, f"{mlp}.bias{index:02}")
            index += 1
        return x

    def in_units(self, x: str) -> str:
        """Actions rescaled to [-1, 1] in the data's units, clipped to the bounds."""
        x = self.add("Add", self.add("Mul", x, "half_range"), "centre")
        return self.add("Min", self.add("Max", x, "low"), "high")


def _best_of_n(graph: _Graph, x: str, inputs: int) -> str:
    """The candidate of the highest value; they stand along a first axis of their own."""
    noise, times = graph.array("noise"), graph.array("times")
    weight, bias = graph.array("flow.weight00"), graph.array("flow.bias00")
    of_state = graph.add("MatMul", x, graph.constant("flow.of_state", weight[:inputs]))
    graph.constant("flow.of_action", weight[inputs:-1])
    action = graph.constant("candidates", noise[:, None])
    for index, time in enumerate(times):
        now = graph.constant(f"flow.at_time{index:02}", bias + time * weight[-1])
        first = graph.add("MatMul", action, "flow.of_action")
        first = graph.add("Add", graph.add("Add", of_state, now), first)
        steps = graph.constant("steps", np.float32(len(times)))
        step = graph.add("Div", graph.after_first(first, "flow"), steps)
        action = graph.add("Add", action, step)
    ends = graph.constant("-1", np.float32(-1)), graph.constant("1", np.float32(1))
    action = graph.in_units(graph.add("Clip", action, *ends))
    values = []
    for index in range(sum(name.endswith("weight00") for name in graph.names("critic"))):
        mlp = f"critic{index}"
        weight = graph.array(f"{mlp}.weight00")
        first = graph.add("MatMul", x, graph.constant(f"{mlp}.of_state", weight[:inputs]))
        first = graph.add("Add", first, f"{mlp}.bias00")
        of_action = graph.constant(f"{mlp}.of_action", weight[inputs:])
        first = graph.add("Add", first, graph.add("MatMul", action, of_action))
        values.append(graph.after_first(first, mlp))
    best = graph.add("ArgMax", graph.add("Min", *values), axis=0, keepdims=1)
    shape = graph.constant("one_action", np.array([1, 1, noise.shape[1]], np.int64))
    chosen = graph.add("GatherElements", action, graph.add("Expand", best, shape), axis=0)
    return graph.add("Squeeze", chosen, graph.constant("first_axis", np.array([0], np.int64)))

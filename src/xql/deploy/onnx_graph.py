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

NODES = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "matmul": "MatMul",
    "maximum": "Max",
    "minimum": "Min",
    "tanh": "Tanh",
    "relu": "Relu",
}
"""The operations of a program (`xql.runs.as_arrays`) that are one node."""


def onnx_model(policy: PolicyArrays, about: Mapping[str, Any], name: str) -> bytes:
    """The serialised model.

    Its input is `observation`, float32 [batch, size]; its output `action`, float32 [batch, size],
    or of discrete actions their numbers, int64 [batch]. Where an action would be chosen by numbers
    that are not finite, it is NaN, or of discrete actions -1.

    Args:
        policy: what acts.
        about: becomes the metadata's JSON.
        name: the graph's.

    Raises:
        MissingExtra: onnx is not installed.
    """
    onnx = require("onnx", "export")
    graph = _Graph(onnx, policy.arrays)
    for result, operation, *inputs in policy.program:
        graph.translate(result, operation, inputs)
    size = len(policy.arrays["observation_shift"])
    output, shape = onnx.TensorProto.FLOAT, ["batch", len(policy.arrays.get("low", ()))]
    if policy.kind == "argmax":
        output, shape = onnx.TensorProto.INT64, ["batch"]
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

    def translate(self, result: str, operation: str, inputs: list[str]) -> None:
        """Add the nodes of one step of a program."""
        if operation == "layer_norm":
            self._add("LayerNormalization", inputs, result, axis=-1, epsilon=1e-6)
        elif operation == "most_likely":
            (logits,) = inputs
            self._arrays["no_action"] = np.array(-1, np.int64)
            self._add("ArgMax", [logits], "largest", axis=-1, keepdims=0)
            self._add("IsNaN", [self._zero_if_finite(logits, -1)], "unknown")
            self._add("Where", ["unknown", "no_action", "largest"], result)
        elif operation == "best":
            actions, values = inputs
            self._arrays["one_action"] = np.array([1, 1, len(self._arrays["low"])], np.int64)
            self._arrays["first_axis"] = np.array([0], np.int64)
            self._add("ArgMax", [values], "best", axis=0, keepdims=1)
            self._add("Expand", ["best", "one_action"], "best_rows")
            self._add("GatherElements", [actions, "best_rows"], "chosen", axis=0)
            self._add("Squeeze", ["chosen", "first_axis"], "chosen_row")
            self._add("Add", ["chosen_row", self._zero_if_finite(values, 0)], result)
        else:
            self._add(NODES[operation], inputs, result)

    def _zero_if_finite(self, scores: str, axis: int) -> str:
        """0, or NaN where a number along the axis is not finite: ArgMax has no answer then."""
        self._arrays["choices_axis"] = np.array([axis], np.int64)
        self._add("Sub", [scores, scores], "zeros")
        self._add("ReduceSum", ["zeros", "choices_axis"], "zero", keepdims=0)
        return "zero"

    def _add(self, kind: str, inputs: list[str], result: str, **attributes: Any) -> None:
        self._used |= {name: self._arrays[name] for name in inputs if name in self._arrays}
        node = self.onnx.helper.make_node(kind, inputs, [result], name=result, **attributes)
        self.nodes.append(node)

    def constants(self) -> list[Any]:
        """The arrays that nodes use."""
        used = self._used.items()
        return [self.onnx.numpy_helper.from_array(array, name) for name, array in used]

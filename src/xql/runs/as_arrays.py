"""A policy's most likely action as plain arrays, and the arithmetic on them, step by step.

NumPy interprets the steps (`numpy_policy`), and an ONNX graph has a node for each
(`xql.deploy.onnx_graph`). A step is `[result, operation, *inputs]`, all by name: its inputs are
arrays, earlier results, or `observation`, a batch of rows; the last result is `action`. The
operations are NumPy's `add`, `subtract`, `multiply`, `matmul`, `maximum`, `minimum`, `tanh`, and

    relu         max(x, 0)
    layer_norm   of x, scale, shift: along the last axis, with ε = 1e-6
    most_likely  the number of the largest of the last axis
    best         of candidates and their values: along the first axis, the candidate of the highest

The names of the arrays, all float32; an MLP has a weight and a bias for each layer, and a LayerNorm
(`norm`, `shift`) for each hidden one if it has any:

    observation_shift, observation_scale   x = (observation − shift) · scale
    policy.weight00, policy.bias00, …      an MLP of x
    centre, half_range, low, high          of the bounds of continuous actions

The kinds are what becomes of the MLP's output y:

    tanh       centre + half_range · tanh(y), clipped to the bounds, which rounding may pass
    clip       centre + half_range · y, clipped to the bounds
    argmax     the number of the largest logit
    best_of_n  an MLP `flow` of (x, action, time) carries the rows of `noise` to candidates in
               Euler steps at `times`; the smallest of the MLPs `critic0`, … of (x, action) is the
               value by which the best is chosen. The first layers' weights are those of x
               (`flow.of_state`, …), of the action (`flow.of_action`, …) and, with the bias, of each
               time (`flow.at_time00`, …)
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from xql.agents.flows import BestOfN, OneStepFlowPolicy, fixed_noise
from xql.agents.networks import MLP, ActionBounds
from xql.agents.policies import (
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    SquashedGaussianPolicy,
    action_range,
)
from xql.data.scaling import Scaling
from xql.jax_config import standard_jax

Program = list[list[str]]
"""Steps; see the head of this file."""


class PolicyArrays(NamedTuple):
    """What acts, as plain arrays; see the head of this file."""

    kind: str
    arrays: dict[str, np.ndarray]
    program: Program


@standard_jax()
def as_arrays(actor: Any, scaling: Scaling) -> PolicyArrays | None:
    """What an actor does without a random key; None of an actor that this library did not make."""
    found = _actor(actor)
    if found is None:
        return None
    kind, arrays = found
    arrays["observation_shift"] = scaling.observation_shift
    arrays["observation_scale"] = scaling.observation_scale
    plain = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    return PolicyArrays(kind, plain, _program(kind, plain))


def _actor(actor: Any) -> tuple[str, dict[str, Any]] | None:
    kind = type(actor)  # a subclass may act in another way
    if kind is CategoricalPolicy:
        return "argmax", _mlp("policy", actor.mlp)
    if kind in (GaussianPolicy, DeterministicPolicy):
        return "tanh", _mlp("policy", actor.mlp) | _bounds(actor)
    if kind is SquashedGaussianPolicy:
        arrays = _mlp("policy", actor.mlp)
        last, size = f"{len(actor.mlp.layers) - 1:02}", len(actor.low)
        for part in ("weight", "bias"):  # the other half of the output is the deviation
            arrays[f"policy.{part}{last}"] = arrays[f"policy.{part}{last}"][..., :size]
        return "tanh", arrays | _bounds(actor)
    if kind is OneStepFlowPolicy:
        arrays = _mlp("policy", actor.mlp)
        inputs = len(arrays["policy.weight00"]) - len(actor.low)
        arrays["policy.weight00"] = arrays["policy.weight00"][:inputs]  # the noise is 0
        return "clip", arrays | _bounds(actor)
    if kind is BestOfN:
        return "best_of_n", _best_of_n(actor)
    return None


def _best_of_n(actor: BestOfN) -> dict[str, Any]:
    size, steps = len(actor.behaviour.low), actor.behaviour.steps
    arrays = _mlp("flow", actor.behaviour.mlp) | _bounds(actor.behaviour)
    weight, bias = arrays.pop("flow.weight00"), arrays.pop("flow.bias00")
    arrays["flow.of_state"], arrays["flow.of_action"] = weight[: -size - 1], weight[-size - 1 : -1]
    for index in range(steps):
        arrays[f"flow.at_time{index:02}"] = bias + index / steps * weight[-1]
    arrays["time_step"] = 1 / steps
    # The candidates stand along a first axis of their own.
    arrays["noise"] = fixed_noise(actor.count, size)[:, None]
    arrays["lowest"], arrays["highest"] = -1.0, 1.0
    for index, mlp in enumerate(actor.critic.mlps):
        name = f"critic{index}"
        of_critic = _of_raw_actions(_mlp(name, mlp), actor.critic.bounds)
        weight = of_critic.pop(f"{name}.weight00")
        of_critic[f"{name}.of_state"] = weight[:-size]
        of_critic[f"{name}.of_action"] = weight[-size:]
        arrays |= of_critic
    return arrays


class _Steps:
    """A program as it is written."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.program: Program = []
        self._arrays = arrays

    def add(self, operation: str, *inputs: str, result: str = "") -> str:
        """Add a step; its result's name."""
        result = result or f"{operation}_{len(self.program)}"
        self.program.append([result, operation, *inputs])
        return result

    def after_first(self, x: str, mlp: str) -> str:
        """An MLP's output from that of its first layer: LayerNorm if any, ReLU, the next layer."""
        index = 1
        while f"{mlp}.weight{index:02}" in self._arrays:
            norm, shift = (f"{mlp}.{part}{index - 1:02}" for part in ("norm", "shift"))
            if norm in self._arrays:
                x = self.add("layer_norm", x, norm, shift)
            x = self.add("matmul", self.add("relu", x), f"{mlp}.weight{index:02}")
            x = self.add("add", x, f"{mlp}.bias{index:02}")
            index += 1
        return x

    def within(self, x: str, low: str, high: str, result: str = "") -> str:
        """Clipped to two ends."""
        return self.add("minimum", self.add("maximum", x, low), high, result=result)

    def in_units(self, x: str) -> str:
        """An action rescaled to ±1 in the units of its bounds."""
        return self.add("add", self.add("multiply", x, "half_range"), "centre")


def _program(kind: str, arrays: dict[str, np.ndarray]) -> Program:
    steps = _Steps(arrays)
    x = steps.add("subtract", "observation", "observation_shift")
    x = steps.add("multiply", x, "observation_scale")
    if kind == "best_of_n":
        _write_best_of_n(steps, x, arrays)
        return steps.program
    first = steps.add("add", steps.add("matmul", x, "policy.weight00"), "policy.bias00")
    y = steps.after_first(first, "policy")
    if kind == "argmax":
        steps.add("most_likely", y, result="action")
    else:
        unit = steps.add("tanh", y) if kind == "tanh" else y
        steps.within(steps.in_units(unit), "low", "high", result="action")
    return steps.program


def _write_best_of_n(steps: _Steps, x: str, arrays: dict[str, np.ndarray]) -> None:
    def first_layer(name: str, bias: str, of_state: str, action: str) -> str:
        of_action = steps.add("matmul", action, f"{name}.of_action")
        return steps.add("add", steps.add("add", of_state, bias), of_action)

    action, of_state = "noise", steps.add("matmul", x, "flow.of_state")
    for time in sorted(name for name in arrays if name.startswith("flow.at_time")):
        speed = steps.after_first(first_layer("flow", time, of_state, action), "flow")
        action = steps.add("add", action, steps.add("multiply", speed, "time_step"))
    action = steps.in_units(steps.within(action, "lowest", "highest"))
    action, least = steps.within(action, "low", "high"), ""
    for name in sorted({name.split(".")[0] for name in arrays if name.startswith("critic")}):
        of_state = steps.add("matmul", x, f"{name}.of_state")
        q = steps.after_first(first_layer(name, f"{name}.bias00", of_state, action), name)
        least = steps.add("minimum", least, q) if least else q
    steps.add("best", action, least, result="action")


def _of_raw_actions(arrays: dict[str, Any], bounds: ActionBounds | None) -> dict[str, Any]:
    """A critic's MLP with the rescaling of its actions in its first layer."""
    if bounds is None:
        return arrays
    centre, half_range = action_range(*bounds)
    weight, bias = (name for name in arrays if name.endswith(("weight00", "bias00")))
    size = len(arrays[weight]) - len(centre)
    of_action = arrays[weight][size:] / half_range[:, None]
    arrays[bias] = arrays[bias] - centre @ of_action
    arrays[weight] = jnp.concatenate([arrays[weight][:size], of_action])
    return arrays


def _mlp(name: str, mlp: MLP) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for index, layer in enumerate(mlp.layers):
        arrays[f"{name}.weight{index:02}"] = layer.weight
        arrays[f"{name}.bias{index:02}"] = layer.bias
    for index, norm in enumerate(mlp.norms):
        arrays[f"{name}.norm{index:02}"] = norm.scale
        arrays[f"{name}.shift{index:02}"] = norm.shift
    return arrays


def _bounds(policy: Any) -> dict[str, Any]:
    centre, half_range = action_range(policy.low, policy.high)
    low, high = jnp.array(policy.low), jnp.array(policy.high)
    return {"centre": centre, "half_range": half_range, "low": low, "high": high}

"""A policy's most likely action as plain arrays, which NumPy, ONNX and a file can hold.

The names of the arrays, all float32; an MLP has a weight and a bias for each layer, and a LayerNorm
(`norm`, `shift`) for each hidden one if it has any:

    observation_shift, observation_scale   x = (observation − shift) · scale
    policy.weight00, policy.bias00, …      an MLP of x
    centre, half_range, low, high          of the bounds of continuous actions

The kinds are what becomes of the MLP's output y:

    tanh       centre + half_range · tanh(y)
    clip       centre + half_range · y, clipped to the bounds
    argmax     the number of the largest logit
    best_of_n  an MLP `flow` of (x, action, time) carries the rows of `noise` to candidates in
               Euler steps at `times`; the smallest of the MLPs `critic0`, … of (x, action) is the
               value by which the best is chosen
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


class PolicyArrays(NamedTuple):
    """What acts, as plain arrays; see the head of this file."""

    kind: str
    arrays: dict[str, np.ndarray]


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
    return PolicyArrays(kind, plain)


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
        arrays = _mlp("flow", actor.behaviour.mlp) | _bounds(actor.behaviour)
        for index, mlp in enumerate(actor.critic.mlps):
            arrays |= _of_raw_actions(_mlp(f"critic{index}", mlp), actor.critic.bounds)
        steps = actor.behaviour.steps
        arrays["noise"] = fixed_noise(actor.count, len(actor.behaviour.low))
        arrays["times"] = jnp.arange(steps) / steps
        return "best_of_n", arrays
    return None


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

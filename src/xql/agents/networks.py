"""The networks: Equinox modules whose every leaf is a trainable array.

Weights are stored [inputs, outputs] and drawn orthogonally with gain √2, as in the published IQL
and XQL code. Modules work on whole batches: the leading axes are free.
"""

import contextvars
import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents.types import EnvironmentSpec
from xql.data.actions import Discrete
from xql.jax_config import known_options

Precision = Literal["float32", "bf16"]
"""What the factors of a layer's matrix products are rounded to while it learns."""

_precision: contextvars.ContextVar[Precision] = contextvars.ContextVar(
    "precision", default="float32"
)


@functools.cache
def in_bf16(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the matrix products of every `Linear` in it made in bfloat16.

    Both factors are rounded to bfloat16 (8 bits of precision, float32's range), the sums are
    float32: forwards, for the input's gradient, and for the weights'. All else stays float32:
    weights, biases, normalisation, activations, losses, Adam and target networks.

    Args:
        function: traced by JAX, such as an agent's `update`; the same object gives the same one.
    """

    @functools.wraps(function)
    def rounded(*args: Any, **kwargs: Any) -> Any:
        token = _precision.set("bf16")
        try:
            return function(*args, **kwargs)
        finally:
            _precision.reset(token)

    return rounded


def _product(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    return x @ weight if _precision.get() == "float32" else _rounded_product(x, weight)


@jax.custom_vjp
def _rounded_product(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """xW. Its gradient is written out: JAX's own would round what it returns to bfloat16 too."""
    return _rounded_forward(x, weight)[0]


def _rounded_forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    x, weight = x.astype(jnp.bfloat16), weight.astype(jnp.bfloat16)
    return jnp.matmul(x, weight, preferred_element_type=jnp.float32), (x, weight)


def _rounded_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = kept
    gradient = gradient.astype(jnp.bfloat16)
    rows, sums = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    return (
        jnp.matmul(gradient, weight.T, preferred_element_type=jnp.float32),
        jnp.matmul(rows.T, sums, preferred_element_type=jnp.float32),
    )


_rounded_product.defvjp(_rounded_forward, _rounded_backward)


class Linear(eqx.Module):
    """x ↦ xW + b."""

    weight: Float[Array, "*ensemble inputs outputs"]
    bias: Float[Array, "*ensemble outputs"]

    @classmethod
    def create(cls, key: PRNGKeyArray, inputs: int, outputs: int) -> "Linear":
        """Orthogonal weights with gain √2, zero bias."""
        # Options of the compiler are for a program that is not a part of another one.
        draw = _orthogonal if isinstance(key, jax.core.Tracer) else _orthogonal_once()
        return cls(weight=draw(key, inputs, outputs), bias=constant(0.0, outputs))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return _product(x, self.weight) + self.bias


def _orthogonal(key: PRNGKeyArray, inputs: int, outputs: int) -> Float[Array, "inputs outputs"]:
    initial = jax.nn.initializers.orthogonal(np.float32(np.sqrt(2.0)))
    weight: Array = initial(key, (inputs, outputs), jnp.float32)
    return weight


@functools.cache
def _orthogonal_once() -> Callable[..., Any]:
    """`_orthogonal` as one program for each shape, compiled to the same bits with less effort.

    It runs once, and the compiler's usual effort takes longer than all the rest of a run's start.
    """
    options = {
        "xla_backend_optimization_level": 1,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    names = ("inputs", "outputs")
    return jax.jit(_orthogonal, static_argnames=names, compiler_options=known_options(options))


def constant(value: float, *shape: int) -> Float[Array, "..."]:
    """The same number everywhere, made by NumPy: JAX would compile a program for each shape."""
    return jnp.asarray(np.full(shape, value, np.float32))


class LayerNorm(eqx.Module):
    """Normalise the last axis to mean 0 and variance 1, then scale and shift."""

    scale: Float[Array, "*ensemble features"]
    shift: Float[Array, "*ensemble features"]

    @classmethod
    def create(cls, features: int) -> "LayerNorm":
        """Scale 1, shift 0."""
        return cls(scale=constant(1.0, features), shift=constant(0.0, features))

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        return _normalise(x) * self.scale + self.shift


@jax.custom_vjp
def _normalise(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """The last axis at mean 0 and variance 1. Its gradient is written out: two means, not six."""
    return _normalise_forward(x)[0]


def _normalise_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    centred = x - _mean(x)
    inverse_deviation = jax.lax.rsqrt(_mean(jnp.square(centred)) + 1e-6)
    normalised = centred * inverse_deviation
    return normalised, (normalised, inverse_deviation)


def _normalise_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    normalised, inverse_deviation = kept
    tangent = gradient - _mean(gradient) - normalised * _mean(gradient * normalised)
    return (inverse_deviation * tangent,)


def _mean(x: Float[Array, "*batch features"]) -> Float[Array, "*batch 1"]:
    """The mean of the last axis, as a matrix product: XLA's own reduction is slower on a CPU."""
    return x @ jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)


_normalise.defvjp(_normalise_forward, _normalise_backward)


class MLP(eqx.Module):
    """Linear layers with ReLU between them, each hidden one optionally normalised before it."""

    layers: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]

    @classmethod
    def create(cls, key: PRNGKeyArray, sizes: Sequence[int], *, layer_norm: bool = False) -> "MLP":
        """`sizes` runs from the input to the output, hidden widths between."""
        keys = jax.random.split(key, len(sizes) - 1)
        return cls(
            layers=tuple(
                Linear.create(k, inputs, outputs)
                for k, (inputs, outputs) in zip(keys, pairwise(sizes), strict=True)
            ),
            norms=tuple(LayerNorm.create(width) for width in sizes[1:-1]) if layer_norm else (),
        )

    def __call__(
        self,
        x: Float[Array, "*batch inputs"],
        *,
        dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch outputs"]:
        """The outputs.

        Args:
            x: inputs, one per row.
            dropout: the probability that a hidden unit of a row is 0; the others are scaled up by
                what keeps the mean.
            key: of the dropout; none is dropped without it.
        """
        for index, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            if self.norms:
                x = self.norms[index](x)
            x = jax.nn.relu(x)
            if key is not None:
                key, kept_key = jax.random.split(key)
                kept = jax.random.bernoulli(kept_key, 1 - dropout, x.shape)
                x = jnp.where(kept, x / (1 - dropout), 0.0)
        return self.layers[-1](x)


class Value(eqx.Module):
    """V(s)."""

    mlp: MLP

    @classmethod
    def create(
        cls, key: PRNGKeyArray, observation_size: int, hidden: Sequence[int], *, layer_norm: bool
    ) -> "Value":
        """An MLP from the observation to one number."""
        return cls(MLP.create(key, (observation_size, *hidden, 1), layer_norm=layer_norm))

    def __call__(self, observations: Float[Array, "*batch observation"]) -> Float[Array, "*batch"]:
        return self.mlp(observations)[..., 0]


ActionBounds = tuple[tuple[float, ...], tuple[float, ...]]
"""The least and the largest of each number of an action."""


class Critic(eqx.Module):
    """An ensemble of Q(s, a), stacked along a leading axis."""

    mlps: tuple[MLP, ...]
    bounds: ActionBounds | None = eqx.field(static=True, default=None, kw_only=True)
    """Of actions that are rescaled to ±1; without them a valve of 0 to 100 % outweighs what was
    observed, and one of 0 to 0.01 is not seen at all."""

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        members: int = 2,
        layer_norm: bool = False,
        bounds: ActionBounds | None = None,
    ) -> "Critic":
        """`members` independently drawn MLPs from (s, a) to one number."""
        sizes = (observation_size + action_size, *hidden, 1)
        return cls(_ensemble(key, sizes, members, layer_norm), bounds=bounds)

    def __call__(
        self,
        observations: Float[Array, "*batch observation"],
        actions: Float[Array, "*batch action"],
    ) -> Float[Array, "members *batch"]:
        if self.bounds is not None:
            low, high = (jnp.array(end) for end in self.bounds)
            actions = (actions - (high + low) / 2) / ((high - low) / 2)
        inputs = jnp.concatenate([observations, actions], axis=-1)
        return jnp.stack([mlp(inputs)[..., 0] for mlp in self.mlps])


class DiscreteCritic(eqx.Module):
    """An ensemble of Q(s, ·): from the observation to one number for each of the actions."""

    mlps: tuple[MLP, ...]

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        members: int = 2,
        layer_norm: bool = False,
    ) -> "DiscreteCritic":
        """`members` independently drawn MLPs from s to a number for each action."""
        sizes = (observation_size, *hidden, action_size)
        return cls(_ensemble(key, sizes, members, layer_norm))

    def __call__(
        self,
        observations: Float[Array, "*batch observation"],
        actions: Float[Array, "*batch action"],
    ) -> Float[Array, "members *batch"]:
        """Q of one-hot actions."""
        return (self.values(observations) * actions).sum(-1)

    def values(
        self, observations: Float[Array, "*batch observation"]
    ) -> Float[Array, "members *batch action"]:
        """Q of every action."""
        return jnp.stack([mlp(observations) for mlp in self.mlps])


def _ensemble(
    key: PRNGKeyArray, sizes: Sequence[int], members: int, layer_norm: bool
) -> tuple[MLP, ...]:
    keys = jax.random.split(key, members)
    return tuple(MLP.create(one, sizes, layer_norm=layer_norm) for one in keys)


AnyCritic = Critic | DiscreteCritic


def critic_for(
    key: PRNGKeyArray,
    spec: EnvironmentSpec,
    hidden: Sequence[int],
    *,
    members: int = 2,
    layer_norm: bool = False,
) -> AnyCritic:
    """The critic of continuous actions, or that of discrete ones, with `members` MLPs."""
    sizes = spec.observation_size, spec.actions.size
    if isinstance(spec.actions, Discrete):
        return DiscreteCritic.create(key, *sizes, hidden, members=members, layer_norm=layer_norm)
    bounds = (spec.actions.low, spec.actions.high) if spec.unit_actions else None
    return Critic.create(key, *sizes, hidden, members=members, layer_norm=layer_norm, bounds=bounds)

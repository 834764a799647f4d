"""The networks, against plain formulas and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xql.agents.networks import LayerNorm


def plain(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Layer normalisation as it is written in a textbook; its gradient is left to JAX."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-6) * scale + shift


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
def test_layer_norm_and_its_written_out_gradient(shape: tuple[int, ...]) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    x, weights = (3 * jax.random.normal(key, shape) + 1 for key in keys[:2])
    scale, shift = (jax.random.normal(key, (6,)) for key in keys[2:])

    def loss(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        return jnp.vdot(weights, LayerNorm(scale, shift)(x))

    def plain_loss(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        return jnp.vdot(weights, plain(x, scale, shift))

    ours = LayerNorm(scale, shift)(x)
    np.testing.assert_allclose(ours, plain(x, scale, shift), rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(
        jax.grad(loss, (0, 1, 2))(x, scale, shift),
        jax.grad(plain_loss, (0, 1, 2))(x, scale, shift),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)

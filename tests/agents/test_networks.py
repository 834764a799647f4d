"""The networks, against plain formulas and scipy."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, PyTree

from worlds import assert_close
from xql.agents.networks import MLP, Critic, LayerNorm, Linear, Value, in_bf16


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

    # Compiled whole: step by step, every operation would be compiled by itself.
    @jax.jit
    def both(*inputs: jax.Array) -> tuple[PyTree, PyTree]:
        return (
            (LayerNorm(scale, shift)(x), jax.grad(loss, (0, 1, 2))(*inputs)),
            (plain(x, scale, shift), jax.grad(plain_loss, (0, 1, 2))(*inputs)),
        )

    ours, theirs = both(x, scale, shift)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def float32(*values: float) -> Array:
    return jnp.array(values, jnp.float32)


def test_layer_norm_by_hand() -> None:
    norm = LayerNorm(scale=float32(1.0, 2.0), shift=float32(0.0, 5.0))
    # (1, 3) has mean 2 and variance 1, so it becomes (−1, 1).
    np.testing.assert_allclose(norm(float32(1.0, 3.0)), [-1.0, 7.0], rtol=1e-5)


def test_a_network_by_hand() -> None:
    layers = (
        Linear(float32(1.0, -1.0)[None, :], float32(0.0, 1.0)),
        Linear(float32(2.0, 3.0)[:, None], float32(0.5)),
    )
    # x = 2: hidden relu(2, −1) = (2, 0), so 4.5; x = −1: relu(−1, 2) = (0, 2), so 6.5.
    np.testing.assert_allclose(Value(MLP(layers, ()))(float32(2.0, -1.0)[:, None]), [4.5, 6.5])


def test_dropout_keeps_the_mean_and_the_stated_share_of_units() -> None:
    # 300 hidden units of 1 each, seen one by one: 0, or 1/0.8 with probability 0.8.
    layers = (Linear(jnp.ones((1, 300)), jnp.zeros(300)), Linear(jnp.eye(300), jnp.zeros(300)))
    network, x = MLP(layers, ()), jnp.ones((100, 1))
    units = np.asarray(jax.jit(lambda key: network(x, dropout=0.2, key=key))(jax.random.key(0)))
    assert set(np.unique(units).tolist()) == {0.0, float(np.float32(1.25))}
    error = 4 * np.sqrt(0.8 * 0.2 / units.size)
    assert (units > 0).mean() == pytest.approx(0.8, abs=error)
    assert units.mean() == pytest.approx(1.0, abs=1.25 * error)
    # Every row has units of its own, and so has every key.
    assert len(np.unique(units, axis=0)) == 100
    other = np.asarray(network(x, dropout=0.2, key=jax.random.key(1)))
    assert (other > 0).mean() != (units > 0).mean()
    np.testing.assert_array_equal(network(x), np.ones((100, 300)))


def test_every_hidden_layer_drops_units_of_its_own() -> None:
    # Two layers of 200 units, each passing on: unit by unit, 0.5 of 0.5 are left, at 1/0.25.
    eye, zeros = jnp.eye(200), jnp.zeros(200)
    layers = (Linear(jnp.ones((1, 200)), zeros), Linear(eye, zeros), Linear(eye, zeros))
    x, key = jnp.ones((100, 1)), jax.random.key(0)
    units = np.asarray(MLP(layers, ())(x, dropout=0.5, key=key))
    assert set(np.unique(units).tolist()) == {0.0, 4.0}
    assert (units > 0).mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / units.size))


def test_initial_weights_are_orthogonal_with_gain_root_two() -> None:
    weight = jax.jit(lambda: Linear.create(jax.random.key(0), 16, 8).weight)()
    np.testing.assert_allclose(weight.T @ weight, 2.0 * np.eye(8), atol=1e-5)


def test_critics_of_an_ensemble_differ_and_see_the_action() -> None:
    @jax.jit
    def ensemble(s: Array, a: Array) -> Array:
        return Critic.create(jax.random.key(0), 2, 1, (16,), members=3)(s, a)

    q = np.asarray(ensemble(jnp.ones((4, 2)), float32(-1.0, -0.5, 0.5, 1.0)[:, None]))
    assert q.shape == (3, 4)
    assert len(np.unique(q)) == 12


def rounded(x: Array) -> np.ndarray:
    """To bfloat16, as float64, in which sums of its products are exact to far below float32."""
    return np.asarray(x.astype(jnp.bfloat16)).astype(np.float64)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
def test_products_in_bf16_round_their_factors_and_nothing_else(shape: tuple[int, ...]) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    x, weights = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (*shape[:-1], 4))
    layer = Linear(jax.random.normal(keys[2], (6, 4)), jax.random.normal(keys[3], (4,)))

    def loss(layer: Linear, x: Array) -> Array:
        return jnp.vdot(weights, layer(x))

    output = jax.jit(in_bf16(Linear.__call__))(layer, x)
    found, to_x = jax.jit(in_bf16(jax.grad(loss, (0, 1))))(layer, x)
    a, b, g = rounded(x), rounded(layer.weight), rounded(weights)
    np.testing.assert_allclose(output, a @ b + np.asarray(layer.bias), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_x, g @ b.T, rtol=1e-5, atol=1e-6)
    summed = a.reshape(-1, 6).T @ g.reshape(-1, 4)
    np.testing.assert_allclose(found.weight, summed, rtol=1e-5, atol=1e-6)
    # Its gradient is no product: it is not rounded.
    np.testing.assert_allclose(found.bias, weights.reshape(-1, 4).sum(0), rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(output - layer(x))).max() > 1e-4  # outside, nothing is rounded


def test_weights_compiled_with_less_effort_have_the_same_bits() -> None:
    code = (
        "import jax, numpy as np\n"
        "from xql.agents.networks import Linear\n"
        "draw = jax.nn.initializers.orthogonal(jax.numpy.sqrt(2.0))\n"
        "key = jax.random.key(0)\n"
        "for shape in [(60, 256), (256, 9)]:\n"
        "    ours, plain = Linear.create(key, *shape).weight, draw(key, shape)\n"
        "    assert np.asarray(ours).tobytes() == np.asarray(plain).tobytes(), shape\n"
        "inside = jax.jit(lambda key: Linear.create(key, *shape).weight)(key)\n"
        "np.testing.assert_allclose(inside, plain, atol=1e-6)\n"
    )
    # As users have it, and without the tests' cache, which may hold programs for other cores.
    own = {
        key: value
        for key, value in os.environ.items()
        if "COMPILATION_CACHE" not in key and key != "XLA_FLAGS"
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=own
    )
    assert done.returncode == 0, done.stderr

"""What each loss converges to, and whether it comes back when the target jumps.

The samples are the quantiles of their distribution, shuffled once: no sampling noise but that of
the mini-batches, which is what the biases are made of.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array
from scipy.optimize import brentq
from scipy.stats import norm

from xql.gumbel.losses import Kind, gumbel_loss


def quantiles(count: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    return mean + std * norm.ppf((np.arange(count) + 0.5) / count)


NORMAL = jnp.asarray(
    np.random.default_rng(0).permutation(quantiles(256_000)).reshape(1000, 256), jnp.float32
)
BIMODAL = jnp.asarray(
    np.concatenate([quantiles(90_000, 0.0, 0.3), quantiles(10_000, 2.0, 0.3)])[None], jnp.float32
)


@partial(jax.jit, static_argnames=("kind", "order"))
def slope(
    h: Array, batches: Array, beta: float, kind: Kind, clip: float, order: int, limit: float
) -> Array:
    """The mean over batches of the loss's slope, each batch's scaled down to `limit` where larger.

    For one number, that is a limit on the gradient's norm.
    """

    def one(batch: Array) -> Array:
        def loss(h: Array) -> Array:
            return gumbel_loss((batch - h) / beta, kind=kind, clip=clip, order=order)[0]

        return jax.grad(loss)(h)

    return jnp.clip(jax.vmap(one)(batches), -limit, limit).mean()


def minimiser(
    batches: Array,
    beta: float,
    kind: Kind,
    clip: float = 7.0,
    order: int = 4,
    limit: float = np.inf,
    between: tuple[float, float] = (-1.0, 3.3),
) -> float:
    def at(h: float) -> float:
        return float(slope(jnp.float32(h), batches, beta, kind, clip, order, limit))

    return brentq(at, *between, xtol=1e-4)


# The table in the docstring of xql.gumbel.losses; columns: β = 1, .5, .25, .1.
BETAS = (1.0, 0.5, 0.25, 0.1)
TABLE: dict[tuple[Kind, int, float], tuple[float, ...]] = {
    ("linear", 4, 7.0): (0.500, 0.999, 1.779, 2.537),
    ("linear", 4, 5.0): (0.500, 0.983, 1.578, 2.085),
    ("bounded", 4, 7.0): (0.500, 0.999, 1.779, 2.534),
    ("bounded", 4, 5.0): (0.500, 0.983, 1.578, 2.085),
    ("log", 4, 7.0): (0.498, 0.980, 1.722, 2.502),
    ("official", 4, 7.0): (0.484, 0.905, 1.422, 1.814),
    ("maclaurin", 4, 7.0): (0.374, 0.367, 0.230, 0.099),
    ("maclaurin", 8, 7.0): (0.496, 0.614, 0.281, 0.102),
    ("maclaurin", 16, 7.0): (0.500, 0.961, 0.358, 0.105),
}


@pytest.mark.parametrize(("kind", "order", "clip"), TABLE)
def test_minimisers_on_mini_batches_of_a_normal(kind: Kind, order: int, clip: float) -> None:
    found = [minimiser(NORMAL, beta, kind, clip=clip, order=order) for beta in BETAS]
    np.testing.assert_allclose(found, TABLE[kind, order, clip], atol=2e-3)


# A network's gradient in its parameters is several times its slope in h, so that a norm of 1 is a
# limit far below 1 on the slope.
LIMITED = {
    (7.0, 0.01): (0.496, 0.954, 1.609, 2.268),
    (5.0, 0.01): (0.496, 0.954, 1.553, 2.058),
    (5.0, 1.0): (0.500, 0.975, 1.555, 2.056),
}


@pytest.mark.parametrize(("clip", "limit"), LIMITED)
def test_a_limit_on_the_gradient_of_each_batch_moves_the_minimiser(
    clip: float, limit: float
) -> None:
    found = [minimiser(NORMAL, beta, "linear", clip=clip, limit=limit) for beta in BETAS]
    np.testing.assert_allclose(found, LIMITED[clip, limit], atol=2e-3)


def test_plain_finds_the_soft_maximum_of_a_normal() -> None:
    for beta in (1.0, 0.5):
        assert minimiser(NORMAL, beta, "plain") == pytest.approx(1 / (2 * beta), abs=3e-3)


def test_minimisers_on_a_bimodal_sample_at_small_beta() -> None:
    exact = 0.1 * np.log(np.mean(np.exp(np.asarray(BIMODAL, np.float64) / 0.1)))
    assert exact == pytest.approx(2.22, abs=0.02)
    assert minimiser(BIMODAL, 0.1, "linear", clip=5.0) == pytest.approx(2.075, abs=2e-3)
    assert minimiser(BIMODAL, 0.1, "bounded", clip=5.0) == pytest.approx(2.075, abs=2e-3)
    assert minimiser(BIMODAL, 0.1, "log", clip=5.0) == pytest.approx(2.075, abs=2e-3)
    # The one-sided clip stops counting the upper mode, 10 % of the sample, altogether: whoever
    # starts near the mean stays in a local minimum; a second one lies near the upper mode.
    low = minimiser(BIMODAL, 0.1, "official", clip=5.0, between=(-1.0, 1.0))
    assert low == pytest.approx(0.374, abs=2e-3)
    high = minimiser(BIMODAL, 0.1, "official", clip=5.0, between=(1.8, 2.2))
    assert high == pytest.approx(1.95, abs=5e-3)
    # Neither the soft maximum nor the mean (0.2): a centre of the fourth power.
    assert minimiser(BIMODAL, 0.1, "maclaurin") == pytest.approx(0.676, abs=2e-3)
    assert minimiser(BIMODAL, 0.1, "maclaurin", order=2) == pytest.approx(0.2, abs=1e-3)


TARGET = jnp.asarray(quantiles(256), jnp.float32)


def follow(loss: Callable[[Array], Array], beta: float, steps: int = 8000) -> list[float]:
    """Fit h to a target at 0, then at +30, then at -10; returns the error at each end."""
    optimizer = optax.adam(1e-2)

    @jax.jit
    def phase(h: Array, state: Any, shift: Array) -> tuple[Array, Any]:
        def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
            h, state = carry
            gradient = jax.grad(lambda h: loss((TARGET + shift - h) / beta))(h)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(h, updates), state), None

        return jax.lax.scan(step, (h, state), None, steps)[0]

    h = jnp.float32(0.0)
    state = optimizer.init(h)
    errors = []
    for shift in (0.0, 30.0, -10.0):
        h, state = phase(h, state, jnp.float32(shift))
        optimum = beta * np.log(np.mean(np.exp(np.asarray(TARGET, np.float64) / beta)))
        errors.append(float(h) - shift - optimum)
    return errors


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["linear", "bounded", "log"])
def test_recovers_after_the_target_jumps_by_30_and_by_minus_40(kind: Kind, beta: float) -> None:
    errors = follow(lambda z: gumbel_loss(z, kind=kind, clip=5.0)[0], beta)
    np.testing.assert_allclose(errors, 0.0, atol=0.05)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_a_clip_has_a_dead_zone_from_which_no_value_returns(beta: float) -> None:
    def one_sided(z: Array) -> Array:
        return gumbel_loss(z, kind="official", clip=7.0)[0]

    def two_sided(z: Array) -> Array:
        z = jnp.clip(z, -8.0, 8.0)
        return jnp.mean(jnp.exp(z) - z - 1.0)

    for loss in (one_sided, two_sided):
        assert follow(loss, beta)[1] == pytest.approx(-30.0, abs=0.5)
        gradient = jax.grad(lambda h, loss=loss: loss((TARGET + 30.0 - h) / beta))(0.0)
        assert float(gradient) == 0.0


def test_plain_poisons_adam() -> None:
    errors = follow(lambda z: gumbel_loss(z, kind="plain")[0], 1.0)
    assert abs(errors[1]) > 5.0


def test_a_bounded_slope_lets_a_value_fall_as_fast_as_it_rose() -> None:
    # 3,000 steps of 0.01 for 30, 4,000 for 40: Adam's steps are never longer than its rate.
    def loss(z: Array, kind: Kind) -> Array:
        return gumbel_loss(z, kind=kind, clip=5.0)[0]

    steps = 5000
    np.testing.assert_allclose(follow(partial(loss, kind="bounded"), 1.0, steps), 0.0, atol=0.05)
    assert follow(partial(loss, kind="linear"), 1.0, steps)[2] > 10.0

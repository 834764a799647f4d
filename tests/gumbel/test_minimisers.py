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
def slope(h: Array, batches: Array, beta: float, kind: Kind, clip: float, order: int) -> Array:
    def total(h: Array) -> Array:
        return jnp.mean(
            jax.vmap(lambda x: gumbel_loss((x - h) / beta, kind=kind, clip=clip, order=order)[0])(
                batches
            )
        )

    return jax.grad(total)(h)


def minimiser(
    batches: Array,
    beta: float,
    kind: Kind,
    clip: float = 7.0,
    order: int = 4,
    between: tuple[float, float] = (-1.0, 3.3),
) -> float:
    def at(h: float) -> float:
        return float(slope(jnp.float32(h), batches, beta, kind, clip, order))

    return brentq(at, *between, xtol=1e-4)


# The table in the docstring of xql.gumbel.losses; columns: β = 1, .5, .25, .1.
TABLE: dict[tuple[Kind, int], tuple[float, ...]] = {
    ("linear", 4): (0.500, 0.999, 1.779, 2.537),
    ("log", 4): (0.498, 0.980, 1.722, 2.502),
    ("official", 4): (0.484, 0.905, 1.422, 1.814),
    ("maclaurin", 4): (0.374, 0.367, 0.230, 0.099),
    ("maclaurin", 8): (0.496, 0.614, 0.281, 0.102),
    ("maclaurin", 16): (0.500, 0.961, 0.358, 0.105),
}


@pytest.mark.parametrize(("kind", "order"), TABLE)
def test_minimisers_on_mini_batches_of_a_normal(kind: Kind, order: int) -> None:
    found = [minimiser(NORMAL, beta, kind, order=order) for beta in (1.0, 0.5, 0.25, 0.1)]
    np.testing.assert_allclose(found, TABLE[kind, order], atol=2e-3)


def test_plain_finds_the_soft_maximum_of_a_normal() -> None:
    for beta in (1.0, 0.5):
        assert minimiser(NORMAL, beta, "plain") == pytest.approx(1 / (2 * beta), abs=3e-3)


def test_minimisers_on_a_bimodal_sample_at_small_beta() -> None:
    exact = 0.1 * np.log(np.mean(np.exp(np.asarray(BIMODAL, np.float64) / 0.1)))
    assert exact == pytest.approx(2.22, abs=0.02)
    assert minimiser(BIMODAL, 0.1, "linear", clip=5.0) == pytest.approx(2.075, abs=2e-3)
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
@pytest.mark.parametrize("kind", ["linear", "log"])
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

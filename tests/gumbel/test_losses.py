"""Golden tables for every loss: values and gradients worked out by hand from e^z."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from xql.gumbel import losses
from xql.gumbel.losses import Kind, gumbel_loss

# z, then value and derivative; e^-2 = .135335283, e^-1 = .367879441, e^.5 = 1.648721271,
# e = 2.718281828, e^2 = 7.389056099, e^3 = 20.085536923.
PLAIN = [
    (-2.0, 1.135335283, -0.864664717),
    (-1.0, 0.367879441, -0.632120559),
    (0.0, 0.0, 0.0),
    (0.5, 0.148721271, 0.648721271),
    (1.0, 0.718281828, 1.718281828),
    (2.0, 4.389056099, 6.389056099),
    (3.0, 16.085536923, 19.085536923),
]
# Beyond c = 2: e^2 (z - 1) - z - 1, slope e^2 - 1.
LINEAR_2 = [*PLAIN[:6], (3.0, 10.778112198, 6.389056099), (10.0, 55.501504891, 6.389056099)]
# z²/2 + z³/6 + z⁴/24, and z + z²/2 + z³/6.
MACLAURIN_4 = [
    (-2.0, 4 / 3, -4 / 3),
    (-1.0, 0.375, -2 / 3),
    (0.0, 0.0, 0.0),
    (0.5, 0.1484375, 0.645833333),
    (1.0, 17 / 24, 5 / 3),
    (2.0, 4.0, 16 / 3),
]
MACLAURIN_2 = [(-3.0, 4.5, -3.0), (0.0, 0.0, 0.0), (0.5, 0.125, 0.5)]


@pytest.mark.parametrize(
    ("loss", "table"),
    [
        pytest.param(losses.plain, PLAIN, id="plain"),
        pytest.param(lambda z: losses.linear(z, 2.0), LINEAR_2, id="linear"),
        pytest.param(lambda z: losses.maclaurin(z, 4), MACLAURIN_4, id="maclaurin4"),
        pytest.param(lambda z: losses.maclaurin(z, 2), MACLAURIN_2, id="maclaurin2"),
    ],
)
def test_elementwise_losses_match_the_golden_table(
    loss: Callable[[Array], Array], table: list[tuple[float, float, float]]
) -> None:
    z, value, slope = jnp.asarray(table, jnp.float32).T
    np.testing.assert_allclose(loss(z), value, rtol=2e-6, atol=1e-8)
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(z), slope, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("loss", "batch", "value", "gradient"),
    [
        # x = (0, 1, 2), 1 + J = 2.702445976; z = 3 adds its overshoot 1 on the slope 2.3641754 / 3.
        (losses.log, (0.0, 1.0, 3.0), 0.9941573 + 0.7880585, (0.0, 0.2119416, 0.7880585)),
        # E[e^x] = (1 + e + e²)/3 = 3.702446: below 8, so that it is the mean of `linear`.
        (losses.bounded, (0.0, 1.0, 3.0), 3.832131342, (0.0, 0.572760609, 2.129685366)),
        # m = 2: e^{x-2} - (x + 1) e^-2; the third lies beyond the clip, its gradient is gone.
        (losses.official, (0.0, 1.0, 3.0), 0.230401008, (0.0, 0.077514719, 0.0)),
        # All below -1: m stays at -1.
        (losses.official, (-3.0, -2.0), 4.329030105, (-1.291473272, -1.175201194)),
    ],
)
def test_batch_losses_match_the_golden_table(
    loss: Callable[[Array, float], Array],
    batch: tuple[float, ...],
    value: float,
    gradient: tuple[float, ...],
) -> None:
    z = jnp.asarray(batch, jnp.float32)
    np.testing.assert_allclose(loss(z, 2.0), value, rtol=2e-6)
    np.testing.assert_allclose(jax.grad(lambda z: loss(z, 2.0))(z), gradient, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["plain", "linear", "bounded", "maclaurin", "log", "official"])
def test_gumbel_loss_is_the_mean_of_its_kind(kind: Kind) -> None:
    z = jnp.asarray([[-1.0, 0.0], [0.5, 3.0]])
    one = getattr(losses, kind)
    expected = jnp.mean(
        one(z, 4) if kind == "maclaurin" else one(z) if kind == "plain" else one(z, 2.0)
    )
    np.testing.assert_allclose(gumbel_loss(z, kind=kind, clip=2.0)[0], expected, rtol=1e-6)


def test_diagnostics_by_hand() -> None:
    diagnostics = gumbel_loss(jnp.asarray([0.0, 1.0, 3.0]), clip=2.0)[1]
    np.testing.assert_allclose(diagnostics.beyond_clip, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(diagnostics.mean_exp, 7.93460625, rtol=1e-6)
    # (1 + e + e³)² / (3 (1 + e² + e⁶))
    np.testing.assert_allclose(diagnostics.effective_sample_size, 0.4586346, rtol=1e-5)


def test_diagnostics_stay_finite_and_positive_where_e_to_the_z_overflows() -> None:
    diagnostics = gumbel_loss(jnp.asarray([1e4, -1e4, 9e3, 0.0]))[1]
    assert np.isfinite(np.log(diagnostics.mean_exp))
    np.testing.assert_allclose(diagnostics.effective_sample_size, 0.25)
    equal = gumbel_loss(jnp.full((100_000,), 500.0))[1]
    assert np.isfinite(equal.mean_exp)
    np.testing.assert_allclose(equal.effective_sample_size, 1.0)


@pytest.mark.parametrize("kind", ["linear", "bounded", "log"])
@pytest.mark.parametrize("z", [-1e4, -50.0, 89.0, 1e4, 1e30])
def test_gradient_is_neither_zero_nor_infinite_far_from_the_optimum(kind: Kind, z: float) -> None:
    slope = float(jax.grad(lambda z: gumbel_loss(z[None], kind=kind)[0])(jnp.float32(z)))
    assert np.isfinite(slope)
    assert np.sign(slope) == np.sign(z)
    if kind == "linear":
        np.testing.assert_allclose(slope, -1.0 if z < 0 else 147.4131591, rtol=1e-6)
    if kind == "bounded":  # 8/e⁵ of it
        np.testing.assert_allclose(slope, -1.0 if z < 0 else 7.9460964, rtol=1e-6)


def test_small_residuals_keep_their_digits() -> None:
    z = jnp.asarray([1e-4, -1e-4, 1e-6, 0.29, 0.31], jnp.float32)
    exact = np.asarray(z, np.float64)
    np.testing.assert_allclose(losses.plain(z), np.expm1(exact) - exact, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(losses.plain))(z), np.expm1(exact), rtol=1e-6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(z=st.floats(-1e4, 1e4, width=32), clip=st.floats(1.0, 10.0, width=32))
def test_linear_is_nonnegative_and_its_slope_bounded(z: float, clip: float) -> None:
    value, slope = jax.value_and_grad(losses.linear)(jnp.float32(z), jnp.float32(clip))
    assert value >= 0
    assert -1 <= slope <= np.expm1(clip) * (1 + 1e-6)
    if abs(z) > 1e-30:
        assert np.sign(slope) == np.sign(z)


def test_the_clip_may_be_traced_and_no_diagnostic_carries_a_gradient() -> None:
    z = jnp.asarray([0.0, 1.0, 3.0])
    jitted = jax.jit(lambda z, clip: gumbel_loss(z, clip=clip)[0])
    np.testing.assert_allclose(jitted(z, 2.0), gumbel_loss(z, clip=2.0)[0], rtol=1e-6)
    gradients = jax.jacrev(lambda z: gumbel_loss(z)[1])(z)
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("order", [-2, 0, 1, 3])
def test_an_odd_order_has_no_minimum_and_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"order must be even and at least 2, not {order}"):
        gumbel_loss(jnp.zeros(3), kind="maclaurin", order=order)


def test_a_batch_of_no_residuals_has_no_loss() -> None:
    nothing = np.zeros(0, np.float32)
    assert losses.plain(nothing).shape == (0,)
    for loss in (gumbel_loss, losses.bounded, losses.log, losses.official, losses.diagnostics):
        with pytest.raises(ValueError, match=r"residuals must hold at least one number"):
            loss(nothing)

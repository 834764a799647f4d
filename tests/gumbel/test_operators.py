from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from xql.gumbel.operators import (
    Axis,
    dual_temperature,
    log_mean_exp,
    log_partition,
    log_sum_exp,
    soft_policy,
    soft_value,
)

BETAS = [1e-3, 1e-2, 0.1, 1.0, 10.0, 1e3, 1e6]
X = np.random.default_rng(0).normal(100.0, 3.0, (3, 4, 50)).astype(np.float32)


def exact(x: np.ndarray, beta: float, axis: Axis = None, weights: np.ndarray | None = None) -> Any:
    """The same in float64, around the mean, where β = 1e6 leaves digits enough."""
    x = x.astype(np.float64)
    w = np.ones_like(x) if weights is None else np.broadcast_to(weights, x.shape)
    center = x.mean(axis=axis, keepdims=True)
    total = logsumexp((x - center) / beta, b=w / w.sum(axis=axis, keepdims=True), axis=axis)
    return np.squeeze(center, axis=axis) + beta * total


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_log_mean_exp_is_exact_to_float32(beta: float, axis: Axis) -> None:
    np.testing.assert_allclose(log_mean_exp(X, beta, axis), exact(X, beta, axis), rtol=2e-7)


def test_the_largest_beta_gives_the_mean_and_the_smallest_the_maximum() -> None:
    x = np.asarray([-1.0, 0.5, 2.0], np.float32)
    np.testing.assert_allclose(log_mean_exp(x, 1e6), 0.5, atol=2e-6)
    np.testing.assert_allclose(log_mean_exp(x, 1e-3), 2.0 - 1e-3 * np.log(3.0), rtol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_gradient_is_the_softmax(beta: float) -> None:
    x = X[0, 0]
    expected = softmax(x.astype(np.float64) / beta)
    gradient = jax.grad(lambda x: log_mean_exp(x, beta))(jnp.asarray(x))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("beta", [0.01, 1.0, 1e4])
def test_an_integer_weight_is_repetition_and_weight_zero_is_absence(beta: float) -> None:
    x = np.asarray([1.0, 4.0, 2.0, 1e30], np.float32)
    weights = np.asarray([1.0, 2.0, 3.0, 0.0])
    weighted = log_mean_exp(x, beta, weights=weights)
    repeated = log_mean_exp(np.asarray([1, 4, 4, 2, 2, 2], np.float32), beta)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-6)
    gradient = jax.grad(lambda x: log_mean_exp(x, beta, weights=np.asarray([1.0, 2.0, 3.0, 0.0])))(
        x
    )
    assert np.isfinite(gradient).all()
    assert gradient[3] == 0


def test_weights_broadcast_along_the_axis() -> None:
    weights = np.arange(1.0, 51.0)
    np.testing.assert_allclose(
        log_mean_exp(X, 2.0, -1, weights), exact(X, 2.0, -1, weights), rtol=2e-7
    )


@pytest.mark.parametrize("beta", [0.1, 1.0, 100.0])
def test_the_sum_form_is_the_mean_form_plus_beta_log_n(beta: float) -> None:
    np.testing.assert_allclose(
        log_sum_exp(X, beta, -1), log_mean_exp(X, beta, -1) + beta * np.log(50.0), rtol=1e-6
    )
    np.testing.assert_allclose(
        log_sum_exp(X[0, 0], beta), beta * logsumexp(X[0, 0].astype(np.float64) / beta), rtol=1e-6
    )


def test_entries_of_minus_infinity_count_as_impossible() -> None:
    x = jnp.asarray([0.0, -jnp.inf])
    np.testing.assert_allclose(log_mean_exp(x, 2.0), -2.0 * np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(log_sum_exp(x, 2.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: log_mean_exp(x, 2.0))(x), [1.0, 0.0])


def test_log_partition_of_the_published_example() -> None:
    # log(e^1.5 + e^3 + e^4.5 + e^6 + e^7.5) = 7.5 + log 1.286504764
    np.testing.assert_allclose(log_partition(1.5 * np.arange(1.0, 6.0)), 7.751929, atol=1e-6)
    np.testing.assert_allclose(log_partition(np.arange(1.0, 6.0), 1 / 1.5), 7.751929, atol=1e-6)
    fair = log_partition(np.arange(1.0, 6.0), 1 / 1.5, np.full(5, 0.2))
    np.testing.assert_allclose(fair, 7.751929 - np.log(5.0), atol=1e-6)


def test_soft_value_and_the_policy_that_attains_it() -> None:
    q = np.asarray([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]], np.float32)
    reference = np.asarray([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32)
    value, policy = soft_value(q, 0.7, reference), np.asarray(soft_policy(q, 0.7, reference))
    divergence = (policy * np.log(policy / reference)).sum(-1)
    np.testing.assert_allclose(value, (policy * q).sum(-1) - 0.7 * divergence, rtol=1e-5)
    np.testing.assert_allclose(policy.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(value[1], 2.0, rtol=1e-6)
    gap = soft_value(q, 0.7, form="sum") - soft_value(q, 0.7)
    np.testing.assert_allclose(gap, 0.7 * np.log(3.0), rtol=1e-5)
    with pytest.raises(ValueError, match="the sum form has no reference policy"):
        soft_value(q, 0.7, reference, "sum")


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 2.0])
def test_dual_temperature_of_a_normal(epsilon: float) -> None:
    from scipy.stats import norm

    x = 5.0 + 3.0 * norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    found = jax.jit(dual_temperature)(x, epsilon)
    np.testing.assert_allclose(found, 3.0 / np.sqrt(2 * epsilon), rtol=5e-3)


def test_dual_temperature_minimises_the_dual_and_scales_with_the_values() -> None:
    x = np.random.default_rng(1).gumbel(size=(6, 40)).astype(np.float32)
    found = float(dual_temperature(x, 0.3, -1))
    dual = [b * 0.3 + exact(x, b, -1).mean() for b in (0.97 * found, found, 1.03 * found)]
    assert dual[1] < min(dual[0], dual[2])
    np.testing.assert_allclose(dual_temperature(7.0 * x, 0.3, -1), 7.0 * found, rtol=1e-4)


def test_dual_temperature_is_zero_where_the_maximum_is_within_budget() -> None:
    assert dual_temperature(np.full(5, 2.0), 0.5) == 0
    assert dual_temperature(np.asarray([0.0, 1.0]), 0.7) == 0  # log 2 = .693 reaches the maximum
    assert dual_temperature(np.asarray([0.0, 1.0]), 0.69) > 0


def test_an_infinite_beta_gives_the_mean() -> None:
    x = np.asarray([[1.0, 2.0, 6.0], [0.0, 0.0, -3.0]], np.float32)
    weights = np.asarray([1.0, 1.0, 2.0])
    for beta in (np.inf, 3e38, 1e30, 1e12):
        np.testing.assert_allclose(log_mean_exp(x, beta, -1), [3.0, -1.0], rtol=1e-6)
        np.testing.assert_allclose(log_mean_exp(x, beta, -1, weights), [3.75, -1.5], rtol=1e-6)
        np.testing.assert_allclose(soft_value(x, beta), [3.0, -1.0], rtol=1e-6)
        np.testing.assert_allclose(soft_policy(x, beta), np.full((2, 3), 1 / 3), rtol=1e-6)
        gradient = jax.grad(lambda x, beta=beta: log_mean_exp(x[0], beta))(x)
        np.testing.assert_allclose(gradient, [[1 / 3] * 3, [0.0] * 3], rtol=1e-6)
    both = log_mean_exp(x[:1], np.asarray([[np.inf], [1e-3]]), -1)
    np.testing.assert_allclose(both, [3.0, 6.0 - 1e-3 * np.log(3)], rtol=1e-6)
    # The sum form diverges with β; over one value it does not.
    assert float(log_sum_exp(x, np.inf)) == np.inf
    assert float(log_sum_exp(x[0, :1], np.inf)) == 1.0
    assert float(log_partition(x[0], np.inf)) == pytest.approx(np.log(3))
    impossible = np.asarray([0.0, -np.inf], np.float32)
    assert float(log_mean_exp(impossible, np.inf)) == -np.inf
    np.testing.assert_array_equal(soft_policy(impossible, np.inf), [1.0, 0.0])


OF_BETA = [log_mean_exp, log_sum_exp, log_partition, soft_value, soft_policy]


SEVERAL = np.asarray([[1.0], [-2.0]])
NOT_POSITIVE: list[tuple[Any, Any]] = [
    (function, beta)
    for function in (*OF_BETA, dual_temperature)
    for beta in (0.0, 0, -1.0, float("nan"))
]
# The others take one number.
NOT_POSITIVE += [(function, SEVERAL) for function in (log_mean_exp, log_sum_exp, log_partition)]


@pytest.mark.parametrize(("function", "beta"), NOT_POSITIVE)
def test_a_temperature_that_is_not_positive_is_refused(
    function: Callable[..., Any], beta: Any
) -> None:
    with pytest.raises(ValueError, match=r"^(beta|epsilon) must be positive, not (0|-1|-2|nan)$"):
        function(np.ones((2, 3), np.float32), beta)


@pytest.mark.parametrize("function", [log_mean_exp, log_sum_exp, log_partition])
def test_one_soft_maximum_has_one_temperature(function: Callable[..., Any]) -> None:
    x = np.asarray([[1.0, 2.0, 4.0], [0.0, 3.0, 3.0]], np.float32)
    betas = np.asarray([0.5, 2.0], np.float32)
    rows = [float(function(row, float(beta), axis=-1)) for row, beta in zip(x, betas, strict=True)]
    np.testing.assert_allclose(function(x, betas[:, None], axis=-1), rows, rtol=1e-6)
    np.testing.assert_allclose(function(x.T, betas, axis=0), rows, rtol=1e-6)
    # A single x at several temperatures.
    several = [float(function(x[0], float(beta), axis=-1)) for beta in betas]
    np.testing.assert_allclose(function(x[:1], betas[:, None], axis=-1), several, rtol=1e-6)
    for beta, axis in ((betas[:, None], None), (np.ones(3, np.float32), -1), (betas, (0, 1))):
        with pytest.raises(ValueError, match="mixes temperatures in one soft maximum of x of"):
            function(x, beta, axis=axis)
    with pytest.raises(ValueError, match=r"beta of shape \(2, 1\) mixes temperatures"):
        function(x[0], betas[:, None], axis=0)


@pytest.mark.parametrize("function", [*OF_BETA, dual_temperature])
def test_nothing_has_no_soft_maximum(function: Callable[..., Any]) -> None:
    for shape in ((0,), (3, 0)):
        with pytest.raises(ValueError, match="x must hold at least one number, but its shape is"):
            function(np.zeros(shape, np.float32), 1.0)
    if function is not dual_temperature:
        # No state, but every state has actions: no values.
        empty = function(np.zeros((0, 3), np.float32), 1.0, **_last_axis(function))
        assert len(empty) == 0


def _last_axis(function: Callable[..., Any]) -> dict[str, int]:
    return {"axis": -1} if function in (log_mean_exp, log_sum_exp) else {}

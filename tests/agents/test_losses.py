"""The losses and weights on arrays, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from xql.agents.awac import softmax_weights
from xql.agents.losses import (
    CriticLoss,
    advantage_weights,
    critic_loss,
    gumbel_metrics,
    mean_magnitude,
)
from xql.gumbel.losses import gumbel_loss


def float32(*values: float) -> Array:
    return jnp.array(values, jnp.float32)


@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_the_critic_loss_and_its_gradient_by_hand(kind: CriticLoss) -> None:
    # Errors q − y of two members at y = (0, 50): (1, −49) and (−2, −52). The gradient is the error
    # itself over the batch's 2 rows; Huber with δ = 20 cuts each at ±20.
    q = jnp.array([[1.0, 1.0], [-2.0, -2.0]])

    def loss(q: Array) -> tuple[Array, dict[str, Array]]:
        return critic_loss(q, float32(0.0, 50.0), kind, 20.0)

    gradient, metrics = jax.grad(loss, has_aux=True)(q)
    errors = np.array([[1.0, -49.0], [-2.0, -52.0]])
    each = errors**2 / 2
    if kind == "huber":
        each = np.array([[0.5, 20 * (49 - 10)], [2.0, 20 * (52 - 10)]])
        errors = np.clip(errors, -20, 20)
    np.testing.assert_allclose(gradient, errors / 2, rtol=1e-6)
    assert float(metrics["critic_loss"]) == pytest.approx(each.mean(1).sum(), rel=1e-6)
    assert float(loss(q)[0]) == float(metrics["critic_loss"])
    assert float(metrics["q"]) == -0.5
    assert float(metrics["bellman_error"]) == pytest.approx((1 + 49 + 2 + 52) / 4)


def test_small_errors_are_the_same_to_both_critic_losses() -> None:
    q = jnp.array([[1.0, -3.0]])
    squared, huber = (critic_loss(q, float32(0.5, 2.0), kind, 20.0)[0] for kind in KINDS)
    assert float(squared) == float(huber) == (0.25 + 25) / 4


KINDS: tuple[CriticLoss, ...] = ("squared", "huber")


def test_advantage_weights_by_hand() -> None:
    # min(e^{κA}, cap), whose sum over the batch is free; e^{3·10⁶} overflows nothing.
    weights = advantage_weights(float32(0.0, 1.0, -1.0, 2.0, 1e6), 3.0, jnp.float32(100.0))
    by_hand = [1.0, np.exp(3.0), np.exp(-3.0), 100.0, 100.0]
    np.testing.assert_allclose(weights, by_hand, rtol=1e-5)
    assert float(weights.sum()) == pytest.approx(sum(by_hand), rel=1e-5)
    # AWAC's temperature is the inverse: λ = 1/4 is e^{4A}, here at most 50.
    weights = advantage_weights(float32(0.5, -1.0, 2.0), 1 / 0.25, 50.0)
    np.testing.assert_allclose(weights, [np.exp(2.0), np.exp(-4.0), 50.0], rtol=1e-5)


def test_softmax_weights_sum_to_the_batch_by_hand() -> None:
    # A/λ = (0, log 2, log 5): odds 1 : 2 : 5, so that three weights are 3/8, 6/8 and 15/8.
    advantages = 0.5 * jnp.log(jnp.array([1.0, 2.0, 5.0]))
    weights = softmax_weights(advantages, jnp.float32(0.5))
    np.testing.assert_allclose(weights, [3 / 8, 6 / 8, 15 / 8], rtol=1e-5)
    assert float(weights.sum()) == pytest.approx(3.0, rel=1e-6)
    # Where one action is far better than all others, it has the whole sum, and nothing overflows.
    far = softmax_weights(jnp.array([-1e6, 0.0, 1e6]), jnp.float32(0.5))
    np.testing.assert_array_equal(far, [0.0, 0.0, 3.0])


def test_the_mean_magnitude_is_of_absolute_values_and_a_constant_to_the_gradient() -> None:
    q = float32(3.0, -1.0)
    assert float(mean_magnitude(q)) == pytest.approx(2.0)
    np.testing.assert_array_equal(jax.grad(mean_magnitude)(q), [0.0, 0.0])
    # A Q of 0 everywhere divides nothing by zero.
    zero = jnp.zeros(2)
    assert float(zero.mean() / mean_magnitude(zero)) == 0.0


def test_the_gumbel_metrics_of_an_ensemble_are_its_mean() -> None:
    # z = (0, 1) and (0, −2) with a clip at 1/2: half of the first member's residuals lie beyond.
    z = jnp.array([[0.0, 1.0], [0.0, -2.0]])
    _, diagnostics = jax.vmap(lambda row: gumbel_loss(row, kind="linear", clip=0.5))(z)
    metrics = gumbel_metrics(diagnostics)
    assert float(metrics["clip_fraction"]) == 0.25
    assert float(metrics["mean_exp"]) == pytest.approx(np.exp(np.asarray(z)).mean(), rel=1e-6)
    w = np.exp(np.asarray(z))
    shares = w.sum(1) ** 2 / (2 * (w**2).sum(1))
    assert float(metrics["effective_sample_size"]) == pytest.approx(shares.mean(), rel=1e-5)

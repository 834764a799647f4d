"""Published statements about Extreme Q-Learning that do not hold, each with its counter-example.

Notation as in test_lemmas.py, which holds those that do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp
from scipy.stats import gumbel_l, norm, skew

from worlds import iterate, random_mdp
from xql.gumbel.losses import Kind, gumbel_loss
from xql.gumbel.operators import log_mean_exp, log_sum_exp, soft_policy, soft_value

EULER = np.euler_gamma


def kl(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum(a * np.log(a / b)))


def test_wrong_that_the_sum_form_tends_to_the_mean() -> None:
    x = np.asarray([1.0, 2.0, 6.0])
    sums = [float(log_sum_exp(x, beta)) for beta in (1e2, 1e3, 1e4)]
    np.testing.assert_allclose(sums, 3.0 + np.log(3) * np.asarray([1e2, 1e3, 1e4]), rtol=1e-3)
    assert float(log_mean_exp(x, 1e4)) == pytest.approx(3.0, abs=1e-3)


def test_wrong_that_one_log_cosh_bounds_the_gap_of_lemma_b1() -> None:
    # X is −Q or Q; µ leans to −Q until the gap between L_β and the mean is largest.
    t = 2.0

    def gap(p: float) -> float:
        return np.log(p * np.exp(t) + (1 - p) * np.exp(-t)) - t * (2 * p - 1)

    worst = -minimize_scalar(lambda p: -gap(p), bounds=(0, 1), method="bounded").fun
    assert worst == pytest.approx(1.670, abs=1e-3)
    assert np.log(np.cosh(t)) == pytest.approx(1.325, abs=1e-3)
    assert np.log(np.cosh(t)) < worst <= min(2 * np.log(np.cosh(t)), t**2 / 2)


def test_wrong_constant_and_sign_of_the_printed_dual_divergence() -> None:
    pi, mu = np.asarray([0.7, 0.2, 0.1]), np.asarray([0.1, 0.3, 0.6])

    def conservative(x: np.ndarray) -> float:
        return mu @ np.exp(-x) + pi @ x

    lowest = minimize(conservative, np.zeros(3), options={"gtol": 1e-10}).fun
    # The minimum is 1 − KL: the printed "−1" and "+KL" are each off.
    assert lowest - 1 == pytest.approx(-kl(pi, mu), abs=1e-7)
    assert -lowest - 1 == pytest.approx(kl(pi, mu) - 2, abs=1e-7)
    assert kl(pi, mu) > 0


def test_wrong_that_gumbel_noise_without_a_zero_mean_leaves_the_value() -> None:
    beta, gamma = 0.5, 0.8
    transitions, rewards, _ = random_mdp()

    def backup(q: np.ndarray, shift: float) -> np.ndarray:
        return rewards + gamma * transitions @ (beta * logsumexp(q / beta, axis=1) + shift)

    # Gumbel(0, β) noise adds its mean γ_E β to every maximum (lemma 8).
    centered = iterate(lambda q: backup(q, 0.0), rewards.shape)
    shifted = iterate(lambda q: backup(q, EULER * beta), rewards.shape)
    np.testing.assert_allclose(shifted - centered, gamma * EULER * beta / (1 - gamma), rtol=1e-6)


def test_wrong_that_the_two_forms_may_be_mixed() -> None:
    q = np.asarray([1.0, 2.0, 4.0])
    gap = soft_value(q, 2.0, form="sum") - soft_value(q, 2.0)
    assert float(gap) == pytest.approx(2.0 * np.log(3), rel=1e-5)


def test_wrong_that_any_maximum_is_gumbel() -> None:
    # The maximum of 500 uniforms has distribution function t^500; these are its quantiles.
    draws = ((np.arange(1_000_000) + 0.5) / 1_000_000) ** (1 / 500)
    assert skew(draws) == pytest.approx(-1.98, abs=0.01)  # a Gumbel has +1.14
    excess = 500 * (1 - draws)
    assert excess.mean() == pytest.approx(1.0, abs=5e-3)  # Exp(1)
    assert np.quantile(excess, 0.9) == pytest.approx(np.log(10), abs=0.01)


def test_wrong_that_stochastic_gradients_estimate_the_soft_maximum_without_bias() -> None:
    rng = np.random.default_rng(0)
    beta, h = 0.5, 1.0  # h is the optimum of N(0, 1): the expected gradient is 0
    x = jnp.asarray(rng.normal(size=(40_000, 8)), jnp.float32)

    def gradients(kind: Kind) -> np.ndarray:
        def one(batch: Array) -> Array:
            return jax.grad(lambda h: gumbel_loss((batch - h) / beta, kind=kind, clip=50.0)[0])(h)

        return np.asarray(jax.vmap(one)(x))

    plain, rescaled = gradients("plain"), gradients("official")
    error = 4 * plain.std() / np.sqrt(len(plain))
    assert abs(plain.mean()) < error  # the gradient of J is unbiased …
    assert rescaled.mean() > 8 * rescaled.std() / np.sqrt(len(rescaled))  # … rescaled, it is not
    estimates = beta * np.log(np.exp(np.asarray(x, np.float64) / beta).mean(axis=1))
    assert estimates.mean() < 1.0 - 0.2  # and the batch's own soft maximum is far too low


def test_wrong_that_the_noise_is_right_skewed() -> None:
    # The loss is the negative log-likelihood of Q = V − Gumbel: left-skewed values around V.
    rng = np.random.default_rng(0)
    left, right = -rng.gumbel(0, 1, 200_000), rng.gumbel(0, 1, 200_000)

    def loss(h: float, x: np.ndarray) -> float:
        z = x - h
        return float(np.mean(np.exp(z) - z - 1.0))

    likelihood = -gumbel_l.logpdf(left, 0.3).mean()
    assert loss(0.3, left) + 1.0 == pytest.approx(likelihood, rel=1e-9)
    assert gumbel_l.fit(left)[0] == pytest.approx(float(log_mean_exp(left, 1.0)), abs=2e-2)
    assert skew(left) < -1 < 1 < skew(right)
    # Yet it finds β log E e^{x/β} of any distribution, here a normal: the noise may have any shape.
    normal = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    best = minimize_scalar(lambda h: loss(h, normal), bounds=(-2, 3), method="bounded").x
    assert best == pytest.approx(0.5, abs=1e-3)


def test_wrong_that_the_policy_step_is_an_argmin_or_mode_seeking() -> None:
    q, mu, beta = np.asarray([0.0, 0.1, 2.0]), np.full(3, 1 / 3), 1.0
    weights = mu * np.exp(q / beta)

    def objective(pi: np.ndarray) -> float:
        return weights @ np.log(pi)

    best = weights / weights.sum()
    np.testing.assert_allclose(best, soft_policy(q, beta), rtol=1e-6)
    others = np.random.default_rng(0).dirichlet(np.ones(3), 500)
    assert all(objective(pi) < objective(best) for pi in others)  # it is an argmax
    # Forward KL: the best of two peaks covers both, a reverse KL would choose one.
    grid = np.linspace(-4, 4, 801)
    peaks = norm.pdf(grid, -2, 0.4) + norm.pdf(grid, 2, 0.4)
    peaks /= peaks.sum()
    forward = minimize(
        lambda t: -peaks @ norm.logpdf(grid, t[0], np.exp(t[1])), [1.0, 0.0], method="Nelder-Mead"
    ).x
    assert forward[0] == pytest.approx(0.0, abs=1e-3)
    assert np.exp(forward[1]) > 1.9

    def reverse_kl(t: np.ndarray) -> float:
        density = norm.pdf(grid, t[0], np.exp(t[1])) + 1e-300
        density /= density.sum()
        return density @ np.log(density / peaks)

    reverse = minimize(reverse_kl, [1.0, 0.0], method="Nelder-Mead").x
    assert abs(reverse[0]) == pytest.approx(2.0, abs=0.05)

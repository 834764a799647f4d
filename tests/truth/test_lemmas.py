"""The theory behind Extreme Q-Learning, statement by statement.

Notation: L_β(X) = β log E[e^{X/β}] (mean form), µ the reference policy, J the Gumbel loss.
Distributions are discrete with random atoms, so that every expectation is exact, in float64.
Published statements that fail have their counter-examples in test_counterexamples.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import logsumexp
from scipy.stats import gumbel_l, gumbel_r, norm

from worlds import iterate, random_mdp
from xql.gumbel.losses import gumbel_loss, maclaurin
from xql.gumbel.operators import (
    dual_temperature,
    log_mean_exp,
    log_sum_exp,
    soft_policy,
    soft_value,
)

EULER = np.euler_gamma
seeds = st.integers(0, 2**32 - 1)
betas = st.sampled_from([0.1, 0.3, 1.0, 3.0, 30.0])
lemma = settings(derandomize=True, deadline=None, max_examples=25)


def draw(seed: int, atoms: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A random discrete distribution: its atoms and their probabilities."""
    rng = np.random.default_rng(seed)
    return rng.normal(0.0, 2.0, atoms), rng.dirichlet(np.ones(atoms))


def soft(x: np.ndarray, p: np.ndarray, beta: float) -> float:
    """L_β in float64: the reference that the library's operator is held against."""
    return beta * logsumexp(x / beta, b=p)


def tilt(x: np.ndarray, p: np.ndarray, beta: float) -> np.ndarray:
    """The distribution p e^{x/β} / Z."""
    return p * np.exp((x - soft(x, p, beta)) / beta)


def kl(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum(a * np.log(a / b)))


jitted_dual = jax.jit(dual_temperature)


@lemma
@given(seed=seeds)
def test_01_the_soft_maximum_falls_with_beta_from_the_maximum_to_the_mean(seed: int) -> None:
    x, p = draw(seed)
    values = [soft(x, p, beta) for beta in (0.1, 0.3, 1.0, 3.0, 10.0)]
    assert (np.diff(values) < 0).all()
    assert p @ x <= values[-1]
    assert values[0] <= x.max()
    constant = [float(log_mean_exp(np.full(4, 2.5), beta)) for beta in (0.1, 1.0, 10.0)]
    np.testing.assert_allclose(constant, 2.5, rtol=1e-6)


@lemma
@given(seed=seeds, beta=betas)
def test_01b_the_library_computes_this_soft_maximum(seed: int, beta: float) -> None:
    x, p = draw(seed)
    found = float(log_mean_exp(x, beta, weights=p))
    assert found == pytest.approx(soft(x, p, beta), rel=1e-5, abs=2e-6)


@lemma
@given(seed=seeds)
def test_02_the_two_limits_with_their_first_corrections(seed: int) -> None:
    x, p = draw(seed)
    mean, variance = p @ x, p @ (x - p @ x) ** 2
    residuals = [soft(x, p, beta) - mean - variance / (2 * beta) for beta in (100.0, 200.0)]
    assert residuals[1] == pytest.approx(residuals[0] / 4, rel=0.1, abs=1e-6)  # O(β⁻²)
    best = int(np.argmax(x))
    gap = x[best] - np.delete(x, best).max()
    beta = gap / 60  # e^-60 against the second best
    assert soft(x, p, beta) - x[best] == pytest.approx(beta * np.log(p[best]), rel=1e-6)


@lemma
@given(seed=seeds, beta=betas)
def test_03_the_sum_form_exceeds_the_mean_form_by_beta_log_n(seed: int, beta: float) -> None:
    x, _ = draw(seed)
    gap = float(log_sum_exp(x, beta) - log_mean_exp(x, beta))
    assert gap == pytest.approx(beta * np.log(len(x)), rel=1e-4, abs=1e-5)


@lemma
@given(seed=seeds, beta=betas)
def test_04_the_gumbel_loss_is_strictly_convex_with_the_soft_maximum_as_its_minimiser(
    seed: int, beta: float
) -> None:
    x, p = draw(seed)

    def loss(h: float) -> float:
        z = (x - h) / beta
        return float(p @ (np.exp(z) - z - 1.0))

    best = soft(x, p, beta)
    assert p @ np.exp((x - best) / beta) == pytest.approx(1.0)  # stationary
    assert loss(best) == pytest.approx((best - p @ x) / beta, abs=1e-12)
    assert loss(best) >= 0
    for step in (0.1 * beta, beta):
        assert loss(best) < min(loss(best - step), loss(best + step))
        assert loss(best - step) + loss(best + step) > 2 * loss(best)


def test_05_the_partition_estimate_is_unbiased_and_its_logarithm_biased_low() -> None:
    x = np.random.default_rng(0).normal(size=(200_000, 32))
    partition = np.exp(x / 0.5).mean(axis=1)
    # The standard error of the mean is .003; the truth is e^{1/(2 β²)} = e².
    assert partition.mean() == pytest.approx(np.exp(2.0), abs=0.015)
    assert 0.5 * np.log(partition).mean() == pytest.approx(0.873, abs=2e-3)  # the truth is 1


@pytest.mark.parametrize(("beta", "count"), [(0.5, 200), (1.0, 50), (2.0, 20)])
def test_06_the_pac_bound_on_the_soft_maximum(beta: float, count: int) -> None:
    x_max, delta = 1.0, 0.1
    rng = np.random.default_rng(0)
    # The worst case for Hoeffding: all mass on the two ends.
    x = rng.choice([-x_max, x_max], (20_000, count))
    partition = np.cosh(x_max / beta)
    estimate = np.exp(x / beta).mean(axis=1)
    slack = np.sinh(x_max / beta) * np.sqrt(2 * np.log(1 / delta) / count)
    assert (estimate <= partition + slack).mean() >= 1 - delta
    bound = beta * np.log(partition) + beta * slack / partition
    assert (beta * np.log(estimate) <= bound).mean() >= 1 - delta
    both = np.sinh(x_max / beta) * np.sqrt(2 * np.log(2 / delta) / count)
    assert (np.abs(estimate - partition) <= both).mean() >= 1 - delta


@lemma
@given(seed=seeds, beta=betas)
def test_07_hoeffding_bounds_the_distance_to_the_mean(seed: int, beta: float) -> None:
    x, p = draw(seed)
    assert soft(x, p, beta) <= p @ x + np.ptp(x) ** 2 / (8 * beta) + 1e-12


def test_08_the_maximum_of_perturbed_values_is_gumbel() -> None:
    beta, x = 0.7, np.asarray([0.0, 0.5, 2.0])
    rng = np.random.default_rng(0)
    perturbed = x + rng.gumbel(0.0, beta, (400_000, 3))
    top = perturbed.max(axis=1)
    location = beta * logsumexp(x / beta)
    assert top.mean() == pytest.approx(location + EULER * beta, abs=5e-3)
    assert top.std() == pytest.approx(np.pi * beta / np.sqrt(6), rel=5e-3)
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(top, q) == pytest.approx(gumbel_r.ppf(q, location, beta), abs=0.01)
    chosen = np.bincount(perturbed.argmax(axis=1)) / len(top)
    np.testing.assert_allclose(chosen, soft_policy(x, beta), atol=3e-3)
    # n equal ones: the shift is β log n.
    many = rng.gumbel(1.0, beta, (100_000, 20)).max(axis=1)
    assert many.mean() == pytest.approx(1.0 + beta * np.log(20) + EULER * beta, abs=0.015)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_09_zero_mean_gumbel_noise_makes_the_hard_backup_the_soft_one(beta: float) -> None:
    transitions, rewards, _ = random_mdp()
    gamma = 0.8
    rng = np.random.default_rng(1)
    noise = rng.gumbel(-EULER * beta, beta, (50_000, *rewards.shape))

    def noisy(q: np.ndarray) -> np.ndarray:
        return rewards + gamma * transitions @ (q + noise).max(axis=2).mean(axis=0)

    def entropy(q: np.ndarray) -> np.ndarray:
        return rewards + gamma * transitions @ (beta * logsumexp(q / beta, axis=1))

    def reference(q: np.ndarray) -> np.ndarray:
        return rewards + gamma * transitions @ (
            beta * logsumexp(q / beta, axis=1) - beta * np.log(q.shape[1])
        )

    soft_q = iterate(entropy, rewards.shape)
    np.testing.assert_allclose(iterate(noisy, rewards.shape, 40), soft_q, atol=0.05)
    # The fixed point is the value of an entropy bonus: evaluate its policy exactly.
    policy = np.asarray(soft_policy(soft_q, beta), np.float64)
    bonus = -beta * (policy * np.log(policy)).sum(1)
    closed = np.linalg.solve(
        np.eye(5) - gamma * np.einsum("sa,sat->st", policy, transitions),
        (policy * rewards).sum(1) + bonus,
    )
    np.testing.assert_allclose(soft_value(soft_q, beta, form="sum"), closed, rtol=1e-5)
    # The mean form pays β log|A| less at every step that follows.
    shift = gamma * beta * np.log(3) / (1 - gamma)
    np.testing.assert_allclose(soft_q - iterate(reference, rewards.shape), shift, rtol=1e-6)


@lemma
@given(seed=seeds, beta=betas, scale=st.sampled_from([0.1, 0.99, 5.0]))
def test_10_homogeneity(seed: int, beta: float, scale: float) -> None:
    x, p = draw(seed)
    assert soft(scale * x, p, scale * beta) == pytest.approx(scale * soft(x, p, beta), abs=1e-12)
    found = log_mean_exp(scale * x, scale * beta, weights=p)
    assert float(found) == pytest.approx(scale * soft(x, p, beta), rel=1e-4, abs=1e-5)


@lemma
@given(seed=seeds, beta=st.sampled_from([0.3, 1.0, 5.0]))
def test_11_the_soft_bellman_operator_contracts_and_its_value_is_attained(
    seed: int, beta: float
) -> None:
    transitions, rewards, mu = random_mdp(seed)
    rng = np.random.default_rng(seed)

    def backup(q: np.ndarray) -> np.ndarray:
        return rewards + 0.9 * transitions @ (beta * logsumexp(q / beta, axis=1, b=mu))

    a, b = rng.normal(size=(2, *rewards.shape))
    assert np.abs(backup(a) - backup(b)).max() <= 0.9 * np.abs(a - b).max() + 1e-12
    value = beta * logsumexp(a / beta, axis=1, b=mu)
    best = mu * np.exp((a - value[:, None]) / beta)
    np.testing.assert_allclose(best.sum(1), 1.0)  # E_µ e^{(Q-V)/β} = 1
    np.testing.assert_allclose(soft_policy(a, beta, mu), best, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        (best * a).sum(1) - beta * (best * np.log(best / mu)).sum(1), value, atol=1e-10
    )
    other = rng.dirichlet(np.ones(3), 5)
    assert ((other * a).sum(1) - beta * (other * np.log(other / mu)).sum(1) <= value).all()


@lemma
@given(seed=seeds)
def test_12_the_variational_form_of_the_divergence_has_plus_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pi, mu = rng.dirichlet(np.full(5, 2.0), 2)
    best = -np.log(pi / mu)
    assert -mu @ np.exp(-best) - pi @ best + 1 == pytest.approx(kl(pi, mu))
    other = best + rng.normal(0.0, 0.3, 5)
    assert -mu @ np.exp(-other) - pi @ other + 1 <= kl(pi, mu)
    chi = mu @ (pi / mu - 1) ** 2
    assert kl(pi, mu) <= np.log1p(chi) + 1e-12


@lemma
@given(seed=seeds, epsilon=st.sampled_from([0.05, 0.2, 0.5]))
def test_13_the_dual_temperature_spends_the_budget_in_both_forms(seed: int, epsilon: float) -> None:
    x, p = draw(seed, atoms=30)
    beta = float(jitted_dual(x, epsilon, weights=p))
    tilted = tilt(x, p, beta)
    assert kl(tilted, p) == pytest.approx(epsilon, rel=2e-3)
    dual = minimize_scalar(
        lambda t: np.exp(t) * epsilon + soft(x, p, np.exp(t)),
        bounds=(-4, 6),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert beta == pytest.approx(np.exp(dual.x), rel=1e-3)
    # The entropic value-at-risk: the largest mean within the divergence ball, and tilt attains it.
    assert dual.fun == pytest.approx(tilted @ x, rel=1e-4, abs=1e-4)

    def joint(parameters: np.ndarray) -> float:
        value, t = parameters
        z = (x - value) / np.exp(t)
        with np.errstate(over="ignore"):
            return np.exp(t) * (p @ (np.exp(z) - z - 1.0) + epsilon) + p @ x

    # β (E[e^z - z - 1] + ε) + E[x]: E[x] does not depend on (V, β); the minimum is the dual's.
    start = [x.max(), np.log(x.std())]
    found = minimize(joint, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    assert np.exp(found.x[1]) == pytest.approx(beta, rel=1e-3)
    assert found.x[0] == pytest.approx(soft(x, p, beta), abs=1e-3)
    assert found.fun == pytest.approx(dual.fun, abs=1e-8)


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_14_quantiles_of_negative_gumbel_values(beta: float) -> None:
    h = 1.5
    noise = gumbel_l(h, beta)  # h - Gumbel(0, β)
    assert noise.cdf(h) == pytest.approx(1 - np.exp(-1), abs=1e-12)
    assert noise.mean() == pytest.approx(h - EULER * beta)
    assert noise.cdf(h - EULER * beta) == pytest.approx(0.4296, abs=5e-5)
    assert noise.cdf(h + EULER * beta) == pytest.approx(0.83154, abs=5e-6)
    # Its soft maximum is its location: E e^{-G/β} = Γ(2) = 1.
    inside = {"lb": h - 40 * beta, "ub": h + 6 * beta}  # outside lies less than 1e-17 of E
    assert noise.expect(lambda x: np.exp((x - h) / beta), **inside) == pytest.approx(1.0, abs=1e-6)


@lemma
@given(seed=seeds, beta=st.sampled_from([0.5, 1.0, 3.0]))
def test_15_implicit_policies_of_the_related_losses(seed: int, beta: float) -> None:
    x, p = draw(seed)
    value = soft(x, p, beta)
    z = (x - value) / beta
    weights = p * np.expm1(z) / z  # IDQL
    assert weights @ x / weights.sum() == pytest.approx(value, abs=1e-9)

    def sparse_loss(v: float) -> float:  # SQL
        d = 1 + (x - v) / (2 * beta)
        return float(p @ (np.maximum(d, 0) ** 2) + v / beta)

    v = brentq(lambda v: p @ np.maximum(1 + (x - v) / (2 * beta), 0) - 1, -50, 50)
    assert sparse_loss(v) < min(sparse_loss(v - 1e-3), sparse_loss(v + 1e-3))


@pytest.mark.parametrize("weight", [0.6, 0.75, 0.9])
def test_15b_the_total_variation_loss_is_a_quantile(weight: float) -> None:
    x = norm.ppf((np.arange(20_001) + 0.5) / 20_001)

    def loss(v: float) -> float:
        d = x - v
        return np.mean(weight * np.maximum(d, 0) - (1 - weight) * d)

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x
    assert norm.cdf(found) == pytest.approx((2 * weight - 1) / weight, abs=1e-3)


@lemma
@given(seed=seeds)
def test_16_at_large_beta_the_loss_is_half_the_squared_error(seed: int) -> None:
    x, p = draw(seed)
    beta, h = 1e4, 0.7
    z = jnp.asarray((x - h) / beta, jnp.float32)
    bridged = beta**2 * float(p @ np.asarray(maclaurin(z, 8)))
    assert bridged == pytest.approx(0.5 * p @ (x - h) ** 2, rel=1e-3)
    uniform = beta**2 * float(gumbel_loss(z, kind="plain")[0])
    assert uniform == pytest.approx(0.5 * np.mean((x - h) ** 2), rel=1e-3)
    second = beta**2 * float(gumbel_loss(z, kind="maclaurin", order=2)[0])
    assert second == pytest.approx(0.5 * np.mean((x - h) ** 2), rel=1e-5)


@lemma
@given(seed=seeds)
def test_care_that_a_change_of_reference_shifts_the_action_values(seed: int) -> None:
    # Lemma 3.4: the soft value under π equals the one under µ once Q is shifted by −β log(π/µ).
    rng = np.random.default_rng(seed)
    q, beta = rng.normal(size=4), 0.8
    pi, mu = rng.dirichlet(np.full(4, 2.0), 2)
    assert soft(q - beta * np.log(pi / mu), pi, beta) == pytest.approx(soft(q, mu, beta))
    assert abs(soft(q, pi, beta) - soft(q, mu, beta)) > 1e-9


def test_care_that_donsker_and_varadhan_knew_the_log_partition() -> None:
    # log Z = max_π E_π[x] − KL(π‖µ), and the Gumbel loss's minimum is the NWJ bound made tight.
    x, p = draw(3)
    found = minimize(
        lambda f: -(tilt(x, p, 1.0) @ f - np.log(p @ np.exp(f))), np.zeros(6), tol=1e-12
    )
    assert -found.fun == pytest.approx(kl(tilt(x, p, 1.0), p), abs=1e-8)

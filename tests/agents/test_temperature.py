"""Temperatures that tune themselves: the solution of a batch, and its moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from worlds import first_state, spec_of
from xql.agents import SACConfig, XQLConfig, make_xql
from xql.agents.hyperparameters import AUTO
from xql.agents.temperature import (
    AVERAGE_RATE,
    SAMPLES,
    carried_temperatures,
    divergence,
    initial_temperatures,
    lift,
    solve_temperature,
    tune,
)

RANDOM = np.random.default_rng(3)
DISTRIBUTIONS = {
    "normal": RANDOM.normal(size=SAMPLES),
    "exponential": RANDOM.exponential(size=SAMPLES),
    "student-t3": RANDOM.standard_t(3, size=SAMPLES),
    "uniform": RANDOM.uniform(-3, 1, size=SAMPLES),
    "two values": RANDOM.choice([-1.0, 2.0], p=[0.7, 0.3], size=SAMPLES),
}
KLS = (0.02, 0.1, 0.4, 1.0)


def scipy_temperature(d: np.ndarray, kl: float) -> float:
    """The minimiser of β log E[e^{d/β}] + βε, in float64."""
    top = d.max()

    def dual(log_beta: float) -> float:
        beta = np.exp(log_beta)
        return float(beta * np.log(np.mean(np.exp((d - top) / beta))) + top + beta * kl)

    return float(np.exp(minimize_scalar(dual, bounds=(-6, 6), options={"xatol": 1e-9}).x))


@pytest.mark.parametrize("kl", KLS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_temperature_of_a_batch_is_that_of_scipy_s_dual(name: str, kl: float) -> None:
    d = DISTRIBUTIONS[name]
    found = float(solve_temperature(jnp.asarray(d, jnp.float32), kl))
    assert found == pytest.approx(scipy_temperature(d, kl), rel=1e-3)
    assert float(divergence(jnp.asarray(d, jnp.float32), jnp.float32(found))) == pytest.approx(
        kl, rel=1e-3
    )


def test_it_has_the_unit_of_the_differences_to_the_bit() -> None:
    for values in DISTRIBUTIONS.values():
        d = jnp.asarray(values, jnp.float32)
        for power in (-30, -7, 7, 30):
            scale = jnp.float32(2.0**power)
            assert solve_temperature(scale * d, 0.15) == scale * solve_temperature(d, 0.15)


def test_the_lift_of_a_normal_batch_is_its_variance_over_2_beta() -> None:
    d = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, 200_000), jnp.float32)
    betas = jnp.array([2.0, 4.0, 8.0])
    np.testing.assert_allclose(lift(d, betas), 4.0 / (2 * betas), rtol=0.02)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_beta_is_the_least_within_both_bounds(name: str) -> None:
    d = jnp.asarray(DISTRIBUTIONS[name], jnp.float32)
    free = float(solve_temperature(d, 0.1))
    lifted = float(lift(d, jnp.float32(free)))
    # A bound that the KL keeps anyway changes nothing, and a lower one is kept instead.
    assert float(solve_temperature(d, 0.1, 1.01 * lifted)) == pytest.approx(free, rel=1e-3)
    # At the last β is some 1,000 deviations.
    for share in (0.5, 0.05, 0.002):
        held = solve_temperature(d, 0.1, share * lifted)
        assert float(lift(d, held)) == pytest.approx(share * lifted, rel=5e-3)
        assert float(held) > free and float(divergence(d, held)) < 0.1
        scale = jnp.float32(2.0**7)
        assert solve_temperature(scale * d, 0.1, scale * share * lifted) == pytest.approx(
            float(scale * held), rel=1e-6
        )
    assert solve_temperature(jnp.full(SAMPLES, 3.0), 0.1, 1.0) == 0.0


def test_what_a_batch_cannot_reach() -> None:
    equal = jnp.full(SAMPLES, 3.0)
    assert solve_temperature(equal, 0.15) == 0.0
    # Half of the samples are the largest: no weights are further than log 2 from uniform.
    halves = jnp.tile(jnp.array([0.0, 1.0]), SAMPLES // 2)
    found = float(solve_temperature(halves, 1.0))
    assert 0 < found < 0.02
    assert float(divergence(halves, jnp.float32(found))) == pytest.approx(np.log(2), rel=1e-4)


def test_the_average_is_of_the_log_and_the_first_batches_weigh_the_same() -> None:
    d = jnp.asarray(DISTRIBUTIONS["normal"], jnp.float32)
    solved = float(solve_temperature(d, 0.15))
    beta = jnp.float32(1e6)  # as if anything had stood there
    for step, scale in enumerate((1.0, 4.0, 16.0)):
        beta = tune(beta, scale * d, 0.15, 0.0, jnp.int32(step)).temperature
        if step == 0:
            assert float(beta) == pytest.approx(solved, rel=1e-5)
    kept = 1 - AVERAGE_RATE
    weights = np.array([kept**2, kept, 1.0])
    expected = np.exp(weights @ np.log(solved * np.array([1.0, 4.0, 16.0])) / weights.sum())
    assert float(beta) == pytest.approx(expected, rel=1e-4)


def test_only_the_first_samples_of_a_large_batch_count() -> None:
    d = jnp.asarray(DISTRIBUTIONS["normal"], jnp.float32)
    more = jnp.concatenate([d, 100 * d])
    first, whole = (tune(jnp.float32(1), x, 0.15, 0.0, jnp.int32(0)) for x in (d, more))
    assert first.temperature == whole.temperature
    assert first.kl == whole.kl


def test_no_batch_goes_below_the_floor() -> None:
    d = jnp.asarray(DISTRIBUTIONS["normal"], jnp.float32)
    free = tune(jnp.float32(1), d, 0.15, 0.0, jnp.int32(0))
    held = tune(jnp.float32(1), d, 0.15, 10.0, jnp.int32(0))
    assert held.temperature == pytest.approx(10.0, rel=1e-5)
    assert float(held.kl) < 0.01 < float(free.kl)
    assert 0.5 < float(free.effective_sample_size) < float(held.effective_sample_size) <= 1.0


@pytest.mark.parametrize("samples", [1, SAMPLES])
def test_equal_differences_leave_it_as_it_was(samples: int) -> None:
    # Also at first: at a temperature near 0 the loss of equal differences is not finite.
    equal = jnp.full(samples, 3.0)
    for step in (0, 1):
        beta = tune(jnp.float32(2), equal, 0.15, 0.0, jnp.int32(step)).temperature
        assert float(beta) == 2.0


def test_a_state_has_the_temperatures_that_tune_themselves_and_no_others() -> None:
    assert initial_temperatures(XQLConfig()) == {}
    assert list(initial_temperatures(XQLConfig(beta=AUTO))) == ["value"]
    both = XQLConfig(beta=AUTO, inverse_temperature=AUTO)
    assert list(initial_temperatures(both)) == ["value", "policy"]
    without_weights = XQLConfig(inverse_temperature=AUTO, policy="ddpg_bc")
    assert initial_temperatures(without_weights) == {}
    assert initial_temperatures(SACConfig()) == {}
    assert jax.tree.leaves(XQLConfig(beta=AUTO)) == jax.tree.leaves(XQLConfig())[1:]


def test_without_an_inverse_temperature_one_that_tunes_itself_begins_as_a_fresh_one() -> None:
    agent = make_xql(XQLConfig(hidden=(4,), inverse_temperature=0.0), 1)
    state = first_state(agent, spec_of(1, 1))
    assert carried_temperatures(state, ["policy"]) == {"policy": 1.0}

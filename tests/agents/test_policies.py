"""The policies: densities against scipy, draws against their moments, bounds everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jaxtyping import Array

from worlds import constant
from xql.agents.networks import MLP, Linear
from xql.agents.policies import DeterministicPolicy, GaussianPolicy, SquashedGaussianPolicy, project
from xql.agents.update import trainable


def float32(*values: float) -> Array:
    return jnp.array(values, jnp.float32)


def network(inputs: int, outputs: int) -> MLP:
    """One hidden layer. Drawn with NumPy: orthogonal weights take seconds to compile."""
    random = np.random.default_rng(0)
    sizes = ((inputs, 8), (8, outputs))
    layers = (
        Linear(jnp.float32(0.4 * random.normal(size=size)), jnp.zeros(size[1])) for size in sizes
    )
    return MLP(tuple(layers), ())


def gaussian(low: float = -2.0, high: float = 4.0, log_std: float = 0.0) -> GaussianPolicy:
    return GaussianPolicy(network(1, 1), float32(log_std), (low,), (high,))


def test_log_probability_is_the_normal_s() -> None:
    random = np.random.default_rng(1)
    low, high = (-2.0, 0.0), (4.0, 1.0)
    policy = GaussianPolicy(network(3, 2), float32(-0.7, 0.4), low, high)
    s, a = (jnp.float32(random.normal(size=(6, size))) for size in (3, 2))
    means, log_probs = jax.jit(lambda: (policy.mean(s), policy.log_prob(s, a)))()
    centre, half = np.array([1.0, 0.5]), np.array([3.0, 0.5])
    mean, unit = ((np.asarray(actions) - centre) / half for actions in (means, a))
    by_scipy = scipy.stats.norm.logpdf(unit, mean, np.exp([-0.7, 0.4])).sum(-1)
    np.testing.assert_allclose(log_probs, by_scipy, rtol=1e-4)


def test_the_log_deviation_is_projected_into_its_range() -> None:
    for beyond, bound in ((-40.0, -5.0), (7.0, 2.0), (0.5, 0.5)):
        projected = project(trainable(gaussian(log_std=beyond)))
        np.testing.assert_array_equal(projected.network.log_std, [bound])


def test_samples_have_the_policy_s_moments_and_stay_in_bounds() -> None:
    policy = gaussian(log_std=-2.0)
    s = jnp.full((20_000, 1), 0.3)
    draws = np.asarray(policy.sample(s, jax.random.key(0)))
    mean, deviation = float(policy.mean(s)[0, 0]), 3.0 * np.exp(-2.0)
    assert abs(mean - 1.0) < 3.0 - 3 * deviation  # far enough from the bounds for no clipping
    assert draws.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(len(draws)))
    assert draws.std() == pytest.approx(deviation, rel=0.03)
    draws = np.asarray(gaussian(log_std=2.0).sample(s, jax.random.key(0)))
    assert draws.min() == -2.0 and draws.max() == 4.0


def test_the_mode_stays_within_bounds_however_large_the_output() -> None:
    modes = np.asarray(gaussian().mean(float32(-1e6, 1e6)[:, None]))
    assert modes.min() >= -2.0 and modes.max() <= 4.0


@pytest.mark.parametrize("bounds", [(58.790947, 86.0341), (1.0, 3.3)], ids=str)
def test_acting_stays_within_bounds_that_rounding_passes(bounds: tuple[float, float]) -> None:
    """centre ± half range is below the first low end, and above the second high end."""
    low, high = (np.float32(end) for end in bounds)
    ends = (float(low),), (float(high),)
    s, key = jnp.zeros((1, 1)), jax.random.key(0)
    for policy in (
        GaussianPolicy(network(1, 1), float32(-5.0), *ends),
        DeterministicPolicy(network(1, 1), *ends),
        SquashedGaussianPolicy(network(1, 2), *ends),
    ):
        saturated = [constant(policy, bias) for bias in (-20.0, 20.0)]
        acted = np.asarray([f(s) for f in saturated] + [f(s, key) for f in saturated])
        assert low <= acted.min() and acted.max() <= high
        # What a loss differentiates is not clipped, which would take its gradient.
        means = np.asarray([one.mean(s) for one in saturated])
        assert means.min() < low or means.max() > high


def test_to_call_a_policy_is_its_mode_or_with_a_key_a_draw() -> None:
    s, key = jnp.ones((5, 1)), jax.random.key(0)
    squashed = SquashedGaussianPolicy(network(1, 2), (-2.0,), (4.0,))
    for policy in (gaussian(log_std=-1.0), squashed):
        np.testing.assert_array_equal(policy(s), policy.mean(s))
        np.testing.assert_array_equal(policy(s, key), policy.sample(s, key))
        assert len(np.unique(policy(s, key))) > 1
    # A deterministic policy's draw is its mode, unless it is given noise to explore with.
    plain = DeterministicPolicy(network(1, 1), (-2.0,), (4.0,))
    np.testing.assert_array_equal(plain(s, key), plain(s))


def deterministic() -> DeterministicPolicy:
    """Of two actions, within [-1, 1] and [-3, 5]."""
    return DeterministicPolicy(network(1, 2), (-1.0, -3.0), (1.0, 5.0))


def noisy(bias: float, noise: float, limit: float) -> np.ndarray:
    """Many draws of a policy whose network gives `bias` everywhere."""
    policy = constant(deterministic(), bias, bias)
    return np.asarray(policy.sample(jnp.zeros((20_000, 1)), jax.random.key(1), noise, limit)).T


def test_noise_is_scaled_to_each_dimension_s_range() -> None:
    # Around the centres 0 and 1, deviations 0.2 · 1 and 0.2 · 4; nothing reaches the limits.
    actions = noisy(bias=0.0, noise=0.2, limit=10.0)
    np.testing.assert_allclose(actions.mean(1), [0.0, 1.0], atol=0.03)
    np.testing.assert_allclose(actions.std(1), [0.2, 0.8], rtol=0.03)
    assert abs(np.corrcoef(actions)[0, 1]) < 0.03
    # A normal that is held at 2.5 of its deviations keeps .9776 of its variance.
    scaled = noisy(bias=0.0, noise=0.2, limit=0.5)
    np.testing.assert_allclose(scaled.std(1), 0.2 * 0.9776**0.5 * np.array([1, 4]), rtol=0.03)


def test_noise_is_cut_off_and_the_action_stays_within_its_bounds() -> None:
    # Noise a thousand times the limit: ±0.5 of half the range around the centre, nothing between.
    actions = noisy(bias=0.0, noise=1000.0, limit=0.5)
    near = [np.abs(actions[0, :, None] - [-0.5, 0.5]), np.abs(actions[1, :, None] - [-1.0, 3.0])]
    assert (np.min(near, axis=-1) < 1e-4).mean() > 0.99
    np.testing.assert_allclose(actions.min(1), [-0.5, -1.0], atol=1e-5)
    np.testing.assert_allclose(actions.max(1), [0.5, 3.0], atol=1e-5)
    # A policy on its upper bound (tanh 10 ≈ 1) can only go down.
    actions = noisy(bias=10.0, noise=1000.0, limit=0.5)
    np.testing.assert_allclose(actions.max(1), [1.0, 5.0], atol=1e-5)
    np.testing.assert_allclose(actions.min(1), [0.5, 3.0], atol=1e-5)


def test_distances_are_in_halves_of_the_action_range() -> None:
    policy = deterministic()
    # (0.5, 2) apart in bounds of half ranges 1 and 4: 0.5² + 0.5².
    found = policy.distance(float32(0.5, 3.0), float32(0.0, 1.0))
    assert float(found) == pytest.approx(0.5)


def test_the_squashed_density_is_the_textbook_s_at_draws_and_at_given_actions() -> None:
    mlp = MLP((Linear(jnp.zeros((1, 2)), float32(0.3, 0.1)),), ())
    policy = SquashedGaussianPolicy(mlp, (-1.0,), (3.0,))
    log_std = -5 + 7 * (np.tanh(0.1) + 1) / 2
    s = jnp.zeros((64, 1))
    actions, log_prob = policy.sample_with_log_prob(s, jax.random.key(0))
    unit = (np.asarray(actions, np.float64)[:, 0] - 1) / 2
    inner = np.abs(unit) < 0.99  # nearer to a bound, float32 actions have lost the density's digits
    assert inner.mean() > 0.5
    normal = scipy.stats.norm.logpdf(np.arctanh(unit[inner]), 0.3, np.exp(log_std))
    by_hand = normal - np.log(1 - unit[inner] ** 2)
    np.testing.assert_allclose(np.asarray(log_prob)[inner], by_hand, rtol=1e-3, atol=1e-3)
    found = np.asarray(policy.log_prob(s, actions))[inner]
    np.testing.assert_allclose(found, by_hand, rtol=1e-3, atol=1e-3)
    # On a bound the density is infinite; what is given there stays finite.
    assert np.isfinite(policy.log_prob(s[:2], float32(-1.0, 3.0)[:, None])).all()

"""One gradient step at a time, against numbers worked out by hand or by scipy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jaxtyping import Array

from xql.agents import update as steps
from xql.agents.networks import MLP, Critic, LayerNorm, Linear, Value
from xql.agents.policies import GaussianPolicy

# Compiled whole: step by step, every operation would be compiled by itself.
fit_value = jax.jit(steps.fit_value_gumbel, static_argnames=("kind", "order", "max_gradient_norm"))
fit_critic = jax.jit(steps.fit_critic, static_argnames=("kind", "huber_delta"))
fit_policy = jax.jit(steps.fit_policy_weighted)


def float32(*values: float) -> Array:
    return jnp.array(values, jnp.float32)


def constant_value(number: float) -> Value:
    """V(s) = number, whatever s of size 1."""
    return Value(MLP((Linear(jnp.zeros((1, 1)), float32(number)),), ()))


def constant_critic(*numbers: float) -> Critic:
    """One member per number, each constant in s and a of size 1."""
    return Critic(tuple(MLP((Linear(jnp.zeros((2, 1)), float32(n)),), ()) for n in numbers))


def bias(value: Value) -> float:
    return float(value.mlp.layers[-1].bias[0])


# Adam's first step is the learning rate in the direction of the gradient's sign, so the gradient
# itself is read from its first moment: mu = (1 − 0.9) · gradient.
def gradient(model: steps.Trainable) -> eqx.Module:
    return jax.tree.map(lambda mu: mu / 0.1, model.optimizer.mu)


def test_the_value_gradient_by_hand() -> None:
    # z = (Q − V)/β with V = 1, β = 2: Q = (1, 3, −1) gives z = (0, 1, −1), and
    # dJ/dV = mean(1 − e^z)/β = ((1 − 1) + (1 − e) + (1 − 1/e))/(3 · 2).
    value, metrics = fit_value(
        steps.trainable(constant_value(1.0)),
        jnp.zeros((3, 1)),
        float32(1.0, 3.0, -1.0),
        beta=jnp.float32(2.0),
        learning_rate=jnp.float32(0.01),
        kind="linear",
        clip=jnp.float32(5.0),
    )
    by_hand = (2 - np.e - 1 / np.e) / 6
    assert bias(gradient(value)) == pytest.approx(by_hand, rel=1e-5)
    assert bias(value.network) == pytest.approx(1.0 + 0.01, abs=1e-6)  # towards the larger Q
    assert float(metrics["value_loss"]) == pytest.approx((np.e + 1 / np.e - 2) / 3, rel=1e-5)
    assert float(metrics["value"]) == 1.0
    assert float(metrics["mean_exp"]) == pytest.approx((1 + np.e + 1 / np.e) / 3, rel=1e-5)


def test_the_gradient_norm_is_scaled_down_but_never_up() -> None:
    def step(target: float, limit: float | None) -> Value:
        value, _ = fit_value(
            steps.trainable(constant_value(0.0)),
            jnp.zeros((1, 1)),
            float32(target),
            beta=jnp.float32(1.0),
            learning_rate=jnp.float32(0.01),
            kind="linear",
            clip=jnp.float32(5.0),
            max_gradient_norm=limit,
        )
        return gradient(value)

    assert bias(step(3.0, None)) == pytest.approx(1 - np.exp(3.0), rel=1e-5)
    assert bias(step(3.0, 1.0)) == pytest.approx(-1.0, rel=1e-5)
    assert bias(step(0.1, 1.0)) == pytest.approx(1 - np.exp(0.1), rel=1e-4)


@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_the_critic_gradient_by_hand(kind: steps.CriticLoss) -> None:
    # Errors q − y of the members at y = (0, 50): (1, −49) and (−2, −52). Squared: their mean.
    # Huber with δ = 20 cuts each at ±20.
    critic, metrics = fit_critic(
        steps.trainable(constant_critic(1.0, -2.0)),
        jnp.zeros((2, 1)),
        jnp.zeros((2, 1)),
        float32(0.0, 50.0),
        learning_rate=jnp.float32(0.01),
        kind=kind,
        huber_delta=20.0,
    )
    found = [float(mlp.layers[-1].bias[0]) for mlp in gradient(critic).mlps]
    by_hand = [-24.0, -27.0] if kind == "squared" else [(1 - 20) / 2, (-2 - 20) / 2]
    assert found == pytest.approx(by_hand)
    assert float(metrics["bellman_error"]) == pytest.approx((1 + 49 + 2 + 52) / 4)
    each = [[0.5, 49**2 / 2], [2.0, 52**2 / 2]]
    if kind == "huber":
        each = [[0.5, 20 * (49 - 10)], [2.0, 20 * (52 - 10)]]
    assert float(metrics["critic_loss"]) == pytest.approx(np.mean(each, axis=1).sum(), rel=1e-6)


def test_small_bellman_errors_are_the_same_to_both_critic_losses() -> None:
    def step(kind: steps.CriticLoss) -> tuple[Critic, dict[str, Array]]:
        model = steps.trainable(constant_critic(1.0))
        targets = float32(0.5)
        one = jnp.zeros((1, 1))
        rate = jnp.float32(0.01)
        return fit_critic(model, one, one, targets, learning_rate=rate, kind=kind, huber_delta=20.0)

    assert float(step("squared")[1]["critic_loss"]) == float(step("huber")[1]["critic_loss"])


def test_a_trained_step_is_optax_adam() -> None:
    model = steps.trainable(Value.create(jax.random.key(0), 3, (8,), layer_norm=True))
    network, adam = model.network, optax.adam(0.01)
    state = adam.init(network)
    observations = jax.random.normal(jax.random.key(1), (5, 3))

    def loss(value: Value) -> tuple[Array, dict[str, Array]]:
        return jnp.square(value(observations) - 2.0).mean(), {}

    @jax.jit
    def both(
        model: steps.Trainable, network: Value, state: optax.OptState
    ) -> tuple[steps.Trainable, Value, optax.OptState]:
        change, state = adam.update(jax.grad(lambda v: loss(v)[0])(network), state, network)
        model, _ = steps.descend(model, loss, jnp.float32(0.01))
        return model, optax.apply_updates(network, change), state

    for _ in range(3):
        model, network, state = both(model, network, state)
    for ours, theirs in zip(jax.tree.leaves(model.network), jax.tree.leaves(network), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_advantage_weights() -> None:
    weights = steps.advantage_weights(
        float32(0.0, 1.0, -1.0, 2.0, 1e6), jnp.float32(3.0), jnp.float32(100.0)
    )
    np.testing.assert_allclose(weights, [1.0, np.exp(3.0), np.exp(-3.0), 100.0, 100.0], rtol=1e-5)


def test_the_weights_are_the_likelihood_s_gradient_weights() -> None:
    # Doubling a sample's weight counts it twice: (a, a, b) unweighted against (a, b) with (2, 1),
    # up to the means over 3 and over 2.
    policy = GaussianPolicy.create(jax.random.key(0), 1, (-1.0,), (1.0,), (4,))

    def step(rows: list[int], weights: Array) -> GaussianPolicy:
        s, a = float32(0.3, -0.8)[:, None], float32(0.5, -0.2)[:, None]
        fitted, _ = fit_policy(
            steps.trainable(policy),
            s[jnp.array(rows)],
            a[jnp.array(rows)],
            weights,
            learning_rate=jnp.float32(0.0),
        )
        return gradient(fitted)

    twice = jax.tree.map(lambda g: 3 * g, step([0, 0, 1], jnp.ones(3)))
    weighted = jax.tree.map(lambda g: 2 * g, step([0, 1], float32(2.0, 1.0)))
    for one, other in zip(jax.tree.leaves(twice), jax.tree.leaves(weighted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_polyak_moves_its_share_of_the_way() -> None:
    target = {"w": float32(0.0, 4.0), "b": jnp.float32(1.0)}
    online = {"w": float32(1.0, 0.0), "b": jnp.float32(1.0)}
    moved = steps.polyak(target, online, jnp.float32(0.25))
    np.testing.assert_allclose(moved["w"], [0.25, 3.0])
    assert float(moved["b"]) == 1.0


def test_the_learning_rate_s_decay() -> None:
    def at(schedule: steps.Schedule, step: int) -> float:
        return float(steps.decay(schedule, jnp.int32(step), 100))

    assert [at("constant", step) for step in (0, 50, 1000)] == [1.0, 1.0, 1.0]
    assert at("cosine", 0) == 1.0
    assert at("cosine", 25) == pytest.approx(0.5 * (1 + np.sqrt(0.5)), abs=1e-6)
    assert at("cosine", 50) == pytest.approx(0.5, abs=1e-6)
    assert at("cosine", 100) == pytest.approx(0.0, abs=1e-6)
    assert at("cosine", 150) == pytest.approx(0.0, abs=1e-6)  # and it does not rise again


def test_log_probability_is_the_normal_s() -> None:
    low, high = (-2.0, 0.0), (4.0, 1.0)
    policy = GaussianPolicy.create(jax.random.key(3), 3, low, high, (8,))
    policy = eqx.tree_at(lambda p: p.log_std, policy, float32(-0.7, 0.4))
    s = jax.random.normal(jax.random.key(1), (6, 3))
    a = jax.random.uniform(jax.random.key(2), (6, 2), minval=jnp.array(low), maxval=jnp.array(high))
    centre, half = np.array([1.0, 0.5]), np.array([3.0, 0.5])
    mean = (np.asarray(policy.mean(s)) - centre) / half
    unit = (np.asarray(a) - centre) / half
    by_scipy = scipy.stats.norm.logpdf(unit, mean, np.exp([-0.7, 0.4])).sum(-1)
    np.testing.assert_allclose(policy.log_prob(s, a), by_scipy, rtol=1e-4)


def test_the_log_deviation_stays_within_its_range_and_comes_back() -> None:
    policy = GaussianPolicy.create(jax.random.key(3), 1, (-1.0,), (1.0,), (8,))
    for beyond, bound in ((-40.0, -5.0), (7.0, 2.0)):
        far = eqx.tree_at(lambda p: p.log_std, policy, float32(beyond))
        np.testing.assert_array_equal(far.projected().log_std, bound)

    # On the lower bound with actions far from the mean, one step must widen the policy again.
    narrow = eqx.tree_at(lambda p: p.log_std, policy, jnp.array([-5.0]))
    s, a = jnp.zeros((4, 1)), jnp.array([[-0.9], [0.9], [-0.9], [0.9]])
    after, _ = steps.fit_policy_weighted(
        steps.trainable(narrow), s, a, jnp.ones(4), learning_rate=jnp.float32(0.1)
    )
    assert float(after.network.log_std[0]) == pytest.approx(-4.9, abs=1e-4)

    # And with all actions on the mean it stays on the bound.
    mean = narrow.mean(s)
    after, _ = steps.fit_policy_weighted(
        steps.trainable(narrow), s, mean, jnp.ones(4), learning_rate=jnp.float32(0.1)
    )
    assert float(after.network.log_std[0]) == -5.0


def test_samples_have_the_policy_s_moments_and_stay_in_bounds() -> None:
    policy = GaussianPolicy.create(jax.random.key(3), 1, (-2.0,), (4.0,), (8,))
    policy = eqx.tree_at(lambda p: p.log_std, policy, float32(-2.0))
    s = jnp.full((20_000, 1), 0.3)
    draws = np.asarray(policy.sample(s, jax.random.key(0)))
    mean, deviation = float(policy.mean(s)[0, 0]), 3.0 * np.exp(-2.0)
    assert abs(mean - 1.0) < 3.0 - 3 * deviation  # far enough from the bounds for no clipping
    assert draws.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(len(draws)))
    assert draws.std() == pytest.approx(deviation, rel=0.03)
    wide = eqx.tree_at(lambda p: p.log_std, policy, float32(2.0))
    draws = np.asarray(wide.sample(s, jax.random.key(0)))
    assert draws.min() == -2.0 and draws.max() == 4.0


def test_the_mode_stays_within_bounds_however_large_the_output() -> None:
    policy = GaussianPolicy.create(jax.random.key(3), 1, (-2.0,), (4.0,), (8,))
    modes = np.asarray(policy.mean(float32(-1e6, 1e6)[:, None]))
    assert modes.min() >= -2.0 and modes.max() <= 4.0


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


def test_initial_weights_are_orthogonal_with_gain_root_two() -> None:
    weight = Linear.create(jax.random.key(0), 16, 8).weight
    np.testing.assert_allclose(weight.T @ weight, 2.0 * np.eye(8), atol=1e-5)


def test_critics_of_an_ensemble_differ_and_see_the_action() -> None:
    critic = Critic.create(jax.random.key(0), 2, 1, (16,), members=3)
    s, a = jnp.ones((4, 2)), float32(-1.0, -0.5, 0.5, 1.0)[:, None]
    q = np.asarray(critic(s, a))
    assert q.shape == (3, 4)
    assert len(np.unique(q)) == 12


def test_a_population_makes_a_delayed_update_only_when_it_is_due() -> None:
    def one(value: Array, step: Array) -> Array:
        changed, _ = steps.every(2, step, lambda: (value + 1, {}), value)
        return jnp.asarray(changed)

    values, lockstep = jnp.arange(3.0), jnp.full(3, 7)
    # A choice that is left to each member would be a selection, with the update made every time.
    program = str(jax.make_jaxpr(jax.vmap(one))(values, lockstep))
    assert "cond[" in program
    assert jax.vmap(one)(values, lockstep).tolist() == [0.0, 1.0, 2.0]
    assert jax.vmap(one)(values, lockstep + 1).tolist() == [1.0, 2.0, 3.0]
    # A frozen member has stayed behind at a step of the other parity: it has no say.
    frozen = jnp.array([8, 5, 8])
    assert jax.vmap(one)(values, frozen)[jnp.array([0, 2])].tolist() == [1.0, 3.0]
    frozen = jnp.array([7, 4, 7])
    assert jax.vmap(one)(values, frozen)[jnp.array([0, 2])].tolist() == [0.0, 2.0]

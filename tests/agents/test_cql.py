"""CQL: the penalty against a hand-computed discrete case, its price, and the settings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import constant, first_state, in_place, one_update, random_batch, same_bits
from xql.agents import CQLConfig, Spec, cql, steps
from xql.agents.cql import penalty_actions
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.policies import SquashedGaussianPolicy
from xql.presets import settings

SPEC = Spec(3, (-1.0, -2.0), (1.0, 2.0))
SMALL: dict[str, Any] = {"hidden": (8,), "critic_hidden": (8,), "batch_size": 6, "samples": 4}
AGENT = cql(CQLConfig(**SMALL), 10)
PRICED = cql(CQLConfig(**SMALL, lagrange=True), 10)


def table(*values: float) -> Critic:
    """Q(a) of a one-hot action, whatever s of size 1: the weights of one layer."""
    weights = jnp.array([0.0, *values])[:, None]
    return Critic((MLP((Linear(weights, jnp.zeros(1)),), ()),))


def conservative(weight: float, log_densities: Array) -> tuple[np.ndarray, dict[str, Array]]:
    """The gradient in Q(a) at Q = (1, 2, 4), for two rows of actions 0 and 1 with targets 1 and 0.

    All three actions are sampled for each row.
    """
    critic, metrics = jax.jit(steps.fit_critic_conservative)(
        steps.trainable(table(1.0, 2.0, 4.0)),
        jnp.ones((2, 1)),
        jnp.eye(3)[:2],
        jnp.array([1.0, 0.0]),
        jnp.tile(jnp.eye(3)[:, None], (1, 2, 1)),
        log_densities,
        weight=jnp.float32(weight),
        learning_rate=jnp.float32(0.01),
    )
    return np.asarray(critic.optimizer.mu.mlps[0].layers[0].weight)[1:, 0] / 0.1, metrics


def test_the_penalty_on_three_actions_by_hand() -> None:
    # log Σ e^Q = log(e + e² + e⁴) less the data's mean Q of 1.5. Its gradient is softmax(Q) less
    # how often the data has each action, (½, ½, 0); the errors 0 and 2 add (0, 2 · 2 / 2, 0).
    gradient, metrics = conservative(0.5, jnp.zeros((3, 2)))
    odds = np.exp([1.0, 2.0, 4.0])
    assert float(metrics["gap"]) == pytest.approx(np.log(odds.sum()) - 1.5, rel=1e-5)
    assert float(metrics["critic_loss"]) == pytest.approx((0 + 4) / 2, rel=1e-5)
    by_hand = np.array([0.0, 2.0, 0.0]) + 0.5 * (odds / odds.sum() - [0.5, 0.5, 0.0])
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-4, atol=1e-6)


def test_without_a_penalty_it_is_the_squared_error_alone() -> None:
    gradient, _ = conservative(0.0, jnp.zeros((3, 2)))
    np.testing.assert_allclose(gradient, [0.0, 2.0, 0.0], atol=1e-6)


def test_rare_samples_count_by_the_inverse_of_their_density() -> None:
    # Densities ½, ¼, ¼: e^Q/p has odds 2e : 4e² : 4e⁴.
    densities = np.array([0.5, 0.25, 0.25])
    logs = jnp.tile(jnp.log(jnp.array(densities, jnp.float32))[:, None], (1, 2))
    gradient, metrics = conservative(1.0, logs)
    odds = np.exp([1.0, 2.0, 4.0]) / densities
    assert float(metrics["gap"]) == pytest.approx(np.log(odds.sum()) - 1.5, rel=1e-5)
    by_hand = np.array([0.0, 2.0, 0.0]) + odds / odds.sum() - [0.5, 0.5, 0.0]
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def drawn() -> tuple[SquashedGaussianPolicy, Array, Array]:
    # A quieter policy than a fresh one: near the bounds a density cannot be told from its action.
    policy = jax.tree.map(lambda leaf: 0.4 * leaf, first_state(AGENT, SPEC).policy.network)
    batch = random_batch(6, SPEC)
    actions, logs = jax.jit(penalty_actions, static_argnums=1)(policy, 4, batch, jax.random.key(1))
    return policy, actions, logs


def test_the_samples_are_uniform_then_the_policy_s_here_then_there(
    drawn: tuple[SquashedGaussianPolicy, Array, Array],
) -> None:
    policy, actions, logs = drawn
    batch = random_batch(6, SPEC)
    assert actions.shape == (12, 6, 2) and logs.shape == (12, 6)
    # Of actions rescaled to [-1, 1], 2 dimensions: (1/2)².
    np.testing.assert_allclose(logs[:4], np.log(0.25), rtol=1e-6)
    for block, states in (
        (slice(4, 8), batch.observations),
        (slice(8, 12), batch.next_observations),
    ):
        for one, log in zip(actions[block], logs[block], strict=True):
            np.testing.assert_allclose(policy.log_prob(states, one), log, rtol=2e-3, atol=2e-3)
    assert (np.abs(actions) <= np.array([1.0, 2.0])).all()
    # Every draw is its own.
    assert len(np.unique(np.asarray(actions)[..., 0])) == 12 * 6


def test_the_weighted_sum_estimates_the_integral_over_all_actions() -> None:
    # Q = 0: the mean of 1/p over each kind of sample is the volume of [-1, 1]², 4.
    # Of a Gaussian of mean 0 and deviation 1 (raw output .458), which tanh makes nearly uniform.
    policy = constant(first_state(AGENT, SPEC).policy.network, 0.0, 0.0, 0.458, 0.458)
    _, logs = jax.jit(penalty_actions, static_argnums=1)(
        policy, 500, random_batch(6, SPEC), jax.random.key(0)
    )
    each = np.exp(-np.asarray(logs, np.float64)).reshape(3, -1).mean(1)
    assert each == pytest.approx([4.0, 4.0, 4.0], rel=0.03)


def test_the_backup_by_hand() -> None:
    # Targets 1 and 2 + .9 · 2 = 3.8 at masks 0 and 1; Q = 3: errors 2 and −.8, squared whole.
    state = first_state(AGENT, SPEC)
    state = in_place(
        state._replace(hyper=state.hyper._replace(discount=jnp.float32(0.9))),
        critic=constant(state.critic.network, 3.0, 3.0),
        target_critic=constant(state.target_critic, 5.0, 2.0),
    )
    batch = random_batch(6, SPEC)._replace(
        rewards=jnp.array([1.0, 2.0] * 3), masks=jnp.array([0.0, 1.0] * 3)
    )
    _, metrics = one_update(AGENT, state, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(2 * (4 + 0.64) / 2, rel=1e-5)


@pytest.mark.parametrize("best", [False, True])
def test_the_backup_takes_one_action_of_the_policy_or_the_best_of_n(best: bool) -> None:
    # Q̄(s, a) = 3 a₀: the targets are known from the very actions that were drawn.
    agent = cql(CQLConfig(**(SMALL | {"critic_hidden": ()}), max_backup=best), 10)
    state, batch = first_state(agent, SPEC), random_batch(6, SPEC)
    slope = jnp.zeros((5, 1)).at[3, 0].set(3.0)
    target = Critic(tuple(MLP((Linear(slope, jnp.zeros(1)),), ()) for _ in range(2)))
    state = in_place(state, target_critic=target, critic=constant(state.critic.network, 0.0, 0.0))
    samples_key = jax.random.split(state.key, 3)[1]
    actions, _ = jax.jit(penalty_actions, static_argnums=1)(
        state.policy.network, 4, batch, samples_key
    )
    after = 3 * np.asarray(actions)[8:, :, 0]
    next_q = after.max(0) if best else after[-1]
    targets = np.asarray(batch.rewards) + 0.99 * np.asarray(batch.masks) * next_q
    _, metrics = one_update(agent, state, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(2 * np.square(targets).mean(), rel=1e-3)


def test_the_price_of_the_gap_rises_above_its_target_and_falls_below() -> None:
    state, batch = first_state(PRICED, SPEC), random_batch(6, SPEC)
    for target, direction in ((-50.0, 1.0), (50.0, -1.0)):
        asked = state._replace(hyper=state.hyper._replace(target_gap=jnp.float32(target)))
        after, metrics = one_update(PRICED, asked, batch)
        assert float(metrics["multiplier"]) == 1.0
        assert float(after.multiplier.network) == pytest.approx(direction * 3e-4, rel=1e-3)
    # The slope of −e^m · excess in m is −e^m · excess: at m = log 2 and 3 too much, −6.
    priced = steps.trainable(jnp.log(jnp.float32(2.0)))
    after, _ = steps.fit_multiplier(priced, jnp.float32(3.0), learning_rate=jnp.float32(0.1))
    assert float(after.optimizer.mu) / 0.1 == pytest.approx(-6.0, rel=1e-5)


def test_the_price_multiplies_the_penalty() -> None:
    # α' = 4 and α = .5 do what α = 2 does.
    batch = random_batch(6, SPEC)
    state = first_state(PRICED, SPEC)
    dear = in_place(
        state._replace(hyper=state.hyper._replace(penalty=jnp.float32(0.5))),
        multiplier=jnp.log(jnp.float32(4.0)),
    )
    plain = first_state(AGENT, SPEC)
    plain = plain._replace(hyper=plain.hyper._replace(penalty=jnp.float32(2.0)))
    ours, theirs = one_update(PRICED, dear, batch)[0], one_update(AGENT, plain, batch)[0]
    for a, b in zip(jax.tree.leaves(ours.critic), jax.tree.leaves(theirs.critic), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_price_stays_finite() -> None:
    high = steps.trainable(jnp.float32(steps.MOST_LOG_MULTIPLIER))
    after, _ = steps.fit_multiplier(high, jnp.float32(1e6), learning_rate=jnp.float32(1.0))
    assert float(after.network) == pytest.approx(steps.MOST_LOG_MULTIPLIER)
    back, _ = steps.fit_multiplier(after, jnp.float32(-1e9), learning_rate=jnp.float32(1.0))
    assert float(back.network) < steps.MOST_LOG_MULTIPLIER


def test_the_weight_of_the_entropy_is_soft_actor_critic_s() -> None:
    # A fresh policy's entropy is above −2, so that its weight falls from 1.
    state = first_state(AGENT, SPEC)
    after, metrics = one_update(AGENT, state, random_batch(6, SPEC))
    assert float(metrics["entropy"]) > -2.0
    assert float(after.temperature.network) == pytest.approx(-1e-4, rel=1e-3)
    assert not same_bits(state.policy, after.policy)
    assert state.multiplier is None and "multiplier" not in metrics


SHARED = {
    "discount": 0.99,
    "polyak": 0.005,
    "critic_learning_rate": 3e-4,
    "critics": 2,
    "critic_layer_norm": False,
    "samples": 10,
    "schedule": "constant",
    "batch_size": 256,
}
THREE, FIVE, WIDE = (256,) * 3, (256,) * 5, (512,) * 3
# α, Lagrange, gap, best of n, policy rate, widths of policy and critic, the two scalings.
GOLDEN = {
    "hopper-medium-v2": (10.0, False, 5.0, False, 3e-5, THREE, THREE, "raw", "standardised"),
    "antmaze-umaze-v2": (5.0, True, 0.8, True, 1e-4, THREE, FIVE, "affine:10,-5", "raw"),
    "pen-cloned-v1": (1.0, True, 5.0, False, 3e-5, THREE, THREE, "raw", "standardised"),
    "door-human-v0": (1.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "standardised"),
    "door-expert-v1": (1.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "standardised"),
    "kitchen-mixed-v0": (5.0, False, 5.0, False, 1e-4, WIDE, WIDE, "raw", "raw"),
    "my-data": (5.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "raw"),
}


@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_preset_is_the_published_configuration(dataset: str) -> None:
    names = ("penalty", "lagrange", "target_gap", "max_backup", "policy_learning_rate")
    row = GOLDEN[dataset]
    chosen = settings("cql", "default", dataset)
    expected = dict(zip((*names, "hidden", "critic_hidden"), row[:7], strict=True))
    assert vars(chosen.config) == SHARED | expected
    assert (chosen.rewards, chosen.observations) == row[7:]

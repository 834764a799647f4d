"""CQL: the penalty and its gradient in numbers, its Lagrange multiplier, and the settings."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import (
    assert_close,
    constant,
    first_gradient,
    first_state,
    in_place,
    one_update,
    random_batch,
    same_bits,
)
from xql.agents import Agent, CQLConfig, EnvironmentSpec, make_cql
from xql.agents.cql import MOST_LOG_MULTIPLIER, CQLState, multiplier_step, penalty_actions
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.policies import SquashedGaussianPolicy
from xql.agents.update import trainable
from xql.data.actions import box
from xql.presets import resolve

SPEC = EnvironmentSpec(3, box([-1.0, -2.0], [1.0, 2.0]))
# Critics of one linear layer, whose gradients are known in closed form.
SMALL = CQLConfig(hidden=(8,), critic_hidden=(), batch_size=6, samples=4)
AGENT = make_cql(SMALL, 10)
LAGRANGE = make_cql(dataclasses.replace(SMALL, lagrange=True), 10)
CALIBRATED = make_cql(dataclasses.replace(SMALL, calibrated=True), 10)
BEST_OF_N = make_cql(dataclasses.replace(SMALL, max_backup=True), 10)

samples_of = jax.jit(penalty_actions, static_argnums=1)


@functools.cache
def fresh() -> CQLState:
    state: CQLState = first_state(AGENT, SPEC)
    return state


def start(agent: Agent, **numbers: float) -> CQLState:
    """A fresh state of the agent, with some swept hyperparameters set."""
    config = dataclasses.replace(agent.config, **numbers)
    multiplier = trainable(jnp.zeros(())) if config.lagrange else None
    return fresh()._replace(config=jax.tree.map(jnp.float32, config), multiplier=multiplier)


def critic_of(*members: tuple[list[float], float]) -> Critic:
    """Q(s, a) = weights · (s, a) + bias for each member."""
    return Critic(tuple(MLP((Linear(jnp.array([w]).T, jnp.array([b])),), ()) for w, b in members))


WEIGHTS, BIAS = [0.5, -0.2, 0.1, 1.5, -0.7], 0.3
SLOPED = critic_of((WEIGHTS, BIAS), ([0.0, 0.0, 0.0, -0.4, 0.2], -1.0))


@pytest.mark.parametrize(("agent", "penalty"), [(AGENT, 0.0), (AGENT, 0.5), (CALIBRATED, 0.5)])
def test_the_penalty_and_its_gradient_by_hand(agent: Agent, penalty: float) -> None:
    # Rewards are given and every episode ends, so that the targets are the rewards. A linear critic
    # has the features φ = (s, a, 1) as its gradient, so that of the squared error is the mean of
    # 2 (Q − y) φ, and that of the gap the mean of Σ_b w_b φ(s, b) − φ(s, a), w_b the softmax of
    # Q(s, b) − log p(b): rare samples count by the inverse of their density. Calibrated, a policy's
    # action counts as the return of the log where Q is below that, and is not pushed down there.
    bounds = [-np.inf, -0.5, 0.0, 0.5, 2.0, -np.inf] if agent is CALIBRATED else [-np.inf] * 6
    returns = jnp.array(bounds) if agent is CALIBRATED else None
    batch = random_batch(6, SPEC)._replace(masks=jnp.zeros(6), returns=returns)
    state = in_place(start(agent, penalty=penalty), critic=SLOPED)
    after, metrics = one_update(agent, state, batch)
    key = jax.random.split(state.key, 3)[1]
    actions, logs = (
        np.asarray(one, np.float64) for one in samples_of(state.policy.network, 4, batch, key)
    )
    s, a, y = (np.asarray(one, np.float64) for one in batch[:3])

    def features(s: np.ndarray, a: np.ndarray) -> np.ndarray:
        s = np.broadcast_to(s, (*a.shape[:-1], 3))
        return np.concatenate([s, a, np.ones((*a.shape[:-1], 1))], axis=-1)

    gaps, errors, lower = [], [], []
    for found, mlp in zip(first_gradient(after.critic).mlps, SLOPED.mlps, strict=True):
        w = np.append(np.asarray(mlp.layers[0].weight)[:, 0], mlp.layers[0].bias)
        here, there = features(s, a), features(s, actions)
        # The first 4 actions are uniform, the others the policy's.
        bounded = (there @ w < bounds) & (np.arange(12) >= 4)[:, None]
        lower.append(bounded[4:].mean())
        odds = np.exp(np.where(bounded, bounds, there @ w) - logs)
        error = here @ w - y
        gap = np.log(odds.sum(0)) - here @ w
        slope = ((odds / odds.sum(0) * ~bounded)[..., None] * there).sum(0) - here
        by_hand = (2 * error[:, None] * here).mean(0) + penalty * slope.mean(0)
        layer = found.layers[0]
        np.testing.assert_allclose(
            np.append(layer.weight[:, 0], layer.bias), by_hand, rtol=1e-3, atol=1e-4
        )
        gaps.append(gap.mean())
        errors.append((error**2).mean())
    assert float(metrics["gap"]) == pytest.approx(np.mean(gaps), rel=1e-4)
    assert float(metrics["critic_loss"]) == pytest.approx(np.sum(errors), rel=1e-4)
    if agent is CALIBRATED:
        assert 0.1 < np.mean(lower) < 0.9
        assert float(metrics["calibrated_fraction"]) == pytest.approx(np.mean(lower), rel=1e-4)


@pytest.fixture(scope="module")
def drawn() -> tuple[SquashedGaussianPolicy, Array, Array]:
    # A quieter policy than a fresh one: near the bounds a density cannot be told from its action.
    policy = jax.tree.map(lambda leaf: 0.4 * leaf, fresh().policy.network)
    actions, logs = samples_of(policy, 4, random_batch(6, SPEC), jax.random.key(1))
    return policy, actions, logs


def test_the_samples_are_uniform_then_the_policy_s_here_then_there(
    drawn: tuple[SquashedGaussianPolicy, Array, Array],
) -> None:
    policy, actions, logs = drawn
    batch = random_batch(6, SPEC)
    assert actions.shape == (12, 6, 2) and logs.shape == (12, 6)
    # Of actions rescaled to [-1, 1], 2 dimensions: (1/2)².
    np.testing.assert_allclose(logs[:4], np.log(0.25), rtol=1e-6)
    log_prob = jax.jit(lambda states, one: policy.log_prob(states, one))
    for block, states in (
        (slice(4, 8), batch.observations),
        (slice(8, 12), batch.next_observations),
    ):
        for one, log in zip(actions[block], logs[block], strict=True):
            np.testing.assert_allclose(log_prob(states, one), log, rtol=2e-3, atol=2e-3)
    assert (np.abs(actions) <= np.array([1.0, 2.0])).all()
    # Every draw is its own.
    assert len(np.unique(np.asarray(actions)[..., 0])) == 12 * 6


def test_the_weighted_sum_estimates_the_integral_over_all_actions() -> None:
    # Q = 0: the mean of 1/p over each kind of sample is the volume of [-1, 1]², 4.
    # Of a Gaussian of mean 0 and deviation 1 (raw output .458), which tanh makes nearly uniform.
    policy = constant(start(AGENT).policy.network, 0.0, 0.0, 0.458, 0.458)
    _, logs = samples_of(policy, 500, random_batch(6, SPEC), jax.random.key(0))
    each = np.exp(-np.asarray(logs, np.float64)).reshape(3, -1).mean(1)
    assert each == pytest.approx([4.0, 4.0, 4.0], rel=0.03)


def test_the_backup_by_hand() -> None:
    # Targets 1 and 2 + .9 · 2 = 3.8 at masks 0 and 1; Q = 3: errors 2 and −.8, squared whole.
    state = in_place(
        start(AGENT, discount=0.9),
        critic=critic_of(([0.0] * 5, 3.0), ([0.0] * 5, 3.0)),
        target_critic=critic_of(([0.0] * 5, 5.0), ([0.0] * 5, 2.0)),
    )
    batch = random_batch(6, SPEC)._replace(
        rewards=jnp.array([1.0, 2.0] * 3), masks=jnp.array([0.0, 1.0] * 3)
    )
    _, metrics = one_update(AGENT, state, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(2 * (4 + 0.64) / 2, rel=1e-5)


@pytest.mark.parametrize("agent", [AGENT, BEST_OF_N], ids=["one", "best of n"])
def test_the_backup_takes_one_action_of_the_policy_or_the_best_of_n(agent: Agent) -> None:
    # Q̄(s, a) = 3 a₀: the targets are known from the very actions that were drawn.
    batch = random_batch(6, SPEC)
    sloped = ([0.0, 0.0, 0.0, 3.0, 0.0], 0.0)
    flat = ([0.0] * 5, 0.0)
    state = in_place(
        start(agent), target_critic=critic_of(sloped, sloped), critic=critic_of(flat, flat)
    )
    key = jax.random.split(state.key, 3)[1]
    actions, _ = samples_of(state.policy.network, 4, batch, key)
    after = 3 * np.asarray(actions)[8:, :, 0]
    next_q = after.max(0) if agent is BEST_OF_N else after[-1]
    targets = np.asarray(batch.rewards) + 0.99 * np.asarray(batch.masks) * next_q
    _, metrics = one_update(agent, state, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(2 * np.square(targets).mean(), rel=1e-3)


def test_the_multiplier_of_the_gap_rises_above_its_target_and_falls_below() -> None:
    batch = random_batch(6, SPEC)
    for target, direction in ((-50.0, 1.0), (50.0, -1.0)):
        after, metrics = one_update(LAGRANGE, start(LAGRANGE, target_gap=target), batch)
        assert float(metrics["multiplier"]) == 1.0
        assert float(after.multiplier.network) == pytest.approx(direction * 3e-4, rel=1e-3)
        # The slope of −e^m · excess in m = 0 is the excess, α (gap − target), with its sign turned.
        excess = 5.0 * (float(metrics["gap"]) - target)
        assert first_gradient(after.multiplier) == pytest.approx(-excess, rel=1e-4)
    # At m = log 2 and 3 too much, it is −6.
    multiplier = trainable(jnp.log(jnp.float32(2.0)))
    after, _ = multiplier_step(multiplier, jnp.float32(3.0), 0.1)
    assert first_gradient(after) == pytest.approx(-6.0, rel=1e-5)


def test_the_multiplier_multiplies_the_penalty() -> None:
    # α' = 4 and α = .5 do what α = 2 does.
    batch = random_batch(6, SPEC)
    state = in_place(start(LAGRANGE, penalty=0.5), multiplier=jnp.log(jnp.float32(4.0)))
    ours, _ = one_update(LAGRANGE, state, batch)
    theirs, _ = one_update(AGENT, start(AGENT, penalty=2.0), batch)
    assert_close(ours.critic, theirs.critic)


def test_the_multiplier_stays_finite() -> None:
    high = trainable(jnp.float32(MOST_LOG_MULTIPLIER))
    after, _ = multiplier_step(high, jnp.float32(1e6), 1.0)
    assert float(after.network) == pytest.approx(MOST_LOG_MULTIPLIER)
    back, _ = multiplier_step(after, jnp.float32(-1e9), 1.0)
    assert float(back.network) < MOST_LOG_MULTIPLIER


def test_the_weight_of_the_entropy_is_soft_actor_critic_s() -> None:
    # A fresh policy's entropy is above −2, so that its weight falls from 1.
    state = start(AGENT)
    after, metrics = one_update(AGENT, state, random_batch(6, SPEC))
    assert float(metrics["entropy"]) > -2.0
    assert float(metrics["temperature"]) == 1.0
    assert first_gradient(after.temperature) == pytest.approx(
        float(metrics["entropy"]) + 2.0, rel=1e-5
    )
    assert float(after.temperature.network) == pytest.approx(-1e-4, rel=1e-3)
    assert not same_bits(state.policy, after.policy)
    assert after.multiplier is None and "multiplier" not in metrics


def test_a_multiplier_is_there_exactly_where_it_is_learned() -> None:
    def shapes(agent: Agent) -> Any:
        return jax.eval_shape(lambda key: agent.init(key, SPEC, agent.config), jax.random.key(0))

    assert shapes(AGENT).multiplier is None
    assert shapes(LAGRANGE).multiplier.network.shape == ()


def test_the_multiplier_starts_where_it_is_asked_to() -> None:
    agent = make_cql(dataclasses.replace(LAGRANGE.config, initial_multiplier=np.e), 10)
    # Compiled for the multiplier alone, without the networks.
    first = jax.jit(lambda key: agent.init(key, SPEC, agent.config).multiplier.network)
    assert float(first(jax.random.key(0))) == pytest.approx(1.0)


def test_the_policy_s_gradient_is_that_of_its_loss() -> None:
    # E[η log π(b|s) − min Q(s, b)] on the very draws, with Q after its step.
    batch = random_batch(6, SPEC)
    state = in_place(start(AGENT), critic=SLOPED, temperature=jnp.log(jnp.float32(0.3)))
    after, metrics = one_update(AGENT, state, batch)
    key = jax.random.split(state.key, 3)[2]

    def loss(policy: SquashedGaussianPolicy) -> Array:
        actions, log_prob = policy.sample_with_log_prob(batch.observations, key)
        q1, q2 = after.critic.network(batch.observations, actions)
        return (0.3 * log_prob - jnp.minimum(q1, q2)).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.policy.network)
    assert_close(first_gradient(after.policy), gradient, rtol=1e-3, atol=1e-5)
    assert float(metrics["policy_loss"]) == pytest.approx(float(value), rel=1e-4)


SHARED = {
    "discount": 0.99,
    "polyak": 0.005,
    "critic_learning_rate": 3e-4,
    "critics": 2,
    "critic_layer_norm": False,
    "samples": 10,
    "calibrated": False,
    "initial_multiplier": 1.0,
    "schedule": "constant",
    "batch_size": 256,
}
THREE, FIVE, WIDE = (256,) * 3, (256,) * 5, (512,) * 3
# α, Lagrange, gap, best of n, policy rate, widths of policy and critic, the two scalings.
GOLDEN = {
    "hopper-medium-v2": (10.0, False, 5.0, False, 3e-5, THREE, THREE, "raw", "standardised"),
    "antmaze-umaze-v2": (5.0, True, 0.8, True, 1e-4, THREE, FIVE, "affine:10,-5", "raw"),
    "pen-cloned-v1": (1.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "standardised"),
    "hammer-human-v1": (1.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "standardised"),
    "relocate-expert-v1": (1.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "standardised"),
    "door-human-v0": (1.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "standardised"),
    "door-expert-v1": (1.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "standardised"),
    "kitchen-mixed-v0": (5.0, False, 5.0, False, 1e-4, WIDE, WIDE, "raw", "raw"),
    "my-data": (5.0, False, 5.0, False, 1e-4, THREE, THREE, "raw", "raw"),
}


@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_preset_is_the_published_configuration(dataset: str) -> None:
    names = ("penalty", "lagrange", "target_gap", "max_backup", "policy_learning_rate")
    row = GOLDEN[dataset]
    chosen = resolve("cql", "default", dataset)
    expected = dict(zip((*names, "hidden", "critic_hidden"), row[:7], strict=True))
    # CORL's α' starts at e; without a multiplier nothing starts there.
    expected |= {"initial_multiplier": pytest.approx(np.e)} if row[1] else {}
    assert vars(chosen.config) == SHARED | expected
    assert (chosen.rewards, chosen.observations) == row[7:]

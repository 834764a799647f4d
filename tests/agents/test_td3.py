"""TD3, DDPG and X-TD3 against numbers worked out by hand, on networks of one linear layer."""

import dataclasses
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, PyTree

from worlds import same_bits
from xql.agents import ONLINE, Agent, Batch, Metrics, Spec, TD3Config, TrainState, member, td3
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.policies import DeterministicPolicy
from xql.agents.td3 import critic_targets
from xql.gumbel.losses import Kind
from xql.presets import configure

SPEC = Spec(1, (-1.0,), (3.0,))  # actions 1 ± 2
LINEAR = TD3Config(hidden=(), batch_size=2, target_noise=0.0)
HALF = float(np.arctanh(0.5))  # tanh(HALF) = 1/2, so that the policy's action is 1 + 2/2 = 2


@functools.partial(jax.jit, static_argnames="agent")
def update(agent: Agent, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    return agent.update(state, batch)


@functools.partial(jax.jit, static_argnames=("agent", "updates"))
def run(agent: Agent, state: TrainState, batch: Batch, updates: int) -> TrainState:
    return jax.lax.fori_loop(0, updates, lambda _, one: agent.update(one, batch)[0], state)


def start(agent: Agent, seed: int = 0, spec: Spec = SPEC, **numbers: float) -> TrainState:
    hyper = jax.tree.map(np.float32, agent.hyper._replace(**numbers))
    return fresh(agent, spec, seed, hyper)


@functools.partial(jax.jit, static_argnames=("agent", "spec"))
def fresh(agent: Agent, spec: Spec, seed: Array, hyper: PyTree) -> TrainState:
    return agent.init(jax.random.key(seed), spec, hyper)


def column(*values: float) -> Array:
    return jnp.array(values, jnp.float32)[:, None]


def critic_of(*members: tuple[float, float, float]) -> Critic:
    """Q(s, a) = ws·s + wa·a + b for each (ws, wa, b)."""
    return Critic(tuple(MLP((Linear(column(*w), jnp.array([b])),), ()) for *w, b in members))


def policy_of(weight: float, bias: float) -> DeterministicPolicy:
    """π(s) = 1 + 2 tanh(weight·s + bias)."""
    mlp = MLP((Linear(column(weight), jnp.array([bias])),), ())
    return DeterministicPolicy(mlp, SPEC.action_low, SPEC.action_high)


def with_networks(state: TrainState, **networks: PyTree) -> TrainState:
    """The state with some networks replaced; the online ones keep their fresh optimizers."""
    for name in ("policy", "critic"):
        if name in networks:
            networks[name] = getattr(state, name)._replace(network=networks[name])
    return state._replace(**networks)


def gradient(trained: PyTree) -> PyTree:
    """Of the first step, from Adam's first moment: mu = (1 − 0.9) · gradient."""
    return jax.tree.map(lambda mu: np.asarray(mu) / 0.1, trained.optimizer.mu)


def rows(s: float, a: float, rewards: Array, mask: float) -> Batch:
    """The same (s, a, mask, s' = s) for every reward."""
    one = jnp.ones((len(rewards), 1), jnp.float32)
    return Batch(s * one, a * one, rewards, mask * one[:, 0], s * one)


TARGETS = {  # Q̄₁ = s + a, Q̄₂ = 2s − a + 1; π̄ = 2 everywhere
    "target_critic": critic_of((1.0, 1.0, 0.0), (2.0, -1.0, 1.0)),
    "target_policy": policy_of(0.0, HALF),
}
# At s' = (1, 4): Q̄₁ = (3, 6), Q̄₂ = (1, 7). The first row goes on, the second ends for good.
BATCH = Batch(
    column(0.0, 0.0),
    column(0.0, 0.0),
    jnp.array([10.0, 20.0], jnp.float32),
    jnp.array([1.0, 0.0], jnp.float32),
    column(1.0, 4.0),
)
# γ = 0.5: y = 10 + 0.5 · min(3, 1), and 20 alone. Q = (0.5, 20) everywhere.
Y = np.array([10.5, 20.0])
ERRORS = np.array([Y - 0.5, Y - 20.0])


def by_hand(**changes: object) -> tuple[Agent, TrainState]:
    agent = td3(dataclasses.replace(LINEAR, **changes), 10)
    state = start(agent, discount=0.5, beta=10.0)
    networks = TARGETS | {"critic": critic_of((0.0, 0.0, 0.5), (0.0, 0.0, 20.0))}
    return agent, with_networks(state, **networks)


def test_the_squared_loss_and_its_gradient_by_hand() -> None:
    agent, state = by_hand()
    after, metrics = update(agent, state, BATCH)
    assert float(metrics["critic_loss"]) == pytest.approx((ERRORS**2 / 2).mean(1).sum(), rel=1e-5)
    assert float(metrics["bellman_error"]) == pytest.approx(np.abs(ERRORS).mean(), rel=1e-5)
    found = [mlp.layers[0].bias[0] for mlp in gradient(after.critic).mlps]
    np.testing.assert_allclose(found, -ERRORS.mean(1), rtol=1e-5)


def test_the_gumbel_loss_and_its_gradient_by_hand() -> None:
    # z = (y − Q)/β, with β = 10: dJ/dQ = (1 − e^z)/β, steepest where the target lies above Q.
    agent, state = by_hand(loss="linear", max_gradient_norm=None)
    after, metrics = update(agent, state, BATCH)
    z = ERRORS / 10.0
    loss = (np.exp(z) - z - 1).mean(1).sum()
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(metrics["mean_exp"]) == pytest.approx(np.exp(z).mean(), rel=1e-4)
    assert float(metrics["beyond_clip"]) == 0.0
    found = [mlp.layers[0].bias[0] for mlp in gradient(after.critic).mlps]
    np.testing.assert_allclose(found, (1 - np.exp(z)).mean(1) / 10.0, rtol=1e-4)


def test_without_double_q_there_is_no_minimum() -> None:
    # One critic: y = 10 + 0.5 · Q̄₁ = 11.5, although another would have said less.
    agent, state = by_hand(critics=1)
    one = critic_of((1.0, 1.0, 0.0))
    assert jax.tree.structure(start(agent).target_critic) == jax.tree.structure(one)
    state = with_networks(state, target_critic=one, critic=critic_of((0.0, 0.0, 0.5)))
    state = state._replace(critic=start(agent).critic._replace(network=state.critic.network))
    _, metrics = update(agent, state, BATCH)
    assert float(metrics["critic_loss"]) == pytest.approx((11.0**2 + 19.5**2) / 4, rel=1e-5)


def test_the_policy_climbs_the_first_critic_alone() -> None:
    # Q₁ = s + 3a, Q₂ = −7a, π = 1 + 2 tanh(s/4 + 0.1): the gradient of −Q₁ is −3 · 2(1 − tanh²)
    # times (s, 1), averaged over s.
    agent, state = by_hand()
    s = np.array([1.0, -2.0])
    state = with_networks(
        state,
        policy=policy_of(0.25, 0.1),
        critic=critic_of((1.0, 3.0, 0.0), (0.0, -7.0, 0.0)),
    )
    state = state._replace(
        step=jnp.int32(1), hyper=state.hyper._replace(critic_learning_rate=jnp.float32(0.0))
    )
    after, metrics = update(agent, state, BATCH._replace(observations=column(*s)))
    q = s + 3 * (1 + 2 * np.tanh(s / 4 + 0.1))
    assert float(metrics["policy_loss"]) == pytest.approx(-2 * q.mean(), rel=1e-5)  # delay 2
    slope = -6.0 * (1 - np.tanh(s / 4 + 0.1) ** 2)
    layer = gradient(after.policy).mlp.layers[0]
    np.testing.assert_allclose(layer.weight[0, 0], (slope * s).mean(), rtol=1e-5)
    np.testing.assert_allclose(layer.bias[0], slope.mean(), rtol=1e-5)


def test_the_targets_move_by_the_polyak_rate_towards_the_new_networks() -> None:
    agent, state = by_hand()
    state = state._replace(step=jnp.int32(1), hyper=state.hyper._replace(polyak=jnp.float32(0.25)))
    after, _ = update(agent, state, BATCH)
    for before, target, online in (
        (state.target_critic, after.target_critic, after.critic.network),
        (state.target_policy, after.target_policy, after.policy.network),
    ):
        moved = jax.tree.map(lambda b, o: 0.75 * b + 0.25 * o, before, online)
        for found, expected in zip(jax.tree.leaves(target), jax.tree.leaves(moved), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_policy_and_targets_move_on_every_delayed_update_and_rest_on_the_others(delay: int) -> None:
    agent = td3(TD3Config(hidden=(8,), batch_size=2, policy_delay=delay), 10)
    state, keys = start(agent), set()
    for step in range(1, 7):
        after, metrics = update(agent, state, BATCH)
        keys.add(frozenset(metrics))
        assert all(np.isfinite(float(number)) for number in metrics.values())
        assert not same_bits(after.critic, state.critic)
        for name in ("policy", "target_policy", "target_critic"):
            moved = not same_bits(getattr(after, name), getattr(state, name))
            assert moved == (step % delay == 0), (name, step)
        state = after
    assert len(keys) == 1


def smoothed(noise: float, limit: float, bias: float, size: int = 20_000) -> np.ndarray:
    """The target policy's actions at one state, with bounds [-1, 1] and [-3, 5], as targets see.

    Read from `critic_targets` with the critic Q̄(s, a) = a₁ or a₂, reward 0 and γ = 1.
    """
    spec = Spec(1, (-1.0, -3.0), (1.0, 5.0))
    mlp = MLP((Linear(jnp.zeros((1, 2)), jnp.full(2, bias)),), ())
    config = TD3Config(
        hidden=(), critics=1, target_noise=noise, target_noise_clip=limit, batch_size=size
    )
    agent = td3(config, 10)
    state = start(agent, spec=spec, discount=1.0)._replace(
        target_policy=DeterministicPolicy(mlp, spec.action_low, spec.action_high)
    )
    zeros = jnp.zeros((size, 1), jnp.float32)
    one = jnp.ones(size, jnp.float32)
    batch = Batch(zeros, jnp.zeros((size, 2), jnp.float32), 0 * one, one, zeros)
    found = []
    for weights in ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        critic = Critic((MLP((Linear(column(*weights), jnp.zeros(1)),), ()),))
        seen = state._replace(target_critic=critic)
        found.append(critic_targets(config, seen, batch, jax.random.key(1)))
    return np.stack([np.asarray(one) for one in found])


def test_smoothing_noise_is_scaled_to_each_dimension_s_range() -> None:
    # Around the centres 0 and 1, deviations 0.2 · 1 and 0.2 · 4; nothing reaches the limits.
    actions = smoothed(noise=0.2, limit=10.0, bias=0.0)
    np.testing.assert_allclose(actions.mean(1), [0.0, 1.0], atol=0.03)
    np.testing.assert_allclose(actions.std(1), [0.2, 0.8], rtol=0.03)
    assert abs(np.corrcoef(actions)[0, 1]) < 0.03


def test_smoothing_noise_is_cut_off_and_the_action_stays_within_its_bounds() -> None:
    # Noise a thousand times the limit: ±0.5 of half the range around the centre, nothing between.
    actions = smoothed(noise=1000.0, limit=0.5, bias=0.0)
    near = [np.abs(actions[0, :, None] - [-0.5, 0.5]), np.abs(actions[1, :, None] - [-1.0, 3.0])]
    assert (np.min(near, axis=-1) < 1e-4).mean() > 0.99
    np.testing.assert_allclose(actions.min(1), [-0.5, -1.0], atol=1e-5)
    np.testing.assert_allclose(actions.max(1), [0.5, 3.0], atol=1e-5)
    # A policy on its upper bound (tanh 10 ≈ 1) can only go down.
    actions = smoothed(noise=1000.0, limit=0.5, bias=10.0)
    np.testing.assert_allclose(actions.max(1), [1.0, 5.0], atol=1e-5)
    np.testing.assert_allclose(actions.min(1), [0.5, 3.0], atol=1e-5)


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("loss", ["squared", "plain", "linear", "log"])
def test_q_learns_the_mean_of_its_targets_or_their_soft_maximum(loss: str, beta: float) -> None:
    # One (s, a) and 64 terminal rewards y: the mean for TD3, β log mean e^{y/β} for X-TD3.
    y = np.random.default_rng(0).normal(size=64)
    truth = y.mean() if loss == "squared" else beta * np.log(np.exp(y / beta).mean())
    config = TD3Config(hidden=(), loss=loss, batch_size=64, critic_learning_rate=0.02)
    agent = td3(config, 10)
    batch = rows(0.5, 1.0, jnp.array(y, jnp.float32), 0.0)
    q = run(agent, start(agent, beta=beta), batch, 1500).critic.network
    found = q(batch.observations[:1], batch.actions[:1])[:, 0]
    np.testing.assert_allclose(found, [truth, truth], atol=2e-3)


def test_a_truncated_transition_bootstraps_to_the_geometric_sum() -> None:
    # r = 1 for ever at γ = 0.5 is worth 2 where nothing ends, 1 where the step is the last.
    config = TD3Config(hidden=(), batch_size=4, critic_learning_rate=0.02, target_noise=0.0)
    agent = td3(dataclasses.replace(config, policy_delay=1), 10)
    state = start(agent, discount=0.5, policy_learning_rate=0.0, polyak=0.5)
    for mask, worth in ((1.0, 2.0), (0.0, 1.0)):
        a = float(state.policy.network.mean(column(0.5))[0, 0])
        batch = rows(0.5, a, jnp.ones(4, jnp.float32), mask)
        q = run(agent, state, batch, 2000).critic.network
        np.testing.assert_allclose(
            q(batch.observations[:1], batch.actions[:1])[:, 0], worth, atol=5e-3
        )


def test_the_policy_finds_the_best_action_of_a_bandit() -> None:
    # r = −(a − 1 − s)², every step the last: π(s) = 1 + s.
    random = np.random.default_rng(0)
    s, a = random.uniform(-1, 1, (128, 1)), random.uniform(-1, 3, (128, 1))
    columns = (s, a, -((a - 1 - s) ** 2)[:, 0], np.zeros(128), s)
    batch = Batch(*(jnp.array(part, jnp.float32) for part in columns))
    agent = td3(TD3Config(hidden=(32, 32), policy_learning_rate=3e-3), 10)
    policy = run(agent, start(agent, critic_learning_rate=3e-3), batch, 1500).policy.network
    np.testing.assert_allclose(policy.mean(column(-0.5, 0.0, 0.5))[:, 0], [0.5, 1, 1.5], atol=0.25)


@pytest.mark.nightly
@pytest.mark.parametrize("step", [0, 1])  # the policy rests; the policy moves
@pytest.mark.parametrize("name", ["td3", "x-td3"])
def test_a_population_is_its_members(name: str, step: int) -> None:
    agent = ONLINE[name].make(configure(name, {"hidden": (8,), "batch_size": 2}), 10)
    states = [start(agent, seed)._replace(step=jnp.int32(step)) for seed in range(3)]
    keys = jnp.stack([state.key for state in states])
    rest = [state._replace(key=None) for state in states]
    population = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest)._replace(key=keys)
    together, metrics = jax.jit(jax.vmap(agent.update, in_axes=(0, None)))(population, BATCH)
    for index, state in enumerate(states):
        alone, numbers = update(agent, state, BATCH)
        one = member(together, index)
        assert set(metrics) == set(numbers)
        np.testing.assert_array_equal(jax.random.key_data(one.key), jax.random.key_data(alone.key))
        pairs = zip(
            jax.tree.leaves(one._replace(key=None)),
            jax.tree.leaves(alone._replace(key=None)),
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_acting_is_the_policy_and_exploring_adds_the_stated_noise() -> None:
    agent = td3(dataclasses.replace(LINEAR, exploration_noise=0.1), 10)
    policy, s = policy_of(0.0, 0.0), jnp.zeros((20_000, 1), jnp.float32)
    assert (np.asarray(agent.act(policy, s, None)) == 1.0).all()
    actions = np.asarray(agent.act(policy, s, jax.random.key(0)))
    assert actions.mean() == pytest.approx(1.0, abs=0.01)
    assert actions.std() == pytest.approx(0.1 * 2.0, rel=0.03)
    edge = np.asarray(agent.act(policy_of(0.0, 10.0), s, jax.random.key(0)))
    assert edge.max() <= 3.0 and (edge == 3.0).mean() == pytest.approx(0.5, abs=0.02)


def test_ddpg_has_one_critic_no_delay_and_no_smoothing() -> None:
    config = configure("ddpg", {})
    assert (config.critics, config.policy_delay, config.target_noise) == (1, 1, 0.0)
    assert config.loss == "squared"
    assert configure("td3", {}) == TD3Config()
    assert configure("x-td3", {}) == TD3Config(loss="linear")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_x_td3_takes_every_kind_of_gumbel_loss(kind: str) -> None:
    config = configure("x-td3", {"loss": kind, "hidden": (8,), "batch_size": 2})
    agent = td3(config, 10)
    after, metrics = update(agent, start(agent), BATCH)
    assert {"mean_exp", "beyond_clip", "effective_sample_size"} <= set(metrics)
    assert all(np.isfinite(float(number)) for number in metrics.values())
    assert not same_bits(after.critic, start(agent).critic)

"""TD3, DDPG and X-TD3 against numbers worked out by hand, on networks of one linear layer."""

import dataclasses
import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import assert_close, first_gradient, first_state, in_place, one_update, same_bits
from xql.agents import (
    ONLINE,
    Agent,
    Batch,
    EnvironmentSpec,
    TD3Config,
    configure,
    make_td3,
    member,
)
from xql.agents.hyperparameters import AUTO, inactive
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.policies import DeterministicPolicy
from xql.agents.td3 import TD3State
from xql.agents.update import trainable
from xql.data.actions import box
from xql.gumbel import dual_temperature
from xql.gumbel.losses import Kind

ACTIONS = box([-1.0], [3.0])  # actions 1 ± 2
SPEC = EnvironmentSpec(1, ACTIONS)
LINEAR = TD3Config(hidden=(), batch_size=2, target_noise=0.0)
HALF = float(np.arctanh(0.5))  # tanh(HALF) = 1/2, so that the policy's action is 1 + 2/2 = 2


@functools.partial(jax.jit, static_argnames=("agent", "updates"))
def run(agent: Agent, state: TD3State, batch: Batch, updates: int) -> TD3State:
    result: TD3State = jax.lax.fori_loop(
        0, updates, lambda _, one: agent.update(one, batch)[0], state
    )
    return result


def made(**changes: Any) -> Agent:
    """Every network one linear layer, no noise on the targets, and these changes."""
    return make_td3(dataclasses.replace(LINEAR, **changes), 10)


@functools.cache
def fresh(hidden: tuple[int, ...], critics: int, seed: int) -> TD3State:
    state: TD3State = first_state(made(hidden=hidden, critics=critics), SPEC, seed)
    return state


def start(agent: Agent, seed: int = 0, **numbers: float) -> TD3State:
    """A fresh state; only sizes change what is drawn, so that few need a compilation."""
    config = dataclasses.replace(agent.config, **numbers)
    state = fresh(config.hidden, config.critics, seed)
    return state._replace(config=jax.tree.map(jnp.float32, config))


def swept(state: TD3State, **numbers: float) -> TD3State:
    changes = {name: jnp.float32(number) for name, number in numbers.items()}
    return state._replace(config=dataclasses.replace(state.config, **changes))


def column(*values: float) -> Array:
    return jnp.array(values, jnp.float32)[:, None]


def critic_of(*members: tuple[float, float, float]) -> Critic:
    """Q(s, a) = ws·s + wa·a + b for each (ws, wa, b)."""
    return Critic(tuple(MLP((Linear(column(*w), jnp.array([b])),), ()) for *w, b in members))


def policy_of(weight: float, bias: float) -> DeterministicPolicy:
    """π(s) = 1 + 2 tanh(weight·s + bias)."""
    mlp = MLP((Linear(column(weight), jnp.array([bias])),), ())
    return DeterministicPolicy(mlp, ACTIONS.low, ACTIONS.high)


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


def by_hand(**changes: Any) -> tuple[Agent, TD3State]:
    agent = made(**changes)
    critic = critic_of((0.0, 0.0, 0.5), (0.0, 0.0, 20.0))
    state: TD3State = in_place(start(made(), discount=0.5, beta=10.0), **TARGETS, critic=critic)
    return agent, state._replace(config=dataclasses.replace(state.config, **changes))


def test_the_squared_loss_and_its_gradient_by_hand() -> None:
    agent, state = by_hand()
    after, metrics = one_update(agent, state, BATCH)
    assert float(metrics["critic_loss"]) == pytest.approx((ERRORS**2 / 2).mean(1).sum(), rel=1e-5)
    assert float(metrics["bellman_error"]) == pytest.approx(np.abs(ERRORS).mean(), rel=1e-5)
    found = [mlp.layers[0].bias[0] for mlp in first_gradient(after.critic).mlps]
    np.testing.assert_allclose(found, -ERRORS.mean(1), rtol=1e-5)


def test_the_gumbel_loss_and_its_gradient_by_hand() -> None:
    # z = (y − Q)/β, with β = 10: dJ/dQ = (1 − e^z)/β, steepest where the target lies above Q.
    agent, state = by_hand(loss="linear", max_gradient_norm=None)
    after, metrics = one_update(agent, state, BATCH)
    z = ERRORS / 10.0
    loss = (np.exp(z) - z - 1).mean(1).sum()
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(metrics["mean_exp"]) == pytest.approx(np.exp(z).mean(), rel=1e-4)
    assert float(metrics["clip_fraction"]) == 0.0
    found = [mlp.layers[0].bias[0] for mlp in first_gradient(after.critic).mlps]
    np.testing.assert_allclose(found, (1 - np.exp(z)).mean(1) / 10.0, rtol=1e-4)


def test_without_double_q_there_is_no_minimum() -> None:
    # One critic: y = 10 + 0.5 · Q̄₁ = 11.5, although another would have said less.
    agent = made(critics=1)
    state = start(agent, discount=0.5)
    one = critic_of((1.0, 1.0, 0.0))
    assert len(state.target_critic.mlps) == 1
    state = in_place(
        state,
        target_policy=TARGETS["target_policy"],
        target_critic=one,
        critic=critic_of((0.0, 0.0, 0.5)),
    )
    _, metrics = one_update(agent, state, BATCH)
    assert float(metrics["critic_loss"]) == pytest.approx((11.0**2 + 19.5**2) / 4, rel=1e-5)


def test_the_policy_climbs_the_first_critic_alone() -> None:
    # Q₁ = s + 3a, Q₂ = −7a, π = 1 + 2 tanh(s/4 + 0.1): the gradient of −Q₁ is −3 · 2(1 − tanh²)
    # times (s, 1), averaged over s.
    agent, state = by_hand()
    s = np.array([1.0, -2.0])
    state = in_place(
        swept(state, critic_learning_rate=0.0),
        policy=policy_of(0.25, 0.1),
        critic=critic_of((1.0, 3.0, 0.0), (0.0, -7.0, 0.0)),
    )._replace(step=jnp.int32(1))
    after, metrics = one_update(agent, state, BATCH._replace(observations=column(*s)))
    q = s + 3 * (1 + 2 * np.tanh(s / 4 + 0.1))
    assert float(metrics["policy_loss"]) == pytest.approx(-2 * q.mean(), rel=1e-5)  # delay 2
    slope = -6.0 * (1 - np.tanh(s / 4 + 0.1) ** 2)
    layer = first_gradient(after.policy).mlp.layers[0]
    np.testing.assert_allclose(layer.weight[0, 0], (slope * s).mean(), rtol=1e-5)
    np.testing.assert_allclose(layer.bias[0], slope.mean(), rtol=1e-5)


def test_the_targets_move_by_the_polyak_rate_towards_the_new_networks() -> None:
    agent, state = by_hand()
    state = swept(state, polyak=0.25)._replace(step=jnp.int32(1))
    after, _ = one_update(agent, state, BATCH)
    for before, target, online in (
        (state.target_critic, after.target_critic, after.critic.network),
        (state.target_policy, after.target_policy, after.policy.network),
    ):
        moved = jax.tree.map(lambda b, o: 0.75 * b + 0.25 * o, before, online)
        assert_close(target, moved, rtol=1e-5)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_policy_and_targets_move_on_every_delayed_update_and_rest_on_the_others(delay: int) -> None:
    agent = made(policy_delay=delay)
    state, keys = start(agent), set()
    for step in range(1, 7):
        after, metrics = one_update(agent, state, BATCH)
        keys.add(frozenset(metrics))
        assert all(np.isfinite(float(number)) for number in metrics.values())
        assert not same_bits(after.critic, state.critic)
        for name in ("policy", "target_policy", "target_critic"):
            moved = not same_bits(getattr(after, name), getattr(state, name))
            assert moved == (step % delay == 0), (name, step)
        state = after
    assert len(keys) == 1


def test_the_targets_see_the_smoothed_action_of_the_target_policy() -> None:
    # π̄ = 1, so a' = 1 + 2 · (noise, cut at ±0.3) for the noise that the key gives; Q̄ = a', γ = 1
    # and Q = 0. The online policy, at another place, must not be seen.
    agent = made(target_noise=0.4, target_noise_clip=0.3, critics=1)
    state = in_place(
        start(agent, discount=1.0),
        critic=critic_of((0.0, 0.0, 0.0)),
        target_critic=critic_of((0.0, 1.0, 0.0)),
        target_policy=policy_of(0.0, 0.0),
        policy=policy_of(0.0, HALF),
    )
    batch = BATCH._replace(rewards=jnp.zeros(2), masks=jnp.ones(2))
    beyond = 0
    for seed in range(10):
        key = jax.random.key(seed)
        noise = 0.4 * np.asarray(jax.random.normal(jax.random.split(key)[1], (2, 1)))[:, 0]
        beyond += (np.abs(noise) > 0.3).sum()
        after, metrics = one_update(agent, state._replace(key=key), batch)
        y = 1 + 2 * np.clip(noise, -0.3, 0.3)
        assert float(metrics["critic_loss"]) == pytest.approx((y**2).mean() / 2, rel=1e-5)
        found = first_gradient(after.critic).mlps[0].layers[0].bias[0]
        assert found == pytest.approx(-y.mean(), rel=1e-5)
    assert 0 < beyond < 20


@pytest.mark.parametrize("loss", ["squared", "plain", "linear", "log"])
def test_q_learns_the_mean_of_its_targets_or_their_soft_maximum(loss: str) -> None:
    # One (s, a) and 64 terminal rewards y: the mean for TD3, β log mean e^{y/β} for X-TD3.
    y = np.random.default_rng(0).normal(size=64)
    agent = made(loss=loss, batch_size=64, critic_learning_rate=0.02, target_noise=0.2)
    batch = rows(0.5, 1.0, jnp.array(y, jnp.float32), 0.0)
    for beta in (0.5, 2.0):
        truth = y.mean() if loss == "squared" else beta * np.log(np.exp(y / beta).mean())
        q = run(agent, start(agent, beta=beta), batch, 1500).critic.network
        found = q(batch.observations[:1], batch.actions[:1])[:, 0]
        np.testing.assert_allclose(found, [truth, truth], atol=2e-3)


def tuning(**numbers: float) -> TD3State:
    state: TD3State = first_state(TUNING, SPEC, 0, **numbers)
    return state


TUNING = made(loss="linear", beta=AUTO)


def test_a_beta_that_tunes_itself_has_the_kl_that_is_asked_for() -> None:
    # Q = 0 and terminal rewards y, so d = y: the first 256 of them are as far from uniform as
    # asked, under the β that the loss has in the same update.
    y = np.random.default_rng(0).normal(size=300)
    z_of = critic_of((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    found = {}
    for kl in (0.05, 0.4):
        for scale in (1.0, 8.0):
            batch = rows(0.5, 1.0, jnp.array(scale * y, jnp.float32), 0.0)
            after, metrics = one_update(TUNING, in_place(tuning(beta_kl=kl), critic=z_of), batch)
            beta = found[kl, scale] = float(metrics["beta"])
            assert float(after.temperatures["value"]) == beta
            assert float(metrics["kl"]) == pytest.approx(kl, rel=1e-2)
            z = scale * y / beta
            assert float(metrics["mean_exp"]) == pytest.approx(np.exp(z).mean(), rel=1e-4)
        assert found[kl, 1.0] == pytest.approx(float(dual_temperature(y[:256], kl)), rel=2e-3)
        assert found[kl, 8.0] == 8 * found[kl, 1.0]


def test_q_learns_the_soft_maximum_at_the_beta_that_its_kl_asks_for() -> None:
    y = np.random.default_rng(0).normal(size=256)
    batch = rows(0.5, 1.0, jnp.array(y, jnp.float32), 0.0)
    for kl in (0.05, 0.4):
        beta = float(dual_temperature(y, kl))
        state = run(TUNING, tuning(beta_kl=kl, critic_learning_rate=0.02), batch, 1500)
        q = state.critic.network(batch.observations[:1], batch.actions[:1])[:, 0]
        np.testing.assert_allclose(q, beta * np.log(np.exp(y / beta).mean()), atol=5e-3)


def test_targets_that_do_not_differ_leave_a_beta_that_tunes_itself_finite() -> None:
    # One (s, a) with one reward: no β has a KL, and Q reaches its target all the same.
    batch = rows(0.5, 1.0, jnp.full(64, 3.0), 0.0)
    state = run(TUNING, tuning(critic_learning_rate=0.02), batch, 1500)
    q = state.critic.network(batch.observations[:1], batch.actions[:1])[:, 0]
    np.testing.assert_allclose(q, 3.0, atol=0.1)
    assert 0 < float(state.temperatures["value"]) < 0.1


def test_a_kl_is_for_a_beta_that_tunes_itself() -> None:
    assert {"beta", "beta_kl"} <= inactive(TD3Config(beta=AUTO))
    assert inactive(TD3Config(loss="linear")) == {"beta_kl", "maclaurin_order"}
    assert inactive(TD3Config(loss="maclaurin", beta=AUTO)) == frozenset()
    assert first_state(made(beta=AUTO), SPEC).temperatures == {}  # TD3's square has no β


def test_a_truncated_transition_bootstraps_to_the_geometric_sum() -> None:
    # r = 1 for ever at γ = 0.5 is worth 2 where nothing ends, 1 where the step is the last.
    agent = made(policy_delay=1, critic_learning_rate=0.02)
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
    agent = make_td3(TD3Config(hidden=(32, 32), policy_learning_rate=3e-3), 10)
    policy = run(agent, start(agent, critic_learning_rate=3e-3), batch, 1500).policy.network
    np.testing.assert_allclose(policy.mean(column(-0.5, 0.0, 0.5))[:, 0], [0.5, 1, 1.5], atol=0.25)


@pytest.mark.nightly
@pytest.mark.parametrize("step", [0, 1])  # the policy rests; the policy moves
@pytest.mark.parametrize(
    ("name", "given"), [("td3", {}), ("x-td3", {}), ("x-td3", {"beta": "auto"})]
)
def test_a_population_is_its_members(name: str, given: dict[str, Any], step: int) -> None:
    agent = ONLINE[name].make(configure(name, {"hidden": (8,), "batch_size": 2, **given}), 10)
    states = [first_state(agent, SPEC, seed)._replace(step=jnp.int32(step)) for seed in range(3)]
    population = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together, metrics = jax.jit(jax.vmap(agent.update, in_axes=(0, None)))(population, BATCH)
    for index, state in enumerate(states):
        alone, numbers = one_update(agent, state, BATCH)
        one = member(together, index)
        assert set(metrics) == set(numbers)
        assert same_bits(one.key, alone.key)
        assert_close(one._replace(key=None), alone._replace(key=None))


def test_the_actor_is_the_policy_and_explores_with_the_stated_noise() -> None:
    agent = made(exploration_noise=0.1)
    s = jnp.zeros((20_000, 1), jnp.float32)

    def actor(bias: float) -> DeterministicPolicy:
        state = start(agent)._replace(policy=trainable(policy_of(0.0, bias)))
        found: DeterministicPolicy = agent.actor(state)
        return found

    assert (np.asarray(actor(0.0)(s)) == 1.0).all()
    actions = np.asarray(actor(0.0)(s, jax.random.key(0)))
    assert actions.mean() == pytest.approx(1.0, abs=0.01)
    assert actions.std() == pytest.approx(0.1 * 2.0, rel=0.03)
    edge = np.asarray(actor(10.0)(s, jax.random.key(0)))
    assert edge.max() <= 3.0 and (edge == 3.0).mean() == pytest.approx(0.5, abs=0.02)


def test_ddpg_has_one_critic_no_delay_and_no_smoothing() -> None:
    config = configure("ddpg", {})
    assert (config.critics, config.policy_delay, config.target_noise) == (1, 1, 0.0)
    assert config.loss == "squared"
    assert configure("td3", {}) == TD3Config()
    assert configure("x-td3", {}) == TD3Config(loss="linear")


def test_what_is_true_of_the_variants() -> None:
    plain, extreme = (ONLINE[name].make(configure(name, {}), 10) for name in ("td3", "x-td3"))
    assert not plain.values_include_entropy and not extreme.values_include_entropy
    assert plain.scale_hint.advice == "a smaller learning rate"
    assert extreme.scale_hint.advice == "a larger beta"


@pytest.mark.parametrize("kind", get_args(Kind))
def test_x_td3_takes_every_kind_of_gumbel_loss(kind: str) -> None:
    agent = made(loss=kind)
    after, metrics = one_update(agent, start(agent), BATCH)
    assert {"mean_exp", "clip_fraction", "effective_sample_size"} <= set(metrics)
    assert all(np.isfinite(float(number)) for number in metrics.values())
    assert not same_bits(after.critic, start(agent).critic)

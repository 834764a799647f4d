"""IQL: V is the expectile of Q, and all else is XQL's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

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
from xql.agents import (
    Agent,
    Batch,
    EnvironmentSpec,
    IQLConfig,
    XQLConfig,
    make_iql,
    make_xql,
)
from xql.agents.iql import IQLState
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.xql import XQLState
from xql.data.actions import box
from xql.presets import resolve, suite

SPEC = EnvironmentSpec(3, box([-1.0, -2.0], [1.0, 2.0]))
AGENT = make_iql(IQLConfig(hidden=(8,), batch_size=6), 10)
LEARNER = make_iql(IQLConfig(hidden=(), value_schedule="cosine", value_learning_rate=0.05), 3000)


@functools.cache
def start(agent: Agent) -> IQLState:
    state: IQLState = first_state(agent, SPEC)
    return state


def swept(state: IQLState, **numbers: float) -> IQLState:
    changes = {name: jnp.float32(number) for name, number in numbers.items()}
    return state._replace(config=dataclasses.replace(state.config, **changes))


def q_is_the_action(state: IQLState, v: float) -> IQLState:
    """V = v, and target critics whose Q̄(s, a) is a₀, which stay."""
    critic = Critic(
        tuple(MLP((Linear(jnp.zeros((5, 1)).at[3, 0].set(1.0), jnp.zeros(1)),), ()) for _ in "12")
    )
    state = in_place(
        state, target_critic=critic, critic=critic, value=constant(state.value.network, v)
    )
    return swept(state, critic_learning_rate=0.0, policy_learning_rate=0.0)


def targets(values: list[float]) -> Batch:
    """120 rows at s = 0 whose Q̄ are `values`, each as often as the others."""
    each = jnp.array(values, jnp.float32)
    actions = jnp.stack([jnp.tile(each, 120 // len(values)), jnp.zeros(120)], axis=1)
    rows = random_batch(120, SPEC)._replace(actions=actions)
    return rows._replace(observations=jnp.zeros((120, 3)))


def test_the_value_gradient_by_hand() -> None:
    # V = 1 and Q̄ = (0, 1, 3) at τ = .9: errors (−1, 0, 2) weigh .1, .1 and .9, so the loss is
    # (.1 + 0 + .9 · 4)/3 and its slope in V −2 (.1 · −1 + .9 · 2)/3.
    state = swept(q_is_the_action(start(LEARNER), 1.0), expectile=0.9, value_learning_rate=0.01)
    after, metrics = one_update(LEARNER, state, targets([0.0, 1.0, 3.0]))
    slope = first_gradient(after.value).mlp.layers[-1].bias[0]
    assert slope == pytest.approx(-2 * 1.7 / 3, rel=1e-5)
    assert float(metrics["value_loss"]) == pytest.approx(3.7 / 3, rel=1e-5)
    assert float(metrics["above"]) == pytest.approx(1 / 3)
    assert float(metrics["v"]) == 1.0
    assert float(after.value.network.mlp.layers[-1].bias[0]) == pytest.approx(1.01, abs=1e-5)


@jax.jit
def _settle(state: IQLState, batch: Batch) -> IQLState:
    result: IQLState = jax.lax.fori_loop(
        0, 3000, lambda _, one: LEARNER.update(one, batch)[0], state
    )
    return result


def minimiser(values: list[float], expectile: float) -> float:
    """Where V comes to rest, for values of Q̄ that one state shares."""
    state = swept(q_is_the_action(start(LEARNER), 0.0), expectile=expectile)
    return float(_settle(state, targets(values)).value.network(jnp.zeros(3)))


# τ Σ (x − e)₊ = (1 − τ) Σ (e − x)₊. Of {0, 1} in equal parts: τ (1 − e) = (1 − τ) e, so e = τ.
# Of {0, 1, 4} at τ = .8, e above 1: .8 (4 − e) = .2 (2e − 1), so e = 3.4/1.2; at .999 likewise.
BY_HAND = [
    ([0.0, 1.0], 0.3, 0.3),
    ([0.0, 1.0], 0.9, 0.9),
    ([0.0, 1.0, 4.0], 0.5, 5 / 3),
    ([0.0, 1.0, 4.0], 0.8, 3.4 / 1.2),
    ([0.0, 1.0, 4.0], 0.999, (0.999 * 4 + 0.001) / (0.999 + 0.002)),
]


@pytest.mark.parametrize(("values", "expectile", "by_hand"), BY_HAND)
def test_v_is_the_expectile_of_q(values: list[float], expectile: float, by_hand: float) -> None:
    assert minimiser(values, expectile) == pytest.approx(by_hand, abs=2e-3)
    assert scipy.stats.expectile(values, expectile) == pytest.approx(by_hand, abs=1e-9)


def test_one_half_is_the_mean_and_towards_one_the_maximum() -> None:
    values = np.random.default_rng(0).normal(size=40).astype(np.float32)
    levels = [0.5, 0.7, 0.9, 0.99, 0.9999]
    found = [minimiser(values.tolist(), one) for one in levels]
    assert found[0] == pytest.approx(values.mean(), abs=2e-3)
    assert found == sorted(found)
    assert found[-1] < values.max() < found[-1] + 0.02


def test_the_backup_by_hand() -> None:
    # V = 10 everywhere and at rest: targets 1 and 2 + .9 · 10 = 11 at masks 0 and 1. Q = 3 makes
    # the errors 2 and −8, the half squares of each of two critics (2² + 8²)/2/2.
    state = start(AGENT)
    state = in_place(
        swept(state, discount=0.9, value_learning_rate=0.0),
        value=constant(state.value.network, 10.0),
        critic=constant(state.critic.network, 3.0, 3.0),
        target_critic=constant(state.target_critic, 12.0, 11.0),
    )
    batch = random_batch(6, SPEC)._replace(
        rewards=jnp.array([1.0, 2.0] * 3), masks=jnp.array([0.0, 1.0] * 3)
    )
    _, metrics = one_update(AGENT, state, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(34.0, rel=1e-5)
    # The smaller target critic, 11, less V: A = 1, and the weight e^{3 · 1}.
    assert float(metrics["advantage"]) == pytest.approx(1.0, rel=1e-5)
    assert float(metrics["weight"]) == pytest.approx(np.exp(3.0), rel=1e-5)


def test_all_but_the_value_step_is_xql_s() -> None:
    # With V at rest the two agents take the same step everywhere else.
    state = swept(start(AGENT), value_learning_rate=0.0)
    config = XQLConfig(hidden=(8,), batch_size=6, critic_loss="squared", value_learning_rate=0.0)
    other = make_xql(config, 10)
    parts = state._replace(config=jax.tree.map(jnp.float32, config))._asdict()
    batch = random_batch(6, SPEC)
    ours, theirs = (
        one_update(agent, one, batch)[0]
        for agent, one in ((AGENT, state), (other, XQLState(**parts, temperatures={})))
    )
    for part in ("policy", "critic", "target_critic"):
        assert_close(getattr(ours, part), getattr(theirs, part), rtol=1e-5, atol=1e-7)


def test_dropout_is_in_the_policy_s_loss_alone() -> None:
    agent = make_iql(dataclasses.replace(AGENT.config, policy_dropout=0.5), 10)
    batch, state = random_batch(6, SPEC), start(AGENT)
    numbers, structure = jax.tree.leaves(state.config), jax.tree.structure(agent.config)
    state = state._replace(config=jax.tree.unflatten(structure, numbers))
    after, metrics = one_update(agent, state, batch)
    plain, _ = one_update(AGENT, start(AGENT), batch)
    for part in ("value", "critic", "target_critic"):
        assert same_bits(getattr(after, part), getattr(plain, part)), part
    key, dropout_key = jax.random.split(state.key)
    policy = state.policy.network
    log_prob = jax.jit(lambda s, a: policy.log_prob(s, a, 0.5, dropout_key).mean())(*batch[:2])
    assert float(metrics["log_prob"]) == pytest.approx(float(log_prob), rel=1e-5)
    assert same_bits(after.key, key) and same_bits(plain.key, state.key)


# The published configurations: expectile, inverse temperature, reward scaling.
GOLDEN = {
    "hopper-medium-v2": (0.7, 3.0, "return_range"),
    "antmaze-large-play-v0": (0.9, 10.0, "minus_one"),
    "kitchen-mixed-v0": (0.7, 0.5, "raw"),
    "pen-human-v0": (0.7, 0.5, "raw"),
}


@pytest.mark.parametrize("preset", ["default", "published"])
@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_preset_is_the_published_configuration(dataset: str, preset: str) -> None:
    expectile, inverse_temperature, rewards = GOLDEN[dataset]
    chosen = resolve("iql", preset, dataset)
    dropped = preset == "published" and suite(dataset) in ("kitchen", "adroit")
    assert vars(chosen.config) == {
        "expectile": expectile,
        "inverse_temperature": inverse_temperature,
        "weight_cap": 100.0,
        "discount": 0.99,
        "polyak": 0.005,
        "value_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "policy_learning_rate": 3e-4,
        "hidden": (256, 256),
        "critics": 2,
        "value_layer_norm": False,
        "critic_layer_norm": False,
        "max_gradient_norm": None,
        "critic_loss": "squared",
        "huber_delta": 20.0,
        "policy_dropout": 0.1 if dropped else 0.0,
        "policy_schedule": "cosine",
        "value_schedule": "constant",
        "batch_size": 256,
    }
    assert (chosen.rewards, chosen.observations, chosen.subset) == (rewards, "raw", "all")

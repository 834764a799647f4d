"""IQL: V is the expectile of Q, and all else is XQL's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jaxtyping import Array

from worlds import constant, first_state, in_place, one_update, random_batch
from xql.agents import IQLConfig, Spec, XQLConfig, iql, steps, xql
from xql.agents.networks import MLP, Linear, Value
from xql.presets import settings

SPEC = Spec(3, (-1.0, -2.0), (1.0, 2.0))
AGENT = iql(IQLConfig(hidden=(8,), batch_size=6), 10)


def constant_value(number: float) -> Value:
    bias = jnp.array([number], jnp.float32)
    return Value(MLP((Linear(jnp.zeros((1, 1)), bias),), ()))


def test_the_value_gradient_by_hand() -> None:
    # V = 1 and Q = (0, 1, 3) at τ = .9: errors (−1, 0, 2) weigh .1, .1 and .9, so the loss is
    # (.1 + 0 + .9 · 4)/3 and its slope in V −2 (.1 · −1 + .9 · 2)/3.
    value, metrics = jax.jit(steps.fit_value_expectile)(
        steps.trainable(constant_value(1.0)),
        jnp.zeros((3, 1)),
        jnp.array([0.0, 1.0, 3.0]),
        expectile=jnp.float32(0.9),
        learning_rate=jnp.float32(0.01),
    )
    slope = value.optimizer.mu.mlp.layers[-1].bias[0] / 0.1
    assert float(slope) == pytest.approx(-2 * 1.7 / 3, rel=1e-5)
    assert float(metrics["value_loss"]) == pytest.approx(3.7 / 3, rel=1e-5)
    assert float(metrics["above"]) == pytest.approx(1 / 3)
    assert float(value.network.mlp.layers[-1].bias[0]) == pytest.approx(1.01, abs=1e-5)


@jax.jit
def minimiser(targets: Array, expectile: Array) -> Array:
    """Where V comes to rest, for targets that one state shares."""
    rows = jnp.zeros((len(targets), 1))

    def body(i: Array, value: steps.Trainable) -> steps.Trainable:
        rate = 0.05 * steps.decay("cosine", i, 3000)
        return steps.fit_value_expectile(
            value, rows, targets, expectile=expectile, learning_rate=rate
        )[0]

    start = steps.trainable(constant_value(0.0))
    return jax.lax.fori_loop(0, 3000, body, start).network(rows[:1])[0]


# τ Σ (x − e)₊ = (1 − τ) Σ (e − x)₊. Of {0, 1} in equal parts: τ (1 − e) = (1 − τ) e, so e = τ.
# Of {0, 1, 4} at τ = .8, e above 1: .8 (4 − e) = .2 (2e − 1), so e = 3.4/1.2; at .999 likewise.
BY_HAND = [
    ([0.0, 1.0], 0.3, 0.3),
    ([0.0, 1.0], 0.9, 0.9),
    ([0.0, 1.0, 4.0], 0.5, 5 / 3),
    ([0.0, 1.0, 4.0], 0.8, 3.4 / 1.2),
    ([0.0, 1.0, 4.0], 0.999, (0.999 * 4 + 0.001) / (0.999 + 0.002)),
]


@pytest.mark.parametrize(("targets", "expectile", "by_hand"), BY_HAND)
def test_v_is_the_expectile_of_q(targets: list[float], expectile: float, by_hand: float) -> None:
    found = float(minimiser(jnp.array(targets), jnp.float32(expectile)))
    assert found == pytest.approx(by_hand, abs=2e-3)
    assert scipy.stats.expectile(targets, expectile) == pytest.approx(by_hand, abs=1e-9)


def test_one_half_is_the_mean_and_towards_one_the_maximum() -> None:
    targets = np.random.default_rng(0).normal(size=40).astype(np.float32)
    levels = [0.5, 0.7, 0.9, 0.99, 0.9999]
    found = [float(minimiser(jnp.array(targets), jnp.float32(one))) for one in levels]
    assert found[0] == pytest.approx(targets.mean(), abs=2e-3)
    assert found == sorted(found)
    assert found[-1] < targets.max() < found[-1] + 0.02


def test_the_advantage_weights_sum_as_stated() -> None:
    # AWR's: min(e^{κA}, cap), whose sum over the batch is free.
    advantages = jnp.array([-1.0, 0.0, 0.5, 40.0])
    weights = steps.advantage_weights(advantages, jnp.float32(3.0), jnp.float32(100.0))
    by_hand = [np.exp(-3.0), 1.0, np.exp(1.5), 100.0]
    np.testing.assert_allclose(weights, by_hand, rtol=1e-5)
    assert float(weights.sum()) == pytest.approx(sum(by_hand), rel=1e-5)


def test_the_backup_by_hand() -> None:
    # V = 10 everywhere and at rest: targets 1 and 2 + .9 · 10 = 11 at masks 0 and 1. Q = 3 makes
    # the errors 2 and −8, the half squares of each of two critics (2² + 8²)/2/2.
    state = first_state(AGENT, SPEC)
    hyper = state.hyper._replace(discount=jnp.float32(0.9), value_learning_rate=jnp.float32(0.0))
    state = in_place(
        state._replace(hyper=hyper),
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
    state = first_state(AGENT, SPEC)
    state = state._replace(hyper=state.hyper._replace(value_learning_rate=jnp.float32(0.0)))
    other = xql(XQLConfig(hidden=(8,), batch_size=6, critic_loss="squared"), 10)
    shared = {name: getattr(state.hyper, name) for name in set(state.hyper._fields) - {"expectile"}}
    twin = state._replace(hyper=first_state(other, SPEC).hyper._replace(**shared))
    batch = random_batch(6, SPEC)
    ours, theirs = one_update(AGENT, state, batch)[0], one_update(other, twin, batch)[0]
    for part in ("policy", "critic", "target_critic"):
        for a, b in zip(
            jax.tree.leaves(getattr(ours, part)),
            jax.tree.leaves(getattr(theirs, part)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


# The published configurations: expectile, inverse temperature, reward scaling.
GOLDEN = {
    "hopper-medium-v2": (0.7, 3.0, "return_range"),
    "antmaze-large-play-v0": (0.9, 10.0, "minus_one"),
    "kitchen-mixed-v0": (0.7, 0.5, "raw"),
    "pen-human-v0": (0.7, 0.5, "raw"),
}


@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_preset_is_the_published_configuration(dataset: str) -> None:
    expectile, inverse_temperature, rewards = GOLDEN[dataset]
    chosen = settings("iql", "default", dataset)
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
        "policy_schedule": "cosine",
        "value_schedule": "constant",
        "batch_size": 256,
    }
    assert (chosen.rewards, chosen.observations, chosen.episodes) == (rewards, "raw", "all")

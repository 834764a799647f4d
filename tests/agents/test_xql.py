"""One update of XQL against its equations, by hand and written out once more with optax."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, PyTree

from worlds import (
    assert_close,
    constant,
    first_gradient,
    first_state,
    in_place,
    one_update,
    random_batch,
    random_log,
    same_bits,
    soft_value_iteration,
    spec_of,
    trained,
)
from xql.agents import AGENTS, Agent, Batch, EnvironmentSpec, XQLConfig, configure, make_xql, member
from xql.agents.hyperparameters import Auto, Swept
from xql.agents.networks import MLP, Critic, Linear, Value
from xql.agents.policies import GaussianPolicy
from xql.agents.update import trainable
from xql.agents.xql import XQLState
from xql.data.actions import box
from xql.runs.config import Member

ACTIONS = box([-1.0, -2.0], [1.0, 2.0])
SPEC = EnvironmentSpec(3, ACTIONS)
SMALL = XQLConfig(hidden=(8,), batch_size=4)


def made(**changes: Any) -> Agent:
    return make_xql(dataclasses.replace(SMALL, **changes), 10)


@functools.cache
def start() -> XQLState:
    """Compiled once for the tests that change numbers only."""
    state: XQLState = first_state(made(), SPEC)
    return state


def swept(state: XQLState, **numbers: float) -> XQLState:
    changes = {name: jnp.float32(number) for name, number in numbers.items()}
    return state._replace(config=dataclasses.replace(state.config, **changes))


def static(state: XQLState, agent: Agent) -> XQLState:
    """The state with the static hyperparameters of another agent; its numbers stay."""
    numbers, _ = jax.tree.flatten(state.config)
    return state._replace(config=jax.tree.unflatten(jax.tree.structure(agent.config), numbers))


def batch_of(rows: int) -> Batch:
    return random_batch(rows, SPEC)


ALTERNATING = batch_of(4)._replace(
    rewards=jnp.array([1.0, 2.0, 1.0, 2.0]), masks=jnp.array([0.0, 1.0, 0.0, 1.0])
)


def test_the_backup_by_hand() -> None:
    # V = 10 everywhere and it cannot move (its learning rate is 0), so the targets of Q at rewards
    # (1, 2) with masks (0, 1) and γ = 0.9 are 1 and 2 + 0.9 · 10 = 11; Q = 3 makes the errors
    # 2 and −8, the loss of each member (2² + 8²)/2/2 = 17, and of two members 34.
    # Both errors lie within Huber's δ of 20.
    state = in_place(
        swept(start(), discount=0.9, value_learning_rate=0.0),
        value=constant(start().value.network, 10.0),
        critic=constant(start().critic.network, 3.0, 3.0),
    )
    _, metrics = one_update(made(), state, ALTERNATING)
    assert float(metrics["critic_loss"]) == pytest.approx(34.0, rel=1e-5)
    assert float(metrics["bellman_error"]) == pytest.approx(5.0, rel=1e-5)
    assert (float(metrics["v"]), float(metrics["q"])) == (10.0, 3.0)


def test_v_and_the_weights_look_at_the_smaller_target_critic() -> None:
    # Target critics 5 and 2, V = 1: the advantage is 1, the weight e^{3 · 1}; z = 1/β.
    state = in_place(
        swept(start(), beta=2.0, value_learning_rate=0.0),
        target_critic=constant(start().target_critic, 5.0, 2.0),
        value=constant(start().value.network, 1.0),
    )
    _, metrics = one_update(made(), state, batch_of(4))
    assert float(metrics["advantage"]) == pytest.approx(1.0, rel=1e-5)
    assert float(metrics["weight"]) == pytest.approx(np.exp(3.0), rel=1e-5)
    assert float(metrics["value_loss"]) == pytest.approx(np.exp(0.5) - 1.5, rel=1e-4)


def linear(inputs: int, weights: dict[int, float], bias: float = 0.0, outputs: int = 1) -> MLP:
    """One layer: Σ weights[i] · input i + bias, for every output."""
    column = (
        jnp.zeros((inputs, outputs))
        .at[jnp.array(list(weights), int)]
        .set(jnp.array(list(weights.values()))[:, None])
    )
    return MLP((Linear(column, jnp.full(outputs, bias)),), ())


@functools.cache
def linear_state() -> XQLState:
    """V = 1, Q = 0 and Q̄ = s₀ everywhere, π(s) = tanh(0.5): each network one layer."""
    state = static(start(), made(hidden=()))
    flat, first = linear(5, {}), linear(5, {0: 1.0})
    return state._replace(
        policy=trainable(GaussianPolicy(linear(3, {}, 0.5, 2), jnp.zeros(2), *BOUNDS)),
        value=trainable(Value(linear(3, {}, 1.0))),
        critic=trainable(Critic((flat, flat))),
        target_critic=Critic((first, first)),
    )


BOUNDS = ACTIONS.low, ACTIONS.high
# Q̄ = (1, 3, −1, 1) in the four rows.
ROWS = batch_of(4)._replace(
    observations=jnp.array([[1.0, 0, 0], [3.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0]])
)


def test_the_value_gradient_by_hand() -> None:
    # z = (Q̄ − V)/β with V = 1, β = 2: (0, 1, −1, 0), and dJ/dV = mean(1 − e^z)/β.
    agent, state = made(hidden=()), swept(linear_state(), beta=2.0)
    after, metrics = one_update(agent, swept(state, value_learning_rate=0.01), ROWS)
    layer = first_gradient(after.value).mlp.layers[0]
    assert layer.bias[0] == pytest.approx((2 - np.e - 1 / np.e) / 8, rel=1e-5)
    # s₀ is (1, 3, −1, 1).
    assert layer.weight[0, 0] == pytest.approx((3 * (1 - np.e) - (1 - 1 / np.e)) / 8, rel=1e-5)
    moved = float(after.value.network.mlp.layers[0].bias[0])
    assert moved == pytest.approx(1.0 + 0.01, abs=1e-6)  # towards the larger Q̄
    assert float(metrics["value_loss"]) == pytest.approx((np.e + 1 / np.e - 2) / 4, rel=1e-5)
    assert float(metrics["v"]) == 1.0
    assert float(metrics["mean_exp"]) == pytest.approx((2 + np.e + 1 / np.e) / 4, rel=1e-5)
    assert float(metrics["clip_fraction"]) == 0.0


def test_the_value_gradient_s_norm_is_at_most_the_stated_one() -> None:
    # β = 0.5: z = (0, 4, −4, 0). The gradient is far above norm 1, its direction stays.
    free, limited = made(hidden=()), made(hidden=(), max_gradient_norm=1.0)
    state = swept(linear_state(), beta=0.5)
    whole, _ = one_update(free, state, ROWS)
    cut, _ = one_update(limited, static(state, limited), ROWS)
    gradients = [first_gradient(one.value).mlp.layers[0] for one in (whole, cut)]
    vectors = [np.append(layer.weight[:, 0], layer.bias) for layer in gradients]
    norm = np.linalg.norm(vectors[0])
    assert norm > 10
    np.testing.assert_allclose(vectors[1], vectors[0] / norm, rtol=1e-4, atol=1e-6)


def test_the_policy_gradient_by_hand() -> None:
    # A = Q̄ − V = (0, 2, −2, 0) and κ = log(2)/2: weights (1, 2, 1/2, 1). With log σ = 0 the
    # gradient of −w log π in the mean is −w (u − m), m = tanh 0.5 and u the action in half ranges;
    # the mean's own slope in the bias is 1 − m². In log σ it is w (1 − (u − m)²).
    agent = made(hidden=())
    state = swept(linear_state(), inverse_temperature=np.log(2) / 2, value_learning_rate=0.0)
    after, metrics = one_update(agent, state, ROWS)
    weights = np.array([1.0, 2.0, 0.5, 1.0])[:, None]
    m = np.tanh(0.5)
    z = np.asarray(ROWS.actions) / [1.0, 2.0] - m
    found = first_gradient(after.policy)
    by_hand = (-weights * z).mean(0) * (1 - m**2)
    np.testing.assert_allclose(found.mlp.layers[0].bias, by_hand, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.log_std, (weights * (1 - z**2)).mean(0), rtol=1e-4, atol=1e-6)
    log_prob = -(z**2 / 2 + np.log(2 * np.pi) / 2).sum(1)
    assert float(metrics["log_prob"]) == pytest.approx(log_prob.mean(), rel=1e-5)
    loss = -(weights[:, 0] * log_prob).mean()
    assert float(metrics["policy_loss"]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_the_critic_gradient_by_hand(kind: str) -> None:
    # Q = 0, V = 1 and at rest, γ = 0.5: y = (0, 50 + 0.5, …). Squared: −mean(y); Huber with δ = 20
    # cuts each error at ±20.
    agent = made(hidden=(), critic_loss=kind)
    state = swept(linear_state(), discount=0.5, value_learning_rate=0.0)
    batch = ROWS._replace(
        rewards=jnp.array([0.0, 50.0, -2.0, 1.0]), masks=jnp.array([0.0, 1.0, 1.0, 0.0])
    )
    after, _ = one_update(agent, static(state, agent), batch)
    y = np.array([0.0, 20.0 if kind == "huber" else 50.5, -1.5, 1.0])
    for mlp in first_gradient(after.critic).mlps:
        assert mlp.layers[0].bias[0] == pytest.approx(-y.mean(), rel=1e-5)


def adam_step(network: PyTree, loss: Callable[[Any], Array], rate: Swept) -> PyTree:
    """One step of optax's own Adam from its fresh state."""
    adam = optax.adam(rate)
    change, _ = adam.update(jax.grad(loss)(network), adam.init(network), network)
    return optax.apply_updates(network, change)


@pytest.mark.parametrize("order", ["sequential", "simultaneous"])
def test_an_update_is_its_four_steps_in_the_stated_order(order: str) -> None:
    agent = made(update_order=order)
    state = static(swept(start(), value_learning_rate=0.05), agent)
    s, a, r, mask, after, *_ = batch = batch_of(4)

    @jax.jit
    def by_the_equations(state: XQLState) -> tuple[PyTree, ...]:
        config = state.config
        q = state.target_critic(s, a).min(0)

        def gumbel(v: Value) -> Array:
            assert not isinstance(config.beta, Auto)
            z = (q - v(s)) / config.beta
            return (jnp.exp(z) - z - 1).mean()

        value = adam_step(state.value.network, gumbel, config.value_learning_rate)
        v = value if order == "sequential" else state.value.network
        weights = jnp.minimum(jnp.exp(3.0 * (q - v(s))), 100.0)
        targets = r + 0.99 * mask * v(after)
        policy = adam_step(
            state.policy.network,
            lambda pi: -(weights * pi.log_prob(s, a)).mean(),
            config.policy_learning_rate,
        )
        critic = adam_step(
            state.critic.network,  # no error reaches Huber's 20
            lambda one: (jnp.square(one(s, a) - targets) / 2).mean(1).sum(),
            config.critic_learning_rate,
        )
        target = jax.tree.map(lambda t, o: 0.995 * t + 0.005 * o, state.target_critic, critic)
        return value, policy, critic, target

    found, _ = one_update(agent, state, batch)
    networks = (found.value, found.policy, found.critic)
    assert_close((*(one.network for one in networks), found.target_critic), by_the_equations(state))
    assert int(found.step) == 1


def test_the_two_orders_differ_after_one_update_and_agree_in_the_end() -> None:
    log = random_log(3, states=4, actions=2, steps=400)
    base = XQLConfig(
        hidden=(32,),
        batch_size=64,
        discount=0.5,
        polyak=0.2,
        value_learning_rate=5e-3,
        critic_learning_rate=5e-3,
        value_schedule="cosine",
    )
    data, values, first = log.dataset(name="four"), [], []
    v, _, _ = soft_value_iteration(log, 1.0, 0.5)
    visited = np.unique(log.states)
    spread = v[visited].max() - v[visited].min()
    for order in ("sequential", "simultaneous"):
        agent = make_xql(dataclasses.replace(base, update_order=order), 2000)
        one, whole = (trained(agent, spec_of(4, 2), [Member(0)], data, n) for n in (1, 2000))
        first.append(member(one, 0))
        values.append(np.asarray(member(whole, 0).value.network(jnp.eye(4)))[visited])
    # The critic's first step is taken from the new V in one order and from the old in the other.
    assert same_bits(first[0].value, first[1].value)
    assert not same_bits(first[0].critic, first[1].critic)
    for found in values:
        np.testing.assert_allclose(found, v[visited], atol=0.03 * spread)


def test_each_v_update_sees_a_fresh_block_and_the_rest_sees_the_last() -> None:
    agent, one = made(v_updates=3), made()
    assert (agent.transitions, one.transitions) == (12, 4)
    state, batch = swept(start(), value_learning_rate=0.01), batch_of(12)

    def block(index: int) -> Batch:
        rows: Batch = jax.tree.map(lambda column: column[4 * index : 4 * index + 4], batch)
        return rows

    several, _ = one_update(agent, static(state, agent), batch)
    step_by_step = state
    for index in range(3):
        value = one_update(one, step_by_step, block(index))[0].value
        # Only V moves between: three V steps, then one of policy and Q.
        step_by_step = step_by_step._replace(value=value)
    assert_close(several.value, step_by_step.value)
    # Policy and Q, from the final V on the last block: an update whose V stands still.
    rest, _ = one_update(one, swept(step_by_step, value_learning_rate=0.0), block(2))
    assert_close(several.policy, rest.policy)
    assert_close(several.critic, rest.critic)


def test_schedules_reach_the_learning_rates() -> None:
    # At the last step of a cosine a network stands still, with a constant rate it does not.
    turned = made(value_schedule="cosine", policy_schedule="constant")
    for agent, still in ((made(), {"policy"}), (turned, {"value", "critic"})):
        state = static(start(), agent)._replace(step=jnp.int32(10))
        after, _ = one_update(agent, state, batch_of(4))
        for name in ("policy", "value", "critic"):
            before = jax.tree.leaves(getattr(state, name).network)
            moved = jax.tree.leaves(getattr(after, name).network)
            change = max(float(jnp.abs(b - m).max()) for b, m in zip(before, moved, strict=True))
            assert (change < 1e-9) == (name in still), (name, change)


def test_the_published_extras_evaluate_q_at_actions_outside_the_data() -> None:
    plain, noisy, random = (
        made(**change) for change in ({}, {"value_action_noise": 0.1}, {"value_random_actions": 2})
    )

    def value_loss(agent: Agent, seed: int = 0) -> float:
        state = static(start(), agent)._replace(key=jax.random.key(seed))
        return float(one_update(agent, state, batch_of(4))[1]["value_loss"])

    losses = [value_loss(agent) for agent in (plain, noisy, random)]
    assert len(set(losses)) == 3
    assert value_loss(plain, seed=99) == losses[0]
    assert value_loss(noisy, seed=99) != losses[1]
    assert value_loss(random, seed=99) != losses[2]


def test_dropout_is_in_the_policy_s_loss_alone() -> None:
    agent, batch = made(policy_dropout=0.5), batch_of(4)
    state = static(start(), agent)
    after, metrics = one_update(agent, state, batch)
    plain, _ = one_update(made(), start(), batch)
    for part in ("value", "critic", "target_critic"):
        assert same_bits(getattr(after, part), getattr(plain, part)), part
    assert not same_bits(after.policy, plain.policy)
    # By the equation, with a key that nothing else has seen.
    key, dropout_key = jax.random.split(jax.random.split(state.key)[0])
    policy = state.policy.network
    log_prob = jax.jit(lambda s, a: policy.log_prob(s, a, 0.5, dropout_key).mean())(*batch[:2])
    assert float(metrics["log_prob"]) == pytest.approx(float(log_prob), rel=1e-5)
    assert same_bits(after.key, key)
    # It acts with every unit.
    s = jnp.ones((5, 3))
    np.testing.assert_array_equal(agent.actor(state)(s), made().actor(start())(s))
    # And each member of a population drops its own.
    other = state._replace(key=jax.random.key(1))
    population = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, other)
    together, _ = jax.jit(jax.vmap(agent.update, in_axes=(0, None)))(population, batch)
    for index, alone in enumerate((after, one_update(agent, other, batch)[0])):
        assert_close(member(together, index).policy, alone.policy)
    assert not same_bits(member(together, 0).policy, member(together, 1).policy)


def test_the_key_and_the_step_move_on() -> None:
    after, _ = one_update(made(), start(), batch_of(4))
    assert int(after.step) == int(start().step) + 1
    assert not same_bits(after.key, start().key)


def shapes(agent: Agent) -> Any:
    """A fresh state as shapes and types, without compiling anything."""
    config = jax.tree.map(jnp.float32, agent.config)
    return jax.eval_shape(lambda key: agent.init(key, SPEC, config), jax.random.key(0))


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_leaf_of_every_network_is_a_float32_array(name: str) -> None:
    config = configure(name, {"hidden": (8, 8), "batch_size": 4})
    state = shapes(AGENTS[name].make(config, 10))
    networks = [getattr(part, "network", None) for part in state]
    assert len(jax.tree.leaves(networks)) > 4
    for leaf in jax.tree.leaves(networks):
        assert leaf.dtype == jnp.float32
    # A Python number among the leaves would be of a weak type.
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))


def test_the_target_critic_starts_as_the_critic() -> None:
    assert same_bits(start().target_critic, start().critic.network)


def test_layer_norm_stands_where_it_is_asked_for() -> None:
    state = shapes(made(hidden=(8, 8)))
    assert len(state.value.network.mlp.norms) == 2
    assert all(mlp.norms == () for mlp in state.critic.network.mlps)


def test_the_actor_is_the_policy() -> None:
    actor = made().actor(start())
    s = jnp.ones((5, 3))
    np.testing.assert_array_equal(actor(s), start().policy.network.mean(s))
    draws = actor(s, jax.random.key(0))
    assert len(np.unique(draws[:, 0])) > 1
    assert (np.abs(draws) <= jnp.array([1.0, 2.0])).all()

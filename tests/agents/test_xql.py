"""One update of XQL against its equations, by hand and by composing the public steps."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, PyTree

from worlds import random_log, same_bits, soft_value_iteration, trained
from xql.agents import (
    AGENTS,
    Agent,
    Batch,
    BCConfig,
    Metrics,
    Spec,
    TrainState,
    XQLConfig,
    bc,
    member,
    steps,
    xql,
)
from xql.presets import configure
from xql.training.population import Member

SPEC = Spec(3, (-1.0, -2.0), (1.0, 2.0))
SMALL = XQLConfig(hidden=(8,), batch_size=4)


@functools.partial(jax.jit, static_argnames="agent")
def update(agent: Agent, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    return agent.update(state, batch)


@functools.partial(jax.jit, static_argnames=("agent", "spec"))
def start(agent: Agent, seed: Array, spec: Spec = SPEC) -> TrainState:
    hyper = jax.tree.map(jnp.float32, agent.hyper)
    return agent.init(jax.random.key(seed), spec, hyper)


@functools.cache
def small() -> tuple[Agent, TrainState]:
    """One agent and its first state, compiled once for the tests that change numbers only."""
    agent = xql(SMALL, 10)
    return agent, start(agent, 0)


def with_hyper(state: TrainState, **numbers: float) -> TrainState:
    changes = {name: jnp.float32(number) for name, number in numbers.items()}
    return state._replace(hyper=state.hyper._replace(**changes))


def batch_of(rows: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    columns = (
        random.normal(size=(rows, 3)),
        random.uniform(-1.0, 1.0, (rows, 2)),
        random.normal(size=rows),
        np.arange(rows) % 2,
        random.normal(size=(rows, 3)),
    )
    return Batch(*(jnp.array(column, jnp.float32) for column in columns))


def close(one: PyTree, other: PyTree) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def with_outputs(network: PyTree, number: float) -> PyTree:
    """The network, or each of its ensemble, made constant: its output is `number` everywhere."""
    mlps = network.mlps if hasattr(network, "mlps") else (network.mlp,)

    def constant(mlp: eqx.Module) -> eqx.Module:
        last = mlp.layers[-1]
        return eqx.tree_at(
            lambda m: (m.layers[-1].weight, m.layers[-1].bias),
            mlp,
            (jnp.zeros_like(last.weight), jnp.full_like(last.bias, number)),
        )

    changed = tuple(constant(mlp) for mlp in mlps)
    if hasattr(network, "mlps"):
        return eqx.tree_at(lambda n: n.mlps, network, changed)
    return eqx.tree_at(lambda n: n.mlp, network, changed[0])


def test_the_backup_by_hand() -> None:
    # V = 10 everywhere and it cannot move (its learning rate is 0), so the targets of Q at rewards
    # (1, 2) with masks (0, 1) and γ = 0.9 are 1 and 2 + 0.9 · 10 = 11; Q = 3 makes the errors
    # 2 and −8, the loss of each member (2² + 8²)/2/2 = 17, and of two members 34.
    # Both errors lie within Huber's δ of 20.
    agent, state = small()
    state = with_hyper(state, discount=0.9, value_learning_rate=0.0)
    state = state._replace(
        value=state.value._replace(network=with_outputs(state.value.network, 10.0)),
        critic=state.critic._replace(network=with_outputs(state.critic.network, 3.0)),
    )
    batch = batch_of(4)._replace(
        rewards=jnp.array([1.0, 2.0, 1.0, 2.0], jnp.float32),
        masks=jnp.array([0.0, 1.0, 0.0, 1.0], jnp.float32),
    )
    _, metrics = update(agent, state, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(34.0, rel=1e-5)
    assert float(metrics["bellman_error"]) == pytest.approx(5.0, rel=1e-5)


def test_v_and_the_weights_look_at_the_smaller_target_critic() -> None:
    # Target critics 2 and 5, V = 1: the advantage is 1, the weight e^{3 · 1}; z = 1/β.
    agent, state = small()
    state = with_hyper(state, beta=2.0, value_learning_rate=0.0)
    low, high = with_outputs(state.target_critic, 2.0), with_outputs(state.target_critic, 5.0)
    target = eqx.tree_at(lambda c: c.mlps, low, (high.mlps[0], low.mlps[1]))
    state = state._replace(
        target_critic=target,
        value=state.value._replace(network=with_outputs(state.value.network, 1.0)),
    )
    _, metrics = update(agent, state, batch_of(4))
    assert float(metrics["advantage"]) == pytest.approx(1.0, rel=1e-5)
    assert float(metrics["weight"]) == pytest.approx(np.exp(3.0), rel=1e-5)
    assert float(metrics["value_loss"]) == pytest.approx(np.exp(0.5) - 1.5, rel=1e-4)


@pytest.mark.parametrize("order", ["sequential", "simultaneous"])
def test_an_update_is_its_four_steps_in_the_stated_order(order: str) -> None:
    agent = xql(dataclasses.replace(SMALL, update_order=order), 10)
    state, batch = with_hyper(small()[1], value_learning_rate=0.05), batch_of(4)
    s, a, r, mask, after, *_ = batch

    @jax.jit
    def by_hand(state: TrainState) -> tuple[steps.Trainable, ...]:
        hyper = state.hyper
        q = state.target_critic(s, a).min(0)
        value, _ = steps.fit_value_gumbel(
            state.value,
            s,
            q,
            beta=hyper.beta,
            learning_rate=hyper.value_learning_rate,
            kind="linear",
            clip=hyper.clip,
            max_gradient_norm=1.0,
        )
        v = value.network if order == "sequential" else state.value.network
        weights = jnp.minimum(jnp.exp(3.0 * (q - v(s))), 100.0)
        policy, _ = steps.fit_policy_weighted(
            state.policy, s, a, weights, learning_rate=hyper.policy_learning_rate
        )
        critic, _ = steps.fit_critic(
            state.critic,
            s,
            a,
            r + 0.99 * mask * v(after),
            learning_rate=hyper.critic_learning_rate,
            kind="huber",
            huber_delta=20.0,
        )
        target = steps.polyak(state.target_critic, critic.network, jnp.float32(0.005))
        return value, policy, critic, target

    after_update, _ = update(agent, state, batch)
    found = (
        after_update.value,
        after_update.policy,
        after_update.critic,
        after_update.target_critic,
    )
    close(found, by_hand(state))
    assert int(after_update.step) == 1


def test_the_two_orders_differ_after_one_update_and_agree_in_the_end() -> None:
    log = random_log(3, states=4, actions=2, steps=400)
    spec = Spec(4, (-1.0, -1.0), (1.0, 1.0))
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
        agent = xql(dataclasses.replace(base, update_order=order), 2000)
        first.append(trained(agent, spec, [Member(0, {})], data, 1))
        population = trained(agent, spec, [Member(0, {})], data, 2000)
        values.append(np.asarray(member(population, 0).value.network(jnp.eye(4)))[visited])
    # The critic's first step is taken from the new V in one order and from the old in the other.
    assert same_bits(first[0].value, first[1].value)
    assert not same_bits(first[0].critic, first[1].critic)
    for found in values:
        np.testing.assert_allclose(found, v[visited], atol=0.03 * spread)


def test_each_v_update_sees_a_fresh_block_and_the_rest_sees_the_last() -> None:
    agent, (one, state) = xql(dataclasses.replace(SMALL, v_updates=3), 10), small()
    assert (agent.transitions, one.transitions) == (12, 4)
    state, batch = with_hyper(state, value_learning_rate=0.01), batch_of(12)

    def block(index: int) -> Batch:
        return jax.tree.map(lambda column: column[4 * index : 4 * index + 4], batch)

    several, _ = update(agent, state, batch)
    step_by_step = state
    for index in range(3):
        value = update(one, step_by_step, block(index))[0].value
        # Only V moves between: three V steps, then one of policy and Q.
        step_by_step = step_by_step._replace(value=value)
    close(several.value, step_by_step.value)
    # Policy and Q, from the final V on the last block: an update whose V stands still.
    rest, _ = update(one, with_hyper(step_by_step, value_learning_rate=0.0), block(2))
    close(several.policy, rest.policy)
    close(several.critic, rest.critic)


def test_schedules_reach_the_learning_rates() -> None:
    # At the last step of a cosine a network stands still, with a constant rate it does not.
    agent, state = small()
    turned = dataclasses.replace(SMALL, value_schedule="cosine", policy_schedule="constant")
    for one, still in ((agent, {"policy"}), (xql(turned, 10), {"value", "critic"})):
        after, _ = update(one, state._replace(step=jnp.int32(10)), batch_of(4))
        for name in ("policy", "value", "critic"):
            before = jax.tree.leaves(getattr(state, name).network)
            moved = jax.tree.leaves(getattr(after, name).network)
            change = max(float(jnp.abs(b - m).max()) for b, m in zip(before, moved, strict=True))
            assert (change < 1e-9) == (name in still), (name, change)


def test_the_published_extras_query_actions_outside_the_data() -> None:
    plain, noisy, random = (
        xql(dataclasses.replace(SMALL, **change), 10)
        for change in ({}, {"value_action_noise": 0.1}, {"value_random_actions": 2})
    )
    state, batch = small()[1], batch_of(4)
    values = [update(agent, state, batch)[1]["value_loss"] for agent in (plain, noisy, random)]
    assert len({float(value) for value in values}) == 3
    other_key = state._replace(key=jax.random.key(99))
    assert float(update(plain, other_key, batch)[1]["value_loss"]) == float(values[0])
    assert float(update(noisy, other_key, batch)[1]["value_loss"]) != float(values[1])


def test_the_key_and_the_step_move_on() -> None:
    agent, state = small()
    after, _ = update(agent, state, batch_of(4))
    assert int(after.step) == int(state.step) + 1
    assert not np.array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_leaf_of_every_network_is_a_float32_array(name: str) -> None:
    algorithm = AGENTS[name]
    settings = configure(name, {"hidden": (8, 8), "batch_size": 4})
    state = start(algorithm.make(settings, 10), 0)
    for part in (state.policy, state.value, state.critic):
        for leaf in jax.tree.leaves(None if part is None else part.network):
            assert isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32
    for leaf in jax.tree.leaves(state):
        assert isinstance(leaf, jax.Array)


def test_the_target_critic_starts_as_the_critic() -> None:
    _, state = small()
    assert same_bits(state.target_critic, state.critic.network)


def test_layer_norm_stands_where_it_is_asked_for() -> None:
    state = start(xql(XQLConfig(hidden=(8, 8)), 10), 0)
    assert len(state.value.network.mlp.norms) == 2
    assert all(mlp.norms == () for mlp in state.critic.network.mlps)


def test_act_is_the_mode_or_with_a_key_a_draw() -> None:
    agent, state = small()
    policy = state.policy.network
    s = jnp.ones((5, 3))
    np.testing.assert_array_equal(agent.act(policy, s, None), policy.mean(s))
    draws = agent.act(policy, s, jax.random.key(0))
    assert len(np.unique(draws[:, 0])) > 1
    assert (np.abs(draws) <= jnp.array([1.0, 2.0])).all()


def test_behaviour_cloning_finds_the_most_likely_gaussian() -> None:
    # Actions N(0.5, 0.2²) at s = −1 and N(−0.3, 0.2²) at s = 1; the shared deviation is 0.2.
    random = np.random.default_rng(0)
    s = np.repeat([[-1.0], [1.0]], 128, axis=0)
    a = np.where(s < 0, 0.5, -0.3) + 0.2 * random.normal(size=s.shape)
    columns = (s, a, np.zeros(256), np.ones(256), s)
    batch = Batch(*(jnp.array(column, jnp.float32) for column in columns))
    spec = Spec(1, (-1.0,), (1.0,))
    agent = bc(BCConfig(hidden=(16,), policy_learning_rate=0.02), 600)

    @jax.jit
    def fit(state: TrainState) -> TrainState:
        return jax.lax.fori_loop(0, 600, lambda _, one: agent.update(one, batch)[0], state)

    policy = fit(start(agent, 0, spec)).policy.network
    means = [a[s < 0].mean(), a[s > 0].mean()]
    modes = np.asarray(policy.mean(jnp.array([[-1.0], [1.0]])))[:, 0]
    np.testing.assert_allclose(modes, means, atol=0.005)
    residuals = a - np.where(s < 0, *means)
    assert float(jnp.exp(policy.log_std)[0]) == pytest.approx(residuals.std(), rel=0.02)


def test_behaviour_cloning_has_no_other_networks_and_takes_no_heed_of_rewards() -> None:
    agent = bc(BCConfig(hidden=(8,), batch_size=4), 10)
    state, batch = start(agent, 0), batch_of(4)
    assert state.value is None and state.critic is None and state.target_critic is None
    after, metrics = update(agent, state, batch)
    other, _ = update(agent, state, batch._replace(rewards=100 * batch.rewards))
    assert same_bits(after, other)
    assert set(metrics) == {"policy_loss", "log_prob"}

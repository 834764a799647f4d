"""Bellman errors of linear networks, worked out by hand."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import constant, first_state, in_place, random_batch
from xql.agents import (
    Agent,
    Batch,
    EnvironmentSpec,
    SACConfig,
    TD3Config,
    TrainState,
    XQLConfig,
    make_sac,
    make_td3,
    make_xql,
)
from xql.data.actions import box
from xql.evaluation.bellman import bellman_errors

# Actions between 0 and 4: the centre is 2, half the range is 2.
SPEC = EnvironmentSpec(1, box([0.0], [4.0]))
# From s = 1 by a = 3 for r = 0.5 to s' = 2, once going on and once terminated there.
BATCH = Batch(
    observations=jnp.array([[1.0], [1.0]]),
    actions=jnp.array([[3.0], [3.0]]),
    rewards=jnp.array([0.5, 0.5]),
    masks=jnp.array([1.0, 0.0]),
    next_observations=jnp.array([[2.0], [2.0]]),
)
Q_HERE = 10 * 1.0 + 2 * 3.0 - 1.0  # of `linear_critic` at (s, a)
KEY = jax.random.key(0)


def linear_critic(network: Any) -> Any:
    """Q₁(s, a) = 10 s + 2 a − 1; the second critic is far below, and must not count."""
    weights, biases = ([[10.0], [2.0]], [[0.0], [0.0]]), (-1.0, -1e6)
    layers = [mlp.layers[0] for mlp in network.mlps]
    filled = tuple(
        eqx.tree_at(lambda one: (one.weight, one.bias), layer, (jnp.array(w), jnp.array([b])))
        for layer, w, b in zip(layers, weights, biases, strict=True)
    )
    return eqx.tree_at(
        lambda one: tuple(mlp.layers[0] for mlp in one.mlps), network, replace=filled
    )


def errors_of(agent: Agent, state: TrainState, batch: Batch, key: Any = KEY) -> np.ndarray:
    """δ of one member, by its agent's own backup."""
    assert agent.backup is not None
    return np.asarray(bellman_errors(state, batch, key, backup=agent.backup))


def a_td3() -> tuple[Agent, TrainState]:
    """π(s) = 2 + 2 tanh(atanh ½) = 3 everywhere, γ = 0.9; the targets say something else."""
    agent = make_td3(TD3Config(hidden=(), discount=0.9), 10)
    state: Any = first_state(agent, SPEC)
    return agent, in_place(
        state,
        critic=linear_critic(state.critic.network),
        policy=constant(state.policy.network, float(np.arctanh(0.5))),
        target_policy=constant(state.target_policy, -5.0),
        target_critic=constant(state.target_critic, 1e6, 1e6),
    )


def a_sac(raw_deviation: float, mean: float = 0.0, **changes: Any) -> tuple[Agent, TrainState]:
    """a' = 2 + 2 tanh(u), u ~ N(mean, e^{2·log_std}), log_std = −5 + 3.5 (tanh(raw) + 1)."""
    agent = make_sac(SACConfig(hidden=(), discount=0.9, **changes), 10)
    state: Any = first_state(agent, SPEC)
    return agent, in_place(
        state,
        critic=linear_critic(state.critic.network),
        policy=constant(state.policy.network, mean, raw_deviation),
    )


def test_td3_by_hand() -> None:
    # Q₁(s', π(s')) = 10·2 + 2·3 − 1 = 25: 0.5 + 0.9·25 − 15 = 8, and 0.5 − 15 where it terminated.
    np.testing.assert_allclose(
        errors_of(*a_td3(), BATCH), [0.5 + 0.9 * 25 - Q_HERE, 0.5 - Q_HERE], 1e-6
    )
    assert Q_HERE == 15.0


def test_sac_draws_its_action_and_adds_no_entropy() -> None:
    # atanh(3/7) gives log_std = 0: a' = 2 + 2 tanh(u) with u ~ N(0, 1).
    agent, state = a_sac(float(np.arctanh(3 / 7)), initial_temperature=100.0)
    many = jax.tree.map(lambda column: jnp.repeat(column[:1], 20_000, axis=0), BATCH)
    errors = errors_of(agent, state, many).astype(np.float64)
    # E tanh u = 0 and E tanh² u = 0.394294 (by quadrature): so E δ = 0.5 + 0.9·(20 + 4 − 1) − 15
    # and δ deviates by 0.9·2·2·√0.394294. An entropy of temperature 100 would shift it by tens.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    square = float((weights * np.tanh(nodes) ** 2).sum() / weights.sum())
    assert square == pytest.approx(0.394294, abs=1e-5)
    deviation = 3.6 * square**0.5
    assert errors.mean() == pytest.approx(6.2, abs=4 * deviation / 20_000**0.5)
    assert errors.std() == pytest.approx(deviation, rel=0.02)
    again = errors_of(agent, state, many, jax.random.key(1))
    assert (again != errors.astype(np.float32)).mean() > 0.99


def test_without_a_key_the_next_action_is_the_policy_s_mean() -> None:
    # The squashed mean, 2 + 2 tanh(atanh ½) = 3, however wide the policy: 0.5 + 0.9·25 − 15 = 8.
    for raw_deviation in (0.0, float(np.arctanh(3 / 7))):
        agent, state = a_sac(raw_deviation, mean=float(np.arctanh(0.5)))
        np.testing.assert_allclose(errors_of(agent, state, BATCH, None), [8.0, -14.5], 1e-5)
    np.testing.assert_array_equal(errors_of(*a_td3(), BATCH, None), errors_of(*a_td3(), BATCH))


def test_where_there_is_a_v_it_stands_for_what_comes_after() -> None:
    for agent in (
        make_xql(XQLConfig(hidden=(), discount=0.9, value_layer_norm=False), 10),
        make_sac(SACConfig(hidden=(), discount=0.9, value="gumbel"), 10),
    ):
        state: Any = first_state(agent, SPEC)
        state = in_place(
            state,
            critic=linear_critic(state.critic.network),
            value=constant(state.value.network, 7.0),
        )
        # 0.5 + 0.9·7 − 15, whatever the policy would do.
        for key in (KEY, None):
            np.testing.assert_allclose(errors_of(agent, state, BATCH, key), [-8.2, -14.5], 1e-5)


def test_a_population_is_its_members_side_by_side() -> None:
    agent = make_sac(SACConfig(hidden=(4,)), 10)
    states = [first_state(agent, SPEC, seed) for seed in (0, 1)]
    batches = [random_batch(6, SPEC, seed) for seed in (0, 1)]
    keys = jax.random.split(KEY, 2)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    of_member = functools.partial(bellman_errors, backup=agent.backup)
    together = jax.vmap(of_member)(both, stacked, keys)
    for one in (0, 1):
        alone = errors_of(agent, states[one], batches[one], keys[one])
        np.testing.assert_allclose(together[one], alone, 1e-4, 1e-5)

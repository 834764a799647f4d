"""Discrete actions: exact answers in tabular MDPs, where one linear layer of one-hot s is a table.

Soft value iteration under the data's frequencies says what V and Q must be and, at κ = 1/β, the
policy: π(a|s) = µ̂(a|s) e^{(Q(s, a) − V(s))/β}. SAC's answer has no µ̂ in it, and α in place of β.
"""

import functools
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pytest

from worlds import Log, random_log, soft_value_iteration, trained
from xql.agents import (
    BCConfig,
    SACConfig,
    XQLConfig,
    make_bc,
    make_sac,
    make_xql,
    member,
)
from xql.agents.xql import ExactValue, XQLState
from xql.runs.config import Member

DISCOUNT, BETA, SHARE = 0.8, 1.0, 0.02
Way = Literal["sampled", "exact"]


@functools.cache
def log() -> Log:
    return random_log(seed=1)


def states_of(one: Log) -> tuple[np.ndarray, Any]:
    """The states with an action in the log, and all states as observations."""
    return np.unique(one.states), jnp.eye(one.state_count)


@functools.cache
def learned(way: Way) -> XQLState:
    config = XQLConfig(
        beta=BETA,
        inverse_temperature=1 / BETA,
        discount=DISCOUNT,
        polyak=0.1,
        value_learning_rate=0.03,
        critic_learning_rate=0.03,
        policy_learning_rate=0.03,
        hidden=(),
        critic_loss="squared",
        value_layer_norm=False,
        value_schedule="cosine",
        soft_maximum=way,
    )
    data = log().dataset(discrete=True)
    population = trained(make_xql(config, 3000), log().spec, [Member(0)], data, 3000)
    one: XQLState = member(population, 0)
    return one


def values(way: Way) -> np.ndarray:
    state, everywhere = learned(way), states_of(log())[1]
    value = state.value.network
    if way == "exact":
        value = ExactValue(value, state.critic.network, BETA)
    return np.asarray(value(everywhere))


@pytest.mark.parametrize("way", ["sampled", "exact"])
def test_xql_finds_the_soft_values_and_their_policy(way: Way) -> None:
    v, q, counts = soft_value_iteration(log(), BETA, DISCOUNT)
    visited, everywhere = states_of(log())
    spread = np.ptp(v[visited])
    assert spread > 1.0  # else the criterion would ask for nothing
    found = np.asarray(learned(way).critic.network.values(everywhere).min(0))
    assert np.abs(values(way) - v)[visited].max() <= SHARE * spread
    assert np.abs(found - q)[counts > 0].max() <= SHARE * spread
    frequencies = counts[visited] / counts[visited].sum(1, keepdims=True)
    wanted = frequencies * np.exp((q - v[:, None])[visited] / BETA)
    policy = np.exp(learned(way).policy.network.log_probabilities(everywhere))[visited]
    np.testing.assert_allclose(policy, wanted, atol=0.05)


def test_exact_and_sampled_values_agree() -> None:
    visited = states_of(log())[0]
    exact, sampled = values("exact")[visited], values("sampled")[visited]
    assert np.abs(exact - sampled).max() <= SHARE * np.ptp(exact)


def test_bc_recovers_the_behaviour_policy() -> None:
    agent = make_bc(BCConfig(hidden=(), policy_learning_rate=0.03), 1000)
    population = trained(agent, log().spec, [Member(0)], log().dataset(discrete=True), 1000)
    visited, everywhere = states_of(log())
    found = np.exp(member(population, 0).policy.network.log_probabilities(everywhere))
    counts = soft_value_iteration(log(), BETA, DISCOUNT)[2][visited]
    np.testing.assert_allclose(found[visited], counts / counts.sum(1, keepdims=True), atol=0.04)


def test_sac_finds_the_values_of_maximum_entropy() -> None:
    alpha = 0.7
    v, q, counts = soft_value_iteration(log(), alpha, DISCOUNT, entropy=True)
    visited, everywhere = states_of(log())
    assert (counts[visited] > 0).all()  # else Q of an action would be anything
    found = sac("none", initial_temperature=alpha, discount=DISCOUNT)
    spread = np.ptp(v[visited])
    assert spread > 1.0
    # The target is Q's moving average, without the noise of its last batches.
    values = np.asarray(found.target_critic.values(everywhere).min(0))[visited]
    assert np.abs(values - q[visited]).max() <= SHARE * spread
    policy = np.exp(found.policy.network.log_probabilities(everywhere))[visited]
    np.testing.assert_allclose(policy, np.exp((q - v[:, None])[visited] / alpha), atol=0.05)
    # The temperature stays where it is at a rate of 0.
    assert float(np.exp(found.temperature.network)) == pytest.approx(alpha, rel=1e-5)


def test_x_sac_finds_the_soft_maximum_over_its_own_policy() -> None:
    # π ∝ e^{Q/α}, V = β log Σ π e^{Q/β}, Q = r̂ + γ P̂ V: V's two temperatures are not one.
    alpha, beta = 1.5, 0.5
    found = sac("gumbel", initial_temperature=alpha, discount=DISCOUNT, beta=beta)
    visited, everywhere = states_of(log())
    q = np.asarray(found.target_critic.values(everywhere).min(0), np.float64)
    policy = np.exp(q / alpha - (q / alpha).max(1, keepdims=True))
    policy /= policy.sum(1, keepdims=True)
    v = beta * np.log((policy * np.exp(q / beta)).sum(1))
    spread = np.ptp(v[visited])
    assert spread > 1.0 and np.abs(v - (policy * q).sum(1))[visited].max() > 4 * SHARE * spread
    learned_v = np.asarray(found.value.network(everywhere))
    assert np.abs(learned_v - v)[visited].max() <= 2 * SHARE * spread
    # What Q regresses on, by the frequencies of the log.
    reward, after = np.zeros_like(q), np.zeros((*q.shape, len(q)))
    one = log()
    np.add.at(reward, (one.states, one.actions), one.rewards)
    np.add.at(after, (one.states, one.actions, one.next_states), one.masks)
    counts = np.maximum(soft_value_iteration(one, beta, DISCOUNT)[2], 1.0)
    wanted = reward / counts + DISCOUNT * (after / counts[..., None]) @ learned_v
    assert np.abs(q - wanted)[visited].max() <= SHARE * spread


def sac(value: Literal["none", "gumbel"], **numbers: Any) -> Any:
    """SAC with tables, its temperature held where it starts."""
    config = SACConfig(
        **numbers,
        polyak=0.05,
        value_learning_rate=0.01,
        critic_learning_rate=0.01,
        policy_learning_rate=0.03,
        temperature_learning_rate=0.0,
        hidden=(),
        value=value,
        max_gradient_norm=None,
        batch_size=2048,
    )
    data = log().dataset(discrete=True)
    return member(trained(make_sac(config, 2000), log().spec, [Member(0)], data, 2000), 0)

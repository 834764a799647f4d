"""Discrete actions: exact answers in tabular MDPs, where one linear layer of one-hot s is a table.

Soft value iteration under the data's frequencies says what V and Q must be and, at κ = 1/β, the
policy: π(a|s) = µ̂(a|s) e^{(Q(s, a) − V(s))/β}.
"""

import functools
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pytest

from worlds import Log, random_log, soft_value_iteration, trained
from xql.agents import (
    BCConfig,
    XQLConfig,
    make_bc,
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

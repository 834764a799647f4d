"""XQL finds the V of exact soft value iteration under the frequencies of the data.

The criterion: the largest error over all states, and over all pairs that the data holds, is at most
2 % of the value range.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import Log, first_state, random_log, soft_value_iteration, spec_of, trained
from xql.agents import Batch, XQLConfig, make_xql, member
from xql.agents.networks import MLP, Critic, Value
from xql.agents.update import trainable
from xql.agents.xql import XQLState
from xql.gumbel.losses import Kind
from xql.runs.config import Member

SHARE = 0.02
TABLE_DISCOUNT, AGENT_DISCOUNT = 0.9, 0.8


class ValueTable(Value):
    """V(s) of one-hot s: one number per state."""

    table: Array

    def __init__(self, table: Array) -> None:
        self.mlp, self.table = MLP((), ()), table

    def __call__(self, observations: Array) -> Array:
        return observations @ self.table


class CriticTable(Critic):
    """Q(s, a) of one-hot s and a: one number per member and pair."""

    table: Array

    def __init__(self, table: Array) -> None:
        self.mlps, self.table = (), table

    def __call__(self, observations: Array, actions: Array) -> Array:
        return jnp.einsum("...s,esa,...a->e...", observations, self.table, actions)


def assert_found(
    log: Log,
    beta: float,
    discount: float,
    value: Value,
    critic: Critic,
    share: float = SHARE,
) -> None:
    v, q, counts = soft_value_iteration(log, beta, discount)
    visited = np.unique(log.states)
    spread = v[visited].max() - v[visited].min()
    states, actions = np.eye(log.state_count), np.eye(log.action_count)
    v_error = np.abs(np.asarray(value(jnp.array(states, jnp.float32))) - v)[visited]
    s, a = np.nonzero(counts)
    found = critic(jnp.array(states[s], jnp.float32), jnp.array(actions[a], jnp.float32)).min(0)
    q_error = np.abs(np.asarray(found) - q[s, a])
    assert spread > 1.0  # else the criterion would ask for nothing
    assert v_error.max() <= share * spread, f"V: {v_error.max() / spread:.2%} of the range"
    assert q_error.max() <= share * spread, f"Q: {q_error.max() / spread:.2%} of the range"


TABULAR = make_xql(
    XQLConfig(
        discount=TABLE_DISCOUNT,
        polyak=0.1,
        value_learning_rate=0.03,
        critic_learning_rate=0.03,
        hidden=(),
        critic_loss="squared",
        value_schedule="cosine",
        max_gradient_norm=None,
        batch_size=4000,
    ),
    3000,
)


@functools.cache
def tables(states: int, actions: int) -> XQLState:
    """The agent's state with tables of zeros for V and Q."""
    state: XQLState = first_state(TABULAR, spec_of(states, actions))
    critic = CriticTable(jnp.zeros((2, states, actions)))
    value = ValueTable(jnp.zeros(states))
    return state._replace(value=trainable(value), critic=trainable(critic), target_critic=critic)


@functools.partial(jax.jit, static_argnames="updates")
def fit(state: XQLState, batch: Batch, updates: int) -> XQLState:
    """The agent's own update, on the whole data at once."""
    result: XQLState = jax.lax.fori_loop(
        0, updates, lambda _, one: TABULAR.update(one, batch)[0], state
    )
    return result


@pytest.mark.parametrize("kind", ["linear", "plain"])
@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_tables_find_the_soft_values(beta: float, kind: Kind) -> None:
    log = random_log(seed=1)
    columns = (log.one_hot_states, log.one_hot_actions, log.rewards, log.masks)
    batch = Batch(*(jnp.array(one, jnp.float32) for one in (*columns, log.one_hot_next_states)))
    state = tables(log.state_count, log.action_count)
    config = dataclasses.replace(state.config, beta=jnp.float32(beta), loss=kind)
    state = fit(state._replace(config=config), batch, 3000)
    assert_found(log, beta, TABLE_DISCOUNT, state.value.network, state.critic.network, share=0.002)


BETAS = (0.3, 1.0, 5.0)
ACCURATE = XQLConfig(
    discount=AGENT_DISCOUNT,
    polyak=0.1,
    value_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    hidden=(64,),
    critic_loss="squared",
    value_schedule="cosine",
)


@pytest.mark.parametrize(
    ("seed", "max_gradient_norm"), [(1, None), (2, 1.0)], ids=["free gradient", "default"]
)
def test_the_agent_finds_the_soft_values(seed: int, max_gradient_norm: float | None) -> None:
    log = random_log(seed)
    updates = 5000
    agent = make_xql(dataclasses.replace(ACCURATE, max_gradient_norm=max_gradient_norm), updates)
    spec = spec_of(log.state_count, log.action_count)
    members = [Member(0, {"beta": beta}) for beta in BETAS]
    population = trained(agent, spec, members, log.dataset(name="random"), updates)
    for index, beta in enumerate(BETAS):
        one: XQLState = member(population, index)
        assert_found(log, beta, AGENT_DISCOUNT, one.value.network, one.critic.network)

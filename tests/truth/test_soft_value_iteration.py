"""XQL finds the V of exact soft value iteration under the frequencies of the data.

The criterion: the largest error over all states, and over all pairs that the data holds, is at most
2 % of the value range.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import Log, first_state, random_log, soft_value_iteration, spec_of, trained
from xql.agents import Agent, Batch, XQLConfig, make_xql, member
from xql.agents.networks import MLP, Critic, Precision, Value, in_bf16
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
        self.mlps, self.bounds, self.table = (), None, table

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
        batch_size=4000,
    ),
    3000,
)


@functools.cache
def tables(agent: Agent, states: int, actions: int) -> XQLState:
    """The agent's state with tables of zeros for V and Q."""
    state: XQLState = first_state(agent, spec_of(states, actions))
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


def batch_of(log: Log) -> Batch:
    """The whole log at once."""
    columns = (log.one_hot_states, log.one_hot_actions, log.rewards, log.masks)
    return Batch(*(jnp.array(one, jnp.float32) for one in (*columns, log.one_hot_next_states)))


@pytest.mark.parametrize("kind", ["bounded", "plain"])
@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_tables_find_the_soft_values(beta: float, kind: Kind) -> None:
    log = random_log(seed=1)
    batch = batch_of(log)
    state = tables(TABULAR, log.state_count, log.action_count)
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


AS_MEASURED: dict[str, Any] = {"loss": "linear", "max_gradient_norm": 1.0}


@pytest.mark.parametrize(
    ("seed", "changes", "precision"),
    [(1, {}, "float32"), (2, AS_MEASURED, "float32"), (1, {}, "bf16")],
    ids=["default", "as measured", "bf16"],
)
def test_the_agent_finds_the_soft_values(
    seed: int, changes: dict[str, Any], precision: Precision
) -> None:
    log = random_log(seed)
    updates = 5000
    agent = make_xql(dataclasses.replace(ACCURATE, **changes), updates)
    if precision == "bf16":
        agent = agent._replace(update=in_bf16(agent.update))
    spec = spec_of(log.state_count, log.action_count)
    members = [Member(0, {"beta": beta}) for beta in BETAS]
    population = trained(agent, spec, members, log.dataset(name="random"), updates)
    for index, beta in enumerate(BETAS):
        one: XQLState = member(population, index)
        assert_found(log, beta, AGENT_DISCOUNT, one.value.network, one.critic.network)


def rare_log(states: int = 12, actions: int = 5, each: int = 300, rare: float = 0.01) -> Log:
    """Transitions of a random MDP, equally many from each state; two actions of 48.5 %, the others
    of 1 %."""
    random = np.random.default_rng(1)
    transition = random.dirichlet(np.full(states, 0.3), size=(states, actions))
    reward = random.normal(size=(states, 1)) + 0.7 * random.normal(size=(states, actions))
    rows = []
    for state in range(states):
        behaviour = np.full(actions, rare)
        behaviour[random.permutation(actions)[:2]] = (1 - rare * (actions - 2)) / 2
        for action in np.repeat(np.arange(actions), np.rint(each * behaviour).astype(int)):
            after = int(random.choice(states, p=transition[state, action]))
            noisy = reward[state, action] + 0.3 * random.normal()
            rows.append((state, int(action), noisy, after, False, True))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Log._make([*columns, states, actions])


RARE_BETAS = (0.05, 0.3)
RARE_UPDATES = 6000


def errors_of_v(agent: Agent, log: Log) -> list[float]:
    """The largest error of V at each of `RARE_BETAS`, in parts of the value range.

    The tables learn from mini-batches, in most of which a state has none of its rare actions.
    """
    start, whole = tables(agent, log.state_count, log.action_count), batch_of(log)

    @jax.jit
    @jax.vmap
    def learn(beta: Array) -> Array:
        def step(number: Array, state: XQLState) -> XQLState:
            key = jax.random.fold_in(jax.random.key(3), number)
            rows = jax.random.randint(key, (256,), 0, len(log.states))
            after: XQLState = agent.update(state, jax.tree.map(lambda one: one[rows], whole))[0]
            return after

        state = start._replace(config=dataclasses.replace(start.config, beta=beta))
        result: XQLState = jax.lax.fori_loop(0, RARE_UPDATES, step, state)
        return result.value.network(jnp.eye(log.state_count))

    errors = []
    for beta, found in zip(RARE_BETAS, learn(jnp.array(RARE_BETAS)), strict=True):
        v, _, _ = soft_value_iteration(log, beta, AGENT_DISCOUNT)
        errors.append(float(np.abs(np.asarray(found) - v).max() / (v.max() - v.min())))
    return errors


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [
        ({}, (0.0, 0.0), (0.04, 0.02)),
        ({"loss": "linear", "max_gradient_norm": None}, (0.0, 0.0), (0.04, 0.02)),
        # The limit on the norm cuts off what the rare best actions would add.
        (AS_MEASURED, (0.2, 0.0), (1.0, 0.2)),
    ],
    ids=["default", "linear, no limit", "as measured"],
)
def test_tables_find_the_worth_of_actions_that_are_one_in_a_hundred(
    changes: dict[str, Any], least: tuple[float, float], most: tuple[float, float]
) -> None:
    config = XQLConfig(
        discount=AGENT_DISCOUNT,
        polyak=0.1,
        value_learning_rate=0.03,
        critic_learning_rate=0.03,
        hidden=(),
        critic_loss="squared",
        value_schedule="cosine",
    )
    agent = make_xql(dataclasses.replace(config, **changes), RARE_UPDATES)
    for error, low, high in zip(errors_of_v(agent, rare_log()), least, most, strict=True):
        assert low <= error <= high

"""XQL finds V* of exact soft value iteration under the data's own frequencies.

The criterion: the largest error over all states, and over all pairs that the data holds, is at most
2 % of the value range.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import Log, random_log, soft_value_iteration, trained
from xql.agents import Spec, Trainable, XQLConfig, member, steps, xql
from xql.agents.networks import Critic, Value
from xql.training.population import Member

SHARE = 0.02
TABLE_DISCOUNT, AGENT_DISCOUNT = 0.9, 0.8


class ValueTable(Value):
    """V(s) of one-hot s: one number per state."""

    table: Array

    def __init__(self, table: Array) -> None:
        self.mlp, self.table = None, table

    def __call__(self, observations: Array) -> Array:
        return observations @ self.table


class CriticTable(Critic):
    """Q(s, a) of one-hot s and a: one number per member and pair."""

    table: Array

    def __init__(self, table: Array) -> None:
        self.mlps, self.table = None, table

    def __call__(self, observations: Array, actions: Array) -> Array:
        return jnp.einsum("...s,esa,...a->e...", observations, self.table, actions)


def assert_found(
    log: Log,
    beta: float,
    discount: float,
    value: eqx.Module,
    critic: eqx.Module,
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


@functools.partial(jax.jit, static_argnames=("kind", "updates"))
def fit_tables(
    value: Trainable,
    critic: Trainable,
    batch: tuple[Array, ...],
    beta: Array,
    *,
    kind: steps.Kind,
    updates: int,
) -> tuple[Trainable, Trainable]:
    """The algorithm's box made of the public steps, on the whole data at once."""
    s, a, r, mask, after = batch

    def update(
        i: Array, carry: tuple[Trainable, Trainable, CriticTable]
    ) -> tuple[Trainable, Trainable, CriticTable]:
        value, critic, target = carry
        rate = 0.03 * steps.decay("cosine", i, updates)
        value, _ = steps.fit_value_gumbel(
            value,
            s,
            target(s, a).min(0),
            beta=beta,
            learning_rate=rate,
            kind=kind,
            clip=jnp.float32(5.0),
        )
        critic, _ = steps.fit_critic(
            critic,
            s,
            a,
            r + TABLE_DISCOUNT * mask * value.network(after),
            learning_rate=rate,
            kind="squared",
            huber_delta=20.0,
        )
        return value, critic, steps.polyak(target, critic.network, jnp.float32(0.1))

    value, critic, _ = jax.lax.fori_loop(0, updates, update, (value, critic, critic.network))
    return value, critic


@pytest.mark.parametrize("kind", ["linear", "plain"])
@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_tables_find_the_soft_values(beta: float, kind: steps.Kind) -> None:
    log = random_log(seed=1)
    columns = (log.one_hot_states, log.one_hot_actions, log.rewards, log.masks)
    batch = tuple(jnp.array(one, jnp.float32) for one in (*columns, log.one_hot_next_states))
    value = steps.trainable(ValueTable(jnp.zeros(log.state_count)))
    critic = steps.trainable(CriticTable(jnp.zeros((2, log.state_count, log.action_count))))
    value, critic = fit_tables(value, critic, batch, jnp.float32(beta), kind=kind, updates=3000)
    assert_found(log, beta, TABLE_DISCOUNT, value.network, critic.network, share=0.002)


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
    agent = xql(dataclasses.replace(ACCURATE, max_gradient_norm=max_gradient_norm), updates)
    spec = Spec(log.state_count, (-1.0,) * log.action_count, (1.0,) * log.action_count)
    members = [Member(0, {"beta": beta}) for beta in BETAS]
    population = trained(agent, spec, members, log.dataset(name="random"), updates)
    for index, beta in enumerate(BETAS):
        one = member(population, index)
        assert_found(log, beta, AGENT_DISCOUNT, one.value.network, one.critic.network)

"""Implicit Q-Learning (Kostrikov, Nair, Levine, ICLR 2022, arXiv 2110.06169): XQL's elder.

The equations, for transitions (s, a, r, s') of the data and the smaller of two target critics Q̄:

    V       minimises  E[|τ − 1(Q̄(s, a) < V(s))| · (Q̄(s, a) − V(s))²]    the τ-expectile of Q̄
    policy  maximises  E[w log π(a|s)],  w = min(e^{κ (Q̄(s, a) − V(s))}, cap)
    Q       minimises  E[(Q(s, a) − r − γ·mask·V(s'))²]
    Q̄      moves by the polyak rate towards Q

Only the first line differs from `xql.py`: an expectile in place of the soft maximum. τ = 1/2 gives
the value of the behaviour, τ → 1 the best action of the data. τ has no unit, so that it need not
follow the scale of rewards; but no policy is known whose value the expectile would be, where XQL's
V is that of the best policy at a price of β per nat of KL.

Deviations from the published code, each with its switch in `IQLConfig` where it has one:

 1. No dropout in the policy, which the code has at 0.1 for Kitchen and Adroit.
 2. The policy's log standard deviation is kept within [−5, 2] by projection after each step; the
    code clips it inside the network, which leaves it no gradient outside.
 3. `value_schedule="cosine"` lets the learning rates of V and Q fall to zero as the policy's does;
    constant is the default and the code's.
 4. The policy's cosine ends with the run, whose length the code fixes at 10⁶.
 5. Q's error is half the square, so that it shares learning rates with `xql.py`; Adam does not see
    the difference.

What it scores is in results/, with the commands.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents import update as steps
from xql.agents.networks import Critic, Value
from xql.agents.policies import GaussianPolicy
from xql.agents.types import Agent, Batch, Metrics, Spec, TrainState


@dataclass(frozen=True)
class IQLConfig:
    """Every choice of the algorithm. Only the first block may differ along a population."""

    expectile: float = 0.7
    """τ: 1/2 gives the mean, 1 the maximum."""
    inverse_temperature: float = 3.0
    """κ of the advantage weights, in 1/return."""
    weight_cap: float = 100.0
    """The largest advantage weight."""
    discount: float = 0.99
    """γ."""
    polyak: float = 0.005
    """The share of the way that the target critic moves per update."""
    value_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    policy_learning_rate: float = 3e-4

    hidden: tuple[int, ...] = (256, 256)
    critics: int = 2
    value_layer_norm: bool = False
    critic_layer_norm: bool = False
    policy_schedule: steps.Schedule = "cosine"
    value_schedule: steps.Schedule = "constant"
    """Of V and Q."""
    batch_size: int = 256


class IQLHyper(NamedTuple):
    """The numbers that may differ along a population; fields as in `IQLConfig`."""

    expectile: Float[Array, ""] | float
    inverse_temperature: Float[Array, ""] | float
    weight_cap: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    polyak: Float[Array, ""] | float
    value_learning_rate: Float[Array, ""] | float
    critic_learning_rate: Float[Array, ""] | float
    policy_learning_rate: Float[Array, ""] | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def iql(config: IQLConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config, total_steps),
        act=steps.act,
        hyper=IQLHyper(*(getattr(config, name) for name in IQLHyper._fields)),
        transitions=config.batch_size,
    )


def init(config: IQLConfig, key: PRNGKeyArray, spec: Spec, hyper: IQLHyper) -> TrainState:
    """Fresh networks; the target critic starts as a copy of the critic."""
    key, policy_key, value_key, critic_key = jax.random.split(key, 4)
    size, hidden = spec.observation_size, config.hidden
    policy = GaussianPolicy.create(policy_key, size, spec.action_low, spec.action_high, hidden)
    value = Value.create(value_key, size, hidden, layer_norm=config.value_layer_norm)
    critic = Critic.create(
        critic_key,
        size,
        spec.action_size,
        hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return TrainState(
        policy=steps.trainable(policy),
        value=steps.trainable(value),
        critic=steps.trainable(critic),
        target_critic=jax.tree.map(jnp.copy, critic),
        key=key,
        step=jnp.zeros((), jnp.int32),
        hyper=hyper,
    )


def update(
    config: IQLConfig, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """One update of V, the policy, Q and the target critic, in this order."""
    assert state.value is not None and state.critic is not None
    hyper = state.hyper
    value_decay = steps.decay(config.value_schedule, state.step, total_steps)
    policy_decay = steps.decay(config.policy_schedule, state.step, total_steps)

    # V: one expectile step. All else is as in xql.py.
    q = state.target_critic(batch.observations, batch.actions).min(0)
    value, metrics = steps.fit_value_expectile(
        state.value,
        batch.observations,
        q,
        expectile=hyper.expectile,
        learning_rate=hyper.value_learning_rate * value_decay,
    )
    v = value.network

    # Policy: the data's actions, weighted by their advantage.
    advantages = q - v(batch.observations)
    weights = steps.advantage_weights(advantages, hyper.inverse_temperature, hyper.weight_cap)
    policy, policy_metrics = steps.fit_policy_weighted(
        state.policy,
        batch.observations,
        batch.actions,
        weights,
        learning_rate=hyper.policy_learning_rate * policy_decay,
    )

    # Q: the reward and the discounted expectile value of what came next.
    critic, critic_metrics = steps.fit_critic(
        state.critic,
        batch.observations,
        batch.actions,
        batch.rewards + hyper.discount * batch.masks * v(batch.next_observations),
        learning_rate=hyper.critic_learning_rate * value_decay,
    )
    metrics |= policy_metrics | critic_metrics
    metrics |= {"advantage": advantages.mean(), "weight": weights.mean()}
    return state._replace(
        policy=policy,
        value=value,
        critic=critic,
        target_critic=steps.polyak(state.target_critic, critic.network, hyper.polyak),
        step=state.step + 1,
    ), metrics

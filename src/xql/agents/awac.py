"""Advantage-Weighted Actor-Critic (Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359), offline.

The equations, for transitions (s, a, r, s') of the data, a fresh draw b ~ π(·|s) or b' ~ π(·|s'),
and targets marked by a bar:

    Q        minimises  E[(Q(s, a) − r − γ·mask·min Q̄(s', b'))²]
    policy   maximises  E[w log π(a|s)],  A = min Q(s, a) − min Q(s, b),
             w = min(e^{A/λ}, cap)            weights="exponential"
             w = n e^{A/λ} / Σ e^{A/λ}        weights="softmax", the sum over the batch of n
    Q̄       moves by the polyak rate towards Q

The policy step is that of `xql.py` and `iql.py`. The values are not: they are the policy's own, so
that Q is asked about actions that the data may not hold, and only the policy's nearness to the data
keeps it honest.

The paper's w is e^{A/λ}/Z(s) with Z left out. The code published with it takes the softmax over the
batch, whose weights sum to n; CORL, where this agent's settings come from, takes the capped
exponential, which is the default here.

Deviations from the paper, each with its switch in `AWACConfig` where it has one:

 1. The weights are capped (`weight_cap`), as in CORL.
 2. The policy's mean is bounded by tanh, and its standard deviation is one for all states, kept
    within [−5, 2] in the logarithm by projection after each step.
 3. `schedule="cosine"` lets both learning rates fall to zero; constant is the default and theirs.
 4. Q's error is half the square, so that it shares learning rates with `xql.py`; Adam does not see
    the difference.
 5. No weight decay on the policy.
 6. Networks start orthogonal, as everywhere in this library.

What it scores is in results/, with the commands.
"""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents import update as steps
from xql.agents.networks import Critic
from xql.agents.policies import GaussianPolicy
from xql.agents.types import Agent, Batch, Metrics, Spec, TrainState


@dataclass(frozen=True)
class AWACConfig:
    """Every choice of the algorithm. Only the first block may differ along a population."""

    temperature: float = 1.0
    """λ of the advantage weights, in units of return."""
    weight_cap: float = 100.0
    """The largest exponential weight."""
    discount: float = 0.99
    """γ."""
    polyak: float = 0.005
    """The share of the way that the target critic moves per update."""
    critic_learning_rate: float = 3e-4
    policy_learning_rate: float = 3e-4

    hidden: tuple[int, ...] = (256, 256, 256)
    critics: int = 2
    critic_layer_norm: bool = False
    weights: Literal["exponential", "softmax"] = "exponential"
    schedule: steps.Schedule = "constant"
    """Of both learning rates."""
    batch_size: int = 256


class AWACHyper(NamedTuple):
    """The numbers that may differ along a population; fields as in `AWACConfig`."""

    temperature: Float[Array, ""] | float
    weight_cap: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    polyak: Float[Array, ""] | float
    critic_learning_rate: Float[Array, ""] | float
    policy_learning_rate: Float[Array, ""] | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def awac(config: AWACConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config, total_steps),
        act=steps.act,
        hyper=AWACHyper(*(getattr(config, name) for name in AWACHyper._fields)),
        transitions=config.batch_size,
    )


def init(config: AWACConfig, key: PRNGKeyArray, spec: Spec, hyper: AWACHyper) -> TrainState:
    """Fresh networks; the target critic starts as a copy of the critic."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    size, hidden = spec.observation_size, config.hidden
    policy = GaussianPolicy.create(policy_key, size, spec.action_low, spec.action_high, hidden)
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
        critic=steps.trainable(critic),
        target_critic=jax.tree.map(jnp.copy, critic),
        key=key,
        step=jnp.zeros((), jnp.int32),
        hyper=hyper,
    )


def update(
    config: AWACConfig, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """One update of Q, the policy and the target critic, in this order."""
    assert state.critic is not None
    hyper = state.hyper
    decay = steps.decay(config.schedule, state.step, total_steps)
    key, next_key, here_key = jax.random.split(state.key, 3)

    # Q: the reward and the policy's own value of what came next.
    next_actions = state.policy.network.sample(batch.next_observations, next_key)
    next_q = state.target_critic(batch.next_observations, next_actions).min(0)
    critic, metrics = steps.fit_critic(
        state.critic,
        batch.observations,
        batch.actions,
        batch.rewards + hyper.discount * batch.masks * next_q,
        learning_rate=hyper.critic_learning_rate * decay,
    )

    # Policy: the data's actions, weighted by their advantage over the policy's own.
    own_actions = state.policy.network.sample(batch.observations, here_key)
    q = critic.network(batch.observations, batch.actions).min(0)
    advantages = q - critic.network(batch.observations, own_actions).min(0)
    if config.weights == "softmax":
        weights = softmax_weights(advantages, hyper.temperature)
    else:
        weights = steps.advantage_weights(advantages, 1 / hyper.temperature, hyper.weight_cap)
    policy, policy_metrics = steps.fit_policy_weighted(
        state.policy,
        batch.observations,
        batch.actions,
        weights,
        learning_rate=hyper.policy_learning_rate * decay,
    )
    metrics |= policy_metrics
    metrics |= {"advantage": advantages.mean(), "weight": weights.mean()}
    return state._replace(
        policy=policy,
        critic=critic,
        target_critic=steps.polyak(state.target_critic, critic.network, hyper.polyak),
        key=key,
        step=state.step + 1,
    ), metrics


def softmax_weights(
    advantages: Float[Array, " batch"], temperature: Float[Array, ""]
) -> Float[Array, " batch"]:
    """n e^{A/λ} / Σ e^{A/λ} over the batch of n: their mean is 1."""
    return len(advantages) * jax.nn.softmax(advantages / temperature)

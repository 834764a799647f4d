"""Extreme Q-Learning, offline (Garg, Hejna, Geist, Ermon, ICLR 2023, arXiv 2301.02328).

The equations, for transitions (s, a, r, s') of the data and the smaller of two target critics Q̄:

    V       minimises  E[e^z − z − 1],  z = (Q̄(s, a) − V(s)) / β      so  V(s) = β log E[e^{Q̄/β}]
    policy  maximises  E[w log π(a|s)],  w = min(e^{κ (Q̄(s, a) − V(s))}, cap)
    Q       minimises  E[(Q(s, a) − r − γ·mask·V(s'))²]
    Q̄      moves by the polyak rate towards Q

The soft maximum over actions is learned from the actions in the data alone: no policy stands in the
backup and no action is ever queried that the data does not hold.

Deviations from the paper, each with its switch in `XQLConfig` where it has one:

 1. The Gumbel loss goes on linearly beyond z = clip (`loss="linear"`), where the published code
    either cuts the gradient to zero or reweights batches by their maximum, which moves the fixed
    point (tests/gumbel shows by how much). `loss="official"` is that code's loss.
 2. V's gradient is scaled down to norm 1 where larger (`max_gradient_norm=None` turns it off).
 3. The policy's inverse temperature κ is a number of its own. The paper writes 1/β; the published
    code and every published setting decouple the two.
 4. The critic's error is Huber's with δ = 20, as in the published code (`critic_loss="squared"`).
 5. `v_updates` > 1 draws a fresh batch for each extra V step; the published code repeats one batch.
 6. `update_order="simultaneous"` takes all three losses from the networks before the update, so
    that their matrix products do not wait for each other; "sequential", the default, is the
    published order (V, then policy and Q from the new V).
 7. `value_schedule="cosine"` lets the learning rates of V and Q fall to zero as the policy's does;
    the paper keeps them constant, which is the default here too.
 8. `value_action_noise` and `value_random_actions` are the published scripts' extras for three
    datasets; both evaluate Q at actions outside the data, and only `preset="official"` uses them.
 9. The policy's log standard deviation is kept within [−5, 2] by projection after each step, where
    the published code clips it inside the network, which leaves it no gradient outside.

What it scores is in results/, with the commands.
"""

import functools
import operator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents import update as steps
from xql.agents.networks import Critic, Value
from xql.agents.policies import GaussianPolicy
from xql.agents.types import Agent, Batch, Metrics, Spec, TrainState
from xql.gumbel.losses import Kind


@dataclass(frozen=True)
class XQLConfig:
    """Every choice of the algorithm. Only the first block may differ along a population."""

    beta: float = 1.0
    """Temperature of the Gumbel loss, in units of return: ∞ gives the mean, 0 the maximum."""
    inverse_temperature: float = 3.0
    """κ of the advantage weights, in 1/return."""
    clip: float = 5.0
    """Where the Gumbel loss stops being exponential, in units of z."""
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
    value_layer_norm: bool = True
    critic_layer_norm: bool = False
    loss: Kind = "linear"
    maclaurin_order: int = 4
    max_gradient_norm: float | None = 1.0
    """Of V's gradient; None leaves it as it is."""
    critic_loss: steps.CriticLoss = "huber"
    huber_delta: float = 20.0
    policy_schedule: steps.Schedule = "cosine"
    value_schedule: steps.Schedule = "constant"
    """Of V and Q."""
    batch_size: int = 256
    v_updates: int = 1
    """V steps per update, each on a fresh batch."""
    value_action_noise: float = 0.0
    """Standard deviation of noise on V's actions, cut at ±0.5 (published scripts only)."""
    value_random_actions: int = 0
    """Uniform random actions beside each of V's data actions (published scripts only)."""
    update_order: Literal["sequential", "simultaneous"] = "sequential"


class XQLHyper(NamedTuple):
    """The numbers that may differ along a population; fields as in `XQLConfig`."""

    beta: Float[Array, ""] | float
    inverse_temperature: Float[Array, ""] | float
    clip: Float[Array, ""] | float
    weight_cap: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    polyak: Float[Array, ""] | float
    value_learning_rate: Float[Array, ""] | float
    critic_learning_rate: Float[Array, ""] | float
    policy_learning_rate: Float[Array, ""] | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def xql(config: XQLConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config, total_steps),
        act=steps.act,
        hyper=XQLHyper(*(getattr(config, name) for name in XQLHyper._fields)),
        transitions=config.batch_size * config.v_updates,
    )


def init(config: XQLConfig, key: PRNGKeyArray, spec: Spec, hyper: XQLHyper) -> TrainState:
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
    config: XQLConfig, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """One update of V, the policy, Q and the target critic, in this order."""
    assert state.value is not None and state.critic is not None
    hyper = state.hyper
    value_decay = steps.decay(config.value_schedule, state.step, total_steps)
    policy_decay = steps.decay(config.policy_schedule, state.step, total_steps)
    key, *value_keys = jax.random.split(state.key, 1 + config.v_updates)

    # V: one Gumbel step for each block of the batch; the last block also serves the rest.
    value = state.value
    for block, value_key in enumerate(value_keys):
        rows = slice(block * config.batch_size, (block + 1) * config.batch_size)
        data: Batch = jax.tree.map(operator.itemgetter(rows), batch)
        q = state.target_critic(data.observations, data.actions).min(0)
        value, metrics = steps.fit_value_gumbel(
            value,
            *value_targets(config, state, data, q, value_key),
            beta=hyper.beta,
            learning_rate=hyper.value_learning_rate * value_decay,
            kind=config.loss,
            clip=hyper.clip,
            order=config.maclaurin_order,
            max_gradient_norm=config.max_gradient_norm,
        )
    v = (value if config.update_order == "sequential" else state.value).network

    # Policy: the data's actions, weighted by their advantage.
    advantages = q - v(data.observations)
    weights = steps.advantage_weights(advantages, hyper.inverse_temperature, hyper.weight_cap)
    policy, policy_metrics = steps.fit_policy_weighted(
        state.policy,
        data.observations,
        data.actions,
        weights,
        learning_rate=hyper.policy_learning_rate * policy_decay,
    )

    # Q: the reward and the discounted soft value of what came next.
    critic, critic_metrics = steps.fit_critic(
        state.critic,
        data.observations,
        data.actions,
        data.rewards + hyper.discount * data.masks * v(data.next_observations),
        learning_rate=hyper.critic_learning_rate * value_decay,
        kind=config.critic_loss,
        huber_delta=config.huber_delta,
    )
    metrics |= policy_metrics | critic_metrics
    metrics |= {"advantage": advantages.mean(), "weight": weights.mean()}
    return state._replace(
        policy=policy,
        value=value,
        critic=critic,
        target_critic=steps.polyak(state.target_critic, critic.network, hyper.polyak),
        key=key,
        step=state.step + 1,
    ), metrics


def value_targets(
    config: XQLConfig, state: TrainState, data: Batch, q: Float[Array, " batch"], key: PRNGKeyArray
) -> tuple[Float[Array, "rows observation"], Float[Array, " rows"]]:
    """V's inputs and targets: the data's own, unless a published script's extra is on."""
    if config.value_action_noise == 0.0 and config.value_random_actions == 0:
        return data.observations, q
    policy: GaussianPolicy = state.policy.network
    low, high = jnp.array(policy.low), jnp.array(policy.high)
    noise_key, random_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, data.actions.shape) * config.value_action_noise
    noisy = jnp.clip(data.actions + jnp.clip(noise, -0.5, 0.5), low, high)
    shape = (config.value_random_actions * len(q), len(policy.low))
    uniform = jax.random.uniform(random_key, shape, minval=low, maxval=high)
    observations = jnp.tile(data.observations, (1 + config.value_random_actions, 1))
    actions = jnp.concatenate([noisy, uniform])
    return observations, state.target_critic(observations, actions).min(0)

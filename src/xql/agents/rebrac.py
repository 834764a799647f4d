"""ReBRAC (Tarasov, Kurenkov, Nikulin, Kolesnikov, NeurIPS 2023, arXiv 2305.09836).

The equations, for transitions (s, a, r, s', a') of the data, targets marked by a bar, actions
rescaled to [-1, 1] and ε Gaussian noise cut at ±`target_noise_clip`:

    b        =  π̄(s') + ε, within the action bounds
    Q        minimises  E[(Q(s, a) − r − γ·mask·(min Q̄(s', b) − β₂ ‖b − a'‖²))²]
    policy   maximises  E[min Q(s, π(s))] / E|min Q(s, π(s))| − β₁ E[‖π(s) − a‖²]
    Q̄, π̄   move by the polyak rate towards Q and π

It is TD3+BC with what later work found to matter: the policy pays for leaving the data inside the
backup too, with a weight of its own (β₂ beside β₁), LayerNorm in the critics, a third hidden layer,
large batches (1024) for locomotion and γ = 0.999 for AntMaze. The policy and both targets move at
every second update; the divisor is a constant to the gradient.

Deviations from the published code, each with its switch in `ReBRACConfig` where it has one:

 1. Where the log stops before a' (a time limit, the end of the log) that transition pays no β₂; the
    code leaves the transition out.
 2. Distances between actions, and the noise, are in units of half the range of each dimension.
    Where the bounds are ±1, nothing differs.
 3. LayerNorm stands before the ReLU, as everywhere in this library; the code has it after.
 4. Networks start orthogonal with zero biases, as everywhere in this library, the targets as
    copies; the code starts from uniform weights, biases of 0.1 and targets drawn on their own.
 5. The policy moves on the second of every two updates and the targets follow its new weights; the
    code starts with the first, and follows the weights before the step.
 6. `schedule="cosine"` lets both learning rates fall to zero; constant is the default and the
    code's.
 7. Q's error is half the square, so that it shares learning rates with `xql.py`; Adam does not see
    the difference.

What it scores is in results/, with the commands.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from xql.agents import update as steps
from xql.agents.networks import Critic
from xql.agents.policies import DeterministicPolicy
from xql.agents.types import Agent, Batch, Metrics, Spec, TrainState


@dataclass(frozen=True)
class ReBRACConfig:
    """Every choice of the algorithm. Only the first block may differ along a population."""

    policy_cloning: float = 0.01
    """β₁: what the policy pays for a squared distance of 1, in units of mean |Q|."""
    critic_cloning: float = 0.01
    """β₂: what the backup pays for it, in units of return."""
    discount: float = 0.99
    """γ."""
    polyak: float = 0.005
    """The share of the way that the targets move each time they move."""
    critic_learning_rate: float = 1e-3
    policy_learning_rate: float = 1e-3

    hidden: tuple[int, ...] = (256, 256, 256)
    critics: int = 2
    critic_layer_norm: bool = True
    policy_layer_norm: bool = False
    policy_delay: int = 2
    """Critic updates per update of the policy and the targets."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's actions."""
    target_noise_clip: float = 0.5
    """Where that noise is cut off, on both sides."""
    schedule: steps.Schedule = "constant"
    """Of both learning rates."""
    batch_size: int = 1024


class ReBRACHyper(NamedTuple):
    """The numbers that may differ along a population; fields as in `ReBRACConfig`."""

    policy_cloning: Float[Array, ""] | float
    critic_cloning: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    polyak: Float[Array, ""] | float
    critic_learning_rate: Float[Array, ""] | float
    policy_learning_rate: Float[Array, ""] | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def rebrac(config: ReBRACConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config, total_steps),
        act=steps.act,
        hyper=ReBRACHyper(*(getattr(config, name) for name in ReBRACHyper._fields)),
        transitions=config.batch_size,
    )


def init(config: ReBRACConfig, key: PRNGKeyArray, spec: Spec, hyper: ReBRACHyper) -> TrainState:
    """Fresh networks; the targets start as copies."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    policy = DeterministicPolicy.create(
        policy_key,
        spec.observation_size,
        spec.action_low,
        spec.action_high,
        config.hidden,
        layer_norm=config.policy_layer_norm,
    )
    critic = Critic.create(
        critic_key,
        spec.observation_size,
        spec.action_size,
        config.hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return TrainState(
        policy=steps.trainable(policy),
        critic=steps.trainable(critic),
        target_policy=jax.tree.map(jnp.copy, policy),
        target_critic=jax.tree.map(jnp.copy, critic),
        key=key,
        step=jnp.zeros((), jnp.int32),
        hyper=hyper,
    )


def update(
    config: ReBRACConfig, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """One update of Q and, every `policy_delay`-th time, of the policy and both targets."""
    assert state.critic is not None
    hyper = state.hyper
    decay = steps.decay(config.schedule, state.step, total_steps)
    key, noise_key = jax.random.split(state.key)

    # Q: the reward and the smaller target critic at the target policy's action, blurred by noise,
    # less the price of its distance from what the data did next.
    next_actions = state.target_policy.sample(
        batch.next_observations, noise_key, config.target_noise, config.target_noise_clip
    )
    next_q = state.target_critic(batch.next_observations, next_actions).min(0)
    next_cloning = batch.next_acted * state.target_policy.distance(next_actions, batch.next_actions)
    next_values = next_q - hyper.critic_cloning * next_cloning
    critic, metrics = steps.fit_critic(
        state.critic,
        batch.observations,
        batch.actions,
        batch.rewards + hyper.discount * batch.masks * next_values,
        learning_rate=hyper.critic_learning_rate * decay,
    )
    metrics |= {"next_cloning": next_cloning.mean()}

    # Policy: uphill on the smaller critic, near the data's actions. Then the targets.
    def move() -> tuple[PyTree, Metrics]:
        policy, policy_metrics = steps.fit_policy_cloned(
            state.policy,
            critic.network,
            batch.observations,
            batch.actions,
            value_weight=jnp.ones(()),
            cloning_weight=hyper.policy_cloning,
            learning_rate=hyper.policy_learning_rate * decay,
        )
        target_policy = steps.polyak(state.target_policy, policy.network, hyper.polyak)
        target_critic = steps.polyak(state.target_critic, critic.network, hyper.polyak)
        return (policy, target_policy, target_critic), policy_metrics

    step = state.step + 1
    stay = (state.policy, state.target_policy, state.target_critic)
    moved, policy_metrics = steps.every(config.policy_delay, step, move, stay)
    policy, target_policy, target_critic = moved
    return state._replace(
        policy=policy,
        critic=critic,
        target_policy=target_policy,
        target_critic=target_critic,
        key=key,
        step=step,
    ), metrics | policy_metrics

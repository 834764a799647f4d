"""TD3+BC (Fujimoto, Gu, NeurIPS 2021, arXiv 2106.06860): TD3 with one term more in its policy.

The equations, for transitions (s, a, r, s') of the data, targets marked by a bar, actions rescaled
to [-1, 1], d their number of dimensions and ε Gaussian noise cut at ±`target_noise_clip`:

    a'       =  π̄(s') + ε, within the action bounds
    Q        minimises  E[(Q(s, a) − r − γ·mask·min Q̄(s', a'))²]
    policy   maximises  λ E[Q₁(s, π(s))] − E[‖π(s) − a‖²] / d,  λ = α / E|Q₁(s, π(s))|
    Q̄, π̄   move by the polyak rate towards Q and π

The policy and both targets move at every second update. λ is a constant to the gradient. It makes
α, the weight of value against cloning, mean the same for every scale of rewards; α → 0 is behaviour
cloning. The paper also standardises the observations: that is the data scaling
`observations: standardised` of this agent's presets.

Deviations from the published code, each with its switch in `TD3BCConfig` where it has one:

 1. Distances between actions, and the noise, are in units of half the range of each dimension; the
    code takes one bound for all of them. Where the bounds are ±1, nothing differs.
 2. `schedule="cosine"` lets both learning rates fall to zero; constant is the default and the
    code's.
 3. Q's error is half the square, so that it shares learning rates with `xql.py`; Adam does not see
    the difference.
 4. Networks start orthogonal, as everywhere in this library.

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
class TD3BCConfig:
    """Every choice of the algorithm. Only the first block may differ along a population."""

    value_weight: float = 2.5
    """α: how much a whole mean |Q| weighs against a squared distance of 1."""
    discount: float = 0.99
    """γ."""
    polyak: float = 0.005
    """The share of the way that the targets move each time they move."""
    critic_learning_rate: float = 3e-4
    policy_learning_rate: float = 3e-4

    hidden: tuple[int, ...] = (256, 256)
    critics: int = 2
    critic_layer_norm: bool = False
    policy_delay: int = 2
    """Critic updates per update of the policy and the targets."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's actions."""
    target_noise_clip: float = 0.5
    """Where that noise is cut off, on both sides."""
    schedule: steps.Schedule = "constant"
    """Of both learning rates."""
    batch_size: int = 256


class TD3BCHyper(NamedTuple):
    """The numbers that may differ along a population; fields as in `TD3BCConfig`."""

    value_weight: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    polyak: Float[Array, ""] | float
    critic_learning_rate: Float[Array, ""] | float
    policy_learning_rate: Float[Array, ""] | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def td3_bc(config: TD3BCConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config, total_steps),
        act=steps.act,
        hyper=TD3BCHyper(*(getattr(config, name) for name in TD3BCHyper._fields)),
        transitions=config.batch_size,
    )


def init(config: TD3BCConfig, key: PRNGKeyArray, spec: Spec, hyper: TD3BCHyper) -> TrainState:
    """Fresh networks; the targets start as copies."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    size, hidden = spec.observation_size, config.hidden
    policy = DeterministicPolicy.create(policy_key, size, spec.action_low, spec.action_high, hidden)
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
        target_policy=jax.tree.map(jnp.copy, policy),
        target_critic=jax.tree.map(jnp.copy, critic),
        key=key,
        step=jnp.zeros((), jnp.int32),
        hyper=hyper,
    )


def update(
    config: TD3BCConfig, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """One update of Q and, every `policy_delay`-th time, of the policy and both targets."""
    assert state.critic is not None
    hyper = state.hyper
    decay = steps.decay(config.schedule, state.step, total_steps)
    key, noise_key = jax.random.split(state.key)

    # Q: the reward and the smaller target critic at the target policy's action, blurred by noise.
    next_actions = state.target_policy.sample(
        batch.next_observations, noise_key, config.target_noise, config.target_noise_clip
    )
    next_q = state.target_critic(batch.next_observations, next_actions).min(0)
    critic, metrics = steps.fit_critic(
        state.critic,
        batch.observations,
        batch.actions,
        batch.rewards + hyper.discount * batch.masks * next_q,
        learning_rate=hyper.critic_learning_rate * decay,
    )

    # Policy: uphill on the first critic, near the data's actions. Then the targets.
    def move() -> tuple[PyTree, Metrics]:
        policy, policy_metrics = steps.fit_policy_cloned(
            state.policy,
            Critic(critic.network.mlps[:1]),
            batch.observations,
            batch.actions,
            value_weight=hyper.value_weight,
            cloning_weight=1 / batch.actions.shape[-1],
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

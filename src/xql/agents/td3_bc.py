"""TD3+BC (Fujimoto, Gu, NeurIPS 2021, arXiv 2106.06860): TD3 with one term more in its policy.

The equations, for transitions (s, a, r, s') of the data, targets marked by a bar, actions rescaled
to [-1, 1], d their number of dimensions and ε Gaussian noise cut at ±`target_noise_clip`:

    a'       =  π̄(s') + ε, within the action bounds
    Q        minimises  E[(Q(s, a) − r − γ·mask·min Q̄(s', a'))²]
    policy   maximises  λ E[Q₁(s, π(s))] − E[‖π(s) − a‖²] / d,  λ = α / E|Q₁(s, π(s))|
    Q̄, π̄   move by the polyak rate towards Q and π

The policy and both targets move at every second update. λ is a constant to the gradient. It makes
α, the weight of the value against behaviour cloning, independent of the scale of rewards; α → 0 is
behaviour cloning. The paper also standardises the observations: that is the data scaling
`observations: standardised` of this agent's presets.

Deviations from the published code, each with its switch in `TD3BCConfig` where it has one:

 1. Distances between actions, and the noise, are in units of half the range of each dimension; the
    code takes one bound for all of them. Where the bounds are ±1, nothing differs.
 2. `schedule="cosine"` lets both learning rates fall to zero; constant is the default and the
    code's.
 3. Q's error is half the square, as in `xql.py`; Adam's steps do not depend on the factor.
 4. Networks start orthogonal, as everywhere in this library.

What it scores is in results/, with the commands.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from xql.agents.backups import policy_backup
from xql.agents.hyperparameters import (
    COUNT,
    DISCOUNT,
    FRACTION,
    SIZE,
    Swept,
    agent_config,
    static,
    swept,
)
from xql.agents.losses import critic_loss, mean_magnitude
from xql.agents.networks import Critic, critic_for
from xql.agents.policies import DeterministicPolicy, exploring_actor
from xql.agents.types import Agent, Batch, EnvironmentSpec, Metrics, Scalar, Trainable
from xql.agents.update import Schedule, bind, decay, descend, every, polyak, trainable


@agent_config
class TD3BCConfig:
    """Every choice of the algorithm."""

    value_weight: Swept = swept(
        default=2.5, doc="α: how much a whole mean |Q| weighs against a squared distance of 1."
    )
    discount: Swept = swept(default=0.99, doc="γ, the discount factor.", range=DISCOUNT)
    polyak: Swept = swept(
        default=0.005, doc="τ, how far the targets move each time they move.", range=FRACTION
    )
    critic_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of Q (Adam).")
    policy_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of the policy (Adam).")

    hidden: tuple[int, ...] = static(
        default=(256, 256), doc="Hidden layer widths of every network.", range=SIZE
    )
    critics: int = static(
        default=2, doc="Ensemble size of Q; the targets take the minimum.", range=COUNT
    )
    critic_layer_norm: bool = static(default=False, doc="LayerNorm in Q.")
    policy_delay: int = static(
        default=2, doc="Critic updates per update of the policy and the targets.", range=SIZE
    )
    exploration_noise: float = static(
        default=0.1,
        doc="Standard deviation of the exploration noise in fine-tuning, in half action ranges.",
    )
    target_noise: float = static(
        default=0.2,
        doc="Standard deviation of the target policy's noise, in half action ranges.",
    )
    target_noise_clip: float = static(
        default=0.5, doc="Where that noise is cut off, on both sides."
    )
    schedule: Schedule = static(
        default="constant", doc="Learning rate schedule of Q and the policy."
    )
    batch_size: int = static(default=256, doc="Transitions per batch.", range=SIZE)


class TD3BCState(NamedTuple):
    """Everything that the next update depends on."""

    policy: Trainable
    critic: Trainable
    target_policy: DeterministicPolicy
    target_critic: Critic
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: TD3BCConfig


def make_td3_bc(config: TD3BCConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=init,
        update=bind(update, total_steps),
        actor=exploring_actor,
        config=config,
        transitions=config.batch_size,
        backup=policy_backup,
    )


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: TD3BCConfig) -> TD3BCState:
    """Fresh networks; the targets start as copies."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    policy = DeterministicPolicy.create(policy_key, spec, config.hidden)
    critic = critic_for(
        critic_key,
        spec,
        config.hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return TD3BCState(
        policy=trainable(policy),
        critic=trainable(critic),
        target_policy=jax.tree.map(jnp.copy, policy),
        target_critic=jax.tree.map(jnp.copy, critic),
        key=key,
        step=jnp.zeros((), jnp.int32),
        config=config,
    )


def update(total_steps: int, state: TD3BCState, batch: Batch) -> tuple[TD3BCState, Metrics]:
    """One update of Q and, every `policy_delay`-th time, of the policy and both targets."""
    config = state.config
    rate = decay(config.schedule, state.step, total_steps)
    key, noise_key = jax.random.split(state.key)

    # Q minimises the squared error on r + γ·mask·min Q̄(s', a'), a' the target policy's with noise.
    next_actions = state.target_policy.sample(
        batch.next_observations, noise_key, config.target_noise, config.target_noise_clip
    )
    next_q = state.target_critic(batch.next_observations, next_actions).min(0)
    q_targets = batch.rewards + config.discount * batch.masks * next_q

    def q_loss(network: Critic) -> tuple[Scalar, Metrics]:
        return critic_loss(network(batch.observations, batch.actions), q_targets)

    critic, metrics = descend(state.critic, q_loss, config.critic_learning_rate * rate)
    first = Critic(critic.network.mlps[:1], bounds=critic.network.bounds)

    # The policy minimises ‖π(s) − a‖² / d − α E[Q₁(s, π(s))] / E|Q₁(s, π(s))|.
    def policy_loss(network: DeterministicPolicy) -> tuple[Scalar, Metrics]:
        actions = network.mean(batch.observations)
        q = first(batch.observations, actions).min(0)
        distance = network.distance(actions, batch.actions).mean()
        cloning = (1 / batch.actions.shape[-1]) * distance
        loss = cloning - config.value_weight * q.mean() / mean_magnitude(q)
        return loss, {"policy_loss": loss, "bc_distance": distance}

    def move() -> tuple[PyTree, Metrics]:
        policy, policy_metrics = descend(
            state.policy, policy_loss, config.policy_learning_rate * rate
        )
        target_policy = polyak(state.target_policy, policy.network, config.polyak)
        target_critic = polyak(state.target_critic, critic.network, config.polyak)
        return (policy, target_policy, target_critic), policy_metrics

    step = state.step + 1
    unchanged = (state.policy, state.target_policy, state.target_critic)
    moved, policy_metrics = every(config.policy_delay, step, move, unchanged)
    policy, target_policy, target_critic = moved
    return state._replace(
        policy=policy,
        critic=critic,
        target_policy=target_policy,
        target_critic=target_critic,
        key=key,
        step=step,
    ), metrics | policy_metrics

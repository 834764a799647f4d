"""ReBRAC (Tarasov, Kurenkov, Nikulin, Kolesnikov, NeurIPS 2023, arXiv 2305.09836).

The equations, for transitions (s, a, r, s', a') of the data, targets marked by a bar, actions
rescaled to [-1, 1] and ε Gaussian noise cut at ±`target_noise_clip`:

    b        =  π̄(s') + ε, within the action bounds
    Q        minimises  E[(Q(s, a) − r − γ·mask·(min Q̄(s', b) − β₂ ‖b − a'‖²))²]
    policy   maximises  E[min Q(s, π(s))] / E|min Q(s, π(s))| − β₁ E[‖π(s) − a‖²]
    Q̄, π̄   move by the polyak rate towards Q and π

It is TD3+BC with what later work found to matter: a penalty for leaving the data in the backup too,
with its own weight (β₂ beside β₁), LayerNorm in the critics, a third hidden layer, large batches
(1024) for locomotion and γ = 0.999 for AntMaze. The policy and both targets move at
every second update; the divisor is a constant to the gradient.

Deviations from the published code, each with its switch in `ReBRACConfig` where it has one:

 1. Where the log stops before a' (a time limit, the end of the log) that transition has no β₂
    penalty; the code leaves the transition out.
 2. Distances between actions, and the noise, are in units of half the range of each dimension.
    Where the bounds are ±1, nothing differs.
 3. LayerNorm stands before the ReLU, as everywhere in this library; the code has it after.
 4. Networks start orthogonal with zero biases, as everywhere in this library; the code starts from
    uniform weights and hidden biases of 0.1. The targets start as copies in both.
 5. The policy moves on the second of every two updates, and π̄ follows its new weights; the code
    starts with the first, and π̄ follows the weights before the step. Q̄ follows Q's new weights in
    both.
 6. `schedule="cosine"` lets both learning rates fall to zero; constant is the default and the
    code's.
 7. Q's error is half the square, as in `xql.py`; Adam's steps do not depend on the factor.

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
class ReBRACConfig:
    """Every choice of the algorithm."""

    policy_cloning: Swept = swept(
        default=0.01,
        doc="β₁: the policy's penalty for a squared distance of 1, in units of mean |Q|.",
    )
    critic_cloning: Swept = swept(
        default=0.01,
        doc="β₂: the backup's penalty for a squared distance of 1, in units of return.",
    )
    discount: Swept = swept(default=0.99, doc="γ, the discount factor.", range=DISCOUNT)
    polyak: Swept = swept(
        default=0.005, doc="τ, how far the targets move each time they move.", range=FRACTION
    )
    critic_learning_rate: Swept = swept(default=1e-3, doc="Learning rate of Q (Adam).")
    policy_learning_rate: Swept = swept(default=1e-3, doc="Learning rate of the policy (Adam).")

    hidden: tuple[int, ...] = static(
        default=(256, 256, 256), doc="Hidden layer widths of every network.", range=SIZE
    )
    critics: int = static(
        default=2, doc="Ensemble size of Q; the targets take the minimum.", range=COUNT
    )
    critic_layer_norm: bool = static(default=True, doc="LayerNorm in Q.")
    policy_layer_norm: bool = static(default=False, doc="LayerNorm in the policy.")
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
    batch_size: int = static(default=1024, doc="Transitions per batch.", range=SIZE)


class ReBRACState(NamedTuple):
    """Everything that the next update depends on."""

    policy: Trainable
    critic: Trainable
    target_policy: DeterministicPolicy
    target_critic: Critic
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: ReBRACConfig


def make_rebrac(config: ReBRACConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=init,
        update=bind(update, total_steps),
        actor=exploring_actor,
        config=config,
        transitions=config.batch_size,
        backup=policy_backup,
    )


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: ReBRACConfig) -> ReBRACState:
    """Fresh networks; the targets start as copies."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    policy = DeterministicPolicy.create(
        policy_key, spec, config.hidden, layer_norm=config.policy_layer_norm
    )
    critic = critic_for(
        critic_key,
        spec,
        config.hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return ReBRACState(
        policy=trainable(policy),
        critic=trainable(critic),
        target_policy=jax.tree.map(jnp.copy, policy),
        target_critic=jax.tree.map(jnp.copy, critic),
        key=key,
        step=jnp.zeros((), jnp.int32),
        config=config,
    )


def update(total_steps: int, state: ReBRACState, batch: Batch) -> tuple[ReBRACState, Metrics]:
    """One update of Q and, every `policy_delay`-th time, of the policy and both targets."""
    assert batch.next_actions is not None and batch.next_acted is not None, "logged data has both"
    config = state.config
    rate = decay(config.schedule, state.step, total_steps)
    key, noise_key = jax.random.split(state.key)

    # Q minimises the squared error on r + γ·mask·(min Q̄(s', b) − β₂ ‖b − a'‖²), b the target
    # policy's action with noise and a' the data's.
    next_actions = state.target_policy.sample(
        batch.next_observations, noise_key, config.target_noise, config.target_noise_clip
    )
    next_q = state.target_critic(batch.next_observations, next_actions).min(0)
    next_distance = batch.next_acted * state.target_policy.distance(
        next_actions, batch.next_actions
    )
    next_values = next_q - config.critic_cloning * next_distance
    q_targets = batch.rewards + config.discount * batch.masks * next_values

    def q_loss(network: Critic) -> tuple[Scalar, Metrics]:
        return critic_loss(network(batch.observations, batch.actions), q_targets)

    critic, metrics = descend(state.critic, q_loss, config.critic_learning_rate * rate)
    metrics |= {"next_bc_distance": next_distance.mean()}

    # The policy minimises β₁ ‖π(s) − a‖² − E[min Q(s, π(s))] / E|min Q(s, π(s))|.
    def policy_loss(network: DeterministicPolicy) -> tuple[Scalar, Metrics]:
        actions = network.mean(batch.observations)
        q = critic.network(batch.observations, actions).min(0)
        distance = network.distance(actions, batch.actions).mean()
        loss = config.policy_cloning * distance - q.mean() / mean_magnitude(q)
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

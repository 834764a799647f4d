"""Advantage-Weighted Actor-Critic (Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359), offline.

The equations, for transitions (s, a, r, s') of the data, a fresh draw b ~ π(·|s) or b' ~ π(·|s'),
and targets marked by a bar:

    Q        minimises  E[(Q(s, a) − r − γ·mask·min Q̄(s', b'))²]
    policy   maximises  E[w log π(a|s)],  A = min Q(s, a) − min Q(s, b),
             w = min(e^{A/λ}, cap)            weights="exponential"
             w = n e^{A/λ} / Σ e^{A/λ}        weights="softmax", the sum over the batch of n
    Q̄       moves by the polyak rate towards Q

The policy step is that of `xql.py` and `iql.py`. The values are not: Q is the policy's own, and it
is evaluated at the policy's actions, which may be out of distribution. How far is limited only by
the weighted likelihood, which keeps the policy near the data.

The paper's w is e^{A/λ}/Z(s) with Z left out. The code published with it takes the softmax over the
batch, whose weights sum to n; CORL, the source of this agent's presets, takes the capped
exponential, which is the default here.

Deviations from the paper, each with its switch in `AWACConfig` where it has one:

 1. The weights are capped (`weight_cap`), as in CORL.
 2. The policy's mean is bounded by tanh, and its standard deviation is one for all states, kept
    within [−5, 2] in the logarithm by projection after each step.
 3. `schedule="cosine"` lets both learning rates fall to zero; constant is the default, as
    in CORL.
 4. Q's error is half the square, as in `xql.py`; Adam's steps do not depend on the factor.
 5. No weight decay on the policy.
 6. Networks start orthogonal, as everywhere in this library.

What it scores is in results/, with the commands.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from xql.agents.backups import policy_backup
from xql.agents.hyperparameters import (
    COUNT,
    DISCOUNT,
    FRACTION,
    POSITIVE,
    SIZE,
    Swept,
    agent_config,
    static,
    swept,
)
from xql.agents.losses import advantage_weights, critic_loss
from xql.agents.networks import AnyCritic, critic_for
from xql.agents.policies import StochasticPolicy, network_of, policy_for, project
from xql.agents.types import (
    Agent,
    Batch,
    EnvironmentSpec,
    Metrics,
    Number,
    Scalar,
    ScaleHint,
    Trainable,
)
from xql.agents.update import Schedule, bind, decay, descend, polyak, trainable
from xql.data.actions import Box, Discrete


@agent_config
class AWACConfig:
    """Every choice of the algorithm."""

    temperature: Swept = swept(
        default=1.0, doc="λ of the advantage weights, in units of return.", range=POSITIVE
    )
    weight_cap: Swept = swept(default=100.0, doc="The largest exponential weight.", range=POSITIVE)
    discount: Swept = swept(default=0.99, doc="γ, the discount factor.", range=DISCOUNT)
    polyak: Swept = swept(
        default=0.005, doc="τ, how far the target critic moves per update.", range=FRACTION
    )
    critic_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of Q (Adam).")
    policy_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of the policy (Adam).")

    hidden: tuple[int, ...] = static(
        default=(256, 256, 256), doc="Hidden layer widths of every network.", range=SIZE
    )
    critics: int = static(
        default=2, doc="Ensemble size of Q; the targets take the minimum.", range=COUNT
    )
    critic_layer_norm: bool = static(default=False, doc="LayerNorm in Q.")
    weights: Literal["exponential", "softmax"] = static(
        default="exponential", doc="Capped exponential weights, or a softmax over the batch."
    )
    schedule: Schedule = static(
        default="constant", doc="Learning rate schedule of Q and the policy."
    )
    batch_size: int = static(default=256, doc="Transitions per batch.", range=SIZE)

    @property
    def inactive(self) -> frozenset[str]:
        """A softmax over the batch has no cap."""
        return frozenset(("weight_cap",) if self.weights == "softmax" else ())


class AWACState(NamedTuple):
    """Everything that the next update depends on."""

    policy: Trainable
    critic: Trainable
    target_critic: AnyCritic
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: AWACConfig


def make_awac(config: AWACConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=init,
        update=bind(update, total_steps),
        actor=network_of,
        config=config,
        transitions=config.batch_size,
        takes=(Box, Discrete),
        backup=policy_backup,
        scale_hint=ScaleHint(("temperature",), "a larger temperature"),
    )


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: AWACConfig) -> AWACState:
    """Fresh networks; the target critic starts as a copy of the critic."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    policy = policy_for(policy_key, spec, config.hidden)
    critic = critic_for(
        critic_key,
        spec,
        config.hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return AWACState(
        policy=trainable(policy),
        critic=trainable(critic),
        target_critic=jax.tree.map(jnp.copy, critic),
        key=key,
        step=jnp.zeros((), jnp.int32),
        config=config,
    )


def update(total_steps: int, state: AWACState, batch: Batch) -> tuple[AWACState, Metrics]:
    """One update of Q, the policy and the target critic, in this order."""
    config = state.config
    rate = decay(config.schedule, state.step, total_steps)
    key, next_key, here_key = jax.random.split(state.key, 3)

    # Q minimises the squared error on r + γ·mask·min Q̄(s', b'), b' ~ π(·|s').
    next_actions = state.policy.network.sample(batch.next_observations, next_key)
    next_q = state.target_critic(batch.next_observations, next_actions).min(0)
    q_targets = batch.rewards + config.discount * batch.masks * next_q

    def q_loss(network: AnyCritic) -> tuple[Scalar, Metrics]:
        return critic_loss(network(batch.observations, batch.actions), q_targets)

    critic, metrics = descend(state.critic, q_loss, config.critic_learning_rate * rate)

    # The policy maximises E[w log π(a|s)], w from the advantage over its own action b ~ π(·|s).
    own_actions = state.policy.network.sample(batch.observations, here_key)
    q = critic.network(batch.observations, batch.actions).min(0)
    advantages = q - critic.network(batch.observations, own_actions).min(0)
    if config.weights == "softmax":
        weights = softmax_weights(advantages, config.temperature)
    else:
        weights = advantage_weights(advantages, 1 / config.temperature, config.weight_cap)

    def policy_loss(network: StochasticPolicy) -> tuple[Scalar, Metrics]:
        log_prob = network.log_prob(batch.observations, batch.actions)
        loss = -(weights * log_prob).mean()
        return loss, {"policy_loss": loss, "log_prob": log_prob.mean()}

    policy, policy_metrics = descend(state.policy, policy_loss, config.policy_learning_rate * rate)
    metrics |= policy_metrics
    metrics |= {"advantage": advantages.mean(), "weight": weights.mean()}
    return state._replace(
        policy=project(policy),
        critic=critic,
        target_critic=polyak(state.target_critic, critic.network, config.polyak),
        key=key,
        step=state.step + 1,
    ), metrics


def softmax_weights(
    advantages: Float[Array, " batch"], temperature: Number
) -> Float[Array, " batch"]:
    """n e^{A/λ} / Σ e^{A/λ} over the batch of n: their mean is 1."""
    return len(advantages) * jax.nn.softmax(advantages / temperature)

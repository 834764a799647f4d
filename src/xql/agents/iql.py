"""Implicit Q-Learning (Kostrikov, Nair, Levine, ICLR 2022, arXiv 2110.06169).

The equations, for transitions (s, a, r, s') of the data and the smaller of two target critics Q̄:

    V       minimises  E[|τ − 1(Q̄(s, a) < V(s))| · (Q̄(s, a) − V(s))²]    the τ-expectile of Q̄
    policy  maximises  E[w log π(a|s)],  w = min(e^{κ (Q̄(s, a) − V(s))}, cap)
    Q       minimises  E[(Q(s, a) − r − γ·mask·V(s'))²]
    Q̄      moves by the polyak rate towards Q

Only the first line differs from `xql.py`: an expectile in place of the soft maximum. τ = 1/2 gives
the value of the behaviour policy, τ → 1 that of the best action in the data. τ has no unit, so that
it need not follow the scale of rewards; but no policy is known whose value the expectile would be,
whereas XQL's V is that of the best policy under a KL penalty of weight β.

Deviations from the published code, each with its switch in `IQLConfig` where it has one:

 1. No dropout in the policy, which the code has at 0.1 for Kitchen and Adroit (`policy_dropout`;
    the preset published has it).
 2. The policy's log standard deviation is kept within [−5, 2] by projection after each step; the
    code clips it inside the network, which leaves it no gradient outside.
 3. `value_schedule="cosine"` lets the learning rates of V and Q fall to zero as the policy's does;
    constant is the default and the code's.
 4. The policy's cosine ends with the run, whose length the code fixes at 10⁶.
 5. Q's error is half the square, as in `xql.py`; Adam's steps do not depend on the factor.
 6. `preset="matched"` is XQL's `fixed` in all but the loss of V: LayerNorm in V, Huber's error of
    Q, the limit on the norm of V's gradient where XQL has one, XQL's schedules. A difference
    between the two agents is then one between an expectile and a soft maximum.

What it scores is in results/, with the commands.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from xql.agents.backups import value_backup
from xql.agents.hyperparameters import (
    COUNT,
    DISCOUNT,
    DROPOUT,
    FRACTION,
    POSITIVE,
    SIZE,
    Swept,
    agent_config,
    static,
    swept,
)
from xql.agents.losses import CriticLoss, advantage_weights, critic_loss
from xql.agents.networks import AnyCritic, Value, critic_for
from xql.agents.policies import StochasticPolicy, network_of, policy_for, project
from xql.agents.types import Agent, Batch, EnvironmentSpec, Metrics, Scalar, ScaleHint, Trainable
from xql.agents.update import Schedule, bind, decay, descend, polyak, trainable
from xql.data.actions import Box, Discrete


@agent_config
class IQLConfig:
    """Every choice of the algorithm."""

    expectile: Swept = swept(
        default=0.7, doc="τ: 1/2 gives the mean, 1 the maximum.", range=FRACTION
    )
    inverse_temperature: Swept = swept(default=3.0, doc="κ of the advantage weights, in 1/return.")
    weight_cap: Swept = swept(default=100.0, doc="The largest advantage weight.", range=POSITIVE)
    discount: Swept = swept(default=0.99, doc="γ, the discount factor.", range=DISCOUNT)
    polyak: Swept = swept(
        default=0.005, doc="How far the target critic moves per update.", range=FRACTION
    )
    value_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of V (Adam).")
    critic_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of Q (Adam).")
    policy_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of the policy (Adam).")

    hidden: tuple[int, ...] = static(
        default=(256, 256), doc="Hidden layer widths of every network.", range=SIZE
    )
    critics: int = static(
        default=2, doc="Ensemble size of Q; the targets take the minimum.", range=COUNT
    )
    value_layer_norm: bool = static(default=False, doc="LayerNorm in V.")
    critic_layer_norm: bool = static(default=False, doc="LayerNorm in Q.")
    max_gradient_norm: float | None = static(
        default=None, doc="Largest norm of V's gradient; None has no limit.", range=POSITIVE
    )
    critic_loss: CriticLoss = static(default="squared", doc="Error of Q.")
    huber_delta: float = static(
        default=20.0, doc="Where Huber's error turns linear.", range=POSITIVE
    )
    policy_dropout: float = static(
        default=0.0,
        doc="Dropout of the policy's hidden units in its loss; never where it acts.",
        range=DROPOUT,
    )
    policy_schedule: Schedule = static(
        default="cosine", doc="Learning rate schedule of the policy."
    )
    value_schedule: Schedule = static(default="constant", doc="Learning rate schedule of V and Q.")
    batch_size: int = static(default=256, doc="Transitions per batch.", range=SIZE)

    @property
    def inactive(self) -> frozenset[str]:
        """The squared error has no δ."""
        return frozenset(() if self.critic_loss == "huber" else ("huber_delta",))


class IQLState(NamedTuple):
    """Everything that the next update depends on."""

    policy: Trainable
    value: Trainable
    critic: Trainable
    target_critic: AnyCritic
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: IQLConfig


def make_iql(config: IQLConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=init,
        update=bind(update, total_steps),
        actor=network_of,
        config=config,
        transitions=config.batch_size,
        takes=(Box, Discrete),
        backup=value_backup,
        scale_hint=ScaleHint(("inverse_temperature",), "a smaller inverse_temperature"),
    )


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: IQLConfig) -> IQLState:
    """Fresh networks; the target critic starts as a copy of the critic."""
    key, policy_key, value_key, critic_key = jax.random.split(key, 4)
    size, hidden = spec.observation_size, config.hidden
    policy = policy_for(policy_key, spec, hidden)
    value = Value.create(value_key, size, hidden, layer_norm=config.value_layer_norm)
    critic = critic_for(
        critic_key,
        spec,
        hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return IQLState(
        policy=trainable(policy),
        value=trainable(value),
        critic=trainable(critic),
        target_critic=jax.tree.map(jnp.copy, critic),
        key=key,
        step=jnp.zeros((), jnp.int32),
        config=config,
    )


def update(total_steps: int, state: IQLState, batch: Batch) -> tuple[IQLState, Metrics]:
    """One update of V, the policy, Q and the target critic, in this order."""
    config = state.config
    value_decay = decay(config.value_schedule, state.step, total_steps)
    policy_decay = decay(config.policy_schedule, state.step, total_steps)
    key, dropout_key = jax.random.split(state.key) if config.policy_dropout else (state.key, None)

    # V minimises the asymmetric square E[|τ − 1(Q̄ < V)| (Q̄ − V)²]. All else is as in xql.py.
    target_q = state.target_critic(batch.observations, batch.actions).min(0)

    def value_loss(network: Value) -> tuple[Scalar, Metrics]:
        v = network(batch.observations)
        above = target_q > v
        weight = jnp.where(above, config.expectile, 1 - config.expectile)
        loss = (weight * jnp.square(target_q - v)).mean()
        return loss, {"value_loss": loss, "v": v.mean(), "above": above.mean(dtype=jnp.float32)}

    value, metrics = descend(
        state.value, value_loss, config.value_learning_rate * value_decay, config.max_gradient_norm
    )
    v = value.network

    # The policy maximises E[w log π(a|s)], w = min(e^{κ (Q̄ − V)}, cap).
    advantages = target_q - v(batch.observations)
    weights = advantage_weights(advantages, config.inverse_temperature, config.weight_cap)

    def policy_loss(network: StochasticPolicy) -> tuple[Scalar, Metrics]:
        log_prob = network.log_prob(
            batch.observations, batch.actions, config.policy_dropout, dropout_key
        )
        loss = -(weights * log_prob).mean()
        return loss, {"policy_loss": loss, "log_prob": log_prob.mean()}

    policy, policy_metrics = descend(
        state.policy, policy_loss, config.policy_learning_rate * policy_decay
    )

    # Q minimises the error on r + γ·mask·V(s').
    q_targets = batch.rewards + config.discount * batch.masks * v(batch.next_observations)

    def q_loss(network: AnyCritic) -> tuple[Scalar, Metrics]:
        q = network(batch.observations, batch.actions)
        return critic_loss(q, q_targets, config.critic_loss, config.huber_delta)

    critic, critic_metrics = descend(
        state.critic, q_loss, config.critic_learning_rate * value_decay
    )
    metrics |= policy_metrics | critic_metrics
    metrics |= {"advantage": advantages.mean(), "weight": weights.mean()}
    return state._replace(
        policy=project(policy),
        value=value,
        critic=critic,
        target_critic=polyak(state.target_critic, critic.network, config.polyak),
        key=key,
        step=state.step + 1,
    ), metrics

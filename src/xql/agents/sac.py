"""Soft Actor-Critic, with and without a value network, and X-SAC.

The equations, for transitions (s, a, r, s') of the replay buffer, a fresh draw a~ ~ π(·|s) for
every state that is asked about, targets marked by a bar and the temperature α:

    after s'   min Q̄(s', a~) − α log π(a~|s')                                    value="none"
               V̄(s'), V minimising E[(V(s) − min Q(s, a~) + α log π(a~|s))²]     value="soft"
               V(s'),  V minimising E[e^z − z − 1], z = (min Q̄(s, a~) − V(s))/β  value="gumbel"
    Q          minimises  E[(Q(s, a) − r − γ·mask·[after s'])²]
    policy     maximises  E[min Q(s, a~) − α log π(a~|s)]
    log α      minimises  log α · (E[−log π] − H),  H = −(number of action dimensions)
    Q̄, V̄     move by the polyak rate towards Q and V

`none` is SAC (Haarnoja et al. 2018b, arXiv 1812.05905), `soft` the first SAC (2018a,
arXiv 1801.01290), `gumbel` X-SAC (Garg et al. 2023, arXiv 2301.02328): V(s) = β log E_π[e^{Q̄/β}] is
the soft maximum over the policy's own actions, so no log-probability enters a value.

Deviations from the papers, each with its switch in `SACConfig` where it has one:

 1. X-SAC's delay is in the target critic that V is fitted to, as in `xql.py`; V itself has none.
 2. X-SAC's Gumbel loss goes on linearly beyond z = clip, as in `xql.py`; `loss` names the others.
 3. The gradient of X-SAC's V is scaled down to norm 1 where larger (`max_gradient_norm=None`
    turns it off).
 4. X-SAC's policy and temperature are SAC's own: entropy shapes the policy, not the values.
 5. α is learned in all three. The first SAC kept it fixed: `temperature_learning_rate=0`.
 6. log α, not α, weighs the temperature's loss, so that it moves as readily near α = 0.
 7. Log-probabilities are those of actions rescaled to [-1, 1], so that H does not depend on units.
 8. The policy's log standard deviation goes through a tanh into [−5, 2]; its papers cut it off.
 9. Networks start orthogonal with gain √2, last layers too, as everywhere in this library.
"""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents import update as steps
from xql.agents.networks import Critic, Value
from xql.agents.policies import SquashedGaussianPolicy
from xql.agents.types import Agent, Batch, Metrics, Spec, Trainable, TrainState
from xql.gumbel.losses import Kind

Scalar = Float[Array, ""]


@dataclass(frozen=True)
class SACConfig:
    """Every choice of the algorithm; the defaults are SAC's. Only the first block may be swept."""

    beta: float = 1.0
    """Temperature of X-SAC's Gumbel loss, in units of return; SAC has none."""
    clip: float = 8.0
    """Where the Gumbel loss stops being exponential, in units of z."""
    initial_temperature: float = 1.0
    """α at the start, in units of return per nat."""
    discount: float = 0.99
    """γ."""
    polyak: float = 0.005
    """The share of the way that the target moves per update."""
    value_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    policy_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    """0 keeps α where it starts."""

    hidden: tuple[int, ...] = (256, 256)
    critics: int = 2
    value: Literal["none", "soft", "gumbel"] = "none"
    """What stands for the value of s': the critic, a soft V, or X-SAC's V."""
    value_layer_norm: bool = False
    critic_layer_norm: bool = False
    loss: Kind = "linear"
    """X-SAC's."""
    maclaurin_order: int = 8
    max_gradient_norm: float | None = 1.0
    """Of X-SAC's V; None leaves it as it is."""
    batch_size: int = 256

    @property
    def gumbel(self) -> bool:
        """Whether β means anything."""
        return self.value == "gumbel"


class SACHyper(NamedTuple):
    """The numbers that may differ along a population; fields as in `SACConfig`."""

    beta: Scalar | float
    clip: Scalar | float
    initial_temperature: Scalar | float
    discount: Scalar | float
    polyak: Scalar | float
    value_learning_rate: Scalar | float
    critic_learning_rate: Scalar | float
    policy_learning_rate: Scalar | float
    temperature_learning_rate: Scalar | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def sac(config: SACConfig, total_steps: int) -> Agent:
    """The agent for one configuration; nothing in it depends on `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config),
        act=steps.act,
        hyper=SACHyper(*(getattr(config, name) for name in SACHyper._fields)),
        transitions=config.batch_size,
    )


def init(config: SACConfig, key: PRNGKeyArray, spec: Spec, hyper: SACHyper) -> TrainState:
    """Fresh networks; the targets start as copies."""
    key, policy_key, value_key, critic_key = jax.random.split(key, 4)
    size, hidden = spec.observation_size, config.hidden
    policy = SquashedGaussianPolicy.create(
        policy_key, size, spec.action_low, spec.action_high, hidden
    )
    value = Value.create(value_key, size, hidden, layer_norm=config.value_layer_norm)
    critic = Critic.create(
        critic_key,
        size,
        spec.action_size,
        hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    soft = config.value == "soft"
    return TrainState(
        policy=steps.trainable(policy),
        value=None if config.value == "none" else steps.trainable(value),
        target_value=jax.tree.map(jnp.copy, value) if soft else None,
        critic=steps.trainable(critic),
        target_critic=None if soft else jax.tree.map(jnp.copy, critic),
        temperature=steps.trainable(jnp.log(jnp.asarray(hyper.initial_temperature, jnp.float32))),
        key=key,
        step=jnp.zeros((), jnp.int32),
        hyper=hyper,
    )


def update(config: SACConfig, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update of V where there is one, then of Q, the policy, α and the target."""
    assert state.critic is not None and state.temperature is not None
    hyper = state.hyper
    temperature = jnp.exp(state.temperature.network)
    key, value_key, policy_key = jax.random.split(state.key, 3)

    value, next_values, metrics = fit_value(config, state, batch, temperature, value_key)
    critic, critic_metrics = steps.fit_critic(
        state.critic,
        batch.observations,
        batch.actions,
        batch.rewards + hyper.discount * batch.masks * next_values,
        learning_rate=hyper.critic_learning_rate,
    )
    policy, policy_metrics = steps.fit_policy_soft(
        state.policy,
        critic.network,
        batch.observations,
        policy_key,
        temperature=temperature,
        learning_rate=hyper.policy_learning_rate,
    )
    log_temperature, temperature_metrics = steps.fit_temperature(
        state.temperature,
        policy_metrics["entropy"],
        target_entropy=-float(batch.actions.shape[-1]),
        learning_rate=hyper.temperature_learning_rate,
    )
    state = state._replace(
        policy=policy,
        value=value,
        critic=critic,
        temperature=log_temperature,
        key=key,
        step=state.step + 1,
    )
    if config.value == "soft":
        assert value is not None
        target = steps.polyak(state.target_value, value.network, hyper.polyak)
        state = state._replace(target_value=target)
    else:
        target = steps.polyak(state.target_critic, critic.network, hyper.polyak)
        state = state._replace(target_critic=target)
    return state, metrics | critic_metrics | policy_metrics | temperature_metrics


def fit_value(
    config: SACConfig, state: TrainState, batch: Batch, temperature: Scalar, key: PRNGKeyArray
) -> tuple[Trainable | None, Float[Array, " batch"], Metrics]:
    """V after its step, where there is one, and the value of every s'."""
    policy: SquashedGaussianPolicy = state.policy.network
    if config.value == "none":
        following = batch.next_observations
        return None, soft_values(state.target_critic, policy, following, temperature, key), {}

    assert state.value is not None and state.critic is not None
    hyper = state.hyper
    if config.value == "soft":
        targets = soft_values(state.critic.network, policy, batch.observations, temperature, key)
        value, metrics = fit_value_squared(
            state.value, batch.observations, targets, learning_rate=hyper.value_learning_rate
        )
        return value, state.target_value(batch.next_observations), metrics

    actions = policy.sample(batch.observations, key)
    value, metrics = steps.fit_value_gumbel(
        state.value,
        batch.observations,
        state.target_critic(batch.observations, actions).min(0),
        beta=hyper.beta,
        learning_rate=hyper.value_learning_rate,
        kind=config.loss,
        clip=hyper.clip,
        order=config.maclaurin_order,
        max_gradient_norm=config.max_gradient_norm,
    )
    return value, value.network(batch.next_observations), metrics


def soft_values(
    critic: Critic,
    policy: SquashedGaussianPolicy,
    observations: Float[Array, "batch observation"],
    temperature: Scalar,
    key: PRNGKeyArray,
) -> Float[Array, " batch"]:
    """min Q(s, a) − α log π(a|s), one draw a ~ π(·|s) per state."""
    actions, log_prob = policy.sample_with_log_prob(observations, key)
    return critic(observations, actions).min(0) - temperature * log_prob


def fit_value_squared(
    value: Trainable,
    observations: Float[Array, "batch observation"],
    targets: Float[Array, " batch"],
    *,
    learning_rate: Scalar,
) -> tuple[Trainable, Metrics]:
    """V by squared error on `targets`: its minimiser is their mean."""

    def loss(network: Value) -> tuple[Scalar, Metrics]:
        v = network(observations)
        value_loss = jnp.square(v - targets).mean() / 2
        return value_loss, {"value_loss": value_loss, "value": v.mean()}

    return steps.descend(value, loss, learning_rate)

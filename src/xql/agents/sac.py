"""Soft Actor-Critic, with and without a value network, and X-SAC.

The equations, for transitions (s, a, r, s') of the replay buffer, a fresh draw a~ ~ π(·|s) for
every state that is evaluated, targets marked by a bar and the temperature α:

    after s'   min Q̄(s', a~) − α log π(a~|s')                                    value="none"
               V̄(s'), V minimising E[(V(s) − min Q(s, a~) + α log π(a~|s))²]     value="soft"
               V(s'),  V minimising E[e^z − z − 1], z = (min Q̄(s, a~) − V(s))/β  value="gumbel"
               V̄(s'), V minimising the same, z = (min Q(s, a~) − V(s))/β          with V̄
    Q          minimises  E[(Q(s, a) − r − γ·mask·[after s'])²]
    policy     maximises  E[min Q(s, a~) − α log π(a~|s)]
    log α      minimises  log α · (E[−log π] − H),  H = −(number of action dimensions)
    Q̄, V̄     move by the polyak rate towards Q and V                    every `target_delay` updates

`none` is SAC (Haarnoja et al. 2018b, arXiv 1812.05905), `soft` the first SAC (2018a,
arXiv 1801.01290), `gumbel` X-SAC (Garg et al. 2023, arXiv 2301.02328): V(s) = β log E_π[e^{Q̄/β}] is
the soft maximum over the policy's own actions, so no log-probability enters a value.

Of n discrete actions the policy is a softmax over one logit for each, Q(s, ·) has n outputs, and a~
is drawn for X-SAC's V alone: every other mean over a~ is the exact sum over the n actions, as in
Christodoulou 2019 (arXiv 1910.07207). H is `entropy_fraction` of the largest entropy, log n.

Deviations from the papers, each with its switch in `SACConfig` where it has one:

 1. X-SAC's V is fitted to a target critic, as in `xql.py`; V itself has no target network. The
    paper has it as the first SAC does, V fitted to Q and Q to a target of V
    (`target_network="value"`, the last row above).
 2. X-SAC's Gumbel loss goes on linearly beyond z = clip (`loss="linear"`); `loss` names the others.
 3. The gradient of X-SAC's V is scaled down to norm 1 where larger (`max_gradient_norm=None`
    turns it off), which makes V too low where β is small (xql.gumbel.losses).
 4. X-SAC's policy and temperature are SAC's own: entropy shapes the policy, not the values.
 5. α is learned in all three, from 1. The first SAC kept it fixed: `temperature_learning_rate=0`;
    X-SAC's code starts it at 0.1 (`initial_temperature`).
 6. log α, not α, weighs the temperature's loss, so that it moves as readily near α = 0.
 7. Log-probabilities are those of actions rescaled to [-1, 1], so that H does not depend on units.
 8. The policy's log standard deviation goes through a tanh into [−5, 2]; its papers clip it.
 9. Networks start orthogonal with gain √2, last layers too, as everywhere in this library.
 10. Targets move at every update; X-SAC's code moves them at every second (`target_delay`).
 11. V takes its step before Q, and with draws of its own; X-SAC's code has Q first, and one draw
     for V and the policy.
 12. The policy and α move at every update, as the paper says of X-SAC; its code has every second.
 13. Of discrete actions, H is 0.89 of log n, as in CleanRL, not 0.98 (`entropy_fraction`).
 14. With `beta="auto"` β is no number of a table: it is solved so that the weights e^{Q/β} of
     d = min Q(s, a~) − V(s) are `beta_kl` nats from uniform (xql.agents.temperature).

The SAC that X-SAC's paper compares with is `soft`, which differs from its X-SAC in V's loss alone;
the settings of both are the preset `paper`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from xql.agents.backups import policy_backup, value_backup
from xql.agents.hyperparameters import (
    COUNT,
    DISCOUNT,
    FRACTION,
    KL,
    POSITIVE,
    SIZE,
    Auto,
    Range,
    Swept,
    SweptOrAuto,
    agent_config,
    static,
    swept,
)
from xql.agents.losses import critic_loss, gumbel_metrics, mean_magnitude
from xql.agents.networks import AnyCritic, Value, critic_for
from xql.agents.policies import CategoricalPolicy, SquashedGaussianPolicy, network_of
from xql.agents.temperature import SMALLEST_BETA, Temperatures, initial_temperatures, tune
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
from xql.agents.update import descend, every, polyak, trainable
from xql.data.actions import Box, Discrete
from xql.gumbel.losses import Kind, gumbel_loss

ENTROPY_FRACTION = 0.89
"""Of the largest entropy of a policy over discrete actions: the default target, as in CleanRL."""


@agent_config
class SACConfig:
    """Every choice of the algorithm; the defaults are SAC's."""

    beta: SweptOrAuto = swept(
        default=1.0,
        doc="β, temperature of X-SAC's Gumbel loss, in units of return; SAC has none.",
        range=POSITIVE,
        required=True,
        auto=True,
    )
    beta_kl: Swept = swept(
        default=0.15,
        doc="ε of `beta=auto`, in nats: how far the soft maximum's weights are from the policy's.",
        range=KL,
    )
    clip: Swept = swept(
        default=8.0,
        doc="Where the Gumbel loss stops being exponential, in units of z.",
        range=POSITIVE,
    )
    initial_temperature: Swept = swept(
        default=1.0, doc="α at the start, in return per nat.", range=POSITIVE
    )
    entropy_fraction: Swept = swept(
        default=ENTROPY_FRACTION,
        doc="H of discrete actions, as a fraction of the largest entropy, log n.",
        range=Range(most=1.0),
    )
    discount: Swept = swept(default=0.99, doc="γ, the discount factor.", range=DISCOUNT)
    polyak: Swept = swept(
        default=0.005, doc="τ, how far the target moves per update.", range=FRACTION
    )
    value_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of V (Adam).")
    critic_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of Q (Adam).")
    policy_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of the policy (Adam).")
    temperature_learning_rate: Swept = swept(
        default=3e-4, doc="Learning rate of log α (Adam); 0 keeps α where it starts."
    )

    hidden: tuple[int, ...] = static(
        default=(256, 256), doc="Hidden layer widths of every network.", range=SIZE
    )
    critics: int = static(
        default=2, doc="Ensemble size of Q; the targets take the minimum.", range=COUNT
    )
    value: Literal["none", "soft", "gumbel"] = static(
        default="none", doc="What stands for the value of s': the critic, a soft V, or X-SAC's V."
    )
    target_network: Literal["critic", "value"] = static(
        default="critic",
        doc="What X-SAC has a target network of: Q, which V is fitted to, or V, which Q is.",
    )
    target_delay: int = static(
        default=1, doc="Updates per step of the target network.", range=POSITIVE
    )
    value_layer_norm: bool = static(default=False, doc="LayerNorm in V.")
    critic_layer_norm: bool = static(default=False, doc="LayerNorm in Q.")
    loss: Kind = static(default="linear", doc="Which Gumbel loss X-SAC's V minimises.")
    maclaurin_order: int = static(
        default=8, doc="Order of `loss=maclaurin`.", range=Range(2, 100, even=True)
    )
    max_gradient_norm: float | None = static(
        default=1.0,
        doc="Largest norm of the gradient of X-SAC's V; None does not clip it.",
        range=POSITIVE,
    )
    batch_size: int = static(default=256, doc="Transitions per batch.", range=SIZE)

    @property
    def inactive(self) -> frozenset[str]:
        """No β without a Gumbel loss, no KL of it without `beta=auto`, no rate of V without V."""
        idle: set[str] = set()
        if self.value != "gumbel":
            idle |= {"beta", "clip", "loss", "max_gradient_norm", "target_network"}
        if self.value != "gumbel" or not isinstance(self.beta, Auto):
            idle.add("beta_kl")
        if self.value != "gumbel" or self.loss != "maclaurin":
            idle.add("maclaurin_order")
        if self.value == "none":
            idle |= {"value_layer_norm", "value_learning_rate"}
        return frozenset(idle)


class SACState(NamedTuple):
    """Everything that the next update of SAC depends on."""

    policy: Trainable
    critic: Trainable
    target_critic: AnyCritic
    temperature: Trainable
    """log α."""
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: SACConfig


class XSACState(NamedTuple):
    """Everything that the next update of X-SAC with a target critic depends on."""

    policy: Trainable
    value: Trainable
    critic: Trainable
    target_critic: AnyCritic
    temperature: Trainable
    temperatures: Temperatures
    """β where it tunes itself, as it is by now."""
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: SACConfig


class TargetValueSACState(NamedTuple):
    """Everything that the next update depends on where V has the target network.

    That is the first SAC, and X-SAC as in its paper.
    """

    policy: Trainable
    value: Trainable
    target_value: Value
    critic: Trainable
    temperature: Trainable
    temperatures: Temperatures
    """β where it tunes itself, as it is by now."""
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: SACConfig


Network = TypeVar("Network", AnyCritic, Value)
Policy = SquashedGaussianPolicy | CategoricalPolicy
State = SACState | XSACState | TargetValueSACState


def make_sac(config: SACConfig, total_steps: int) -> Agent:
    """The agent for one configuration; nothing in it depends on `total_steps`."""
    for_discrete = config.entropy_fraction != ENTROPY_FRACTION
    return Agent(
        init=init,
        update=_update_of(config),
        actor=network_of,
        config=config,
        transitions=config.batch_size,
        backup=policy_backup if config.value == "none" else value_backup,
        values_include_entropy=config.value != "gumbel",
        scale_hint=ScaleHint()
        if config.value != "gumbel"
        else ScaleHint(("beta",), "a larger beta"),
        takes=(Discrete,) if for_discrete else (Box, Discrete),
        takes_by=f"entropy_fraction={config.entropy_fraction:g}" if for_discrete else "",
    )


def _update_of(config: SACConfig) -> Callable[[Any, Batch], tuple[Any, Metrics]]:
    if config.value == "none":
        return update
    return update_with_target_value if _has_target_value(config) else update_with_target_critic


def _has_target_value(config: SACConfig) -> bool:
    return config.value == "soft" or (config.value == "gumbel" and config.target_network == "value")


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: SACConfig) -> State:
    """Fresh networks; the targets start as copies."""
    key, policy_key, value_key, critic_key = jax.random.split(key, 4)
    size, hidden = spec.observation_size, config.hidden
    network = critic_for(
        critic_key,
        spec,
        hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    v = Value.create(value_key, size, hidden, layer_norm=config.value_layer_norm)
    kind = CategoricalPolicy if isinstance(spec.actions, Discrete) else SquashedGaussianPolicy
    policy = trainable(kind.create(policy_key, spec, hidden))
    temperature = trainable(jnp.log(jnp.asarray(config.initial_temperature, jnp.float32)))
    temperatures = initial_temperatures(config)
    value, critic, step = trainable(v), trainable(network), jnp.zeros((), jnp.int32)
    if _has_target_value(config):
        target_value = jax.tree.map(jnp.copy, v)
        return TargetValueSACState(
            policy, value, target_value, critic, temperature, temperatures, key, step, config
        )
    target_critic = jax.tree.map(jnp.copy, network)
    if config.value == "gumbel":
        return XSACState(
            policy, value, critic, target_critic, temperature, temperatures, key, step, config
        )
    return SACState(policy, critic, target_critic, temperature, key, step, config)


def update(state: SACState, batch: Batch) -> tuple[SACState, Metrics]:
    """SAC: Q, the policy, α and the target critic, in this order."""
    key, value_key, policy_key = jax.random.split(state.key, 3)

    # The value of s' is min Q̄(s', a~) − α log π(a~|s'), a~ ~ π(·|s').
    next_values = soft_values(state, state.target_critic, batch.next_observations, value_key)
    critic, policy, temperature, metrics = learn_to_act(state, batch, next_values, policy_key)
    return state._replace(
        policy=policy,
        critic=critic,
        target_critic=follow(state.target_critic, critic.network, state),
        temperature=temperature,
        key=key,
        step=state.step + 1,
    ), metrics


def update_with_target_value(
    state: TargetValueSACState, batch: Batch
) -> tuple[TargetValueSACState, Metrics]:
    """The first SAC and the paper's X-SAC: V, Q, the policy, α and V's target, in this order."""
    key, value_key, policy_key = jax.random.split(state.key, 3)
    value, temperatures, value_metrics = learn_value(state, batch, state.critic.network, value_key)
    next_values = state.target_value(batch.next_observations)
    critic, policy, temperature, metrics = learn_to_act(state, batch, next_values, policy_key)
    return state._replace(
        policy=policy,
        value=value,
        target_value=follow(state.target_value, value.network, state),
        critic=critic,
        temperature=temperature,
        temperatures=temperatures,
        key=key,
        step=state.step + 1,
    ), value_metrics | metrics


def update_with_target_critic(state: XSACState, batch: Batch) -> tuple[XSACState, Metrics]:
    """X-SAC: V, Q, the policy, α and the target critic, in this order."""
    key, value_key, policy_key = jax.random.split(state.key, 3)
    value, temperatures, value_metrics = learn_value(state, batch, state.target_critic, value_key)
    next_values = value.network(batch.next_observations)
    critic, policy, temperature, metrics = learn_to_act(state, batch, next_values, policy_key)
    return state._replace(
        policy=policy,
        value=value,
        critic=critic,
        target_critic=follow(state.target_critic, critic.network, state),
        temperature=temperature,
        temperatures=temperatures,
        key=key,
        step=state.step + 1,
    ), value_metrics | metrics


def learn_value(
    state: XSACState | TargetValueSACState, batch: Batch, critic: AnyCritic, key: PRNGKeyArray
) -> tuple[Trainable, Temperatures, Metrics]:
    """V, and β where it tunes itself, on a critic's values of the policy's own actions."""
    config = state.config
    if config.value == "soft":
        # V minimises (V(s) − min Q(s, a~) + α log π(a~|s))²: its minimiser is the mean over a~.
        soft_targets = soft_values(state, critic, batch.observations, key)

        def squared_loss(network: Value) -> tuple[Scalar, Metrics]:
            v = network(batch.observations)
            loss = jnp.square(v - soft_targets).mean() / 2
            return loss, {"value_loss": loss, "v": v.mean()}

        value, metrics = descend(state.value, squared_loss, config.value_learning_rate)
        return value, state.temperatures, metrics

    # V minimises E[e^z − z − 1], z = (min Q(s, a~) − V(s))/β, a~ ~ π(·|s).
    actions = state.policy.network.sample(batch.observations, key)
    targets = critic(batch.observations, actions).min(0)

    def soft_maximum_loss(network: Value) -> tuple[Scalar, Metrics]:
        v = network(batch.observations)
        beta, found = config.beta, {}
        if isinstance(beta, Auto):
            before, floor = state.temperatures["value"], SMALLEST_BETA * mean_magnitude(targets)
            tuned = tune(before, targets - v, config.beta_kl, floor, state.step)
            beta, found = tuned.temperature, {"beta": tuned.temperature, "kl": tuned.kl}
        loss, diagnostics = gumbel_loss(
            (targets - v) / beta,
            kind=config.loss,
            clip=config.clip,
            order=config.maclaurin_order,
        )
        return loss, {"value_loss": loss, "v": v.mean(), **gumbel_metrics(diagnostics), **found}

    value, metrics = descend(
        state.value, soft_maximum_loss, config.value_learning_rate, config.max_gradient_norm
    )
    auto = isinstance(config.beta, Auto)
    return value, {"value": metrics["beta"]} if auto else state.temperatures, metrics


def follow(target: Network, online: Network, state: State) -> Network:
    """The target network after an update, moved towards the online one where that is due."""
    moved = functools.partial(polyak, target, online, state.config.polyak)
    if state.config.target_delay == 1:
        after: Network = moved()
    else:
        after = every(state.config.target_delay, state.step + 1, lambda: (moved(), {}), target)[0]
    return after


def learn_to_act(
    state: State, batch: Batch, next_values: Float[Array, " batch"], key: PRNGKeyArray
) -> tuple[Trainable, Trainable, Trainable, Metrics]:
    """Q on r + γ·mask·(value of s'), the policy on Q, and α: what all three variants share."""
    config = state.config

    # Q minimises the squared error on r + γ·mask·(value of s').
    q_targets = batch.rewards + config.discount * batch.masks * next_values

    def q_loss(network: AnyCritic) -> tuple[Scalar, Metrics]:
        return critic_loss(network(batch.observations, batch.actions), q_targets)

    critic, metrics = descend(state.critic, q_loss, config.critic_learning_rate)

    # The policy maximises E[min Q(s, a~) − α log π(a~|s)].
    alpha = jnp.exp(state.temperature.network)

    def policy_loss(network: Policy) -> tuple[Scalar, Metrics]:
        q, log_prob = of_policy(network, critic.network, batch.observations, key)
        loss = (alpha * log_prob - q).mean()
        return loss, {"policy_loss": loss, "entropy": -log_prob.mean()}

    policy, policy_metrics = descend(state.policy, policy_loss, config.policy_learning_rate)

    # α rises while the entropy is below its target, minus the number of action dimensions or, of
    # n discrete actions, a fraction of log n.
    target_entropy: Number = -float(batch.actions.shape[-1])
    if isinstance(policy.network, CategoricalPolicy):
        target_entropy = config.entropy_fraction * math.log(batch.actions.shape[-1])

    def temperature_loss(log_alpha: Scalar) -> tuple[Scalar, Metrics]:
        # In log α, not α: this gradient does not die out where α has come near 0.
        loss = log_alpha * (policy_metrics["entropy"] - target_entropy)
        return loss, {"temperature": jnp.exp(log_alpha)}

    temperature, temperature_metrics = descend(
        state.temperature, temperature_loss, config.temperature_learning_rate
    )
    return critic, policy, temperature, metrics | policy_metrics | temperature_metrics


def soft_values(
    state: State,
    critic: AnyCritic,
    observations: Float[Array, "batch observation"],
    key: PRNGKeyArray,
) -> Float[Array, " batch"]:
    """The mean of min Q(s, a~) − α log π(a~|s) over a~, as `of_policy` takes it."""
    alpha = jnp.exp(state.temperature.network)
    q, log_prob = of_policy(state.policy.network, critic, observations, key)
    return q - alpha * log_prob


def of_policy(
    policy: Policy,
    critic: Any,
    observations: Float[Array, "batch observation"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """min Q(s, a~) and log π(a~|s): of one draw a~ per state, or their means over all n actions."""
    if isinstance(policy, CategoricalPolicy):
        log_probs = policy.log_probabilities(observations)
        probs = jnp.exp(log_probs)
        all_q = critic.values(observations).min(0)
        return (probs * all_q).sum(-1), (probs * log_probs).sum(-1)
    actions, log_prob = policy.sample_with_log_prob(observations, key)
    return critic(observations, actions).min(0), log_prob

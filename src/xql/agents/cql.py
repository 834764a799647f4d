"""Conservative Q-Learning, CQL(H) (Kumar, Zhou, Tucker, Levine, NeurIPS 2020, arXiv 2006.04779).

The equations, for transitions (s, a, r, s') of the data, a' ~ π(·|s'), targets marked by a bar, the
entropy's weight η and d dimensions of actions rescaled to [-1, 1]:

    gap      =  log Σ e^{Q(s, b)}/p(b) − Q(s, a)    b: n uniform, p = 2^−d; n from π(·|s); n from
                                                    π(·|s') with the density they had there
    Q        minimises  E[(Q(s, a) − r − γ·mask·min Q̄(s', a'))²] + α E[gap]
    policy   maximises  E[min Q(s, b) − η log π(b|s)],  b ~ π(·|s)
    log η    minimises  log η · (E[−log π] − H),  H = −d
    Q̄       moves by the polyak rate towards Q

The penalty lowers Q where its soft maximum lies and raises it at the actions in the data, so that
the policy, trained as in soft actor-critic, gains nothing from out-of-distribution actions. The sum
over b is an importance-sampled log ∫ e^{Q(s, b)} db, up to the constant log 3n. `lagrange=True`
multiplies α by a Lagrange multiplier α', which starts at `initial_multiplier`:

    log α'   maximises  α' α (E[gap] − target gap),   and α' α takes the place of α above.

`max_backup=True` takes the best of the n actions at s' in the backup, as for AntMaze.

Of discrete actions nothing is drawn: the gap's sum is over all of them with p = 1, Q's target and
the policy's loss are expectations under π, a softmax over one logit for each (`max_backup`: the
best action), and H is a tenth of the largest entropy, log n.

`calibrated=True` is Cal-QL (Nakamoto et al., NeurIPS 2023, arXiv 2303.05479): at the 2n actions of
the policy, max(Q(s, b), G(s)) takes the place of Q(s, b) in the gap, G being the discounted return
of the log from s on. Q is then not pushed below the value of the behaviour policy, which keeps its
scale for fine-tuning: online, a Q that is too low has the first better action look far too good.

One update evaluates each critic at 3n + 1 actions per state, with a gradient: at n = 10 that is 23
times the arithmetic of one update of `xql.py`. Fewer `samples` are cheaper; the penalty is noisier.

Deviations from the published code, each with its switch in `CQLConfig` where it has one:

 1. The n actions drawn at s' serve both the penalty and the backup; the code draws twice.
 2. Under `lagrange`, α and the target gap stand as in CORL, α' α (gap − target); the code writes
    α' (α gap − target).
 3. No steps of behaviour cloning at the start: the code has 40 000, its README finds no great
    difference, and CORL has none.
 4. The gap is not clipped: CORL clips it at −200 for AntMaze, where it loses its gradient.
 5. The policy's log standard deviation goes through a tanh into [−5, 2]; the code's is clipped.
 6. `schedule="cosine"` lets the learning rates of Q and the policy fall to zero; constant is the
    default and the code's.
 7. Networks start orthogonal, as everywhere in this library.
 8. The policy climbs Q after Q's step of the same update; CORL takes its gradient before it.

 9. Where the log stops before an episode terminates, G assumes the data's lowest reward for ever,
    or 0 if that is less: a bound from below. Cal-QL's code does so for sparse rewards alone. At
    states that fine-tuning adds there is no G, and the gap is CQL's: the actions there are the
    policy's own.

What it scores is in results/, with the commands.
"""

import functools
import math
from typing import Any, NamedTuple

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
from xql.agents.losses import critic_metrics
from xql.agents.networks import critic_for
from xql.agents.policies import CategoricalPolicy, SquashedGaussianPolicy, network_of
from xql.agents.types import Agent, Batch, EnvironmentSpec, Metrics, Number, Scalar, Trainable
from xql.agents.update import Schedule, bind, decay, descend, polyak, trainable
from xql.data.actions import Box, Discrete

MOST_LOG_MULTIPLIER = 13.8  # a multiplier of 10⁶, as in the published CQL code


@agent_config
class CQLConfig:
    """Every choice of the algorithm."""

    penalty: Swept = swept(
        default=5.0, doc="α: how much the gap weighs beside the squared error of Q."
    )
    target_gap: Swept = swept(
        default=5.0, doc="What the Lagrange multiplier holds the gap to, in units of return."
    )
    discount: Swept = swept(default=0.99, doc="γ, the discount factor.", range=DISCOUNT)
    polyak: Swept = swept(
        default=0.005, doc="τ, how far the target critic moves per update.", range=FRACTION
    )
    critic_learning_rate: Swept = swept(
        default=3e-4, doc="Learning rate of Q and of the Lagrange multiplier (Adam)."
    )
    policy_learning_rate: Swept = swept(
        default=1e-4, doc="Learning rate of the policy and of the entropy's weight (Adam)."
    )

    hidden: tuple[int, ...] = static(
        default=(256, 256, 256), doc="Hidden layer widths of the policy.", range=SIZE
    )
    critic_hidden: tuple[int, ...] = static(
        default=(256, 256, 256), doc="Hidden layer widths of Q.", range=SIZE
    )
    critics: int = static(
        default=2, doc="Ensemble size of Q; the targets take the minimum.", range=COUNT
    )
    critic_layer_norm: bool = static(default=False, doc="LayerNorm in Q.")
    samples: int = static(
        default=10, doc="n: actions of each of the three kinds per state.", range=SIZE
    )
    lagrange: bool = static(
        default=False, doc="Learn the penalty's weight as a Lagrange multiplier."
    )
    initial_multiplier: float = static(
        default=1.0, doc="The Lagrange multiplier α' at the start.", range=POSITIVE
    )
    max_backup: bool = static(
        default=False, doc="Back up the best of the n actions at s', not one."
    )
    calibrated: bool = static(
        default=False,
        doc="Push the policy's Q no lower than the log's return from the same state on (Cal-QL).",
    )
    schedule: Schedule = static(
        default="constant", doc="Learning rate schedule of Q and the policy."
    )
    batch_size: int = static(default=256, doc="Transitions per batch.", range=SIZE)

    @property
    def inactive(self) -> frozenset[str]:
        """Without a Lagrange multiplier nothing holds the gap to a target."""
        return frozenset(() if self.lagrange else ("initial_multiplier", "target_gap"))


class CQLState(NamedTuple):
    """Everything that the next update depends on."""

    policy: Trainable
    critic: Trainable
    target_critic: Any
    """As the critic: of continuous actions, or of discrete ones."""
    temperature: Trainable
    """The log of the entropy's weight η."""
    multiplier: Trainable | None
    """The log of α'; None where `lagrange` is off."""
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: CQLConfig


def make_cql(config: CQLConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=init,
        update=bind(update, total_steps),
        actor=network_of,
        config=config,
        transitions=config.batch_size,
        backup=policy_backup,
        wants_returns=config.calibrated,
        takes=(Box, Discrete),
    )


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: CQLConfig) -> CQLState:
    """Fresh networks, η = 1; the target critic starts as a copy of the critic."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    kind = CategoricalPolicy if isinstance(spec.actions, Discrete) else SquashedGaussianPolicy
    policy = kind.create(policy_key, spec, config.hidden)
    critic = critic_for(
        critic_key,
        spec,
        config.critic_hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return CQLState(
        policy=trainable(policy),
        critic=trainable(critic),
        target_critic=jax.tree.map(jnp.copy, critic),
        temperature=trainable(jnp.zeros(())),
        multiplier=trainable(jnp.log(jnp.float32(config.initial_multiplier)))
        if config.lagrange
        else None,
        key=key,
        step=jnp.zeros((), jnp.int32),
        config=config,
    )


def update(total_steps: int, state: CQLState, batch: Batch) -> tuple[CQLState, Metrics]:
    """One update of Q, the multiplier, the policy, η and the target critic, in this order."""
    config, policy = state.config, state.policy.network
    rate = decay(config.schedule, state.step, total_steps)
    key, samples_key, policy_key = jax.random.split(state.key, 3)

    # Q minimises the squared error on r + γ·mask·min Q̄(s', a'), plus α times the gap between its
    # soft maximum over all actions, log Σ e^{Q(s, b)}/p(b), and its value at the data's.
    discrete = isinstance(policy, CategoricalPolicy)
    if discrete:
        all_q = state.target_critic.values(batch.next_observations).min(0)
        expected = (jnp.exp(policy.log_probabilities(batch.next_observations)) * all_q).sum(-1)
        next_q = all_q.max(-1) if config.max_backup else expected
        log_densities, first_own = jnp.zeros((1, 1)), 0
    else:
        samples, log_densities = penalty_actions(policy, config.samples, batch, samples_key)
        candidates = samples[-config.samples :] if config.max_backup else samples[-1:]  # at s'
        next_observations = jnp.broadcast_to(
            batch.next_observations, (len(candidates), *batch.next_observations.shape)
        )
        next_q = state.target_critic(next_observations, candidates).min(0).max(0)
        states = jnp.broadcast_to(batch.observations, (len(samples), *batch.observations.shape))
        first_own = config.samples
    q_targets = batch.rewards + config.discount * batch.masks * next_q
    multiplier = state.multiplier
    weight = config.penalty * (1.0 if multiplier is None else jnp.exp(multiplier.network))

    def q_loss(network: Any) -> tuple[Scalar, Metrics]:
        q = network(batch.observations, batch.actions)
        error = q - q_targets
        if discrete:
            sampled_q = jnp.moveaxis(network.values(batch.observations), -1, 1)
        else:
            sampled_q = network(states, samples)
        if config.calibrated:
            assert batch.returns is not None, "data for this agent has them"
            own = sampled_q[:, first_own:]  # of the policy's actions
            below = (own < batch.returns).mean(dtype=jnp.float32)
            own = jnp.maximum(own, batch.returns)
            sampled_q = jnp.concatenate([sampled_q[:, :first_own], own], axis=1)
        all_actions = jax.nn.logsumexp(sampled_q - log_densities, axis=1)
        gap = (all_actions - q).mean(-1)
        # The whole square, not its half as elsewhere: published penalty weights stand beside that.
        squared = jnp.square(error).mean(-1).sum()
        metrics = critic_metrics(squared, q, error) | {"gap": gap.mean()}
        if config.calibrated:
            metrics |= {"calibrated_fraction": below}
        return squared + weight * gap.sum(), metrics

    critic, metrics = descend(state.critic, q_loss, config.critic_learning_rate * rate)
    if multiplier is not None:
        # α' rises while the gap is above its target, and falls below it.
        excess = config.penalty * (metrics["gap"] - config.target_gap)
        multiplier, multiplier_metrics = multiplier_step(
            multiplier, excess, config.critic_learning_rate
        )
        metrics |= multiplier_metrics

    # The policy maximises E[min Q(s, b) − η log π(b|s)], b ~ π(·|s), as in SAC.
    entropy_weight = jnp.exp(state.temperature.network)

    def policy_loss(network: Any) -> tuple[Scalar, Metrics]:
        if discrete:
            log_probs = network.log_probabilities(batch.observations)
            all_q = critic.network.values(batch.observations).min(0)
            probs = jnp.exp(log_probs)
            loss = (probs * (entropy_weight * log_probs - all_q)).sum(-1).mean()
            entropy = -(probs * log_probs).sum(-1).mean()
            return loss, {"policy_loss": loss, "entropy": entropy}
        actions, log_prob = network.sample_with_log_prob(batch.observations, policy_key)
        q = critic.network(batch.observations, actions).min(0)
        loss = (entropy_weight * log_prob - q).mean()
        return loss, {"policy_loss": loss, "entropy": -log_prob.mean()}

    new_policy, policy_metrics = descend(
        state.policy, policy_loss, config.policy_learning_rate * rate
    )

    # η rises while the entropy is below its target, −d, or log(n)/10.
    size = batch.actions.shape[-1]
    target_entropy = math.log(size) / 10 if discrete else -float(size)

    def temperature_loss(log_temperature: Scalar) -> tuple[Scalar, Metrics]:
        # In log η, not η: this gradient does not die out where η has come near 0.
        loss = log_temperature * (policy_metrics["entropy"] - target_entropy)
        return loss, {"temperature": jnp.exp(log_temperature)}

    temperature, temperature_metrics = descend(
        state.temperature, temperature_loss, config.policy_learning_rate
    )
    return state._replace(
        policy=new_policy,
        critic=critic,
        target_critic=polyak(state.target_critic, critic.network, config.polyak),
        temperature=temperature,
        multiplier=multiplier,
        key=key,
        step=state.step + 1,
    ), metrics | policy_metrics | temperature_metrics


def multiplier_step(
    multiplier: Trainable, excess: Scalar, learning_rate: Number
) -> tuple[Trainable, Metrics]:
    """Raise a Lagrange multiplier while its constraint's `excess` is above 0, else lower it.

    The network of `multiplier` is its logarithm, one number, which is projected to at most
    `MOST_LOG_MULTIPLIER` after the step.
    """

    def loss(log_multiplier: Scalar) -> tuple[Scalar, Metrics]:
        return -jnp.exp(log_multiplier) * excess, {"multiplier": jnp.exp(log_multiplier)}

    multiplier, metrics = descend(multiplier, loss, learning_rate)
    return multiplier._replace(
        network=jnp.minimum(multiplier.network, MOST_LOG_MULTIPLIER)
    ), metrics


def penalty_actions(
    policy: SquashedGaussianPolicy, count: int, batch: Batch, key: PRNGKeyArray
) -> tuple[Float[Array, "samples batch action"], Float[Array, "samples batch"]]:
    """The actions that the gap is taken over, and their log-densities.

    `count` uniform within the bounds, then as many drawn from the policy at s and, last, at s'.
    """
    uniform_key, here_key, next_key = jax.random.split(key, 3)
    shape = (count, *batch.actions.shape)
    low, high = jnp.array(policy.low), jnp.array(policy.high)
    uniform = jax.random.uniform(uniform_key, shape, minval=low, maxval=high)
    uniform_log = jnp.full(shape[:2], shape[-1] * jnp.log(0.5))

    def drawn(observations: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        # Under vmap over the keys alone, the network runs once per state.
        one = functools.partial(policy.sample_with_log_prob, observations)
        result: tuple[Array, Array] = jax.vmap(one)(jax.random.split(key, count))
        return result

    here, here_log = drawn(batch.observations, here_key)
    after, after_log = drawn(batch.next_observations, next_key)
    actions = jnp.concatenate([uniform, here, after])
    return actions, jnp.concatenate([uniform_log, here_log, after_log])

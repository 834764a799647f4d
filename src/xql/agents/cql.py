"""Conservative Q-Learning, CQL(H) (Kumar, Zhou, Tucker, Levine, NeurIPS 2020, arXiv 2006.04779).

The equations, for transitions (s, a, r, s') of the data, a' ~ π(·|s'), targets marked by a bar, the
entropy's weight η and d dimensions of actions rescaled to [-1, 1]:

    gap      =  log Σ e^{Q(s, b)}/p(b) − Q(s, a)    b: n uniform, p = 2^−d; n from π(·|s); n from
                                                    π(·|s') with the density they had there
    Q        minimises  E[(Q(s, a) − r − γ·mask·min Q̄(s', a'))²] + α E[gap]
    policy   maximises  E[min Q(s, b) − η log π(b|s)],  b ~ π(·|s)
    log η    minimises  log η · (E[−log π] − H),  H = −d
    Q̄       moves by the polyak rate towards Q

The penalty lowers Q where its soft maximum lies and raises it at the data's actions, so that the
policy of soft actor-critic, which follows Q, has no reason to leave the data. The sum over b is an
importance-sampled log ∫ e^{Q(s, b)} db, up to the constant log 3n. `lagrange=True` makes α a price:

    log α'   maximises  α' α (E[gap] − target gap),   and α' α takes the place of α above.

`max_backup=True` takes the best of the n actions at s' in the backup, as for AntMaze.

One update asks each critic about 3n + 1 actions per state, with a gradient: at n = 10 that is 23
times the arithmetic of one of `xql.py`. Fewer `samples` are a cheaper and noisier penalty.

Deviations from the published code, each with its switch in `CQLConfig` where it has one:

 1. The n actions drawn at s' serve the penalty and the backup alike; the code draws twice.
 2. Under `lagrange`, α and the target gap stand as in CORL, α' α (gap − target); the code writes
    α' (α gap − target).
 3. No steps of behaviour cloning at the start: their code has 40 000, its README finds no great
    difference, and CORL has none.
 4. No bound on the gap: CORL cuts it off at −200 for AntMaze, where it loses its gradient.
 5. The policy's log standard deviation goes through a tanh into [−5, 2]; theirs is cut off.
 6. `schedule="cosine"` lets the learning rates of Q and the policy fall to zero; constant is the
    default and theirs.
 7. Networks start orthogonal, as everywhere in this library.
 8. The policy climbs Q after Q's step of the same update; CORL takes its gradient before it.

What it scores is in results/, with the commands.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents import update as steps
from xql.agents.networks import Critic
from xql.agents.policies import SquashedGaussianPolicy
from xql.agents.types import Agent, Batch, Metrics, Spec, TrainState


@dataclass(frozen=True)
class CQLConfig:
    """Every choice of the algorithm. Only the first block may differ along a population."""

    penalty: float = 5.0
    """α: how much the gap weighs beside the squared error of Q."""
    target_gap: float = 5.0
    """What the multiplier holds the gap to, in units of return, where `lagrange` is on."""
    discount: float = 0.99
    """γ."""
    polyak: float = 0.005
    """The share of the way that the target critic moves per update."""
    critic_learning_rate: float = 3e-4
    """Of Q and of the multiplier."""
    policy_learning_rate: float = 1e-4
    """Of the policy and of the entropy's weight."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Of the policy."""
    critic_hidden: tuple[int, ...] = (256, 256, 256)
    critics: int = 2
    critic_layer_norm: bool = False
    samples: int = 10
    """n: actions of each of the three kinds per state."""
    lagrange: bool = False
    max_backup: bool = False
    schedule: steps.Schedule = "constant"
    """Of the learning rates of Q and the policy."""
    batch_size: int = 256


class CQLHyper(NamedTuple):
    """The numbers that may differ along a population; fields as in `CQLConfig`."""

    penalty: Float[Array, ""] | float
    target_gap: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    polyak: Float[Array, ""] | float
    critic_learning_rate: Float[Array, ""] | float
    policy_learning_rate: Float[Array, ""] | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def cql(config: CQLConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config, total_steps),
        act=steps.act,
        hyper=CQLHyper(*(getattr(config, name) for name in CQLHyper._fields)),
        transitions=config.batch_size,
    )


def init(config: CQLConfig, key: PRNGKeyArray, spec: Spec, hyper: CQLHyper) -> TrainState:
    """Fresh networks, η = α' = 1; the target critic starts as a copy of the critic."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    policy = SquashedGaussianPolicy.create(
        policy_key, spec.observation_size, spec.action_low, spec.action_high, config.hidden
    )
    critic = Critic.create(
        critic_key,
        spec.observation_size,
        spec.action_size,
        config.critic_hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return TrainState(
        policy=steps.trainable(policy),
        critic=steps.trainable(critic),
        target_critic=jax.tree.map(jnp.copy, critic),
        temperature=steps.trainable(jnp.zeros(())),
        multiplier=steps.trainable(jnp.zeros(())) if config.lagrange else None,
        key=key,
        step=jnp.zeros((), jnp.int32),
        hyper=hyper,
    )


def update(
    config: CQLConfig, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """One update of Q, the multiplier, the policy, η and the target critic, in this order."""
    assert state.critic is not None and state.temperature is not None
    hyper, policy = state.hyper, state.policy.network
    decay = steps.decay(config.schedule, state.step, total_steps)
    key, samples_key, policy_key = jax.random.split(state.key, 3)

    # Q: the usual error, and the gap between the soft maximum over all actions and the data's.
    samples, log_densities = penalty_actions(policy, config.samples, batch, samples_key)
    asked = samples[-config.samples :] if config.max_backup else samples[-1:]  # drawn at s'
    next_observations = jnp.broadcast_to(
        batch.next_observations, (len(asked), *batch.next_observations.shape)
    )
    next_q = state.target_critic(next_observations, asked).min(0).max(0)
    multiplier = state.multiplier
    weight = hyper.penalty * (1.0 if multiplier is None else jnp.exp(multiplier.network))
    critic, metrics = steps.fit_critic_conservative(
        state.critic,
        batch.observations,
        batch.actions,
        batch.rewards + hyper.discount * batch.masks * next_q,
        samples,
        log_densities,
        weight=weight,
        learning_rate=hyper.critic_learning_rate * decay,
    )
    if multiplier is not None:
        excess = hyper.penalty * (metrics["gap"] - hyper.target_gap)
        multiplier, multiplier_metrics = steps.fit_multiplier(
            multiplier, excess, learning_rate=hyper.critic_learning_rate
        )
        metrics |= multiplier_metrics

    # Policy and the weight of its entropy: soft actor-critic's.
    new_policy, policy_metrics = steps.fit_policy_soft(
        state.policy,
        critic.network,
        batch.observations,
        policy_key,
        temperature=jnp.exp(state.temperature.network),
        learning_rate=hyper.policy_learning_rate * decay,
    )
    temperature, temperature_metrics = steps.fit_temperature(
        state.temperature,
        policy_metrics["entropy"],
        target_entropy=-float(batch.actions.shape[-1]),
        learning_rate=hyper.policy_learning_rate,
    )
    return state._replace(
        policy=new_policy,
        critic=critic,
        target_critic=steps.polyak(state.target_critic, critic.network, hyper.polyak),
        temperature=temperature,
        multiplier=multiplier,
        key=key,
        step=state.step + 1,
    ), metrics | policy_metrics | temperature_metrics


def penalty_actions(
    policy: SquashedGaussianPolicy, count: int, batch: Batch, key: PRNGKeyArray
) -> tuple[Float[Array, "samples batch action"], Float[Array, "samples batch"]]:
    """The actions that the gap is taken over, and their log-densities.

    `count` from anywhere within the bounds, as many of the policy at s and, last, as many at s'.
    """
    uniform_key, here_key, next_key = jax.random.split(key, 3)
    shape = (count, *batch.actions.shape)
    low, high = jnp.array(policy.low), jnp.array(policy.high)
    uniform = jax.random.uniform(uniform_key, shape, minval=low, maxval=high)
    uniform_log = jnp.full(shape[:2], shape[-1] * jnp.log(0.5))

    def drawn(observations: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        # Under vmap over the keys alone, the network is asked once per state.
        one = functools.partial(policy.sample_with_log_prob, observations)
        result: tuple[Array, Array] = jax.vmap(one)(jax.random.split(key, count))
        return result

    here, here_log = drawn(batch.observations, here_key)
    after, after_log = drawn(batch.next_observations, next_key)
    actions = jnp.concatenate([uniform, here, after])
    return actions, jnp.concatenate([uniform_log, here_log, after_log])

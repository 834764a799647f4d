"""TD3, DDPG before it (both without a temperature), and X-TD3 after them.

The equations, for transitions (s, a, r, s') of the replay buffer, targets marked by a bar and ε
Gaussian noise cut at ±`target_noise_clip`:

    a'       =  π̄(s') + ε, within the action bounds
    y        =  r + γ·mask·min Q̄(s', a')
    Q        minimises  E[(Q(s, a) − y)²]                                  TD3: the mean of y
             or         E[e^z − z − 1],  z = (y − Q(s, a)) / β             X-TD3: β log E[e^{y/β}]
    policy   maximises  E[Q₁(s, π(s))]                                     every other update
    Q̄, π̄   move by the polyak rate towards Q and π                       every other update

X-TD3's z has the sign that makes Q the soft *maximum* of its targets (as β grows, their mean, which
is TD3). The loss cannot tell a good a' from a lucky s' or r: it is meant for deterministic
dynamics, and in others it makes Q optimistic.

 - TD3, Fujimoto, van Hoof, Meger 2018 (arXiv 1802.09477): `loss="squared"`, two critics.
 - DDPG, Lillicrap et al. 2016 (arXiv 1509.02971), with TD3's sizes and rates: one critic, no delay,
   no smoothing.
 - X-TD3, Garg et al. 2023 (arXiv 2301.02328): TD3 with the Gumbel loss.
 - Either of the paper's "− DQ", *minus* the double-Q trick: `critics=1`, so that no minimum is
   taken anywhere.

Deviations from the papers, each with its switch in `TD3Config` where it has one:

 1. The Gumbel loss goes on linearly beyond z = clip, as in `xql.py`; `loss` names the others.
 2. Under the Gumbel loss the critic's gradient is scaled down to norm 1 where larger
    (`max_gradient_norm=None` turns it off).
 3. The policy and both targets move on the second of every `policy_delay` = 2 updates, as in the
    code that Fujimoto et al. published; their algorithm box starts with the first.
 4. Noise, of exploration and of smoothing, is in units of half the range of each action dimension.
 5. Networks start orthogonal, as everywhere in this library; no batch normalisation, no weight
    decay and no correlated noise in DDPG.
"""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from xql.agents import update as steps
from xql.agents.networks import Critic
from xql.agents.policies import DeterministicPolicy
from xql.agents.types import Agent, Batch, Metrics, Spec, Trainable, TrainState
from xql.gumbel.losses import Kind

Loss = Literal["squared", Kind]


@dataclass(frozen=True)
class TD3Config:
    """Every choice of the algorithm; the defaults are TD3's. Only the first block may be swept."""

    beta: float = 1.0
    """Temperature of the Gumbel loss, in units of return; the squared loss has none."""
    clip: float = 8.0
    """Where the Gumbel loss stops being exponential, in units of z."""
    discount: float = 0.99
    """γ."""
    polyak: float = 0.005
    """The share of the way that the targets move each time they move."""
    critic_learning_rate: float = 1e-3
    policy_learning_rate: float = 1e-3

    hidden: tuple[int, ...] = (256, 256)
    critics: int = 2
    """The targets take the minimum over so many; 1 is without the double-Q trick."""
    critic_layer_norm: bool = False
    loss: Loss = "squared"
    maclaurin_order: int = 8
    max_gradient_norm: float | None = 1.0
    """Of the critic's gradient under the Gumbel loss; None leaves it as it is."""
    policy_delay: int = 2
    """Critic updates per update of the policy and the targets."""
    exploration_noise: float = 0.1
    """Standard deviation, in units of half the action range; so are the next two."""
    target_noise: float = 0.2
    """Of the target policy's actions."""
    target_noise_clip: float = 0.5
    """Where that noise is cut off, on both sides."""
    batch_size: int = 256

    @property
    def gumbel(self) -> bool:
        """Whether β means anything."""
        return self.loss != "squared"


class TD3Hyper(NamedTuple):
    """The numbers that may differ along a population; fields as in `TD3Config`."""

    beta: Float[Array, ""] | float
    clip: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    polyak: Float[Array, ""] | float
    critic_learning_rate: Float[Array, ""] | float
    policy_learning_rate: Float[Array, ""] | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def td3(config: TD3Config, total_steps: int) -> Agent:
    """The agent for one configuration; nothing in it depends on `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config),
        act=functools.partial(act, config.exploration_noise),
        hyper=TD3Hyper(*(getattr(config, name) for name in TD3Hyper._fields)),
        transitions=config.batch_size,
    )


def init(config: TD3Config, key: PRNGKeyArray, spec: Spec, hyper: TD3Hyper) -> TrainState:
    """Fresh networks; the targets start as copies."""
    key, policy_key, critic_key = jax.random.split(key, 3)
    policy = DeterministicPolicy.create(
        policy_key, spec.observation_size, spec.action_low, spec.action_high, config.hidden
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


def update(config: TD3Config, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update of Q and, every `policy_delay`-th time, of the policy and both targets."""
    assert state.critic is not None
    hyper = state.hyper
    key, noise_key = jax.random.split(state.key)

    # Q: the mean of its targets, or their soft maximum.
    targets = critic_targets(config, state, batch, noise_key)
    if config.loss == "squared":
        critic, metrics = steps.fit_critic(
            state.critic,
            batch.observations,
            batch.actions,
            targets,
            learning_rate=hyper.critic_learning_rate,
        )
    else:
        critic, metrics = steps.fit_critic_gumbel(
            state.critic,
            batch.observations,
            batch.actions,
            targets,
            beta=hyper.beta,
            learning_rate=hyper.critic_learning_rate,
            kind=config.loss,
            clip=hyper.clip,
            order=config.maclaurin_order,
            max_gradient_norm=config.max_gradient_norm,
        )

    # Policy: uphill on the first critic. Then the targets.
    def move() -> tuple[PyTree, Metrics]:
        policy, policy_metrics = fit_policy(
            state.policy,
            critic.network,
            batch.observations,
            learning_rate=hyper.policy_learning_rate,
        )
        target_policy = steps.polyak(state.target_policy, policy.network, hyper.polyak)
        target_critic = steps.polyak(state.target_critic, critic.network, hyper.polyak)
        return (policy, target_policy, target_critic), policy_metrics

    step = state.step + 1
    resting = (state.policy, state.target_policy, state.target_critic)
    moved, policy_metrics = steps.every(config.policy_delay, step, move, resting)
    policy, target_policy, target_critic = moved
    return state._replace(
        policy=policy,
        critic=critic,
        target_policy=target_policy,
        target_critic=target_critic,
        key=key,
        step=step,
    ), metrics | policy_metrics


def critic_targets(
    config: TD3Config, state: TrainState, batch: Batch, key: PRNGKeyArray
) -> Float[Array, " batch"]:
    """r + γ·mask·min Q̄(s', a'), a' the target policy's action with noise."""
    next_actions = state.target_policy.sample(
        batch.next_observations, key, config.target_noise, config.target_noise_clip
    )
    q = state.target_critic(batch.next_observations, next_actions).min(0)
    targets: Float[Array, " batch"] = batch.rewards + state.hyper.discount * batch.masks * q
    return targets


def fit_policy(
    policy: Trainable,
    critic: Critic,
    observations: Float[Array, "batch observation"],
    *,
    learning_rate: Float[Array, ""],
) -> tuple[Trainable, Metrics]:
    """The policy by ascent on the first critic: maximise E[Q₁(s, π(s))]."""
    first = Critic(critic.mlps[:1])

    def loss(network: DeterministicPolicy) -> tuple[Float[Array, ""], Metrics]:
        policy_loss = -first(observations, network.mean(observations)).mean()
        return policy_loss, {"policy_loss": policy_loss}

    return steps.descend(policy, loss, learning_rate)


def act(
    exploration_noise: float,
    policy: DeterministicPolicy,
    observations: Float[Array, "*batch observation"],
    key: PRNGKeyArray | None,
) -> Float[Array, "*batch action"]:
    """The policy's action; with a key, Gaussian noise is added, within the bounds."""
    if key is None:
        return policy.mean(observations)
    return policy.sample(observations, key, exploration_noise)

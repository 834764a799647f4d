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
is TD3). The loss does not distinguish a good a' from a lucky s' or r: it is meant for
deterministic dynamics, and makes Q optimistic in stochastic ones.

 - TD3, Fujimoto, van Hoof, Meger 2018 (arXiv 1802.09477): `loss="squared"`, two critics.
 - DDPG, Lillicrap et al. 2016 (arXiv 1509.02971), with TD3's sizes and rates: one critic, no delay,
   no smoothing.
 - X-TD3, Garg et al. 2023 (arXiv 2301.02328): TD3 with the Gumbel loss.
 - Either of the paper's "− DQ", *minus* the double-Q trick: `critics=1`, so that no minimum is
   taken anywhere.

Deviations from the papers, each with its switch in `TD3Config` where it has one:

 1. The Gumbel loss goes on linearly beyond z = clip (`loss="linear"`); `loss` names the others.
 2. Under the Gumbel loss the critic's gradient is scaled down to norm 1 where larger
    (`max_gradient_norm=None` turns it off), which makes Q too low where β is small
    (xql.gumbel.losses).
 3. The policy and both targets move on the second of every `policy_delay` = 2 updates, as in the
    code that Fujimoto et al. published; their algorithm box starts with the first.
 4. Noise, of exploration and of smoothing, is in units of half the range of each action dimension.
 5. Networks start orthogonal, as everywhere in this library; no batch normalisation, no weight
    decay and no correlated noise in DDPG.
 6. With `beta="auto"` β is no number of a table: it is solved so that the weights e^{y/β} of
    d = y − Q₁(s, a) are `beta_kl` nats from uniform (xql.agents.temperature). In one (s, a) the
    targets hardly differ, so d is mostly the critic's own error; the soft maximum adds about
    std(d)·√(ε/2) to every target, and 1/(1 − γ) times that to Q. So ε is far smaller than offline.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from xql.agents.backups import policy_backup
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
from xql.agents.losses import critic_loss, critic_metrics, gumbel_metrics, mean_magnitude
from xql.agents.networks import Critic, critic_for
from xql.agents.policies import DeterministicPolicy, exploring_actor
from xql.agents.temperature import SMALLEST_BETA, Temperatures, initial_temperatures, tune
from xql.agents.types import Agent, Batch, EnvironmentSpec, Metrics, Scalar, ScaleHint, Trainable
from xql.agents.update import descend, every, polyak, trainable
from xql.gumbel.losses import Kind, gumbel_loss

Loss = Literal["squared", Kind]


@agent_config
class TD3Config:
    """Every choice of the algorithm; the defaults are TD3's."""

    beta: SweptOrAuto = swept(
        default=1.0,
        doc="β, temperature of the Gumbel loss, in units of return; the squared loss has none.",
        range=POSITIVE,
        required=True,
        auto=True,
    )
    beta_kl: Swept = swept(
        default=0.002,
        doc="ε of `beta=auto`, in nats: how far the soft maximum's weights are from the data's.",
        range=KL,
    )
    clip: Swept = swept(
        default=8.0,
        doc="Where the Gumbel loss stops being exponential, in units of z.",
        range=POSITIVE,
    )
    discount: Swept = swept(default=0.99, doc="γ, the discount factor.", range=DISCOUNT)
    polyak: Swept = swept(
        default=0.005, doc="τ, how far the targets move each time they move.", range=FRACTION
    )
    critic_learning_rate: Swept = swept(default=1e-3, doc="Learning rate of Q (Adam).")
    policy_learning_rate: Swept = swept(default=1e-3, doc="Learning rate of the policy (Adam).")

    hidden: tuple[int, ...] = static(
        default=(256, 256), doc="Hidden layer widths of every network.", range=SIZE
    )
    critics: int = static(
        default=2,
        doc="Ensemble size of Q; the targets take the minimum. 1 removes the double-Q trick.",
        range=COUNT,
    )
    critic_layer_norm: bool = static(default=False, doc="LayerNorm in Q.")
    loss: Loss = static(
        default="squared", doc="Error of Q: TD3's square, or a Gumbel loss for X-TD3."
    )
    maclaurin_order: int = static(
        default=8, doc="Order of `loss=maclaurin`.", range=Range(2, 100, even=True)
    )
    max_gradient_norm: float | None = static(
        default=1.0,
        doc="Largest norm of Q's gradient under the Gumbel loss; None does not clip it.",
        range=POSITIVE,
    )
    policy_delay: int = static(
        default=2, doc="Critic updates per update of the policy and the targets.", range=SIZE
    )
    exploration_noise: float = static(
        default=0.1, doc="Standard deviation of the exploration noise, in half action ranges."
    )
    target_noise: float = static(
        default=0.2,
        doc="Standard deviation of the target policy's noise, in half action ranges.",
    )
    target_noise_clip: float = static(
        default=0.5, doc="Where that noise is cut off, on both sides."
    )
    batch_size: int = static(default=256, doc="Transitions per batch.", range=SIZE)

    @property
    def inactive(self) -> frozenset[str]:
        """Without a Gumbel loss there is no β, and without `beta=auto` no KL of it."""
        idle: set[str] = set()
        if self.loss == "squared":
            idle |= {"beta", "clip", "max_gradient_norm"}
        if self.loss == "squared" or not isinstance(self.beta, Auto):
            idle.add("beta_kl")
        if self.loss != "maclaurin":
            idle.add("maclaurin_order")
        return frozenset(idle)


class TD3State(NamedTuple):
    """Everything that the next update depends on."""

    policy: Trainable
    critic: Trainable
    target_policy: DeterministicPolicy
    target_critic: Critic
    temperatures: Temperatures
    """β where it tunes itself, as it is by now."""
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: TD3Config


def make_td3(config: TD3Config, total_steps: int) -> Agent:
    """The agent for one configuration; nothing in it depends on `total_steps`."""
    return Agent(
        init=init,
        update=update,
        actor=exploring_actor,
        config=config,
        transitions=config.batch_size,
        backup=policy_backup,
        scale_hint=ScaleHint()
        if config.loss == "squared"
        else ScaleHint(("beta",), "a larger beta"),
    )


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: TD3Config) -> TD3State:
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
    return TD3State(
        policy=trainable(policy),
        critic=trainable(critic),
        target_policy=jax.tree.map(jnp.copy, policy),
        target_critic=jax.tree.map(jnp.copy, critic),
        temperatures=initial_temperatures(config),
        key=key,
        step=jnp.zeros((), jnp.int32),
        config=config,
    )


def update(state: TD3State, batch: Batch) -> tuple[TD3State, Metrics]:
    """One update of Q and, every `policy_delay`-th time, of the policy and both targets."""
    config = state.config
    key, noise_key = jax.random.split(state.key)

    # y = r + γ·mask·min Q̄(s', a'), a' the target policy's action with noise.
    next_actions = state.target_policy.sample(
        batch.next_observations, noise_key, config.target_noise, config.target_noise_clip
    )
    next_q = state.target_critic(batch.next_observations, next_actions).min(0)
    q_targets = batch.rewards + config.discount * batch.masks * next_q

    # Q minimises (Q − y)², for the mean of y;
    # or E[e^z − z − 1], z = (y − Q)/β, for its soft maximum β log E[e^{y/β}].
    temperatures = state.temperatures
    if (kind := config.loss) == "squared":

        def squared_loss(network: Critic) -> tuple[Scalar, Metrics]:
            return critic_loss(network(batch.observations, batch.actions), q_targets)

        critic, metrics = descend(state.critic, squared_loss, config.critic_learning_rate)
    else:
        one_loss = functools.partial(
            gumbel_loss, kind=kind, clip=config.clip, order=config.maclaurin_order
        )

        def soft_maximum_loss(network: Critic) -> tuple[Scalar, Metrics]:
            q = network(batch.observations, batch.actions)
            error = q_targets - q
            beta, found = config.beta, {}
            if isinstance(beta, Auto):
                before, floor = state.temperatures["value"], SMALLEST_BETA * mean_magnitude(q[0])
                tuned = tune(before, error[0], config.beta_kl, floor, state.step)
                beta, found = tuned.temperature, {"beta": tuned.temperature, "kl": tuned.kl}
            # Member by member: two of the kinds normalise over their batch.
            each, diagnostics = jax.vmap(one_loss)(error / beta)
            loss = each.sum()
            return loss, critic_metrics(loss, q, error) | gumbel_metrics(diagnostics) | found

        critic, metrics = descend(
            state.critic,
            soft_maximum_loss,
            config.critic_learning_rate,
            config.max_gradient_norm,
        )
        if isinstance(config.beta, Auto):
            temperatures = {"value": metrics["beta"]}
    first = Critic(critic.network.mlps[:1], bounds=critic.network.bounds)

    # The policy maximises E[Q₁(s, π(s))].
    def policy_loss(network: DeterministicPolicy) -> tuple[Scalar, Metrics]:
        loss = -first(batch.observations, network.mean(batch.observations)).mean()
        return loss, {"policy_loss": loss}

    def move() -> tuple[PyTree, Metrics]:
        policy, policy_metrics = descend(state.policy, policy_loss, config.policy_learning_rate)
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
        temperatures=temperatures,
        key=key,
        step=step,
    ), metrics | policy_metrics

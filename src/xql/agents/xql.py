"""Extreme Q-Learning, offline (Garg, Hejna, Geist, Ermon, ICLR 2023, arXiv 2301.02328).

The equations, for transitions (s, a, r, s') of the data and the smaller of two target critics Q̄:

    V       minimises  E[e^z − z − 1],  z = (Q̄(s, a) − V(s)) / β      so  V(s) = β log E[e^{Q̄/β}]
    policy  maximises  E[w log π(a|s)],  w = min(e^{κ (Q̄(s, a) − V(s))}, cap)
    Q       minimises  E[(Q(s, a) − r − γ·mask·V(s'))²]
    Q̄      moves by the polyak rate towards Q

V and Q do not depend on the policy. `policy` chooses how it is extracted from them; the above is
`awr`. With actions rescaled to [-1, 1], noise z ~ N(0, I) and a velocity field v (`flows.py`):

    ddpg_bc    π(s) maximises     E[min Q(s, π(s))] / E|min Q(s, π(s))| − α/2 E[‖π(s) − a‖²]
    best_of_n  v minimises        E[‖v(s, x, t) − (a − z)‖²],  x = (1 − t) z + t a,  t ~ U[0, 1]
               π(s)      =        argmax min Q̄(s, b) over n actions b of the flow of v
    flow       v as above, and    φ(s, z) is where its flow carries z
               π(s, z) maximises  E[min Q(s, π)] / E|min Q(s, π)| − α/2 E[‖π(s, z) − φ(s, z)‖²]

The soft maximum over actions is learned in-sample, from the actions in the data alone: no policy
stands in the backup, and Q is never evaluated at an out-of-distribution action.

Deviations from the paper, each with its switch in `XQLConfig` where it has one:

 1. The Gumbel loss goes on linearly beyond z = clip, and its slope over a batch is bounded
    (`loss="bounded"`), where the published code either cuts the gradient to zero or reweights
    batches by their maximum, which moves the fixed point (tests/gumbel shows by how much).
    `loss="official"` is that code's loss.
 2. Some presets have `loss="linear"` and scale V's gradient down to norm 1 where larger
    (`max_gradient_norm=1`): those that results/ was measured with. It makes V too low where β is
    small: with Q ~ N(0, 1), clip 5 and β = 1, .5, .25, .1 it is .50, .95, 1.55, 2.06 instead of
    .50, .98, 1.58, 2.09, and a table of V misses more than a fifth of its range where actions of
    1 % are the best and β is .05 (tests/truth). The default has no such limit, as in the paper.
 3. The policy's inverse temperature κ is a number of its own. The paper writes 1/β; the published
    code and every published setting decouple the two.
 4. The critic's error is Huber's with δ = 20, as in the published code (`critic_loss="squared"`).
 5. `v_updates` > 1 draws a fresh batch for each extra V step; the published code repeats one batch.
 6. `update_order="simultaneous"` takes all three losses from the networks before the update, so
    that their matrix products do not wait for each other; "sequential", the default, is the
    published order (V, then policy and Q from the new V).
 7. `value_schedule="cosine"` lets the learning rates of V and Q fall to zero as the policy's does;
    the paper keeps them constant, which is the default here too.
 8. `value_action_noise` and `value_random_actions` are the published scripts' extras for three
    datasets; both evaluate Q at actions outside the data, and only `preset="official"` uses them.
 9. The policy's log standard deviation is kept within [−5, 2] by projection after each step, where
    the published code clips it inside the network, which leaves it no gradient outside.
 10. No dropout in the policy, which the published code has at 0.1 for Kitchen and Adroit
     (`policy_dropout`; the preset consistent has it for both, tuned and official for Kitchen,
     without values for Adroit).
 11. The paper has `awr` alone. `ddpg_bc` is DDPG+BC of Park et al. 2024 (arXiv 2406.09329) as in
     OGBench's GCIQL: its BC term is α log π with a standard deviation of 1. `best_of_n` is IFQL and
     `flow` the policy of FQL (Park, Li, Levine 2025, arXiv 2502.02538). Where they differ: `flow`
     takes min Q, not the mean, always divides it by E|Q|, and sums its distance over dimensions as
     `ddpg_bc` does; `best_of_n` takes Q̄, which V is fitted to, where IFQL takes Q. All four have
     the networks and the schedule of `awr`.
 12. β and κ can be `auto`, as in the preset default: each is solved for a KL from the data, at
     every update (xql.agents.temperature, docs/choosing-beta.md). The paper chooses β by hand.
 13. The paper has continuous actions alone. Of discrete ones (`xql.data.actions.Discrete`), Q(s, ·)
     has an output for each, and the policy is a softmax over one logit for each; all else is the
     same. `soft_maximum="exact"` then learns no V from single actions, but a behaviour policy µ̂, by
     maximum likelihood, and V(s) = β log Σ_a µ̂(a|s) e^{Q̄(s, a)/β} is computed from it. Q is then
     asked for actions that the data has not, by so little as µ̂ gives them.

What it scores is in results/, with the commands.
"""

import math
import operator
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from xql.agents.backups import value_backup
from xql.agents.flows import BestOfN, FlowPolicy, OneStepFlowPolicy, rescale
from xql.agents.hyperparameters import (
    AUTO,
    COUNT,
    DISCOUNT,
    DROPOUT,
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
from xql.agents.losses import (
    CriticLoss,
    advantage_weights,
    critic_loss,
    gumbel_metrics,
    mean_magnitude,
)
from xql.agents.networks import AnyCritic, Critic, DiscreteCritic, Value, critic_for
from xql.agents.policies import (
    CategoricalPolicy,
    DeterministicPolicy,
    StochasticPolicy,
    exploring_actor,
    policy_for,
    project,
)
from xql.agents.temperature import SPREAD, Temperatures, initial_temperatures, tune
from xql.agents.types import (
    Agent,
    Backup,
    Batch,
    EnvironmentSpec,
    Metrics,
    Number,
    Scalar,
    ScaleHint,
    Trainable,
)
from xql.agents.update import Schedule, bind, decay, descend, polyak, trainable
from xql.data.actions import ActionSpec, Box, Discrete
from xql.gumbel.losses import Kind, gumbel_loss

Extraction = Literal["awr", "ddpg_bc", "best_of_n", "flow"]
"""How the policy is extracted from Q and V."""


@agent_config
class XQLConfig:
    """Every choice of the algorithm."""

    beta: SweptOrAuto = swept(
        default=1.0,
        doc="β, the Gumbel loss temperature, in units of return: ∞ gives the mean, 0 the maximum.",
        range=POSITIVE,
        required=True,
        auto=True,
    )
    beta_kl: Swept = swept(
        default=0.05,
        doc="ε of `beta=auto`, in nats: how far the soft maximum's weights are from the data's.",
        range=KL,
    )
    beta_optimism: float | None = static(
        default=None,
        doc="The most that the soft maximum of `beta=auto` adds to a value over all steps to come, "
        "in units of the rewards as they are scaled; None has no bound.",
        range=POSITIVE,
    )
    inverse_temperature: SweptOrAuto = swept(
        default=3.0, doc="κ of the advantage weights, in 1/return.", auto=True
    )
    policy_kl: Swept = swept(
        default=2.0,
        doc="ε of `inverse_temperature=auto`, in nats: how far the policy's weights are from 1.",
        range=KL,
    )
    clip: Swept = swept(
        default=5.0,
        doc="Where the Gumbel loss stops being exponential, in units of z.",
        range=POSITIVE,
    )
    weight_cap: Swept = swept(default=100.0, doc="The largest advantage weight.", range=POSITIVE)
    discount: Swept = swept(default=0.99, doc="γ, the discount factor.", range=DISCOUNT)
    polyak: Swept = swept(
        default=0.005, doc="τ, how far the target critic moves per update.", range=FRACTION
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
    soft_maximum: Literal["sampled", "exact"] = static(
        default="sampled",
        doc="V by the Gumbel loss, or, of discrete actions, the sum over all of them under a "
        "learned behaviour policy.",
    )
    value_layer_norm: bool = static(default=True, doc="LayerNorm in V.")
    critic_layer_norm: bool = static(default=False, doc="LayerNorm in Q.")
    loss: Kind = static(
        default="bounded", doc="Which Gumbel loss V minimises; see `xql.gumbel.losses`."
    )
    maclaurin_order: int = static(
        default=4, doc="Order of `loss=maclaurin`.", range=Range(2, 100, even=True)
    )
    max_gradient_norm: float | None = static(
        default=None,
        doc="Largest norm of V's gradient, which makes V too low at a small β; None has no limit.",
        range=POSITIVE,
    )
    critic_loss: CriticLoss = static(default="huber", doc="Error of Q.")
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
    v_updates: int = static(
        default=1, doc="V steps per update, each on a fresh batch.", range=COUNT
    )
    value_action_noise: float = static(
        default=0.0,
        doc="Standard deviation of noise on V's actions, cut at ±0.5 (published scripts only).",
    )
    value_random_actions: int = static(
        default=0,
        doc="Uniform random actions beside each of V's data actions (published scripts only).",
        range=Range(most=65536),
    )
    update_order: Literal["sequential", "simultaneous"] = static(
        default="sequential", doc="Whether policy and Q see V after or before its step."
    )
    policy: Extraction = static(
        default="awr", doc="How the policy is extracted from Q and V (docs/xql.md)."
    )
    bc_weight: Swept = swept(
        default=0.3,
        doc="α of ddpg_bc and flow: what half a squared distance costs, in mean |Q|.",
    )
    exploration_noise: float = static(
        default=0.1,
        doc="Standard deviation of ddpg_bc's exploration noise in fine-tuning, in half action "
        "ranges.",
    )
    candidates: int = static(
        default=32, doc="n of best_of_n: actions drawn, of which the best acts.", range=SIZE
    )
    flow_steps: int = static(
        default=10, doc="Euler steps from noise to an action of the behaviour flow.", range=COUNT
    )

    @property
    def inactive(self) -> frozenset[str]:
        """What other choices of `policy` and of the losses have, the loss of a V that is computed,
        and the KL bounds of fixed temperatures."""
        of: dict[Extraction, set[str]] = {
            "awr": {"inverse_temperature", "policy_kl", "weight_cap", "policy_dropout"},
            "ddpg_bc": {"bc_weight", "exploration_noise"},
            "best_of_n": {"candidates", "flow_steps"},
            "flow": {"bc_weight", "flow_steps"},
        }
        bounds = {
            "beta_kl": self.beta,
            "beta_optimism": self.beta,
            "policy_kl": self.inverse_temperature,
        }
        fixed = {name for name, tuned in bounds.items() if not isinstance(tuned, Auto)}
        sampled = {"clip", "loss", "maclaurin_order", "max_gradient_norm", "value_layer_norm"}
        idle = set() if self.soft_maximum == "sampled" else sampled
        if self.loss != "maclaurin":
            idle.add("maclaurin_order")
        if self.critic_loss != "huber":
            idle.add("huber_delta")
        return frozenset((set().union(*of.values()) - of[self.policy]) | fixed | idle)


class XQLState(NamedTuple):
    """Everything that the next update depends on."""

    policy: Trainable
    value: Trainable
    """V; or, where it is computed, the behaviour policy µ̂ that it is computed with."""
    critic: Trainable
    target_critic: Any
    """As the critic: of continuous actions, or of discrete ones."""
    temperatures: Temperatures
    """Those that tune themselves, as they are by now."""
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: XQLConfig


DISCRETE_SHARE = 0.15
"""Of log n, in which a policy over n actions is as far as it can be from equally likely ones."""


def suited_to(config: XQLConfig, actions: ActionSpec) -> dict[str, float]:
    """What follows from the actions: over n of them, `policy_kl` is 0.15 log n (docs/xql.md)."""
    tuned = config.inverse_temperature == AUTO
    if isinstance(actions, Discrete) and actions.n > 1 and tuned:
        return {"policy_kl": round(DISCRETE_SHARE * math.log(actions.n), 3)}
    return {}


def make_xql(config: XQLConfig, total_steps: int) -> Agent:
    """The agent for one configuration; cosine schedules end at `total_steps`."""
    takes, takes_by = _takes(config)
    return Agent(
        init=init,
        update=bind(update, total_steps),
        actor=actor,
        config=config,
        transitions=config.batch_size * config.v_updates,
        backup=value_backup if config.soft_maximum == "sampled" else _exact_backup,
        takes=takes,
        takes_by=takes_by,
        scale_hint=ScaleHint(
            ("beta", "inverse_temperature"), "a larger beta and a smaller inverse_temperature"
        )
        if config.policy == "awr"
        else ScaleHint(("beta",), "a larger beta"),
    )


def _takes(config: XQLConfig) -> tuple[tuple[type[Box] | type[Discrete], ...], str]:
    """The kinds of actions that a configuration learns, and the option that decides it."""
    if config.policy != "awr":
        return (Box,), f"policy={config.policy}"
    for name in ("value_action_noise", "value_random_actions"):
        if getattr(config, name) != 0:
            return (Box,), f"{name}={getattr(config, name):g}"
    if config.soft_maximum == "exact":
        return (Discrete,), "soft_maximum=exact"
    return (Box, Discrete), ""


def actor(state: XQLState) -> Any:
    """What acts: the policy's network, or the best by Q̄ of what it draws."""
    config, network = state.config, state.policy.network
    if config.policy == "best_of_n":
        return BestOfN(network, state.target_critic, config.candidates)
    return exploring_actor(state) if config.policy == "ddpg_bc" else network


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: XQLConfig) -> XQLState:
    """Fresh networks; the target critic starts as a copy of the critic."""
    key, policy_key, value_key, critic_key = jax.random.split(key, 4)
    hidden = config.hidden
    policy: Any
    if config.policy == "ddpg_bc":
        policy = DeterministicPolicy.create(policy_key, spec, hidden)
    elif config.policy == "best_of_n":
        policy = FlowPolicy.create(policy_key, spec, hidden, config.flow_steps)
    elif config.policy == "flow":
        policy = OneStepFlowPolicy.create(policy_key, spec, hidden, config.flow_steps)
    else:
        policy = policy_for(policy_key, spec, hidden)
    value: Any
    if config.soft_maximum == "exact":
        value = CategoricalPolicy.create(value_key, spec, hidden)
    else:
        value = Value.create(
            value_key, spec.observation_size, hidden, layer_norm=config.value_layer_norm
        )
    critic = critic_for(
        critic_key,
        spec,
        hidden,
        members=config.critics,
        layer_norm=config.critic_layer_norm,
    )
    return XQLState(
        policy=trainable(policy),
        value=trainable(value),
        critic=trainable(critic),
        target_critic=jax.tree.map(jnp.copy, critic),
        temperatures=initial_temperatures(config),
        key=key,
        step=jnp.zeros((), jnp.int32),
        config=config,
    )


def update(total_steps: int, state: XQLState, batch: Batch) -> tuple[XQLState, Metrics]:
    """One update of V, the policy, Q and the target critic, in this order."""
    config = state.config
    value_decay = decay(config.value_schedule, state.step, total_steps)
    policy_decay = decay(config.policy_schedule, state.step, total_steps)
    key, *value_keys = jax.random.split(state.key, 1 + config.v_updates)
    draws = config.policy_dropout or config.policy in ("best_of_n", "flow")
    key, policy_key = jax.random.split(key) if draws else (key, None)

    # V minimises E[e^z − z − 1], z = (Q̄(s, a) − V(s)) / β: one step for each block of the batch.
    # The last block also serves the policy and Q. Where V is computed, µ̂ takes these steps.
    value, temperatures = state.value, dict(state.temperatures)
    for block, value_key in enumerate(value_keys):
        rows = slice(block * config.batch_size, (block + 1) * config.batch_size)
        data: Batch = jax.tree.map(operator.itemgetter(rows), batch)
        target_q = state.target_critic(data.observations, data.actions).min(0)
        floor = SPREAD * target_q.std()
        observations, targets = value_targets(state, data, target_q, value_key)

        def value_loss(
            network: Any,
            observations: Float[Array, "rows observation"] = observations,
            targets: Float[Array, " rows"] = targets,
            floor: Scalar = floor,
            data: Batch = data,
        ) -> tuple[Scalar, Metrics]:
            if config.soft_maximum == "exact":
                return exact_loss(network, state, data, targets, floor)
            v = network(observations)
            beta: Any = config.beta
            found: Metrics = {}
            if isinstance(beta, Auto):
                beta, found = tune_beta(state, state.temperatures["value"], targets - v, floor)
            loss, diagnostics = gumbel_loss(
                (targets - v) / beta,
                kind=config.loss,
                clip=config.clip,
                order=config.maclaurin_order,
            )
            metrics = {"value_loss": loss, "v": v.mean(), **gumbel_metrics(diagnostics)}
            return loss, metrics | found

        value, metrics = descend(
            value, value_loss, config.value_learning_rate * value_decay, config.max_gradient_norm
        )
    if "value" in temperatures:
        temperatures["value"] = metrics["beta"]
    v = (value if config.update_order == "sequential" else state.value).network
    if config.soft_maximum == "exact":
        v = ExactValue(v, state.target_critic, temperatures.get("value", config.beta))

    # The policy maximises E[w log π(a|s)], w = min(e^{κ (Q̄ − V)}, cap), or is extracted otherwise.
    advantages = target_q - v(data.observations)

    def policy_loss(network: Any) -> tuple[Scalar, Metrics]:
        if config.policy == "ddpg_bc":
            return ddpg_bc_loss(network, state.critic.network, data, config.bc_weight)
        if config.policy == "best_of_n":
            return behaviour_loss(network, data, policy_key)
        if config.policy == "flow":
            return flow_loss(network, state.critic.network, data, config.bc_weight, policy_key)
        return awr_loss(network, state, data, advantages, floor, policy_key)

    policy, policy_metrics = descend(
        state.policy, policy_loss, config.policy_learning_rate * policy_decay
    )

    # Q minimises the error on r + γ·mask·V(s').
    q_targets = data.rewards + config.discount * data.masks * v(data.next_observations)

    def q_loss(network: AnyCritic) -> tuple[Scalar, Metrics]:
        q = network(data.observations, data.actions)
        return critic_loss(q, q_targets, config.critic_loss, config.huber_delta)

    critic, critic_metrics = descend(
        state.critic, q_loss, config.critic_learning_rate * value_decay
    )
    if "policy" in temperatures:
        temperatures["policy"] = 1 / policy_metrics["inverse_temperature"]
    metrics |= policy_metrics | critic_metrics
    metrics |= {"advantage": advantages.mean()}
    return state._replace(
        policy=project(policy) if config.policy == "awr" else policy,
        value=value,
        critic=critic,
        target_critic=polyak(state.target_critic, critic.network, config.polyak),
        temperatures=temperatures,
        key=key,
        step=state.step + 1,
    ), metrics


def value_targets(
    state: XQLState, data: Batch, target_q: Float[Array, " batch"], key: PRNGKeyArray
) -> tuple[Float[Array, "rows observation"], Float[Array, " rows"]]:
    """V's inputs and targets: those of the data, unless a published script's extra is on."""
    config = state.config
    if config.value_action_noise == 0.0 and config.value_random_actions == 0:
        return data.observations, target_q
    policy = state.policy.network
    low, high = jnp.array(policy.low), jnp.array(policy.high)
    noise_key, random_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, data.actions.shape) * config.value_action_noise
    noisy = jnp.clip(data.actions + jnp.clip(noise, -0.5, 0.5), low, high)
    shape = (config.value_random_actions * len(target_q), len(policy.low))
    uniform = jax.random.uniform(random_key, shape, minval=low, maxval=high)
    observations = jnp.tile(data.observations, (1 + config.value_random_actions, 1))
    actions = jnp.concatenate([noisy, uniform])
    return observations, state.target_critic(observations, actions).min(0)


def tune_beta(
    state: XQLState,
    before: Scalar,
    differences: Float[Array, " batch"],
    floor: Scalar,
) -> tuple[Scalar, Metrics]:
    """β after one more batch, and what is logged of it."""
    config = state.config
    # A discounted sum has 1/(1 − γ) steps; one without a discount is bounded for one of them.
    share = jnp.where(config.discount < 1, 1.0 - config.discount, 1.0)
    most = None if config.beta_optimism is None else config.beta_optimism * share
    tuned = tune(before, differences, config.beta_kl, floor, state.step, most)
    found = {"beta": tuned.temperature, "kl": tuned.kl}
    if most is not None:
        found["optimism"] = tuned.lift / share
    return tuned.temperature, found


class ExactValue(eqx.Module):
    """V(s) = β log Σ_a µ̂(a|s) e^{Q(s, a)/β}, the sum over all discrete actions."""

    behaviour: CategoricalPolicy
    critic: DiscreteCritic
    beta: Any

    def __call__(self, observations: Float[Array, "*batch observation"]) -> Float[Array, "*batch"]:
        q = self.critic.values(observations).min(0)
        weighted = self.behaviour.log_probabilities(observations) + q / self.beta
        value: Array = self.beta * jax.nn.logsumexp(weighted, axis=-1)
        return value


def exact_loss(
    network: CategoricalPolicy,
    state: XQLState,
    data: Batch,
    target_q: Float[Array, " batch"],
    floor: Scalar,
) -> tuple[Scalar, Metrics]:
    """−E[log µ̂(a|s)], and what is found of V and of a β that tunes itself."""
    config, tuned_before = state.config, state.temperatures.get("value")
    beta = config.beta if tuned_before is None else tuned_before
    loss = -network.log_prob(data.observations, data.actions).mean()
    v = ExactValue(state.value.network, state.target_critic, beta)(data.observations)
    metrics = {"value_loss": loss, "v": v.mean()}
    if tuned_before is not None:
        metrics |= tune_beta(state, tuned_before, target_q - v, floor)[1]
    return loss, metrics


def _exact_next(state: XQLState, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, " batch"]:
    del key
    beta = state.temperatures.get("value", state.config.beta)
    return ExactValue(state.value.network, state.critic.network, beta)(batch.next_observations)


_exact_backup = Backup("V(s')", _exact_next)


def awr_loss(
    network: StochasticPolicy,
    state: XQLState,
    data: Batch,
    advantages: Float[Array, " batch"],
    floor: Scalar,
    key: PRNGKeyArray | None,
) -> tuple[Scalar, Metrics]:
    """−E[w log π(a|s)], w = min(e^{κA}, cap)."""
    config = state.config
    inverse_temperature, found = config.inverse_temperature, {}
    if isinstance(inverse_temperature, Auto):
        tuned = tune(state.temperatures["policy"], advantages, config.policy_kl, floor, state.step)
        inverse_temperature = 1 / tuned.temperature
        found = {
            "inverse_temperature": inverse_temperature,
            "policy_kl": tuned.kl,
            "policy_effective_sample_size": tuned.effective_sample_size,
        }
    weights = advantage_weights(advantages, inverse_temperature, config.weight_cap)
    log_prob = network.log_prob(data.observations, data.actions, config.policy_dropout, key)
    loss = -(weights * log_prob).mean()
    metrics = {"policy_loss": loss, "log_prob": log_prob.mean(), "weight": weights.mean()}
    return loss, metrics | found


def ddpg_bc_loss(
    network: DeterministicPolicy, critic: Critic, data: Batch, bc_weight: Number
) -> tuple[Scalar, Metrics]:
    """α/2 E[‖π(s) − a‖²] − E[min Q(s, π(s))] / E|min Q(s, π(s))|."""
    actions = network.mean(data.observations)
    q = critic(data.observations, actions).min(0)
    distance = network.distance(actions, data.actions).mean()
    loss = bc_weight * distance / 2 - q.mean() / mean_magnitude(q)
    return loss, {"policy_loss": loss, "policy_q": q.mean(), "bc_distance": distance}


def behaviour_loss(
    network: FlowPolicy, data: Batch, key: PRNGKeyArray | None
) -> tuple[Scalar, Metrics]:
    """E[‖v(s, x, t) − (a − z)‖²]: behaviour cloning by flow matching; no value enters it."""
    assert key is not None
    loss = network.matching_error(data.observations, data.actions, key).mean()
    return loss, {"policy_loss": loss}


def flow_loss(
    network: OneStepFlowPolicy,
    critic: Critic,
    data: Batch,
    bc_weight: Number,
    key: PRNGKeyArray | None,
) -> tuple[Scalar, Metrics]:
    """α/2 E[‖π(s, z) − φ(s, z)‖²] − E[min Q(s, π)] / E|min Q(s, π)|, beside the flow's own loss.

    The two terms have no parameter in common: φ is a constant to the first.
    """
    assert key is not None
    behaviour_key, noise_key = jax.random.split(key)
    matching, _ = behaviour_loss(network.behaviour, data, behaviour_key)
    noise = jax.random.normal(noise_key, data.actions.shape)
    anchors = jax.lax.stop_gradient(network.behaviour.flow(data.observations, noise))
    actions = network.one_step(data.observations, noise)
    distance = jnp.square(actions - anchors).sum(-1).mean()
    # Q is asked within the bounds alone. Outside them it has no gradient, but the distance has.
    q = critic(data.observations, rescale(network, actions)).min(0)
    loss = bc_weight * distance / 2 - q.mean() / mean_magnitude(q)
    metrics = {"flow_loss": matching, "policy_q": q.mean(), "bc_distance": distance}
    return loss + matching, {"policy_loss": loss, **metrics}

"""One gradient step for one network: what the agents are made of.

Each `fit_*` takes a `Trainable`, the data and the targets, makes one Adam step on its loss and
returns the new `Trainable` with the loss and its diagnostics. Targets are plain arrays: no gradient
flows into whatever computed them.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from xql.agents.networks import Critic, Value
from xql.agents.policies import DeterministicPolicy, GaussianPolicy, SquashedGaussianPolicy
from xql.agents.types import Metrics, Trainable
from xql.gumbel.losses import Kind, gumbel_loss

Scalar = Float[Array, ""]
CriticLoss = Literal["squared", "huber"]
Schedule = Literal["cosine", "constant"]

MOST_LOG_MULTIPLIER = 13.8  # a multiplier of 10⁶, as in the published CQL code


def trainable(network: PyTree) -> Trainable:
    """A network with a fresh Adam state."""
    return Trainable(network, optax.scale_by_adam().init(network))


def descend(
    model: Trainable,
    loss: Callable[[PyTree], tuple[Scalar, Metrics]],
    learning_rate: Scalar,
    max_gradient_norm: float | None = None,
) -> tuple[Trainable, Metrics]:
    """One Adam step on `loss`, its gradient first scaled down to `max_gradient_norm`, if larger."""
    gradient, metrics = jax.grad(loss, has_aux=True)(model.network)
    if max_gradient_norm is not None:
        # Norms as dot products: XLA's own sums are slower on a CPU.
        norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient)))
        shrink = jnp.minimum(1.0, max_gradient_norm / norm)
        gradient = jax.tree.map(lambda leaf: leaf * shrink, gradient)
    direction, optimizer = optax.scale_by_adam().update(gradient, model.optimizer)
    network = jax.tree.map(lambda leaf, d: leaf - learning_rate * d, model.network, direction)
    return Trainable(network, optimizer), metrics


def fit_value_gumbel(
    value: Trainable,
    observations: Float[Array, "batch observation"],
    targets: Float[Array, " batch"],
    *,
    beta: Scalar,
    learning_rate: Scalar,
    kind: Kind,
    clip: Scalar,
    order: int = 4,
    max_gradient_norm: float | None = None,
) -> tuple[Trainable, Metrics]:
    """V by Gumbel regression on `targets` = Q(s, a): its minimiser is β log E[e^{Q/β}]."""

    def loss(network: Value) -> tuple[Scalar, Metrics]:
        v = network(observations)
        value_loss, seen = gumbel_loss((targets - v) / beta, kind=kind, clip=clip, order=order)
        return value_loss, {
            "value_loss": value_loss,
            "value": v.mean(),
            "beyond_clip": seen.beyond_clip,
            "mean_exp": seen.mean_exp,
            "effective_sample_size": seen.effective_sample_size,
        }

    return descend(value, loss, learning_rate, max_gradient_norm)


def fit_value_expectile(
    value: Trainable,
    observations: Float[Array, "batch observation"],
    targets: Float[Array, " batch"],
    *,
    expectile: Scalar,
    learning_rate: Scalar,
) -> tuple[Trainable, Metrics]:
    """V by expectile regression on `targets` = Q(s, a): 1/2 gives their mean, 1 their maximum."""

    def loss(network: Value) -> tuple[Scalar, Metrics]:
        v = network(observations)
        above = targets > v
        weight = jnp.where(above, expectile, 1 - expectile)
        value_loss = (weight * jnp.square(targets - v)).mean()
        return value_loss, {
            "value_loss": value_loss,
            "value": v.mean(),
            "above": above.mean(dtype=jnp.float32),
        }

    return descend(value, loss, learning_rate)


def fit_critic(
    critic: Trainable,
    observations: Float[Array, "batch observation"],
    actions: Float[Array, "batch action"],
    targets: Float[Array, " batch"],
    *,
    learning_rate: Scalar,
    kind: CriticLoss = "squared",
    huber_delta: float = 1.0,
) -> tuple[Trainable, Metrics]:
    """Every member of the ensemble by squared (or Huber) error on `targets` = r + γ·mask·V(s')."""

    def loss(network: Critic) -> tuple[Scalar, Metrics]:
        q = network(observations, actions)
        error = q - targets
        # Half the square, as Huber's quadratic part, so that the two kinds share a learning rate.
        each = optax.huber_loss(error, delta=huber_delta) if kind == "huber" else error**2 / 2
        critic_loss = each.mean(-1).sum()
        return critic_loss, {
            "critic_loss": critic_loss,
            "critic": q.mean(),
            "bellman_error": jnp.abs(error).mean(),
        }

    return descend(critic, loss, learning_rate)


def fit_critic_gumbel(
    critic: Trainable,
    observations: Float[Array, "batch observation"],
    actions: Float[Array, "batch action"],
    targets: Float[Array, " batch"],
    *,
    beta: Scalar,
    learning_rate: Scalar,
    kind: Kind,
    clip: Scalar,
    order: int = 4,
    max_gradient_norm: float | None = None,
) -> tuple[Trainable, Metrics]:
    """Every member by Gumbel regression on `targets`: its minimiser is β log E[e^{target/β}]."""

    def loss(network: Critic) -> tuple[Scalar, Metrics]:
        q = network(observations, actions)
        error = targets - q
        # Member by member: two of the kinds look at their batch as a whole.
        each, seen = jax.vmap(lambda z: gumbel_loss(z, kind=kind, clip=clip, order=order))(
            error / beta
        )
        critic_loss = each.sum()
        return critic_loss, {
            "critic_loss": critic_loss,
            "critic": q.mean(),
            "bellman_error": jnp.abs(error).mean(),
            "beyond_clip": seen.beyond_clip.mean(),
            "mean_exp": seen.mean_exp.mean(),
            "effective_sample_size": seen.effective_sample_size.mean(),
        }

    return descend(critic, loss, learning_rate, max_gradient_norm)


def fit_critic_conservative(
    critic: Trainable,
    observations: Float[Array, "batch observation"],
    actions: Float[Array, "batch action"],
    targets: Float[Array, " batch"],
    samples: Float[Array, "samples batch action"],
    log_densities: Float[Array, "samples batch"],
    *,
    weight: Scalar,
    learning_rate: Scalar,
) -> tuple[Trainable, Metrics]:
    """Every member by squared error on `targets`, plus `weight` times CQL's gap.

    The gap is log Σ e^{Q(s, b)}/p(b) − Q(s, a) over `samples` b of density p: how far Q's soft
    maximum over all actions stands above the data's.
    """
    states = jnp.broadcast_to(observations, (len(samples), *observations.shape))

    def loss(network: Critic) -> tuple[Scalar, Metrics]:
        q = network(observations, actions)
        error = q - targets
        all_actions = jax.nn.logsumexp(network(states, samples) - log_densities, axis=1)
        gap = (all_actions - q).mean(-1)
        # The whole square, not its half as elsewhere: published penalty weights stand beside that.
        critic_loss = jnp.square(error).mean(-1).sum()
        return critic_loss + weight * gap.sum(), {
            "critic_loss": critic_loss,
            "critic": q.mean(),
            "bellman_error": jnp.abs(error).mean(),
            "gap": gap.mean(),
        }

    return descend(critic, loss, learning_rate)


def fit_policy_soft(
    policy: Trainable,
    critic: Critic,
    observations: Float[Array, "batch observation"],
    key: PRNGKeyArray,
    *,
    temperature: Scalar,
    learning_rate: Scalar,
) -> tuple[Trainable, Metrics]:
    """SAC's policy step: minimise E[α log π(a|s) − min Q(s, a)] over one draw a ~ π per state."""

    def loss(network: SquashedGaussianPolicy) -> tuple[Scalar, Metrics]:
        actions, log_prob = network.sample_with_log_prob(observations, key)
        policy_loss = (temperature * log_prob - critic(observations, actions).min(0)).mean()
        return policy_loss, {"policy_loss": policy_loss, "entropy": -log_prob.mean()}

    return descend(policy, loss, learning_rate)


def fit_temperature(
    temperature: Trainable, entropy: Scalar, *, target_entropy: float, learning_rate: Scalar
) -> tuple[Trainable, Metrics]:
    """Raise the entropy's weight α while the entropy is below its target, lower it above.

    The network of `temperature` is log α, one number; `entropy` is E[−log π(a|s)], in nats.
    """

    def loss(log_temperature: Scalar) -> tuple[Scalar, Metrics]:
        # In log α, not α: this gradient does not die out where α has come near 0.
        metrics = {"temperature": jnp.exp(log_temperature)}
        return log_temperature * (entropy - target_entropy), metrics

    return descend(temperature, loss, learning_rate)


def fit_multiplier(
    multiplier: Trainable, excess: Scalar, *, learning_rate: Scalar
) -> tuple[Trainable, Metrics]:
    """Raise a constraint's Lagrange multiplier while its `excess` is above 0, else lower it.

    The network of `multiplier` is its logarithm, one number, kept at or below `MOST_LOG_MULTIPLIER`
    by projection.
    """

    def loss(log_multiplier: Scalar) -> tuple[Scalar, Metrics]:
        return -jnp.exp(log_multiplier) * excess, {"multiplier": jnp.exp(log_multiplier)}

    multiplier, metrics = descend(multiplier, loss, learning_rate)
    return multiplier._replace(
        network=jnp.minimum(multiplier.network, MOST_LOG_MULTIPLIER)
    ), metrics


def fit_policy_weighted(
    policy: Trainable,
    observations: Float[Array, "batch observation"],
    actions: Float[Array, "batch action"],
    weights: Float[Array, " batch"],
    *,
    learning_rate: Scalar,
) -> tuple[Trainable, Metrics]:
    """Weighted maximum likelihood of the data's actions; with weights 1, behaviour cloning."""

    def loss(network: GaussianPolicy) -> tuple[Scalar, Metrics]:
        log_prob = network.log_prob(observations, actions)
        policy_loss = -(weights * log_prob).mean()
        return policy_loss, {"policy_loss": policy_loss, "log_prob": log_prob.mean()}

    policy, metrics = descend(policy, loss, learning_rate)
    return policy._replace(network=policy.network.projected()), metrics


def fit_policy_cloned(
    policy: Trainable,
    critic: Critic,
    observations: Float[Array, "batch observation"],
    actions: Float[Array, "batch action"],
    *,
    value_weight: Scalar,
    cloning_weight: Scalar | float,
    learning_rate: Scalar,
) -> tuple[Trainable, Metrics]:
    """A deterministic policy uphill on the smallest of the critics, held near the data's actions.

    It minimises cloning weight · E‖π(s) − a‖² − value weight · E[Q(s, π(s))] / E|Q(s, π(s))|, where
    the divisor is a constant to the gradient: it makes the weights the same for all reward scales.
    """

    def loss(network: DeterministicPolicy) -> tuple[Scalar, Metrics]:
        chosen = network.mean(observations)
        q = critic(observations, chosen).min(0)
        # 1e-8: a Q of 0 in every row is divided by it, and stays 0.
        scale = jax.lax.stop_gradient(jnp.abs(q).mean()) + 1e-8
        cloning = network.distance(chosen, actions).mean()
        policy_loss = cloning_weight * cloning - value_weight * q.mean() / scale
        return policy_loss, {"policy_loss": policy_loss, "cloning": cloning}

    return descend(policy, loss, learning_rate)


def every(
    delay: int,
    step: Int[Array, ""],
    update: Callable[[], tuple[PyTree, Metrics]],
    unchanged: PyTree,
) -> tuple[PyTree, Metrics]:
    """`update()` at every `delay`-th step, the first at `delay`; else `unchanged`.

    So that means over many steps are means over the updates that were made, an update's metrics
    count `delay` times, and are 0 at the steps between.
    """

    def make() -> tuple[PyTree, Metrics]:
        changed, metrics = update()
        return changed, {name: delay * value for name, value in metrics.items()}

    def wait() -> tuple[PyTree, Metrics]:
        shapes = jax.eval_shape(update)[1]
        return unchanged, {name: jnp.zeros(one.shape, one.dtype) for name, one in shapes.items()}

    result: tuple[PyTree, Metrics] = jax.lax.cond(_due(step, delay), make, wait)
    return result


def _due(step: Int[Array, ""], delay: int) -> Bool[Array, ""]:
    """Whether `step` is a multiple of `delay`: one answer for a whole population.

    Its members count their steps together, but for frozen ones, which have stayed behind. Were each
    asked by itself, `vmap` would turn the choice into a selection, and make at every step the
    update that is only due at some.
    """

    @jax.custom_batching.custom_vmap
    def due(step: Int[Array, ""]) -> Bool[Array, ""]:
        return step % delay == 0

    @due.def_vmap
    def due_for_all(
        size: int, batched: list[bool], steps: Int[Array, " members"]
    ) -> tuple[Bool[Array, ""], bool]:
        del size, batched
        return steps.max() % delay == 0, False

    answer: Bool[Array, ""] = due(step)
    return answer


def act(
    policy: GaussianPolicy | SquashedGaussianPolicy | DeterministicPolicy,
    observations: Float[Array, "*batch observation"],
    key: PRNGKeyArray | None,
) -> Float[Array, "*batch action"]:
    """A policy's mode, or with a key a draw from it; a deterministic one's draw is its mode."""
    return policy.mean(observations) if key is None else policy.sample(observations, key)


def advantage_weights(
    advantages: Float[Array, " batch"], inverse_temperature: Scalar, cap: Scalar
) -> Float[Array, " batch"]:
    """min(e^{A·inverse temperature}, cap): advantage-weighted regression's weight per sample."""
    # Capped in the exponent: e^x itself overflows float32 beyond x = 88.
    return jnp.exp(jnp.minimum(advantages * inverse_temperature, jnp.log(cap)))


def polyak(target: PyTree, online: PyTree, rate: Scalar) -> PyTree:
    """Move `target` by `rate` of the way to `online`."""
    return jax.tree.map(lambda t, o: t + rate * (o - t), target, online)


def decay(schedule: Schedule, step: Int[Array, ""], total: int) -> Scalar:
    """The factor on a learning rate at `step`: 1, or a half cosine that falls to 0 at `total`."""
    if schedule == "constant":
        return jnp.ones(())
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / total, 1.0)))

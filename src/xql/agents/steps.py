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
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from xql.agents.agent import Metrics, Trainable
from xql.agents.networks import Critic, Value
from xql.agents.policies import GaussianPolicy
from xql.gumbel.losses import Kind, gumbel_loss

Scalar = Float[Array, ""]
CriticLoss = Literal["squared", "huber"]
Schedule = Literal["cosine", "constant"]


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


def fit_critic(
    critic: Trainable,
    observations: Float[Array, "batch observation"],
    actions: Float[Array, "batch action"],
    targets: Float[Array, " batch"],
    *,
    learning_rate: Scalar,
    kind: CriticLoss,
    huber_delta: float,
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


def act(
    policy: GaussianPolicy,
    observations: Float[Array, "*batch observation"],
    key: PRNGKeyArray | None,
) -> Float[Array, "*batch action"]:
    """A Gaussian policy's mode, or with a key a draw from it."""
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

"""Losses and weights as plain functions of arrays. The Gumbel family is in `xql.gumbel.losses`."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from xql.agents.types import Metrics, Number, Scalar
from xql.gumbel.losses import Diagnostics

CriticLoss = Literal["squared", "huber"]


def critic_loss(
    q: Float[Array, "members batch"],
    targets: Float[Array, " batch"],
    kind: CriticLoss = "squared",
    huber_delta: float = 1.0,
) -> tuple[Scalar, Metrics]:
    """Half the squared (or Huber) error of every member of an ensemble, summed over members.

    Half the square, as Huber's quadratic part, so that the two kinds share a learning rate.
    """
    error = q - targets
    each = optax.huber_loss(error, delta=huber_delta) if kind == "huber" else error**2 / 2
    loss = each.mean(-1).sum()
    return loss, critic_metrics(loss, q, error)


def critic_metrics(
    loss: Scalar, q: Float[Array, "members batch"], error: Float[Array, "members batch"]
) -> Metrics:
    """What every critic reports."""
    return {"critic_loss": loss, "q": q.mean(), "bellman_error": jnp.abs(error).mean()}


def advantage_weights(
    advantages: Float[Array, " batch"], inverse_temperature: Number, cap: Number
) -> Float[Array, " batch"]:
    """min(e^{A·inverse temperature}, cap): advantage-weighted regression's weight per sample."""
    # Capped in the exponent: e^x itself overflows float32 beyond x = 88.
    return jnp.exp(jnp.minimum(advantages * inverse_temperature, jnp.log(cap)))


def mean_magnitude(q: Float[Array, " batch"]) -> Scalar:
    """E|Q|, a constant to the gradient: the divisor that frees a value term of its unit."""
    # 1e-8: a Q of 0 in every row is divided by it, and stays 0.
    return jax.lax.stop_gradient(jnp.abs(q).mean()) + 1e-8


def gumbel_metrics(diagnostics: Diagnostics) -> Metrics:
    """What every Gumbel loss reports; over an ensemble, its mean."""
    return {
        "clip_fraction": diagnostics.beyond_clip.mean(),
        "mean_exp": diagnostics.mean_exp.mean(),
        "effective_sample_size": diagnostics.effective_sample_size.mean(),
    }

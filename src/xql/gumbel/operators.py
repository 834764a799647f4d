"""The soft maximum of values, in its two forms, and the temperature of a KL constraint.

The *mean form* L_β(x) = β log E[e^{x/β}] lies between the mean (β → ∞) and the maximum (β → 0).
The *sum form* β log Σ e^{x/β} = L_β(x) + β log n does not tend to the mean: it diverges with β.
The mean form with a reference policy µ is max_π E_π[x] − β KL(π‖µ); the sum form is the same with
an entropy bonus instead, max_π E_π[x] + β H(π). Mixing them silently shifts every value by β log n,
so each function here states which form it computes.

All are differentiable, take any axis and are accurate to float32 from β = 1e-3 to 1e6; β = ∞ gives
the limit. They compute in the precision of the values; whole numbers are taken as floats.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from xql.gumbel.inputs import as_float, require_positive, require_values

Axis = int | tuple[int, ...] | None


def _weights(
    x: Float[Array, "*shape"], weights: Real[ArrayLike, "..."] | None
) -> Float[Array, "*shape"]:
    """The weights, broadcast against x; ones without any."""
    if weights is None:
        return jnp.ones_like(x)
    return jnp.broadcast_to(as_float(weights).astype(x.dtype), x.shape)


def _probabilities(
    x: Float[Array, "*shape"], axis: Axis, weights: Real[ArrayLike, "..."] | None
) -> Float[Array, "*shape"]:
    """The weights, broadcast against x and normalised along the axis; uniform without any."""
    w = _weights(x, weights)
    return w / jnp.sum(w, axis=axis, keepdims=True)


def _values(x: Real[ArrayLike, "*shape"], axis: Axis) -> Float[Array, "*shape"]:
    """The values as floats, where there is one to reduce.

    Raises:
        ValueError: there is none.
    """
    x = as_float(x)
    if any(x.shape[place] == 0 for place in _reduced(x, axis)):
        require_values(x, "x")
    return x


def _reduced(x: Float[Array, "*shape"], axis: Axis) -> list[int]:
    """The reduced axes, counted from the first."""
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return [place % x.ndim for place in axes if -x.ndim <= place < x.ndim]


def _temperature(
    beta: Real[ArrayLike, "..."], x: Float[Array, "*shape"], axis: Axis
) -> Float[Array, "..."]:
    """β with the precision and the number of axes of x.

    Raises:
        ValueError: β is not positive, or differs along an axis that is reduced.
    """
    require_positive(beta, "beta")
    given = as_float(beta).astype(x.dtype)
    aligned = given.reshape((1,) * (x.ndim - given.ndim) + given.shape)
    if aligned.ndim > x.ndim or any(aligned.shape[place] > 1 for place in _reduced(x, axis)):
        raise ValueError(
            f"beta of shape {given.shape} mixes temperatures in one soft maximum of x of shape "
            f"{x.shape} over axis {axis}: keep the reduced axes with length 1, as beta[:, None] "
            "and axis=-1 do"
        )
    return aligned


def _shifted(
    x: Float[Array, "*shape"], beta: Float[Array, "..."], axis: Axis, p: Float[Array, "*shape"]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return u = (x − top)/β and top, the maximum over the entries of positive probability."""
    top = jnp.max(jnp.where(p > 0, x, -jnp.inf), axis=axis, keepdims=True)
    # L is the same for any shift, so the shift needs no gradient; an infinite one would be NaN.
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
    # −∞ must not be divided by β = ∞; an eighth, because 1/max is no normal number.
    largest = jnp.finfo(x.dtype).max / 8  # type: ignore[no-untyped-call]
    # An entry without probability may be arbitrarily large: 0 · e^u must not become 0 · ∞.
    return (jnp.where(p > 0, x, top) - top) / jnp.minimum(beta, largest), top


def log_mean_exp(
    x: Real[ArrayLike, "*shape"],
    beta: Real[ArrayLike, "..."],
    axis: Axis = None,
    weights: Real[ArrayLike, "..."] | None = None,
) -> Float[Array, "..."]:
    """The mean form β log Σ p e^{x/β}, with p uniform or the weights normalised along the axis.

    Args:
        x: values, in any unit; the result has the same.
        beta: temperature > 0, in the unit of x; a scalar, or an array that broadcasts against x
            with the reduced axes kept: each soft maximum has one temperature. ∞ gives the mean.
        axis: what to reduce; None reduces everything.
        weights: >= 0, broadcastable to x, of positive sum (else the result is NaN).

    Returns:
        The soft maximum; its gradient with respect to x is the softmax p e^{x/β} / Σ p e^{x/β}.

    Raises:
        ValueError: there is nothing to reduce, or β is not positive or differs within one soft
            maximum. The sign of a traced β is not checked.
    """
    x = _values(x, axis)
    beta = _temperature(beta, x, axis)
    p = _probabilities(x, axis, weights)
    u, top = _shifted(x, beta, axis, p)
    # Beyond this β the result is the mean to all digits, and u would vanish.
    differences = jnp.where(p > 0, x, top) - top
    spread = jnp.max(jnp.abs(differences), axis=axis, keepdims=True)
    resolution = jnp.finfo(x.dtype).eps  # type: ignore[no-untyped-call]
    flat = jax.lax.stop_gradient(beta * resolution >= spread)
    mean = jnp.sum(p * jnp.where(flat, differences, 0.0), axis=axis, keepdims=True)
    # log1p(Σ p expm1 u) keeps all digits for small u (large β), log Σ p e^u for large −u.
    deficit = jnp.sum(p * jnp.expm1(u), axis=axis, keepdims=True)
    shallow = deficit > -0.5
    total = jnp.where(
        shallow,
        jnp.log1p(jnp.where(shallow, deficit, 0.0)),
        jnp.log(jnp.where(shallow, 1.0, jnp.sum(p * jnp.exp(u), axis=axis, keepdims=True))),
    )
    return jnp.squeeze(top + jnp.where(flat, mean, jnp.where(flat, 1.0, beta) * total), axis=axis)


def log_sum_exp(
    x: Real[ArrayLike, "*shape"],
    beta: Real[ArrayLike, "..."],
    axis: Axis = None,
    weights: Real[ArrayLike, "..."] | None = None,
) -> Float[Array, "..."]:
    """The sum form β log Σ w e^{x/β}: the mean form plus β log Σ w, which is β log n by default.

    Arguments as in `log_mean_exp`. As β → 0 both forms tend to the maximum; as β → ∞ this one
    grows like β log n while the mean form tends to the mean.
    """
    x = _values(x, axis)
    log_count = jnp.log(jnp.sum(_weights(x, weights), axis=axis, keepdims=True))
    # One value of weight 1 adds nothing, whatever β; ∞ · 0 is not 0.
    temperature = jnp.where(log_count == 0, 1.0, _temperature(beta, x, axis))
    return log_mean_exp(x, beta, axis, weights) + jnp.squeeze(temperature * log_count, axis=axis)


def log_partition(
    values: Real[ArrayLike, "*shape"],
    beta: Real[ArrayLike, "..."] = 1.0,
    probabilities: Real[ArrayLike, "..."] | None = None,
    axis: Axis = -1,
) -> Float[Array, "..."]:
    """Log Z of the discrete distribution µ_i e^{x_i/β} / Z; dimensionless.

    Z is Σ e^{x_i/β}, or Σ µ_i e^{x_i/β} where probabilities µ are given (they must sum to 1).
    """
    x = _values(values, axis)
    return log_sum_exp(x / _temperature(beta, x, axis), 1.0, axis, probabilities)


def soft_value(
    action_values: Real[ArrayLike, "*states actions"],
    beta: Real[ArrayLike, ""],
    reference: Real[ArrayLike, "..."] | None = None,
    form: Literal["mean", "sum"] = "mean",
) -> Float[Array, "*states"]:
    """The value of a state from its action values, over the last axis.

    Args:
        action_values: Q(s, ·).
        beta: temperature > 0.
        reference: µ(·|s), broadcastable to the action values; uniform by default. Mean form only.
        form: "mean" is max_π E_π[Q] − β KL(π‖µ); "sum" is max_π E_π[Q] + β H(π), larger than the
            mean form with a uniform reference by β log(number of actions).

    Raises:
        ValueError: a reference together with the sum form, which has none.
    """
    if form == "sum":
        if reference is not None:
            raise ValueError("the sum form has no reference policy; use form='mean'")
        return log_sum_exp(action_values, beta, -1)
    return log_mean_exp(action_values, beta, -1, reference)


def soft_policy(
    action_values: Real[ArrayLike, "*states actions"],
    beta: Real[ArrayLike, ""],
    reference: Real[ArrayLike, "..."] | None = None,
) -> Float[Array, "*states actions"]:
    """The policy µ e^{(Q − V)/β} that attains `soft_value`; a uniform µ serves both forms."""
    q = _values(action_values, -1)
    p = _probabilities(q, -1, reference)
    weights = p * jnp.exp(_shifted(q, _temperature(beta, q, -1), -1, p)[0])
    return weights / jnp.sum(weights, -1, keepdims=True)


def dual_temperature(
    x: Real[ArrayLike, "*shape"],
    epsilon: Real[ArrayLike, ""],
    axis: Axis = None,
    weights: Real[ArrayLike, "..."] | None = None,
) -> Float[Array, ""]:
    """The β that minimises β ε + β log E[e^{x/β}]: the temperature of the constraint KL ≤ ε.

    At that β, KL(µ e^{x/β}/Z ‖ µ) = ε, averaged over the axes that are not reduced (states,
    if actions are reduced). For normal x it is σ/√(2ε). The same temperature solves REPS and the
    E-step of MPO (Peters et al. 2010; Abdolmaleki et al. 2018), and gives the entropic
    value-at-risk.

    Args:
        x: values.
        epsilon: the bound on the divergence, > 0, in nats.
        axis: over which the log-mean-exp is taken; None takes all of x.
        weights: the reference µ, as in `log_mean_exp`.

    Returns:
        β*, without a gradient (by the envelope theorem the minimum itself needs none); 0 where even
        the greedy distribution has a divergence below ε, as for constant x.

    Raises:
        ValueError: x is empty, or ε is not positive. The sign of a traced ε is not checked.
    """
    x = jax.lax.stop_gradient(as_float(x))
    require_values(x, "x")
    require_positive(epsilon, "epsilon")
    epsilon = as_float(epsilon).astype(x.dtype)
    p = _probabilities(x, axis, weights)

    def divergence(beta: Float[Array, ""]) -> Float[Array, ""]:
        u, _ = _shifted(x, beta, axis, p)
        tilted = p * jnp.exp(u)
        tilted = tilted / jnp.sum(tilted, axis=axis, keepdims=True)
        return jnp.mean(jnp.sum(tilted * u, axis=axis) - log_mean_exp(u, 1.0, axis, p))

    low = jnp.min(jnp.where(p > 0, x, jnp.inf), axis=axis)
    high = jnp.max(jnp.where(p > 0, x, -jnp.inf), axis=axis)
    # Hoeffding: KL <= range²/(8β²), so the divergence has fallen below ε by this β.
    ceiling = jnp.max(high - low) / jnp.sqrt(8.0 * epsilon)
    floor = 1e-6 * ceiling

    def halve(
        _: Any, bracket: tuple[Float[Array, ""], Float[Array, ""]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        below, above = bracket
        middle = jnp.sqrt(below) * jnp.sqrt(above)
        too_far = divergence(middle) > epsilon
        return jnp.where(too_far, middle, below), jnp.where(too_far, above, middle)

    # log(1e6) halved 30 times is 1e-8: below float32's resolution.
    below, above = jax.lax.fori_loop(0, 30, halve, (floor, ceiling))
    reachable = (ceiling > 0) & (divergence(jnp.maximum(floor, 1e-30)) > epsilon)
    return jnp.where(reachable, jnp.sqrt(below) * jnp.sqrt(above), 0.0)

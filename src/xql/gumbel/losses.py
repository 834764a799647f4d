"""The Gumbel loss family: losses of residuals whose minimiser is the soft maximum.

For samples x and a temperature β, write z = (x − h)/β. The Gumbel loss

    J(h) = E[e^z − z − 1]

is strictly convex in h, and setting its derivative E[1 − e^z]/β to zero gives E[e^z] = 1, that is

    h* = β log E[e^{x/β}]

for any distribution of x: as β grows h* tends to the mean of x, as β falls to its maximum. So a
network h(s) fitted to Q(s, a) with this loss learns the soft maximum over the actions in the data.
The weight e^z of large positive residuals grows exponentially; every kind but `plain` bounds it or
slows its growth. Below, the minimiser for x ~ N(0, 1), averaged over mini-batches of 256; the first
row is 1/(2β), and a finite sample underestimates it where β is small (tested in
tests/gumbel/test_minimisers.py):

    kind             beyond the clip c                     c   β = 1   0.5    0.25     0.1
    (exact)                                                    .500  1.000   2.000   5.000
    plain            e^z grows until it overflows              .500   .999   1.949   3.387
    linear           linear, with slope e^c − 1            7   .500   .999   1.779   2.537
                                                           5   .500   .983   1.578   2.085
    bounded          likewise, the batch's slope at most 8 7   .500   .999   1.779   2.534
                                                           5   .500   .983   1.578   2.085
    log              likewise, within log(1 + J)           7   .498   .980   1.722   2.502
    official         gradient 0, rescaled by the batch     7   .484   .905   1.422   1.814
    maclaurin, n=4   a polynomial: no exponential at all       .374   .367    .230    .099
    maclaurin, n=8                                             .496   .614    .281    .102

These are of the mean gradient. An optimizer that changes each batch's gradient by its size moves
them: where every gradient is scaled down to a norm below its own, as `max_gradient_norm` = 1 does
for a network, `linear` and `log` have the minimiser

                                                           7   .496   .954   1.609   2.268
                                                           5   .496   .954   1.553   2.058

`linear` and `bounded` are the least biased of those that recover after a jump of the target, where
nothing else changes the gradient. `bounded` is XQL's default: after a jump up the slope of `linear`
is e^c − 1 = 147, which fills Adam's second moment, so that V falls too slowly for thousands of
steps. That of `bounded` stays within (−1, 8], which no batch of 256 near the minimiser reaches; one
of 32 can, and is then biased low. `official` has no gradient beyond the clip, so the best actions
stop contributing and a value far below its target does not recover; use it only to reproduce the
published script.

Sources: plain and official, Garg et al. 2023 (arXiv 2301.02328) and its published script; log, the
same script; maclaurin, Omura et al. 2024 (arXiv 2406.04896); linear and bounded, measured here.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from xql.gumbel.inputs import as_float, require_values

Kind = Literal["plain", "linear", "bounded", "log", "maclaurin", "official"]

# A diagnostic must stay finite: e^60 ≈ 1e26, so 1e12 of them still sum below the float32 maximum.
_LARGEST_EXPONENT = 60.0
# Below this |z| the series of order 8 is exact to float32, while e^z − z − 1 has lost its digits.
_SERIES_RADIUS = 0.3
# E[e^z] is 1 at the minimum. With clip 7 a batch of 256 exceeds 4 now and then, and 8 never.
_LARGEST_MEAN_EXP = 8.0


class Diagnostics(NamedTuple):
    """Statistics of a batch of residuals; no gradient flows through them.

    Attributes:
        beyond_clip: the fraction of residuals z > clip, whatever the kind of loss does with them.
        mean_exp: E[e^z], which is 1 at the optimum; exponents are clipped at 60, so that it and
            its logarithm stay finite in float32; above 1e20 it is only a lower bound.
        effective_sample_size: (Σw)²/(N Σw²) in (0, 1] with w = e^z: as a fraction of the
            batch size. Near 1/N, one sample determines the estimate.
    """

    beyond_clip: Float[Array, ""]
    mean_exp: Float[Array, ""]
    effective_sample_size: Float[Array, ""]


def _floats(
    z: Real[ArrayLike, "*batch"], clip: Real[ArrayLike, ""]
) -> tuple[Float[Array, "*batch"], Float[Array, ""]]:
    """Residuals and clip in the residuals' precision; whole numbers as floats."""
    z = as_float(z)
    return z, as_float(clip).astype(z.dtype)


def _batch(
    z: Real[ArrayLike, "*batch"], clip: Real[ArrayLike, ""]
) -> tuple[Float[Array, "*batch"], Float[Array, ""]]:
    """Likewise, where there is a residual at all.

    Raises:
        ValueError: there is none.
    """
    z, clip = _floats(z, clip)
    require_values(z, "residuals")
    return z, clip


def _excess(z: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return e^z − z − 1, accurate to float32 also for |z| ≪ 1, as are its derivatives."""
    near = jnp.abs(z) < _SERIES_RADIUS
    return jnp.where(near, maclaurin(jnp.where(near, z, 0.0), 8), jnp.expm1(z) - z)


def plain(z: Real[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """e^z − z − 1, elementwise. Overflows in float32 for z > 88, as does its gradient."""
    return _excess(as_float(z))


def linear(z: Real[ArrayLike, "*batch"], clip: Real[ArrayLike, ""] = 5.0) -> Float[Array, "*batch"]:
    """e^z − z − 1 up to the clip c, then its tangent e^c (1 + z − c) − z − 1; elementwise.

    Convex, with a continuous derivative e^{min(z, c)} − 1 that lies in (−1, e^c − 1].
    """
    z, clip = _floats(z, clip)
    beyond = z > clip
    # Both branches see clipped values: an overflow in the one not taken would be a NaN gradient.
    return _excess(jnp.where(beyond, clip, z)) + jnp.expm1(clip) * jnp.where(beyond, z - clip, 0.0)


def bounded(z: Real[ArrayLike, "*batch"], clip: Real[ArrayLike, ""] = 5.0) -> Float[Array, ""]:
    """The mean of `linear`, scaled so that the batch's slope lies in (−1, 8]: one number.

    The slope is E[e^x] − 1 with x = min(z, c). Where E[e^x] exceeds 8 the loss is multiplied by
    8/E[e^x], held constant; this does not depend on the temperature or on the width of a network,
    as a bound on a gradient's norm does.
    """
    z, clip = _batch(z, clip)
    mean_exp = jax.lax.stop_gradient(jnp.mean(jnp.exp(jnp.minimum(z, clip))))
    return jnp.minimum(1.0, _LARGEST_MEAN_EXP / mean_exp) * jnp.mean(linear(z, clip))


def maclaurin(z: Real[ArrayLike, "*batch"], order: int = 4) -> Float[Array, "*batch"]:
    """Σ_{j=2}^{order} z^j / j!, elementwise: e^z − z − 1 truncated after an even power.

    Raises:
        ValueError: the order is odd or below 2; then the sum is unbounded below, or empty.
    """
    if order < 2 or order % 2:
        raise ValueError(f"order must be even and at least 2, not {order}")
    z = as_float(z)
    # Horner's scheme from the highest power inwards; the innermost factor belongs to z^order.
    total = jnp.ones_like(z)
    for j in range(order, 2, -1):
        total = 1.0 + z / j * total
    return 0.5 * z * z * total


def log(z: Real[ArrayLike, "*batch"], clip: Real[ArrayLike, ""] = 5.0) -> Float[Array, ""]:
    """log(1 + J) for the batch, J the mean of e^x − x − 1 with x = min(z, c): one number.

    Residuals beyond c add a linear term (z − c) with slope (e^c − 1)/(1 + J), held constant, so
    that the gradient is (e^x − 1)/(1 + J)/N for each of them: it neither vanishes nor explodes.
    """
    z, clip = _batch(z, clip)
    beyond = z > clip
    excess = jnp.mean(_excess(jnp.where(beyond, clip, z)))
    slope = jnp.expm1(clip) / (1.0 + jax.lax.stop_gradient(excess))
    return jnp.log1p(excess) + slope * jnp.mean(jnp.where(beyond, z - clip, 0.0))


def official(z: Real[ArrayLike, "*batch"], clip: Real[ArrayLike, ""] = 5.0) -> Float[Array, ""]:
    """The published script's loss: one number for the batch; for reproduction only.

    mean(e^{x−m} − x e^{−m} − e^{−m}) with x = min(z, c) and m = max(max_batch x, −1) held constant.
    Its gradient is exactly zero for every z > c, and biased by the rescaling (see the table above).
    """
    z, clip = _batch(z, clip)
    x = jnp.minimum(z, clip)
    m = jax.lax.stop_gradient(jnp.maximum(jnp.max(x), -1.0))
    return jnp.mean(jnp.exp(x - m) - x * jnp.exp(-m) - jnp.exp(-m))


def diagnostics(z: Real[ArrayLike, "*batch"], clip: Real[ArrayLike, ""] = 5.0) -> Diagnostics:
    """The diagnostics of a batch of residuals; see `Diagnostics`."""
    z, clip = _batch(z, clip)
    z = jax.lax.stop_gradient(z)
    weights = jnp.exp(z - jnp.max(z))
    return Diagnostics(
        beyond_clip=jnp.mean(z > clip, dtype=z.dtype),
        mean_exp=jnp.mean(jnp.exp(jnp.minimum(z, _LARGEST_EXPONENT))),
        effective_sample_size=jnp.mean(weights) ** 2 / jnp.mean(weights**2),
    )


def gumbel_loss(
    residuals: Real[ArrayLike, "*batch"],
    *,
    kind: Kind = "linear",
    clip: Real[ArrayLike, ""] = 5.0,
    order: int = 4,
) -> tuple[Float[Array, ""], Diagnostics]:
    """The mean loss of a batch of residuals z = (x − h)/β, and the batch's diagnostics.

    Args:
        residuals: z, already divided by the temperature; any shape, at least one element.
        kind: which member of the family; see the table above.
        clip: where `linear`, `bounded` and `log` become linear and `official` clips; may be a
            traced array.
        order: of `maclaurin` only, even.

    Raises:
        ValueError: no residuals, an odd order, or an unknown kind.
    """
    residuals, clip = _batch(residuals, clip)
    if kind == "plain":
        loss = jnp.mean(plain(residuals))
    elif kind == "linear":
        loss = jnp.mean(linear(residuals, clip))
    elif kind == "bounded":
        loss = bounded(residuals, clip)
    elif kind == "log":
        loss = log(residuals, clip)
    elif kind == "maclaurin":
        loss = jnp.mean(maclaurin(residuals, order))
    elif kind == "official":
        loss = official(residuals, clip)
    else:
        raise ValueError(f"unknown kind of Gumbel loss: {kind!r}")
    return loss, diagnostics(residuals, clip)

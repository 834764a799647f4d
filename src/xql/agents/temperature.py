"""Temperatures that tune themselves: what `beta="auto"` and `inverse_temperature="auto"` do.

The soft maximum over weights of temperature β is the answer of a constrained problem: maximise the
mean of the differences d = Q − V over distributions within ε nats (KL) of the data. Its multiplier
is the β at which KL(softmax(d/β) ‖ uniform) = ε, so ε has no unit and β has that of the return.
(REPS, Peters et al. 2010; MPO, Abdolmaleki et al. 2018.) MPO descends on the dual; here each batch
is solved, and β is the moving average of its solutions: no learning rate, no initial value, nothing
to wait for.

A soft maximum also lifts V above the mean over the data's actions, by β log mean e^{d/β} − mean d.
A backup adds that at every step, so that over all steps to come it is 1/(1 − γ) times as much; and
what lifts V unevenly spreads d, which makes β larger and the lift too. Where nothing terminates,
values can grow so without end. So the lift over all steps can have a bound of its own: β is then
the least at which neither it nor the KL is beyond its bound.

The solution from N samples depends on N where the tail of d is heavy, so it is taken from the same
number of samples whatever the batch size is.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xql.agents.hyperparameters import Auto, inactive
from xql.agents.types import Number, Scalar

SAMPLES = 256
"""Differences that β is solved from: log 256 = 5.5 nats is the largest KL among them."""

SPREAD = 0.005
"""The least temperature of offline XQL, as a share of Q's standard deviation over the batch."""

AVERAGE_RATE = 0.01
"""Of the moving average of log β: some 100 updates."""

SMALLEST_BETA = 1e-4
"""Of the online agents, in units of E|Q|, whose own rounding is 1e-7: what a critic without any
error gets. Otherwise Q − V or y − Q has the error of Q in it, and β is above it by itself."""

BOUNDS = {"beta": "beta_kl", "inverse_temperature": "policy_kl"}
"""By temperature, the hyperparameter that is the KL of its weights where it is "auto"."""

Temperatures = dict[str, Scalar]
"""Those that tune themselves, in units of return: of V's soft maximum ("value") and of the policy's
weights ("policy"). Empty where none does."""

_SMALLEST = 1e-30  # a temperature of 0 divides
_REACH = 4.0  # β is sought within std(d)·e^{±4}; for normal d that is ε from 2e-4 to log N
_POINTS = 17
_ROUNDS = 3  # each 16 times finer: log β to within 8/16³ = 0.002 before the last interpolation


def initial_temperatures(config: Any) -> Temperatures:
    """A number for each temperature of a configuration that tunes itself; the first batch sets it.

    Args:
        config: of an agent, with its temperatures as `beta` and perhaps `inverse_temperature`.
    """
    names = {"value": "beta", "policy": "inverse_temperature"}
    return {
        which: jnp.ones(())
        for which, name in names.items()
        if isinstance(getattr(config, name, None), Auto) and name not in inactive(config)
    }


def carried_temperatures(state: Any, names: Iterable[str]) -> dict[str, Float[Array, "*members"]]:
    """Those of a state whose configuration changes.

    One that tuned itself goes on as it is, and one that was fixed begins with its number.

    Args:
        state: of one member, or of a population.
        names: those that tune themselves from now on.
    """
    carried = {}
    for name in names:
        if name in state.temperatures:
            carried[name] = state.temperatures[name]
        elif name == "value":
            carried[name] = state.config.beta
        else:
            kappa = state.config.inverse_temperature
            carried[name] = 1 / jnp.where(kappa > 0, kappa, 1.0)  # κ = 0 is no temperature's
    return carried


def activation(config: Any, name: str) -> str:
    """What a hint says first of a bound that nothing is tuned to; empty of anything else.

    Args:
        config: of an agent.
        name: of a hyperparameter without effect in it.
    """
    for temperature, bound in (*BOUNDS.items(), ("beta", "beta_optimism")):
        if bound == name and temperature not in inactive(config):
            return f"give {temperature}=auto, or "
    return ""


def divergence(
    differences: Float[Array, " samples"], beta: Float[Array, "*betas"]
) -> Float[Array, "*betas"]:
    """KL(softmax(d/β) ‖ uniform) in nats, for each β."""
    u = (differences - differences.max()) / jnp.asarray(beta)[..., None]
    weights = jnp.exp(u)
    total = weights.sum(-1)
    return (weights * u).sum(-1) / total - jnp.log(total / len(differences))


def lift(
    differences: Float[Array, " samples"], beta: Float[Array, "*betas"]
) -> Float[Array, "*betas"]:
    """How far the soft maximum β log mean e^{d/β} is above the mean of d, for each β."""
    u = (differences - differences.max()) / jnp.asarray(beta)[..., None]
    # Where β is large, e^u is 1 but for its last digits.
    return beta * (jnp.log1p(jnp.expm1(u).mean(-1)) - u.mean(-1))


def solve_temperature(
    differences: Float[Array, " samples"], kl: Number, most: Number | None = None
) -> Scalar:
    """The β at which the weights softmax(d/β) are `kl` nats from uniform.

    As `gumbel.dual_temperature`, with a fixed amount of work in few steps that do not wait for one
    another: it stands in every update.

    Args:
        differences: d, in any unit.
        kl: ε in nats.
        most: of the `lift`, in the unit of d.

    Returns:
        β in the unit of d: exactly 2^k times as much for 2^k d and `most`; 0 where all d are equal.
        Where even the largest β or the smallest in reach, std(d)·e^{±4}, is not that far, that one;
        a bound on the lift is always in reach.
    """
    deviation = differences.std()
    d = jnp.where(deviation > 0, (differences - differences.mean()) / deviation, 0.0)
    low, high = jnp.float32(-_REACH), jnp.float32(_REACH)
    if most is not None:
        # The lift of a large β is nearly var(d)/2β.
        high = jnp.maximum(high, jnp.log(deviation / most))
    for _ in range(_ROUNDS):
        log_beta = low + (high - low) * jnp.linspace(0.0, 1.0, _POINTS)
        kls = divergence(d, jnp.exp(log_beta))
        if most is not None:
            kls = jnp.maximum(kls, kl * (deviation / most) * lift(d, jnp.exp(log_beta)))
        # Both fall with β: the last point that is too far has the solution on its right.
        at = jnp.clip((kls > kl).sum() - 1, 0, _POINTS - 2)
        low, high = log_beta[at], log_beta[at + 1]
    far, near = kls[at], kls[at + 1]
    part = jnp.where(far > near, (far - kl) / (far - near), 0.0)
    return deviation * jnp.exp(low + jnp.clip(part, 0.0, 1.0) * (high - low))


class Tuned(NamedTuple):
    """A temperature after one more batch, and what the batch's weights are under it."""

    temperature: Scalar
    """In the unit of the differences."""
    kl: Scalar
    """Of softmax(d/temperature) from uniform, in nats."""
    effective_sample_size: Scalar
    """Of these weights: (Σw)²/(N Σw²) in (0, 1]."""
    lift: Scalar
    """Of the soft maximum over the mean, in the unit of the differences."""


def tune(
    temperature: Scalar,
    differences: Float[Array, " batch"],
    kl: Number,
    floor: Number,
    step: Int[Array, ""],
    most: Number | None = None,
) -> Tuned:
    """The moving average of the log of a temperature, one batch on.

    Args:
        temperature: as it was before.
        differences: Q − V of the batch; constants to the gradient.
        kl: ε in nats.
        floor: the least temperature of a batch, in the unit of d, for data in which there is no
            action to prefer: there d is what a network misses of Q, and weights of any KL would
            choose among its errors.
        step: batches before this one. The first sets the temperature, and until the average has
            its length each weighs as in a mean. One without a temperature leaves it as it was.
        most: of the `lift`, in the unit of d.
    """
    d = jax.lax.stop_gradient(differences[:SAMPLES])
    solved = jnp.maximum(solve_temperature(d, kl, most), jax.lax.stop_gradient(floor))
    rate = AVERAGE_RATE / (1.0 - (1.0 - AVERAGE_RATE) ** (step + 1.0))
    # A batch of equal differences, or of one transition, has no temperature: 0 would divide.
    solved = jnp.where(solved > 0, solved, temperature)
    ratio = solved / temperature
    after = jnp.where(step == 0, solved, temperature * ratio**rate)
    after = jnp.maximum(after, _SMALLEST)
    weights = jax.nn.softmax(d / after)
    size = 1.0 / (len(d) * jnp.square(weights).sum())
    return Tuned(after, divergence(d, after), size, lift(d, after))

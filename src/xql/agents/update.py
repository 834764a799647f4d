"""What every update is made of: one optimizer step, target networks, schedules, delayed updates."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree

from xql.agents.types import Metrics, Number, Scalar, Trainable

Schedule = Literal["cosine", "constant"]


def trainable(network: PyTree) -> Trainable:
    """A network with a fresh Adam state: zeros, made by NumPy, for which nothing is compiled."""
    initial = optax.scale_by_adam().init
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(network)):
        # Of shapes alone, NumPy would make arrays, however large.
        return Trainable(network, initial(network))
    shapes = jax.eval_shape(initial, network)
    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)
    return Trainable(network, zeros)


def descend(
    model: Trainable,
    loss: Callable[[Any], tuple[Scalar, Metrics]],
    learning_rate: Number,
    max_gradient_norm: float | None = None,
) -> tuple[Trainable, Metrics]:
    """One Adam step on `loss`, its gradient first scaled down to `max_gradient_norm`, if larger.

    Where mini-batches differ, that moves the fixed point: large gradients are cut and small ones
    are not, so that their mean is zero elsewhere (xql.gumbel.losses).
    """
    gradient, metrics = jax.grad(loss, has_aux=True)(model.network)
    if max_gradient_norm is not None:
        # Norms as dot products: XLA's own sums are slower on a CPU.
        norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient)))
        shrink = jnp.minimum(1.0, max_gradient_norm / norm)
        gradient = jax.tree.map(lambda leaf: leaf * shrink, gradient)
    direction, optimizer = optax.scale_by_adam().update(gradient, model.optimizer)
    network = jax.tree.map(lambda leaf, d: leaf - learning_rate * d, model.network, direction)
    return Trainable(network, optimizer), metrics


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

    All members count their steps together, except diverged ones, which have stayed behind. With an
    answer for each member, `vmap` would turn the branch into a selection and make, at every step,
    the update that is only due at some.
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


def polyak(target: PyTree, online: PyTree, rate: Number) -> PyTree:
    """Move `target` by `rate` of the way to `online`."""
    return jax.tree.map(lambda t, o: t + rate * (o - t), target, online)


def decay(schedule: Schedule, step: Int[Array, ""], total: int) -> Scalar:
    """The factor on a learning rate at `step`: 1, or a half cosine that falls to 0 at `total`."""
    if schedule == "constant":
        return jnp.ones(())
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / total, 1.0)))


@functools.cache
def bind(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """`function` with its first arguments given; the same object for the same arguments.

    JAX compiles once for each function object.
    """
    return functools.partial(function, *arguments)

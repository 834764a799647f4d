"""What every function here does with its arguments first: whole numbers become floats."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real


def as_float(values: Real[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """The same numbers as a JAX array of floats; whole numbers in JAX's default float.

    Raises:
        TypeError: they are no real numbers.
    """
    if isinstance(values, jax.Array):
        if jnp.issubdtype(values.dtype, jnp.floating):
            return values
        _require_real(values.dtype)
        return values.astype(jnp.result_type(float))
    host = np.asarray(values)
    if jnp.issubdtype(host.dtype, jnp.floating):
        return jnp.asarray(values)
    _require_real(host.dtype)
    # Made floats before they are JAX's, whose default whole numbers have 32 bits.
    return jnp.asarray(host.astype(np.float64))


def _require_real(dtype: Any) -> None:
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)):
        raise TypeError(f"these must be real numbers, not {dtype}")


def require_values(values: Float[Array, "..."], name: str) -> None:
    """Refuse an empty array where a mean or a maximum is taken.

    Raises:
        ValueError: it is empty.
    """
    if values.size == 0:
        raise ValueError(f"{name} must hold at least one number, but its shape is {values.shape}")


def require_positive(value: Real[ArrayLike, "..."], name: str) -> None:
    """Refuse what is 0, negative or NaN; a traced array is not looked at.

    Raises:
        ValueError: it is.
    """
    if isinstance(value, jax.core.Tracer):
        return
    numbers = np.asarray(value)
    wrong = ~(numbers > 0)
    if wrong.any():
        raise ValueError(f"{name} must be positive, not {numbers[wrong][0]:g}")

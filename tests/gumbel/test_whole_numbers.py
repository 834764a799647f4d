"""Whole numbers give what the same numbers as floats give, in every function of arrays."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xql import gumbel
from xql.gumbel import losses, operators

SHAPE = (2, 4)

# Each takes values, positive numbers and weights of one kind, and gives arrays.
CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "log_mean_exp": lambda x, beta, w: operators.log_mean_exp(x, beta, -1, w),
    "log_sum_exp": lambda x, beta, w: operators.log_sum_exp(x, beta, -1, w),
    "log_partition": lambda x, beta, w: operators.log_partition(x, beta, w),
    "soft_value": lambda x, beta, w: operators.soft_value(x, beta, w),
    "soft_policy": lambda x, beta, w: operators.soft_policy(x, beta, w),
    "dual_temperature": lambda x, beta, w: operators.dual_temperature(x, beta, -1, w),
    "plain": lambda x, beta, w: losses.plain(x),
    "linear": lambda x, beta, w: losses.linear(x, beta),
    "bounded": lambda x, beta, w: losses.bounded(x, beta),
    "log": lambda x, beta, w: losses.log(x, beta),
    "official": lambda x, beta, w: losses.official(x, beta),
    "maclaurin": lambda x, beta, w: losses.maclaurin(x, 6),
    "diagnostics": lambda x, beta, w: losses.diagnostics(x, beta),
    "gumbel_loss": lambda x, beta, w: [
        losses.gumbel_loss(x, kind=kind, clip=beta)
        for kind in ("plain", "linear", "bounded", "log", "maclaurin", "official")
    ],
}
ELSEWHERE = {"fit_errors", "plot_fits", "draw_fits", "gumbel_deviance"}
"""Of NumPy in float64: tested beside what they are for."""


def test_no_public_function_is_left_out() -> None:
    public = {
        name
        for module in (gumbel, operators, losses)
        for name, found in inspect.getmembers(module, inspect.isfunction)
        if found.__module__ in ("xql.gumbel.operators", "xql.gumbel.losses", "xql.gumbel.errors")
        and not name.startswith("_")
    }
    assert public - ELSEWHERE == set(CALLS)


whole = st.lists(st.integers(-30, 30), min_size=8, max_size=8)
positive = st.lists(st.integers(0, 9), min_size=8, max_size=8)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8])
@settings(max_examples=4, deadline=None)
@given(values=whole, beta=st.integers(1, 20), weights=positive)
def test_whole_numbers_are_floats(
    name: str, dtype: Any, values: list[int], beta: int, weights: list[int]
) -> None:
    x = np.reshape(values, SHAPE).astype(dtype)
    w = np.reshape(weights, SHAPE) + np.eye(*SHAPE, dtype=int)
    real = CALLS[name](x.astype(np.float32), float(beta), w.astype(np.float32))
    found = CALLS[name](x, beta, w)
    on_device = CALLS[name](jnp.asarray(x), np.int64(beta), jnp.asarray(w))
    for one in (found, on_device):
        jax.tree.map(np.testing.assert_array_equal, one, real)
        assert {leaf.dtype for leaf in jax.tree.leaves(one)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", CALLS)
def test_numbers_beyond_32_bits_keep_their_value(name: str) -> None:
    x = np.asarray([[3_000_000_000, 1], [-5_000_000_000, 2]])
    w = np.ones_like(x)
    real = CALLS[name](x.astype(np.float64), 4e9, w.astype(np.float64))
    jax.tree.map(np.testing.assert_array_equal, CALLS[name](x, 4_000_000_000, w), real)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("numpy_rank_promotion", "raise"),
        ("numpy_dtype_promotion", "strict"),
        ("debug_nans", True),
    ],
)
def test_flags_of_the_users_program_change_nothing(name: str, flag: str, value: Any) -> None:
    x = np.asarray([[1.5, -2.0, 3.0], [0.0, 0.5, 7.0]], np.float32)
    weights = np.asarray([0.2, 0.3, 0.5])
    expected = CALLS[name](x, np.float64(2.0), weights)
    with getattr(jax, flag)(value):
        found = CALLS[name](x, np.float64(2.0), weights)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_where_float64_is_on_it_is_kept() -> None:
    x = np.asarray([1.0, 2.0, 4.0])
    with jax.enable_x64(True):
        found = operators.log_mean_exp(x, 1)
        assert found.dtype == operators.log_mean_exp(np.asarray([1, 2, 4]), 1).dtype == np.float64
        single = operators.log_mean_exp(x.astype(np.float32), np.float64(1.0))
    assert single.dtype == np.float32
    assert float(found) == pytest.approx(float(np.log(np.exp(x).mean())), rel=1e-14)

"""Extreme-value statistics, useful without reinforcement learning.

`operators` computes soft maxima exactly, `losses` has the losses that estimate them from samples,
`regression` is a scikit-learn estimator, `errors` fits distributions to a set of errors.
"""

from typing import TYPE_CHECKING, Any

from xql.gumbel.errors import ErrorFits, Fit, draw_fits, fit_errors, plot_fits
from xql.gumbel.losses import Diagnostics, Kind, gumbel_loss
from xql.gumbel.operators import (
    dual_temperature,
    log_mean_exp,
    log_partition,
    log_sum_exp,
    soft_policy,
    soft_value,
)

if TYPE_CHECKING:
    from xql.gumbel.regression import GumbelRegressor, gumbel_deviance

__all__ = [
    "Diagnostics",
    "ErrorFits",
    "Fit",
    "GumbelRegressor",
    "Kind",
    "draw_fits",
    "dual_temperature",
    "fit_errors",
    "gumbel_deviance",
    "gumbel_loss",
    "log_mean_exp",
    "log_partition",
    "log_sum_exp",
    "plot_fits",
    "soft_policy",
    "soft_value",
]


def __getattr__(name: str) -> Any:
    """Import the estimator and its metric at first use: they alone need scikit-learn."""
    if name not in ("GumbelRegressor", "gumbel_deviance"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xql.gumbel import regression

    return getattr(regression, name)

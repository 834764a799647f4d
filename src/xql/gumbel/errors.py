"""Which distribution do errors follow? Gumbel of either skew, normal and logistic, by likelihood.

Extreme Q-Learning is often motivated by errors that are Gumbel, others argue for the logistic (the
difference of two Gumbels). Neither is needed for the Gumbel loss to find the soft maximum, but one
may want to look.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


def _families() -> dict[str, Any]:
    """The scipy distribution of each name; imported here, for scipy.stats takes half a second."""
    from scipy import stats

    return {
        "gumbel, right-skewed": stats.gumbel_r,
        "gumbel, left-skewed": stats.gumbel_l,
        "normal": stats.norm,
        "logistic": stats.logistic,
    }


class Fit(NamedTuple):
    """One family, fitted by maximum likelihood.

    Attributes:
        name: "gumbel, right-skewed", "gumbel, left-skewed", "normal" or "logistic".
        location, scale: the two fitted parameters, in the unit of the errors.
        log_likelihood: natural logarithm, summed over the errors.
        aic: 2 · 2 − 2 · log_likelihood; smaller is better.
        ks_statistic: the largest gap between the empirical and the fitted distribution function.
        ks_pvalue: of that gap as if the parameters had been known beforehand; since they were
            fitted to the same errors it is too large: a small one rejects, a large one proves
            nothing.
    """

    name: str
    location: float
    scale: float
    log_likelihood: float
    aic: float
    ks_statistic: float
    ks_pvalue: float


class ErrorFits(NamedTuple):
    """The fits of all families, best first (largest likelihood; all have two parameters)."""

    fits: tuple[Fit, ...]

    @property
    def best(self) -> Fit:
        """The family of the largest likelihood."""
        return self.fits[0]


def fit_errors(errors: Float[np.ndarray, "..."]) -> ErrorFits:
    """Fit every family to the errors.

    Args:
        errors: at least two distinct finite numbers, any shape.

    Raises:
        ValueError: an error is NaN or infinite (the first is named), or all are equal.
    """
    from scipy import stats

    errors = np.asarray(errors, dtype=np.float64).ravel()
    finite = np.isfinite(errors)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(f"error {first} is {errors[first]}; remove what is not finite")
    if errors.size < 2 or np.ptp(errors) == 0:
        raise ValueError("errors must hold at least two distinct numbers: no scale can be fitted")
    # Fitted in standard units: scipy's root finders start at the unit scale.
    center, spread = float(errors.mean()), float(errors.std())
    fits = []
    for name, family in _families().items():
        location, scale = family.fit((errors - center) / spread)
        location, scale = center + spread * float(location), spread * float(scale)
        likelihood = float(family.logpdf(errors, location, scale).sum())
        test = stats.kstest(errors, family.cdf, args=(location, scale))
        fits.append(
            Fit(
                name,
                location,
                scale,
                likelihood,
                4.0 - 2.0 * likelihood,
                float(test.statistic),
                float(test.pvalue),
            )
        )
    return ErrorFits(tuple(sorted(fits, key=lambda fit: -fit.log_likelihood)))


def plot_fits(errors: Float[np.ndarray, "..."], fits: ErrorFits, path: Path) -> Path:
    """Draw the histogram of the errors and every fitted density, and save it.

    Args:
        errors: as given to `fit_errors`.
        fits: what it returned.
        path: where to write; the suffix chooses the format (.png, .svg, .pdf).

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ImportError("matplotlib is not installed; run: pip install 'xql[report]'") from None
    errors = np.asarray(errors, dtype=np.float64).ravel()
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(errors, bins="fd", density=True, color="0.85", label=f"{errors.size} errors")
    grid = np.linspace(errors.min(), errors.max(), 400)
    families = _families()
    for fit in fits.fits:
        density = families[fit.name].pdf(grid, fit.location, fit.scale)
        axes.plot(grid, density, label=f"{fit.name} (AIC {fit.aic:.0f})")
    axes.set(xlabel="error", ylabel="density", title=f"best: {fits.best.name}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return path

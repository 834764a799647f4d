"""Fits of Gumbel (either skew), normal and logistic distributions to errors, by likelihood.

Extreme Q-Learning is often motivated by Gumbel-distributed errors; others argue for the logistic
(the difference of two Gumbels). The Gumbel loss finds the soft maximum under any distribution.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Real

from xql.errors import require_matplotlib
from xql.files import save_figure


def _families() -> dict[str, Any]:
    """The scipy distribution of each name; imported here because scipy.stats takes 0.5 s."""
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
        ks_pvalue: p-value of that gap for parameters fixed in advance. They were fitted to the
            same errors, so it is too large: a small one rejects, a large one shows nothing.
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

    def named(self, name: str) -> Fit:
        """The fit of one family, a name of `LAWS`."""
        return next(fit for fit in self.fits if fit.name == name)


def fit_errors(errors: Real[np.ndarray, "..."]) -> ErrorFits:
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


SHOWN = 0.99
"""The middle share of the errors that is drawn: a few outliers would compress the rest."""
_COLORS = {
    "gumbel, right-skewed": "#b23a48",
    "gumbel, left-skewed": "#e08e45",
    "normal": "#0b3c5d",
    "logistic": "#2a9d8f",
}
LAWS = tuple(_COLORS)
"""The names of the families, in the order in which they are drawn."""


def draw_fits(axes: Any, errors: Real[np.ndarray, "..."], fits: ErrorFits) -> None:
    """Draw the histogram of the errors' middle 99 % and every fitted density on matplotlib axes.

    Args:
        axes: matplotlib axes.
        errors: as passed to `fit_errors`. The histogram is normalised over all of them, so that
            its heights are comparable with the densities.
        fits: what `fit_errors` returned.
    """
    errors = np.asarray(errors, dtype=np.float64).ravel()
    low, high = np.quantile(errors, [(1 - SHOWN) / 2, (1 + SHOWN) / 2])
    if low == high:
        low, high = errors.min(), errors.max()
    heights, edges = np.histogram(errors, bins=60, range=(low, high))
    axes.stairs(heights / (errors.size * np.diff(edges)), edges, fill=True, color="0.85")
    grid = np.linspace(low, high, 400)
    families = _families()
    for name, color in _COLORS.items():
        fit = fits.named(name)
        density = families[name].pdf(grid, fit.location, fit.scale)
        axes.plot(grid, density, color=color, lw=1.6, label=name)
    axes.set(xlabel="error", ylabel="density", xlim=(low, high), ylim=(0, None))
    axes.locator_params(axis="x", nbins=6)
    axes.spines[["top", "right"]].set_visible(False)


def plot_fits(errors: Real[np.ndarray, "..."], fits: ErrorFits, path: Path) -> Path:
    """Draw the histogram of the errors and every fitted density, and save it.

    Args:
        errors: as passed to `fit_errors`.
        fits: what `fit_errors` returned.
        path: file to write; the suffix chooses the format (.png, .svg, .pdf).

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    draw_fits(axes, errors, fits)
    axes.set_title(f"{np.size(errors)} errors, their middle {SHOWN:.0%}; best: {fits.best.name}")
    axes.legend(frameon=False)
    return save_figure(figure, path, dpi=150)

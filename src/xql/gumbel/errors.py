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


LARGEST = 1e150
"""Of an error: beyond about 1e154 a square overflows a float64."""


class ErrorFits(NamedTuple):
    """The fits of all families, best first (largest likelihood; all have two parameters)."""

    fits: tuple[Fit, ...]

    @property
    def best(self) -> Fit:
        """The family of the largest likelihood."""
        return self.fits[0]

    def named(self, name: str) -> Fit:
        """The fit of one family, a name of `DISTRIBUTIONS`."""
        return next(fit for fit in self.fits if fit.name == name)


def fit_errors(
    errors: Real[np.ndarray, "..."], window: tuple[float, float] | None = None
) -> ErrorFits:
    """Fit every family to the errors.

    Args:
        errors: at least two distinct finite numbers, any shape.
        window: the errors are clipped to it before they are fitted: those beyond it are moved to
            its ends, where they are point masses that no family has. All the fit's numbers are of
            the clipped errors, and so depend on the window. None fits the errors as they are.

    Raises:
        ValueError: an error is NaN or infinite (the first is named) or beyond 1e150, all are equal
            up to rounding (within the window, if there is one), or the window is empty.
    """
    from scipy import stats

    errors = np.asarray(errors, dtype=np.float64).ravel()
    finite = np.isfinite(errors)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(f"error {first} is {errors[first]}; remove what is not finite")
    largest = float(np.abs(errors).max(initial=0.0))
    if largest > LARGEST:
        raise ValueError(f"an error of {largest:.3g} is too large, rescale them below {LARGEST:g}")
    if window is not None:
        if not window[0] < window[1]:
            raise ValueError(f"window {window} is empty; its first end must be the lower one")
        errors = np.clip(errors, *window)
    if errors.size < 2 or np.ptp(errors) == 0:
        raise ValueError("errors must hold at least two distinct numbers: no scale can be fitted")
    # Fitted in standard units: scipy's root finders start at the unit scale.
    center, spread = float(errors.mean()), float(errors.std())
    if not spread > 0:
        raise ValueError("errors are too close to each other: their standard deviation is 0")
    fits = []
    for name, family in _families().items():
        # A start at the mean as it comes out, some 1e-17, leaves scipy's logistic location there:
        # its first steps are relative to the start.
        location, scale = family.fit((errors - center) / spread, loc=0.0)
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
_STYLES = {
    "gumbel, right-skewed": ("#d55e00", "-"),
    "gumbel, left-skewed": ("#e69f00", (0, (5, 1.5))),
    "normal": ("#0072b2", (0, (1, 1))),
    "logistic": ("#000000", (0, (4, 1, 1, 1))),
}
"""Colours of Okabe and Ito, which colour-blind readers can tell apart, and dashes."""
DISTRIBUTIONS = tuple(_STYLES)
"""The names of the families, in the order in which they are drawn."""


def densities(
    fits: ErrorFits, at: Real[np.ndarray, " points"]
) -> dict[str, Real[np.ndarray, " points"]]:
    """The fitted density of every family at some points, in the order of `DISTRIBUTIONS`."""
    families, chosen = _families(), {name: fits.named(name) for name in DISTRIBUTIONS}
    return {name: families[name].pdf(at, one.location, one.scale) for name, one in chosen.items()}


def draw_fits(
    axes: Any,
    errors: Real[np.ndarray, "..."],
    fits: ErrorFits,
    window: tuple[float, float] | None = None,
) -> None:
    """Draw the histogram of the errors and every fitted density on matplotlib axes.

    Args:
        axes: matplotlib axes.
        errors: as passed to `fit_errors`. The histogram is normalised over all of them, so that
            its heights are comparable with the densities.
        fits: what `fit_errors` returned.
        window: as passed to `fit_errors`. What lies within is drawn, and the share of the errors
            that was moved to each end stands there in per cent; without it, the middle 99 %.
    """
    errors = np.asarray(errors, dtype=np.float64).ravel()
    low, high = window or np.quantile(errors, [(1 - SHOWN) / 2, (1 + SHOWN) / 2])
    if low == high:
        low, high = errors.min(), errors.max()
    heights, edges = np.histogram(errors, bins=60, range=(low, high))
    axes.stairs(heights / (errors.size * np.diff(edges)), edges, fill=True, color="0.85")
    grid = np.linspace(low, high, 400)
    for name, density in densities(fits, grid).items():
        color, dashes = _STYLES[name]
        axes.plot(grid, density, color=color, ls=dashes, lw=1.4, label=name)
    axes.set(xlabel="error", ylabel="density", xlim=(low, high), ylim=(0, None))
    axes.locator_params(axis="x", nbins=6)
    axes.spines[["top", "right"]].set_visible(False)
    if window is not None:
        axes.set_ylim(top=1.12 * axes.get_ylim()[1])
        for side, place, share in (
            ("left", 0.02, f"← {(errors < low).mean():.0%}"),
            ("right", 0.98, f"{(errors > high).mean():.0%} →"),
        ):
            axes.text(place, 0.99, share, transform=axes.transAxes, ha=side, va="top", fontsize=7)


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

    figure = Figure(figsize=(4.5, 2.9), layout="constrained")
    axes = figure.subplots()
    draw_fits(axes, errors, fits)
    axes.set_title(
        f"{np.size(errors)} errors, their middle {SHOWN:.0%}; best: {fits.best.name}", fontsize=9
    )
    axes.legend(frameon=False, fontsize=8)
    return save_figure(figure, path, dpi=200)

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from xql.gumbel import fit_errors, plot_fits

DISTRIBUTIONS: dict[str, Any] = {
    "gumbel, right-skewed": stats.gumbel_r,
    "gumbel, left-skewed": stats.gumbel_l,
    "normal": stats.norm,
    "logistic": stats.logistic,
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_recovers_the_distribution_that_made_the_errors(name: str) -> None:
    errors = DISTRIBUTIONS[name].rvs(300.0, 0.02, size=4000, random_state=np.random.default_rng(0))
    found = fit_errors(errors)
    assert found.best.name == name
    assert found.best.location == pytest.approx(300.0, abs=2e-3)
    assert found.best.scale == pytest.approx(0.02, rel=0.05)
    assert found.best.ks_pvalue > 0.05
    assert [fit.aic for fit in found.fits] == sorted(fit.aic for fit in found.fits)


def test_the_normal_fit_by_hand() -> None:
    # Mean 0, variance 1: log L = -2 (log 2π + 1); the largest gap lies below -1: Φ(-1) = .158655
    # against 1/2 just above it.
    normal = {fit.name: fit for fit in fit_errors(np.asarray([-1.0, -1.0, 1.0, 1.0])).fits}[
        "normal"
    ]
    assert normal.location == pytest.approx(0.0, abs=1e-9)
    assert normal.scale == pytest.approx(1.0)
    assert normal.log_likelihood == pytest.approx(-2 * (np.log(2 * np.pi) + 1))
    assert normal.aic == pytest.approx(4 + 4 * (np.log(2 * np.pi) + 1))
    assert normal.ks_statistic == pytest.approx(0.341345, abs=1e-5)


@pytest.mark.parametrize("seed", [4, 6])
def test_the_logistic_fit_of_clipped_errors_is_the_likeliest(seed: int) -> None:
    errors = np.clip(np.random.default_rng(seed).gumbel(size=2000), -1.0, 1.5)
    fit = fit_errors(errors).named("logistic")
    z = (errors - fit.location) / fit.scale
    # The slopes of the mean log-likelihood in the location and in the scale, times the scale.
    assert np.tanh(z / 2).mean() == pytest.approx(0.0, abs=1e-6)
    assert (z * np.tanh(z / 2)).mean() - 1 == pytest.approx(0.0, abs=1e-6)


def test_a_window_clips_the_errors_before_they_are_fitted() -> None:
    errors = np.random.default_rng(0).normal(size=500)
    assert fit_errors(errors, (-0.5, 1.0)) == fit_errors(np.clip(errors, -0.5, 1.0))
    assert fit_errors(errors, (-9.0, 9.0)) == fit_errors(errors)
    with pytest.raises(ValueError, match="is empty; its first end must be the lower one"):
        fit_errors(errors, (1.0, -0.5))
    with pytest.raises(ValueError, match="at least two distinct numbers"):
        fit_errors(errors, (8.0, 9.0))


def test_unusable_errors_are_named() -> None:
    with pytest.raises(ValueError, match="error 2 is nan; remove what is not finite"):
        fit_errors(np.asarray([0.0, 1.0, np.nan]))
    with pytest.raises(ValueError, match="at least two distinct numbers"):
        fit_errors(np.full(10, 3.0))
    for few in (np.asarray([1.0]), np.asarray([])):
        with pytest.raises(ValueError, match="at least two distinct numbers"):
            fit_errors(few)


def test_whole_numbers_are_errors_too() -> None:
    errors = np.asarray([-3, 0, 1, 1, 4, 3_000_000_000])
    assert fit_errors(errors) == fit_errors(errors.astype(np.float64))


def test_plot_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    errors = np.random.default_rng(0).gumbel(size=500)
    path = plot_fits(errors, fit_errors(errors), tmp_path / "errors.png")
    assert path.read_bytes().startswith(b"\x89PNG")

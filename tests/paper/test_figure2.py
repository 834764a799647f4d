import csv

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from xql.errors import InputError
from xql.paper.figure2 import densities, figure2, regression


def test_densities_integrate_to_one_and_peak_at_zero():
    columns = densities(4001)
    for name, density in columns.items():
        if name == "x":
            continue
        beta = float(name.split("=")[1])
        assert density.max() == pytest.approx(np.exp(-1.0) / beta, rel=1e-4)
        # What lies beyond the drawn -4 … 10, by the distribution function e^{-e^{-x/β}}.
        missing = np.exp(-np.exp(4.0 / beta)) + 1.0 - np.exp(-np.exp(-10.0 / beta))
        assert np.trapezoid(density, columns["x"]) + missing == pytest.approx(1.0, abs=1e-5)


def test_regression_finds_the_true_soft_maximum():
    _, curves = regression(seed=1)
    inner = np.abs(curves["x"]) < 0.9
    for beta, tolerance in (("0.1", 0.04), ("0.25", 0.02), ("2", 0.02)):
        error = curves[f"fit β={beta}"] - curves[f"truth β={beta}"]
        assert np.abs(error[inner]).mean() < tolerance


def test_the_figure_and_its_curves_are_written_once(tmp_path):
    path = figure2(tmp_path / "new", seed=0)
    assert path.read_bytes().startswith(b"\x89PNG")
    for name in ("densities", "losses", "samples", "regression"):
        with (path.parent / f"figure2_{name}.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
        assert len(rows) > 200
        assert np.isfinite(np.asarray(rows[1:], float)).all()
    with pytest.raises(InputError, match="the figure exists; name another folder"):
        figure2(tmp_path / "new")

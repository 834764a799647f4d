import csv
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from xql.errors import InputError
from xql.experiments.figure2 import densities, figure2


def test_densities_integrate_to_one_and_peak_at_zero() -> None:
    columns = densities(4001)
    for name, density in columns.items():
        if name == "x":
            continue
        beta = float(name.split("=")[1])
        assert density.max() == pytest.approx(np.exp(-1.0) / beta, rel=1e-4)
        # What lies beyond the drawn -4 … 10, by the distribution function e^{-e^{-x/β}}.
        missing = np.exp(-np.exp(4.0 / beta)) + 1.0 - np.exp(-np.exp(-10.0 / beta))
        assert np.trapezoid(density, columns["x"]) + missing == pytest.approx(1.0, abs=1e-5)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figure, with the tables of its curves beside it."""
    return figure2(tmp_path_factory.mktemp("figure") / "new", seed=1)


def test_regression_finds_the_true_soft_maximum(drawn: Path) -> None:
    text = drawn.with_name("figure2_regression.csv").read_text(encoding="utf-8")
    head, *rows = csv.reader(text.splitlines())
    curves = dict(zip(head, np.asarray(rows, float).T, strict=True))
    inner = np.abs(curves["x"]) < 0.9
    for beta, tolerance in (("0.1", 0.04), ("0.25", 0.02), ("2", 0.02)):
        error = curves[f"fit β={beta}"] - curves[f"truth β={beta}"]
        assert np.abs(error[inner]).mean() < tolerance


def test_the_figure_and_its_curves_are_written_once(drawn: Path) -> None:
    assert drawn.read_bytes().startswith(b"\x89PNG")
    for name in ("densities", "losses", "samples", "regression"):
        with (drawn.parent / f"figure2_{name}.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
        assert len(rows) > 200
        assert np.isfinite(np.asarray(rows[1:], float)).all()
    with pytest.raises(InputError, match=r"figure2.png: the file exists; name another folder"):
        figure2(drawn.parent)


@pytest.mark.parametrize("name", ["densities", "losses", "samples", "regression"])
def test_no_table_is_written_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"figure2_{name}.csv"
    path.write_text("mine")
    with pytest.raises(InputError) as error:
        figure2(tmp_path)
    assert str(error.value) == f"{path}: the file exists; name another folder"
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(path.name, "mine")]


def test_a_folder_and_a_seed_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "new"):
        with pytest.raises(InputError, match=r"no figure can be written here \(.*file is a file\)"):
            figure2(out)
    with pytest.raises(InputError, match="`seed=-1` is no seed; give a number from 0 to"):
        figure2(tmp_path / "new", seed=-1)
    assert not (tmp_path / "new").exists()

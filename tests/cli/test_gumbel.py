import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from xql.cli import gumbel
from xql.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = X @ [2.0, -1.0] + 0.5 + rng.normal(0.0, 0.1, 200)
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["a", "b", "y"], *np.c_[X, y].tolist()])
    return path


# By hand: e^1.5, e^3, e^4.5, e^6 and e^7.5 sum to Z = 2326.05557, whose logarithm is 7.75193.
TERMS = """
1 1.5    4.48169 0.00193 7.75193
2 3.0   20.08554 0.00864 7.75193
3 4.5   90.01713 0.03870 7.75193
4 6.0  403.42879 0.17344 7.75193
5 7.5 1808.04241 0.77730 7.75193
"""


def test_demo_prints_every_term_of_the_log_partition(capsys: pytest.CaptureFixture[str]) -> None:
    gumbel.demo()
    out = capsys.readouterr().out
    heading = next(line for line in out.splitlines() if "exp f" in line and "Σ" not in line)
    assert re.split(r"\s{2,}", heading.strip()) == [
        "x",
        "f(x, θ)",
        "exp f",
        "p_θ(x)",
        "log(exp f / p_θ)",
    ]
    rows = [line.split() for line in out.splitlines()]
    for term in TERMS.strip().splitlines():
        assert term.split() in rows


@pytest.mark.parametrize("how", ["expected value", "log-partition", "Gumbel regression"])
def test_demo_prints_the_log_partition_computed_three_ways(
    capsys: pytest.CaptureFixture[str], how: str
) -> None:
    gumbel.demo()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line.startswith(f"{how} 7.75193 ")]


def test_demo_prints_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    gumbel.demo()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    # The mean form goes from the maximum, 5, to the mean, 3; the sum form is β log 5 above it.
    # log(Σ e^(x−5)/5) = log 0.3142629 = −1.157525 at β = 1.
    assert ["0.01", "4.98391", "5.00"] in rows
    assert ["1", "3.84248", "5.45"] in rows
    assert ["1,000,000", "3.00000", "1609441.00"] in rows


def test_demo_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    gumbel.demo()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines if "x = 1" not in line)


def test_fit_prints_the_coefficients_and_writes_the_predictions(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "predictions.csv"
    gumbel.fit(file, target="y", features="a, b", beta=0.1, out=out)
    printed = capsys.readouterr().out
    assert "coefficient of a" in printed
    assert "E[e^z] (1 at the optimum)" in printed
    assert "1.000000" in printed
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 200
    z = np.asarray([float(row["y"]) - float(row["prediction"]) for row in rows]) / 0.1
    assert np.exp(z).mean() == pytest.approx(1.0, abs=1e-9)


def test_an_existing_output_is_left_alone(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "precious.csv"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"precious.csv: the file exists; choose a new name"):
        gumbel.fit(file, target="y", features="a,b", out=out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("alpha,y\n1,2\n", {"features": "alpah"}, "no column 'alpah'; did you mean 'alpha'?"),
        ("a,y\n1,2\n3,nan\n", {}, "line 3, column y: 'nan' is not a finite number"),
        ("a,y\n1,2\nx,2\n", {}, "line 3, column a: 'x' is not a finite number"),
        ("a,y\n1,2\n3\n", {}, "line 3, column y: '' is not a finite number"),
        ("a,y\n", {}, "there are no rows below the header"),
        ("", {}, "there is no column 'a'"),
        (
            "a,y\n1,2\n",
            {"beta": 0.0},
            "--beta: 0 is not a valid temperature; give a finite number above 0",
        ),
        (
            "a,y\n1,2\n",
            {"beta": float("inf")},
            "--beta: inf is not a valid temperature; give a finite number above 0",
        ),
        (
            "a,y\n1,2\n",
            {"beta": float("nan")},
            "--beta: nan is not a valid temperature; give a finite number above 0",
        ),
        ("a,y\n1,2\n", {"seed": -1}, "`seed=-1` is no seed; give a number from 0"),
        (
            "a,y\n1,2\n",
            {"features": ","},
            "--features: no column is named; separate names by commas: a,b",
        ),
    ],
)
def test_bad_input_gives_a_one_line_error(
    tmp_path: Path, text: str, arguments: dict[str, Any], message: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        gumbel.fit(path, **{"target": "y", "features": "a", **arguments})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unwritable_output_is_an_error_before_any_work(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nodir" / "x.csv"
    with pytest.raises(InputError) as error:
        gumbel.fit(file, target="y", features="a,b", out=out)
    assert str(error.value) == f"{out}: there is no folder '{tmp_path / 'nodir'}'; create it"
    plot = tmp_path / "nodir" / "x.png"
    with pytest.raises(InputError, match=r"x.png: there is no folder '.*nodir'; create it"):
        gumbel.errors(file, column="y", plot=plot)
    plot = tmp_path / "x.xyz"
    with pytest.raises(InputError) as error:
        gumbel.errors(file, column="y", plot=plot)
    line = f"{plot}: '.xyz' is not a supported figure format; choose from .png, .svg, .pdf"
    assert str(error.value) == line
    assert capsys.readouterr().out == ""


def test_a_missing_and_a_binary_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file; check the path"):
        gumbel.fit(tmp_path / "none.csv", target="y", features="a")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(InputError, match="not a CSV text file"):
        gumbel.fit(binary, target="y", features="a")


def test_errors_names_the_best_family_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "errors.csv"
    values = np.random.default_rng(0).gumbel(size=1000)
    path.write_text("error\n" + "\n".join(map(str, values)))
    gumbel.errors(path, plot=tmp_path / "errors.svg")
    out = capsys.readouterr().out
    names = ("gumbel, right-skewed", "gumbel, left-skewed", "normal", "logistic")
    assert min(names, key=out.index) == names[0]
    assert "location" in out
    assert "…" not in out
    assert (tmp_path / "errors.svg").exists()
    constant = tmp_path / "constant.csv"
    constant.write_text("error\n1\n1\n")
    with pytest.raises(InputError, match="column error: errors must hold at least two distinct"):
        gumbel.errors(constant)

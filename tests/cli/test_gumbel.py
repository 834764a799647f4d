import csv

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from xql.cli import gumbel
from xql.errors import InputError


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = X @ [2.0, -1.0] + 0.5 + rng.normal(0.0, 0.1, 200)
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["a", "b", "y"], *np.c_[X, y].tolist()])
    return path


def test_demo_prints_every_term_and_both_totals(capsys):
    gumbel.demo()
    out = capsys.readouterr().out
    assert out.count("7.75193") >= 4  # the last partial sum, both totals, and the caption
    for term in ("4.48169", "20.08554", "90.01713", "403.42879", "1808.04241", "2326.05557"):
        assert term in out
    assert "3.00000" in out  # the mean form at β = 1e6
    assert "1609441.0" in out  # and the sum form there


def test_fit_prints_the_coefficients_and_writes_the_predictions(file, tmp_path, capsys):
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


def test_an_existing_output_is_left_alone(file, tmp_path):
    out = tmp_path / "precious.csv"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"precious.csv: the file exists; name a new one"):
        gumbel.fit(file, target="y", features="a,b", out=out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("alpha,y\n1,2\n", {"features": "alpah"}, "no column 'alpah'; did you mean 'alpha'?"),
        ("a,y\n1,2\n3,nan\n", {}, "line 3, column y: 'nan' is no finite number"),
        ("a,y\n1,2\nx,2\n", {}, "line 3, column a: 'x' is no finite number"),
        ("a,y\n1,2\n3\n", {}, "line 3, column y: '' is no finite number"),
        ("a,y\n", {}, "there is no row below the header"),
        ("", {}, "there is no column 'a'"),
        ("a,y\n1,2\n", {"beta": 0.0}, "--beta: 0 is no temperature; give one above 0"),
        ("a,y\n1,2\n", {"beta": float("inf")}, "--beta: inf is no temperature; give one above 0"),
        ("a,y\n1,2\n", {"beta": float("nan")}, "--beta: nan is no temperature; give one above 0"),
        ("a,y\n1,2\n", {"seed": -1}, "--seed -1 is no seed; give a number from 0 to 4294967295"),
        ("a,y\n1,2\n", {"features": ","}, "--features: no column is named; give some: a,b"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path, text, arguments, message):
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        gumbel.fit(path, **{"target": "y", "features": "a", **arguments})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_where_nothing_can_be_written_is_told_before_any_work(file, tmp_path, capsys):
    out = tmp_path / "nodir" / "x.csv"
    with pytest.raises(InputError) as error:
        gumbel.fit(file, target="y", features="a,b", out=out)
    assert str(error.value) == f"{out}: there is no folder '{tmp_path / 'nodir'}'; make it"
    plot = tmp_path / "nodir" / "x.png"
    with pytest.raises(InputError, match=r"x.png: there is no folder '.*nodir'; make it"):
        gumbel.errors(file, column="y", plot=plot)
    plot = tmp_path / "x.xyz"
    with pytest.raises(InputError) as error:
        gumbel.errors(file, column="y", plot=plot)
    line = f"{plot}: '.xyz' is no type of figure; end its name in .png, .svg, .pdf"
    assert str(error.value) == line
    assert capsys.readouterr().out == ""


def test_a_missing_and_a_binary_file(tmp_path):
    with pytest.raises(InputError, match="there is no such file; check the path"):
        gumbel.fit(tmp_path / "none.csv", target="y", features="a")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(InputError, match="this is no CSV text"):
        gumbel.fit(binary, target="y", features="a")


def test_errors_names_the_best_family_and_draws(tmp_path, capsys):
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

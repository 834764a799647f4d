"""Figure 1: the study of SAC's Bellman errors, from training to verdict."""

import csv
import functools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from worlds import register_line
from xql.cli import main
from xql.errors import InputError
from xql.experiments.cells import asked
from xql.experiments.figure1 import (
    Checkpoint,
    Study,
    best_laws,
    cells,
    decile_skewness,
    report,
    verdict,
)
from xql.gumbel.errors import LAWS, fit_errors
from xql.training.online import train_online

SHORT = ("--tasks", register_line(), "--steps", "200", "--every", "100", "--seeds", "2")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper") / "figure1"
    small = {"hidden": [8], "batch_size": 8}
    with pytest.MonkeyPatch.context() as patch:
        for function in (train_online, asked):
            name = f"xql.experiments.figure1.{function.__name__}"
            patch.setattr(name, functools.partial(function, options=small))
        main(["paper", "figure1", *SHORT, "--out", str(out)])
    return out


def test_errors_are_kept_at_every_checkpoint_after_the_warm_up(out: Path) -> None:
    (cell,) = (out / "cells").iterdir()
    assert cell.name.startswith("XQLTestLine-v0-sac-")
    kept = np.load(cell / "errors.npz")
    assert kept["steps"].tolist() == [100, 200]
    assert kept["errors"].shape == (2, 2, 100)
    assert kept["errors"].dtype == np.float32
    # Rewards lie between −3 and 0, and so young a critic is not far from 0.
    assert (np.abs(kept["errors"]) < 6).all()
    assert not np.array_equal(kept["errors"][0], kept["errors"][1])


def test_the_table_the_verdict_and_the_picture(out: Path) -> None:
    with (out / "figure1.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    # 2 seeds × 2 checkpoints, the last ones together, and all: four laws each.
    assert len(rows) == 4 * (4 + 1 + 1)
    (cell,) = (out / "cells").iterdir()
    errors = np.load(cell / "errors.npz")["errors"]
    (normal,) = (
        row
        for row in rows
        if (row["seed"], row["step"], row["distribution"]) == ("1", "200", "normal")
    )
    # The normal law is fitted by mean and deviation; its likelihood per error follows from them.
    assert float(normal["location"]) == pytest.approx(errors[1, 1].mean(), rel=1e-4)
    assert float(normal["scale"]) == pytest.approx(errors[1, 1].std(), rel=1e-4)
    mean = -0.5 * np.log(2 * np.pi * np.e * errors[1, 1].var(dtype=np.float64))
    assert float(normal["mean_log_likelihood"]) == pytest.approx(mean, abs=1e-4)
    assert {row["errors"] for row in rows if row["step"] == "all"} == {"400"}
    text = (out / "figure1.md").read_text(encoding="utf-8")
    assert "xql paper figure1 --tasks XQLTestLine-v0 --steps 200 --every 100 --seeds 2" in text
    assert "of 4 checkpoints" in text
    assert (out / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_cell_is_not_trained_again(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = (out / "cells").iterdir()
    before = (cell / "errors.npz").stat().st_mtime_ns
    written = (out / "figure1.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(asked, options={"hidden": [8], "batch_size": 8})
        patch.setattr("xql.experiments.figure1.asked", small)
        main(["paper", "figure1", *SHORT, "--out", str(out)])
    assert "XQLTestLine-v0-sac: there already" in capsys.readouterr().err
    assert (cell / "errors.npz").stat().st_mtime_ns == before
    assert (out / "figure1.csv").read_bytes() == written


def test_a_task_that_cannot_be_run_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["paper", "figure1", "--tasks", "Pendulun-v1", "--out", str(tmp_path)])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("xql: Pendulun-v1 is not shown: ")
    assert "Pendulum-v1" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1050, "every": 100}, "no multiple of --every 100; give --steps 1000"),
        ({"every": 99}, "`every=99` is too small"),
        ({"seeds": 0}, "`seeds=0` is too small"),
        ({"tasks": ("a", "a")}, "named twice"),
    ],
)
def test_what_cannot_be_used_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cells(**changes)  # type: ignore[arg-type]


def made_of(draws: list[np.ndarray]) -> Study:
    """A study whose checkpoints have these errors."""
    laid = [one.astype(np.float32) for one in draws]
    pooled = np.concatenate(laid)
    return Study(
        "made-up",
        [Checkpoint(0, number, one, fit_errors(one)) for number, one in enumerate(laid)],
        last=Checkpoint(None, len(laid) - 1, laid[-1], fit_errors(laid[-1])),
        pooled=Checkpoint(None, None, pooled, fit_errors(pooled)),
        episode_return=12.0,
        frozen=[],
    )


def test_the_verdict_says_what_made_the_errors() -> None:
    random = np.random.default_rng(0)
    logistic = made_of([random.logistic(size=3000) for _ in range(3)])
    assert best_laws(logistic)[0] == {"logistic": 3}
    words = verdict(logistic)
    assert "the logistic law is nearest to the errors" in words
    assert "by likelihood at 3 and by KS at 3 of 3 checkpoints" in words
    assert "A Gumbel law of either skew is so at 0 and 0." in words
    assert "KS rejects all four (p < 0.05) at 0 of 3." in words
    left = made_of([-random.gumbel(size=3000) for _ in range(3)])
    assert "the left-skewed Gumbel law is nearest" in verdict(left)
    table = report([left], "xql paper figure1").splitlines()
    row = next(line for line in table if line.startswith("| gumbel, left-skewed"))
    assert row.split("|")[2:4] == [" 3 ", " 3 "]


def test_the_skewness_of_the_laws() -> None:
    # The Gumbel quantile is −log(−log p): 2.2504, 0.3665 and −0.8340 at 0.9, 0.5 and 0.1.
    random = np.random.default_rng(0)
    gumbel = random.gumbel(size=400_000).astype(np.float32)
    assert decile_skewness(gumbel) == pytest.approx(0.6834 / 3.0844, abs=0.005)
    assert decile_skewness(-gumbel) == pytest.approx(-0.6834 / 3.0844, abs=0.005)
    assert decile_skewness(random.standard_cauchy(400_000).astype(np.float32)) == pytest.approx(
        0.0, abs=0.01
    )


def test_the_verdict_says_where_none_fits() -> None:
    random = np.random.default_rng(0)
    heavy = made_of([random.standard_t(1.5, size=3000) for _ in range(2)])
    words = verdict(heavy)
    assert "KS rejects all four (p < 0.05) at 2 of 2: nearest does not mean" in words
    mixed = made_of([random.gumbel(size=2000), -random.gumbel(size=2000)])
    assert "None of the four leads throughout." in verdict(mixed)
    assert set(best_laws(mixed)[1]) <= set(LAWS)

"""Figure 1: the study of SAC's Bellman errors, from training to verdict."""

import csv
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from worlds import register_line
from xql.cli import main
from xql.errors import InputError
from xql.experiments.cells import asked, kept
from xql.experiments.figure1 import (
    PAPER_WINDOWS,
    RIGHT,
    Study,
    best_distributions,
    cells,
    decile_skewness,
    draw,
    figure1,
    fit_protocol,
    report,
    study,
    train_keeping_errors,
    verdict,
    window_verdict,
    windows,
)
from xql.gumbel.errors import DISTRIBUTIONS, fit_errors
from xql.training.online import train_online

RESULTS = Path(__file__).parents[2] / "results" / "figure1"
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
    found = np.load(cell / "errors.npz")
    assert found["steps"].tolist() == [100, 200]
    drawn, by_mean = found["errors"], found["mean_action_errors"]
    for errors in (drawn, by_mean):
        assert errors.shape == (2, 2, 100)
        assert errors.dtype == np.float32
        # Rewards lie between −3 and 0, and so young a critic is not far from 0.
        assert (np.abs(errors) < 6).all()
        assert not np.array_equal(errors[0], errors[1])
    # Of the same transitions, so that they differ by γ (Q₁(s', a') − Q₁(s', π's mean)) alone.
    assert (drawn != by_mean).mean() > 0.9
    assert np.corrcoef(drawn[0, 1], by_mean[0, 1])[0, 1] > 0.8


def test_a_run_that_ends_before_the_first_checkpoint_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where every member diverges at once.
    monkeypatch.setattr("xql.experiments.figure1.train_online", lambda *_, **__: None)
    with pytest.raises(InputError, match="every seed diverged before any errors were kept"):
        train_keeping_errors("Line-v0", 200, 100, [0], tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_the_table_the_verdict_and_the_picture(out: Path) -> None:
    with (out / "figure1.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    # 2 seeds × 2 checkpoints, the last ones together, and all: two choices of a', four fits each.
    assert len(rows) == 2 * 4 * (4 + 1 + 1)
    (cell,) = (out / "cells").iterdir()
    found = np.load(cell / "errors.npz")
    for action, name in (("drawn", "errors"), ("mean", "mean_action_errors")):
        errors = found[name][1, 1]
        which = {"action": action, "seed": "1", "step": "200", "distribution": "normal"}
        (normal,) = (row for row in rows if which.items() <= row.items())
        # Fitted by mean and deviation; its likelihood per error follows from them.
        assert float(normal["location"]) == pytest.approx(errors.mean(), rel=1e-4)
        assert float(normal["scale"]) == pytest.approx(errors.std(), rel=1e-4)
        mean = -0.5 * np.log(2 * np.pi * np.e * errors.var(dtype=np.float64))
        assert float(normal["mean_log_likelihood"]) == pytest.approx(mean, abs=1e-4)
    # No window of the paper is known for this task.
    assert {(row["window"], row["low"], row["high"]) for row in rows} == {("none", "", "")}
    assert {row["errors"] for row in rows if row["step"] == "all"} == {"400"}
    text = (out / "figure1.md").read_text(encoding="utf-8")
    assert "xql paper figure1 --tasks XQLTestLine-v0 --steps 200 --every 100 --seeds 2" in text
    assert "of 4 checkpoints" in text
    assert "trained before" not in text and "The paper's protocol" not in text
    assert "| mean | none |  | all | " in text
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


@pytest.mark.parametrize("content", [b"", b"PK", None])
def test_damaged_errors_are_one_line(out: Path, tmp_path: Path, content: bytes | None) -> None:
    (cell,) = (out / "cells").iterdir()
    shutil.copytree(cell, tmp_path / "cell")
    kept = tmp_path / "cell" / "errors.npz"
    if content is None:
        np.savez(kept, steps=[1])
    else:
        kept.write_bytes(content)
    with pytest.raises(InputError, match=r"errors\.npz: "):
        study(tmp_path / "cell", "XQLTestLine-v0")


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
        ({"steps": 1050, "every": 100}, "no multiple of `every=100`; give `steps=1000`"),
        ({"every": 99}, "`every=99` is too small"),
        ({"seeds": 0}, "`seeds=0` is too small"),
        ({"tasks": ("a", "a")}, "named twice"),
    ],
)
def test_what_cannot_be_used_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cells(**changes)  # type: ignore[arg-type]


def made_of(
    draws: list[np.ndarray], task: str = "made-up", means: list[np.ndarray] | None = None
) -> Study:
    """A study whose checkpoints have these errors."""
    protocols = []
    for action, values in (("drawn", draws), ("mean", means)):
        if values is not None:
            laid = np.stack(values)[None].astype(np.float32)
            for window in windows(task, laid):
                protocols.append(fit_protocol(action, window, laid, [0], range(len(values))))  # type: ignore[arg-type]
    return Study(task, protocols, episode_return=12.0, frozen=[], rolled_back=[])


def test_the_verdict_says_what_made_the_errors() -> None:
    random = np.random.default_rng(0)
    logistic = made_of([random.logistic(size=3000) for _ in range(3)])
    assert best_distributions(logistic.raw)[0] == {"logistic": 3}
    words = verdict(logistic)
    assert "the logistic distribution is nearest to the errors" in words
    assert "by likelihood at 3 and by KS at 3 of 3 checkpoints" in words
    assert "A Gumbel distribution of either skew is so at 0 and 0." in words
    assert "KS rejects all four (p < 0.05) at 0 of 3." in words
    left = made_of([-random.gumbel(size=3000) for _ in range(3)])
    assert "the left-skewed Gumbel distribution is nearest" in verdict(left)
    assert "Diverged" not in verdict(left)
    words = verdict(left._replace(frozen=[3], rolled_back=[3, 4]))
    assert "Diverged, and held at the last good networks: seed 3." in words
    assert "Diverged, and went on with smaller learning rates: seed 3, 4." in words
    table = report([left], "xql paper figure1").splitlines()
    row = next(line for line in table if line.startswith("| gumbel, left-skewed"))
    assert row.split("|")[2:4] == [" 3 ", " 3 "]


def kept_errors(task: str) -> np.ndarray:
    """Those of results/figure1 with a' drawn."""
    folder = kept(RESULTS / "cells", cells([task])[0])
    assert folder is not None
    with np.load(folder / "errors.npz") as found:
        errors: np.ndarray = found["errors"]
    return errors


# The mean log-likelihoods per error of the pooled errors of results/figure1, clipped to the
# paper's window: right-skewed Gumbel, normal, logistic.
@pytest.mark.parametrize(
    ("task", "likelihoods", "turns"),
    [
        ("dm_control/cheetah-run", (0.552, 0.528, 0.509), True),
        ("dm_control/hopper-hop", (2.114, 1.991, 1.988), True),
        ("dm_control/walker-run", (0.550, 0.593, 0.572), False),
    ],
)
def test_the_ranking_depends_on_the_window(
    task: str, likelihoods: tuple[float, ...], turns: bool
) -> None:
    errors = kept_errors(task)
    raw, paper, symmetric = (fit_errors(errors, one.bounds) for one in windows(task, errors))
    found = [
        paper.named(name).log_likelihood / errors.size for name in (RIGHT, "normal", "logistic")
    ]
    assert found == pytest.approx(likelihoods, abs=5.5e-4)
    assert raw.best.name == "logistic"
    assert paper.best.name == (RIGHT if turns else "normal")
    assert symmetric.best.name == "normal"
    # Of the last checkpoint alone it is best within no window of the paper.
    assert fit_errors(errors[:, -1], PAPER_WINDOWS[task]).best.name != RIGHT


# The same, with the errors beyond the window left out.
@pytest.mark.parametrize(
    ("task", "likelihoods"),
    [("dm_control/cheetah-run", (0.736, 0.738)), ("dm_control/hopper-hop", (2.299, 2.273))],
)
def test_errors_left_out_instead_of_clipped(task: str, likelihoods: tuple[float, ...]) -> None:
    errors, (low, high) = kept_errors(task), PAPER_WINDOWS[task]
    within = errors[(errors >= low) & (errors <= high)]
    fits = fit_errors(within)
    found = [fits.named(name).log_likelihood / within.size for name in (RIGHT, "normal")]
    assert found == pytest.approx(likelihoods, abs=5.5e-4)


def test_the_page_says_what_the_table_does() -> None:
    with (RESULTS / "figure1.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["step"] == "all"]
    likelihoods = {
        (row["task"], row["window"], row["distribution"]): float(row["mean_log_likelihood"])
        for row in rows
        if row["action"] == "drawn"
    }
    page = (RESULTS.parents[1] / "docs" / "gumbel.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| task | errors | right-skewed Gumbel |")
    shown = [row.split("|")[3:7] for row in table.splitlines()[2:11]]
    places = [
        (f"dm_control/{task}", window)
        for task in ("cheetah-run", "hopper-hop", "walker-run")
        for window in ("none", "paper", "symmetric")
    ]
    for place, entries in zip(places, shown, strict=True):
        found = [likelihoods[*place, name] for name in DISTRIBUTIONS]
        values = [float(entry.strip(" *").replace("−", "-")) for entry in entries]
        assert values == pytest.approx(found, abs=5.5e-4)
        assert ["**" in entry for entry in entries] == [one == max(found) for one in found]


@pytest.mark.nightly
def test_the_results_are_what_their_cells_say(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "cells", tmp_path / "cells")
    figure1(tmp_path)
    for name in ("figure1.md", "figure1.csv"):
        written = (RESULTS / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == written


def test_the_windows_of_a_task() -> None:
    errors = np.array([[-0.3, 0.1, 0.2]], np.float32)
    (none,) = windows("HalfCheetah-v5", errors)
    assert none.bounds is None
    _, paper, symmetric = windows("dm_control/cheetah-run", errors)
    assert paper.bounds == (-0.2, 0.35)
    assert symmetric.bounds == pytest.approx((0.1 - 0.275, 0.1 + 0.275))


def test_the_table_shows_every_window_and_what_it_turns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    task = "dm_control/hopper-hop"
    # Skewed to the left, with a third of the errors below the window.
    skewed = [-0.02 - 0.05 * random.exponential(size=2000) + 0.01 * random.normal(size=2000)]
    narrow = [0.02 * random.logistic(size=2000)]
    one = made_of(skewed * 2, task, means=narrow * 2)
    shown = [(it.action, it.window.name) for it in one.protocols]
    assert shown == [(a, w) for a in ("drawn", "mean") for w in ("none", "paper", "symmetric")]
    words = window_verdict([one])
    assert (
        "With a' drawn, the paper's window puts the right-skewed Gumbel distribution above" in words
    )
    assert f"The symmetric window takes that back on {task}." in words
    assert (
        "With the mean action, the paper's window does not put the right-skewed Gumbel "
        f"distribution above the normal on {task}."
    ) in words
    lacking = report([made_of(narrow, "HalfCheetah-v5"), one], "xql paper figure1")
    assert "All errors of HalfCheetah-v5 are of drawn actions: these runs were trained" in lacking
    below, above = (np.mean(skewed[0] < -0.06), np.mean(skewed[0] > 0.06))
    assert f"| drawn | paper [−0.06, 0.06] | {below:.1%}, {above:.1%} | all | **" in lacking
    draw([one], tmp_path / "figure1.png")
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_wholly_beyond_the_window_is_left_out() -> None:
    random = np.random.default_rng(0)
    near, far = 0.03 * random.normal(size=200), 5.0 + random.normal(size=200)
    one = made_of([near, far, near], "dm_control/hopper-hop")
    counts = {it.window.name: [at.step for at in it.checkpoints] for it in one.protocols}
    assert counts == {"none": [0, 1, 2], "paper": [0, 2], "symmetric": [0, 2]}


def test_the_skewness_of_the_distributions() -> None:
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
    assert set(best_distributions(mixed.raw)[1]) <= set(DISTRIBUTIONS)

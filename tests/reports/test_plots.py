import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xql.agents import XQLConfig
from xql.data.actions import Box
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.reports.plots import (
    Curve,
    _last_against,
    curves_from_run,
    plot_against,
    plot_learning_curves,
)
from xql.reports.style import one_legend
from xql.runs.config import DataConfig, EvaluationPlan, Member, RunConfig
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.summary import quantity_of

BETAS = tuple(Member(seed, {"beta": beta}) for beta in (0.5, 2.0) for seed in (0, 1))


def configured(*members: Member) -> RunConfig:
    """A run's configuration, of which only the members matter here."""
    return RunConfig(
        agent="xql",
        preset="default",
        steps=200,
        members=members,
        hyperparameters=XQLConfig(),
        scaling=Scaling("raw", "raw", 1.0, 0.0, np.zeros(1, np.float32), np.ones(1, np.float32)),
        data=DataConfig("maze", "arrays", 1, Box((-1.0,), (1.0,))),
        environment=None,
        evaluation=EvaluationPlan(evaluations=2, episodes=2, last_episodes=2),
    )


def played(
    step: int, member: int, episode: int, success: bool | None, score: float | None = None
) -> Evaluation:
    returned = 10.0 * member + episode
    return Evaluation(step, member, member % 2, episode, returned, 5, score, success)


def four_members(path: Path, *members: Member) -> RunFolder:
    """A run of four members, each with two episodes at steps 100 and 200."""
    folder = RunFolder.create(path, configured(*members))
    for step in (100, 200):
        rows = [
            played(step, member, episode, success=step == 200 or episode == member)
            for member in range(4)
            for episode in range(2)
        ]
        folder.log_evaluations(step, rows)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return four_members(tmp_path / "run", *BETAS)


def test_a_name_is_no_formula(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    curves = curves_from_run(run, label="a$_b$")
    with matplotlib.rc_context({"text.usetex": True}):
        path = plot_learning_curves(curves, tmp_path / "c.png", title=r"x$\frac{$ [red]x[/]")
    assert path.stat().st_size > 5000


def test_curves_are_grouped_by_beta_and_averaged_over_episodes(run: RunFolder) -> None:
    low, high = curves_from_run(run, label="xql")
    assert (low.label, high.label) == ("xql β = 0.5", "xql β = 2")
    assert low.steps == high.steps == [100, 200]
    # Members 0 and 1 succeed in one of two episodes at step 100, members 2 and 3 in none.
    np.testing.assert_array_equal(low.scores, [[50, 100], [50, 100]])
    np.testing.assert_array_equal(high.scores, [[0, 100], [0, 100]])
    returns = curves_from_run(run, "return")
    np.testing.assert_array_equal(returns[1].scores, [[20.5, 20.5], [30.5, 30.5]])


def test_a_run_that_swept_nothing_gives_one_curve(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", configured(Member(0)))
    folder.log_evaluations(1, [played(1, 0, 0, None)])
    assert [curve.label for curve in curves_from_run(folder, label="bc")] == ["bc"]


def test_what_is_drawn_follows_from_what_was_reported() -> None:
    assert quantity_of([played(1, 0, 0, True, 3.0)]) == "success"
    assert quantity_of([played(1, 0, 0, None, 3.0)]) == "score"
    assert quantity_of([played(1, 0, 0, None), played(1, 0, 0, True)]) == "return"


def test_no_evaluations_and_no_such_quantity_are_one_line(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the evaluations have no score; take the return"):
        curves_from_run(run, "score")
    empty = RunFolder.create(tmp_path / "empty", configured(Member(0)))
    with pytest.raises(InputError, match="this run has no evaluations yet; train it with `env`"):
        curves_from_run(empty)
    with pytest.raises(InputError, match="there is no curve to draw"):
        plot_learning_curves([], tmp_path / "x.png")


def test_the_figure_shows_line_band_seeds_and_data(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = Curve("xql β = 2", [0, 1500, 20_000], np.array([[0.0, 40, 80], [10, 30, 60]]))
    path = plot_learning_curves(
        [curve], tmp_path / "new" / "figure.svg", quantity="success", title="pen", data_figure=42.0
    )
    text = path.read_text(encoding="utf-8")
    for comment in ("xql β = 2", "the data", "pen", "Success rate (%)", "20k"):
        assert f">{comment}<" in text


def test_more_than_two_curves_have_a_panel_each(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scores = np.array([[0.0, 40, 80], [10, 30, 60]])
    curves = [Curve(f"method {place}", [0, 10, 20], scores + place) for place in range(5)]
    path = plot_learning_curves(curves, tmp_path / "many.svg", data_figure=3.0)
    text = path.read_text(encoding="utf-8")
    for curve in curves:
        assert f">{curve.label}<" in text
    assert text.count('<g id="axes_') == 5  # of two rows of three, the last is not drawn
    assert "grey: the others; dashed: the data" in " ".join(re.findall(r">([^<]+)<", text))


def test_a_figure_has_a_vector_copy_and_the_same_bytes_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = [Curve("one", [0, 10], np.array([[0.0, 40], [10, 30]]))]
    path = plot_learning_curves(curves, tmp_path / "a" / "curves.png")
    assert sorted(one.name for one in path.parent.iterdir()) == ["curves.png", "curves.svg"]
    again = plot_learning_curves(curves, tmp_path / "b" / "curves.png")
    for suffix in (".png", ".svg"):
        assert path.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()
    for suffix in (".svg", ".pdf"):
        alone = plot_learning_curves(curves, tmp_path / suffix / f"curves{suffix}")
        assert [one.name for one in alone.parent.iterdir()] == [alone.name]
        other = plot_learning_curves(curves, tmp_path / f"2{suffix}" / f"curves{suffix}")
        assert alone.read_bytes() == other.read_bytes()


def test_one_seed_one_step_and_a_diverged_seed_are_drawn_without_complaint(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lone = Curve("lone", [100], np.array([[3.0]]))
    diverged = Curve("diverged", [100, 200], np.array([[1.0, np.nan], [2.0, 3.0]]))
    path = plot_learning_curves([lone, diverged], tmp_path / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_last_step_is_drawn_against_a_swept_hyperparameter(
    run: RunFolder, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    path = plot_against([run, run], "beta", tmp_path / "new" / "beta.svg", "return")
    text = path.read_text(encoding="utf-8")
    for comment in ("0.5", "2", "β", "Return", "run"):
        assert f">{comment}<" in text
    # Members 0, 1 have β .5 and 2, 3 have β 2; each seed's mean of two episodes.
    assert _last_against(run, "beta", "return") == {"": {0.5: [0.5, 10.5], 2.0: [20.5, 30.5]}}
    with pytest.raises(InputError, match="there is no run to draw"):
        plot_against([], "beta", path)


def test_the_other_swept_hyperparameters_get_a_line_each(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    members = [
        Member(0, {"discount": discount, "value_action_noise": noise})
        for discount in (0.9, 0.99)
        for noise in (0.2, 0.0)
    ]
    folder = four_members(
        tmp_path / "two", *(one._replace(seed=i % 2) for i, one in enumerate(members))
    )
    assert _last_against(folder, "value_action_noise", "return") == {
        "discount = 0.9": {0.0: [10.5], 0.2: [0.5]},
        "discount = 0.99": {0.0: [30.5], 0.2: [20.5]},
    }
    # An axis with a 0 on it is linear.
    path = plot_against([folder], "value_action_noise", tmp_path / "noise.svg", "return")
    text = path.read_text(encoding="utf-8")
    for comment in ("discount = 0.9", "discount = 0.99", "value_action_noise", "0", "0.2"):
        assert f">{comment}<" in text


def test_a_run_cannot_be_drawn_against_what_it_did_not_sweep(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = RunFolder.create(tmp_path / "bc", configured(Member(0)))
    folder.log_evaluations(5, [Evaluation(5, 0, 0, 0, 1.0, 3, None, None)])
    with pytest.raises(InputError, match="bc: this run swept nothing, not beta; leave it out"):
        plot_against([folder], "beta", tmp_path / "beta.png")


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, xql.reports.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_legend_of_long_names_stays_within_the_figure() -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    for length, columns in ((5, 3), (40, 1)):
        figure, axes = plt.subplots(figsize=(6.6, 4), layout="constrained")
        for name in "abc":
            axes.plot([0, 1], label=name * length)
        one_legend(figure, [axes], columns=3)
        figure.draw_without_rendering()
        [legend] = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width
        rows = {round(text.get_window_extent().y0) for text in legend.get_texts()}
        assert len(rows) == 3 // columns
        plt.close(figure)

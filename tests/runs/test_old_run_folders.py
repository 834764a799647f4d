"""A run folder that xql 0.1 wrote, before config.yaml had a version: Pendulum, two β, two seeds."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

import xql
from xql.agents import XQLConfig
from xql.cli import main
from xql.data.actions import Box
from xql.reports.plots import curves_from_run
from xql.runs.config import EvaluationPlan, Extent, Member, RunConfig
from xql.runs.run import Run
from xql.training.evaluate import evaluate_run

OLD = Path(__file__).parent.parent / "fixtures" / "run-0.1"


def test_its_configuration_is_read_under_today_s_names() -> None:
    config = RunConfig.load(OLD)
    assert (config.agent, config.preset, config.steps, config.xql) == ("xql", "default", 4, "0.1.0")
    assert config.members == tuple(
        Member(seed, {"beta": beta}) for beta in (0.5, 2.0) for seed in (0, 1)
    )
    assert config.hyperparameters == XQLConfig(
        beta=1.0, hidden=(4,), batch_size=8, loss="linear", max_gradient_norm=1.0
    )
    assert [config.member_config(index).beta for index in range(4)] == [0.5, 0.5, 2.0, 2.0]
    assert config.sources["hidden"] == "given"
    assert config.scaling.rewards == "raw" and config.scaling.observation_shift.shape == (3,)
    assert config.data.actions == Box((-1.9987972974777222,), (1.9980053901672363,))
    assert config.data.extent == Extent(600, 3, -1081.146199543029)
    assert (config.data.subset, config.data.whole, config.loop) == ("all", None, None)
    assert config.evaluation == EvaluationPlan(evaluations=2, episodes=1, last_episodes=1)
    assert RunConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_it_opens_and_its_temperatures_stay_apart() -> None:
    run = Run.open(OLD)
    assert int(run.population.step[0]) == 4
    np.testing.assert_array_equal(
        run.population.config.beta, np.array([0.5, 0.5, 2, 2], np.float32)
    )
    low, high = run.results
    assert (low.changes, high.changes) == ({"beta": 0.5}, {"beta": 2.0})
    # The means of the two seeds at step 4, from evaluations.csv.
    assert low.last.interval.estimate == pytest.approx((-1592.27608607 - 1450.20986786) / 2)
    assert high.last.interval.estimate == pytest.approx((-1592.27608349 - 1450.20980559) / 2)
    lines = run.describe().splitlines()
    assert [line.split(":")[0] for line in lines] == ["β = 0.5"] * 2 + ["β = 2"] * 2
    assert [curve.label for curve in curves_from_run(run.folder)] == ["β = 0.5", "β = 2"]
    assert [line.step for line in run.folder.read_metrics()] == [2, 4]


def test_its_policies_act_within_the_bounds() -> None:
    observations = np.random.default_rng(0).normal(0, 3, (50, 3)).astype(np.float32)
    for index in range(4):
        actions = xql.load_policy(OLD, index)(observations)
        assert actions.shape == (50, 1) and np.isfinite(actions).all()
        assert (actions >= -2).all() and (actions <= 2).all() and actions.std() > 0


def test_it_compares(capsys: pytest.CaptureFixture[str]) -> None:
    found = xql.compare([OLD])
    assert found.methods == ["xql β=0.5", "xql β=2"]
    assert [row.seeds for row in found.rows] == [(0, 1)] * 2
    np.testing.assert_allclose(found.rows[0].last.values, [-1592.27608607, -1450.20986786])
    main(["compare", str(OLD)])
    assert "xql β=0.5" in capsys.readouterr().out


def test_it_plays_the_episodes_that_it_played_then(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Pendulum-v1" in gymnasium.registry
    then = [row for row in Run.open(OLD).evaluations if row.step == 4]
    now = evaluate_run(OLD, episodes=1)
    assert [row[:4] for row in now] == [row[:4] for row in then]
    np.testing.assert_allclose(
        [row.episode_return for row in now], [row.episode_return for row in then], rtol=1e-4
    )
    main(["evaluate", str(OLD), "--episodes", "1"])
    printed = capsys.readouterr().out
    assert "β = 0.5: -1521.2" in printed and "β = 2: -1521.2" in printed

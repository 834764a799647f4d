"""What a run goes on from."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from xql.agents import XQLConfig
from xql.data.actions import Box
from xql.data.scaling import Scaling
from xql.runs.config import DataConfig, EvaluationPlan, Member, RunConfig
from xql.runs.folder import Evaluation, RunFolder
from xql.training.saved import Saved

CONFIG = RunConfig(
    agent="xql",
    preset="default",
    steps=40,
    members=(Member(3), Member(4)),
    hyperparameters=XQLConfig(hidden=(4,)),
    scaling=Scaling("raw", "raw", 1.0, 0.0, np.zeros(2, np.float32), np.ones(2, np.float32)),
    data=DataConfig("x", "x", 2, Box((-1.0,), (1.0,))),
    environment=None,
    evaluation=EvaluationPlan(2, 2, 3),
)


def test_what_was_evaluated_stays_where_the_run_becomes_longer(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    nothing: Any = None
    saved = Saved(folder, 40, nothing, {}, {})
    assert not saved.evaluated(CONFIG)
    rows = [
        Evaluation(40, member, seed, episode, 0.0, 5, None, None)
        for member, seed in ((0, 3), (1, 4))
        for episode in range(3)
    ]
    folder.log_evaluations(40, rows)
    assert saved.evaluated(CONFIG)
    (folder.path / "replay.npz").touch()
    # Step 40 is one to evaluate at, with fewer episodes; and is none.
    for evaluations in (2, 3):
        plan = EvaluationPlan(evaluations, 2, 3)
        longer = dataclasses.replace(CONFIG, steps=80, evaluation=plan)
        assert saved.evaluated(longer)
        saved.go_on(longer)
        assert folder.read_evaluations() == rows
    assert RunConfig.load(folder.path).steps == 80
    assert not folder.replay.exists()


def test_a_step_that_becomes_the_last_one_is_evaluated_as_such(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    nothing: Any = None
    saved = Saved(folder, 20, nothing, {}, {})
    rows = [
        Evaluation(20, member, seed, episode, 0.0, 5, None, None)
        for member, seed in ((0, 3), (1, 4))
        for episode in range(2)
    ]
    folder.log_evaluations(20, rows)
    assert saved.evaluated(CONFIG)
    shorter = dataclasses.replace(CONFIG, steps=20, evaluation=EvaluationPlan(1, 2, 3))
    assert not saved.evaluated(shorter)
    saved.go_on(shorter)
    assert folder.read_evaluations() == []

"""A trained goal-reaching ant as a policy file."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from worlds import register_line
from xql.collect.goal_ant import make_ant_policy, write_ant_policy
from xql.collect.policies import load_goal_policy
from xql.envs.goal_ant import GOAL_ANT
from xql.errors import InputError
from xql.runs.config import OnlineLoop
from xql.runs.folder import RunFolder
from xql.runs.policy import load_policy

pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy file, and the run that it is from: a small one that lies where ours would."""
    home = tmp_path_factory.mktemp("ant")
    xql.train_online(
        GOAL_ANT,
        agent="sac",
        steps=20,
        seeds=[4],
        out=home / "ant-policy-sac-20-4",
        options={"hidden": [8, 6], "batch_size": 4},
        loop=OnlineLoop(warmup=5),
        evaluations=1,
        episodes=0,
        last_episodes=0,
        progress=False,
    )
    out = home / "ant.npz"
    return out, make_ant_policy(out, steps=20, seed=4, home=home, progress=False)


def test_the_file_holds_the_policy_s_mean_action(made: tuple[Path, Path]) -> None:
    out, run = made
    observations = np.random.default_rng(0).standard_normal((50, 29)).astype(np.float32)
    deviates = np.ones((50, 8), np.float32)
    actions = load_goal_policy(out).act(observations, deviates)
    assert actions == pytest.approx(load_policy(run)(observations), abs=1e-5)
    with np.load(out) as file:
        about: dict[str, Any] = json.loads(str(file["made_by"]))
    assert (about["seed"], about["steps"]) == (4, 20)


def test_the_run_that_is_there_is_not_trained_again(made: tuple[Path, Path]) -> None:
    out, run = made
    again = out.with_name("again.npz")
    assert make_ant_policy(again, steps=20, seed=4, home=run.parent, progress=False) == run
    assert len(load_policy(run).actor.mlp.layers) == 3
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.nightly
def test_a_run_is_trained_where_there_is_none(tmp_path: Path) -> None:
    run = make_ant_policy(tmp_path / "ant.npz", steps=200, home=tmp_path, progress=False)
    loop = RunFolder.open(run).config.loop
    assert loop is not None and loop.environments == 2
    load_goal_policy(tmp_path / "ant.npz")


def test_what_cannot_be_written_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    out, run = made
    for name, message in (
        (out, "the file exists"),
        (tmp_path / "ant.txt", "ends in .npz"),
        (tmp_path / "no" / "ant.npz", "there is no folder"),
    ):
        with pytest.raises(InputError, match=message):
            write_ant_policy(run, name)


def test_an_unfinished_and_a_diverged_run_are_refused(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made[1], run)
    config = (run / "config.yaml").read_text(encoding="utf-8")
    longer = config.replace("\nsteps: 20\n", "\nsteps: 30\n")
    assert longer != config
    (run / "config.yaml").write_text(longer, encoding="utf-8")
    with pytest.raises(InputError, match="its training stopped at step 20 of 30"):
        write_ant_policy(run, tmp_path / "ant.npz")
    (run / "config.yaml").write_text(config, encoding="utf-8")
    RunFolder.open(run).log_frozen(0, 10, 20)
    with pytest.raises(InputError, match="its training diverged"):
        write_ant_policy(run, tmp_path / "ant.npz")
    assert not (tmp_path / "ant.npz").exists()


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    run = xql.train_online(
        register_line(),
        agent="sac",
        steps=10,
        out=tmp_path / "run",
        options={"hidden": [4], "batch_size": 4},
        loop=OnlineLoop(warmup=5),
        evaluations=1,
        episodes=0,
        last_episodes=0,
        progress=False,
    )
    with pytest.raises(InputError, match="a run of sac on XQLTestLine-v0"):
        write_ant_policy(run.path, tmp_path / "ant.npz")
    assert not (tmp_path / "ant.npz").exists()

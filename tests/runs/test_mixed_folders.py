"""Files of two runs in one folder are refused, whichever file is read."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from worlds import line_data, register_line
from xql.cli import main
from xql.errors import InputError
from xql.runs.policy import load_policy
from xql.runs.run import Run
from xql.training.evaluate import evaluate_run
from xql.training.offline import train_offline
from xql.training.online import train_online
from xql.training.transitions import run_errors


def learn(out: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {"agent": "iql", "steps": 2, "options": {"hidden": [4]}}
    settings |= {"evaluations": 1, "last_episodes": 1, "progress": False, "env": register_line()}
    return train_offline(line_data(), out=out, **(settings | changes)).path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("runs")
    return {
        "seed 0": learn(home / "a"),
        "seed 1": learn(home / "b", seeds=[1]),
        "discount 0.9": learn(home / "c", sweep={"discount": [0.9]}),
    }


def mixed(runs: dict[str, Path], name: str, other: str, into: Path) -> Path:
    """A copy of the first run with one file or folder of another."""
    shutil.copytree(runs["seed 0"], into)
    if (runs[other] / name).is_dir():
        shutil.rmtree(into / name)
        shutil.copytree(runs[other] / name, into / name)
    else:
        shutil.copy(runs[other] / name, into / name)
    return into


def test_checkpoints_of_another_seed(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = mixed(runs, "checkpoints", "seed 1", tmp_path / "run")
    line = (
        f"{run / 'checkpoints' / '2'}: this checkpoint is of seed 1, config.yaml of seed 0; files "
        "of two runs lie in this folder: make the run again"
    )
    for read in (
        load_policy,
        Run.open,
        lambda path: load_policy(path, step=2),
        lambda path: evaluate_run(path, episodes=1, trust=["worlds"]),
        run_errors,
    ):
        with pytest.raises(InputError) as error:
            read(run)
        assert str(error.value) == line
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(run), "--episodes", "1", "--trust-environment", "worlds"])
    assert (end.value.code, capsys.readouterr().err) == (2, f"xql: {line}\n")


def test_checkpoints_of_other_hyperparameters(runs: dict[str, Path], tmp_path: Path) -> None:
    run = mixed(runs, "checkpoints", "discount 0.9", tmp_path / "run")
    with pytest.raises(InputError) as error:
        load_policy(run)
    assert str(error.value) == (
        f"{run / 'checkpoints' / '2'}: member 0 was trained with discount 0.9, config.yaml says "
        "0.99; restore config.yaml as the run wrote it, or make the run again"
    )
    assert load_policy(runs["discount 0.9"]) is not None


def test_evaluations_of_another_seed(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = mixed(runs, "evaluations.csv", "seed 1", tmp_path / "run")
    line = f"{run / 'evaluations.csv'}: line 2 is of seed 1, config.yaml of seed 0; files of two"
    with pytest.raises(InputError, match="line 2 is of seed 1"):
        Run.open(run).describe()
    with pytest.raises(SystemExit) as end:
        main(["compare", str(run)])
    assert end.value.code == 2 and capsys.readouterr().err.startswith(f"xql: {line}")


def test_kept_policies_of_another_seed(tmp_path: Path) -> None:
    run = train_online(
        register_line(),
        agent="td3",
        steps=4,
        seeds=[1],
        options={"hidden": [4]},
        evaluations=1,
        episodes=0,
        last_episodes=0,
        keep_policies=True,
        out=tmp_path / "run",
        progress=False,
    ).path
    load_policy(run, step=4)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("- seed: 1", "- seed: 0"))
    for step in (None, 4):
        with pytest.raises(InputError, match=r"of seed 1, config\.yaml of seed 0"):
            load_policy(run, step=step)

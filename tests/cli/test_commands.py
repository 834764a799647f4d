"""The command line as a user types it."""

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import gymnasium
import numpy as np
import pytest
import tyro

import xql
from xql.cli import COMMANDS, main
from xql.cli.tables import Options


@pytest.fixture
def pendulum(tmp_path: Path) -> Path:
    """A short log of random actions in Pendulum, in the schema for people's own files."""
    env = gymnasium.make("Pendulum-v1", max_episode_steps=50)
    env.action_space.seed(0)
    columns: dict[str, list[object]] = {
        name: []
        for name in (
            "observations",
            "actions",
            "rewards",
            "terminated",
            "truncated",
            "next_observations",
        )
    }
    for episode in range(4):
        observation, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            action = env.action_space.sample()
            following, reward, terminated, truncated, _ = env.step(action)
            row = (observation, action, reward, terminated, truncated, following)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            observation, ended = following, terminated or truncated
    path = tmp_path / "pendulum.npz"
    arrays: dict[str, Any] = {name: np.array(column) for name, column in columns.items()}
    np.savez(path, **arrays)
    env.close()
    return path


SHORT = "--steps 20 --evaluations 2 --episodes 1 --last-episodes 2 --set hidden=[8,8] batch_size=16"


def run(*words: str) -> int:
    """The exit status of `xql WORDS`."""
    try:
        main(list(words))
    except SystemExit as end:
        return 0 if end.code is None else int(str(end.code))
    return 0


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on standard error of a command that must fail with status 2."""
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("xql: ")
    return lines[0]


def test_train_then_evaluate(
    pendulum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["--data", str(pendulum), "--env", "Pendulum-v1", "--out", str(out)]
    assert run("train", "offline", *words, "--beta", "1", "4", "--seeds", "2", *SHORT.split()) == 0
    printed = capsys.readouterr()
    assert "β = 1:" in printed.out and "β = 4:" in printed.out
    assert "last of 2 evaluations (step 20)" in printed.out
    assert "best over 2 evaluations" in printed.out
    assert (out / "learning-curves.png").stat().st_size > 5000
    assert {path.name for path in out.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "evaluations.csv",
        "checkpoints",
        "tensorboard",
    }

    assert run("evaluate", str(out), "--episodes", "2") == 0
    again = capsys.readouterr().out
    assert "2 seeds × 2 episodes" in again

    # The same seeds give the same episodes as the last evaluation of training did.
    rows = [line.split(",") for line in (out / "evaluations.csv").read_text().splitlines()[1:]]
    last = [float(row[4]) for row in rows if row[0] == "20" and row[1] == "0"]
    assert f"{np.mean(last):.1f}" in again

    line = complaint(capsys, "train", "offline", *words, *SHORT.split())
    assert "there is already something here" in line and "--out" in line


def test_what_best_of_n_trained_acts_and_is_evaluated_as_it_was(
    pendulum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["--data", str(pendulum), "--env", "Pendulum-v1", "--out", str(out)]
    words += ["--policy", "best_of_n", "--seeds", "2", *SHORT.split()]
    assert run("train", "offline", *words, "candidates=3", "flow_steps=2", "--no-plot") == 0
    capsys.readouterr()
    assert run("evaluate", str(out), "--episodes", "2") == 0
    rows = [line.split(",") for line in (out / "evaluations.csv").read_text().splitlines()[1:]]
    last = [float(row[4]) for row in rows if row[0] == "20"]
    assert f"{np.mean(last):.1f}" in capsys.readouterr().out
    policies = xql.Run.open(out).policies
    loaded = xql.load_policy(out, 1)
    observation = np.array([1.0, 0.0, 0.5], np.float32)
    np.testing.assert_array_equal(loaded(observation), policies[1](observation))
    assert loaded(observation) != policies[0](observation)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for command in ("demo", "train", "evaluate", "data", "gumbel", "paper"):
        assert command in printed
    assert run("train", "offline", "--help") == 0
    assert "--preset" in capsys.readouterr().out


def places(commands: dict[str, Any]) -> Iterator[str]:
    for one in commands.values():
        yield from places(one) if isinstance(one, dict) else [one]


@pytest.mark.parametrize("place", list(places(COMMANDS)))
def test_a_flag_that_is_given_twice_keeps_the_words_of_both(place: str) -> None:
    module, name = place.split(":")
    command = getattr(importlib.import_module(f"xql.cli.{module}"), name)
    hints = [one.annotation for one in inspect.signature(command).parameters.values()]
    if module == "tables":
        hints += get_type_hints(Options, include_extras=True).values()
    for hint in hints:
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if get_origin(kind) is tuple and tyro.conf.Positional not in marks:
            assert tyro.conf.UseAppendAction in marks, hint


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("xql 0.")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--verison"], ["'xql --verison'", "did you mean '--version'?"]),
        (["gumbel", "errors", "x.csv", "--seed", "a"], ["--seed", "no whole number: 'a'"]),
        (["resume", "x", "--steps", "1.5"], ["parsing --steps: no whole number: '1.5'"]),
        (["train", "online", "--env", "x", "--update-to-data", "a"], ["no number: 'a'"]),
        (
            ["train", "offline", "--data", "x", "--set", "precision=bf16"],
            ["xql: --set: precision is no hyperparameter; give --precision beside it"],
        ),
        (
            ["train", "offline", "--data", "x", "--sweep", "hold_out=0.1,0.2"],
            ["--sweep: hold_out is no hyperparameter; give --hold-out beside it"],
        ),
        (["train", "online", "--env", "x", "--set", "warmup=5"], ["give --warmup beside it"]),
        (["train", "finetune", "--from", "x", "--set", "keep_best=true"], ["give --keep-best"]),
        (["trian"], ["'xql trian'", "did you mean 'train'?"]),
        (["train", "ofline"], ["'xql train ofline'", "'offline'"]),
        (["train", "offline"], ["--data"]),
        (["train", "offline", "--data", "x.npz", "--stps", "3"], ["--stps", "--steps"]),
        (
            ["train", "offline", "--data", "x.npz", "--steps", "1e5"],
            ["--steps", "no whole number: '1e5'"],
        ),
        (["train", "offline", "--data", "x.npz"], ["x.npz", "no such file"]),
        (["train", "offline", "--data", "x.npz", "--set", "beta"], ["NAME=VALUE"]),
        (["evaluate", "nowhere"], ["nowhere", "no such run"]),
        (["data", "make", "pointmaze-medum"], ["'pointmaze-medium'"]),
        (["gumbel", "fit", "x.csv", "--target", "y", "--features", "a"], ["x.csv"]),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(capsys, *words)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--agent", "xqk"], ["unknown agent 'xqk'", "'xql'"]),
        (["--preset", "consistant"], ["unknown preset 'consistant'", "'consistent'"]),
        (["--preset", "tuned"], ["preset 'tuned' has no settings for 'pendulum'"]),
        (["--env", "Pendulum-v7"], ["Pendulum-v7", "Pendulum-v1"]),
        (["--env", "MountainCarContinuous-v0"], ["observation size 3", "2"]),
        (["--set", "bta=1"], ["unknown option 'bta'", "'beta'"]),
        (["--set", "loss=gumbel"], ["loss", "'linear'"]),
        (["--beta", "-1"], ["beta cannot be -1", "above 0"]),
        (["--steps", "0"], ["--steps 0"]),
        (["--seeds", "0"], ["no seed", "--seeds 1"]),
        (["--first-seed", "4294967296"], ["4294967296 is no seed"]),
        (["--agent", "bc", "--beta", "1"], ["agent bc has no beta; leave out --beta"]),
        (["--agent", "iql", "--beta", "auto"], ["agent iql has no beta; leave out --beta"]),
        (["--beta", "0"], ["xql: beta cannot be 0; give a number above 0"]),
        (["--beta", "2,2"], ["xql: beta=2,2; give values, each one once"]),
        (["--sweep", "beta=1", "beta_kl=.1"], ["beta_kl has no effect", "give beta=auto, or"]),
        (["--beta", "1", "--set", "policy_kl=1"], ["give inverse_temperature=auto, or leave it"]),
        (["--beta", "1", "--set", "beta_optimism=2"], ["give beta=auto, or leave it"]),
        (["--set", "policy=flow", "policy_kl=1"], ["as it is configured; leave it out of --set"]),
        (["--policy", "argmax"], ["policy cannot be 'argmax'", "'best_of_n'"]),
        (["--agent", "iql", "--policy", "flow"], ["agent iql has no choice", "leave out --policy"]),
        (["--policy", "awr", "--set", "policy=flow"], ["policy is given twice", "give one"]),
        (["--policy", "flow", "--set", "candidates=4"], ["candidates has no effect"]),
        (["--sweep", "bc_weight=0.1,1"], ["bc_weight has no effect"]),
        (["--beta", "1", "--sweep", "beta=2"], ["beta is given twice", "give one of them"]),
        (["--beta", "auto,2"], ["--beta auto,2 mixes auto and numbers", "a run of their own"]),
        (["--beta", "automatic"], ["'automatic' is no number", "write it as auto, or"]),
        (["--sweep", "beta=auto"], ["'auto' is no number", "give --set beta=auto"]),
        (["--sweep", "beta=auto,2"], ["give --set beta=auto, in a run of its own"]),
        (["--sweep", "discount=auto"], ["'auto' is no number; write it as 0.5,2"]),
        (["--sweep", "hidden=2"], ["hidden cannot be swept", "--set"]),
        (["--sweep", "discount=0.9,1.5"], ["discount cannot be 1.5"]),
        (["--sweep", "discount=a"], ["--sweep discount a", "'a' is no number"]),
        (["--set", "episodes=top:0.1"], ["episodes is no hyperparameter", "--episodes"]),
    ],
)
def test_bad_settings_write_nothing(
    words: list[str],
    parts: list[str],
    pendulum: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    line = complaint(capsys, "train", "offline", "--data", str(pendulum), "--out", str(out), *words)
    for part in parts:
        assert part in line
    assert not out.exists()


def test_a_settings_word_is_read_as_yaml() -> None:
    from xql.cli.train import parse_settings

    assert parse_settings(
        (
            ("a=3e-4", "b=1024", "c=[128,128]", "d=null", "e=huber"),
            ("f=2.0", "g=true", "h=scale:0.1"),
        )
    ) == {
        "a": 3e-4,
        "b": 1024,
        "c": [128, 128],
        "d": None,
        "e": "huber",
        "f": 2.0,
        "g": True,
        "h": "scale:0.1",
    }
    # As in a sweep's file: at any depth, whole numbers to the last digit, and text in quotes.
    found = parse_settings(
        [["gains=[1e-3,2e-4]", "n=9007199254740993", "low=-.5", "id='1e3'", "x=007a", "y=inf"]]
    )
    assert found == {
        "gains": [1e-3, 2e-4],
        "n": 9007199254740993,
        "low": -0.5,
        "id": "1e3",
        "x": "007a",
        "y": "inf",
    }


def test_sweeps_are_read_as_numbers_by_name() -> None:
    from xql.cli.train import parse_beta, parse_sweep

    words = (("discount=0.9,0.99", "polyak=0.01"), ("weight_cap=5",))
    assert parse_sweep(words) == {
        "discount": [0.9, 0.99],
        "polyak": [0.01],
        "weight_cap": [5.0],
    }
    assert parse_beta(("0.5", "2")) == parse_beta(("0.5,2",)) == [0.5, 2.0]
    assert parse_beta(("auto",)) == "auto"
    assert parse_beta(()) is None


def test_a_missing_extra_is_named(
    pendulum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: object
) -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from xql.cli import main\n"
        "main(['gumbel', 'fit', sys.argv[1], '--target', 'y', '--features', 'x'])"
    )
    table = tmp_path / "table.csv"
    table.write_text("x,y\n1,2\n2,3\n3,5\n")
    done = subprocess.run(
        [sys.executable, "-c", code, str(table)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'extreme-q-learning[regression]'" in done.stderr


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xql.cli.paper.list_", interrupt)
    assert run("paper", "list") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_the_demo_prints_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    # The demo's time is the simulator's: its agents alone play 380 episodes of 600 steps.
    for name, fewer in {"TRANSITIONS": 2000, "EVALUATIONS": 1, "EPISODES": 4}.items():
        monkeypatch.setattr(f"xql.cli.demo.{name}", fewer)
    out = tmp_path / "demo"
    assert run("demo", "--steps", "20", "--seeds", "1", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    for name in ("behaviour policy", "behaviour cloning", "Extreme Q-Learning"):
        assert name in printed
        assert name in (out / "table.md").read_text()
    assert "1 seed × 4 episodes, last step" in (out / "table.md").read_text()
    assert (out / "learning-curves.png").stat().st_size > 5000
    assert (out / "xql" / "config.yaml").exists() and (out / "bc" / "config.yaml").exists()
    assert "choose another --out" in complaint(capsys, "demo", "--out", str(out))

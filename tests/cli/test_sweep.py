"""`xql sweep` as a user types it."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import xql
from worlds import line_data
from xql.cli import main
from xql.data.files import save_dataset
from xql.experiments import sweep
from xql.experiments.sweep import plan_sweep
from xql.experiments.sweep_board import Board
from xql.experiments.sweep_spec import read_spec

TINY = {
    "agents": "bc",
    "data": "line.npz",
    "env": "worlds:Line",
    "steps": 6,
    "evaluations": 2,
    "episodes": 1,
    "last_episodes": 2,
    "options": {"hidden": [4], "batch_size": 4},
    "seeds": 2,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_dataset(line_data(), tmp_path / "line.npz")
    write({})
    return tmp_path


def write(values: dict[str, object]) -> None:
    Path("s.yaml").write_text(yaml.safe_dump(TINY | values))


def run(*words: str) -> int:
    try:
        main(["sweep", *words])
    except SystemExit as end:
        return 0 if end.code is None else int(str(end.code))
    return 0


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def test_a_dry_run_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("s.yaml", "--dry-run", "--jobs", "1") == 0
    said = capsys.readouterr()
    assert said.out == (
        "line bc: seeds 0, 1: waiting\n1 of 1 cells are left to train, in sweeps/s\n"
    )
    assert said.err == "" and names(here) == {"line.npz", "s.yaml"}


def test_a_sweep_is_made_once_and_says_what_came_out(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("s.yaml", "--jobs", "1") == 0
    said = capsys.readouterr()
    assert said.out == "1 of 1 cells done\nsweeps/s/summary.csv\n"
    assert "line bc: seeds 0, 1: done, " in said.err and "(1 of 1)" in said.err
    assert "xql compare sweeps/s compares them" in said.err
    assert names(here / "sweeps" / "s") - {".lock"} == {"cells", "summary.csv", "sweep.yaml"}
    before = (here / "sweeps" / "s" / "summary.csv").read_text()
    assert run("s.yaml", "--jobs", "1", "--quiet") == 0
    said = capsys.readouterr()
    assert said.out == "1 of 1 cells done\nsweeps/s/summary.csv\n" and said.err == ""
    assert (here / "sweeps" / "s" / "summary.csv").read_text() == before
    assert run("s.yaml", "--dry-run") == 0
    assert "line bc: seeds 0, 1: there already" in capsys.readouterr().out


def test_a_sweep_without_evaluations_names_what_ranks_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write({"env": "none", "seeds": 1, "sweep": {"policy_learning_rate": [0.001, 0.01]}})
    assert run("s.yaml", "--jobs", "1") == 0
    said = capsys.readouterr().err
    assert "xql select sweeps/s ranks them" in said and "compare" not in said
    # The folder stands for its runs, and what was swept says which is which.
    main(["select", "sweeps/s", "--updates", "2", "--replicates", "2"])
    said = capsys.readouterr().out
    for value in ("0.001", "0.01"):
        assert said.count(f" policy_learning_rate = {value} ") == 2  # steps


def test_nothing_is_ranked_of_a_sweep_that_has_no_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "out").mkdir()
    (here / "out" / "sweep.yaml").touch()
    with pytest.raises(SystemExit) as end:
        main(["select", "out"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "xql: out: none of its runs is finished; the same xql sweep goes on with it\n"
    )


def test_a_program_reads_events(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("s.yaml", "--jobs", "1", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cells = [one for one in events if one["event"] == "cell"]
    assert [one["state"] for one in cells] == ["training", "done"]
    assert cells[1]["score"].endswith("% success") and Path(cells[1]["run"]).is_dir()
    assert events[-1]["event"] == "end" and events[-1]["cells"][0]["state"] == "done"


def test_a_failed_cell_is_exit_status_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write({"agents": ["bc", "sac"], "envs": "own_worlds:UnsoundReset", "loop": {"warmup": 2}})
    assert run("s.yaml", "--jobs", "1") == 1
    said = capsys.readouterr()
    assert said.out.startswith("1 of 2 cells done, 1 failed\n")
    assert "own_worlds:UnsoundReset sac: seeds 0, 1: " in said.err and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"agents": "xqll"}, "xql: s.yaml: unknown agent 'xqll'; did you mean 'xql'?\n"),
        ({"agents": "xql", "presets": "tuned"}, "xql: preset 'tuned' has no settings for 'line'"),
        ({"data": "gone.npz"}, "xql: gone.npz: "),
        ({"sweep": {"hidden": [[0]]}, "options": {}}, "xql: option hidden cannot be "),
        (
            {"agents": "xql", "sweep": {"beta": [-1, 1]}},
            "xql: beta cannot be -1; give a number above 0\n",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_anything_trains(
    here: Path, capsys: pytest.CaptureFixture[str], values: dict[str, object], line: str
) -> None:
    write(values)
    assert run("s.yaml", "--jobs", "1") == 2
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1
    assert names(here) == {"line.npz", "s.yaml"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("gone.yaml",), "xql: gone.yaml: this file cannot be read"),
        (("s.yaml", "--jobs", "0"), "xql: --jobs 0 is too small; give at least 1"),
        (("s.yaml", "--out", "line.npz"), "xql: line.npz: no sweep can be written here"),
        (("s.yaml", "--address", "127.0.0.1:1"), "xql: --address 127.0.0.1:1: no Ray cluster"),
    ],
)
def test_words_that_cannot_be_used_are_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_without_optuna_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    write({"search": "optuna", "sweep": {"policy_learning_rate": [1e-3, 1e-4]}})
    assert run("s.yaml", "--dry-run") == 2
    assert capsys.readouterr().err == (
        "xql: optuna is not installed; run: pip install 'extreme-q-learning[cluster]'\n"
    )


def test_an_interruption_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    write({"members": 1})
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "attempt", interrupt)
        assert run("s.yaml", "--jobs", "1") == 130
    assert (
        "interrupted: 0 of 2 cells are done, and sweeps/s keeps what was begun; the same command "
        "goes on\n"
    ) in capsys.readouterr().err
    assert run("s.yaml", "--jobs", "1") == 0


def test_the_table_shows_what_trains_and_what_failed(here: Path) -> None:
    write({"members": 1, "seeds": 4})
    plan = plan_sweep(read_spec(Path("s.yaml")), here / "out")
    first, second, third, _ = plan.entries
    first.state, second.state, third.state = "training", "failed", "done"
    second.problem = "there is no simulator"
    work = here / "out" / "work" / first.job.run
    work.mkdir(parents=True)
    work.with_name(f"{work.name}.json").write_text('{"session": "me"}')
    (work / "metrics.jsonl").write_text('{"step": 1}\n{"step": 4, "loss": [1.0]}\n')
    board = Board(plan, "me")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(board._table())
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[1:4] == [
        "line bc: seed 0 training 4 of 6",
        "line bc: seed 1 failed there is no simulator",
        "line bc: seed 2 done",
    ]
    assert lines[-1] == "1 training, 1 failed, 1 done, 1 waiting"
    # What a driver before this one wrote down is not what trains now.
    assert Board(plan, "another")._step(first) == ""


@pytest.mark.nightly
def test_a_killed_command_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL, and the same command again: all six, none twice."""
    imported = (Path(xql.__file__).parents[1], Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, imported)))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token to the user's home
    write({"seeds": 6, "members": 1, "steps": 3000, "evaluations": 10})
    command = [sys.executable, "-m", "xql", "sweep", "s.yaml", "--jobs", "2"]
    began = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    cells = here / "sweeps" / "s" / "cells"
    for _ in range(1200):
        if list(cells.glob("line*")):
            break
        time.sleep(0.1)
    began.send_signal(signal.SIGKILL)
    began.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("line*")}
    assert 0 < len(kept) < 6
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and again.stdout.startswith("6 of 6 cells done"), again.stderr
    now = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
    assert len(now) == 6 and kept.items() <= now.items()

"""What --quiet, --json and --print-completion print."""

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from worlds import line_data, register_line
from xql import cli
from xql.cli import SHOWN, completion, main
from xql.data.files import save_dataset
from xql.errors import MissingExtra
from xql.output import Output, output, shown
from xql.runs.run import Run


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return 0 if end.code is None else int(str(end.code))
    return 0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.npz"
    return save_dataset(line_data(), path)


def words(log: Path, out: Path, *more: str) -> list[str]:
    short = "--agent bc --steps 20 --evaluations 2 --episodes 1 --last-episodes 1 --no-plot"
    settings = "--set hidden=[8] batch_size=8"
    head = ["train", "offline", "--data", str(log), "--env", register_line(), "--out", str(out)]
    return [*head, *short.split(), *settings.split(), *more]


@pytest.fixture(scope="module")
def trained(log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two members, and what --json printed of it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(*words(log, out, "--sweep", "policy_learning_rate=1e-3,1e-4", "--json")) == 0
    return out, printed.getvalue()


def test_json_is_an_object_per_line_to_the_end(
    log: Path, trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = trained
    events = [json.loads(line) for line in text.splitlines()]
    kinds = [one["event"] for one in events]
    assert set(kinds) <= {"note", "warning", "progress", "evaluation", "end"}
    assert kinds[-1] == "end" and kinds.count("end") == 1
    assert events[-1]["run"] == str(out) and events[-1]["steps"] == 20
    assert [one["step"] for one in events if one["event"] == "evaluation"] == [10, 20]
    assert [one["step"] for one in events if one["event"] == "progress"][-1] == 20
    results = Run.open(out).results
    for found, result in zip(events[-1]["results"], results, strict=True):
        assert found["changes"] == result.changes and found["last"] == result.last.interval.estimate
        assert found["low"] is None and found["seeds"] == 1

    trust = ("--trust-environment", "worlds")
    assert run("evaluate", str(out), "--episodes", "2", "--json", *trust) == 0
    (last,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert last["event"] == "end" and last["step"] == 20 and len(last["episodes"]) == 4

    assert run("compare", str(out), "--json") == 0
    note, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert note == {"event": "note", "text": "--out DIR keeps the tables and draws the figure"}
    assert len(last["rows"]) == 2

    # Bad input is the same line and status as ever, and an event besides.
    assert run(*words(log, out, "--json")) == 2
    printed = capsys.readouterr()
    last = json.loads(printed.out)
    assert last["event"] == "error" and printed.err == f"xql: {last['text']}\n"
    assert "--out" in last["text"]


def test_quiet_leaves_warnings_and_the_result(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words(log, tmp_path / "run", "--quiet", "--logger", "none")) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1] == f"run folder: {tmp_path / 'run'}"
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert run("compare", str(tmp_path / "run"), "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert run(*words(log, tmp_path / "other", "--logger", "none", "wandb")) == 2
    assert "--logger none and others" in capsys.readouterr().err


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(Output(stream=sys.stdout)):
        values: Any = [np.float32(1.5), float("nan"), -float("inf"), np.int64(3), True, None, "β"]
        output().emit("x", values=values, path=Path("a"))
    assert json.loads(capsys.readouterr().out) == {
        "event": "x",
        "values": [1.5, None, None, 3, True, None, "β"],
        "path": "a",
    }


def each_command(
    commands: dict[str, Any] = cli.COMMANDS, path: str = "xql"
) -> list[tuple[str, str]]:
    found = []
    for name, chosen in commands.items():
        if isinstance(chosen, dict):
            found += each_command(chosen, f"{path} {name}")
        else:
            found.append((f"{path} {name}", chosen))
    return found


@pytest.mark.parametrize(("path", "place"), each_command())
def test_completion_knows_the_flags_that_help_shows(
    path: str, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    known = dict(completion._words(cli.COMMANDS, "xql"))
    assert run(*path.split()[1:], "--help") == 0
    usage = capsys.readouterr().out.split("\n\n")[0]
    assert set(re.findall(r"--[a-z][-\w]*", usage)) <= set(known[path])
    function: Callable[..., Any] = cli._load(place)
    assert ("--json" in known[path]) == (function.__name__ in SHOWN)


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print-completion", "bash") == 0
    script = capsys.readouterr().out
    ask = 'COMP_WORDS=("${@}"); COMP_CWORD=$(($# - 1)); _xql; echo "${COMPREPLY[@]}"'

    def offered(*typed: str) -> list[str]:
        command = ["bash", "-c", f"{script}\n{ask}", "bash", *typed]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert offered("xql", "tr") == ["train"]
    assert offered("xql", "train", "") == ["offline", "online", "finetune", "--help"]
    assert offered("xql", "train", "offline", "--data", "x", "--js") == ["--json"]
    assert offered("xql", "train", "offline", "--data", "fi") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_flag(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print-completion", shell) == 0
    script = capsys.readouterr().out
    for word in ("keep-replay", "no-plot", "print-completion", "figure3"):
        assert word in script


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print-completion", "csh") == 2
    assert "there is no completion for 'csh'; " in capsys.readouterr().err
    assert run("--print-completion") == 2


def test_data_frames(trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = Run.open(trained[0])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pip install 'extreme-q-learning\[pandas\]'"):
        found.to_dataframe()
    pandas = ModuleType("pandas")
    pandas.__dict__["DataFrame"] = list
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    rows = found.to_dataframe()
    assert [(row["step"], row["member"]) for row in rows] == [(10, 0), (10, 1), (20, 0), (20, 1)]
    assert [row["policy_learning_rate"] for row in rows[:2]] == [1e-3, 1e-4]
    logged = found.folder.read_metrics()[1].values
    assert rows[3]["policy_loss"] == logged["policy_loss"][1]
    assert rows[3]["seconds"] == rows[2]["seconds"] == logged["seconds"][0]
    episodes = found.to_dataframe("evaluations")
    assert [row["return"] for row in episodes] == [one.episode_return for one in found.evaluations]
    assert len(episodes) == 4 and episodes[0]["policy_learning_rate"] == 1e-3

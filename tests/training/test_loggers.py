"""Loggers get what is logged, and none of them can stop a run; callbacks are the user's own."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from worlds import line_data, register_line
from xql.errors import InputError
from xql.runs.folder import RunFolder
from xql.runs.run import Run
from xql.training.listeners import Event, check_callbacks
from xql.training.loggers import TensorBoard, check_loggers
from xql.training.offline import train_offline
from xql.training.resume import resume

SETTINGS = {"hidden": [8], "batch_size": 8, "policy_schedule": "constant"}


def train(out: Path, **more: Any) -> Run:
    return train_offline(
        line_data(),
        **{
            "agent": "bc",
            "steps": 20,
            "env": "none",
            "options": SETTINGS,
            "evaluations": 2,
            "out": out,
            **more,
        },
    )


class Notes:
    """A logger that keeps what it is given, and fails where it is asked to."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.steps, self.ended = fails, list[int](), list[bool]()
        self.known: list[str | None] = []

    def _may_fail(self, name: str) -> None:
        if self.fails == name:
            raise ConnectionError("no\nroute to host")

    def start(self, run: Path, config: Mapping[str, Any], known: str | None) -> str:
        assert config["agent"] == "bc" and (run / "config.yaml").exists()
        self.known.append(known)
        self._may_fail("start")
        return "run 1"

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._may_fail("log")
        assert scalars and all(map(np.isfinite, scalars.values()))
        self.steps.append(step)

    def finish(self, complete: bool) -> None:
        self.ended.append(complete)
        self._may_fail("finish")


@pytest.mark.parametrize("fails", ["", "start", "log", "finish"])
def test_a_fault_is_one_line_and_the_logger_is_off(
    fails: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = Notes(fails), Notes()
    run = train(tmp_path / "run", loggers=[bad, good], progress=False)
    assert run.config.steps == 20
    assert good.steps == [10, 20] and good.ended == [True]
    assert bad.steps == ([] if fails in ("start", "log") else [10, 20])
    said = capsys.readouterr().err.splitlines()
    expected = "warning: no log by Notes: no route to host"
    assert said == ([expected] if fails else [])


def test_a_run_that_goes_on_finds_its_log_again(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.step == 10:
            raise KeyboardInterrupt

    notes = Notes()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", loggers=[notes], callbacks=[stop])
    assert notes.ended == [False]
    assert json.loads((tmp_path / "run" / "loggers.json").read_text()) == {"Notes": "run 1"}
    resume(tmp_path / "run", data=line_data(), loggers=[notes])
    assert notes.known == [None, "run 1"]
    assert notes.steps == [10, 20] and notes.ended == [False, True]


def test_what_a_callback_raises_ends_the_run_whose_state_is_saved(tmp_path: Path) -> None:
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if event.step == 10:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(tmp_path / "run", callbacks=[stop])
    run = resume(tmp_path / "run", data=line_data(), callbacks=[seen.append])
    assert [(one.kind, one.step) for one in seen] == [("metrics", 10), ("metrics", 20)]
    assert seen[0].run == tmp_path / "run" and len(seen[0].members) == 1
    assert all(len(values) == 1 for values in seen[0].values.values())
    with pytest.raises(TypeError):
        seen[0].values["x"] = (1.0,)  # type: ignore[index]
    # The same bits as of a run that nobody looked at.
    whole = train(tmp_path / "whole")
    for one, other in zip(run.folder.read_metrics(), whole.folder.read_metrics(), strict=True):
        assert one.values.keys() == other.values.keys()
        for name in one.values.keys() - {"seconds"}:
            assert one.values[name] == other.values[name]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("wandb", "`loggers='wandb'` is no list"),
        (["mlflow", "mlflow"], "the logger mlflow is named twice"),
        ([3], "3 is no logger; it needs the methods start, log and finish"),
    ],
)
def test_what_is_no_logger_is_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        check_loggers(given)
    with pytest.raises(InputError, match="is no list of functions"):
        check_callbacks(given)


def test_an_unknown_logger_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no logger 'wandbb'"):
        train(tmp_path / "run", loggers=["wandbb"])
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_of_loggers_starts_new_ones(tmp_path: Path) -> None:
    run = train(tmp_path / "run", loggers=[])
    assert not (run.path / "tensorboard").exists()
    assert json.loads((run.path / "loggers.json").read_text()) == {}
    (run.path / "loggers.json").write_text("[1")
    resume(run.path, data=line_data(), steps=30, progress=False)


class FakeWandB(ModuleType):
    """As much of wandb as is used; it keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.began: list[dict[str, Any]] = []
        self.rows: list[dict[str, float]] = []
        self.ended: list[int] = []

    def init(self, **settings: Any) -> Any:
        self.began.append(settings)
        return SimpleNamespace(
            id=settings["id"] or "abc",
            define_metric=lambda *_, **__: None,
            log=self.rows.append,
            finish=lambda exit_code: self.ended.append(exit_code),
        )

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    run = train(tmp_path / "run", loggers=["wandb"])
    assert [row["step"] for row in wandb.rows] == [10, 20]
    assert "policy_loss/0" in wandb.rows[0]
    first = wandb.began[0]
    assert (first["id"], first["resume"], first["project"]) == (None, None, "xql")
    assert first["name"] == "run" and first["config"]["agent"] == "bc"
    # Without a word about loggers, a run that goes on has those that it had.
    resume(run.path, data=line_data(), steps=30)
    assert (wandb.began[1]["id"], wandb.began[1]["resume"]) == ("abc", "allow")
    assert wandb.rows[-1]["step"] == 30 and wandb.ended == [0, 0]


class FakeMLflow(ModuleType):
    def __init__(self) -> None:
        super().__init__("mlflow")
        self.metrics: list[tuple[str, float, int, int]] = []
        self.params: dict[str, str] = {}
        self.status: dict[str, str] = {}

    def MlflowClient(self) -> "FakeMLflow":
        return self

    def get_experiment_by_name(self, name: str) -> None:
        assert name == "xql"

    def create_experiment(self, name: str) -> str:
        return "7"

    def create_run(self, number: str, run_name: str) -> Any:
        assert number == "7"
        key = f"id{len(self.status)}"
        self.status[key] = "RUNNING"
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    def update_run(self, key: str, status: str) -> None:
        if key not in self.status:
            raise KeyError(key)
        self.status[key] = status

    def log_batch(self, key: str, metrics: Any = (), params: Any = ()) -> None:
        assert self.status[key] == "RUNNING" and len(metrics) <= 1000 and len(params) <= 100
        self.metrics += metrics
        self.params |= dict(params)

    def set_terminated(self, key: str, status: str) -> None:
        self.status[key] = status


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow, entities = FakeMLflow(), ModuleType("mlflow.entities")
    entities.__dict__.update(Metric=lambda *values: values, Param=lambda *pair: pair)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for name in ("EXPERIMENT_NAME", "HTTP_REQUEST_MAX_RETRIES", "HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_{name}", "xql")
    run = train(tmp_path / "run", loggers=["mlflow"])
    assert mlflow.status == {"id0": "FINISHED"}
    assert {one[3] for one in mlflow.metrics} == {10, 20}
    assert mlflow.params["agent"] == "bc" and "hyperparameters.batch_size" in mlflow.params
    resume(run.path, data=line_data(), steps=30)
    assert mlflow.status == {"id0": "FINISHED"} and mlflow.metrics[-1][3] == 30
    # Deleted on the server: another one is made.
    mlflow.status.clear()
    resume(run.path, data=line_data(), steps=40)
    assert mlflow.status == {"id0": "FINISHED"}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_is_not_installed_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    for setting in ("RETRIES", "TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{'MAX_' * (setting == 'RETRIES')}{setting}", "1")
    train(tmp_path / "run", loggers=[name], progress=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: no ")
    assert line.endswith(f"{name} is not installed; run: pip install 'extreme-q-learning[{name}]'")


def test_without_tensorboard_nobody_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run = train(tmp_path / "run")
    said = capsys.readouterr().err.splitlines()
    line = (
        "no TensorBoard events: tensorboardX is not installed; "
        "run: pip install 'extreme-q-learning[report]'"
    )
    assert said.count(line) == 1
    assert not (run.path / "tensorboard").exists()
    assert not (run.path / "loggers.json").exists()


@pytest.mark.parametrize("method", ["__init__", "write_event", "flush", "close"])
# A writer whose flush fails cannot be closed: its file is closed when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_events_that_cannot_be_written_are_one_line(
    method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboardX")

    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("Descriptors cannot\nbe created directly")

    monkeypatch.setattr(f"tensorboardX.event_file_writer.EventsWriter.{method}", broken)
    train(tmp_path / "run", progress=False)
    assert capsys.readouterr().err.splitlines() == [
        "warning: no TensorBoard events: TypeError: Descriptors cannot be created directly"
    ]


def test_the_events_are_the_numbers(tmp_path: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    board = TensorBoard()
    board.start(tmp_path, {}, None)
    for step in (10, 20):
        board.log(step, {"a/0": step + 0.5, "b/0": float("nan")})
    board.finish(True)
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, found = path.read_bytes(), []
    while content:
        # A record: its length, a checksum of that, the event, a checksum of it.
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        content = content[12 + length + 4 :]
    assert [(step, tag) for step, tag, _ in found] == [
        (step, tag) for step in (10, 20) for tag in ("a/0", "b/0")
    ]
    assert [value for *_, value in found][::2] == [10.5, 20.5]


def test_tensorboard_has_the_scores_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run = train(tmp_path / "run", env=register_line(), episodes=1, last_episodes=1, progress=False)
    (events,) = (RunFolder.open(run.path).path / "tensorboard").iterdir()
    assert b"return/0" in events.read_bytes() or b"success/0" in events.read_bytes()

"""A run that was interrupted goes on bit for bit; nothing is lost, and nothing is there twice."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from worlds import Line, line_data, register_line, same_bits, stop_after
from xql.agents import OFFLINE, ONLINE
from xql.cli import main
from xql.errors import EnvironmentFault, InputError, Terminated
from xql.runs import checkpoints
from xql.runs.checkpoints import load_extra
from xql.runs.config import CheckpointPlan, OnlineLoop, RunConfig
from xql.runs.folder import RunFolder
from xql.runs.lock import locked
from xql.runs.run import Run
from xql.training import offline, online, streaming
from xql.training.population import train_chunk
from xql.training.run_logger import RunLogger
from xql.training.saved import load_saved

SMALL = {"hidden": [16], "batch_size": 16}
Learn = Callable[..., Run]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rows of metrics in 60 steps, and chunks that end between two of them."""
    monkeypatch.setattr(offline, "LOG_EVERY", 20)
    monkeypatch.setattr(online, "LOG_EVERY", 20)
    monkeypatch.setattr(offline.Pace, "took", lambda self, updates, seconds: None)
    monkeypatch.setattr(offline, "FIRST_CHUNK", 7)


def learn_offline(folder: Path, agent: str = "xql", **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "agent": agent,
        "steps": 60,
        "seeds": [4, 2],
        "out": folder,
        "env": register_line(),
        "options": SMALL,
        "evaluations": 3,
        "episodes": 2,
        "last_episodes": 3,
        "progress": False,
    }
    return xql.train_offline(line_data(), **(settings | changes))


def learn_online(folder: Path, agent: str = "td3", env: str | None = None, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "agent": agent,
        "steps": 60,
        "seeds": [4, 2],
        "out": folder,
        "options": SMALL,
        "loop": OnlineLoop(warmup=20),
        "evaluations": 3,
        "episodes": 1,
        "last_episodes": 2,
        "keep_replay": True,
        "progress": False,
    }
    return xql.train_online(env or register_line(), **(settings | changes))


def learn_discrete(folder: Path, agent: str = "sac", **changes: Any) -> Run:
    sweep = {"entropy_fraction": [0.2, 0.8]}
    return learn_online(folder, agent, "CartPole-v1", seeds=[4], sweep=sweep, **changes)


def learn_in_bf16(folder: Path, agent: str = "iql", **changes: Any) -> Run:
    return learn_offline(folder, agent, precision="bf16", **changes)


def go_on(path: Path, **changes: Any) -> Run:
    config = RunConfig.load(path)
    data = {} if config.loop and not config.finetune else {"data": line_data()}
    return xql.resume(path, trust=["worlds"], progress=False, **(data | changes))


def log_of(run: Run | Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of metrics without the time that they took, and of the evaluations."""
    path = run if isinstance(run, Path) else run.path
    rows = [json.loads(row) for row in (path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds")
    return rows, (path / "evaluations.csv").read_text()


def assert_same(run: Run, whole: Run) -> None:
    assert same_bits(run.population, whole.population)
    assert log_of(run) == log_of(whole)
    last = whole.config.steps
    ours, theirs = (load_extra(one.folder.checkpoints, last)[0] for one in (run, whole))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    if (whole.path / "replay.npz").exists():
        kept, wanted = (np.load(one.path / "replay.npz") for one in (run, whole))
        for name in wanted.files:
            np.testing.assert_array_equal(kept[name], wanted[name], err_msg=name)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Learn, str], Run]:
    """Runs that were never interrupted, made once for each agent."""
    made: dict[str, Run] = {}

    def whole(learn: Learn, agent: str) -> Run:
        name = f"{agent}-{learn.__name__}"
        if name not in made:
            made[name] = learn(tmp_path_factory.mktemp("whole") / agent, agent)
        return made[name]

    return whole


ALWAYS = ("xql", "rebrac", "x-sac", "x-td3")
"""One of each kind of state, and whose policy waits; the others are as they are, and nightly."""
EVERY = [
    pytest.param(learn, agent, id=agent, marks=[] if agent in ALWAYS else pytest.mark.nightly)
    for learn, agents in ((learn_offline, OFFLINE), (learn_online, ONLINE))
    for agent in agents
]
EVERY.append(pytest.param(learn_discrete, "sac", id="discrete"))
EVERY.append(pytest.param(learn_in_bf16, "iql", id="bf16"))


@pytest.mark.parametrize(("learn", "agent"), EVERY)
def test_every_agent_goes_on_bit_for_bit(
    learn: Learn,
    agent: str,
    wholes: Callable[[Learn, str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = wholes(learn, agent)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(5 if learn in (learn_offline, learn_in_bf16) else 33, patch)
        learn(tmp_path / "run", agent)
    # In the middle of a row of metrics, and online of an episode.
    step = max(int(one.name) for one in (tmp_path / "run" / "checkpoints").iterdir())
    assert step % 10
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(2, patch)
        go_on(tmp_path / "run")
    assert_same(go_on(tmp_path / "run"), whole)


def without_the_last_evaluation(whole: Run, home: Path) -> Path:
    """A copy of a run that diverged at step 60 as a signal leaves it; neither run can learn on."""
    run = home / "run"
    shutil.copytree(whole.path, run)
    text = (whole.path / "evaluations.csv").read_text()
    cut = "".join(row for row in text.splitlines(True) if not row.startswith("60,"))
    (run / "evaluations.csv").write_text(cut)
    for path, more in ((whole.path, {}), (run, {"steps": 80})):
        with pytest.raises(InputError, match="every member of this run diverged"):
            go_on(path, **more)
    return run


def test_where_every_member_diverged_only_an_evaluation_can_be_missing(tmp_path: Path) -> None:
    # From about 5e5 on the squared gradient of the second update overflows in Adam's state.
    options = SMALL | {"critic_loss": "squared", "critic_learning_rate": 1e9}
    whole = learn_offline(tmp_path / "whole", options=options, seeds=[4])
    assert whole.folder.read_frozen() == {0: 20}
    assert_same(go_on(without_the_last_evaluation(whole, tmp_path)), whole)


@pytest.mark.parametrize("tuned", [False, True], ids=["online", "fine-tuned"])
def test_where_every_member_diverged_online_the_missing_evaluation_is_made(
    wholes: Callable[[Learn, str], Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tuned: bool,
) -> None:
    options = {"critic_learning_rate": 1e20}
    if tuned:
        whole = xql.train_finetune(
            wholes(learn_offline, "xql"),
            steps=60,
            data=line_data(),
            out=tmp_path / "whole",
            options=options,
            loop=OnlineLoop(warmup=2),
            evaluations=3,
            episodes=1,
            last_episodes=2,
            trust=["worlds"],
            keep_replay=True,
            progress=False,
        )
    else:
        whole = learn_online(tmp_path / "whole", options=SMALL | options, loop=OnlineLoop(warmup=2))
    # 40 rows of the replay buffer's 60 were filled when it ended.
    assert whole.folder.read_frozen() == {0: 20, 1: 20}
    cut = without_the_last_evaluation(whole, tmp_path)
    capsys.readouterr()
    assert_same(go_on(cut), whole)
    said = capsys.readouterr().err
    assert "no replay buffer is kept" in said and "60 steps" not in said
    for path in (whole.path, tmp_path / "run"):
        assert not (path / "replay.npz").exists()


def test_a_streamed_run_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "BUFFER", 48)  # three updates, and no part of an epoch
    monkeypatch.setattr(streaming, "BLOCK", 8)

    def learn(folder: Path, **changes: Any) -> Run:
        return learn_offline(folder, "bc", seeds=[4], env="none", report=False, **changes)

    whole = learn(tmp_path / "whole", stream=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(12, patch)
        learn(tmp_path / "run", stream=True)
    monkeypatch.setattr(offline, "BUFFER", 16)  # a run goes on with its own
    assert_same(go_on(tmp_path / "run"), whole)
    assert not same_bits(whole.population, learn(tmp_path / "other").population)


def test_fine_tuning_goes_on_bit_for_bit(
    wholes: Callable[[Learn, str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tune(folder: Path) -> Run:
        return xql.train_finetune(
            wholes(learn_offline, "xql"),
            steps=60,
            data=line_data(),
            out=folder,
            loop=OnlineLoop(warmup=20),
            evaluations=3,
            episodes=1,
            last_episodes=2,
            trust=["worlds"],
            keep_replay=True,
            progress=False,
        )

    whole = tune(tmp_path / "whole")
    for calls in (1, 33):
        run = tmp_path / str(calls)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(calls, patch)
            tune(run)
        assert_same(go_on(run), whole)


def test_a_second_signal_ends_at_once_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        calls = iter([train_chunk] * 4 + [twice])
        name = "xql.training.offline.train_chunk"
        monkeypatch.setattr(name, lambda *args, **kwargs: next(calls)(*args, **kwargs))
        learn_offline(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").read_metrics()[-1].step == 20
    assert (tmp_path / "run" / "checkpoints" / "20").is_dir()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_termination_saves_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Terminated):
        stop_after(5, monkeypatch, signal.SIGTERM)
        learn_offline(tmp_path / "run", progress=True)
    said = " ".join(capsys.readouterr().err.split())
    assert f"interrupted: {tmp_path / 'run'} keeps the log and all of step 34" in said
    assert f"xql resume {tmp_path / 'run'} goes on from there" in said


@pytest.mark.parametrize("learn", [learn_offline, learn_online])
def test_a_run_that_was_killed_while_it_was_evaluated_evaluates_again(
    learn: Learn,
    wholes: Callable[[Learn, str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = "xql" if learn is learn_offline else "td3"
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(RunLogger, "_evaluate", lambda *_: 1 / 0)
        learn(tmp_path / "run", agent)
    path = tmp_path / "run" / "evaluations.csv"
    assert len(path.read_text().splitlines()) == 1
    with path.open("a") as file:
        file.write("20,0,4,0,-3.5,10,,0\n20,0,4")  # what a kill may leave of it
    assert_same(go_on(tmp_path / "run"), wholes(learn, agent))


@pytest.mark.parametrize("learn", [learn_offline, learn_online])
def test_what_came_after_the_last_checkpoint_comes_again(
    learn: Learn, wholes: Callable[[Learn, str], Run], tmp_path: Path
) -> None:
    whole = wholes(learn, "xql" if learn is learn_offline else "td3")
    shutil.copytree(whole.path, tmp_path / "run")
    # As after a kill between the last row of metrics and the last checkpoint.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "60")
    left = [tmp_path / "run" / ".0.part.npz", tmp_path / "run" / "checkpoints" / ".1.part"]
    left[0].touch()
    left[1].mkdir()
    assert_same(go_on(tmp_path / "run"), whole)
    assert not any(one.exists() for one in left)
    damaged = tmp_path / "run" / "checkpoints" / "60" / "notes.json"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.warns(UserWarning, match="checkpoint 60 is damaged, so that of step 40 is used"):
        assert_same(go_on(tmp_path / "run"), whole)


def test_a_complete_run_stays_as_it_is(wholes: Callable[[Learn, str], Run]) -> None:
    whole = wholes(learn_offline, "xql")
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*") if path.is_file()}
    run = whole.resume(trust=["worlds"])
    assert same_bits(run.population, whole.population)
    before.pop(whole.path / ".lock")
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("learn", [learn_offline, learn_online])
def test_a_longer_run_is_one_that_was_planned_so_long(
    learn: Learn, wholes: Callable[[Learn, str], Run], tmp_path: Path
) -> None:
    agent = "iql" if learn is learn_offline else "td3"
    # Nothing of these depends on the length of the run.
    constant = {"policy_schedule": "constant"} if learn is learn_offline else {}
    changes = {"options": SMALL | constant}
    whole = learn(tmp_path / "whole", agent, **changes)
    learn(tmp_path / "run", agent, **changes, steps=40, evaluations=2, last_episodes=1)
    with pytest.raises(InputError, match=r"`steps=30` is fewer than the 40 that are done"):
        go_on(tmp_path / "run", steps=30)
    longer = go_on(tmp_path / "run", steps=60, evaluations=3)
    assert same_bits(longer.population, whole.population)
    assert log_of(longer)[0] == log_of(whole)[0]
    assert longer.config.steps == RunConfig.load(tmp_path / "run").steps == 60


def test_a_longer_run_says_that_its_cosine_is_longer(tmp_path: Path) -> None:
    run = learn_offline(tmp_path / "run", "iql", steps=20, evaluations=1)
    with pytest.warns(UserWarning, match="policy_schedule: the cosine ends at step 40 now and not"):
        go_on(run.path, steps=40)


def test_another_number_of_evaluations_changes_no_parameter(
    wholes: Callable[[Learn, str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(5, patch)
        learn_offline(tmp_path / "run")
    run = go_on(tmp_path / "run", evaluations=5)
    assert same_bits(run.population, wholes(learn_offline, "xql").population)
    assert sorted({row.step for row in run.evaluations}) == [20, 36, 48, 60]


def test_several_environments_are_saved_and_evaluated_when_that_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(RunLogger, "_evaluate", lambda *_: 1 / 0)
        learn_online(
            tmp_path / "run",
            seeds=[4],
            loop=OnlineLoop(environments=2, warmup=20),
            evaluations=7,
            checkpoints=CheckpointPlan("5", keep_last=100),
            keep_replay=False,
        )
    run = go_on(tmp_path / "run")
    evaluated = {10, 18, 26, 36, 44, 52, 60}
    assert {row.step for row in run.evaluations} == evaluated
    # The first step at or after each multiple of 5, where no evaluation came between.
    kept = {int(one.name) for one in run.folder.checkpoints.iterdir()}
    assert kept == evaluated | {6, 16, 20, 30, 40, 46, 50, 56}


@pytest.mark.parametrize(
    "change",
    [
        {"logged": "40"},
        {"logged": 60},
        {"guard": {"frozen": []}},
        {"guard": {"rolled_back": {"x": 1}, "frozen": {}}},
        {"health": {"failing": [["x"]]}},
        {"health": {"beyond": {"above": 3}}},
        {"waiting": {"metrics.jsonl": 1}},
        {"seconds": None},
    ],
    ids=str,
)
def test_notes_that_no_run_writes_are_refused(
    change: dict[str, Any], wholes: Callable[[Learn, str], Run], tmp_path: Path
) -> None:
    shutil.copytree(wholes(learn_offline, "xql").path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "60")
    latest = tmp_path / "run" / "checkpoints" / "40"
    notes = json.loads((latest / "notes.json").read_text())
    (latest / "notes.json").write_text(json.dumps(notes | change))
    sums = json.loads((latest / "checksums.json").read_text())
    content = (latest / "notes.json").read_bytes()
    sums["sha256"]["notes.json"] = hashlib.sha256(content).hexdigest()
    (latest / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(InputError, match="the notes of this checkpoint are not those of a run"):
        go_on(tmp_path / "run")


def test_a_run_whose_log_is_compressed_does_not_go_on(
    wholes: Callable[[Learn, str], Run], tmp_path: Path
) -> None:
    shutil.copytree(wholes(learn_offline, "xql").path, tmp_path / "run")
    for name in ("metrics.jsonl", "evaluations.csv"):
        path = tmp_path / "run" / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert go_on(tmp_path / "run").config.steps == 60
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "60")
    with pytest.raises(InputError, match="only a part of this run's log is kept"):
        go_on(tmp_path / "run")


def test_a_run_may_end_where_it_stands(wholes: Callable[[Learn, str], Run], tmp_path: Path) -> None:
    shutil.copytree(wholes(learn_offline, "xql").path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "60")
    run = go_on(tmp_path / "run", steps=40, evaluations=2)
    assert RunConfig.load(tmp_path / "run").steps == 40
    last = sorted((row.step, row.member) for row in run.evaluations if row.step > 20)
    assert last == [(40, 0)] * 3 + [(40, 1)] * 3


def test_when_it_is_saved_changes_nothing_and_what_stays_is_as_asked(
    wholes: Callable[[Learn, str], Run], tmp_path: Path
) -> None:
    plan = CheckpointPlan("5", keep_last=1, keep_every=15, keep_best=True)
    run = learn_offline(tmp_path / "run", checkpoints=plan)
    whole = wholes(learn_offline, "xql")
    assert same_bits(run.population, whole.population)
    # The sums of the metrics are of the same updates, however they are divided.
    assert log_of(run) == log_of(whole)
    scores = {
        step: np.mean([row.success for row in run.evaluations if row.step == step])
        for step in (20, 40)  # what was known when the last was saved
    }
    best = max(scores, key=lambda step: (scores[step], step))
    kept = {int(one.name) for one in run.folder.checkpoints.iterdir()}
    assert kept == {15, 30, 45, 60, best}
    assert xql.load_policy(run.path, step=30)(np.zeros(2, np.float32)).shape == (1,)


@pytest.mark.parametrize("every", ["0", "5 minutes", "soon", "-3", "1.5h", ""])
def test_an_interval_that_is_none_is_refused(every: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no time and no number of steps; write it as 30s"):
        learn_offline(tmp_path / "run", checkpoints=CheckpointPlan(every))
    assert not (tmp_path / "run").exists()


def test_checkpoints_come_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**6))
    monkeypatch.setattr("xql.training.run_logger.time.monotonic", lambda: float(next(now)))
    plan = CheckpointPlan("2s", keep_last=100)
    run = learn_offline(tmp_path / "run", checkpoints=plan, evaluations=1)
    kept = {int(one.name) for one in run.folder.checkpoints.iterdir()}
    assert len(kept) > 3 and 60 in kept


@pytest.mark.parametrize("learn", [learn_offline, learn_online])
def test_a_full_disk_between_evaluations_stops_nothing(
    learn: Learn,
    wholes: Callable[[Learn, str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(folder: Path, step: int, *args: Any) -> Path:
        if step % 20:
            raise InputError("no checkpoint can be written here (No space left on device)")
        return whole_write(folder, step, *args)

    whole_write = checkpoints._write
    monkeypatch.setattr(checkpoints, "_write", write)
    agent = "xql" if learn is learn_offline else "td3"
    run = learn(tmp_path / "run", agent, checkpoints=CheckpointPlan("5"))
    assert "No space left on device); training goes on, and tries again" in capsys.readouterr().err
    assert_same(run, wholes(learn, agent))


class Failing(Line):
    """`Line`, which fails at its 45th step of training, once."""

    steps = -1  # one is played before

    def step(self, action: np.ndarray) -> Any:
        Failing.steps += 1
        if Failing.steps == 45:
            raise RuntimeError("the robot fell over")
        return super().step(action)


def test_a_simulator_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worlds.Line", Failing)
    Failing.steps = -1
    said = r"the robot fell over.*xql resume \S+ goes on from there"
    with pytest.raises(EnvironmentFault, match=said):
        learn_online(tmp_path / "run", seeds=[4], evaluations=1)
    assert [one.name for one in (tmp_path / "run" / "checkpoints").iterdir()] == ["44"]
    run = go_on(tmp_path / "run")
    assert run.population.step.tolist() == [40]
    assert [row.step for row in run.folder.read_metrics()] == [20, 40, 60]
    rows = np.load(run.path / "replay.npz")["observations"]
    assert rows.shape == (1, 60, 2)


def test_where_nothing_is_saved_yet_nothing_says_that_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worlds.Line", Failing)
    Failing.steps = 43
    with pytest.raises(EnvironmentFault, match="the robot fell over") as error:
        learn_online(tmp_path / "run", seeds=[4], evaluations=1)
    assert "resume" not in str(error.value)


def test_a_run_is_written_by_one_process_at_a_time(
    wholes: Callable[[Learn, str], Run], tmp_path: Path
) -> None:
    path = wholes(learn_offline, "xql").path
    said = "another process is writing to this run; wait until it has ended"
    with locked(path), pytest.raises(InputError, match=said):
        xql.resume(path, trust=["worlds"])
    held = (
        "import sys, time; from pathlib import Path; from xql.runs.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", held, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=said):
        xql.resume(path, trust=["worlds"])
    other.kill()  # a dead process holds nothing
    other.communicate()
    assert xql.resume(path, trust=["worlds"]).config.steps == 60


def test_what_there_is_nothing_to_go_on_from(
    wholes: Callable[[Learn, str], Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="there is no such run folder"):
        xql.resume(tmp_path / "none")
    shutil.copytree(wholes(learn_offline, "xql").path, tmp_path / "run")
    (tmp_path / "run" / ".lock").unlink()
    for one in (tmp_path / "run" / "checkpoints").iterdir():
        shutil.rmtree(one)
    with pytest.raises(SystemExit) as end:
        main(["resume", str(tmp_path / "run")])
    assert end.value.code == 2
    assert "there is no checkpoint to go on from; train it again" in capsys.readouterr().err
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize(("learn", "agent"), [(learn_offline, "xql"), (learn_online, "td3")])
def test_a_run_that_was_killed_before_it_saved_anything_begins_anew(
    learn: Learn,
    agent: str,
    wholes: Callable[[Learn, str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunLogger, "_save", killed)
        learn(tmp_path / "run", agent, progress=True)
    assert RunFolder.open(tmp_path / "run").read_metrics()
    assert not (tmp_path / "run" / "checkpoints").exists()
    said = " ".join(capsys.readouterr().err.split())
    assert f"no policy yet; xql resume {tmp_path / 'run'} begins anew" in said
    assert_same(go_on(tmp_path / "run"), wholes(learn, agent))


def test_a_fine_tuned_run_that_saved_nothing_is_to_be_made_again(
    wholes: Callable[[Learn, str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    start = wholes(learn_offline, "xql")  # which this test may be the first to ask for
    monkeypatch.setattr(RunLogger, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        xql.train_finetune(
            start,
            steps=60,
            replay="online",
            out=tmp_path / "run",
            loop=OnlineLoop(warmup=20),
            trust=["worlds"],
            progress=False,
        )
    with pytest.raises(InputError, match="it began with those of xql; fine-tune that run again"):
        go_on(tmp_path / "run")


@pytest.mark.parametrize(
    ("learn", "agent", "before", "after", "said"),
    [
        (learn_offline, "xql", "batch_size: 16", "batch_size: 8", "trained with batch_size 16"),
        (learn_offline, "xql", "reward_scale: ", "reward_scale: 7", "trained with reward_scale"),
        (learn_offline, "xql", "policy_schedule: cosine", "policy_schedule: constant", "schedule"),
        (learn_offline, "xql", "steps: 60", "steps: 30", "is of step 40, config.yaml says 30"),
        (learn_offline, "xql", "\nsteps:", "\nprecision: bf16\nsteps:", 'precision "float32"'),
        (learn_online, "td3", "warmup: 20", "warmup: 10", "with warmup 20, config.yaml says 10"),
    ],
)
def test_a_configuration_that_was_edited_is_refused(
    learn: Learn,
    agent: str,
    before: str,
    after: str,
    said: str,
    wholes: Callable[[Learn, str], Run],
    tmp_path: Path,
) -> None:
    shutil.copytree(wholes(learn, agent).path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "60")
    place = tmp_path / "run" / "config.yaml"
    text = place.read_text()
    assert before in text
    place.write_text(text.replace(before, after, 1))
    with pytest.raises(InputError, match=f"{said}.*; restore config.yaml as the run wrote it"):
        go_on(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"step": 60')


def test_networks_alone_whose_evaluation_was_not_over_do_not_go_on(
    wholes: Callable[[Learn, str], Run],
) -> None:
    saved = load_saved(RunFolder.open(wholes(learn_offline, "xql").path))
    kept = saved._replace(extra={}, notes={**saved.notes, "evaluating": 40})
    with pytest.raises(InputError, match="keeps the networks alone"):
        kept.require_whole()


def test_what_is_advised_is_what_resume_can_do(
    wholes: Callable[[Learn, str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(wholes(learn_offline, "xql").path, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    shutil.rmtree(folder.checkpoints / "60")
    config = folder.config
    with monkeypatch.context() as patch:
        patch.setattr(
            "xql.training.resume.plan_again",
            lambda *_: offline.OfflinePlan(config, line_data(), [], []),
        )
        with pytest.raises(SystemExit):
            main(["resume", str(folder.path)])
    said = capsys.readouterr().err
    assert "--trust-environment" in said and "without evaluation" not in said
    (folder.checkpoints / "40" / "notes.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["resume", str(folder.path)])
    said = capsys.readouterr().err
    assert "notes.json is not as it was written); train it again" in said


def test_data_that_was_given_as_arrays_has_to_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(5, patch)
        learn_offline(tmp_path / "run", evaluations=1)
    before = log_of(tmp_path / "run")
    with pytest.raises(InputError, match="its data was given as arrays, which no run keeps"):
        xql.resume(tmp_path / "run", trust=["worlds"])
    with pytest.raises(InputError, match="its data"):
        xql.resume(tmp_path / "run", data=line_data(seed=1), trust=["worlds"])
    assert log_of(tmp_path / "run") == before


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Commands in processes of their own."""
    processes = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "xql", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.filterwarnings("default:policy_schedule")  # of the cosine, which the user reads
def test_the_command_line_saves_on_termination_and_goes_on(
    tmp_path: Path,
    started: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.undo()  # chunks as the other process has them
    monkeypatch.chdir(tmp_path)
    data = line_data()
    names = ("observations", "actions", "rewards")
    columns = {name: getattr(data, name)[data.starts] for name in names}
    ends = np.arange(len(data.starts)) % 10 == 9
    np.savez(tmp_path / "line.npz", **columns, terminals=ends & False, timeouts=ends)
    words = ["--data", "d4rl:line.npz", "--env", "none", "--evaluations", "1", "--no-plot"]
    words += ["--set", "hidden=[16]", "batch_size=16", "--checkpoint-every", "2000"]
    first = started("train", "offline", *words, "--steps", "10000000", "--out", "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    while not (checkpoints.is_dir() and any(one.name.isdecimal() for one in checkpoints.iterdir())):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.05)
    with pytest.raises(SystemExit) as end:
        main(["resume", "run", "--no-plot"])
    assert end.value.code == 2
    assert "another process is writing to this run" in capsys.readouterr().err
    first.terminate()
    _, said = first.communicate(timeout=60)
    assert first.returncode == 143, said
    assert "goes on from there" in said and "xql: terminated" in said
    step = max(int(one.name) for one in checkpoints.iterdir())
    main(["resume", "run", "--steps", str(step + 500), "--no-plot"])
    assert f"the cosine ends at step {step + 500:,} now" in capsys.readouterr().err
    assert RunConfig.load(tmp_path / "run").steps == step + 500
    steps = [row.step for row in RunFolder.open(tmp_path / "run").read_metrics()]
    assert len(set(steps)) == len(steps) and steps[-1] == step + 500
    main(["resume", "run", "--no-plot"])
    said = f"nothing was left to train: all {step + 500:,} steps are done"
    assert said in capsys.readouterr().out


JOBS = """
import multiprocessing
from xql.runs.folder import free_folder

def job():
    start.wait()
    print(f"{free_folder('job')}\\n", end="")

fork = multiprocessing.get_context("fork")
start = fork.Barrier(4)
jobs = [fork.Process(target=job) for _ in range(4)]
for one in jobs:
    one.start()
for one in jobs:
    one.join()
"""


def test_jobs_that_start_at_once_get_a_folder_each(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOBS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.split()) == [f"runs/job-{number}" for number in (1, 2, 3, 4)]

"""Evaluation beside training: the same numbers, nothing lost, no process left behind."""

import concurrent.futures
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from worlds import Line, line_data, register_line, same_bits
from xql.envs.given import simulator
from xql.errors import EnvironmentFault
from xql.runs.checkpoints import load_extra
from xql.runs.config import CheckpointPlan, OnlineLoop
from xql.runs.folder import Evaluation
from xql.runs.run import Run
from xql.training import evaluation_worker, offline, online, run_logger
from xql.training.evaluate import EVALUATION_SEED, PopulationEvaluator
from xql.training.evaluation_worker import SWITCH, EvaluationWorker, WorkerLost, worth_a_worker
from xql.training.listeners import Event
from xql.training.offline import plan_offline
from xql.training.online_state import add
from xql.training.population import initial_population, train_chunk
from xql.training.run_logger import RunLogger

SMALL = {"hidden": [16], "batch_size": 16}
TRAINER = "XQL_TEST_TRAINER"
"""The trainer's process, so that a world knows in which it is played."""


def in_worker() -> bool:
    return os.environ.get(TRAINER, str(os.getpid())) != str(os.getpid())


class Killed(Line):
    """In a worker, the third evaluation, the last that it plays, ends the process."""

    firsts = 0

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        Killed.firsts += arguments.get("seed") == EVALUATION_SEED
        if in_worker() and Killed.firsts > 4:  # of two members
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(**arguments)


class Endless(Line):
    """In a worker, an episode never ends, and says so in a file."""

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        if in_worker() and arguments.get("seed") == EVALUATION_SEED:
            Path(os.environ["XQL_TEST_FILE"]).touch()
            time.sleep(1e6)
        return super().reset(**arguments)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRAINER, str(os.getpid()))
    monkeypatch.setattr(offline, "LOG_EVERY", 20)
    monkeypatch.setattr(online, "LOG_EVERY", 20)
    monkeypatch.setattr(offline.Pace, "took", lambda self, updates, seconds: None)
    monkeypatch.setattr(offline, "FIRST_CHUNK", 7)


def learn(folder: Path, env: Any = Line, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "steps": 80,
        "seeds": [4, 2],
        "out": folder,
        "env": env,
        "options": SMALL,
        "evaluations": 4,
        "episodes": 3,
        "last_episodes": 4,
        "progress": False,
    }
    return xql.train_offline(line_data(), **(settings | changes))


def learn_online(folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "agent": "td3",
        "steps": 80,
        "seeds": [4, 2],
        "out": folder,
        "options": SMALL,
        "loop": OnlineLoop(warmup=20),
        "evaluations": 4,
        "episodes": 1,
        "last_episodes": 2,
        "progress": False,
    }
    return xql.train_online(register_line(), **(settings | changes))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[Callable[..., Run], Run]:
    """Runs that evaluate in their own process."""
    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(offline, "LOG_EVERY", 20)
        patch.setattr(online, "LOG_EVERY", 20)
        patch.setenv(SWITCH, "0")
        folder = tmp_path_factory.mktemp("alone")
        return {one: one(folder / one.__name__) for one in (learn, learn_online)}
    finally:
        patch.undo()


def assert_same(run: Run, other: Run) -> None:
    """All that lies in the folders, but for the time that it took."""
    assert same_bits(run.population, other.population)
    logs = []
    for one in (run, other):
        rows = [json.loads(row) for row in (one.path / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            row.pop("seconds")
        logs.append((rows, (one.path / "evaluations.csv").read_text()))
    assert logs[0] == logs[1]
    ours, theirs = (load_extra(one.folder.checkpoints, one.config.steps) for one in (run, other))
    assert ours[0].keys() == theirs[0].keys()
    for name, array in theirs[0].items():
        np.testing.assert_array_equal(ours[0][name], array, err_msg=name)
    for notes in (ours[1], theirs[1]):
        notes.pop("seconds")
    assert ours[1] == theirs[1]


class Played:
    """In place of the worker: plays when it is let, in this process."""

    started: list["Played"] = []  # noqa: RUF012
    let = True
    fails: BaseException | None = None

    def __init__(self, config: Any, environment: Any) -> None:
        self.evaluator = PopulationEvaluator(config, lambda state: state, environment)
        self.waiting: list[tuple[concurrent.futures.Future[list[Evaluation]], Any]] = []
        self.closed = False
        Played.started.append(self)

    def begin(
        self, policies: Any, step: int, episodes: int
    ) -> concurrent.futures.Future[list[Evaluation]]:
        future: concurrent.futures.Future[list[Evaluation]] = concurrent.futures.Future()
        self.waiting.append((future, (policies, step, episodes)))
        if Played.let:
            self.play()
        return future

    def play(self) -> None:
        for future, asked in self.waiting:
            if Played.fails is not None:
                future.set_exception(Played.fails)
            else:
                future.set_result(self.evaluator.play(*asked))
        self.waiting = []

    def close(self) -> None:
        self.evaluator.close()
        self.closed = True


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> type[Played]:
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setattr(run_logger, "EvaluationWorker", Played)
    monkeypatch.setattr(Played, "started", [])
    monkeypatch.setattr(Played, "let", True)
    monkeypatch.setattr(Played, "fails", None)
    return Played


def test_a_worker_gives_the_same_bits_and_ends_with_the_run(
    alone: dict[Callable[..., Run], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Seen(EvaluationWorker):
        def __init__(self, config: Any, environment: Any) -> None:
            super().__init__(config, environment)
            started.append(self._process)

    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setattr(run_logger, "EvaluationWorker", Seen)
    assert_same(learn(tmp_path / "run"), alone[learn])
    assert [one.poll() for one in started] == [-signal.SIGKILL]


def test_a_killed_worker_s_evaluations_are_played_in_the_process(
    alone: dict[Callable[..., Run], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    assert_same(learn(tmp_path / "run", Killed), alone[learn])
    assert capfd.readouterr().err.splitlines() == [
        "warning: no worker can evaluate (its process has ended): this process does it from here on"
    ]


def test_a_worker_ends_with_its_trainer_in_the_middle_of_an_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XQL_TEST_FILE", str(tmp_path / "playing"))
    config = plan_offline(line_data(), env=Endless, options=SMALL).config
    agent = config.make_agent()
    population = initial_population(agent, config.spec, config.members)
    worker = EvaluationWorker(config, simulator(Endless))
    try:
        rows = worker.begin(evaluation_worker.policies_of(agent, population), 1, 1)
        while not (tmp_path / "playing").exists():
            assert not rows.done()
            time.sleep(0.05)
        assert worker._process.stdin is not None
        worker._process.stdin.close()  # as the system does when the trainer is killed
        assert worker._process.wait() == 0
        with pytest.raises(WorkerLost, match="has ended"):
            rows.result()
    finally:
        worker.close()


class Unpicklable:
    def __call__(self) -> Line:
        return Line()

    def __reduce__(self) -> Any:
        raise ValueError("ctypes objects containing pointers cannot be pickled")


@pytest.mark.parametrize("env", [lambda: Line(), Line(), Unpicklable()])
def test_what_no_other_process_can_have_is_played_in_the_process(
    env: Any,
    alone: dict[Callable[..., Run], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    run = learn(tmp_path / "run", env)
    ours, theirs = (one.folder.read_evaluations() for one in (run, alone[learn]))
    assert [row[:4] for row in ours] == [row[:4] for row in theirs]
    # One instance plays one episode at a time: a matrix product of another shape.
    mine, others = (np.array([row.episode_return for row in rows]) for rows in (ours, theirs))
    np.testing.assert_allclose(mine, others, rtol=1e-5)


def log_of_evaluations(run: Run) -> str:
    return (run.path / "evaluations.csv").read_text()


@pytest.mark.parametrize("learn", [learn, learn_online])
def test_what_arrives_late_is_logged_in_the_order_of_steps(
    learn: Callable[..., Run],
    alone: dict[Callable[..., Run], Run],
    played: type[Played],
    tmp_path: Path,
) -> None:
    played.let = False
    heard: list[tuple[str, int]] = []

    def hear(event: Event) -> None:
        heard.append((event.kind, event.step))
        if event.step == 60:
            played.started[0].play()

    run = learn(tmp_path / "run", evaluations=2, callbacks=[hear])
    assert heard == [
        ("metrics", 20),
        ("metrics", 40),
        ("metrics", 60),
        ("evaluation", 40),
        ("metrics", 80),
        ("evaluation", 80),
    ]
    rows = log_of_evaluations(alone[learn]).splitlines()
    kept = [row for row in rows if row.split(",")[0] in ("step", "40", "80")]
    assert log_of_evaluations(run).splitlines() == kept
    assert [one.closed for one in played.started] == [True]


def interrupt_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a signal come during a call of the compiled program of either loop."""
    left = [calls]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(offline, "train_chunk", counted(train_chunk))
    monkeypatch.setattr(online, "add", counted(add))


@pytest.mark.parametrize(
    ("learn", "there"),
    [(learn, "no row"), (learn, "some rows"), (learn, "all rows"), (learn_online, "some rows")],
)
def test_an_evaluation_that_was_not_over_comes_again(
    learn: Callable[..., Run],
    there: str,
    alone: dict[Callable[..., Run], Run],
    played: type[Played],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played.let = False
    keeping = CheckpointPlan("10", keep_last=1, keep_best=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(37 if learn is learn_online else 7, patch)
        learn(tmp_path / "run", checkpoints=keeping)
    assert played.started[0].closed
    # That of step 20 stays, since it may be the best.
    assert {one.name for one in (tmp_path / "run" / "checkpoints").iterdir()} == {"20", "37"}
    extra, notes = load_extra(tmp_path / "run" / "checkpoints", 37)
    assert notes["evaluating"] == 20 and any(name.startswith("policies") for name in extra)
    file = tmp_path / "run" / "evaluations.csv"
    head, *rows = file.read_text().splitlines()
    assert rows == []
    if there != "no row":
        theirs = log_of_evaluations(alone[learn]).splitlines()[1:]
        rows = [row for row in theirs if row.startswith("20,")]
        rows = rows[: -1 if there == "some rows" else None]
        file.write_text("".join(f"{row}\n" for row in (head, *rows)))
    played.let = True
    data = None if learn is learn_online else line_data()
    run = xql.resume(tmp_path / "run", trust=["worlds"], progress=False, data=data)
    assert_same(run, alone[learn])


def test_a_signal_does_not_wait_for_the_worker(
    alone: dict[Callable[..., Run], Run],
    played: type[Played],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played.let = False
    arrived = RunLogger._arrived

    def waiting(self: RunLogger, patience: float = 0.0) -> bool:
        if patience:
            os.kill(os.getpid(), signal.SIGINT)
        return arrived(self, patience)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunLogger, "_arrived", waiting)
        learn(tmp_path / "run")
    assert load_extra(tmp_path / "run" / "checkpoints", 40)[1]["evaluating"] == 20
    played.let = True
    run = xql.resume(tmp_path / "run", trust=["worlds"], progress=False, data=line_data())
    assert_same(run, alone[learn])


def test_a_fault_in_the_worker_is_the_same_line_and_keeps_the_run(
    alone: dict[Callable[..., Run], Run], played: type[Played], tmp_path: Path
) -> None:
    played.fails = EnvironmentFault("step raised", where="Line", hint="see there")
    with pytest.raises(EnvironmentFault) as fault:
        learn(tmp_path / "run")
    kept = f"the policy of step 20 is kept in {tmp_path / 'run'}"
    assert str(fault.value) == f"Line: step raised; see there; {kept}"
    played.fails = None
    run = xql.resume(tmp_path / "run", trust=["worlds"], progress=False, data=line_data())
    assert_same(run, alone[learn])


def test_a_worker_is_started_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    enough = evaluation_worker.START / 10 + 0.1
    for cores, pays in ((evaluation_worker.FEWEST_CORES, True), (1, False)):
        monkeypatch.setattr(evaluation_worker, "cores", lambda cores=cores: cores)
        assert worth_a_worker(10, enough) == pays
        assert not worth_a_worker(9, enough / 2)
    for value, asked in (("0", False), ("1", True)):
        monkeypatch.setenv(SWITCH, value)
        assert worth_a_worker(1, 0.0) == asked
    assert not worth_a_worker(0, 100.0)

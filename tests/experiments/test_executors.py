"""Executors: every task once, whoever is killed, and in which process."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import own_tasks
from xql.errors import InputError, MissingExtra
from xql.experiments import executors
from xql.experiments.executors import (
    Executor,
    Lost,
    OnJoblib,
    OnRay,
    Share,
    executor_for,
    in_process,
    start_ray_here,
    workers_of,
)
from xql.programs import FOLDER, keep_programs

SEVERAL = pytest.mark.parametrize("kind", [OnRay, OnJoblib])


def test_one_job_is_done_here_and_several_elsewhere(ray_here: None) -> None:
    assert executor_for(1) is in_process and executor_for() is in_process
    assert isinstance(executor_for(2), OnRay)
    assert workers_of(executor_for(2)) == 2 and workers_of(in_process) == 1
    assert isinstance(in_process, Executor)
    assert list(in_process(own_tasks.double, [1, 2])) == [(1, 2), (2, 4)]


def test_without_ray_several_jobs_are_joblib_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(executor_for(2), OnJoblib)

    def missing(module: str, extra: str) -> None:
        raise MissingExtra(f"{module} is not installed; run: pip install 'x[{extra}]'")

    monkeypatch.setattr(executors, "require", missing)
    for asked in ({"address": "auto"}, {"jobs": 2, "share": Share(gpus=1)}):
        with pytest.raises(MissingExtra, match=r"ray is not installed.*\[cluster\]"):
            executor_for(**asked)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers .*refused.*ray start --head"),
        ("http://x", "is no address; give auto, HOST:PORT"),
        ("", "is no address"),
    ],
)
def test_an_address_where_nothing_answers_is_refused_at_once(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        executors._require_answer(address)


def test_what_no_machine_has_is_refused(ray_here: None) -> None:
    with pytest.raises(InputError, match="no machine has 1 cores and 1 GPUs"):
        list(OnRay(2, None, Share(gpus=1))(own_tasks.double, [1]))


@SEVERAL
def test_a_task_is_taken_when_a_worker_is_free(
    kind: type[OnRay] | type[OnJoblib], ray_here: None
) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    done = kind(2)(own_tasks.double, tasks())
    first, result = next(done)
    assert result == 2 * first and len(taken) <= 4
    rest = [task for task, _ in done]
    assert sorted([first, *rest]) == taken == list(range(6))


@SEVERAL
def test_what_the_work_raises_ends_it(kind: type[OnRay] | type[OnJoblib], ray_here: None) -> None:
    with pytest.raises(InputError, match="no such thing"):
        list(kind(2)(own_tasks.refuse, [1, 2]))


@SEVERAL
def test_each_process_has_cores_of_its_own(
    kind: type[OnRay] | type[OnJoblib],
    ray_here: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # Ray's workers have taken theirs elsewhere
    found = dict(kind(2)(own_tasks.cores, [0, 1, 2, 3]))
    by_process = dict(found.values())  # type: ignore[arg-type]
    assert all(len(cores) == 1 for cores in by_process.values())
    assert len({tuple(cores) for cores in by_process.values()}) == len(by_process)


@pytest.mark.parametrize("own", [True, False])
def test_a_worker_s_programs_are_those_of_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER, str(tmp_path / "elsewhere"))
    if own:
        del os.environ[FOLDER]
        keep_programs()
    here = os.environ[FOLDER]
    [(_, found)] = OnJoblib(2)(own_tasks.programs, [0])
    assert not isinstance(found, Lost)
    cores, folder, handed_down = found
    assert cores == 1 and folder == handed_down
    if not own:  # the user has said where
        assert folder == here
        return
    all_of_them = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(all_of_them)[:1])
        del os.environ[FOLDER]
        keep_programs()
        assert folder == os.environ[FOLDER] != here
    finally:
        os.sched_setaffinity(0, all_of_them)


@pytest.mark.parametrize("what", ["open", "link", "file"])
def test_locks_are_not_written_where_others_may_write(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder, elsewhere = tmp_path / f"xql-cores-{os.getuid()}", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif what == "link":
        folder.symlink_to(elsewhere)
        real = Path.lstat
        stranger = os.stat_result((*real(folder)[:4], os.getuid() + 1, *real(folder)[5:]))
        monkeypatch.setattr(Path, "lstat", lambda one: stranger if one == folder else real(one))
    else:
        folder.touch()
    before, taken = os.sched_getaffinity(0), list(executors._taken)
    with pytest.raises(OSError):
        executors._lock_cores(1)
    assert os.sched_getaffinity(0) == before and executors._taken == taken
    assert not any(elsewhere.iterdir()) and (what == "file" or not any(folder.iterdir()))


@SEVERAL
def test_a_killed_worker_s_task_is_done_by_another(
    kind: type[OnRay] | type[OnJoblib], ray_here: None, tmp_path: Path
) -> None:
    tasks = [tmp_path / name for name in "abc"]
    found = dict(kind(2)(own_tasks.die_once, tasks))
    assert found == dict.fromkeys(tasks, "done")
    assert len(list(tmp_path.glob("*.died"))) == 1


@SEVERAL
def test_a_task_that_kills_every_worker_is_lost_and_stops_no_other(
    kind: type[OnRay] | type[OnJoblib], ray_here: None, tmp_path: Path
) -> None:
    tasks = [tmp_path / name for name in ("die", "a", "b", "c", "d", "e")]
    found = dict(kind(2)(own_tasks.die, tasks))
    assert set(found) == set(tasks)
    lost = found.pop(tmp_path / "die")
    assert isinstance(lost, Lost) and "killed 4 times" in lost.why
    assert set(found.values()) == {"done"}
    assert (tmp_path / "die.tries").read_text() == "x" * 4


def test_an_interrupted_task_may_save_what_it_has(ray_here: None, tmp_path: Path) -> None:
    tasks = [tmp_path / "slow", tmp_path / "other"]
    done = OnRay(2)(own_tasks.save_when_interrupted, tasks)

    def interrupt(*_: object) -> None:
        # Not while the worker imports JAX, which would break it for the tests to come.
        if all(task.with_suffix(".began").exists() for task in tasks):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
        with pytest.raises(KeyboardInterrupt):
            next(done)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert tasks[0].with_suffix(".saved").exists()


def test_a_folder_in_which_ray_cannot_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")

    def refused(**settings: object) -> None:
        raise OSError("AF_UNIX path length cannot exceed 107 bytes: /a/long/path")

    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(InputError, match=r"Ray cannot be started \(AF_UNIX.*short path in RAY_"):
        start_ray_here(1)

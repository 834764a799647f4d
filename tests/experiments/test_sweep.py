"""Sweeps: what shares a population, what is trained once, and what becomes of killed processes."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worlds import line_data
from xql.data.files import save_dataset
from xql.errors import InputError
from xql.experiments import sweep_worker
from xql.experiments.executors import OnRay, in_process
from xql.experiments.search import Trial, Trials
from xql.experiments.sweep import Entry, Plan, _pieces, _Planner, plan_sweep, run_sweep, summary
from xql.experiments.sweep_spec import SweepSpec, spec_from
from xql.experiments.sweep_worker import train_members
from xql.reports.compare import compare
from xql.runs.config import RunConfig
from xql.runs.folder import RunFolder, run_folders
from xql.runs.lock import locked
from xql.training.offline import train_offline

TINY: dict[str, Any] = {"hidden": [4], "batch_size": 4}
LINE = "worlds:Line"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "line.npz"
    save_dataset(line_data(), path)
    return path


def tiny(data: Path, **values: Any) -> SweepSpec:
    """A sweep of behaviour cloning, 6 updates each, evaluated twice."""
    given: dict[str, Any] = {"agents": "bc", "data": str(data), "env": LINE, "steps": 6}
    given |= {"evaluations": 2, "episodes": 1, "last_episodes": 2, "options": TINY}
    return spec_from(given | values)


def sizes(plan: Plan) -> list[int]:
    return [len(one.members) for one in plan.entries]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, float]]]:
    """The members that are trained from now on, in this process."""
    seen: list[tuple[int, dict[str, float]]] = []

    def seeing(*args: Any, **settings: Any) -> Any:
        seen.extend((one.seed, dict(one.changes)) for one in settings["members"])
        return train_members(*args, **settings)

    seeing.__name__ = train_members.__name__
    monkeypatch.setattr(sweep_worker, "train_members", seeing)
    return seen


def test_what_a_program_is_not_compiled_for_shares_one_population(
    data: Path, tmp_path: Path
) -> None:
    spec = tiny(
        data,
        agents=["xql", "bc"],
        seeds=2,
        sweep={
            "beta": [0.5, 2, "auto"],
            "inverse_temperature": [1, 3],
            "policy_dropout": [0.0, 0.1],
            "discount": [0.9, 0.99],
        },
    )
    plan = plan_sweep(spec, tmp_path)
    # Of xql: β as numbers or tuning itself, and the discount; dropout is swept or not, as it says.
    found: Counter[str] = Counter()
    for entry in plan.entries:
        found[entry.group.method.agent] += len(entry.members)
    # bc has none of the four but for its seeds.
    assert found == {"xql": 3 * 2 * 2 * 2 * 2, "bc": 2}
    for entry in plan.entries:
        names = {tuple(sorted(one.changes)) for one in entry.members}
        assert len(names) == 1 and "discount" not in names.pop()
    betas = [
        {one.changes.get("beta") for one in entry.members}
        for entry in plan.entries
        if entry.group.method.agent == "xql"
    ]
    assert {frozenset(one) for one in betas} == {frozenset({0.5, 2.0}), frozenset({None})}
    assert "bc has no beta, and is trained without it" in plan.notes
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("members", "groups", "workers", "most", "pieces"),
    [
        (8, 1, 1, 64, 1),
        (8, 1, 4, 64, 4),
        (8, 4, 4, 64, 1),
        (8, 3, 4, 64, 2),
        (2, 1, 16, 64, 2),
        (100, 1, 1, 64, 2),
        (1, 1, 8, 1, 1),
    ],
)
def test_members_are_divided_so_that_every_worker_has_some(
    members: int, groups: int, workers: int, most: int, pieces: int
) -> None:
    assert _pieces(members, groups, workers, most) == pieces


def test_the_numbers_are_those_of_a_run_made_by_hand(data: Path, tmp_path: Path) -> None:
    spec = tiny(data, seeds=2, sweep={"policy_learning_rate": [0.001, 0.1]})
    by_hand = train_offline(
        data,
        agent="bc",
        steps=6,
        seeds=2,
        sweep={"policy_learning_rate": [0.001, 0.1]},
        env=LINE,
        options=TINY,
        evaluations=2,
        episodes=1,
        last_episodes=2,
        out=tmp_path / "by hand",
        progress=False,
    )
    [entry] = run_sweep(plan_sweep(spec, tmp_path / "sweep"))
    assert entry.folder is not None
    run = RunFolder.open(entry.folder)
    assert run.config.members == by_hand.config.members
    assert run.read_evaluations() == by_hand.folder.read_evaluations()
    # Divided among workers, each member's numbers are the same.
    plan = plan_sweep(spec, tmp_path / "divided", workers=3)
    assert sizes(plan) == [2, 1, 1]
    run_sweep(plan)
    assert [one["last"] for one in rows(tmp_path / "divided")] == [
        one["last"] for one in rows(tmp_path / "sweep")
    ]


def test_nothing_is_trained_twice(
    data: Path, tmp_path: Path, trained: list[tuple[int, dict[str, float]]]
) -> None:
    out = tmp_path / "out"
    first = run_sweep(plan_sweep(tiny(data, seeds=2), out))
    assert trained == [(0, {}), (1, {})] and [one.state for one in first] == ["done"]
    # Whatever the number of workers, and however the seeds are asked for.
    for workers in (1, 2):
        assert plan_sweep(tiny(data, seeds=2), out, workers).left == 0
    again = run_sweep(plan_sweep(tiny(data, seeds=[1, 4]), out))
    assert trained == [(0, {}), (1, {}), (4, {})]
    assert [(one.state, [m.seed for m in one.members]) for one in again] == [
        ("done", [1]),
        ("done", [4]),
    ]
    assert [one["seed"] for one in rows(out)] == ["1", "4"]
    for changed in ({"steps": 7}, {"options": {**TINY, "batch_size": 5}}, {"last_episodes": 3}):
        assert plan_sweep(tiny(data, seeds=2, **changed), out).left == 1
    assert {one.name for one in out.iterdir()} >= {"sweep.yaml", "summary.csv", "cells"}
    assert not (out / "work").exists()
    assert spec_from(json.loads(json.dumps(tiny(data).to_plain()))) == tiny(data)


def test_a_run_that_was_begun_is_gone_on_with_bit_for_bit(data: Path, tmp_path: Path) -> None:
    spec = tiny(data, seeds=2)
    [whole] = run_sweep(plan_sweep(spec, tmp_path / "whole"))

    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        raise Stop

    plan = plan_sweep(spec, tmp_path / "again")
    [entry] = plan.entries
    work = tmp_path / "again" / "work" / entry.job.run
    with pytest.raises(Stop):
        train_members(**entry.job.cell.settings, out=work, callbacks=[stop])
    assert (work / "checkpoints").is_dir() and RunConfig.load(work).steps == 6
    # With as many workers as there might be: what is begun is not divided.
    plan = plan_sweep(spec, tmp_path / "again", workers=8)
    [resumed] = run_sweep(plan)
    assert whole.folder is not None and resumed.folder is not None
    assert resumed.folder.name == whole.folder.name and not work.exists()
    name = "evaluations.csv.gz"
    assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_run_that_was_killed_while_it_made_its_files_begins_anew(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_sweep(tiny(data), tmp_path)
    work = tmp_path / "work" / plan.entries[0].job.run
    work.mkdir(parents=True)
    (work / "config.yaml").write_text("agent: b")
    assert [one.state for one in run_sweep(plan)] == ["done"]


def test_what_a_killed_process_half_kept_is_no_cell(data: Path, tmp_path: Path) -> None:
    [entry] = run_sweep(plan_sweep(tiny(data), tmp_path))
    assert entry.folder is not None
    entry.folder.rename(entry.folder.with_name(".0123456789ab.part"))
    (tmp_path / "cells" / ".git").mkdir()  # of the user's
    plan = plan_sweep(tiny(data), tmp_path)
    assert plan.left == 1
    with pytest.raises(InputError):
        compare([tmp_path])
    run_sweep(plan)
    assert {one.name for one in (tmp_path / "cells").iterdir()} == {".git", entry.job.run}


def test_a_driver_that_is_interrupted_goes_on_with_the_rest(
    data: Path, tmp_path: Path, trained: list[tuple[int, dict[str, float]]]
) -> None:
    spec = tiny(data, seeds=3, members=1)

    def interrupt(entry: Entry) -> None:
        if entry.state == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan_sweep(spec, tmp_path), say=interrupt)
    plan = plan_sweep(spec, tmp_path)
    assert [one.state for one in plan.entries] == ["done", "waiting", "waiting"]
    run_sweep(plan)
    assert sorted(seed for seed, _ in trained) == [0, 1, 2]
    assert [one["state"] for one in rows(tmp_path)] == ["done"] * 3


def test_a_cell_that_fails_says_why_and_stops_no_other(data: Path, tmp_path: Path) -> None:
    spec = tiny(data, agents=["bc", "sac"], envs="own_worlds:UnsoundReset", steps=20)
    spec = dataclasses.replace(spec, loop={"warmup": 5})
    entries = run_sweep(plan_sweep(spec, tmp_path))
    states = {one.group.method.agent: one for one in entries}
    assert states["bc"].state == "done" and states["sac"].state == "failed"
    assert "UnsoundReset" in states["sac"].problem and "\n" not in states["sac"].problem
    [failed] = [one for one in rows(tmp_path) if one["state"] == "failed"]
    assert failed["problem"] == states["sac"].problem


def test_a_fault_in_a_cell_leaves_a_report(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **settings: Any) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(sweep_worker, "train_members", fail)
    [entry] = run_sweep(plan_sweep(tiny(data), tmp_path))
    what, _, report = entry.problem.partition("; the report is ")
    assert what == "ZeroDivisionError: by nothing" and "Traceback" in Path(report).read_text()


def test_other_data_than_was_planned_with_is_refused(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "line.npz"
    other.write_bytes(data.read_bytes())
    plan = plan_sweep(tiny(other), tmp_path / "out")
    save_dataset(line_data(seed=1), tmp_path / "new.npz")
    (tmp_path / "new.npz").replace(other)
    [entry] = run_sweep(plan)
    assert entry.state == "failed" and "other data than the sweep was planned with" in entry.problem


def test_two_drivers_do_not_share_a_sweep(data: Path, tmp_path: Path) -> None:
    plan = plan_sweep(tiny(data), tmp_path)
    with locked(tmp_path), pytest.raises(InputError, match="another process is writing"):
        run_sweep(plan)


def test_online_agents_are_swept_too(tmp_path: Path) -> None:
    spec = spec_from(
        {
            "agents": "td3",
            "envs": LINE,
            "steps": 12,
            "seeds": 1,
            "evaluations": 1,
            "last_episodes": 1,
            "options": TINY,
            "loop": {"warmup": 5, "buffer": 100},
            "sweep": {"policy_learning_rate": [1e-3, 1e-4]},
        }
    )
    [entry] = run_sweep(plan_sweep(spec, tmp_path))
    assert entry.folder is not None and len(entry.members) == 2, entry.problem
    assert RunConfig.load(entry.folder).loop is not None
    assert plan_sweep(spec, tmp_path).left == 0


def test_what_a_sweep_made_can_be_compared(data: Path, tmp_path: Path) -> None:
    run_sweep(
        plan_sweep(tiny(data, seeds=2, sweep={"policy_learning_rate": [0.001, 0.1]}), tmp_path)
    )
    found = compare([tmp_path])
    assert [len(one.seeds) for one in found.rows] == [2, 2]
    for row, rate in zip(found.rows, ("0.001", "0.1"), strict=True):
        last = [float(one["last"]) for one in rows(tmp_path) if one["policy_learning_rate"] == rate]
        assert row.last.mean.estimate == np.mean(last)


def test_cells_that_a_changed_sweep_does_not_ask_for_are_left_out(
    data: Path, tmp_path: Path
) -> None:
    run_sweep(plan_sweep(tiny(data, seeds=2, members=1), tmp_path))
    assert len(run_folders(tmp_path)) == 2
    [entry] = run_sweep(plan_sweep(tiny(data, seeds=[1]), tmp_path))
    with pytest.warns(UserWarning, match=r": 1 of 2 cells are left out, which summary\.csv"):
        assert run_folders(tmp_path) == [entry.folder]


def test_random_points_are_members_of_one_population(data: Path, tmp_path: Path) -> None:
    spec = tiny(
        data,
        search="random",
        trials=4,
        sweep={"policy_learning_rate": {"log_uniform": [0.001, 0.1]}},
    )
    plan = plan_sweep(spec, tmp_path)
    assert sizes(plan) == [4]
    [entry] = run_sweep(plan)
    assert entry.state == "done", entry.problem
    values = {float(one["policy_learning_rate"]) for one in rows(tmp_path)}
    assert len(values) == 4 and all(0.001 <= one <= 0.1 for one in values)
    # More trials train only those that are new.
    more = plan_sweep(dataclasses.replace(spec, trials=6), tmp_path)
    assert sizes(more) == [4, 2] and more.left == 1


# Workers in processes of their own.


def test_six_trials_of_which_a_worker_is_killed_come_to_six_results(
    data: Path, tmp_path: Path, ray_here: None
) -> None:
    spec = tiny(data, seeds=6, members=1, steps=400, evaluations=4)
    plan = plan_sweep(spec, tmp_path, workers=2)
    assert sizes(plan) == [1] * 6
    killed: list[int] = []

    def kill_one() -> None:
        for _ in range(3000):
            for run in sorted((tmp_path / "work").glob("*/config.yaml")):
                try:
                    pid = json.loads(run.parent.with_name(f"{run.parent.name}.json").read_text())
                    os.kill(pid["pid"], signal.SIGKILL)
                except (OSError, ValueError):
                    continue
                killed.append(pid["pid"])
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    came_back: Counter[str] = Counter()

    def hear(entry: Entry) -> None:
        came_back[entry.job.run] += entry.state == "done"

    run_sweep(plan, OnRay(2), say=hear)
    killer.join()
    assert len(killed) == 1
    assert [one.state for one in plan.entries] == ["done"] * 6
    assert list(came_back.values()) == [1] * 6
    found = [RunConfig.load(path).members for path in (tmp_path / "cells").iterdir()]
    assert sorted(member.seed for members in found for member in members) == list(range(6))
    # As if nobody had been killed.
    alone = tmp_path / "alone"
    run_sweep(plan_sweep(spec, alone), in_process)
    assert [one["last"] for one in rows(tmp_path)] == [one["last"] for one in rows(alone)]


# Optuna.


def searched(data: Path, **values: Any) -> SweepSpec:
    given: dict[str, Any] = {"search": "optuna", "metric": "return", "trials": 3, "asha": None}
    given["sweep"] = {"policy_learning_rate": {"log_uniform": [0.001, 0.1]}}
    return tiny(data, **(given | values))


@pytest.fixture
def optuna() -> Iterator[Any]:
    yield pytest.importorskip("optuna")


def test_a_search_by_optuna_optimizes_the_last_score(
    data: Path, tmp_path: Path, optuna: Any
) -> None:
    plan = plan_sweep(searched(data), tmp_path)
    assert plan.total == plan.left == 3 and plan.entries == []
    entries = run_sweep(plan)
    assert [one.state for one in entries] == ["done"] * 3
    [study] = plan.studies
    values = [one.value for one in study._study().trials]
    for entry, value in zip(entries, values, strict=True):
        assert entry.folder is not None
        last = [one for one in RunFolder.open(entry.folder).read_evaluations() if one.step == 6]
        assert value == pytest.approx(np.mean([one.episode_return for one in last]))
    steps = [sorted(one.intermediate_values) for one in study._study().trials]
    assert steps == [[1, 2]] * 3
    again = plan_sweep(searched(data), tmp_path)
    assert again.left == 0 and [one.folder for one in again.entries] == [
        one.folder for one in entries
    ]
    assert run_sweep(again) == again.entries and len(study._study().trials) == 3
    assert plan_sweep(searched(data, trials=5), tmp_path).left == 2
    assert plan_sweep(searched(data, direction="minimize"), tmp_path).left == 3


def test_a_search_over_other_data_of_the_same_name_is_another_study(
    data: Path, tmp_path: Path, optuna: Any
) -> None:
    path, out = tmp_path / "line.npz", tmp_path / "out"
    path.write_bytes(data.read_bytes())
    spec = searched(path, trials=2)
    run_sweep(plan_sweep(spec, out))
    assert plan_sweep(spec, out).left == 0
    save_dataset(line_data(seed=1), tmp_path / "new.npz")
    (tmp_path / "new.npz").replace(path)
    plan = plan_sweep(spec, out)
    assert (plan.entries, plan.left) == ([], 2)
    assert [one.state for one in run_sweep(plan)] == ["done"] * 2
    assert len(plan.studies[0]._study().trials) == 2
    # The first data's study is still there.
    path.write_bytes(data.read_bytes())
    assert plan_sweep(spec, out).left == 0


def test_workers_elsewhere_take_part_in_a_search(
    data: Path, tmp_path: Path, optuna: Any, ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no worker is
    plan = plan_sweep(searched(data), Path("out"))
    entries = run_sweep(plan, OnRay(2))
    assert [one.state for one in entries] == ["done"] * 3, [one.problem for one in entries]
    study = plan.studies[0]._study()
    assert all(one.value is not None for one in study.trials)
    assert [sorted(one.intermediate_values) for one in study.trials] == [[1, 2]] * 3


def test_a_trial_whose_process_was_killed_is_trained_again(
    data: Path, tmp_path: Path, optuna: Any
) -> None:
    whole = run_sweep(plan_sweep(searched(data), tmp_path / "whole"))

    def die(entry: Entry) -> None:
        if entry.state == "training" and len(plan.entries) == 2:
            raise KeyboardInterrupt

    plan = plan_sweep(searched(data), tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, say=die)
    plan = plan_sweep(searched(data), tmp_path / "killed")
    assert plan.left == 2
    assert [one.job.run for one in run_sweep(plan)] == [one.job.run for one in whole]


def test_values_that_do_not_go_together_cost_a_trial_and_not_the_sweep(
    data: Path, tmp_path: Path, optuna: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = _Planner.entry

    def refused(planner: _Planner, study: Trials, trial: Trial) -> Entry:
        if trial.number == 1:
            raise InputError("these two exclude each other", hint="leave one out")
        return planned(planner, study, trial)

    monkeypatch.setattr(_Planner, "entry", refused)
    plan = plan_sweep(searched(data), tmp_path)
    assert [one.state for one in run_sweep(plan)] == ["done"] * 2
    assert (plan.refused, plan.left) == (1, 0)
    assert plan.notes[-1].startswith("trial 1 is left out: these two exclude each other")
    [study] = plan.studies
    assert study._study().trials[1].state == optuna.trial.TrialState.FAIL
    again = plan_sweep(searched(data), tmp_path)
    assert (again.refused, again.left) == (1, 0)


def test_trials_with_low_scores_end_early(data: Path, tmp_path: Path, optuna: Any) -> None:
    # The later of two evaluations is never made by those that are not the best at the first.
    spec = searched(data, trials=8, asha={"first": 1, "factor": 2}, evaluations=3)
    plan = plan_sweep(spec, tmp_path)
    entries = run_sweep(plan)
    states = Counter(one.state for one in entries)
    assert states["ended early"] > 0 and states["done"] > 0
    study = plan.studies[0]._study()
    for trial in study.trials:
        pruned = trial.state == optuna.trial.TrialState.PRUNED
        assert (3 not in trial.intermediate_values) == pruned
    assert plan_sweep(spec, tmp_path).left == 0
    assert Counter(one["state"] for one in rows(tmp_path)) == states


def test_a_point_that_is_proposed_again_is_not_trained_again(
    data: Path,
    tmp_path: Path,
    optuna: Any,
    trained: list[tuple[int, dict[str, float]]],
) -> None:
    spec = searched(data, trials=5, sweep={"policy_learning_rate": [0.001, 0.1]})
    plan = plan_sweep(spec, tmp_path)
    entries = run_sweep(plan)
    assert len(entries) == len(trained) == 2
    values = [one.value for one in plan.studies[0]._study().trials]
    assert len(values) == 5 and len(set(values)) <= 2 and None not in values
    # Nor shown again by another start.
    for one in (plan, plan_sweep(spec, tmp_path)):
        assert (len(one.entries), one.total, one.left) == (2, 2, 0)


def test_a_value_that_cannot_be_trained_is_refused_before_a_search_begins(
    data: Path, tmp_path: Path, optuna: Any
) -> None:
    spec = searched(data, options={"batch_size": 4}, sweep={"hidden": [[4], [0], [5]]})
    with pytest.raises(InputError, match="option hidden cannot be"):
        plan_sweep(spec, tmp_path)


def test_a_search_without_scores_is_refused(data: Path, tmp_path: Path, optuna: Any) -> None:
    for values in ({"env": "none"}, {"last_episodes": 0}):
        with pytest.raises(InputError, match="needs scores, and nothing is evaluated"):
            plan_sweep(searched(data, **values), tmp_path)


def test_a_search_for_a_score_that_no_episode_has_is_refused(
    data: Path, tmp_path: Path, optuna: Any
) -> None:
    spec = searched(data, metric="score")
    with pytest.raises(InputError, match="line: metric: score needs reference scores") as found:
        plan_sweep(spec, tmp_path)
    assert "\n" not in str(found.value)
    known = tmp_path / "known.npz"
    save_dataset(line_data(name="door-human-v0"), known)
    assert plan_sweep(searched(known, metric="score"), tmp_path / "out").left == 3


def test_a_trial_whose_cell_is_gone_is_trained_again(
    data: Path, tmp_path: Path, optuna: Any, trained: list[tuple[int, dict[str, float]]]
) -> None:
    spec = searched(data, trials=2)
    plan = plan_sweep(spec, tmp_path)
    first, second = run_sweep(plan)
    values = [one.value for one in plan.studies[0]._study().trials]
    assert first.folder is not None
    shutil.rmtree(first.folder)
    again = plan_sweep(spec, tmp_path)
    assert [one.state for one in again.entries] == ["waiting", "done"] and again.left == 1
    assert [one.folder for one in run_sweep(again)] == [first.folder, second.folder]
    assert len(trained) == 3 and trained[2] == trained[0]
    assert [one.value for one in plan.studies[0]._study().trials] == values


def test_the_summary_has_a_row_for_each_member(data: Path, tmp_path: Path) -> None:
    spec = tiny(data, seeds=2, options={"batch_size": 4}, sweep={"hidden": [[4], [5]]})
    found = list(csv.DictReader(summary(plan_sweep(spec, tmp_path)).splitlines()))
    assert [(one["hidden"], one["seed"], one["state"]) for one in found] == [
        ("[4]", "0", "waiting"),
        ("[4]", "1", "waiting"),
        ("[5]", "0", "waiting"),
        ("[5]", "1", "waiting"),
    ]

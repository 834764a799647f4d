"""Cells: trained once, kept whole or not at all, found by their configuration."""

import dataclasses
import errno
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worlds import register_line, same_bits, stop_after
from xql.errors import EnvironmentFault, InputError
from xql.experiments.cells import (
    Cell,
    asked,
    configuration,
    finetuned_cell,
    folder_name,
    kept,
    offline_cell,
    online_cell,
    train_and_keep,
    train_cells,
    train_then_finetune,
)
from xql.experiments.executors import OnJoblib, OnRay, executor_for
from xql.runs.checkpoints import latest_step
from xql.runs.config import EvaluationPlan, OnlineLoop, RunConfig
from xql.runs.folder import RunFolder
from xql.runs.lock import locked
from xql.runs.policy import load_population
from xql.runs.run import Run
from xql.training.offline import plan_offline, train_offline
from xql.training.online import plan_online
from xql.training.resume import resume

trained: list[str] = []


def train(out: Path, name: str = "a", fail: str = "") -> None:
    """A folder of a run that has no configuration, in a moment; `fail` stops it halfway."""
    trained.append(name)
    out.mkdir(parents=True)
    if fail == "input":
        raise InputError("no such data", where=name, hint="make it")
    if fail == "environment":
        raise EnvironmentFault("step raised ConnectionError", where=name)
    if fail:
        raise KeyboardInterrupt
    for file in ("returns.csv", "notes.txt"):
        (out / file).write_text(name)
    (out / "checkpoints" / "60").mkdir(parents=True)
    (out / "checkpoints" / "60" / "array").write_text(name)


def cell(name: str = "a", **settings: Any) -> Cell:
    return Cell(name, train, {"name": name} | settings, {})


@pytest.fixture(autouse=True)
def forget() -> None:
    trained.clear()


def log(path: Path, rows: int = 40) -> Path:
    """Two observations, one action, four episodes."""
    ends = np.arange(1, rows + 1) % 10 == 0
    np.savez(
        path,
        observations=np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32),
        actions=np.zeros((rows, 1), np.float32),
        rewards=np.ones(rows, np.float32),
        terminated=np.zeros(rows, bool),
        truncated=ends,
    )
    return path


def bc(data: Path, name: str = "bc", **changes: Any) -> Cell:
    settings: dict[str, Any] = {
        "opened": str(data),
        "agent": "bc",
        "steps": 2,
        "seeds": 1,
        "options": {"hidden": [4], "batch_size": 4},
        "quiet": True,
    }
    return offline_cell(name, data.stem, **(settings | changes))


def test_a_finished_cell_is_trained_once_and_kept_with_its_checkpoints(tmp_path: Path) -> None:
    said: list[str] = []
    first = train_cells([cell("a"), cell("b")], tmp_path / "cells", say=said.append)
    again = train_cells([cell("a"), cell("b"), cell("c")], tmp_path / "cells", say=said.append)
    assert trained == ["a", "b", "c"]
    assert again["a"] == first["a"] and first["a"].folder is not None
    files = {path.name for path in first["a"].folder.iterdir()}
    assert files == {"cell.json", "returns.csv", "checkpoints"}
    assert (first["a"].folder / "checkpoints" / "60" / "array").read_text() == "a"
    assert said == [
        "a: trained (1 of 2)",
        "b: trained (2 of 2)",
        "a: there already",
        "b: there already",
        "c: trained (1 of 1)",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
    assert len(list((tmp_path / "cells").iterdir())) == 3


def test_the_folder_s_name_follows_what_the_cell_is() -> None:
    base = Cell("maze/x:1", train, {}, {"steps": 5, "seeds": 2})
    name = folder_name(base, base.configuration)
    assert name.startswith("maze-x-1-")
    assert name == folder_name(base, {"seeds": 2, "steps": 5})
    # Where data lies, say, is a setting but no part of what the cell is.
    assert name == folder_name(base._replace(settings={"data": "/x"}), base.configuration)
    others = [
        folder_name(base, {"steps": 6, "seeds": 2}),
        folder_name(base._replace(train=train_offline), base.configuration),
        folder_name(base._replace(more={"fingerprint": "ab"}), base.configuration),
    ]
    assert len({name, *others}) == 4


def test_a_cell_that_was_stopped_before_it_saved_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "cells"
    with pytest.raises(KeyboardInterrupt):
        train_cells([cell("a"), cell("b", fail="stop")], home)
    assert list(tmp_path.rglob("*-*")) == [home / folder_name(cell("a"), {})]
    outcomes = train_cells([cell("a"), cell("b")], home)
    assert trained == ["a", "b", "b"]
    assert outcomes["b"].folder == home / folder_name(cell("b"), {})


@pytest.mark.parametrize(
    ("fail", "problem"),
    [
        ("input", "a: no such data; make it"),
        ("environment", "a: step raised ConnectionError"),
    ],
)
def test_a_cell_that_cannot_be_trained_says_why_and_stops_no_other(
    tmp_path: Path, fail: str, problem: str
) -> None:
    outcomes = train_cells([cell("a", fail=fail), cell("b")], tmp_path / "cells")
    assert outcomes["a"].folder is None and outcomes["a"].problem == problem
    assert outcomes["b"].folder is not None and outcomes["b"].problem == ""


@pytest.mark.parametrize("listed", [True, False])
def test_a_trained_cell_that_cannot_be_kept_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    def full(source: Path, target: Path) -> None:
        if listed:
            raise shutil.Error([(source, target, "[Errno 28] No space left on device")])
        raise OSError(errno.ENOSPC, "No space left on device")

    home, name = tmp_path / "cells", folder_name(cell("a"), {})
    home.mkdir()
    monkeypatch.setattr(shutil, "copytree", full)
    problem = train_cells([cell("a")], home)["a"].problem
    work = tmp_path / "work" / name
    assert problem == (
        f"{home / name}: no cell can be written here "
        f"(No space left on device); make room there; what was trained is kept in {work}"
    )
    assert (work / "run" / "checkpoints" / "60").is_dir()
    assert list(home.iterdir()) == []
    monkeypatch.undo()
    assert train_cells([cell("a")], home)["a"].folder == home / name
    with pytest.raises(InputError, match=r"no cell can be written here \(.* is a file\)"):
        train_and_keep(home / name / "cell.json", cell("b"))
    assert trained == ["a"]
    assert not (tmp_path / "work").exists()


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    home = tmp_path / "cells"
    folder = train_and_keep(home, cell("a"))
    for damage in (b"", b"3", b"\xff", b"[" * 100_000):
        (folder / "cell.json").write_bytes(damage)
        with pytest.raises(InputError, match=r"cell\.json: this file is damaged; remove that cell"):
            kept(home, cell("a"))


def test_a_cell_that_another_process_kept_meanwhile_stands(tmp_path: Path) -> None:
    home = tmp_path / "cells"

    def beside(out: Path) -> None:
        train_and_keep(home, cell("b"))
        train(out)

    # Both were missing when the first of them began.
    outcomes = train_cells([Cell("a", beside, {}, {}), cell("b")], home)
    assert trained == ["b", "a"]
    assert outcomes["b"].folder == home / folder_name(cell("b"), {})
    assert len(list(home.iterdir())) == 2 and not (tmp_path / "work").exists()


def test_what_a_killed_process_left_of_a_run_stops_no_cell(
    wholes: Callable[[str], tuple[Cell, Path]], tmp_path: Path
) -> None:
    one, whole = wholes("finetuned")
    work = tmp_path / "work" / folder_name(one, one.configuration)
    for part in ("run", "offline"):
        (work / part).mkdir(parents=True)
        (work / part / ".0123.part.yaml").write_text("agent: b")
    assert train_and_keep(tmp_path / "cells", one).name == whole.name


def test_a_cell_goes_on_to_its_online_part_with_data_that_has_moved(
    wholes: Callable[[str], tuple[Cell, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    home, whole = tmp_path / "cells", wholes("finetuned")[1]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("xql.experiments.cells.train_finetune", stop)
        train_and_keep(home, long_cell("finetuned", tmp_path))
    (tmp_path / "moved").mkdir()
    (tmp_path / "line.npz").rename(tmp_path / "moved" / "line.npz")
    assert train_and_keep(home, long_cell("finetuned", tmp_path / "moved")).name == whole.name


def test_a_run_that_has_learned_and_cannot_be_read_is_left_to_its_user(tmp_path: Path) -> None:
    one = long_cell("offline", tmp_path)
    work = tmp_path / "work" / folder_name(one, one.configuration)
    checkpoint = work / "run" / "checkpoints" / "20"
    checkpoint.mkdir(parents=True)
    (work / "run" / "config.yaml").write_text("version: 99")
    with pytest.raises(InputError, match=r"its version is 99.*what was trained is kept in"):
        train_and_keep(tmp_path / "cells", one)
    assert checkpoint.is_dir()


def long_cell(kind: str, folder: Path) -> Cell:
    """One whose training can be stopped halfway."""
    evaluation, options = EvaluationPlan(2, 1, 1), {"hidden": [4], "batch_size": 4}
    if kind == "online":
        return online_cell(
            kind,
            register_line(),
            agent="td3",
            steps=60,
            seeds=[1],
            options=options,
            evaluation=evaluation,
            loop=OnlineLoop(warmup=20),
            quiet=True,
        )
    path = folder / "line.npz"
    more = {"agent": "iql", "steps": 60, "env": register_line(), "evaluation": evaluation}
    offline = bc(path if path.exists() else log(path), kind, **more)
    return offline if kind == "offline" else finetuned_cell(offline, 60, "symmetric")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Cell, Path]]:
    """Cells that were never interrupted, and where they are kept."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def whole(kind: str) -> tuple[Cell, Path]:
        one = long_cell(kind, folder)
        return one, train_and_keep(folder / "cells", one)

    return whole


@pytest.mark.parametrize(
    ("kind", "calls", "part"),
    [
        ("offline", 2, "run"),
        ("online", 33, "run"),
        ("finetuned", 2, "offline"),
        ("finetuned", 40, "run"),
    ],
)
def test_an_interrupted_cell_goes_on_bit_for_bit(
    wholes: Callable[[str], tuple[Cell, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    calls: int,
    part: str,
) -> None:
    monkeypatch.setattr("xql.training.offline.FIRST_CHUNK", 7)
    one, whole = wholes(kind)
    home, work = tmp_path / "cells", tmp_path / "work"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(calls, patch)
        train_and_keep(home, one)
    assert not home.exists()
    [run] = work.glob(f"*/{part}")
    assert 0 < (latest_step(run / "checkpoints") or 0) < 60
    with locked(run.parent):
        problem = train_cells([one], home)[one.name].problem
    assert "another process is writing" in problem
    resumed: list[Path] = []

    def spy(folder: Path, **settings: Any) -> Run:
        resumed.append(folder)
        return resume(folder, **settings)

    monkeypatch.setattr("xql.experiments.cells.resume", spy)
    folder = train_and_keep(home, one)
    assert resumed == [run]
    assert folder.name == whole.name and not work.exists()
    runs = RunFolder.open(folder), RunFolder.open(whole)
    rows, wanted = (
        [(row.step, {**row.values, "seconds": None}) for row in run.read_metrics()] for run in runs
    )
    assert rows == wanted != []
    assert runs[0].read_evaluations() == runs[1].read_evaluations()
    assert same_bits(*(load_population(run).population for run in runs))


@pytest.mark.parametrize("executor", [OnRay, OnJoblib])
def test_cells_side_by_side_in_processes_of_their_own(
    tmp_path: Path,
    ray_here: None,
    executor: type[OnRay] | type[OnJoblib],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = log(tmp_path / "line.npz")
    cells = [bc(data, f"seed{seed}", seeds=[seed]) for seed in (1, 2)]
    cells.append(bc(data, "gone", opened=str(tmp_path / "gone.npz")))
    monkeypatch.chdir(tmp_path)  # where a worker need not be
    outcomes = train_cells(cells, Path("cells"), executor(2))
    assert "gone.npz" in outcomes["gone"].problem
    for seed in (1, 2):
        folder = outcomes[f"seed{seed}"].folder
        assert folder is not None and folder.parent == Path("cells")
        assert [one.seed for one in RunConfig.load(folder).members] == [seed]


def test_too_few_jobs_are_refused() -> None:
    with pytest.raises(InputError, match="`jobs=0` is too small"):
        executor_for(0)


def test_what_is_asked_for_is_what_is_planned(tmp_path: Path) -> None:
    data = log(tmp_path / "line.npz")
    options = {"hidden": [4], "rewards": "scale:2", "subset": "top:0.5"}
    sweep = {"beta": [0.5, 2.0]}
    plan = EvaluationPlan(3, 4, 5)
    known = asked(
        "xql", "default", "line", steps=6, seeds=2, sweep=sweep, options=options, evaluation=plan
    )
    planned = configuration(
        plan_offline(
            data, agent="xql", steps=6, seeds=2, sweep=sweep, options=options, evaluation=plan
        ).config
    )
    for name in ("transitions", "episodes", "mean_return"):
        assert name not in known["data"]
        known["data"][name] = planned["data"][name]
    assert "environment" not in known and "stop_at_success" not in known["evaluation"]
    known["environment"], known["evaluation"]["stop_at_success"] = None, False
    assert planned == known
    assert planned["data"]["episodes"] == 2 and planned["members"][2]["changes"] == {"beta": 2.0}

    env, loop = register_line(), OnlineLoop(warmup=5)
    config = plan_online(env, agent="sac", steps=20, seeds=[3], evaluation=plan, loop=loop)
    assert configuration(config) == asked(
        "sac", "default", env, steps=20, seeds=[3], env=env, evaluation=plan, loop=loop
    )


def test_what_follows_from_the_actions_is_asked_for_only_where_it_is_given() -> None:
    for options, kl in (({}, None), ({"policy_kl": 0.5}, 0.5)):
        known = asked("xql", "default", "line", steps=6, seeds=1, options=options)
        assert known["hyperparameters"].get("policy_kl") == kl
        assert known["hyperparameters"]["beta_kl"] == 0.05


def test_what_no_run_could_be_made_of_is_refused() -> None:
    with pytest.raises(InputError, match="`seeds=0` is too small"):
        asked("bc", "default", "line", steps=1, seeds=0)
    with pytest.raises(InputError, match="`steps=0` is too small"):
        asked("bc", "default", "line", steps=0, seeds=1)
    with pytest.raises(InputError, match="did you mean 'hidden'"):
        asked("bc", "default", "line", steps=1, seeds=1, options={"hiden": [4]})
    with pytest.raises(InputError, match="agent bc has no beta"):
        asked("bc", "default", "line", steps=1, seeds=1, sweep={"beta": [1.0]})


def test_a_cell_is_found_without_its_data_and_by_its_settings_alone(tmp_path: Path) -> None:
    data = log(tmp_path / "line.npz")
    home = tmp_path / "cells"
    folder = train_cells([bc(data)], home)["bc"].folder
    data.unlink()
    assert folder is not None and kept(home, bc(data, opened=None)) == folder
    others = [
        bc(data, steps=3),
        bc(data, seeds=2),
        bc(data, preset="default", options={"hidden": [5], "batch_size": 4}),
        bc(data, evaluation=EvaluationPlan(2)),
        bc(data, env="XQLTestLine-v0"),
        bc(tmp_path / "other.npz"),
        bc(data)._replace(train=train),
        bc(data, "b"),
    ]
    assert [kept(home, one) for one in others] == [None] * len(others)


def test_other_data_of_the_same_name_is_another_cell(tmp_path: Path) -> None:
    data = log(tmp_path / "line.npz")
    home = tmp_path / "cells"
    first = train_cells([bc(data, fingerprint="aa")], home)["bc"].folder
    log(data, 60)
    second = train_cells([bc(data, fingerprint="bb")], home)["bc"].folder
    assert first != second and kept(home, bc(data, fingerprint="aa")) == first
    # Asked for without the data, it could be either.
    with pytest.raises(InputError, match="bc was trained on different data of one name"):
        kept(home, bc(data))


def test_a_cell_is_found_where_its_data_were_made_again(tmp_path: Path) -> None:
    data = log(tmp_path / "line.npz")
    home = tmp_path / "cells"
    folder = train_cells([bc(data, fingerprint="aa")], home)["bc"].folder
    assert kept(home, bc(data, fingerprint="bb")) == folder
    log(data, 60)
    assert kept(home, bc(data, fingerprint="cc")) is None
    data.unlink()
    assert kept(home, bc(data, fingerprint="dd")) is None


def test_a_plan_knows_its_data_by_their_extent(tmp_path: Path) -> None:
    data = log(tmp_path / "line.npz")
    home = tmp_path / "cells"
    folder = train_cells([bc(data)], home)["bc"].folder

    def planned() -> Cell:
        options = bc(data).settings["options"]
        config = plan_offline(data, agent="bc", steps=2, options=options).config
        return bc(data)._replace(configuration=configuration(config))

    assert kept(home, planned()) == folder
    log(data, 60)
    assert kept(home, planned()) is None


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"hold_out": 1}, {"stream": True}])
def test_a_cell_is_not_one_of_another_precision_or_of_less_data(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """These stand in a configuration only where they were asked for."""
    data, home = log(tmp_path / "line.npz"), tmp_path / "cells"
    plain = bc(data)
    options = plain.settings["options"]
    config = plan_offline(data, agent="bc", steps=2, options=options, **changes).config
    other = plain._replace(
        settings={**plain.settings, **changes}, configuration=configuration(config)
    )
    folder = train_cells([other], home)["bc"].folder
    assert folder is not None and kept(home, other) == folder
    assert kept(home, plain) is None
    # Nor is one trained under settings that the cell does not say.
    [outcome] = train_cells([plain._replace(settings=other.settings)], tmp_path / "no").values()
    assert "its data decides otherwise on " in outcome.problem


def test_a_preset_under_another_name_loses_no_cell(tmp_path: Path) -> None:
    data = log(tmp_path / "line.npz")
    home = tmp_path / "cells"
    folder = train_cells([bc(data)], home)["bc"].folder
    assert folder is not None
    text = (folder / "config.yaml").read_text()
    assert "preset: default\n" in text
    (folder / "config.yaml").write_text(text.replace("preset: default\n", "preset: old\n"))
    assert kept(home, bc(data)) == folder


def test_a_hyperparameter_that_did_not_exist_yet_loses_no_cell(tmp_path: Path) -> None:
    data = log(tmp_path / "line.npz")
    home = tmp_path / "cells"
    folder = train_cells([bc(data)], home)["bc"].folder
    assert folder is not None
    path = folder / "config.yaml"
    kept_lines = path.read_text().splitlines(keepends=True)
    older = [line for line in kept_lines if "policy_schedule" not in line]
    assert len(older) < len(kept_lines)
    path.write_text("".join(older))
    assert kept(home, bc(data)) == folder


def test_an_option_that_has_no_effect_any_more_loses_no_fine_tuned_cell(tmp_path: Path) -> None:
    rates = {"q": 0.1, "v": 0.2}
    asked = Cell("one", train_then_finetune, {}, {}, {"offline": {"hyperparameters": rates}})
    folder = tmp_path / "one-0123456789"
    folder.mkdir()

    def keeps(rates: dict[str, float], **more: Any) -> bool:
        identity = {"train": "train_then_finetune", "offline": {"hyperparameters": rates, **more}}
        (folder / "cell.json").write_text(json.dumps(identity))
        return kept(tmp_path, asked) == folder

    assert keeps({"q": 0.1, "v": 0.2, "order": 4})
    assert not keeps({"q": 0.1, "v": 0.3, "order": 4})
    assert not keeps({"q": 0.1, "v": 0.2}, hold_out=0.5)


def test_a_kept_cell_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    data = log(tmp_path / "line.npz")
    [outcome] = train_cells([bc(data)], tmp_path / "cells").values()
    assert outcome.folder is not None
    assert RunConfig.load(outcome.folder).data.source == "line.npz"
    for path in outcome.folder.glob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_cell_whose_settings_make_another_run_is_refused_before_it_trains(
    tmp_path: Path,
) -> None:
    wrong = bc(log(tmp_path / "line.npz"))
    wrong = wrong._replace(settings={**wrong.settings, "steps": 3})
    [outcome] = train_cells([wrong], tmp_path / "cells").values()
    assert outcome.folder is None
    assert "its data decides otherwise on steps than its name says" in outcome.problem
    assert not (tmp_path / "cells").exists()


def test_what_an_earlier_version_kept_is_no_cell(tmp_path: Path) -> None:
    (tmp_path / "bc-0123456789").mkdir()
    assert kept(tmp_path, bc(tmp_path / "line.npz")) is None


def test_an_online_cell_is_kept_like_any_other(tmp_path: Path) -> None:
    line = online_cell(
        "line",
        register_line(),
        agent="td3",
        steps=20,
        seeds=[1],
        options={"hidden": [4], "batch_size": 4},
        evaluation=EvaluationPlan(1, 1, 1),
        loop=OnlineLoop(warmup=5),
        quiet=True,
    )
    home = tmp_path / "cells"
    [outcome] = train_cells([line], home).values()
    assert outcome.folder is not None and outcome.folder == kept(home, line)
    run = RunFolder.open(outcome.folder)
    assert run.config.steps == 20 and len(run.read_evaluations()) == 1
    assert json.loads((run.path / "cell.json").read_text()) == {"train": "train_online"}
    other = dataclasses.replace(run.config, loop=OnlineLoop(warmup=6))
    assert kept(home, line._replace(configuration=configuration(other))) is None

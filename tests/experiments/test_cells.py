"""Cells: trained once, kept whole or not at all, told apart by their configuration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xql.errors import InputError
from xql.experiments.cells import Cell, keep_run, train_cells
from xql.training.offline import train_offline

trained: list[str] = []


def train(out: Path, name: str = "a", fail: str = "") -> None:
    """A run folder in a moment; `fail` stops it halfway."""
    trained.append(name)
    out.mkdir(parents=True)
    (out / "config.yaml").write_text(name)
    if fail == "input":
        raise InputError("no such data", where=name, hint="make it")
    if fail:
        raise KeyboardInterrupt
    for file in ("evaluations.csv", "metrics.jsonl", "notes.txt"):
        (out / file).write_text(name)
    (out / "checkpoints" / "60").mkdir(parents=True)
    (out / "checkpoints" / "60" / "array").write_text(name)


def cell(name: str = "a", **settings: Any) -> Cell:
    return Cell(name, train, {"name": name} | settings)


@pytest.fixture(autouse=True)
def forget() -> None:
    trained.clear()


def test_a_finished_cell_is_trained_once_and_kept_with_its_checkpoints(tmp_path: Path) -> None:
    said: list[str] = []
    first = train_cells([cell("a"), cell("b")], tmp_path, say=said.append)
    again = train_cells([cell("a"), cell("b"), cell("c")], tmp_path, say=said.append)
    assert trained == ["a", "b", "c"]
    assert again["a"] == first["a"] and first["a"].folder is not None
    kept = {path.name for path in first["a"].folder.iterdir()}
    assert kept == {"config.yaml", "evaluations.csv", "metrics.jsonl", "checkpoints"}
    assert (first["a"].folder / "checkpoints" / "60" / "array").read_text() == "a"
    assert said == [
        "a: trained (1 of 2)",
        "b: trained (2 of 2)",
        "a: there already",
        "b: there already",
        "c: trained (1 of 1)",
    ]
    assert len(list(tmp_path.iterdir())) == 3


def test_the_folder_s_name_follows_the_configuration_alone() -> None:
    base = Cell("maze/x:1", train, {"steps": 5, "seeds": 2})
    assert base.folder.startswith("maze-x-1-")
    assert base.folder == Cell("maze/x:1", train, {"seeds": 2, "steps": 5}).folder
    others = [
        Cell("maze/x:1", train, {"steps": 6, "seeds": 2}),
        Cell("maze/x:1", train_offline, {"steps": 5, "seeds": 2}),
        Cell("maze/x:1", train, {"steps": 5, "seeds": 2}, {"steps": 5}),
    ]
    assert len({one.folder for one in [base, *others]}) == 4
    # Where data lies, say, is a setting but no part of what the cell is.
    here, there = (Cell("a", train, {"data": path}, {"data": "door"}) for path in ("/x", "/y"))
    assert here.folder == there.folder


def test_an_interrupted_cell_leaves_nothing_and_is_trained_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_cells([cell("a"), cell("b", fail="stop")], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [cell("a").folder]
    outcomes = train_cells([cell("a"), cell("b")], tmp_path)
    assert trained == ["a", "b", "b"]
    assert outcomes["b"].folder == tmp_path / cell("b").folder


def test_a_cell_that_cannot_be_trained_says_why_and_stops_no_other(tmp_path: Path) -> None:
    outcomes = train_cells([cell("a", fail="input"), cell("b")], tmp_path)
    assert outcomes["a"].folder is None
    assert outcomes["a"].problem == "a: no such data; make it"
    assert outcomes["b"].folder is not None and outcomes["b"].problem == ""


def test_a_cell_that_another_process_kept_meanwhile_stands(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    keep_run(folder, train, {"name": "first"})
    keep_run(folder, train, {"name": "second"})
    assert (folder / "config.yaml").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


def test_cells_side_by_side_in_processes_of_their_own(tmp_path: Path) -> None:
    data = tmp_path / "line.npz"
    rows = 40
    ends = np.arange(1, rows + 1) % 10 == 0
    np.savez(
        data,
        observations=np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32),
        actions=np.zeros((rows, 1), np.float32),
        rewards=np.ones(rows, np.float32),
        terminated=np.zeros(rows, bool),
        truncated=ends,
    )
    settings = {
        "data": str(data),
        "agent": "bc",
        "steps": 2,
        "options": {"hidden": [4], "batch_size": 4},
        "progress": False,
    }
    cells = [Cell(f"seed{seed}", train_offline, settings | {"seeds": [seed]}) for seed in (1, 2)]
    cells.append(Cell("bad", train_offline, settings | {"agent": "bcc"}))
    outcomes = train_cells(cells, tmp_path / "cells", jobs=2)
    assert "did you mean 'bc'" in outcomes["bad"].problem
    for seed in (1, 2):
        folder = outcomes[f"seed{seed}"].folder
        assert folder is not None and f"seed: {seed}" in (folder / "config.yaml").read_text()


def test_too_few_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--jobs 0 is too small"):
        train_cells([cell()], tmp_path, jobs=0)

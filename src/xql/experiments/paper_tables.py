"""The paper's tables, row by row: every published number, and ours beside it where data is here.

A cell of ours is one method on one dataset from one source, trained by `cells.train_cells`; the
sources never share a column. A cell that is kept is shown, be its data on this machine or not. What
could not be run says why.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from xql.agents import OFFLINE, Unchecked
from xql.agents.hyperparameters import hyperparameters
from xql.errors import InputError, nearest
from xql.evaluation.statistics import Summary
from xql.experiments.cells import (
    Cell,
    Outcome,
    finetuned_cell,
    kept,
    offline_cell,
    train_cells,
)
from xql.experiments.executors import Executor, in_process
from xql.experiments.published import Benchmark, benchmarks
from xql.experiments.sources import Data, local_data, sources_of
from xql.presets import preset_names, resolve
from xql.runs.config import EvaluationPlan, ReplayKind, require_at_least
from xql.runs.folder import RunFolder
from xql.runs.summary import Result, results


class Method(NamedTuple):
    """An agent with a preset."""

    agent: str
    preset: str

    @property
    def label(self) -> str:
        """As it stands in a column's name."""
        return self.agent if self.preset == "default" else f"{self.agent} {self.preset}"


@dataclass(frozen=True)
class Training:
    """How every cell of a table is trained and evaluated."""

    steps: int = 1_000_000
    seeds: int = 4
    evaluations: int = 20
    episodes: int = 10
    last_episodes: int = 100
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings over the preset's."""
    online_steps: int | None = None
    """Environment steps after the offline ones, of table 2; None offline."""
    replay: ReplayKind | Unchecked = "prefill"
    """What the updates between them learn from."""

    @property
    def evaluation(self) -> EvaluationPlan:
        """When cells are evaluated, and with how many episodes."""
        return EvaluationPlan(self.evaluations, self.episodes, self.last_episodes)


class Place(NamedTuple):
    """One cell of a table: what is to stand there, and what does."""

    benchmark: Benchmark
    data: Data
    method: Method
    result: Result | None
    problem: str
    """Why there is no result; empty where there is one, or the data is only absent."""
    before: Summary | None = None
    """Of the offline policies, where the result is that of fine-tuning."""


def choose_rows(table: str, patterns: Sequence[str]) -> list[Benchmark]:
    """The rows of a table whose names match; without patterns all that the paper has.

    Args:
        table: table1, table2 or table3.
        patterns: names such as hopper-medium-v2, its version optional, or patterns such as
            'antmaze-*'. Data made here that the paper has not (pointmaze-medium) is a row of table1
            where it is named.

    Raises:
        InputError: a name that is no row's; the nearest is named.
    """
    of_table = "table1" if table == "table2" else table
    rows = [row for row in benchmarks() if row.table == of_table]
    if table == "table2":
        rows = [row for row in rows if row.name.startswith("antmaze")]
    known = rows + [row for row in benchmarks() if not row.table and table == "table1"]
    chosen = []
    for pattern in patterns:
        matched = [row for row in known if _matches(row.name, pattern)]
        if not matched:
            names = [row.name for row in known]
            raise InputError(f"{table} has no row '{pattern}'", hint=nearest(pattern, names))
        chosen += matched
    return list(dict.fromkeys(chosen)) if patterns else rows


def _matches(name: str, pattern: str) -> bool:
    stem, _, version = name.rpartition("-v")
    names = [name, stem] if version.isdecimal() else [name]
    return any(fnmatch.fnmatchcase(one, pattern) for one in names)


def choose_methods(words: Sequence[str]) -> list[Method]:
    """Methods from AGENT or AGENT:PRESET.

    Raises:
        InputError: an unknown agent or preset; the nearest is named.
    """
    found = []
    for word in words:
        agent, _, preset = word.partition(":")
        if agent not in OFFLINE:
            raise InputError(f"no offline agent '{agent}'", hint=nearest(agent, OFFLINE))
        if preset and preset not in preset_names(agent):
            raise InputError(
                f"unknown preset '{preset}' of agent {agent}",
                hint=nearest(preset, preset_names(agent)),
            )
        found.append(Method(agent, preset or "default"))
    return list(dict.fromkeys(found))


def fill(
    rows: Sequence[Benchmark],
    methods: Sequence[Method],
    training: Training,
    home: Path,
    *,
    d4rl_dir: Path | None = None,
    executor: Executor = in_process,
    train: bool = True,
    quiet: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Place]:
    """Train what is missing of some rows, and read what there is.

    Args:
        rows: datasets, as `choose_rows` gives them.
        methods: agents with presets.
        training: how each cell is trained and evaluated.
        home: where the cells lie.
        d4rl_dir: where D4RL's files lie.
        executor: where the missing cells train.
        train: whether to train at all; without, only cells that are there are read.
        quiet: show no progress bar, as where several cells train at a time.
        say: called with each step of progress, in words.

    Returns:
        A place for every row, source that has it, and method.

    Raises:
        InputError: `training` or `d4rl_dir` cannot be used.
    """
    _check(methods, training)
    here = local_data(d4rl_dir)
    wanted = [
        (benchmark, data, method)
        for benchmark in rows
        for data in sources_of(benchmark, here)
        for method in methods
    ]
    planned = [_cell_or_why(*one, training, quiet=quiet) for one in wanted]
    cells = [cell for cell, _ in planned if cell is not None]
    found = {cell.name: _kept(home, cell) for cell in cells}
    if train:
        # Without its data a cell can be read and not trained.
        ready = [
            cell
            for (_, data, _), (cell, _) in zip(wanted, planned, strict=True)
            if cell is not None and data.opened is not None
        ]
        found |= train_cells(ready, home, executor, say=say)
    places = []
    for (benchmark, data, method), (cell, problem) in zip(wanted, planned, strict=True):
        result = before = None
        if cell is not None:
            folder, problem = found[cell.name]
            if folder is not None:
                result = _result(folder, benchmark)
                before = None if training.online_steps is None else _before(folder, result)
                problem = (
                    "" if result else "trained, but its data names no simulator to evaluate in"
                )
            elif not problem and data.opened is not None:
                problem = "not trained yet"
        places.append(Place(benchmark, data, method, result, problem, before))
    return places


def _kept(home: Path, cell: Cell) -> Outcome:
    try:
        return Outcome(kept(home, cell))
    except InputError as error:
        return Outcome(None, str(error))


def _cell_or_why(
    benchmark: Benchmark, data: Data, method: Method, training: Training, *, quiet: bool
) -> tuple[Cell | None, str]:
    """The cell to show; or none, and why, unless its data is only absent."""
    if data.barrier:
        return None, data.barrier
    try:
        return cell_of(benchmark, data, method, training, quiet=quiet), ""
    except InputError as error:
        return None, error.what if data.opened is not None else ""


def _check(methods: Sequence[Method], training: Training) -> None:
    """Refuse what no cell could be trained with, before any is."""
    require_at_least("steps", training.steps, 1)
    require_at_least("seeds", training.seeds, 1)
    training.evaluation.check()
    if training.last_episodes == 0:
        raise InputError("`last_episodes=0` is too small", hint="a table shows the last step")
    if training.online_steps is not None:
        require_at_least("online_steps", training.online_steps, 2)
        if training.replay not in get_args(ReplayKind):
            raise InputError(
                f"`replay={training.replay}` is no way to draw batches",
                hint=f"choose from {', '.join(get_args(ReplayKind))}",
            )
    for method in methods:
        made = OFFLINE[method.agent].make(OFFLINE[method.agent].config(), 1)
        if training.online_steps is not None and made.backup is None:
            raise InputError(
                f"agent {method.agent} has no critic to fine-tune with", hint="leave it out"
            )
        # As if all were swept: what a preset must be given depends on the dataset.
        every = hyperparameters(OFFLINE[method.agent].config)
        resolve(method.agent, "default", "", training.options, swept=every)


def cell_of(
    benchmark: Benchmark, data: Data, method: Method, training: Training, *, quiet: bool
) -> Cell:
    """The cell of one method on one dataset.

    Its configuration holds the settings that the preset comes to, so that a change of a preset
    makes another cell, and the data's name and fingerprint, but not its path.

    Raises:
        InputError: the preset has nothing for this dataset, or an option is unknown.
    """
    cell = offline_cell(
        f"{benchmark.name}-{data.source}-{method.agent}-{method.preset}",
        data.name,
        opened=data.opened,
        fingerprint=data.fingerprint,
        agent=method.agent,
        preset=method.preset,
        steps=training.steps,
        seeds=training.seeds,
        env=data.environment,
        options=training.options,
        evaluation=training.evaluation,
        quiet=quiet,
    )
    if training.online_steps is None:
        return cell
    return finetuned_cell(cell, training.online_steps, training.replay)


def _before(folder: Path, after: Result | None) -> Summary | None:
    """What the policies came to at step 0, in the measure of what they came to after it."""
    run = RunFolder.open(folder)
    rows = [row for row in run.read_evaluations() if row.step == 0]
    if after is None or not rows:
        return None
    return results(rows, run.config.members, after.quantity)[0].last


def _result(folder: Path, benchmark: Benchmark) -> Result | None:
    """What the run came to, in the row's measure where its episodes have it."""
    run = RunFolder.open(folder)
    rows, members = run.read_evaluations(), run.config.members
    if not rows:
        return None
    try:
        return results(rows, members, benchmark.measure)[0]
    except InputError:
        return results(rows, members)[0]

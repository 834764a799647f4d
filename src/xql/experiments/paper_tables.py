"""The paper's tables, row by row: every published number, and ours beside it where data is here.

A cell of ours is one method on one dataset from one source, trained by `cells.train_cells`; what
was not learned from D4RL's file never stands beside a published number. A cell that is kept is
shown, be its data on this machine or not. What could not be run says why. Or nothing is trained,
and the table shows the runs in other folders, such as `results/`, whatever their settings.
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
    in_work,
    kept,
    offline_cell,
    train_cells,
)
from xql.experiments.executors import Executor, in_process
from xql.experiments.published import Benchmark, benchmarks
from xql.experiments.sources import Data, LocalData, local_data, sources_of
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
    run: RunFolder | None = None
    """Where the result is from."""


class Kept(NamedTuple):
    """What a run came to that learned from a row's data, under settings of its own."""

    benchmark: Benchmark
    data: Data
    run: RunFolder
    result: Result
    before: Summary | None
    """Of the offline policies, where the result is that of fine-tuning."""
    step: int
    """Of the last evaluation."""


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
        place = Place(benchmark, data, method, None, problem)
        if cell is not None:
            folder, problem = found[cell.name]
            if folder is not None:
                run = RunFolder.open(folder)
                # A cell sweeps nothing.
                own = next(iter(_results(run, benchmark)), None)
                if own is None:
                    problem = "trained, but its data names no simulator to evaluate in"
                else:
                    place = place._replace(result=own[0], before=own[1], run=run)
            elif not problem and data.opened is not None:
                problem = "not trained yet"
            place = place._replace(problem=problem)
        places.append(place)
    return places


def comparable(benchmark: Benchmark, data: Data) -> bool:
    """Whether ours can stand beside the published numbers: on their data, and by their score."""
    return data.source == "d4rl" and benchmark.measure == "score"


def find_kept(rows: Sequence[Benchmark], folders: Sequence[Path], *, finetuned: bool) -> list[Kept]:
    """What runs in some folders came to that learned from the rows' data, in the rows' order.

    Args:
        rows: datasets, as `choose_rows` gives them.
        folders: they are looked through with the folders inside.
        finetuned: runs that went on online, or those that only learned offline.

    Raises:
        InputError: there is no such folder, a run in it cannot be read, or none is of these rows.
    """
    kind = "finetune" if finetuned else "offline"
    nothing_here = LocalData({}, frozenset())
    wanted = [(row, data) for row in rows for data in sources_of(row, nothing_here)]
    found: dict[str, list[RunFolder]] = {data.name: [] for _, data in wanted}
    seen = set()
    for folder in folders:
        if not folder.is_dir():
            raise InputError("there is no such folder", where=str(folder), hint="check `cells`")
        for path in sorted(folder.rglob("config.yaml")):
            # One that is half-written has a dot before its name.
            unfinished = path.parent.name.startswith(".") or in_work(path.relative_to(folder))
            if path.resolve() in seen or unfinished:
                continue
            seen.add(path.resolve())
            # Most are of other data, and reading their YAML takes long.
            text = path.read_text(encoding="utf-8", errors="replace")
            if any(f"name: {name}\n" in text for name in found):
                run = RunFolder.open(path.parent)
                if run.config.kind == kind and run.config.data.name in found:
                    found[run.config.data.name].append(run)
    kept = [
        Kept(row, data, run, result, before, step)
        for row, data in wanted
        for run in found[data.name]
        for result, before, step in _results(run, row)
    ]
    if not kept:
        words = "no run was fine-tuned on" if finetuned else "no run has learned offline from"
        raise InputError(
            f"{words} the data of these rows",
            where=", ".join(map(str, folders)),
            hint="name other folders",
        )
    return kept


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


def _results(run: RunFolder, benchmark: Benchmark) -> list[tuple[Result, Summary | None, int]]:
    """What each of the swept settings came to, in the row's measure where the episodes have it;
    where the run was fine-tuned, what its policies came to at step 0; and the last step.
    """
    rows, members = run.read_evaluations(), run.config.members
    try:
        found = results(rows, members, benchmark.measure)
    except InputError:
        found = results(rows, members)
    last = max((row.step for row in rows), default=0)
    first = [row for row in rows if row.step == 0]
    if run.config.finetune is None or not first:
        return [(one, None, last) for one in found]
    before = results(first, members, found[0].quantity)
    return [(one, other.last, last) for one, other in zip(found, before, strict=True)]

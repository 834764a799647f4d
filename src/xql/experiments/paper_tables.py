"""The paper's tables, row by row: every published number, and ours beside it where data is here.

A cell of ours is one method on one dataset from one source, trained by `cells.train_cells`; the
sources never share a column. What could not be run says why.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xql.agents import OFFLINE
from xql.errors import InputError, nearest
from xql.experiments.cells import Cell, Outcome, kept, train_cells
from xql.experiments.published import Benchmark, benchmarks
from xql.experiments.sources import Data, local_data, sources_of
from xql.presets import preset_names, settings
from xql.runs.folder import RunFolder
from xql.runs.summary import Result, results
from xql.training.offline import train_offline
from xql.training.run_logger import check_counts


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
    """How every cell of a table is trained and judged."""

    steps: int = 1_000_000
    seeds: int = 4
    evaluations: int = 20
    episodes: int = 10
    last_episodes: int = 100
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings over the preset's."""


class Place(NamedTuple):
    """One cell of a table: what is to stand there, and what does."""

    benchmark: Benchmark
    data: Data
    method: Method
    result: Result | None
    problem: str
    """Why there is no result; empty where there is one, or the data is only absent."""


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
    jobs: int = 1,
    train: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> list[Place]:
    """Train what is missing of some rows, and read what there is.

    Args:
        rows: datasets, as `choose_rows` gives them.
        methods: agents with presets.
        training: how each cell is trained and judged.
        home: where the cells lie.
        d4rl_dir: where D4RL's files lie.
        jobs: how many cells to train at a time.
        train: whether to train at all; without, only cells that are there are read.
        say: told what happens, a line at a time.

    Returns:
        A place for every row, source that has it, and method.

    Raises:
        InputError: `training`, `d4rl_dir` or `jobs` cannot be used.
    """
    _check(methods, training)
    here = local_data(d4rl_dir)
    wanted = [
        (benchmark, data, method)
        for benchmark in rows
        for data in sources_of(benchmark, here)
        for method in methods
    ]
    planned = [_plan(*one, training, quiet=jobs > 1) for one in wanted]
    cells = [cell for cell, _ in planned if cell is not None]
    if train:
        outcomes = train_cells(cells, home, jobs=jobs, say=say)
    else:
        outcomes = {cell.name: Outcome(kept(home, cell), "not trained yet") for cell in cells}
    places = []
    for (benchmark, data, method), (cell, problem) in zip(wanted, planned, strict=True):
        result = None
        if cell is not None:
            folder, problem = outcomes[cell.name]
            if folder is not None:
                result = _result(folder, benchmark)
                problem = "" if result else "trained, but its data names no simulator to judge it"
        places.append(Place(benchmark, data, method, result, problem))
    return places


def _plan(
    benchmark: Benchmark, data: Data, method: Method, training: Training, *, quiet: bool
) -> tuple[Cell | None, str]:
    """The cell to train; or none, and why, unless its data is only absent."""
    if data.opened is None or data.barrier:
        return None, data.barrier
    try:
        return cell_of(benchmark, data, method, training, quiet=quiet), ""
    except InputError as error:
        return None, error.what


def _check(methods: Sequence[Method], training: Training) -> None:
    """Refuse what no cell could be trained with, before any is."""
    check_counts(training.steps, training.evaluations, training.episodes, training.last_episodes)
    if training.last_episodes == 0:
        raise InputError("--last-episodes 0 is too small", hint="a table shows the last step")
    if training.seeds < 1:
        raise InputError(f"--seeds {training.seeds} is too small", hint="give at least 1")
    for method in methods:
        settings(method.agent, "default", "", training.options, needs_beta=False)


def cell_of(
    benchmark: Benchmark, data: Data, method: Method, training: Training, *, quiet: bool
) -> Cell:
    """The cell of one method on one dataset that is here.

    Its configuration holds the settings that the preset comes to, so that a change of a preset
    makes another cell, and tells the data by its name and fingerprint, not by its path.

    Raises:
        InputError: the preset has nothing for this dataset, or an option is unknown.
    """
    chosen = settings(method.agent, method.preset, data.name, training.options)
    judged = asdict(training)
    options = judged.pop("options")
    told = {"agent": method.agent, "preset": method.preset, "env": data.environment, **judged}
    return Cell(
        name=f"{benchmark.name}-{data.source}-{method.agent}-{method.preset}",
        train=train_offline,
        settings={"data": data.opened, "options": options, "progress": not quiet, **told},
        configuration={
            **told,
            "data": [data.source, data.name, data.fingerprint],
            "settings": asdict(chosen.config),
            "scaling": [chosen.rewards, chosen.observations, chosen.episodes],
        },
    )


def _result(folder: Path, benchmark: Benchmark) -> Result | None:
    """What the run came to, in the row's measure where its episodes have it."""
    rows = RunFolder.open(folder).read_evaluations()
    if not rows:
        return None
    try:
        return results(rows, benchmark.measure)[0]
    except InputError:
        return results(rows)[0]

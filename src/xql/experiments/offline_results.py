"""Offline results, cell by cell: `python -m xql.experiments.offline_results TABLE`.

    pointmaze     XQL against BC on PointMaze-Medium and -Large, 256-256, 4 seeds × 100k updates
    peers         every offline agent on PointMaze-Medium, 4 seeds × 50k updates
    antmaze       XQL, IQL, ReBRAC and BC on AntMaze-UMaze made here, 2 seeds × 200k updates
    door-human    XQL on D4RL's door-human-v0, preset consistent, 4 seeds × 200k updates
    door-peers    XQL, IQL and BC on door-human-v0, 4 seeds × 100k updates
    peers-large   every offline agent but CQL on PointMaze-Large, 4 seeds × 100k updates
    antmaze-more  XQL, IQL, ReBRAC and BC on AntMaze-Medium and -Large made here, 4 seeds × 1M
    mujoco        the offline agents on Hopper, HalfCheetah and Walker2d data of three kinds made
                  here with `xql data make mujoco`, 4 seeds × 1M updates
    beta          XQL over β, one population each of 2 seeds: PointMaze-Medium, 25k updates, and
                  AntMaze-UMaze made here, 75k

A cell is one agent on one dataset; it is trained only if `results/TABLE` does not hold it yet, so
that a table can grow over days. What a cell leaves there is what the run wrote: its configuration
and every episode that was played. The table and the figure are drawn from those files alone.
"""

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

import xql
from xql.agents import OFFLINE
from xql.errors import InputError, nearest
from xql.evaluation.statistics import format_interval
from xql.experiments.cells import keep_run
from xql.reports.plots import curves_from_run, plot_against_beta, plot_learning_curves
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.summary import UNITS, Quantity, member_means, quantity_of, results, value_of
from xql.training.population import use_all_cores

RESULTS = Path(__file__).parent.parent / "results"
SHOWN = ("cell", "β", "updates", "measure", "last", "each seed", "best", "seconds")


@dataclass(frozen=True)
class Cell:
    """One agent on one dataset."""

    name: str
    data: str
    agent: str
    steps: int
    seeds: int = 4
    preset: str = "default"
    env: str | None = None
    beta: tuple[float, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Table(NamedTuple):
    """Cells that stand together."""

    cells: Callable[[str | None], list[Cell]]
    """Of the file that --data gives, where one is needed."""
    note: str
    needs_file: bool = False


def pointmaze(_: str | None) -> list[Cell]:
    return [
        Cell(f"{maze}-{agent}", f"minari:pointmaze/{maze}-play-v0", agent, 100_000)
        for maze in ("medium", "large")
        for agent in ("xql", "bc")
    ]


def peers(_: str | None) -> list[Cell]:
    data = "minari:pointmaze/medium-play-v0"
    cells = [Cell(agent, data, agent, 50_000) for agent in OFFLINE]
    return [*cells, Cell("bc-top-10", data, "bc", 50_000, options={"episodes": "top:0.1"})]


def antmaze(_: str | None) -> list[Cell]:
    agents = ("xql", "iql", "rebrac", "bc")
    return [Cell(agent, "minari:antmaze/umaze-v0", agent, 200_000, 2) for agent in agents]


def peers_large(_: str | None) -> list[Cell]:
    data = "minari:pointmaze/large-play-v0"
    # CQL draws 3n actions for each state, and would take longer than all the others together.
    return [Cell(agent, data, agent, 100_000) for agent in OFFLINE if agent != "cql"]


def antmaze_more(_: str | None) -> list[Cell]:
    tasks = ("medium-play", "medium-diverse", "large-play", "large-diverse")
    return [
        Cell(f"{task}-{agent}", f"minari:antmaze/{task}-v0", agent, 1_000_000)
        for task in tasks
        for agent in ("xql", "iql", "rebrac", "bc")
    ]


def mujoco(_: str | None) -> list[Cell]:
    return [
        Cell(f"{env}-{kind}-{agent}", f"minari:{env}/{kind}-v0", agent, 1_000_000)
        for env in ("hopper", "halfcheetah", "walker2d")
        for kind in ("medium", "medium-replay", "medium-expert")
        for agent in OFFLINE
    ]


def door_human(data: str | None) -> list[Cell]:
    return [Cell("xql-consistent", _door(data), "xql", 200_000, 4, "consistent", DOOR)]


def door_peers(data: str | None) -> list[Cell]:
    return [Cell(agent, _door(data), agent, 100_000, env=DOOR) for agent in ("xql", "iql", "bc")]


def beta(_: str | None) -> list[Cell]:
    betas = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
    return [
        # At β = 1 every seed arrives always from 15k on (results/peers).
        Cell("pointmaze-medium", "minari:pointmaze/medium-play-v0", "xql", 25_000, 2, beta=betas),
        # At β = 0.6 success is level from 60k on (results/antmaze).
        Cell("antmaze-umaze", "minari:antmaze/umaze-v0", "xql", 75_000, 2, beta=betas),
    ]


def _door(data: str | None) -> str:
    return f"d4rl:{data or 'door-human-v0.hdf5'}"


DOOR = "AdroitHandDoor-v1"
_PLAY = "From the farthest cell to the farthest cell; the data is undirected play."
_ANT = (
    "The data was made here, with `xql data make antmaze-umaze`; it is not D4RL's. An episode "
    "ends at its first success."
)
_MUJOCO = "The data was made here with `xql data make mujoco`; it is not D4RL's."
_DOOR = (
    f"The environment is {DOOR} of gymnasium-robotics, whose reward changed in release 1.2.1: "
    "success compares with D4RL's, returns and normalised scores do not."
)
TABLES = {
    "pointmaze": Table(pointmaze, _PLAY),
    "peers": Table(peers, _PLAY),
    "antmaze": Table(antmaze, _ANT),
    "peers-large": Table(peers_large, _PLAY),
    "antmaze-more": Table(antmaze_more, _ANT),
    "mujoco": Table(mujoco, _MUJOCO),
    "door-human": Table(door_human, _DOOR, needs_file=True),
    "door-peers": Table(door_peers, _DOOR, needs_file=True),
    "beta": Table(beta, f"PointMaze: {_PLAY} AntMaze: {_ANT}"),
}


def make_data(source: str) -> None:
    """Make the maze datasets that this machine does not hold."""
    name = source.removeprefix("minari:")
    task: Any = name.partition("/")[2].removesuffix("-v0")
    if name.startswith("pointmaze/"):
        from xql.collect.pointmaze import ensure_pointmaze

        ensure_pointmaze(task.removesuffix("-play"))
    elif name.startswith("antmaze/"):
        from xql.collect.antmaze import make_antmaze
        from xql.collect.writing import dataset_folder

        if not dataset_folder(name).exists():
            make_antmaze(task)


def measure(cell: Cell, folder: Path) -> None:
    """Train one cell and keep what its run wrote."""
    make_data(cell.data)
    settings = {
        "data": cell.data,
        "agent": cell.agent,
        "preset": cell.preset,
        "steps": cell.steps,
        "seeds": cell.seeds,
        "env": cell.env,
        "beta": cell.beta,
        "options": cell.options,
    }
    keep_run(folder, xql.train_offline, settings)


def quantities_of(evaluations: Sequence[Evaluation]) -> Iterator[Quantity]:
    """The measure that matters most, then those that say something it does not say."""
    first = quantity_of(evaluations)
    values = np.array([value_of(row, first) for row in evaluations])
    yield first
    others: tuple[Quantity, ...] = ("score", "return")
    for quantity in others:
        missing = quantity == "score" and any(row.score is None for row in evaluations)
        if missing or quantity == first:
            continue
        # A maze pays 1 for its success and nothing else.
        own = np.array([value_of(row, quantity) for row in evaluations])
        if not any(np.array_equal(scale * own, values, equal_nan=True) for scale in (1, 100)):
            yield quantity


def rows_of(run: RunFolder) -> Iterator[dict[str, Any]]:
    """The lines of table.csv for one cell, from what its run wrote."""
    evaluations = run.read_evaluations()
    seconds = round(run.read_metrics()[-1].values["seconds"][0])
    for quantity in quantities_of(evaluations):
        for result in results(evaluations, quantity):
            own = [row for row in evaluations if row.beta == result.beta]
            end = max(row.step for row in own)
            means = member_means([row for row in own if row.step == end], quantity).values()
            each = {"last": " ".join(f"{one:.4g}" for one in means)}
            for which, summary in (("last", result.last), ("best", result.best)):
                yield {
                    "cell": run.path.name,
                    "agent": run.config["agent"],
                    "preset": run.config["preset"],
                    "β": "" if result.beta is None else result.beta,
                    "updates": run.config["steps"],
                    "measure": UNITS[quantity],
                    "IQM": f"{summary.interval.estimate:.2f}",
                    "low": f"{summary.interval.low:.2f}",
                    "high": f"{summary.interval.high:.2f}",
                    "which": which,
                    "of": summary.label,
                    "seeds": summary.interval.seeds,
                    "each seed": each.get(which, ""),
                    "episodes": summary.episodes,
                    "seconds": seconds,
                    "shown": format_interval(summary.interval),
                }


def markdown(table: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """table.md: last and best of each cell and measure side by side."""
    lasts, bests = ([row for row in rows if row["which"] == which] for which in ("last", "best"))
    shown = [
        {**last, "last": last["shown"], "best": best["shown"]}
        for last, best in zip(lasts, bests, strict=True)
    ]
    episodes = {
        (last["episodes"], best["episodes"]) for last, best in zip(lasts, bests, strict=True)
    }
    counts = "; ".join(
        f"{last} at the last, {best} at each other" for last, best in sorted(episodes)
    )
    needed = " --data FILE" if TABLES[table].needs_file else ""
    return "\n".join(
        [
            f"# {table}",
            "",
            f"`python -m xql.experiments.offline_results {table}{needed}`",
            "",
            TABLES[table].note,
            "Interquartile mean over seeds with its 95 % bootstrap interval over seeds. *Last* is",
            "the last step's and is the result, *each seed* its mean there; *best* takes each",
            f"seed's best evaluation and is biased upwards. Episodes of a seed: {counts}. Seconds",
            "are those of all seeds together, evaluations included, on one or two cores that may",
            "have done other work too.",
            "",
            "| " + " | ".join(SHOWN) + " |",
            "|" + "---|" * len(SHOWN),
            *("| " + " | ".join(str(row[name]) for name in SHOWN) + " |" for row in shown),
            "",
        ]
    )


def tabulate(table: str) -> None:
    """Write table.csv, table.md and curves.png (of β, beta.png instead) from the cells there."""
    home = RESULTS / table
    runs = [RunFolder.open(path.parent) for path in sorted(home.glob("*/config.yaml"))]
    rows = [row for run in runs for row in rows_of(run)]
    if not rows:
        return
    with (home / "table.csv").open("w", newline="", encoding="utf-8") as file:
        names = [name for name in rows[0] if name != "shown"]
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (home / "table.md").write_text(markdown(table, rows), encoding="utf-8")
    if table == "beta":
        # Twelve curves of two tasks in one figure are none to read.
        plot_against_beta(runs, home / "beta.png")
        return
    curves = [curve for run in runs for curve in curves_from_run(run, label=run.path.name)]
    quantity = quantity_of(runs[0].read_evaluations())
    plot_learning_curves(curves, home / "curves.png", title=table, quantity=quantity)


def chosen(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells asked for.

    Raises:
        InputError: a name that the table does not have.
    """
    names = [cell.name for cell in cells]
    for name in only:
        if name not in names:
            raise InputError(f"no cell '{name}'", hint=nearest(name, names))
    return [cell for cell in cells if not only or cell.name in only]


def main(
    table: tyro.conf.Positional[str],
    data: str | None = None,
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CELL")] = (),
) -> None:
    """Train the cells of a table that results/ does not hold, then draw the table.

    Args:
        table: one of those that the head of this file lists.
        data: the file of door-human and door-peers, as D4RL publishes it.
        only: names of cells; all without it.
    """
    if table not in TABLES:
        raise InputError(f"no table '{table}'", hint=nearest(table, TABLES))
    use_all_cores()
    for cell in chosen(TABLES[table].cells(data), only):
        folder = RESULTS / table / cell.name
        if folder.exists():
            print(f"{cell.name}: there already")
        else:
            measure(cell, folder)
        tabulate(table)
    tabulate(table)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        sys.exit(f"xql.experiments.offline_results: {error}")

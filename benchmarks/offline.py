"""Offline results, cell by cell: `python -m benchmarks.offline TABLE`.

    pointmaze     XQL against BC on PointMaze-Medium and -Large, 256-256, 4 seeds × 100k updates
    door-human    XQL on D4RL's door-human-v0, preset consistent, 4 seeds × 200k updates

A cell is one agent on one dataset; it is trained only if `results/TABLE` does not hold it yet, so
that a table can grow over days. What a cell leaves there is what the run wrote: its configuration
and every episode that was played. The table and the figure are drawn from those files each time.
"""

import csv
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import xql
from xql.data.minari import local_names
from xql.evaluation.statistics import format_interval
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.plots import curves_from_run, plot_learning_curves
from xql.runs.summary import UNITS, Quantity, results
from xql.training.population import use_all_cores

RESULTS = Path(__file__).parent.parent / "results"


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
    options: dict[str, Any] = field(default_factory=dict)
    stop_at_success: bool | None = None


def pointmaze() -> list[Cell]:
    cells = []
    for maze in ("medium", "large"):
        for agent in ("xql", "bc"):
            data = f"minari:pointmaze/{maze}-play-v0"
            cells.append(Cell(f"{maze}-{agent}", data, agent, 100_000))
    return cells


def door_human(data: str) -> list[Cell]:
    return [
        Cell("xql-consistent", data, "xql", 200_000, preset="consistent", env="AdroitHandDoor-v1")
    ]


def measure(cell: Cell, folder: Path) -> None:
    """Train one cell and keep what its run wrote."""
    if cell.data.startswith("minari:pointmaze/"):
        name = cell.data.removeprefix("minari:")
        if name not in local_names():
            from xql.collect.pointmaze import make_pointmaze

            make_pointmaze(name.split("/")[1].split("-")[0])  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as work:
        began = time.perf_counter()
        run = xql.train_offline(
            cell.data,
            agent=cell.agent,
            preset=cell.preset,
            steps=cell.steps,
            seeds=cell.seeds,
            env=cell.env,
            options=cell.options,
            stop_at_success=cell.stop_at_success,
            out=Path(work) / "run",
        )
        seconds = time.perf_counter() - began
        draft = folder.with_name(folder.name + ".part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name in ("config.yaml", "evaluations.csv", "metrics.jsonl"):
            shutil.copy(run.path / name, draft / name)
        (draft / "seconds.txt").write_text(f"{seconds:.0f}\n")
        draft.replace(folder)


def quantities_of(rows: Sequence[Evaluation]) -> list[Quantity]:
    """Everything that the evaluations report, what matters most first."""
    found: list[Quantity] = ["success"] if rows[0].success is not None else []
    return found + (["score"] if rows[0].score is not None else []) + ["return"]


def tabulate(table: str, cells: Sequence[Cell], command: str) -> None:
    """Write table.csv, table.md and curves.png from the cells that are there."""
    home = RESULTS / table
    rows = []
    for cell in cells:
        folder = home / cell.name
        if not folder.exists():
            continue
        run = RunFolder.open(folder)
        evaluations = run.read_evaluations()
        seconds = (folder / "seconds.txt").read_text().strip()
        for quantity in quantities_of(evaluations):
            for result in results(evaluations, quantity):
                for summary in (result.last, result.best):
                    rows.append(
                        {
                            "cell": cell.name,
                            "agent": cell.agent,
                            "preset": cell.preset,
                            "beta": "" if result.beta is None else result.beta,
                            "measure": UNITS[quantity],
                            "of": summary.label,
                            "iqm": f"{summary.interval.estimate:.2f}",
                            "low": f"{summary.interval.low:.2f}",
                            "high": f"{summary.interval.high:.2f}",
                            "seeds": summary.interval.seeds,
                            "episodes_per_seed": summary.episodes,
                            "updates_per_seed": cell.steps,
                            "seconds": seconds,
                            "shown": format_interval(summary.interval),
                        }
                    )
    if not rows:
        return
    with (home / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file,
            [key for key in rows[0] if key != "shown"],
            restval="",
            extrasaction="ignore",
            lineterminator="\n",
        )
        writer.writeheader()
        writer.writerows(rows)
    shown = ("cell", "beta", "measure", "of", "shown", "seeds", "episodes_per_seed", "seconds")
    lines = [
        f"# {table}",
        "",
        f"Made by `{command}`. Interquartile mean over seeds with a 95 % bootstrap interval over",
        "seeds; *last* is the result, *best* picks each seed's best and is biased upwards.",
        "",
        "| " + " | ".join("IQM [95 %]" if key == "shown" else key for key in shown) + " |",
        "|" + "---|" * len(shown),
        *("| " + " | ".join(str(row[key]) for key in shown) + " |" for row in rows),
        "",
    ]
    (home / "table.md").write_text("\n".join(lines), encoding="utf-8")
    curves = [
        curve
        for cell in cells
        if (home / cell.name).exists()
        for curve in curves_from_run(RunFolder.open(home / cell.name), label=cell.name)
    ]
    plot_learning_curves(curves, home / "curves.png", title=table, quantity="success")


def main(
    table: tyro.conf.Positional[Literal["pointmaze", "door-human"]],
    data: str = "d4rl:../shared/data/d4rl-door-human-v0.hdf5",
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CELL …")] = (),
) -> None:
    """Train the cells of a table that results/ does not hold, then draw the table.

    Args:
        table: which table.
        data: the file of door-human.
        only: names of cells; all without it.
    """
    use_all_cores()
    cells = pointmaze() if table == "pointmaze" else door_human(data)
    for cell in cells:
        folder = RESULTS / table / cell.name
        if folder.exists() or (only and cell.name not in only):
            print(f"{cell.name}: {'there already' if folder.exists() else 'left out'}")
            continue
        measure(cell, folder)
        tabulate(table, cells, f"python -m benchmarks.offline {table}")
    tabulate(table, cells, f"python -m benchmarks.offline {table}")


if __name__ == "__main__":
    tyro.cli(main)

"""Fine-tuning from offline to online: `python -m xql.experiments.finetune_results --data FOLDER`.

XQL on AntMaze-UMaze made here (100k updates, then 100k environment steps) and on NeoRL-2's DMSD
(50k, then 100k), 2 seeds each, half of every batch from the log. What is asked of each evaluation
on the way: is the score ever below half of what it was before?

A cell that OUT/cells holds is not trained again. Table and figure are drawn from the cells alone.
"""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xql.errors import InputError, decoration
from xql.experiments.cells import Cell, finetuned_cell, kept, offline_cell, train_cells
from xql.experiments.command import as_command
from xql.experiments.compact import reduce_colours
from xql.experiments.offline_tables import UNBOUNDED
from xql.experiments.sources import minari_fingerprint
from xql.files import write_texts
from xql.reports.plots import curves_from_run, plot_learning_curves
from xql.runs.config import EvaluationPlan
from xql.runs.folder import RunFolder
from xql.runs.summary import UNITS, member_means, quantity_of
from xql.training.population import use_all_cores

ONLINE_STEPS, SEEDS = 100_000, 2


class Row(NamedTuple):
    """One task: means over seeds of each seed's mean over its episodes."""

    task: str
    measure: str
    before: str
    lowest: str
    """The lowest evaluation on the way, and its step."""
    below_half: str
    """Evaluations on the way whose mean is below half of that before, of all of them."""
    after: str
    each_seed: str


def cells(folder: Path | None) -> list[Cell]:
    """Both tasks.

    Args:
        folder: with NeoRL-2's files; None where the cells are only read.
    """
    ant = "antmaze/umaze-v0"
    return [
        finetuned_cell(
            offline_cell(
                "antmaze-umaze",
                ant,
                opened=f"minari:{ant}",
                fingerprint=minari_fingerprint(ant),
                agent="xql",
                preset="fixed",
                options={"beta": "auto"},
                steps=100_000,
                seeds=SEEDS,
                evaluation=EvaluationPlan(20, 10, 100),
            ),
            ONLINE_STEPS,
            "symmetric",
        ),
        finetuned_cell(
            offline_cell(
                "dmsd",
                "neorl2/DMSD",
                opened=f"neorl2:{(folder or Path()) / 'DMSD-high-100000-train.npz'}",
                agent="xql",
                options=UNBOUNDED,
                steps=50_000,
                seeds=SEEDS,
                evaluation=EvaluationPlan(20, 5, 20),
            ),
            ONLINE_STEPS,
            "symmetric",
        ),
    ]


def row_of(task: str, run: RunFolder) -> Row:
    """What became of one task's score."""
    rows = run.read_evaluations()
    quantity = quantity_of(rows)
    means: dict[int, list[float]] = {}
    for step in sorted({row.step for row in rows}):
        own = member_means([row for row in rows if row.step == step], quantity)
        means[step] = list(own.values())
    steps = list(means)
    before, after = means[steps[0]], means[steps[-1]]
    on_the_way = {step: float(np.mean(means[step])) for step in steps[1:]}
    worst = min(on_the_way, key=lambda step: on_the_way[step])
    below = sum(mean < np.mean(before) / 2 for mean in on_the_way.values())
    return Row(
        task,
        UNITS[quantity],
        f"{np.mean(before):.1f}",
        f"{on_the_way[worst]:.1f} at {worst:,}",
        f"{below} of {len(on_the_way)}",
        f"{np.mean(after):.1f}",
        ", ".join(f"{one:.1f} → {other:.1f}" for one, other in zip(before, after, strict=True)),
    )


def markdown(rows: list[Row]) -> str:
    """The table, and what it says."""
    header = [name.replace("_", " ") for name in Row._fields]
    return "\n".join(
        [
            "# finetune",
            "",
            "`python -m xql.experiments.finetune_results --data FOLDER`",
            "",
            f"XQL, offline and then {ONLINE_STEPS:,} environment steps, {SEEDS} seeds; means",
            "over seeds. *Before* and *after*: 100 episodes a seed on AntMaze, 20 on DMSD; on the",
            "way 10 and 5. *Below half* counts the evaluations after step 0 whose mean is below",
            "half of the one before.",
            "",
            "| " + " | ".join(header) + " |",
            "|" + "---|" * len(header),
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
        ]
    )


def tabulate(home: Path) -> list[tuple[str, RunFolder]]:
    """Write table.csv and table.md from the cells that are kept.

    Returns:
        These cells, by name.
    """
    places = [(one.name, kept(home / "cells", one)) for one in cells(None)]
    found = [(name, RunFolder.open(path)) for name, path in places if path is not None]
    rows = [row_of(name, run) for name, run in found]
    if rows:
        text = io.StringIO()
        writer: Any = csv.writer(text, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)
        write_texts(home, {"table.csv": text.getvalue(), "table.md": markdown(rows)})
    return found


def main(data: Path | None = None, train: bool = True, out: Path = Path("results")) -> None:
    """Train the cells that are not kept yet, then write the table and its figures.

    Args:
        data: a folder with NeoRL-2's files, under their published names.
        train: train what is missing; without, only write what is there.
        out: the folder; the table goes to finetune in there.
    """
    use_all_cores()
    home = out / "finetune"
    if train:
        for name, outcome in train_cells(cells(data), home / "cells", say=print).items():
            if outcome.problem:
                raise InputError(outcome.problem, where=name)
    for name, run in tabulate(home):
        with decoration("figure"):
            path = plot_learning_curves(
                curves_from_run(run, label="XQL"),
                home / f"{name}.png",
                title=run.config.data.name,
                quantity=quantity_of(run.read_evaluations()),
                steps="Environment steps",
            )
            reduce_colours(path)


if __name__ == "__main__":
    as_command(main, "finetune_results")

"""Offline results, cell by cell: `python -m xql.experiments.offline_results TABLE`.

    pointmaze     XQL against BC on PointMaze-Medium and -Large, 256-256, 4 seeds × 100k updates
    peers         every offline agent, IQL also matched, on PointMaze-Medium, 4 seeds × 50k updates
    antmaze       XQL, IQL (also matched), TD3+BC, ReBRAC and BC on AntMaze-UMaze made here, 2
                  seeds × 200k updates
    door-human    XQL on D4RL's door-human-v0, preset consistent without its dropout, 4 seeds × 200k
                  updates
    door-peers    XQL, IQL (also matched), TD3+BC and BC on door-human-v0, 4 seeds × 100k updates
    peers-large   every offline agent but CQL on PointMaze-Large, 4 seeds × 100k updates
    antmaze-more  XQL (auto and consistent), IQL, TD3+BC, BC, ReBRAC and CQL on UMaze-diverse,
                  Medium and Large AntMaze data made here, 2 seeds × 250k updates
    mujoco        the same agents on Hopper, HalfCheetah and Walker2d data of three kinds made here
                  with `xql data make mujoco`, 2 seeds × 250k updates
    kitchen       XQL (auto, consistent, and the latter with κ = 10), IQL, TD3+BC, BC and CQL on the
                  kitchen's three kinds of data made here, observations standardised and raw,
                  4 seeds × 200k updates
    beta          XQL over β, one population each of 2 seeds: PointMaze-Medium, 25k updates, and
                  AntMaze-UMaze made here, 75k
    stability     XQL on six tasks, 4 seeds × 50k updates: with temperatures that tune themselves,
                  over six fixed β, and with the paper's own loss at its nearest β
    neorl2        XQL, IQL, TD3+BC, ReBRAC and BC on NeoRL-2's DMSD and SafetyHalfCheetah, 4 seeds
                  × 50k updates
    greenhouse    XQL, IQL and BC from the log of a greenhouse, on days that it does not hold, 4
                  seeds × 20k updates (experiments/greenhouse_results.py)
    cartpole      XQL, sampled and exact, IQL, CQL, AWAC and BC on CartPole data of two kinds made
                  here with `xql data make online`, 4 seeds × 5k updates
    extraction    XQL's four ways to extract a policy, on AntMaze-UMaze-diverse made here and DMSD,
                  2 seeds × 25k updates

A cell is one agent on one dataset; it is trained only if OUT/TABLE/cells does not hold it yet, and
goes on where it was interrupted, so that a table can grow over days. Table and figure are drawn
from the cells alone, which need neither the data nor the simulator.
"""

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from xql.agents.hyperparameters import to_dict
from xql.errors import InputError, decoration, nearest
from xql.evaluation.statistics import format_interval
from xql.experiments.cells import Cell, kept, train_cells
from xql.experiments.command import as_command
from xql.experiments.compact import reduce_colours
from xql.experiments.offline_tables import TABLES, make_data
from xql.files import write_texts
from xql.reports.plots import curves_from_run, plot_against, plot_learning_curves
from xql.runs.config import RunConfig
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.summary import (
    SYMBOLS,
    UNITS,
    Quantity,
    by_changes,
    member_means,
    quantity_of,
    results,
    value_of,
)
from xql.training.population import use_all_cores


class Entry(NamedTuple):
    """A cell of a table: its name, and the run folder that it was kept in."""

    name: str
    run: RunFolder


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
        # A maze rewards success with 1 and nothing else.
        own = np.array([value_of(row, quantity) for row in evaluations])
        if not any(np.array_equal(scale * own, values, equal_nan=True) for scale in (1, 100)):
            yield quantity


def swept(config: RunConfig) -> tuple[str, ...]:
    """The names of the hyperparameters that a run sweeps."""
    return tuple(config.members[0].changes)


def rows_of(entry: Entry, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of table.csv for one cell, from what its run wrote.

    Args:
        entry: the cell.
        names: the hyperparameters that have a column; it is empty for an agent without one.
    """
    run, config = entry.run, entry.run.config
    evaluations = run.read_evaluations()
    seconds = round(run.read_metrics()[-1].values["seconds"][0])
    own_values = to_dict(config.member_config(0))
    groups = [rows for _, rows in by_changes(evaluations, config.members)]
    for quantity in quantities_of(evaluations):
        for result, own in zip(results(evaluations, config.members, quantity), groups, strict=True):
            end = max(row.step for row in own)
            means = member_means([row for row in own if row.step == end], quantity).values()
            each = {"last": " ".join(f"{one:.4g}" for one in means)}
            values = own_values | result.changes
            for which, summary in (("last", result.last), ("best", result.best)):
                yield {
                    "cell": entry.name,
                    "agent": config.agent,
                    "preset": config.preset,
                    **{name: values.get(name, "") for name in names},
                    "updates": end,
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


def data_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row of table.md for each dataset: the mean return of its episodes."""
    rows = {}
    for config in (one.run.config for one in entries):
        extent = config.data.whole or config.data.extent
        if extent is not None:
            name = f"*data*: {config.data.name}, {extent.episodes:,} episodes"
            mean = f"{extent.mean_return:.2f}"
            rows[name] = {"cell": name, "measure": UNITS["return"], "last": mean}
    return list(rows.values())


def markdown(
    table: str,
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    others: Sequence[Mapping[str, Any]] = (),
) -> str:
    """table.md: last and best of each cell and measure side by side.

    Args:
        table: its name.
        rows: from `rows_of`.
        names: the hyperparameters that have a column.
        others: further rows, some of whose columns are empty.
    """
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
    columns = ("cell", *names, "updates", "measure", "last", "each seed", "best", "seconds")
    header = [SYMBOLS.get(name, name) for name in columns]
    needs = TABLES[table].needs
    needed = f" --data {needs}" if needs else ""
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
            f"are those of all seeds together, {TABLES[table].seconds}",
            "",
            "| " + " | ".join(header) + " |",
            "|" + "---|" * len(header),
            *("| " + " | ".join(str(row[name]) for name in columns) + " |" for row in shown),
            *(
                "| " + " | ".join(str(row.get(name, "")) for name in columns) + " |"
                for row in others
            ),
            "",
        ]
    )


def entries_of(table: str, home: Path) -> list[Entry]:
    """The cells of a table that are kept, by name."""
    found = [(one.name, kept(home / "cells", one)) for one in TABLES[table].cells(None)]
    return [Entry(name, RunFolder.open(path)) for name, path in sorted(found) if path is not None]


def tabulate(table: str, home: Path) -> list[Entry]:
    """Write table.csv and table.md from the cells that are kept.

    Returns:
        These cells.
    """
    entries = entries_of(table, home)
    named = [name for one in entries for name in swept(one.run.config)]
    names = list(dict.fromkeys((*TABLES[table].shown, *named)))
    rows = [row for one in entries for row in rows_of(one, names)]
    if rows:
        text = io.StringIO()
        columns = [name for name in rows[0] if name != "shown"]
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        others = data_rows(entries) if TABLES[table].own_returns else ()
        page = markdown(table, rows, names, others)
        tables = {"table.csv": text.getvalue(), "table.md": page}
        write_texts(home, tables)
    return entries


def draw(table: str, entries: Sequence[Entry], home: Path) -> None:
    """The one figure of a table: the last score over what cells sweep, or else learning curves.

    There is none where every cell was evaluated once, and none sweeps.
    """
    runs = [one.run for one in entries]
    sweeping = [one for one in entries if swept(one.run.config)]
    names = {swept(one.run.config) for one in sweeping}
    if len(names) == 1 and len(name := min(names)) == 1:
        shown = [one.run for one in sweeping]
        others = [
            [
                one
                for one in entries
                if one not in sweeping and one.run.config.data.name == run.config.data.name
            ]
            for run in shown
        ]
        # A panel is called by what its cells' names have in common, and its levels by the rest.
        tasks = [
            _in_common([one.name, *(other.name for other in beside)])
            for one, beside in zip(sweeping, others, strict=True)
        ]
        beside = [
            {one.name.removeprefix(f"{task}-"): one.run for one in own}
            for task, own in zip(tasks, others, strict=True)
        ]
        path = plot_against(shown, name[0], home / f"{name[0]}.png", titles=tasks, beside=beside)
    elif all(run.config.evaluation.evaluations == 1 for run in runs):
        return
    else:
        curves = [curve for one in entries for curve in curves_from_run(one.run, label=one.name)]
        quantity = quantity_of(runs[0].read_evaluations())
        path = plot_learning_curves(curves, home / "curves.png", title=table, quantity=quantity)
    reduce_colours(path)


def _in_common(names: Sequence[str]) -> str:
    """The words, between hyphens, with which all begin; the first name where there are none."""
    if len(names) == 1:
        return names[0]
    words = zip(*(name.split("-") for name in names), strict=False)
    shared = itertools.takewhile(lambda each: len(set(each)) == 1, words)
    return "-".join(each[0] for each in shared) or names[0]


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
    train: bool = True,
    out: Path = Path("results"),
) -> None:
    """Train the cells of a table that are not kept yet, then write the table and its figure.

    Args:
        table: one of those that the head of this file lists.
        data: the file of door-human and door-peers, as D4RL publishes it; of greenhouse, the
            converted log, which is called log.npz; for stability and neorl2 a folder with
            NeoRL-2's files, and with that file, under their published names.
        only: names of cells; all without it.
        train: train what is missing; without, only write what is there.
        out: the folder; the table goes to the folder of its name in there.
    """
    if table not in TABLES:
        raise InputError(f"no table '{table}'", hint=nearest(table, TABLES))
    use_all_cores()
    home, missing = out / table, []
    for one in chosen(TABLES[table].cells(data), only) if train else ():
        if kept(home / "cells", one) is None:
            make_data(one)
            # With the fingerprint of the data that was made.
            [one] = chosen(TABLES[table].cells(data), [one.name])
        [outcome] = train_cells([one], home / "cells", say=print).values()
        if outcome.problem:
            missing.append(one.name)
        # After every cell: the next may take a day.
        tabulate(table, home)
    entries = tabulate(table, home)
    with decoration("figure"):
        draw(table, entries, home)
    if missing:
        raise InputError(f"not trained, for the reasons above: {', '.join(missing)}")


if __name__ == "__main__":
    as_command(main, "offline_results")

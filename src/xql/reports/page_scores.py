"""The scores of the HTML page: learning curves, tables, and the numbers in large type."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from xql.envs.kitchen import KITCHEN
from xql.errors import InputError, reason
from xql.evaluation.scores import normalised_score
from xql.evaluation.statistics import (
    Interval,
    episode_means,
    format_interval,
    format_number,
    stratified_bootstrap,
)
from xql.reports.comparable import task_of
from xql.reports.compare import compare
from xql.reports.comparison import Comparison
from xql.reports.page_curves import Line, curves, score_line
from xql.reports.page_figures import Figure, Key
from xql.reports.page_series import FAINT, Series
from xql.reports.page_tables import Table
from xql.reports.plots import AXES
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.summary import UNITS, Quantity, Result, quantity_of, results, value_of


def said_of(error: Exception) -> str:
    """What is wrong, without the folder: a page is for readers elsewhere too."""
    return error.what if isinstance(error, InputError) else reason(error)


def scores_of(
    runs: Sequence[RunFolder], shown: Sequence[Series], keys: Sequence[Key]
) -> tuple[list[Figure], list[Table], list[dict[str, str]], list[str]]:
    """Learning curves, tables of scores, the numbers in large type, and notes."""
    drawn: list[Figure] = []
    tables: list[Table] = []
    tiles: list[dict[str, str]] = []
    notes: list[str] = []
    tasks: dict[str, list[Series]] = {}
    for one in shown:
        if one.rows:
            tasks.setdefault(task_of(one.run), []).append(one)
    for place, (task, own) in enumerate(tasks.items()):
        rows = [row for one in own for row in one.rows]
        quantity = quantity_of(rows)
        drawn.append(_learning_curve(f"score{place}", task, own, keys, quantity, len(tasks) > 1))
        tables.append(_evaluations_table(own, quantity, task))
    if len(runs) == 1:
        run = runs[0]
        rows = [row for one in shown for row in one.rows]
        if rows:
            found = results(rows, run.config.members)
            tables.insert(0, _results_table(found))
            best = max(found, key=_last)
            for kind, summary in (("Last", best.last), ("Best", best.best)):
                words = f"{best.label}, " if best.changes else ""
                tiles.append(
                    {
                        "name": f"{kind} {UNITS[best.quantity].replace('% ', '')}",
                        "value": format_interval(summary.interval).partition(" [")[0]
                        + " %" * (best.quantity == "success"),
                        "interval": _bounds(summary.interval),
                        "note": f"{words}{summary.label}, {summary.sample}"
                        + "; biased upwards" * (kind == "Best"),
                    }
                )
        level = _level(run, quantity_of(rows)) if rows else None
        if level is not None:
            value = {"name": "The data", "value": format_number(level[0]), "interval": ""}
            tiles.append({**value, "note": "mean over the logged episodes"})
    else:
        try:
            table = compare([run.path for run in runs])
            tables.insert(0, _comparison_table(table))
            if table.pairs:
                tables.insert(1, _pairs_table(table))
            notes += [*table.notes, *table.cautions]
        except InputError as error:
            notes.append(
                f"No table compares these runs: {Path(error.where).name}: {said_of(error)}."
            )
    if not tasks:
        notes.append("Nothing was evaluated: there are no scores.")
    return drawn, tables, tiles, notes


def _last(result: Result) -> float:
    """The score at the last step; what is not finite is below all others."""
    return float(np.nan_to_num(result.last.interval.estimate, nan=-np.inf))


def _bounds(interval: Interval) -> str:
    text = format_interval(interval)
    return text[text.index("[") :]


def _learning_curve(
    name: str,
    task: str,
    own: Sequence[Series],
    keys: Sequence[Key],
    quantity: Quantity,
    titled: bool,
) -> Figure:
    lines: list[Line] = []
    seeds: list[Line] = []
    for one in own:
        if not one.rows:
            continue
        steps, members, means = _means(one, quantity)
        intervals = [stratified_bootstrap(means[:, [column]]) for column in range(len(steps))]
        lines.append(score_line(one.key.key, steps, intervals))
        if len(means) > 1:
            seeds += [
                Line(one.key_of(place).key, steps, mean, faint=True)
                for place, mean in zip(members, means, strict=True)
            ]
    online = any(one.run.config.online for one in own)
    level = _level(own[0].run, quantity) if len({one.run.path for one in own}) == 1 else None
    return curves(
        name,
        f"Score: {task}" if titled else "Score",
        "The interquartile mean over seeds and its 95 % bootstrap interval; thin lines are single "
        "seeds. The last step is the result."
        if seeds
        else "One seed: there is no interval. The last step is the result.",
        lines + (seeds if len(seeds) <= FAINT else []),
        keys,
        x="Environment steps" if online else "Gradient updates",
        y=AXES[quantity],
        domain=(0.0, 100.0) if quantity == "success" else None,
        level=level,
        wide=True,
        height=300,
    )


def _means(
    one: Series, quantity: Quantity
) -> tuple[list[int], list[int], Float64[np.ndarray, "members steps"]]:
    """The steps, the members, and each member's mean over its episodes."""
    return episode_means(
        [row.step for row in one.rows],
        [row.member for row in one.rows],
        [_value(row, quantity) for row in one.rows],
    )


def _value(row: Evaluation, quantity: Quantity) -> float:
    try:
        return value_of(row, quantity)
    except InputError:
        return float("nan")


def _level(run: RunFolder, quantity: Quantity) -> tuple[float, str] | None:
    """What the logged episodes reached, in the unit of the scores."""
    extent, reference = run.config.data.extent, run.config.data.reference
    if extent is None or quantity == "success":
        return None
    if KITCHEN in (run.config.environment or ""):
        return None  # its recordings reward a task at every step: another unit
    if quantity == "return":
        return extent.mean_return, "mean of the data"
    if reference is None:
        return None
    return float(normalised_score(extent.mean_return, reference)), "mean of the data"


def _results_table(found: Sequence[Result]) -> Table:
    swept = any(one.changes for one in found)
    return Table(
        "Scores",
        [*["settings"] * swept, "", "IQM [95 % interval]", "seeds", "episodes", "of"],
        [
            [
                *[one.label] * swept,
                kind,
                f"{format_interval(summary.interval)} {UNITS[one.quantity]}",
                str(summary.interval.seeds),
                str(summary.episodes),
                summary.label,
            ]
            for one in found
            for kind, summary in (("last", one.last), ("best", one.best))
        ],
    )


def _comparison_table(table: Comparison) -> Table:
    return Table(
        "Scores: IQM over seeds [95 % interval]",
        ["task", "method", "settings", "measure", "seeds", "last", "best", "last of"],
        [
            [
                row.task,
                row.method,
                row.settings,
                UNITS[row.quantity],
                str(len(row.seeds)),
                format_interval(row.last.iqm),
                format_interval(row.best.iqm),
                f"step {row.step:,}, {row.last.episodes} episodes",
            ]
            for row in table.rows
        ],
    )


def _pairs_table(table: Comparison) -> Table:
    return Table(
        "Probability that a run of the first method is better than one of the second, last step",
        ["task", "first", "second", "P(first > second)"],
        [[one.task, one.first, one.second, one.shown] for one in table.pairs],
        folded=len(table.pairs) > 6,
    )


def _evaluations_table(own: Sequence[Series], quantity: Quantity, task: str) -> Table:
    """The numbers of the learning curves, for who cannot see them."""
    columns: list[dict[int, str]] = []
    for one in own:
        column: dict[int, str] = {}
        if one.rows:
            steps, _, means = _means(one, quantity)
            for place, step in enumerate(steps):
                column[step] = format_interval(stratified_bootstrap(means[:, [place]]))
        columns.append(column)
    every = sorted({step for column in columns for step in column})
    return Table(
        f"Every evaluation of {task}: {AXES[quantity].lower()}, IQM [95 % interval]",
        ["step", *(one.key.label for one in own)],
        [[f"{step:,}", *(column.get(step, "") for column in columns)] for step in every],
        folded=True,
    )

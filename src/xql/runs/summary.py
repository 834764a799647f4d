"""What a run's evaluations come to: one number per member, over seeds, last and best apart."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from xql.display import html_table
from xql.errors import InputError
from xql.evaluation.statistics import (
    Summary,
    best_summary,
    format_interval,
    format_number,
    last_summary,
)
from xql.runs.config import Member
from xql.runs.folder import Evaluation

Quantity = Literal["success", "score", "return"]

SYMBOLS = {"beta": "β"}
"""How hyperparameters with a symbol of their own are shown."""

UNITS: dict[Quantity, str] = {"success": "% success", "score": "score", "return": "return"}


class Result(NamedTuple):
    """What one combination of the swept hyperparameters achieved, over its seeds."""

    changes: dict[str, float]
    """The swept hyperparameters; empty where nothing was swept."""
    quantity: Quantity
    last: Summary
    best: Summary

    def as_plain(self) -> dict[str, object]:
        """For JSON: the last evaluation's score, and the best one's beside it."""
        last, best = self.last.interval, self.best.interval
        return {
            "changes": self.changes,
            "quantity": self.quantity,
            "last": last.estimate,
            "low": last.low,
            "high": last.high,
            "seeds": last.seeds,
            "episodes": self.last.episodes,
            "best": best.estimate,
        }

    def _repr_html_(self) -> str:
        shown: dict[str, object] = {
            SYMBOLS.get(name, name): f"{x:g}" for name, x in self.changes.items()
        }
        for kind, summary in (("last", self.last), ("best", self.best)):
            shown[kind] = (
                f"{format_interval(summary.interval)} {UNITS[self.quantity]}, {summary.label}, "
                f"{summary.sample}"
            )
        return html_table("Result", shown)

    @property
    def label(self) -> str:
        """The swept hyperparameters, for one line."""
        return label_of(self.changes)


def label_of(changes: Mapping[str, float]) -> str:
    """Hyperparameters and their values, for one line."""
    return ", ".join(f"{SYMBOLS.get(name, name)} = {value:g}" for name, value in changes.items())


def quantity_of(rows: Sequence[Evaluation]) -> Quantity:
    """The number that matters most: success where every episode reports it, else the normalised
    score where every episode has one, else the return.

    Episodes that diverged have no say: they can end before the environment reported anything.
    """
    rows = [row for row in rows if not math.isnan(row.episode_return)]
    if rows and all(row.success is not None for row in rows):
        return "success"
    return "score" if rows and all(row.score is not None for row in rows) else "return"


def value_of(row: Evaluation, quantity: Quantity) -> float:
    """One episode's quantity; success in per cent. A diverged episode has nan of each.

    Raises:
        InputError: the episode does not have it.
    """
    if math.isnan(row.episode_return):
        return math.nan
    value = {"return": row.episode_return, "score": row.score, "success": row.success}[quantity]
    if value is None:
        raise InputError(
            f"the evaluations have no {quantity}", where=f"step {row.step}", hint="take the return"
        )
    return 100.0 * value if quantity == "success" else float(value)


def member_means(rows: Sequence[Evaluation], quantity: Quantity) -> dict[int, float]:
    """Each member's mean over its episodes."""
    members = sorted({row.member for row in rows})
    return {
        member: float(np.mean([value_of(row, quantity) for row in rows if row.member == member]))
        for member in members
    }


def by_changes(
    rows: Sequence[Evaluation], members: Sequence[Member]
) -> list[tuple[dict[str, float], list[Evaluation]]]:
    """The rows of each combination of the swept hyperparameters, in the population's order."""
    groups: dict[tuple[tuple[str, float], ...], list[Evaluation]] = {}
    for member in members:
        groups.setdefault(tuple(member.changes.items()), [])
    for row in rows:
        groups[tuple(members[row.member].changes.items())].append(row)
    return [(dict(changes), own) for changes, own in groups.items() if own]


def results(
    rows: Sequence[Evaluation], members: Sequence[Member], quantity: Quantity | None = None
) -> list[Result]:
    """The interquartile mean over seeds, at the last step and at each seed's best.

    Args:
        rows: a run's evaluations.csv.
        members: the run's population.
        quantity: None for `quantity_of` the rows.

    Returns:
        One for each combination of the swept hyperparameters.
    """
    quantity = quantity or quantity_of(rows)
    found = []
    for changes, own in by_changes(rows, members):
        columns = (
            [row.step for row in own],
            [row.seed for row in own],
            [value_of(row, quantity) for row in own],
        )
        found.append(Result(changes, quantity, last_summary(*columns), best_summary(*columns)))
    return found


def in_brief(rows: Sequence[Evaluation], members: Sequence[Member]) -> str:
    """One evaluation in a few words: the interquartile mean over seeds."""
    found = results(rows, members)
    unit = UNITS[found[0].quantity]
    if len(found) == 1:
        return f"{format_number(found[0].last.interval.estimate)} {unit}"
    each = (f"{format_number(one.last.interval.estimate)} ({one.label})" for one in found)
    return f"{', '.join(each)} {unit}"

"""What a run's evaluations come to: one number per member, one line per β, last and best apart."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from xql.errors import InputError
from xql.evaluation.statistics import Summary, best_summary, last_summary
from xql.runs.folder import Evaluation

Quantity = Literal["success", "score", "return"]

UNITS: dict[Quantity, str] = {"success": "% success", "score": "score", "return": "return"}


class Result(NamedTuple):
    """What one β of a run achieved, over its seeds."""

    beta: float | None
    quantity: Quantity
    last: Summary
    best: Summary


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


def by_beta(rows: Sequence[Evaluation]) -> dict[float | None, list[Evaluation]]:
    """The rows of each β, None first, then in order of β."""
    betas = sorted({row.beta for row in rows}, key=lambda one: (one is not None, one))
    return {beta: [row for row in rows if row.beta == beta] for beta in betas}


def results(rows: Sequence[Evaluation], quantity: Quantity | None = None) -> list[Result]:
    """Per β the interquartile mean over seeds, at the last step and at each seed's best.

    Args:
        rows: a run's evaluations.csv.
        quantity: None for `quantity_of` the rows.
    """
    quantity = quantity or quantity_of(rows)
    found = []
    for beta, own in by_beta(rows).items():
        columns = (
            [row.step for row in own],
            [row.seed for row in own],
            [value_of(row, quantity) for row in own],
        )
        found.append(Result(beta, quantity, last_summary(*columns), best_summary(*columns)))
    return found


def in_brief(rows: Sequence[Evaluation]) -> str:
    """One evaluation in a few words: the interquartile mean over seeds, for each β."""
    found = results(rows)
    unit = UNITS[found[0].quantity]
    if len(found) == 1:
        return f"{found[0].last.interval.estimate:.1f} {unit}"
    each = (f"{one.last.interval.estimate:.1f} (β {one.beta:g})" for one in found)
    return f"{', '.join(each)} {unit}"

"""What a run's evaluations come to: one number per member, one line per β, last and best apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xql.evaluation.statistics import Summary, best_summary, last_summary
from xql.runs.folder import Evaluation


class Result(NamedTuple):
    """What one β of a run achieved, over its seeds."""

    beta: float | None
    unit: str
    last: Summary
    best: Summary


def headline(rows: Sequence[Evaluation]) -> tuple[list[float], str]:
    """Per episode the number that matters most, and its unit.

    Success in per cent where every episode reports it, else the normalised score, else the return.
    """
    if all(row.success is not None for row in rows):
        return [100.0 * bool(row.success) for row in rows], "% success"
    if all(row.score is not None for row in rows):
        return [float(row.score or 0.0) for row in rows], "score"
    return [row.episode_return for row in rows], "return"


def member_means(rows: Sequence[Evaluation]) -> tuple[dict[int, float], str]:
    """Each member's mean headline over its episodes, and the unit."""
    values, unit = headline(rows)
    means = {}
    for member in sorted({row.member for row in rows}):
        own = [value for value, row in zip(values, rows, strict=True) if row.member == member]
        means[member] = float(np.mean(own))
    return means, unit


def results(rows: Sequence[Evaluation], measure: str = "headline") -> list[Result]:
    """Per β the interquartile mean over seeds, at the last step and at each seed's best.

    Args:
        rows: a run's evaluations.csv.
        measure: "headline", "score", "return" or "success".
    """
    found = []
    for beta in sorted({row.beta for row in rows}, key=lambda one: (one is not None, one)):
        own = [row for row in rows if row.beta == beta]
        values, unit = _measure(own, measure)
        steps, seeds = [row.step for row in own], [row.seed for row in own]
        found.append(
            Result(
                beta,
                unit,
                last_summary(steps, seeds, values),
                best_summary(steps, seeds, values),
            )
        )
    return found


def _measure(rows: Sequence[Evaluation], measure: str) -> tuple[list[float], str]:
    if measure == "score":
        return [float("nan") if row.score is None else row.score for row in rows], "score"
    if measure == "return":
        return [row.episode_return for row in rows], "return"
    if measure == "success":
        return [
            float("nan") if row.success is None else 100.0 * row.success for row in rows
        ], "% success"
    return headline(rows)

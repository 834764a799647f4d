"""What the scores of a few seeds allow one to say: an interquartile mean and its interval.

Source of the method: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (interquartile mean, bootstrap stratified by task).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

Statistic = Callable[[Float64[np.ndarray, "draws scores"]], Float64[np.ndarray, " draws"]]
"""Reduces the last axis, as `iqm` does."""

# A repetition count at which the ends of a 95 % interval move by about 3 % of its half-width from
# one bootstrap seed to the next (measured for 10 normal scores).
REPETITIONS = 2000


class Interval(NamedTuple):
    """A statistic and its bootstrap confidence interval (nan bounds where there is one seed)."""

    estimate: float
    low: float
    high: float
    seeds: int


class Summary(NamedTuple):
    """What to print of a run: the number, its interval and which step it speaks of."""

    interval: Interval
    label: str
    """Such as "last of 10 evaluations (step 100000)" or "best over 10 evaluations"."""
    episodes: int
    """Evaluation episodes for each seed; of the best, the fewest that one could be picked from."""


def iqm(values: Float[np.ndarray, "..."], axis: int = -1) -> Float64[np.ndarray, "..."]:
    """Interquartile mean: the mean without the lowest and the highest quarter of the values.

    From n values it drops ⌊n/4⌋ at either end, as `scipy.stats.trim_mean(values, 0.25)` does; up to
    three values it is the plain mean. A nan anywhere gives nan: a diverged seed is never trimmed
    away unseen.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=axis)
    count = ordered.shape[axis]
    cut = count // 4
    kept = np.take(ordered, np.arange(cut, count - cut), axis=axis)
    return np.asarray(np.where(np.isnan(ordered).any(axis=axis), np.nan, kept.mean(axis=axis)))


def stratified_bootstrap(
    scores: Float[np.ndarray, "seeds tasks"],
    statistic: Statistic = iqm,
    repetitions: int = REPETITIONS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over seeds, drawn anew within each task, of a statistic of all scores.

    Args:
        scores: one score for each seed and task.
        statistic: reduces the last axis of [repetitions, seeds·tasks].
        repetitions: resamples drawn.
        confidence: the share of resampled statistics that the interval holds.
        seed: the same seed gives the same interval.

    Returns:
        The statistic of the scores themselves and the interval; with one seed its bounds are nan,
        because one seed says nothing of how seeds differ.
    """
    scores = np.asarray(scores, np.float64)
    seeds, tasks = scores.shape
    estimate = float(statistic(scores.reshape(1, -1))[0])
    if seeds == 1 or not np.isfinite(scores).all():
        return Interval(estimate, float("nan"), float("nan"), seeds)
    draw = np.random.default_rng(seed).integers(seeds, size=(repetitions, seeds, tasks))
    resampled = scores[draw, np.arange(tasks)].reshape(repetitions, seeds * tasks)
    outside = (1.0 - confidence) / 2.0
    low, high = np.quantile(statistic(resampled), [outside, 1.0 - outside])
    return Interval(estimate, float(low), float(high), seeds)


def format_interval(interval: Interval, digits: int = 1) -> str:
    """One line: "61.3 [55.0, 68.2]"; the bounds read n/a where they are undefined."""
    estimate = f"{interval.estimate:.{digits}f}"
    if interval.seeds == 1:
        return f"{estimate} [n/a (1 seed)]"
    if np.isnan(interval.low):
        return f"{estimate} [n/a (a score is not finite)]"
    return f"{estimate} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def episode_means(
    steps: Sequence[int], seeds: Sequence[int], values: Sequence[float]
) -> tuple[list[int], list[int], Float64[np.ndarray, "seeds steps"]]:
    """Average each seed's episodes at each evaluation step.

    Args:
        steps, seeds, values: one entry for each episode, such as the columns of evaluations.csv
            (of one β: seeds of different β must not be mixed).

    Returns:
        The steps in order, the seeds in order, and the means; nan where a seed was not evaluated.
    """
    cells: Mapping[tuple[int, int], list[float]] = defaultdict(list)
    for step, seed, value in zip(steps, seeds, values, strict=True):
        cells[(seed, step)].append(value)
    step_axis, seed_axis = sorted(set(steps)), sorted(set(seeds))
    means = np.full((len(seed_axis), len(step_axis)), np.nan)
    for row, seed in enumerate(seed_axis):
        for column, step in enumerate(step_axis):
            if (seed, step) in cells:
                means[row, column] = np.mean(cells[(seed, step)])
    return step_axis, seed_axis, means


def step_intervals(
    scores: Float[np.ndarray, "seeds steps"], confidence: float = 0.95
) -> list[Interval]:
    """Per evaluation step: the interquartile mean over seeds with its bootstrap interval."""
    return [
        stratified_bootstrap(scores[:, [column]], confidence=confidence)
        for column in range(scores.shape[1])
    ]


def last_summary(steps: Sequence[int], seeds: Sequence[int], values: Iterable[float]) -> Summary:
    """The interquartile mean over seeds at the last evaluation step: the honest number.

    Args:
        steps, seeds, values: as `episode_means` takes them.
    """
    values = list(values)
    step_axis, seed_axis, means = episode_means(steps, seeds, values)
    return Summary(
        stratified_bootstrap(means[:, -1:]),
        f"last of {len(step_axis)} evaluations (step {step_axis[-1]})",
        sum(step == step_axis[-1] for step in steps) // len(seed_axis),
    )


def best_summary(steps: Sequence[int], seeds: Sequence[int], values: Iterable[float]) -> Summary:
    """The interquartile mean over seeds of each seed's best evaluation.

    It is biased upwards: the maximum is chosen by the very episodes that it reports. Published
    tables of this kind can be compared with nothing else.

    Args:
        steps, seeds, values: as `episode_means` takes them.
    """
    steps, values = list(steps), list(values)
    step_axis, seed_axis, means = episode_means(steps, seeds, values)
    return Summary(
        stratified_bootstrap(means.max(axis=1, keepdims=True)),
        f"best over {len(step_axis)} evaluations",
        min(steps.count(step) for step in step_axis) // len(seed_axis),
    )

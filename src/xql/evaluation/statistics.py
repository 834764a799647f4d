"""Statistics of the scores of a few seeds: the interquartile mean and its interval, the probability
of improvement of one method over another, and performance profiles.

Source of the methods: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (interquartile mean, bootstrap stratified by task, probability of
improvement, performance profile).
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


class Profile(NamedTuple):
    """The share of runs that score above each threshold, with a pointwise bootstrap band."""

    thresholds: Float64[np.ndarray, " thresholds"]
    share: Float64[np.ndarray, " thresholds"]
    low: Float64[np.ndarray, " thresholds"]
    high: Float64[np.ndarray, " thresholds"]


class Summary(NamedTuple):
    """What to print of a run: the number, its interval and the step."""

    interval: Interval
    label: str
    """Such as "last of 10 evaluations (step 100000)" or "best over 10 evaluations"."""
    episodes: int
    """Evaluation episodes for each seed; of the best, the fewest that one could be picked from."""

    @property
    def sample(self) -> str:
        """Such as "1 seed × 10 episodes"."""
        seeds, episodes = self.interval.seeds, self.episodes
        return f"{seeds} seed{'s' * (seeds != 1)} × {episodes} episode{'s' * (episodes != 1)}"


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


def mean(values: Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """The mean over the last axis, as a statistic for `stratified_bootstrap`; nan where one is."""
    return np.asarray(np.asarray(values, np.float64).mean(axis=-1))


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


def probability_of_improvement(
    first: Sequence[Float[np.ndarray, " _"]],
    second: Sequence[Float[np.ndarray, " _"]],
    repetitions: int = REPETITIONS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """P(X > Y) + ½ P(X = Y) for a run X of the first method and Y of the second, mean over tasks.

    Within a task it is the Mann–Whitney statistic over the number of pairs. It asks how often one
    is better, not by how much. A run whose score is nan loses to every number.

    Args:
        first, second: for each task, in the same order, one score per seed; the two methods may
            have different numbers of seeds.
        repetitions, confidence, seed: as `stratified_bootstrap` takes them; both methods' seeds are
            drawn anew within each task.

    Returns:
        The probability and its interval, whose bounds are nan where a method has one seed in some
        task; `seeds` is the smallest number of them.
    """
    tasks = list(zip(first, second, strict=True))
    estimate = float(np.mean([_wins(x, y) for x, y in tasks]))
    fewest = min(len(scores) for scores in (*first, *second))
    if fewest == 1:
        return Interval(estimate, float("nan"), float("nan"), fewest)
    random = np.random.default_rng(seed)
    drawn = [
        _wins(_redraw(random, x, repetitions), _redraw(random, y, repetitions)) for x, y in tasks
    ]
    outside = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.mean(drawn, axis=0), [outside, 1.0 - outside])
    return Interval(estimate, float(low), float(high), fewest)


def performance_profile(
    scores: Sequence[Float[np.ndarray, " _"]],
    thresholds: Float[np.ndarray, " thresholds"],
    repetitions: int = REPETITIONS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Profile:
    """The share of runs that score above τ, for each τ: within each task, then mean over tasks.

    A run whose score is nan is above nothing.

    Args:
        scores: for each task, one score per seed, all in one unit.
        thresholds: τ, in the unit of the scores.
        repetitions, confidence, seed: as `stratified_bootstrap` takes them.

    Returns:
        The shares, 0 to 1, and their band, nan where a task has one seed.
    """
    thresholds = np.asarray(thresholds, np.float64)
    share = np.mean([_above(one, thresholds) for one in scores], axis=0)
    if min(len(one) for one in scores) == 1:
        unknown = np.full(len(thresholds), np.nan)
        return Profile(thresholds, share, unknown, unknown)
    random = np.random.default_rng(seed)
    drawn = [_above(_redraw(random, one, repetitions), thresholds) for one in scores]
    outside = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.mean(drawn, axis=0), [outside, 1.0 - outside], axis=0)
    return Profile(thresholds, share, low, high)


def _redraw(
    random: np.random.Generator, scores: Float[np.ndarray, " seeds"], repetitions: int
) -> Float64[np.ndarray, "repetitions seeds"]:
    """As many seeds again, with replacement, `repetitions` times."""
    scores = np.asarray(scores, np.float64)
    return scores[random.integers(len(scores), size=(repetitions, len(scores)))]


def _wins(
    first: Float[np.ndarray, "*draws n"], second: Float[np.ndarray, "*draws m"]
) -> Float64[np.ndarray, "*draws"]:
    """The share of pairs in which the first is larger, ties counting half."""
    x, y = (np.where(np.isnan(one), -np.inf, one) for one in (first, second))
    larger = x[..., :, None] > y[..., None, :]
    equal = x[..., :, None] == y[..., None, :]
    return np.asarray(larger.mean(axis=(-2, -1)) + 0.5 * equal.mean(axis=(-2, -1)))


def _above(
    scores: Float[np.ndarray, "*draws seeds"], thresholds: Float64[np.ndarray, " thresholds"]
) -> Float64[np.ndarray, "*draws thresholds"]:
    """The share of seeds above each threshold."""
    shares = [(scores > threshold).mean(axis=-1) for threshold in thresholds]
    return np.stack(shares, axis=-1)


def decimals(*values: float) -> int:
    """How many show three digits of the largest of these; at least one, as of per cent."""
    largest = max((abs(one) for one in values if np.isfinite(one)), default=0.0)
    return min(2 - int(np.floor(np.log10(largest))), 9) if 0.0 < largest < 1.0 else 1


def format_number(value: float) -> str:
    """A score or a return: "61.3", "0.0412"."""
    return f"{value:.{decimals(value)}f}"


def format_interval(interval: Interval, digits: int | None = None) -> str:
    """One line: "61.3 [55.0, 68.2]"; the bounds read n/a where they are undefined.

    Args:
        interval: of a score.
        digits: behind the point; None for as many as `decimals` says.
    """
    if digits is None:
        digits = decimals(interval.estimate, interval.low, interval.high)
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


def _evaluations(steps: Sequence[int]) -> str:
    return f"{len(steps)} evaluation{'s' * (len(steps) != 1)}"


def last_summary(steps: Sequence[int], seeds: Sequence[int], values: Iterable[float]) -> Summary:
    """The interquartile mean over seeds at the last evaluation step: the honest number.

    Args:
        steps, seeds, values: as `episode_means` takes them.
    """
    values = list(values)
    step_axis, seed_axis, means = episode_means(steps, seeds, values)
    return Summary(
        stratified_bootstrap(means[:, -1:]),
        f"last of {_evaluations(step_axis)} (step {step_axis[-1]})",
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
        f"best over {_evaluations(step_axis)}" + ": the last" * (len(step_axis) == 1),
        min(steps.count(step) for step in step_axis) // len(seed_axis),
    )

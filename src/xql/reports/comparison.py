"""What a comparison of runs holds, and how it reads: rows, pairs and profiles, last and best apart.

`compare.py` makes one; `plots.plot_comparison` draws it.
"""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from xql.display import html_rows
from xql.evaluation.statistics import Interval, Profile, format_interval
from xql.reports.tables import as_csv, as_latex, as_markdown
from xql.runs.summary import UNITS, Quantity

READINGS: dict[Quantity, tuple[float, ...]] = {
    "success": (10.0, 25.0, 50.0, 75.0, 90.0),
    "score": (10.0, 25.0, 50.0, 75.0, 90.0),
}
"""Where the printed table reads a performance profile; returns have no scale of their own."""

FOOT = (
    "IQM: interquartile mean over seeds; in brackets the 95 % bootstrap interval over seeds, "
    "stratified by task. *Last* is the score at the last step and is the result; *best* takes each "
    "seed's best evaluation and is biased upwards. P(first > second) and the profile are of the "
    "last step; a seed whose score is nan loses to every number."
)


class Scores(NamedTuple):
    """One method's seeds in one task, at the last step or each at its best evaluation."""

    values: Float64[np.ndarray, " seeds"]
    """Each seed's mean over its episodes; nan where it diverged."""
    iqm: Interval
    mean: Interval
    episodes: int
    """Evaluation episodes for each seed; of the best, the fewest one could be picked from."""


class Row(NamedTuple):
    """One method in one task, or over all tasks."""

    task: str
    method: str
    agent: str
    preset: str
    settings: str
    """The settings in which the agent's and preset's runs differ, and those that a preset must
    choose, such as "β=2"; over tasks, empty where each has its own."""
    quantity: Quantity
    seeds: tuple[int, ...]
    step: int
    evaluations: int
    last: Scores
    best: Scores


class Pair(NamedTuple):
    """How probable it is that a run of one method beats a run of another."""

    task: str
    first: str
    second: str
    probability: Interval
    """Of the last step."""

    @property
    def shown(self) -> str:
        """The probability in words: of one seed it would always be 0, ½ or 1."""
        few = self.probability.seeds == 1
        return "n/a (1 seed)" if few else format_interval(self.probability, 2)


class Comparison(NamedTuple):
    """What `xql.compare` returns."""

    rows: list[Row]
    """Per task and method; an average over tasks comes last, its task called "3 tasks"."""
    pairs: list[Pair]
    profiles: dict[str, Profile]
    """Per method, of the last step, over the tasks `profiled`."""
    profiled: list[str]
    """The tasks that every method has, where they share a unit."""
    notes: list[str]
    """Who diverged, what could not be averaged, and why."""

    def __repr__(self) -> str:
        return f"Comparison(tasks={self.tasks}, methods={self.methods})"

    def _repr_html_(self) -> str:
        parts = [html_rows("Scores", *self._scores())]
        if self.pairs:
            parts.append(html_rows("Probability of improvement", *self._pairs()))
        if self._readings():
            parts.append(html_rows("Performance profiles", *self._profiles()))
        return "".join([*parts, *(f"<p>{html.escape(note)}</p>" for note in self._footnotes())])

    @property
    def cautions(self) -> list[str]:
        """What these seeds, episodes and evaluations are too few for, a sentence each."""
        seeds = [len(row.seeds) for row in self.rows]
        intervals = [one for row in self.rows for one in (row.last.iqm, row.last.mean)]
        intervals += [pair.probability for pair in self.pairs]
        said = {
            "One seed has no interval, and no probability of improvement: two runs show which of "
            "them was better, not which method is.": 1 in seeds,
            "Two or three seeds: their intervals are too narrow to rank methods.": any(
                one in (2, 3) for one in seeds
            ),
            "An interval of width 0 is of seeds that do not differ, or of methods that do not "
            "overlap; with few seeds that is no certainty.": any(
                one.low == one.high for one in intervals
            ),
            "One episode for each seed: a score is mostly that of its initial state.": any(
                row.last.episodes == 1 for row in self.rows
            ),
            "One evaluation: its best is its last.": any(row.evaluations == 1 for row in self.rows),
        }
        return [sentence for sentence, holds in said.items() if holds]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order; an average over tasks comes last."""
        return list(dict.fromkeys(row.task for row in self.rows))

    @property
    def methods(self) -> list[str]:
        """The methods, in order."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def markdown(self) -> str:
        """Three tables: scores, probabilities of improvement, performance profiles."""
        parts = [as_markdown(*self._scores())]
        if self.pairs:
            parts.append(as_markdown(*self._pairs()))
        if self._readings():
            parts.append(as_markdown(*self._profiles()))
        return "\n".join([*parts, *(f"{note}\n" for note in self._footnotes())])

    def latex(self) -> str:
        """The same three tables for LaTeX with booktabs, what was left out as comments."""
        parts = [as_latex(*self._scores(), left=4)]
        if self.pairs:
            parts.append(as_latex(*self._pairs(), left=3))
        if self._readings():
            parts.append(as_latex(*self._profiles()))
        return "\n".join([*parts, *(f"% {note}" for note in self._footnotes()), ""])

    def _footnotes(self) -> list[str]:
        return [*self.notes, *self.cautions, FOOT]

    def csv(self) -> str:
        """The scores, a column for every number."""
        return as_csv(*self._numbers())

    def pairs_csv(self) -> str:
        """The probabilities of improvement."""
        names = ("task", "first", "second", "of", "probability", "low", "high", "seeds")
        rows = [
            [*pair[:3], "last", *_plain(pair.probability), str(pair.probability.seeds)]
            for pair in self.pairs
        ]
        return as_csv(names, rows)

    def profiles_csv(self) -> str:
        """The performance profiles, as drawn."""
        rows = [
            [method, "last", *map(_number, numbers)]
            for method, profile in self.profiles.items()
            for numbers in zip(*profile, strict=True)
        ]
        return as_csv(("method", "of", "threshold", "share", "low", "high"), rows)

    def _scores(self) -> tuple[list[str], list[list[str]]]:
        header = ["task", "method", "settings", "measure", "seeds"]
        header += ["last: IQM", "last: mean", "best: IQM", "best: mean", "last of", "best of"]
        rows = [
            [
                row.task,
                row.method,
                row.settings,
                UNITS[row.quantity],
                str(len(row.seeds)),
                *(
                    format_interval(interval)
                    for scores in (row.last, row.best)
                    for interval in (scores.iqm, scores.mean)
                ),
                f"step {row.step}, {_counted(row.last.episodes, 'episode')}",
                f"{_counted(row.evaluations, 'evaluation')}, "
                f"≥ {_counted(row.best.episodes, 'episode')}",
            ]
            for row in self.rows
        ]
        return header, rows

    def _pairs(self) -> tuple[list[str], list[list[str]]]:
        header = ["task", "first", "second", "P(first > second), last"]
        return header, [[pair.task, pair.first, pair.second, pair.shown] for pair in self.pairs]

    @property
    def profile_quantity(self) -> Quantity | None:
        """What the thresholds of the profiles are in; None where there are no profiles."""
        return next((row.quantity for row in self.rows if row.task in self.profiled), None)

    def _readings(self) -> tuple[float, ...]:
        quantity = self.profile_quantity
        return () if quantity is None else READINGS.get(quantity, ())

    def _profiles(self) -> tuple[list[str], list[list[str]]]:
        """The share of runs above a few thresholds."""
        at = self._readings()
        header = ["share of runs, last", *(f"above {threshold:g}" for threshold in at)]
        rows = []
        for method, profile in self.profiles.items():
            places = [int(np.abs(profile.thresholds - threshold).argmin()) for threshold in at]
            rows.append([method, *(f"{profile.share[place]:.2f}" for place in places)])
        return header, rows

    def _numbers(self) -> tuple[list[str], list[list[str]]]:
        header = ["task", "method", "agent", "preset", "settings", "measure", "seeds", "step"]
        header += ["evaluations"]
        for kind in ("last", "best"):
            header += [f"{kind}_episodes"]
            header += [f"{kind}_{name}{end}" for name in ("iqm", "mean") for end in _ENDS]
            header += [f"{kind}_scores"]
        rows = []
        for row in self.rows:
            cells: list[Any] = [row.task, row.method, row.agent, row.preset, row.settings]
            cells += [UNITS[row.quantity], " ".join(map(str, row.seeds)), row.step]
            cells += [row.evaluations]
            for scores in (row.last, row.best):
                cells += [scores.episodes, *_plain(scores.iqm), *_plain(scores.mean)]
                cells += [" ".join(_number(value) for value in scores.values)]
            rows.append([str(cell) for cell in cells])
        return header, rows


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


_ENDS = ("", "_low", "_high")


def _plain(interval: Interval) -> Sequence[str]:
    return [_number(value) for value in interval[:3]]


def _number(value: float) -> str:
    return f"{value:.6g}"

"""Lines over the steps of a run, for the HTML page."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from xql.evaluation.statistics import Interval
from xql.reports.page_figures import (
    GRID,
    SHOWN,
    Columns,
    Figure,
    Key,
    base,
    hover,
    numbers,
    scales,
    x_axis,
    y_axis,
)

POINTS = 160
"""Of a curve: a screen shows no more."""


def thinned(
    steps: Sequence[int], values: Float64[np.ndarray, "lines steps"], points: int = POINTS
) -> tuple[list[int], Float64[np.ndarray, "lines points"]]:
    """At most so many points of each line: means of neighbours, at the last of their steps."""
    count = len(steps)
    if count <= points:
        return list(steps), values
    ends = np.unique(np.linspace(0, count, points + 1).astype(int)[1:])
    starts = np.concatenate([[0], ends[:-1]])
    found = np.stack([values[:, a:b].mean(1) for a, b in zip(starts, ends, strict=True)], axis=1)
    return [steps[one - 1] for one in ends], found


def _level(value: float, text: str, below: bool) -> list[dict[str, Any]]:
    """A dashed level across a figure, its name at the right: above it, or below."""
    at = {"data": {"values": [{"level": value}]}}
    y = {"field": "level", "type": "quantitative"}
    return [
        {
            **at,
            "mark": {"type": "rule", "strokeDash": [5, 4], "color": "var(--muted)", "aria": False},
            "encoding": {"y": y},
        },
        {
            **at,
            "mark": {
                "type": "text",
                "align": "right",
                "baseline": "top" if below else "bottom",
                "dx": -2,
                "dy": 4 if below else -3,
                "color": "var(--muted)",
                "aria": False,
            },
            "encoding": {"y": y, "x": {"value": "width"}, "text": {"value": text}},
        },
    ]


class Line(NamedTuple):
    """One line over the steps of a run."""

    key: str
    steps: Sequence[int]
    values: Float64[np.ndarray, " steps"]
    low: Float64[np.ndarray, " steps"] | None = None
    high: Float64[np.ndarray, " steps"] | None = None
    faint: bool = False
    """Whether it is one seed of a line that is there too."""


def curves(
    name: str,
    title: str,
    note: str,
    lines: Sequence[Line],
    keys: Sequence[Key],
    *,
    x: str,
    y: str,
    domain: tuple[float, float] | None = None,
    level: tuple[float, str] | None = None,
    log: bool = False,
    wide: bool = False,
    height: int = 190,
) -> Figure:
    """Lines over steps, with their intervals where they have some.

    Args:
        name: the figure's id.
        title, note: what it shows.
        lines: those of seeds are faint where a line of their mean is there.
        keys: of all the lines.
        x, y: the axes' titles.
        domain: of y.
        level: a number to compare with, and its name.
        log: whether y is logarithmic; ignored where a number is not positive.
        wide: whether it takes the whole width of the page.
        height: in pixels.
    """
    scale: dict[str, Any] = {} if domain is None else {"domain": list(domain)}
    finite = [one for line in lines for one in line.values if math.isfinite(one)]
    if log and finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        scale["type"] = "log"
    shown = [one for one in keys if any(one.key == line.key for line in lines)]
    strong_keys = {line.key for line in lines if not line.faint}
    layers: list[dict[str, Any]] = []
    if any(line.low is not None for line in lines):
        layers.append(
            {
                "transform": [SHOWN, {"filter": "isValid(datum.low)"}],
                "mark": {"type": "area", "opacity": 0.16, "aria": False},
                "encoding": {
                    "x": x_axis(x, format="~s"),
                    "y": {"field": "low", "type": "quantitative", "scale": scale},
                    "y2": {"field": "high"},
                    "color": scales(keys)["color"],
                },
            }
        )
    points = wide and max((len(line.steps) for line in lines), default=0) <= 40
    if any(line.faint for line in lines):
        layers.append(
            {
                "transform": [SHOWN, {"filter": "datum.faint && seeds"}],
                "mark": {"type": "line", "strokeWidth": 1.3, "opacity": 0.6, "aria": False},
                "encoding": {
                    "x": x_axis(x, format="~s"),
                    "y": y_axis(y, **scale),
                    "detail": {"field": "m"},
                    **scales(keys),
                },
            }
        )
    layers += [
        {
            "transform": [SHOWN, {"filter": "!datum.faint"}],
            "mark": {
                "type": "line",
                "strokeWidth": 2.2,
                "aria": False,
                "point": {"size": 32, "filled": True, "aria": False} if points else False,
            },
            "encoding": {"x": x_axis(x, format="~s"), "y": y_axis(y, **scale), **scales(keys)},
            "params": [GRID],
        },
        hover(shown, x.lower()),
    ]
    if level is not None and math.isfinite(level[0]):
        layers += _level(*level, below=_has_room_below(level[0], lines))
    data = [
        Columns(
            {
                "k": line.key,
                "m": place,
                "faint": line.faint,
                # A tooltip has one number of each key: the mean's, where that is the seeds' too.
                "named": not (line.faint and line.key in strong_keys),
            },
            {
                "x": list(line.steps),
                "y": numbers(line.values),
                **(
                    {}
                    if line.low is None or line.high is None
                    else {"low": numbers(line.low), "high": numbers(line.high)}
                ),
            },
        )
        for place, line in enumerate(lines)
    ]
    spec = {**base(keys, height), "layer": layers}
    return Figure(name, title, note, _in_words(lines, keys), spec, data, wide)


def _has_room_below(level: float, lines: Sequence[Line]) -> bool:
    """Whether a level's name is better below it: near the top, or where the lines end above it."""
    finite = [one for line in lines for one in line.values if math.isfinite(one)]
    low, high = min([level, *finite]), max([level, *finite])
    if not low < high or level > low + 0.9 * (high - low):
        return bool(level > low)
    ends = [one for line in lines for one in line.values[-1:] if math.isfinite(one)]
    near_the_bottom = level <= low + 0.1 * (high - low)
    return not near_the_bottom and bool(ends) and float(np.mean(ends)) >= level


def _in_words(lines: Sequence[Line], keys: Sequence[Key]) -> str:
    """A few lines in words: where each begins and ends."""
    names = {one.key: one.label for one in keys}
    parts = []
    for line in [one for one in lines if not one.faint][:6]:
        there = [
            (step, one)
            for step, one in zip(line.steps, line.values, strict=True)
            if math.isfinite(one)
        ]
        if there:
            (first, begins), (last, ends) = there[0], there[-1]
            parts.append(
                f"{names[line.key]}: {begins:.4g} at step {first:,}, {ends:.4g} at step {last:,}"
            )
    return f"Line chart. {'; '.join(parts)}."


def score_line(key: str, steps: Sequence[int], intervals: Sequence[Interval]) -> Line:
    """The interquartile mean over seeds, and its interval where there are several."""
    estimates, low, high = (
        np.array([one[place] for one in intervals], np.float64) for place in range(3)
    )
    several = bool(np.isfinite(low).any())
    return Line(key, steps, estimates, low if several else None, high if several else None)

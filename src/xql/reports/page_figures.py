"""The figures of the HTML page, as Vega-Lite specifications: what is drawn, from which numbers.

A figure's numbers are columns, which the page turns into rows; colours are variables of the page's
style sheet, so that dark mode and print change them. In every figure x and y are the fields `x` and
`y`, and `k` is the key of a series or of a seed, which a reader can switch off.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from xql.evaluation.statistics import Interval
from xql.gumbel.errors import DISTRIBUTIONS, ErrorFits, densities

POINTS = 160
"""Of a curve: a screen shows no more."""
SCATTERED = 500
"""Points of a cloud, of each series."""
BINS = 60
COLOURS = 8
"""In the style sheet; dashes take over where there are more series."""
LISTED = 10
"""Series that a tooltip names."""


class Key(NamedTuple):
    """What a reader can switch on and off: a series, or one of its seeds."""

    key: str
    label: str
    colour: str
    """A variable of the style sheet."""
    dash: tuple[int, ...] = ()


class Columns(NamedTuple):
    """A part of a figure's rows: what they share, and their columns."""

    shared: dict[str, Any]
    columns: dict[str, list[float | None]]


class Figure(NamedTuple):
    """One figure of the page."""

    name: str
    """Its id."""
    title: str
    note: str
    """What it shows, in a sentence or two."""
    description: str
    """For a screen reader: what can be seen."""
    spec: dict[str, Any]
    data: list[Columns]
    wide: bool = False

    def plain(self) -> dict[str, Any]:
        """As the page's script takes it."""
        return {
            "name": self.name,
            "spec": {**self.spec, "description": f"{self.title}. {self.description}"},
            "data": [{"shared": one.shared, "columns": one.columns} for one in self.data],
        }


def colour_of(index: int) -> str:
    """The variable of a series' colour."""
    return f"var(--c{index % COLOURS})"


def dash_of(index: int) -> tuple[int, ...]:
    """Where colours repeat, the line is dashed."""
    return ((), (6, 3), (2, 2), (8, 3, 2, 3))[index // COLOURS % 4]


def numbers(values: Float[np.ndarray, " _"] | Sequence[float]) -> list[float | None]:
    """Five digits, which no screen exceeds; null for what is not finite."""
    return [float(f"{one:.5g}") if math.isfinite(one) else None for one in map(float, values)]


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


def _scales(keys: Sequence[Key]) -> dict[str, Any]:
    """The channels by which a line shows its key."""
    domain = [one.key for one in keys]
    channels: dict[str, Any] = {
        "color": {
            "field": "k",
            "type": "nominal",
            "scale": {"domain": domain, "range": [one.colour for one in keys]},
            "legend": None,
        }
    }
    if any(one.dash for one in keys):
        channels["strokeDash"] = {
            "field": "k",
            "type": "nominal",
            "scale": {"domain": domain, "range": [list(one.dash) or [1, 0] for one in keys]},
            "legend": None,
        }
    return channels


_GRID = {
    "name": "grid",
    "select": {
        "type": "interval",
        # A wheel without a key, and a finger, scroll the page.
        "zoom": "wheel![event.ctrlKey]",
        "translate": "[pointerdown[event.pointerType == 'mouse'], window:pointerup] "
        "> window:pointermove!",
        "clear": "dblclick",
    },
    "bind": "scales",
}
_SHOWN = {"filter": "indexof(shown, datum.k) >= 0"}


def _base(keys: Sequence[Key], height: int) -> dict[str, Any]:
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "params": [
            {"name": "shown", "value": [one.key for one in keys]},
            {"name": "seeds", "value": True},
        ],
    }


def _x(title: str, **axis: Any) -> dict[str, Any]:
    return {
        "field": "x",
        "type": "quantitative",
        "axis": {"title": title, "tickCount": 5, **axis},
        "scale": {"nice": False, "zero": False},
    }


def _y(title: str, **scale: Any) -> dict[str, Any]:
    is_log = scale.get("type") == "log"
    return {
        "field": "y",
        "type": "quantitative",
        # A logarithmic axis has a tick for every digit.
        "axis": {"title": title, "tickCount": 5, "grid": not is_log},
        "scale": scale if is_log else {"zero": False, **scale},
    }


def _hover(keys: Sequence[Key], x: str) -> dict[str, Any]:
    """A rule at the nearest step, and what every line is there."""
    listed = [
        {"field": one.key, "type": "quantitative", "title": one.label, "format": ".4~g"}
        for one in keys[:LISTED]
    ]
    return {
        "transform": [
            _SHOWN,
            {"filter": "datum.named !== false"},
            {"pivot": "k", "value": "y", "groupby": ["x"]},
        ],
        "mark": {"type": "rule", "color": "var(--muted)", "aria": False, "tooltip": True},
        "encoding": {
            "x": {"field": "x", "type": "quantitative"},
            "opacity": {
                "condition": {"value": 0.6, "param": "near", "empty": False},
                "value": 0,
            },
            "tooltip": [
                {"field": "x", "type": "quantitative", "title": x, "format": ",~f"},
                *listed,
            ],
        },
        "params": [
            {
                "name": "near",
                "select": {
                    "type": "point",
                    "fields": ["x"],
                    "nearest": True,
                    "on": "pointerover",
                    "clear": "pointerout",
                },
            }
        ],
    }


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
                "transform": [_SHOWN, {"filter": "isValid(datum.low)"}],
                "mark": {"type": "area", "opacity": 0.16, "aria": False},
                "encoding": {
                    "x": _x(x, format="~s"),
                    "y": {"field": "low", "type": "quantitative", "scale": scale},
                    "y2": {"field": "high"},
                    "color": _scales(keys)["color"],
                },
            }
        )
    points = wide and max((len(line.steps) for line in lines), default=0) <= 40
    if any(line.faint for line in lines):
        layers.append(
            {
                "transform": [_SHOWN, {"filter": "datum.faint && seeds"}],
                "mark": {"type": "line", "strokeWidth": 1.3, "opacity": 0.6, "aria": False},
                "encoding": {
                    "x": _x(x, format="~s"),
                    "y": _y(y, **scale),
                    "detail": {"field": "m"},
                    **_scales(keys),
                },
            }
        )
    layers += [
        {
            "transform": [_SHOWN, {"filter": "!datum.faint"}],
            "mark": {
                "type": "line",
                "strokeWidth": 2.2,
                "aria": False,
                "point": {"size": 32, "filled": True, "aria": False} if points else False,
            },
            "encoding": {"x": _x(x, format="~s"), "y": _y(y, **scale), **_scales(keys)},
            "params": [_GRID],
        },
        _hover(shown, x.lower()),
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
    spec = {**_base(keys, height), "layer": layers}
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


class Sample(NamedTuple):
    """Numbers of one series."""

    key: str
    x: Float64[np.ndarray, " _"]
    y: Float64[np.ndarray, " _"] | None = None


def _window(samples: Sequence[Sample]) -> tuple[float, float]:
    """The middle 99.5 % of all: a few outliers would compress the rest."""
    every = np.concatenate([one.x for one in samples])
    low, high = np.quantile(every, [0.0025, 0.9975])
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return float(low), float(high)


def _histogram(
    values: Float64[np.ndarray, " _"], low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """Densities of all the values within equal bins, and the bins' edges."""
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    return counts / (max(len(values), 1) * np.diff(edges)), edges


FAMILY_COLOURS = ("var(--c1)", "var(--c4)", "var(--c0)", "var(--ink)")
FAMILY_DASHES = ([1, 0], [6, 2], [2, 2], [6, 2, 2, 2])


def differences(
    samples: Sequence[Sample],
    keys: Sequence[Key],
    fits: ErrorFits | None,
    *,
    title: str,
    note: str,
    x: str,
) -> Figure:
    """The histogram of (Q − V)/β, and, of one series, the densities that were fitted to it.

    Args:
        samples: of each series.
        keys: of all the series.
        fits: of one series; None where there are several.
        title, note, x: what it is called.
    """
    low, high = _window(samples)
    layers: list[dict[str, Any]] = []
    data: list[Columns] = []
    y = _y("Density", domainMin=0)
    if fits is not None:
        heights, edges = _histogram(samples[0].x, low, high)
        bars = {"x": numbers(edges[:-1]), "x2": numbers(edges[1:]), "y": numbers(heights)}
        data.append(Columns({"kind": "bar"}, bars))
        layers.append(
            {
                "transform": [{"filter": "datum.kind == 'bar'"}],
                "mark": {"type": "bar", "color": "var(--bar)", "aria": False},
                "encoding": {
                    "x": _x(x),
                    "x2": {"field": "x2"},
                    "y": y,
                    "y2": {"datum": 0},
                    "tooltip": [
                        {"field": "x", "type": "quantitative", "title": "from", "format": ".3~g"},
                        {"field": "x2", "type": "quantitative", "title": "to", "format": ".3~g"},
                        {"field": "y", "type": "quantitative", "title": "density"},
                    ],
                },
            }
        )
        grid = np.linspace(low, high, 120)
        for family, density in densities(fits, grid).items():
            data.append(Columns({"k": family}, {"x": numbers(grid), "y": numbers(density)}))
        channels: dict[str, Any] = {
            "color": {
                "field": "k",
                "type": "nominal",
                "scale": {"domain": list(DISTRIBUTIONS), "range": list(FAMILY_COLOURS)},
                "legend": {"title": None, "orient": "top", "columns": 2, "labelLimit": 200},
            },
            "strokeDash": {
                "field": "k",
                "type": "nominal",
                "scale": {"domain": list(DISTRIBUTIONS), "range": list(FAMILY_DASHES)},
            },
        }
        filters = [{"filter": "datum.kind != 'bar'"}]
        said = "; ".join(
            f"{one.name}: log-likelihood {one.log_likelihood / len(samples[0].x):.3f} each"
            for one in fits.fits
        )
        description = f"Histogram with fitted densities, the best first. {said}."
    else:
        for sample in samples:
            heights, edges = _histogram(sample.x, low, high)
            outline = {"x": numbers(edges), "y": numbers([*heights, heights[-1]])}
            data.append(Columns({"k": sample.key}, outline))
        channels, filters = _scales(keys), [_SHOWN]
        names = {one.key: one.label for one in keys}
        said = "; ".join(
            f"{names[one.key]}: median {np.median(one.x):.3g}, deviation {one.x.std():.3g}"
            for one in samples[:6]
        )
        description = f"Histograms. {said}."
    interpolate = "step-after" if fits is None else "linear"
    layers.append(
        {
            "transform": filters,
            "mark": {
                "type": "line",
                "interpolate": interpolate,
                "strokeWidth": 1.8,
                "aria": False,
                "clip": True,
            },
            "encoding": {"x": _x(x, format="~s"), "y": y, **channels},
            "params": [_GRID],
        }
    )
    spec = {**_base(keys, 240), "layer": layers}
    return Figure("differences", title, note, description, spec, data)


def values_against_returns(
    samples: Sequence[Sample], keys: Sequence[Key], *, note: str, unit: str
) -> Figure:
    """V(s) of logged states against the returns that followed, and where both are equal."""
    random = np.random.default_rng(0)
    data = []
    for one in samples:
        assert one.y is not None
        chosen = np.sort(random.permutation(len(one.x))[:SCATTERED])
        columns = {"x": numbers(one.x[chosen]), "y": numbers(one.y[chosen])}
        data.append(Columns({"k": one.key}, columns))
    every = np.concatenate([np.concatenate([one.x, one.y]) for one in samples if one.y is not None])
    low, high = float(every.min()), float(every.max())
    names = {one.key: one.label for one in keys}
    said = "; ".join(
        f"{names[one.key]}: mean value {one.y.mean():.4g}, mean return {one.x.mean():.4g}, "
        f"correlation {correlation(one.x, one.y):.2f}"
        for one in samples[:6]
        if one.y is not None
    )
    spec = {
        **_base(keys, 240),
        "layer": [
            {
                "data": {"values": [{"x": low, "y": low}, {"x": high, "y": high}]},
                "mark": {
                    "type": "line",
                    "strokeDash": [5, 4],
                    "color": "var(--muted)",
                    "aria": False,
                    "clip": True,
                },
                "encoding": {
                    "x": {"field": "x", "type": "quantitative"},
                    "y": {"field": "y", "type": "quantitative"},
                },
            },
            {
                "transform": [_SHOWN],
                "mark": {
                    "type": "point",
                    "filled": True,
                    "size": 16,
                    "opacity": 0.45,
                    "aria": False,
                    "clip": True,
                },
                "encoding": {
                    "x": _x(f"Discounted {unit} that followed"),
                    "y": _y("Value V(s)"),
                    "tooltip": [
                        {"field": "x", "type": "quantitative", "title": unit, "format": ".4~g"},
                        {"field": "y", "type": "quantitative", "title": "V(s)", "format": ".4~g"},
                    ],
                    "color": _scales(keys)["color"],
                },
                "params": [_GRID],
            },
        ],
    }
    description = f"Scatter plot. {said}. The dashed line is where both are equal."
    return Figure("values", "Value against return", note, description, spec, data)


def correlation(x: Float64[np.ndarray, " _"], y: Float64[np.ndarray, " _"]) -> float:
    """Pearson's; nan where one of them is constant."""
    if not (x.std() > 0 and y.std() > 0):
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


LOGGED = Key("logged", "logged actions", "var(--muted)", (5, 4))


def action_distances(samples: Sequence[Sample], keys: Sequence[Key], *, note: str) -> Figure:
    """The share of states in which an action is as near to a logged one, by distance."""
    every = np.concatenate([one.x for one in samples])
    high = max(float(np.quantile(every, 0.995)), 1e-3)
    grid = np.linspace(0.0, high, 120)
    data = [
        Columns(
            {"k": one.key},
            {
                "x": numbers(grid),
                "y": numbers(100 * np.searchsorted(np.sort(one.x), grid, "right") / len(one.x)),
            },
        )
        for one in samples
    ]
    names = {one.key: one.label for one in keys}
    said = "; ".join(f"{names[one.key]}: median {np.median(one.x):.3g}" for one in samples[:6])
    spec = {
        **_base(keys, 240),
        "layer": [
            {
                "transform": [_SHOWN],
                "mark": {"type": "line", "strokeWidth": 2, "aria": False, "clip": True},
                "encoding": {
                    "x": _x("Distance, in half action ranges"),
                    "y": _y("States within it (%)", domain=[0, 100]),
                    **_scales(keys),
                },
                "params": [_GRID],
            },
            _hover(keys, "distance"),
        ],
    }
    spec["layer"][1]["encoding"]["tooltip"][0]["format"] = ".3~g"
    description = f"Cumulative distributions. {said}."
    return Figure("actions", "Distance from logged actions", note, description, spec, data)


def action_shares(
    samples: Sequence[Sample], keys: Sequence[Key], names: Sequence[str], *, note: str
) -> Figure:
    """How often each discrete action is taken: x of a sample is a share for each action."""
    data = [
        Columns({"k": one.key, "action": name}, {"y": numbers([100 * float(one.x[place])])})
        for one in samples
        for place, name in enumerate(names)
    ]
    labels = {one.key: one.label for one in keys}
    said = "; ".join(
        f"{labels[one.key]}: most often {names[int(one.x.argmax())]}, {one.x.max():.0%}"
        for one in samples[:6]
    )
    channels = _scales(keys)
    channels.pop("strokeDash", None)
    spec = {
        **_base(keys, 240),
        "transform": [_SHOWN],
        "mark": {"type": "bar", "aria": False},
        "encoding": {
            "x": {
                "field": "action",
                "type": "nominal",
                "sort": list(names),
                "axis": {"title": "Action", "labelAngle": 0 if len(names) <= 12 else -90},
            },
            "xOffset": {"field": "k", "sort": [one.key for one in keys]},
            "y": _y("States (%)", zero=True),
            "tooltip": [
                {"field": "action", "type": "nominal"},
                {"field": "y", "type": "quantitative", "title": "% of states", "format": ".3~g"},
            ],
            **channels,
        },
    }
    description = f"Bar chart. {said}."
    return Figure("action-shares", "Actions chosen", note, description, spec, data)


def episode_returns(returns: Float64[np.ndarray, " episodes"], mean: float, *, note: str) -> Figure:
    """The histogram of the data's returns."""
    low, high = float(returns.min()), float(returns.max())
    if not low < high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(returns, bins=40, range=(low, high))
    share = 100 * counts / len(returns)
    spec = {
        **_base((), 200),
        "layer": [
            {
                "mark": {"type": "bar", "color": "var(--bar)", "aria": False},
                "encoding": {
                    "x": _x("Return of a logged episode"),
                    "x2": {"field": "x2"},
                    "y": _y("Episodes (%)", domainMin=0),
                    "y2": {"datum": 0},
                    "tooltip": [
                        {"field": "x", "type": "quantitative", "title": "from", "format": ".4~g"},
                        {"field": "x2", "type": "quantitative", "title": "to", "format": ".4~g"},
                        {"field": "y", "type": "quantitative", "title": "%", "format": ".3~g"},
                    ],
                },
                "params": [_GRID],
            },
            {
                "data": {"values": [{"x": mean}]},
                "mark": {"type": "rule", "strokeDash": [5, 4], "color": "var(--ink)"},
                "encoding": {"x": {"field": "x", "type": "quantitative"}},
            },
        ],
    }
    columns = {"x": numbers(edges[:-1]), "x2": numbers(edges[1:]), "y": numbers(share)}
    middle = np.quantile(returns, [0.25, 0.5, 0.75])
    description = (
        f"Histogram. From {low:.4g} to {high:.4g}, quartiles "
        f"{', '.join(f'{one:.4g}' for one in middle)}, mean {mean:.4g}."
    )
    title = "Returns of the logged episodes"
    return Figure("returns", title, note, description, spec, [Columns({}, columns)])

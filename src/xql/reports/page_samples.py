"""Distributions and clouds of points, for the HTML page."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from xql.gumbel.errors import DISTRIBUTIONS, ErrorFits, densities
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

SCATTERED = 500
"""Points of a cloud, of each series."""
BINS = 60


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


def _bars(
    edges: Float64[np.ndarray, " edges"],
    heights: Float64[np.ndarray, " bars"],
    x: str,
    y: dict[str, Any],
    unit: str,
) -> tuple[Columns, dict[str, Any]]:
    """A histogram: its numbers, and the layer that draws them."""
    ends = {"x": numbers(edges[:-1]), "x2": numbers(edges[1:]), "y": numbers(heights)}
    layer = {
        "transform": [{"filter": "datum.kind == 'bar'"}],
        "mark": {"type": "bar", "color": "var(--bar)", "aria": False},
        "encoding": {
            "x": x_axis(x),
            "x2": {"field": "x2"},
            "y": y,
            "y2": {"datum": 0},
            "tooltip": [
                {"field": name, "type": "quantitative", "title": title, "format": ".3~g"}
                for name, title in (("x", "from"), ("x2", "to"), ("y", unit))
            ],
        },
    }
    return Columns({"kind": "bar"}, ends), layer


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
    name: str = "differences",
) -> Figure:
    """The histogram of (Q − V)/β, and, of one series, the densities that were fitted to it.

    Args:
        samples: of each series.
        keys: of all the series.
        fits: of one series; None where there are several.
        title, note, x: what it is called.
        name: its id.
    """
    low, high = _window(samples)
    layers: list[dict[str, Any]] = []
    data: list[Columns] = []
    y = y_axis("Density", domainMin=0)
    if fits is not None:
        heights, edges = _histogram(samples[0].x, low, high)
        columns, layer = _bars(edges, heights, x, y, "density")
        data.append(columns)
        layers.append(layer)
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
        channels, filters = scales(keys), [SHOWN]
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
            "encoding": {"x": x_axis(x), "y": y, **channels},
            "params": [GRID],
        }
    )
    spec = {**base(keys, 240), "layer": layers}
    return Figure(name, title, note, description, spec, data)


def values_against_returns(
    samples: Sequence[Sample], keys: Sequence[Key], *, note: str, unit: str, value: str = "V(s)"
) -> Figure:
    """Values against the returns that followed, and where both are equal."""
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
        **base(keys, 240),
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
                "transform": [SHOWN],
                "mark": {
                    "type": "point",
                    "filled": True,
                    "size": 16,
                    "opacity": 0.45,
                    "aria": False,
                    "clip": True,
                },
                "encoding": {
                    "x": x_axis(f"Discounted {unit} that followed"),
                    "y": y_axis(f"Value {value}"),
                    "tooltip": [
                        {"field": "x", "type": "quantitative", "title": unit, "format": ".4~g"},
                        {"field": "y", "type": "quantitative", "title": value, "format": ".4~g"},
                    ],
                    "color": scales(keys)["color"],
                },
                "params": [GRID],
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
        **base(keys, 240),
        "layer": [
            {
                "transform": [SHOWN],
                "mark": {"type": "line", "strokeWidth": 2, "aria": False, "clip": True},
                "encoding": {
                    "x": x_axis("Distance, in half action ranges"),
                    "y": y_axis("States within it (%)", domain=[0, 100]),
                    **scales(keys),
                },
                "params": [GRID],
            },
            hover(keys, "distance"),
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
    channels = scales(keys)
    channels.pop("strokeDash", None)
    spec = {
        **base(keys, 240),
        "transform": [SHOWN],
        "mark": {"type": "bar", "aria": False},
        "encoding": {
            "x": {
                "field": "action",
                "type": "nominal",
                "sort": list(names),
                "axis": {"title": "Action", "labelAngle": 0 if len(names) <= 12 else -90},
            },
            "xOffset": {"field": "k", "sort": [one.key for one in keys]},
            "y": y_axis("States (%)", zero=True),
            "tooltip": [
                {"field": "action", "type": "nominal"},
                {"field": "y", "type": "quantitative", "title": "% of states", "format": ".3~g"},
            ],
            **channels,
        },
    }
    description = f"Bar chart. {said}."
    return Figure("action-shares", "Actions chosen", note, description, spec, data)


class Histogram(NamedTuple):
    """Shares of one series in bins."""

    key: str
    edges: Float64[np.ndarray, " edges"]
    shares: Float64[np.ndarray, " bins"]


def action_histograms(
    name: str,
    title: str,
    acted: Sequence[Histogram],
    recorded: Histogram,
    keys: Sequence[Key],
    record: Key,
) -> Figure:
    """How the policies' numbers are distributed, as outlines, over those that were recorded.

    Args:
        name: the figure's id.
        title: of the action's number.
        acted: of each series.
        recorded: of the data, as bars.
        keys: of the series.
        record: what the bars are called.
    """
    y = y_axis("States (%)", domainMin=0)
    columns, layer = _bars(recorded.edges, 100 * recorded.shares, title, y, "%")
    data = [columns]
    for one in acted:
        outline = {"x": numbers(one.edges), "y": numbers(100 * np.append(one.shares, 0.0))}
        data.append(Columns({"k": one.key}, outline))
    spec = {
        **base(keys, 150),
        "layer": [
            layer,
            {
                "transform": [{"filter": "datum.kind != 'bar'"}, SHOWN],
                "mark": {
                    "type": "line",
                    "interpolate": "step-after",
                    "strokeWidth": 1.8,
                    "aria": False,
                    "clip": True,
                },
                "encoding": {"x": x_axis(title), "y": y, **scales(keys)},
                "params": [GRID],
            },
        ],
    }
    labels = {one.key: one.label for one in keys}
    said = "; ".join(
        f"{label}: mean {_mean(one):.3g}"
        for one, label in [
            *((one, labels[one.key]) for one in acted[:6]),
            (recorded, record.label),
        ]
    )
    return Figure(name, title, "", f"Histograms. {said}.", spec, data)


def _mean(one: Histogram) -> float:
    middles = (one.edges[:-1] + one.edges[1:]) / 2
    return float((middles * one.shares).sum() / max(one.shares.sum(), 1e-12))


def episode_returns(returns: Float64[np.ndarray, " episodes"], mean: float, *, note: str) -> Figure:
    """The histogram of the data's returns."""
    low, high = float(returns.min()), float(returns.max())
    if not low < high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(returns, bins=40, range=(low, high))
    share = 100 * counts / len(returns)
    spec = {
        **base((), 200),
        "layer": [
            {
                "mark": {"type": "bar", "color": "var(--bar)", "aria": False},
                "encoding": {
                    "x": x_axis("Return of a logged episode"),
                    "x2": {"field": "x2"},
                    "y": y_axis("Episodes (%)", domainMin=0),
                    "y2": {"datum": 0},
                    "tooltip": [
                        {"field": "x", "type": "quantitative", "title": "from", "format": ".4~g"},
                        {"field": "x2", "type": "quantitative", "title": "to", "format": ".4~g"},
                        {"field": "y", "type": "quantitative", "title": "%", "format": ".3~g"},
                    ],
                },
                "params": [GRID],
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

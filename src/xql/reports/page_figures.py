"""The figures of the HTML page, as Vega-Lite specifications: what is drawn, from which numbers.

A figure's numbers are columns, which the page turns into rows; colours are variables of the page's
style sheet, so that dark mode and print change them. In every figure x and y are the fields `x` and
`y`, and `k` is the key of a series or of a seed, which a reader can switch off.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

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


def scales(keys: Sequence[Key]) -> dict[str, Any]:
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


GRID = {
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
SHOWN = {"filter": "indexof(shown, datum.k) >= 0"}


def base(keys: Sequence[Key], height: int) -> dict[str, Any]:
    """What every figure's specification begins with."""
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "params": [
            {"name": "shown", "value": [one.key for one in keys]},
            {"name": "seeds", "value": True},
        ],
    }


def x_axis(title: str, **axis: Any) -> dict[str, Any]:
    """The channel of x."""
    return {
        "field": "x",
        "type": "quantitative",
        "axis": {"title": title, "tickCount": 5, **axis},
        "scale": {"nice": False, "zero": False},
    }


def y_axis(title: str, **scale: Any) -> dict[str, Any]:
    """The channel of y."""
    is_log = scale.get("type") == "log"
    return {
        "field": "y",
        "type": "quantitative",
        # A logarithmic axis has a tick for every digit.
        "axis": {"title": title, "tickCount": 5, "grid": not is_log},
        "scale": scale if is_log else {"zero": False, **scale},
    }


def hover(keys: Sequence[Key], x: str) -> dict[str, Any]:
    """A rule at the nearest step, and what every line is there."""
    listed = [
        {"field": one.key, "type": "quantitative", "title": one.label, "format": ".4~g"}
        for one in keys[:LISTED]
    ]
    return {
        "transform": [
            SHOWN,
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

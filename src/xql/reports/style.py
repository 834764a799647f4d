"""How every figure of this library looks: widths of a paper's columns, sizes, colours, dashes.

A figure is as wide as one column or the page of a paper, with text of 7 or 8 points at that width,
so that it is put there as it is. What belongs together has one colour, one dash and one marker, and
more than two curves stand in a panel each, with the others grey behind.
"""

import functools
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from xql.errors import require_matplotlib

Arguments = ParamSpec("Arguments")

COLUMN, PAGE = 3.3, 6.9
"""Widths in inches: of one column of a two-column paper, and of both."""

# Okabe and Ito's palette, distinct under every common colour blindness; its yellow is left out,
# being too faint for a line on white. Dashes and markers say the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

GREY, BEHIND = "#555555", "#c4c4c4"
"""Of levels and notes, and of the curves behind one."""

_RC: Any = {
    # Names are drawn as they are: "$" in one is no formula, and nothing goes through LaTeX.
    "text.usetex": False,
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "savefig.dpi": 200,
}


def styled(draw: Callable[Arguments, Path]) -> Callable[Arguments, Path]:
    """A function that draws and saves a figure, with this style and nothing of the user's own."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Path:
        require_matplotlib()
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_RC)
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> Any:
    """An empty figure of a size in inches, laid out by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The figure knows its canvas, so no display and no global state of pyplot takes part.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(count: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Any, Any]:
    """A figure with so many panels, and these panels.

    Args:
        count: of the panels.
        columns: beside each other, at most.
        width: of the figure.
        height: of a panel, in inches, with its title and its axis.
        **shared: whether panels share their axes, as `Figure.subplots` takes it.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = new_figure(width, height * rows + 0.35)
    every = figure.subplots(rows, columns, squeeze=False, **shared)
    for place, axes in enumerate(every.flat):
        axes.set_visible(place < count)
        # Whose lower neighbour is not there has the labels of the axis.
        if place < count <= place + columns:
            axes.tick_params(labelbottom=True)
    return figure, list(every.flat[:count])


def look(index: int) -> dict[str, Any]:
    """The colour, dash and marker of the line number `index`."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "ls": STYLES[index % len(STYLES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def every_few(count: int) -> int:
    """Which points of a line have a marker, so that about eight have one."""
    return max(1, round(count / 8))


def short_steps(axes: Any, name: str = "") -> None:
    """An axis of steps, with few and short numbers."""
    axes.xaxis.set_major_formatter(lambda step, _: short(step))
    axes.locator_params(axis="x", nbins=4)
    axes.margins(x=0.02)
    if name:
        axes.set_xlabel(name)


def short(step: float) -> str:
    """20000 → "20k", 1500000 → "1.5M"."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{letter}"
    return f"{step:g}"


def columns_for(count: int) -> int:
    """How many panels stand beside each other: up to four in two columns, of more three or four."""
    if count <= 4:
        return min(count, 2)
    return min((4, 3), key=lambda columns: -count % columns)


def head(figure: Any, title: str) -> None:
    """The title of a whole figure, at its left."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")


def note(figure: Any, text: str) -> None:
    """What the reader of a figure on its own must know, below it."""
    text = textwrap.fill(text, int(19 * figure.get_figwidth()))
    figure.supxlabel(text, fontsize=7, color=GREY, x=0.01, ha="left")


def one_legend(figure: Any, axes: Sequence[Any], columns: int = 3, title: str = "") -> None:
    """One legend for all panels, above them: each name once, below the title of the figure."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    # Fewer columns where long names would leave the figure.
    for number in range(columns if found else 0, 0, -1):
        legend = figure.legend(
            found.values(),
            found.keys(),
            loc="outside upper left",
            ncols=number,
            title=title,
            title_fontproperties={"size": 9, "weight": "bold"},
            alignment="left",
        )
        if number == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()

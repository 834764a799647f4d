"""Learning curves: the interquartile mean over seeds, its interval, and every seed behind it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from xql.errors import InputError, require
from xql.evaluation.statistics import episode_means, step_intervals
from xql.runs.folder import RunFolder
from xql.runs.summary import Quantity, by_beta, quantity_of, value_of

AXES: dict[Quantity, str] = {
    "success": "Success rate (%)",
    "score": "Normalised score",
    "return": "Return",
}

# Okabe and Ito's palette, told apart under every common colour blindness; its yellow is left out,
# being too faint for a line on white. Line styles take over where the colours repeat.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")


class Curve(NamedTuple):
    """One line of a learning-curve figure."""

    label: str
    steps: list[int]
    """Gradient updates."""
    scores: Float64[np.ndarray, "seeds steps"]
    """Each seed's mean over its episodes; nan where it was not evaluated or diverged."""


def curves_from_run(
    folder: RunFolder, quantity: Quantity | None = None, label: str = ""
) -> list[Curve]:
    """One curve for each β of a run, in order of β.

    Args:
        folder: the run.
        quantity: what to draw; None for `quantity_of` its evaluations. Success is in percent.
        label: what stands before "β = …" in the legend, such as the agent's name.

    Raises:
        InputError: the run has no evaluations, or they lack the quantity.
    """
    rows = folder.read_evaluations()
    if not rows:
        raise InputError(
            "this run has no evaluations yet",
            where=str(folder.path),
            mend="train it with --env, or run: xql evaluate RUN",
        )
    quantity = quantity or quantity_of(rows)
    curves = []
    for beta, group in by_beta(rows).items():
        steps, _, scores = episode_means(
            [row.step for row in group],
            [row.seed for row in group],
            [value_of(row, quantity) for row in group],
        )
        name = "" if beta is None else f"β = {beta:g}"
        curves.append(Curve(" ".join(filter(None, (label, name))) or "run", steps, scores))
    return curves


def plot_learning_curves(
    curves: Sequence[Curve],
    path: Path,
    *,
    quantity: Quantity = "score",
    title: str = "",
    data_figure: float | None = None,
    data_label: str = "the data",
) -> Path:
    """Draw curves into one panel and write it to `path` (.png, .svg or .pdf).

    Args:
        curves: at most 28; each with its interquartile mean over seeds, a band for the 95 %
            bootstrap interval (none for one seed), and a faint line for each seed.
        path: the file to write; its folder is made.
        quantity: names the y axis; success also fixes it to 0…100.
        title: stands above the panel.
        data_figure: what the behaviour in the data itself reaches; a dashed line.
        data_label: its name in the legend.

    Raises:
        InputError: there is no curve to draw.
        MissingExtra: matplotlib is not installed.
    """
    if not curves:
        raise InputError("there is no curve to draw", mend="give at least one run")
    require("matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The figure knows its canvas, so no display and no global state of pyplot takes part.
    figure = Figure(figsize=(7.2, 4.3), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, curve in enumerate(curves):
        _draw(axes, curve, COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % 4])
    if data_figure is not None:
        axes.axhline(data_figure, color="#555555", lw=1.2, ls=(0, (5, 3)), label=data_label)
    axes.set_xlabel("Gradient updates")
    axes.set_ylabel(AXES[quantity])
    axes.xaxis.set_major_formatter(lambda step, _: _short(step))
    if quantity == "success":
        axes.set_ylim(-3, 103)
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
    legend.set_title(_caption(curves))
    legend.get_title().set_fontsize(8)
    legend.set_alignment("left")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw(axes: Any, curve: Curve, colour: str, style: str) -> None:
    intervals = step_intervals(curve.scores)
    middle, low, high = (
        np.array([interval[index] for interval in intervals]) for index in range(3)
    )
    if len(curve.scores) > 1:
        for seed in curve.scores:
            axes.plot(curve.steps, seed, color=colour, lw=0.7, alpha=0.3, zorder=2)
        axes.fill_between(curve.steps, low, high, color=colour, alpha=0.16, lw=0, zorder=1)
    # A lone evaluation is a point: a line through one point would draw nothing.
    marker = "o" if len(curve.steps) == 1 else ""
    axes.plot(
        curve.steps,
        middle,
        color=colour,
        ls=style,
        marker=marker,
        lw=2.0,
        label=curve.label,
        zorder=3,
    )


def _caption(curves: Sequence[Curve]) -> str:
    """What the line and the band are; the reader of a figure on its own must know."""
    counts = sorted({len(curve.scores) for curve in curves})
    if counts == [1]:
        return "1 seed"
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"IQM of {seeds} seeds,\n95 % bootstrap interval"


def _short(step: float) -> str:
    """20000 → "20k", 1500000 → "1.5M"."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{letter}"
    return f"{step:g}"

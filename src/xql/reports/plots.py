"""Figures: learning curves with every seed behind them, and a comparison of methods."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import numpy as np
from jaxtyping import Float64

from xql.errors import InputError, require_matplotlib
from xql.evaluation.statistics import Interval, episode_means, step_intervals
from xql.files import save_figure
from xql.reports.comparison import Comparison, Row
from xql.runs.folder import RunFolder
from xql.runs.summary import (
    SYMBOLS,
    Quantity,
    by_changes,
    label_of,
    quantity_of,
    value_of,
)

Arguments = ParamSpec("Arguments")

AXES: dict[Quantity, str] = {
    "success": "Success rate (%)",
    "score": "Normalised score",
    "return": "Return",
}

# Okabe and Ito's palette, distinct under every common colour blindness; its yellow is left out,
# being too faint for a line on white. Line styles take over where the colours repeat.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STYLES = ("-", "--", ":", "-.")


class Curve(NamedTuple):
    """One line of a learning-curve figure."""

    label: str
    steps: list[int]
    """Gradient updates; of an online run, environment steps."""
    scores: Float64[np.ndarray, "seeds steps"]
    """Each seed's mean over its episodes; nan where it was not evaluated or diverged."""


def curves_from_run(
    folder: RunFolder, quantity: Quantity | None = None, label: str = ""
) -> list[Curve]:
    """One curve for each combination of a run's swept hyperparameters.

    Args:
        folder: the run.
        quantity: what to draw; None for `quantity_of` its evaluations. Success is in percent.
        label: what stands before the hyperparameters in the legend, such as the agent's name.

    Raises:
        InputError: the run has no evaluations, or they lack the quantity.
    """
    return [
        curve._replace(label=" ".join(filter(None, (label, curve.label))) or "run")
        for _, curve in _curves(folder, quantity)
    ]


def _curves(folder: RunFolder, quantity: Quantity | None) -> list[tuple[dict[str, float], Curve]]:
    """The swept hyperparameters of each curve, and the curve."""
    rows = folder.read_evaluations()
    if not rows:
        raise InputError(
            "this run has no evaluations yet",
            where=str(folder.path),
            hint="train it with `env`, or run: xql evaluate RUN",
        )
    quantity = quantity or quantity_of(rows)
    curves = []
    for changes, group in by_changes(rows, folder.config.members):
        steps, _, scores = episode_means(
            [row.step for row in group],
            [row.seed for row in group],
            [value_of(row, quantity) for row in group],
        )
        curves.append((changes, Curve(label_of(changes), steps, scores)))
    return curves


def _as_written(draw: Callable[Arguments, Path]) -> Callable[Arguments, Path]:
    """Draw names as they are: "$" in one is no formula, and nothing goes through LaTeX."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Path:
        require_matplotlib()
        import matplotlib

        with matplotlib.rc_context({"text.usetex": False, "text.parse_math": False}):
            return draw(*args, **kwargs)

    return drawn


@_as_written
def plot_learning_curves(
    curves: Sequence[Curve],
    path: Path,
    *,
    quantity: Quantity = "score",
    title: str = "",
    steps: str = "Gradient updates",
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
        steps: names the x axis.
        data_figure: what the behaviour policy reaches; a dashed line.
        data_label: its name in the legend.

    Raises:
        InputError: there is no curve to draw.
        MissingExtra: matplotlib is not installed.
    """
    if not curves:
        raise InputError("there is no curve to draw", hint="give at least one run")
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
    axes.set_xlabel(steps)
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
    return save_figure(figure, path)


@_as_written
def plot_against(
    runs: Sequence[RunFolder],
    name: str,
    path: Path,
    quantity: Quantity | None = None,
    *,
    titles: Sequence[str] | None = None,
    beside: Sequence[Mapping[str, RunFolder]] | None = None,
) -> Path:
    """Draw the score at the last step against a swept hyperparameter, every seed a dot.

    Args:
        runs: those that swept it, a panel for each. A run that swept others too gets a line for
            each combination of them.
        name: the hyperparameter's; its axis is logarithmic where all its values are positive.
        path: the file to write (.png, .svg or .pdf); its folder is made.
        quantity: what to draw; None for each run's `quantity_of`.
        titles: the panels'; None for the names of the runs' folders.
        beside: for each panel, runs that did not sweep it, by label: the mean over their members is
            a dashed level, from the lowest member to the highest a band.

    Raises:
        InputError: there is no run, or one that did not sweep it or has no evaluations.
        MissingExtra: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [_last_against(folder, name, quantity) for folder in runs]
    if not points:
        raise InputError("there is no run to draw", hint="give at least one")
    columns = len(points) if len(points) < 5 else 3
    rows = math.ceil(len(points) / columns)
    size = (1.0 + 4.0 * columns, 3.6 * rows)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in panels[len(points) :]:
        axes.set_visible(False)
    titles = [folder.path.name for folder in runs] if titles is None else titles
    levels: Sequence[Mapping[str, RunFolder]] = [{}] * len(points) if beside is None else beside
    every = zip(panels[: len(points)], runs, titles, points, levels, strict=True)
    for axes, folder, title, lines, others in every:
        shown = quantity or quantity_of(folder.read_evaluations())
        for index, (label, by) in enumerate(lines.items()):
            colour = COLOURS[index % len(COLOURS)]
            for value, seeds in by.items():
                axes.plot([value] * len(seeds), seeds, "o", color=colour, alpha=0.45, ms=5)
            means = [np.mean(seeds) for seeds in by.values()]
            axes.plot(list(by), means, color=colour, lw=2, label=label)
        for index, (label, other) in enumerate(others.items(), start=len(lines)):
            colour = COLOURS[index % len(COLOURS)]
            last = np.concatenate([curve.scores[:, -1] for _, curve in _curves(other, quantity)])
            axes.axhspan(last.min(), last.max(), color=colour, alpha=0.12, lw=0)
            axes.axhline(last.mean(), color=colour, lw=2, ls="--", label=label)
        if len(lines) + len(others) > 1:
            axes.legend(frameon=False, fontsize=8)
        ticks = sorted({value for by in lines.values() for value in by})
        if ticks[0] > 0:
            axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel(SYMBOLS.get(name, name))
        axes.set_ylabel(AXES[shown])
        if shown == "success":
            axes.set_ylim(-3, 103)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        _plain(axes, "y")
    return save_figure(figure, path)


def _last_against(
    folder: RunFolder, name: str, quantity: Quantity | None
) -> dict[str, dict[float, list[float]]]:
    """Each seed's mean at the last step: by the other swept hyperparameters, then by value."""
    found: dict[str, dict[float, list[float]]] = {}
    for changes, curve in _curves(folder, quantity):
        if name not in changes:
            swept = ", ".join(changes) or "nothing"
            raise InputError(
                f"this run swept {swept}, not {name}", where=str(folder.path), hint="leave it out"
            )
        others = label_of({key: value for key, value in changes.items() if key != name})
        found.setdefault(others, {})[changes[name]] = curve.scores[:, -1].tolist()
    return {label: dict(sorted(by.items())) for label, by in found.items()}


@_as_written
def plot_comparison(comparison: Comparison, path: Path) -> Path:
    """Draw a comparison and write it to `path` (.png, .svg or .pdf): per task the interquartile
    means, last filled and best hollow; performance profiles; probabilities of improvement.

    Args:
        comparison: what `xql.compare` returns.
        path: the file to write; its folder is made.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = len(comparison.rows) + 2 * len(comparison.tasks)
    pairs = _decisive_pairs(comparison)
    height = max(3.4, 0.24 * lines + 0.7, 2.6 * bool(comparison.profiles) + 0.24 * len(pairs) + 1)
    figure = Figure(figsize=(12.4, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1.0))
    left, right = halves
    _draw_scores(left, comparison)
    kinds = [kind for kind, there in (("profile", comparison.profiles), ("pairs", pairs)) if there]
    if kinds:
        heights = [max(2.6, height - 0.24 * len(pairs) - 1), 0.24 * len(pairs) + 1.0]
        panels = right.subplots(
            len(kinds), 1, squeeze=False, height_ratios=heights if len(kinds) == 2 else None
        )
        for axes, kind in zip(panels[:, 0], kinds, strict=True):
            if kind == "profile":
                _draw_profiles(axes, comparison)
            else:
                _draw_pairs(axes, pairs)
    return save_figure(figure, path)


def _colour(comparison: Comparison, method: str) -> str:
    return COLOURS[comparison.methods.index(method) % len(COLOURS)]


def _draw_scores(figure: Any, comparison: Comparison) -> None:
    """One panel per task; a line per method: last filled with its interval, best hollow."""
    groups = [[row for row in comparison.rows if row.task == task] for task in comparison.tasks]
    panels = figure.subplots(
        len(groups), 1, squeeze=False, height_ratios=[len(group) + 1.2 for group in groups]
    )[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        for place, row in enumerate(group):
            _draw_row(axes, row, place, _colour(comparison, row.method))
        names = [row.method + " (1 seed)" * (len(row.seeds) == 1) for row in group]
        axes.set_yticks(range(len(group)), names, fontsize=8.5)
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.set_title(group[0].task, loc="left", fontsize=9.5, fontweight="bold")
        axes.set_xlabel(AXES[group[0].quantity], fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        if group[0].quantity == "success":
            axes.set_xlim(-3, 103)
        _plain(axes, "x")
    handles = [
        panels[0].plot([], [], color="#555555", marker="o", ls="-", lw=2.4)[0],
        panels[0].plot([], [], color="black", marker="|", ms=7, mew=0.8, ls="none")[0],
        panels[0].plot([], [], color="#555555", marker="o", mfc="white", ms=10, ls="none")[0],
    ]
    figure.legend(
        handles,
        ["last step: IQM, 95 % interval", "its seeds", "each seed's best: IQM, biased upwards"],
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=8,
    )


def _draw_row(axes: Any, row: Row, place: int, colour: str) -> None:
    interval: Interval = row.last.iqm
    axes.plot([interval.low, interval.high], [place, place], color=colour, lw=2.4, zorder=2)
    axes.plot(
        row.last.values, [place] * len(row.seeds), "|", color="black", ms=7, mew=0.8, zorder=5
    )
    # A ring, so that it shows around a last that is as good.
    axes.plot(row.best.iqm.estimate, place, "o", mec=colour, mfc="white", ms=10, mew=1.3, zorder=1)
    axes.plot(interval.estimate, place, "o", color=colour, ms=6, zorder=4)


def _draw_profiles(axes: Any, comparison: Comparison) -> None:
    """The share of runs above each score, a line and its band per method."""
    for place, (method, profile) in enumerate(comparison.profiles.items()):
        colour, style = _colour(comparison, method), STYLES[place // len(COLOURS) % 4]
        axes.fill_between(
            profile.thresholds,
            profile.low,
            profile.high,
            step="post",
            color=colour,
            alpha=0.14,
            lw=0,
        )
        axes.step(
            profile.thresholds, profile.share, where="post", color=colour, ls=style, label=method
        )
    over = f", {len(comparison.profiled)} tasks" if len(comparison.profiled) > 1 else ""
    title = f"Performance profile, last step{over}"
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    axes.set_xlabel(f"τ: {AXES[comparison.profile_quantity or 'return'].lower()}", fontsize=8)
    axes.set_ylabel("Share of runs above τ", fontsize=8)
    axes.set_ylim(-0.03, 1.03)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes, "both")


def _decisive_pairs(comparison: Comparison) -> list[tuple[str, Interval]]:
    """The pairs to draw: over all the tasks that two methods share, else in their one task."""
    found: dict[tuple[str, str], Interval] = {}
    for pair in comparison.pairs:  # those over several tasks come last, and replace the others
        found[(pair.first, pair.second)] = pair.probability
    return [
        (f"{first} > {second}" + ": n/a (1 seed)" * (probability.seeds == 1), probability)
        for (first, second), probability in found.items()
    ]


def _draw_pairs(axes: Any, pairs: Sequence[tuple[str, Interval]]) -> None:
    for place, (_, probability) in enumerate(pairs):
        if probability.seeds == 1:
            continue  # it would always be 0, ½ or 1
        axes.plot([probability.low, probability.high], [place, place], color="#333333", lw=2.4)
        axes.plot(probability.estimate, place, "o", color="#333333", ms=6)
    axes.axvline(0.5, color="#999999", lw=1.0, ls=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(pairs)), [name for name, _ in pairs], fontsize=8.5)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlim(-0.03, 1.03)
    axes.set_title(
        "Probability that a run beats a run, last step", loc="left", fontsize=9.5, fontweight="bold"
    )
    axes.tick_params(axis="x", labelsize=8)
    _plain(axes, "x")


def _plain(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)


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

"""Figures: learning curves with every seed behind them, and a comparison of methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from xql.errors import InputError
from xql.evaluation.statistics import Interval, episode_means, step_intervals
from xql.files import save_figure
from xql.reports.comparison import Comparison, Pair, Row
from xql.reports.style import (
    BEHIND,
    COLOURS,
    COLUMN,
    GREY,
    PAGE,
    columns_for,
    every_few,
    head,
    look,
    new_figure,
    note,
    one_legend,
    panels,
    short_steps,
    styled,
)
from xql.runs.folder import RunFolder
from xql.runs.summary import (
    SYMBOLS,
    Quantity,
    by_changes,
    label_of,
    quantity_of,
    value_of,
)

AXES: dict[Quantity, str] = {
    "success": "Success rate (%)",
    "score": "Normalised score",
    "return": "Return",
}
TOGETHER = 2
"""Curves in one panel, at most: of more, each has its own."""
LISTED = 10
"""Pairs of methods with a line each, at most: more are a matrix."""


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


@styled
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
    """Draw learning curves and write them to `path` (.png, .svg or .pdf).

    One or two curves share a panel; of more, each has its own, with the others grey behind it.

    Args:
        curves: each with its interquartile mean over seeds, a band for the 95 %
            bootstrap interval (none for one seed), and a faint line for each seed.
        path: the file to write; its folder is made. A .png gets an .svg beside it.
        quantity: names the y axis; success also fixes it to 0…100.
        title: stands above the figure.
        steps: names the x axis.
        data_figure: what the behaviour policy reaches; a dashed line.
        data_label: its name in the legend.

    Raises:
        InputError: there is no curve to draw.
        MissingExtra: matplotlib is not installed.
    """
    if not curves:
        raise InputError("there is no curve to draw", hint="give at least one run")
    together = len(curves) <= TOGETHER
    columns = 1 if together else columns_for(len(curves))
    width = COLUMN if len(curves) <= 4 else PAGE
    figure, axes = panels(
        1 if together else len(curves),
        columns,
        width,
        2.1 if together else 1.35,
        sharex=True,
        sharey=True,
    )
    for place, curve in enumerate(curves):
        if together:
            draw_curve(axes[0], curve, place)
        else:
            for other in curves:
                middle = [one.estimate for one in step_intervals(other.scores)]
                axes[place].plot(other.steps, middle, color=BEHIND, lw=0.8, zorder=1)
            draw_curve(axes[place], curve, 0, marked=False)
            axes[place].set_title(curve.label)
    for place, one in enumerate(axes):
        if data_figure is not None:
            one.axhline(data_figure, color=GREY, lw=1.0, ls=(0, (4, 3)), label=data_label)
        short_steps(one, steps if place >= len(axes) - columns else "")
        if place % columns == 0:
            one.set_ylabel(AXES[quantity])
        if quantity == "success":
            one.set_ylim(-4, 104)
        one.grid(axis="y")
    if together:
        one_legend(figure, axes, columns=2, title=title)
    else:
        head(figure, title)
    level = "" if data_figure is None or together else f"; dashed: {data_label}"
    others = "" if together else "; grey: the others"
    note(figure, _caption(curves) + others + level)
    return save_figure(figure, path, vector=True)


@styled
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
        path: the file to write (.png, .svg or .pdf); its folder is made. A .png gets an .svg
            beside it.
        quantity: what to draw; None for each run's `quantity_of`.
        titles: the panels'; None for the names of the runs' folders.
        beside: for each panel, runs that did not sweep it, by label: the mean over their members is
            a dashed level, from the lowest member to the highest a band.

    Raises:
        InputError: there is no run, or one that did not sweep it or has no evaluations.
        MissingExtra: matplotlib is not installed.
    """
    points = [_last_against(folder, name, quantity) for folder in runs]
    if not points:
        raise InputError("there is no run to draw", hint="give at least one")
    columns = min(3, len(points))
    figure, axes = panels(len(points), columns, COLUMN if columns < 3 else PAGE, 1.75)
    titles = [folder.path.name for folder in runs] if titles is None else titles
    levels: Sequence[Mapping[str, RunFolder]] = [{}] * len(points) if beside is None else beside
    shown = [quantity or quantity_of(folder.read_evaluations()) for folder in runs]
    for place, (one, lines, others) in enumerate(zip(axes, points, levels, strict=True)):
        for index, (label, by) in enumerate(lines.items()):
            own = look(index)
            for value, seeds in by.items():
                one.plot([value] * len(seeds), seeds, own["marker"], color=own["color"], alpha=0.45)
            means = [np.mean(seeds) for seeds in by.values()]
            one.plot(
                list(by),
                means,
                color=own["color"],
                ls=own["ls"],
                label=label or f"swept {SYMBOLS.get(name, name)}",
            )
        for index, (label, other) in enumerate(others.items(), start=len(lines)):
            own = look(index)
            last = np.concatenate([curve.scores[:, -1] for _, curve in _curves(other, quantity)])
            one.axhspan(last.min(), last.max(), color=own["color"], alpha=0.12, lw=0)
            one.axhline(last.mean(), color=own["color"], ls=own["ls"], label=label)
        ticks = sorted({value for by in lines.values() for value in by})
        if ticks[0] > 0:
            one.set_xscale("log")
        one.set_xticks(ticks, [f"{value:g}" for value in ticks], minor=False)
        one.set_xticks([], minor=True)
        one.set_xlabel(SYMBOLS.get(name, name))
        if place % columns == 0 or shown[place] != shown[place - 1]:
            one.set_ylabel(AXES[shown[place]])
        if shown[place] == "success":
            one.set_ylim(-3, 103)
        one.set_title(titles[place])
        one.grid(axis="y")
    if any(len(lines) + len(others) > 1 for lines, others in zip(points, levels, strict=True)):
        one_legend(figure, axes)
    band = " Shaded: from the lowest to the highest seed." if any(levels) else ""
    note(figure, f"Last step. Dots are seeds, lines their means.{band}")
    return save_figure(figure, path, vector=True)


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


@styled
def plot_comparison(comparison: Comparison, path: Path) -> Path:
    """Draw a comparison and write it to `path` (.png, .svg or .pdf): per task the interquartile
    means, last filled and best hollow; performance profiles; probabilities of improvement.

    Args:
        comparison: what `xql.compare` returns.
        path: the file to write; its folder is made. A .png gets an .svg beside it.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    pairs, profiles = _decisive_pairs(comparison), comparison.profiles
    columns = 1 if len(profiles) <= TOGETHER else columns_for(len(profiles)) + (len(profiles) <= 4)
    heights = {"scores": 0.2 * len(comparison.rows) + 0.6 * len(comparison.tasks) + 0.2}
    if profiles:
        heights["profile"] = 2.0 if columns == 1 else 1.3 * -(-len(profiles) // columns) + 0.5
    if pairs:
        lines = len(pairs) if len(pairs) <= LISTED else len({pair.first for pair in pairs})
        heights["pairs"] = 0.2 * lines + 0.7
    figure = new_figure(PAGE, sum(heights.values()))
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=list(heights.values()))
    named = dict(zip(heights, np.atleast_1d(parts), strict=True))
    _draw_scores(named["scores"], comparison)
    if profiles:
        _draw_profiles(named["profile"], comparison, columns)
    if 0 < len(pairs) <= LISTED:
        _draw_pairs(named["pairs"].subplots(), pairs)
    elif pairs:
        _draw_matrix(named["pairs"].subplots(), pairs)
    return save_figure(figure, path, vector=True)


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
        axes.set_yticks(range(len(group)), names)
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.set_title(group[0].task)
        axes.set_xlabel(AXES[group[0].quantity])
        if group[0].quantity == "success":
            axes.set_xlim(-3, 103)
        axes.grid(axis="x")
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


def _draw_profiles(figure: Any, comparison: Comparison, columns: int) -> None:
    """The share of runs above each score, a line and its band per method.

    Of more than two methods, each has its own panel, with the others grey behind it.
    """
    profiles = comparison.profiles
    together = len(profiles) <= TOGETHER
    rows = 1 if together else -(-len(profiles) // columns)
    every = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    axes = list(every.flat)
    for one in axes[1 if together else len(profiles) :]:
        one.set_visible(False)
    for place, (method, profile) in enumerate(profiles.items()):
        panel, own = axes[0 if together else place], look(place if together else 0)
        del own["marker"]
        if not together:
            for other in profiles.values():
                at, share = other.thresholds, other.share
                panel.step(at, share, where="post", color=BEHIND, lw=0.8, zorder=1)
            panel.set_title(method)
        panel.fill_between(
            profile.thresholds,
            profile.low,
            profile.high,
            step="post",
            color=own["color"],
            alpha=0.16,
            lw=0,
        )
        panel.step(profile.thresholds, profile.share, where="post", label=method, **own)
    unit = AXES[comparison.profile_quantity or "return"].lower()
    for place, panel in enumerate(axes[: 1 if together else len(profiles)]):
        if together or place + columns >= len(profiles):
            panel.set_xlabel(f"τ: {unit}")
            panel.tick_params(labelbottom=True)
        if place % columns == 0:
            panel.set_ylabel("Runs above τ")
        panel.set_ylim(-0.04, 1.04)
        panel.grid(axis="both")
    if together:
        axes[0].legend()
    over = f", {len(comparison.profiled)} tasks" if len(comparison.profiled) > 1 else ""
    head(figure, f"Performance profile, last step{over}; shaded: 95 % interval")


def _decisive_pairs(comparison: Comparison) -> list[Pair]:
    """The pairs to draw: over all the tasks that two methods share, else in their one task."""
    # Those over several tasks come last, and replace the others.
    return list({(pair.first, pair.second): pair for pair in comparison.pairs}.values())


def _draw_pairs(axes: Any, pairs: Sequence[Pair]) -> None:
    for place, probability in enumerate(pair.probability for pair in pairs):
        if probability.seeds == 1:
            continue  # it would always be 0, ½ or 1
        axes.plot([probability.low, probability.high], [place, place], color="#333333", lw=2.4)
        axes.plot(probability.estimate, place, "o", color="#333333", ms=6)
    axes.axvline(0.5, color="#999999", lw=1.0, ls=(0, (4, 3)), zorder=0)
    names = [
        f"{pair.first} > {pair.second}" + ": n/a (1 seed)" * (pair.probability.seeds == 1)
        for pair in pairs
    ]
    axes.set_yticks(range(len(pairs)), names)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlim(-0.03, 1.03)
    axes.set_title("Probability that a run beats a run, last step")
    axes.grid(axis="x")


def _draw_matrix(axes: Any, pairs: Sequence[Pair]) -> None:
    """Many pairs as a matrix: how probable it is that the row's method beats the column's."""
    rows = list(dict.fromkeys(pair.first for pair in pairs))
    columns = list(dict.fromkeys(pair.second for pair in pairs))
    shown = np.full((len(rows), len(columns)), np.nan)
    for first, second, probability in (pair[1:] for pair in pairs):
        place = rows.index(first), columns.index(second)
        if probability.seeds == 1:
            continue
        shown[place] = probability.estimate
        decided = not probability.low <= 0.5 <= probability.high
        dark = abs(probability.estimate - 0.5) > 0.35
        axes.text(
            place[1],
            place[0],
            f"{probability.estimate:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            weight="bold" if decided else "normal",
            color="white" if dark else "black",
        )
    axes.imshow(shown, cmap="PuOr", vmin=0, vmax=1, aspect="auto", alpha=0.9)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=25, ha="right")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(
        "Probability that the row beats the column, last step; bold: 95 % interval without ½"
    )


def draw_curve(axes: Any, curve: Curve, index: int, *, marked: bool = True) -> None:
    """One line: the interquartile mean over seeds, its interval shaded, each seed thin.

    Args:
        axes: a panel.
        curve: what is drawn.
        index: the number of its colour, dash and marker.
        marked: whether it has markers, by which to tell it from another line.
    """
    intervals = step_intervals(curve.scores)
    middle, low, high = (np.array([one[place] for one in intervals]) for place in range(3))
    own = look(index)
    if len(curve.scores) > 1:
        for seed in curve.scores:
            axes.plot(curve.steps, seed, color=own["color"], lw=0.5, alpha=0.3, zorder=2)
        axes.fill_between(curve.steps, low, high, color=own["color"], alpha=0.16, lw=0, zorder=1)
    # A lone evaluation is a point: a line through one point would draw nothing.
    if not marked and len(curve.steps) > 1:
        del own["marker"]
    axes.plot(
        curve.steps,
        middle,
        **own,
        markevery=every_few(len(curve.steps)),
        label=curve.label,
        zorder=3,
    )


def _caption(curves: Sequence[Curve]) -> str:
    """What the line and the band are; the reader of a figure on its own must know."""
    counts = sorted({len(curve.scores) for curve in curves})
    if counts == [1]:
        return "One seed"
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"IQM of {seeds} seeds, each thin; shaded: 95 % bootstrap interval"

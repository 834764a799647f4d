"""The paper's Figure 3: SAC, TD3 and their extreme variants on DeepMind Control, over its curves.

A cell is one method on one task, all its seeds as one population; a finished one is kept under its
configuration and never trained again. The paper trains 2 million steps, SAC with 3 seeds and TD3
with 4, and says that it trained diverged seeds again; here a seed that diverges is frozen at its
last good state, and counts.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xql.errors import InputError, nearest, require
from xql.evaluation.statistics import Interval, format_interval, mean, stratified_bootstrap
from xql.experiments.cells import Cell, train_cells
from xql.experiments.published import Published, curves
from xql.presets import settings
from xql.reports.plots import COLOURS, Curve, curves_from_run
from xql.runs.folder import RunFolder
from xql.training.online import loop_for, train_online
from xql.training.run_logger import check_counts

TASKS = ("cheetah-run", "walker-run", "hopper-hop", "quadruped-run")


class Method(NamedTuple):
    """A line of the figure."""

    agent: str
    label: str
    options: Mapping[str, Any] = {}
    betas: Mapping[str, float] = {}
    """By task, where it is not the preset's."""


_SMALL = {"hidden": [256, 256], "batch_size": 256}
METHODS = {
    "sac": Method("sac", "SAC"),
    "x-sac": Method("x-sac", "X-SAC"),
    "td3": Method("td3", "TD3"),
    "x-td3": Method("x-td3", "X-TD3"),
    # Minus the double-Q trick: one critic, no minimum (see agents/td3.py); β of the paper's tables.
    "td3-dq": Method("td3", "TD3 − DQ", {"critics": 1}),
    "x-td3-dq": Method(
        "x-td3",
        "X-TD3 − DQ",
        {"critics": 1},
        {"cheetah-run": 4.0, "walker-run": 4.0, "hopper-hop": 3.0, "quadruped-run": 20.0},
    ),
    # Not the paper's: what a laptop can train.
    "sac-256": Method("sac", "SAC, 256-256, batch 256", _SMALL),
    "x-sac-256": Method("x-sac", "X-SAC, 256-256, batch 256", _SMALL),
}
PRESET = "paper"
EVALUATE_EVERY = 10_000
"""Environment steps; a longer run keeps to 100 evaluations."""
COLUMNS = (
    *("task", "method", "steps", "seeds", "episodes", "return", "low", "high", "frozen_seeds"),
    *("paper_return", "paper_half_width", "cell"),
)


def train(
    task: str,
    method: str,
    steps: int,
    seeds: Sequence[int],
    episodes: int,
    last_episodes: int,
    out: Path,
    progress: bool = True,
) -> None:
    """Train one cell: a method on a task, every seed of it, at the paper's settings."""
    train_online(
        f"dm_control/{task}",
        agent=METHODS[method].agent,
        preset=PRESET,
        steps=steps,
        seeds=seeds,
        options=_options(task, method),
        loop=loop_for(steps),
        evaluations=_evaluations(steps),
        episodes=episodes,
        last_episodes=last_episodes,
        out=out,
        progress=progress,
    )


def _options(task: str, method: str) -> dict[str, Any]:
    chosen = METHODS[method]
    return {**chosen.options, **({"beta": chosen.betas[task]} if chosen.betas else {})}


def _evaluations(steps: int) -> int:
    return min(100, max(1, steps // EVALUATE_EVERY))


def cells(
    tasks: Sequence[str] = TASKS,
    methods: Sequence[str] = tuple(METHODS)[:6],
    *,
    steps: int = 2_000_000,
    seeds: int = 4,
    episodes: int = 5,
    last_episodes: int = 20,
) -> list[Cell]:
    """The cells of a part of the figure.

    Raises:
        InputError: an unknown task or method, one named twice, or counts that cannot be used.
    """
    check_counts(steps, 1, episodes, last_episodes)
    if seeds < 1:
        raise InputError(f"--seeds {seeds} is too small", hint="give at least 1")
    for wanted, known in ((tasks, TASKS), (methods, METHODS)):
        for name in wanted:
            if name not in known:
                raise InputError(f"figure 3 has no '{name}'", hint=nearest(name, known))
        if len(set(wanted)) < len(wanted):
            raise InputError(f"one is named twice in {' '.join(wanted)}", hint="name each once")
    counts = {"steps": steps, "seeds": list(range(seeds))}
    counts |= {"episodes": episodes, "last_episodes": last_episodes}
    return [_cell(task, method, counts) for task in tasks for method in methods]


def _cell(task: str, method: str, counts: Mapping[str, Any]) -> Cell:
    """A cell whose folder knows every setting: another β, say, is another cell."""
    asked = {"task": task, "method": method, **counts}
    chosen = settings(METHODS[method].agent, PRESET, f"dm_control/{task}", _options(task, method))
    known = {
        "loop": asdict(loop_for(counts["steps"])),
        "evaluations": _evaluations(counts["steps"]),
        "settings": asdict(chosen.config),
    }
    return Cell(f"{task}-{method}", train, asked, {**asked, **known})


class Line(NamedTuple):
    """A cell that is there: ours, and the paper's curve beside it."""

    task: str
    method: str
    folder: RunFolder
    curve: Curve
    last: Interval
    """The mean over seeds at the last step, as the paper's curves are means."""
    episodes: int
    """Of each seed at the last step."""
    published: Published | None

    @property
    def steps(self) -> int:
        """Environment steps of each seed."""
        return self.curve.steps[-1]


def figure3(
    out: Path,
    tasks: Sequence[str] = TASKS,
    methods: Sequence[str] = tuple(METHODS)[:6],
    *,
    steps: int = 2_000_000,
    seeds: int = 4,
    episodes: int = 5,
    last_episodes: int = 20,
    jobs: int = 1,
    train_missing: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Train what `out` does not hold, then draw figure3.png and write figure3.csv and figure3.md.

    Args:
        out: the folder; finished cells lie in its `cells`.
        tasks, methods: a part of `TASKS` and `METHODS`.
        steps: environment steps of each seed.
        seeds: how many of each method on each task.
        episodes: per seed at each evaluation but the last.
        last_episodes: per seed at the last step.
        jobs: how many cells to train at a time.
        train_missing: or only draw what is there.
        say: told what happens, a line at a time.

    Returns:
        The table, in Markdown.

    Raises:
        InputError: an unknown task or method, or no cell to draw.
        MissingExtra: matplotlib is not installed.
    """
    require("matplotlib", "report")
    wanted = cells(
        tasks, methods, steps=steps, seeds=seeds, episodes=episodes, last_episodes=last_episodes
    )
    home = out / "cells"
    outcomes = train_cells(wanted, home, jobs=jobs, say=say) if train_missing else {}
    there = [cell for cell in wanted if (home / cell.folder).is_dir()]
    problems = [
        f"{name} is not shown: {one.problem}" for name, one in outcomes.items() if one.problem
    ]
    if not there:
        reasons = "; ".join(one.problem for one in outcomes.values() if one.problem)
        why = f"there is no cell to draw ({reasons})" if reasons else "there is no cell to draw"
        raise InputError(why, where=str(home), hint="hint that" if reasons else "let it train")
    lines = [_line(cell, RunFolder.open(home / cell.folder)) for cell in there]
    _write_csv(lines, out / "figure3.csv")
    draw(lines, out / "figure3.png")
    text = _table(lines) + "".join(f"\n{problem}\n" for problem in problems)
    (out / "figure3.md").write_text(text, encoding="utf-8")
    return text


def _line(cell: Cell, folder: RunFolder) -> Line:
    task, method = str(cell.settings["task"]), str(cell.settings["method"])
    rows = folder.read_evaluations()
    curve = curves_from_run(folder, "return", METHODS[method].label)[0]
    last = stratified_bootstrap(curve.scores[:, -1:], mean)
    episodes = sum(row.step == curve.steps[-1] and row.member == 0 for row in rows)
    published = curves().get((task, method.removesuffix("-256")))
    return Line(task, method, folder, curve, last, episodes, published)


def draw(lines: Sequence[Line], path: Path) -> None:
    """A panel for each task: ours solid, the paper's curves dashed in the same colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(line.task for line in lines))
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(5.4 * columns + 1.9, 3.7 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, task in zip(panels, tasks, strict=False):
        own = [line for line in lines if line.task == task]
        for line in own:
            _draw_line(axes, line, COLOURS[list(METHODS).index(line.method) % len(COLOURS)])
        axes.set_title(task, loc="left", fontweight="bold")
        axes.set_xlim(0, max(line.steps for line in own))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Environment steps")
        axes.set_ylabel("Return")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", lw=0.7)
        axes.set_axisbelow(True)
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    handles: dict[str, Any] = {}
    for axes in panels[: len(tasks)]:
        found, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9
    )
    figure.savefig(path)


def _draw_line(axes: Any, line: Line, colour: str) -> None:
    for scores in line.curve.scores:
        axes.plot(line.curve.steps, scores, color=colour, lw=0.6, alpha=0.45)
    name, seeds = METHODS[line.method].label, len(line.curve.scores)
    mean_curve = line.curve.scores.mean(axis=0)
    axes.plot(line.curve.steps, mean_curve, color=colour, lw=2, label=f"{name}, {seeds} seeds")
    if line.published is not None:
        theirs = line.published
        # To our last step and not to their last point before it: the table compares them there.
        shown = np.append(theirs.steps[theirs.steps < line.steps], line.steps)
        axes.plot(
            shown,
            np.interp(shown, theirs.steps, theirs.returns),
            color=colour,
            lw=1.3,
            ls=(0, (4, 2)),
            label=f"{METHODS[line.method.removesuffix('-256')].label}, the paper's",
        )


def _at(published: Published, step: int) -> tuple[float, float]:
    """The paper's mean return and half its band at a step, between its points by a line."""
    steps = published.steps
    returns, widths = published.returns, published.half_widths
    return float(np.interp(step, steps, returns)), float(np.interp(step, steps, widths))


def _write_csv(lines: Sequence[Line], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in lines:
            ours = (line.last.estimate, line.last.low, line.last.high)
            theirs = () if line.published is None else _at(line.published, line.steps)
            row = [line.task, line.method, line.steps, line.last.seeds, line.episodes]
            row += [f"{number:.1f}" for number in ours]
            row += [len(line.folder.read_frozen())]
            row += [f"{number:.1f}" for number in theirs] or ["", ""]
            writer.writerow([*row, line.folder.path.name])


def _table(lines: Sequence[Line]) -> str:
    text = [
        "| task | method | steps | ours: last, mean over seeds [95 %] | seeds × episodes "
        "| diverged | the paper's curve there (± half its band) |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        theirs = "–"
        if line.published is not None:
            mean, width = _at(line.published, line.steps)
            theirs = f"{mean:.0f} ± {width:.0f}"
        text.append(
            f"| {line.task} | {METHODS[line.method].label} | {line.steps:,} "
            f"| {format_interval(line.last)} | {line.last.seeds} × {line.episodes} "
            f"| {len(line.folder.read_frozen())} | {theirs} |"
        )
    return "\n".join(text) + "\n"

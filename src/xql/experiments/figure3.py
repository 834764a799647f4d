"""The paper's Figure 3: SAC, TD3 and their extreme variants on DeepMind Control, over its curves.

A cell is one method on one task, all its seeds as one population; a finished one is kept under its
configuration and never trained again. The paper trains 2 million steps, SAC with 3 seeds and TD3
with 4, and says that it trained diverged seeds again; here a seed that diverges goes on from its
last good state with smaller steps, and where it diverges again, is frozen. It counts.

Its six methods have the preset `paper`. The others have it too, but for what they name as changed:
the cells of results/figure3 are of these, and figure3.md says beside them what the paper has.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xql.errors import InputError, decoration, nearest, require_matplotlib
from xql.evaluation.statistics import Interval, format_interval, mean, stratified_bootstrap
from xql.experiments.cells import Cell, kept, online_cell, train_cells
from xql.experiments.compact import reduce_colours
from xql.experiments.executors import executor_for
from xql.experiments.published import Published, curves
from xql.files import save_figure, write_texts
from xql.presets import WARMUP, preset_warmup, resolve
from xql.reports.plots import Curve, curves_from_run
from xql.reports.style import (
    BEHIND,
    COLOURS,
    COLUMN,
    PAGE,
    note,
    one_legend,
    panels,
    short_steps,
    styled,
)
from xql.runs.config import EvaluationPlan
from xql.runs.folder import RunFolder
from xql.training.online import loop_for

OURS, THEIRS = "ours: mean, each seed thin", "the paper's curve"
TASKS = ("cheetah-run", "walker-run", "hopper-hop", "quadruped-run")


class Method(NamedTuple):
    """An agent at its settings for the figure, over those of the preset `paper`."""

    agent: str
    label: str
    options: Mapping[str, Any] = {}
    """What makes it another method of the paper's."""
    betas: Mapping[str, float] = {}
    """By task, where it is not the preset's."""
    changed: Mapping[str, Any] = {}
    """Hyperparameters that are not the paper's."""
    warmup: int | None = None
    """Where it is not the preset's."""
    paper: str = ""
    """The paper's method whose curve it is drawn beside, where that has another name."""


_SINGLE = {"critics": 1}
_SINGLE_BETAS = {"cheetah-run": 4.0, "walker-run": 4.0, "hopper-hop": 3.0, "quadruped-run": 20.0}
_OWN_LOSS = {"loss": "linear", "max_gradient_norm": 1.0}
_SMALL_SAC = {
    "hidden": [256, 256],
    "batch_size": 256,
    "initial_temperature": 1.0,
    "target_delay": 1,
}
METHODS = {
    "sac": Method("sac", "SAC"),
    "x-sac": Method("x-sac", "X-SAC"),
    "td3": Method("td3", "TD3"),
    "x-td3": Method("x-td3", "X-TD3"),
    # Minus the double-Q trick: one critic, no minimum (see agents/td3.py); β of the paper's tables.
    "td3-dq": Method("td3", "TD3 − DQ", _SINGLE),
    "x-td3-dq": Method("x-td3", "X-TD3 − DQ", _SINGLE, _SINGLE_BETAS),
    # Not the paper's: what a laptop can train.
    "sac-256": Method(
        "sac", "SAC, 256-256, batch 256", changed={**_SMALL_SAC, "value": "none"}, paper="sac"
    ),
    "x-sac-256": Method(
        "x-sac",
        "X-SAC, 256-256, batch 256",
        changed={**_SMALL_SAC, **_OWN_LOSS, "target_network": "critic"},
        paper="x-sac",
    ),
    # Not the paper's either: this library's usual warm-up and loss.
    "td3-5k": Method("td3", "TD3, warm-up 5k", warmup=5_000, paper="td3"),
    "x-td3-5k": Method(
        "x-td3", "X-TD3, warm-up 5k", changed=_OWN_LOSS, warmup=5_000, paper="x-td3"
    ),
    "td3-dq-5k": Method("td3", "TD3 − DQ, warm-up 5k", _SINGLE, warmup=5_000, paper="td3-dq"),
    "x-td3-dq-5k": Method(
        "x-td3",
        "X-TD3 − DQ, warm-up 5k",
        _SINGLE,
        _SINGLE_BETAS,
        changed=_OWN_LOSS,
        warmup=5_000,
        paper="x-td3-dq",
    ),
    # Nor these: a β that tunes itself.
    "x-td3-5k-auto": Method(
        "x-td3",
        "X-TD3, β auto, warm-up 5k",
        changed={**_OWN_LOSS, "beta": "auto"},
        warmup=5_000,
        paper="x-td3",
    ),
    "x-sac-256-auto": Method(
        "x-sac",
        "X-SAC, β auto, 256-256, batch 256",
        changed={**_SMALL_SAC, **_OWN_LOSS, "target_network": "critic", "beta": "auto"},
        paper="x-sac",
    ),
}
PAPER = tuple(METHODS)[:6]
PRESET = "paper"
EVALUATE_EVERY = 10_000
"""Environment steps; a longer run keeps to 100 evaluations."""
COLUMNS = (
    *("task", "method", "steps", "seeds", "episodes", "return", "low", "high", "frozen_seeds"),
    *("paper_return", "paper_half_width", "cell"),
)


def _options(task: str, method: str) -> dict[str, Any]:
    chosen = METHODS[method]
    beta = {"beta": chosen.betas[task]} if chosen.betas else {}
    return {**chosen.options, **beta, **chosen.changed}


def _warmup(task: str, method: str) -> int | None:
    """The warm-up that a method asks for, in full."""
    chosen = METHODS[method]
    if chosen.warmup is not None:
        return chosen.warmup
    return preset_warmup(chosen.agent, PRESET, f"dm_control/{task}")


def _evaluations(steps: int) -> int:
    return min(100, max(1, steps // EVALUATE_EVERY))


def cells(
    tasks: Sequence[str] = TASKS,
    methods: Sequence[str] = PAPER,
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
    for wanted, known in ((tasks, TASKS), (methods, METHODS)):
        for name in wanted:
            if name not in known:
                raise InputError(f"figure 3 has no '{name}'", hint=nearest(name, known))
        if len(set(wanted)) < len(wanted):
            raise InputError(f"one is named twice in {' '.join(wanted)}", hint="name each once")
    plan = EvaluationPlan(_evaluations(steps), episodes, last_episodes)
    return [_cell(task, method, steps, seeds, plan) for task in tasks for method in methods]


def _cell(task: str, method: str, steps: int, seeds: int, plan: EvaluationPlan) -> Cell:
    return online_cell(
        f"{task}-{method}",
        f"dm_control/{task}",
        agent=METHODS[method].agent,
        preset=PRESET,
        steps=steps,
        seeds=seeds,
        options=_options(task, method),
        evaluation=plan,
        loop=loop_for(steps, _warmup(task, method)),
    )


class Trained(NamedTuple):
    """A method on a task that has been trained: ours, and the paper's curve beside it."""

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
    methods: Sequence[str] = PAPER,
    *,
    steps: int = 2_000_000,
    seeds: int = 4,
    episodes: int = 5,
    last_episodes: int = 20,
    jobs: int | None = None,
    address: str | None = None,
    train_missing: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """Train what `out` does not hold, then draw figure3.png and write figure3.csv and figure3.md.

    Args:
        out: the folder; finished cells lie in its `cells`.
        tasks, methods: a part of `TASKS` and `METHODS`.
        steps: environment steps of each seed.
        seeds: how many of each method on each task.
        episodes: per seed at each evaluation but the last.
        last_episodes: per seed at the last step.
        jobs: how many cells to train at a time; as `executor_for` takes it.
        address: of a Ray cluster to train on; this machine where None.
        train_missing: or only draw what is there.
        say: called with each step of progress, in words.

    Returns:
        The table, in Markdown.

    Raises:
        InputError: an unknown task or method, or no cell to draw.
        MissingExtra: matplotlib is not installed.
    """
    require_matplotlib()
    executor = executor_for(jobs, address)
    chosen = [(task, method) for task in tasks for method in methods]
    wanted = cells(
        tasks, methods, steps=steps, seeds=seeds, episodes=episodes, last_episodes=last_episodes
    )
    home = out / "cells"
    outcomes = train_cells(wanted, home, executor, say=say) if train_missing else {}
    problems = [
        f"{name} is not shown: {one.problem}" for name, one in outcomes.items() if one.problem
    ]
    folders = [kept(home, cell) for cell in wanted]
    shown = [
        _trained(*names, RunFolder.open(folder))
        for names, folder in zip(chosen, folders, strict=True)
        if folder is not None
    ]
    if not shown:
        reasons = "; ".join(one.problem for one in outcomes.values() if one.problem)
        why = f"there is no cell to draw ({reasons})" if reasons else "there is no cell to draw"
        hint = "see to that" if reasons else _others(home) or "let it train"
        raise InputError(why, where=str(home), hint=hint)
    text = _table(shown) + _changes(shown) + "".join(f"\n{problem}\n" for problem in problems)
    write_texts(out, {"figure3.csv": _csv(shown), "figure3.md": text})
    with decoration("figure", say):
        draw(shown, out / "figure3.png")
        reduce_colours(out / "figure3.png")
    return text


def _others(home: Path) -> str:
    """How to draw the cells that are there, where none of them is what was asked for."""
    # One that is half-written has a dot before its name.
    found = sorted(path.parent for path in home.glob("[!.]*/config.yaml"))
    if not found:
        return ""
    config = RunFolder.open(found[0]).config
    first = f"{found[0].name} ({config.steps:,} steps, {len(config.members)} seeds)"
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"it has {first}{more}: name their `tasks`, `methods`, `steps` and `seeds`"


def _trained(task: str, method: str, folder: RunFolder) -> Trained:
    rows = folder.read_evaluations()
    curve = curves_from_run(folder, "return", METHODS[method].label)[0]
    last = stratified_bootstrap(curve.scores[:, -1:], mean)
    episodes = sum(row.step == curve.steps[-1] and row.member == 0 for row in rows)
    published = curves().get((task, METHODS[method].paper or method))
    return Trained(task, method, folder, curve, last, episodes, published)


@styled
def draw(trained: Sequence[Trained], path: Path) -> Path:
    """A panel for each task and method, with the task's other methods grey behind it.

    Ours is the mean over seeds with its 95 % bootstrap interval; the paper's curve is dashed.
    """
    tasks = list(dict.fromkeys(one.task for one in trained))
    groups = [[one for one in trained if one.task == task] for task in tasks]
    columns = min(4, max(map(len, groups)))
    # Each task begins a row.
    lengths = [-(-len(group) // columns) * columns for group in groups]
    figure, axes = panels(sum(lengths), columns, PAGE if columns > 2 else COLUMN, 1.5)
    for place, group in enumerate(groups):
        own, top = axes[sum(lengths[:place]) :][: lengths[place]], max(map(_top, group))
        for panel in own[len(group) :]:
            panel.set_visible(False)
        for number, (panel, one) in enumerate(zip(own, group, strict=False)):
            for other in group:
                if other is not one:
                    mean_curve = other.curve.scores.mean(axis=0)
                    panel.plot(other.curve.steps, mean_curve, color=BEHIND, lw=0.7, zorder=1)
            _draw_method(panel, one)
            # The agent, and below it what makes it another method.
            agent, *rest = METHODS[one.method].label.split(", ")
            panel.set_title(f"{one.task}: {agent}\n{', '.join(rest)}", fontsize=7)
            panel.set_xlim(0, one.steps)
            panel.set_ylim(0, top)
            short_steps(panel, "Environment steps" if number + columns >= len(group) else "")
            if number % columns == 0:
                panel.set_ylabel("Return")
            panel.grid(axis="y")
    shown = [panel for panel in axes if panel.get_visible()]
    one_legend(figure, shown)
    note(figure, "Shaded: 95 % bootstrap interval of the mean over seeds. Grey: the other methods.")
    return save_figure(figure, path, vector=True)


def _top(one: Trained) -> float:
    """Of an axis on which a method's seeds and the paper's curve are seen."""
    theirs = 0.0 if one.published is None else _at(one.published, one.steps)[0]
    return 1.05 * max(float(np.nanmax(one.curve.scores)), theirs)


def _draw_method(axes: Any, one: Trained) -> None:
    curve, colour = one.curve, COLOURS[0]
    for scores in curve.scores:
        axes.plot(curve.steps, scores, color=colour, lw=0.5, alpha=0.35)
    intervals = [
        stratified_bootstrap(curve.scores[:, [place]], mean) for place in range(len(curve.steps))
    ]
    low, high = (np.array([each[place] for each in intervals]) for place in (1, 2))
    axes.fill_between(curve.steps, low, high, color=colour, alpha=0.16, lw=0)
    axes.plot(curve.steps, curve.scores.mean(axis=0), color=colour, label=OURS)
    theirs = one.published
    if theirs is not None:
        # To our last step and not to their last point before it: the table compares them there.
        shown = np.append(theirs.steps[theirs.steps < one.steps], one.steps)
        axes.plot(
            shown,
            np.interp(shown, theirs.steps, theirs.returns),
            color=COLOURS[1],
            ls="--",
            label=THEIRS,
        )


def _at(published: Published, step: int) -> tuple[float, float]:
    """The paper's mean return and half its band at a step, drawn straight between its points."""
    steps = published.steps
    returns, widths = published.returns, published.half_widths
    return float(np.interp(step, steps, returns)), float(np.interp(step, steps, widths))


def _csv(trained: Sequence[Trained]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in trained:
        ours = (one.last.estimate, one.last.low, one.last.high)
        theirs = () if one.published is None else _at(one.published, one.steps)
        row = [one.task, one.method, one.steps, one.last.seeds, one.episodes]
        row += [f"{number:.1f}" for number in ours]
        row += [len(one.folder.read_frozen())]
        row += [f"{number:.1f}" for number in theirs] or ["", ""]
        writer.writerow([*row, one.folder.path.name])
    return text.getvalue()


def _table(trained: Sequence[Trained]) -> str:
    text = [
        "| task | method | steps | ours: last, mean over seeds [95 %] | seeds × episodes "
        "| diverged | the paper's curve there (± half its band) |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in trained:
        theirs = "–"
        if one.published is not None:
            mean, width = _at(one.published, one.steps)
            theirs = f"{mean:.0f} ± {width:.0f}"
        diverged = one.folder.read_frozen().keys() | one.folder.read_rolled_back().keys()
        text.append(
            f"| {one.task} | {METHODS[one.method].label} | {one.steps:,} "
            f"| {format_interval(one.last)} | {one.last.seeds} × {one.episodes} "
            f"| {len(diverged)} | {theirs} |"
        )
    return "\n".join(text) + "\n"


def _changes(trained: Sequence[Trained]) -> str:
    """What the methods have that is not the paper's, a row for each setting; "" without one."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name in dict.fromkeys(one.method for one in trained):
        method, task = METHODS[name], next(one.task for one in trained if one.method == name)
        theirs = resolve(method.agent, PRESET, f"dm_control/{task}").config
        changed = [(key, getattr(theirs, key), value) for key, value in method.changed.items()]
        if method.warmup is not None:
            paper = preset_warmup(method.agent, PRESET, f"dm_control/{task}")
            changed.append((WARMUP, paper, method.warmup))
        for key, paper, here in changed:
            rows.setdefault((key, _shown(paper), _shown(here)), []).append(f"`{name}`")
    if not rows:
        return ""
    text = [
        "",
        "The paper's settings (the preset `paper`), but for these:",
        "",
        "| setting | the paper's | here | methods |",
        "|---|---|---|---|",
        *(
            f"| `{key}` | {paper} | {here} | {', '.join(names)} |"
            for (key, paper, here), names in rows.items()
        ),
    ]
    return "\n".join(text) + "\n"


def _shown(value: Any) -> str:
    """A setting as a cell of a table."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value).lower()

"""`xql.compare`: any set of runs as one table, if and only if their numbers mean the same.

A *task* is a dataset (or, where a run learned online, its environment). A *method* is an agent and
its preset; where settings were varied within a task, or given by hand and differ, they belong to
its name. Runs of one method in one task are more seeds of it.

Within a task, runs must agree in the environment, the data, the evaluation (how often, how many
episodes, whether at success), the last step, and where returns are compared, in the rewards they
learned from. The first that does not is an error that names both runs and the field. Over tasks,
scores are averaged only where all share a unit, the evaluation and the step.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from xql.agents.hyperparameters import hyperparameters, to_dict
from xql.errors import InputError
from xql.evaluation.statistics import (
    Profile,
    episode_means,
    mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from xql.reports.comparable import conditions_of, require_same, task_of, whole_evaluations
from xql.reports.comparison import READINGS, Comparison, Pair, Row, Scores
from xql.runs.folder import SMALLER, Evaluation, RunFolder, run_folders
from xql.runs.summary import SYMBOLS, Quantity, quantity_of, value_of

POINTS = 101
"""Thresholds of a performance profile, evenly spaced; those that are printed come on top."""


class _Member(NamedTuple):
    """One seed of one run."""

    run: RunFolder
    place: int
    """Its number in the run."""
    task: str
    seed: int
    settings: dict[str, Any]
    """What it ran with: its hyperparameters, online the loop's, the scaling, the subset."""
    given: frozenset[str]
    """The settings that a user gave by hand; the others are the preset's."""
    rows: list[Evaluation]


class _Series(NamedTuple):
    """One method in one task."""

    task: str
    method: str
    settings: str
    """What `Row.settings` shows."""
    members: list[_Member]
    quantity: Quantity


def compare(
    runs: str | Path | Sequence[str | Path], *, quantity: Quantity | None = None, seed: int = 0
) -> Comparison:
    """Compare runs: per task and method the mean, IQM and interval over seeds, last and best.

    Args:
        runs: a run folder or several, of any number of tasks and methods; a folder of run folders,
            or of a sweep, is all of them.
        quantity: "success", "score" or "return"; where None, per task the first of them that every
            episode of its runs has.
        seed: of the bootstrap.

    Returns:
        The rows, the probabilities of improvement, the performance profiles, and notes on what
        could not be compared. `.markdown()`, `.csv()` and `.latex()` write it down, and
        `xql.reports.plots.plot_comparison` draws it.

    Raises:
        InputError: no run, one that is unfinished or was not evaluated, the same seed twice, or two
            runs of one task that cannot be compared; the line names both, and the field.
    """
    tasks: dict[str, list[RunFolder]] = defaultdict(list)
    for path in run_folders(runs):
        folder = RunFolder.open(path)
        tasks[task_of(folder)].append(folder)
    members: list[_Member] = []
    quantities: dict[str, Quantity] = {}
    schedules: dict[str, dict[int, int]] = {}
    for task, folders in tasks.items():
        played = {folder.path: whole_evaluations(folder) for folder in folders}
        chosen = quantity or quantity_of([row for rows in played.values() for row in rows])
        conditions = [conditions_of(folder, played[folder.path], chosen) for folder in folders]
        for folder, other in zip(folders[1:], conditions[1:], strict=True):
            require_same(folders[0], folder, conditions[0], other)
        quantities[task], schedules[task] = chosen, conditions[0]["episodes at step"]
        members += [one for folder in folders for one in _members(folder, played[folder.path])]
    series = _series(members, quantities)
    rows = [_row(one, seed) for one in series]
    shared, notes = _shared(rows)
    averaged, more = _over_tasks(shared, schedules, seed)
    notes = [*_diverged(series), *notes, *more]
    return Comparison(
        rows=rows + averaged,
        pairs=_pairs(rows, seed),
        profiles=_profiles(shared, seed),
        profiled=list(dict.fromkeys(row.task for row in shared)),
        notes=notes,
    )


def _members(folder: RunFolder, rows: Sequence[Evaluation]) -> list[_Member]:
    config = folder.config
    shared = {
        **({} if config.loop is None else dataclasses.asdict(config.loop)),
        "rewards": config.scaling.rewards,
        "observations": config.scaling.observations,
        "subset": config.data.subset,
        "hold_out": config.data.hold_out,
        "stream": config.data.streamed is not None,
        "precision": config.precision,
    }
    given = frozenset(
        key for key, source in config.sources.items() if str(source).startswith("given")
    )
    return [
        _Member(
            run=folder,
            place=place,
            task=task_of(folder),
            seed=one.seed,
            settings=to_dict(config.member_config(place)) | shared,
            given=given,
            rows=[row for row in rows if row.member == place],
        )
        for place, one in enumerate(config.members)
    ]


def _series(members: Sequence[_Member], quantities: Mapping[str, Quantity]) -> list[_Series]:
    """Members by task and method, in the order in which the runs were named."""
    names, settings = _names(members)
    groups: dict[tuple[str, str], list[_Member]] = defaultdict(list)
    shown: dict[tuple[str, str], str] = {}
    for member, name, own in zip(members, names, settings, strict=True):
        groups[(member.task, name)].append(member)
        shown[(member.task, name)] = own
    for (_, name), group in groups.items():
        seen: dict[int, _Member] = {}
        for one in group:
            if one.seed in seen:
                earlier = seen[one.seed].run.path
                raise InputError(
                    f"seed {one.seed} of {name} is here and in {earlier}",
                    where=str(one.run.path),
                    hint="a seed counts once: leave one of the two runs out",
                )
            seen[one.seed] = one
        group.sort(key=lambda one: one.seed)
    order = list(quantities)
    return [
        _Series(task, name, shown[(task, name)], group, quantities[task])
        for (task, name), group in sorted(groups.items(), key=lambda item: order.index(item[0][0]))
    ]


def _names(members: Sequence[_Member]) -> tuple[list[str], list[str]]:
    """For each member its method's name, and what `Row.settings` shows.

    The name is the agent, its preset, and the settings that distinguish its methods.
    """
    families: dict[tuple[str, str], list[_Member]] = defaultdict(list)
    for member in members:
        families[_family(member)].append(member)
    naming = {family: _naming(group) for family, group in families.items()}
    showing = {family: _showing(group) for family, group in families.items()}
    names, settings = [], []
    for member in members:
        family = agent, preset = _family(member)
        words = [agent] if preset == "default" else [agent, preset]
        names.append(" ".join([*words, *_words(member, naming[family])]))
        settings.append(", ".join(_words(member, showing[family])))
    return names, settings


def _words(member: _Member, keys: Sequence[str]) -> list[str]:
    return [f"{SYMBOLS.get(key, key)}={_value(member.settings.get(key))}" for key in keys]


def _family(member: _Member) -> tuple[str, str]:
    return member.run.config.agent, member.run.config.preset


def _showing(group: Sequence[_Member]) -> list[str]:
    """The settings that differ, and those that every preset must choose."""
    known = hyperparameters(group[0].run.config.hyperparameters)
    return [
        key for key in _keys(group) if _varies(key, group) or (key in known and known[key].required)
    ]


def _keys(group: Sequence[_Member]) -> list[str]:
    return list(dict.fromkeys(key for member in group for key in member.settings))


def _naming(group: Sequence[_Member]) -> list[str]:
    """The settings that differ within a task, or that were given by hand and differ anywhere."""
    tasks: dict[str, list[_Member]] = defaultdict(list)
    for member in group:
        tasks[member.task].append(member)
    return [
        key
        for key in _keys(group)
        if any(_varies(key, own) for own in tasks.values())
        or (_varies(key, group) and any(key in member.given for member in group))
    ]


def _varies(key: str, group: Sequence[_Member]) -> bool:
    return len({repr(member.settings.get(key)) for member in group}) > 1


def _value(value: Any) -> str:
    """A setting as it is written on the command line."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace(" ", "")
    return f"{value:g}"


def _row(series: _Series, seed: int) -> Row:
    scores = [
        episode_means(
            [row.step for row in member.rows],
            [member.seed] * len(member.rows),
            [value_of(row, series.quantity) for row in member.rows],
        )
        for member in series.members
    ]
    steps = scores[0][0]
    values = np.concatenate([means for _, _, means in scores])
    played = series.members[0].rows
    counts = [sum(row.step == step for row in played) for step in steps]
    agent, preset = _family(series.members[0])
    return Row(
        task=series.task,
        method=series.method,
        agent=agent,
        preset=preset,
        settings=series.settings,
        quantity=series.quantity,
        seeds=tuple(member.seed for member in series.members),
        step=steps[-1],
        evaluations=len(steps),
        last=_scores(values[:, -1:], counts[-1], seed),
        best=_scores(values.max(axis=1, keepdims=True), min(counts), seed),
    )


def _scores(values: Float64[np.ndarray, "seeds tasks"], episodes: int, seed: int) -> Scores:
    """The statistics of one method's seeds; over several tasks `values` keeps each seed's mean."""
    return Scores(
        values=values.mean(axis=1),
        iqm=stratified_bootstrap(values, seed=seed),
        mean=stratified_bootstrap(values, mean, seed=seed),
        episodes=episodes,
    )


def _over_tasks(
    rows: Sequence[Row], schedules: Mapping[str, dict[int, int]], seed: int
) -> tuple[list[Row], list[str]]:
    """A row for each method over several tasks; or why there is none."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    if len(tasks) < 2:
        return [], []
    if any(schedules[task] != schedules[tasks[0]] for task in tasks):
        return [], ["No average over tasks: they were evaluated at other steps or episodes."]
    averaged, notes = [], []
    for method, own in _by_method(rows).items():
        if len({len(row.seeds) for row in own}) > 1:
            notes.append(f"No average over tasks of {method}: its tasks differ in their seeds.")
            continue
        last, best = (
            _scores(np.stack([one.values for one in kind], axis=1), kind[0].episodes, seed)
            for kind in ([row.last for row in own], [row.best for row in own])
        )
        settings = own[0].settings if len({row.settings for row in own}) == 1 else ""
        task = f"{len(tasks)} tasks"
        averaged.append(own[0]._replace(task=task, settings=settings, last=last, best=best))
    return averaged, notes


def _shared(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows of the tasks that every method has, if these share a unit; and what that leaves."""
    methods, tasks = len(_by_method(rows)), dict[str, list[Row]]()
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    shared = {task: own for task, own in tasks.items() if len(own) == methods}
    if not shared:
        return [], ["No task has every method: there is no profile and no average over tasks."]
    kept = [row for own in shared.values() for row in own]
    units = {row.quantity for row in kept}
    if len(shared) > 1 and (len(units) > 1 or "return" in units):
        return [], ["The tasks share no unit: there is no profile and no average over tasks."]
    if len(shared) < len(tasks):
        return kept, [f"Profile and average are of the tasks that all have: {', '.join(shared)}."]
    return kept, []


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.method, []).append(row)
    return found


def _diverged(series: Sequence[_Series]) -> list[str]:
    """Who lost updates, and who stopped learning before the last step and is evaluated as then."""
    notes = []
    for one in series:
        for member in one.members:
            who = f"Seed {member.seed} of {one.method} diverged in {one.task}"
            if back := member.run.read_rolled_back().get(member.place):
                smaller = f"with learning rates divided by {SMALLER}, and {back.lost} fewer updates"
                notes.append(f"{who} by step {back.noticed}: it went on {smaller}.")
            if (step := member.run.read_frozen().get(member.place)) is not None:
                notes.append(f"{who}: it is evaluated as it was at step {step}.")
    return notes


def _pairs(rows: Sequence[Row], seed: int) -> list[Pair]:
    """Every two methods, in each task that both have and over all of these."""
    scores = {
        method: {row.task: row.last.values for row in own}
        for method, own in _by_method(rows).items()
    }
    methods, pairs, overall = list(scores), [], []
    for number, first in enumerate(methods):
        for second in methods[number + 1 :]:
            shared = [task for task in scores[first] if task in scores[second]]
            one, other = ([scores[name][task] for task in shared] for name in (first, second))
            for task, x, y in zip(shared, one, other, strict=True):
                found = probability_of_improvement([x], [y], seed=seed)
                pairs.append(Pair(task, first, second, found))
            if len(shared) > 1:
                found = probability_of_improvement(one, other, seed=seed)
                overall.append(Pair(f"{len(shared)} tasks", first, second, found))
    order = {row.task: place for place, row in enumerate(rows)}
    return sorted(pairs, key=lambda pair: order[pair.task]) + overall


def _profiles(rows: Sequence[Row], seed: int) -> dict[str, Profile]:
    """Per method its performance profile over the tasks of `rows`, which share a unit."""
    if not rows:
        return {}
    values = np.concatenate([row.last.values for row in rows])
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if rows[0].quantity != "return":
        low, high = min(low, 0.0), max(high, 100.0)
    thresholds = np.union1d(np.linspace(low, high, POINTS), READINGS.get(rows[0].quantity, ()))
    return {
        method: performance_profile([row.last.values for row in own], thresholds, seed=seed)
        for method, own in _by_method(rows).items()
    }

"""`xql report`: one HTML page of a run, or of several, that needs no network and no other file.

What is drawn comes from the run folders alone: metrics, evaluations, configuration, origin, and
where they are there diagnostics, a verdict from logged data and a video. The page draws itself with
Vega, which stands in it once. Whatever is missing is named on the page.
"""

import base64
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xql.errors import InputError, MissingExtra, reason, require
from xql.evaluation.scores import normalised_score
from xql.evaluation.statistics import (
    Interval,
    episode_means,
    format_interval,
    stratified_bootstrap,
)
from xql.files import write_text
from xql.gumbel.errors import ErrorFits, fit_errors
from xql.reports import page_figures as figures
from xql.reports.comparable import task_of
from xql.reports.compare import compare, run_folders
from xql.reports.page_figures import Figure, Key, Line, Sample, colour_of, dash_of, thinned
from xql.reports.page_tables import (
    Table,
    data_card,
    off_policy,
    settings,
    software,
)
from xql.reports.plots import AXES
from xql.runs.checkpoints import latest_step
from xql.runs.folder import SMALLER, RunFolder
from xql.runs.lock import is_locked
from xql.runs.policy import load_population
from xql.runs.summary import (
    UNITS,
    Quantity,
    by_changes,
    label_of,
    quantity_of,
    results,
    value_of,
)
from xql.training import diagnostics
from xql.training.diagnostics import Diagnostics
from xql.training.reopen import reopen

FILE = "report.html"
"""In a run's folder."""
SEEDS = 16
"""Of one setting, that are drawn one by one."""
FAINT = 48
"""Lines of single seeds in one figure, at most; with more there are none."""
EMBEDDED = 1_200_000
"""Bytes of a video, up to which it stands in the page; a larger one is linked."""
BLOCKED = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
    "script-src {scripts}; base-uri 'none'; form-action 'none'"
)


def write_page(
    runs: Sequence[str | Path],
    path: str | Path,
    *,
    refresh: int | None = None,
    recompute: bool = True,
) -> Path:
    """Write one self-contained HTML page: of one run, or of several side by side.

    Args:
        runs: run folders, finished or not; a folder of run folders is all of them.
        path: the file, which is replaced.
        refresh: seconds after which the page loads itself again, for a run that still trains.
        recompute: whether diagnostics that a run has not kept are computed from its checkpoint and
            its data, where both are still there.

    Returns:
        `path`.

    Raises:
        InputError: there is no run, a folder is none, or the page cannot be written.
        MissingExtra: a package of the extra `report` is not installed.
    """
    environment = _templates()
    bundle = _bundle()
    path = Path(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = _content([RunFolder.open(one) for one in run_folders(runs)], path, recompute)
    content["notes"] += [" ".join(str(one.message).split()) for one in caught]
    own = _part("page.js")
    text = environment.get_template("page.html").render(
        **content,
        refresh=refresh,
        style=_part("page.css"),
        scripts=[bundle, own],
        policy=BLOCKED.format(scripts=" ".join(f"'sha256-{_digest(one)}'" for one in (bundle, own))),
    )
    write_text(path, text, "page")
    return path


def _templates() -> Any:
    """Jinja's environment: what a name holds, such as <script>, is text everywhere."""
    jinja2 = require("jinja2", "report")
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _part(name: str) -> str:
    return (resources.files("xql.reports") / name).read_text(encoding="utf-8")


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and their embedding as one script: a second's work."""
    text: str = require("vl_convert", "report").javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Only this ends a script element; it could stand in no other place than a string.
    return text.replace("</script", r"<\/script")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


class Series(NamedTuple):
    """Members of one run that share their settings, drawn as one line."""

    key: Key
    run: RunFolder
    members: list[int]
    seeds: dict[int, Key]
    """Of those members that a reader can switch on and off by themselves."""

    def key_of(self, member: int) -> Key:
        """What a member's own line belongs to."""
        return self.seeds.get(member, self.key)


def series_of(runs: Sequence[RunFolder]) -> list[Series]:
    """The lines of the page: one for each run and combination of swept hyperparameters."""
    groups: list[tuple[RunFolder, str, list[int]]] = []
    names = _names(runs)
    for run, name in zip(runs, names, strict=True):
        every = run.config.members
        for changes in {tuple(one.changes.items()): None for one in every}:
            own = [place for place, one in enumerate(every) if tuple(one.changes.items()) == changes]
            label = label_of(dict(changes))
            groups.append((run, ", ".join(filter(None, (name * (len(runs) > 1), label))), own))
    if len(groups) == 1:
        run, _, members = groups[0]
        if len(members) == 1:
            seed = run.config.members[0].seed
            return [Series(Key("s0", f"seed {seed}", colour_of(0)), run, members, {})]
        seeds = {
            place: Key(f"m{place}", f"seed {one.seed}", colour_of(place), dash_of(place))
            for place, one in enumerate(run.config.members[:SEEDS])
        }
        return [Series(Key("s0", f"{len(members)} seeds", "var(--ink)"), run, members, seeds)]
    return [
        Series(Key(f"s{place}", label, colour_of(place), dash_of(place)), run, members, {})
        for place, (run, label, members) in enumerate(groups)
    ]


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """The folders' names; where two are equal, with the folder above."""
    paths = [run.path.resolve() for run in runs]
    names = [path.name for path in paths]
    return [
        path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}"
        for path in paths
    ]


class _Run(NamedTuple):
    """What the page says of one run alone."""

    name: str
    heading: str
    facts: list[tuple[str, str]]
    state: str
    data: Table
    settings: list[dict[str, str]]
    others: Table
    software: Table
    commands: list[tuple[str, str]]
    verdict: dict[str, Any] | None
    videos: list[dict[str, str]]


def _content(runs: list[RunFolder], path: Path, recompute: bool) -> dict[str, Any]:
    """What the template is filled with."""
    notes = [note for run in runs for note in _divergences(run, len(runs) > 1)]
    shown = series_of(runs)
    keys = _keys(shown)
    found: dict[Path, Diagnostics] = {}
    for run in runs:
        one, why = _diagnostics(run, recompute)
        if one is not None:
            found[run.path] = one
        if why:
            notes.append(f"{run.path.name}: {why}" if len(runs) > 1 else why)
    scores, tables, tiles, more = _scores(runs, shown, keys)
    notes += more
    groups = {"scores": scores, **_metrics(shown, keys), "data": _of_data(shown, keys, found)}
    if len(runs) == 1 and found:
        groups["data"].append(_returns(runs[0], found[runs[0].path]))
    names = _names(runs)
    single = runs[0].config if len(runs) == 1 else None
    title = f"{single.data.name}: {single.agent}" if single else f"{len(runs)} runs"
    everything = [figure for group in groups.values() for figure in group]
    ready = []
    for run, name in zip(runs, names, strict=True):
        one = found.get(run.path)
        verdict, why = off_policy(run)
        if why:
            notes.append(f"{name}: {why}" if len(runs) > 1 else why)
        ready.append(
            _Run(
                name=name,
                heading=f"{run.config.data.name}: {run.config.agent}",
                facts=_facts(run),
                state=state_of(run),
                data=data_card(run, one),
                settings=settings(run.config),
                others=_others(run),
                software=software(run),
                commands=_commands(run),
                verdict=verdict,
                videos=_videos(run, path),
            )
        )
    return {
        "title": title,
        "runs": ready,
        "tiles": tiles,
        "keys": _switches(shown),
        "several": len(shown) > 1,
        "faint": any(len(one.members) > 1 for one in shown),
        "groups": groups,
        "tables": tables,
        "figures": [figure.plain() for figure in everything],
        "notes": list(dict.fromkeys(notes)),
        "missing": _missing(groups, runs),
    }


def _keys(shown: Sequence[Series]) -> list[Key]:
    return [key for one in shown for key in (one.key, *one.seeds.values())]


def _switches(shown: Sequence[Series]) -> list[Key]:
    """What a reader can switch: the series, or of one of them its seeds."""
    if len(shown) > 1:
        return [one.key for one in shown]
    return list(shown[0].seeds.values())


def state_of(run: RunFolder) -> str:
    """Whether a run is complete, in a few words."""
    config = run.config
    rows = run.read_metrics()
    step = max([row.step for row in rows[-1:]], default=0)
    if len(run.read_frozen()) == len(config.members):
        return f"every member diverged by step {step:,}"
    if is_locked(run.path):
        return f"training: step {step:,} of {config.steps:,}"
    return "complete" if step >= config.steps else f"interrupted at step {step:,} of {config.steps:,}"


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    config = run.config
    seeds = sorted({one.seed for one in config.members})
    unit = "environment steps" if config.online else "updates"
    swept = ", ".join(config.members[0].changes)
    facts = [
        ("Agent", f"{config.agent}, preset {config.preset}"),
        ("Kind", config.kind),
        ("Steps", f"{config.steps:,} {unit}"),
        ("Seeds", ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{len(seeds)}"),
    ]
    if swept:
        facts.append(("Swept", swept))
    rows = run.read_metrics()
    if rows and "seconds" in rows[-1].values:
        facts.append(("Time", _duration(rows[-1].values["seconds"][0])))
    return facts


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _divergences(run: RunFolder, named: bool) -> list[str]:
    whose = f"{run.path.name}: " if named else ""
    notes = [
        f"{whose}member {one.member} diverged by step {one.noticed:,} and went on from step "
        f"{one.step:,} with learning rates divided by {SMALLER}."
        for one in run.read_rolled_back().values()
    ]
    return notes + [
        f"{whose}member {place} diverged: it is evaluated as it was at step {step:,}."
        for place, step in run.read_frozen().items()
    ]


def _diagnostics(run: RunFolder, recompute: bool) -> tuple[Diagnostics | None, str]:
    """A run's diagnostics, or the sentence that says why there are none."""
    config = run.config
    if config.online and config.finetune is None:
        return None, ""
    try:
        found = diagnostics.load(run)
        if found is not None or not recompute:
            return found, ""
        if latest_step(run.checkpoints) is None:
            return None, "What the networks make of the data is missing: there is no checkpoint."
        data = reopen(config, run.path)
        loaded = load_population(run)
        return diagnostics.diagnose(config, loaded.population, data, loaded.step), ""
    except (InputError, MissingExtra, OSError, MemoryError) as error:
        return None, f"What the networks make of the data is missing: {reason(error)}."


def _scores(
    runs: Sequence[RunFolder], shown: Sequence[Series], keys: Sequence[Key]
) -> tuple[list[Figure], list[Table], list[dict[str, str]], list[str]]:
    """Learning curves, tables of scores, the numbers in large type, and notes."""
    drawn: list[Figure] = []
    tables: list[Table] = []
    tiles: list[dict[str, str]] = []
    notes: list[str] = []
    tasks: dict[str, list[Series]] = {}
    for one in shown:
        if one.run.read_evaluations():
            tasks.setdefault(task_of(one.run), []).append(one)
    for place, (task, own) in enumerate(tasks.items()):
        rows = [row for one in own for row in one.run.read_evaluations()]
        quantity = quantity_of(rows)
        drawn.append(_learning_curve(f"score{place}", task, own, keys, quantity, len(tasks) > 1))
        tables.append(_evaluations_table(own, quantity, task))
    if len(runs) == 1:
        run = runs[0]
        rows = run.read_evaluations()
        if rows:
            found = results(rows, run.config.members)
            tables.insert(0, _results_table(found))
            best = max(found, key=lambda one: np.nan_to_num(one.last.interval.estimate, nan=-np.inf))
            for kind, summary in (("Last", best.last), ("Best", best.best)):
                words = f"{best.label}, " if best.changes else ""
                tiles.append(
                    {
                        "name": f"{kind} {UNITS[best.quantity].replace('% ', '')}",
                        "value": f"{summary.interval.estimate:.1f}"
                        + " %" * (best.quantity == "success"),
                        "interval": _bounds(summary.interval),
                        "note": f"{words}{summary.label}, {summary.interval.seeds} seeds × "
                        f"{summary.episodes} episodes"
                        + "; biased upwards" * (kind == "Best"),
                    }
                )
        level = _level(run, quantity_of(rows)) if rows else None
        if level is not None:
            value = {"name": "The data", "value": f"{level[0]:.1f}", "interval": ""}
            tiles.append({**value, "note": "mean over the logged episodes"})
    else:
        try:
            table = compare([run.path for run in runs])
            tables.insert(0, _comparison_table(table))
            if table.pairs:
                tables.insert(1, _pairs_table(table))
            notes += [*table.notes, *table.cautions]
        except InputError as error:
            notes.append(f"No table compares these runs: {error}.")
    if not tasks:
        notes.append("Nothing was evaluated: there are no scores.")
    return drawn, tables, tiles, notes


def _bounds(interval: Interval) -> str:
    text = format_interval(interval)
    return text[text.index("[") :]


def _learning_curve(
    name: str,
    task: str,
    own: Sequence[Series],
    keys: Sequence[Key],
    quantity: Quantity,
    titled: bool,
) -> Figure:
    lines: list[Line] = []
    seeds: list[Line] = []
    for one in own:
        rows = [row for row in one.run.read_evaluations() if row.member in set(one.members)]
        if not rows:
            continue
        steps, _, means = episode_means(
            [row.step for row in rows],
            [row.member for row in rows],
            [_value(row, quantity) for row in rows],
        )
        intervals = [stratified_bootstrap(means[:, [column]]) for column in range(len(steps))]
        lines.append(figures.score_line(one.key.key, steps, intervals))
        if len(means) > 1:
            seeds += [
                Line(one.key_of(place).key, steps, mean, faint=True)
                for place, mean in zip(one.members, means, strict=False)
            ]
    online = any(one.run.config.online for one in own)
    level = _level(own[0].run, quantity) if len({one.run.path for one in own}) == 1 else None
    return figures.curves(
        name,
        f"Score: {task}" if titled else "Score",
        "The interquartile mean over seeds and its 95 % bootstrap interval; thin lines are single "
        "seeds. The last step is the result."
        if seeds
        else "One seed: there is no interval. The last step is the result.",
        lines + (seeds if len(seeds) <= FAINT else []),
        keys,
        x="Environment steps" if online else "Gradient updates",
        y=AXES[quantity],
        domain=(0.0, 100.0) if quantity == "success" else None,
        level=level,
        wide=True,
        height=300,
    )


def _value(row: Any, quantity: Quantity) -> float:
    try:
        return value_of(row, quantity)
    except InputError:
        return float("nan")


def _level(run: RunFolder, quantity: Quantity) -> tuple[float, str] | None:
    """What the logged episodes reached, in the unit of the scores."""
    extent, reference = run.config.data.extent, run.config.data.reference
    if extent is None or quantity == "success":
        return None
    if quantity == "return":
        return extent.mean_return, "mean of the data"
    if reference is None:
        return None
    return float(normalised_score(extent.mean_return, reference)), "mean of the data"


def _results_table(found: Sequence[Any]) -> Table:
    swept = any(one.changes for one in found)
    return Table(
        "Scores",
        [*["settings"] * swept, "", "IQM [95 % interval]", "seeds", "episodes", "of"],
        [
            [
                *[one.label] * swept,
                kind,
                f"{format_interval(summary.interval)} {UNITS[one.quantity]}",
                str(summary.interval.seeds),
                str(summary.episodes),
                summary.label,
            ]
            for one in found
            for kind, summary in (("last", one.last), ("best", one.best))
        ],
    )


def _comparison_table(table: Any) -> Table:
    return Table(
        "Scores: IQM over seeds [95 % interval]",
        ["task", "method", "settings", "measure", "seeds", "last", "best", "last of"],
        [
            [
                row.task,
                row.method,
                row.settings,
                UNITS[row.quantity],
                str(len(row.seeds)),
                format_interval(row.last.iqm),
                format_interval(row.best.iqm),
                f"step {row.step:,}, {row.last.episodes} episodes",
            ]
            for row in table.rows
        ],
    )


def _pairs_table(table: Any) -> Table:
    return Table(
        "Probability that a run of the first method is better than one of the second, last step",
        ["task", "first", "second", "P(first > second)"],
        [[one.task, one.first, one.second, one.shown] for one in table.pairs],
    )


def _evaluations_table(own: Sequence[Series], quantity: Quantity, task: str) -> Table:
    """The numbers of the learning curves, for who cannot see them."""
    columns: list[dict[int, str]] = []
    for one in own:
        rows = [row for row in one.run.read_evaluations() if row.member in set(one.members)]
        column: dict[int, str] = {}
        if rows:
            steps, _, means = episode_means(
                [row.step for row in rows],
                [row.member for row in rows],
                [_value(row, quantity) for row in rows],
            )
            for place, step in enumerate(steps):
                column[step] = format_interval(stratified_bootstrap(means[:, [place]]))
        columns.append(column)
    every = sorted({step for column in columns for step in column})
    return Table(
        f"Every evaluation of {task}: {AXES[quantity].lower()}, IQM [95 % interval]",
        ["step", *(one.key.label for one in own)],
        [[f"{step:,}", *(column.get(step, "") for column in columns)] for step in every],
        folded=True,
    )


class Metric(NamedTuple):
    """How a metric is shown."""

    group: str
    title: str
    note: str
    y: str
    log: bool = False
    bound: str = ""
    """The hyperparameter that it is held at."""


def _metric_list(unit: str) -> dict[str, Metric]:
    """The metrics of `metrics.jsonl` that have a place of their own, in order."""
    of = f"in units of {unit}"
    first, second, rest = "temperature", "value", "loss"
    return {
        "beta": Metric(first, "Temperature β", "Of the soft maximum.", f"β, {of}", log=True),
        "kl": Metric(
            first,
            "KL from the data",
            "Of the soft maximum's weights; β is solved for it.",
            "KL (nats)",
            bound="beta_kl",
        ),
        "effective_sample_size": Metric(
            first,
            "Effective sample size",
            "Of a batch under the weights of the Gumbel loss; 1 is every transition alike.",
            "share of the batch",
        ),
        "inverse_temperature": Metric(
            first, "Inverse temperature κ", "Of the policy's weights.", "κ", log=True
        ),
        "policy_kl": Metric(
            first,
            "KL of the policy's weights",
            "From equal weights; κ is solved for it.",
            "KL (nats)",
            bound="policy_kl",
        ),
        "policy_effective_sample_size": Metric(
            first,
            "Effective sample size of the policy",
            "Of a batch under the weights of the policy's loss.",
            "share of the batch",
        ),
        "temperature": Metric(first, "Temperature α", "Of SAC's entropy.", "α", log=True),
        "entropy": Metric(first, "Entropy", "Of the policy.", "nats"),
        "training_return": Metric(
            second, "Return while training", "Last ten exploration episodes.", "return"
        ),
        "v": Metric(second, "Value V(s)", "Mean over the batch.", unit),
        "q": Metric(second, "Value Q(s, a)", "Mean over the batch.", unit),
        "bellman_error": Metric(
            second, "Bellman error", "Mean of |Q − target|.", unit, log=True
        ),
        "advantage": Metric(second, "Advantage", "Mean of Q − V.", unit),
        "mean_exp": Metric(
            second, "Mean of e^z", "z = (Q − V)/β; 1 where V is the soft maximum.", "mean of e^z"
        ),
        "log_prob": Metric(
            second, "Likelihood of the data", "Mean log π(a|s) of logged actions.", "nats"
        ),
        "value_loss": Metric(rest, "Loss of V", "", "loss", log=True),
        "critic_loss": Metric(rest, "Loss of Q", "", "loss", log=True),
        "policy_loss": Metric(rest, "Loss of the policy", "", "loss"),
        "flow_loss": Metric(rest, "Loss of the flow", "", "loss", log=True),
        "policy_q": Metric(rest, "Q of the policy's actions", "", unit),
        "bc_distance": Metric(rest, "Squared distance from logged actions", "", "distance²"),
        "weight": Metric(rest, "Weights of the policy's loss", "Their mean.", "weight"),
        "clip_fraction": Metric(rest, "Beyond the clip", "Share of the batch.", "share"),
    }


NOT_DRAWN = ("seconds", "breakdowns")


def _metrics(shown: Sequence[Series], keys: Sequence[Key]) -> dict[str, list[Figure]]:
    """Figures of the metrics, by the part of the page that they stand in."""
    runs = {one.run.path: one.run for one in shown}
    tables = {path: _matrices(run) for path, run in runs.items()}
    scaled = any(run.config.scaling.rewards not in ("raw", "auto") for run in runs.values())
    listed = _metric_list("scaled return" if scaled else "return")
    there = {name: None for table in tables.values() for name in table[1]}
    for name in there:
        if name not in listed and name not in NOT_DRAWN:
            listed[name] = Metric("loss", name.replace("_", " "), "", name.replace("_", " "))
    online = any(run.config.online for run in runs.values())
    groups: dict[str, list[Figure]] = {"temperature": [], "value": [], "loss": []}
    for name, metric in listed.items():
        if name not in there:
            continue
        lines, seeds = [], []
        for one in shown:
            steps, values = tables[one.run.path]
            if name not in values:
                continue
            own = values[name][one.members] if len(values[name]) > 1 else values[name]
            at, thin = thinned(steps, own, figures.POINTS if len(shown) <= 8 else 60)
            finite = np.isfinite(thin).any(0)
            mean = np.full(len(at), np.nan)
            mean[finite] = np.nanmean(thin[:, finite], axis=0)
            lines.append(Line(one.key.key, at, mean))
            if len(thin) > 1:
                seeds += [
                    Line(one.key_of(place).key, at, line, faint=True)
                    for place, line in zip(one.members, thin, strict=True)
                    if not one.seeds or place in one.seeds
                ]
        if not any(np.isfinite(line.values).any() for line in lines):
            continue
        bounds = {_bound(one.run.config.hyperparameters, metric.bound) for one in shown}
        level = None
        if metric.bound and len(bounds) == 1 and (bound := bounds.pop()) is not None:
            level = (bound, f"{metric.bound} = {bound:g}")
        groups[metric.group].append(
            figures.curves(
                f"metric-{len(groups[metric.group])}-{metric.group}",
                metric.title,
                metric.note,
                lines + (seeds if len(seeds) <= FAINT else []),
                keys,
                x="Environment steps" if online else "Gradient updates",
                y=metric.y,
                level=level,
                log=metric.log,
            )
        )
    return groups


def _bound(config: Any, name: str) -> float | None:
    value = getattr(config, name, None) if name else None
    return float(value) if isinstance(value, int | float) else None


def _matrices(run: RunFolder) -> tuple[list[int], dict[str, np.ndarray]]:
    """The steps, and of each metric a line for each member; nan where it was not logged."""
    rows = run.read_metrics()
    steps = [row.step for row in rows]
    names = {name: len(values) for row in rows for name, values in row.values.items()}
    found = {name: np.full((count, len(steps)), np.nan) for name, count in names.items()}
    for column, row in enumerate(rows):
        for name, values in row.values.items():
            if len(values) == len(found[name]):
                found[name][:, column] = [np.nan if one is None else one for one in values]
    return steps, found


def _samples(
    shown: Sequence[Series], found: dict[Path, Diagnostics], pooled: bool
) -> list[tuple[Key, Diagnostics, list[int]]]:
    """What to draw of the diagnostics: each series, or of a single one each seed."""
    parts = []
    for one in shown:
        if (own := found.get(one.run.path)) is None:
            continue
        kept = [place for place in one.members if place < len(own.differences)]
        if one.seeds and not pooled:
            parts += [(one.seeds[place], own, [place]) for place in kept if place in one.seeds]
        elif kept:
            parts.append((one.key, own, kept))
    return parts


def _of_data(
    shown: Sequence[Series], keys: Sequence[Key], found: dict[Path, Diagnostics]
) -> list[Figure]:
    """What the trained networks make of the data."""
    drawn = []
    pooled, apart = _samples(shown, found, True), _samples(shown, found, False)
    critics = [one for one in pooled if one[1].differences.size]
    if critics:
        drawn.append(_differences(critics, keys))
    valued = [one for one in apart if one[1].values.size]
    if valued:
        unit = " or ".join(dict.fromkeys(one[1].unit for one in valued))
        drawn.append(
            figures.values_against_returns(
                [
                    Sample(key.key, np.tile(own.returns, len(place)), own.values[place].ravel())
                    for key, own, place in valued
                ],
                keys,
                note="Points are logged states. Above the dashed line the networks expect more "
                "than what followed in the log, as they should where another action is better, "
                "or where the log was cut.",
                unit=unit,
            )
        )
    near = [one for one in apart if one[1].distances.size]
    if near:
        samples = [Sample(key.key, own.distances[place].ravel()) for key, own, place in near]
        logs = list({id(own): own for _, own, _ in near}.values())
        listed = [*keys]
        if len(logs) == 1:
            samples.append(Sample(figures.LOGGED.key, logs[0].logged))
            listed.append(figures.LOGGED)
        drawn.append(
            figures.action_distances(
                samples,
                [key for key in listed if any(key.key == one.key for one in samples)],
                note="How far the policy's action is from the nearest one that was logged in a "
                "similar state of another episode. Logged actions themselves are the dashed line: "
                "far to its right, values are extrapolated.",
            )
        )
    discrete = [one for one in apart if one[1].chosen.size]
    if discrete and len({len(own.taken) for _, own, _ in discrete}) == 1:
        samples = [Sample(key.key, own.chosen[place].mean(0)) for key, own, place in discrete]
        samples.append(Sample(figures.LOGGED.key, discrete[0][1].taken))
        listed = [*keys, figures.LOGGED]
        same = ", ".join(f"{own.agreement[place].mean():.0%}" for _, own, place in discrete[:6])
        drawn.append(
            figures.action_shares(
                samples,
                [key for key in listed if any(key.key == one.key for one in samples)],
                [str(number) for number in range(len(discrete[0][1].taken))],
                note=f"How often each action is taken. The policy does what was logged in {same} "
                "of the states.",
            )
        )
    return drawn


def _returns(run: RunFolder, own: Diagnostics) -> Figure:
    extent = run.config.data.extent
    mean = float(own.episode_returns.mean()) if extent is None else extent.mean_return
    note = "What the behaviour policy reached, not discounted; the dashed line is the mean."
    return figures.episode_returns(own.episode_returns, mean, note=note)


def _differences(critics: list[tuple[Key, Diagnostics, list[int]]], keys: Sequence[Key]) -> Figure:
    divided = all(len(own.beta) for _, own, _ in critics)
    samples = [Sample(key.key, own.differences[place].ravel()) for key, own, place in critics]
    samples = [one._replace(x=one.x[np.isfinite(one.x)]) for one in samples]
    fits = None
    if divided and len(samples) == 1:
        fits = _fits(samples[0].x)
    x = "z = (Q − V) / β" if divided else "Q − V"
    if fits is None:
        return figures.differences(
            [one for one in samples if len(one.x)] or [Sample("s0", np.zeros(1))],
            keys,
            None,
            title=f"Distribution of {x}",
            note="Of logged transitions.",
            x=x,
        )
    mean_exp = float(np.exp(np.minimum(samples[0].x, 50.0)).mean())
    note = (
        f"Of logged transitions, with four families fitted by likelihood; {fits.best.name} is the "
        f"nearest. The mean of e^z is {mean_exp:.3g}: 1 where V is the soft maximum of Q, whatever "
        "the distribution."
    )
    return figures.differences(samples, keys, fits, title=f"Distribution of {x}", note=note, x=x)


def _fits(values: np.ndarray) -> ErrorFits | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of scipy's searches
            return fit_errors(values[:10_000])
    except ValueError:
        return None


def _missing(groups: dict[str, list[Figure]], runs: Sequence[RunFolder]) -> dict[str, str]:
    """For a part without figures, why it has none."""
    said = {}
    if not groups["scores"]:
        said["scores"] = "Nothing was evaluated."
    if not groups["data"]:
        online = all(run.config.online and run.config.finetune is None for run in runs)
        said["data"] = (
            "An online run has no logged data to compare with."
            if online
            else "Nothing is kept of what the networks make of the data."
        )
    if not groups["temperature"]:
        said["temperature"] = "This agent logs no temperature."
    return said


def _others(run: RunFolder) -> Table:
    """The protocol: what is configured besides the hyperparameters."""
    config = run.config
    plan = config.evaluation
    rows = [
        ["rewards, observations", config.scaling.describe()],
        [
            "evaluation",
            f"{plan.evaluations} times, {plan.episodes} episodes; {plan.last_episodes} at the last "
            "step" + ("; ends at success" if plan.stop_at_success else ""),
        ],
        ["checkpoints", f"every {config.checkpoints.every}, the last {config.checkpoints.keep_last} "
         "stay"],
        ["environment", _environment(config.environment)],
    ]
    if config.loop is not None:
        loop = config.loop
        rows.append(
            [
                "loop",
                f"{loop.environments} environments, warm-up {loop.warmup:,} steps, "
                f"{loop.update_to_data:g} updates for each step, buffer {loop.buffer:,}",
            ]
        )
    if config.finetune is not None:
        tuned = config.finetune
        rows.append(["fine-tuned from", f"{tuned.run}, step {tuned.step:,}; replay {tuned.replay}"])
    return Table("Protocol", ["", ""], rows)


def _environment(text: str | None) -> str:
    if text is None:
        return "none: nothing was evaluated"
    try:
        return str(json.loads(text)["id"])
    except (ValueError, LookupError, TypeError):
        return text


def _commands(run: RunFolder) -> list[tuple[str, str]]:
    from xql.reports.page_tables import made_by, quoted

    commands = [
        ("Make it again and compare", f"xql reproduce {quoted(run.path.name)}"),
        ("Go on with it", f"xql resume {quoted(run.path.name)}"),
    ]
    if run.config.finetune is not None:
        del commands[0]
    first = made_by(run)
    return [("It was made by", first), *commands] if first else commands


def _videos(run: RunFolder, page: Path) -> list[dict[str, str]]:
    """The videos of a run's folder, the smallest in the page and the others linked."""
    found = []
    left = EMBEDDED
    for path in sorted(run.path.glob("*.mp4")):
        size = path.stat().st_size
        one = {"name": path.name, "data": "", "link": ""}
        if size <= left:
            left -= size
            content = base64.b64encode(path.read_bytes()).decode()
            one["data"] = f"data:video/mp4;base64,{content}"
        else:
            one["link"] = Path(os.path.relpath(path, page.resolve().parent)).as_posix()
        found.append(one)
    return found

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
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from xql.errors import InputError, MissingExtra, require
from xql.files import write_text
from xql.reports.page_figures import Figure, Key
from xql.reports.page_metrics import metrics_of
from xql.reports.page_networks import actions_of, networks_of, returns_of
from xql.reports.page_scores import said_of, scores_of
from xql.reports.page_series import Series, keys_of, names_of, series_of
from xql.reports.page_tables import (
    Table,
    counted,
    data_card,
    made_by,
    off_policy,
    quoted,
    settings,
    software,
)
from xql.runs.checkpoints import latest_step
from xql.runs.folder import SMALLER, RunFolder, run_folders
from xql.runs.lock import is_locked
from xql.runs.policy import load_population
from xql.training import diagnostics
from xql.training.diagnostics import Diagnostics
from xql.training.reopen import reopen
from xql.training.replay import read_replay
from xql.training.replay_diagnostics import diagnose_replay, recent_of

FILE = "report.html"
"""In a run's folder."""
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
        policy=BLOCKED.format(scripts=f"{_digest(bundle)} {_digest(own)}"),
    )
    write_text(path, text, "page")
    return path


def _templates() -> Any:
    """Jinja's environment: what a name holds, such as <script>, is text everywhere."""
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A browser reads no NaN.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False}
    return environment


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
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


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
    keys = keys_of(shown)
    found: dict[Path, Diagnostics] = {}
    for run in runs:
        one, why = _diagnostics(run, recompute)
        if one is not None:
            found[run.path] = one
        if why:
            notes.append(f"{run.path.resolve().name}: {why}" if len(runs) > 1 else why)
    scores, tables, tiles, more = scores_of(runs, shown, keys)
    notes += [_without_folders(one, runs) for one in more]
    groups = {"scores": scores, **metrics_of(shown, keys), "data": networks_of(shown, keys, found)}
    groups["actions"] = actions_of(shown, keys, found)
    if len(runs) == 1 and (own := found.get(runs[0].path)) and len(own.episode_returns):
        groups["data"].append(returns_of(runs[0], own))
    notes += _lacking(runs, found)
    names = names_of(runs)
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
        "tiles": [*tiles, *(one.verdict["tile"] for one in ready if one.verdict and single)],
        "first": not scores,
        "lead": _lead(found.values()),
        "keys": _switches(shown),
        "several": len(shown) > 1,
        "switched": "Runs" if len(runs) > 1 else "Settings" if len(shown) > 1 else "Seeds",
        "faint": any(len(one.members) > 1 for one in shown),
        "groups": groups,
        "tables": tables,
        "figures": [figure.plain() for figure in everything],
        "notes": list(dict.fromkeys(notes)),
        "missing": _missing(groups, runs),
    }


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
    plays = config.environment is not None and config.evaluation.last_episodes > 0
    evaluated = any(row.step == config.steps for row in run.read_evaluations())
    if step >= config.steps and (evaluated or not plays):
        return "complete"
    doing = "training:" if is_locked(run.path) else "interrupted at"
    return f"{doing} step {step:,} of {config.steps:,}"


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    config = run.config
    seeds = sorted({one.seed for one in config.members})
    unit = "environment steps" if config.online else "updates"
    swept = ", ".join(config.members[0].changes)
    facts = [
        ("Agent", f"{config.agent}, preset {config.preset}"),
        ("Kind", config.kind),
        ("Steps", f"{config.steps:,} {unit}"),
        (
            "Seed" + "s" * (len(seeds) > 1),
            ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{len(seeds)}",
        ),
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
    whose = f"{run.path.resolve().name}: " if named else ""
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
    online = config.online and (config.finetune is None or config.finetune.replay == "online")
    try:
        found = diagnostics.load(run)
        if found is not None or not recompute:
            return found, ""
        if online and not run.replay.is_file():
            return None, ""
        if latest_step(run.checkpoints) is None:
            return None, "What the networks make of the data is missing: there is no checkpoint."
        if online:
            recent = recent_of(config, read_replay(run.replay, config), oldest_first=True)
            last = load_population(run)
            return diagnose_replay(config, last.population, recent, last.step), ""
        data = reopen(config, run.path)
        loaded = load_population(run)
        return diagnostics.diagnose(config, loaded.population, data, loaded.step), ""
    except (InputError, MissingExtra, OSError, MemoryError) as error:
        return None, f"What the networks make of the data is missing: {said_of(error)}."


def _missing(groups: dict[str, list[Figure]], runs: Sequence[RunFolder]) -> dict[str, str]:
    """For a part without figures, why it has none."""
    said = {}
    if not groups["scores"]:
        said["scores"] = "Nothing was evaluated."
    if not groups["data"]:
        online = all(run.config.online and run.config.finetune is None for run in runs)
        said["data"] = (
            "An online run has no logged data to compare with. Its replay buffer is looked at when "
            "it ends, and later only where the run keeps it (`keep_replay`)."
            if online
            else "Nothing is kept of what the networks make of the data."
        )
    if not groups["temperature"]:
        logged = any(run.read_metrics() for run in runs)
        said["temperature"] = (
            "This agent logs no temperature." if logged else "Nothing has been logged yet."
        )
    return said


def _without_folders(text: str, runs: Sequence[RunFolder]) -> str:
    """Runs by their names: a page says nothing of where they lie."""
    for run, name in zip(runs, names_of(runs), strict=True):
        # As a word alone: a run may be given as "." or "a".
        path = rf"(?<![\w/.-]){re.escape(str(run.path))}(?![\w/-]|\.\w)"
        text = re.sub(path, lambda _, name=name: name, text)  # type: ignore[misc]
    return text


def _lead(found: Iterable[Diagnostics]) -> str:
    """What the figures of the networks are of."""
    sources = {one.source for one in found}
    if sources == {"replay"}:
        return "Of the last transitions in the replay buffer, at the last step."
    rest = ", or of the last transitions in the replay buffer" if "replay" in sources else ""
    return f"Of a sample of the logged transitions{rest}, at the last step."


def _lacking(runs: Sequence[RunFolder], found: Mapping[Path, Diagnostics]) -> list[str]:
    """What of an online run cannot be drawn, in a sentence for each agent."""
    agents = [
        run.config.agent
        for run in runs
        if (own := found.get(run.path)) and own.source == "replay" and not own.differences.size
    ]
    return [
        f"{one}: (Q − V) / β is not drawn, since this agent has no Gumbel loss and so no β."
        for one in dict.fromkeys(agents)
    ]


def _others(run: RunFolder) -> Table:
    """The protocol: what is configured besides the hyperparameters."""
    config = run.config
    plan, saved = config.evaluation, config.checkpoints
    rows = [
        ["rewards, observations", config.scaling.describe()],
        [
            "evaluation",
            f"{plan.evaluations} times, {plan.episodes} episodes; {plan.last_episodes} at the last "
            "step" + ("; ends at success" if plan.stop_at_success else ""),
        ],
        ["checkpoints", f"every {saved.every}, the last {saved.keep_last} stay"],
        ["environment", _environment(config.environment)],
    ]
    if config.loop is not None:
        loop = config.loop
        rows.append(
            [
                "loop",
                f"{counted(loop.environments, 'environment')}, warm-up {loop.warmup:,} steps, "
                f"{counted(loop.update_to_data, 'update')} for each step, buffer {loop.buffer:,}",
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
    commands = [
        ("Make it again and compare", f"xql reproduce {quoted(run.path.resolve().name)}"),
        ("Go on with it", f"xql resume {quoted(run.path.resolve().name)}"),
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

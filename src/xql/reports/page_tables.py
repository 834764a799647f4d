"""The tables of the HTML page: settings and where they come from, the data, the software."""

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xql.agents.hyperparameters import hyperparameters, to_dict
from xql.data.actions import Box
from xql.evaluation.statistics import format_interval as format_interval
from xql.runs import origin
from xql.runs.config import RunConfig
from xql.runs.folder import RunFolder
from xql.training.diagnostics import Diagnostics

OPE_FILE = "ope.json"
MOST_BYTES = 1 << 20


class Table(NamedTuple):
    """A caption, the names of the columns, and the cells."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = False
    """Whether a reader has to open it."""


def settings(config: RunConfig) -> list[dict[str, str]]:
    """Every hyperparameter that has an effect: its value, who chose it, and what it is."""
    known = hyperparameters(config.hyperparameters)
    swept: dict[str, list[float]] = {}
    for one in config.members:
        for name, value in one.changes.items():
            swept.setdefault(name, [])
            if value not in swept[name]:
                swept[name].append(value)
    rows = []
    for name, value in to_dict(config.hyperparameters).items():
        shown = ", ".join(f"{one:g}" for one in swept[name]) if name in swept else _shown(value)
        kind, detail = _source(config.sources.get(name), name in swept)
        doc = " ".join(known[name].doc.split()) if name in known else ""
        rows.append({"name": name, "value": shown, "kind": kind, "source": detail, "about": doc})
    for name in ("rewards", "observations"):
        kind, detail = _source(config.sources.get(name), False)
        about = f"How {name} are scaled before learning."
        shown = str(getattr(config.scaling, name))
        rows.append({"name": name, "value": shown, "kind": kind, "source": detail, "about": about})
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = "none" if value is None else str(value)
        return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else text
    return f"{value:g}"


def _source(source: Any, swept: bool) -> tuple[str, str]:
    """Who chose a value, in a word, and the rest of what is known of it."""
    if swept:
        return "you", "swept"
    if source is None:
        return "default", ""
    text = str(source)
    if text.startswith("given"):
        return "you", text.removeprefix("given").strip(" :")
    if text.startswith("preset"):
        return "preset", text.removeprefix("preset").strip()
    return "xql", text


def data_card(run: RunFolder, found: Diagnostics | None) -> Table:
    """What is known of the data, or of the environment that took its place."""
    config = run.config
    data, extent = config.data, config.data.extent
    rows = [["name", data.name]]
    if data.source not in ("arrays", "online"):
        # The folder says nothing to a reader elsewhere, and much of its owner.
        rows.append(["source", _without_folder(data.source)])
    if extent is not None:
        part = ""
        if data.whole is not None:
            part = f" of {data.whole.transitions:,} ({data.part})"
        rows += [
            ["transitions", f"{extent.transitions:,}{part}"],
            ["episodes", f"{extent.episodes:,}"],
            ["mean return", f"{extent.mean_return:,.4g}"],
        ]
    if found is not None and found.source == "log":
        least, first, middle, third, most = (f"{one:.4g}" for one in found.rewards)
        short, usual, long = np.quantile(found.episode_lengths, [0, 0.5, 1])
        rows += [
            ["rewards", f"{least} to {most}; quartiles {first}, {middle}, {third}"],
            ["lengths", f"{short:.0f} to {long:.0f} steps, median {usual:.0f}"],
            ["ends", f"{found.terminated:.0%} terminated, {found.truncated:.0%} truncated"],
        ]
    rows.append(["observations", counted(data.observation_size, "number")])
    if isinstance(data.actions, Box):
        rows.append(["actions", f"{counted(data.actions.size, 'number')} {_bounds(data.actions)}"])
    else:
        rows.append(["actions", f"one of {data.actions.size}"])
    if data.columns is not None:
        for part in ("observation", "action"):
            named = [one.name for one in getattr(data.columns, part)]
            rows.append([f"columns of the {part}", ", ".join(named)])
    if data.reference is not None:
        none, full = data.reference.minimum, data.reference.maximum
        about = f"0 at a return of {none:g}, 100 at {full:g} ({data.reference.source})"
        rows.append(["score", about])
    if data.fingerprint:
        rows.append(["fingerprint", data.fingerprint])
    return Table("Data", ["", ""], rows)


def counted(count: int | float, name: str) -> str:
    """Such as "1 number" and "1,000 numbers"."""
    return f"{count:,g} {name}" + "s" * (count != 1)


def _bounds(actions: Box) -> str:
    """The bounds of an action's numbers; those of each where they differ and are few."""
    each = list(zip(actions.low, actions.high, strict=True))
    if len(set(each)) == 1:
        each = each[:1]
    elif len(each) > 6:
        return f"within bounds from {min(actions.low):g} to {max(actions.high):g}"
    return "within " + ", ".join(f"[{low:g}, {high:g}]" for low, high in each)


def _without_folder(source: str) -> str:
    kind, colon, rest = source.partition(":")
    if kind == "minari":
        return source
    return f"{kind}:{Path(rest).name}" if colon else Path(source).name


def software(run: RunFolder) -> Table:
    """Versions and machine, of the process that trained the run last."""
    sessions = origin.read(run.path)
    rows = [["xql", run.config.xql]]
    if sessions:
        last = sessions[-1]
        git, packages = last.get("git"), last.get("packages")
        if isinstance(git, Mapping):
            changed = " with changes" if origin.is_uncommitted(last) else ""
            rows.append(["git revision", f"{str(git.get('revision'))[:12]}{changed}"])
        rows.append(["Python", str(last.get("python"))])
        if isinstance(packages, Mapping):
            rows += [[str(name), str(one)] for name, one in packages.items()]
        rows += [
            ["device", f"{last.get('devices')} × {last.get('device')}, {last.get('cores')} cores"],
            ["processor", str(last.get("processor"))],
            ["begun", str(sessions[0].get("time"))],
        ]
        if len(sessions) > 1:
            rows.append(["resumed", f"{len(sessions) - 1} times, last {last.get('time')}"])
    return Table("Software", ["", ""], [[name, text[:200]] for name, text in rows])


def made_by(run: RunFolder) -> str:
    """The command that made a run; "" where Python did, or it is not known."""
    sessions = origin.read(run.path)
    command = str(sessions[0].get("command", "")) if sessions else ""
    return command[:2000] if command.startswith("xql ") else ""


def quoted(name: str) -> str:
    """A folder's name, for a shell."""
    return shlex.quote(name)


def off_policy(run: RunFolder) -> tuple[dict[str, Any] | None, str]:
    """What `xql ope` said of a run, as far as it can be read; else the reason why not."""
    path = run.path / OPE_FILE
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES).decode())
        data = found.get("data") or {}
        estimates = [
            (name, _estimate(found.get(key)))
            for name, key in (
                ("policy", "policy"),
                ("behaviour policy", "behaviour"),
                ("difference", "difference"),
                ("episodes, as far as the log goes", "logged_return"),
            )
        ]
        verdict = str(found["verdict"])
        reason = "the interval of the difference contains 0"
        if data.get("episodes") == 1:
            reason = "there is one episode"
        said = {
            "better": "The policy is better than the one that acted in the log.",
            "worse": "The policy is worse than the one that acted in the log.",
        }.get(
            verdict,
            "It cannot be said whether the policy is better than the one that acted in the log: "
            f"{reason}.",
        )
        return {
            "verdict": verdict,
            "said": said,
            "table": Table(
                "Discounted returns",
                ["", "estimate", "95 % interval"],
                [[name, *cells] for name, cells in estimates if cells is not None],
            ),
            "support": _support(found.get("support"), found.get("critic")),
            "tile": _tile(verdict, estimates),
            "warnings": [str(one) for one in found.get("warnings") or []][:20],
            "about": f"Fitted Q evaluation of member {found.get('member', 0)} at step "
            f"{found.get('step', '?')} on {data.get('name', 'the data')}"
            + ("" if data.get("learned_from", True) else ", which it has not learned from")
            + f"; discount {found.get('discount', '?')}.",
        }, ""
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, f"{OPE_FILE} is damaged and left out: run xql ope again."


def _tile(verdict: str, estimates: list[tuple[str, list[str] | None]]) -> dict[str, str]:
    """The verdict as it stands beside the scores."""
    known = dict(estimates)
    value, behaviour = known.get("policy"), known.get("behaviour policy")
    beside = "" if behaviour is None else f"; behaviour policy {' '.join(behaviour)}"
    words = verdict if verdict in ("better", "worse") else "whether it is better cannot be said"
    return {
        "name": "From logged data",
        "value": "n/a" if value is None else value[0],
        "interval": "" if value is None else value[1],
        "note": f"discounted return, estimated: {words}{beside}",
    }


def _support(found: Any, critic: Any) -> Table:
    """How much the data says of the policy's actions, and of the critic that the run trained."""
    rows = []
    if isinstance(found, Mapping):
        rows = [
            [
                "distance from the usual action in similar states",
                f"{_number(found.get('distance'), 2)} × that of logged actions",
            ],
            [
                "states where it is unlike all actions logged in similar ones",
                f"{_percent(found.get('far'))} (the behaviour policy: about 5 %)",
            ],
            [
                "transitions that show what its actions lead to (effective sample size)",
                _percent(found.get("effective")),
            ],
        ]
    if isinstance(critic, Mapping):
        unit = str(critic.get("unit", ""))[:40]
        rows += [
            [
                "mean Q of the run's critic, beside the returns in the log",
                f"{_number(critic.get('value'))}, {_number(critic.get('returns'))} ({unit})",
            ],
            ["its temporal-difference error", _number(critic.get("error"))],
        ]
    return Table("How much the data says of it", ["measure", "of the policy"], rows)


def _percent(value: Any) -> str:
    finite = isinstance(value, int | float) and math.isfinite(value)
    return f"{100 * value:.3g} %" if finite else "n/a"


def _estimate(found: Any) -> list[str] | None:
    if not isinstance(found, Mapping):
        return None
    return [
        _number(found.get("estimate")),
        f"[{_number(found.get('low'))}, {_number(found.get('high'))}]",
    ]


def _number(value: Any, digits: int = 4) -> str:
    finite = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:.{digits}g}".replace("-", "−") if finite else "n/a"

"""What an exported policy says of itself: the same JSON in the file, beside it and in its card."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xql.data.actions import Discrete
from xql.data.columns import Column, TableColumns
from xql.data.dataset import Dataset
from xql.data.reading import parse_json
from xql.deploy.served import FORMAT
from xql.envs.given import name_in
from xql.errors import InputError, MissingExtra
from xql.evaluation.statistics import Summary
from xql.runs import origin
from xql.runs.folder import RunFolder
from xql.runs.summary import UNITS, member_means, quantity_of, results
from xql.training.reopen import Source, reopen

MARGIN = 0.05
"""How far beyond the range of the data a number is still familiar, in parts of the range."""
RARE = 10
"""Fewer observations than this do not make a category familiar."""


def about_policy(
    folder: RunFolder,
    index: int,
    step: int,
    kind: str | None,
    arrays: Mapping[str, np.ndarray],
    data: Source | None = None,
) -> dict[str, Any]:
    """What there is to say of one member of a run, in JSON's values.

    Args:
        folder: the run's.
        index: the member.
        step: of its checkpoint.
        kind: how the arrays are turned into an action (`xql.runs.as_arrays`).
        arrays: the policy's numbers, by name.
        data: the run's data, where it lies elsewhere now.
    """
    config = folder.config
    columns, actions = config.data.columns, config.data.actions
    discrete = isinstance(actions, Discrete)
    member = config.members[index]
    dataset, why_not = _own_data(folder, data)
    return {
        "format": FORMAT,
        "xql": config.xql,
        "run": folder.path.resolve().name,
        "agent": config.agent,
        "preset": config.preset,
        "member": index,
        "members": len(config.members),
        "seed": member.seed,
        "changes": dict(member.changes),
        "step": step,
        "steps": config.steps,
        "network": kind,
        "observation": {
            "size": config.data.observation_size,
            "names": None if columns is None else columns.names("observation"),
            "columns": None if columns is None else [_column(one) for one in columns.observation],
            "missing_values": None if columns is None else list(columns.missing_values),
            "seen": None if dataset is None else _ranges(dataset),
            "familiar": None if dataset is None else _familiar(dataset, columns),
        },
        "action": {
            "kind": "discrete" if discrete else "box",
            "size": actions.size,
            "low": None if isinstance(actions, Discrete) else list(actions.low),
            "high": None if isinstance(actions, Discrete) else list(actions.high),
            "names": None if columns is None else [one.name for one in columns.action],
            "columns": None if columns is None else [_column(one) for one in columns.action],
        },
        "data": {
            "name": config.data.name,
            "source": _without_folder(config.data.source),
            "subset": config.data.subset,
            "hold_out": config.data.hold_out,
            "transitions": config.data.extent and config.data.extent.transitions,
            "episodes": config.data.extent and config.data.extent.episodes,
            "mean_return": config.data.extent and _finite(config.data.extent.mean_return),
            "fingerprint": config.data.fingerprint,
            "license": None,
            "not_seen": why_not,
        },
        "environment": None if config.environment is None else name_in(config.environment),
        "scores": _scores(folder, index, step),
        "ope": _verdict(folder),
        "versions": _versions(folder),
        "sha256": digest(arrays),
    }


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of a policy's numbers, whatever format they are written in."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def as_json(about: Mapping[str, Any]) -> str:
    """The text of NAME.json."""
    return json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "categories": list(column.categories),
        "offset": column.offset,
    }


def _own_data(folder: RunFolder, data: Source | None) -> tuple[Dataset | None, str | None]:
    """The data that the run learned from, or why it is not there."""
    if folder.config.online and folder.config.finetune is None:
        return None, "it learned in an environment, from no logged data"
    try:
        return reopen(folder.config, folder.path, data), None
    except (InputError, MissingExtra) as error:
        if data is not None:
            raise
        return None, error.what if isinstance(error, InputError) else str(error)


def _ranges(dataset: Dataset) -> dict[str, list[float]]:
    """What each number of an observation was in the data: its ends, and where 98 % lie."""
    rows = dataset.observations
    few = rows[:: max(1, len(rows) // 100_000)]
    return {
        "low": rows.min(axis=0).tolist(),
        "high": rows.max(axis=0).tolist(),
        "low_1_percent": np.quantile(few, 0.01, axis=0).astype(np.float32).tolist(),
        "high_99_percent": np.quantile(few, 0.99, axis=0).astype(np.float32).tolist(),
    }


def _familiar(dataset: Dataset, columns: TableColumns | None) -> list[dict[str, Any]]:
    """The range of each number that is like the data; of a rare category it is 0 to 0."""
    rows, size = dataset.observations, dataset.observation_size
    low, high = (end.astype(np.float64) for end in (rows.min(axis=0), rows.max(axis=0)))
    low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
    names, offsets = [f"number {place}" for place in range(size)], [0.0] * size
    if columns is not None:
        names, offsets = columns.names("observation"), []
        for column in columns.observation:
            places = slice(len(offsets), len(offsets) + column.size)
            offsets += [column.offset] * column.size
            if column.categories:
                high[places] = rows[:, places].sum(axis=0) >= RARE
                low[places] = 0.0
    found = zip(names, offsets, low.tolist(), high.tolist(), strict=True)
    return [dict(zip(("name", "offset", "low", "high"), one, strict=True)) for one in found]


def _without_folder(source: str) -> str:
    """A file's name without its folder, which is of the machine that trained."""
    kind, colon, rest = source.partition(":")
    if kind == "minari" or (not colon and source in ("arrays", "online")):
        return source
    path, question, query = (rest if colon else source).partition("?")
    return f"{kind + colon if colon else ''}{Path(path).name}{question}{query}"


def _scores(folder: RunFolder, index: int, step: int) -> dict[str, Any] | None:
    """The member's own mean at its step, and the run's last and best over its seeds."""
    rows, members = folder.read_evaluations(), folder.config.members
    if not rows:
        return None
    quantity = quantity_of(rows)
    mine = [one for one in results(rows, members) if one.changes == dict(members[index].changes)]
    own = [row for row in rows if (row.step, row.member) == (step, index)]
    return {
        "quantity": quantity,
        "unit": UNITS[quantity],
        "this_policy": None
        if not own
        else {
            "mean": _finite(member_means(own, quantity)[index]),
            "step": step,
            "episodes": len(own),
        },
        "last": _summary(mine[0].last) if mine else None,
        "best": _summary(mine[0].best) if mine else None,
    }


def _summary(summary: Summary) -> dict[str, Any]:
    interval = summary.interval
    return {
        "estimate": _finite(interval.estimate),
        "low": _finite(interval.low),
        "high": _finite(interval.high),
        "seeds": interval.seeds,
        "episodes": summary.episodes,
        "label": summary.label,
    }


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _verdict(folder: RunFolder) -> dict[str, Any] | None:
    """What `xql ope` left in the run's folder, if it did.

    Raises:
        InputError: it is damaged.
    """
    path = folder.path / "ope.json"
    try:
        found = parse_json(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"this file is damaged ({error})", where=str(path), hint="remove it, or run xql ope"
        ) from None
    data = found.get("data")
    if isinstance(data, dict) and isinstance(data.get("source"), str):
        found["data"] = {**data, "source": _without_folder(data["source"])}
    return found


def _versions(folder: RunFolder) -> dict[str, str]:
    """The packages that trained it, as origin.json has them."""
    sessions = origin.read(folder.path)
    packages = sessions[-1].get("packages") if sessions else None
    return {str(k): str(v) for k, v in packages.items()} if isinstance(packages, dict) else {}

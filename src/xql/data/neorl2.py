"""NeoRL-2's files (`neorl2:FILE.npz`).

One row per transition: `obs`, `action`, `next_obs`, `reward`, `done` (a termination) and
`truncated` (a time limit). A task has one file to train on and one to validate on; their names end
in `-train.npz` and `-val.npz`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from xql.data.dataset import Dataset
from xql.data.schema import require_columns, steps_from, unit_bounds
from xql.data.stored import Readable
from xql.data.tables import open_columns

_COLUMNS = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "done": "terminated",
    "truncated": "truncated",
    "next_obs": "next_observations",
}
_TASKS = {
    "Pipeline": None,
    "Simglucose": None,
    "RocketRecovery": None,
    "RandomFrictionHopper": None,
    "DMSD": "xql/DMSD-v0",
    "Fusion": None,
    "SafetyHalfCheetah": "xql/SafetyHalfCheetah-v0",
}
"""The simulator of each task, where there is one here."""

_NAME = re.compile(r"(?P<task>.+?)(-\d+)?-(?P<part>train|val)")


def open_neorl2(path: Path, keys: tuple[str, ...] | None = None, *, finite: bool = True) -> Dataset:
    """Open a file in NeoRL-2's layout.

    Returns:
        The data; its `name` is "neorl2/TASK" ("neorl2/TASK-val" of a validation file) where the
        file is called as NeoRL-2 calls it. `Dataset.metadata["validation_source"]` opens the
        validation file, where there is one beside the file to train on.

    Raises:
        InputError: the file is missing, truncated, lacks a column, or holds a NaN.
    """
    with open_columns(path, _COLUMNS) as columns:
        return _dataset(columns, path, keys, finite=finite)


def _dataset(
    columns: Mapping[str, Readable], path: Path, keys: tuple[str, ...] | None, *, finite: bool
) -> Dataset:
    where = str(path)
    require_columns(columns, _COLUMNS, where)
    renamed = {}
    for name, values in columns.items():
        first, *parts = name.split("/")
        if first in _COLUMNS:
            renamed["/".join([_COLUMNS[first], *parts])] = values
    flags = ("terminated", "truncated")
    steps = steps_from(renamed, flags=flags, where=where, keys=keys, finite=finite)
    name, environment = _task(path.stem)
    validation = _validation(path)
    return Dataset.from_arrays(
        steps["observations"],
        steps["actions"],
        steps["rewards"],
        steps["terminated"],
        steps["truncated"] & ~steps["terminated"],
        steps["next_observations"],
        goes_on=steps["goes_on"],
        name=name,
        source=f"neorl2:{path}",
        **unit_bounds(steps["actions"]),
        environment=environment,
        metadata={} if validation is None else {"validation_source": f"neorl2:{validation}"},
    )


def _task(stem: str) -> tuple[str, str | None]:
    """What the data of a file is called, and the id of its environment."""
    match = _NAME.fullmatch(stem)
    task = match["task"].removesuffix("-high") if match else ""
    if match is None or task not in _TASKS:
        return stem, None
    return f"neorl2/{task}{'-val' if match['part'] == 'val' else ''}", _TASKS[task]


def _validation(path: Path) -> Path | None:
    """The one file beside `path` that validates what is trained on it; None if not just one is."""
    match = _NAME.fullmatch(path.stem)
    if match is None or match["part"] != "train":
        return None
    pattern = re.compile(rf"{re.escape(match['task'])}(-\d+)?-val")
    found = [
        file
        for file in path.parent.glob("*-val.*")
        if file.suffix == path.suffix and pattern.fullmatch(file.stem)
    ]
    return found[0] if len(found) == 1 else None

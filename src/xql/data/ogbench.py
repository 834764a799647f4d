"""OGBench's files (`ogbench:FILE.npz`).

As published, a trajectory of T steps fills T + 1 rows and `terminals` marks its last row, which
holds the last observation and no transition; a trajectory's end is a time limit, never a
termination. Only `masks`, where a file has them (the single-task sets), say that the process ended.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xql.data.dataset import Dataset
from xql.data.schema import require_columns, steps_from, unit_bounds
from xql.data.stored import Readable, taken
from xql.data.tables import open_columns


def open_ogbench(
    path: Path, keys: tuple[str, ...] | None = None, *, finite: bool = True
) -> Dataset:
    """Open a file in OGBench's layout: observations, actions, terminals; perhaps masks, rewards.

    With `next_observations` (OGBench's regular layout) every row is a transition and `terminals`
    marks the last one of each trajectory; without, see above. Without `rewards`, they are all zero
    and `Dataset.metadata["rewards"]` says so.

    Raises:
        InputError: the file is missing, truncated, lacks a column, or holds a NaN.
    """
    wanted = ["observations", "actions", "rewards", "terminals", "masks", "next_observations"]
    with open_columns(path, wanted) as columns:
        return _dataset(columns, path, keys, finite=finite)


def _dataset(
    columns: Mapping[str, Readable], path: Path, keys: tuple[str, ...] | None, *, finite: bool
) -> Dataset:
    require_columns(columns, ("observations", "actions", "terminals"), str(path))
    metadata = {}
    if "rewards" not in columns:
        nothing = np.zeros(len(columns["actions"]), np.float32)
        columns = {**columns, "rewards": nothing}
        metadata["rewards"] = "the file has none: all zero"
    steps = steps_from(
        columns, flags=("terminals", "masks"), where=str(path), keys=keys, finite=finite
    )
    observations, actions, rewards = (steps[key] for key in ("observations", "actions", "rewards"))
    ends = steps["terminals"]
    terminated = ~steps["masks"] if "masks" in steps else np.zeros(len(ends), bool)
    following, goes_on = steps.get("next_observations"), steps.get("goes_on")
    continuity = "stated"
    if following is None:
        # The row after the last transition is the trajectory's last observation; so is the row of
        # a log that stops without a flag.
        kept = ~ends
        kept[-1:] = False
        rows = np.flatnonzero(kept)
        following = taken(observations, rows + 1)
        observations, actions = taken(observations, rows), taken(actions, rows)
        rewards, terminated, ends = rewards[rows], terminated[rows], ends[rows + 1]
        goes_on = np.diff(rows, append=-1) == 1
        continuity = "recorded"
    return Dataset.from_arrays(
        observations,
        actions,
        rewards,
        terminated,
        ends & ~terminated,
        following,
        goes_on=goes_on,
        continuity=continuity,
        name=path.stem,
        source=f"ogbench:{path}",
        **unit_bounds(steps["actions"]),
        metadata=metadata,
    )

"""OGBench's files (`ogbench:FILE.npz`).

As published, a trajectory of T steps fills T + 1 rows and `terminals` marks its last row, which
holds the last observation and no transition; a trajectory's end is a time limit, never a
termination. Only `masks`, where a file has them (the single-task sets), say that the process ended.
"""

from pathlib import Path

import numpy as np

from xql.data.dataset import Dataset
from xql.data.schema import require_columns, steps_from, unit_bounds
from xql.data.tables import read_columns


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
    columns = read_columns(path, wanted)
    require_columns(columns, ("observations", "actions", "terminals"), str(path))
    metadata = {}
    if "rewards" not in columns:
        columns["rewards"] = np.zeros(len(columns["actions"]), np.float32)
        metadata["rewards"] = "the file has none: all zero"
    steps = steps_from(
        columns, flags=("terminals", "masks"), where=str(path), keys=keys, finite=finite
    )
    ends = steps["terminals"]
    kept = np.ones(len(ends), bool)
    following = steps.get("next_observations")
    if following is None:
        # The row after the last transition is the trajectory's last observation; so is the row of
        # a log that stops without a flag.
        kept = ~ends
        kept[-1:] = False
        following = np.roll(steps["observations"], -1, axis=0)
        ends = np.roll(ends, -1)
    terminated = ~steps["masks"] if "masks" in steps else np.zeros(len(ends), bool)
    return Dataset.from_arrays(
        steps["observations"][kept],
        steps["actions"][kept],
        steps["rewards"][kept],
        terminated[kept],
        (ends & ~terminated)[kept],
        following[kept],
        goes_on=steps.get("goes_on"),
        continuity="stated" if "goes_on" in steps else "recorded",
        name=path.stem,
        source=f"ogbench:{path}",
        **unit_bounds(steps["actions"]),
        metadata=metadata,
    )

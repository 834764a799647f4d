"""D4RL's own files (`d4rl:FILE.hdf5`), read with h5py alone.

`terminals` say that the process ended (mask 0), `timeouts` that a time limit was reached. A timeout
is the end of an episode only where the log really breaks off there: some files (door-human and its
kin, Maze2D) go on with the same trajectory in the very next row, and cutting there would throw
away demonstrations' second halves as separate episodes. So a timeout counts only if

- the file stores `next_observations` and it is not the next row's observation; or, without one,
- the state moves further than in 999 of 1000 ordinary steps (those with no flag near), or than
  three times what 99 of 100 ordinary steps do. The state is `infos/qpos` where the file has it,
  since positions, unlike velocities, jump only at a reset; otherwise the observation, each column
  in units of its ordinary step.

Some early files (AntMaze v0) set the flag one row off, so the jump may also be in the row before or
after the flag; the episode then ends at the jump.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped

from xql.data.dataset import Dataset, follows
from xql.data.schema import require_columns, steps_from
from xql.data.tables import read_columns

_NAMES = (  # the file names that D4RL publishes under, and the dataset that each one holds
    (r"(pen|hammer|door|relocate)-v(\d)_demos_clipped", r"\1-human-v\2"),
    (r"(pen|hammer|door|relocate)-v(\d)_expert_clipped", r"\1-expert-v\2"),
    (r"(pen|hammer|door|relocate)-demos-v(\d)-bc-combined", r"\1-cloned-v\2"),
    (r"(halfcheetah|hopper|walker2d|ant)_(\w+)-v(\d)", r"\1-\2-v\3"),
)


def open_d4rl(path: Path, keys: tuple[str, ...] | None = None) -> Dataset:
    """Open a file in D4RL's layout: observations, actions, rewards, terminals, perhaps timeouts.

    Returns:
        The data; its `name` is D4RL's (from the file's name), its action bounds are D4RL's [-1, 1].

    Raises:
        InputError: the file is missing, truncated, lacks a column, or holds a NaN.
    """
    required = ("observations", "actions", "rewards", "terminals")
    columns = read_columns(path, [*required, "timeouts", "next_observations", "infos/qpos"])
    require_columns(columns, required, str(path))
    steps = steps_from(
        {name: values for name, values in columns.items() if not name.startswith("infos/")},
        flags=("terminals", "timeouts"),
        where=str(path),
        keys=keys,
    )
    terminated = steps["terminals"]
    truncated = steps.get("timeouts", np.zeros(len(terminated), bool)) & ~terminated
    if truncated.any():
        truncated = episode_ends(terminated, truncated, steps, columns.get("infos/qpos"))
    bounded = bool((np.abs(steps["actions"]) <= 1.0).all())
    bound = np.ones(steps["actions"].shape[1], np.float32)
    return Dataset.from_arrays(
        steps["observations"],
        steps["actions"],
        steps["rewards"],
        terminated,
        truncated,
        steps.get("next_observations"),
        name=d4rl_name(path),
        source=f"d4rl:{path}",
        action_low=-bound if bounded else None,
        action_high=bound if bounded else None,
    )


def d4rl_name(path: Path) -> str:
    """D4RL's name for the data in a file, such as "door-human-v0"."""
    stem = path.stem.removeprefix("d4rl-")
    for pattern, name in _NAMES:
        if re.fullmatch(pattern, stem):
            return re.sub(pattern, name, stem).replace("_", "-")
    return stem


def episode_ends(
    terminated: Bool[np.ndarray, " steps"],
    timeouts: Bool[np.ndarray, " steps"],
    steps: Mapping[str, np.ndarray],
    positions: Shaped[np.ndarray, "steps position"] | None,
) -> Bool[np.ndarray, " steps"]:
    """The steps at which a time limit really ended an episode (the rule is in this file's head)."""
    ends = np.zeros(len(timeouts), bool)
    ends[-1] = timeouts[-1]
    observations, following = steps["observations"], steps.get("next_observations")
    if following is not None:
        ends[:-1] = timeouts[:-1] & ~follows(following[:-1], observations[1:])
        return ends
    flagged = np.flatnonzero(timeouts[:-1])
    if len(flagged) == 0:
        return ends
    near = np.zeros(len(timeouts), bool)
    for shift in (-1, 0, 1):
        near[np.clip(flagged + shift, 0, len(near) - 1)] = True
    ordinary = ~(near | terminated)[:-1]
    if not ordinary.any():
        return timeouts
    state = observations if positions is None else positions.reshape(len(positions), -1)
    moved = displacement(state, ordinary, scaled=positions is None)
    limit = min(np.quantile(moved[ordinary], 0.999), 3.0 * np.quantile(moved[ordinary], 0.99))
    for shift in (-1, 0, 1):
        rows = flagged + shift
        rows = rows[(rows >= 0) & (rows < len(moved))]
        ends[rows[(moved[rows] > limit) & ~terminated[rows]]] = True
    return ends


def displacement(
    state: Shaped[np.ndarray, "steps state"], ordinary: Bool[np.ndarray, " moves"], *, scaled: bool
) -> Float[np.ndarray, " moves"]:
    """How far the state moves from each row to the next (one row fewer than `state`).

    With `scaled`, each column counts in units of its root mean square over the ordinary moves.
    """
    total = np.zeros(len(state) - 1)
    for column in state.T:  # by column: a full difference in float64 would triple the memory
        move = np.square(np.diff(column.astype(np.float64)))
        scale = move[ordinary].mean() if scaled else 1.0
        total += move / scale if scale > 0 else np.where(move > 0, np.inf, 0.0)
    return np.sqrt(total)

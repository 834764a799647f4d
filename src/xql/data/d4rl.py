"""D4RL's own files (`d4rl:FILE.hdf5`), read with h5py alone.

`terminals` say that the process ended (mask 0), `timeouts` that a time limit was reached. A timeout
is the end of an episode only where the log really breaks off there: some files (door-human and its
kin, Maze2D) go on with the same trajectory in the very next row, and cutting there would throw
away demonstrations' second halves as separate episodes. So a timeout counts only if

- the file stores `next_observations` and it is not the next row's observation; or, without one,
- the state moves further than in 999 of 1000 ordinary steps (those with no flag near), or than
  three times what 99 of 100 ordinary steps do. The state is `infos/qpos` where the file has it
  and all of it is finite, since positions, unlike velocities, jump only at a reset; otherwise the
  observation, each column in units of its ordinary step.

Some early files (AntMaze v0) set the flag one row off, so the jump may also be in the row before or
after the flag; the episode then ends at the jump.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from xql.data.dataset import Dataset, same_length
from xql.data.moves import displacement
from xql.data.schema import check_numbers, require_columns, steps_from, unit_bounds
from xql.data.stored import Readable, flat
from xql.data.tables import open_columns

_LEVELS = "random|medium|expert|medium_expert|medium_replay|random_expert"
_SIZES = r"(?:eval-)?(?:open|umaze|medium|large)"
_ANT = "Ant_maze_{}_noisy_multistart_{}_multigoal_{}_sparse"
_NAMES = (  # the file names that D4RL publishes under, and the dataset that each one holds
    (r"(pen|hammer|door|relocate)-v(\d)_demos_clipped", r"\1-human-v\2"),
    (r"(pen|hammer|door|relocate)-v(\d)_expert_clipped", r"\1-expert-v\2"),
    (r"(pen|hammer|door|relocate)-demos-v(\d)-bc-combined", r"\1-cloned-v\2"),
    (rf"((?:bullet-)?(?:halfcheetah|hopper|walker2d|ant))_({_LEVELS})", r"\1-\2-v0"),
    (rf"(halfcheetah|hopper|walker2d|ant)_({_LEVELS})-v(\d)", r"\1-\2-v\3"),
    (r"(halfcheetah|hopper|ant)_mixed", r"\1-medium-replay-v0"),
    (r"walker_mixed", "walker2d-medium-replay-v0"),
    (rf"((?:bullet-)?maze2d-{_SIZES})-sparse", r"\1-v0"),
    (rf"(maze2d-{_SIZES})-dense", r"\1-dense-v0"),
    (rf"(maze2d-{_SIZES})-sparse-v1", r"\1-v1"),
    (rf"(maze2d-{_SIZES})-dense-v1", r"\1-dense-v1"),
    # D4RL's v1 and v2 share the file called fixed; its own table lists it as v2.
    *[
        (_ANT.format(maze, start, goal) + suffix, f"antmaze-{name}-{version}")
        for suffix, version in (("", "v0"), ("_fixed", "v2"))
        for maze, start, goal, name in (
            ("u-maze", False, False, "umaze"),
            ("u-maze", True, True, "umaze-diverse"),
            ("big-maze", True, False, "medium-play"),
            ("big-maze", True, True, "medium-diverse"),
            ("hardest-maze", True, False, "large-play"),
            ("hardest-maze", True, True, "large-diverse"),
        )
    ],
    ("mini_kitchen_microwave_kettle_light_slider-v0", "kitchen-complete-v0"),
    ("kitchen_microwave_kettle_light_slider-v0", "kitchen-partial-v0"),
    ("kitchen_microwave_kettle_bottomburner_light-v0", "kitchen-mixed-v0"),
    ("minigrid4rooms", "minigrid-fourrooms-v0"),
    ("minigrid4rooms_random", "minigrid-fourrooms-random-v0"),
    (r"flow-(ring|merge)-v0-random", r"flow-\1-random-v0"),
    (r"flow-(ring|merge)-v0-idm", r"flow-\1-controller-v0"),
    ("carla_lane_follow_flat-v0", "carla-lane-v0"),
    ("carla_town_subsamp_flat-v0", "carla-town-v0"),
    ("carla_town_flat-v0", "carla-town-full-v0"),
)


def open_d4rl(path: Path, keys: tuple[str, ...] | None = None, *, finite: bool = True) -> Dataset:
    """Open a file in D4RL's layout: observations, actions, rewards, terminals, perhaps timeouts.

    Returns:
        The data; its `name` is D4RL's (from the file's name), its action bounds are D4RL's [-1, 1].

    Raises:
        InputError: the file is missing, truncated, lacks a column, or holds a NaN.
    """
    wanted = [*_REQUIRED, "timeouts", "next_observations", "infos/qpos"]
    with open_columns(path, wanted) as columns:
        return _dataset(columns, path, keys, finite=finite)


_REQUIRED = ("observations", "actions", "rewards", "terminals")


def _dataset(
    columns: Mapping[str, Readable], path: Path, keys: tuple[str, ...] | None, *, finite: bool
) -> Dataset:
    require_columns(columns, _REQUIRED, str(path))
    steps = steps_from(
        {name: values for name, values in columns.items() if not name.startswith("infos/")},
        flags=("terminals", "timeouts"),
        where=str(path),
        keys=keys,
        finite=finite,
    )
    positions = columns.get("infos/qpos")
    if positions is not None:
        check_numbers(positions, "infos/qpos", str(path))
        same_length({"observations": steps["observations"], "infos/qpos": positions}, str(path))
    terminated = steps["terminals"]
    truncated = steps.get("timeouts", np.zeros(len(terminated), bool)) & ~terminated
    if truncated.any():
        truncated = episode_ends(terminated, truncated, steps, positions)
    return Dataset.from_arrays(
        steps["observations"],
        steps["actions"],
        steps["rewards"],
        terminated,
        truncated,
        steps.get("next_observations"),
        goes_on=steps.get("goes_on"),
        name=d4rl_name(path),
        source=f"d4rl:{path}",
        **unit_bounds(steps["actions"]),
    )


def d4rl_name(path: Path) -> str:
    """D4RL's name for the data in a file, such as "door-human-v0"."""
    stem = path.stem.removeprefix("d4rl-")
    for pattern, name in _NAMES:
        match = re.fullmatch(pattern, stem)
        if match:
            return match.expand(name).replace("_", "-")
    return stem


def episode_ends(
    terminated: Bool[np.ndarray, " steps"],
    timeouts: Bool[np.ndarray, " steps"],
    steps: Mapping[str, Any],
    positions: Readable | None,
) -> Bool[np.ndarray, " steps"]:
    """The steps at which a time limit really ended an episode (the rule is in this file's head)."""
    ends = np.zeros(len(timeouts), bool)
    ends[-1] = timeouts[-1]
    if "goes_on" in steps:
        ends[:-1] = timeouts[:-1] & ~steps["goes_on"][:-1]
        return ends
    observations = steps["observations"]
    flagged = np.flatnonzero(timeouts[:-1])
    if len(flagged) == 0:
        return ends
    near = np.zeros(len(timeouts), bool)
    for shift in (-1, 0, 1):
        near[np.clip(flagged + shift, 0, len(near) - 1)] = True
    ordinary = ~(near | terminated)[:-1]
    if not ordinary.any():
        return timeouts
    moved = None if positions is None else displacement(flat(positions), ordinary, scaled=False)
    if moved is None or not np.isfinite(moved).all():
        moved = displacement(observations, ordinary, scaled=True)
    limit = min(np.quantile(moved[ordinary], 0.999), 3.0 * np.quantile(moved[ordinary], 0.99))
    for shift in (-1, 0, 1):
        rows = flagged + shift
        rows = rows[(rows >= 0) & (rows < len(moved))]
        ends[rows[(moved[rows] > limit) & ~terminated[rows]]] = True
    return ends

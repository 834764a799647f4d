"""Every file that D4RL publishes, and the dataset that its own table says the file holds."""

from pathlib import Path
from typing import Any

import pytest

from xql.data.d4rl import d4rl_name

# File names and ids as in `DATASET_URLS` of D4RL's d4rl/infos.py (commit 0ace16d): facts only.
ADROIT = [
    pair
    for task in ("pen", "hammer", "relocate", "door")
    for pair in (
        (f"{task}-v0_demos_clipped", f"{task}-human-v0"),
        (f"{task}-demos-v0-bc-combined", f"{task}-cloned-v0"),
        (f"{task}-v0_expert_clipped", f"{task}-expert-v0"),
    )
]
MUJOCO = [
    (f"{task}_{level}", f"{task}-{level.replace('_', '-')}-v0")
    for task in ("halfcheetah", "walker2d", "hopper", "ant")
    for level in ("random", "medium", "expert", "medium_expert")
]
BULLET = [
    (f"bullet-{task}_{level}", f"bullet-{task}-{level.replace('_', '-')}-v0")
    for task in ("halfcheetah", "walker2d", "hopper", "ant")
    for level in ("random", "medium", "expert", "medium_expert", "medium_replay")
]
MAZE = [
    (f"maze2d-{maze}-{file}-v1", f"maze2d-{maze}-{name}v1")
    for maze in ("umaze", "medium", "large", "eval-umaze", "eval-medium", "eval-large")
    for file, name in (("sparse", ""), ("dense", "dense-"))
]
PUBLISHED = [
    *ADROIT,
    *MUJOCO,
    ("ant_random_expert", "ant-random-expert-v0"),
    ("halfcheetah_mixed", "halfcheetah-medium-replay-v0"),
    ("walker_mixed", "walker2d-medium-replay-v0"),
    ("hopper_mixed", "hopper-medium-replay-v0"),
    ("ant_mixed", "ant-medium-replay-v0"),
    *BULLET,
    ("bullet-maze2d-open-sparse", "bullet-maze2d-open-v0"),
    ("bullet-maze2d-umaze-sparse", "bullet-maze2d-umaze-v0"),
    ("bullet-maze2d-medium-sparse", "bullet-maze2d-medium-v0"),
    ("bullet-maze2d-large-sparse", "bullet-maze2d-large-v0"),
    *MAZE,
    ("maze2d-open-sparse", "maze2d-open-v0"),
    ("maze2d-open-dense", "maze2d-open-dense-v0"),
    ("minigrid4rooms", "minigrid-fourrooms-v0"),
    ("minigrid4rooms_random", "minigrid-fourrooms-random-v0"),
    *[
        (f"Ant_maze_{maze}_noisy_multistart_{start}_multigoal_{goal}_sparse{file}", f"{name}-{v}")
        for file, v in (("", "v0"), ("_fixed", "v2"))
        for maze, start, goal, name in (
            ("u-maze", False, False, "antmaze-umaze"),
            ("u-maze", True, True, "antmaze-umaze-diverse"),
            ("big-maze", True, False, "antmaze-medium-play"),
            ("big-maze", True, True, "antmaze-medium-diverse"),
            ("hardest-maze", True, False, "antmaze-large-play"),
            ("hardest-maze", True, True, "antmaze-large-diverse"),
        )
    ],
    ("flow-ring-v0-random", "flow-ring-random-v0"),
    ("flow-ring-v0-idm", "flow-ring-controller-v0"),
    ("flow-merge-v0-random", "flow-merge-random-v0"),
    ("flow-merge-v0-idm", "flow-merge-controller-v0"),
    ("mini_kitchen_microwave_kettle_light_slider-v0", "kitchen-complete-v0"),
    ("kitchen_microwave_kettle_light_slider-v0", "kitchen-partial-v0"),
    ("kitchen_microwave_kettle_bottomburner_light-v0", "kitchen-mixed-v0"),
    ("carla_lane_follow_flat-v0", "carla-lane-v0"),
    ("carla_town_subsamp_flat-v0", "carla-town-v0"),
    ("carla_town_flat-v0", "carla-town-full-v0"),
]
LATER = [  # the versions after v0, and copies that are already called by their id
    ("pen-v1_expert_clipped", "pen-expert-v1"),
    ("halfcheetah_medium_replay-v2", "halfcheetah-medium-replay-v2"),
    ("d4rl-door-human-v0", "door-human-v0"),
    ("kitchen-partial-v0", "kitchen-partial-v0"),
]
OWN = ["door", "ant", "hopper_mine", "walker_mixed_up", "pen_expert", "Ant_maze_mine", "kitchen"]


@pytest.mark.parametrize(("stem", "name"), PUBLISHED + LATER)
def test_published_files(stem: Any, name: str) -> None:
    assert d4rl_name(Path(f"{stem}.hdf5")) == name


def test_the_table_is_whole() -> None:
    assert len(PUBLISHED) == len(dict(PUBLISHED)) == 95


@pytest.mark.parametrize("stem", OWN)
def test_other_files_keep_their_names(stem: Any) -> None:
    assert d4rl_name(Path(f"{stem}.hdf5")) == stem

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")

from xql.collect.antmaze import evaluation_spec
from xql.envs.antmaze import OneGoalAntMaze
from xql.envs.make import make_environment
from xql.envs.maze_files import without_maze_file

UMAZE: list[list[int | str]] = [
    [1, 1, 1, 1, 1],
    [1, "r", 0, 0, 1],
    [1, 1, 1, 0, 1],
    [1, "g", 0, 0, 1],
    [1, 1, 1, 1, 1],
]


@pytest.fixture
def env() -> Iterator[Any]:
    made = OneGoalAntMaze(UMAZE)
    yield made
    made.close()


@pytest.fixture
def v4() -> Iterator[Any]:
    with warnings.catch_warnings():
        # Gymnasium would rather have version 5, whose observations are others.
        warnings.simplefilter("ignore")
        made = without_maze_file(
            gymnasium.make(
                "AntMaze_UMaze-v4", maze_map=UMAZE, continuing_task=False, disable_env_checker=True
            )
        )
    yield made
    made.close()


def test_one_step_is_two_of_version_4_with_a_fifth_of_the_action(env: Any, v4: Any) -> None:
    ours, _ = env.reset(seed=5)
    theirs, _ = v4.reset(seed=5)
    random = np.random.default_rng(0)
    for _ in range(20):
        flat = np.concatenate([theirs["achieved_goal"], theirs["observation"]])
        assert ours.shape == (29,)
        assert np.array_equal(ours, flat.astype(np.float32))
        action = random.uniform(-1, 1, 8)
        ours, *_ = env.step(action)
        for _ in range(2):
            theirs, *_ = v4.step(action * (30.0 / 150.0))


def test_torques_are_cut_off_at_one(env: Any) -> None:
    env.reset(seed=1)
    cut, *_ = env.step(np.full(8, 7.0))
    env.reset(seed=1)
    assert np.array_equal(cut, env.step(np.ones(8))[0])


def test_the_goal_is_the_cells_centre_at_each_reset(env: Any) -> None:
    # Cell (3, 1) of a maze of 5 x 5 cells of 4 m whose middle is the origin.
    for seed in range(5):
        env.reset(seed=seed)
        assert env.goal.tolist() == env.unwrapped._inner.goal.tolist() == [-4.0, -4.0]


@pytest.mark.parametrize(("distance", "there"), [(0.3, True), (0.6, False)])
def test_reward_and_termination_within_the_radius(env: Any, distance: float, there: bool) -> None:
    env.reset(seed=0)
    position = env.ant_env.init_qpos.copy()
    position[:2] = env.goal + np.array([0.6, 0.8]) * distance
    env.ant_env.set_state(position, env.ant_env.init_qvel.copy())
    observation, reward, terminated, truncated, info = env.step(np.zeros(8))
    assert abs(np.linalg.norm(observation[:2] - env.goal) - distance) < 0.1
    assert (reward, terminated, truncated, info["success"]) == (float(there), there, False, there)
    # One may go on.
    assert env.step(np.zeros(8))[1] == float(there)


def test_starts_lie_around_the_start_cell_or_the_one_asked_for(env: Any) -> None:
    starts = np.array([env.reset(seed=seed)[0][:2] for seed in range(20)])
    assert np.abs(starts - [-4.0, 4.0]).max() <= 1.0
    assert np.ptp(starts, axis=0).min() > 0.5
    elsewhere, _ = env.reset(seed=0, options={"reset_cell": np.array([2, 3])})
    assert np.abs(elsewhere[:2] - [4.0, 0.0]).max() <= 1.0


@pytest.mark.parametrize(("task", "limit"), [("umaze", 700), ("large-play", 1000)])
def test_the_specification_makes_it_again(task: Any, limit: int) -> None:
    env: Any = make_environment(evaluation_spec(task).to_json())
    assert env.spec.max_episode_steps == limit
    assert env.observation_space.shape == (29,)
    assert env.action_space.low.tolist() == [-1.0] * 8
    assert env.action_space.high.tolist() == [1.0] * 8
    first, _ = env.reset(seed=3)
    assert np.array_equal(first, env.reset(seed=3)[0])
    assert not np.array_equal(first, env.reset(seed=4)[0])
    env.close()

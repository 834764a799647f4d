"""The goal-reaching ant: what it observes, its rewards, when it ends."""

from typing import Any

import numpy as np
import pytest

from xql.envs.goal_ant import GOAL_ANT, GoalAnt
from xql.envs.make import make_environment

pytest.importorskip("mujoco")


def place(env: GoalAnt) -> np.ndarray:
    state: np.ndarray = env._ant.data.qpos[:2].copy()
    return state


@pytest.fixture
def env() -> Any:
    ant = GoalAnt()
    ant.reset(seed=3)
    yield ant
    ant.close()


def test_it_sees_its_joints_and_the_way_at_length_ten(env: GoalAnt) -> None:
    observation, _ = env.reset(seed=5)
    data = env._ant.data
    joints = np.concatenate([data.qpos[2:], data.qvel])
    assert observation[:27] == pytest.approx(joints, rel=1e-6)
    way = env.goal - place(env)
    assert observation[27:] == pytest.approx(10 * way / np.hypot(*way), rel=1e-5)
    again, _ = env.reset(seed=5)
    assert again.tolist() == observation.tolist()


def test_the_reward_is_the_speed_towards_the_goal_and_what_it_costs(env: GoalAnt) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 8))
    for action in actions:
        before, way = place(env), env.goal - place(env)
        _, reward, _, _, _ = env.step(action)
        speed = (place(env) - before) @ way / np.hypot(*way) / 0.1
        assert reward == pytest.approx(min(speed, 2.0) + 0.5 - 0.02 * (action**2).sum(), abs=1e-6)
    _, wild, _, _, _ = env.step(5 * np.sign(actions[0]))
    assert wild < 2.5 - 0.02 * 8 + 1e-6, "actions are cut off at 1 before they count in the reward"


def test_a_step_takes_a_tenth_of_a_second(env: GoalAnt) -> None:
    began = env._ant.data.time
    env.step(np.zeros(8))
    assert env._ant.data.time - began == pytest.approx(0.1)


def test_a_reached_goal_is_followed_by_another(env: GoalAnt) -> None:
    env.goal = place(env) + 0.5
    old = env.goal.copy()
    *_, info = env.step(np.zeros(8))
    assert info["reached"]
    assert np.abs(env.goal - old).max() > 0.1


def test_an_ant_on_its_back_ends_the_episode(env: GoalAnt) -> None:
    qpos, qvel = env._ant.data.qpos.copy(), 0 * env._ant.data.qvel
    assert not env.step(np.zeros(8))[2]
    qpos[3:7] = [0.0, 1.0, 0.0, 0.0]  # half a turn about x
    env._ant.set_state(qpos, qvel)
    assert env.step(np.zeros(8))[2]


def test_it_is_found_by_its_name_and_has_a_time_limit() -> None:
    env = make_environment(GOAL_ANT)
    assert env.spec is not None and env.spec.max_episode_steps == 300
    assert env.observation_space.shape == (29,)
    env.close()

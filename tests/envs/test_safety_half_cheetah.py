"""The half cheetah with a speed limit: its rewards, and NeoRL-2's own log played again."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from xql.envs.make import make_environment
from xql.envs.safety_half_cheetah import SAFETY_HALF_CHEETAH, SafetyHalfCheetah

pytest.importorskip("mujoco")

SHARED = Path(os.environ.get("XQL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
LOG = SHARED / "neorl2" / "SafetyHalfCheetah-high-100000-train.npz"


@pytest.fixture
def env() -> Iterator[SafetyHalfCheetah]:
    made = SafetyHalfCheetah()
    made.reset(seed=0)
    yield made
    made.close()


@pytest.mark.skipif(not LOG.exists(), reason=f"neorl2/{LOG.name} is not in XQL_SHARED_DATA")
def test_three_hundred_logged_transitions_played_again(env: SafetyHalfCheetah) -> None:
    with np.load(LOG) as file:
        columns = {name: file[name][::60] for name in file.files}
    assert len(columns["obs"]) == 300
    for before, action, after, gain in zip(
        *(columns[name] for name in ("obs", "action", "next_obs", "reward")), strict=True
    ):
        env._cheetah.set_state(before[:9], before[9:])
        observation, reward, terminated, _, info = env.step(action)
        assert np.abs(observation - after).max() < 1e-3
        assert abs(reward - gain) < 1e-3
        assert not terminated and info["cost"] == 0.0


def test_it_is_the_half_cheetah_while_it_is_slow(env: SafetyHalfCheetah) -> None:
    plain = gymnasium.make("HalfCheetah-v5", exclude_current_positions_from_observation=False)
    ours, theirs = env.reset(seed=5)[0], plain.reset(seed=5)[0]
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 6)).astype(np.float32):
        assert np.array_equal(ours, theirs.astype(np.float32))
        ours, reward, *_ = env.step(action)
        theirs, expected, *_ = plain.step(action)
        assert reward == expected
    plain.close()


@pytest.mark.parametrize(("speed", "cost"), [(3.20, 0.0), (3.22, 1.0)])
def test_a_step_that_is_too_fast_costs_a_hundred(
    env: SafetyHalfCheetah, speed: float, cost: float
) -> None:
    qpos, qvel = env._cheetah.init_qpos.copy(), env._cheetah.init_qvel.copy()
    qpos[1], qvel[0] = 2.0, speed  # in the air, where nothing changes its speed
    env._cheetah.set_state(qpos, qvel)
    observation, reward, terminated, truncated, info = env.step(np.zeros(6))
    assert observation[0] == pytest.approx(0.05 * speed, abs=1e-4)
    assert reward == pytest.approx(-100.0 if cost else speed, abs=2e-3)
    assert (terminated, truncated, info["cost"]) == (False, False, cost)


def test_it_is_found_by_its_name_and_has_a_time_limit() -> None:
    env = make_environment(SAFETY_HALF_CHEETAH)
    assert env.observation_space.shape == (18,)
    first, _ = env.reset(seed=4)
    assert np.array_equal(first, env.reset(seed=4)[0])
    assert not np.array_equal(first, env.reset(seed=5)[0])
    ends = [env.step(np.zeros(6, np.float32))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]
    env.close()


def test_gymnasium_finds_nothing_wrong(env: SafetyHalfCheetah) -> None:
    with warnings.catch_warnings():
        # Bounds of the observation would be made up.
        warnings.filterwarnings("ignore", "(?s).*Box observation space (min|max)imum value is")
        check_env(env, skip_render_check=True)

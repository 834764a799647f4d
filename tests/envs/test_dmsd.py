"""DMSD: one step by hand, its starts and targets, and NeoRL-2's own log played again."""

import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from xql.envs.dmsd import DMSD, DMSD_ID
from xql.envs.make import make_environment
from xql.errors import InputError

SHARED = Path(os.environ.get("XQL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
LOG = SHARED / "neorl2" / "DMSD-high-100000-train.npz"


@pytest.mark.skipif(
    not LOG.exists(), reason="neorl2/DMSD-high-100000-train.npz is not in XQL_SHARED_DATA"
)
def test_a_thousand_logged_steps_played_again() -> None:
    with np.load(LOG) as file:
        columns = {name: file[name].reshape(1000, 100, -1) for name in file.files}
    # The state is set at the start of an episode only: errors would add up.
    env = DMSD()
    for episode in range(0, 1000, 100):
        observations, actions, after, rewards = (
            columns[name][episode] for name in ("obs", "action", "next_obs", "reward")
        )
        env.reset(seed=0)
        env.state = observations[0, :4].astype(np.float64)
        env.targets = np.stack([observations[0, 4:], after[-1, 4:]]).astype(np.float64)
        for action, expected, gain in zip(actions, after, rewards, strict=True):
            observation, reward, terminated, _, _ = env.step(action)
            assert np.abs(observation - expected).max() < 1e-5
            assert abs(reward - gain[0]) < 1e-5
            assert not terminated


def test_one_step_by_hand() -> None:
    env = DMSD()
    env.reset(seed=0)
    env.state = np.array([1.0, -0.5, 0.3, -0.2])
    env.targets = np.array([[1.0, 0.0], [0.0, 0.0]])
    observation, reward, *_ = env.step(np.array([0.1, -7.0]))
    # Positions: 1 + 0.2·0.3 and −0.5 − 0.2·0.2. Forces: on the first mass −4·1 + 2·(−0.5) − 8·0.3 +
    # 4·(−0.2) + 30·0.1 = −5.2, on the second −4·(−0.5) + 2·1 − 8·(−0.2) + 4·0.3 − 30 = −23.2; each
    # changes its velocity by 0.2/20 of it.
    assert observation == pytest.approx([1.06, -0.54, 0.248, -0.432, 1.0, 0.0], abs=1e-6)
    assert reward == pytest.approx(-math.log(0.07) - math.log(0.55))


def test_starts_and_targets() -> None:
    env = DMSD()
    firsts, moved = [], []
    for seed in range(400):
        observation, _ = env.reset(seed=seed)
        firsts.append(observation)
        moved.append(env.targets[0] != env.targets[1])
    least, most = np.min(firsts, axis=0), np.max(firsts, axis=0)
    bounds = np.array([0.25, 0.25, 0.1, 0.1, 1.5, 1.5])
    assert (most <= bounds).all() and (least >= -bounds).all()
    assert (most > 0.97 * bounds).all() and (least < -0.97 * bounds).all()
    # Each mass on its own: neither, one and both targets move in a quarter, a half, a quarter.
    shares = np.bincount(np.sum(moved, axis=1)) / 400
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.08)


def test_a_target_moves_after_50_steps_and_a_new_episode_starts_afresh() -> None:
    env = DMSD()
    env.reset(seed=0)
    env.targets = np.array([[1.0, -1.0], [0.5, -1.0]])
    seen = [env.step(np.zeros(2))[0][4:].tolist() for _ in range(51)]
    assert seen[:49] == [[1.0, -1.0]] * 49
    assert seen[49:] == [[0.5, -1.0]] * 2
    first, _ = env.reset(seed=3)
    assert first[4:].tolist() == env.targets[0].astype(np.float32).tolist()


def test_it_is_found_by_its_name_and_has_a_time_limit() -> None:
    env = make_environment(DMSD_ID)
    assert env.observation_space.shape == (6,)
    first, _ = env.reset(seed=4)
    assert np.array_equal(first, env.reset(seed=4)[0])
    assert not np.array_equal(first, env.reset(seed=5)[0])
    ends = [env.step(np.ones(2, np.float32))[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]
    env.close()
    with pytest.raises(InputError, match=r"^xql/DMSD-v0: it cannot be drawn; choose an env"):
        make_environment(DMSD_ID, picture=(64, 48))


def test_gymnasium_finds_nothing_wrong() -> None:
    with warnings.catch_warnings():
        # Bounds of the observation would be made up.
        warnings.filterwarnings("ignore", "(?s).*Box observation space (min|max)imum value is")
        check_env(make_environment(DMSD_ID).unwrapped, skip_render_check=True)

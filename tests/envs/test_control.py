import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from xql.data.flatten import flat_layout
from xql.envs.make import make_environment
from xql.errors import InputError, MissingExtra

if importlib.util.find_spec("dm_control") is None:
    pytest.skip("dm_control is not installed", allow_module_level=True)


def suite() -> Any:
    return importlib.import_module("dm_control.suite")


def episode(env: Any, steps: int = 40) -> Any:
    """Everything seen in `steps` steps of the same actions, after a reset that was made before."""
    random = np.random.default_rng(0)
    seen = []
    for _ in range(steps):
        action = random.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append((*observation, reward, terminated, truncated))
    return np.array(seen)


def test_quadruped_lies_alphabetically_and_starts_as_the_suite_does() -> None:
    env = make_environment("dm_control/quadruped-run")
    flat, _ = env.reset(seed=7)
    raw = suite().load("quadruped", "run", task_kwargs={"random": 7}).reset().observation
    assert flat_layout(raw) == [
        ("egocentric_state", 44),
        ("force_torque", 24),
        ("imu", 6),
        ("torso_upright", 1),
        ("torso_velocity", 3),
    ]
    parts = [np.ravel(raw[key]) for key, _ in flat_layout(raw)]
    assert np.array_equal(flat, np.concatenate(parts).astype(np.float32))
    assert flat.dtype == np.float32 and env.observation_space.contains(flat)
    chosen = make_environment("dm_control/quadruped-run", keys=("imu", "torso_upright"))
    assert np.array_equal(chosen.reset(seed=7)[0], flat[68:75])


def test_each_dimension_has_the_bounds_of_its_actuator() -> None:
    box: Any = make_environment("dm_control/quadruped-run").action_space
    assert box.low.tolist() == np.array([-1, -1, -0.8] * 4, np.float32).tolist()
    assert box.high.tolist() == np.array([1, 1.1, 0.8] * 4, np.float32).tolist()
    assert box.dtype == np.float32


def test_a_step_is_the_suites_step() -> None:
    env = make_environment("dm_control/hopper-hop")
    env.reset(seed=5)
    own = suite().load("hopper", "hop", task_kwargs={"random": 5})
    own.reset()
    random = np.random.default_rng(1)
    for _ in range(30):
        action = random.uniform(-1, 1, 4).astype(np.float32)
        observation, reward, *_ = env.step(action)
        taken = own.step(action)
        flat = np.concatenate([taken.observation[key] for key in ("position", "touch", "velocity")])
        assert np.array_equal(observation, flat.astype(np.float32))
        assert reward == taken.reward


def test_the_time_limit_truncates_where_the_suite_ends_with_discount_one() -> None:
    env: Any = make_environment("dm_control/cartpole-swingup")
    assert env.spec.max_episode_steps == 1000
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]
    own = suite().load("cartpole", "swingup", task_kwargs={"random": 0})
    own.reset()
    steps = [own.step(np.zeros(1)) for _ in range(1000)]
    assert [one.last() for one in steps] == [False] * 999 + [True]
    assert steps[-1].discount == 1.0


@pytest.mark.parametrize("limit", [7, 1003])
def test_another_time_limit(limit: int) -> None:
    env = make_environment("dm_control/cartpole-swingup", max_episode_steps=limit)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(limit)]
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]


def test_a_tasks_own_end_terminates() -> None:
    env: Any = make_environment("dm_control/lqr-lqr_2_1")
    assert env.spec.max_episode_steps is None
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[2:4] == (False, False)
    # The lqr tasks end with discount 0 where the state is all but zero.
    physics = env.unwrapped._control.physics
    with physics.reset_context():
        physics.data.qpos[:] = 0
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)


def test_an_invalid_state_cuts_the_episode_and_shows_nothing_of_it() -> None:
    env = make_environment("dm_control/hopper-hop")
    env.reset(seed=0)
    before = env.step(np.ones(4, np.float32))[0]
    # What a policy that has diverged does; contacts that blow up end the same way.
    seen, reward, terminated, truncated, info = env.step(np.full(4, np.nan, np.float32))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "BADCTRL" in info["physics_error"]
    assert np.array_equal(seen, before)
    assert np.isfinite(env.reset(seed=0)[0]).all()
    assert env.step(np.ones(4, np.float32))[2:4] == (False, False)


@pytest.mark.parametrize("name", ["finger-turn_hard", "point_mass-hard"])
def test_an_episode_is_a_function_of_its_seed(name: str) -> None:
    # Both change the model itself (a target's size, the actuators' gains) at each reset.
    env, other = (make_environment(f"dm_control/{name}") for _ in range(2))
    starts, runs = [], []
    for seed in (3, 4, 3):
        starts.append(env.reset(seed=seed)[0])
        runs.append(episode(env))
    assert np.array_equal(starts[0], starts[2]) and np.array_equal(runs[0], runs[2])
    assert not np.array_equal(starts[0], starts[1])
    assert np.array_equal(other.reset(seed=3)[0], starts[0])
    assert np.array_equal(episode(other), runs[0])


def test_without_a_seed_the_stream_goes_on() -> None:
    env, other = (make_environment("dm_control/cheetah-run") for _ in range(2))
    # Nobody has given a seed yet: copies differ.
    assert not np.array_equal(env.reset()[0], other.reset()[0])
    first, second = (env.reset(seed=9)[0], env.reset()[0])
    assert not np.array_equal(first, second)
    other.reset(seed=9)
    assert np.array_equal(other.reset()[0], second)
    # A seed above what numpy's old generator takes is a seed as well.
    assert np.array_equal(env.reset(seed=9 + 2**32)[0], first)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("dm_control/hopper-hop", "dm_control/hopper-hop-v0"),
        ("dm_control/hopper_hop-v0", "dm_control/hopper-hop-v0"),
        ("dm_control/ball-in-cup-catch", "dm_control/ball_in_cup-catch-v0"),
        ("dm_control/ball_in_cup-catch-v0", "dm_control/ball_in_cup-catch-v0"),
        ("dm_control/point-mass-easy", "dm_control/point_mass-easy-v0"),
    ],
)
def test_names(name: str, full: str) -> None:
    env: Any = make_environment(name)
    assert env.spec.id == full
    again: Any = make_environment(env.env.spec.to_json())
    assert np.array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])
    assert again.spec.max_episode_steps == 1000


def test_one_task_of_every_benchmarking_domain() -> None:
    domains = dict(suite().BENCHMARKING)
    assert len(domains) == 14
    for domain, task in domains.items():
        env: Any = make_environment(f"dm_control/{domain}-{task}")
        assert env.spec.max_episode_steps == 1000
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        seen = episode(env, 3)
        assert np.isfinite(seen).all()
        env.close()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dm_control/hopper-hob", "dm_control/hopper-hop"),
        ("dm_control/quadrupet-run", "dm_control/quadruped-run"),
        ("dm_control/hopper-hop-v3", "dm_control/hopper-hop"),
    ],
)
def test_an_unknown_task_offers_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(InputError) as error:
        make_environment(name)
    line = f"environment: no environment '{name}'; did you mean '{meant}'?"
    assert str(error.value) == line


def test_an_argument_that_it_does_not_take_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^dm_control/hopper-hop: it takes no argument 'colour'"):
        make_environment("dm_control/hopper-hop", colour="red")


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(MissingExtra) as error:
        make_environment("dm_control/hopper-hop")
    assert (
        str(error.value)
        == "dm_control is not installed; run: pip install 'extreme-q-learning[mujoco]'"
    )


def test_python_3_13_has_no_dm_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    with pytest.raises(MissingExtra) as error:
        make_environment("dm_control/hopper-hop")
    assert str(error.value) == (
        "dm_control is not installed: it needs labmaze, which has no wheels for Python 3.13; "
        "use Python 3.11 or 3.12"
    )


def test_a_first_import_of_the_suite_is_silent() -> None:
    code = "from xql.envs.make import make_environment as m; m('dm_control/pendulum-swingup')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

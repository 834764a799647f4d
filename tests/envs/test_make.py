import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import gymnasium
import numpy as np
import pytest

from xql.collect.pointmaze import evaluation_environment
from xql.data.actions import ActionSpec, Box, Discrete
from xql.envs.given import simulator
from xql.envs.make import FlatObservation, check_fits, make_environment, register_robotics
from xql.errors import InputError, MissingExtra

if importlib.util.find_spec("gymnasium_robotics") is None:
    pytest.skip("gymnasium_robotics is not installed", allow_module_level=True)


class Toy(gymnasium.Env):
    """A nested dictionary whose flat order can be written down by hand."""

    observation_space: gymnasium.Space[Any] = gymnasium.spaces.Dict(
        {
            "zoo": gymnasium.spaces.Box(-9, 9, (2, 2), np.float64),
            "goal": gymnasium.spaces.Dict(
                {
                    "y": gymnasium.spaces.Box(-9, 9, (1,), np.float64),
                    "x": gymnasium.spaces.Box(-9, 9, (), np.float64),
                }
            ),
        }
    )
    action_space = gymnasium.spaces.Box(np.array([-1, -2.0]), np.array([3, 4.0]), dtype=np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.at(), {}

    def step(self, action: Any) -> Any:
        return self.at(), 0.0, False, False, {}

    def at(self) -> Any:
        # Not in the order of the keys: simulators answer in any.
        return {
            "zoo": np.array([[1.0, 2.0], [3.0, 4.0]]),
            "goal": {"y": np.array([6.0]), "x": np.array(5.0)},
        }


def test_dictionary_is_flattened_alphabetically_depth_first_in_c_order() -> None:
    env = FlatObservation(Toy(), None, "toy")
    observation, _ = env.reset()
    assert observation.tolist() == [5, 6, 1, 2, 3, 4]
    assert observation.dtype == np.float32
    assert env.observation_space.contains(observation)
    assert env.step(np.zeros(2))[0].tolist() == [5, 6, 1, 2, 3, 4]


def test_keys_select() -> None:
    env = FlatObservation(Toy(), ("zoo",), "toy")
    assert env.reset()[0].tolist() == [1, 2, 3, 4]
    assert env.observation_space.shape == (4,)
    with pytest.raises(InputError, match=r"toy: .*'zo'; did you mean 'zoo'"):
        FlatObservation(Toy(), ("zo",), "toy")


def test_keys_of_a_flat_environment_are_refused() -> None:
    with pytest.raises(InputError, match="no dictionary"):
        make_environment("Pendulum-v1", keys=("observation",))


def test_pointmaze_lies_as_documented() -> None:
    env: Any = make_environment("PointMaze_UMaze-v3")
    flat, _ = env.reset(seed=3)
    raw, _ = env.unwrapped.reset(seed=3)
    parts = [raw["achieved_goal"], raw["desired_goal"], raw["observation"]]
    assert np.array_equal(flat, np.concatenate(parts).astype(np.float32))
    assert env.spec.max_episode_steps == 300
    env.close()


def test_observation_is_not_the_simulators_own_buffer() -> None:
    class Reusing(Toy):
        observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
        buffer = np.zeros(2, np.float32)

        def at(self) -> Any:
            self.buffer += 1
            return self.buffer

    env = FlatObservation(Reusing(), None, "toy")
    first, _ = env.reset()
    env.step(np.zeros(2))
    assert first.tolist() == [1, 1]


def test_time_limit() -> None:
    env = make_environment("AdroitHandDoor-v1", max_episode_steps=7)
    assert env.observation_space.shape == (39,)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(7)]
    assert ends == [False] * 6 + [True]
    env.close()


def test_a_first_import_of_the_simulators_is_silent() -> None:
    # Gymnasium-Robotics prints a notice when it is first imported: only a fresh process shows it.
    code = "from xql.envs.make import make_environment as m; m('AdroitHandDoor-v1').close()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json_specification_gives_the_same_environment() -> None:
    env: Any = make_environment("PointMaze_UMaze-v3", continuing_task=False)
    text = env.env.spec.to_json()
    again: Any = make_environment(text)
    assert again.unwrapped.continuing_task is False
    assert np.array_equal(env.reset(seed=5)[0], again.reset(seed=5)[0])
    # What releases before Gymnasium 1.0 wrote, as old Minari sets carry it.
    old = {**json.loads(text), "autoreset": False, "apply_api_compatibility": False}
    assert make_environment(json.dumps(old)).observation_space.shape == (8,)


def test_check_fits_names_both_sizes() -> None:
    env = FlatObservation(Toy(), None, "toy")
    check_fits(env, 6, Box((-1.0,) * 2, (1.0,) * 2), "door.hdf5")
    wrong: list[tuple[int, ActionSpec, str]] = [
        (39, Box((-1.0,) * 2, (1.0,) * 2), "action size 2"),
        (6, Box((-1.0,) * 28, (1.0,) * 28), "action size 28"),
        (6, Discrete(2), "2 discrete actions"),
    ]
    for size, actions, words in wrong:
        with pytest.raises(InputError) as error:
            check_fits(env, size, actions, "door.hdf5")
        assert str(error.value) == (
            f"door.hdf5: observation size {size} and {words} do not fit "
            "the environment, which has observation size 6 and action size 2; "
            "give the environment that the data came from with `env`"
        )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("PointMaze_Medum-v3", "did you mean 'PointMaze_Medium-v3'?"),
        ("AdroitHandDor-v1", "did you mean 'AdroitHandDoor-v1'?"),
        ("HalfCheetah", "use 'HalfCheetah-v5'"),
        ("halfcheetah-v9", "use 'HalfCheetah-v5'"),
        ("door-human-v0", "the simulator of D4RL's door is 'AdroitHandDoor-v1'"),
        (
            "antmaze-medium-play-v2",
            "the simulator of D4RL's antmaze-medium is 'AntMaze_Medium-v4'",
        ),
        ("qqqqqqqqqq", "give the id of a registered one, such as HalfCheetah-v5"),
    ],
)
def test_unknown_id_names_what_to_type(name: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        make_environment(name)
    assert str(error.value) == f"environment: no environment '{name}'; {hint}"


def test_mujoco_py_era_id_says_what_to_use() -> None:
    with pytest.raises(InputError) as error:
        make_environment("Hopper-v2")
    line = "environment: 'Hopper-v2' needs mujoco_py, which has been retired; use 'Hopper-v5'"
    assert str(error.value) == line


def test_an_environment_of_discrete_actions() -> None:
    env = make_environment("CartPole-v1")
    check_fits(env, 4, Discrete(2), "log.npz")
    # A log may know fewer actions than the environment has, and never more.
    check_fits(env, 4, Discrete(1), "log.npz")
    with pytest.raises(InputError, match=r"and 3 discrete actions do not fit CartPole-v1, which "):
        check_fits(env, 4, Discrete(3), "log.npz")


def test_observation_that_is_no_box_is_refused() -> None:
    class Odd(Toy):
        observation_space = gymnasium.spaces.Dict({"word": gymnasium.spaces.Text(3)})

    with pytest.raises(InputError, match=r"^toy: the observation 'word' is Text\("):
        FlatObservation(Odd(), None, "toy")


def test_the_extra_is_named_only_where_it_is_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = json.dumps({"id": "Toy-v0", "entry_point": "no_such_simulator.envs:Toy"})
    with pytest.raises(InputError) as error:
        make_environment(text)
    assert str(error.value) == (
        "Toy-v0: it needs the module no_such_simulator, which is not installed; install it, or "
        "give another environment with `env`"
    )
    monkeypatch.setitem(sys.modules, "Box2D", None)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d", raising=False)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.bipedal_walker", raising=False)
    with pytest.raises(InputError) as error:
        make_environment("BipedalWalker-v3")
    assert str(error.value) == (
        "BipedalWalker-v3: it needs the module Box2D, which is not installed; install it"
    )
    text = json.dumps({"id": "Toy-v0", "entry_point": "gymnasium_robotics.no_such_module:Toy"})
    with pytest.raises(MissingExtra, match=r"run: pip install 'extreme-q-learning\[mujoco\]'$"):
        make_environment(text)


@pytest.mark.parametrize(
    "error", [AssertionError("size must be 3"), gymnasium.error.Error("size must be 3")]
)
def test_what_stops_the_making_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    def broken(*_: Any, **__: Any) -> Never:
        raise error

    monkeypatch.setattr(gymnasium, "make", broken)
    with pytest.raises(InputError) as caught:
        make_environment("Pendulum-v1")
    assert str(caught.value) == (
        "Pendulum-v1: the environment cannot be made (size must be 3); "
        "check its id and its arguments"
    )


def test_unknown_argument_and_broken_json_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is refused halfway leaves the file of its maze.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match=r"^PointMaze_UMaze-v3: it takes no argument 'colour'"):
        make_environment("PointMaze_UMaze-v3", colour="red")
    with pytest.raises(InputError, match=r"^environment: this is no specification") as error:
        make_environment('{"id": ')
    assert "\n" not in str(error.value)


MAZES: dict[str, Callable[[], Any]] = {
    "PointMaze": lambda: make_environment("PointMaze_UMaze-v3"),
    "AntMaze": lambda: make_environment("AntMaze_UMaze-v5"),
    "one goal": lambda: make_environment("xql/AntMaze_UMaze-v0"),
    "picture": lambda: make_environment("AntMaze_UMaze-v4", picture=(64, 48)),
    "factory": lambda: make_environment(simulator(lambda: gymnasium.make("PointMaze_UMaze-v3"))),
    "collected": lambda: evaluation_environment("umaze"),
}


@pytest.mark.parametrize("way", MAZES)
def test_no_file_is_left_of_a_maze(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_robotics()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    others = {tmp_path / "ant_maze17.25.xml", tmp_path / "ant_maze.xml"}
    for path in others:
        path.touch()
    env = MAZES[way]()
    first, _ = env.reset(seed=0)
    np.testing.assert_equal(MAZES[way]().reset(seed=0)[0], first)
    make_environment(env.env.spec.to_json()).reset(seed=0)  # as a run folder names it
    assert set(tmp_path.iterdir()) == others


def test_an_instance_of_a_maze_is_copied_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_robotics()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = gymnasium.make("PointMaze_UMaze-v3")
    [left] = tmp_path.iterdir()
    given = simulator(own)
    assert not given.alone and make_environment(given) is not own
    # What the user made is the user's.
    assert list(tmp_path.iterdir()) == [left]

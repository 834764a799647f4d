"""A simulator that is saved, and restored in a fresh one, gives the same bits from there on."""

import collections
import enum
import functools
import io
import json
import random
import threading
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import PurePath
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest

from xql.envs.control import ControlTask
from xql.envs.make import FlatObservation, make_environment
from xql.envs.state import restore_simulator, simulator_state
from xql.errors import InputError

IDS = (
    "Pendulum-v1",
    "MountainCarContinuous-v0",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Walker2d-v5",
    "Ant-v5",
    "Humanoid-v5",
    "Pusher-v5",
    "Reacher-v5",
    "InvertedPendulum-v5",
    "PointMaze_UMaze-v3",
    "AntMaze_UMaze-v4",
    "AdroitHandPen-v1",
    "AdroitHandDoor-v1",
    "FrankaKitchen-v1",
    "FetchPickAndPlace-v4",
    "dm_control/hopper-hop",
    "dm_control/quadruped-run",
    "dm_control/cheetah-run",
    "dm_control/humanoid-run",
    "dm_control/point_mass-hard",
    "dm_control/reacher-easy",
    "dm_control/lqr-lqr_2_1",
    "xql/DMSD-v0",
    "xql/SafetyHalfCheetah-v0",
    "xql/GoalAnt-v0",
    "xql/AntMaze_UMaze-v0",
)
BEFORE, AFTER = 23, 60

Env = gymnasium.Env[Any, Any]


def make(name: str) -> Env:
    if name.startswith("dm_control/"):
        pytest.importorskip("dm_control")
    elif name.startswith(("PointMaze", "AntMaze", "Adroit", "Franka", "Fetch", "xql/AntMaze")):
        pytest.importorskip("gymnasium_robotics")
    elif name not in ("Pendulum-v1", "MountainCarContinuous-v0", "xql/DMSD-v0"):
        pytest.importorskip("mujoco")
    return make_environment(name)


def actions_for(env: Env, steps: int) -> list[np.ndarray]:
    assert isinstance(env.action_space, gymnasium.spaces.Box)
    low, high = env.action_space.low, env.action_space.high
    return list(np.random.default_rng(0).uniform(low, high, (steps, *low.shape)).astype(np.float32))


def play(env: Env, actions: list[np.ndarray]) -> list[Any]:
    """All that the steps give, down to the last bit; a reset in the middle, and where one ends."""
    seen: list[Any] = []
    for step, action in enumerate(actions):
        observation, reward, terminated, truncated, info = env.step(action)
        success = info.get("success", info.get("is_success"))
        number = np.float64(float(reward)).tobytes()
        seen.append((observation.tobytes(), number, terminated, truncated, str(success)))
        if terminated or truncated or step == len(actions) // 2:
            seen.append(env.reset()[0].tobytes())
    return seen


def in_a_file(state: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    assert state is not None
    file = io.BytesIO()
    np.savez(file, **state)  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


@pytest.mark.parametrize("name", IDS)
def test_a_restored_simulator_goes_on_to_the_last_bit(name: str) -> None:
    env = make(name)
    actions = actions_for(env, BEFORE + AFTER)
    env.reset(seed=5)
    env.reset()
    play(env, actions[:BEFORE])
    state = in_a_file(simulator_state(env))
    expected = play(env, actions[BEFORE:])
    env.close()
    fresh = make(name)
    restore_simulator(fresh, state)
    again = simulator_state(fresh)
    assert again is not None and again["numbers"].tobytes() == state["numbers"].tobytes()
    # The kitchen keeps its tasks in a set, which has no order.
    assert name.startswith("Franka") or again["graph"].tobytes() == state["graph"].tobytes()
    assert play(fresh, actions[BEFORE:]) == expected
    fresh.close()


class Phase(enum.Enum):
    UP = 1
    DOWN = 2


class Place(NamedTuple):
    row: int
    column: np.ndarray


class Slotted:
    __slots__ = ("count", "twin")

    def __init__(self, twin: np.ndarray) -> None:
        self.count, self.twin = 0, twin


class Plain(gymnasium.Env[np.ndarray, np.ndarray]):
    """Somebody's environment: the observation depends on every kind of attribute."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.grid = np.zeros((3, 4))
        self.row = self.grid[1]
        self.helper = Slotted(self.grid)
        self.turned = np.arange(6.0).reshape(2, 3).T.copy(order="F")
        self.recent: collections.deque[float] = collections.deque(maxlen=3)
        self.visits: dict[Any, int] = {}
        self.seen: set[int] = set()
        self.phase, self.place = Phase.UP, Place(0, np.zeros(2))
        self.total: Any = np.float32(0)
        self.big = 3**90
        self.score = float("inf")
        self.weather = np.random.RandomState(0)
        self.dice = random.Random(0)
        self.child = np.random.default_rng(0)
        self.draw: Callable[[], float] = self.child.random
        self.note: Callable[[], None] = self._count
        self.size: Callable[[np.ndarray], int] = len
        self.me = self

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.weather.seed(seed)
            self.dice.seed(seed)
            self.child = np.random.default_rng(seed)
            self.draw = self.child.random
        (spawned,) = self.child.spawn(1)
        self.grid[...] = spawned.normal(size=(3, 4))
        self.late = [spawned.random(), self.grid]
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.row += action[0] + self.weather.normal() + self.dice.random() + self.draw()
        self.late[1][0, 0] += self.np_random.normal()  # type: ignore[index]
        self.helper.twin[2] *= 0.9
        self.turned = self.turned * 0.9 + action[1]
        self.phase = Phase.DOWN if self.phase is Phase.UP else Phase.UP
        self.place = Place(self.place.row + 1, self.place.column + action)
        self.total += np.float32(action[0])
        self.note()
        return self._observe(), float(self.grid.sum()), False, self.helper.count % 7 == 0, {}

    def _count(self) -> None:
        self.helper.count += 1
        self.recent.append(float(self.row[0]))
        self.visits[self.helper.count % 3, "a"] = self.helper.count
        self.seen.add(self.helper.count % 4)
        self.score = min(self.score, float(self.row[1]))

    def _observe(self) -> np.ndarray:
        facts = (
            self.grid.sum(),
            self.turned.sum(),
            sum(self.recent),
            sum(self.visits.values()) + len(self.seen),
            self.phase.value + self.place.row,
            self.place.column.sum() + self.total,
            self.big % 97 + self.helper.count,
            min(self.score, 9.0),
        )
        return np.array(facts, np.float32)


def test_an_environment_of_somebody_else_goes_on_to_the_last_bit() -> None:
    def made() -> Env:
        return gymnasium.wrappers.TimeLimit(FlatObservation(Plain(), None, "plain"), 11)

    env = made()
    actions = actions_for(env, 100)
    env.reset(seed=3)
    play(env, actions[:27])
    state = in_a_file(simulator_state(env))
    fresh = made()
    restore_simulator(fresh, state)
    assert play(fresh, actions[27:]) == play(env, actions[27:])
    plain: Any = fresh.unwrapped
    assert plain.me is plain and plain.helper.twin is plain.grid and plain.row.base is plain.grid
    assert type(plain.total) is np.float32 and plain.recent.maxlen == 3
    assert plain.turned.flags.f_contiguous


def counter() -> Callable[[], int]:
    counts = [0]

    def count() -> int:
        counts[0] += 1
        return counts[0]

    return count


@pytest.mark.parametrize(
    "unknown",
    [
        iter([1, 2]),
        (one for one in "ab"),
        Fraction(1, 2),
        functools.partial(max, 1),
        counter(),
        np.array([None]),
        {"deep": [threading.Event()]},
        {Fraction(1, 2): 1},
        memoryview(b"ab"),
        types.SimpleNamespace(count=1),
        np.frombuffer(bytearray(8)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_may_hold_state_and_cannot_be_written_is_not_saved(unknown: Any) -> None:
    env = Plain()
    env.reset(seed=0)
    assert simulator_state(env) is not None
    env.unknown = unknown  # type: ignore[attr-defined]
    assert simulator_state(env) is None


def test_an_object_with_compiled_state_is_not_saved() -> None:
    class Numbers(list[int]):
        pass

    env = Plain()
    env.reset(seed=0)
    env.unknown = Numbers([1])  # type: ignore[attr-defined]
    assert simulator_state(env) is None


def test_a_generator_of_the_class_is_not_saved() -> None:
    class Sampling(Plain):
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    env = Sampling()
    env.reset(seed=0)
    assert simulator_state(env) is not None
    env.action_space.sample()
    assert simulator_state(env) is None


def power(exponent: int) -> Callable[[float], float]:
    return lambda x: float(x**exponent)


STATIC = [threading.Lock(), np.dtype("f4"), np.sin, json, Phase, abs, power(2), PurePath("a")]


@pytest.mark.parametrize("other", [None, np.cos, random, len, power(3), PurePath("b")])
def test_functions_and_classes_stay_what_they_are_or_are_refused(other: Any) -> None:
    env, fresh = Plain(), Plain()
    env.reset(seed=0)
    env.extra = list(STATIC)  # type: ignore[attr-defined]
    state = simulator_state(env)
    assert state is not None
    fresh.extra = list(STATIC)  # type: ignore[attr-defined]
    if other is None:
        restore_simulator(fresh, state)
        assert fresh.extra == STATIC  # type: ignore[attr-defined]
        return
    kinds = [type(one) for one in STATIC]
    fresh.extra[kinds.index(type(other))] = other  # type: ignore[attr-defined]
    refused(fresh, state)


def test_a_method_that_was_exchanged_is_refused() -> None:
    env = Plain()
    env.reset(seed=0)
    env.note = env.close
    state = simulator_state(env)
    assert state is not None
    refused(Plain(), state)


def test_an_object_that_raises_when_it_is_looked_at_is_not_saved() -> None:
    class Odd:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("no")

    env = Plain()
    env.reset(seed=0)
    env.unknown = Odd()  # type: ignore[attr-defined]
    assert simulator_state(env) is None


def refused(env: Env, state: dict[str, np.ndarray]) -> str:
    with pytest.raises(InputError) as caught:
        restore_simulator(env, state)
    text = str(caught.value)
    assert "\n" not in text and "the saved state is of another environment" in text
    return text


def saved(name: str) -> dict[str, np.ndarray]:
    env = make(name)
    env.reset(seed=0)
    state = simulator_state(env)
    env.close()
    assert state is not None
    return state


def test_the_state_of_another_environment_is_refused() -> None:
    state = saved("Hopper-v5")
    assert refused(make("HalfCheetah-v5"), state).startswith("HalfCheetah-v5: ")
    refused(make("Pendulum-v1"), state)
    refused(make("Hopper-v5"), saved("Pendulum-v1"))


def test_the_state_of_the_same_environment_with_another_model_is_refused() -> None:
    pytest.importorskip("gymnasium_robotics")
    refused(make("xql/AntMaze_Medium-v0"), saved("xql/AntMaze_UMaze-v0"))


def changed(state: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    text = bytes(state["graph"]).decode()
    assert old in text
    return {**state, "graph": np.frombuffer(text.replace(old, new, 1).encode(), np.uint8)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('["pos", ', '["pos", 9'),  # beyond the 624 numbers of the generator
        ('"<f8", [3, 4]', '"<f8", [3, 4000]'),
        ('"<f8", [3, 4]', '"<f8", [-3, -4]'),
        ('"<f8", [3, 4]', '"|O", [3, 4]'),
        ('"view", [', '"view", [9'),
        ('"view"', '"__init__"'),
        ("Generator.PCG64", "Generator.default_rng"),
        ('"object"', '"tuple"'),
        ("{", "{{"),
    ],
)
def test_a_damaged_or_hostile_state_is_refused(old: str, new: str) -> None:
    env = Plain()
    env.reset(seed=0)
    state = simulator_state(env)
    assert state is not None
    refused(Plain(), changed(state, old, new))
    refused(Plain(), {"graph": state["graph"], "numbers": state["numbers"][:-8]})


def test_no_file_decides_the_integers_that_index_mujocos_memory() -> None:
    state = saved("Hopper-v5")
    nodes = json.loads(bytes(state["graph"]))[1]
    (model,) = [node[1] for node in nodes if node[0] == "model"]
    (data,) = [node[1] for node in nodes if node[0] == "data"]
    assert {"geom_size", "opt.gravity"} <= model.keys()
    assert {"qpos", "qacc_warmstart", "cfrc_ext", "time"} <= data.keys()
    # Whether an equality holds, and how many warnings there were, index nothing.
    fields = (model | data).items()
    kinds = {kind for name, (kind, *_) in fields if name not in ("eq_active", "warning.number")}
    assert kinds <= {"<f8", "<f4"}


def test_a_breakdown_of_the_physics_is_no_hindrance() -> None:
    """An episode that MuJoCo's error has cut is followed by one that goes on as it would."""
    env = make("dm_control/cartpole-swingup")
    env.reset(seed=1)
    task: Any = env.unwrapped
    assert isinstance(task, ControlTask)
    task._control.physics.data.qpos[0] = np.nan
    actions = actions_for(env, 30)
    assert env.step(actions[0])[3]
    env.reset()
    play(env, actions[:5])
    state = simulator_state(env)
    assert state is not None
    fresh = make("dm_control/cartpole-swingup")
    restore_simulator(fresh, state)
    assert play(fresh, actions[5:]) == play(env, actions[5:])

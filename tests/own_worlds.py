"""Environments as users write them, sound and faulty, which tests name as `own_worlds:NAME`."""

import itertools
from typing import Any

import gymnasium
import numpy as np


class Walk(gymnasium.Env[Any, Any]):
    """A point moves by 0.2 a; the reward is −|x|; beyond `size` the episode terminates."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space: Any = gymnasium.spaces.Box(-9.0, 9.0, (1,), np.float32)
    action_space: Any = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, size: float = 2.0, render_mode: str | None = None) -> None:
        self.size, self.render_mode = size, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-1.0, 1.0))
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.x += 0.2 * float(np.ravel(action)[0])
        return self.seen(), -abs(self.x), abs(self.x) > self.size, False, {}

    def seen(self) -> Any:
        return np.array([self.x], np.float32)

    def render(self) -> Any:
        return np.full((40, 64, 3), 90, np.uint8)


if "OwnWalk-v0" not in gymnasium.registry:
    gymnasium.register("OwnWalk-v0", entry_point="own_worlds:Walk", max_episode_steps=30)


class Unmade(Walk):
    def __init__(self) -> None:
        raise RuntimeError("no licence\nat all")


class UnsoundReset(Walk):
    def reset(self, **_: Any) -> Any:
        raise KeyError("valve")


class UnsoundStep(Walk):
    def step(self, action: Any) -> Any:
        raise ZeroDivisionError("flow")


class NanReward(Walk):
    def step(self, action: Any) -> Any:
        return self.seen(), float("nan"), False, False, {}


class InfiniteObservation(Walk):
    def seen(self) -> Any:
        return np.array([np.inf], np.float32)


class WrongShape(Walk):
    def seen(self) -> Any:
        return np.zeros((2, 2), np.float32)


class Words(Walk):
    def seen(self) -> Any:
        return np.array(["warm"])


class OutOfChoices(Walk):
    observation_space = gymnasium.spaces.Discrete(3, start=1)

    def seen(self) -> Any:
        return 4


class MissingKey(Walk):
    observation_space = gymnasium.spaces.Dict(
        a=gymnasium.spaces.Box(0, 1, (1,)), b=gymnasium.spaces.Discrete(2)
    )

    def seen(self) -> Any:
        return {"a": np.zeros(1, np.float32)}


class OldStep(Walk):
    def step(self, action: Any) -> Any:
        return self.seen(), 0.0, False, {}


class OldReset(Walk):
    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (2,), np.float32)

    def reset(self, **_: Any) -> Any:
        return np.zeros(2, np.float32)


class ManyRewards(Walk):
    def step(self, action: Any) -> Any:
        return self.seen(), np.ones(1), False, False, {}


class NoFlag(Walk):
    def step(self, action: Any) -> Any:
        return self.seen(), 0.0, False, None, {}


class Unbounded(Walk):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


class NoSpaces(gymnasium.Env[Any, Any]):
    pass


class NoObservationSpace(gymnasium.Env[Any, Any]):
    action_space: Any = Walk.action_space


class Picture(Walk):
    observation_space = gymnasium.spaces.Dict(
        pixels=gymnasium.spaces.Box(0, 255, (9, 9, 3), np.uint8),
        state=gymnasium.spaces.Box(-1, 1, (1,), np.float32),
    )


class Growing(Walk):
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        size = 1 if next(self.numbers) < 4 else 2
        self.observation_space = gymnasium.spaces.Box(-9.0, 9.0, (size,), np.float32)


ONE = Walk()


def the_same() -> Walk:
    return ONE


def nothing() -> None:
    return None


class Odd(Walk):
    """Sound enough: an observation beyond its bounds, an info that is no dictionary."""

    observation_space = gymnasium.spaces.Box(-1e-3, 1e-3, (1,), np.float32)

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], None)


class Grid(Walk):
    """Four cells in a row, numbered from 5, beside a switch and two lamps."""

    observation_space = gymnasium.spaces.Dict(
        cell=gymnasium.spaces.Discrete(4, start=5),
        lamps=gymnasium.spaces.MultiBinary(2),
        switch=gymnasium.spaces.MultiDiscrete([2, 3]),
    )

    def seen(self) -> Any:
        return {"cell": 7, "lamps": np.array([1, 0], np.int8), "switch": np.array([1, 0])}

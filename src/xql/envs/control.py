"""DeepMind Control's suite of tasks as Gymnasium environments.

A thin layer of our own over `dm_control.suite`, so that its steps cost what dm_control's cost. What
it settles, and a reader of the suite would have to guess:

- a time limit is Gymnasium's `TimeLimit`, hence truncated=True, and the last step's discount of 1
  is kept by bootstrapping; a task's own end (discount 0; only the two lqr tasks have one) is
  terminated=True;
- `reset(seed=s)` reseeds the task's random numbers in place, as loading it with `random=s` would,
  so that an episode is a function of s and of its actions alone;
- a state that MuJoCo calls invalid cuts the episode, where the suite would raise an error.
"""

import functools
import importlib
import inspect
import math
import re
import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float, UInt8

from xql.errors import InputError, MissingExtra, nearest, require

PREFIX = "dm_control/"
"""What the ids of these tasks begin with."""

_CAMERAS = {"quadruped": "y"}
"""The camera that shows the robot and the ground it covers, where the model's first does not."""

Observation = dict[str, Any]


class ControlTask(gymnasium.Env[Observation, np.ndarray]):
    """One task of the suite, its observation the dictionary that the suite gives.

    It has no time limit of its own: `control_spec` names the task's, and `gymnasium.make` keeps it.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012, as Gymnasium wants it

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        render_mode: str | None = None,
        width: int = 320,
        height: int = 240,
        camera_id: int | str | None = None,
    ) -> None:
        """Load the task.

        Args:
            domain: such as "hopper".
            task: such as "hop".
            render_mode: "rgb_array" for `render`.
            width: of a rendered frame, in pixels.
            height: likewise.
            camera_id: a camera of the model, by number or name.
        """
        # Some worlds (lqr) are drawn at random when loaded: all copies must be the same one.
        self._control = _load(domain, task, time_limit=math.inf, random=0)
        self._control.task.random.seed()
        self._physics_error = importlib.import_module("dm_control.rl.control").PhysicsError
        spec = self._control.action_spec()
        low, high = np.float32(spec.minimum), np.float32(spec.maximum)
        self.action_space = gymnasium.spaces.Box(low, high, spec.shape, np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                key: gymnasium.spaces.Box(-np.inf, np.inf, one.shape, np.float64)
                for key, one in self._control.observation_spec().items()
            }
        )
        self.render_mode = render_mode
        self.metadata = self.metadata | {"render_fps": 1 / self._control.control_timestep()}
        camera = _CAMERAS.get(domain, 0) if camera_id is None else camera_id
        self._view = {"width": width, "height": height, "camera_id": camera}
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: a function of `seed`, or the next of the stream without one."""
        super().reset(seed=seed)
        if seed is not None:
            # numpy's old generator, which the suite uses, takes 32 bits.
            self._control.task.random.seed(seed % 2**32)
        self._observation = self._control.reset().observation
        return self._observation, {}

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of the task's control time."""
        try:
            taken = self._control.step(np.asarray(action, np.float64))
        except self._physics_error as error:
            # The state is no longer finite, so the last finite observation is returned.
            return self._observation, 0.0, False, True, {"physics_error": str(error)}
        self._observation = taken.observation
        ended, alive = taken.last(), bool(taken.discount)
        return self._observation, float(taken.reward), ended and not alive, ended and alive, {}

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """The view of the camera."""
        frame: np.ndarray = self._control.physics.render(**self._view)
        return frame

    def close(self) -> None:
        """Free the simulation; the environment cannot be used any more."""
        self._control.physics.free()


def control_spec(name: str) -> EnvSpec:
    """What Gymnasium needs to make a task, from its id.

    Args:
        name: "dm_control/hopper-hop"; dashes and underscores are the same, -v0 may follow.

    Raises:
        InputError: no such task; the line offers the nearest.
        MissingExtra: dm_control is not installed.
    """
    ids = {f"{PREFIX}{domain}-{task}": (domain, task) for domain, task in _suite().ALL_TASKS}
    plain = {_plain(known): known for known in ids}
    known = plain.get(_plain(re.sub(r"-v0$", "", name)))
    if known is None:
        raise InputError(f"no environment '{name}'", where="environment", hint=nearest(name, ids))
    domain, task = ids[known]
    return EnvSpec(
        f"{known}-v0",
        entry_point="xql.envs.control:ControlTask",
        kwargs={"domain": domain, "task": task},
        max_episode_steps=_step_limit(domain, task),
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _suite() -> ModuleType:
    try:
        require("dm_control", "mujoco")
    except MissingExtra:
        if sys.version_info < (3, 13):
            raise
        version = ".".join(map(str, sys.version_info[:2]))
        raise MissingExtra(
            "dm_control is not installed: it needs labmaze, which has no wheels for Python "
            f"{version}; use Python 3.11 or 3.12"
        ) from None
    return importlib.import_module("dm_control.suite")


def _load(domain: str, task: str, **task_kwargs: Any) -> Any:
    return _suite().load(domain, task, task_kwargs=task_kwargs)


@functools.cache
def _step_limit(domain: str, task: str) -> int | None:
    """The task's own time limit in steps (1000 for all but lqr, which has none)."""
    build = importlib.import_module(f"dm_control.suite.{domain}").SUITE[task]
    seconds = float(inspect.signature(build).parameters["time_limit"].default)
    if math.isinf(seconds):
        return None
    step = float(_load(domain, task, random=0).control_timestep())
    return round(seconds / step)

"""A goal-reaching ant on an open plane: AntMaze's behaviour policy is trained here.

It is the ant of `xql.envs.antmaze`, with its torques and its step of 0.1 s. What it sees is what a
goal-reaching policy file takes (`docs/data.md`): its 27 joint observations, and the way to the goal
rescaled to length 10, so that near and far goals look alike.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float, Float32

from xql.envs.antmaze import FRAME_SKIP, TORQUE, V4_TORQUE
from xql.errors import require

GOAL_ANT = "xql/GoalAnt-v0"
GOAL_LENGTH = 10.0
"""What the way to the goal is rescaled to."""

_LIMIT = 300
_SECONDS = 0.1
# Metres: a new goal is drawn within this square's half side, and reached within this distance.
_SPREAD, _ARRIVAL = 10.0, 1.0
# Metres per second that are rewarded at most: D4RL's ant walks at 1.7 to 2.2.
_FASTEST = 2.0
# The reward of a step on its feet, which makes a fall, the end of the episode, a loss from the
# start; and the cost of the squared actions.
_UPRIGHT, _EFFORT = 0.5, 0.02

Observation = Float32[np.ndarray, "29"]


class GoalAnt(gymnasium.Env[Observation, np.ndarray]):
    """The reward is the speed towards the goal, in m/s and at most 2, plus 0.5 − 0.02 ‖action‖².

    The actions are 8 torques within ±1, each a share of 30 N·m. A goal that is reached within a
    metre is followed by another. An ant on its back ends the episode; the limit is 300 steps.

    Attributes:
        goal: (x, y) of the goal in metres.
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        """Make it.

        Args:
            **kwargs: passed on to Gymnasium's ant (such as `render_mode`).

        Raises:
            MissingExtra: MuJoCo is not installed.
        """
        ant = require("gymnasium.envs.mujoco.ant_v5", "mujoco")
        self._ant: Any = ant.AntEnv(
            frame_skip=FRAME_SKIP,
            include_cfrc_ext_in_observation=False,
            exclude_current_positions_from_observation=False,
            terminate_when_unhealthy=False,
            **kwargs,
        )
        self.render_mode = self._ant.render_mode
        self.goal: Float[np.ndarray, "2"] = np.zeros(2)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode with a goal of its own; equal seeds start equally."""
        super().reset(seed=seed)
        state, _ = self._ant.reset(seed=seed)
        self._place = state[:2].copy()
        self._draw_goal()
        return self._observe(state), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """0.1 s of simulation with these torques, which are cut off at ±1."""
        action = np.clip(action, -1.0, 1.0)
        state = self._ant.step(action * (TORQUE / V4_TORQUE))[0]
        way, before = self.goal - self._place, self._place
        self._place = state[:2].copy()
        speed = (self._place - before) @ way / max(float(np.hypot(*way)), 1e-6) / _SECONDS
        reward = min(speed, _FASTEST) + _UPRIGHT - _EFFORT * float(action @ action)
        reached = bool(np.hypot(*(self.goal - self._place)) < _ARRIVAL)
        if reached:
            self._draw_goal()
        _, x, y, _ = state[3:7]  # the torso's orientation, a quaternion
        fallen = bool(x * x + y * y > 0.5)
        return self._observe(state), float(reward), fallen, False, {"reached": reached}

    def _draw_goal(self) -> None:
        self.goal = self._place + self.np_random.uniform(-_SPREAD, _SPREAD, 2)

    def _observe(self, state: Float[np.ndarray, "29"]) -> Observation:
        way = self.goal - self._place
        way *= GOAL_LENGTH / max(float(np.hypot(*way)), 1e-6)
        return np.concatenate([state[2:], way]).astype(np.float32)

    def render(self) -> Any:
        """A picture, as `render_mode` says."""
        return self._ant.render()

    def close(self) -> None:
        """Free the simulator."""
        self._ant.close()


def goal_ant_spec() -> EnvSpec:
    """The specification of `GOAL_ANT`."""
    return EnvSpec(GOAL_ANT, entry_point="xql.envs.goal_ant:GoalAnt", max_episode_steps=_LIMIT)

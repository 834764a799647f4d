"""NeoRL-2's SafetyHalfCheetah: Gymnasium's half cheetah, which must not run too fast."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float32

from xql.errors import require

SAFETY_HALF_CHEETAH = "xql/SafetyHalfCheetah-v0"

_FASTEST = 3.2096
"""Metres per second."""
_PENALTY = -100.0
_LIMIT = 1000

Observation = Float32[np.ndarray, "18"]


class SafetyHalfCheetah(gymnasium.Env[Observation, np.ndarray]):
    """`HalfCheetah-v5`, but the reward of a step above 3.2096 m/s is −100.

    The observation is all 9 positions, the distance from the start among them, and 9 velocities.
    An episode has 1000 steps and never terminates; `info["cost"]` is 1 after a step that was too
    fast, else 0.
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        """Make it.

        Args:
            **kwargs: passed on to Gymnasium's half cheetah (such as `render_mode`).

        Raises:
            MissingExtra: MuJoCo is not installed.
        """
        cheetah = require("gymnasium.envs.mujoco.half_cheetah_v5", "mujoco")
        self._cheetah: Any = cheetah.HalfCheetahEnv(
            exclude_current_positions_from_observation=False, **kwargs
        )
        self.render_mode = self._cheetah.render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (18,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; equal seeds start equally."""
        super().reset(seed=seed)
        state, info = self._cheetah.reset(seed=seed)
        return state.astype(np.float32), info

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """0.05 s of simulation with these torques."""
        state, reward, _, _, info = self._cheetah.step(action)
        too_fast = bool(info["x_velocity"] > _FASTEST)
        info["cost"] = float(too_fast)
        return state.astype(np.float32), _PENALTY if too_fast else float(reward), False, False, info

    def render(self) -> Any:
        """A picture, as `render_mode` says."""
        return self._cheetah.render()

    def close(self) -> None:
        """Free the simulator."""
        self._cheetah.close()


def safety_half_cheetah_spec() -> EnvSpec:
    """The specification of `SAFETY_HALF_CHEETAH`."""
    return EnvSpec(
        SAFETY_HALF_CHEETAH,
        entry_point="xql.envs.safety_half_cheetah:SafetyHalfCheetah",
        max_episode_steps=_LIMIT,
    )

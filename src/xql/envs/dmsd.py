"""NeoRL-2's DMSD: two masses in a row, held by three springs and dampers between two walls.

Written from the equations of NeoRL-2's simulator (polixir/NeoRL2: neorl2/envs/dmsd.py): explicit
Euler steps, so that the positions move by the velocities before the step.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float, Float32

DMSD_ID = "xql/DMSD-v0"

_SECONDS = 0.2
_MASS, _STIFFNESS, _DAMPING = 20.0, 2.0, 4.0
_FORCE = 30.0
"""Of an action of 1."""
_LIMIT = 100
_HALF_TIME = 50

Observation = Float32[np.ndarray, "6"]


class DMSD(gymnasium.Env[Observation, np.ndarray]):
    """Two forces are to bring two masses to a target each, and to keep them there.

    The observation is the two positions, the two velocities and the two targets; the actions are
    two forces within ±1, each a share of 30 N. The reward of a step is Σ −ln(|position − target| +
    0.01) over the masses, after the step: 9.2 at both targets. An episode has 100 steps. A target
    stays for the whole of it or, half of the time, moves after 50 steps.

    Attributes:
        state: the positions and the velocities.
        targets: of the first and of the second half of the episode (rows), by mass (columns).
        steps: since the start of the episode.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        """Make it."""
        self.state: Float[np.ndarray, "4"] = np.zeros(4)
        self.targets: Float[np.ndarray, "2 2"] = np.zeros((2, 2))
        self.steps = 0
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode close to rest in the middle; equal seeds start equally."""
        super().reset(seed=seed)
        random = self.np_random
        self.state = random.uniform(-1.0, 1.0, 4) * [0.25, 0.25, 0.1, 0.1]
        self.targets = random.uniform(-1.5, 1.5, (2, 2))
        stays = random.random(2) < 0.5
        self.targets[1, stays] = self.targets[0, stays]
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """0.2 s with these forces, which are cut off at ±1."""
        place, velocity = self.state[:2], self.state[2:]
        force = _FORCE * np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        # Each mass hangs on its wall and on the other mass.
        force += _STIFFNESS * (place[::-1] - 2.0 * place)
        force += _DAMPING * (velocity[::-1] - 2.0 * velocity)
        self.state = np.concatenate(
            [place + _SECONDS * velocity, velocity + _SECONDS / _MASS * force]
        )
        self.steps += 1
        errors = np.abs(self.state[:2] - self._target())
        reward = -sum(math.log(error + 0.01) for error in errors)
        return self._observe(), reward, False, False, {}

    def _target(self) -> Float[np.ndarray, "2"]:
        current: Float[np.ndarray, "2"] = self.targets[int(self.steps >= _HALF_TIME)]
        return current

    def _observe(self) -> Observation:
        return np.concatenate([self.state, self._target()]).astype(np.float32)


def dmsd_spec() -> EnvSpec:
    """The specification of `DMSD_ID`."""
    return EnvSpec(DMSD_ID, entry_point="xql.envs.dmsd:DMSD", max_episode_steps=_LIMIT)

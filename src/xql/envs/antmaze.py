"""AntMaze v4 of Gymnasium-Robotics, with what D4RL's AntMaze has otherwise.

`AntMaze_*-v4` is the same maze and the same ant, but a policy meets another task there. Here, as in
D4RL: an observation is 29 numbers without the goal; there is one goal, and it stays where it is
(v4 moves it by up to a metre at each reset, which a policy that does not see the goal cannot know);
an action of 1 is a torque of 30 N·m (v4: 150); and a step is 0.1 s (v4: 0.05).
"""

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float, Float32

from xql.envs.maze_files import without_maze_file
from xql.errors import require

TORQUE = 30.0
"""Newton metres of an action of 1: the range of D4RL's motors."""

V4_TORQUE = 150.0
"""Newton metres of an action of 1 in Gymnasium's ant."""

FRAME_SKIP = 10
"""D4RL steps 5 times 0.02 s at a time; the model of v4 steps by 0.01 s."""

Observation = Float32[np.ndarray, "29"]
Cell = tuple[int, int]


class AntMaze(NamedTuple):
    """One maze: D4RL's start, goal and time limit."""

    map: str
    """What Gymnasium-Robotics calls it."""
    start: Cell
    goal: Cell
    limit: int


ANTMAZES = {
    "xql/AntMaze_UMaze-v0": AntMaze("U_MAZE", (1, 1), (3, 1), 700),
    "xql/AntMaze_Medium-v0": AntMaze("MEDIUM_MAZE", (1, 1), (6, 6), 1000),
    "xql/AntMaze_Large-v0": AntMaze("LARGE_MAZE", (1, 1), (7, 9), 1000),
}


class OneGoalAntMaze(gymnasium.Env[Observation, np.ndarray]):
    """An ant that is to walk to the one goal of a maze: reward 1 there and termination, else 0.

    The observation is (x, y) in metres and the 27 joint observations of `AntMaze_*-v4`, in float32;
    the action 8 torques within ±1, each a share of 30 N·m. An episode starts in the 'r' cell, up to
    a metre from its centre along each axis; `reset(options={"reset_cell": (row, column)})` starts
    it elsewhere. Within 0.45 m of the goal the goal is reached. Stepping on after that is allowed.

    Attributes:
        maze: Gymnasium-Robotics' maze (its map, and the conversion between cells and metres).
        goal: (x, y) of the goal in metres, the centre of the 'g' cell.
        ant_env: the ant alone.
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, maze_map: list[list[int | str]], **kwargs: Any) -> None:
        """Make it.

        Args:
            maze_map: rows of cells: 1 a wall, 0 free, one 'r' the start, one 'g' the goal.
            **kwargs: passed on to `AntMaze_*-v4` (such as `render_mode`).

        Raises:
            MissingExtra: Gymnasium-Robotics is not installed.
        """
        v4 = require("gymnasium_robotics.envs.maze.ant_maze_v4", "mujoco")
        self._inner: Any = without_maze_file(
            v4.AntMazeEnv(maze_map=maze_map, continuing_task=False, reset_target=False, **kwargs)
        )
        self.maze, self.ant_env = self._inner.maze, self._inner.ant_env
        self.ant_env.frame_skip = FRAME_SKIP
        self.goal: Float[np.ndarray, "2"] = self.maze.unique_goal_locations[0].copy()
        self.render_mode = self._inner.render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; equal seeds start equally."""
        super().reset(seed=seed)
        observation, info = self._inner.reset(seed=seed, options=options)
        self._inner.goal = self.goal.copy()
        self._inner.update_target_site_pos()
        reached = self._inner.compute_terminated(observation["achieved_goal"], self.goal, info)
        return _flat(observation), {**info, "success": reached}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """0.1 s of simulation with these torques, which are cut off at ±1."""
        share = np.clip(action, -1.0, 1.0) * (TORQUE / V4_TORQUE)
        observation, reward, terminated, truncated, info = self._inner.step(share)
        return _flat(observation), float(reward), terminated, truncated, info

    def render(self) -> Any:
        """A picture, as `render_mode` says."""
        return self._inner.render()

    def close(self) -> None:
        """Free the simulator."""
        self._inner.close()


def _flat(observation: dict[str, np.ndarray]) -> Observation:
    parts = (observation["achieved_goal"], observation["observation"])
    return np.concatenate(parts).astype(np.float32)


def one_goal_spec(name: str) -> EnvSpec:
    """The specification of a `OneGoalAntMaze`, which `make_environment` and Minari can make.

    Args:
        name: one of `ANTMAZES`.

    Raises:
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    maze = ANTMAZES[name]
    maps = require("gymnasium_robotics.envs.maze.maps", "mujoco")
    marked: list[list[int | str]] = [list(row) for row in getattr(maps, maze.map)]
    marked[maze.start[0]][maze.start[1]] = "r"
    marked[maze.goal[0]][maze.goal[1]] = "g"
    return EnvSpec(
        id=name,
        entry_point="xql.envs.antmaze:OneGoalAntMaze",
        max_episode_steps=maze.limit,
        disable_env_checker=True,
        kwargs={"maze_map": marked},
    )

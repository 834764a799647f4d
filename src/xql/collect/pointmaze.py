"""Play data in PointMaze, collected here, in which the evaluation task needs stitching.

The behaviour policy walks a point mass through a maze to one random goal after another. Rewards are
those of one *evaluation* task: from one end of the maze's longest shortest path to its other end,
reward 1 and termination there, 0 anywhere else. No trajectory pursues that task, so behaviour
cloning has nothing to copy, while parts of its path occur all over the data.

The evaluation environment itself is stepped, so each stored transition is what it gave: the goal
and the start carry its own uniform noise of a quarter cell.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, cast, get_args

import gymnasium
import numpy as np
from jaxtyping import Float32, Float64

from xql.collect.planner import Planner, evaluation_map
from xql.collect.writing import (
    Description,
    Log,
    check_numbers,
    dataset_folder,
    read_metadata,
    refuse_existing,
    write_dataset,
)
from xql.envs.make import register_robotics
from xql.envs.maze_files import without_maze_file
from xql.errors import InputError, nearest

Maze = Literal["umaze", "medium", "large"]

NOISE = 0.5
"""Standard deviation of the noise on each action, whose bounds are ±1 (D4RL's generator: 0.5)."""

_IDS: dict[Maze, str] = {
    "umaze": "PointMaze_UMaze-v3",
    "medium": "PointMaze_Medium-v3",
    "large": "PointMaze_Large-v3",
}
# Proportional and derivative gain: full force until a tenth of a cell before the waypoint. The
# walls are frictionless, so a ball that cuts a corner slides along it.
_STIFFNESS, _DAMPING = 10.0, 1.0
# A goal counts as reached here; the environment's own radius is 0.45 of a cell.
_GOAL_RADIUS = 0.3
# As many normal deviates are drawn at once; the file depends on it through the random stream.
_BLOCK = 4096


class Walk(NamedTuple):
    """One episode of T steps as the environment gave it."""

    observations: dict[str, Float64[np.ndarray, "steps_plus_1 _"]]
    actions: Float32[np.ndarray, "steps 2"]
    rewards: Float64[np.ndarray, " steps"]
    terminated: bool


def evaluation_environment(maze: Maze) -> gymnasium.Env[Any, Any]:
    """The evaluation task: from 'r' to 'g', where the episode terminates with reward 1.

    Its observation is Gymnasium-Robotics' dictionary: observation (x, y, vx, vy), achieved_goal and
    desired_goal (x, y), in cells and cells per second.

    Raises:
        InputError: an unknown maze.
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    if maze not in _IDS:
        raise InputError(f"no maze '{maze}'", where="pointmaze", hint=nearest(maze, _IDS))
    register_robotics()
    described = gymnasium.spec(_IDS[maze])
    env = gymnasium.make(
        described,
        maze_map=evaluation_map(described.kwargs["maze_map"]),
        continuing_task=False,
        reset_target=False,
        disable_env_checker=True,
    )
    return without_maze_file(env)


class _Player:
    """The behaviour policy: walks to random cells, one after another, with noise on each action."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int, noise: float) -> None:
        simulator = cast(Any, env.unwrapped)
        maze = simulator.maze
        self.env = env
        self.limit = cast(int, env.spec.max_episode_steps if env.spec else None)
        planner = Planner.of(maze.maze_map)
        self.cells = planner.cells
        centres = [tuple(maze.cell_rowcol_to_xy(np.array(cell)).tolist()) for cell in self.cells]
        self._centres: list[tuple[float, float]] = centres
        self._waypoints = [[centres[number] for number in row] for row in planner.following]
        self._number = {cell: number for number, cell in enumerate(self.cells)}
        self._left, self._top = maze.x_map_center, maze.y_map_center
        self._rng = np.random.default_rng(seed)
        self._noise = noise
        self._deviates = self._draw()
        marks = [maze.maze_map[row][column] for row, column in self.cells]
        self._starts = [number for number, mark in enumerate(marks) if mark != "g"]
        # The environment keeps its own generator from here on.
        env.reset(seed=seed)

    def _draw(self) -> Iterator[list[float]]:
        while True:
            yield from (self._noise * self._rng.standard_normal((_BLOCK, 2))).tolist()

    def play(self, limit: int, *, anywhere: bool) -> Walk:
        """One episode of at most `limit` steps, from a random cell or the evaluation's start."""
        options = None
        if anywhere:
            cell = self.cells[self._starts[int(self._rng.integers(len(self._starts)))]]
            options = {"reset_cell": np.array(cell)}
        step = self.env.step
        observation, _ = self.env.reset(options=options)
        observations = [observation]
        actions: list[np.ndarray] = []
        rewards: list[float] = []
        x, y, vx, vy = observation["observation"].tolist()
        goal = int(self._rng.integers(len(self.cells)))
        terminated = False
        while len(actions) < limit and not terminated:
            goal_x, goal_y = self._centres[goal]
            if (x - goal_x) ** 2 + (y - goal_y) ** 2 < _GOAL_RADIUS**2:
                goal = int(self._rng.integers(len(self.cells)))
            here = self._number[int(self._top - y), int(x + self._left)]
            target_x, target_y = self._waypoints[goal][here]
            noise_x, noise_y = next(self._deviates)
            force_x = _clip(_STIFFNESS * (target_x - x) - _DAMPING * vx)
            force_y = _clip(_STIFFNESS * (target_y - y) - _DAMPING * vy)
            action = np.array([_clip(force_x + noise_x), _clip(force_y + noise_y)], np.float32)
            observation, reward, terminated, _, _ = step(action)
            x, y, vx, vy = observation["observation"].tolist()
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
        return Walk(
            observations={
                key: np.array([each[key] for each in observations]) for key in observation
            },
            actions=np.array(actions),
            rewards=np.array(rewards, np.float64),
            terminated=terminated,
        )


def collect(
    maze: Maze,
    transitions: int,
    seed: int,
    noise: float,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Walk]:
    """Play until exactly so many transitions are made; the last episode is cut there.

    Each episode starts in a random free cell other than the goal's and ends at the evaluation goal
    or at the environment's time limit.
    """
    env = evaluation_environment(maze)
    player = _Player(env, seed, noise)
    done = 0
    try:
        while done < transitions:
            walk = player.play(min(player.limit, transitions - done), anywhere=True)
            done += len(walk.actions)
            if progress is not None:
                progress(done, transitions)
            yield walk
    finally:
        env.close()


def behaviour_rollouts(maze: Maze, episodes: int, seed: int, noise: float = NOISE) -> list[bool]:
    """Whether the behaviour policy that made the data reaches the evaluation goal, per episode.

    It plays as it does for the data, but from the evaluation's start and within its time limit: the
    baseline for policies that were learned from the data.
    """
    env = evaluation_environment(maze)
    try:
        player = _Player(env, seed, noise)
        return [player.play(player.limit, anywhere=False).terminated for _ in range(episodes)]
    finally:
        env.close()


def make_pointmaze(
    maze: Maze,
    *,
    transitions: int = 200_000,
    seed: int = 0,
    noise: float = NOISE,
    dataset_id: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Make a PointMaze play dataset and write it where Minari keeps its datasets.

    The same arguments give the same bytes on the same machine and versions.

    Args:
        maze: "umaze", "medium" or "large", the maps of PointMaze_{UMaze,Medium,Large}-v3.
        transitions: how many (s, a, r, s') to make, exactly.
        seed: of the starts, goals and noise.
        noise: standard deviation of the noise on each action (bounds ±1).
        dataset_id: Minari's name for it; "pointmaze/{maze}-play-v0" without it.
        progress: called with (made, wanted) after each episode.

    Returns:
        The dataset's id; `minari.load_dataset` and `xql.open_dataset("minari:ID")` take it. Its
        recovered environment is the evaluation task, and its reference scores 0 and 1, so that a
        normalised score is the success in per cent.

    Raises:
        InputError: an unknown maze, numbers out of range, a malformed or existing id (nothing is
            overwritten).
        MissingExtra: Minari or Gymnasium-Robotics is not installed.
    """
    if maze not in get_args(Maze):
        raise InputError(f"no maze '{maze}'", where="pointmaze", hint=nearest(maze, _IDS))
    check_numbers(f"pointmaze-{maze}", transitions=transitions, seed=seed, noise=noise)
    dataset_id = dataset_id or f"pointmaze/{maze}-play-v0"
    refuse_existing(dataset_id)
    logs = [_log(walk) for walk in collect(maze, transitions, seed, noise, progress)]
    description = Description(
        algorithm="waypoint planner with action noise, random goals (play)",
        # Stored with the data: another text is other bytes.
        about=f"Play in PointMaze {maze}: random start to random goals, judged by "
        "one sparse evaluation task between the two farthest cells.",
        made={
            "command": _command(maze, transitions, seed, noise, dataset_id),
            "seed": seed,
            "noise": noise,
            "planner": {"stiffness": _STIFFNESS, "damping": _DAMPING, "arrival": _GOAL_RADIUS},
        },
        reference=(0.0, 1.0),
    )
    env = evaluation_environment(maze)
    try:
        write_dataset(dataset_id, logs, description, env)
    finally:
        env.close()
    return dataset_id


def ensure_pointmaze(
    maze: Maze,
    *,
    transitions: int = 200_000,
    seed: int = 0,
    noise: float = NOISE,
    dataset_id: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, bool]:
    """The dataset that `make_pointmaze` makes of these arguments: the one of that id, else made.

    Args:
        maze, transitions, seed, noise, dataset_id, progress: as `make_pointmaze` takes them.

    Returns:
        The dataset's id, and whether it was made now.

    Raises:
        InputError: a dataset of that id exists that other arguments made, or as `make_pointmaze`.
        MissingExtra: Minari or Gymnasium-Robotics is not installed.
    """
    dataset_id = dataset_id or f"pointmaze/{maze}-play-v0"
    if not dataset_folder(dataset_id).exists():
        make_pointmaze(
            maze,
            transitions=transitions,
            seed=seed,
            noise=noise,
            dataset_id=dataset_id,
            progress=progress,
        )
        return dataset_id, True
    try:
        found = read_metadata(dataset_id)["made_by"]["command"]
    except (OSError, ValueError, KeyError, TypeError):
        found = "something else"
    wanted = _command(maze, transitions, seed, noise, dataset_id)
    if found != wanted:
        raise InputError(
            f"this dataset was made by: {found}, not by: {wanted}",
            where=dataset_id,
            hint=f"remove it (minari delete {dataset_id}), or choose another id with `dataset_id`",
        )
    return dataset_id, False


def _command(maze: Maze, transitions: int, seed: int, noise: float, dataset_id: str) -> str:
    return (
        f"xql data make pointmaze-{maze} --transitions {transitions} --seed {seed}"
        f" --noise {float(noise)} --out-id {dataset_id}"
    )


def _log(walk: Walk) -> Log:
    terminations = np.zeros(len(walk.actions), bool)
    terminations[-1] = walk.terminated
    return Log(walk.observations, walk.actions, walk.rewards, terminations)


def _clip(value: float) -> float:
    return -1.0 if value < -1.0 else min(value, 1.0)

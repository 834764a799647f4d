"""A benchmark made here after D4RL's AntMaze: an ant that follows waypoints through a maze.

A goal-reaching policy, read from a file, walks the ant towards a point; a planner leads it from
cell to cell to a place in a goal cell, and noise is added to each action. A log goes on for its
1000 steps, whether the ant has reached its goal or not. Rewards are those of one *evaluation* goal,
which in all but `umaze` is the goal of few of the logs:

    umaze                          from the evaluation's start to its goal
    medium-play, large-play        from a random cell to one of some hand-picked cells
    *-diverse                      from a random cell to a random cell

Each stored transition is what the evaluation environment (`xql.envs.antmaze`) gave, its termination
too: a log holds one at every step within the goal and goes on behind it, as D4RL's do.

What differs from D4RL: Gymnasium's ant model instead of the older one; the start of an episode is
spread over two metres (D4RL: over 0.2) and the joints start at rest; the goal of a log is spread
over two metres around its cell's centre (D4RL: 1.5, to one side); the ant heads for a cell's centre
until it is a metre away before it turns to the next cell (D4RL cuts every corner, where some of
our ants got stuck); an evaluation goal is reached within 0.45 m (D4RL: 0.5); and the cells that
`play` starts from and is sent to, where D4RL's generator and its description disagree.
`docs/data.md` has what was measured.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float, Float32

from xql.collect.goal_ant import SHIPPED
from xql.collect.planner import Cell, Planner
from xql.collect.policies import FilePolicy, load_goal_policy
from xql.collect.rollouts import COPIES, Played, play, rounds
from xql.collect.writing import Description, check_numbers, refuse_existing, write_dataset
from xql.envs.antmaze import ANTMAZES, one_goal_spec
from xql.envs.goal_ant import GOAL_LENGTH
from xql.envs.make import register_robotics
from xql.errors import DISTRIBUTION, InputError, nearest

Task = Literal[
    "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse"
]

NOISE = 0.2
"""Standard deviation of the noise on each action, whose bounds are ±1 (D4RL's generator: 0.2)."""

LOG_STEPS = 1000
"""Steps of every log but the last, which is cut where the data is complete."""

TRIALS = 50
"""Episodes with which the controller is evaluated before any data is made."""

LEAST_SUCCESS = 0.8
"""The share of trials in which the controller must reach its goal."""


_NAMES = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}
# The radius in metres within which AntMaze v4 takes a goal to be reached.
_GOAL_RADIUS = 0.45
# Metres from a cell's centre at which the ant turns to the next cell.
_TURN = 1.0
# Half the side in metres of the square that a waypoint is drawn from at each step (D4RL's side: 1).
_JITTER = 0.5
# Half the side in metres of the square around a cell's centre that a goal is drawn from.
_GOAL_SPREAD = 1.0
# The first number that the random streams of data and of trials are seeded with, after the seed.
_DATA, _TRIAL = 0, 1


def evaluation_spec(task: Task) -> EnvSpec:
    """The specification of the environment to evaluate policies in.

    Raises:
        InputError: an unknown task.
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    if task not in get_args(Task):
        raise InputError(f"no task '{task}'", where="antmaze", hint=nearest(task, get_args(Task)))
    register_robotics()
    return one_goal_spec(_id(task))


def _collecting_environment(task: Task) -> gymnasium.Env[Any, Any]:
    """The same with the time limit of a log, which is longer than UMaze's evaluation."""
    spec = evaluation_spec(task)
    spec.max_episode_steps = LOG_STEPS
    return gymnasium.make(spec)


def _id(task: str) -> str:
    return f"xql/AntMaze_{_NAMES[task.partition('-')[0]]}-v0"


def _data_goals(task: Task, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that the logs of a task are sent to."""
    goal = ANTMAZES[_id(task)].goal
    if task.endswith("diverse"):
        return list(cells)
    if task == "umaze":
        return [goal]
    # Gymnasium-Robotics keeps the maps of D4RL's generator, with its goals, under this name.
    maze = _id(task).removeprefix("xql/").removesuffix("-v0")
    known = gymnasium.spec(f"{maze}_Diverse_G-v4").kwargs["maze_map"]
    picked = [cell for cell in cells if known[cell[0]][cell[1]] == "g"]
    return picked if goal in picked else [*picked, goal]


@dataclass
class _Route:
    """Where one log starts, its goal, its noise, and where the ant is now."""

    reset: dict[str, Any]
    goal: int
    place: tuple[float, float]
    deviates: Float32[np.ndarray, "steps 8"]
    noise: Float32[np.ndarray, "steps 8"]
    jitter: Float[np.ndarray, "steps 2"]
    here: int
    heading: int
    reached: bool = False


class _Controller:
    """The behaviour policy: routes through the maze, one for each environment copy."""

    def __init__(self, task: Task, policy: FilePolicy, seed: int, noise: float) -> None:
        self.envs = [_collecting_environment(task) for _ in range(COPIES)]
        maze: Any = self.envs[0].unwrapped
        self._planner = Planner.of(maze.maze.maze_map)
        self._cells = self._planner.cells
        self._centres = [
            (float(x), float(y))
            for x, y in (maze.maze.cell_rowcol_to_xy(np.array(cell)) for cell in self._cells)
        ]
        self._number = {cell: number for number, cell in enumerate(self._cells)}
        self._goals = [self._number[cell] for cell in _data_goals(task, self._cells)]
        self._start = ANTMAZES[_id(task)].start if task == "umaze" else None
        self._size = float(maze.maze.maze_size_scaling)
        self._left, self._top = float(maze.maze.x_map_center), float(maze.maze.y_map_center)
        self._act, self._seed, self._noise = policy.act, seed, noise
        self.routes: list[_Route] = []

    def _route(self, stream: int, index: int) -> _Route:
        """Route number `index`, which depends on nothing but the seed and its number."""
        rng = np.random.default_rng([self._seed, stream, index])
        goal = self._goals[int(rng.integers(len(self._goals)))]
        starts = [cell for cell in self._cells if cell != self._cells[goal]]
        start = self._start or starts[int(rng.integers(len(starts)))]
        x, y = np.array(self._centres[goal]) + rng.uniform(-_GOAL_SPREAD, _GOAL_SPREAD, 2)
        return _Route(
            reset={
                "seed": int(rng.integers(2**31)),
                "options": {"reset_cell": np.array(start)},
            },
            goal=goal,
            place=(float(x), float(y)),
            deviates=rng.standard_normal((LOG_STEPS, 8), np.float32),
            noise=np.float32(self._noise) * rng.standard_normal((LOG_STEPS, 8), np.float32),
            jitter=rng.uniform(-_JITTER, _JITTER, (LOG_STEPS, 2)),
            here=self._number[start],
            heading=self._number[start],
        )

    def walk(self, stream: int, numbers: range, limit: int, *, on: bool) -> list[Played]:
        """At most `COPIES` logs, each until its goal is reached, or with `on` to the limit."""
        self.routes = [self._route(stream, number) for number in numbers]

        def ends(log: int, observation: np.ndarray, _: bool) -> bool:
            route = self.routes[log]
            gap = observation[:2] - route.place
            route.reached |= bool(gap @ gap <= _GOAL_RADIUS**2)
            return route.reached and not on

        return play(self.envs, [route.reset for route in self.routes], self._step, limit, ends)

    def _step(
        self, t: int, running: list[int], observations: np.ndarray
    ) -> Float[np.ndarray, "running 8"]:
        routes = [self.routes[log] for log in running]
        relative = [
            self._relative(route, t, *place)
            for route, place in zip(routes, observations[:, :2].tolist(), strict=True)
        ]
        inputs = np.concatenate([observations[:, 2:], relative], axis=1)
        actions = self._act(inputs, np.array([route.deviates[t] for route in routes]))
        noisy: np.ndarray = actions + [route.noise[t] for route in routes]
        return noisy.clip(-1.0, 1.0)

    def _relative(self, route: _Route, t: int, x: float, y: float) -> tuple[float, float]:
        """The direction in which the ant at (x, y) is to walk."""
        cell = (int((self._top - y) / self._size), int((x + self._left) / self._size))
        # A torso that leans over a wall still belongs to the cell that it came from.
        route.here = self._number.get(cell, route.here)
        following = self._planner.following[route.goal]
        if route.heading not in (route.here, following[route.here]):
            route.heading = route.here
        centre = self._centres[route.heading]
        if (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < _TURN**2:
            route.heading = int(following[route.heading])
            centre = self._centres[route.heading]
        target = route.place
        if route.heading != route.goal:
            jitter = route.jitter[t]
            target = (centre[0] + jitter[0], centre[1] + jitter[1])
        gap_x, gap_y = target[0] - x, target[1] - y
        scale = GOAL_LENGTH / max(np.hypot(gap_x, gap_y), 1e-6)
        return gap_x * scale, gap_y * scale

    def close(self) -> None:
        for env in self.envs:
            env.close()


def controller_success(
    task: Task, policy: FilePolicy, *, seed: int = 0, noise: float = NOISE, trials: int = TRIALS
) -> float:
    """The share of routes on which the ant gets within 0.45 m of its goal in a log's time.

    Raises:
        InputError: an unknown task.
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    controller = _Controller(task, policy, seed, noise)
    reached = 0
    try:
        for first in range(0, trials, COPIES):
            numbers = range(first, min(first + COPIES, trials))
            controller.walk(_TRIAL, numbers, LOG_STEPS, on=False)
            reached += sum(route.reached for route in controller.routes)
    finally:
        controller.close()
    return reached / trials


def collect(
    task: Task,
    policy: FilePolicy,
    transitions: int,
    seed: int,
    noise: float,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Played]:
    """Logs of `LOG_STEPS` steps until exactly so many transitions are made; the last is cut there.

    Raises:
        InputError: an unknown task.
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    controller = _Controller(task, policy, seed, noise)
    done = 0
    try:
        for numbers, steps in rounds(transitions, LOG_STEPS):
            yield from controller.walk(_DATA, numbers, steps, on=True)
            done += len(numbers) * steps
            if progress is not None:
                progress(done, transitions)
    finally:
        controller.close()


def make_antmaze(
    task: Task,
    policy: Path = SHIPPED,
    *,
    transitions: int = 1_000_000,
    seed: int = 0,
    noise: float = NOISE,
    dataset_id: str | None = None,
    trials: int = TRIALS,
    least_success: float = LEAST_SUCCESS,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Make an AntMaze dataset and write it where Minari keeps its datasets.

    The same arguments give the same bytes on the same machine and versions.

    Args:
        task: which maze, and where the ant is sent (see the head of this file).
        policy: the file of a goal-reaching ant; ours where it is left out.
        transitions: how many (s, a, r, s') to make, exactly.
        seed: of starts, goals, the policy's draws and the noise.
        noise: standard deviation of the noise on each action (bounds ±1).
        dataset_id: Minari's name for it; "antmaze/{task}-v0" without it.
        trials: episodes with which the controller is evaluated before, at least 1.
        least_success: the share of them in which it must reach its goal.
        progress: called with (made, wanted) now and then.

    Returns:
        The dataset's id. Its recovered environment is the evaluation task, and its reference scores
        are 0 and 1, so that a normalised score is the success in per cent.

    Raises:
        InputError: an unknown task, numbers out of range, a malformed or existing id, a file that
            holds no such policy, or a policy with which the controller does not reach its
            goals often enough.
        MissingExtra: Minari or Gymnasium-Robotics is not installed.
    """
    spec = evaluation_spec(task)
    where = f"antmaze-{task}"
    check_numbers(where, transitions=transitions, seed=seed, noise=noise)
    dataset_id = dataset_id or f"antmaze/{task}-v0"
    refuse_existing(dataset_id)
    walker = load_goal_policy(policy)
    success = controller_success(task, walker, seed=seed, noise=noise, trials=trials)
    if success < least_success:
        raise InputError(
            f"with {walker.file} the ant succeeds in {100 * success:.0f} % of {trials} trials, and "
            f"{100 * least_success:.0f} % are needed",
            where=where,
            hint="give another policy with `policy`, or less `noise`; nothing was written",
        )
    played = list(collect(task, walker, transitions, seed, noise, progress))
    logs = [one.log for one in played]
    reached = sum(bool(log.rewards.any()) for log in logs)
    command = (
        f"xql data make {where}{'' if policy == SHIPPED else f' --policy {walker.file}'}"
        f" --transitions {transitions} --seed {seed} --noise {float(noise)} --out-id {dataset_id}"
    )
    description = Description(
        algorithm="waypoint controller over a goal-reaching ant, with action noise",
        # Stored with the data: another text is other bytes.
        about=f"AntMaze {task} after D4RL's recipe, judged by one sparse evaluation task.",
        made={
            "command": command,
            "seed": seed,
            "noise": noise,
            "policy": {"file": walker.file, "sha256": walker.sha256},
            "controller": {"turn": _TURN, "jitter": _JITTER, "goal_spread": _GOAL_SPREAD},
            "outcome": f"the ant arrived in {100 * success:.0f} % of {trials} trials; "
            f"{reached} of {len(logs)} logs reach the evaluation goal",
        },
        reference=(0.0, 1.0),
        requirements=("gymnasium-robotics>=1.4", DISTRIBUTION),
    )
    env = _collecting_environment(task)
    try:
        write_dataset(dataset_id, logs, description, env, evaluation=spec)
    finally:
        env.close()
    return dataset_id

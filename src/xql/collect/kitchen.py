"""Logs of FrankaKitchen-v1 by a scripted arm, made here after D4RL's three kitchen datasets.

In every log the arm does four of the seven tasks, in the fixed order of `TASKS`, as in D4RL's
human demonstrations. Its Cartesian waypoints, strokes and grasps stand in `kitchen_tasks`. As in
D4RL, a dataset has four *target* tasks, which a policy is evaluated on, and

    complete   each log does the four target tasks
    partial    each log does any four; some logs do the target tasks
    mixed      each log does any four, and none does all target tasks

Logs differ by their four tasks, by the speed of the arm, by shifts of its waypoints, and by action
noise whose size is drawn for each log: the environment itself starts alike each time, but for noise
in what is observed.

The layout is that of Minari's `D4RL/kitchen/*`: the recording environment never terminates, and
gives the reward of a task at every step at which it is done. A log ends when its four tasks have
been tried, or after D4RL's 280 steps; both are time limits. `xql.envs.kitchen.as_evaluated` is the
environment to evaluate in.

What differs from D4RL: no human moves this arm. Its logs are more alike and have fewer pauses than
demonstrations, so that scores are not D4RL's.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import gymnasium
import numpy as np

from xql.collect.arm import Arm
from xql.collect.kitchen_tasks import DONE, TASKS, Script, Task, distance, script
from xql.collect.writing import Description, Log, check_numbers, refuse_existing, write_dataset
from xql.envs.kitchen import KITCHEN, STEPS
from xql.envs.make import register_robotics
from xql.errors import InputError, nearest

Kind = Literal["complete", "partial", "mixed"]

NOISE = 0.1
"""The mean, over logs, of the standard deviation of the noise on each action (bounds ±1)."""

EPISODES: dict[Kind, int] = {"complete": 19, "partial": 600, "mixed": 600}
"""As many as D4RL's data has, nearly: 3,680 and 136,950 steps there."""

_MICROWAVE_FIRST: tuple[Task, ...] = ("microwave", "kettle", "light switch", "slide cabinet")
TARGETS: dict[Kind, tuple[Task, ...]] = {
    "complete": _MICROWAVE_FIRST,
    "partial": _MICROWAVE_FIRST,
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
"""The tasks that a policy is evaluated on: D4RL's."""

# The noise of a log is uniform between these multiples of its mean.
_NOISE_RANGE = (0.5, 1.5)
# Metres per second of the fingertips that are asked for, uniform over logs.
_SPEEDS = (0.45, 0.65)
# Standard deviation in metres, along each axis, by which a script's waypoints are shifted.
_SHIFT = 0.003
# How often a task is tried in a log.
_TRIES = 2
# How often a log is played before its data is given up.
_ATTEMPTS = 20


class Played(NamedTuple):
    """One log, and how it went."""

    log: Log
    sequence: tuple[Task, ...]
    done: frozenset[Task]
    """Those of all tasks that were done at some step."""
    noise: float
    """The standard deviation of the noise on each of its actions."""


def sequences(kind: Kind) -> list[tuple[Task, ...]]:
    """The sequences of tasks that the logs of a kind do in turn."""
    target = TARGETS[kind]
    if kind == "complete":
        return [target]
    each: list[tuple[Task, ...]] = list(itertools.combinations(TASKS, 4))
    return each if kind == "partial" else [one for one in each if one != target]


def recording_environment(kind: Kind) -> gymnasium.Env[Any, Any]:
    """The kitchen as Minari's datasets were recorded in it.

    Raises:
        InputError: an unknown kind.
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    if kind not in get_args(Kind):
        raise InputError(f"no kind '{kind}'", where="kitchen", hint=nearest(kind, get_args(Kind)))
    register_robotics()
    return gymnasium.make(
        KITCHEN,
        tasks_to_complete=list(TARGETS[kind]),
        terminate_on_tasks_completed=False,
        remove_task_when_completed=False,
        max_episode_steps=STEPS,
        disable_env_checker=True,
    )


def collect(
    kind: Kind,
    episodes: int,
    seed: int,
    noise: float,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Played]:
    """So many logs; log number n depends on nothing but the seed and its number.

    Raises:
        InputError: an unknown kind, or so much noise that no log is as the kind's must be.
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    env = recording_environment(kind)
    wanted = sequences(kind)
    order = np.random.default_rng(seed).permutation(len(wanted))
    try:
        for number in range(episodes):
            sequence = wanted[order[number % len(wanted)]]
            for attempt in range(_ATTEMPTS):
                rng = np.random.default_rng([seed, number, attempt])
                played = play(env, sequence, rng, noise)
                if _belongs(kind, played.done):
                    break
            else:
                raise InputError(
                    f"with noise {noise:g}, {_ATTEMPTS} attempts in a row make no log of this kind",
                    where=f"kitchen-{kind}",
                    hint="give less noise; nothing was written",
                )
            if progress is not None:
                progress(number + 1, episodes)
            yield played
    finally:
        env.close()


def _belongs(kind: Kind, done: frozenset[Task]) -> bool:
    """Whether a log of this kind may have done these tasks: some are done by accident, or fail."""
    whole = done.issuperset(TARGETS[kind])
    return {"complete": whole, "partial": True, "mixed": not whole}[kind]


def play(
    env: gymnasium.Env[Any, Any],
    sequence: tuple[Task, ...],
    rng: np.random.Generator,
    noise: float,
) -> Played:
    """One log of at most `STEPS` steps.

    Args:
        env: a FrankaKitchen-v1, of any target tasks.
        sequence: the tasks, in the order in which they are done.
        rng: what the log's start, speed, shifts and noise are drawn from.
        noise: the mean over logs of the standard deviation of the noise on each action.
    """
    own_noise = noise * rng.uniform(*_NOISE_RANGE)
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    simulator: Any = env.unwrapped
    data = simulator.data
    arm = Arm(simulator.model, data, simulator.robot_env.dt, rng.uniform(*_SPEEDS))
    observations, actions, rewards = [observation], [], []
    done: set[Task] = set()
    for intended in itertools.islice(_act(arm, sequence, rng), STEPS):
        noisy = intended + own_noise * rng.standard_normal(intended.shape)
        action = noisy.clip(-1.0, 1.0).astype(np.float32)
        observation, reward, _, _, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        done.update(task for task in TASKS if distance(data, task) < DONE)
    log = Log(
        _stacked(observations), np.array(actions), np.array(rewards), np.zeros(len(actions), bool)
    )
    return Played(log, sequence, frozenset(done), own_noise)


def _act(arm: Arm, sequence: tuple[Task, ...], rng: np.random.Generator) -> Script:
    """What the arm does for a sequence; a task that its script does not achieve is tried again."""
    for task in sequence:
        for _ in range(_TRIES):
            arm.offset = rng.normal(0.0, _SHIFT, 3)
            yield from script(arm, task)
            if distance(arm.data, task) < DONE:
                break


def _stacked(observations: list[Any]) -> Any:
    """Observations of single steps as one of the same keys, with an axis of steps."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: _stacked([one[key] for one in observations]) for key in first}
    return np.array(observations)


def make_kitchen(
    kind: Kind,
    *,
    episodes: int | None = None,
    seed: int = 0,
    noise: float = NOISE,
    dataset_id: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Make a dataset of the kitchen and write it where Minari keeps its datasets.

    The same arguments give the same bytes on the same machine and versions.

    Args:
        kind: "complete", "partial" or "mixed" (see the head of this file).
        episodes: how many logs to make; `EPISODES` of the kind without it.
        seed: of the order of the sequences, the starts, speeds, shifts and noise.
        noise: the mean of the noise's standard deviation, which is uniform over the logs between
            half of it and three halves; the bounds of an action are ±1.
        dataset_id: Minari's name for it; "kitchen/{kind}-v0" without it.
        progress: called with (made, wanted) after each log.

    Returns:
        The dataset's id. Its recovered environment is the recording one, as Minari's is, and its
        reference scores are 0 and 4: a normalised score is the share of the target tasks in per
        cent, in the environment that `as_evaluated` gives.

    Raises:
        InputError: an unknown kind, numbers out of range, a malformed or existing id, or too much
            noise.
        MissingExtra: Minari or Gymnasium-Robotics is not installed.
    """
    env = recording_environment(kind)
    where = f"kitchen-{kind}"
    try:
        episodes = EPISODES[kind] if episodes is None else episodes
        check_numbers(where, episodes=episodes, seed=seed, noise=noise)
        dataset_id = dataset_id or f"kitchen/{kind}-v0"
        refuse_existing(dataset_id)
        played = list(collect(kind, episodes, seed, noise, progress))
        whole = sum(one.done.issuperset(one.sequence) for one in played)
        target = sum(one.done.issuperset(TARGETS[kind]) for one in played)
        description = Description(
            algorithm="scripted arm over Cartesian waypoints, with action noise",
            about=f"Kitchen {kind}, scripted, not D4RL: a scripted arm after D4RL's recipe.",
            made={
                "command": f"xql data make {where} --episodes {episodes} --seed {seed}"
                f" --noise {float(noise)} --out-id {dataset_id}",
                "seed": seed,
                "noise": noise,
                "controller": {
                    "noise_range": _NOISE_RANGE,
                    "speeds": _SPEEDS,
                    "shift": _SHIFT,
                    "tries": _TRIES,
                },
                "target": TARGETS[kind],
                "outcome": f"scripted, not D4RL: {whole} of {len(played)} logs do all of their "
                f"four tasks, {target} the four target tasks",
            },
            reference=(0.0, 4.0),
        )
        write_dataset(dataset_id, [one.log for one in played], description, env)
    finally:
        env.close()
    return dataset_id

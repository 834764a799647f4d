"""Expert data of the Adroit hand, collected here after D4RL's `*-expert`.

A trained policy, read from a file, plays the task from random starts. As in D4RL, each
action is a draw from the policy, cut off at the bounds, and a log is as long as the environment's
time limit: nothing here terminates, not even where a pen falls.

What differs from D4RL: the simulator. Rewards of door and relocate are not D4RL's (see
`docs/evaluation.md`), so no reference returns are stated; success is comparable. A log of pen has
200 steps (D4RL: 100), the time limit of today's environment, and goes on where the pen falls.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from xql.collect.policies import FilePolicy, load_hand_policy
from xql.collect.rollouts import COPIES, Act, Played, play, rounds
from xql.collect.writing import Description, check_numbers, refuse_existing, write_dataset
from xql.data.actions import action_spec
from xql.envs.make import register_robotics
from xql.errors import InputError, nearest

Task = Literal["pen", "door", "relocate"]

NOISE = 1.0
"""How much of the policy's own standard deviation is drawn: all of it, as in D4RL."""

_IDS: dict[Task, str] = {
    "pen": "AdroitHandPen-v1",
    "door": "AdroitHandDoor-v1",
    "relocate": "AdroitHandRelocate-v1",
}


def task_environment(task: Task) -> gymnasium.Env[Any, Any]:
    """Gymnasium-Robotics' environment of a task.

    Raises:
        InputError: an unknown task.
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    if task not in _IDS:
        raise InputError(f"no task '{task}'", where="adroit", hint=nearest(task, _IDS))
    register_robotics()
    return gymnasium.make(_IDS[task], disable_env_checker=True)


def collect(
    task: Task,
    policy: FilePolicy,
    transitions: int,
    seed: int,
    noise: float,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Played]:
    """Logs as long as the time limit until exactly so many transitions are made.

    The last log is cut there. Log number n depends on nothing but the seed and its number.

    Raises:
        InputError: an unknown task.
        MissingExtra: Gymnasium-Robotics is not installed.
    """
    envs = [task_environment(task) for _ in range(COPIES)]
    limit = int((envs[0].spec and envs[0].spec.max_episode_steps) or 0)
    size = action_spec(envs[0].action_space, task).size
    done = 0
    try:
        for numbers, steps in rounds(transitions, limit):
            streams = [np.random.default_rng([seed, number]) for number in numbers]
            resets = [{"seed": int(stream.integers(2**31))} for stream in streams]
            draws = [stream.standard_normal((limit, size), np.float32) for stream in streams]
            act = _acting(policy, np.float32(noise) * np.stack(draws))
            yield from play(envs, resets, act, steps, lambda log, _, terminated: terminated)
            done += len(numbers) * steps
            if progress is not None:
                progress(done, transitions)
    finally:
        for env in envs:
            env.close()


def _acting(policy: FilePolicy, deviates: Float32[np.ndarray, "logs steps action"]) -> Act:
    def act(
        t: int, running: list[int], observations: Float[np.ndarray, "running observation"]
    ) -> Float[np.ndarray, "running action"]:
        return np.clip(policy.act(observations, deviates[running, t]), -1.0, 1.0)

    return act


def make_adroit(
    task: Task,
    policy: Path,
    *,
    transitions: int = 1_000_000,
    seed: int = 0,
    noise: float = NOISE,
    dataset_id: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Make a dataset of an expert's logs and write it where Minari keeps its datasets.

    The same arguments give the same bytes on the same machine and versions.

    Args:
        task: "pen", "door" or "relocate".
        policy: the file of a policy for this task.
        transitions: how many (s, a, r, s') to make, exactly.
        seed: of the starts and of the policy's draws.
        noise: how much of the policy's own standard deviation is drawn; 0 gives its mean actions.
        dataset_id: Minari's name for it; "adroit/{task}-expert-v0" without it.
        progress: called with (made, wanted) now and then.

    Returns:
        The dataset's id.

    Raises:
        InputError: an unknown task, numbers out of range, a malformed or existing id, or a file
            that holds no policy for this task.
        MissingExtra: Minari or Gymnasium-Robotics is not installed.
    """
    where = f"adroit-{task}-expert"
    env = task_environment(task)
    try:
        check_numbers(where, transitions=transitions, seed=seed, noise=noise)
        dataset_id = dataset_id or f"adroit/{task}-expert-v0"
        refuse_existing(dataset_id)
        observation_size = int(np.prod(env.observation_space.shape or ()))
        actions = action_spec(env.action_space, where)
        expert = load_hand_policy(policy, observation_size, actions.size)
        played = list(collect(task, expert, transitions, seed, noise, progress))
        succeeded = sum(one.success for one in played)
        returns = [float(one.log.rewards.sum()) for one in played]
        command = (
            f"xql data make {where} --policy {expert.file} --transitions {transitions}"
            f" --seed {seed} --noise {float(noise)} --out-id {dataset_id}"
        )
        description = Description(
            algorithm="a policy from a file, its actions drawn",
            about=f"Adroit {task}, after D4RL's expert recipe; returns are not D4RL's.",
            made={
                "command": command,
                "seed": seed,
                "noise": noise,
                "policy": {"file": expert.file, "sha256": expert.sha256},
                "outcome": f"{succeeded} of {len(played)} logs succeed, "
                f"mean return {np.mean(returns):.0f}",
            },
        )
        write_dataset(dataset_id, [one.log for one in played], description, env)
    finally:
        env.close()
    return dataset_id

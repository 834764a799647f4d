"""Several copies of an environment in step, so that one batch of actions serves all."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float, Shaped

from xql.collect.writing import Log
from xql.data.actions import action_spec

COPIES = 4
"""Environments stepped together; ten Adroit hands no longer fit a processor's cache. The bytes
of a dataset depend on it, since a matrix product's rounding depends on its shape."""

Act = Callable[
    [int, list[int], Shaped[np.ndarray, "running observation"]],
    Float[np.ndarray, "running action"],
]
"""Step, which logs still run, and their observations; one action for each of them."""


class Played(NamedTuple):
    """One log, and whether any of its steps reported success."""

    log: Log
    success: bool


def rounds(transitions: int, limit: int) -> Iterator[tuple[range, int]]:
    """The numbers of the logs to play together, and their steps; the very last log is cut."""
    full, rest = divmod(transitions, limit)
    for first in range(0, full, COPIES):
        yield range(first, min(first + COPIES, full)), limit
    if rest:
        yield range(full, full + 1), rest


def play(
    envs: Sequence[gymnasium.Env[Any, Any]],
    resets: Sequence[dict[str, Any]],
    act: Act,
    limit: int,
    ends: Callable[[int, np.ndarray, bool], bool],
) -> list[Played]:
    """One log for each of `resets`, played at the same time.

    Args:
        envs: at least as many copies as there are logs; their time limits do not matter here.
        resets: the arguments of each log's `reset`.
        act: the behaviour policy.
        limit: steps of each log, where `ends` does not end it before.
        ends: whether a log is over after a step, from its number, the observation and whether the
            step was a termination.

    Returns:
        The logs, in the order of `resets`.
    """
    space = envs[0].observation_space
    assert isinstance(space, gymnasium.spaces.Box)
    observations = np.empty((len(resets), limit + 1, *space.shape), space.dtype)
    for log, arguments in enumerate(resets):
        observations[log, 0], _ = envs[log].reset(**arguments)
    size = action_spec(envs[0].action_space, "the simulator").size
    actions = np.empty((len(resets), limit, size), np.float32)
    rewards = np.empty((len(resets), limit), np.float64)
    terminations = np.zeros((len(resets), limit), bool)
    lengths, success = [0] * len(resets), [False] * len(resets)
    running = list(range(len(resets)))
    for t in range(limit):
        if not running:
            break
        actions[running, t] = act(t, running, observations[running, t])
        going = []
        for log in running:
            observation, reward, terminated, _, info = envs[log].step(actions[log, t])
            observations[log, t + 1] = observation
            rewards[log, t], terminations[log, t] = reward, terminated
            success[log] |= bool(info.get("success", False))
            lengths[log] = t + 1
            if not ends(log, observation, terminated):
                going.append(log)
        running = going
    return [
        Played(
            Log(
                observations[log, : steps + 1].copy(),
                actions[log, :steps].copy(),
                rewards[log, :steps].copy(),
                terminations[log, :steps].copy(),
            ),
            success[log],
        )
        for log, steps in enumerate(lengths)
    ]

"""The online run that data is made from, trained here or by anyone, and its policies' returns."""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from xql.collect.writing import Log
from xql.data.actions import action_spec
from xql.envs.make import make_environment
from xql.errors import InputError
from xql.evaluation.rollout import rollout
from xql.runs.checkpoints import latest_step
from xql.runs.config import OnlineLoop, RunConfig
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.summary import member_means
from xql.training.evaluate import EVALUATION_SEED
from xql.training.online import train_online
from xql.training.replay import Rows, read_episode_lengths, read_replay, ring_capacity

REFERENCE_EPISODES = 100
"""Of random actions, for the return that scores 0."""


class Source(NamedTuple):
    """A finished online run of one seed."""

    folder: RunFolder
    random_return: float
    """Mean over `REFERENCE_EPISODES` episodes of uniformly random actions."""
    returns: dict[int, float]
    """Mean evaluation return, by step."""

    @property
    def expert_return(self) -> float:
        """That of the last policy."""
        return self.returns[max(self.returns)]

    @property
    def medium_step(self) -> int | None:
        """When the run had its medium policy; None where it never had one."""
        return medium_step(self.returns, self.random_return)


def train_source(
    environment: str, out: Path, *, steps: int, seed: int, progress: bool = True
) -> None:
    """Train SAC so that data of every kind can be made from the run.

    Args:
        environment: its id.
        out: the run's folder, which must not exist.
        steps: environment steps.
        seed: of everything.
        progress: show a progress bar on standard error.

    Raises:
        InputError: anything among these that cannot be used. Nothing is written then.
    """
    train_online(
        environment,
        agent="sac",
        steps=steps,
        seeds=[seed],
        out=out,
        loop=OnlineLoop(warmup=max(1, min(5_000, steps // 10)), buffer=steps),
        # Often enough that the first policy past a third is not far past it.
        evaluations=max(10, min(100, steps // 10_000)),
        keep_replay=True,
        keep_policies=True,
        progress=progress,
        report=False,
    )


def open_source(path: Path, env: str | None = None) -> Source:
    """A run that data can be made from.

    Args:
        path: its folder.
        env: the environment that the user named; what the run's folder says without it.

    Raises:
        InputError: it is no finished, evaluated online run of one seed, or it learned nothing.
    """
    folder = RunFolder.open(path)
    config, where = folder.config, str(path)
    if config.kind != "online":
        raise InputError(
            "this is no online run", where=where, hint="take one that xql train online has made"
        )
    if len(config.members) != 1:
        raise InputError(
            f"this run has {len(config.members)} members",
            where=where,
            hint="take one of a single seed and β",
        )
    done = latest_step(folder.checkpoints) or 0
    if done < config.steps:
        raise InputError(
            f"its training stopped at step {done:,} of {config.steps:,}",
            where=where,
            hint=f"go on with it: xql resume {path}",
        )
    if folder.read_frozen():
        raise InputError("its training diverged", where=where, hint="take another run or seed")
    returns = mean_returns(folder.read_evaluations())
    if not np.isfinite(returns.get(config.steps, np.nan)):
        raise InputError(
            "its last policy was not evaluated", where=where, hint="train with `last_episodes=100`"
        )
    source = Source(folder, random_return(config.require_environment(where, env).record), returns)
    if not source.expert_return > source.random_return:
        raise InputError(
            f"its last policy (return {source.expert_return:.1f}) is no better than random actions "
            f"({source.random_return:.1f})",
            where=where,
            hint="train for more steps",
        )
    return source


def mean_returns(rows: Sequence[Evaluation]) -> dict[int, float]:
    """The mean evaluation return of a run's first member, by step."""
    steps = sorted({row.step for row in rows})
    return {
        step: member_means([row for row in rows if row.step == step], "return")[0] for step in steps
    }


def medium_step(returns: Mapping[int, float], random_return: float) -> int | None:
    """The first step whose policy came a third of the way from random actions to the last policy.

    A third of the way and not of the return: where returns are negative, a third of the last one
    would be better than that one itself.

    Args:
        returns: mean evaluation return, by step.
        random_return: that of random actions.

    Returns:
        The step; None where no policy before the last came so far.
    """
    last = max(returns)
    third = random_return + (returns[last] - random_return) / 3
    return next((step for step in sorted(returns) if step < last and returns[step] >= third), None)


def require_medium(source: Source) -> int:
    """When the run had its medium policy.

    Raises:
        InputError: it never had one.
    """
    step = source.medium_step
    if step is None:
        raise InputError(
            f"no policy before its last (return {source.expert_return:.1f}) came a third of the "
            f"way to it from random actions ({source.random_return:.1f})",
            where=str(source.folder.path),
            hint="train for more steps, or with more `evaluations`",
        )
    return step


def policy_step(source: Source, policy: str) -> int:
    """The step of the "medium" or the "expert" policy, which the run has kept.

    Raises:
        InputError: it has not, or never had a medium one.
    """
    if policy == "expert":
        return source.folder.config.steps
    step = require_medium(source)
    if not (source.folder.policies / str(step)).is_dir():
        raise InputError(
            f"this run did not keep its policy of step {step:,}",
            where=str(source.folder.path),
            hint="train it with `keep_policies=True`",
        )
    return step


def random_return(environment: str) -> float:
    """The mean return of uniformly random actions, from the starts that evaluations use."""
    probe = make_environment(environment)
    spec = action_spec(probe.action_space, environment)
    probe.close()
    random = np.random.default_rng(EVALUATION_SEED)

    def act(
        observations: Float32[np.ndarray, "members parallel observation"],
    ) -> Float32[np.ndarray, "members parallel action"]:
        members, parallel = observations.shape[:2]
        return spec.sample(random, members * parallel).reshape(members, parallel, spec.size)

    results = rollout(
        lambda: make_environment(environment),
        act,
        members=1,
        episodes=REFERENCE_EPISODES,
        seed=EVALUATION_SEED,
    )
    return float(np.mean([result.episode_return for result in results]))


def replay_logs(source: Source) -> list[Log]:
    """The transitions that the run had collected when it had its medium policy, in order.

    Raises:
        InputError: it never had one, or did not keep its replay buffer.
    """
    step, where = require_medium(source), str(source.folder.path)
    path, loop = source.folder.replay, source.folder.config.loop
    if not os.path.lexists(path):
        raise InputError(
            "this run kept no replay buffer", where=where, hint="train it with `keep_replay=True`"
        )
    steps = source.folder.config.steps
    assert loop is not None, "a source is an online run"
    if loop.environments > 1 or ring_capacity(loop.buffer, steps, 1) < steps:
        raise InputError(
            f"its replay buffer ({loop.buffer:,} rows, {loop.environments} environments) "
            "does not hold the run in order",
            where=where,
            hint="train it with `environments=1` and a `buffer` of all its steps",
        )
    kept = read_replay(path, source.folder.config)
    rows = Rows(*(column[:, :step] for column in kept))
    return to_logs(rows, read_episode_lengths(path, steps))


def to_logs(rows: Rows, lengths: Sequence[int]) -> list[Log]:
    """One member's transitions as whole episodes, each with its final observation.

    Args:
        rows: in order, with a member axis of 1.
        lengths: the steps of each episode that ended; what is left is a last one that was cut.
    """
    steps = rows.rewards.shape[1]
    # A run that was resumed by an older version does not know the length of what it had begun.
    moved = (rows.next_observations[0, :-1] != rows.observations[0, 1:]).any(-1)
    seen = np.flatnonzero(moved | (rows.masks[0, :-1] == 0)) + 1
    known = np.cumsum(lengths, dtype=np.int64)
    edges = [0, *(int(end) for end in np.union1d(known[known < steps], seen)), steps]
    return [
        Log(
            observations=np.concatenate(
                [rows.observations[0, first:end], rows.next_observations[0, end - 1 : end]]
            ),
            actions=rows.actions[0, first:end],
            rewards=rows.rewards[0, first:end].astype(np.float64),
            terminations=rows.masks[0, first:end] == 0,
        )
        for first, end in pairwise(edges)
    ]


def provenance(source: Source) -> dict[str, Any]:
    """Where the policies come from, and their returns; neither a date nor a path."""
    config = source.folder.config
    step = source.medium_step
    return {
        "run": _run_provenance(config),
        "policies": {
            "random": {"return": source.random_return, "episodes": REFERENCE_EPISODES},
            "medium": {"return": None if step is None else source.returns[step], "step": step},
            "expert": {"return": source.expert_return, "step": config.steps},
        },
        "reference": "0 is the return of uniformly random actions and 100 that of the most likely "
        "actions of this run's last policy: these are not D4RL's references",
        "outcome": f"returns: {source.random_return:.1f} of random actions, "
        + ("" if step is None else f"{source.returns[step]:.1f} at step {step:,} (medium), ")
        + f"{source.expert_return:.1f} at step {config.steps:,} (expert)",
    }


def _run_provenance(config: RunConfig) -> dict[str, Any]:
    """The run's own settings; a part of the dataset's bytes."""
    plain = config.to_dict()
    kept = {key: plain[key] for key in ("xql", "agent", "preset", "steps", "loop")}
    return kept | {"settings": plain["hyperparameters"], "seed": config.members[0].seed}

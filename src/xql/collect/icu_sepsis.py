"""ICU-Sepsis as a log: patients who are treated by the clinicians' estimated policy."""

from pathlib import Path

import numpy as np

from xql.data.dataset import Dataset
from xql.data.files import check_destination, save_dataset
from xql.envs.icu_sepsis import LIMIT, draw, icu_sepsis_spec, one_hot, sepsis_tables
from xql.errors import InputError, brief, require_seed

NAME = "icu-sepsis"
EPISODES = 5_000
"""Where the user names no number."""
MOST_EPISODES = 100_000
"""An observation takes 3 KB, and they are held in memory until they are written."""


def collect(episodes: int = EPISODES, seed: int = 0) -> Dataset:
    """Treat so many patients; the same arguments give the same log.

    Args:
        episodes: how many patients.
        seed: of who they are, what is done and what becomes of them.

    Raises:
        InputError: a number out of range, or the package `icu-sepsis` is not installed.
    """
    for bound, wrong in ((1, episodes < 1), (MOST_EPISODES, episodes > MOST_EPISODES)):
        if wrong:
            more = "more" if bound == 1 else "less"
            raise InputError(
                f"episodes is {brief(episodes)}", where=NAME, hint=f"give {bound} or {more}"
            )
    require_seed(seed)
    tables, random = sepsis_tables(), np.random.default_rng(seed)
    # By episode and step; an episode's last state stands after its last action.
    states = np.zeros((episodes, LIMIT + 1), np.int32)
    actions = np.zeros((episodes, LIMIT + 1), np.int32)
    rewards = np.zeros((episodes, LIMIT + 1), np.float32)
    lengths = np.full(episodes, LIMIT, np.int64)
    terminated = np.zeros(episodes, bool)
    states[:, 0] = draw(np.broadcast_to(tables.starts, (episodes, tables.states)), random)
    going = np.arange(episodes)
    for step in range(LIMIT):
        here = states[going, step]
        chosen = draw(tables.clinicians[here], random)
        reached = draw(tables.transitions[here, chosen], random)
        actions[going, step], states[going, step + 1] = chosen, reached
        rewards[going, step] = tables.rewards[here, chosen, reached]
        over = reached >= tables.living
        lengths[going[over]], terminated[going[over]] = step + 1, True
        going = going[~over]
        if not len(going):
            break
    kept = np.arange(LIMIT + 1) <= lengths[:, None]
    last = np.arange(LIMIT + 1) == lengths[:, None]
    taken = one_hot(actions[kept], tables.actions)
    taken[last[kept]] = 0.0
    return Dataset(
        observations=one_hot(states[kept], tables.states),
        actions=taken,
        rewards=rewards[kept],
        lengths=lengths,
        terminated=terminated,
        truncated=~terminated,
        name=NAME,
        environment=icu_sepsis_spec().to_json(),
        metadata={
            "made_by": f"xql data make {NAME} --episodes {episodes} --seed {seed}",
            "policy": "the clinicians', as icu-sepsis estimates it",
        },
        discrete=True,
    )


def make_icu_sepsis(out: Path | str, *, episodes: int = EPISODES, seed: int = 0) -> Dataset:
    """Make a log of the clinicians' policy in ICU-Sepsis, and write it to a file.

    Args:
        out: the file, in one of the formats of `xql.data.files.save_dataset`.
        episodes, seed: as `collect` takes them.

    Returns:
        What was written.

    Raises:
        InputError: the file exists or cannot be written, or as `collect` says.
    """
    path = check_destination(Path(out))
    dataset = collect(episodes, seed)
    save_dataset(dataset, path)
    return dataset

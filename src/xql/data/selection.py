"""Which episodes of a dataset are learned from: what is held out, then a named subset of the rest.

    all      every episode
    top:X    the best share X of the episodes by undiscounted return, at least one

Episodes of equal return rank by length, the shorter first, then as they are stored: where only
reaching the goal is rewarded, `top` keeps the quickest. The kept ones stay in stored order.

What is held out are the episodes whose numbers have the smallest hashes: as good as random, and the
same ones whenever the data is opened again, whoever learns from it, and in whatever order they are
stored. Copies of an episode are held out together or not at all: what is learned from says nothing
of what is held out.
"""

import hashlib
from typing import Any

import numpy as np
from jaxtyping import Int, UInt64

from xql.data.dataset import Dataset
from xql.errors import InputError, brief, nearest

SUBSETS = ("all", "top:X")

_AMOUNT = "give a share such as 0.1, or a number of episodes such as 20"

_SALT = b"xql hold-out"
"""Of the hashes, which are compared with no others."""


def set_apart(dataset: Dataset, amount: Any) -> tuple[Dataset, Dataset | None]:
    """The episodes to learn from, and those that are held out.

    Args:
        dataset: all of them.
        amount: a share of the episodes, below 1, of which at least one is taken; or a whole number
            of episodes; 0 for none. Copies for which there is no room make it fewer; or more, where
            every episode has more copies than that.

    Raises:
        InputError: it is neither, or leaves no episode to learn from.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float | np.number):
        raise InputError(f"`hold_out` cannot be {brief(amount)}", hint=_AMOUNT)
    if amount == 0:
        return dataset, None
    if not (0 < amount < 1 or (amount >= 1 and float(amount).is_integer())):
        raise InputError(f"`hold_out={amount:g}` is no part of the episodes", hint=_AMOUNT)
    count = max(1, round(amount * len(dataset))) if amount < 1 else int(amount)
    if count >= len(dataset):
        hint = f"give less: the data has {len(dataset):,} episode{'s' * (len(dataset) > 1)}"
        raise InputError(f"`hold_out={amount:g}` leaves no episode to learn from", hint=hint)
    hashes, moves = _hashes(dataset)
    groups: dict[int, list[int]] = {}
    for episode in np.argsort(hashes, kind="stable").tolist():
        groups.setdefault(int(moves[episode]), []).append(episode)
    if len(groups) == 1:
        raise InputError(
            f"`hold_out={amount:g}` leaves no episode to learn from",
            hint="leave it out: all episodes are copies of one",
        )
    held = np.zeros(len(dataset), bool)
    held[_fitting(list(groups.values()), count)] = True
    return _taken(dataset, np.flatnonzero(~held)), _taken(dataset, np.flatnonzero(held))


def _fitting(groups: list[list[int]], count: int) -> list[int]:
    """The first groups of episodes that there is room for; where there is none, the smallest."""
    found: list[int] = []
    for group in groups:
        if len(found) + len(group) <= count:
            found += group
    return found or min(groups, key=len)


def _hashes(
    dataset: Dataset,
) -> tuple[UInt64[np.ndarray, " episodes"], UInt64[np.ndarray, " episodes"]]:
    """Of the numbers of each episode, and of its observations and actions alone."""
    columns = dataset.observations, dataset.actions, dataset.rewards
    portable = [one.astype(one.dtype.newbyteorder("<"), copy=False) for one in columns]
    found = []
    for first, length, ended in zip(
        dataset.firsts.tolist(), dataset.lengths.tolist(), dataset.terminated.tolist(), strict=True
    ):
        whole = hashlib.blake2b(b"01"[ended : ended + 1], digest_size=8, key=_SALT)
        moves = hashlib.blake2b(digest_size=8, key=_SALT)
        for number, column in enumerate(portable):
            rows = np.ascontiguousarray(column[first : first + length + 1]).data
            whole.update(rows)
            if number < 2:
                moves.update(rows)
        found.append([int.from_bytes(one.digest(), "big") for one in (whole, moves)])
    both = np.array(found, np.uint64)
    return both[:, 0], both[:, 1]


def select_episodes(dataset: Dataset, subset: str = "all") -> Dataset:
    """The episodes of a named subset; the dataset itself where that is all of them.

    Raises:
        InputError: an unknown name, or a share that is not above 0 and at most 1.
    """
    if subset == "all":
        return dataset
    name, _, text = subset.partition(":")
    if name != "top":
        raise InputError(f"unknown subset '{subset}'", hint=nearest(name, SUBSETS))
    try:
        share = float(text)
    except ValueError:
        share = np.nan
    if not 0 < share <= 1:
        raise InputError(
            f"subset '{subset}' is no share of the episodes",
            hint="write it as top:0.1, at most top:1",
        )
    # Rounded down after a hair is added: 0.29 · 100 is 28.999… in floating point.
    count = max(1, int(share * len(dataset) + 1e-9))
    best = np.lexsort((dataset.lengths, -dataset.returns))[:count]
    return _taken(dataset, np.sort(best))


def _taken(dataset: Dataset, episodes: Int[np.ndarray, " some"]) -> Dataset:
    return Dataset.from_episodes(
        [dataset.episode(int(index)) for index in episodes], **dataset.described
    )

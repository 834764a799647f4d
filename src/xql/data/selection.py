"""Named subsets of a dataset's episodes, taken before anything is learned from it.

    all      every episode
    top:X    the best share X of the episodes by undiscounted return, at least one

Episodes of equal return rank by length, the shorter first, then as they are stored: where only
reaching the goal is rewarded, `top` keeps the quickest. The kept ones stay in stored order.
"""

import numpy as np

from xql.data.dataset import Dataset
from xql.errors import InputError, nearest

SUBSETS = ("all", "top:X")


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
    return Dataset.from_episodes(
        [dataset.episode(int(index)) for index in np.sort(best)], **dataset.described
    )

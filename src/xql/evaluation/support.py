"""Whether a log can say anything of a policy: how near its actions are to those that were logged.

Similar states are the nearest ones of *other* episodes, because the steps of one episode resemble
each other more than what the behaviour policy would do there again.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from xql.data.dataset import Dataset
from xql.evaluation.ope import SEARCHED, spread_out

STATES = 1_000
"""How many states are looked at."""
NEIGHBOURS = 20
"""Similar states for each of them."""
FAR = 0.95
"""The share of logged actions that are not called far."""


class Support(NamedTuple):
    """Where a policy's actions lie among those that were logged in similar states."""

    distance: float
    """Its distance from their mean, as a multiple of the logged action's (root mean squares)."""
    far: float
    """The share of states where it is farther from the nearest of them than 95 % of logged actions
    are: 0.05 for the behaviour policy itself."""
    effective: float
    """The effective sample size, as a share of the transitions, of weights that fall with its
    distance from the logged action as a Gaussian of the data's own spread does."""


def support(
    dataset: Dataset,
    observations: Float32[np.ndarray, "rows observation"],
    actions: Float32[np.ndarray, "rows action"],
    chosen: Float32[np.ndarray, "rows action"],
) -> Support | None:
    """How the chosen actions lie among the logged ones; None where there is one episode only.

    Args:
        dataset: the log.
        observations, actions: its columns, scaled so that distances mean something.
        chosen: what the policy does in each row, scaled as `actions` are.
    """
    episode = np.repeat(np.arange(len(dataset)), dataset.lengths + 1)[dataset.starts]
    if len(dataset) < 2:
        return None
    from scipy.spatial import KDTree  # it takes a quarter of a second, as in xql.evaluation.ope

    known = spread_out(dataset.starts[episode % 2 == 0], SEARCHED)
    asked = spread_out(dataset.starts[episode % 2 == 1], STATES)
    count = min(NEIGHBOURS, len(known))
    near = KDTree(observations[known]).query(observations[asked], k=range(1, count + 1))[1]
    others = actions[known[near]].astype(np.float64)
    logged, acted = actions[asked].astype(np.float64), chosen[asked].astype(np.float64)

    def nearest(one: np.ndarray) -> np.ndarray:
        distances: np.ndarray = np.linalg.norm(others - one[:, None], axis=-1).min(1)
        return distances

    def from_mean(one: np.ndarray) -> float:
        return float(np.sqrt(np.square(one - others.mean(1)).sum(-1).mean()))

    # A behaviour policy that repeats itself exactly has no spread; nothing is divided by 0.
    spread = max(from_mean(logged), 1e-6)
    weights = np.exp(-0.5 * np.square(acted - logged).sum(-1) / spread**2)
    effective = weights.sum() ** 2 / max(np.square(weights).sum(), 1e-300) / len(asked)
    return Support(
        distance=from_mean(acted) / spread,
        far=float((nearest(acted) > np.quantile(nearest(logged), FAR)).mean()),
        effective=float(effective),
    )

"""Whether a log can say anything of a policy: how near its actions are to those that were logged.

Similar states are the nearest ones of *other* episodes, because the steps of one episode resemble
each other more than what the behaviour policy would do there again.

Two discrete actions are equal or they are not. Of n of them, each may be taken in one of n similar
states alone, so that `PER_ACTION` · n of these are looked at: of the behaviour policy's own actions
1/(e · `PER_ACTION`), 7 %, are then expected in none of them at most, however they are drawn.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int

from xql.data.dataset import Dataset
from xql.evaluation.ope import SEARCHED, spread_out

STATES = 1_000
"""How many states are looked at."""
NEIGHBOURS = 20
"""Similar states for each of them."""
PER_ACTION = 5
"""Of discrete actions, similar states for each of these, where that is more."""
FAR = 0.95
"""The share of logged actions that are not called far."""
LEAST_SPREAD = 1e-6
"""Of logged actions: a behaviour policy that repeats itself exactly has none, to divide by."""


class Support(NamedTuple):
    """Where a policy's actions lie among those that were logged in similar states."""

    distance: float
    """Its distance from their mean, as a multiple of the logged action's (root mean squares)."""
    far: float
    """The share of states where it is unlike all of them: farther from the nearest than 95 % of
    logged actions are, or, where they are discrete, equal to none. About 0.05 for the behaviour
    policy itself, and of discrete actions up to 0.07."""
    effective: float
    """The effective sample size, as a share of the transitions, of weights that fall with its
    distance from the logged action as a Gaussian of the data's own spread does; where they are
    discrete, the share that agrees."""


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
        chosen: what the policy does in each row, scaled as `actions` are; discrete ones flat.
    """
    episode = np.repeat(np.arange(len(dataset)), dataset.lengths + 1)[dataset.starts]
    if len(dataset) < 2:
        return None
    from scipy.spatial import KDTree  # it takes a quarter of a second, as in xql.evaluation.ope

    known = spread_out(dataset.starts[episode % 2 == 0], SEARCHED)
    asked = spread_out(dataset.starts[episode % 2 == 1], STATES)
    count = max(NEIGHBOURS, PER_ACTION * dataset.action_size if dataset.discrete else 0)
    counts = range(1, min(count, len(known)) + 1)
    near = known[KDTree(observations[known]).query(observations[asked], k=counts)[1]]
    if dataset.discrete:
        numbers = actions.argmax(-1)
        return _of_numbers(numbers[near], numbers[asked], chosen[asked].argmax(-1))
    return _of_vectors(
        actions[near].astype(np.float64),
        actions[asked].astype(np.float64),
        chosen[asked].astype(np.float64),
    )


def _of_vectors(
    others: Float64[np.ndarray, "states similar action"],
    logged: Float64[np.ndarray, "states action"],
    chosen: Float64[np.ndarray, "states action"],
) -> Support:
    """Of continuous actions: what was logged in similar states and there, and the policy's."""

    def nearest(one: np.ndarray) -> np.ndarray:
        distances: np.ndarray = np.linalg.norm(others - one[:, None], axis=-1).min(1)
        return distances

    def from_mean(one: np.ndarray) -> float:
        return float(np.sqrt(np.square(one - others.mean(1)).sum(-1).mean()))

    spread = max(from_mean(logged), LEAST_SPREAD)
    weights = np.exp(-0.5 * np.square(chosen - logged).sum(-1) / spread**2)
    effective = weights.sum() ** 2 / max(np.square(weights).sum(), 1e-300) / len(logged)
    return Support(
        distance=from_mean(chosen) / spread,
        far=float((nearest(chosen) > np.quantile(nearest(logged), FAR)).mean()),
        effective=float(effective),
    )


def _of_numbers(
    others: Int[np.ndarray, "states similar"],
    logged: Int[np.ndarray, " states"],
    chosen: Int[np.ndarray, " states"],
) -> Support:
    """Of discrete actions, likewise; a distance is that of their one-hot rows."""

    def share(one: np.ndarray) -> np.ndarray:
        shares: np.ndarray = (others == one[:, None]).mean(1)
        return shares

    # |e_a − p|² = 1 − 2 p_a + Σ p², where p is the share of each action among similar states.
    squares = np.mean([(np.bincount(row) ** 2).sum() for row in others]) / others.shape[1] ** 2

    def from_mean(one: np.ndarray) -> float:
        return float(np.sqrt(max(0.0, 1.0 - 2.0 * share(one).mean() + squares)))

    return Support(
        distance=from_mean(chosen) / max(from_mean(logged), LEAST_SPREAD),
        far=float((share(chosen) == 0).mean()),
        effective=float((chosen == logged).mean()),
    )

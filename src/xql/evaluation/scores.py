"""Normalised scores: 0 is the random policy, 100 the expert, as the benchmark defines them."""

import csv
import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from xql.errors import InputError


class Reference(NamedTuple):
    """The two returns that a normalised score is measured against."""

    minimum: float
    """The return that scores 0."""
    maximum: float
    """The return that scores 100."""
    source: str
    """Where the two numbers were taken from."""


def reference_score(name: str, metadata: Mapping[str, Any] | None = None) -> Reference | None:
    """The reference returns of a dataset, or None where none are defined.

    Args:
        name: a D4RL name such as "door-human-v0".
        metadata: what the dataset says of itself. Its own `ref_min_score` and `ref_max_score` win
            over the table, and the source says so.

    Raises:
        InputError: the dataset's own references are not finite or not in order.
    """
    if metadata is not None and {"ref_min_score", "ref_max_score"} <= metadata.keys():
        own = (metadata["ref_min_score"], metadata["ref_max_score"])
        if None not in own:
            minimum, maximum = float(own[0]), float(own[1])
            if not (np.isfinite(own).all() and minimum < maximum):
                raise InputError(
                    f"the reference scores {minimum} and {maximum} are not in order",
                    where=name,
                    hint="ref_min_score must lie below ref_max_score",
                )
            return Reference(minimum, maximum, "the dataset's own metadata")
    return _table().get(name)


def normalised_score(
    returns: Float[np.ndarray, "*shape"] | float, reference: Reference
) -> Float64[np.ndarray, "*shape"]:
    """100·(R − min)/(max − min), in float64, of the same shape as `returns`."""
    spread = reference.maximum - reference.minimum
    return np.asarray(100.0 * (np.asarray(returns, np.float64) - reference.minimum) / spread)


@functools.cache
def _table() -> dict[str, Reference]:
    """reference_scores.csv by name; the file says of each row where it comes from."""
    text = importlib.resources.files("xql.evaluation").joinpath("reference_scores.csv").read_text()
    return {
        row["dataset"]: Reference(
            float(row["ref_min_score"]), float(row["ref_max_score"]), row["source"]
        )
        for row in csv.DictReader(text.splitlines())
    }

"""What others published, and the data that it was measured on, as CSV with a source in each row.

The files lie in `published/`. A number that nobody could be found to have printed is not among
them. `protocol` says which step a number is of: "last", "best", "smoothed" over training, "said to
be best" (the X-QL columns, by others' account of them), or "as printed" where no source says.
"""

import csv
import functools
import importlib.resources
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from xql.runs.summary import Quantity


class Number(NamedTuple):
    """One published number."""

    dataset: str
    method: str
    score: float
    spread: float | None
    protocol: str
    source: str


class Published(NamedTuple):
    """A curve of Figure 3, measured from the vector paths of the drawn figure."""

    steps: Float64[np.ndarray, " points"]
    """Environment steps."""
    returns: Float64[np.ndarray, " points"]
    """The mean over the paper's seeds: 3 of SAC's, 4 of TD3's."""
    half_widths: Float64[np.ndarray, " points"]
    """Half of the band that the paper shades; it does not say what the band is."""


class Benchmark(NamedTuple):
    """A dataset of the paper, and under which names the three sources have it."""

    table: str
    """The table that has it; empty for data made here that the paper has not."""
    name: str
    measure: Quantity
    """What of ours can be laid beside the published number."""
    d4rl_file: str
    environment: str
    """The simulator to evaluate D4RL's file in."""
    barrier: str
    """Why D4RL's file cannot be evaluated on in today's simulators."""
    minari: str
    made_here: str
    make: str
    """What `xql data make` calls it."""


@functools.cache
def numbers(name: str) -> tuple[Number, ...]:
    """A file of published numbers: table1, table2, table3, reruns or corl."""
    return tuple(
        Number(
            row["dataset"],
            row["method"],
            float(row["score"]),
            float(row["spread"]) if row["spread"] else None,
            row["protocol"],
            row["source"],
        )
        for row in _read(name)
    )


@functools.cache
def benchmarks() -> tuple[Benchmark, ...]:
    """The datasets of every table, in the paper's order."""
    measures: dict[str, Quantity] = {"score": "score", "success": "success"}
    return tuple(
        Benchmark(
            table=row["table"],
            name=row["dataset"],
            measure=measures[row["measure"]],
            d4rl_file=row["d4rl_file"],
            environment=row["environment"],
            barrier=row["barrier"],
            minari=row["minari"],
            made_here=row["made_here"],
            make=row["make"],
        )
        for row in _read("datasets")
    )


@functools.cache
def curves() -> dict[tuple[str, str], Published]:
    """Figure 3's curves, by task and method."""
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for row in _read("figure3"):
        point = (
            float(row["environment_steps"]),
            float(row["mean_return"]),
            float(row["half_width"]),
        )
        found.setdefault((row["task"], row["method"]), []).append(point)
    return {name: Published(*np.array(points).T) for name, points in found.items()}


def _read(name: str) -> list[dict[str, str]]:
    text = importlib.resources.files("xql.experiments").joinpath(f"published/{name}.csv")
    return list(csv.DictReader(text.read_text(encoding="utf-8").splitlines()))

"""The table of a plant, small enough to convert by hand."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

ROLES: dict[str, Any] = {
    "observation": "sensor_*",
    "action": "valve_*",
    "reward": "yield",
    "episode": "batch",
    "time": "t",
}


def plant(lengths: tuple[int, ...] = (4, 3), seed: int = 0) -> dict[str, Any]:
    """Batches whose every cell is its own number; sensor_a counts the rows."""
    rows, random = sum(lengths), np.random.default_rng(seed)
    return {
        "batch": np.repeat([f"b{index}" for index in range(len(lengths))], lengths).tolist(),
        "t": np.concatenate([60.0 * np.arange(length) for length in lengths]).tolist(),
        "sensor_a": np.arange(rows, dtype=float).tolist(),
        "sensor_b": random.normal(size=rows).tolist(),
        "valve_x": (0.5 + 0.01 * np.arange(rows)).tolist(),
        "yield": (10.0 + np.arange(rows)).tolist(),
        "comment": ["ok"] * rows,
    }


def without(table: dict[str, Any], *cells: tuple[str, int]) -> dict[str, Any]:
    """The same table with some cells missing."""
    changed = {name: list(values) for name, values in table.items()}
    for name, row in cells:
        changed[name][row] = None
    return changed


def write_csv(path: Path, table: dict[str, Any], between: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=between)
        writer.writerow(table)
        rows = zip(*table.values(), strict=True)
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return path

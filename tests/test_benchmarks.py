"""What the benchmarks print: ratios of what was measured in the same round."""

import csv
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is no part of the package

from benchmarks.__main__ import EVERY, commands
from benchmarks.table import interleaved, report


@pytest.fixture
def speeds() -> Iterator[float]:
    """Of a machine that is three times as fast in the second round."""
    return iter([2.0, 6.0, 18.0, 6.0, 2.0, 4.0])


def test_a_ratio_is_of_numbers_of_one_round(speeds: Iterator[float], tmp_path: Path) -> None:
    # Rounds (2, 6), then backwards (6, 18), then (2, 4): ratios 3, 3 and 2.
    def measure() -> float:
        return next(speeds)

    found = interleaved("group", "1/s", {"base": measure, "other": measure}, 3)
    base, other = found
    assert (base.median, base.least, base.most, base.ratio) == (2.0, 2.0, 6.0, 1.0)
    assert (other.median, other.rounds, other.ratio) == (6.0, 3, 3.0)
    report("speed", found, {"machine": "none"}, tmp_path)
    about, *lines = (tmp_path / "speed.csv").read_text(encoding="utf-8").splitlines()
    assert about == "# machine: none"
    assert [row["ratio"] for row in csv.DictReader(lines)] == ["1", "3"]


def test_every_benchmark_takes_the_flags_that_it_is_given(tmp_path: Path) -> None:
    for module, *words in commands(tmp_path, tmp_path, tmp_path).values():
        known = inspect.signature(importlib.import_module(module).main).parameters
        flags = [word.removeprefix("--") for word in words if word.startswith("--")]
        assert flags and set(flags) <= known.keys(), module
    assert set(EVERY) == commands(None, None, tmp_path).keys()

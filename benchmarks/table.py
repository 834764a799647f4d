"""What every benchmark prints and writes: rows, ratios taken in one run, and the machine.

Seconds of two machines, or of two hours, do not compare; what alternates in one run does. So each
row of a group has a ratio to the group's first, and the group has been measured in turn.
"""

import csv
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from xql.jax_config import cores
from xql.version import __version__


class Row(NamedTuple):
    """One number of a benchmark: the median of some rounds, the least and the most."""

    group: str
    name: str
    unit: str
    median: float
    least: float
    most: float
    rounds: int
    ratio: float
    """The median over rounds of this number by that of the group's first row in the same round."""


def interleaved(
    group: str, unit: str, measures: Mapping[str, Callable[[], float]], rounds: int
) -> list[Row]:
    """Take each measure once a round, in turn, so that all see the same minutes of the machine.

    Args:
        group: what is compared.
        unit: of all measures.
        measures: by name; ratios are to the first.
        rounds: how many; every other one goes backwards, so that none is always first.
    """
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in list(measures)[:: -1 if number % 2 else 1]:
            found[name].append(measures[name]())
    return rows(group, unit, found)


def rows(group: str, unit: str, found: Mapping[str, Sequence[float]]) -> list[Row]:
    """Rows of what was measured in the same rounds; of the first, one number may stand for all."""
    base = np.array(next(iter(found.values())))
    return [
        Row(
            group,
            name,
            unit,
            float(np.median(numbers)),
            min(numbers),
            max(numbers),
            len(numbers),
            float(np.median(np.array(numbers) / base)),
        )
        for name, numbers in found.items()
    ]


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    import jax

    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{cores()} cores of {_processor()}",
        "device": jax.devices()[0].device_kind,
        "memory": f"{gigabytes:.0f} GiB",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "versions": f"xql {__version__}, jax {version('jax')}, numpy {version('numpy')}",
        "load when it began": f"{os.getloadavg()[0]:.1f}",
    }


def _processor() -> str:
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [one.partition(":")[2].strip() for one in listed.splitlines() if "model name" in one]
    return names[0] if names else platform.machine()


def report(
    title: str, found: Sequence[Row], about: Mapping[str, str], out: Path | None = None
) -> None:
    """Print the rows, and write them to a CSV file whose first lines say what they are of.

    Args:
        title: of the table, and the file's name.
        found: the rows, group by group.
        about: `machine()` as it was when the measurement began, and what else is to be known.
        out: the folder of the file; nothing is written where None.
    """
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    for name in ("", "", "median", "least", "most", "ratio"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    before = None
    for row in found:
        group = "" if row.group == before else f"{row.group} [{row.unit}]"
        numbers = [f"{one:.4g}" for one in (row.median, row.least, row.most)]
        table.add_row(group, row.name, *numbers, f"{row.ratio:.2f}")
        before = row.group
    console = Console(width=120, soft_wrap=True)
    console.print(table)
    console.print("; ".join(f"{name}: {value}" for name, value in about.items()), markup=False)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{title}.csv").open("w", newline="", encoding="utf-8") as file:
        for name, value in about.items():
            file.write(f"# {name}: {value}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        for row in found:
            writer.writerow([f"{one:.5g}" if isinstance(one, float) else one for one in row])

"""How long a command takes to begin: `python -m benchmarks.startup`.

Help, and training from the command to the first update that metrics.jsonl tells of, on noise in the
shape of Adroit's door (observation 60, action 9) with 256-256 networks, without an environment. A
first training compiles its programs ("cold"), a later one finds them in the cache ("warm"); without
a cache, each is a first one. All are measured once a round, in turn. Seconds on the clock depend on
what else the machine does; those of the processor, of all its cores together, less so.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from benchmarks.table import machine, report, rows

HELP = (
    ("--help",),
    ("data", "list"),
    ("data", "list", "--help"),
    ("train", "offline", "--help"),
    ("evaluate", "--help"),
)
TRAIN = ("train", "offline", "--data", "log.npz", "--env", "none", "--steps", "1")
LONGEST = 300.0
"""Seconds after which a command is given up."""


class Seconds(NamedTuple):
    """What one command took."""

    clock: float
    processor: float
    """Of all cores, user and system."""


def measure(words: tuple[str, ...], folder: Path, caches: Path, until: Path | None) -> Seconds:
    """Run one command to its end, or until something stands in a file.

    Args:
        words: the command's.
        folder: where it runs.
        caches: the user's folder for caches.
        until: the file.

    Raises:
        SystemExit: it failed.
    """
    ours = {key: one for key, one in os.environ.items() if "COMPILATION_CACHE" not in key}
    ours |= {"XDG_CACHE_HOME": str(caches), "XQL_REPORT": "0"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "xql", *words],
        cwd=folder,
        env=ours,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        found, status, used = os.wait4(process.pid, os.WNOHANG)
        clock = time.perf_counter() - began
        there = until is not None and until.exists() and until.stat().st_size > 0
        if not found and (there or clock > LONGEST):
            process.kill()
            found, status, used = os.wait4(process.pid, 0)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            if not there and process.returncode:
                raise SystemExit(f"the command failed: xql {' '.join(words)}")
            return Seconds(clock, used.ru_utime + used.ru_stime)
        time.sleep(0.002)


def write_log(path: Path) -> None:
    """Noise as data: the time does not depend on the numbers."""
    random, rows = np.random.default_rng(0), 5_000
    np.savez(
        path,
        observations=random.standard_normal((rows, 60), dtype=np.float32),
        actions=random.random((rows, 9), dtype=np.float32),
        rewards=random.standard_normal(rows, dtype=np.float32),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(rows) % 100 == 99,
    )


def measures(folder: Path) -> dict[str, Callable[[], Seconds]]:
    """By name, what is measured."""
    numbers = iter(range(10**6))

    def train(caches: Path) -> Seconds:
        out = folder / f"run-{next(numbers)}"
        words = (*TRAIN, "--no-plot", "--out", str(out))
        return measure(words, folder, caches, out / "metrics.jsonl")

    def cold() -> Seconds:
        with tempfile.TemporaryDirectory() as caches:
            return train(Path(caches))

    def explain(words: tuple[str, ...]) -> Callable[[], Seconds]:
        return lambda: measure(words, folder, folder / "caches", None)

    def warm() -> Seconds:
        return train(folder / "caches")

    warm()
    explained = {f"xql {' '.join(words)}": explain(words) for words in HELP}
    return {**explained, "first update, cold": cold, "first update, warm": warm}


def main(rounds: int = 5, out: Path | None = None) -> None:
    """Print medians.

    Args:
        rounds: how often each is measured.
        out: the folder of startup.csv; nothing is written without it.
    """
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder) / "log.npz")
        chosen = measures(Path(folder))
        found: dict[str, list[Seconds]] = {name: [] for name in chosen}
        for _ in range(rounds):
            for name, call in chosen.items():
                found[name].append(call())
    table = [
        row
        for unit, group in (("clock", "on the clock"), ("processor", "of the processor"))
        for row in rows(
            group, "s", {name: [getattr(one, unit) for one in each] for name, each in found.items()}
        )
    ]
    report("startup", table, about, out)


if __name__ == "__main__":
    tyro.cli(main)

"""What data takes in memory, from its file to the last update: `python -m benchmarks.memory`.

Transitions of 60 + 9 floats, in files of each format. Each measurement is a process of its own: it
imports what it needs, notes the memory that it has, opens the file or trains from it, and says how
much more it had at most. Two numbers: all memory (the peak of the resident set), and without what
is mapped from files, which the system takes back when it needs to. The *factor* is the former, less
what the process had before, over the size of the observations, actions and rewards in float32.

Training is the default of XQL without an evaluation; the speed is that of the updates after the
first 1,000. In memory and streamed take turns.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import tyro

from benchmarks.table import Row, machine, report, rows

OBSERVATION, ACTION, EPISODE = 60, 9, 1000
SIZE = 4 * (OBSERVATION + ACTION + 1)
"""Bytes of a transition."""
FIRST = 1000
"""Updates that are not timed: they compile."""

Job = Literal["open", "train", "stream"]
WAYS: tuple[tuple[Job, str], ...] = (("train", "in memory"), ("stream", "streamed"))


def columns(transitions: int) -> Iterator[dict[str, np.ndarray]]:
    """A random walk in each episode, an episode at a time."""
    random = np.random.default_rng(0)
    for first in range(0, transitions, EPISODE):
        length = min(EPISODE, transitions - first)
        walk = random.standard_normal((length + 1, OBSERVATION), np.float32)
        walk *= np.float32(0.1)
        walk = np.cumsum(walk, axis=0)
        ends = np.zeros(length, bool)
        ends[-1] = True
        yield {
            "observations": walk[:-1],
            "actions": random.random((length, ACTION), np.float32),
            "rewards": random.standard_normal(length, np.float32),
            "terminated": np.zeros(length, bool),
            "truncated": ends,
            "next_observations": walk[1:],
        }


def write(path: Path, transitions: int) -> None:
    """A file of the format that its name says, without ever holding the data."""
    first = next(columns(1))
    shapes = {name: (transitions, *values.shape[1:]) for name, values in first.items()}
    if path.suffix == ".hdf5":
        packed: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}
        with h5py.File(path, "w") as file:
            for name, shape in shapes.items():
                chunks = (min(EPISODE, transitions), *shape[1:])
                more = packed | {"chunks": chunks} if "gzip" in path.name else {}
                file.create_dataset(name, shape, first[name].dtype, **more)
            begin = 0
            for part in columns(transitions):
                for name, values in part.items():
                    file[name][begin : begin + len(values)] = values
                begin += len(values)
        return
    method = zipfile.ZIP_DEFLATED if "deflate" in path.name else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, shape in shapes.items():
            described = {"descr": first[name].dtype.str, "fortran_order": False, "shape": shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, described)
                for part in columns(transitions):
                    member.write(np.ascontiguousarray(part[name]).tobytes())


def status(key: str) -> float:
    """Mebibytes that Linux says of this process."""
    text = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) for row in text.splitlines() if row.startswith(key)) / 1024


class Anonymous:
    """The most memory of the process's own, looked at every 10 ms."""

    def __init__(self) -> None:
        self.peak, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.peak = max(self.peak, status("RssAnon"))

    def stop(self) -> float:
        """The peak."""
        self._over.set()
        self._thread.join()
        return max(self.peak, status("RssAnon"))


def work(job: Job, source: str, updates: int) -> dict[str, float]:
    """Open the file, or train from it, in this process."""
    import jax

    import xql
    from xql.training.offline import train_offline
    from xql.training.population import use_all_cores

    use_all_cores()
    jax.devices()
    before, anonymous = status("VmRSS"), status("RssAnon")
    meanwhile, began, rate = Anonymous(), time.perf_counter(), np.nan
    if job == "open":
        data = xql.open_dataset(source)
        assert data.observation_size == OBSERVATION
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = train_offline(
                source,
                steps=FIRST + updates,
                env="none",
                evaluations=1,  # so that metrics come at every 1,000th update
                out=Path(folder) / "run",
                stream=job == "stream",
                loggers=[],
                progress=False,
                report=False,
            )
            seconds = {
                row["step"]: float(np.max(row["seconds"]))
                for row in map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
            }
            rate = updates / (seconds[FIRST + updates] - seconds[FIRST])
    taken = time.perf_counter() - began
    own = meanwhile.stop()
    return {
        "before, MiB": before,
        "peak, MiB": status("VmHWM"),
        "own peak, MiB": own,
        "more, MiB": status("VmHWM") - before,
        "own more, MiB": own - anonymous,
        "seconds": taken,
        "updates/s": rate,
    }


def measured(job: Job, source: Path | str, updates: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--work", job, "--source", str(source)]
    command += ["--updates", str(updates)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(
    transitions: Sequence[int] = (100_000, 1_000_000),
    formats: Sequence[str] = ("plain.hdf5", "gzip.hdf5", "plain.npz", "deflate.npz"),
    updates: int = 4000,
    repetitions: int = 3,
    folder: Path | None = None,
    out: Path | None = None,
) -> None:
    """Print and write what each file takes to open, and training from an HDF5 file.

    Args:
        transitions: of the files. 10,000,000 take 5.4 GB in a plain file.
        formats: of the files to open; of 10,000,000 transitions, the first alone.
        updates: that are timed; a multiple of 1,000.
        repetitions: of each training; the medians count.
        folder: where the files are made, and removed after.
        out: the folder of a CSV file.
    """
    about, table = machine(), list[Row]()
    for count in transitions:
        peaks: dict[str, list[float]] = {}
        speeds: dict[str, list[float]] = {"in memory": [], "streamed": []}
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for name in formats if count < 10_000_000 else formats[:1]:
                path = Path(place) / name
                write(path, count)
                peaks[f"open {name}"] = [measured("open", path, updates)["more, MiB"]]
                for _ in range(repetitions if name == formats[0] else 0):
                    for job, how in WAYS:
                        found = measured(job, path, updates)
                        peaks.setdefault(f"trained {how}, process", []).append(found["peak, MiB"])
                        own = found["own peak, MiB"]
                        peaks.setdefault(f"trained {how}, not mapped", []).append(own)
                        speeds[how].append(found["updates/s"])
                path.unlink()
        # The first row is the data's own size, so that a ratio is in its units.
        size = [count * SIZE / 2**20]
        table += rows(f"{count:,} transitions", "MiB", {"data": size, **peaks})
        table += rows(f"{count:,} transitions, speed", "updates/s", speeds)
    report("memory", table, about, out)


if __name__ == "__main__":
    if "--work" in sys.argv:
        _, _, chosen, _, where, _, number = sys.argv
        os.environ["XQL_REPORT"] = "0"
        print(json.dumps(work(chosen, where, int(number))))  # type: ignore[arg-type]
    else:
        tyro.cli(main)

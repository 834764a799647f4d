"""Where a dataset of the paper can be had: D4RL's file, Minari's port, or made here.

They are different data, made by different simulators; nothing of one source stands for another's.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from xql.data.d4rl import d4rl_name
from xql.data.local import local_names, local_root
from xql.data.reading import require_file
from xql.errors import InputError
from xql.experiments.published import Benchmark

Source = Literal["d4rl", "minari", "here"]
LABELS: dict[Source, str] = {"d4rl": "D4RL's file", "minari": "Minari", "here": "made here"}
DOWNLOADS = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
"""Where D4RL publishes its files (Farama-Foundation/D4RL, d4rl/infos.py)."""


class Data(NamedTuple):
    """One dataset from one source."""

    source: Source
    name: str
    """Its name there, by which presets and references know it."""
    get: str
    """How to get it, in a few words."""
    opened: str | None
    """What `open_dataset` takes; None where it is not on this machine."""
    environment: str | None
    """The simulator to evaluate in; None where the data names it itself."""
    barrier: str
    """Why nothing can be evaluated on it, be it here or not; empty where it can."""
    fingerprint: str
    """Changes with the data; empty where it is not here."""


class LocalData(NamedTuple):
    """What is on this machine."""

    files: Mapping[str, Path]
    """D4RL's files by their dataset's name."""
    minari: frozenset[str]
    """Minari datasets, fetched or made here."""


def local_data(d4rl_dir: Path | None) -> LocalData:
    """Look what is on this machine.

    Args:
        d4rl_dir: where D4RL's files lie, under D4RL's names; folders inside are looked through.

    Raises:
        InputError: it is no folder, or two files in it hold the same dataset.
    """
    files: dict[str, Path] = {}
    if d4rl_dir is not None:
        if not d4rl_dir.is_dir():
            raise InputError(
                "there is no such folder", where=str(d4rl_dir), hint="check `d4rl_dir`"
            )
        for path in sorted(d4rl_dir.rglob("*.hdf5")):
            name = d4rl_name(path)
            if name in files:
                raise InputError(
                    f"{name} is here and in {files[name]}", where=str(path), hint="remove one"
                )
            files[name] = path.absolute()  # a worker's current folder may be another
    return LocalData(files, frozenset(local_names()))


def sources_of(benchmark: Benchmark, here: LocalData) -> list[Data]:
    """The sources that have a dataset, on this machine or not."""
    found = []
    if benchmark.d4rl_file:
        path = here.files.get(benchmark.name)
        found.append(
            Data(
                source="d4rl",
                name=benchmark.name,
                get=f"wget {DOWNLOADS}/{benchmark.d4rl_file}, and --d4rl-dir",
                opened=None if path is None else f"d4rl:{path}",
                environment=benchmark.environment or None,
                barrier=benchmark.barrier,
                fingerprint="" if path is None else _digest(path),
            )
        )
    if benchmark.minari:
        get = f"minari download {benchmark.minari}"
        found.append(_of_minari("minari", benchmark.minari, get, here))
    if benchmark.made_here:
        get = f"xql data make {benchmark.make}"
        found.append(_of_minari("here", benchmark.made_here, get, here))
    return found


def _digest(path: Path) -> str:
    with require_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _of_minari(source: Source, name: str, get: str, here: LocalData) -> Data:
    opened = f"minari:{name}" if name in here.minari else None
    return Data(source, name, get, opened, None, "", minari_fingerprint(name) if opened else "")


def minari_fingerprint(name: str) -> str:
    """Changes with a Minari dataset on this machine; empty where there is none of this name."""
    described = local_root() / name / "data" / "metadata.json"
    if not described.is_file():
        return ""
    return hashlib.sha256(described.read_bytes()).hexdigest()[:16]

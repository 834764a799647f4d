"""Random damage to the files of a run: it is read, or refused in one line."""

import functools
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from soak.frame import fuzz, refused_in_a_line
from soak.inputs import OLD_RUN
from xql.reports.compare import compare
from xql.runs.folder import RunFolder
from xql.runs.policy import load_policy

SECONDS = 60
"""Of each fuzz in `make soak`."""
DURATIONS = [pytest.param(0, id="quick"), pytest.param(SECONDS, id="long", marks=pytest.mark.soak)]

LOGS = ("evaluations.csv", "metrics.jsonl")
CHECKPOINT = tuple(
    str(path.relative_to(OLD_RUN))
    for path in sorted((OLD_RUN / "checkpoints").rglob("*"))
    if path.is_file()
)

WORDS = (b"\n", b",", b"nan", b"-1", b"9" * 30, b"[red]", b"\xff")


@st.composite
def damage(draw: st.DrawFn, files: tuple[str, ...]) -> dict[str, bytes]:
    """One or two files of the run, with some bytes others, gone, or twice."""
    found = {}
    for name in draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
        content = bytearray((OLD_RUN / name).read_bytes())
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, len(content)))
            end = min(len(content), start + draw(st.sampled_from([0, 1, 1, 8, 40, len(content)])))
            again = bytes(content[start:end]) * 2
            content[start:end] = draw(st.binary(max_size=12) | st.sampled_from([*WORDS, again]))
        found[name] = bytes(content)
    return found


def read_damaged(home: Path, read: Callable[[Path], object], files: dict[str, bytes]) -> None:
    """Read a run with these files in the place of its own, which are then put back."""
    for name, content in files.items():
        (home / name).write_bytes(content)
    try:
        with warnings.catch_warnings():
            # A row that is cut short and a damaged checkpoint are passed over with a warning.
            warnings.simplefilter("ignore")
            refused_in_a_line(lambda: read(home))
        assert {name: (home / name).read_bytes() for name in files} == files
    finally:
        for name in files:
            shutil.copyfile(OLD_RUN / name, home / name)


def read_logs(home: Path) -> None:
    folder = RunFolder.open(home)
    refused_in_a_line(folder.read_evaluations)
    refused_in_a_line(folder.read_metrics)
    compare([home])


@pytest.mark.parametrize("seconds", DURATIONS)
def test_logs(seconds: int, tmp_path: Path) -> None:
    home = tmp_path / "run"
    shutil.copytree(OLD_RUN, home)
    read_logs(home)  # sound, as it is
    check = functools.partial(read_damaged, home, read_logs)
    assert fuzz(check, damage(LOGS), seconds=seconds, each=40) >= 40


@pytest.mark.parametrize("seconds", DURATIONS)
def test_checkpoints(seconds: int, tmp_path: Path) -> None:
    home = tmp_path / "run"
    shutil.copytree(OLD_RUN, home)
    load_policy(home)
    check = functools.partial(read_damaged, home, load_policy)
    assert fuzz(check, damage(CHECKPOINT), seconds=seconds, each=10) >= 10

"""What a command imports and compiles before it begins, and where compiled programs are kept."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from worlds import line_data, same_bits
from xql import programs
from xql.agents import networks
from xql.programs import FOLDER, is_of_cache, keep_programs
from xql.runs.run import Run

LEAST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's folder for caches, of a user who has not configured JAX."""
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.delenv(LEAST, raising=False)
    # What `keep_programs` sets is taken back with these.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def kept_in() -> Path:
    keep_programs()
    return Path(os.environ[FOLDER])


def test_the_folder_is_the_user_s_own(caches: Path) -> None:
    folder = kept_in()
    assert folder.parent == caches / "xql"
    for one in (folder, folder.parent):
        assert stat.S_IMODE(one.stat().st_mode) == 0o700
    assert float(os.environ[LEAST]) == 0
    os.environ.pop(FOLDER)
    assert kept_in() == folder


def test_other_processors_have_other_folders(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {kept_in()}
    for other in ("flags : avx512f\n1", "flags : avx2\n2"):
        monkeypatch.setattr(programs, "_processor", lambda text=other: text)
        os.environ.pop(FOLDER)
        folders.add(kept_in())
    assert len(folders) == 3


def test_a_user_s_own_choice_stays(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, "elsewhere")
    monkeypatch.setenv(LEAST, "7")
    keep_programs()
    assert (os.environ[FOLDER], os.environ[LEAST]) == ("elsewhere", "7")
    assert not list(caches.iterdir())
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    keep_programs()
    assert FOLDER not in os.environ
    assert not list(caches.iterdir())


def test_where_no_folder_can_be_made_nothing_is_said(
    caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (caches / "xql").write_text("a file in the way")
    keep_programs()
    assert FOLDER not in os.environ
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(caches / "home"))
    monkeypatch.chdir(caches)
    assert (caches / "home") in kept_in().parents


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_folder_that_others_can_write_to_is_not_used(caches: Path) -> None:
    (caches / "xql").mkdir()
    (caches / "xql").chmod(0o777)
    keep_programs()
    assert FOLDER not in os.environ


def test_the_oldest_programs_make_room(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kept_in()
    for age, name in enumerate("dcba"):
        (folder / f"{name}-cache").write_bytes(bytes(100))
        os.utime(folder / f"{name}-cache", (1e9 - age, 1e9 - age))
    for most, left in ((400, "abcd"), (399, "d")):
        monkeypatch.setattr(programs, "SIZE", most)
        os.environ.pop(FOLDER)
        keep_programs()
        assert sorted(path.name[0] for path in folder.iterdir()) == list(left)


def test_a_file_that_cannot_be_read_is_removed(caches: Path) -> None:
    folder = kept_in()
    for name in ("jit_one-12ab-cache", "jit_two-12ab-cache"):
        (folder / name).touch()
    failed = "Error {} persistent compilation cache entry for 'jit_one': OSError: no space"
    assert is_of_cache(failed.format("writing"))
    assert len(list(folder.iterdir())) == 2
    assert is_of_cache(failed.format("reading"))
    assert [path.name for path in folder.iterdir()] == ["jit_two-12ab-cache"]
    assert not is_of_cache("Error reading the data")


def train(folder: Path, out: str) -> str:
    """Train in a process of its own; what it says on standard error."""
    settings = ["hidden=[8]", "batch_size=8"]
    command = ["train", "offline", "--data", "log.npz", "--env", "none", "--agent", "bc"]
    command += ["--set", *settings, "--steps", "3", "--logger", "none", "--no-plot", "--out", out]
    own = {key: value for key, value in os.environ.items() if not key.startswith("JAX_P")}
    own.pop(FOLDER, None)
    own |= {"XDG_CACHE_HOME": str(folder / "caches"), "JAX_EXPLAIN_CACHE_MISSES": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "xql", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=own,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def compiled(stderr: str) -> list[str]:
    return re.findall(r"PERSISTENT COMPILATION CACHE MISS for '(\w+)'", stderr)


def test_a_second_run_compiles_nothing_and_has_the_same_bits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "log.npz",
        observations=random.normal(size=(20, 2)).astype(np.float32),
        actions=random.uniform(-1, 1, (20, 1)).astype(np.float32),
        rewards=np.ones(20, np.float32),
        terminated=np.arange(20) % 5 == 4,
        truncated=np.zeros(20, bool),
    )
    first = compiled(train(tmp_path, "cold"))
    assert "jit__chunk" in first
    (folder,) = (tmp_path / "caches" / "xql").iterdir()
    (chunk,) = folder.glob("jit__chunk-*")
    whole = chunk.read_bytes()
    # As a process leaves it that is killed, or a disk that is full.
    chunk.write_bytes(whole[: len(whole) // 2])
    said = train(tmp_path, "warm")
    assert compiled(said) == ["jit__chunk"]
    assert "Error reading" not in said
    assert len(chunk.read_bytes()) > len(whole) // 2
    cold, warm = (Run.open(tmp_path / name).population for name in ("cold", "warm"))
    assert same_bits(cold, warm)


def test_neither_help_nor_the_package_imports_jax() -> None:
    code = (
        "import contextlib, io, sys\n"
        "import xql\n"
        "from xql.cli import COMMANDS, main\n"
        "def show(words, chosen):\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            main([*words, '--help'])\n"
        "    for word, below in chosen.items() if isinstance(chosen, dict) else ():\n"
        "        show([*words, word], below)\n"
        "show([], COMMANDS)\n"
        "main(['data', 'list'])\n"
        "heavy = ('jax', 'scipy', 'gymnasium', 'h5py', 'minari', 'matplotlib', 'mujoco')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_a_run_is_opened_without_its_networks_being_drawn(tmp_path: Path) -> None:
    """Opening a run compiled the initialisation of its networks, whose values nobody reads."""
    run = xql.train_offline(
        line_data(episodes=1),
        agent="bc",
        env="none",
        steps=1,
        options={"hidden": [7], "batch_size": 4},
        progress=False,
        out=tmp_path / "run",
    )
    draw: Any = networks._orthogonal_once()
    assert draw._cache_size() > 0
    draw.clear_cache()
    Run.open(run.path)
    assert draw._cache_size() == 0

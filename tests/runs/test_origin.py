"""`origin.json`: how a run was made, and what cannot be known is left out."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import xql
from xql.errors import InputError
from xql.files import unwritable
from xql.runs import origin
from xql.runs.config import RunConfig
from xql.runs.folder import RunFolder


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    origin._git.cache_clear()
    yield
    origin._git.cache_clear()


def test_a_session_says_with_what_the_run_was_made(tmp_path: Path) -> None:
    origin.append(tmp_path)
    with origin.command_line(["train", "offline", "--data", "my log.npz"]):
        origin.append(tmp_path, step=40)
    first, second = origin.read(tmp_path)
    assert (first["step"], first["command"]) == (0, "Python")
    assert (second["step"], second["command"]) == (40, "xql train offline --data 'my log.npz'")
    assert first["xql"] == xql.__version__ and first["packages"]["jax"] == jax.__version__
    assert first["devices"] == len(jax.devices()) and first["cores"] >= 1
    assert first["folder"] == str(Path.cwd()) and first["time"].endswith("+00:00")
    assert [path.name for path in tmp_path.iterdir()] == ["origin.json"]
    assert origin.this_session()["command"] == "Python"


def test_names_that_are_no_text_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / os.fsdecode(b"\xff \xce\xb2")
    odd.mkdir()
    monkeypatch.chdir(odd)
    with origin.command_line(["evaluate", os.fsdecode(b"\xff")]):
        origin.append(tmp_path)
    assert origin.started_in(tmp_path) == odd
    assert origin.read(tmp_path)[0]["command"] == os.fsdecode(b"xql evaluate '\xff'")
    odd.rmdir()
    assert origin.this_session()["folder"] is None


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that holds the package's files, as a clone of xql does."""
    package = tmp_path / "clone" / "src" / "xql"
    (package / "runs").mkdir(parents=True)
    for name in ("version.py", "runs/origin.py"):
        (package / name).write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(origin, "__file__", str(package / "runs" / "origin.py"))
    git(package, "init", "--quiet")
    return package


def git(folder: Path, *words: str) -> str:
    own = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *own, *words], cwd=folder, check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout.strip()


def test_the_revision_is_of_xql_s_own_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A repository in which xql merely lies, as in a virtual environment, says nothing of it.
    assert origin._git() is None
    origin._git.cache_clear()
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "x")
    # As within a hook of another repository.
    monkeypatch.setenv("GIT_DIR", str(checkout / "nowhere"))
    found = origin._git()
    monkeypatch.delenv("GIT_DIR")
    assert found == {"revision": git(checkout, "rev-parse", "HEAD"), "changed": False}
    origin._git.cache_clear()
    (checkout / "version.py").write_text("x = 2\n", encoding="utf-8")
    assert origin._git() == found | {"changed": True}


def test_without_git_there_is_no_revision(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "x")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin._git() is None
    origin.append(tmp_path)
    assert origin.read(tmp_path)[0]["git"] is None


DAMAGED = [b"", b"{", b"[]", b'{"sessions": 3}', b'{"sessions": [1]}', b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_left_out_with_a_warning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "origin.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"origin.json: this file is damaged and left out"):
        assert origin.started_in(tmp_path) is None
    with pytest.warns(UserWarning, match="damaged"):
        origin.append(tmp_path)
    assert len(origin.read(tmp_path)) == 1


def test_a_file_in_the_folder_s_place_has_no_sessions(tmp_path: Path) -> None:
    place = tmp_path / "config.yaml"
    place.write_text("version: 2")
    assert origin.read(place) == []  # a warning would fail here


@pytest.mark.parametrize("folder", [None, 3, "", "here"])
def test_what_is_no_absolute_path_is_no_folder(tmp_path: Path, folder: Any) -> None:
    text = json.dumps({"sessions": [{"folder": folder}]})
    (tmp_path / "origin.json").write_text(text, encoding="utf-8")
    assert origin.started_in(tmp_path) is None


def test_a_run_whose_origin_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any) -> None:
        raise unwritable(path, OSError(errno.ENOSPC, "full"), "run")

    config = RunConfig.load(Path(__file__).parent.parent / "fixtures" / "run-0.1")
    monkeypatch.setattr(origin, "append", full)
    with pytest.raises(InputError, match="no run can be written here"):
        RunFolder.create(tmp_path / "run", config)
    assert not any(tmp_path.iterdir())
    monkeypatch.undo()
    RunFolder.create(tmp_path / "run", config)
    assert len(origin.read(tmp_path / "run")) == 1

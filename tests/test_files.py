"""Files come into being whole, or not at all, and one line says why not."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xql.errors import InputError
from xql.files import (
    made_folder,
    put_folder,
    require_new,
    require_writable,
    save_figure,
    sync_folder,
    unwritable,
    whole_file,
    write_text,
    write_texts,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(28, "full")])
@pytest.mark.parametrize("replace", [True, False])
def test_a_block_that_fails_changes_nothing(
    tmp_path: Path, error: BaseException, replace: bool
) -> None:
    path = tmp_path / "table.csv"
    if replace:
        path.write_text("old")
    with pytest.raises((type(error), InputError)), whole_file(path, replace=replace) as draft:
        draft.write_text("half")
        raise error
    assert names(tmp_path) == (["table.csv"] if replace else [])
    assert not replace or path.read_text() == "old"
    with whole_file(path, replace=replace) as draft:
        assert draft.parent == tmp_path and draft.suffix == ".csv"
        draft.write_text("new")
    assert (names(tmp_path), path.read_text()) == (["table.csv"], "new")


@pytest.mark.parametrize("links", [True, False])
def test_what_came_into_being_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def none(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:  # as on FAT
        monkeypatch.setattr(os, "link", none)
    path = tmp_path / "a.npz"
    write_text(path, "theirs", replace=False)
    with pytest.raises(InputError) as error, whole_file(path) as draft:
        draft.write_text("mine")
    assert str(error.value) == f"{path}: the file exists; give another name"
    assert (names(tmp_path), path.read_text()) == (["a.npz"], "theirs")


def test_several_texts_are_written_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "a" / "b", {"x.md": "1", "y.csv": "2\r\n"})
    assert names(tmp_path / "a" / "b") == ["x.md", "y.csv"]
    assert (tmp_path / "a" / "b" / "y.csv").read_bytes() == b"2\r\n"
    with pytest.raises(InputError, match=r"no table can have this name"):
        write_texts(tmp_path / "new" / "c", {"x.md": "1", "\0.csv": "2"})
    with pytest.raises(InputError):
        write_texts(tmp_path / "a" / "b", {"x.md": "other", "\0.csv": "2"})
    assert names(tmp_path) == ["a"] and names(tmp_path / "a" / "b") == ["x.md", "y.csv"]
    assert (tmp_path / "a" / "b" / "x.md").read_text() == "1"


def test_a_folder_made_for_a_block_that_fails_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "mine", tmp_path / "new" / "folder"):
        with pytest.raises(RuntimeError), made_folder(path):
            raise RuntimeError
    assert names(tmp_path) == ["mine"]
    with made_folder(tmp_path / "new" / "folder"):
        pass
    assert (tmp_path / "new" / "folder").is_dir()


@pytest.mark.parametrize("stop", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    for name in ("draft", "path"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    rename = Path.rename

    def fails_for_drafts(self: Path, target: Path) -> Path:
        if self.name == "draft":
            raise stop
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails_for_drafts)
        with pytest.raises(type(stop)):
            put_folder(tmp_path / "draft", tmp_path / "path")
    assert names(tmp_path) == ["draft", "path"] and names(tmp_path / "path") == ["path"]
    put_folder(tmp_path / "draft", tmp_path / "path")
    assert names(tmp_path) == ["path"] and names(tmp_path / "path") == ["draft"]


ODD = {
    "below a file": (lambda folder: folder / "file" / "x.npz", "Not a directory"),
    "too long": (lambda folder: folder / ("x" * 300 + ".npz"), "File name too long"),
    "nul": (lambda folder: folder / "a\0b.npz", "no file can have this name"),
    "surrogate": (lambda folder: folder / "a\ud800b.npz", "no file can have this name"),
    "no folder": (lambda folder: folder / "no" / "x.npz", "there is no folder"),
    "a folder": (lambda folder: folder, "the file exists"),
}


@pytest.mark.parametrize(("place", "said"), ODD.values(), ids=ODD)
def test_a_path_that_cannot_be_written_is_one_line(
    tmp_path: Path, place: Callable[[Path], Path], said: str
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "file").write_text("mine")
    path = place(folder)
    with pytest.raises(InputError) as error:
        require_new(path)
    assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError) as error:
        write_text(path, "text", replace=False)
    assert "\n" not in str(error.value) and str(error.value).isprintable()
    assert names(folder) == ["file"] and names(tmp_path) == ["here"]


def test_a_full_disk_is_said_whatever_a_library_makes_of_it(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    wrapped = RuntimeError("Error in callback")
    wrapped.__cause__ = full
    said = ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device\n[x]")
    for error in (full, wrapped, said):
        line = f"{tmp_path}: no film can be written here (No space left on device); make room there"
        assert str(unwritable(tmp_path, error, "film")) == line
    line = str(unwritable(tmp_path, OSError("odd\n" * 100)))
    assert "\n" not in line and line.endswith("choose another place")


def test_a_folder_is_looked_at_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"no cell can be written here \(.*file is a file\)"):
        require_writable(tmp_path / "file" / "x", "cell")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="is not writable"):
        require_writable(tmp_path / "new" / "folder")
    assert names(tmp_path) == ["file"]


def test_a_figure_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    class Figure:
        def savefig(self, path: Path, dpi: int, metadata: Any) -> None:
            path.write_text("half a figure")
            if dpi > 100:
                raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "new" / "a.svg"
    with pytest.raises(InputError, match=r"no figure can be written here \(No space left"):
        save_figure(Figure(), path, dpi=200)
    assert names(tmp_path) == []
    save_figure(Figure(), path, dpi=100)
    with pytest.raises(InputError):
        save_figure(Figure(), path, dpi=200)
    assert names(path.parent) == ["a.svg"]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []
    sync, replace = os.fsync, os.replace

    def records_sync(number: int) -> None:
        sync(number)
        events.append(os.fstat(number).st_ino)

    def records_replace(source: Path, target: Path) -> None:
        replace(source, target)
        events.append("named")

    monkeypatch.setattr(os, "fsync", records_sync)
    monkeypatch.setattr(os, "replace", records_replace)
    above, folder = tmp_path / "a", tmp_path / "a" / "b"
    place = folder / "config.yaml"
    with made_folder(folder):
        write_text(place, "x: 1")
    inodes = [one.stat().st_ino for one in (above, tmp_path, place, folder)]
    assert events == [*inodes[:3], "named", inodes[3]]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_system_that_cannot_sync_folders_writes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    real = getattr(os, call)

    def cannot(what: Any, *rest: Any) -> Any:
        if stat.S_ISDIR(os.stat(what).st_mode):  # noqa: PTH116 -- of a descriptor too
            raise OSError(number, os.strerror(number))
        return real(what, *rest)

    monkeypatch.setattr(os, call, cannot)  # as on Windows
    write_text(tmp_path / "a.txt", "text")
    assert names(tmp_path) == ["a.txt"]
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
    with pytest.raises(OSError, match="bad"):
        sync_folder(tmp_path)
    with pytest.raises(InputError, match="Input/output error"):
        write_text(tmp_path / "b.txt", "text")
    assert names(tmp_path) == ["a.txt"]

"""What a run loses where nothing can be written any more: nothing that was whole before."""

import contextlib
import errno
import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xql.runs.folder
from worlds import line_data, register_line
from xql.cli import main
from xql.data.files import save_dataset
from xql.errors import InputError
from xql.evaluation.video import mp4
from xql.runs.checkpoints import (
    CheckpointWriter,
    Retention,
    load_extra,
    load_latest,
    save_checkpoint,
)
from xql.runs.run import Run
from xql.training.offline import train_offline


@contextlib.contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file can grow beyond `limit` bytes: what a full disk is, but for the number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python keeps the half that it wrote of a module, and no later process could import that.
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = compiled


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def learn(out: Path | None, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "agent": "bc",
        "steps": 6,
        "options": {"hidden": [4], "batch_size": 8},
        "evaluations": 3,
        "episodes": 1,
        "last_episodes": 1,
        "progress": False,
    }
    return train_offline(line_data(), out=out, **(settings | changes))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = {f"w{place}": jnp.full(500, place / 7) for place in range(20)}
    with file_size(100), pytest.raises(InputError, match=r"there is none before it$"):
        save_checkpoint(tmp_path / "none", 1, state)
    save_checkpoint(tmp_path, 1, state)
    for step in (1, 2):  # the same step again, and the next
        with file_size(100), pytest.raises(InputError) as error:
            save_checkpoint(tmp_path, step, {**state, "w0": jnp.zeros(500)})
        assert str(error.value) == (
            f"{tmp_path}: no checkpoint of step {step} can be written here (File too large); "
            "raise the limit on the size of a file (ulimit -f); that of step 1 is whole"
        )
        assert names(tmp_path) == ["1", "none"] and names(tmp_path / "none") == []
    step, loaded = load_latest(tmp_path, state)
    assert step == 1 and all(np.array_equal(loaded[key], state[key]) for key in state)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["extra.npz", "notes.json", "checksums.json", "to the disk"])
@pytest.mark.parametrize("thread", [False, True], ids=["here", "in a thread"])
def test_any_file_of_a_checkpoint_may_be_the_one_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, thread: bool
) -> None:
    state, extra = {"x": jnp.arange(3.0)}, {"rows": np.arange(500.0)}
    save_checkpoint(tmp_path, 1, state, extra=extra, notes={"a": 1})
    opened, sync = io.open, os.fsync
    full = OSError(errno.ENOSPC, "No space left on device")

    def opens(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream = opened(file, mode, *args, **kwargs)
        if "w" in mode and Path(file).name == name:
            stream.write("half" if "b" not in mode else b"half")
            stream.close()
            raise full
        return stream

    def syncs(number: int) -> None:
        if name == "to the disk":
            raise full
        sync(number)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", opens)
        patch.setattr(os, "fsync", syncs)
        with pytest.raises(InputError) as error:
            if thread:
                with CheckpointWriter() as writer:
                    writer.save(tmp_path, 2, state, extra=extra, notes={"a": 2})
            else:
                save_checkpoint(tmp_path, 2, state, extra=extra, notes={"a": 2})
    assert str(error.value) == (
        f"{tmp_path}: no checkpoint of step 2 can be written here (No space left on device); "
        "make room there; that of step 1 is whole"
    )
    assert names(tmp_path) == ["1"]
    assert load_latest(tmp_path, state)[0] == 1 and load_extra(tmp_path, 1)[1] == {"a": 1}


@contextlib.contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `path`; the test is skipped where none may be mounted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_disk_with_room_for_a_part_of_a_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    state, page = {"x": jax.random.normal(jax.random.key(0), (8000,))}, 4096
    extra = {"rows": np.arange(4000.0)}
    with small_disk(disk, 100 * page):
        save_checkpoint(disk / "run", 1, state, extra=extra)
        room, failed = page, 0
        while True:
            used = os.statvfs(disk)
            (disk / "other").write_bytes(bytes(used.f_bfree * used.f_bsize - room))
            try:
                save_checkpoint(disk / "run", 2, state, extra=extra, keep=Retention(1))
                break
            except InputError as error:
                line = f"{disk / 'run'}: no checkpoint of step 2 can be written here (No space left"
                assert str(error).startswith(line)
            assert names(disk / "run") == ["1"]
            step, loaded = load_latest(disk / "run", state)
            assert step == 1 and np.array_equal(loaded["x"], state["x"])
            assert np.array_equal(load_extra(disk / "run", 1)[0]["rows"], extra["rows"])
            (disk / "other").unlink()
            room, failed = room + 2 * page, failed + 1
        assert failed > 10
        assert names(disk / "run") == ["2"]
        assert np.array_equal(load_extra(disk / "run", 2)[0]["rows"], extra["rows"])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, ""), ValueError, Exception, "close"])
def test_orbax_may_say_it_in_several_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Any
) -> None:
    import orbax.checkpoint as ocp

    def full(*_: Any, **__: Any) -> None:
        words = "RESOURCE_EXHAUSTED: No space left on device\n[tensorstore/file.cc:1]"
        if raised is Exception:
            raise Exception("while writing") from ValueError(words)
        raise raised if isinstance(raised, OSError) else ValueError(words)

    monkeypatch.setattr(ocp.Checkpointer, "close" if raised == "close" else "save", full)
    with pytest.raises(InputError) as error:
        save_checkpoint(tmp_path, 4, {"x": jnp.ones(1)})
    assert str(error.value) == (
        f"{tmp_path}: no checkpoint of step 4 can be written here (No space left on device); "
        "make room there; there is none before it"
    )
    assert names(tmp_path) == []


def test_a_disk_that_fills_while_a_run_trains_keeps_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import orbax.checkpoint as ocp

    save, data = ocp.Checkpointer.save, save_dataset(line_data(), tmp_path / "line.npz")

    def fills(self: Any, path: Path, *args: Any, **kwargs: Any) -> None:
        if (tmp_path / "run" / "checkpoints" / "2").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(ocp.Checkpointer, "save", fills)
    words = ["--agent", "bc", "--steps", "6", "--evaluations", "3"]
    words += ["--set", "hidden=[4]", "batch_size=8"]
    with pytest.raises(SystemExit) as end:
        main(["train", "offline", "--data", str(data), "--out", str(tmp_path / "run"), *words])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"xql: {tmp_path / 'run' / 'checkpoints'}: no checkpoint of step 4 can be written here "
        "(No space left on device); make room there; that of step 2 is whole"
    )
    assert names(tmp_path / "run" / "checkpoints") == ["2"]
    assert Run.open(tmp_path / "run").population.step.tolist() == [2]


@pytest.mark.parametrize("last", [False, True], ids=["for a while", "to the end"])
def test_rows_that_cannot_be_logged_do_not_end_the_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    last: bool,
) -> None:
    append: Callable[..., None] = xql.runs.folder._append
    refused: list[str] = []

    def full(path: Path, *rows: str) -> None:
        if len(refused) < 4 or last:
            refused.append(path.name)
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, *rows)

    monkeypatch.setattr(xql.runs.folder, "_append", full)
    out = tmp_path / "run"
    if last:
        with pytest.raises(InputError) as error:
            learn(out, env=register_line())
        assert str(error.value).endswith(
            f"(No space left on device); make room there; the policy of step 6 is kept in {out}"
        )
        assert Run.open(out).population.step.tolist() == [6]
        return
    run = learn(out, env=register_line())
    said = " ".join(capsys.readouterr().err.split())
    for name in ("metrics.jsonl", "evaluations.csv"):
        line = f"warning: {out / name}: no row can be written here (No space left on device)"
        assert said.count(line) == 1 and name in refused
    assert [line.step for line in run.folder.read_metrics()] == [2, 4, 6]
    assert [row.step for row in run.evaluations] == [2, 4, 6]


def test_of_rows_that_do_not_fit_none_is_written(tmp_path: Path) -> None:
    run = learn(tmp_path / "run", steps=1, evaluations=1).folder
    path = run.path / "metrics.jsonl"
    before = path.read_bytes()
    rows = {"loss": [1 / 3], "rate": [2 / 3]}
    with file_size(len(before) + 20):
        for step in (2, 3):
            with pytest.raises(InputError, match=r"metrics.jsonl: no row can be written here"):
                run.log_metrics(step, rows)
    assert path.read_bytes() == before
    run.flush()
    assert [line.step for line in run.read_metrics()] == [1, 2, 3]
    run.flush()
    assert len(run.read_metrics()) == 3


def test_a_run_that_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for out in (None, tmp_path / "new" / "run", tmp_path / "mine"):
        with file_size(100), pytest.raises(InputError, match=r"no run can be written here \(File"):
            learn(out)
    assert names(tmp_path) == ["mine", "runs"]  # other jobs may be about to make theirs in runs/
    assert names(tmp_path / "mine") == names(tmp_path / "runs") == []
    for name in ("a\0b", "a\ud800b", "x" * 300):
        with pytest.raises(InputError) as error:
            learn(tmp_path / name)
        assert str(error.value).isprintable()


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".h5", ".parquet"])
def test_a_dataset_that_does_not_fit_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"line{suffix}"
    with file_size(500), pytest.raises(InputError) as error:
        save_dataset(line_data(), path)
    assert str(error.value) == (
        f"{path}: no dataset can be written here (File too large); "
        "raise the limit on the size of a file (ulimit -f)"
    )
    assert names(tmp_path) == []
    assert save_dataset(line_data(), path).stat().st_size > 500


def test_a_film_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with (
        file_size(500),
        pytest.raises(InputError, match=r"no film can be written here \(File too large\)"),
        mp4(tmp_path / "film.mp4", Fraction(10)) as write,
    ):
        for _ in range(3):
            write(np.zeros((32, 32, 3), np.uint8))
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["table.csv", "new/table.csv"])
def test_a_comparison_that_does_not_fit_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = learn(tmp_path / "run", env=register_line())
    with file_size(300), pytest.raises(SystemExit) as end:
        main(["compare", str(run.path), "--out", str(tmp_path / name)])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no table can be written here (File too large)" in line
    assert names(tmp_path) == ["run"]

import contextlib
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xql.errors import InputError
from xql.runs.checkpoints import (
    CheckpointWriter,
    Damaged,
    Retention,
    flatten,
    latest_step,
    load_checkpoint,
    load_extra,
    load_latest,
    save_checkpoint,
    unflatten,
)


class Layer(eqx.Module):
    weight: jax.Array
    bias: jax.Array | None


class State(NamedTuple):
    network: Any
    optimizer: Any
    key: jax.Array
    step: Any
    target: Any = None


def state(seed: int, width: int = 5) -> State:
    key = jax.random.key(seed)
    weight = jax.random.normal(key, (3, width))
    return State(
        network=(Layer(weight, None), Layer(weight.T, jnp.full(3, jnp.nan))),
        optimizer={"mu": [weight * 1e-38, ()], "half": weight.astype(jnp.bfloat16), "none": None},
        key=jax.random.split(jax.random.key(seed, impl="rbg"), 4),
        step=jnp.asarray(seed, jnp.int32),
    )


def bits(tree: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    leaves = [
        np.asarray(jax.random.key_data(leaf))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.asarray(leaf)
        for leaf in jax.tree.leaves(tree)
    ]
    return [(str(leaf.dtype), leaf.shape, leaf.tobytes()) for leaf in leaves]


def test_round_trip_is_bit_exact_and_keeps_the_structure(tmp_path: Path) -> None:
    saved, template = state(7), state(8)
    save_checkpoint(tmp_path, 100, saved)
    step, loaded = load_latest(tmp_path, template)
    assert step == 100
    assert bits(template) != bits(saved)
    assert bits(loaded) == bits(saved)
    structure: Any = jax.tree.structure(loaded)
    assert structure == jax.tree.structure(saved)
    assert loaded.network[0].bias is None and loaded.target is None


def test_random_keys_keep_their_kind_and_draw_the_same_numbers(tmp_path: Path) -> None:
    saved = state(7)
    save_checkpoint(tmp_path, 1, saved)
    loaded = load_checkpoint(tmp_path, 1, state(8))
    assert jax.random.key_impl(loaded.key) == jax.random.key_impl(saved.key)
    drawn, expected = (jax.random.normal(one.key[2], (8,)) for one in (loaded, saved))
    np.testing.assert_array_equal(drawn, expected)


def test_numbers_numpy_arrays_and_empty_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    saved = {
        "number": 2.5,
        "count": 3,
        "flag": True,
        "host": np.array([1 / 3]),
        "no": jnp.ones((0, 2)),
    }
    template = {
        "number": 0.0,
        "count": 0,
        "flag": False,
        "host": np.zeros(1),
        "no": jnp.ones((0, 2)),
    }
    save_checkpoint(tmp_path, 1, saved)
    loaded = load_checkpoint(tmp_path, 1, template)
    assert (loaded["number"], loaded["count"], loaded["flag"]) == (2.5, 3, True)
    assert [type(loaded[key]) for key in saved] == [type(saved[key]) for key in saved]
    assert loaded["host"].dtype == np.float64 and loaded["host"][0] == 1 / 3
    assert loaded["no"].shape == (0, 2)


def test_a_loaded_state_can_be_donated_like_a_fresh_one(tmp_path: Path) -> None:
    saved = {"w": jnp.arange(1024, dtype=jnp.float32)}
    save_checkpoint(tmp_path, 1, saved)
    step = jax.jit(lambda tree: {"w": tree["w"] * 2}, donate_argnums=0)
    for _ in range(2):
        loaded = load_checkpoint(tmp_path, 1, saved)
        np.testing.assert_array_equal(step(loaded)["w"], np.arange(1024) * 2)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_latest_two_and_the_named_ones_stay(tmp_path: Path) -> None:
    assert latest_step(tmp_path) is None
    save_checkpoint(tmp_path, 10, {"x": jnp.ones(1)}, name="pretrained")
    for step in (10, 20, 100, 1000):
        save_checkpoint(tmp_path, step, {"x": jnp.full(1, step)})
    assert names(tmp_path) == ["100", "1000", "pretrained"]
    assert latest_step(tmp_path) == 1000
    assert load_checkpoint(tmp_path, "pretrained", {"x": jnp.zeros(1)})["x"] == 1.0


def test_those_of_a_continuation_that_was_given_up_go(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, {"x": jnp.ones(1)}, keep=Retention(3))
    for step in (20, 30):
        (tmp_path / str(step) / "_METADATA").unlink()
    with pytest.warns(UserWarning, match="checkpoint 30 is damaged, so that of step 10 is used"):
        assert load_latest(tmp_path, {"x": jnp.zeros(1)})[0] == 10
    save_checkpoint(tmp_path, 15, {"x": jnp.ones(1)})
    assert names(tmp_path) == ["10", "15"]


def test_multiples_and_the_best_stay_without_their_extra_arrays(tmp_path: Path) -> None:
    rows = {"rows": np.arange(50.0)}
    for step in range(2, 20, 2):
        best = [4] if step > 4 else []
        keep = Retention(last=2, every=6, best=best)
        notes = {"rows": step}
        x = {"x": jnp.full(1, float(step))}
        save_checkpoint(tmp_path, step, x, extra=rows, notes=notes, keep=keep)
    assert sorted(map(int, names(tmp_path))) == [4, 6, 12, 16, 18]
    for step in (4, 6, 12, 16, 18):
        assert load_checkpoint(tmp_path, step, {"x": jnp.zeros(1)})["x"] == step
        extra, notes = load_extra(tmp_path, step)
        assert (list(extra), notes) == (["rows"] if step > 12 else [], {"rows": step})
        assert (tmp_path / str(step) / "extra.npz").exists() == (step > 12)
    (tmp_path / "4" / "_METADATA").write_text("{}")  # still checked
    with pytest.raises(Damaged):
        load_checkpoint(tmp_path, 4, {"x": jnp.zeros(1)})


def test_extra_arrays_and_notes_come_back_as_they_were(tmp_path: Path) -> None:
    extra = {
        "file": np.arange(6, dtype=np.int8).reshape(2, 3),
        "a/b ['c'].d": np.array([np.nan, -0.0, np.inf]),
        "none": np.ones((0, 3), np.float32),
        "scalar": np.array(7, np.uint64),
        "flags": np.array([True, False]),
    }
    notes = {"counters": {"steps": 3, "mean": 1 / 3}, "frozen": [], "nan": float("inf"), "ü": None}
    save_checkpoint(tmp_path, 1, {"x": jnp.ones(1)}, extra=extra, notes=notes)
    arrays, values = load_extra(tmp_path, 1)
    assert bits(arrays) == bits(extra) and list(arrays) == list(extra)
    assert values == notes
    save_checkpoint(tmp_path, 2, {"x": jnp.ones(1)})
    assert load_extra(tmp_path, 2) == ({}, {})
    with pytest.raises(InputError, match="there is no checkpoint 3; there are: 1, 2"):
        load_extra(tmp_path, 3)


def test_a_pytree_goes_through_the_extra_arrays(tmp_path: Path) -> None:
    saved, template = state(7), state(8)
    extra = flatten(saved, "good") | flatten(jnp.arange(3), "rows")
    assert "good.network[0].weight" in extra and "rows" in extra
    save_checkpoint(tmp_path, 1, {"x": jnp.ones(1)}, extra=extra)
    arrays, _ = load_extra(tmp_path, 1)
    loaded = unflatten(arrays, "good", template)
    assert bits(loaded) == bits(saved)
    assert jax.random.key_impl(loaded.key) == jax.random.key_impl(saved.key)
    np.testing.assert_array_equal(unflatten(arrays, "rows", jnp.zeros(3, int)), [0, 1, 2])
    own = "in this configuration; load it with the configuration of its own run"
    with pytest.raises(InputError) as error:
        unflatten(arrays, "good", state(8, width=6))
    line = f"array 'good.network[0].weight' is float32[3, 5] here and float32[3, 6] {own}"
    assert str(error.value) == line
    with pytest.raises(InputError, match="there is no array 'bad'; load it with"):
        unflatten(arrays, "bad", jnp.zeros(3))


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, 5, {"x": jnp.full(2, value)})
    assert load_checkpoint(tmp_path, 5, {"x": jnp.zeros(2)})["x"][0] == 2.0


KILLED_BEFORE_THE_RENAME = """
import os, pathlib, sys
import jax.numpy as jnp
from xql.runs.checkpoints import save_checkpoint

folder = pathlib.Path(sys.argv[1])
save_checkpoint(folder, 1, {"x": jnp.full(2, 1.0)})

def killed(*_, **__):
    os._exit(9)

os.rename = os.replace = pathlib.Path.rename = pathlib.Path.replace = killed
save_checkpoint(folder, 2, {"x": jnp.full(2, 2.0)})
"""


def test_a_killed_save_leaves_the_one_before_usable(tmp_path: Path) -> None:
    code = [sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(tmp_path)]
    assert subprocess.run(code, check=False).returncode == 9
    assert len(names(tmp_path)) == 2 and "1" in names(tmp_path)  # the other is an unfinished one
    assert latest_step(tmp_path) == 1
    assert load_latest(tmp_path, {"x": jnp.zeros(2)})[1]["x"][0] == 1.0
    save_checkpoint(tmp_path, 3, {"x": jnp.full(2, 3.0)})
    assert names(tmp_path) == ["1", "3"]


def test_other_widths_name_the_leaf(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(0, width=5))
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path, 1, state(0, width=6))
    assert str(error.value) == (
        f"{tmp_path / '1'}: leaf .network[0].weight is float32[3, 5] here and float32[3, 6] "
        "in this configuration; load it with the configuration of its own run"
    )


def test_other_structures_name_the_leaf(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"a": jnp.ones(1), "b": jnp.ones(1)})
    with pytest.raises(InputError, match=r"leaf \['b'\] of this checkpoint has no place"):
        load_checkpoint(tmp_path, 1, {"a": jnp.ones(1)})
    with pytest.raises(InputError, match=r"this checkpoint has no leaf \['c'\]"):
        load_checkpoint(tmp_path, 1, {"a": jnp.ones(1), "b": jnp.ones(1), "c": jnp.ones(1)})


def test_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_latest(tmp_path / "nothing", {"x": 1.0})
    assert str(error.value) == (
        f"{tmp_path / 'nothing'}: there is no checkpoint; train first, or check the path"
    )
    save_checkpoint(tmp_path, 30, {"x": 1.0})
    with pytest.raises(InputError, match="there is no checkpoint 40; there are: 30"):
        load_checkpoint(tmp_path, 40, {"x": 1.0})


def test_a_damaged_checkpoint_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "7").mkdir()
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path, 7, {"x": jnp.ones(1)})
    line = (
        f"{tmp_path / '7'}: this checkpoint cannot be read (its description is missing or "
        "damaged); load an earlier one with `step`"
    )
    assert str(error.value) == line
    saved = {"x": jnp.arange(100_000) * 1.37}
    path = without_checksums(save_checkpoint(tmp_path, 8, saved))
    # The largest file holds the array; the description, in another, stays readable.
    largest = max((file for file in path.rglob("d/*")), key=lambda file: file.stat().st_size)
    largest.write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be read \(.+\); load an earlier") as error:
        load_checkpoint(tmp_path, 8, saved)
    assert "\n" not in str(error.value) and "delete" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_damaged_latest_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": jnp.full(2, float(step))})
    empty = tmp_path / "3"
    empty.mkdir()
    with pytest.warns(UserWarning, match="checkpoint 3 is damaged, so that of step 2 is") as said:
        step, loaded = load_latest(tmp_path, {"x": jnp.zeros(2)})
    assert "earlier" not in str(said[0].message)  # it is what was done
    assert (step, loaded["x"].tolist()) == (2, [2.0, 2.0])
    # Leaves of another configuration are no damage: an older checkpoint has them too.
    empty.rmdir()
    with pytest.raises(InputError, match=r"leaf .* is float32"):
        load_latest(tmp_path, {"x": jnp.zeros(3)})
    empty.mkdir()
    for step in (1, 2):
        for file in [one for one in (tmp_path / str(step)).rglob("*") if one.is_file()]:
            file.unlink()
    with pytest.raises(InputError, match=r"3: this checkpoint cannot be read .*; no other can be"):
        load_latest(tmp_path, {"x": jnp.zeros(2)})


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_no_fault_of_the_checkpoint_is_not_called_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    import orbax.checkpoint as ocp

    def full(*_: object, **__: object) -> None:
        if wrapped:  # as Orbax does while it reads an array
            raise Exception("while reading") from MemoryError()
        raise MemoryError

    save_checkpoint(tmp_path, 1, {"x": jnp.ones(1)})
    monkeypatch.setattr(ocp.Checkpointer, "restore", full)
    with pytest.raises(Exception) as error:
        load_checkpoint(tmp_path, 1, {"x": jnp.ones(1)})
    assert not isinstance(error.value, InputError)


def test_only_folders_that_are_named_like_a_step_are_checkpoints(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, state(3))
    (tmp_path / "9").write_text("notes")
    (tmp_path / "٤").mkdir()
    (tmp_path / "04").mkdir()
    assert load_latest(tmp_path, state(0))[0] == 3


def test_a_pipe_in_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, 1, state(7))
    os.mkfifo(saved / "d" / "extra")
    with pytest.raises(
        InputError, match=r"this checkpoint cannot be read \(.*extra: this is a pipe\)"
    ):
        load_checkpoint(tmp_path, 1, state(8))


TEMPLATE = {"w": jnp.zeros((40, 50)), "b": jnp.zeros(7)}


def weights(step: int) -> dict[str, jax.Array]:
    return {"w": jax.random.normal(jax.random.key(step), (40, 50)), "b": jnp.full(7, step / 3)}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (1, 2):
        extra = {"rows": np.arange(500.0) + step}
        save_checkpoint(folder, step, weights(step), seeds=[0], extra=extra, notes={"step": step})
    return folder


def flipped(place: float) -> Callable[[Path], object]:
    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        at = round(place * (len(data) - 1))
        data[at] ^= 1 << at % 8
        file.write_bytes(data)

    return flip


def replaced_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped at the start": flipped(0),
    "flipped in the middle": flipped(0.5),
    "flipped at the end": flipped(1),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "cut in half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "emptied": lambda file: file.write_bytes(b""),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "gone": Path.unlink,
    "a folder": replaced_by_a_folder,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_every_damaged_file_is_found_and_the_checkpoint_before_used(
    two_checkpoints: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = [one for one in (two_checkpoints / "2").rglob("*") if one.is_file()]
    assert len(files) > 9 and {"extra.npz", "notes.json"} < {file.name for file in files}
    for file in files:
        folder = tmp_path / "copy"
        shutil.copytree(two_checkpoints, folder)
        place = folder / file.relative_to(two_checkpoints)
        damage(place)
        with pytest.raises(Damaged) as error:
            load_checkpoint(folder, 2, TEMPLATE, [0])
        line = str(error.value)
        assert line.startswith(f"{folder / '2'}: this checkpoint cannot be read (")
        # Of changed checksums it may be another file that does not fit.
        assert place.name in line or place.name == "checksums.json"
        assert "\n" not in line
        if place.name in ("extra.npz", "notes.json"):
            with pytest.raises(Damaged):
                load_extra(folder, 2)
        with pytest.warns(UserWarning, match="checkpoint 2 is damaged, so that of step 1") as said:
            step, loaded = load_latest(folder, TEMPLATE, [0])
        assert line.partition("; ")[0] in str(said[0].message)
        assert step == 1 and bits(loaded) == bits(weights(1))
        shutil.rmtree(folder)
    assert capfd.readouterr().err == ""


def test_no_bit_of_the_checksums_can_change_unseen(two_checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(two_checkpoints, folder)
    place = folder / "2" / "checksums.json"
    whole = place.read_bytes()
    for at in range(0, len(whole), 5):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        place.write_bytes(data)
        with pytest.raises(Damaged):
            load_checkpoint(folder, 2, TEMPLATE)


@pytest.mark.parametrize(
    "sums", [[], {}, {"sha256": []}, {"sha256": {"/etc/x": "0"}}, {"sha256": {"../x": "0"}}]
)
def test_checksums_of_another_form_are_one_line(
    two_checkpoints: Path, tmp_path: Path, sums: Any
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(two_checkpoints, folder)
    (folder / "2" / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(Damaged, match=r"\(checksums.json is damaged\)"):
        load_checkpoint(folder, 2, TEMPLATE)


def test_a_disk_that_cannot_be_read_is_damage(
    two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("hashlib.file_digest", bad)
    with pytest.raises(Damaged, match="Input/output error"):
        load_checkpoint(two_checkpoints, 2, TEMPLATE)


def test_files_that_somebody_added_do_no_harm(two_checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(two_checkpoints, folder)
    for place in (folder / "2", folder / "2" / "d"):
        (place / ".DS_Store").write_bytes(b"x")
    assert bits(load_latest(folder, TEMPLATE)[1]) == bits(weights(2))


def without_checksums(path: Path) -> Path:
    """Make of a checkpoint one as versions 0.1 and 0.2 wrote it."""
    for name in ("checksums.json", "notes.json", "extra.npz"):
        (path / name).unlink(missing_ok=True)
    place = path / "_CHECKPOINT_METADATA"
    about = json.loads(place.read_text())
    del about["custom_metadata"]["checksums"]
    place.write_text(json.dumps(about))
    return path


def test_checkpoints_without_checksums_still_load(two_checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(two_checkpoints, folder)
    without_checksums(folder / "2")
    assert bits(load_latest(folder, TEMPLATE, [0])[1]) == bits(weights(2))
    assert load_extra(folder, 2) == ({}, {})


def test_what_tensorstore_says_late_is_not_printed(
    two_checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_checkpoint(two_checkpoints, 2, TEMPLATE)
    log = logging.getLogger("asyncio")
    log.error("Future exception was never retrieved\nfuture: <ValueError('... tensorstore ...')>")
    log.error("Future exception was never retrieved\nfuture: <ValueError('of another')>")
    assert [record.message.split()[-1] for record in caplog.records] == ["another')>"]


def identity(path: Path | int) -> int:
    return os.stat(path).st_ino  # noqa: PTH116 -- of a descriptor too


def test_all_of_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    sync, rename = os.fsync, os.rename

    def records_sync(number: int) -> None:
        sync(number)
        events.append(identity(number))

    def records_rename(source: Path, target: Path) -> None:
        rename(source, target)
        events.append(Path(target).name)

    monkeypatch.setattr(os, "fsync", records_sync)
    monkeypatch.setattr(os, "rename", records_rename)
    folder = tmp_path / "checkpoints"
    path = save_checkpoint(folder, 7, weights(7), extra={"a": np.ones(3)}, notes={"b": 1})
    inside = {identity(one) for one in (path, *path.rglob("*"))}
    (named,) = (place for place, event in enumerate(events) if event == "7")
    assert inside <= set(events[:named])
    assert identity(tmp_path) in events[:named]
    assert identity(folder) in events[named:]
    # Nor do the arrays of an older one go before the disk knows that none are asked for.
    events.clear()
    keep = Retention(1, every=7)
    save_checkpoint(folder, 8, weights(8), keep=keep)
    assert load_extra(folder, 7) == ({}, {"b": 1})
    sums = identity(folder / "7" / "checksums.json")
    assert events[-2:] == [sums, identity(folder / "7")]


class Killed(BaseException):
    """What nothing catches."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """After `kill_at(n)` the nth change to a folder does not end, and no later one begins.

    After `kill_at(0)` all happen.
    """
    left = 0

    def start(count: int) -> None:
        nonlocal left
        left = count

    def mortal(
        change: Callable[..., object], half: Callable[[Path], object] | None = None
    ) -> Callable[..., object]:
        def changes(*args: Any, **kwargs: Any) -> object:
            nonlocal left
            if left > 1:
                left -= 1
            elif left == 1:
                if half is not None:
                    half(args[0])
                left = -1
            if left < 0:
                raise Killed
            return change(*args, **kwargs)

        return changes

    unlink = Path.unlink
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, mortal(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", mortal(unlink))
    monkeypatch.setattr(
        shutil, "rmtree", mortal(shutil.rmtree, lambda path: unlink(path / "_METADATA"))
    )
    return start


@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step"])
def test_a_kill_at_any_moment_leaves_a_checkpoint_that_loads(
    two_checkpoints: Path, tmp_path: Path, kill_at: Callable[[int], None], again: bool
) -> None:
    step, keep, old = (2, Retention(1), []) if again else (3, Retention(1, every=2), ["2"])
    moment = 0
    while True:
        moment += 1
        folder = tmp_path / str(moment)
        shutil.copytree(two_checkpoints, folder)
        if again:
            shutil.rmtree(folder / "1")  # there is nothing to go back to but the same step
        kill_at(moment)
        with contextlib.suppress(Killed):
            save_checkpoint(folder, step, weights(13), extra={"rows": np.ones(9)}, keep=keep)
            kill_at(0)
            break
        kill_at(0)
        found, loaded = load_latest(folder, TEMPLATE)  # a warning would be an error
        new = bits(loaded) == bits(weights(13))
        assert new or bits(loaded) == bits(weights(2))
        assert found == latest_step(folder) == (step if new else 2)
        assert len(load_extra(folder, found)[0]["rows"]) == (9 if new else 500)
        # Nothing stays in the way of the next.
        save_checkpoint(folder, 5, weights(5), keep=keep)
        assert names(folder) == [*old, "5"]
        assert again or load_extra(folder, 2) == ({}, {"step": 2})
    assert names(folder) == [*old, str(step)]
    assert moment > 5


class Gate:
    """Holds the writing of checkpoints until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import orbax.checkpoint as ocp

        self.opened, self.reached = threading.Event(), threading.Event()
        self.events: list[str] = []
        save = ocp.Checkpointer.save

        def waits(this: Any, path: Path, arrays: Any, **options: Any) -> None:
            assert threading.current_thread() is not threading.main_thread()
            self.events.append("begun")
            self.reached.set()
            assert self.opened.wait(60)
            save(this, path, arrays, **options)
            self.events.append("written")

        monkeypatch.setattr(ocp.Checkpointer, "save", waits)


def test_a_writer_saves_what_the_arrays_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    update = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    trained, rows, notes = weights(1), {"rows": np.arange(4.0)}, {"steps": [1]}
    rows |= flatten(update(weights(1)), "good")
    expected = {name: array.copy() for name, array in rows.items()}
    with CheckpointWriter() as writer:
        writer.save(tmp_path, 1, trained, extra=rows, notes=notes, seeds=[3])
        assert gate.reached.wait(60)
        for _ in range(3):  # all of this while nothing is written yet
            trained = update(trained)
        for array in rows.values():
            if array.flags.writeable:
                array += 1
        notes["steps"].append(2)
        assert gate.events == ["begun"] and latest_step(tmp_path) is None
        gate.opened.set()
    assert gate.events == ["begun", "written"]
    step, loaded = load_latest(tmp_path, TEMPLATE, [3])
    assert step == 1 and bits(loaded) == bits(weights(1))
    arrays, values = load_extra(tmp_path, 1)
    assert bits(arrays) == bits(expected) and values == {"steps": [1]}


def test_a_writer_saves_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    gate.opened.set()

    class Rows(dict[str, np.ndarray]):
        def items(self) -> Any:
            gate.events.append("copied")
            return super().items()

    with CheckpointWriter() as writer:
        for step in (1, 2, 3):
            writer.save(tmp_path, step, weights(step), extra=Rows(a=np.ones(1)))
        writer.wait()
        assert gate.events == ["copied", "begun", "written"] * 3
        assert bits(load_latest(tmp_path, TEMPLATE)[1]) == bits(weights(3))


def fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    import orbax.checkpoint as ocp

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ocp.Checkpointer, "save", fails)


def test_what_stops_a_writer_is_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, weights(1))
    fail(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    line = (
        f"{tmp_path}: no checkpoint of step 2 can be written here (No space left on device); "
        "make room there; that of step 1 is whole"
    )
    with CheckpointWriter() as writer:
        for call in (writer.wait, lambda: writer.save(tmp_path, 3, weights(3))):
            writer.save(tmp_path, 2, weights(2))
            with pytest.raises(InputError) as error:
                call()
            assert str(error.value) == line
            writer.wait()  # once is enough
    with pytest.raises(InputError) as error, CheckpointWriter() as writer:
        writer.save(tmp_path, 2, weights(2))
    assert str(error.value) == line
    with (
        pytest.raises(KeyboardInterrupt),
        pytest.warns(UserWarning, match=r"that of step 1 is whole$"),
        CheckpointWriter() as writer,
    ):
        writer.save(tmp_path, 2, weights(2))
        raise KeyboardInterrupt
    fail(monkeypatch, RuntimeError("a fault of ours"))
    with pytest.raises(RuntimeError, match="of ours"), CheckpointWriter() as writer:
        writer.save(tmp_path, 2, weights(2))
    assert names(tmp_path) == ["1"]


def test_a_writer_waits_for_its_save_when_the_block_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with pytest.raises(KeyboardInterrupt), CheckpointWriter() as writer:
        writer.save(tmp_path, 1, weights(1))
        assert gate.reached.wait(60)
        threading.Timer(0.05, gate.opened.set).start()
        raise KeyboardInterrupt
    assert bits(load_latest(tmp_path, TEMPLATE)[1]) == bits(weights(1))


def test_other_threads_warn_and_log_while_a_writer_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(monkeypatch)
    hook, filters = sys.unraisablehook, list(logging.getLogger("absl").filters)
    with CheckpointWriter() as writer:
        writer.save(tmp_path, 1, weights(1))
        assert gate.reached.wait(60)
        with pytest.warns(UserWarning, match="mine"):
            warnings.warn("mine", UserWarning, stacklevel=1)
            logging.getLogger("absl").error("mine too")
            gate.opened.set()
            writer.wait()
    assert "mine too" in caplog.text
    assert sys.unraisablehook is hook and logging.getLogger("absl").filters == filters


def test_two_threads_may_use_one_folder(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, weights(1), name="first")
    with CheckpointWriter() as writer:
        for step in range(2, 6):
            writer.save(tmp_path, step, weights(step))
            save_checkpoint(tmp_path, step, weights(step), name="mine")
            assert bits(load_checkpoint(tmp_path, "mine", TEMPLATE)) == bits(weights(step))
    assert names(tmp_path) == ["4", "5", "first", "mine"]
    for step in (4, 5):
        assert bits(load_checkpoint(tmp_path, step, TEMPLATE)) == bits(weights(step))


@pytest.mark.parametrize("value", [np.float32(1), {"half": "\ud800"}, {1: 0, "1": 0}])
def test_notes_that_could_not_be_read_back_are_not_written(tmp_path: Path, value: Any) -> None:
    with CheckpointWriter() as writer:
        for save in (writer.save, save_checkpoint):
            with pytest.raises((TypeError, ValueError)):
                save(tmp_path, 1, {"x": jnp.ones(1)}, notes={"value": value})
    assert names(tmp_path) == []

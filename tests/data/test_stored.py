"""Opening reads in place: little more memory than the data, and the same bits from every format."""

import functools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import xql
from xql.data import moves, stored
from xql.data.check import check_dataset
from xql.data.dataset import Dataset, Episode
from xql.data.stored import kept, mapped, release, taken
from xql.errors import InputError

STEPS, LENGTH = 40_000, 200
MIB = 1 << 20


@functools.cache
def logged() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    walks = random.normal(size=(STEPS // LENGTH, LENGTH + 1, 60)).cumsum(axis=1).astype(np.float32)
    ends = np.arange(1, STEPS + 1) % LENGTH == 0
    return {
        "observations": walks[:, :-1].reshape(STEPS, 60),
        "actions": np.tanh(random.normal(size=(STEPS, 9))).astype(np.float32),
        "rewards": random.normal(size=STEPS).astype(np.float32),
        "terminated": ends & (np.arange(STEPS) % (2 * LENGTH) < LENGTH),
        "truncated": ends & (np.arange(STEPS) % (2 * LENGTH) >= LENGTH),
        "next_observations": walks[:, 1:].reshape(STEPS, 60),
    }


def without_next(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in columns.items() if name != "next_observations"}


def of_d4rl(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns = columns | {"infos/qpos": columns["observations"][:, :30].astype(np.float64)}
    names = {"terminated": "terminals", "truncated": "timeouts"}
    return {names.get(name, name): values for name, values in columns.items()}


def in_a_dictionary(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = dict(columns)
    for name in ("observations", "next_observations"):
        whole = found.pop(name)
        found |= {f"{name}/a": whole[:, :20], f"{name}/b": whole[:, 20:].reshape(-1, 4, 10)}
    return found


def wide(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name: values.astype(np.float64) if values.dtype == np.float32 else values
        for name, values in columns.items()
    }


def as_hdf5(path: Path, columns: dict[str, np.ndarray], **options: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, **(options if values.ndim > 1 else {}))


def as_npz(path: Path, columns: dict[str, np.ndarray]) -> None:
    np.savez(path, allow_pickle=False, **columns)


def as_zip(path: Path, columns: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, allow_pickle=False, **columns)


def as_gzip(path: Path, columns: dict[str, np.ndarray]) -> None:
    as_hdf5(path, columns, compression="gzip", chunks=True)


Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@pytest.mark.parametrize(
    ("write", "name", "change"),
    [
        (as_npz, "log.npz", dict),
        (as_zip, "log.npz", dict),
        (as_npz, "log.npz", without_next),
        (as_hdf5, "log.hdf5", wide),
        (as_gzip, "log.hdf5", in_a_dictionary),
        (as_hdf5, "d4rl:log.hdf5", of_d4rl),
        (as_hdf5, "d4rl:log.hdf5", lambda columns: of_d4rl(without_next(columns))),
    ],
)
def test_opening_takes_little_more_than_the_data_and_gives_the_same_arrays(
    write: Callable[[Path, dict[str, np.ndarray]], None],
    name: str,
    change: Change,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = change(logged())
    kind, colon, file = name.rpartition(":")
    write(tmp_path / file, columns)
    monkeypatch.setattr(stored, "BLOCK", 1 << 18)
    tracemalloc.start()
    data = xql.open_dataset(f"{kind}{colon}{tmp_path / file}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = data.observations.nbytes + data.actions.nbytes + data.rewards.nbytes
    assert size > 10 * MIB
    # Blocks, and samples of 10,000 rows, in float64.
    assert peak < 1.2 * size + 8 * MIB
    monkeypatch.setattr(stored, "BLOCK", 1 << 30)
    at_once = xql.open_dataset(f"{kind}{colon}{tmp_path / file}")
    assert data.fingerprint() == at_once.fingerprint()
    if not kind:
        stated = any(one.startswith("next") for one in columns)
        plain = logged() if stated else without_next(logged())
        assert data.fingerprint() == Dataset.from_arrays(**plain).fingerprint()
        assert data.continuity == ("stated" if stated else "assumed")


@pytest.mark.parametrize("kind", ["exact", "rounded", "shuffled", "grid", "broken"])
def test_which_rows_follow_each_other_does_not_depend_on_the_blocks(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    before = random.normal(size=(1000, 3)).cumsum(axis=0)
    after = np.roll(before, -1, axis=0)
    after[::50] += 1.0
    if kind == "rounded":
        after = after.astype(np.float32)
    if kind == "shuffled":
        after = random.permutation(after)
    if kind == "grid":
        after = np.round(after, 1)
    if kind == "broken":
        after[random.random(after.shape) < 0.01] = np.nan
    found = []
    for size, few in ((1 << 22, 4096), (100, 7), (1000, 4096)):
        monkeypatch.setattr(stored, "BLOCK", size)
        monkeypatch.setattr(moves, "_FEW", few)
        found.append(moves.follows(before, after))
    assert 0 < found[0].sum() < 1000 or kind == "shuffled"
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_checks_take_little_more_than_the_data() -> None:
    data = Dataset.from_arrays(**logged())
    check_dataset(data)
    tracemalloc.start()
    check_dataset(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Of 279 bytes a transition; blocks of a few thousand rows in float64 come on top.
    assert peak < 40 * STEPS + 8 * MIB


def test_a_block_is_read_once_while_slices_are_within_it() -> None:
    whole = np.arange(5000, dtype=np.float32).reshape(1000, 5)
    asked = []

    def read(first: int, last: int) -> np.ndarray:
        asked.append((first, last))
        return whole[first:last]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "BLOCK", 2000)  # 100 rows
        column = kept(whole.shape, whole.dtype, read, multiple=30)
    for first in range(0, 1000, 7):
        np.testing.assert_array_equal(column[first : first + 7], whole[first : first + 7])
    assert asked == [(first, min(first + 90, 1000)) for first in range(0, 1000, 90)]
    np.testing.assert_array_equal(np.asarray(column), whole)
    np.testing.assert_array_equal(column[10:500:3], whole[10:500:3])
    np.testing.assert_array_equal(column[999], whole[999])
    rows = np.array([3, 4, 90, 400, 999])
    np.testing.assert_array_equal(taken(column, rows)[:], whole[rows])
    assert column[5:5].shape == (0, 5)


def test_arrays_on_disk_are_the_same_and_take_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("xql.data.dataset.SMALL", 1 << 18)
    columns = logged()
    data = xql.open_dataset(columns)
    tracemalloc.start()
    on_disk = xql.open_dataset(columns, in_memory=False)
    taken_up = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken_up < MIB
    assert on_disk.fingerprint() == data.fingerprint()
    release(on_disk.observations)
    release(data.observations)
    np.testing.assert_array_equal(on_disk.observations, data.observations)
    assert list(tmp_path.iterdir()) == []  # the files have no names


def test_what_the_user_has_mapped_keeps_what_was_written_to_it(tmp_path: Path) -> None:
    np.zeros((6, 2), np.float32).tofile(tmp_path / "numbers")
    # Copied on writing: what is written is in memory, and not in the file.
    observations = np.memmap(tmp_path / "numbers", np.float32, mode="c", shape=(6, 2))
    observations[:] = 1.0
    rewards = np.zeros(6, np.float32)
    actions = np.zeros((6, 1), np.float32)
    ends = np.ones(1, bool)
    data = Dataset(observations, actions, rewards, np.array([5]), ends, ~ends)
    data.fingerprint()
    Dataset.from_episodes([data.episode(0)])
    assert (observations == 1.0).all()


def test_no_room_on_the_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(InputError, match=r"needs 4,096,000\.0 GiB, and .* free.*TMPDIR"):
        mapped((2**40, 1000))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no file for data can be written here"):
        mapped((10, 10))


def short_of(episode: Episode) -> Episode:
    columns = episode.observations[:3], episode.actions[:2], episode.rewards[:2]
    return Episode(*columns, episode.terminated, episode.truncated)


def test_a_part_is_evenly_spread_whole_episodes() -> None:
    data = Dataset.from_arrays(**logged())
    assert data.part(STEPS) is data
    part = data.part(2000)
    assert part.transitions == 2000
    np.testing.assert_array_equal(part.lengths, LENGTH)
    np.testing.assert_array_equal(part.observations[: LENGTH + 1], data.observations[: LENGTH + 1])
    np.testing.assert_array_equal(part.observations[-1], data.observations[-1])
    long = np.random.default_rng(0).random(1000) < 0.1
    uneven = Dataset.from_episodes([short_of(data.episode(0)), data.episode(0)])
    several = Dataset.from_episodes([uneven.episode(int(one)) for one in long])
    few = several.part(several.transitions // 4)
    assert set(few.lengths.tolist()) == {2, LENGTH}
    assert few.transitions <= several.transitions // 2
    endless = dict.fromkeys(("terminated", "truncated"), np.zeros(STEPS, bool))
    one = Dataset.from_arrays(**(without_next(logged()) | endless))
    short = one.part(50)
    assert 50 <= short.transitions <= 100
    assert not (short.terminated | short.truncated).any()

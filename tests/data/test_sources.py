"""Every kind of source, and above all: which steps end up with a mask of 0."""

import json
import os
import re
from pathlib import Path
from typing import Any, Never

import h5py
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xql.data import tables
from xql.data.actions import Discrete
from xql.data.check import check_dataset
from xql.data.dataset import Dataset
from xql.data.files import save_dataset
from xql.data.sources import open_dataset
from xql.errors import InputError

SHARED = Path(os.environ.get("XQL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
DOOR = SHARED / "d4rl-door-human-v0.hdf5"
SUFFIXES = (".npz", ".hdf5", ".h5", ".parquet")


def log(lengths: tuple[Any, ...] = (3, 2, 4), *, jump: float = 100.0) -> Any:
    """Steps of unit moves; each trajectory starts `jump` away from the last one's end."""
    starts = np.repeat(np.arange(len(lengths)) * jump, lengths)
    position = np.concatenate([np.arange(length) for length in lengths]) + starts
    observations = np.stack([position, -position], axis=1).astype(np.float32)
    last = np.cumsum(lengths) - 1
    flag = np.zeros(len(position), bool)
    flag[last] = True
    return {
        "observations": observations,
        "actions": np.linspace(-1, 1, len(position), dtype=np.float32)[:, None],
        "rewards": np.arange(len(position), dtype=np.float32),
        "next_observations": observations + np.array([1, -1], np.float32),
    }, flag


def write(path: Path, columns: Any) -> Any:
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        plain = {name: np.asarray(values).tolist() for name, values in columns.items()}
        parquet.write_table(pyarrow.table(plain), path)
    else:
        with h5py.File(path, "w") as file:
            for name, values in columns.items():
                file[name] = values
    return path


def zeroed(data: Any) -> Any:
    """The rewards of the steps with mask 0: `log` gives every step its own reward."""
    return data.rewards[data.masks == 0].tolist()


# A time limit never cuts a bootstrap; a termination always does.


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stated", [True, False])
def test_masks_of_plain_files(tmp_path: Path, suffix: Any, stated: bool) -> None:
    columns, ends = log()
    terminated = ends.copy()
    terminated[4] = False  # the second trajectory is cut by a time limit
    if not stated:
        del columns["next_observations"]
    columns |= {"terminated": terminated, "truncated": ends & ~terminated}
    data = open_dataset(write(tmp_path / f"mine{suffix}", columns))
    assert zeroed(data) == [2.0, 8.0]
    assert data.truncated.tolist() == [False, True, False]
    assert data.lengths.tolist() == ([3, 2, 4] if stated else [3, 1, 4])
    assert data.name == "mine"
    rows = data.starts
    assert np.abs(np.diff(data.observations[:, 0]))[rows[rows != 2]].max() == 1.0


def test_masks_of_arrays() -> None:
    columns, ends = log()
    data = open_dataset({**columns, "terminated": ends, "truncated": np.zeros(9, bool)})
    assert zeroed(data) == [2.0, 4.0, 8.0]
    data = open_dataset({**columns, "terminated": np.zeros(9, bool), "truncated": ends})
    assert zeroed(data) == []
    assert open_dataset(data) is data


@pytest.mark.parametrize("stated", [True, False])
def test_masks_of_d4rl(tmp_path: Path, stated: bool) -> None:
    columns, ends = log((30, 20, 40))
    terminals = np.zeros(90, bool)
    terminals[29] = True
    if not stated:
        del columns["next_observations"]
    columns |= {"terminals": terminals, "timeouts": ends & ~terminals}
    data = open_dataset(f"d4rl:{write(tmp_path / 'd4rl-it-v0.hdf5', columns)}")
    assert zeroed(data) == [29.0]
    assert data.lengths.tolist() == ([30, 20, 40] if stated else [30, 19, 39])
    assert data.name == "it-v0"


@pytest.mark.parametrize("stated", [True, False])
def test_a_d4rl_timeout_inside_a_trajectory_cuts_nothing(tmp_path: Path, stated: bool) -> None:
    columns, ends = log((30, 20, 40))
    timeouts = ends.copy()
    timeouts[[10, 60]] = True  # the log goes on there
    if not stated:
        del columns["next_observations"]
    columns |= {"terminals": np.zeros(90, bool), "timeouts": timeouts}
    data = open_dataset(f"d4rl:{write(tmp_path / 'a.hdf5', columns)}")
    assert data.lengths.tolist() == ([30, 20, 40] if stated else [29, 19, 39])
    assert data.masks.all()


def test_d4rl_positions_decide_where_velocities_would_mislead(tmp_path: Path) -> None:
    columns, ends = log((30, 20, 40), jump=1000.0)
    del columns["next_observations"]
    timeouts = ends.copy()
    timeouts[10] = True
    positions = columns["observations"].copy()
    columns["observations"][11] += 5000.0  # an impact: the log goes on all the same
    columns |= {"terminals": np.zeros(90, bool), "timeouts": timeouts, "infos/qpos": positions}
    data = open_dataset(f"d4rl:{write(tmp_path / 'a.hdf5', columns)}")
    assert data.lengths.tolist() == [29, 19, 39]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rows", [[5], [10], [29], slice(None)])
def test_without_all_d4rl_positions_the_observation_decides(
    tmp_path: Path, bad: float, rows: Any
) -> None:
    columns, ends = log((30, 20, 40))
    del columns["next_observations"]
    timeouts = ends.copy()
    timeouts[10] = True  # the log goes on there
    positions = columns["observations"].astype(np.float64)
    positions[rows] = bad
    columns |= {"terminals": np.zeros(90, bool), "timeouts": timeouts, "infos/qpos": positions}
    data = open_dataset(f"d4rl:{write(tmp_path / 'a.hdf5', columns)}")
    assert data.lengths.tolist() == [29, 19, 39]


@pytest.mark.parametrize("late", [-1, 1])
def test_a_d4rl_timeout_one_row_off_ends_the_episode_at_the_jump(tmp_path: Path, late: int) -> None:
    columns, ends = log((30, 20, 40))
    del columns["next_observations"]
    timeouts = np.roll(ends, late)
    timeouts[0] = False
    columns |= {"terminals": np.zeros(90, bool), "timeouts": timeouts}
    data = open_dataset(f"d4rl:{write(tmp_path / 'a.hdf5', columns)}")
    assert data.lengths[:2].tolist() == [29, 19]
    assert np.abs(np.diff(data.observations[:, 0]))[data.starts].max() == 1.0


def test_masks_of_ogbench_as_published(tmp_path: Path) -> None:
    """A trajectory of T steps fills T + 1 rows; `terminals` marks the last, which is no step."""
    columns, ends = log()
    raw = {key: columns[key] for key in ("observations", "actions")} | {"terminals": ends}
    data = open_dataset(f"ogbench:{write(tmp_path / 'cube-v0.npz', raw)}")
    assert data.lengths.tolist() == [2, 1, 3]
    assert data.masks.all()
    assert data.truncated.all()
    assert data.name == "cube-v0"
    assert "none" in data.metadata["rewards"]
    np.testing.assert_array_equal(data.observations, columns["observations"])


def test_masks_of_ogbench_with_masks(tmp_path: Path) -> None:
    columns, ends = log()
    masks = np.ones(9, np.float32)
    masks[4] = 0.0
    columns |= {"terminals": ends, "masks": masks}
    data = open_dataset(f"ogbench:{write(tmp_path / 'a.npz', columns)}")
    assert zeroed(data) == [4.0]
    assert data.lengths.tolist() == [3, 2, 4]
    del columns["next_observations"]
    columns["masks"] = np.roll(masks, -1)
    data = open_dataset(f"ogbench:{write(tmp_path / 'b.npz', columns)}")
    assert zeroed(data) == [3.0]
    assert data.lengths.tolist() == [2, 1, 3]


@pytest.mark.skipif(not DOOR.exists(), reason="d4rl-door-human-v0.hdf5 is not in XQL_SHARED_DATA")
def test_door_human_is_25_demonstrations_not_50() -> None:
    data = open_dataset(f"d4rl:{DOOR}")
    assert data.name == "door-human-v0"
    assert (data.episodes, data.transitions) == (25, 6729)
    assert data.lengths.min() > 200
    assert data.returns.mean() == pytest.approx(795.7, abs=0.05)
    assert data.terminated.all()
    assert data.masks.sum() == len(data.masks) - 25


# Dictionary observations, and saving.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dictionary_observations(tmp_path: Path, suffix: Any) -> None:
    columns, ends = log()
    position = columns.pop("observations")
    del columns["next_observations"]
    columns |= {"observations/state": position, "observations/goal/b": position[:, 0] * 2}
    columns |= {"observations/goal/a": position * 3, "terminated": ends, "truncated": ends & False}
    path = write(tmp_path / f"dict{suffix}", columns)
    data = open_dataset(path)
    x = position[0]
    assert data.observations[0].tolist() == [*(x * 3), x[0] * 2, *x]
    assert data.metadata["observation_layout"] == [["goal/a", 2], ["goal/b", 1], ["state", 2]]
    some = open_dataset(f"{path}?keys=state,goal/b")
    assert some.metadata["observation_keys"] == ["goal/b", "state"]
    np.testing.assert_array_equal(some.observations, data.observations[:, 2:])
    with pytest.raises(InputError, match=r"has no key 'gaol'; did you mean 'goal'\?$"):
        open_dataset(f"{path}?keys=gaol")


def test_parquet_with_one_number_per_column(tmp_path: Path) -> None:
    columns, ends = log((12,))
    del columns["next_observations"]
    wide = np.arange(12 * 11, dtype=np.float32).reshape(12, 11)
    columns = {key: columns[key] for key in ("actions", "rewards")}
    columns |= {f"observations.{index}": wide[:, index] for index in range(11)}
    columns |= {"terminated": ends, "truncated": ends & False}
    data = open_dataset(write(tmp_path / "wide.parquet", columns))
    np.testing.assert_array_equal(data.observations[:-1], wide)
    del columns["observations.3"]
    with pytest.raises(InputError, match=r"gap\.parquet: there is no 'observations\.3' though 'ob"):
        open_dataset(write(tmp_path / "gap.parquet", columns))


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), min_size=1, max_size=6),
    st.sampled_from(SUFFIXES),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_saving_and_opening_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, episodes: Any, suffix: Any, seed: int, constant: Any
) -> None:
    lengths = np.array([length for length, _, _ in episodes])
    rng = np.random.default_rng(seed)
    rows = int(lengths.sum()) + len(lengths)
    data = Dataset(
        observations=rng.normal(size=(rows, 2)).astype(np.float32) * (not constant),
        actions=rng.normal(size=(rows, 3)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        lengths=lengths,
        terminated=np.array([flag for _, flag, _ in episodes]),
        truncated=np.array([flag for _, _, flag in episodes]),
        name="some/name-v0",
        action_low=np.full(3, -1, np.float32),
        action_high=np.array([1, 2, 3], np.float32),
        environment=json.dumps({"id": "It-v0"}),
        metadata={"ref_min_score": 1.5, "observation_keys": ["a"]},
    )
    padding = np.setdiff1d(np.arange(rows), data.starts)
    data.actions[padding], data.rewards[padding] = 0.0, 0.0
    path = save_dataset(data, tmp_path_factory.mktemp("round") / f"trip{suffix}")
    again = open_dataset(path)
    for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    assert (again.name, again.environment) == (data.name, data.environment)
    assert again.metadata == data.metadata
    np.testing.assert_array_equal(again.action_high, data.action_high)
    assert again.source == str(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_written_over(tmp_path: Path, suffix: Any) -> None:
    columns, ends = log()
    data = open_dataset({**columns, "terminated": ends, "truncated": ends & False})
    path = tmp_path / f"kept{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match=r"the file exists; give another name$"):
        save_dataset(data, path)
    assert path.read_bytes() == b"precious"
    with pytest.raises(InputError, match=r"cannot tell what '\.csv' is; the name must end in one"):
        save_dataset(data, tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; make it first$"):
        save_dataset(data, tmp_path / "nowhere" / f"a{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# Bad input: one line that says what, where, and the hint.


def refused(source: Any, pattern: Any) -> None:
    with pytest.raises(InputError) as caught:
        open_dataset(source)
    line = str(caught.value)
    assert "\n" not in line
    assert re.search(pattern, line), line


def test_unknown_sources() -> None:
    refused("minary:a-v0", r"^minary:a-v0: unknown kind 'minary:'; did you mean 'minari'\?$")
    refused("d4rl:", r"^d4rl:: nothing follows 'd4rl:'; give a file, such as d4rl:")
    refused("a.npz?key=b", r"^a\.npz\?key=b: cannot read '\?key=b'; only \?keys=a,b is known$")


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "door.npz").touch()
    refused(tmp_path / "dor.npz", r"dor\.npz: there is no such file; did you mean 'door\.npz'\?$")
    refused(f"d4rl:{tmp_path / 'x' / 'y.hdf5'}", r"y\.hdf5: there is no such file; check the path$")
    refused(tmp_path, r": this is a folder; give a file in it$")
    (tmp_path / "a.txt").touch()
    refused(tmp_path / "a.txt", r"a\.txt: cannot tell what '\.txt' is; the name must end in one of")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files(tmp_path: Path, suffix: Any) -> None:
    columns, ends = log((300,))
    whole = write(tmp_path / f"a{suffix}", {**columns, "terminated": ends, "truncated": ends})
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused(whole, r"truncated, or not what its name says: \w+ could not .*; fetch or write it ag")
    whole.write_bytes(b"")
    refused(whole, r"truncated, or not what its name says")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_columns(tmp_path: Path, suffix: Any) -> None:
    columns, ends = log()
    good = {**columns, "terminated": ends, "truncated": ends & False}

    def with_(name: str, change: Any) -> Any:
        bad = {key: np.array(values) for key, values in good.items()}
        change(bad)
        return write(tmp_path / f"{name}{suffix}", bad)

    refused(
        with_("renamed", lambda bad: bad.update(reward=bad.pop("rewards"))),
        r": there is no 'rewards' \(the file has actions, .*\); did you mean 'reward'\?$",
    )
    for column, row, place in (
        ("observations", (6, 1), "row 6, column 1"),
        ("next_observations", (8, 0), "row 8, column 0"),
        ("actions", (2, 0), "row 2, column 0"),
        ("rewards", (5,), "row 5"),
    ):
        path = with_(f"nan_{column}", lambda bad, c=column, r=row: bad[c].__setitem__(r, np.nan))
        refused(path, rf"nan_.*: NaN in {column}, {place}; drop or fix that row")
    path = with_("inf", lambda bad: bad["rewards"].__setitem__(3, np.inf))
    refused(path, r": infinity in rewards, row 3; ")
    path = with_("huge", lambda bad: bad.update(rewards=np.array([1e300] + [0.0] * 8)))
    refused(path, r": infinity in rewards, row 0; ")
    path = with_("negative", lambda bad: bad.update(actions=np.arange(9) - 1))
    refused(path, r": actions are whole numbers \(int64\) from -1 to 7; number discrete actions fr")
    path = with_("wide", lambda bad: bad.update(rewards=np.zeros((9, 2))))
    refused(path, r": rewards has shape 9x2; give one number per step$")
    if suffix != ".parquet":  # a table has columns of one length by construction
        path = with_("short", lambda bad: bad.update(actions=bad["actions"][:-1]))
        refused(path, r": actions has 8 rows and observations 9; every column needs one row per st")
    path = with_("d4rl", lambda bad: bad.update(terminals=ends, timeouts=ends))
    refused(path, r"no 'terminated' and no 'truncated'; this is D4RL's layout: open it as d4rl:/")


def test_a_parquet_list_of_uneven_length(tmp_path: Path) -> None:
    columns, ends = log()
    uneven = [row.tolist() for row in columns["observations"]]
    uneven[4] = [1.0]
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = {"actions": columns["actions"][:, 0], "rewards": columns["rewards"]}
    table |= {"terminated": ends, "truncated": ends, "observations": uneven}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", r"observations has 1 numbers in row 4 and 2 in row 0; every ro")


def test_images_and_text_are_refused() -> None:
    columns, ends = log()
    flags = {"terminated": ends, "truncated": ends}
    columns.pop("next_observations")
    state = columns["observations"]
    for images in (np.zeros((9, 4, 4, 3), np.uint8), np.zeros((9, 64, 64), np.uint8)):
        line = r"^arrays: observations holds images of .*; only vectors are supported: "
        refused({**columns, **flags, "observations": images}, line)
        parts = {**columns, **flags, "observations": {"camera": images, "state": state}}
        refused(parts, r"^arrays: observations/camera holds images of .*, or leave it out$")
    text = np.array(["a"] * 9)
    refused({**columns, **flags, "rewards": text}, r"^arrays: rewards holds <U1, not numbers; give")


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_images_and_text_of_a_file_can_be_left_out(tmp_path: Path, suffix: str) -> None:
    columns, ends = log()
    state = columns.pop("observations")
    del columns["next_observations"]
    columns |= {"terminated": ends, "truncated": ends & False, "observations/state": state}
    for name, bad in (("camera", np.zeros((9, 8, 8), np.uint8)), ("text", np.array([b"lift"] * 9))):
        path = write(tmp_path / f"{name}{suffix}", {**columns, f"observations/{name}": bad})
        refused(path, rf": observations/{name} holds .*, or leave it out with \?keys=$")
        assert open_dataset(f"{path}?keys=state").observation_size == 2


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet"])
@pytest.mark.parametrize(
    ("description", "line"),
    [
        ([1], "'xql' is no JSON object; write it as "),
        ({"name": 3}, "'name' in 'xql' is 3; it must be a text"),
        ({"action_low": -1.0}, "'action_low' in 'xql' is -1.0; it must be a list of numbers"),
        ({"action_low": ["a"]}, "'action_low' in 'xql' is ..a..; it must be a list of numbers"),
        ({"action_high": [[1.0]]}, "'action_high' in 'xql' is ..1.0..; it must be a list of"),
        ({"action_low": [-1, -1]}, "'action_low' in 'xql' has 2 numbers; .* the 1 action columns"),
        (
            {"action_low": [-(10**400)]},
            "'action_low' in 'xql' is .-1000.*; it must be a list of numbers",
        ),
        ({"environment": {"id": "A-v0"}}, "'environment' in 'xql' is .*; it must be a text"),
        ({"metadata": "x"}, "'metadata' in 'xql' is \"x\"; it must be an object"),
        (
            {"metadata": {"ref_min_score": "low"}},
            "'ref_min_score' in the metadata of 'xql' is \"low\"; it must be a number",
        ),
        ({"metadata": {"observation_layout": [1]}}, "'observation_layout' in .*of .path, size."),
        ({"metadata": {"observation_keys": "a"}}, "'observation_keys' in .*; it must be a list"),
        ({"continuity": 1}, "'continuity' in 'xql' is 1; it must be a text"),
        (
            {"continuity": "a"},
            "'continuity' in 'xql' is 'a'; choose from stated, recorded",
        ),
    ],
)
def test_a_description_of_the_wrong_kind(
    tmp_path: Path, suffix: str, description: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The shape checks of the tests, which users do not have, would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    columns, ends = log()
    columns |= {"terminated": ends, "truncated": ends & False}
    path = write(tmp_path / f"a{suffix}", columns)
    describe(path, json.dumps(description))
    refused(path, rf"{line}")


def describe(path: Path, text: Any) -> None:
    if path.suffix == ".npz":
        with np.load(path) as file:
            columns = dict(file)
        np.savez(path, xql=text, **columns)
    elif path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        parquet.write_table(parquet.read_table(path).replace_schema_metadata({"xql": text}), path)
    else:
        with h5py.File(path, "a") as file:
            file.attrs["xql"] = text


def test_columns_of_the_wrong_shape() -> None:
    columns, ends = log()
    good = {**columns, "terminated": ends, "truncated": ends & False}
    refused(
        {**good, "next_observations": np.zeros((9, 3))},
        r"^arrays: next_observations has 3 numbers a row and observations 2; both must be the same",
    )
    refused({**good, "episode": np.zeros((9, 2))}, r"^arrays: episode has shape 9x2; give one l")
    refused({**good, "episode": np.array(3)}, r"^arrays: episode has shape of a single value; give")
    labels = np.zeros(9)
    labels[4] = np.nan
    refused({**good, "episode": labels}, r"^arrays: NaN in episode, row 4; drop or fix that row")
    refused({**good, "rewards": np.array(1.0)}, r"^arrays: rewards is a single number; give one")
    refused(
        {**good, "actions": {"a": columns["actions"]}},
        r"^arrays: actions is a group of columns; store it as one column: only observations may",
    )
    uneven = {"a": columns["observations"], "b": columns["observations"][:-1]}
    refused(
        {**good, "observations": uneven},
        r"^arrays: observations/b has 8 rows and observations/a 9; every column needs one row per",
    )
    column = {**good, "episode": np.array(list("aaabbbccc"))[:, None]}
    assert open_dataset(column).lengths.tolist() == [3, 2, 1, 3]


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    refused(tmp_path / "a.npz", r"could not read it \(it holds a single array, as \.npy files")


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet"])
def test_flipped_bits_never_end_in_a_traceback(tmp_path: Path, suffix: str) -> None:
    columns, ends = log()
    columns |= {"terminated": ends, "truncated": ends & False}
    data = open_dataset(columns)
    path = save_dataset(data, tmp_path / f"a{suffix}")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = 0
    for position in rng.choice(len(whole), 60, replace=False).tolist():
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            open_dataset(path)
        except InputError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 0


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, ends = log()
    path = write(tmp_path / "a.npz", {**columns, "terminated": ends, "truncated": ends})

    def barred(*_: Any, **__: Any) -> Never:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", barred)
    refused(path, r"a\.npz: it cannot be read \(Permission denied\); see to its permissions or its")


@pytest.mark.parametrize("kind", ["", "d4rl:", "ogbench:"])
def test_only_the_check_opens_what_is_not_finite(tmp_path: Path, kind: str) -> None:
    columns, ends = log((30, 20, 40))
    columns["observations"][[4, 70], 1] = np.nan
    columns["rewards"][33] = np.inf
    flags = ("terminals", "timeouts") if kind else ("terminated", "truncated")
    columns |= {flags[0]: ends, flags[1]: ends & False}
    source = f"{kind}{write(tmp_path / 'a.npz', columns)}"
    refused(source, r"NaN in observations, row 4, column 1")
    data = open_dataset(source, finite=False)
    observations, rewards = check_dataset(data)
    assert observations[1:3] == (
        "NaN in observations",
        "rows 4, 70; column 1",
    )
    assert (rewards.what, rewards.where) == ("infinity in rewards", "row 33")
    columns[flags[0]] = np.where(ends, np.nan, 0.0)
    write(tmp_path / "a.npz", columns)
    with pytest.raises(InputError, match=rf"NaN in {flags[0]}, row 29"):
        open_dataset(source, finite=False)


def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, ends = log()
    data = open_dataset({**columns, "terminated": ends, "truncated": ends & False})
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"a\.npz: the folder .* is not writable; give another"):
        save_dataset(data, tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


# Where an episode ends is decided in the source's own precision.

YARD = np.array([388096.0, 3948996.0])  # map coordinates, in metres


def drives(count: int = 40, steps: int = 50) -> Any:
    """Drives that start within a few metres of each other, in float64, without flags."""
    rng = np.random.default_rng(0)
    moves = rng.uniform(-1, 1, (count, steps, 2))
    start = YARD + rng.uniform(-4, 4, (count, 1, 2))
    path = np.concatenate([start, start + 0.05 * moves.cumsum(axis=1)], axis=1)
    flags = np.zeros(count * steps, bool)
    return {
        "observations": path[:, :-1].reshape(-1, 2),
        "next_observations": path[:, 1:].reshape(-1, 2),
        "actions": moves.reshape(-1, 2),
        "rewards": np.arange(count * steps, dtype=float),
        "terminated": flags,
        "truncated": flags,
    }


def shifted(columns: Any, offset: Any, names: Any = ("observations", "next_observations")) -> Any:
    return {**columns, **{name: columns[name] - offset for name in names}}


@pytest.mark.parametrize("offset", [0.0, YARD, YARD + 0.1234567])
def test_rounding_to_float32_neither_joins_nor_splits_episodes(offset: Any) -> None:
    assert open_dataset(shifted(drives(), offset)).episodes == 40


@pytest.mark.parametrize("offset", [YARD, YARD + 0.1234567])
@pytest.mark.parametrize("name", ["observations", "next_observations"])
def test_a_column_rounded_before_its_offset_was_subtracted(offset: Any, name: str) -> None:
    columns = drives()
    columns[name] = columns[name].astype(np.float32).astype(np.float64)
    assert open_dataset(shifted(columns, offset)).episodes == 40


@pytest.mark.parametrize("name", ["observations", "next_observations"])
@pytest.mark.parametrize("kept", [np.float32, np.float64])
def test_columns_of_two_precisions(name: str, kept: Any) -> None:
    columns = shifted(drives(), YARD)
    for offset in (0.0, 100.0):
        mixed = shifted(columns, offset)
        mixed[name] = mixed[name].astype(np.float32).astype(kept)
        assert open_dataset(mixed).episodes == 40


def test_each_part_of_a_dictionary_in_its_own_precision() -> None:
    columns = drives()
    count = np.arange(len(columns["rewards"]))
    for name, tick in (("observations", count), ("next_observations", count + 1)):
        columns[name] = {"place": columns[name], "tick": tick.astype(np.int64)}
    assert open_dataset(columns).episodes == 1 + 39  # the ticks go on, the places do not
    columns["observations"]["place"][:] = YARD
    columns["next_observations"]["place"][:] = YARD
    assert open_dataset(columns).episodes == 1


def test_how_rows_follow_each_other_is_kept(tmp_path: Path) -> None:
    columns, ends = log((30, 20, 40))
    columns |= {"terminated": ends, "truncated": ends & False}
    data = open_dataset(columns)
    assert data.continuity == "stated"
    del columns["next_observations"]
    assumed = open_dataset(columns)
    assert assumed.continuity == "assumed"
    # The file written here has next observations all the same.
    assert open_dataset(save_dataset(assumed, tmp_path / "a.npz")).continuity == "assumed"


def test_parts_of_a_dictionary_that_do_not_match() -> None:
    columns, ends = log()
    good = {**columns, "terminated": ends, "truncated": ends & False}
    a, b = columns["observations"], columns["next_observations"]
    good |= {"observations": {"x": a, "y": a}, "next_observations": {"x": b, "z": b}}
    refused(good, r"^arrays: 'y' is in one of observations and next_observations only; both must")
    good["observations"] = {"x": a, "y": a[:, 0]}
    good["next_observations"] = {"x": b[:, 0], "y": b}
    refused(good, r"^arrays: next_observations/x has shape 9; observations/x has 9x2$")


def test_neighbouring_cells_are_not_one_cell() -> None:
    """Whole numbers lie on a grid, but both columns do: nothing was rounded."""
    rng = np.random.default_rng(0)
    cells = 2 * rng.integers(0, 9, (200, 2))
    flags = np.zeros(200, bool)
    columns = {"observations": cells, "next_observations": cells + 1, "actions": cells / 18}
    columns |= {"rewards": np.arange(200.0), "terminated": flags, "truncated": flags}
    assert open_dataset(columns).episodes == 200
    # Nor were these: the rows are shuffled, so that hardly any follows the one before.
    columns["next_observations"] = cells + rng.normal(size=cells.shape) * 0.3
    assert open_dataset(columns).episodes > 195


@pytest.mark.parametrize("kind", ["d4rl:", "ogbench:"])
def test_rounding_in_the_published_layouts(tmp_path: Path, kind: str) -> None:
    columns = drives()
    ends = np.arange(2000) % 50 == 49
    del columns["terminated"], columns["truncated"]
    columns |= {"terminals": ends & False, "timeouts": ends | (np.arange(2000) % 50 == 20)}
    if kind == "ogbench:":
        columns["terminals"] = ends
    data = open_dataset(f"{kind}{write(tmp_path / 'a.npz', columns)}")
    assert data.episodes == 40


# Tables: one number per column, lists in cells, data frames, text.


def numbered() -> Any:
    """The columns of `log` as a table, one number per column, and the dataset they make."""
    columns, ends = log((3, 2, 4))
    flags = {"terminated": ends, "truncated": ends & False}
    data = open_dataset({**columns, **flags})
    table = {"": np.arange(9)}  # the index that pandas writes
    for name in ("observations", "next_observations", "actions"):
        table |= {f"{name}.{i}": column for i, column in enumerate(columns[name].T)}
    return {**table, "rewards": columns["rewards"], **flags}, data


def same(one: Dataset, other: Dataset) -> None:
    for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def write_csv(path: Path, table: Any, *, mark: str = "") -> Path:
    rows = zip(*[np.asarray(values).tolist() for values in table.values()], strict=True)
    lines = [",".join(table), *(",".join(map(str, row)) for row in rows)]
    path.write_text(mark + "\n".join(lines) + "\n", encoding="utf-8")
    return path


class Frame:
    """What a data frame shows of itself: names, and a column for each."""

    def __init__(self, table: Any) -> None:
        self.table, self.columns = table, list(table)

    def __getitem__(self, name: str) -> Any:
        return self.table[name]


def test_a_csv_file(tmp_path: Path) -> None:
    table, data = numbered()
    found = open_dataset(write_csv(tmp_path / "log.csv", table))
    same(found, data)
    assert (found.name, found.source) == ("log", str(tmp_path / "log.csv"))
    table |= {"episode": np.array(list("aaabbbccc")), "terminated": np.arange(9) // 8}
    labelled = open_dataset(write_csv(tmp_path / "b.csv", table, mark="\ufeff"))
    assert labelled.lengths.tolist() == [3, 2, 1, 3]
    assert labelled.terminated.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("cells", "taken"),
    [
        (["true", "false", "TRUE", " False", "true"], np.array([True, False, True, False, True])),
        (["true"] * 5, np.array([True] * 5)),  # two actions, of which one was never taken
        (["true", "false", "1", "0", "1"], np.array([1, 0, 1, 0, 1])),
        (["true", "2", "0", "0", "1"], np.array([1, 2, 0, 0, 1])),
        (["2", "1", "0", "+1", " 0"], np.array([2, 1, 0, 1, 0])),
        (["2", "1", "0", "0.0", "0"], np.array([2.0, 1.0, 0.0, 0.0, 0.0])),
        (["true", "0.5", "0", "0", "1"], np.array([1.0, 0.5, 0.0, 0.0, 1.0])),
    ],
)
@pytest.mark.parametrize("block", [2, 65536])
def test_actions_of_a_csv_file_are_what_arrays_of_them_are(
    tmp_path: Path, cells: Any, taken: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BLOCK", block)
    columns, ends = log((3, 2))
    flags = {"terminated": ends, "truncated": ends & False}
    data = open_dataset({**columns, **flags, "actions": taken})
    numbers = {f"observations.{i}": column for i, column in enumerate(columns["observations"].T)}
    for number, column in enumerate(columns["next_observations"].T):
        numbers[f"next_observations.{number}"] = column
    for name in ("actions", "actions.0"):
        table = {**numbers, "rewards": columns["rewards"], **flags, name: cells}
        found = open_dataset(write_csv(tmp_path / f"{name}.csv", table))
        assert found.action_spec == data.action_spec
        same(found, data)


def test_a_csv_file_in_windows_style_with_a_dictionary(tmp_path: Path) -> None:
    table, data = numbered()
    for name in ("observations", "next_observations"):
        table[f"{name}/at.0"], table[f"{name}/at.1"] = (
            table.pop(f"{name}.0"),
            table.pop(f"{name}.1"),
        )
    path = write_csv(tmp_path / "log.csv", {f'"{name}"': value for name, value in table.items()})
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    found = open_dataset(path)
    same(found, data)
    assert found.metadata["observation_layout"] == [["at", 2]]


def test_bad_csv_files(tmp_path: Path) -> None:
    table, _ = numbered()

    def bad(name: str, **changes: Any) -> Path:
        changed = {key: np.asarray(value).astype(object) for key, value in table.items()}
        for key, (row, value) in changes.items():
            changed[key][row] = value
        return write_csv(tmp_path / f"{name}.csv", changed)

    refused(bad("hole", rewards=(4, "")), r"hole\.csv: rewards is empty in row 4; fill or drop the")
    refused(bad("word", rewards=(4, "high")), r"word\.csv: rewards is 'high' in row 4; give numb")
    refused(bad("more", rewards=(4, "1,2")), r"more\.csv: row 4 has 10 cells and the header 9; ")
    refused(bad("nan", rewards=(4, "nan")), r"nan\.csv: NaN in rewards, row 4; drop or fix")
    lists = {**table, "observations": ["[0.1  0.2]"] * 9}
    del lists["observations.0"], lists["observations.1"]
    refused(
        write_csv(tmp_path / "lists.csv", lists),
        r"observations is '\[0\.1 0\.2\]' in row 0; write one column per number: observ",
    )
    whole = {**table, "actions.0": np.arange(9)}
    assert open_dataset(write_csv(tmp_path / "whole.csv", whole)).action_spec == Discrete(9)
    (tmp_path / "empty.csv").touch()
    refused(tmp_path / "empty.csv", r"empty\.csv: there is no header; the first line must name the")
    (tmp_path / "header.csv").write_text(",".join(table) + "\n")
    refused(tmp_path / "header.csv", r"header\.csv: there is no step; give at least one$")
    (tmp_path / "twice.csv").write_text("rewards,rewards\n1,2\n")
    refused(tmp_path / "twice.csv", r"twice\.csv: there are two columns 'rewards'; name each once$")
    (tmp_path / "bytes.csv").write_bytes(b"rewards\n\xff\xfe\n")
    refused(tmp_path / "bytes.csv", r"truncated, or not what its name says: csv could not read it")
    del table["observations.0"]
    refused(
        write_csv(tmp_path / "gap.csv", table), r"no 'observations\.0' though 'observations\.1'"
    )


def test_data_frames_and_mappings_of_numbered_columns(tmp_path: Path) -> None:
    table, data = numbered()
    same(open_dataset(Frame(table)), data)
    same(open_dataset(table), data)
    pandas = pytest.importorskip("pandas", reason="pandas is no dependency; Frame is like it")
    same(open_dataset(pandas.DataFrame(table)), data)
    same(open_dataset(dict(pandas.DataFrame(table))), data)


DAYS = np.array(["2024-03-01"] * 9, "datetime64[us]")


@pytest.mark.parametrize("cells", [DAYS, DAYS - DAYS[0], np.array(["a"] * 9)])
@pytest.mark.parametrize("suffix", [None, ".npz", ".parquet"])
def test_a_numbered_column_of_no_numbers_is_named(
    tmp_path: Path, cells: Any, suffix: str | None
) -> None:
    table, _ = numbered()
    del table[""]
    table["observations.1"] = cells
    source: Any = table if suffix is None else tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(source, **table)
    elif suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(table), source)
    refused(source, r": observations\.1 holds .*, not numbers; give numbers$")


@pytest.mark.parametrize("cells", [DAYS, np.array(["a"] * 9)])
def test_a_numbered_part_of_no_numbers_can_be_left_out(tmp_path: Path, cells: Any) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns, ends = log((3, 2, 4))
    table = {"observations/at.0": columns["observations"][:, 0], "observations/about.1": cells}
    table |= {"observations/about.0": columns["rewards"], "rewards": columns["rewards"]}
    table |= {"actions": columns["actions"][:, 0], "terminated": ends, "truncated": ends & False}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    line = (
        r": observations/about holds .*, not numbers; give numbers, or leave it out with \?keys=$"
    )
    refused(tmp_path / "a.parquet", line)
    assert open_dataset(f"{tmp_path / 'a.parquet'}?keys=at").observation_size == 1


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_numbered_columns_in_array_files(tmp_path: Path, suffix: str) -> None:
    table, data = numbered()
    del table[""]
    same(open_dataset(write(tmp_path / f"a{suffix}", table)), data)


def test_lists_in_the_cells_of_a_column() -> None:
    columns, ends = log((3, 2, 4))
    good = {**columns, "terminated": ends, "truncated": ends & False}

    def cells(name: str, values: Any) -> Any:
        column = np.empty(len(values), object)
        for row, value in enumerate(values):
            column[row] = value
        return {**good, name: column}

    rows = [row.tolist() for row in columns["observations"]]
    same(open_dataset(cells("observations", rows)), open_dataset(good))
    same(
        open_dataset(Frame(cells("observations", list(columns["observations"])))),
        open_dataset(good),
    )
    same(open_dataset({**good, "observations": rows}), open_dataset(good))
    rows[4] = [[1.0], [2.0, 3.0]]
    refused(cells("observations", rows), r"^arrays: observations is .* in row 4; fill or drop the")
    rows[4] = [1.0]
    for bad in (cells("observations", rows), {**good, "observations": rows}):
        refused(
            bad, r"^arrays: observations has 1 numbers in row 4 and 2 in row 0; every row needs"
        )
    holes = [*columns["rewards"][:-1].tolist(), None]
    for bad in (cells("rewards", holes), {**good, "rewards": holes}):
        refused(bad, r"^arrays: rewards is None in row 8; fill or drop the row$")
    texts = [*columns["rewards"][:-1].tolist(), "high"]
    refused(cells("rewards", texts), r"^arrays: rewards is 'high' in row 8; give numbers$")


NA = type("NAType", (), {"__bool__": lambda self: 1 / 0, "__ne__": lambda self, other: self})()
"""As pandas' own: what compares with it is unknown too, and has no truth value."""
DAY, NEVER = np.datetime64("2024-03-01", "ns"), np.datetime64("NaT")


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "a", None, None, "b"],
        ["a", "a", np.nan, np.nan, "b"],
        ["a", "a", NA, NA, "b"],
        [1, 1, None, None, 2],
        [DAY, DAY, NEVER, NEVER, DAY],
        np.array([DAY, DAY, NEVER, NEVER, DAY]),
        np.array([1, 1, "NaT", "NaT", 2], "timedelta64[s]"),
        np.array(["a", "a", "", "", "b"]),
        np.array([b"a", b"a", b"", b"", b"b"]),
        np.array(["a", "a", " ", " ", "b"], object),
    ],
)
def test_a_missing_label_is_refused_by_its_row(labels: Any) -> None:
    columns, ends = log((3, 2))
    given = {**columns, "terminated": ends & False, "truncated": ends & False}
    cells = np.empty(5, object)
    cells[:] = list(labels)
    line = "episode is empty in row 2; fill or drop the row$"
    for episode in (labels, cells, cells[:, None]):
        refused({**given, "episode": episode}, f"^arrays: {line}")
        refused(Frame({**given, "episode": episode}), f"^arrays: {line}")
    del given["next_observations"]
    with pytest.raises(InputError, match=f"^mine: {line}"):
        Dataset.from_arrays(**given, episode=cells, name="mine")
    whole = np.array(["a", "a", "b", "b", "c"], object)
    assert Dataset.from_arrays(**given, episode=whole).lengths.tolist() == [1, 1]


@pytest.mark.parametrize("suffix", [".csv", *SUFFIXES])
def test_an_empty_label_of_a_file_is_refused_by_its_row(tmp_path: Path, suffix: str) -> None:
    table, _ = numbered()
    labels = np.array(["a", "a", "b", "b", "b", "b", "", "", "c"])
    table["episode"] = labels.astype("S1") if suffix in (".hdf5", ".h5") else labels
    write_file = write_csv if suffix == ".csv" else write
    path = write_file(tmp_path / f"a{suffix}", {name: table[name] for name in table if name})
    refused(path, rf"a\{suffix}: episode is empty in row 6; fill or drop the row$")


def test_masked_arrays() -> None:
    columns, ends = log()
    good = {**columns, "terminated": ends, "truncated": ends & False}
    whole = np.ma.masked_array(columns["observations"], mask=False)
    same(open_dataset({**good, "observations": whole}), open_dataset(good))
    whole[5, 1] = np.ma.masked
    line = r"^arrays: observations is masked in row 5; fill or drop the row$"
    refused({**good, "observations": whole}, line)
    refused({**good, "observations": {"a": whole}}, line.replace("observations", "observations/a"))
    for cells in (np.arange(9), np.arange(9.0), np.array(range(9), object), np.array(["a"] * 9)):
        given = list(np.ma.masked_array(cells, np.arange(9) == 5))
        for name in ("rewards", "episode"):
            line = rf"^arrays: {name} is masked in row 5; fill or drop the row$"
            refused({**good, name: given}, line)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (["a.npz", "b.npz"], r"^a list is no source; open one file at a time, and join them with "),
        (None, r"^a NoneType is no source; give a file, a mapping of arrays or a data frame$"),
        (np.zeros(3), r"^a ndarray is no source; "),
        (3, r"^a int is no source; "),
    ],
)
def test_what_is_no_source(source: Any, line: str) -> None:
    refused(source, line)

"""Files that are not what they say: each is refused in one line, at once, and in little memory."""

import io
import json
import os
import resource
import socket
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from worlds import line_data
from xql.data.files import save_dataset
from xql.data.reading import parse_json, require_file, require_room
from xql.data.sources import open_dataset
from xql.errors import InputError

HUGE = 10**12


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """What asks for the declared terabytes fails, on any machine."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def refused(source: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_dataset(source, download=False)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 3000
    return line


def columns(**changes: Any) -> dict[str, Any]:
    flags = np.array([0, 0, 0, 1], bool)
    numbers = np.arange(8, dtype=np.float32).reshape(4, 2)
    whole = {
        "observations": numbers,
        "actions": numbers / 9,
        "rewards": numbers[:, 0],
        "terminated": flags,
        "truncated": flags & ~flags,
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


# What is no file ------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    # The name of a socket may have 107 bytes.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


NO_FILES: dict[Callable[[Path], None], str] = {
    pipe: "this is a pipe",
    a_socket: "this is a socket",
    device: "this is a device",
    Path.mkdir: "this is a folder",
    loop: "there is no such file (Too many levels",
    dangling: "there is a link to a file that is not there",
}


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet", ".csv"])
def test_what_is_no_file_is_never_opened(
    tmp_path: Path, suffix: str, make: Callable[[Path], None]
) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    assert refused(path).startswith(f"{path}: {NO_FILES[make]}")


@pytest.mark.parametrize("name", ["a\0.npz", "x" * 300 + ".npz"])
def test_names_that_no_file_has(name: str) -> None:
    refused(name)


def test_a_name_that_a_configuration_cannot_hold(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.npz"))
    save_dataset(line_data(episodes=2), tmp_path / "a.npz").rename(path)
    assert refused(str(path)).endswith(r"\udcff.npz: the name is no text in UTF-8; rename it")
    with pytest.raises(InputError, match=r"no file has such a name"):
        require_file(Path("\ud800.npz"))


def test_a_file_within_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    with pytest.raises(InputError, match=r"there is no such file \(Not a directory\)"):
        require_file(tmp_path / "a.npz" / "b.npz")


# Sizes ----------------------------------------------------------------------------------------


def test_an_array_is_no_larger_than_its_bytes_can_be() -> None:
    require_room({"a": (2_000_000_000, 2_000_000), "b": (10**9, 0)}, "here")
    with pytest.raises(InputError, match=r"^here: 'a' declares 4,000,000,000 bytes, and the file "):
        require_room({"a": (4_000_000_000, 2_000_000)}, "here")


def test_all_arrays_together_fit_into_memory() -> None:
    part = 1 << 50
    with pytest.raises(InputError, match=r"^here: its arrays need 1,048,576\.0 GiB, and this mach"):
        require_room({"a": (part // 2, part), "b": (part // 2, part)}, "here")


LAYOUTS: dict[str, dict[str, Any]] = {
    "unwritten": {},
    "chunked": {"chunks": (1000, 2)},
    "compressed": {"chunks": (1000, 2), "compression": "gzip"},
    "one chunk": {"shape": (4, 2), "chunks": (250_000_000, 2), "maxshape": (None, 2)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["", "d4rl:"])
def test_a_size_that_hdf5_declares_is_not_believed(tmp_path: Path, layout: str, kind: str) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file.update(columns(observations=None, terminals=np.zeros(4, bool)))
        shape = {"shape": (HUGE, 2), "dtype": np.float32}
        made = file.create_dataset("observations", **(shape | LAYOUTS[layout]))
        if layout == "compressed":
            made[0] = 1.0
    assert "'observations' declares " in refused(f"{kind}{path}")


def test_sizes_of_little_are_not_suspicious(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.update(columns(truncated=None))
        file.create_dataset("truncated", (4,), bool, chunks=(1 << 20,), maxshape=(None,))
    assert open_dataset(tmp_path / "a.hdf5").transitions == 4


def npy(shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> bytes:
    """An array in numpy's format, whose header may say anything."""
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


def archive(path: Path, **members: bytes) -> Path:
    np.savez(path, **columns(**dict.fromkeys(members)))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (npy((HUGE, 2), bytes(32)), "'observations' declares 8,000,000,000,000 bytes and has 32"),
        (npy((2, 2), bytes(32)), "'observations' declares 16 bytes and has 32"),
        (npy((-2, -4), bytes(32)), "could not read it"),
        (npy((4, HUGE), b"", "<U0"), "observations holds <U0, not numbers"),
        (npy((HUGE, 0), b""), "actions has 4 rows and observations 1000000000000"),
        (npy((4, 0), b""), "observations has no numbers in a row"),
        (npy((), bytes(4)), "observations is a single number"),
        (npy((4, 2), bytes(64), "<c8"), "observations holds complex64, not numbers"),
        (npy((4, 2), bytes(64), "<M8[s]"), "observations holds datetime64[s], not numbers"),
        (npy((4, 2), bytes(64), "|V8"), "observations holds |V8, not numbers"),
        (b"\x93NUMPY\x09\x00", "an array in version 9"),
        (b"no array", "could not read it"),
        (b"", "could not read it"),
    ],
)
def test_headers_in_an_npz(tmp_path: Path, content: bytes, line: str) -> None:
    assert line in refused(archive(tmp_path / "a.npz", observations=content))


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", observations=npy((4, 2), bytes(32)))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        size = file.getinfo("observations.npy").file_size
    entry = whole.rindex(b"observations.npy") - 46
    bomb = bytearray(whole)
    assert int.from_bytes(bomb[entry + 24 : entry + 28], "little") == size
    bomb[entry + 24 : entry + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(bomb)
    assert "'observations' declares 4,294,967,280 bytes, and the file has" in refused(path)


def test_members_of_an_npz(tmp_path: Path) -> None:
    array = npy((4, 2), bytes(32))
    path = tmp_path / "a.npz"
    np.savez(path, **columns())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("observations.npy", array)
    assert "there are two arrays 'observations'" in refused(path)
    path = archive(tmp_path / "b.npz", observations=array)
    locked = bytearray(path.read_bytes())
    name = b"observations.npy"
    for place in (locked.index(name) - 30 + 6, locked.rindex(name) - 46 + 8):
        locked[place] |= 1
    path.write_bytes(locked)
    assert "'observations' is encrypted" in refused(path)


def test_columns_in_fortran_s_order(tmp_path: Path) -> None:
    plain = columns()
    np.savez(tmp_path / "a.npz", **columns(observations=np.asfortranarray(plain["observations"])))
    opened = open_dataset(tmp_path / "a.npz")
    assert opened.observations[:4].tolist() == plain["observations"].tolist()


# Kinds of values ------------------------------------------------------------------------------


PAIR = np.dtype([("x", "f4"), ("y", "f4")])
TEXT = h5py.string_dtype()
BAD_VALUES: dict[str, tuple[str, Any, str]] = {
    "texts": ("observations", np.array([b"a"] * 4), "observations holds |S1, not numbers"),
    "vlen texts": ("rewards", np.array(["a"] * 4, TEXT), "rewards holds object, not numbers"),
    "compound": ("actions", np.zeros(4, PAIR), "actions holds [('x', '<f4'), ('y', '<f4')], not"),
    "complex": ("actions", np.zeros((4, 1), complex), "actions holds complex128, not numbers"),
    "scalar": ("rewards", 1.0, "rewards is a single number"),
    "empty": ("rewards", h5py.Empty("f"), "'rewards' is empty"),
    "no rows": ("rewards", np.zeros(0), "rewards has 0 rows and observations 4"),
    "few rows": ("rewards", np.zeros(3), "rewards has 3 rows and observations 4"),
    "wide": ("rewards", np.zeros((4, 2)), "rewards has shape 4x2"),
    "NaN": ("observations", np.full((4, 1), np.nan), "NaN in observations, row 0, column 0"),
    "infinity": ("actions", np.full((4, 1), -np.inf), "infinity in actions, row 0, column 0"),
    "overflow": ("actions", np.full((4, 1), 1e300), "infinity in actions, row 0, column 0"),
    "flag NaN": ("terminated", np.full(4, np.nan), "NaN in terminated, row 0"),
    "bools": ("actions", np.zeros((4, 2), bool), "actions are 2 whole numbers a row (bool)"),
    "no columns": ("actions", np.zeros((4, 0), "f4"), "actions has no numbers in a row"),
    "description": ("xql", np.zeros(3), "'xql' is no JSON"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_values_in_hdf5(tmp_path: Path, case: str) -> None:
    key, values, line = BAD_VALUES[case]
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, column in columns(**{key: values}).items():
            if name == "xql":
                file.attrs[name] = column
            else:
                file[name] = column
    assert line in refused(tmp_path / "a.hdf5")


def test_a_group_in_the_place_of_a_column(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.update(columns(rewards=None))
        file["rewards/x"] = np.zeros(4)
    assert "rewards is a group of columns" in refused(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        del file["rewards"], file["observations"]
        file.create_group("rewards")
        file.create_group("observations")
    assert "there is no 'observations' (the file has actions" in refused(tmp_path / "a.hdf5")


def test_a_name_is_an_array_s_or_a_dictionary_s(tmp_path: Path) -> None:
    numbers = np.zeros((4, 1))
    both = {"observations/a": numbers, "observations/a/b": numbers}
    np.savez(tmp_path / "a.npz", **columns(observations=None, **both))
    assert "'observations/a/b' is there twice" in refused(tmp_path / "a.npz")
    deep = {"observations" + "/a" * 3000: numbers}
    np.savez(tmp_path / "b.npz", **columns(observations=None, **deep))
    assert "'observations' is nested too deeply" in refused(tmp_path / "b.npz")


@pytest.mark.parametrize("positions", [np.zeros(3), np.zeros(()), np.array([b"a"] * 4)])
def test_positions_of_d4rl_are_checked(tmp_path: Path, positions: Any) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.update(columns(terminals=np.zeros(4, bool), timeouts=np.ones(4, bool)))
        file["infos/qpos"] = positions
    assert "infos/qpos " in refused(f"d4rl:{tmp_path / 'a.hdf5'}")


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = save_dataset(line_data(episodes=2), tmp_path / f"a{suffix}")
    whole = path.read_bytes()
    for size in (0, 1, 7, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "truncated, or not what its name says" in refused(path)


# Tables ---------------------------------------------------------------------------------------

HEADER = "observations.0,actions.0,rewards,terminated,truncated\n"
TABLES = {
    "no header": (b"\n", "there is no header"),
    "header alone": (HEADER.encode(), "there is no step"),
    "ragged": (HEADER.encode() + b"1,2.5,3,0,0\n1,2.5\n", "row 1 has 2 cells and the header 5"),
    "not UTF-8": (HEADER.encode() + b"1,2.5,3,0,\xff\n", "truncated, or not what its name says"),
    "NUL": (HEADER.encode() + b"1,2.5,3,0,\0\n", r"truncated is '\x00' in row 0"),
    "open quote": (HEADER.encode() + b'1,"2.5,3,0,0\n', "row 0 has 2 cells and the header 5"),
    "large field": (HEADER.encode() + b'"' + b"1" * 200_000, "field larger than field limit"),
    "many digits": (HEADER.encode() + b"1" * 5000 + b",2.5,3,0,0\n", "infinity in observations"),
    "far column": (b"observations.999999999," + HEADER.encode(), "there is no 'observations.1'"),
    "long number": (b"observations." + b"9" * 5000 + b"," + HEADER.encode(), "there is no step"),
    "same number": (b"observations.00," + HEADER.encode(), "two columns 'observations.0'"),
    "both": (b"observations," + HEADER.encode(), "both 'observations' and 'observations.0'"),
    "same name": (b"rewards," + HEADER.encode(), "there are two columns 'rewards'"),
    "many columns": (b",".join(b"c%d" % i for i in range(100_000)), "there is no 'observations'"),
    "escapes": (b"\x1b[31mrewards,\xe2\x80\xaeb\n", r"(the file has \x1b[31mrewards, \u202eb)"),
}


@pytest.mark.parametrize("case", TABLES)
def test_bad_tables(tmp_path: Path, case: str) -> None:
    content, line = TABLES[case]
    (tmp_path / "a.csv").write_bytes(content)
    assert line in refused(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("string", "rewards holds object, not numbers"),
        ("timestamp[s]", "rewards holds datetime64"),
        ("list<item: list<item: double>>", "rewards"),
        ("struct<a: double>", "rewards holds object, not numbers"),
        ("decimal128(9, 2)", "rewards holds object, not numbers"),
        ("dictionary", "rewards"),
        ("null", "rewards is empty in row 0"),
    ],
)
def test_kinds_of_parquet_columns(tmp_path: Path, kind: str, line: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    plain = {
        "string": ["a"] * 4,
        "timestamp[s]": [1] * 4,
        "list<item: list<item: double>>": [[[1.0]]] * 4,
        "struct<a: double>": [{"a": 1.0}] * 4,
        "decimal128(9, 2)": [1] * 4,
        "null": [None] * 4,
    }
    types = {
        "string": arrow.string(),
        "timestamp[s]": arrow.timestamp("s"),
        "list<item: list<item: double>>": arrow.list_(arrow.list_(arrow.float64())),
        "struct<a: double>": arrow.struct([("a", arrow.float64())]),
        "decimal128(9, 2)": arrow.decimal128(9, 2),
        "null": arrow.null(),
    }
    values = (
        arrow.array(["a"] * 4).dictionary_encode()
        if kind == "dictionary"
        else arrow.array(plain[kind], types[kind])
    )
    table = {"rewards": values, **{f"{key}.0": [0.5] * 4 for key in ("observations", "actions")}}
    table |= {key: [False] * 4 for key in ("terminated", "truncated")}
    parquet.write_table(arrow.table(table), tmp_path / "a.parquet")
    assert line in refused(tmp_path / "a.parquet")


# Texts ----------------------------------------------------------------------------------------


def test_json_is_shallow_and_names_each_key_once() -> None:
    assert parse_json('{"a": [1, {"a": -Infinity}]}') == {"a": [1, {"a": -np.inf}]}
    for deep in ("[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 70 + "1" + "}" * 70):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(deep)
    with pytest.raises(ValueError, match="the key 'b' is there twice"):
        parse_json('{"a": 1, "b": 2, "b": 3}')
    with pytest.raises(ValueError, match="limit"):
        parse_json("9" * 5000)


@pytest.mark.parametrize(
    ("description", "line"),
    [
        ("[" * 100_000, "'xql' is no JSON (it is nested too deeply)"),
        ('{"metadata": ' + "[" * 200 + "]" * 200 + "}", "'xql' is no JSON (it is nested too dee"),
        ('{"name": "a", "name": "b"}', "'xql' is no JSON (the key 'name' is there twice)"),
        ('{"metadata": {"ref_min_score": 1' + "0" * 4000 + "}}", "'ref_min_score' in the metadata"),
        ('{"metadata": {"ref_min_score": true}}', "'ref_min_score' in the metadata"),
        ('{"action_low": [NaN, 0]}', "action_low is nan in column 0"),
        (
            '{"action_low": [0]}',
            "'action_low' in 'xql' has 1 numbers; give one for each",
        ),
        ('{"action_low": [0, [0]]}', "'action_low' in 'xql' is [0, [0]]"),
        ('{"action_low": [1' + "0" * 400 + "]}", "'action_low' in 'xql' is [1000"),
        ('{"action_low": [-1e300, 0]}', "action_low is -inf in column 0"),
        ('{"continuity": "a"}', "'continuity' in 'xql' is 'a'"),
        ('{"name": "\\ud800"}', "'xql' is no JSON (it holds half of a surrogate pair)"),
        ('{"metadata": {"\\udcff": 1}}', "'xql' is no JSON (it holds half of a surrogate pair)"),
    ],
)
def test_descriptions(tmp_path: Path, description: str, line: str) -> None:
    np.savez(tmp_path / "a.npz", **columns(xql=np.asarray(description)))
    assert line in refused(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "a\nb", "\u202e", "n" * 10_000])
def test_names_are_printable_and_short(tmp_path: Path, name: str) -> None:
    text = json.dumps({"name": name, "environment": name})
    np.savez(tmp_path / "a.npz", **columns(xql=np.asarray(text)))
    opened = open_dataset(tmp_path / "a.npz")
    assert opened.name.isprintable() and len(opened.name) <= 200


@pytest.mark.parametrize("name", ["\x1b[31m", "a\nb", "\u202e", "\udcff", "n" * 60_000])
def test_names_of_columns_are_printable_and_short(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file[name.encode(errors="surrogateescape")] = np.zeros(4)
        file[f"observations/{name}".encode(errors="surrogateescape")] = np.array([b"x"] * 4)
    refused(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file.update(columns(observations=None))
    refused(tmp_path / "a.hdf5")

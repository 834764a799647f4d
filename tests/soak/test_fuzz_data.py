"""Random damage to sound data of every format: it opens as finite data, or is one line.

Files are cut, their bytes are changed, moved and repeated; and what they hold is changed under the
hands of the libraries that write them, so that the damage lies deeper than checksums find.
"""

import copy
import importlib.util
import io
import json
import math
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import strategies as st

from soak.data_cases import METADATA, columns, minari_set
from soak.frame import fuzz
from xql.data.check import check_dataset
from xql.data.files import save_dataset
from xql.data.sources import open_dataset
from xql.envs.trusted import trusted_environment
from xql.errors import InputError

QUICK = 15
"""Inputs of each format in every test run."""
LONG = 45.0
"""Seconds for each format in `make soak`."""


def opens_or_says_why(source: str, root: Path | None = None) -> None:
    """Open a source; what opens can also be checked for faults and saved again."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error")
        if root is not None:
            patch.setenv("MINARI_DATASETS_PATH", str(root))
        try:
            data = open_dataset(source, download=False)
        except InputError as error:
            line = str(error)
            assert line.isprintable() and len(line) < 700, line
            return
        for key in ("observations", "actions", "rewards"):
            assert np.isfinite(getattr(data, key)).all()
        assert data.name.isprintable()
        check_dataset(data)
        if data.environment is not None:
            try:
                trusted_environment(data.environment, where=source)
            except InputError as error:
                assert str(error).isprintable()


# Bytes ----------------------------------------------------------------------------------------

Damage = list[tuple[str, float, int, bytes]]
damages = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "remove", "repeat", "zero"]),
        st.floats(0, 1),
        st.integers(1, 64),
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([b"\xff" * 8, bytes(8), b"\x00\x00\x00\x7f", b"\x80\x96\x98\x00"]),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, damage: Damage) -> bytes:
    for how, share, size, new in damage:
        at = int(share * len(content))
        head, tail = content[:at], content[at:]
        content = {
            "set": head + new + tail[len(new) :],
            "cut": head,
            "insert": head + new + tail,
            "remove": head + tail[size:],
            "repeat": head + tail[:size] * 2 + tail[size:],
            "zero": head + bytes(min(size, len(tail))) + tail[size:],
        }[how]
    return content


def sound(suffix: str) -> bytes:
    """A file of this format that opens."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        if suffix == ".csv":
            rows = ["observations.0,observations.1,actions.0,rewards,terminated,truncated,episode"]
            rows += [
                f"{i},{i / 3},{math.sin(i)},{i % 2},{i % 4 // 3},0,a{i // 4}" for i in range(9)
            ]
            return "\n".join(rows).encode()
        if suffix == ".npz":
            np.savez(path, **columns(xql=np.asarray(json.dumps({"name": "a"}))))
            return path.read_bytes()
        np.savez(Path(folder) / "b.npz", **columns())
        return save_dataset(open_dataset(Path(folder) / "b.npz"), path).read_bytes()


def bytes_of(prefix: str, suffix: str) -> tuple[Callable[[Damage], None], Any]:
    content = sound(suffix)

    def check(damage: Damage) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a{suffix}"
            path.write_bytes(damaged(content, damage))
            opens_or_says_why(f"{prefix}{path}")

    return check, damages


def minari_bytes(name: str) -> tuple[Callable[[Damage], None], Any]:
    def check(damage: Damage) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = minari_set(Path(folder)) / name
            path.write_bytes(damaged(path.read_bytes(), damage))
            opens_or_says_why("minari:toy/line-v0", Path(folder))

    return check, damages


# Values ---------------------------------------------------------------------------------------

names = st.sampled_from(
    [*columns(), "next_observations", "episode", "observations/a", "observations.0", "xql", "\x1b"]
)
dtypes = st.sampled_from(
    [
        "f2",
        "f4",
        "f8",
        "g",
        "c8",
        "?",
        "i1",
        "i8",
        "u1",
        "u8",
        ">f4",
        ">i2",
        "S1",
        "S8",
        "U3",
        "V4",
        "M8[s]",
        "m8[D]",
        "f4,f4",
    ]
)
shapes = st.sampled_from(
    [(), (0,), (8,), (8, 1), (8, 2), (7, 2), (8, 0), (0, 2), (8, 2, 2), (8, 9, 9, 3), (1, 8), (16,)]
)
fills = st.sampled_from([0, 1, -1, 0.5, 1e300, -1e300, np.nan, np.inf, 255, 2**31])


def values(shape: tuple[int, ...], dtype: str, fill: float, ramp: bool) -> np.ndarray:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = np.full(shape, fill) + (np.arange(math.prod(shape)).reshape(shape) if ramp else 0)
        try:
            return numbers.astype(dtype)
        except (TypeError, ValueError):
            return np.zeros(shape, dtype)


arrays = st.builds(values, shapes, dtypes, fills, st.booleans())
changes = st.dictionaries(names, st.none() | arrays, min_size=1, max_size=3)


def npz_values(change: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        np.savez(path, **columns(**change))
        for prefix in ("", "ogbench:"):
            opens_or_says_why(f"{prefix}{path}")


def hdf5_values(drawn: tuple[dict[str, Any], list[str], bool]) -> None:
    change, gone, published = drawn
    if published:
        flags = {"terminated": None, "truncated": None}
        change = {"terminals": np.zeros(8, bool), "timeouts": np.arange(8) == 3} | flags | change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.hdf5"
        with h5py.File(path, "w") as file:
            for name, column in columns(**change).items():
                try:
                    file[name] = column
                except (
                    TypeError,
                    ValueError,
                    OSError,
                ):  # HDF5 has no such type, or the place is taken
                    continue
            for name in gone:
                file.attrs[name] = "{}"
        opens_or_says_why(f"d4rl:{path}" if published else str(path))


def csv_values(drawn: list[tuple[int, int, str]]) -> None:
    rows = [line.split(",") for line in sound(".csv").decode().split("\n")]
    for row, column, text in drawn:
        rows[row % len(rows)][column % len(rows[0])] = text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text("\n".join(map(",".join, rows)), encoding="utf-8", errors="surrogatepass")
        opens_or_says_why(str(path))


cells = st.text(max_size=12) | st.sampled_from(
    ["nan", "inf", "-1e400", "1_0", "true", "", '"', "[1, 2]", "9" * 400, "0x1", "1e5", "rewards"]
)


# JSON -----------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Box", "Dict", "Tuple", "Discrete", "Pendulum-v1", "float32", "hdf5", -1]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
Edit = tuple[list[int], Any, bool]
edits = st.lists(
    st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=5), plain, st.booleans()),
    min_size=1,
    max_size=3,
)


def edited(value: Any, edit: list[Edit]) -> Any:
    """JSON with some of its values replaced or taken out, each found by the numbers of a path."""
    value = copy.deepcopy(value)
    for path, new, gone in edit:
        node = value
        for depth, step in enumerate(path):
            keys = [*node] if isinstance(node, dict) else [*range(len(node))]
            if not keys:
                break
            key = keys[step % len(keys)]
            if depth == len(path) - 1 or not isinstance(node[key], dict | list) or not node[key]:
                if gone:
                    del node[key]
                else:
                    node[key] = new
                break
            node = node[key]
    return value


BOX = json.loads(METADATA["observation_space"])
SPACES = [
    BOX,
    {"type": "Dict", "subspaces": {"a": BOX, "b": {"type": "Tuple", "subspaces": [BOX]}}},
]
PENDULUM = {"id": "Pendulum-v1", "kwargs": {"g": 9.8}, "max_episode_steps": 200}
PENDULUM["additional_wrappers"] = [{"name": "TimeLimit", "entry_point": "gymnasium.wrappers:T"}]
DESCRIPTION = {
    "name": "a",
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
    "environment": json.dumps(PENDULUM),
    "metadata": {"ref_min_score": 0, "ref_max_score": 1.0, "observation_keys": ["a"]},
    "continuity": "stated",
}


def metadata_values(drawn: tuple[list[Edit], list[Edit] | None, int]) -> None:
    edit, space, which = drawn
    metadata = copy.deepcopy(METADATA)
    if space is not None:
        metadata["observation_space"] = json.dumps(edited(SPACES[which], space))
    if which:
        metadata["env_spec"] = json.dumps(PENDULUM)
    with tempfile.TemporaryDirectory() as folder:
        minari_set(Path(folder), json.dumps(edited(metadata, edit) if space is None else metadata))
        opens_or_says_why("minari:toy/line-v0", Path(folder))


def description_values(drawn: tuple[list[Edit], bool]) -> None:
    edit, inner = drawn
    described = copy.deepcopy(DESCRIPTION)
    if inner:
        described["environment"] = json.dumps(edited(PENDULUM, edit))
    else:
        described = edited(described, edit)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        np.savez(path, **columns(xql=np.asarray(json.dumps(described))))
        opens_or_says_why(str(path))


def header_values(drawn: tuple[Any, Any, bool, bytes]) -> None:
    """A header of numpy's format that says anything, before some bytes."""
    shape, descr, fortran, data = drawn
    stream = io.BytesIO()
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    stream.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        np.savez(path, **columns(observations=None))
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr("observations.npy", stream.getvalue())
        opens_or_says_why(str(path))


sizes = st.integers(-3, 9) | st.sampled_from([10**9, 10**12, 2**63, 10**30])
headers = st.tuples(
    st.lists(sizes, max_size=3).map(tuple) | plain,
    st.sampled_from(["<f4", "<f8", "|S8", "|O", "<U0", "<c8", "|V3", "x", None, [("a", "<f4")]]),
    st.booleans(),
    st.sampled_from([b"", bytes(64), bytes(128), b"\x7f" * 64]),
)

FORMATS: dict[str, tuple[Callable[[Any], None], Any]] = {
    "npz bytes": bytes_of("", ".npz"),
    "ogbench bytes": bytes_of("ogbench:", ".npz"),
    "hdf5 bytes": bytes_of("", ".hdf5"),
    "csv bytes": bytes_of("", ".csv"),
    "minari hdf5 bytes": minari_bytes("main_data.hdf5"),
    "minari metadata bytes": minari_bytes("metadata.json"),
    "npz values": (npz_values, changes),
    "npz headers": (header_values, headers),
    "hdf5 values": (
        hdf5_values,
        st.tuples(changes, st.lists(st.sampled_from(["xql", "a"]), max_size=1), st.booleans()),
    ),
    "csv values": (
        csv_values,
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), cells), min_size=1, max_size=4),
    ),
    "minari metadata": (
        metadata_values,
        st.tuples(edits, st.none() | edits, st.integers(0, 1)),
    ),
    "descriptions": (description_values, st.tuples(edits, st.booleans())),
}
if importlib.util.find_spec("pyarrow"):
    FORMATS["parquet bytes"] = bytes_of("", ".parquet")


@pytest.mark.parametrize("name", FORMATS)
def test_a_few(name: str) -> None:
    fuzz(*FORMATS[name], each=QUICK)


@pytest.mark.soak
@pytest.mark.parametrize("name", FORMATS)
def test_many(name: str) -> None:
    assert fuzz(*FORMATS[name], seconds=LONG, each=200) > 0

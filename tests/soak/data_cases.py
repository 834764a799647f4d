"""Bad data: files of every format, Minari's metadata, specifications of environments, no files."""

import io
import json
import os
import socket
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np

from soak.frame import Case, Place

HUGE = 10**12


def columns(**changes: Any) -> dict[str, Any]:
    """Eight sound steps in two episodes; None takes a column out."""
    numbers = np.arange(16, dtype=np.float32).reshape(8, 2)
    ends = np.arange(8) % 4 == 3
    whole: dict[str, Any] = {
        "observations": numbers,
        "actions": np.sin(numbers),
        "rewards": np.cos(numbers[:, 0]),
        "terminated": ends,
        "truncated": ends & ~ends,
    }
    return {name: column for name, column in (whole | changes).items() if column is not None}


# What reads a data file, and the words that do it.
_READERS: dict[str, Callable[[str, Place], list[str]]] = {
    "info": lambda source, _: ["data", "info", source],
    "check": lambda source, _: ["data", "check", source],
    "convert": lambda source, place: ["data", "convert", source, f"{place.out}.npz"],
    "train": lambda source, place: [
        *("train", "offline", "--data", source, "--env", "none", "--out", str(place.out)),
    ],
}


def _file(
    name: str,
    kind: str,
    suffix: str,
    write: Callable[[Path], object],
    says: str = "",
    reader: str = "info",
    prefix: str = "",
) -> Case:
    def make(place: Place) -> list[str]:
        path = place.inputs / f"a{suffix}"
        write(path)
        return _READERS[reader](f"{prefix}{path}", place)

    return Case(name, kind, make, says=says)


def _npz(**changes: Any) -> Callable[[Path], object]:
    return lambda path: np.savez(path, **columns(**changes))


def _hdf5(write: Callable[[h5py.File], object] = lambda _: None, **changes: Any) -> Any:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, column in columns(**changes).items():
                file[name] = column
            write(file)

    return make


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


# Columns, which both array formats can hold ---------------------------------------------------

_NUMBERS = np.zeros((8, 2))
_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "no observations": ({"observations": None}, "there is no 'observations'"),
    "no actions": ({"actions": None}, "there is no 'actions'"),
    "no rewards": ({"rewards": None}, "there is no 'rewards'"),
    "no flag": ({"terminated": None}, "there is no 'terminated'"),
    "misspelled": ({"rewards": None, "reward": np.zeros(8)}, "did you mean 'reward'?"),
    "short actions": ({"actions": _NUMBERS[:5]}, "actions has 5 rows and observations 8"),
    "long rewards": ({"rewards": np.zeros(9)}, "rewards has 9 rows and observations 8"),
    "no rows": ({"rewards": np.zeros(0)}, "rewards has 0 rows and observations 8"),
    "scalar": ({"rewards": np.float32(1)}, "rewards is a single number"),
    "scalar observations": ({"observations": np.float32(1)}, "observations is a single number"),
    "square rewards": ({"rewards": np.zeros((8, 8))}, "rewards has shape 8x8"),
    "square flags": ({"truncated": np.zeros((8, 2))}, "truncated has shape 8x2"),
    "texts": ({"observations": np.full((8, 2), b"a")}, "observations holds |S1, not numbers"),
    "text rewards": ({"rewards": np.full(8, b"1.5")}, "rewards holds |S3, not numbers"),
    "complex": ({"actions": np.zeros((8, 1), complex)}, "actions holds complex128"),
    "pairs": ({"actions": np.zeros(8, "f4,f4")}, "actions holds [('f0', '<f4'), ('f1', '<f4')]"),
    "void": ({"actions": np.zeros(8, "V4")}, "actions holds |V4"),
    "whole actions": ({"actions": np.full((8, 1), -3)}, "actions are whole numbers (int64)"),
    "bool actions": (
        {"actions": np.zeros((8, 2), bool)},
        "actions are 2 whole numbers a row",
    ),
    "images": ({"observations": np.zeros((8, 9, 9, 3), "u1")}, "observations holds images"),
    "no columns": ({"observations": np.zeros((8, 0))}, "observations has no numbers in a row"),
    "no action columns": ({"actions": np.zeros((8, 0))}, "actions has no numbers in a row"),
    "NaN observation": ({"observations": np.full((8, 1), np.nan)}, "NaN in observations, row 0"),
    "NaN action": ({"actions": np.full((8, 1), np.nan)}, "NaN in actions, row 0, column 0"),
    "NaN reward": ({"rewards": np.full(8, np.nan)}, "NaN in rewards, row 0"),
    "NaN flag": ({"terminated": np.full(8, np.nan)}, "NaN in terminated, row 0"),
    "infinity": ({"rewards": np.full(8, -np.inf)}, "infinity in rewards, row 0"),
    "too large": ({"observations": np.full((8, 1), 1e300)}, "infinity in observations, row 0"),
    "NaN label": ({"episode": np.full(8, np.nan)}, "NaN in episode, row 0"),
    "labels of two": ({"episode": np.zeros((8, 2))}, "episode has shape 8x2"),
    "few labels": ({"episode": np.zeros(3)}, "episode has 3 rows"),
    "wider next": (
        {"next_observations": np.zeros((8, 3))},
        "next_observations has 3 numbers a row",
    ),
    "short next": ({"next_observations": _NUMBERS[:3]}, "next_observations has 3 rows"),
    "two worlds": (
        {"observations": None, "observations/a": _NUMBERS, "observations/b": _NUMBERS[:3]},
        "observations/b has 3 rows",
    ),
    "a group": ({"rewards": None, "rewards/a": np.zeros(8)}, "rewards is a group of columns"),
    "a gap": (
        {"observations": None, "observations.0": np.zeros(8), "observations.2": np.zeros(8)},
        "there is no 'observations.1'",
    ),
    "long name": ({"rewards": None, "r" * 5000: np.zeros(8)}, "there is no 'rewards'"),
    "escape in a name": ({"rewards": None, "\x1b[31mr": np.zeros(8)}, r"\x1b[31mr"),
    "d4rl's flags": (
        {"terminated": None, "truncated": None, "terminals": np.zeros(8), "timeouts": np.ones(8)},
        "this is D4RL's layout",
    ),
}
_ARRAY_CASES = [
    _file(f"{name} in {suffix}", "columns", suffix, make(**changes), says, reader)
    for (name, (changes, says)), reader in zip(
        _COLUMNS.items(), [*_READERS] * len(_COLUMNS), strict=False
    )
    for suffix, make in ((".npz", _npz), (".hdf5", _hdf5))
    # `check` names all that is not finite, and has said so before: its status is 1.
    if not (reader == "check" and ("NaN" in name or name in ("infinity", "too large")))
]


# npz ------------------------------------------------------------------------------------------


def _npy(shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


def _member(content: bytes, name: str = "observations.npy", twice: bool = False) -> Any:
    def write(path: Path) -> None:
        np.savez(path, **columns(**({} if twice else {name.removesuffix(".npy"): None})))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
                file.writestr(name, content)

    return write


def _patched(offset: int, value: bytes, *, local: int | None = None) -> Callable[[Path], object]:
    """A zip whose directory (and local header) says something else of the observations."""

    def write(path: Path) -> None:
        _member(_npy((8, 2), bytes(64)))(path)
        content, name = bytearray(path.read_bytes()), b"observations.npy"
        at = content.rindex(name) - 46 + offset
        content[at : at + len(value)] = value
        if local is not None:
            at = content.rindex(name, 0, content.rindex(name)) - 30 + local
            content[at : at + len(value)] = value
        path.write_bytes(content)

    return write


def _pickled(path: Path) -> None:
    np.savez(path, **columns(rewards=np.full(8, None)))


_WHOLE = io.BytesIO()
np.savez(_WHOLE, **columns())
_ZIP = _WHOLE.getvalue()
_ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (_bytes(b""), "could not read it"),
    "text": (_bytes(b"observations\n1\n"), "could not read it"),
    "zeros": (_bytes(bytes(5000)), "could not read it"),
    "half": (_bytes(_ZIP[: len(_ZIP) // 2]), "could not read it"),
    "last byte": (_bytes(_ZIP[:-1]), "could not read it"),
    "no members": (lambda path: zipfile.ZipFile(path, "w").close(), "no column at all"),
    "one array": (_bytes(_npy((8, 2), bytes(64))), "it holds a single array"),
    "pickle": (_bytes(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01."), "could not read it"),
    "objects": (_pickled, "holds Python objects (a pickle)"),
    "huge": (_member(_npy((HUGE, 2), bytes(64))), "declares 8,000,000,000,000 bytes and has 64"),
    "huge and wide": (_member(_npy((2, HUGE), bytes(64))), "bytes and has 64"),
    "beyond counting": (_member(_npy((10**30, 2), bytes(64))), "bytes and has 64"),
    "negative": (_member(_npy((-2, -8), bytes(64))), "could not read it"),
    "short": (_member(_npy((8, 2), bytes(63))), "declares 64 bytes and has 63"),
    "long": (_member(_npy((8, 2), bytes(65))), "declares 64 bytes and has 65"),
    "rows of nothing": (_member(_npy((HUGE, 0), b"")), "rows"),
    "texts of nothing": (_member(_npy((HUGE,), b"", "<U0")), "observations holds <U0"),
    "wide text": (_member(_npy((1,), bytes(64), f"|S{2**31 - 1}")), "bytes and has 64"),
    "dates": (_member(_npy((8, 1), bytes(64), "<M8[s]")), "there is no 'terminals'"),
    "odd type": (_member(_npy((8, 1), bytes(64), "what")), "could not read it"),
    "no header": (_member(b"\x93NUMPY\x01\x00\xff\xff"), "could not read it"),
    "header of junk": (_member(b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16), "could not read it"),
    "deep header": (_member(b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000), "could not read it"),
    "long header": (
        _member(b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**6) + b" " * 10**6),
        "could not read it",
    ),
    "later version": (_member(b"\x93NUMPY\x09\x00\x10\x00"), "version 9 of numpy's format"),
    "no array": (_member(b"1,2,3"), "could not read it"),
    "nothing": (_member(b""), "could not read it"),
    "twice": (_member(_npy((8, 2), bytes(64)), twice=True), "two arrays 'observations'"),
    "encrypted": (_patched(8, b"\x01", local=6), "'observations' is encrypted"),
    "bomb": (_patched(24, struct.pack("<I", 0xFFFFFFF0)), "declares 4,294,967,280 bytes"),
    "size": (_patched(24, struct.pack("<I", 65)), "could not read it"),
    "checksum": (_patched(16, b"junk"), "could not read it"),
    "method": (_patched(10, b"\x63\x00", local=8), "could not read it"),
    "place": (_patched(42, struct.pack("<I", 7)), "could not read it"),
}
_NPZ_CASES = [
    _file(name, "npz", ".npz", write, says, reader, prefix)
    for (name, (write, says)), (reader, prefix) in zip(
        _ARCHIVES.items(),
        [("info", ""), ("train", ""), ("check", "ogbench:"), ("convert", "")] * len(_ARCHIVES),
        strict=False,
    )
]


# HDF5 -----------------------------------------------------------------------------------------


def _declared(shape: tuple[int, ...], dtype: Any = np.float32, **layout: Any) -> Any:
    return _hdf5(
        lambda file: file.create_dataset("observations", shape, dtype, **layout),
        observations=None,
    )


def _one_chunk(file: h5py.File) -> None:
    made = file.create_dataset("observations", (HUGE, 2), "f4", chunks=(999, 2), compression="gzip")
    made[0] = 1.0


def _enum(file: h5py.File) -> None:
    kind = h5py.enum_dtype({"a": -1, "b": 1}, "i1")
    file.create_dataset("actions", data=np.full((8, 1), -1, "i1"), dtype=kind)


def _lists(file: h5py.File) -> None:
    made = file.create_dataset("observations", (8,), h5py.vlen_dtype(np.float32))
    for row in range(8):
        made[row] = [1.0, 2.0]


def _references(file: h5py.File) -> None:
    made = file.create_dataset("rewards", (8,), h5py.ref_dtype)
    made[0] = file["actions"].ref


def _unfiltered(path: Path) -> None:
    """A dataset whose filter nobody has."""
    _hdf5(observations=None)(path)
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create_simple((8, 2))
        options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        options.set_chunk((8, 2))
        options.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_MANDATORY, (1,))
        made = h5py.h5d.create(file.id, b"observations", h5py.h5t.IEEE_F32LE, space, options)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones((8, 2), "f4"))
        at = made.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


def _cut(share: float) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        _hdf5()(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return write


def _described(text: Any) -> Callable[[Path], object]:
    return _hdf5(lambda file: file.attrs.create("xql", text))


def _looped(file: h5py.File) -> None:
    file["observations/a"] = np.zeros((8, 1))
    file["observations/again"] = file["observations"]


def _deep(file: h5py.File) -> None:
    file["observations" + "/a" * 500] = np.zeros((8, 1))


def _soft(file: h5py.File) -> None:
    file["observations"] = h5py.SoftLink("/nowhere")


_HDF5: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (_bytes(b""), "could not read it"),
    "signature alone": (_bytes(b"\x89HDF\r\n\x1a\n"), "could not read it"),
    "text": (_bytes(b"observations\n"), "could not read it"),
    "a zip": (_bytes(_ZIP), "could not read it"),
    **{f"cut to {share}": (_cut(share), "could not read it") for share in (0.2, 0.5, 0.9, 0.99)},
    "no datasets": (lambda path: h5py.File(path, "w").close(), "no column at all"),
    "huge": (_declared((HUGE, 2)), "'observations' declares 8,000,000,000,000 bytes"),
    "huge in chunks": (_declared((HUGE, 2), chunks=(99, 2)), "'observations' declares"),
    "huge and wide": (_declared((8, HUGE), chunks=(8, 9)), "'observations' declares"),
    "huge zeros": (_hdf5(_one_chunk, observations=None), "'observations' declares"),
    "one huge chunk": (
        _declared((8, 2), chunks=(2**29, 1), maxshape=(None, None)),
        "'observations' declares",
    ),
    "huge text": (_declared((8,), f"S{2**30}", chunks=(1,)), "'observations' declares"),
    "rows of nothing": (_declared((HUGE, 0)), "rows"),
    "no dataspace": (
        _hdf5(lambda file: file.create_dataset("rewards", data=h5py.Empty("f")), rewards=None),
        "'rewards' is empty",
    ),
    "group": (_hdf5(lambda file: file.create_group("rewards"), rewards=None), "no 'rewards'"),
    "type": (
        _hdf5(lambda file: file.__setitem__("rewards", np.dtype("f4")), rewards=None),
        "no 'rewards'",
    ),
    "enumeration": (_hdf5(_enum, actions=None), "actions are whole numbers"),
    "lists": (_hdf5(_lists, observations=None), "observations holds object"),
    "references": (_hdf5(_references, rewards=None), "rewards holds object"),
    "damaged filter": (_unfiltered, "could not read it"),
    "a group in itself": (_hdf5(_looped, observations=None, rewards=None), "there is no 'rewards'"),
    "deep groups": (_hdf5(_deep, observations=None), "nested too deeply"),
    "link to nothing": (_hdf5(_soft, observations=None), "there is no 'observations'"),
    "no description": (_described(3), "'xql' is no JSON object"),
    "numbers": (_described([1.5, 2.5]), "'xql' is no JSON"),
    "bytes": (_described(b"\xff\xfe"), "'xql' is no JSON"),
    "empty description": (_described(h5py.Empty("S1")), "'xql' is no JSON"),
}
_HDF5_CASES = [
    _file(name, "hdf5", ".hdf5", write, says, reader)
    for (name, (write, says)), reader in zip(_HDF5.items(), [*_READERS] * len(_HDF5), strict=False)
]


def _d4rl(**changes: Any) -> Callable[[Path], object]:
    flags = {"terminated": None, "truncated": None, "terminals": np.zeros(8, bool)}
    return _hdf5(**(flags | {"timeouts": np.arange(8) == 3} | changes))


_D4RL: dict[str, tuple[dict[str, Any], str]] = {
    "no terminals": ({"terminals": None}, "there is no 'terminals'"),
    "short timeouts": ({"timeouts": np.zeros(3, bool)}, "timeouts has 3 rows"),
    "short positions": ({"infos/qpos": np.zeros((3, 2))}, "infos/qpos has 3 rows"),
    "one position": ({"infos/qpos": np.zeros(())}, "infos/qpos is a single number"),
    "positions as texts": ({"infos/qpos": np.full(8, b"a")}, "infos/qpos holds |S1"),
    "infos of none": ({"terminals": np.zeros((8, 3))}, "terminals has shape 8x3"),
}
_D4RL_CASES = [
    _file(name, "d4rl", ".hdf5", _d4rl(**changes), says, prefix="d4rl:")
    for name, (changes, says) in _D4RL.items()
]

# Descriptions ---------------------------------------------------------------------------------

_DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "broken": ("{", "'xql' is no JSON"),
    "list": ("[]", "'xql' is no JSON object"),
    "number": ("3", "'xql' is no JSON object"),
    "deep": ("[" * 100_000, "it is nested too deeply"),
    "deep metadata": ('{"metadata": {"a":' + "[" * 500 + "]" * 500 + "}}", "nested too deeply"),
    "twice": ('{"name": "a", "name": "b"}', "the key 'name' is there twice"),
    "many digits": ('{"action_low": [' + "9" * 5000 + "]}", "'xql' is no JSON"),
    "name of numbers": ('{"name": 3}', "'name' in 'xql' is 3"),
    "bounds of text": ('{"action_low": "a"}', "'action_low' in 'xql' is \"a\""),
    "bounds of lists": ('{"action_low": [[0]]}', "'action_low' in 'xql' is [[0]]"),
    "few bounds": ('{"action_low": [0]}', "'action_low' in 'xql' has 1 numbers"),
    "NaN bounds": ('{"action_low": [NaN, 0], "action_high": [1, 1]}', "action_low is nan"),
    "crossed bounds": ('{"action_low": [1, 1], "action_high": [0, 0]}', "is not below"),
    "environment": ('{"environment": {"id": "Pendulum-v1"}}', "'environment' in 'xql' is {"),
    "continuity": ('{"continuity": "maybe"}', "'continuity' in 'xql' is 'maybe'"),
    "metadata": ('{"metadata": [1]}', "'metadata' in 'xql' is [1]"),
    "score": ('{"metadata": {"ref_min_score": "a"}}', "'ref_min_score' in the metadata"),
    "huge score": ('{"metadata": {"ref_min_score": 1' + "0" * 400 + "}}", "'ref_min_score' in"),
    "keys": ('{"metadata": {"observation_keys": 3}}', "'observation_keys' in the metadata"),
    "layout": ('{"metadata": {"observation_layout": [3]}}', "'observation_layout' in the met"),
}
_DESCRIPTION_CASES = [
    _file(name, "description", ".npz", _npz(xql=np.asarray(text)), says, reader)
    for (name, (text, says)), reader in zip(
        _DESCRIPTIONS.items(), [*_READERS] * len(_DESCRIPTIONS), strict=False
    )
]

# Tables ---------------------------------------------------------------------------------------

_HEADER = b"observations.0,actions.0,rewards,terminated,truncated\n"
_TABLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "there is no header"),
    "empty lines": (b"\n\n\n", "there is no header"),
    "header alone": (_HEADER, "there is no step"),
    "ragged": (_HEADER + b"1,2.5,3,0,0\n1,2.5\n", "row 1 has 2 cells and the header 5"),
    "long row": (_HEADER + b"1,2.5,3,0,0,7\n", "row 0 has 6 cells and the header 5"),
    "no UTF-8": (_HEADER + b"1,2.5,3,0,\xff\n", "csv could not read it"),
    "UTF-16": (("observations.0\n1\n").encode("utf-16"), "csv could not read it"),
    "NUL": (_HEADER + b"1,2.5,3,0,\0\n", r"truncated is '\x00' in row 0"),
    "zeros": (bytes(10_000), "there is no 'observations'"),
    "open quote": (_HEADER + b'1,"2.5,3,0,0\n1,2,3,0,0\n', "row 0 has 2 cells"),
    "large field": (_HEADER + b"1" * 200_000 + b",2.5,3,0,0\n", "field larger than field limit"),
    "word": (_HEADER + b"1,2.5,high,0,0\n", "rewards is 'high' in row 0"),
    "hole": (_HEADER + b"1,2.5,,0,0\n", "rewards is empty in row 0"),
    "NaN": (_HEADER + b"1,2.5,nan,0,0\n", "no step has a known outcome"),
    "overflow": (_HEADER + b"1,2.5,1e400,0,0\n", "infinity in rewards, row 0"),
    "long number": (_HEADER + b"1,2.5," + b"9" * 5000 + b",0,0\n", "infinity in rewards, row 0"),
    "escape": (_HEADER + b"1,2.5,\x1b[2J,0,0\n", r"rewards is '\x1b[2J' in row 0"),
    "far column": (b"observations.99999999," + _HEADER, "there is no 'observations.1'"),
    "farther column": (b"observations." + b"9" * 5000 + b"," + _HEADER, "there is no step"),
    "numbered twice": (b"observations.00," + _HEADER, "two columns 'observations.0'"),
    "named twice": (b"rewards," + _HEADER, "two columns 'rewards'"),
    "both": (b"observations," + _HEADER, "both 'observations' and 'observations.0'"),
    "many columns": (b",".join(b"c%d" % i for i in range(20_000)), "there is no 'observations'"),
    "semicolons": (_HEADER.replace(b",", b";"), "by commas, not by ';'"),
    "lists": (b"observations," + _HEADER[15:] + b'"[1, 2]",1.5,0,0,0\n', "write one column per"),
}
_TABLE_CASES = [
    _file(name, "csv", ".csv", _bytes(content), says, reader)
    for (name, (content, says)), reader in zip(
        _TABLES.items(), [*_READERS] * len(_TABLES), strict=False
    )
]


def _parquet(values: Callable[[Any], Any], name: str = "rewards") -> Callable[[Path], object]:
    def write(path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        table = {f"{key}.0": [0.5] * 4 for key in ("observations", "actions")}
        table |= {"rewards": [1.0, 2.0, 3.0, 4.0]}
        table |= {key: [False] * 4 for key in ("terminated", "truncated")}
        parquet.write_table(pyarrow.table(table | {name: values(pyarrow)}), path)

    return write


_PARQUET: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (_bytes(b""), "pyarrow could not read it"),
    "text": (_bytes(b"PAR1" * 10), "pyarrow could not read it"),
    "a zip": (_bytes(_ZIP), "pyarrow could not read it"),
    "texts": (_parquet(lambda arrow: arrow.array(["a"] * 4)), "rewards holds object"),
    "nulls": (_parquet(lambda arrow: arrow.nulls(4)), "rewards is empty in row 0"),
    "a hole": (_parquet(lambda arrow: arrow.array([1.0, None, 2.0, 3.0])), "empty in row 1"),
    "dates": (
        _parquet(lambda arrow: arrow.array([1] * 4, arrow.timestamp("s"))),
        "rewards holds datetime64",
    ),
    "structures": (_parquet(lambda arrow: arrow.array([{"a": 1.0}] * 4)), "rewards"),
    "decimals": (_parquet(lambda arrow: arrow.array([1] * 4, arrow.decimal128(9))), "rewards"),
    "lists of lists": (_parquet(lambda arrow: arrow.array([[[1.0]]] * 4)), "rewards"),
    "ragged lists": (
        _parquet(lambda arrow: arrow.array([[1.0], [1.0, 2.0], [1.0], [1.0]])),
        "rewards has 2 numbers in row 1",
    ),
    "bytes": (_parquet(lambda arrow: arrow.array([b"\xff"] * 4)), "rewards holds object"),
}
_PARQUET_CASES = [
    _file(name, "parquet", ".parquet", write, says) for name, (write, says) in _PARQUET.items()
]

# What is no file ------------------------------------------------------------------------------


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # the name of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


_NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "this is a pipe"),
    "socket": (_socket, "this is a socket"),
    "zero": (lambda path: path.symlink_to("/dev/zero"), "this is a device"),
    "random": (lambda path: path.symlink_to("/dev/urandom"), "this is a device"),
    "folder": (Path.mkdir, "this is a folder"),
    "loop": (lambda path: path.symlink_to(path.name), "there is no such file"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "a link to a file that is not there"),
}
_NO_FILE_CASES = (
    [
        _file(f"{name} as {prefix}{suffix}", "no file", suffix, make, says, reader, prefix)
        for name, (make, says) in _NO_FILES.items()
        for suffix, reader, prefix in (
            (".npz", "train", ""),
            (".hdf5", "check", "d4rl:"),
            (".parquet", "info", ""),
            (".csv", "convert", ""),
            (".npz", "info", "ogbench:"),
        )
        if prefix != "ogbench:" or name == "pipe"
    ]
    + [
        Case(
            f"{name} to gumbel {words[0]}",
            "no file",
            lambda place, make=make, words=words: (  # type: ignore[misc]
                make(place.inputs / "a.csv"),
                ["gumbel", words[0], str(place.inputs / "a.csv"), *words[1:]],
            )[1],
            says=says,
        )
        for name, (make, says) in _NO_FILES.items()
        for words in (("fit", "--target", "y", "--features", "x"), ("errors",))
        if name != "folder"
    ]
)

# Minari ---------------------------------------------------------------------------------------

_BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-9.0, -9.0], "high": [9.0, 9.0]}
_ACTION = _BOX | {"shape": [1], "low": [-1.0], "high": [1.0]}
METADATA: dict[str, Any] = {
    "data_format": "hdf5",
    "total_episodes": 2,
    "total_steps": 6,
    "observation_space": json.dumps(_BOX),
    "action_space": json.dumps(_ACTION),
    "dataset_id": "toy/line-v0",
}


def minari_set(
    root: Path, metadata: dict[str, Any] | str | bytes | None = None, change: Any = None
) -> Path:
    """A sound Minari dataset of two episodes, its metadata or its file changed; its folder."""
    folder = root / "toy" / "line-v0" / "data"
    folder.mkdir(parents=True)
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for index in range(2):
            group = file.create_group(f"episode_{index}")
            group["observations"] = np.arange(8, dtype=np.float32).reshape(4, 2) + index
            group["actions"] = np.zeros((3, 1), np.float32)
            group["rewards"] = np.arange(3.0)
            group["terminations"], group["truncations"] = np.zeros((2, 3), bool)
        if change is not None:
            change(file)
    content = METADATA if metadata is None else metadata
    if isinstance(content, dict):
        content = json.dumps({key: value for key, value in content.items() if value != "gone"})
    if isinstance(content, str):
        content = content.encode()
    (folder / "metadata.json").write_bytes(content)
    return folder


def _minari(
    name: str, says: str, metadata: Any = None, change: Any = None, after: Any = None
) -> Any:
    def make(place: Place) -> list[str]:
        folder = minari_set(place.inputs / "minari", metadata, change)
        if after is not None:
            after(folder)
        return ["data", "info", "minari:toy/line-v0"]

    return Case(name, "minari", make, says=says)


def _stated(key: str, value: Any, says: str = "") -> Any:
    name = f"{key} is {json.dumps(value)[:40]}"
    said = says or f"'{key}' in its metadata.json is {json.dumps(value)[:20]}"
    return _minari(name, said, METADATA | {key: value})


def _space(key: str, name: str, changes: Any, says: str) -> Any:
    base = _BOX if key == "observation_space" else _ACTION
    space = changes if not isinstance(changes, dict) or "type" in changes else base | changes
    space = {k: v for k, v in space.items() if v != "gone"} if isinstance(space, dict) else space
    text = space if isinstance(space, str) else json.dumps(space)
    return _minari(f"{key}: {name}", says, METADATA | {key: text})


def _put(key: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        if values is not None:
            file[key] = values

    return change


def _huge_rewards(file: h5py.File) -> None:
    del file["episode_1/rewards"]
    file.create_dataset("episode_1/rewards", (HUGE,), "f4", chunks=(99,))


_NO_SPACE = "'observation_space' in its metadata.json is no space ("
_NESTED = '{"type": "Tuple", "subspaces": [' * 500 + json.dumps(_BOX) + "]}" * 500
_MINARI_CASES = [
    *[
        _minari(f"metadata: {name}", says, content)
        for name, content, says in (
            ("empty", "", "it cannot be read"),
            ("broken", "{", "it cannot be read"),
            ("list", "[]", "metadata.json is no object"),
            ("text", '"x"', "metadata.json is no object"),
            ("null", "null", "metadata.json is no object"),
            ("deep", "[" * 200_000, "it is nested too deeply"),
            ("not deep enough to fail", "[" * 900 + "]" * 900, "it is nested too deeply"),
            ("no UTF-8", b'{"a": "\xff"}', "it cannot be read"),
            ("zeros", bytes(1000), "it cannot be read"),
            ("UTF-16", json.dumps(METADATA).encode("utf-16"), "it cannot be read"),
            ("twice", '{"a": 1, "a": 2}', "the key 'a' is there twice"),
            ("digits", '{"total_steps": ' + "9" * 5000 + "}", "it cannot be read"),
            ("no keys", "{}", "'data_format' is missing in its metadata.json"),
        )
    ],
    *[_stated("data_format", value) for value in ("os", "", 3, ["hdf5"], "../x")],
    *[_stated("total_steps", value) for value in (-1, "6", 6.0, True, [6], 1e400)],
    *[_stated("total_episodes", value) for value in (-1, "2", 2.5, False, [2])],
    _minari("no total_steps", "'total_steps' is missing", METADATA | {"total_steps": "gone"}),
    _minari("no episodes", "'total_episodes' is mis", METADATA | {"total_episodes": "gone"}),
    _minari("null steps", "'total_steps' in its met", METADATA | {"total_steps": None}),
    _stated("total_steps", 5, "'total_steps' in its metadata.json is 5, and its data has more"),
    _stated("total_steps", 7, "'total_steps' in its metadata.json is 7, and its data has 6"),
    _stated("total_steps", 10**15, "'total_steps' declares"),
    _stated("total_episodes", 0, "there is no episode"),
    _stated("total_episodes", 1, "'total_episodes' in its metadata.json is 1, and its data has 2"),
    _stated("total_episodes", 3, "'total_episodes' in its metadata.json is 3, and its data has 2"),
    _stated("total_episodes", 10**15, "'total_steps' declares"),
    *[_stated("env_spec", value) for value in (3, ["Pendulum-v1"], True)],
    *[_stated("eval_env_spec", value) for value in (3, 1.5)],
    *[_stated("ref_min_score", value) for value in ("low", [1], True, 10**400)],
    _stated("jpeg_encoding", "no"),
    *[
        _space("observation_space", name, changes, _NO_SPACE + says)
        for name, changes, says in (
            ("number", "3", "it is 3"),
            ("broken", "{", "Expecting"),
            ("empty", "", "Expecting"),
            ("list", [], "it is []"),
            ("deep", "[" * 100_000, "it is nested too deeply"),
            ("deep tuple", _NESTED, "it is nested too deeply"),
            ("no type", "{}", "of type null"),
            ("type", {"type": "Sphere"}, 'of type "Sphere"'),
            ("list as type", {"type": ["Box"]}, 'of type ["Box"]'),
            ("no shape", {"shape": "gone"}, "a Box without 'shape'"),
            ("no low", {"low": "gone"}, "a Box without 'low'"),
            ("shape as text", {"shape": "2"}, "a Box whose dtype is no text"),
            ("other shape", {"shape": [3]}, "a Box of shape (3,) with bounds of (2,)"),
            ("huge shape", {"shape": [HUGE]}, "a Box of shape (1000000000000,) with bounds"),
            ("negative shape", {"shape": [-2]}, "a Box of shape (-2,) with bounds of (2,)"),
            ("huge shape, one bound", {"shape": [HUGE], "low": -1, "high": 1}, "a Box of shape"),
            ("texts", {"dtype": "S5"}, "a Box of |S5"),
            ("objects", {"dtype": "object"}, "a Box of object"),
            ("no dtype", {"dtype": None}, "a Box whose dtype is no text"),
            ("odd dtype", {"dtype": "float33"}, ""),
            ("words", {"low": ["a", "b"]}, ""),
            ("ragged", {"low": [[1], [1, 2]]}, ""),
            ("infinite integers", {"dtype": "int32", "low": [-1e400] * 2}, ""),
            ("crossed", {"low": [9.5, 9.5]}, ""),
            ("empty Dict", {"type": "Dict", "subspaces": {}}, "a Dict without subspaces"),
            ("empty Tuple", {"type": "Tuple", "subspaces": []}, "a Tuple without subspaces"),
            ("list in a Dict", {"type": "Dict", "subspaces": [1]}, 'of type "Dict"'),
            ("number in a Dict", {"type": "Dict", "subspaces": {"a": 1}}, "it is 1"),
            ("no n", {"type": "Discrete"}, ""),
            ("words in nvec", {"type": "MultiDiscrete", "nvec": "a", "start": 0}, ""),
        )
    ],
    _space("observation_space", "wide", {"shape": [1], "low": [0], "high": [1]}, "its space"),
    _space("observation_space", "flat", {"shape": [0], "low": [], "high": []}, "no numbers"),
    _space(
        "observation_space",
        "absent key",
        {"type": "Dict", "subspaces": {"a": _BOX}},
        "there is no 'episode_0/observations/a'",
    ),
    _space(
        "observation_space",
        "surrogate key",
        {"type": "Dict", "subspaces": {"\ud800": _BOX}},
        "it holds half of a surrogate pair",
    ),
    _space(
        "observation_space",
        "text",
        {"type": "Text", "max_length": 5, "min_length": 1, "charset": "a"},
        "the observation is Text(",
    ),
    _space("action_space", "discrete", {"type": "Discrete", "n": 2, "start": 1}, "its actions are"),
    _space("action_space", "integers", {"dtype": "int32"}, "the actions are Box("),
    _space("action_space", "wide", {"shape": [2], "low": [0] * 2, "high": [1] * 2}, "its actions"),
    _space("action_space", "still", {"low": [1.0]}, "action_low 1 is not below action_high 1"),
    _space("action_space", "Dict", {"type": "Dict", "subspaces": {"a": _ACTION}}, "the action"),
    *[
        _minari(f"data: {name}", says, change=change)
        for name, change, says in (
            ("episode gone", _put("episode_1", None), "'total_episodes' in its metadata.json is 2"),
            ("an array as episode", _put("episode_1", np.zeros(3)), "there is no 'episode_1/"),
            ("no rewards", _put("episode_1/rewards", None), "there is no 'episode_1/rewards'"),
            ("short rewards", _put("episode_1/rewards", np.zeros(2)), "its actions are"),
            ("empty rewards", _put("episode_1/rewards", np.zeros(0)), "it has no step"),
            ("no dataspace", _put("episode_1/rewards", h5py.Empty("f")), "is empty"),
            ("texts", _put("episode_1/rewards", np.full(3, b"a")), "its rewards are |S1"),
            ("NaN", _put("episode_1/rewards", np.full(3, np.nan)), "NaN in rewards"),
            ("overflow", _put("episode_1/actions", np.full((3, 1), 1e300)), "infinity in actions"),
            ("NaN flag", _put("episode_1/truncations", np.full(3, np.nan)), "NaN in truncations"),
            ("long", _put("episode_1/observations", np.zeros((5, 2))), "3 steps and 5 of ''"),
            ("huge", _huge_rewards, "'episode_1/rewards' declares"),
            (
                "a group as rewards",
                lambda file: (
                    _put("episode_1/rewards", None)(file) or file.create_group("episode_1/rewards")
                ),
                "'episode_1/rewards' is no array",
            ),
        )
    ],
    *[
        _minari(f"{name} as {file}", says, after=lambda f, m=make, n=file: _swap(f / n, m))
        for file in ("metadata.json", "main_data.hdf5")
        for name, (make, says) in _NO_FILES.items()
    ],
    _minari("no metadata", "metadata.json", after=lambda f: (f / "metadata.json").unlink()),
    _minari("no data", "main_data.hdf5", after=lambda f: (f / "main_data.hdf5").unlink()),
    _minari("a pipe beside", "this is a pipe", after=lambda f: os.mkfifo(f / "extra")),
    _minari(
        "half the data",
        "it cannot be read",
        after=lambda f: (f / "main_data.hdf5").write_bytes(
            (f / "main_data.hdf5").read_bytes()[:1500]
        ),
    ),
]


def _swap(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


# Environments ---------------------------------------------------------------------------------

_SPECS: dict[str, tuple[Any, str]] = {
    "no id": ({"id": None}, "there is no id"),
    "id of numbers": ({"id": 3}, "there is no id"),
    "id of lists": ({"id": ["Pendulum-v1"]}, "there is no id"),
    "empty id": ({"id": ""}, "no trusted package registers the environment ''"),
    "surrogate": ({"id": "\ud800-v0"}, "it holds half of a surrogate pair"),
    "escapes": ({"id": "\x1b[2J-v0"}, "no trusted package registers"),
    "long": ({"id": "x" * 200_000}, "no trusted package registers the environment 'xxx"),
    "version": ({"id": "Pendulum-v" + "9" * 5000}, "no trusted package registers"),
    "nested": ({"id": '{"id": "Pendulum-v1"}'}, "names a module to import"),
    "module": ({"id": "os:Pendulum-v1"}, "names a module to import"),
    "discrete": ({"id": "CartPole-v1", "kwargs": {}}, "which has observation size 4 and 2 discr"),
    "limit -1": ({"max_episode_steps": -1}, "a time limit of -1"),
    "limit 0": ({"max_episode_steps": 0}, "a time limit of 0"),
    "limit as text": ({"max_episode_steps": "200"}, 'a time limit of "200"'),
    "limit of 1.5": ({"max_episode_steps": 1.5}, "a time limit of 1.5"),
    "huge limit": ({"max_episode_steps": 10**300}, "a time limit of 1000"),
    "arguments as list": ({"kwargs": [1]}, "are no object"),
    "arguments as text": ({"kwargs": "g"}, "are no object"),
    "unknown argument": ({"kwargs": {"colour": 1}}, "it takes no argument 'colour'"),
    "empty argument": ({"kwargs": {"": 1}}, "the environment cannot be made"),
    "self": ({"kwargs": {"self": 1}}, "the environment cannot be made"),
    "deep arguments": ({"kwargs": {"g": json.loads("[" * 500 + "]" * 500)}}, "nested too deeply"),
    "file": ({"kwargs": {"g": "/etc/passwd"}}, "names a file"),
    "frames": ({"kwargs": {"frame_skip": 10**9}}, "a frame_skip of 1000000000"),
    "wrappers as text": ({"additional_wrappers": "TimeLimit"}, "are no list"),
    "wrappers of numbers": ({"additional_wrappers": [1]}, "has no name"),
    "nameless wrapper": ({"additional_wrappers": [{}]}, "has no name"),
    "maze": ({"id": "PointMaze_UMaze-v3", "kwargs": {"maze_map": [[0, 1]]}}, "no way from start"),
    "maze of text": ({"id": "PointMaze_UMaze-v3", "kwargs": {"maze_map": "abc"}}, "no way from"),
}


def _environment(name: str, spec: Any, says: str) -> Case:
    def make(place: Place) -> list[str]:
        pendulum = json.loads(gymnasium.spec("Pendulum-v1").to_json())
        text = spec if isinstance(spec, str) else json.dumps(pendulum | spec)
        path = place.inputs / "a.npz"
        np.savez(path, **columns(xql=np.asarray(json.dumps({"environment": text}))))
        return ["train", "offline", "--data", str(path), "--out", str(place.out)]

    return Case(name, "stored environment", make, says=says)


_ENVIRONMENT_CASES = [
    *[_environment(name, spec, says) for name, (spec, says) in _SPECS.items()],
    _environment("broken", "{", "no environment can be read"),
    _environment("deep", '{"id":' * 100_000, "nested too deeply"),
    _environment("twice", '{"id": "Pendulum-v1", "id": "a"}', "the key 'id' is there twice"),
    _environment("digits", '{"id": "Pendulum-v1", "a": ' + "9" * 5000 + "}", "Exceeds the limit"),
    _environment("nobody's", "Nothing-v0", "no trusted package registers"),
]

# Sources --------------------------------------------------------------------------------------

_SOURCES = {
    "": "",
    "minari:": "nothing follows 'minari:'",
    "minari:../x-v0": "this is no Minari name",
    "minari:a\nb-v0": "this is no Minari name",
    "d4rl:": "nothing follows 'd4rl:'",
    "what:a.npz": "unknown kind 'what:'",
    "a.npz?keys=": "cannot read '?keys='",
    "a.npz?rows=3": "cannot read '?rows=3'",
    "a.txt": "",
    "a": "",
    "n" * 300 + ".npz": "there is no such file",
    "\x1b[31m.npz": r"\x1b[31m.npz: there is no such file",
    "\udcff.npz": "the name is no text in UTF-8",
    "/dev/null": "",
    "/dev/stdin": "",
    "/proc/self/mem": "",
    "~nobody/a.npz": "",
}


def _cases() -> Iterator[Case]:
    yield from _ARRAY_CASES + _NPZ_CASES + _HDF5_CASES + _D4RL_CASES + _DESCRIPTION_CASES
    yield from _TABLE_CASES + _PARQUET_CASES + _NO_FILE_CASES + _MINARI_CASES
    yield from _ENVIRONMENT_CASES
    for source, says in _SOURCES.items():
        name = f"source {source.encode('unicode_escape').decode()[:30]}"
        words = ["data", "info", source]
        yield Case(name, "source", lambda _, words=words: words, says=says)  # type: ignore[misc]


CASES: list[Case] = list(_cases())

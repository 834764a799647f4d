"""Columns out of a file: npz, hdf5 or parquet, each column by its path, nothing interpreted."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xql.errors import InputError, nearest, require

SUFFIXES = (".npz", ".hdf5", ".h5", ".parquet")
DESCRIPTION = "xql"  # the key of the one JSON text that carries name, bounds and specifications
_UNREAD = np.empty(0)


def read_columns(path: Path, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Every wanted column of a file (all of them where `wanted` is None), by its path.

    A name that holds a group of columns brings all of them. Columns that are not wanted are left
    unread, but listed (as empty arrays under their names) when a wanted one turns out missing.

    Raises:
        InputError: the file is missing, truncated, or not what its name says.
    """
    try:
        found = path.exists()
    except OSError as error:
        raise unreadable(path, error) or error from None
    if not found:
        siblings = [file.name for file in path.parent.glob("*") if file.suffix in SUFFIXES]
        hint = nearest(path.name, siblings) if siblings else "check the path"
        raise InputError("there is no such file", where=str(path), hint=hint)
    if path.is_dir():
        raise InputError("this is a folder", where=str(path), hint="give a file in it")
    if path.suffix not in SUFFIXES:
        hint = f"the name must end in one of {', '.join(SUFFIXES)}"
        raise InputError(f"cannot tell what '{path.suffix}' is", where=str(path), hint=hint)
    read = {".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix, _read_hdf5)
    return read(path, wanted)


def _is_wanted(name: str, wanted: Collection[str] | None) -> bool:
    if wanted is None:
        return True
    return any(name == want or name.startswith((f"{want}/", f"{want}.")) for want in wanted)


def unreadable(path: Path, error: Exception) -> InputError | None:
    """What to say of an error of the operating system's (no permission, a bad disk), else None."""
    # A part of the data that is not there is damage, and not the operating system's doing.
    if not isinstance(error, OSError) or not error.errno or isinstance(error, FileNotFoundError):
        return None
    what = f"it cannot be read ({os.strerror(error.errno)})"
    return InputError(what, where=str(path), hint="see to its permissions or its disk")


def _broken(path: Path, reader: str, error: Exception) -> InputError:
    barred = unreadable(path, error)
    if barred is not None:
        return barred
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(
        f"truncated, or not what its name says: {reader} could not read it ({reason[:80]})",
        where=str(path),
        hint="fetch or write it again",
    )


def _read_npz(path: Path, wanted: Collection[str] | None) -> dict[str, np.ndarray]:
    try:
        # Opened here, because numpy leaves a truncated file open when it gives up on it.
        with path.open("rb") as stream:
            # A pickle runs code when it is opened.
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it holds a single array, as .npy files do")
            with file:
                return {
                    name: _member(file, name, path) if _is_wanted(name, wanted) else _UNREAD
                    for name in file.files
                }
    except InputError:
        raise
    except Exception as error:  # a damaged file raises whatever the part that trips over it does
        raise _broken(path, "numpy", error) from None


def _member(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(file[name])
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise InputError(
            f"'{name}' holds Python objects (a pickle), which are never opened",
            where=str(path),
            hint="store it as an array of numbers",
        ) from None


def _read_hdf5(path: Path, wanted: Collection[str] | None) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            wants = _is_wanted(name, wanted)
            columns[name] = np.asarray(here(node, str(path))[()]) if wants else _UNREAD

    def external(name: bytes, link: Any) -> bytes | None:
        return name if link.type == h5py.h5l.TYPE_EXTERNAL else None

    try:
        with h5py.File(path, "r") as file:
            link = file.id.links.visit(external, info=True)
            if link is not None:
                raise _elsewhere(link.decode(errors="replace"), "is a link to", str(path))
            file.visititems(visit)
            if DESCRIPTION in file.attrs:
                columns[DESCRIPTION] = np.asarray(file.attrs[DESCRIPTION])
    except InputError:
        raise
    except Exception as error:  # as above
        raise _broken(path, "h5py", error) from None
    return columns


def node_at(group: Any, path: str, where: str) -> Any:
    """The group or dataset at a path, which no link leads out of the file.

    Raises:
        InputError: a part of the path is a soft or an external link, or its values lie in another
            file.
        KeyError: there is no such path.
    """
    for part in path.split("/"):
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise _elsewhere(f"{group.name}/{part}".strip("/"), "is a link, perhaps to", where)
        group = group[part]
    return here(group, where) if isinstance(group, h5py.Dataset) else group


def here(dataset: Any, where: str) -> Any:
    """The same dataset of an HDF5 file, where its values lie in that file.

    A virtual dataset, or one with external storage, names other files: any file of this machine
    would be read as numbers, and where one is missing, HDF5 gives zeros.

    Raises:
        InputError: they do not.
    """
    if dataset.is_virtual or dataset.external:
        raise _elsewhere(dataset.name.strip("/"), "takes its values from", where)
    return dataset


def _elsewhere(name: str, how: str, where: str) -> InputError:
    return InputError(
        f"'{name}' {how} another file, which is not opened",
        where=where,
        hint="store its values in this file",
    )


def _read_parquet(path: Path, wanted: Collection[str] | None) -> dict[str, np.ndarray]:
    parquet = require("pyarrow.parquet", "parquet")
    arrow = require("pyarrow", "parquet")
    try:
        schema = parquet.read_schema(path)
        names = [name for name in schema.names if _is_wanted(name, wanted)]
        table = parquet.read_table(path, columns=names)
    except (OSError, arrow.ArrowException) as error:
        raise _broken(path, "pyarrow", error) from None
    columns = {name: _UNREAD for name in schema.names if name not in names}
    numbered: dict[str, dict[int, np.ndarray]] = {}
    for name in names:
        values = _from_arrow(table[name].combine_chunks(), name, str(path))
        match = re.fullmatch(r"(.+)\.(\d+)", name)
        if match:
            numbered.setdefault(match[1], {})[int(match[2])] = values
        else:
            columns[name] = values
    for name, parts in numbered.items():
        missing = set(range(len(parts))) - set(parts)
        if missing:
            what = f"there is no '{name}.{min(missing)}' though '{name}.{max(parts)}' exists"
            raise InputError(what, where=str(path), hint="number the columns from 0 without gaps")
        columns[name] = np.stack([parts[index] for index in range(len(parts))], axis=1)
    text = (schema.metadata or {}).get(DESCRIPTION.encode())
    if text is not None:
        columns[DESCRIPTION] = np.asarray(text.decode(errors="replace"))
    return columns


def _from_arrow(values: Any, name: str, where: str) -> np.ndarray:
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"{name} is empty in row {row}", where=where, hint="fill or drop the row")
    kind = str(values.type)
    if not kind.startswith(("list", "large_list", "fixed_size_list")):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    numbers = values.flatten()
    lengths = np.asarray(values.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) and (lengths != lengths[0]).any():
        row = int(np.argmax(lengths != lengths[0]))
        what = f"{name} has {lengths[row]} numbers in row {row} and {lengths[0]} in row 0"
        raise InputError(what, where=where, hint="every row needs the same number")
    if numbers.null_count:
        row = int(np.argmax(numbers.is_null().to_numpy(zero_copy_only=False))) // int(lengths[0])
        raise InputError(f"{name} is empty in row {row}", where=where, hint="fill or drop the row")
    flat = np.asarray(numbers.to_numpy(zero_copy_only=False))
    return flat.reshape(len(values), int(lengths[0]) if len(lengths) else 0)

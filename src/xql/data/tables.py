"""Columns out of a file (npz, hdf5, parquet, csv) or a data frame, each column by its path.

Nothing is interpreted, but that a table has one number per cell: `observations.0`,
`observations.1`, ... are one column.
"""

import csv
import itertools
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xql.errors import InputError, nearest, require

SUFFIXES = (".npz", ".hdf5", ".h5", ".parquet")  # what a dataset can be saved as
READABLE = (*SUFFIXES, ".csv")
DESCRIPTION = "xql"  # the key of the one JSON text that carries name, bounds and specifications
LABELS = ("episode",)  # columns whose values may be any text
_UNREAD = np.empty(0)
_BLOCK = 65536  # lines of text at a time: as Python's own texts they take ten times the memory


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
        siblings = [file.name for file in path.parent.glob("*") if file.suffix in READABLE]
        hint = nearest(path.name, siblings) if siblings else "check the path"
        raise InputError("there is no such file", where=str(path), hint=hint)
    if path.is_dir():
        raise InputError("this is a folder", where=str(path), hint="give a file in it")
    if path.suffix not in READABLE:
        hint = f"the name must end in one of {', '.join(READABLE)}"
        raise InputError(f"cannot tell what '{path.suffix}' is", where=str(path), hint=hint)
    readers = {".npz": _read_npz, ".parquet": _read_parquet, ".csv": _read_csv}
    columns = readers.get(path.suffix, _read_hdf5)(path, wanted)
    is_table = path.suffix in (".parquet", ".csv")
    return gather_numbered(columns, wanted, str(path), nested=is_table)


def gather_numbered(
    columns: Mapping[str, np.ndarray],
    wanted: Collection[str] | None,
    where: str,
    *,
    nested: bool,
) -> dict[str, np.ndarray]:
    """The same columns, but those that hold one number each, NAME.0, NAME.1, ..., as one NAME.

    Args:
        columns: by their paths.
        wanted: the names of the columns; others stay as they are.
        where: the source, for the message.
        nested: whether a part of a dictionary may be numbered too, as in a table it must be.

    Raises:
        InputError: a number is missing, or the parts have different lengths.
    """
    numbered: dict[str, dict[int, np.ndarray]] = {}
    gathered: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        match = re.fullmatch(r"(.+)\.(\d+)", name)
        vector = values is not _UNREAD and values.ndim == 1 and _is_wanted(name, wanted)
        if match and vector and (nested or "/" not in name):
            numbered.setdefault(match[1], {})[int(match[2])] = values
        else:
            gathered[name] = values
    for name, parts in numbered.items():
        missing = set(range(len(parts))) - set(parts)
        if missing:
            what = f"there is no '{name}.{min(missing)}' though '{name}.{max(parts)}' exists"
            raise InputError(what, where=where, hint="number the columns from 0 without gaps")
        for index, part in parts.items():
            if len(part) != len(parts[0]):
                what = f"{name}.{index} has {len(part)} rows and {name}.0 {len(parts[0])}"
                raise InputError(what, where=where, hint="every column needs one row per step")
        gathered[name] = np.stack([parts[index] for index in range(len(parts))], axis=1)
    return gathered


def array_of(values: Any, name: str, where: str) -> np.ndarray:
    """A column of a mapping or a data frame as an array; lists in its cells become rows.

    Raises:
        InputError: a masked or missing value, a text among numbers, or lists of different lengths,
            named by the row.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        row = int(np.argwhere(np.ma.getmaskarray(values))[0][0])
        raise InputError(f"{name} is masked in row {row}", where=where, hint="fill or drop the row")
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty(len(values), object)
        for row, value in enumerate(values):
            array[row] = value
    if array.dtype != object or array.ndim != 1 or name in LABELS:
        return array
    rows: list[np.ndarray] = []
    for row, value in enumerate(array):
        try:
            cell = np.asarray(value)
        except ValueError:
            cell = np.asarray(None)
        if cell.dtype.kind not in "fiub":
            hint = "give numbers" if isinstance(value, str) else "fill or drop the row"
            shown = repr(value)[:40]
            raise InputError(f"{name} is {shown} in row {row}", where=where, hint=hint)
        if rows and cell.shape != rows[0].shape:
            what = f"{name} has {cell.size} numbers in row {row} and {rows[0].size} in row 0"
            raise InputError(what, where=where, hint="every row needs the same number")
        rows.append(cell)
    return np.stack(rows) if rows else array.astype(float)


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
    try:
        schema = parquet.read_schema(path)
        names = [name for name in schema.names if _is_wanted(name, wanted)]
        table = parquet.read_table(path, columns=names)
    except Exception as error:  # as above
        raise _broken(path, "pyarrow", error) from None
    columns = {name: _UNREAD for name in schema.names if name not in names}
    for name in names:
        columns[name] = _from_arrow(table[name].combine_chunks(), name, str(path))
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


def _read_csv(path: Path, wanted: Collection[str] | None) -> dict[str, np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _from_lines(csv.reader(file), wanted, str(path))
    except InputError:
        raise
    except Exception as error:  # as above
        raise _broken(path, "csv", error) from None


def _from_lines(
    lines: Iterator[list[str]], wanted: Collection[str] | None, where: str
) -> dict[str, np.ndarray]:
    header = next(lines, [])
    if not any(header):
        hint = "the first line must name the columns"
        raise InputError("there is no header", where=where, hint=hint)
    places: dict[str, int] = {}
    for place, name in enumerate(header):
        if name in places:
            what = f"there are two columns '{name}'"
            raise InputError(what, where=where, hint="name each once")
        if _is_wanted(name, wanted):
            places[name] = place
    parts: dict[str, list[np.ndarray]] = {name: [np.empty(0, int)] for name in places}
    first = 0
    filled = (line for line in lines if line)
    while block := list(itertools.islice(filled, _BLOCK)):
        for row, line in enumerate(block, first):
            if len(line) != len(header):
                what = f"row {row} has {len(line)} cells and the header {len(header)}"
                hint = "give each row a cell for each column, separated by commas"
                raise InputError(what, where=where, hint=hint)
        cells = list(zip(*block, strict=True))
        for name, place in places.items():
            parts[name].append(_from_cells(cells[place], name, first, where))
        first += len(block)
    columns = dict.fromkeys(header, _UNREAD)
    return columns | {name: np.concatenate(values[1:] or values) for name, values in parts.items()}


def _from_cells(cells: Sequence[str], name: str, first: int, where: str) -> np.ndarray:
    """Texts as whole numbers where all are, else as floats; labels stay texts."""
    if name in LABELS:
        return np.asarray(cells)
    for kind in (int, float):
        try:
            return np.asarray([kind(cell) for cell in cells], np.dtype(kind))
        except (ValueError, OverflowError):
            pass
    numbers = []
    for row, cell in enumerate(cells, first):
        word = cell.strip().lower()
        try:
            numbers.append(float({"true": "1", "false": "0"}.get(word, word)))
        except ValueError:
            if not word:
                what = f"{name} is empty in row {row}"
                raise InputError(what, where=where, hint="fill or drop the row") from None
            hint = "give numbers"
            if word.startswith(("[", "(")):
                hint = f"write one column per number: {name}.0, {name}.1, ..."
            what = f"{name} is '{cell[:40]}' in row {row}"
            raise InputError(what, where=where, hint=hint) from None
    return np.asarray(numbers)

"""Columns out of a file (npz, hdf5, parquet, csv) or a data frame, each column by its path.

Nothing is interpreted, but that a table has one number per cell: `observations.0`,
`observations.1`, ... are one column.
"""

import contextlib
import csv
import itertools
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xql.data.reading import SPARE, require_file, require_room, unreadable
from xql.data.stored import Readable, beside, kept
from xql.errors import InputError, brief, nearest, require

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
    with open_columns(path, wanted) as columns:
        return {name: np.asarray(values) for name, values in columns.items()}


@contextlib.contextmanager
def open_columns(
    path: Path, wanted: Collection[str] | None = None
) -> Iterator[dict[str, Readable]]:
    """The same, but what has more than one number a row is read when its rows are asked for.

    Of .npz and HDF5 files; tables are read whole. The file is open within the block.

    Raises:
        InputError: as above, also from a column that is read.
    """
    siblings = [file.name for file in path.parent.glob("*") if file.suffix in READABLE]
    require_file(path, nearest(path.name, siblings) if siblings else "check the path")
    if path.suffix not in READABLE:
        hint = f"the name must end in one of {', '.join(READABLE)}"
        raise InputError(f"cannot tell what '{path.suffix}' is", where=str(path), hint=hint)
    with contextlib.ExitStack() as stack:
        columns: Mapping[str, Readable]
        if path.suffix in (".parquet", ".csv"):
            read = _read_parquet if path.suffix == ".parquet" else _read_csv
            columns, nested = read(path, wanted), True
        else:
            opener = _open_npz if path.suffix == ".npz" else _open_hdf5
            columns, nested = opener(path, wanted, stack), False
        yield gather_numbered(columns, wanted, str(path), nested=nested)


def gather_numbered(
    columns: Mapping[str, Readable],
    wanted: Collection[str] | None,
    where: str,
    *,
    nested: bool,
) -> dict[str, Readable]:
    """The same columns, but those that hold one number each, NAME.0, NAME.1, ..., as one NAME.

    Args:
        columns: by their paths.
        wanted: the names of the columns; others stay as they are.
        where: the source, for the message.
        nested: whether a part of a dictionary may be numbered too, as in a table it must be.

    Raises:
        InputError: a number is missing, or the parts have different lengths or are no numbers.
    """
    numbered: dict[str, dict[int, np.ndarray]] = {}
    gathered: dict[str, Readable] = {}
    for name, values in columns.items():
        match = re.fullmatch(r"(.+)\.([0-9]{1,9})", name)
        vector = isinstance(values, np.ndarray) and values is not _UNREAD and values.ndim == 1
        vector = vector and _is_wanted(name, wanted)
        if match and vector and (nested or "/" not in name):
            assert isinstance(values, np.ndarray)
            parts, number = numbered.setdefault(match[1], {}), int(match[2])
            if number in parts:
                what = f"there are two columns '{match[1]}.{number}'"
                raise InputError(what, where=where, hint="name each once")
            parts[number] = values
        else:
            gathered[name] = values
    for name, parts in numbered.items():
        missing = set(range(len(parts))) - set(parts)
        if name in gathered:
            what = f"there are both '{name}' and '{name}.{min(parts)}'"
            raise InputError(what, where=where, hint="give one of them")
        if missing:
            what = f"there is no '{name}.{min(missing)}' though '{name}.{max(parts)}' exists"
            raise InputError(what, where=where, hint="number the columns from 0 without gaps")
        for index, part in parts.items():
            if len(part) != len(parts[0]):
                what = f"{name}.{index} has {len(part)} rows and {name}.0 {len(parts[0])}"
                raise InputError(what, where=where, hint="every column needs one row per step")
            # A part of a dictionary may yet be left out.
            if part.dtype.kind not in "fiub" and name not in LABELS and "/" not in name:
                what = f"{name}.{index} holds {part.dtype}, not numbers"
                raise InputError(what, where=where, hint="give numbers")
        gathered[name] = beside([parts[index] for index in range(len(parts))])
    return gathered


def array_of(values: Any, name: str, where: str) -> np.ndarray:
    """A column of a mapping or a data frame as an array; lists in its cells become rows.

    Raises:
        InputError: a masked or missing value, a text among numbers, or lists of different lengths,
            named by the row.
    """
    row = _first_masked(values)
    if row is not None:
        raise InputError(f"{name} is masked in row {row}", where=where, hint="fill or drop the row")
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty(len(values), object)
        for row, value in enumerate(values):
            array[row] = value
    if name in LABELS and array.dtype.kind == "U" and isinstance(values, list | tuple):
        return np.array(values, object)  # else a NaN among texts would be one
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


def _first_masked(values: Any) -> int | None:
    """The first row with a masked value."""
    if isinstance(values, np.ma.MaskedArray):
        masked = np.argwhere(np.ma.getmaskarray(values))
        return int(masked[0][0]) if len(masked) else None
    kind = getattr(getattr(values, "dtype", None), "kind", "")  # polars has types of its own
    if isinstance(values, list | tuple) or kind == "O":
        return next((row for row, value in enumerate(values) if value is np.ma.masked), None)
    return None


def _is_wanted(name: str, wanted: Collection[str] | None) -> bool:
    if wanted is None:
        return True
    return any(name == want or name.startswith((f"{want}/", f"{want}.")) for want in wanted)


def broken(path: Path, reader: str, error: Exception) -> InputError:
    """What to say of a file that its reader tripped over."""
    barred = unreadable(path, error)
    if barred is not None:
        return barred
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(
        f"truncated, or not what its name says: {reader} could not read it ({reason[:80]})",
        where=str(path),
        hint="fetch or write it again",
    )


def require_once(names: Sequence[str], wanted: Collection[str], where: str) -> None:
    """Raise `InputError` where a wanted column is there twice."""
    for name, times in Counter(names).items():
        if times > 1 and name in wanted:
            what = f"there are two columns '{name}'"
            raise InputError(what, where=where, hint="name each once")


def read_npz(path: Path, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The wanted arrays of an .npz file, all where None; the others are listed, but empty.

    Raises:
        InputError: the file is damaged, or holds what is no array of plain values.
    """
    with contextlib.ExitStack() as stack:
        found = _open_npz(path, wanted, stack)
        return {name: np.asarray(values) for name, values in found.items()}


def _open_npz(
    path: Path, wanted: Collection[str] | None, stack: contextlib.ExitStack
) -> dict[str, Readable]:
    try:
        with path.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise ValueError("it holds a single array, as .npy files do")
        archive = stack.enter_context(zipfile.ZipFile(path))
        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in members:
                what = f"there are two arrays '{name}'"
                raise InputError(what, where=str(path), hint="name each once")
            members[name] = member
        chosen = {name: members[name] for name in members if _is_wanted(name, wanted)}
        whole = path.stat().st_size
        sizes = {
            name: (member.file_size, min(member.compress_size, whole))
            for name, member in chosen.items()
        }
        require_room(sizes, str(path))
        return {
            name: _member(archive, chosen[name], path, stack) if name in chosen else _UNREAD
            for name in members
        }
    except InputError:
        raise
    except Exception as error:  # a damaged file raises whatever the part that trips over it does
        raise broken(path, "numpy", error) from None


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, stack: contextlib.ExitStack
) -> Readable:
    name, where = member.filename.removesuffix(".npy"), str(path)
    if member.flag_bits & 1:
        raise InputError(f"'{name}' is encrypted", where=where, hint="store it without a password")
    with archive.open(member) as stream:
        readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(stream)
        if version[0] not in readers:
            # The one with names of fields in Unicode, which no array of numbers has.
            what = f"'{name}' is an array in version {version[0]} of numpy's format"
            raise InputError(what, where=where, hint="store it as an array of numbers")
        shape, by_column, dtype = readers[version[0]](stream)
        head = stream.tell()
    declared, stored = math.prod(shape) * dtype.itemsize, member.file_size - head
    if dtype.hasobject:
        # A pickle runs code when it is opened.
        what = f"'{name}' holds Python objects (a pickle), which are never opened"
        raise InputError(what, where=where, hint="store it as an array of numbers")
    if declared != stored:
        what = f"'{name}' declares {declared:,} bytes and has {stored:,}"
        raise InputError(what, where=where, hint="fetch or write it again")
    if min(shape, default=0) < 0:
        raise ValueError(f"'{name}' declares the shape {shape}")
    if len(shape) < 2 or by_column or declared == 0:
        with archive.open(member) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    return kept(shape, dtype, _Member(archive, member, path, head, shape, dtype, stack).read)


class _Member:
    """Rows of an array in a zip archive, read from its beginning to its end, perhaps repeatedly."""

    def __init__(
        self,
        archive: zipfile.ZipFile,
        member: zipfile.ZipInfo,
        path: Path,
        head: int,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        stack: contextlib.ExitStack,
    ) -> None:
        self._archive, self._member, self._path, self._head = archive, member, path, head
        self._shape, self._dtype = shape, dtype
        self._stream: Any = None
        self._row = 0
        stack.callback(self._close)

    def read(self, first: int, last: int) -> np.ndarray:
        """Rows, after what was read before in no time, else from the beginning."""
        width = self._dtype.itemsize * math.prod(self._shape[1:])
        try:
            if self._stream is None or first < self._row:
                self._close()
                self._stream, self._row = self._archive.open(self._member), 0
                self._skip(self._head)
            self._skip((first - self._row) * width)
            block = np.empty((last - first, *self._shape[1:]), self._dtype)
            self._fill(block.reshape(-1).view(np.uint8))
            self._row = last
            if last == self._shape[0]:
                self._stream.read(1)  # the end, where the archive compares its checksum
            return block
        except Exception as error:  # as above
            raise broken(self._path, "numpy", error) from None

    def _skip(self, count: int) -> None:
        while count > 0:
            step = len(self._stream.read(min(count, 1 << 20)))
            if step == 0:
                raise EOFError("it ends too early")
            count -= step

    def _fill(self, target: np.ndarray) -> None:
        while len(target):
            part = np.frombuffer(self._stream.read(min(len(target), 1 << 20)), np.uint8)
            if len(part) == 0:
                raise EOFError("it ends too early")
            target[: len(part)] = part
            target = target[len(part) :]

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _open_hdf5(
    path: Path, wanted: Collection[str] | None, stack: contextlib.ExitStack
) -> dict[str, Readable]:
    columns: dict[str, Readable] = {}
    chosen: dict[str, Any] = {}

    def visit(place: str | bytes, node: Any) -> None:
        # h5py leaves a name that is no UTF-8 as it is.
        name = place if isinstance(place, str) else place.decode(errors="replace")
        if isinstance(node, h5py.Dataset):
            columns[name] = _UNREAD
            if _is_wanted(name, wanted):
                chosen[name] = here(node, str(path))

    def external(name: bytes, link: Any) -> bytes | None:
        return name if link.type == h5py.h5l.TYPE_EXTERNAL else None

    try:
        file = stack.enter_context(h5py.File(path, "r"))
        link = file.id.links.visit(external, info=True)
        if link is not None:
            raise _elsewhere(link.decode(errors="replace"), "is a link to", str(path))
        file.visititems(visit)
        require_room({name: _sizes(node) for name, node in chosen.items()}, str(path))
        for name, node in chosen.items():
            columns[name] = _column_of(node, path)
        if DESCRIPTION in file.attrs:
            columns[DESCRIPTION] = np.asarray(file.attrs[DESCRIPTION])
    except InputError:
        raise
    except Exception as error:  # as above
        raise broken(path, "h5py", error) from None
    return columns


def _column_of(node: Any, path: Path) -> Readable:
    if node.shape is None or len(node.shape) < 2 or node.size == 0 or node.dtype.kind not in "fiub":
        return values_of(node, str(path))

    def read(first: int, last: int) -> np.ndarray:
        try:
            return np.asarray(node[first:last])
        except Exception as error:  # as above
            raise broken(path, "h5py", error) from None

    # A compressed chunk is decompressed whole, for any row of it.
    return kept(node.shape, node.dtype, read, multiple=node.chunks[0] if node.chunks else 1)


def values_of(node: Any, where: str) -> np.ndarray:
    """The values of a dataset of an HDF5 file that has passed `here`, where they fit into memory.

    Raises:
        InputError: they do not, or it is a group or an empty dataset.
    """
    if not isinstance(node, h5py.Dataset) or node.shape is None:
        what = "is empty" if isinstance(node, h5py.Dataset) else "is no array"
        hint = "fetch or write it again"
        raise InputError(f"'{node.name.strip('/')}' {what}", where=where, hint=hint)
    declared, stored = _sizes(node)
    if declared > SPARE:
        require_room({node.name.strip("/"): (declared, stored)}, where)
    return np.asarray(node[()])


def _sizes(node: Any) -> tuple[int, int]:
    """The bytes of a dataset in memory, or of one chunk where that is more, and in the file."""
    most = max(math.prod(node.shape or ()), math.prod(node.chunks or ())) * node.dtype.itemsize
    if most <= SPARE:  # the usual case, and to ask the file takes as long as to read a short array
        return most, most
    return most, min(node.id.get_storage_size(), Path(node.file.filename).stat().st_size)


def node_at(group: Any, path: str, where: str) -> Any:
    """The group or dataset at a path, which no link leads out of the file.

    Raises:
        InputError: there is no such path, a part of it is a soft or an external link, or its values
            lie in another file.
    """
    for part in path.split("/"):
        try:
            link = group.id.links.get_info(part.encode())
        # An array has no links; of a name that is not there, h5py's releases say different things.
        except (AttributeError, KeyError, ValueError, RuntimeError):
            place = f"{group.name}/{part}".strip("/")
            hint = "fetch or write it again"
            raise InputError(f"there is no '{place}'", where=where, hint=hint) from None
        if link.type != h5py.h5l.TYPE_HARD:
            place = f"{group.name}/{part}".strip("/")
            raise _elsewhere(place, "is a link, perhaps to", where)
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
        require_once(names, names, str(path))
        footer = parquet.read_metadata(path)
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        # Equal values take next to nothing in the file, so only the memory is compared.
        size = 8 * sum(
            group.column(index).num_values for group in groups for index in range(group.num_columns)
        )
        require_room({path.name: (size, size)}, str(path))
        table = parquet.read_table(path, columns=names)
        columns = dict.fromkeys(schema.names, _UNREAD)
        for name in names:
            columns[name] = _from_arrow(table[name].combine_chunks(), name, str(path))
    except InputError:
        raise
    except Exception as error:  # as above
        raise broken(path, "pyarrow", error) from None
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
            return from_lines(csv.reader(file), wanted, str(path), _from_cells)
    except InputError:
        raise
    except Exception as error:  # as above
        raise broken(path, "csv", error) from None


def from_lines(
    lines: Iterator[list[str]],
    wanted: Collection[str] | None,
    where: str,
    parse: Callable[[Sequence[str], str, int, str], np.ndarray],
    *,
    exact: bool = False,
) -> dict[str, np.ndarray]:
    """The wanted columns of a CSV file's lines; the others are listed, but empty.

    Args:
        lines: the header, and then the rows, as lists of cells.
        wanted: the names of the columns; all where None.
        where: the file, for messages.
        parse: makes an array of a column's cells, its name, the row of the first, and `where`.
        exact: whether a wanted name brings no other, as "a" else does "a.0" and "a/b".
    """
    header = next(lines, [])
    if not any(header):
        hint = "the first line must name the columns"
        raise InputError("there is no header", where=where, hint=hint)
    between = re.search(r"[;\t|]", header[0])
    if len(header) == 1 and between:
        what = f"the header is one column, {brief(header[0])}"
        hint = f"separate the columns by commas, not by {between[0]!r}"
        raise InputError(what, where=where, hint=hint)
    places: dict[str, int] = {}
    for place, name in enumerate(header):
        if name in places:
            require_once(header, [name], where)
        if (name in (wanted or ())) if exact else _is_wanted(name, wanted):
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
            parts[name].append(parse(cells[place], name, first, where))
        first += len(block)
    columns = dict.fromkeys(header, _UNREAD)
    return columns | {name: np.concatenate(values[1:] or values) for name, values in parts.items()}


def _from_cells(cells: Sequence[str], name: str, first: int, where: str) -> np.ndarray:
    """Texts as truth values or whole numbers where all are, else as floats; labels stay texts."""
    if name in LABELS:
        return np.asarray(cells)
    numbers = _numbers(cells)
    if numbers is not None:
        return numbers
    words = [cell.strip().lower() for cell in cells]
    texts = [_TRUTH.get(word, word) for word in words]
    numbers = _numbers(texts)
    if numbers is not None:
        return numbers.astype(bool) if set(words) <= _TRUTH.keys() else numbers
    bad = next(place for place, text in enumerate(texts) if _numbers([text]) is None)
    if not words[bad]:
        what = f"{name} is empty in row {first + bad}"
        raise InputError(what, where=where, hint="fill or drop the row")
    hint = "give numbers"
    if words[bad].startswith(("[", "(")):
        hint = f"write one column per number: {name}.0, {name}.1, ..."
    what = f"{name} is '{cells[bad][:40]}' in row {first + bad}"
    raise InputError(what, where=where, hint=hint)


_TRUTH = {"true": "1", "false": "0"}


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    for kind in (int, float):
        try:
            return np.asarray([kind(text) for text in texts], np.dtype(kind))
        except (ValueError, OverflowError):
            pass
    return None

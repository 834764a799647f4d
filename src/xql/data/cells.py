"""People's own tables: the columns of a file or a data frame as numbers, labels or times.

Unlike a dataset's own schema, a table may miss values: NaN among numbers, None among labels.
"""

import csv
import datetime
import glob
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from xql.data.reading import once, require_file, require_room
from xql.data.tables import broken, from_lines, require_once
from xql.errors import InputError, MissingExtra, nearest, require

Kind = Literal["number", "label", "time"]
TABLE = "table"
"""What messages call a table that comes from no file."""
TABLES = (".csv", ".parquet", ".jsonl", ".ndjson")
MISSING = ("", "na", "n/a", "nan", "null", "none")
"""Texts that stand for no number, in small letters."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Table(NamedTuple):
    """A table whose columns are not read yet."""

    where: str
    """The file's path, for messages."""
    names: tuple[str, ...]
    """Of all columns, in the table's order."""
    read: Callable[[Mapping[str, Kind]], dict[str, np.ndarray]]
    """Reads some columns, each as the kind that is asked for."""


def open_tables(source: Any) -> list[Table]:
    """The tables of a source: files, a pattern such as "logs/*.csv", frames, or a list of these.

    The files that a pattern matches come in the order of their names.

    Raises:
        InputError: there is none, or it cannot be read.
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    if isinstance(source, list | tuple):
        found = [table for one in source for table in open_tables(one)]
        if not found:
            raise InputError("there is no table", hint="give at least one file or data frame")
        return found
    if isinstance(source, str | os.PathLike):
        return [_open_file(path) for path in _matching(os.fspath(source))]
    if isinstance(source, Mapping):
        return [_open_frame(source, list(source))]
    if hasattr(source, "collect"):  # polars, before a query has run
        hint = "call its collect() first"
        raise InputError(f"a {type(source).__name__} has no values yet", hint=hint)
    # pandas and polars have `columns`, pyarrow `column_names`; none of them need be installed.
    names = getattr(source, "column_names", getattr(source, "columns", None))
    if names is None:
        hint = "give files, a data frame, or a mapping of columns"
        raise InputError(f"a {type(source).__name__} is no table", hint=hint)
    return [_open_frame(source, list(names))]


def _matching(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if not glob.has_magic(text) or path.exists():
        return [path]
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    if not found:
        raise InputError("no file matches", where=text, hint="check the path")
    return [Path(one) for one in found]


def _open_file(path: Path) -> Table:
    siblings = [file.name for file in path.parent.glob("*") if file.suffix in TABLES]
    require_file(path, nearest(path.name, siblings) if siblings else "check the path")
    opener = {".csv": _open_csv, ".parquet": _open_parquet}.get(path.suffix.lower(), _open_json)
    if path.suffix.lower() not in TABLES:
        hint = f"a table's name must end in one of {', '.join(TABLES)}"
        raise InputError(f"cannot tell what '{path.suffix}' is", where=str(path), hint=hint)
    try:
        table = opener(path)
    except InputError:
        raise
    except Exception as error:  # a damaged file raises whatever the part that trips over it does
        raise _unread(path, error) from None

    def read(kinds: Mapping[str, Kind]) -> dict[str, np.ndarray]:
        try:
            return table.read(kinds)
        except InputError:
            raise
        except Exception as error:  # as above
            raise _unread(path, error) from None

    return table._replace(read=read)


def _unread(path: Path, error: Exception) -> Exception:
    if isinstance(error, MissingExtra):
        return error
    if isinstance(error, UnicodeDecodeError):
        hint = "save it as UTF-8 (in Excel, as 'CSV UTF-8')"
        return InputError("it is not UTF-8 text", where=str(path), hint=hint)
    return broken(path, path.suffix[1:], error)


def _open_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        found = re.search(r"[;\t]", first)
        between = found[0] if found and "," not in first else ","
        file.seek(0)
        header = next(csv.reader(file, delimiter=between, skipinitialspace=True), [])

    def read(kinds: Mapping[str, Kind]) -> dict[str, np.ndarray]:
        def parse(cells: Sequence[str], name: str, first: int, where: str) -> np.ndarray:
            return parsed(kinds[name], np.asarray(cells, object), name, where, first)

        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=between, skipinitialspace=True)
            return from_lines(lines, list(kinds), str(path), parse, exact=True)

    return Table(str(path), tuple(header), read)


def _open_parquet(path: Path) -> Table:
    parquet = require("pyarrow.parquet", "parquet")
    names = parquet.read_schema(path).names

    def read(kinds: Mapping[str, Kind]) -> dict[str, np.ndarray]:
        require_once(names, kinds, str(path))
        rows = parquet.read_metadata(path).num_rows
        require_room({path.name: (8 * rows * len(kinds), 8 * rows * len(kinds))}, str(path))
        table = parquet.read_table(path, columns=list(kinds))
        found = {}
        for name, kind in kinds.items():
            values = table[name]
            if str(values.type).startswith("dictionary"):
                values = values.cast(values.type.value_type)
            cells = np.asarray(values.to_numpy(zero_copy_only=False))
            found[name] = parsed(kind, cells, name, str(path))
        return found

    return Table(str(path), tuple(names), read)


def _open_json(path: Path) -> Table:
    """JSON Lines: one object in each line; a key that a line lacks is missing there."""
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                value = json.loads(line, object_pairs_hook=once)
            except (ValueError, RecursionError) as error:
                what = f"row {len(rows)} is no JSON ({str(error)[:80]})"
                hint = "write one object in each line"
                raise InputError(what, where=str(path), hint=hint) from None
            if not isinstance(value, dict):
                hint = 'write each row as {"name": value, ...}'
                raise InputError(f"row {len(rows)} is no JSON object", where=str(path), hint=hint)
            rows.append(value)
    names = list(dict.fromkeys(name for row in rows for name in row))

    def read(kinds: Mapping[str, Kind]) -> dict[str, np.ndarray]:
        return {
            name: parsed(kind, _objects([row.get(name) for row in rows]), name, str(path))
            for name, kind in kinds.items()
        }

    return Table(str(path), tuple(names), read)


def _open_frame(frame: Any, names: list[Any]) -> Table:
    own = {str(name): name for name in names}

    def read(kinds: Mapping[str, Kind]) -> dict[str, np.ndarray]:
        require_once([str(name) for name in names], kinds, TABLE)
        return {name: parsed(kind, frame[own[name]], name, TABLE) for name, kind in kinds.items()}

    return Table(TABLE, tuple(map(str, names)), read)


def parsed(kind: Kind, values: Any, name: str, where: str, first: int = 0) -> np.ndarray:
    """A column as what it is to be.

    Args:
        kind: which.
        values: its cells.
        name: the column's, for messages.
        where: the table, for messages.
        first: the row of the first cell.

    Raises:
        InputError: a cell is nothing of the kind; named by its row.
    """
    reader: Callable[..., np.ndarray] = {"number": numbers, "label": labels, "time": times}[kind]
    return reader(values, name, where, first)


def _objects(values: Sequence[Any]) -> np.ndarray:
    cells = np.empty(len(values), object)
    for index, value in enumerate(values):  # numpy would make two axes of lists of one length
        cells[index] = value
    return cells


def _array(values: Any, name: str, where: str) -> np.ndarray:
    cells = np.asarray(values if not isinstance(values, list | tuple) else _objects(values))
    if cells.ndim != 1:
        hint = "give one value in each row"
        raise InputError(f"{name} has {cells.ndim} axes", where=where, hint=hint)
    return cells


def _is_missing(value: Any) -> bool:
    # pandas has a NA and a NaT, which compare with nothing.
    return (
        value is None
        or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def numbers(values: Any, name: str, where: str, first: int = 0) -> Float64[np.ndarray, " rows"]:
    """Cells as float64, NaN where there is none; true and false are 1 and 0."""
    cells = _array(values, name, where)
    if cells.dtype.kind in "fiub":
        found = np.asarray(cells, np.float64)
    else:
        cells = cells.astype(object)
        try:
            # Most columns miss nothing.
            found = np.array([float(cell) for cell in cells], np.float64)
        except (TypeError, ValueError, OverflowError):
            rows = enumerate(cells, first)
            found = np.array([_number(cell, row, name, where) for row, cell in rows], np.float64)
    if np.isinf(found).any():
        row = first + int(np.argmax(np.isinf(found)))
        raise InputError(f"{name} is infinite in row {row}", where=where, hint="fix that row")
    return found


def _number(cell: Any, row: int, name: str, where: str) -> float:
    if _is_missing(cell):
        return np.nan
    word = cell.strip().lower() if isinstance(cell, str) else cell
    if word in MISSING:
        return np.nan
    try:
        return float({"true": 1, "false": 0}.get(word, word))
    except (TypeError, ValueError, OverflowError):
        hint = f"write a number; a category of the observation needs `categorical={name}`"
        if isinstance(word, str) and re.fullmatch(r"[-+]?[\d.]*,\d+", word):
            hint = "write numbers with a decimal point"
        elif not isinstance(word, str):
            hint = "give one number in each row"
        shown = repr(cell)[:40]
        raise InputError(f"{name} is {shown} in row {row}", where=where, hint=hint) from None


def labels(values: Any, name: str, where: str, first: int = 0) -> Shaped[np.ndarray, " rows"]:
    """Cells as texts, None where there is none. A number is the same label as its text: 1, 1.0."""
    cells = _array(values, name, where)
    return _objects([_label(cell) for cell in cells.astype(object)])


def _label(cell: Any) -> str | None:
    if _is_missing(cell):
        return None
    text = re.sub(r"^([-+]?\d+)\.0*$", r"\1", str(cell).strip())
    return text or None


def times(values: Any, name: str, where: str, first: int = 0) -> Shaped[np.ndarray, " rows"]:
    """Cells as numbers, or ISO 8601 dates as datetime64 in UTC.

    Raises:
        InputError: a cell is neither, or missing: its row has no place then.
    """
    cells = _array(values, name, where)
    missing = np.isnat(cells) if cells.dtype.kind == "M" else None
    if cells.dtype.kind == "f":
        missing = np.isnan(cells)
    if cells.dtype.kind not in "fiuM":
        cells = cells.astype(object)
        empty = [_is_missing(cell) or str(cell).strip().lower() in MISSING for cell in cells]
        missing = np.array(empty, bool)
    if missing is not None and missing.any():
        row = first + int(np.argmax(missing))
        more = f" and {missing.sum() - 1} more" * bool(missing.sum() > 1)
        hint = "fill or drop the row: without a time it has no place"
        raise InputError(f"{name} is empty in row {row}{more}", where=where, hint=hint)
    if cells.dtype.kind in "fiu":
        return cells
    if cells.dtype.kind == "M":
        return cells.astype("datetime64[us]")
    for kind in (int, float):
        try:
            return np.array([kind(cell) for cell in cells], np.dtype(kind))
        except (TypeError, ValueError, OverflowError):
            pass
    moments, zones = [], set()
    for row, cell in enumerate(cells, first):
        try:
            moment = (
                cell
                if isinstance(cell, datetime.datetime)
                else datetime.datetime.fromisoformat(str(cell).strip())
            )
        except ValueError:
            hint = "write numbers, or dates as 2024-03-01T12:00:00"
            shown = repr(cell)[:40]
            raise InputError(f"{name} is {shown} in row {row}", where=where, hint=hint) from None
        zones.add(moment.tzinfo is not None)
        if len(zones) > 1:
            hint = "give all of them, or none"
            what = f"{name} has a time zone in some rows only, such as not in row {row}"
            if moment.tzinfo is not None:
                what = f"{name} has a time zone in some rows only, such as in row {row}"
            raise InputError(what, where=where, hint=hint)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        moments.append((moment - _EPOCH) // datetime.timedelta(microseconds=1))
    return np.array(moments, np.int64).astype("datetime64[us]")

"""People's own tables: the columns of a file or a data frame, read when they are asked for."""

import csv
import glob
import gzip
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from xql.data.cells import NO_MARKERS, Kind, Markers, objects, parsed
from xql.data.reading import once, require_file, require_room
from xql.data.tables import broken, from_lines, require_once
from xql.errors import InputError, MissingExtra, nearest, require

TABLE = "table"
"""What messages call a table that comes from no file."""
TABLES = (".csv", ".csv.gz", ".parquet", ".jsonl", ".ndjson")
_LONGEST_HEADER = 1 << 20  # letters


class Table(NamedTuple):
    """A table whose columns are not read yet."""

    where: str
    """The file's path, for messages."""
    names: tuple[str, ...]
    """Of all columns, in the table's order."""
    read: Callable[[Mapping[str, Kind], dict[str, str]], dict[str, np.ndarray]]
    """Reads some columns, each as a kind, with the forms of times that `parsed` takes."""


def open_tables(source: Any, markers: Markers = NO_MARKERS) -> list[Table]:
    """The tables of a source: files, a pattern such as "logs/*.csv", frames, or a list of these.

    The files that a pattern matches come in the order of their names.

    Args:
        source: see above.
        markers: what stands for a missing value.

    Raises:
        InputError: there is none, or it cannot be read.
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    if isinstance(source, list | tuple):
        found = [table for one in source for table in open_tables(one, markers)]
        if not found:
            raise InputError("there is no table", hint="give at least one file or data frame")
        return found
    if isinstance(source, str | os.PathLike):
        return [_open_file(path, markers) for path in _matching(os.fspath(source))]
    if isinstance(source, Mapping):
        return [_open_frame(source, list(source), markers)]
    if hasattr(source, "collect"):  # polars, before a query has run
        hint = "call its collect() first"
        raise InputError(f"a {type(source).__name__} has no values yet", hint=hint)
    # pandas and polars have `columns`, pyarrow `column_names`; none of them need be installed.
    names = getattr(source, "column_names", getattr(source, "columns", None))
    if names is None:
        hint = "give files, a data frame, or a mapping of columns"
        raise InputError(f"a {type(source).__name__} is no table", hint=hint)
    return [_open_frame(source, list(names), markers)]


def _matching(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if not glob.has_magic(text) or path.exists():
        return [path]
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    if not found:
        raise InputError("no file matches", where=text, hint="check the path")
    return [Path(one) for one in found]


def _open_file(path: Path, markers: Markers) -> Table:
    siblings = [file.name for file in path.parent.glob("*") if file.name.endswith(TABLES)]
    require_file(path, nearest(path.name, siblings) if siblings else "check the path")
    if not path.name.lower().endswith(TABLES):
        hint = f"a table's name must end in one of {', '.join(TABLES)}"
        raise InputError(f"cannot tell what '{path.suffix}' is", where=str(path), hint=hint)
    opener = {".csv": _open_csv, ".gz": _open_csv, ".parquet": _open_parquet}
    try:
        table = opener.get(path.suffix.lower(), _open_json)(path, markers)
    except InputError:
        raise
    except Exception as error:  # a damaged file raises whatever the part that trips over it does
        raise _unread(path, error) from None

    def read(kinds: Mapping[str, Kind], forms: dict[str, str]) -> dict[str, np.ndarray]:
        try:
            return table.read(kinds, forms)
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


def _open_text(path: Path) -> io.TextIOWrapper:
    opened = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # noqa: SIM115
    return io.TextIOWrapper(cast("IO[bytes]", opened), newline="", encoding="utf-8-sig")


def _open_csv(path: Path, markers: Markers) -> Table:
    with _open_text(path) as file:
        first = file.readline(_LONGEST_HEADER)
        headers = {
            between: next(csv.reader([first], delimiter=between, skipinitialspace=True), [])
            for between in ",;\t|"
        }
        # A name may hold a comma where semicolons separate.
        between = max(headers, key=lambda one: len(headers[one]))
        file.seek(0)
        header = next(_csv_rows(file, between), [])

    def read(kinds: Mapping[str, Kind], forms: dict[str, str]) -> dict[str, np.ndarray]:
        def parse(cells: Sequence[str], name: str, first: int, where: str) -> np.ndarray:
            column = np.asarray(cells, object)
            return parsed(kinds[name], column, name, where, forms, first, markers)

        with _open_text(path) as file:
            return from_lines(_csv_rows(file, between), list(kinds), str(path), parse, exact=True)

    return Table(str(path), tuple(header), read)


def _csv_rows(file: io.TextIOWrapper, between: str) -> Iterator[list[str]]:
    """The header, its names without the spaces around them, and then the rows."""
    rows = csv.reader(file, delimiter=between, skipinitialspace=True)
    for header in itertools.islice(rows, 1):
        yield [name.strip() for name in header]
    yield from rows


def _open_parquet(path: Path, markers: Markers) -> Table:
    parquet = require("pyarrow.parquet", "parquet")
    names = parquet.read_schema(path).names

    def read(kinds: Mapping[str, Kind], forms: dict[str, str]) -> dict[str, np.ndarray]:
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
            found[name] = parsed(kind, cells, name, str(path), forms, markers=markers)
        return found

    return Table(str(path), tuple(names), read)


def _open_json(path: Path, markers: Markers) -> Table:
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

    def read(kinds: Mapping[str, Kind], forms: dict[str, str]) -> dict[str, np.ndarray]:
        found = {}
        for name, kind in kinds.items():
            cells = objects([row.get(name) for row in rows])
            found[name] = parsed(kind, cells, name, str(path), forms, markers=markers)
        return found

    return Table(str(path), tuple(names), read)


def _open_frame(frame: Any, names: list[Any], markers: Markers) -> Table:
    own = {str(name): name for name in names}

    def read(kinds: Mapping[str, Kind], forms: dict[str, str]) -> dict[str, np.ndarray]:
        require_once([str(name) for name in names], kinds, TABLE)
        return {
            name: parsed(kind, frame[own[name]], name, TABLE, forms, markers=markers)
            for name, kind in kinds.items()
        }

    return Table(TABLE, tuple(map(str, names)), read)

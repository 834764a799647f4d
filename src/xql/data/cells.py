"""The cells of people's own tables as numbers, labels or times.

Unlike a dataset's own schema, a table may miss values: NaN among numbers, None among labels.
"""

import datetime
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from xql.errors import InputError

Kind = Literal["number", "label", "decision", "time"]
"""What a column is read as. A decision is a number, or a label where no cell is a number."""
MISSING = ("", "na", "n/a", "nan", "null", "none")
"""Texts that stand for no number, in small letters."""
MARKS = ("?", "-", "--", ".", "#n/a", "#na", "missing", "unknown", "undefined", "nil", "n.a.")
"""Texts that often stand for a missing value and may be meant, in small letters."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Markers(NamedTuple):
    """What stands for a missing value in a table, beside empty cells and the texts of `MISSING`.

    In columns of numbers a marker is compared as a number where it is one; texts are compared
    without regard to capitals.
    """

    given: tuple[str, ...] = ()
    """Such as "-999" for all columns, or "flow=-1" for one."""

    def of(self, name: str) -> frozenset[str]:
        """Those of a column, as `marker` writes them."""
        own = f"{name}="
        return frozenset(
            marker(one.removeprefix(own))
            for one in self.given
            if one.startswith(own) or "=" not in one
        )


NO_MARKERS = Markers()


def marker(value: Any) -> str:
    """A cell as markers are compared: -999.0 is -999, and NA is na."""
    text = str(value).strip().lower()
    try:
        return repr(float(text))
    except ValueError:
        return text


def parsed(
    kind: Kind,
    values: Any,
    name: str,
    where: str,
    forms: dict[str, str],
    first: int = 0,
    markers: Markers = NO_MARKERS,
) -> np.ndarray:
    """A column as what it is to be.

    Args:
        kind: which.
        values: its cells.
        name: the column's, for messages.
        where: the table, for messages.
        forms: of the columns of times that were read before, which all parts of a column must have.
        first: the row of the first cell.
        markers: what stands for a missing value.

    Raises:
        InputError: a cell is nothing of the kind; named by its row.
    """
    if kind == "time":
        return times(values, name, where, forms, first, markers.of(name))
    readers: dict[Kind, Callable[..., np.ndarray]] = {
        "number": numbers,
        "label": labels,
        "decision": decisions,
    }
    return readers[kind](values, name, where, first, markers.of(name))


def objects(values: Sequence[Any]) -> np.ndarray:
    """An array with one object in each row, whatever the objects are."""
    cells = np.empty(len(values), object)
    for index, value in enumerate(values):  # numpy would make two axes of lists of one length
        cells[index] = plain(value)
    return cells


def plain(value: Any) -> Any:
    """A cell: None where it is masked, and of numpy's dates and durations Python's own."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return value.astype(_seen_by_python(value.dtype)).item()
    return None if value is np.ma.masked else value


def _seen_by_python(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of dates or durations, or one of which numpy makes no whole numbers as objects."""
    if dtype.kind == "m" or np.datetime_data(dtype)[0] in ("ns", "ps", "fs", "as"):
        return np.dtype(f"{dtype.kind}8[us]")
    return dtype


def _array(values: Any, name: str, where: str) -> np.ndarray:
    cells = np.asarray(values if not isinstance(values, list | tuple) else objects(values))
    if cells.ndim != 1:
        hint = "give one value in each row"
        raise InputError(f"{name} has {cells.ndim} axes", where=where, hint=hint)
    if cells.dtype.kind in "mM":
        cells = cells.astype(_seen_by_python(cells.dtype))
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        # Under a mask lies any number; the dtypes named here have one for nothing.
        cells = cells.astype(cells.dtype if cells.dtype.kind in "fM" else object)
        cells[np.ma.getmaskarray(values)] = None
    return cells


def is_missing(value: Any) -> bool:
    """Whether a cell holds no value. An empty text is one, and says nothing only as a label."""
    # pandas has a NA and a NaT, which compare with nothing.
    return (
        value is None
        or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
        or (isinstance(value, np.datetime64 | np.timedelta64) and bool(np.isnat(value)))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def numbers(
    values: Any, name: str, where: str, first: int = 0, markers: frozenset[str] = frozenset()
) -> Float64[np.ndarray, " rows"]:
    """Cells as float64, NaN where there is none; true and false are 1 and 0."""
    cells = _array(values, name, where)
    if cells.dtype.kind in "fiub":
        found = np.array(cells, np.float64)
    else:
        cells = cells.astype(object)
        try:
            # Most columns miss nothing.
            found = np.array([float(cell) for cell in cells], np.float64)
        except (TypeError, ValueError, OverflowError):
            rows = enumerate(cells, first)
            read = [_number(cell, row, name, where, markers) for row, cell in rows]
            found = np.array(read, np.float64)
    if markers:
        # A column of float32 holds what float32 makes of a marker.
        single = cells.dtype == np.float32
        known = [float(one) for one in markers if _is_number(one)]
        found[np.isin(found, np.asarray(known, np.float32 if single else np.float64))] = np.nan
    if np.isinf(found).any():
        row = first + int(np.argmax(np.isinf(found)))
        raise InputError(f"{name} is infinite in row {row}", where=where, hint="fix that row")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(cell: Any, row: int, name: str, where: str, markers: frozenset[str]) -> float:
    if is_missing(cell):
        return np.nan
    word = cell.strip().lower() if isinstance(cell, str) else cell
    if isinstance(word, str) and (word in MISSING or marker(word) in markers):
        return np.nan
    try:
        return float({"true": 1, "false": 0}.get(word, word) if isinstance(word, str) else word)
    except (TypeError, ValueError, OverflowError):
        hint = f"write a number; a column of categories needs `categorical={name}`"
        if not isinstance(word, str):
            hint = "give one number in each row"
        elif word in MARKS:
            hint = f"if it stands for a missing value, choose `missing_values={cell.strip()}`"
        elif re.fullmatch(r"[-+]?[\d.,'\s]*\d", word):
            hint = "write numbers with a decimal point and without separators of thousands"
        shown = repr(cell)[:40]
        raise InputError(f"{name} is {shown} in row {row}", where=where, hint=hint) from None


def labels(
    values: Any, name: str, where: str, first: int = 0, markers: frozenset[str] = frozenset()
) -> Shaped[np.ndarray, " rows"]:
    """Cells as texts, None where there is none.

    A number is the same label as its text, 1 and 1.0, and so is a truth value: true and True.
    """
    cells = _array(values, name, where)
    found = [_label(cell) for cell in cells.astype(object)]
    if markers:
        found = [None if text is None or marker(text) in markers else text for text in found]
    return objects(found)


def _label(cell: Any) -> str | None:
    if is_missing(cell):
        return None
    cell = cell.decode(errors="replace") if isinstance(cell, bytes) else cell  # as HDF5 has them
    text = re.sub(r"^([-+]?\d+)\.0*$", r"\1", str(cell).strip())
    if text.lower() in ("true", "false"):
        return text.lower()
    return text or None


def decisions(
    values: Any, name: str, where: str, first: int = 0, markers: frozenset[str] = frozenset()
) -> Shaped[np.ndarray, " rows"]:
    """Cells as `numbers`, or as `labels` where they are texts and none of them is a number."""
    cells = _array(values, name, where)
    try:
        return numbers(cells, name, where, first, markers)
    except InputError:
        found = labels(cells, name, where, first, markers)
        if all(isinstance(cell, str) or is_missing(cell) for cell in cells) and not any(
            _is_number(text) for text in found if text is not None
        ):
            return found
        raise


def _whole(cell: Any) -> int:
    """Of a text or a whole number; `int` would cut a fraction off."""
    return int(cell) if isinstance(cell, str) else operator.index(cell)


def times(
    values: Any,
    name: str,
    where: str,
    forms: dict[str, str],
    first: int = 0,
    markers: frozenset[str] = frozenset(),
) -> Shaped[np.ndarray, " rows"]:
    """Cells as numbers, or ISO 8601 dates as datetime64 in UTC.

    Raises:
        InputError: a cell is neither, of another form than those before, or missing: its row has no
            place then.
    """
    cells = _array(values, name, where)
    missing = np.isnat(cells) if cells.dtype.kind == "M" else None
    if cells.dtype.kind == "f":
        missing = np.isnan(cells)
    if cells.dtype.kind not in "fiuM":
        cells = cells.astype(object)
        empty = [is_missing(cell) or str(cell).strip().lower() in MISSING for cell in cells]
        missing = np.array(empty, bool)
    if markers:
        marked = np.array([marker(cell) in markers for cell in cells], bool)
        missing = marked if missing is None else missing | marked
    if missing is not None and missing.any():
        row = first + int(np.argmax(missing))
        more = f" and {missing.sum() - 1} more" * bool(missing.sum() > 1)
        hint = "fill or drop the row: without a time it has no place"
        raise InputError(f"{name} is empty in row {row}{more}", where=where, hint=hint)
    if cells.dtype.kind == "M":  # whose zone, if there was one, is not kept
        return cells.astype("datetime64[us]")
    found = cells if cells.dtype.kind in "fiu" else _read_numbers(cells)
    if found is not None:
        if len(found):
            _require_form("a number", name, first, where, forms)
        return found
    moments = []
    for row, cell in enumerate(cells, first):
        try:
            moment = (
                cell
                if isinstance(cell, datetime.datetime)
                else datetime.datetime.fromisoformat(str(cell).strip())
            )
        except ValueError:
            hint = "write numbers, or dates as 2024-03-01T12:00:00"
            if re.fullmatch(r"[-+]?\d+,\d+", str(cell).strip()):
                hint = "write numbers with a decimal point"
            shown = repr(cell)[:40]
            raise InputError(f"{name} is {shown} in row {row}", where=where, hint=hint) from None
        form = "a date" if moment.tzinfo is None else "a date with a time zone"
        _require_form(form, name, row, where, forms)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        moments.append((moment - _EPOCH) // datetime.timedelta(microseconds=1))
    return np.array(moments, np.int64).astype("datetime64[us]")


def _read_numbers(cells: np.ndarray) -> np.ndarray | None:
    for kind, read in ((int, _whole), (float, float)):
        try:
            return np.array([read(cell) for cell in cells], np.dtype(kind))
        except (TypeError, ValueError, OverflowError):
            pass
    return None


def _require_form(form: str, name: str, row: int, where: str, forms: dict[str, str]) -> None:
    """Refuse a time of another form than the first one of its column."""
    before = forms.setdefault(name, form)
    if before == form:
        return
    what, hint = f"{name} is {form} in row {row} and {before} before", "write all of them alike"
    if "a number" not in (form, before):
        lacks = "not " * (form == "a date")
        what = f"{name} has a time zone in some rows only, such as {lacks}in row {row}"
        hint = "give all of them, or none"
    raise InputError(what, where=where, hint=hint)

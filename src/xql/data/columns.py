"""The named columns of a table that a dataset was made of, and the numbers that they became.

Kept in the dataset's metadata and in a run's configuration, so that a policy takes a row of the
same table and answers with named actions.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Shaped

from xql.data.cells import Markers, labels, numbers, plain
from xql.data.reading import is_number
from xql.errors import InputError, brief, nearest

POLICY = "policy"
"""What messages call a row that a policy is to act on."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    categories: tuple[str, ...] = ()
    """Of a column with one place for each of its categories, in this order; empty for a number."""
    offset: float = 0.0
    """Subtracted in float64 before the number becomes float32."""

    @property
    def size(self) -> int:
        """How many numbers it becomes."""
        return len(self.categories) or 1

    def encode(self, values: Shaped[np.ndarray, " rows"], where: str) -> Float32[np.ndarray, "..."]:
        """Numbers (float64) or labels (texts) without a missing one, as rows of `size` numbers.

        Raises:
            InputError: a label is none of the categories.
        """
        if not self.categories:
            with np.errstate(over="ignore"):  # an infinity is named by its row later
                return np.asarray(values - self.offset, np.float32)[:, None]
        places = {label: place for place, label in enumerate(self.categories)}
        codes = np.array([places.get(label, -1) for label in values], np.int64)
        if (codes < 0).any():
            unseen = str(values[int(np.argmax(codes < 0))])
            raise InputError(
                f"{self.name} is {brief(unseen)}, which the table never had",
                where=where,
                hint=nearest(unseen, self.categories),
            )
        return np.eye(self.size, dtype=np.float32)[codes]


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table are what."""

    observation: tuple[Column, ...]
    action: tuple[Column, ...]
    reward: str
    episode: str | None = None
    time: str | None = None
    terminated: str | None = None
    truncated: str | None = None
    missing: str = "error"
    """What was done about missing values; see `xql.data.convert.open_table`."""
    missing_values: tuple[str, ...] = ()
    """What stands for one, likewise."""
    reward_at: str = "same"
    """Whose action a row's reward is of, likewise."""
    files: tuple[str, ...] = ()
    """The names of the files, without their folders."""

    @property
    def observation_size(self) -> int:
        """The length of one flat observation."""
        return sum(column.size for column in self.observation)

    @property
    def action_size(self) -> int:
        """The length of one flat action; of a category, how many there are."""
        return sum(column.size for column in self.action)

    def names(self, part: Literal["observation", "action"]) -> list[str]:
        """Of each number of a flat observation or action, such as "t_in" and "grade=A"."""
        columns: tuple[Column, ...] = getattr(self, part)
        return [
            f"{column.name}={category}" if category else column.name
            for column in columns
            for category in column.categories or ("",)
        ]

    def encode(self, row: Any) -> Float32[np.ndarray, "*batch observation"]:
        """The observation of a row, or those of many rows.

        Args:
            row: whatever gives a value, or a column of values, for a name: a dictionary, a row of a
                data frame, a data frame. Other columns are ignored.

        Raises:
            InputError: a column is not there, a value is missing or no number, or a category was
                not in the table.
        """
        parts, one, markers = [], False, Markers(self.missing_values)
        for column in self.observation:
            given = _given(row, column.name)
            one = not isinstance(given, list | tuple) and np.ndim(given) == 0
            read: Callable[..., np.ndarray] = labels if column.categories else numbers
            cells = np.asarray([plain(given)], object) if one else given
            values = read(cells, column.name, POLICY, 0, markers.of(column.name))
            lacking = values == None if column.categories else np.isnan(values)  # noqa: E711
            if np.any(lacking):
                hint = "fill it as the table was filled, such as with its last value"
                raise InputError(f"{column.name} is missing", where=POLICY, hint=hint)
            parts.append(column.encode(values, POLICY))
        if len({len(part) for part in parts}) > 1:
            hint = "give one row, or columns of one length"
            raise InputError("the columns have different lengths", where=POLICY, hint=hint)
        rows = np.concatenate(parts, axis=1)
        return rows[0] if one else rows

    def decode(self, actions: Shaped[np.ndarray, "..."] | np.integer[Any]) -> dict[str, Any]:
        """Actions by the names of their columns: numbers and texts, or arrays for a batch.

        Args:
            actions: as a policy gives them: float [..., action], or the numbers of categories,
                whole [...].
        """
        named: dict[str, Any] = {}
        if self.action[0].categories:
            return {self.action[0].name: np.array(self.action[0].categories, object)[actions]}
        actions = np.asarray(actions)
        for place, column in enumerate(self.action):
            values = np.asarray(actions[..., place], np.float64) + column.offset
            named[column.name] = float(values) if np.ndim(values) == 0 else values
        return named

    def require_same(self, other: "TableColumns", where: str) -> None:
        """Check that another table's numbers mean the same.

        Args:
            other: the other table's columns.
            where: the other table, for the message.

        Raises:
            InputError: names, categories or offsets differ.
        """
        for part in ("observation", "action"):
            ours, theirs = getattr(self, part), getattr(other, part)
            if ours != theirs:
                pairs = zip(ours, theirs, strict=False)
                name = next((one.name for one, its in pairs if one != its), "the last column")
                what = f"its {part} is not as in the data that the run learned from: {name} differs"
                hint = "convert it with `like=` and that data"
                raise InputError(what, where=where, hint=hint)

    def to_dict(self) -> dict[str, Any]:
        """The same in plain values, for YAML or JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str) -> "TableColumns":
        """The inverse of `to_dict`, for a text that a file holds.

        Raises:
            InputError: it is not what `to_dict` gives.
        """
        known = _fields(cls, values, where)
        for name in ("observation", "action"):
            known[name] = tuple(_column(one, where) for one in _list(known.get(name), name, where))
            if not known[name]:
                raise _damaged(f"it names no {name}", where)
        lists = ("files", "missing_values")
        for name in lists:
            known[name] = tuple(_list(known.get(name, ()), name, where))
        for name, value in known.items():
            texts = value if name in lists else (value,)
            optional = name in ("episode", "time", "terminated", "truncated")
            if name not in ("observation", "action") and not all(
                isinstance(text, str) or (optional and text is None) for text in texts
            ):
                raise _damaged(f"{name} is {brief(value)}", where)
        if "reward" not in known:
            raise _damaged("it names no reward", where)
        return cls(**known)


def _given(row: Any, name: str) -> Any:
    try:
        return row[name]
    except (KeyError, IndexError, TypeError, ValueError):
        pass
    except Exception as error:  # polars has an error of its own
        if "NotFound" not in type(error).__name__:
            raise
    names: Any = getattr(row, "columns", getattr(row, "index", row))
    there = [str(one) for one in names] if isinstance(row, Mapping) or names is not row else []
    hint = nearest(name, there) if there else "give a dictionary, or a row of a data frame"
    raise InputError(f"there is no '{name}'", where=POLICY, hint=hint)


def _damaged(what: str, where: str) -> InputError:
    hint = "convert the table again, or restore the file"
    what = f"the description of the table's columns is damaged: {what}"
    return InputError(what, where=where, hint=hint)


def _fields(kind: Any, values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise _damaged(f"it is {brief(values)}", where)
    names = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in names:
            raise _damaged(f"{brief(name)} is unknown", where)
    return dict(values)


def _list(value: Any, name: str, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _damaged(f"{name} is {brief(value)}", where)
    return value


def _column(values: Any, where: str) -> Column:
    known = _fields(Column, values, where)
    categories = _list(known.get("categories", ()), "categories", where)
    offset = known.get("offset", 0.0)
    if not isinstance(known.get("name"), str) or not all(isinstance(c, str) for c in categories):
        raise _damaged("a name or a category is no text", where)
    if len(set(categories)) < len(categories) or not is_number(offset) or not math.isfinite(offset):
        raise _damaged(f"the categories or the offset of {brief(known['name'])}", where)
    return Column(known["name"], tuple(categories), float(offset))

"""The one schema of columns, one row per step, and what makes its values fit to learn from.

`docs/data.md` has it in full. A dictionary observation is stored under paths such as
"observations/goal/x".
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from xql.data.actions import Discrete, whole_numbers
from xql.data.dataset import Dataset, require_labels, same_length
from xql.data.flatten import flat_layout, flat_rows, is_image, leaves, select_keys
from xql.data.moves import follows
from xql.data.reading import DEEPEST, require_room
from xql.data.stored import Readable, Stored, blocks, flat
from xql.data.tables import DESCRIPTION
from xql.errors import InputError, nearest

REQUIRED = ("observations", "actions", "rewards", "terminated", "truncated")
OPTIONAL = ("next_observations", "episode")
ARRAYS = "arrays"
"""What messages call columns that come from no file."""


def dataset_from(
    columns: Mapping[str, Readable],
    where: str,
    keys: tuple[str, ...] | None = None,
    *,
    finite: bool = True,
    discrete_actions: int | None = None,
    **describe: Any,
) -> Dataset:
    """A `Dataset` from columns in the schema of `docs/data.md`, checked.

    Actions that are whole numbers are discrete: `discrete_actions` of them, where that is known.
    """
    if "terminals" in columns and "timeouts" in columns:
        hint = f"this is D4RL's layout: open it as d4rl:{where}"
        raise InputError("there is no 'terminated' and no 'truncated'", where=where, hint=hint)
    if "obs" in columns and "next_obs" in columns and "observations" not in columns:
        hint = f"if this is NeoRL-2's layout, open it as neorl2:{where}"
        raise InputError("there is no 'observations'", where=where, hint=hint)
    require_columns(columns, REQUIRED, where)
    choices = _choices(columns, where, discrete_actions)
    if choices is not None:
        size = 4 * len(columns["actions"]) * choices.size
        require_room({"actions": (size, size)}, where)
        columns = {**columns, "actions": _one_hot(choices, np.asarray(columns["actions"]))}
    steps = steps_from(
        columns, flags=("terminated", "truncated"), where=where, keys=keys, finite=finite
    )
    return Dataset.from_arrays(
        steps["observations"],
        steps["actions"],
        steps["rewards"],
        steps["terminated"],
        steps["truncated"],
        steps.get("next_observations"),
        _labels(columns["episode"], where, len(steps["rewards"])) if "episode" in columns else None,
        goes_on=steps.get("goes_on"),
        metadata=observation_metadata(nested(columns, "observations", where), keys),
        discrete=choices is not None,
        **describe,
    )


def _choices(columns: Mapping[str, Readable], where: str, count: int | None) -> Discrete | None:
    """The actions, where the column numbers them; None where they are quantities."""
    actions = columns.get("actions")
    if actions is not None and actions.dtype.kind in "iub" and actions.ndim:
        return whole_numbers(np.asarray(actions), where, count)
    if count is not None:
        hint = "store discrete actions as whole numbers, one in each row"
        raise InputError("its discrete actions are no whole numbers", where=where, hint=hint)
    return None


def _one_hot(choices: Discrete, numbers: np.ndarray) -> Stored:
    def read(first: int, last: int) -> np.ndarray:
        return choices.flatten(numbers[first:last])

    return Stored((len(numbers), choices.size), np.float32, read)


def _labels(values: Readable, where: str, steps: int) -> np.ndarray:
    """The `episode` column: one label per step, of any kind that can be compared."""
    if values.ndim != 1 and values.shape != (len(values) if values.ndim else 0, 1):
        hint = "give one label per step"
        raise InputError(f"episode has shape {_shape(values)}", where=where, hint=hint)
    if len(values) != steps:
        hint = "give one label per step"
        raise InputError(
            f"episode has {len(values)} rows, rewards has {steps}", where=where, hint=hint
        )
    if values.dtype.kind == "f":
        # A NaN differs from itself, so each one would silently start an episode.
        check_finite(values, "episode", where)
    labels = np.asarray(values).ravel()
    require_labels(labels, where)
    return labels


def unit_bounds(actions: Readable) -> dict[str, Any]:
    """The bounds [-1, 1] that benchmark files do not state, where no action lies outside."""
    if not all((np.abs(actions[rows]) <= 1.0).all() for rows in blocks(actions)):
        return {}
    bound = np.ones(actions.shape[1], np.float32)
    return {"action_low": -bound, "action_high": bound}


def _shape(values: Readable) -> str:
    return "x".join(str(size) for size in values.shape) or "of a single value"


_RIGHT = "is it the right file?"
_OTHER_NAMES = (
    "a table with other names goes through xql data convert, or xql.open_table in Python, with "
    "`observation`, `action` and `reward`"
)


def require_columns(columns: Mapping[str, Readable], names: Iterable[str], where: str) -> None:
    """Raise `InputError`, naming the nearest column that the file does have."""
    there = sorted({name.split("/")[0] for name in columns if name != DESCRIPTION})
    for name in names:
        if name not in there:
            close = nearest(name, there)
            table = where.endswith((".csv", ".parquet"))
            other = _OTHER_NAMES if table else _RIGHT
            hint = close if close.startswith("did") else other
            listing = f"the file has {', '.join(there) or 'no column at all'}"
            raise InputError(f"there is no '{name}' ({listing})", where=where, hint=hint)


def nested(columns: Mapping[str, Readable], name: str, where: str) -> Any:
    """The column `name`, or the nested dictionary of all columns under "name/".

    Raises:
        InputError: a name is both an array's and a dictionary's.
    """
    if name in columns:
        return columns[name]
    tree: dict[str, Any] = {}
    for path, values in columns.items():
        head, *parts = path.split("/")
        if head == name:
            if len(parts) > DEEPEST:
                hint = "store it in a flatter dictionary"
                raise InputError(f"'{name}' is nested too deeply", where=where, hint=hint)
            node = tree
            for part in parts[:-1]:
                node = node.setdefault(part, {})
                if not isinstance(node, dict):
                    break
            if not isinstance(node, dict) or parts[-1] in node:
                hint = "name each array once, and no array like a dictionary"
                raise InputError(f"'{path}' is there twice", where=where, hint=hint)
            node[parts[-1]] = values
    return tree or None


def observation_metadata(tree: Any, keys: tuple[str, ...] | None) -> dict[str, Any]:
    """What `Dataset.metadata` says of a dictionary observation: its layout, and the keys kept."""
    if not isinstance(tree, Mapping):
        return {}
    layout = [[path, size] for path, size in flat_layout(_first_row(select_keys(tree, keys)))]
    kept = {} if keys is None else {"observation_keys": sorted(keys)}
    return {"observation_layout": layout, **kept}


def _first_row(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _first_row(value) for key, value in tree.items()}
    return tree[0]


# A float64 too large for float32 becomes an infinity, which the check then names by its row.
@np.errstate(over="ignore")
def steps_from(
    columns: Mapping[str, Readable],
    *,
    flags: Iterable[str],
    where: str,
    keys: tuple[str, ...] | None = None,
    finite: bool = True,
) -> dict[str, Any]:
    """The columns as they should be: flat float32 vectors, rewards, boolean flags; all checked.

    Vectors are `Readable`, and so are read again where they are used; the others are arrays.

    Where there are `next_observations`, `goes_on` says after which rows the next one follows.
    Without `finite`, a NaN passes in all but the flags (for `xql data check`, which names all).

    Raises:
        InputError: wrong kind or shape of values, discrete actions, or a NaN, named by its row.
    """
    steps: dict[str, Any] = {}
    trees = {}
    for name in ("observations", "next_observations"):
        tree = nested(columns, name, where)
        if tree is not None:
            tree = select_keys(tree, keys, where=where)
            check_numbers(tree, name, where)
            _check_one_length(tree, name, where)
            trees[name], steps[name] = tree, flat_rows(tree)
    same_length({name: steps[name] for name in trees}, where)
    following = steps.get("next_observations")
    if following is not None:
        width = steps["observations"].shape[1]
        if following.shape[1] != width:
            what = f"next_observations has {following.shape[1]} numbers a row"
            hint = "both must be the same kind of observation"
            raise InputError(f"{what} and observations {width}", where=where, hint=hint)
    for name in ("actions", "rewards", *flags):
        if name not in columns and nested(columns, name, where) is not None:
            hint = "store it as one column: only observations may be a dictionary"
            raise InputError(f"{name} is a group of columns", where=where, hint=hint)
    actions = columns["actions"]
    check_numbers(actions, "actions", where)
    if actions.dtype.kind in "iub":
        what = f"actions are whole numbers ({actions.dtype})"
        hint = "this layout has continuous actions: give floats"
        raise InputError(what, where=where, hint=hint)
    steps["actions"] = flat_rows(actions)
    for name in ("rewards", *flags):
        if name in columns:
            values = columns[name]
            check_numbers(values, name, where)
            if values.ndim != 1 and values.shape != (len(values), 1):
                hint = "give one number per step"
                raise InputError(f"{name} has shape {_shape(values)}", where=where, hint=hint)
            steps[name] = np.asarray(values).ravel().astype(np.float32)
    same_length(steps, where)
    for name in ("observations", "actions"):
        if steps[name].shape[1] == 0:
            raise InputError(f"{name} has no numbers in a row", where=where, hint="give at least 1")
    checks = {name: _Finite(name, where) for name in steps if finite or name in flags}
    if following is not None:

        def seen(rows: slice) -> None:
            # While the block that was read is at hand.
            for name in trees.keys() & checks.keys():
                checks[name].look(steps[name][rows], rows.start)

        steps["goes_on"] = _goes_on(**trees, where=where, seen=seen)
    for name, check in checks.items():
        check.finish(steps[name])
    for name in flags:
        if name in steps:
            steps[name] = steps[name] != 0
    return steps


def _goes_on(
    observations: Any, next_observations: Any, where: str, seen: Callable[[slice], None]
) -> np.ndarray:
    """`follows`, part by part of a dictionary: each in the precision that the source has."""
    before, after = dict(leaves(observations)), dict(leaves(next_observations))
    if before.keys() != after.keys():
        path = min(before.keys() ^ after.keys())
        what = f"'{path}' is in one of observations and next_observations only"
        raise InputError(what, where=where, hint="both must be the same kind of observation")
    goes_on: np.ndarray = np.ones(len(next(iter(before.values()))), bool)
    for path, leaf in before.items():
        observed, stated = flat(leaf), flat(after[path])
        if observed.shape != stated.shape:
            what = f"next_observations/{path} has shape {_shape(after[path])}"
            hint = f"observations/{path} has {_shape(leaf)}"
            raise InputError(what, where=where, hint=hint)
        goes_on &= follows(observed, stated, seen if len(before) == 1 else None)
    return goes_on


def _check_one_length(tree: Any, name: str, where: str) -> None:
    sizes = {f"{name}/{path}": len(leaf) for path, leaf in leaves(tree)}
    (first, size), *others = sizes.items()
    for path, other in others:
        if other != size:
            hint = "every column needs one row per step"
            raise InputError(f"{path} has {other} rows and {first} {size}", where=where, hint=hint)


def check_numbers(tree: Any, name: str, where: str) -> None:
    """Raise `InputError` unless a column, or each of a dictionary of them, has numbers by row."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            check_numbers(value, f"{name}/{key}", where)
        return
    less = ", or leave it out" if "/" in name else ""
    less += " with ?keys=" if less and where != ARRAYS else ""
    if tree.dtype.kind not in "fiub":
        what = f"{name} holds {tree.dtype}, not numbers"
        raise InputError(what, where=where, hint=f"give numbers{less}")
    if tree.ndim == 0:
        raise InputError(f"{name} is a single number", where=where, hint="give one row per step")
    if is_image(tree.shape[1:], tree.dtype):
        what = f"{name} holds images of {_shape(tree[:1])[2:]} {tree.dtype}"
        hint = f"only vectors are supported: store features of them{less}"
        raise InputError(what, where=where, hint=hint)


def check_finite(values: Readable, name: str, where: str, row_name: str = "row") -> None:
    """Raise `InputError` on the first NaN or infinity, naming its row and column, both from 0."""
    _Finite(name, where, row_name).finish(values)


class _Finite:
    """Whether a column is finite, of whose rows some may be looked at before the others."""

    def __init__(self, name: str, where: str, row_name: str = "row") -> None:
        self._name, self._where, self._row_name = name, where, row_name
        self._seen = 0
        self._error: InputError | None = None

    def look(self, values: np.ndarray, first: int) -> None:
        """The rows from the one numbered `first` on; what was not seen before them is next."""
        if first != self._seen or self._error is not None:
            return
        self._seen += len(values)
        # Without a copy: a sum is finite only if every summand is (overflow is checked below).
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum(dtype=np.float64)):
                return
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, *column = bad[0].tolist()
            kind = "NaN" if np.isnan(values[(row, *column)]) else "infinity"
            place = f"{self._row_name} {first + row}"
            place += f", column {column[0]}" if column else ""
            hint = "drop or fix that row (rows and columns count from 0)"
            what = f"{kind} in {self._name}, {place}"
            self._error = InputError(what, where=self._where, hint=hint)

    def finish(self, values: Readable) -> None:
        """Look at the rest of the column.

        Raises:
            InputError: not all is finite.
        """
        for rows in blocks(values):
            if self._error is None and rows.stop > self._seen:
                self.look(values[self._seen : rows.stop], self._seen)
        if self._error is not None:
            raise self._error

"""A `Dataset` from a table with columns of any names, one row per time step.

The observation, the action and the reward of a row belong together: the action is taken in that
observation, and the reward follows that action. The observation after it is the next row's of the
same episode, in the order of time. So an episode's last row starts no transition, unless it
terminates there: what followed is unknown, and the row is the observation after the row before it.

No transition goes over a row that was left out, and none from one episode to another.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from xql.data.cells import Markers
from xql.data.columns import TableColumns
from xql.data.dataset import Dataset
from xql.data.encoding import describe_column, make_dataset
from xql.data.preview import preview
from xql.data.roles import Roles, choose_roles
from xql.data.rows import Rows, read_rows
from xql.data.steps import Steps
from xql.data.table_files import TABLE, Table, open_tables
from xql.errors import InputError, brief, nearest

RewardAt = Literal["same", "next"]
"""Whose action a row's reward is of: its own, or that of the row before in the same episode."""
Missing = Literal["error", "ffill", "drop"]
"""What is done about missing values: refuse them; fill observations and actions from the row before
in the same episode; or leave out what lacks one. A reward is never filled."""


def open_table(
    source: Any,
    *,
    observation: str | Sequence[str],
    action: str | Sequence[str],
    reward: str,
    episode: str | None = None,
    time: str | None = None,
    terminated: str | None = None,
    truncated: str | None = None,
    categorical: str | Sequence[str] = (),
    missing: str = "error",
    missing_values: str | float | int | Sequence[str | float | int] = (),
    reward_at: str = "same",
    name: str | None = None,
) -> Dataset:
    """Open a table with columns of any names, one row per time step.

    What was made of it stands in `metadata`: the columns and whatever a user should know, which
    `xql.check_dataset` repeats, are kept in a file that the dataset is saved to; a preview in a few
    lines, `metadata["_preview"]`, is not.

    Args:
        source: a .csv, .parquet, .jsonl or .ndjson file; a pattern that files match, such as
            ``logs/*.csv``; a data frame; a mapping of columns; or a list of these.
        observation: names of columns, or patterns such as ``sensor_*``. A pattern takes the columns
            in the table's order, and none that is something else.
        action: likewise; or one column of categories, for discrete actions. An action of texts
            needs no `categorical`.
        reward: the column with the reward of the row's action, see `reward_at`.
        episode: the column with the label of the row's episode. Without, each file is one episode.
        time: the column that orders an episode's rows: numbers, or ISO 8601 dates. Without, they
            are in order.
        terminated: the column that is 1 where the process itself ended with the row's action;
            with ``reward_at="next"``, with that of the row before.
        truncated: the column that is 1 where the episode was cut at the row.
        categorical: those of the columns whose values are categories, each of which becomes a
            number that is 1 or 0. What is no action is an observation.
        missing: what is done about missing values, see `Missing`.
        missing_values: what stands for a missing value beside empty cells, such as ``-999`` or
            ``"?"``; in one column only as ``"flow=-1"``.
        reward_at: "same" where a row has the reward of its own action; "next" where that stands in
            the next row, as in a log of what was seen after each action.
        name: what to call the dataset; the file's name where None.

    Raises:
        InputError: a column is not there or holds something else than it should, a value is
            missing, or no transition is left.
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    for option, value, choices in (
        ("missing", missing, get_args(Missing)),
        ("reward_at", reward_at, get_args(RewardAt)),
    ):
        if value not in choices:
            hint = f"choose from {', '.join(choices)}"
            raise InputError(f"`{option}={brief(value)}` is unknown", hint=hint)
    if isinstance(missing_values, str | float | int):
        missing_values = (missing_values,)
    markers = Markers(tuple(map(str, missing_values)))
    tables = open_tables(source, markers)
    roles = choose_roles(
        tables,
        _words(observation),
        _words(action),
        _words(categorical),
        {
            "reward": reward,
            "episode": episode,
            "time": time,
            "terminated": terminated,
            "truncated": truncated,
        },
        reward_at,
    )
    _require_columns(markers, roles, tables[0])
    read, roles = read_rows(tables, roles)
    steps = Steps(read, roles, missing)
    columns = TableColumns(
        observation=tuple(describe_column(steps, one) for one in roles.observation),
        action=tuple(describe_column(steps, one) for one in roles.action),
        reward=reward,
        episode=episode,
        time=time,
        terminated=terminated,
        truncated=truncated,
        missing=missing,
        missing_values=markers.given,
        reward_at=reward_at,
    )
    return _made(tables, read, roles, steps, columns, name)


def open_table_like(source: Any, like: Dataset, *, name: str | None = None) -> Dataset:
    """Open a further table as another was opened: the same columns, categories and offsets.

    So that a number means the same in both, as where a policy that learned from one is evaluated on
    the other.

    Args:
        source: as for `open_table`.
        like: what `open_table` made of the first table, or the file that it was saved to.
        name: as for `open_table`.

    Raises:
        InputError: as for `open_table`; or `like` was made of no table, or lacks a category.
    """
    described = like.metadata.get("columns")
    if described is None:
        hint = "give what was converted from a table"
        raise InputError("it was not made of a table", where=like.name, hint=hint)
    columns = TableColumns.from_dict(described, like.name)
    tables = open_tables(source, Markers(columns.missing_values))
    both = (*columns.observation, *columns.action)
    roles = Roles(
        tuple(one.name for one in columns.observation),
        tuple(one.name for one in columns.action),
        frozenset(one.name for one in both if one.categories),
        columns.reward,
        columns.episode,
        columns.time,
        columns.terminated,
        columns.truncated,
        columns.reward_at,
    )
    read, found = read_rows(tables, roles)
    if found != roles:
        what = f"{roles.action[0]} is a category, and a number in {like.name}"
        raise InputError(what, where=tables[0].where, hint="give the column that it was made of")
    return _made(tables, read, roles, Steps(read, roles, columns.missing), columns, name)


def _made(
    tables: Sequence[Table],
    read: Rows,
    roles: Roles,
    steps: Steps,
    columns: TableColumns,
    name: str | None,
) -> Dataset:
    files = tuple(Path(one.where).name for one in tables if one.where != TABLE)
    columns = dataclasses.replace(columns, files=files)
    if name is None:
        name = Path(tables[0].where).stem
    dataset = make_dataset(steps, columns, name, tables[0].where)
    shown = preview(tables, read, roles, steps, dataset)
    return dataset.with_metadata(metadata={**dataset.metadata, "_preview": shown})


def _require_columns(markers: Markers, roles: Roles, table: Table) -> None:
    """Check that a marker of one column names one."""
    used = roles.kinds()
    for one in markers.given:
        name = one.rpartition("=")[0]
        if name and name not in used:
            what = f"`missing_values={one}` names no column that is used"
            raise InputError(what, where=table.where, hint=nearest(name, used))


def _words(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)

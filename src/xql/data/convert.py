"""A `Dataset` from a table with columns of any names, one row per time step.

The observation, the action and the reward of a row belong together: the action is taken in that
observation, and the reward follows that action. The observation after it is the next row's of the
same episode, in the order of time. So an episode's last row starts no transition, unless it
terminates there: what followed is unknown, and the row is the observation after the row before it.

No transition goes over a row that was left out, and none from one episode to another.
"""

import fnmatch
import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from xql.data.cells import TABLE, Kind, Table, open_tables
from xql.data.check import Finding
from xql.data.columns import Column, TableColumns
from xql.data.dataset import Dataset
from xql.data.schema import ARRAYS
from xql.errors import InputError, brief, nearest

Missing = Literal["error", "ffill", "drop"]
"""What is done about missing values: refuse them; fill observations and actions from the row before
in the same episode; or leave out what lacks one. A reward is never filled."""

_MOST_CATEGORIES = 1000  # one-hot, each is a number in every row
_SHOWN = 3  # of the first rows, in the preview
_LONG = 1.5  # times the usual time step


class _Roles(NamedTuple):
    """The names of the columns that are used, by what they are."""

    observation: tuple[str, ...]
    action: tuple[str, ...]
    categorical: frozenset[str]
    reward: str
    episode: str | None
    time: str | None
    terminated: str | None
    truncated: str | None

    def kinds(self) -> dict[str, Kind]:
        """How each is read."""
        kinds: dict[str, Kind] = {}
        if self.time is not None:
            kinds[self.time] = "time"
        for name in (*self.observation, *self.action):
            kinds[name] = "label" if name in self.categorical else "number"
        for flag in (self.reward, self.terminated, self.truncated):
            if flag is not None:
                kinds[flag] = "number"
        if self.episode is not None:
            kinds[self.episode] = "label"
        return kinds

    def of(self, name: str) -> str:
        """What a column is, in a word."""
        if name in self.observation:
            return "observation" if name != self.time else "observation, time"
        single = ("reward", "episode", "time", "terminated", "truncated")
        return next((role for role in single if getattr(self, role) == name), "action")


class _Rows(NamedTuple):
    """The rows of all tables, and where each stands."""

    values: dict[str, np.ndarray]
    tables: tuple[str, ...]
    table: Int64[np.ndarray, " rows"]
    row: Int64[np.ndarray, " rows"]

    def take(self, order: np.ndarray) -> "_Rows":
        """Some of them, in another order."""
        values = {name: column[order] for name, column in self.values.items()}
        return _Rows(values, self.tables, self.table[order], self.row[order])

    def refusal(self, index: int, what: str, hint: str) -> InputError:
        """An error about a row: `what` goes before its number."""
        where = self.tables[self.table[index]]
        return InputError(f"{what} in row {self.row[index]}", where=where, hint=hint)

    def missing(self, name: str) -> Bool[np.ndarray, " rows"]:
        """Which rows lack a value."""
        column = self.values[name]
        if column.dtype == object:
            return np.array([value is None for value in column], bool)
        if column.dtype.kind == "M":
            return np.asarray(np.isnat(column))
        if column.dtype.kind == "f":
            return np.asarray(np.isnan(column))
        return np.zeros(len(column), bool)


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
        action: likewise.
        reward: the column with the reward of the row's action.
        episode: the column with the label of the row's episode. Without, each file is one episode.
        time: the column that orders an episode's rows: numbers, or ISO 8601 dates. Without, they
            are in order.
        terminated: the column that is 1 where the process itself ended with the row's action.
        truncated: the column that is 1 where the episode was cut at the row.
        categorical: those of the columns whose values are categories, each of which becomes a
            number that is 1 or 0. What is no action is an observation.
        missing: what is done about missing values, see `Missing`.
        name: what to call the dataset; the file's name where None.

    Raises:
        InputError: a column is not there or holds something else than it should, a value is
            missing, or no transition is left.
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    if missing not in get_args(Missing):
        hint = f"choose from {', '.join(get_args(Missing))}"
        raise InputError(f"`missing={brief(missing)}` is unknown", hint=hint)
    tables = open_tables(source)
    roles = _roles(
        tables[0],
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
    )
    read = _read(tables, roles)
    steps = _Steps(read, roles, missing)
    columns = TableColumns(
        observation=tuple(steps.column(one) for one in roles.observation),
        action=tuple(steps.column(one) for one in roles.action),
        reward=reward,
        episode=episode,
        time=time,
        terminated=terminated,
        truncated=truncated,
        missing=missing,
        files=tuple(Path(one.where).name for one in tables if one.where != TABLE),
    )
    if name is None:
        name = Path(tables[0].where).stem
    dataset = steps.dataset(columns, name, tables[0].where)
    preview = _preview(tables, read, roles, steps, dataset)
    return dataset.with_metadata(metadata={**dataset.metadata, "_preview": preview})


def _words(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _roles(
    table: Table,
    observation: tuple[str, ...],
    action: tuple[str, ...],
    categorical: tuple[str, ...],
    single: dict[str, str | None],
) -> _Roles:
    taken: dict[str, str] = {}
    for role, name in single.items():
        if name is None:
            continue
        if name not in table.names:
            _refuse_name(role, name, table)
        if name in taken:
            what = f"`{role}={name}` is the `{taken[name]}` already"
            raise InputError(what, where=table.where, hint="give each its own column")
        taken[name] = role
    actions = _match("action", action, table, taken)
    taken |= dict.fromkeys(actions, "action")
    # The time since a batch began may well be something to act on.
    known = {name: role for name, role in taken.items() if role != "time"}
    observations = _match("observation", observation, table, known, taken)
    categories = _match("categorical", categorical, table, {}, dict.fromkeys(single.values()))
    for name in categories:
        if name in taken and taken[name] != "action":
            what = f"`categorical={name}` is the `{taken[name]}`"
            raise InputError(what, where=table.where, hint="only observations can be categories")
        if name in actions:
            what = f"the action {name} is a category"
            hint = "discrete actions are not supported yet; give actions that are numbers"
            raise InputError(what, where=table.where, hint=hint)
    observations += [name for name in categories if name not in observations]
    for role, names in (("observation", observations), ("action", actions)):
        if not names:
            raise InputError(f"`{role}` names no column", where=table.where, hint="give one")
    return _Roles(tuple(observations), tuple(actions), frozenset(categories), **single)  # type: ignore[arg-type]


def _match(
    role: str,
    patterns: tuple[str, ...],
    table: Table,
    refused: dict[str, str],
    skipped: dict[Any, Any] | None = None,
) -> list[str]:
    """The columns that patterns name, in their order and then the table's."""
    skipped = refused if skipped is None else skipped
    found: list[str] = []
    for pattern in patterns:
        if pattern in table.names:
            if pattern in refused:
                what = f"`{role}={pattern}` is the `{refused[pattern]}` already"
                hint = "the policy sees its observation before it acts"
                raise InputError(what, where=table.where, hint=hint)
            found.append(pattern)
            continue
        matching = [
            name
            for name in table.names
            if fnmatch.fnmatchcase(name, pattern) and name not in skipped
        ]
        if not matching:
            _refuse_name(role, pattern, table)
        found += matching
    return list(dict.fromkeys(found))


def _refuse_name(role: str, name: str, table: Table) -> None:
    if glob.has_magic(name):
        what = f"`{role}={name}` matches no column"
    else:
        what = f"there is no column '{name}' for the `{role}`"
    raise InputError(what, where=table.where, hint=nearest(name, table.names))


def _read(tables: Sequence[Table], roles: _Roles) -> _Rows:
    kinds = roles.kinds()
    parts = []
    for table in tables:
        for name in kinds:
            if name not in table.names:
                _refuse_name(roles.of(name).split(",")[0], name, table)
        parts.append(table.read(kinds))
    values = {}
    for name in filter(kinds.__contains__, tables[0].names):
        columns = [part[name] for part in parts]
        if len({column.dtype.kind == "M" for column in columns}) > 1:
            what = f"{name} is a date in some files and a number in others"
            raise InputError(what, where=tables[0].where, hint="write all of them alike")
        values[name] = np.concatenate(columns)
    lengths = [len(part[roles.reward]) for part in parts]
    if sum(lengths) == 0:
        raise InputError("there is no row", where=tables[0].where, hint="give at least one")
    return _Rows(
        values,
        tuple(table.where for table in tables),
        np.repeat(np.arange(len(tables)), lengths),
        np.concatenate([np.arange(length) for length in lengths]),
    )


class _Steps:
    """The rows in order, and which of them start a transition.

    Attributes:
        rows: sorted by episode and time.
        labels: of the episodes, in order.
        episode: each row's, as its place in `labels`.
        findings: what a user should know.
        starts: the rows that start a transition.
        after: the row with the observation after it.
        missing: per column, the share of the cells that were missing.
    """

    def __init__(self, rows: _Rows, roles: _Roles, missing: str) -> None:
        self.roles, self.findings = roles, list[Finding]()
        self.missing = {name: float(rows.missing(name).mean()) for name in rows.values}
        self._sort(rows)
        flags = [self._flag(name) for name in (roles.terminated, roles.truncated)]
        self.terminated, self.truncated = flags
        # Within an episode of the table: a flag ends it too.
        same = self.episode[1:] == self.episode[:-1]
        over = self.terminated | self.truncated
        follows = np.append(same & ~over[:-1], False)
        begins = np.append(True, ~follows[:-1])
        self.lengths = np.diff(np.append(np.flatnonzero(begins), len(begins)))
        if roles.episode is not None and (beyond := int((same & over[:-1]).sum())):
            what = f"episodes go on after their end in {beyond} rows"
            hint = "each end begins another episode; is the column 1 at the last row only?"
            flag = roles.terminated or roles.truncated
            self._say("warning" if beyond > len(self.labels) else "note", what, str(flag), hint)
        needed = self.terminated | follows
        complete, steps = self._fill(missing, begins, needed)
        starts = complete & steps & (self.terminated | (follows & np.append(complete[1:], False)))
        self.starts = np.flatnonzero(starts)
        self.after = np.where(self.terminated[self.starts], self.starts, self.starts + 1)
        self._say_what_is_left_out(begins, needed, starts)
        self._say_times()

    def _say(self, severity: Literal["warning", "note"], what: str, where: str, hint: str) -> None:
        self.findings.append(Finding(severity, what, where, hint))

    def _sort(self, rows: _Rows) -> None:
        roles = self.roles
        where = " and ".join(name for name in (roles.episode, roles.time) if name is not None)
        if roles.episode is None:
            self.labels = [Path(name).stem for name in rows.tables]
            codes = rows.table
            what = "all rows are one episode"
            if len(rows.tables) > 1:
                what = f"each of the {len(rows.tables)} files is one episode"
            hint = "name the column that tells episodes apart, if there is one"
            self._say("note", f"there is no column of episodes: {what}", "episode", hint)
        else:
            if (lacking := rows.missing(roles.episode)).any():
                hint = "fill or drop the row: without an episode it has no place"
                raise rows.refusal(int(np.argmax(lacking)), f"{roles.episode} is empty", hint)
            given = rows.values[roles.episode]
            self.labels = _natural(given)
            places = {label: place for place, label in enumerate(self.labels)}
            codes = np.array([places[label] for label in given], np.int64)
        if roles.time is None:
            order = np.argsort(codes, kind="stable")
            files = rows.table[order]
            joined = (codes[order][1:] == codes[order][:-1]) & (files[1:] != files[:-1])
            if joined.any():
                first = order[int(np.argmax(joined))]
                hint = "name the column of `time`, which orders them"
                what = f"the rows of episode {self.labels[codes[first]]} are in several files"
                raise InputError(what, where=rows.tables[rows.table[first]], hint=hint)
            hint = "name the column of time, if there is one"
            what = "there is no column of time: rows are taken in the order in which they stand"
            self._say("note", what, "time", hint)
        else:
            if (lacking := rows.missing(roles.time)).any():
                hint = "fill or drop the row: without a time it has no place"
                raise rows.refusal(int(np.argmax(lacking)), f"{roles.time} is empty", hint)
            order = np.lexsort((rows.values[roles.time], codes))
        runs = 1 + int((codes[1:] != codes[:-1]).sum())
        if runs > len(self.labels):
            what = f"the rows of {len(self.labels)} episodes take turns: they were gathered"
            self._say("note", what, where, "nothing to do")
        elif ((order[1:] < order[:-1]) & (codes[order][1:] == codes[order][:-1])).any():
            self._say(
                "note", "the rows were not in order: they were sorted", where, "nothing to do"
            )
        self.rows, self.episode = rows.take(order), codes[order]
        if roles.time is not None:
            self._drop_repeated(roles.time)

    def _drop_repeated(self, time: str) -> None:
        """Drop rows that are there twice, as in exports that overlap; refuse other equal times."""
        rows, moments = self.rows, self.rows.values[time]
        same = (self.episode[1:] == self.episode[:-1]) & (moments[1:] == moments[:-1])
        if not same.any():
            return
        alike = same.copy()
        for name, column in rows.values.items():
            lacking = rows.missing(name)
            alike &= (column[1:] == column[:-1]) | (lacking[1:] & lacking[:-1])
        if (same & ~alike).any():
            index = int(np.argmax(same & ~alike))
            label, moment = self.labels[self.episode[index]], moments[index]
            more = int((same & ~alike).sum()) - 1
            what = f"episode {label} has two rows at {time} {moment}"
            what += f" (and {more} more such times), the second" if more else ", the second"
            hint = "give a finer time, or keep one of them"
            raise rows.refusal(index + 1, what, hint)
        kept = np.append(True, ~same)
        what = f"{int(same.sum())} rows repeat another row of the same time: they were dropped"
        self._say("note", what, time, "nothing to do")
        self.rows, self.episode = rows.take(np.flatnonzero(kept)), self.episode[kept]

    def _flag(self, name: str | None) -> Bool[np.ndarray, " rows"]:
        if name is None:
            return np.zeros(len(self.episode), bool)
        values = self.rows.values[name]
        wrong = ~np.isin(values, (0.0, 1.0))
        if wrong.any():
            index = int(np.argmax(wrong))
            shown = "empty" if np.isnan(values[index]) else f"{values[index]:g}"
            raise self.rows.refusal(index, f"{name} is {shown}", "write 0 or 1 in each row")
        return np.asarray(values == 1.0)

    def _fill(
        self, missing: str, begins: np.ndarray, needed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which rows have their whole observation, and which a whole action and a reward."""
        roles, rows = self.roles, self.rows
        index = np.arange(len(begins))
        first = np.maximum.accumulate(np.where(begins, index, 0))
        lacking = {}
        for name in (*roles.observation, *roles.action):
            lacks = rows.missing(name)
            if missing == "ffill" and lacks.any():
                last = np.maximum.accumulate(np.where(lacks, -1, index))
                filled = lacks & (last >= first)
                rows.values[name][filled] = rows.values[name][last[filled]]
                lacks &= ~filled
            lacking[name] = lacks
        lacking[roles.reward] = rows.missing(roles.reward)
        if missing == "error":
            self._require_all(lacking, needed)
        complete, steps = (np.ones(len(begins), bool) for _ in range(2))
        for name in roles.observation:
            complete &= ~lacking[name]
        for name in (*roles.action, roles.reward):
            steps &= ~lacking[name]
        self._say_missing(missing, complete, steps, needed)
        return complete, steps

    def _require_all(self, lacking: dict[str, np.ndarray], needed: np.ndarray) -> None:
        roles = self.roles
        bad = {
            name: lacks if name in roles.observation else lacks & needed
            for name, lacks in lacking.items()
        }
        bad = {name: lacks for name, lacks in bad.items() if lacks.any()}
        if not bad:
            return
        name = next(iter(bad))
        cells = int(sum(lacks.sum() for lacks in bad.values()))
        more = f" and {cells - 1:,} more cells" if cells > 1 else ""
        if len(bad) > 1:
            more += f" of {len(bad)} columns"
        hint = "fill them, or choose `missing=ffill` or `missing=drop`"
        if name == roles.reward:
            hint = "a reward is never filled: write 0 where that is meant, or choose `missing=drop`"
        places = np.flatnonzero(bad[name])
        index = places[np.lexsort((self.rows.row[places], self.rows.table[places]))[0]]
        where = self.rows.tables[self.rows.table[index]]
        what = f"{name} is empty in row {self.rows.row[index]}{more}"
        raise InputError(what, where=where, hint=hint)

    def _say_missing(
        self, missing: str, complete: np.ndarray, steps: np.ndarray, needed: np.ndarray
    ) -> None:
        roles = self.roles
        shares = [
            f"{name} {_share(self.missing[name])}"
            for name in (*roles.observation, *roles.action)
            if self.missing[name] > 0
        ]
        if missing == "ffill" and shares:
            what = "missing values were filled from the row before in the same episode"
            self._say("note", what, _few(shares), "the policy needs them filled likewise")
        if (lost := int((~complete).sum())) > 0:
            why = "lack a part of the observation"
            why += ", and there is nothing before to fill it from" * (missing == "ffill")
            hint = "no transition goes over them" if missing == "drop" else "they are left out"
            where = _few(shares)
            self._say("note", f"{lost:,} of {len(complete):,} rows {why}", where, hint)
        if (lost := int((complete & ~steps & needed).sum())) > 0:
            what = f"{lost:,} of {len(complete):,} rows have no reward or no action"
            severity: Literal["warning", "note"] = (
                "warning" if lost > 0.1 * needed.sum() else "note"
            )
            hint = "they start no transition; write 0 where that is meant"
            self._say(severity, what, roles.reward, hint)

    def _say_what_is_left_out(
        self, begins: np.ndarray, needed: np.ndarray, starts: np.ndarray
    ) -> None:
        roles = self.roles
        if not starts.any():
            hint = "each episode needs two rows, or one that terminates; check the `episode` column"
            what = "no row has an observation after it"
            lacking = [f"{name} {_share(share)}" for name, share in self.missing.items() if share]
            if lacking:
                what = f"no transition is left without the missing values of {_few(lacking)}"
                hint = "leave out columns that are seldom there; write 0 where no reward means 0"
            raise InputError(what, where=self.rows.tables[0], hint=hint)
        without = np.ones(len(self.labels), bool)
        without[self.episode[self.starts]] = False
        if without.any():
            listing = _few([self.labels[index] for index in np.flatnonzero(without)])
            what = f"{int(without.sum()):,} of {len(without):,} episodes have no transition"
            self._say("note", what, listing, "of a single row, nothing can be learned")
        piece = np.cumsum(begins)[self.starts]
        cut = (piece[1:] == piece[:-1]) & (self.starts[1:] != self.after[:-1])
        if cut.any():
            affected = len(np.unique(piece[1:][cut]))
            what = (
                f"{affected:,} episodes are cut where rows were left out, {int(cut.sum()):,} times"
            )
            hint = "each part counts as an episode, none of which terminates there"
            self._say("note", what, "missing values", hint)
        rewards = np.abs(np.nan_to_num(self.rows.values[roles.reward]))
        lost, kept = rewards[~needed].sum(), rewards[starts].sum()
        if lost > kept:
            what = f"{_share(lost / (lost + kept))} of all reward is in the last rows of episodes"
            hint = (
                "a last row starts no transition unless it terminates: mark it in a column, and "
                "name that as terminated"
            )
            self._say("warning", what, roles.reward, hint)

    def _say_times(self) -> None:
        """How regular the time steps are that the transitions take."""
        self.usual_step, time = "", self.roles.time
        if time is None:
            return
        moments = self.rows.values[time]
        one = self.after > self.starts
        taken = moments[self.after[one]] - moments[self.starts[one]]
        unit = ""
        if taken.dtype.kind == "m":
            taken, unit = taken / np.timedelta64(1, "s"), " s"
        if len(taken) == 0:
            return
        usual = float(np.median(taken))
        self.usual_step = f"every {usual:g}{unit}"
        odd = np.abs(taken - usual) > 0.01 * usual
        if not odd.any():
            return
        least, most = float(taken.min()), float(taken.max())
        self.usual_step += f" ({_share(float((~odd).mean()))} of the steps; {least:g} to {most:g})"
        long = int((taken > _LONG * usual).sum())
        what = f"the time steps differ: usually {usual:g}{unit}, from {least:g} to {most:g}{unit}"
        if long:
            what += f"; {long:,} of {len(taken):,} are longer than {_LONG:g} times the usual"
        hint = "the discount counts steps, not time: resample, or give pieces their own episode"
        severity: Literal["warning", "note"] = "warning" if long > 0.01 * len(taken) else "note"
        self._say(severity, what, time, hint)

    def column(self, name: str) -> Column:
        """What a column becomes."""
        values = self.rows.values[name]
        if name in self.roles.categorical:
            used = np.unique(np.concatenate([self.starts, self.after]))
            found = _natural(values[used])
            if len(found) > _MOST_CATEGORIES:
                what = f"{name} has {len(found):,} categories"
                hint = f"at most {_MOST_CATEGORIES:,} are possible; is it a number, or a label?"
                raise InputError(what, where=self.rows.tables[0], hint=hint)
            return Column(name, tuple(found))
        offset = _offset(values[self.starts], values[self.after])
        if offset:
            what = f"{_shown(offset)} is subtracted from {name}, whose steps float32 would lose"
            self._say("note", what, name, "the policy does the same")
        return Column(name, offset=offset)

    def dataset(self, columns: TableColumns, name: str, where: str) -> Dataset:
        """The transitions."""
        used = np.unique(np.concatenate([self.starts, self.after]))

        def encoded(some: tuple[Column, ...], rows: np.ndarray) -> np.ndarray:
            values = self.rows.values
            return np.concatenate([one.encode(values[one.name][rows], where) for one in some], 1)

        observations = encoded(columns.observation, used)
        actions = encoded(columns.action, self.starts)
        rewards = self.rows.values[columns.reward][self.starts]
        self._require_float32(columns, observations, used, actions, rewards)
        self._say_spread(columns, observations)
        terminated = self.terminated[self.starts]
        ends = np.append(self.starts[1:] != self.after[:-1], True) | terminated
        low, high = actions.min(axis=0), actions.max(axis=0)
        return Dataset.from_arrays(
            observations[np.searchsorted(used, self.starts)],
            actions,
            rewards.astype(np.float32),
            terminated,
            # A row that is cut is the observation after its last step.
            ends & ~terminated & self.truncated[self.after],
            observations[np.searchsorted(used, self.after)],
            self.episode[self.starts],
            goes_on=~ends,
            name=name,
            source=ARRAYS,
            # One that never moves has no range, and no dataset takes one.
            action_low=low,
            action_high=np.maximum(high, low + 1e-3 * np.maximum(1.0, np.abs(low))),
            metadata={
                "columns": columns.to_dict(),
                "findings": [list(finding) for finding in self.findings],
            },
            continuity="assumed" if self.roles.episode is None else "recorded",
        )

    def _require_float32(
        self,
        columns: TableColumns,
        observations: np.ndarray,
        used: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
    ) -> None:
        """Refuse numbers that are too large for float32, by the names of their columns."""
        with np.errstate(over="ignore"):
            single = rewards.astype(np.float32)[:, None]
        reward = (Column(columns.reward),)
        for values, rows, some in (
            (observations, used, columns.observation),
            (actions, self.starts, columns.action),
            (single, self.starts, reward),
        ):
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                row, place = bad[0].tolist()
                names = [one.name for one in some for _ in range(one.size)]
                what = f"{names[place]} is too large for float32"
                raise self.rows.refusal(int(rows[row]), what, "give it in another unit")

    def _say_spread(self, columns: TableColumns, observations: np.ndarray) -> None:
        places = np.cumsum([0, *(one.size for one in columns.observation)])
        spread = {
            one.name: float(observations[:, place].std(dtype=np.float64))
            for one, place in zip(columns.observation, places, strict=False)
            if not one.categories
        }
        spread = {name: deviation for name, deviation in spread.items() if deviation > 0}
        if not spread:
            return
        least, most = min(spread, key=spread.__getitem__), max(spread, key=spread.__getitem__)
        if spread[most] > 100.0 * spread[least]:
            what = (
                f"the columns differ in scale: standard deviations from {spread[least]:.3g} "
                f"({least}) to {spread[most]:.3g} ({most})"
            )
            hint = "observations=auto, the default for data of your own, sees to that"
            self._say("note", what, "observations", hint)


def _natural(values: Shaped[np.ndarray, " rows"]) -> list[str]:
    """The distinct texts in order, b2 before b10."""
    distinct = sorted({value for value in values if value is not None})
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return sorted(distinct, key=_pieces)


def _pieces(text: str) -> list[Any]:
    # Texts and whole numbers in turn, so that any two lists compare.
    parts = re.split(r"([0-9]{1,15})", text)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


@np.errstate(over="ignore")  # a number too large for float32 is named by its row later
def _offset(before: Float64[np.ndarray, " n"], after: Float64[np.ndarray, " n"]) -> float:
    """What to subtract so that float32 keeps a column's steps; 0 where it does as it is."""
    centre = float(np.median(before))
    grid = float(np.spacing(np.abs(np.float32(centre))))
    moves = np.abs(after - before)
    moves = moves[moves > 0]
    # A hundredth of a step may be lost; of whole numbers that float32 can hold, nothing is.
    exact = (before == before.astype(np.float32)).all()
    if exact or len(moves) == 0 or moves.mean() >= 100.0 * grid:
        return 0.0
    return float(np.round(centre)) if abs(centre) >= 100.0 else centre


def _share(share: float) -> str:
    percent = 100.0 * share
    return f"{percent:.1f} %" if percent >= 0.1 or percent == 0 else "under 0.1 %"


def _few(texts: Sequence[str], most: int = 5) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return f"{', '.join(texts[:most])}{more}"


def _preview(
    tables: Sequence[Table], rows: _Rows, roles: _Roles, steps: _Steps, dataset: Dataset
) -> str:
    """What was made of a table: its columns, episodes, and whatever a user should know."""
    files = tables[0].where if len(tables) == 1 else f"{len(tables)} tables"
    lines = [f"{files}: {len(rows.row):,} rows"]
    header = ("column", "role", "missing", "range", "first rows")
    cells = [header, *_column_lines(rows, roles, steps)]
    widths = [max(len(row[place]) for row in cells) for place in range(4)]
    for row in cells:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        lines.append("  ".join(["", *padded, row[4]]).rstrip())
    unused = [name for name in tables[0].names if name not in rows.values]
    if unused:
        lines.append(f"not used: {_few(unused, 8)}")
    lengths = steps.lengths
    by = "" if roles.episode is None else f" of {roles.episode}"
    lines.append(
        f"episodes: {len(lengths):,}{by}, of {int(np.median(lengths)):,} rows "
        f"(median; {lengths.min():,} to {lengths.max():,})"
    )
    if steps.usual_step:
        lines.append(f"time: {steps.usual_step}")
    ended = int(dataset.terminated.sum())
    lines.append(
        f"transitions: {dataset.transitions:,} in {dataset.episodes:,} episodes, {ended:,} of "
        "which terminate"
    )
    lines += [f"{one.severity}: {one.what} ({one.where}); {one.hint}" for one in steps.findings]
    return "\n".join(lines)


def _column_lines(rows: _Rows, roles: _Roles, steps: _Steps) -> Iterator[tuple[str, ...]]:
    for name, values in rows.values.items():
        present = values[~rows.missing(name)]
        role = roles.of(name)
        if name in roles.categorical:
            found = _natural(values)
            spread, role = _few(found, 4), f"{role}, {len(found)} categories"
        elif values.dtype == object:
            found = _natural(values)
            spread = f"{found[0]} to {found[-1]}"
        else:
            spread = f"{_shown(present.min())} to {_shown(present.max())}" if len(present) else ""
        share = _share(steps.missing[name]) if steps.missing[name] else ""
        first = ", ".join(_shown(value) for value in values[:_SHOWN])
        first = first if len(first) <= 40 else f"{first[:39]}…"
        yield name, role, share, spread, first


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[s]"))
    if isinstance(value, float):
        return f"{value:.10g}" if abs(value) >= 1e5 else f"{value:.6g}"
    return str(value)

"""The rows of all tables: read, gathered by episode and sorted by time."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from xql.data.cells import objects
from xql.data.check import Finding
from xql.data.roles import Roles, refuse_name
from xql.data.table_files import Table
from xql.data.wording import natural
from xql.errors import InputError


class Rows(NamedTuple):
    """The rows of all tables, and where each stands."""

    values: dict[str, np.ndarray]
    tables: tuple[str, ...]
    table: Int64[np.ndarray, " rows"]
    row: Int64[np.ndarray, " rows"]

    def take(self, order: np.ndarray) -> "Rows":
        """Some of them, in another order."""
        values = {name: column[order] for name, column in self.values.items()}
        return Rows(values, self.tables, self.table[order], self.row[order])

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


class Ordered(NamedTuple):
    """The rows, sorted by episode and time."""

    rows: Rows
    labels: list[str]
    """Of the episodes, in order."""
    episode: Int64[np.ndarray, " rows"]
    """Each row's, as its place in `labels`."""
    findings: list[Finding]
    """What a user should know."""


def read_rows(tables: Sequence[Table], roles: Roles) -> tuple[Rows, Roles]:
    """The columns that are used, of all tables one after another.

    An action of texts, none of which is a number, turns out to be a category.
    """
    kinds = roles.kinds()
    parts, forms = [], dict[str, str]()
    for table in tables:
        for name in kinds:
            if name not in table.names:
                refuse_name(roles.of(name).split(",")[0], name, table)
        part = table.read(kinds, forms)
        length = len(part[roles.reward])
        for name in kinds:
            if len(part[name]) != length:
                what = f"{name} has {len(part[name])} rows and {roles.reward} {length}"
                raise InputError(what, where=table.where, hint="give columns of one length")
        parts.append(part)
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
    rows = Rows(
        values,
        tuple(table.where for table in tables),
        np.repeat(np.arange(len(tables)), lengths),
        np.concatenate([np.arange(length) for length in lengths]),
    )
    action = roles.action[0]
    if values[action].dtype == object:
        values[action] = _all_texts(rows, action)
        roles = roles._replace(categorical=roles.categorical | {action})
    return rows, roles


def _all_texts(rows: Rows, name: str) -> np.ndarray:
    """A column that was read in parts, some of which may have been numbers."""
    cells = rows.values[name]
    number = np.array([isinstance(cell, float) for cell in cells], bool)
    empty = np.array([cell is None or cell != cell for cell in cells], bool)
    if (number & ~empty).any():
        index = int(np.argmax(~number & ~empty))
        hint = f"write a number; a column of categories needs `categorical={name}`"
        raise rows.refusal(index, f"{name} is {cells[index]!r:.40}", hint)
    return objects([None if lacks else cell for lacks, cell in zip(empty, cells, strict=True)])


def in_order(rows: Rows, roles: Roles) -> Ordered:
    """The rows by episode and then by time; those that are there twice, once."""
    findings: list[Finding] = []

    def note(what: str, where: str, hint: str = "nothing to do") -> None:
        findings.append(Finding("note", what, where, hint))

    where = " and ".join(name for name in (roles.episode, roles.time) if name is not None)
    if roles.episode is None:
        labels = [Path(name).stem for name in rows.tables]
        codes = rows.table
        what = "all rows are one episode"
        if len(rows.tables) > 1:
            what = f"each of the {len(rows.tables)} files is one episode"
        hint = "name the column that tells episodes apart, if there is one"
        note(f"there is no column of episodes: {what}", "episode", hint)
    else:
        if (lacking := rows.missing(roles.episode)).any():
            hint = "fill or drop the row: without an episode it has no place"
            raise rows.refusal(int(np.argmax(lacking)), f"{roles.episode} is empty", hint)
        given = rows.values[roles.episode]
        labels = natural(given)
        places = {label: place for place, label in enumerate(labels)}
        codes = np.array([places[label] for label in given], np.int64)
    if roles.time is None:
        order = np.argsort(codes, kind="stable")
        files = rows.table[order]
        joined = (codes[order][1:] == codes[order][:-1]) & (files[1:] != files[:-1])
        if joined.any():
            first = order[int(np.argmax(joined))]
            hint = "name the column of `time`, which orders them"
            what = f"the rows of episode {labels[codes[first]]} are in several files"
            raise InputError(what, where=rows.tables[rows.table[first]], hint=hint)
        hint = "name the column of time, if there is one"
        what = "there is no column of time: rows are taken in the order in which they stand"
        note(what, "time", hint)
    else:
        if (lacking := rows.missing(roles.time)).any():
            hint = "fill or drop the row: without a time it has no place"
            raise rows.refusal(int(np.argmax(lacking)), f"{roles.time} is empty", hint)
        order = np.lexsort((rows.values[roles.time], codes))
    runs = 1 + int((codes[1:] != codes[:-1]).sum())
    if runs > len(labels):
        apart = runs - len(labels)  # pieces of episodes that stand away from the rest
        what = f"rows of other episodes stand between those of one, {apart} times: they were sorted"
        note(what, where)
    elif ((order[1:] < order[:-1]) & (codes[order][1:] == codes[order][:-1])).any():
        note("the rows were not in order: they were sorted", where)
    ordered = Ordered(rows.take(order), labels, codes[order], findings)
    return ordered if roles.time is None else _drop_repeated(ordered, roles.time)


def _drop_repeated(ordered: Ordered, time: str) -> Ordered:
    """Drop rows that are there twice, as in exports that overlap; refuse other equal times."""
    rows, labels, episode, findings = ordered
    moments = rows.values[time]
    same = (episode[1:] == episode[:-1]) & (moments[1:] == moments[:-1])
    if not same.any():
        return ordered
    alike = same.copy()
    for name, column in rows.values.items():
        lacking = rows.missing(name)
        alike &= (column[1:] == column[:-1]) | (lacking[1:] & lacking[:-1])
    if (same & ~alike).any():
        index = int(np.argmax(same & ~alike))
        label, moment = labels[episode[index]], moments[index]
        more = int((same & ~alike).sum()) - 1
        what = f"episode {label} has two rows at {time} {moment}"
        what += f" (and {more} more such times), the second" if more else ", the second"
        hint = "give a finer time, or keep one of them"
        raise rows.refusal(index + 1, what, hint)
    kept = np.append(True, ~same)
    what = f"{int(same.sum())} rows repeat another row of the same time: they were dropped"
    said = Finding("note", what, time, "nothing to do")
    return Ordered(rows.take(np.flatnonzero(kept)), labels, episode[kept], [*findings, said])

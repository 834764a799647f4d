"""Which columns of a table are the observation, the action, the reward and the rest."""

import fnmatch
import glob
from collections.abc import Sequence
from typing import Any, NamedTuple

from xql.data.cells import Kind
from xql.data.table_files import Table
from xql.data.wording import few
from xql.errors import InputError, nearest


class Roles(NamedTuple):
    """The names of the columns that are used, by what they are."""

    observation: tuple[str, ...]
    action: tuple[str, ...]
    categorical: frozenset[str]
    reward: str
    episode: str | None
    time: str | None
    terminated: str | None
    truncated: str | None
    reward_at: str
    """"same": a row has the reward of its own action; "next": of the action in the row before, and
    `terminated` too says what that action did."""

    def kinds(self) -> dict[str, Kind]:
        """How each is read."""
        kinds: dict[str, Kind] = {}
        if self.time is not None:
            kinds[self.time] = "time"
        for name in (*self.observation, *self.action):
            kinds[name] = "label" if name in self.categorical else "number"
            if self.action == (name,) and name not in self.categorical:
                kinds[name] = "decision"
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
        if name in (self.reward, self.terminated) and self.reward_at == "next":
            return f"{'reward' if name == self.reward else 'terminated'}, of the action before"
        single = ("reward", "episode", "time", "terminated", "truncated")
        return next((role for role in single if getattr(self, role) == name), "action")


def choose_roles(
    tables: Sequence[Table],
    observation: tuple[str, ...],
    action: tuple[str, ...],
    categorical: tuple[str, ...],
    single: dict[str, str | None],
    reward_at: str,
) -> Roles:
    """The columns that names and patterns choose from tables.

    Raises:
        InputError: one is not there or not in each table, or is to be two things.
    """
    table = tables[0]
    taken: dict[str, str] = {}
    for role, name in single.items():
        if name is None:
            continue
        if name not in table.names:
            refuse_name(role, name, table)
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
            hint = "only observations and the action can be categories"
            raise InputError(what, where=table.where, hint=hint)
        if name in actions and len(actions) > 1:
            others = few([other for other in actions if other != name])
            what = f"the action {name} is a category and stands beside other actions ({others})"
            hint = "one category is a whole decision: give it alone, or join all into one column"
            raise InputError(what, where=table.where, hint=hint)
    observations += [name for name in categories if name not in (*observations, *actions)]
    for role, names in (("observation", observations), ("action", actions)):
        if not names:
            raise InputError(f"`{role}` names no column", where=table.where, hint="give one")
    roles = Roles(
        tuple(observations),
        tuple(actions),
        frozenset(categories),
        reward_at=reward_at,
        **single,  # type: ignore[arg-type]
    )
    for other in tables[1:]:
        for role, patterns in (("observation", observation), ("action", action)):
            _require_no_more(role, patterns, roles, other, table)
    return roles


def _require_no_more(
    role: str, patterns: tuple[str, ...], roles: Roles, table: Table, first: Table
) -> None:
    """Refuse a pattern that takes other columns in a further table than in the first."""
    used = roles.kinds()
    for name in table.names:
        if name not in used and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            what = f"its column '{name}' is the `{role}` too, and is not in {first.where}"
            raise InputError(what, where=table.where, hint="name the columns that all files have")


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
            refuse_name(role, pattern, table)
        found += matching
    return list(dict.fromkeys(found))


def refuse_name(role: str, name: str, table: Table) -> None:
    """Raise for a name or a pattern that no column of a table has."""
    if glob.has_magic(name):
        what = f"`{role}={name}` matches no column"
    else:
        what = f"there is no column '{name}' for the `{role}`"
    hint = nearest(name, table.names) if table.names else "the table has no column at all"
    raise InputError(what, where=table.where, hint=hint)

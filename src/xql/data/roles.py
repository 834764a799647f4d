"""Which columns of a table are the observation, the action, the reward and the rest."""

import fnmatch
import glob
from typing import Any, NamedTuple

from xql.data.cells import Kind, Table
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


def choose_roles(
    table: Table,
    observation: tuple[str, ...],
    action: tuple[str, ...],
    categorical: tuple[str, ...],
    single: dict[str, str | None],
) -> Roles:
    """The columns that names and patterns choose from a table.

    Raises:
        InputError: one is not there, or is to be two things.
    """
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
            raise InputError(what, where=table.where, hint="only observations can be categories")
        if name in actions:
            what = f"the action {name} is a category"
            hint = "discrete actions are not supported yet; give actions that are numbers"
            raise InputError(what, where=table.where, hint=hint)
    observations += [name for name in categories if name not in observations]
    for role, names in (("observation", observations), ("action", actions)):
        if not names:
            raise InputError(f"`{role}` names no column", where=table.where, hint="give one")
    return Roles(tuple(observations), tuple(actions), frozenset(categories), **single)  # type: ignore[arg-type]


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
    raise InputError(what, where=table.where, hint=nearest(name, table.names))

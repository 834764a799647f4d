"""The columns of a table as the numbers of a dataset."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from xql.data.actions import upper_bounds
from xql.data.columns import Column, TableColumns
from xql.data.dataset import Dataset
from xql.data.schema import ARRAYS
from xql.data.steps import Steps
from xql.data.stored import taken
from xql.data.wording import few, natural, shown
from xql.errors import InputError

_MOST_CATEGORIES = 1000  # one-hot, each is a number in every row
_SELDOM = 10  # times that an action was taken
_LEVELS = 10  # whole numbers of an action that may be a choice


def describe_column(steps: Steps, name: str) -> Column:
    """What a column becomes."""
    values = steps.rows.values[name]
    if name in steps.roles.categorical:
        used = steps.starts
        if name not in steps.roles.action:
            used = np.unique(np.concatenate([steps.starts, steps.after]))
        found = natural(values[used])
        if len(found) > _MOST_CATEGORIES:
            what = f"{name} has {len(found):,} categories"
            hint = f"at most {_MOST_CATEGORIES:,} are possible; is it a number, or a label?"
            raise InputError(what, where=steps.rows.tables[0], hint=hint)
        if name in steps.roles.action:
            _say_rare(steps, name, found)
        return Column(name, tuple(found))
    if steps.roles.action == (name,):
        _say_levels(steps, name)
    offset = _offset(values[steps.starts], values[steps.after])
    if offset:
        what = f"{shown(offset)} is subtracted from {name}, whose steps float32 would lose"
        steps.say("note", what, name, "the policy does the same")
    return Column(name, offset=offset)


def _say_rare(steps: Steps, name: str, categories: Sequence[str]) -> None:
    taken = steps.rows.values[name][steps.starts]
    counts = {one: int((taken == one).sum()) for one in categories}
    rare = [f"{one} {count}" for one, count in counts.items() if count < _SELDOM]
    if rare and len(rare) < len(counts):
        what = f"{len(rare)} of {len(counts)} actions were taken fewer than {_SELDOM} times"
        steps.say("note", what, few(rare), "little can be learned about them; join or drop them")


def _say_levels(steps: Steps, name: str) -> None:
    """Say of an action of few whole numbers that it may be a choice."""
    levels = np.unique(steps.rows.values[name][steps.starts])
    if 1 < len(levels) <= _LEVELS and (levels == np.floor(levels)).all():
        what = f"the action {name} has {len(levels)} values, all whole numbers"
        hint = f"if each is a choice and not a quantity, name it in `categorical={name}`"
        steps.say("note", what, few([f"{level:g}" for level in levels], _LEVELS), hint)


def make_dataset(steps: Steps, columns: TableColumns, name: str, where: str) -> Dataset:
    """The transitions."""
    used = np.unique(np.concatenate([steps.starts, steps.after]))

    def encoded(some: tuple[Column, ...], rows: np.ndarray) -> np.ndarray:
        values = steps.rows.values
        return np.concatenate([one.encode(values[one.name][rows], where) for one in some], 1)

    observations = encoded(columns.observation, used)
    actions = encoded(columns.action, steps.starts)
    rewards = steps.rewards[steps.starts]
    _require_float32(steps, columns, observations, used, actions, rewards)
    _say_spread(steps, columns, observations)
    terminated = steps.terminates[steps.starts]
    ends = np.append(steps.starts[1:] != steps.after[:-1], True) | terminated
    discrete = bool(columns.action[0].categories)
    low, high = actions.min(axis=0), actions.max(axis=0)
    return Dataset.from_arrays(
        taken(observations, np.searchsorted(used, steps.starts)),
        actions,
        rewards.astype(np.float32),
        terminated,
        # A row that is cut is the observation after its last step.
        ends & ~terminated & steps.truncated[steps.after],
        taken(observations, np.searchsorted(used, steps.after)),
        steps.episode[steps.starts],
        goes_on=~ends,
        name=name,
        source=ARRAYS,
        action_low=None if discrete else low,
        action_high=None if discrete else upper_bounds(low, high),
        discrete=discrete,
        metadata={
            "columns": columns.to_dict(),
            "findings": [list(finding) for finding in steps.findings],
        },
        continuity="assumed" if steps.roles.episode is None else "recorded",
    )


def _require_float32(
    steps: Steps,
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
        (actions, steps.starts, columns.action),
        (single, steps.starts, reward),
    ):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, place = bad[0].tolist()
            names = [one.name for one in some for _ in range(one.size)]
            what = f"{names[place]} is too large for float32"
            raise steps.rows.refusal(int(rows[row]), what, "give it in another unit")


def _say_spread(steps: Steps, columns: TableColumns, observations: np.ndarray) -> None:
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
        hint = "observations=auto, the default of xql, iql and bc for your own data, sees to that"
        steps.say("note", what, "observations", hint)


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

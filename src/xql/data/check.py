"""Check data: what is wrong or suspicious, in which rows, and what to do about it.

A *row* here is a transition, counted from 0 through the whole dataset in stored order; episodes and
columns also count from 0.
"""

import itertools
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt64

from xql.data.columns import TableColumns
from xql.data.dataset import Dataset
from xql.data.moves import displacement
from xql.data.sentinels import suspicious_numbers
from xql.data.stored import blocks
from xql.errors import InputError

Severity = Literal["error", "warning", "note"]


_FEW = 65536
"""Rows that are hashed at once."""
_MOST_BAD_ROWS = 100  # each has to be fixed, so more are named than of anything else


class Finding(NamedTuple):
    """One thing that is wrong (error), probably wrong (warning) or worth knowing (note)."""

    severity: Severity
    what: str
    where: str
    hint: str


def check_dataset(dataset: Dataset) -> list[Finding]:
    """Everything found in `dataset`, the gravest first; an empty list where all is sound."""
    broken = _not_finite(dataset)
    # What follows compares numbers, and a NaN would make every comparison silently false.
    found = broken or [
        *_boundaries(dataset),
        *_order(dataset),
        *_precision(dataset),
        *_duplicates(dataset),
        *_actions(dataset),
        *_rewards(dataset),
        *_endings(dataset),
        *_constant_columns(dataset),
        *_sentinels(dataset),
        # What was found in the table that it was made of.
        *(Finding(*finding) for finding in dataset.metadata.get("findings", ())),
    ]
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def require_sound(dataset: Dataset, *, part: bool = False) -> list[Finding]:
    """Raise for the first error; the warnings and notes, the gravest first, are returned.

    Args:
        dataset: what to check.
        part: whether it is a part of the data, so that its rows have other numbers there.

    Raises:
        InputError: the data cannot be learned from.
    """
    found = check_dataset(dataset)
    if part:
        found = [one._replace(where=f"{one.where}, of the part that was checked") for one in found]
    for finding in found:
        if finding.severity == "error":
            raise InputError(
                f"{finding.what} ({finding.where})", where=dataset.name, hint=finding.hint
            )
    return found


def _listing(numbers: Int64[np.ndarray, " n"], noun: str, most: int = 5) -> str:
    """At most five of them: "rows 3, 17 and 4 more"."""
    shown = numbers.tolist()
    head = ", ".join(str(number) for number in shown[:most])
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return f"{noun}{'s' if len(shown) > 1 else ''} {head}{more}"


def _columns(
    dataset: Dataset, part: Literal["observation", "action"], numbers: Int64[np.ndarray, " n"]
) -> str:
    """The columns, by their names where the data was made of a table."""
    described = dataset.metadata.get("columns")
    if described is None:
        return _listing(numbers, "column")
    names = TableColumns.from_dict(described, dataset.name).names(part)
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"{', '.join(names[number] for number in numbers[:5])}{more}"


def _not_finite(dataset: Dataset) -> list[Finding]:
    found = []
    for name in ("observations", "actions", "rewards"):
        values = getattr(dataset, name)
        if all(np.isfinite(values[block]).all() for block in blocks(values)):
            continue
        transition = np.full(len(dataset.observations), -1)
        transition[dataset.starts] = np.arange(dataset.transitions)
        values = values.reshape(len(values), -1)
        bad = ~np.isfinite(values)
        rows = np.flatnonzero(bad.any(axis=1))
        steps, finals = transition[rows][transition[rows] >= 0], rows[transition[rows] < 0]
        places = [_listing(steps, "row", _MOST_BAD_ROWS)] if len(steps) else []
        if len(finals):
            episodes = np.searchsorted(dataset.firsts, finals, side="right") - 1
            listing = _listing(episodes, "episode", _MOST_BAD_ROWS)
            places.append(f"the final observation of {listing}")
        if values.shape[1] > 1:
            places.append(_listing(np.flatnonzero(bad.any(axis=0)), "column"))
        kind = "NaN" if np.isnan(values).any() else "infinity"
        where = "; ".join(places)
        found.append(Finding("error", f"{kind} in {name}", where, "drop or fix these rows"))
    return found


def _moves(dataset: Dataset) -> tuple[Float[np.ndarray, " moves"], Bool[np.ndarray, " moves"]]:
    inside = dataset.acted[:-1]
    return displacement(dataset.observations, inside, scaled=True), inside


def _boundaries(dataset: Dataset) -> list[Finding]:
    """Flags against jumps: resets that no flag marks, and flags where nothing was reset.

    A jump inside an episode counts as a reset if it is five times what 9 of 10 steps do that move
    at all, and a quarter of the median flagged reset; where no reset can be measured, ten times. A
    source that states each step's next observation has said where episodes go on. One that has the
    final observations has said so at their ends: the log goes on only where the next one starts
    there.
    """
    found = []
    moved, inside = _moves(dataset)
    # Not a higher quantile: unflagged resets of short episodes would themselves raise it.
    moves = moved[inside & (moved > 0)]
    usual = float(np.quantile(moves, 0.9, overwrite_input=True)) if len(moves) else 0.0
    del moves
    high = float(np.quantile(moved[inside], 0.99, overwrite_input=True))
    finals = (dataset.firsts + dataset.lengths)[:-1]
    between = moved[finals]
    # A column that only resets change, such as a goal, makes every reset infinitely far.
    finite = between[np.isfinite(between)]
    known = 0.25 * float(np.median(finite)) if len(finite) else 10.0 * usual
    teleports = inside & (moved > max(5.0 * usual, known))
    if teleports.any() and dataset.continuity != "stated":
        rows = np.flatnonzero(teleports[inside])
        found.append(
            Finding(
                "warning",
                f"{len(rows)} jumps inside episodes, as large as resets",
                _listing(rows, "row"),
                "does an episode end there without a flag? set truncated in that row",
            )
        )
    near = high if dataset.continuity == "assumed" else 1e-3 * usual
    goes_on = np.flatnonzero(~dataset.terminated[:-1] & (between <= near))
    if len(goes_on):
        found.append(
            Finding(
                "warning" if len(goes_on) > 0.1 * dataset.episodes else "note",
                f"{len(goes_on)} time limits where the log goes on as if nothing had happened",
                _listing(goes_on, "end of episode"),
                "no bootstrap is cut there; if it is one trajectory, remove the flag",
            )
        )
    return found


def _order(dataset: Dataset) -> list[Finding]:
    """Rows of several trajectories in turn, or shuffled: each is stated to go on in another row.

    Only observations that occur once as an end and once as a start count: in a small discrete world
    trajectories meet everywhere.
    """
    stops = ~(dataset.terminated | dataset.truncated)
    if dataset.continuity != "stated" or stops.sum() < 2:
        return []
    ends = _hashes(dataset.observations[dataset.firsts + dataset.lengths])
    starts, episodes, counts = np.unique(
        _hashes(dataset.observations[dataset.firsts]), return_index=True, return_counts=True
    )
    _, places, times = np.unique(ends, return_inverse=True, return_counts=True)
    found = np.minimum(np.searchsorted(starts, ends), len(starts) - 1)
    follower = episodes[found]
    once = (starts[found] == ends) & (counts[found] == 1) & (times[places] == 1)
    goes_on = np.flatnonzero(stops & once & (follower != np.arange(len(ends))))
    if 2 * len(goes_on) <= stops.sum():
        return []
    later = (follower[goes_on] > goes_on).all()
    which = "a later row, not in the next" if later else "another row, not in the next"
    return [
        Finding(
            "warning",
            f"{len(goes_on)} of {dataset.episodes} episodes go on in {which}",
            _listing(goes_on, "end of episode"),
            "the rows are interleaved or shuffled: sort them by trajectory and time, or every "
            "piece counts as an episode",
        )
    ]


def _precision(dataset: Dataset) -> list[Finding]:
    """Columns whose numbers are so large against their steps that float32 rounds the steps away."""
    inside = dataset.acted[:-1]
    columns, grids, steps = [], [], []
    for index, column in enumerate(dataset.observations.T):
        grid = float(np.spacing(np.median(np.abs(column))))
        moves = np.abs(np.diff(column)[inside])
        moving = moves[moves > 0]
        # A range of a few fine grids is a constant with noise in its last place.
        noise = np.ptp(column) < 4.0 * grid < 1e-3
        if len(moving) and moving.mean() < 10.0 * grid and not noise:
            columns.append(index)
            grids.append(f"{grid:.2g}")
            # Rounded or not, a step has the same mean; only the ones that are left are larger.
            steps.append(f"{moves.mean():.2g}")
    if not columns:
        return []
    listing = _columns(dataset, "observation", np.asarray(columns))
    where = f"a grid of {', '.join(grids[:5])} against steps of {', '.join(steps[:5])}"
    hint = "subtract an offset from these columns, such as their mean, in float64"
    what = f"float32 cannot tell the values of {listing} apart"
    return [Finding("warning", what, where, hint)]


def _hashes(*tables: Float[np.ndarray, "rows _"]) -> UInt64[np.ndarray, " rows"]:
    """One number per row of float32 tables side by side, equal where the rows are."""
    # Distinct rows collide with probability near rows² / 2⁶⁵: never, at any size that fits.
    random = np.random.default_rng(0)
    width = sum(table.shape[1] for table in tables)
    # Odd, so that nothing is lost.
    multipliers = random.integers(1, 2**63, (width, 2), dtype=np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    total = np.zeros(len(tables[0]), np.uint64)
    for first in range(0, len(total), _FEW):
        block = slice(first, first + _FEW)
        columns = itertools.chain.from_iterable(table[block].T for table in tables)
        for column, (one, other) in zip(columns, multipliers, strict=True):
            bits = np.ascontiguousarray(column).view(np.uint32).astype(np.uint64)
            # Two rounds: a plain sum of products would let equal differences cancel.
            bits *= one
            bits ^= bits >> np.uint64(29)
            bits *= other
            total[block] += bits ^ (bits >> np.uint64(32))
    return total


def _duplicates(dataset: Dataset) -> list[Finding]:
    found = []
    hashes = _hashes(dataset.observations, dataset.actions, dataset.rewards[:, None])
    # A position-dependent factor, so that the same steps in another order are another episode.
    weighted: UInt64[np.ndarray, " rows"] = np.arange(len(hashes), dtype=np.uint64)
    weighted -= np.repeat(dataset.firsts.astype(np.uint64), dataset.lengths + 1)
    weighted *= np.uint64(2)
    weighted += np.uint64(1)
    weighted *= hashes
    episodes = _repeats(np.add.reduceat(weighted, dataset.firsts))
    del weighted
    # Of a step, with the row after it; in place, upwards.
    for first in range(0, len(hashes) - 1, _FEW):
        last = min(first + _FEW, len(hashes) - 1)
        after = hashes[first + 1 : last + 1] ^ np.uint64(0x9E3779B97F4A7C15)
        hashes[first:last] *= np.uint64(3)
        hashes[first:last] += after
    steps = hashes[dataset.acted]
    del hashes
    repeated = _repeats(steps)
    if len(episodes):
        found.append(
            Finding(
                "warning",
                f"{len(episodes)} of {dataset.episodes} episodes repeat an earlier one",
                _listing(episodes, "episode"),
                "drop them, unless they are meant to count twice",
            )
        )
    elif len(repeated):
        found.append(
            Finding(
                "warning" if len(repeated) > 0.01 * dataset.transitions else "note",
                f"{len(repeated)} of {dataset.transitions} transitions repeat an earlier one",
                _listing(repeated, "row"),
                "drop them, unless they are meant to count twice",
            )
        )
    return found


def _repeats(values: UInt64[np.ndarray, " n"]) -> Int64[np.ndarray, " repeats"]:
    """Where a value occurs that occurred before."""
    ordered = np.sort(values)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if len(twice) == 0:
        return np.zeros(0, np.int64)
    # Of all that occur again, the first time is no repetition.
    rows = np.flatnonzero(np.isin(values, twice))
    _, first = np.unique(values[rows], return_index=True)
    return np.delete(rows, first)


def _actions(dataset: Dataset) -> list[Finding]:
    actions = dataset.actions
    if dataset.discrete:
        return []
    if dataset.action_low is None or dataset.action_high is None:
        largest = float(max(-actions.min(), actions.max()))
        if largest <= 1.0:
            return []
        what = f"no action bounds are stated and the largest |action| is {largest:.4g}"
        hint = "state action_low and action_high: policies act within what the data spans otherwise"
        return [Finding("warning", what, "actions", hint)]
    # Bounds and actions come from different roundings of the same numbers.
    slack = 1e-4 * np.maximum(np.abs(dataset.action_high), np.abs(dataset.action_low))
    low, high = dataset.action_low - slack, dataset.action_high + slack
    acted, any_outside, numbers = dataset.acted, np.zeros(len(slack), bool), []
    for block in blocks(actions):
        outside = ((actions[block] < low) | (actions[block] > high)) & acted[block, None]
        any_outside |= outside.any(axis=0)
        numbers.append(block.start + np.flatnonzero(outside.any(axis=1)))
    if not any_outside.any():
        return []
    columns = np.flatnonzero(any_outside)
    # Rows are numbered as transitions.
    rows = np.searchsorted(dataset.starts, np.concatenate(numbers))
    what = f"actions outside their bounds in {len(rows)} of {dataset.transitions} rows"
    where = f"{_listing(rows, 'row')}; {_columns(dataset, 'action', columns)}"
    return [Finding("error", what, where, "rescale or clip the actions, or fix the bounds")]


def _rewards(dataset: Dataset) -> list[Finding]:
    rewards = dataset.rewards[dataset.acted]
    if rewards.min() != rewards.max():
        return []
    what = f"every reward is {rewards[0]:g}"
    hint = "there is nothing to prefer; are rewards missing?"
    if rewards[0] != 0 and dataset.terminated.any():
        hint = "all that differs is when episodes terminate; is it meant?"
    return [Finding("warning", what, "rewards", hint)]


def _endings(dataset: Dataset) -> list[Finding]:
    terminated, truncated = dataset.terminated, dataset.truncated
    if terminated.all() and (dataset.lengths == 1).all() and dataset.episodes > 1:
        what = "every step is a termination, so no value ever reaches back"
        return [Finding("warning", what, "terminated", "set it at an episode's last step only")]
    if terminated.all():
        what = f"all {dataset.episodes} episodes terminate"
        return [Finding("note", what, "terminated", "time limits belong in truncated")]
    if not terminated.any() and not truncated.any():
        what = "no episode is terminated or truncated: every log just stops"
        return [Finding("note", what, "terminated, truncated", "set them if you know")]
    if not terminated.any():
        return [Finding("note", "no episode terminates", "terminated", "fine for endless tasks")]
    return []


def _sentinels(dataset: Dataset) -> list[Finding]:
    """Codes for a missing value, such as -999; of a table, its conversion has said so already."""
    if dataset.metadata.get("columns") is not None:
        return []
    found = []
    for index, column in enumerate(dataset.observations.T):
        for number, count in suspicious_numbers(column):
            what = f"an observation is {number:.10g} in {count:,} rows, far from all others"
            hint = "if it means that nothing was measured, fill it or drop these rows"
            found.append(Finding("warning", what, f"column {index}", hint))
    return found


def _constant_columns(dataset: Dataset) -> list[Finding]:
    found = []
    observations = dataset.observations
    fixed = np.flatnonzero(observations.min(axis=0) == observations.max(axis=0))
    if len(fixed) == dataset.observation_size:
        hint = "an observation must say something"
        found.append(Finding("error", "no observation ever changes", "observations", hint))
    elif len(fixed):
        what = f"{len(fixed)} observation columns never change"
        hint = "harmless; could be dropped"
        # Above a few thousand, float32 may have rounded away all that a column did.
        large = fixed[np.abs(observations[0, fixed]) > 8192.0]
        if len(large):
            which = _columns(dataset, "observation", large)
            hint += f"; if not constant in the source, subtract an offset from {which}"
        found.append(Finding("note", what, _columns(dataset, "observation", fixed), hint))
    low, high = dataset.action_range
    fixed = np.flatnonzero(low == high)
    if len(fixed) and dataset.discrete:
        never = np.flatnonzero(high == 0)
        what = f"{len(never)} of {dataset.action_size} actions are never taken"
        hint = "nothing can be learned about them"
        if len(never) == dataset.action_size - 1:
            what, hint = "every action is the same", "there is nothing to choose; is it meant?"
        found.append(Finding("warning", what, _listing(never, "action"), hint))
    elif len(fixed):
        what = f"{len(fixed)} action columns never change"
        hint = "nothing can be learned about them; drop them if that is not meant"
        found.append(Finding("warning", what, _columns(dataset, "action", fixed), hint))
    return found

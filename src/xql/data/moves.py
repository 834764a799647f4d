"""How far a state moves in a step, and whether one row follows another: what tells a reset."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from xql.data.stored import Readable, Stored, blocks

_FEW = 4096
"""Rows of which a table in float64 is made at once."""
_SAMPLE = 10_000  # rows: enough for a median step or a grid, however long the log


@np.errstate(over="ignore", invalid="ignore")  # numbers of the source, as large as they are
def displacement(
    state: Shaped[np.ndarray | Stored, "steps state"],
    ordinary: Bool[np.ndarray, " moves"],
    *,
    scaled: bool,
) -> Float[np.ndarray, " moves"]:
    """How far the state moves from each row to the next (one row fewer than `state`).

    With `scaled`, each column counts in units of its root mean square over the ordinary moves.
    """
    scales = np.ones(state.shape[1])
    if scaled:
        sums = np.zeros(state.shape[1])
        for rows, moves in _squared_moves(state):
            sums += moves[ordinary[rows]].sum(axis=0)
        scales = sums / max(1, int(ordinary.sum()))
    total = np.zeros(len(state) - 1)
    for rows, moves in _squared_moves(state):
        for move, scale in zip(moves.T, scales, strict=True):
            total[rows] += move / scale if scale > 0 else np.where(move > 0, np.inf, 0.0)
    return np.sqrt(total, out=total)


def _squared_moves(state: Readable) -> Iterator[tuple[slice, np.ndarray]]:
    """A few thousand rows at a time, so that no float64 copy of the data is ever made."""
    for first in range(0, len(state) - 1, _FEW):
        last = min(first + _FEW, len(state) - 1)
        yield slice(first, last), np.square(np.diff(state[first : last + 1].astype(float), axis=0))


def follows(
    observations: Shaped[np.ndarray | Stored, "steps observation"],
    next_observations: Shaped[np.ndarray | Stored, "steps observation"],
    seen: Callable[[slice], None] | None = None,
) -> Bool[np.ndarray, " steps"]:
    """Whether each row's next observation is, but for rounding, the observation of the next row.

    Compared column by column in the precision of the source: in float32, places within a metre of
    each other would be one place in a log of map coordinates. A difference is rounding up to

    - two units in the last place of the coarser of the two types;
    - a thousandth of the column's usual step, which is as good as no difference;
    - half the grid of a column that was rounded before an offset was subtracted from it. Only
      where most rows follow each other so: those of shuffled data seldom do.

    The last row is followed by nothing.

    Args:
        observations, next_observations: one row for each step.
        seen: called with each block of rows, in order, while it is at hand.
    """
    alike = _Alike(observations, next_observations, seen)
    goes_on = alike.up_to(grids=False)
    if 2 * goes_on.sum() < len(goes_on):
        rounded = alike.up_to(grids=True)
        goes_on = rounded if 2 * rounded.sum() > len(goes_on) else goes_on
    return goes_on


class _Pairs(NamedTuple):
    """Rows, what each states of the row after it, and what that is."""

    rows: np.ndarray
    here: np.ndarray
    there: np.ndarray


class _Alike:
    """Rows beside the rows after them: which are equal, and a sample of each column."""

    def __init__(
        self, before: Readable, after: Readable, seen: Callable[[slice], None] | None
    ) -> None:
        self._before, self._after = before, after
        self._equal = np.zeros(len(before), bool)
        self._unlike: list[_Pairs] | None = []
        every = max(1, len(before) // _SAMPLE)
        samples: list[tuple[np.ndarray, np.ndarray]] = []
        over: np.ndarray | None = None  # what the row before the block says of its first row
        for rows in blocks(before):
            observed, stated = before[rows], after[rows]
            if over is not None:
                self._compare(rows.start - 1, over, observed[:1])
            self._compare(rows.start, stated[:-1], observed[1:])
            over = stated[-1:].copy()
            few = slice(-rows.start % every, None, every)
            samples.append((observed[few].copy(), stated[few].copy()))
            if seen is not None:
                seen(rows)
        self._samples = [np.concatenate(parts) for parts in zip(*samples, strict=True)]

    def _compare(self, first: int, here: np.ndarray, there: np.ndarray) -> None:
        equal = self._equal[first : first + len(here)]
        equal[:] = (here == there).all(axis=1)
        # Kept while they are few, so that a compressed file need not be read again for them.
        if self._unlike is not None and not equal.all():
            rows = np.flatnonzero(~equal)
            self._unlike.append(_Pairs(first + rows, here[rows], there[rows]))
            if sum(len(one.rows) for one in self._unlike) > len(self._before) // 50 + _FEW:
                self._unlike = None

    def _pairs(self) -> "Iterator[_Pairs]":
        """The rows that are not equal to what follows them, a few thousand at most at a time."""
        if self._unlike is not None:
            for one in self._unlike:
                for first in range(0, len(one.rows), _FEW):
                    yield _Pairs(*(part[first : first + _FEW] for part in one))
            return
        for first in range(0, len(self._equal) - 1, _FEW):
            last = min(first + _FEW, len(self._equal) - 1)
            rows = np.flatnonzero(~self._equal[first:last])
            if len(rows):
                here, there = self._after[first:last], self._before[first : last + 1]
                yield _Pairs(first + rows, here[rows], there[rows + 1])

    # NaN and infinity are named by a check of their own.
    @np.errstate(invalid="ignore", over="ignore")
    def up_to(self, *, grids: bool) -> Bool[np.ndarray, " steps"]:
        """Which rows follow each other, up to rounding."""
        agree = self._equal.copy()
        if agree[:-1].all():
            return agree
        columns = list(zip(*(table.T for table in self._samples), strict=True))
        precision = np.array([max(map(_precision, samples)) for samples in columns])
        allowed_at_least = 1e-3 * np.array([_usual_step(*samples) for samples in columns])
        if grids:
            rounding = np.array([_rounding(*samples) for samples in columns])
            allowed_at_least = np.maximum(allowed_at_least, 0.5001 * rounding)
        for rows, here, there in self._pairs():
            equal = here == there
            here, there = here.astype(np.float64), there.astype(np.float64)
            allowed = precision * np.maximum(np.abs(here), np.abs(there))
            allowed = np.maximum(allowed, allowed_at_least)
            equal |= (np.abs(here - there) <= allowed) | (np.isnan(here) & np.isnan(there))
            agree[rows] = equal.all(axis=1)
        return agree


def _precision(values: Shaped[np.ndarray, " n"]) -> float:
    """The relative error of a column's numbers."""
    if values.dtype.kind != "f":
        return 0.0
    own = 2.0 * float(np.finfo(values.dtype).eps)
    if values.dtype.itemsize <= 4 or (values.astype(np.float32) != values).any():
        return own
    return 0.5 * float(np.finfo(np.float32).eps)  # rounded once, and stored in a wider type


def _usual_step(observed: Shaped[np.ndarray, " n"], stated: Shaped[np.ndarray, " n"]) -> float:
    """The median of the steps that move the column at all; 0 where none does."""
    moves = np.abs(stated.astype(np.float64) - observed.astype(np.float64))
    moves = moves[(moves > 0) & np.isfinite(moves)]
    return float(np.median(moves)) if len(moves) else 0.0


def _rounding(observed: Shaped[np.ndarray, " n"], stated: Shaped[np.ndarray, " n"]) -> float:
    """The grid of one of two columns; 0 where both lie on it, since then nothing was rounded."""
    coarse, fine = sorted((_grid(observed), _grid(stated)), reverse=True)
    return coarse if fine < 0.1 * coarse else 0.0


def _grid(values: Shaped[np.ndarray, " n"]) -> float:
    """The spacing that all values are multiples of, counted from the least; 0 where none is."""
    distinct = np.unique(values[np.isfinite(values)].astype(np.float64))
    if len(distinct) < 6:  # so few may lie on a grid by chance
        return 0.0
    spacing = float(np.diff(distinct).min())
    multiples = (distinct - distinct[0]) / spacing
    off = np.abs(multiples - np.round(multiples)).max()
    return spacing if off < 0.01 else 0.0

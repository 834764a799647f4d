"""How far a state moves in a step, and whether one row follows another: what tells a reset."""

import numpy as np
from jaxtyping import Bool, Float, Shaped

_SAMPLE = 10_000  # rows: enough for a median step or a grid, however long the log


@np.errstate(over="ignore", invalid="ignore")  # numbers of the source, as large as they are
def displacement(
    state: Shaped[np.ndarray, "steps state"], ordinary: Bool[np.ndarray, " moves"], *, scaled: bool
) -> Float[np.ndarray, " moves"]:
    """How far the state moves from each row to the next (one row fewer than `state`).

    With `scaled`, each column counts in units of its root mean square over the ordinary moves.
    """
    total = np.zeros(len(state) - 1)
    for column in state.T:  # by column: a full difference in float64 would triple the memory
        move = np.square(np.diff(column.astype(np.float64)))
        scale = move[ordinary].mean() if scaled else 1.0
        total += move / scale if scale > 0 else np.where(move > 0, np.inf, 0.0)
    return np.sqrt(total)


def follows(
    observations: Shaped[np.ndarray, "steps observation"],
    next_observations: Shaped[np.ndarray, "steps observation"],
) -> Bool[np.ndarray, " steps"]:
    """Whether each row's next observation is, but for rounding, the observation of the next row.

    Compared column by column in the precision of the source: in float32, places within a metre of
    each other would be one place in a log of map coordinates. A difference is rounding up to

    - two units in the last place of the coarser of the two types;
    - a thousandth of the column's usual step, which is as good as no difference;
    - half the grid of a column that was rounded before an offset was subtracted from it. Only
      where most rows follow each other so: those of shuffled data seldom do.

    The last row is followed by nothing.
    """
    goes_on = _agree(observations, next_observations, grids=False)
    if 2 * goes_on.sum() < len(goes_on):
        rounded = _agree(observations, next_observations, grids=True)
        goes_on = rounded if 2 * rounded.sum() > len(goes_on) else goes_on
    return goes_on


# NaN and infinity are named by a check of their own.
@np.errstate(invalid="ignore", over="ignore")
def _agree(before: np.ndarray, after: np.ndarray, *, grids: bool) -> Bool[np.ndarray, " steps"]:
    agree = np.ones(len(before), bool)
    agree[-1:] = False
    for observed, stated in zip(before.T, after.T, strict=True):
        rows = np.flatnonzero(agree[:-1] & (stated[:-1] != observed[1:]))
        if len(rows) == 0:
            continue
        here, there = stated[rows].astype(np.float64), observed[rows + 1].astype(np.float64)
        few = slice(None, None, max(1, len(before) // _SAMPLE))
        samples = observed[few], stated[few]
        allowed = max(map(_precision, samples)) * np.maximum(np.abs(here), np.abs(there))
        allowed = np.maximum(allowed, 1e-3 * _usual_step(*samples))
        if grids:
            allowed = np.maximum(allowed, 0.5001 * _rounding(*samples))
        same = (np.abs(here - there) <= allowed) | (np.isnan(here) & np.isnan(there))
        agree[rows[~same]] = False
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

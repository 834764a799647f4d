"""How far a state moves in a step: what distinguishes a reset from an ordinary step."""

import numpy as np
from jaxtyping import Bool, Float, Shaped


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

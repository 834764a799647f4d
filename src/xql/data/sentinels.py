"""Numbers and texts that may stand for a missing value: -999, 9999, "unknown"."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from xql.data.cells import MARKS, MISSING

_OFTEN = 3
"""Times that any number must occur."""
_DISTINCT = 10
"""Numbers that must differ beside it: of a few levels, each may be far from the others."""


def suspicious_numbers(
    values: Float[np.ndarray, " rows"], *, codes_only: bool = False
) -> list[tuple[float, int]]:
    """Numbers of a column that occur often and far outside the others, and how often.

    A code such as -999 or 9999 needs to occur twice, a quarter of the others' range away from them.
    Any other needs three times that range, and 0 is none: much that is switched off is 0.

    Args:
        values: a column; NaN is left out.
        codes_only: whether no other numbers count, as of rewards: a goal's may well be far away.
    """
    found = []
    ordered = values[~np.isnan(values)]
    ordered.sort()
    distinct = ordered[np.append(np.full(ordered[:1].shape, True), ordered[1:] != ordered[:-1])]
    first, last = 0, len(distinct)
    while last - first > 2:
        inside = distinct[first + 1 : last - 1]
        span = float(inside[-1] - inside[0])
        gaps = (
            float(distinct[first + 1] - distinct[first]),
            float(distinct[last - 1] - inside[-1]),
        )
        for place, gap in zip((first, last - 1), gaps, strict=True):
            number = float(distinct[place])
            until = np.searchsorted(ordered, distinct[place], side="right")
            count = int(until - np.searchsorted(ordered, distinct[place]))
            code = _is_code(number) and count >= 2 and gap > 0.25 * span
            odd = number != 0.0 and count >= _OFTEN and gap > 3.0 * span > 0.0
            if code or (odd and not codes_only and len(inside) >= _DISTINCT):
                found.append((number, count))
                first, last = (first + 1, last) if place == first else (first, last - 1)
                break
        else:
            break
    return sorted(found)


def _is_code(number: float) -> bool:
    return bool(re.fullmatch(r"-?9{2,}(\.9+)?|-9(\.9+)?", f"{number:.10g}"))


def suspicious_texts(categories: Sequence[str]) -> list[str]:
    """Those of a column's categories that may say that nothing is known.

    "none" is left out: to do nothing is a decision.
    """
    known = {*MISSING, *MARKS} - {"none"}
    return [one for one in categories if one.lower() in known]

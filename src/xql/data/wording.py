"""Numbers, names and shares as messages about a table show them."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped


def natural(values: Shaped[np.ndarray, " rows"]) -> list[str]:
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


def percent(share: float) -> str:
    """A share between 0 and 1 in percent."""
    hundredths = 100.0 * share
    return f"{hundredths:.1f} %" if hundredths >= 0.1 or hundredths == 0 else "under 0.1 %"


def few(texts: Sequence[str], most: int = 5) -> str:
    """The first of some texts, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return f"{', '.join(texts[:most])}{more}"


def shown(value: Any) -> str:
    """One cell; a dash where it is missing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[s]"))
    if isinstance(value, float):
        return f"{value:.10g}" if abs(value) >= 1e5 else f"{value:.6g}"
    return str(value)

"""What was made of a table, in a few lines."""

from collections.abc import Iterator, Sequence

import numpy as np

from xql.data.dataset import Dataset
from xql.data.roles import Roles
from xql.data.rows import Rows
from xql.data.steps import Steps
from xql.data.table_files import Table
from xql.data.wording import few, natural, percent, shown

_SHOWN = 3  # of the first rows


def preview(
    tables: Sequence[Table], rows: Rows, roles: Roles, steps: Steps, dataset: Dataset
) -> str:
    """What was made of a table: its columns, episodes, and whatever a user should know."""
    files = tables[0].where if len(tables) == 1 else f"{len(tables)} tables"
    lines = [f"{files}: {len(rows.row):,} rows"]
    header = ("column", "role", "missing", "range", "first rows")
    cells = [header, *_column_lines(rows, roles, steps)]
    widths = [max(len(row[place]) for row in cells) for place in range(4)]
    for row in cells:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        lines.append("  ".join(["", *padded, row[4]]).rstrip())
    unused = [name for name in tables[0].names if name not in rows.values]
    if unused:
        lines.append(f"not used: {few(unused, 8)}")
    lengths = steps.lengths
    by = "" if roles.episode is None else f" of {roles.episode}"
    lines.append(
        f"episodes: {len(lengths):,}{by}, of {int(np.median(lengths)):,} rows "
        f"(median; {lengths.min():,} to {lengths.max():,})"
    )
    if steps.usual_step:
        lines.append(f"time: {steps.usual_step}")
    ended = int(dataset.terminated.sum())
    lines.append(
        f"transitions: {dataset.transitions:,} in {dataset.episodes:,} episodes, {ended:,} of "
        "which terminate"
    )
    lines += [f"{one.severity}: {one.what} ({one.where}); {one.hint}" for one in steps.findings]
    return "\n".join(lines)


def _column_lines(rows: Rows, roles: Roles, steps: Steps) -> Iterator[tuple[str, ...]]:
    for name, values in rows.values.items():
        present = values[~rows.missing(name)]
        role = roles.of(name)
        if name in roles.categorical:
            found = natural(values)
            spread, role = few(found, 4), f"{role}, {len(found)} categories"
            if name in roles.action:
                taken = [percent(float((values == one).mean())) for one in found]
                spread = few([f"{one} {share}" for one, share in zip(found, taken, strict=True)], 6)
        elif values.dtype == object:
            found = natural(values)
            spread = f"{found[0]} to {found[-1]}"
        else:
            spread = f"{shown(present.min())} to {shown(present.max())}" if len(present) else ""
        share = percent(steps.missing[name]) if steps.missing[name] else ""
        first = ", ".join(shown(value) for value in values[:_SHOWN])
        first = first if len(first) <= 40 else f"{first[:39]}…"
        yield name, role, share, spread, first

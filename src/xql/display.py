"""How runs, datasets and policies show themselves in a notebook."""

import html
from collections.abc import Mapping, Sequence


def html_table(title: str, values: Mapping[str, object]) -> str:
    """A small table of names and values, each as text."""
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name.replace("_", " "))}</th>'
        f'<td style="text-align:left">{html.escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
    return f"<table><caption>{html.escape(title)}</caption><tbody>{rows}</tbody></table>"


def html_rows(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of rows under a header, each cell as text."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    caption = f"<caption>{html.escape(title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

"""How runs, datasets and policies show themselves in a notebook."""

import html
from collections.abc import Mapping


def html_table(title: str, values: Mapping[str, object]) -> str:
    """A small table of names and values, each as text."""
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name.replace("_", " "))}</th>'
        f'<td style="text-align:left">{html.escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
    return f"<table><caption>{html.escape(title)}</caption><tbody>{rows}</tbody></table>"

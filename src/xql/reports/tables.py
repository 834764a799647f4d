"""A header and rows of text as Markdown, CSV or LaTeX."""

import csv
import io
from collections.abc import Sequence

Header = Sequence[str]
Rows = Sequence[Sequence[str]]

_LATEX = {
    "\\": r"\textbackslash{}",
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "^": r"\^{}",
    "~": r"\~{}",
    "β": r"$\beta$",
    "±": r"$\pm$",
    "→": r"$\to$",
    "<": r"$<$",
    ">": r"$>$",
    "–": "--",
    "−": "$-$",
    "≥": r"$\geq$",
}


def as_markdown(header: Header, rows: Rows) -> str:
    """A Markdown table, its columns aligned so that it reads as text too."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join("| " + " | ".join(map(str.ljust, line, widths)) + " |\n" for line in lines)


def as_csv(header: Header, rows: Rows) -> str:
    """Comma-separated values with one header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def as_latex(header: Header, rows: Rows, left: int = 1) -> str:
    r"""A LaTeX tabular with booktabs' rules (`\usepackage{booktabs}`).

    Args:
        header: the names of the columns.
        rows: the cells.
        left: how many columns are text and stand left; the others stand right.
    """
    columns = "l" * left + "r" * (len(header) - left)
    body = [_latex_line(line) for line in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_line(header),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_line(cells: Sequence[str]) -> str:
    texts = ("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells)
    # A cell that begins with [ would be read as the optional argument of the \\ before it.
    return " & ".join(f"{{}}{text}" if text.startswith("[") else text for text in texts) + r" \\"

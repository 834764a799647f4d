"""`xql compare`: any set of runs as one table and one figure."""

import csv
import io
from pathlib import Path
from typing import Annotated, Literal

import tyro

from xql.cli.console import note, print_words, result


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
    out: Path | None = None,
    format: Literal["markdown", "csv", "latex"] = "markdown",
    quantity: Literal["success", "score", "return"] | None = None,
    seed: int = 0,
) -> None:
    """Compare runs: mean, IQM and interval over seeds, probability of improvement, profiles.

    Args:
        runs: run folders, folders of run folders, or of a sweep. Runs of one method on the same
            data with other seeds are more seeds of it.
        out: a folder for the tables, as Markdown, CSV and LaTeX, and the figure; only prints
            without it.
        format: of what is printed.
        quantity: what to compare; without it the success rate where every episode of a task
            reports it, else the normalised score, else the return.
        seed: of the bootstrap.
    """
    from xql.errors import decoration, require_seed
    from xql.files import write_texts
    from xql.reports.compare import compare as compare_runs
    from xql.reports.plots import plot_comparison
    from xql.runs.folder import RunFolder

    require_seed(seed)
    if out is not None:
        RunFolder.require_free(out)
    found = compare_runs(runs, quantity=quantity, seed=seed)
    shown = {"markdown": found.markdown, "csv": found.csv, "latex": found.latex}[format]()
    for line in shown.splitlines():
        is_prose = format == "markdown" and not line.startswith("|")
        (print_words if is_prose else print)(line)
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    if out is None:
        note("--out DIR keeps the tables and draws the figure")
        result(rows=rows)
        return
    files = {
        "comparison.md": found.markdown(),
        "comparison.tex": found.latex(),
        "comparison.csv": found.csv(),
        "improvement.csv": found.pairs_csv(),
        "profiles.csv": found.profiles_csv(),
    }
    write_texts(out, files)
    written = "tables"
    with decoration("figure"):
        plot_comparison(found, out / "comparison.png")
        written = "tables and figure"
    note(f"{written}: {out}")
    result(rows=rows, out=str(out))

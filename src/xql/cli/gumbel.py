"""`xql gumbel`: the soft maximum by example, Gumbel regression on a CSV, the law of errors."""

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from jaxtyping import Float64

from xql import errors as user_errors
from xql.errors import InputError

if TYPE_CHECKING:
    from xql.gumbel import ErrorFits

_FIGURES = (".png", ".svg", ".pdf")


def demo() -> None:
    """Show what a log-partition is, that regression finds it, and the limits of log-sum-exp."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_partition_table())
    console.print(_limits_table())


def _partition_table() -> object:
    """Each term of log Σ e^{θx}, and the same total found by Gumbel regression on θx."""
    from rich.table import Table
    from scipy.optimize import brentq

    from xql.gumbel import log_partition

    theta, x = 1.5, np.arange(1.0, 6.0)
    scores = theta * x
    direct = float(log_partition(scores.astype(np.float32)))
    # The regression's h* is the mean form log E[e^{θx}]; five equal draws make it log Z − log 5.
    regressed = float(brentq(lambda h: np.expm1(scores - h).mean(), 0.0, 20.0)) + np.log(5.0)
    table = Table(title=f"The log-partition log Σ e^(θx), θ = {theta:g}", show_footer=True)
    table.add_column("x", "total")
    table.add_column("θx", justify="right")
    table.add_column("e^(θx)", f"{np.exp(scores).sum():.5f}", justify="right")
    table.add_column("log Σ up to here", f"{direct:.5f}", justify="right")
    table.add_column("probability e^(θx)/Z", "1.00000", justify="right")
    table.add_column("e^(θx − h), h by regression", f"{regressed:.5f}", justify="right")
    for row, value in enumerate(x):
        table.add_row(
            f"{value:g}",
            f"{scores[row]:.1f}",
            f"{np.exp(scores[row]):.5f}",
            f"{np.log(np.exp(scores[: row + 1]).sum()):.5f}",
            f"{np.exp(scores[row] - direct):.5f}",
            f"{np.exp(scores[row] - regressed):.5f}",
        )
    table.caption = (
        f"log Z: {direct:.5f} by summing, {regressed:.5f} as the minimiser of "
        "E(e^z − z − 1), z = θx − h, plus log 5"
    )
    return table


def _limits_table() -> object:
    """The mean form runs from the maximum to the mean; the sum form leaves both behind."""
    from rich.table import Table

    from xql.gumbel import log_mean_exp, log_sum_exp

    x = np.arange(1.0, 6.0, dtype=np.float32)
    table = Table(title="The limits of log-sum-exp for x = 1 … 5: mean 3, maximum 5")
    for heading in ("β", "mean form β log E e^(x/β)", "sum form β log Σ e^(x/β)"):
        table.add_column(heading, justify="right")
    for beta in (0.01, 0.1, 1.0, 10.0, 100.0, 1e4, 1e6):
        mean, total = float(log_mean_exp(x, beta)), float(log_sum_exp(x, beta))
        table.add_row(f"{beta:g}", f"{mean:.5f}", f"{total:.5f}")
    table.caption = "They differ by β log 5: only the mean form tends to the mean as β grows."
    return table


def fit(
    file: tyro.conf.Positional[Path],
    target: str,
    features: str,
    beta: float = 1.0,
    model: Literal["linear", "mlp"] = "linear",
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Regress the soft maximum β log E[e^(y/β) | x] of one CSV column on others.

    Args:
        file: a CSV file whose first line names the columns.
        target: the column y.
        features: the columns x, separated by commas: a,b.
        beta: temperature, in the unit of y: large gives the mean, small the largest values.
        model: linear (solved to convergence) or mlp (a small neural network).
        out: write the predictions to this new CSV file.
        seed: of the mlp's initial weights.
    """
    from rich.console import Console

    user_errors.require("sklearn", "regression")
    from xql.gumbel.regression import GumbelRegressor

    if not 0 < beta < np.inf:
        raise InputError(f"{beta:g} is no temperature", where="--beta", hint="give one above 0")
    user_errors.require_seed(seed)
    if out is not None:
        _require_new(out)
    names = [name.strip() for name in features.split(",") if name.strip()]
    if not names:
        raise InputError("no column is named", where="--features", hint="give some: a,b")
    table = _read_columns(file, [*names, target])
    X, y = table[:, :-1], table[:, -1]
    regressor = GumbelRegressor(beta, model=model, random_state=seed).fit(X, y)
    predictions = regressor.predict(X)
    Console(highlight=False).print(_fit_table(regressor, names, y - predictions))
    if out is not None:
        with out.open("x", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow([*names, target, "prediction"])
            writer.writerows(np.column_stack([table, predictions]).tolist())
        print(f"predictions: {out}")


def _fit_table(
    regressor: object, names: list[str], residuals: Float64[np.ndarray, " rows"]
) -> object:
    """What was fitted, how well the optimum was met, and what is left."""
    from rich.markup import escape
    from rich.table import Table

    fitted = vars(regressor)
    table = Table("quantity", title=f"Gumbel regression, β = {fitted['beta']:g}")
    table.add_column("value", justify="right")
    for name, slope in zip(names, fitted.get("coef_", ()), strict=False):
        table.add_row(f"coefficient of {escape(name)}", f"{slope:.6g}")
    if "intercept_" in fitted:
        table.add_row("intercept", f"{fitted['intercept_']:.6g}")
    table.add_row(r"E\[e^z] (1 at the optimum)", f"{fitted['mean_exp_']:.6f}", end_section=True)
    table.add_row("rows", str(len(residuals)))
    for label, value in (
        ("mean", residuals.mean()),
        ("standard deviation", residuals.std()),
        ("smallest", residuals.min()),
        ("median", np.median(residuals)),
        ("largest", residuals.max()),
    ):
        table.add_row(f"residual: {label}", f"{value:.6g}")
    table.add_row("share of the target above", f"{(residuals > 0).mean():.3f}")
    return table


def errors(
    source: tyro.conf.Positional[Path],
    column: str = "error",
    plot: Path | None = None,
    member: int = 0,
    transitions: int = 5_000,
    seed: int = 0,
) -> None:
    """Fit Gumbel (either skew), normal and logistic to errors, best first.

    Args:
        source: a CSV file whose first line names the columns; or a run's folder, for the Bellman
            errors of its latest checkpoint.
        column: of a file: the one that holds the errors.
        plot: draw histogram and densities to this new file (.png, .svg or .pdf).
        member: of a run: which one.
        transitions: of a run: how many, from its replay.npz, else played anew or from its data.
        seed: of a run: of their draw.
    """
    from rich.console import Console

    from xql.gumbel import fit_errors, plot_fits

    if plot is not None:
        _require_new(plot)
        if plot.suffix.lower() not in _FIGURES:
            raise InputError(
                f"'{plot.suffix}' is no type of figure",
                where=str(plot),
                hint=f"end its name in {', '.join(_FIGURES)}",
            )
        user_errors.require("matplotlib", "report")
    if source.is_dir():
        from xql.training.transitions import run_errors

        found = run_errors(source, index=member, transitions=transitions, seed=seed)
        values, where = found.errors, str(source)
        print(f"{found.formula}, member {member}, {found.origin}")
    else:
        values, where = _read_columns(source, [column])[:, 0], f"{source}, column {column}"
    try:
        fits = fit_errors(values)
    except ValueError as error:
        raise InputError(str(error), where=where) from None
    Console(highlight=False).print(_fits_table(fits, len(values)))
    if plot is not None:
        print(f"plot: {plot_fits(values, fits, plot)}")


def _fits_table(fits: "ErrorFits", count: int) -> object:
    """The families, best first. Seven columns must fit 80 characters, which is what a pipe gets."""
    from rich import box
    from rich.table import Table

    title = f"{count} errors, best fit first"
    table = Table(title=title, box=box.SIMPLE, collapse_padding=True)
    table.add_column("family", no_wrap=True)
    for heading in ("location", "scale", "log L", "AIC", "KS", "p (KS)"):
        table.add_column(heading, justify="right")
    for found in fits.fits:
        table.add_row(
            found.name,
            f"{found.location:.4g}",
            f"{found.scale:.4g}",
            f"{found.log_likelihood:.1f}",
            f"{found.aic:.1f}",
            f"{found.ks_statistic:.4f}",
            f"{found.ks_pvalue:.2g}",
        )
    return table


def _require_new(path: Path) -> None:
    """Check, before any work, that a file can be made at `path`."""
    if path.exists():
        raise InputError("the file exists", where=str(path), hint="name a new one")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder '{path.parent}'", where=str(path), hint="make it")
    if not os.access(path.parent, os.W_OK):
        raise InputError("its folder cannot be written", where=str(path), hint="name another")


def _read_columns(file: Path, columns: list[str]) -> Float64[np.ndarray, "rows columns"]:
    """Read the named columns of a CSV file with a header, in the order asked for.

    Raises:
        InputError: no such file, no such column, a cell that is no finite number, no row at all.
    """
    if not file.is_file():
        raise InputError("there is no such file", where=str(file), hint="check the path")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            for column in columns:
                if column not in header:
                    raise InputError(
                        f"there is no column '{column}'",
                        where=str(file),
                        hint=user_errors.nearest(column, header),
                    )
            places = [header.index(column) for column in columns]
            rows = [
                [
                    _number(row, place, f"{file}, line {reader.line_num}", name)
                    for place, name in zip(places, columns, strict=True)
                ]
                for row in reader
                if row
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"this is no CSV text ({error})", where=str(file), hint="save it as UTF-8 CSV"
        ) from None
    if not rows:
        raise InputError("there is no row below the header", where=str(file), hint="add data")
    return np.array(rows, dtype=np.float64)


def _number(row: list[str], place: int, where: str, name: str) -> float:
    cell = row[place].strip() if place < len(row) else ""
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(
            f"'{cell}' is no finite number",
            where=f"{where}, column {name}",
            hint="remove the row",
        )
    return value

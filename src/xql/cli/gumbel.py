"""`xql gumbel`: a worked log-partition, Gumbel regression on a CSV, distributions of errors."""

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from jaxtyping import Float64

from xql import errors as user_errors
from xql.cli.train import Trust
from xql.data.reading import require_file
from xql.errors import InputError
from xql.files import whole_file

if TYPE_CHECKING:
    from rich.table import Table

    from xql.gumbel import ErrorFits

MOST_COLUMNS = 10_000
_FIGURES = (".png", ".svg", ".pdf")


def demo() -> None:
    """Compute a log-partition directly and by Gumbel regression; show the limits of log-sum-exp."""
    from xql.cli.console import plain_console
    from xql.jax_config import require_device

    require_device()
    console = plain_console()
    for title, table, notes in (_partition(), _limits()):
        console.print(title, style="bold")
        console.print()
        console.print(table)
        console.print()
        console.print(notes)
        console.print()


def _table(*headings: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _partition() -> "tuple[str, Table, str]":
    """Each term of log Σ exp f(x, θ) for f = θx; then its value from all terms, in three ways."""
    import jax
    import jax.numpy as jnp

    from xql.gumbel import gumbel_loss, log_partition, soft_policy

    theta, x = 1.5, np.arange(1.0, 6.0, dtype=np.float32)
    f = theta * x
    p = np.asarray(soft_policy(f, 1.0))
    log_ratio = np.log(np.exp(f) / p)
    title = f"The log-partition log Σ exp f(x, θ) for f(x, θ) = θx, θ = {theta:g}"
    table = _table("x", "f(x, θ)", "exp f", "p_θ(x)", "log(exp f / p_θ)")
    for row in range(len(x)):
        table.add_row(
            f"{x[row]:g}",
            f"{f[row]:.1f}",
            f"{np.exp(float(f[row])):.5f}",
            f"{p[row]:.5f}",
            f"{log_ratio[row]:.5f}",
        )

    gradient = jax.grad(lambda h: gumbel_loss(f - h, kind="plain"), has_aux=True)
    h = jnp.mean(f)
    for _ in range(20):
        slope, diagnostics = gradient(h)
        h = h - slope / diagnostics.mean_exp  # Newton's method: the second derivative is E[e^z]
    # The minimiser is the mean form log E[e^f]; over n equally likely values that is log Z − log n.
    regressed = float(h) + np.log(len(x))
    notes = "\n".join(
        f"{name:>18} {value:.5f}   {formula}"
        for name, value, formula in (
            ("expected value", p @ log_ratio, "E_p[log(exp f / p_θ)]"),
            ("log-partition", float(log_partition(f)), "log Σ exp f, computed directly"),
            ("Gumbel regression", regressed, "log 5 + argmin over h of E[e^z − z − 1], z = f − h"),
        )
    )
    return title, table, notes


def _limits() -> "tuple[str, Table, str]":
    """The mean form goes from the maximum to the mean as β grows; the sum form diverges."""
    from xql.gumbel import log_mean_exp, log_sum_exp

    x = np.arange(1.0, 6.0, dtype=np.float32)
    title = "The limits of log-sum-exp for x = 1, …, 5: mean 3, maximum 5"
    table = _table("β", "mean form, β log E e^(x/β)", "sum form, β log Σ e^(x/β)")
    for beta in (0.01, 0.1, 1.0, 10.0, 100.0, 1e4, 1e6):
        mean, total = float(log_mean_exp(x, beta)), float(log_sum_exp(x, beta))
        table.add_row(f"{beta:,.10g}", f"{mean:.5f}", f"{total:.2f}")
    return (
        title,
        table,
        (
            " As β → 0 both tend to the maximum; as β → ∞ only the mean form tends to the\n"
            " mean. The sum form is larger by β log 5."
        ),
    )


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
        beta: temperature, in the unit of y; the fit tends to the conditional mean for a large one,
            to the maximum for a small one.
        model: linear (solved to convergence) or mlp (a small neural network).
        out: write the predictions to this new CSV file.
        seed: random seed of the mlp's initial weights.
    """
    from xql.cli.console import plain_console

    user_errors.require("sklearn", "regression")
    from xql.gumbel.regression import GumbelRegressor

    if not 0 < beta < np.inf:
        raise InputError(
            f"{beta:g} is not a valid temperature",
            where="--beta",
            hint="give a finite number above 0",
        )
    user_errors.require_seed(seed)
    if out is not None:
        _require_new(out)
    names = [name.strip() for name in features.split(",") if name.strip()]
    if not names:
        raise InputError(
            "no column is named", where="--features", hint="separate names by commas: a,b"
        )
    table = _read_columns(file, [*names, target])
    X, y = table[:, :-1], table[:, -1]
    try:
        regressor = GumbelRegressor(beta, model=model, random_state=seed).fit(X, y)
    except ValueError as error:
        raise InputError(str(error), where=str(file)) from None
    predictions = regressor.predict(X)
    plain_console().print(_fit_table(regressor, names, y - predictions))
    if out is not None:
        with (
            whole_file(out, "table") as draft,
            draft.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow([*names, target, "prediction"])
            writer.writerows(np.column_stack([table, predictions]).tolist())
        print(f"predictions: {out}")


def _fit_table(
    regressor: object, names: list[str], residuals: Float64[np.ndarray, " rows"]
) -> object:
    """The fitted parameters, the optimality condition E[e^z] = 1, and the residuals."""
    from rich.table import Table

    fitted = vars(regressor)
    table = Table("quantity", title=f"Gumbel regression, β = {fitted['beta']:g}")
    table.add_column("value", justify="right")
    for name, slope in zip(names, fitted.get("coef_", ()), strict=False):
        table.add_row(f"coefficient of {name}", f"{slope:.6g}")
    if "intercept_" in fitted:
        table.add_row("intercept", f"{fitted['intercept_']:.6g}")
    table.add_row("E[e^z] (1 at the optimum)", f"{fitted['mean_exp_']:.6f}", end_section=True)
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
    step: int | None = None,
    transitions: int = 5_000,
    seed: int = 0,
    data: str | None = None,
    trust_environment: Trust = (),
) -> None:
    """Fit Gumbel (either skew), normal and logistic distributions to errors, best first.

    Args:
        source: a CSV file whose first line names the columns; or a run folder, for the Bellman
            errors of a checkpoint.
        column: CSV only: the column of errors.
        plot: draw histogram and densities to this new file (.png, .svg or .pdf).
        member: run only: index of the member.
        step: run only: step of the checkpoint; the latest without it.
        transitions: run only: number of transitions, sampled from its replay.npz if it has one,
            else collected anew (online) or sampled from its data (offline).
        seed: run only: random seed of that sample.
        data: run only: its data, where that lies elsewhere now.
        trust_environment: run only: installed packages, or ids, whose environments it may name
            besides Gymnasium's, Gymnasium-Robotics' and xql's own.
    """
    from xql.cli.console import plain_console
    from xql.gumbel import fit_errors, plot_fits

    if plot is not None:
        _require_new(plot)
        if plot.suffix.lower() not in _FIGURES:
            raise InputError(
                f"'{plot.suffix}' is not a supported figure format",
                where=str(plot),
                hint=f"choose from {', '.join(_FIGURES)}",
            )
        user_errors.require_matplotlib()
    if source.is_dir():
        from xql.training.transitions import run_errors

        found = run_errors(
            source,
            index=member,
            step=step,
            transitions=transitions,
            seed=seed,
            trust=sum(trust_environment, ()),
            data=data,
        )
        values, where = found.errors, str(source)
        print(f"{found.formula}, member {member}, {found.origin}")
    else:
        values, where = _read_columns(source, [column])[:, 0], f"{source}, column {column}"
    try:
        fits = fit_errors(values)
    except ValueError as error:
        raise InputError(str(error), where=where) from None
    plain_console().print(_fits_table(fits, len(values)))
    if plot is not None:
        with user_errors.decoration("figure"):
            print(f"plot: {plot_fits(values, fits, plot)}")


def _fits_table(fits: "ErrorFits", count: int) -> object:
    """The families, best first. Seven columns have to fit into 80 characters, a pipe's width."""
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
        raise InputError("the file exists", where=str(path), hint="choose a new name")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder '{path.parent}'", where=str(path), hint="create it")
    if not os.access(path.parent, os.W_OK):
        raise InputError("its folder is not writable", where=str(path), hint="choose another")


def _read_columns(file: Path, columns: list[str]) -> Float64[np.ndarray, "rows columns"]:
    """Read the named columns of a CSV file with a header, in the requested order.

    Raises:
        InputError: no such file, no such column, a cell that is not a finite number, no rows.
    """
    require_file(file)
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(
                f"the column '{column}' is named twice",
                where="--features, --target",
                hint="name each one once",
            )
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            if len(header) > MOST_COLUMNS:
                raise InputError(
                    f"it has {len(header):,} columns",
                    where=str(file),
                    hint=f"keep those that are needed, at most {MOST_COLUMNS:,}",
                )
            for column in columns:
                if header.count(column) > 1:
                    raise InputError(
                        f"there are {header.count(column)} columns '{column}'",
                        where=str(file),
                        hint="rename the others",
                    )
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
            f"not a CSV text file ({error})", where=str(file), hint="save it as UTF-8 CSV"
        ) from None
    if not rows:
        raise InputError("there are no rows below the header", where=str(file), hint="add data")
    return np.array(rows, dtype=np.float64)


def _number(row: list[str], place: int, where: str, name: str) -> float:
    cell = row[place].strip() if place < len(row) else ""
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(
            f"{user_errors.brief(cell)} is not a finite number",
            where=f"{where}, column {name}",
            hint="remove the row",
        )
    return value

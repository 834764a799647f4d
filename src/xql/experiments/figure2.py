"""Figure 2 of Garg et al. 2023 (arXiv 2301.02328): Gumbel densities, the loss, its regression.

Left: densities of Gumbel(0, β). Middle: the loss e^z − z − 1 against the residual, and the linear
tail of the kind `linear`, drawn for c = 2 (at c = 5 it lies far above).
Right: noisy samples of y = 1 − x² and the soft maximum β log E[e^{y/β} | x] that Gumbel regression
learns from them: noise N(0, σ²) lifts it by σ²/(2β).
"""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from xql.errors import InputError, require, require_matplotlib, require_seed
from xql.experiments.compact import reduce_colours
from xql.files import made_folder, require_writable, save_figure, write_texts
from xql.reports.style import COLOURS, PAGE, look, panels, styled

DENSITY_BETAS = (0.75, 1.0, 1.5, 2.0)
LOSS_BETAS = (0.5, 1.0, 2.0)
REGRESSION_BETAS = (0.1, 0.25, 2.0)
NOISE = 0.2
_CLIP = 2.0

_TABLES = ("densities", "losses", "samples", "regression")

Column = Float64[np.ndarray, "_"]


def densities(points: int = 401) -> dict[str, Column]:
    """The density of Gumbel(0, β) over x, one column per β."""
    x = np.linspace(-4.0, 10.0, points)
    columns = {"x": x}
    for beta in DENSITY_BETAS:
        z = x / beta
        columns[f"density β={beta:g}"] = np.exp(-z - np.exp(-z)) / beta
    return columns


def losses(points: int = 401) -> dict[str, Column]:
    """The Gumbel loss against the residual x − h, one column per β; for the first the tail too."""
    import jax.numpy as jnp

    from xql.gumbel.losses import linear, plain
    from xql.jax_config import require_device

    require_device()
    residual = np.linspace(-3.0, 3.0, points)
    columns = {"residual": residual}
    for beta in LOSS_BETAS:
        z = jnp.asarray(residual / beta, jnp.float32)
        columns[f"loss β={beta:g}"] = np.asarray(plain(z), np.float64)
    z = jnp.asarray(residual / LOSS_BETAS[0], jnp.float32)
    columns[f"linear tail β={LOSS_BETAS[0]:g}"] = np.asarray(linear(z, _CLIP), np.float64)
    return columns


def regression(seed: int = 0, samples: int = 2000) -> tuple[dict[str, Column], dict[str, Column]]:
    """Samples of y = 1 − x² + N(0, 0.2²), and the curve fitted to them for each β.

    Returns:
        The samples (x, y), and the curves over a grid: the mean, and per β the fit and the truth.
    """
    require("sklearn", "report")
    from xql.gumbel.regression import GumbelRegressor

    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.0, 1.0, samples)
    y = 1.0 - x**2 + rng.normal(0.0, NOISE, samples)
    grid = np.linspace(-1.0, 1.0, 201)
    curves = {"x": grid, "mean": 1.0 - grid**2}
    for beta in REGRESSION_BETAS:
        # 8 tanh units fit a parabola; more would follow the largest residuals at small β.
        model = GumbelRegressor(
            beta, model="mlp", hidden_layer_sizes=(8,), alpha=1e-4, tol=1e-4, random_state=seed
        )
        curves[f"fit β={beta:g}"] = model.fit(x[:, None], y).predict(grid[:, None])
        curves[f"truth β={beta:g}"] = 1.0 - grid**2 + NOISE**2 / (2.0 * beta)
    return {"x": x, "y": y}, curves


def figure2(out: Path, seed: int = 0) -> Path:
    """Draw the three panels as `figure2.png` and `.svg`, and write every curve as CSV beside it.

    Args:
        out: a folder, made if need be; none of the six files may exist in it yet.
        seed: of the samples and of the regression; 0 to 2³² − 1.

    Returns:
        The path of the picture.

    Raises:
        InputError: one of the files exists, the folder cannot be made, or the seed is no seed.
    """
    require_matplotlib()
    require_seed(seed)
    require_writable(out, "figure")
    path = out / "figure2.png"
    pictures = (path.name, path.with_suffix(".svg").name)
    for name in (*pictures, *(_table(name) for name in _TABLES)):
        if (out / name).exists():
            raise InputError("the file exists", where=str(out / name), hint="name another folder")
    density, loss = densities(), losses()
    samples, curves = regression(seed)
    tables = {}
    for name, columns in zip(_TABLES, (density, loss, samples, curves), strict=True):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(np.column_stack(list(columns.values())).round(6).tolist())
        tables[_table(name)] = text.getvalue()
    with made_folder(out, "figure"):
        _draw(density, loss, samples, curves, path)
        write_texts(out, tables)
    return path


@styled
def _draw(
    density: dict[str, Column],
    loss: dict[str, Column],
    samples: dict[str, Column],
    curves: dict[str, Column],
    path: Path,
) -> Path:
    figure, axes = panels(3, 3, PAGE, 1.9)
    left, middle, right = axes
    _draw_densities(left, density)
    _draw_losses(middle, loss)
    _draw_regression(right, samples, curves)
    for one in axes:
        one.grid(axis="both")
        one.legend()
    save_figure(figure, path, vector=True)
    reduce_colours(path)
    return path


def _table(name: str) -> str:
    return f"figure2_{name}.csv"


def _line(index: int) -> dict[str, Any]:
    """The colour and the dash of a β."""
    return {name: one for name, one in look(index).items() if name != "marker"}


def _draw_densities(axes: Any, columns: dict[str, Column]) -> None:
    for index, beta in enumerate(DENSITY_BETAS):
        density = columns[f"density β={beta:g}"]
        axes.plot(columns["x"], density, **_line(index), label=f"β = {beta:g}")
    axes.set(
        title="The Gumbel distribution", xlabel="x", ylabel="density", xlim=(-4, 10), ylim=(0, None)
    )


def _draw_losses(axes: Any, columns: dict[str, Column]) -> None:
    x = columns["residual"]
    for index, beta in enumerate(LOSS_BETAS):
        axes.plot(x, columns[f"loss β={beta:g}"], **_line(index), label=f"β = {beta:g}")
    tail = columns[f"linear tail β={LOSS_BETAS[0]:g}"]
    beyond = x >= _CLIP * LOSS_BETAS[0]
    axes.plot(
        x[beyond],
        tail[beyond],
        color=COLOURS[6],
        ls=(0, (2, 1)),
        label=f"linear tail, c = {_CLIP:g}",
    )
    axes.set(
        title="Loss eᶻ − z − 1, z = (x−h)/β",
        xlabel="residual x − h",
        ylabel="loss",
        xlim=(-3, 3),
        ylim=(0, 12),
    )


def _draw_regression(axes: Any, samples: dict[str, Column], curves: dict[str, Column]) -> None:
    axes.scatter(samples["x"], samples["y"], s=5, color="0.78", linewidths=0, rasterized=True)
    axes.plot(
        curves["x"], curves["mean"], color=COLOURS[6], lw=1, ls=(0, (1, 1)), label="mean 1 − x²"
    )
    for index, beta in enumerate(REGRESSION_BETAS):
        axes.plot(curves["x"], curves[f"fit β={beta:g}"], **_line(index), label=f"β = {beta:g}")
    axes.set(
        title="Gumbel regression",
        xlabel="x",
        ylabel="y",
        xlim=(-1, 1),
        ylim=(-0.6, 1.9),
        xticks=np.linspace(-1.0, 1.0, 5),
    )

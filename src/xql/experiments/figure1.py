"""The paper's Figure 1: the Bellman errors of SAC, and which law they follow.

SAC (preset `default`) learns a task. Every so many steps the errors of a sample of its replay
buffer, r + γ·mask·Q₁(s', a') − Q₁(s, a) (`evaluation/bellman.py`), are kept, and Gumbel of either
skew, normal and logistic are fitted to each such checkpoint. Garg et al. say Gumbel, and show
errors skewed to the right; arXiv 2307.02345 says logistic. The table decides, task by task.

On the sign: as a likelihood of these errors (target − Q), the Gumbel loss e^z − z − 1 is that of
the *left*-skewed law. It finds the soft maximum whatever they follow.
"""

import csv
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key

from xql.agents import ONLINE, Batch, TrainState
from xql.agents.types import Backup
from xql.errors import InputError, decoration, require_matplotlib
from xql.evaluation.bellman import bellman_errors
from xql.experiments.cells import Cell, asked, train_cells
from xql.experiments.compact import reduce_colours
from xql.experiments.executors import local
from xql.gumbel.errors import LAWS, SHOWN, ErrorFits, draw_fits, fit_errors
from xql.presets import resolve
from xql.runs.config import EvaluationPlan, require_at_least
from xql.runs.folder import RunFolder
from xql.training.online import loop_for, train_online
from xql.training.replay import Replay

AGENT: Final = "sac"
PRESET: Final = "default"
TASKS = (
    "dm_control/cheetah-run",
    "dm_control/walker-run",
    "dm_control/hopper-hop",
    "HalfCheetah-v5",
)
SAMPLE = 5_000
"""Transitions at each checkpoint of each seed: 20 checkpoints of one seed are 0.4 MB."""
LEAST_EVERY = 100
REJECTED = 0.05
"""A law is rejected at a checkpoint where the p of its KS statistic is below this."""


class Checkpoint(NamedTuple):
    """The fits to the errors of one seed at one step, or of several together."""

    seed: int | None
    """None: all of them."""
    step: int | None
    """None: all of them."""
    errors: Float32[np.ndarray, " errors"]
    fits: ErrorFits


class Study(NamedTuple):
    """What one task came to."""

    task: str
    checkpoints: list[Checkpoint]
    """Every seed at every step."""
    last: Checkpoint
    """All seeds at the last step."""
    pooled: Checkpoint
    """All seeds at all steps, as the paper shows them."""
    episode_return: float
    """Of the policies at the last step."""
    frozen: list[int]
    """Seeds that diverged, and kept their last good networks."""


def train_keeping_errors(
    task: str, steps: int, every: int, seeds: Sequence[int], out: Path, progress: bool = True
) -> None:
    """Train one cell, and keep its errors as `errors.npz` beside its run.

    The file holds `steps` [checkpoints] and `errors` [seeds, checkpoints, transitions].
    """
    loop, size, plan = loop_for(steps), min(SAMPLE, every), _evaluation(steps, every)
    backup = ONLINE[AGENT].make(resolve(AGENT, PRESET, task).config, steps).backup
    assert backup is not None, "SAC has a critic"
    seen: list[int] = []
    kept: list[Float32[np.ndarray, "seeds transitions"]] = []

    def observe(step: int, population: TrainState, replay: Replay, filled: int) -> None:
        if step % every or step <= loop.warmup:
            return
        rows = np.random.default_rng(step).choice(filled, size, replace=False)
        keys = jax.random.split(jax.random.key(step), len(seeds))
        seen.append(step)
        kept.append(np.asarray(_replay_errors(population, replay, rows, keys, backup=backup)))

    train_online(
        task,
        agent=AGENT,
        preset=PRESET,
        steps=steps,
        seeds=seeds,
        out=out,
        loop=loop,
        evaluations=plan.evaluations,
        episodes=plan.episodes,
        last_episodes=plan.last_episodes,
        observe=observe,
        progress=progress,
    )
    np.savez_compressed(out / "errors.npz", steps=np.array(seen), errors=np.stack(kept, axis=1))


def _evaluation(steps: int, every: int) -> EvaluationPlan:
    """These bring the observer to every multiple of `every`; only the last plays episodes."""
    return EvaluationPlan(evaluations=steps // every, episodes=0, last_episodes=10)


@functools.partial(jax.jit, static_argnames="backup")
def _replay_errors(
    population: TrainState,
    replay: Replay,
    rows: Int[Array, " rows"],
    keys: Key[Array, " members"],
    *,
    backup: Backup,
) -> Float[Array, "members rows"]:
    """The errors of the same rows of every member's own buffer."""

    def one(state: TrainState, memory: Replay, key: Array) -> Array:
        batch = Batch(*(column[rows] for column in memory))
        own: Array = bellman_errors(state, batch, key, backup=backup)
        return own

    errors: Array = jax.vmap(one)(population, replay, keys)
    return errors


def cells(
    tasks: Sequence[str] = TASKS,
    *,
    steps: int = 100_000,
    every: int = 5_000,
    seeds: int = 1,
    quiet: bool = False,
) -> list[Cell]:
    """A cell for each task, all its seeds as one population.

    Raises:
        InputError: counts that cannot be used, or a task named twice.
    """
    require_at_least("steps", steps, 1)
    require_at_least("seeds", seeds, 1)
    require_at_least("every", every, LEAST_EVERY)
    if steps % every:
        raise InputError(
            f"--steps {steps} is no multiple of --every {every}",
            hint=f"give --steps {steps // every * every or every}",
        )
    if len(set(tasks)) < len(tasks):
        raise InputError(f"a task is named twice in {' '.join(tasks)}", hint="name each one once")
    return [_cell(task, steps, every, list(range(seeds)), quiet) for task in tasks]


def _cell(task: str, steps: int, every: int, seeds: list[int], quiet: bool) -> Cell:
    return Cell(
        f"{task}-{AGENT}",
        train_keeping_errors,
        {"task": task, "steps": steps, "every": every, "seeds": seeds, "progress": not quiet},
        asked(
            AGENT,
            PRESET,
            task,
            steps=steps,
            seeds=seeds,
            env=task,
            evaluation=_evaluation(steps, every),
            loop=loop_for(steps),
        ),
        {"every": every, "sample": min(SAMPLE, every)},
    )


def study(folder: Path, task: str) -> Study:
    """Fit every law to every checkpoint of a finished cell.

    Raises:
        InputError: the errors cannot be fitted.
    """
    run = RunFolder.open(folder)
    with np.load(folder / "errors.npz") as kept:
        steps, errors = kept["steps"].tolist(), kept["errors"]
    seeds = [one.seed for one in run.config.members]

    def fitted(seed: int | None, step: int | None, values: np.ndarray) -> Checkpoint:
        try:
            return Checkpoint(seed, step, values.ravel(), fit_errors(values))
        except ValueError as error:
            raise InputError(str(error), where=str(folder / "errors.npz")) from None

    last_step = run.config.steps
    returns = [row.episode_return for row in run.read_evaluations() if row.step == last_step]
    return Study(
        task,
        [
            fitted(seed, step, errors[member, number])
            for member, seed in enumerate(seeds)
            for number, step in enumerate(steps)
        ],
        last=fitted(None, steps[-1], errors[:, -1]),
        pooled=fitted(None, None, errors),
        episode_return=float(np.mean(returns)),
        frozen=[seeds[member] for member in run.read_frozen()],
    )


def figure1(
    out: Path,
    tasks: Sequence[str] = TASKS,
    *,
    steps: int = 100_000,
    every: int = 5_000,
    seeds: int = 1,
    jobs: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """Train what is missing, and write figure1.png, figure1.csv and figure1.md from what there is.

    Args:
        out: a folder, made if need be; finished cells in its `cells` are not trained again, the
            three files are written anew.
        tasks: environments.
        steps: of each seed.
        every: steps between two checkpoints.
        seeds: how many for each task.
        jobs: how many tasks to train at a time.
        say: called with each step of progress, in words.

    Returns:
        The text of figure1.md.

    Raises:
        InputError: nothing can be written, or no task could be trained.
    """
    require_matplotlib()
    executor = local(jobs)
    wanted = cells(tasks, steps=steps, every=every, seeds=seeds, quiet=jobs > 1)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"no figure can be written here ({error.strerror})", where=str(out), hint="name --out"
        ) from None
    outcomes = train_cells(wanted, out / "cells", executor, say=say)
    studies, problems = [], []
    for task, cell in zip(tasks, wanted, strict=True):
        folder, problem = outcomes[cell.name]
        try:
            if folder is not None:
                studies.append(study(folder, task))
        except InputError as error:
            problem = str(error)
        if problem:
            problems.append(f"{task} is not shown: {problem}")
    if not studies:
        raise InputError("; ".join(problems) or "there is no task", hint="name others with --tasks")
    command = f"xql paper figure1 --tasks {' '.join(tasks)} --steps {steps} --every {every}"
    text = report(studies, f"{command} --seeds {seeds}", problems)
    (out / "figure1.md").write_text(text, encoding="utf-8")
    write_csv(studies, out / "figure1.csv")
    with decoration("figure", say):
        draw(studies, out / "figure1.png")
        reduce_colours(out / "figure1.png")
    return text


def write_csv(studies: Sequence[Study], path: Path) -> None:
    """One row for each fitted law: of every checkpoint, of the last ones together, and of all."""
    header = "task,seed,step,errors,distribution,location,scale"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*header.split(","), "mean_log_likelihood", "aic", "ks_statistic", "ks_p"])
        for one in studies:
            for at in (*one.checkpoints, one.last, one.pooled):
                place = ["all" if value is None else value for value in (at.seed, at.step)]
                for fit in at.fits.fits:
                    mean = fit.log_likelihood / at.errors.size
                    numbers = (fit.location, fit.scale, mean, fit.aic, fit.ks_statistic)
                    shown = [f"{number:.6g}" for number in (*numbers, fit.ks_pvalue)]
                    row = [one.task, *place, at.errors.size, fit.name, *shown]
                    writer.writerow(row)


def report(studies: Sequence[Study], command: str, problems: Sequence[str] = ()) -> str:
    """The verdicts and the tables that they are read from, as Markdown."""
    lines = [
        "# The Bellman errors of SAC",
        "",
        f"    {command}",
        "",
        "r + γ · mask · Q₁(s', a') − Q₁(s, a), a' ~ π(·|s'), with the networks that learn and no "
        "entropy. A law is best at a checkpoint where its likelihood is largest (all have two "
        "parameters), or its KS statistic smallest. The p of KS is too large, for the law was "
        "fitted to the same errors: a small one rejects, a large one proves nothing. Likelihoods "
        "are mean natural logarithms per error. The Gumbel loss is the likelihood of the "
        "left-skewed law; the paper shows errors skewed to the right. The skewness by deciles, "
        "(q₉₀ + q₁₀ − 2 q₅₀)/(q₉₀ − q₁₀), is ±0.22 for Gumbel and 0 for the others.",
    ]
    for one in studies:
        lines += ["", f"## {one.task}", "", verdict(one), "", *_table(one)]
    return "\n".join([*lines, *(f"\n{problem}" for problem in problems)]) + "\n"


def verdict(one: Study) -> str:
    """Which law the errors follow, in words that say no more than the numbers do."""
    count = len(one.checkpoints)
    by_likelihood, by_ks = best_laws(one)
    leader, wins = by_likelihood.most_common(1)[0]
    if 2 * wins > count and 2 * by_ks[leader] > count:
        words = f"Of the four, the {_law(leader)} is nearest to the errors: it is best"
    else:
        words = f"None of the four leads throughout. The {_law(leader)} is best most often,"
    words += f" by likelihood at {wins} and by KS at {by_ks[leader]} of {count} checkpoints."
    gumbel = [sum(found[law] for law in LAWS[:2]) for found in (by_likelihood, by_ks)]
    if not leader.startswith("gumbel"):
        words += f" A Gumbel law of either skew is so at {gumbel[0]} and {gumbel[1]}."
    words += f" All errors together are nearest to the {_law(one.pooled.fits.best.name)}"
    words += f"; their skewness by deciles is {decile_skewness(one.pooled.errors):.2f}."
    none = sum(all(f.ks_pvalue < REJECTED for f in at.fits.fits) for at in one.checkpoints)
    words += f" KS rejects all four (p < {REJECTED}) at {none} of {count}"
    words += ": nearest does not mean that they follow it." if none else "."
    words += f" The policies return {one.episode_return:.1f} at the last step."
    if one.frozen:
        seeds = ", ".join(map(str, one.frozen))
        words += f" Diverged, and held at the last good networks: seed {seeds}."
    return words


def best_laws(one: Study) -> tuple[Counter[str], Counter[str]]:
    """At how many checkpoints each law is best: by likelihood, and by KS."""
    return (
        Counter(at.fits.best.name for at in one.checkpoints),
        Counter(min(at.fits.fits, key=lambda fit: fit.ks_statistic).name for at in one.checkpoints),
    )


def _table(one: Study) -> list[str]:
    by_likelihood, by_ks = best_laws(one)
    rows = [
        "| law | best by likelihood | best by KS | not rejected | all: likelihood | KS "
        "| last: likelihood | KS |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for law in LAWS:
        kept = sum(at.fits.named(law).ks_pvalue >= REJECTED for at in one.checkpoints)
        cells = [law, *(str(number) for number in (by_likelihood[law], by_ks[law], kept))]
        for at in (one.pooled, one.last):
            fit = at.fits.named(law)
            cells += [f"{fit.log_likelihood / at.errors.size:.3f}", f"{fit.ks_statistic:.3f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _law(name: str) -> str:
    """As it stands in a sentence."""
    family, _, skew = name.partition(", ")
    return f"{skew} Gumbel law" if skew else f"{family} law"


def decile_skewness(errors: Float32[np.ndarray, " errors"]) -> float:
    """(q₉₀ + q₁₀ − 2 q₅₀)/(q₉₀ − q₁₀): a few far errors, which rule the third moment, do not."""
    low, middle, high = np.quantile(errors.astype(np.float64), (0.1, 0.5, 0.9))
    return float((high + low - 2 * middle) / (high - low))


def draw(studies: Sequence[Study], path: Path) -> None:
    """A column for each task: all errors above, those of the last checkpoint below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(3.6 * len(studies), 6.0), 6.4), layout="constrained")
    panels = figure.subplots(2, len(studies), squeeze=False)
    for column, one in enumerate(studies):
        for row, at in enumerate((one.pooled, one.last)):
            axes = panels[row, column]
            draw_fits(axes, at.errors, at.fits)
            when = "all checkpoints" if at.step is None else f"step {at.step:,}"
            axes.set_title(f"{one.task}, {when}\nbest: {at.fits.best.name}", fontsize=9)
            axes.set(xlabel="" if row == 0 else "target − Q₁", ylabel="" if column else "density")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"Bellman errors of SAC, their middle {SHOWN:.0%}", fontsize=11)
    figure.savefig(path, dpi=150)

"""The paper's Figure 1: the Bellman errors of SAC, and which distribution they follow.

SAC (preset `default`) learns a task. Every so many steps the errors of a sample of its replay
buffer, r + γ·mask·Q₁(s', a') − Q₁(s, a) (`evaluation/bellman.py`), are kept, once with a' drawn
from the policy and once with its mean action. Gumbel of either skew, normal and logistic are fitted
to them. Garg et al. say Gumbel, and show errors skewed to the right; arXiv 2307.02345 says
logistic. The table decides, task by task.

The paper's own protocol differs from a fit to all errors in two ways: a' is the mean action, and
the errors are clipped to the window that the figure shows before they are fitted. Its windows cut
off more on the left than on the right, and clipping makes a point mass of what it cuts off, so the
table shows three fits side by side: of all errors, within the paper's window, and within one as
wide whose middle is the errors' median.

On the sign: as a likelihood of these errors (target − Q), the Gumbel loss e^z − z − 1 is that of
the *left*-skewed distribution. It finds the soft maximum whatever they follow.
"""

import csv
import functools
import io
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key

from xql.agents import ONLINE, Batch, TrainState
from xql.agents.types import Backup
from xql.data.schema import require_columns
from xql.data.tables import read_columns
from xql.errors import InputError, decoration, require_matplotlib
from xql.evaluation.bellman import bellman_errors
from xql.experiments.cells import Cell, asked, train_cells
from xql.experiments.compact import reduce_colours
from xql.experiments.executors import executor_for, in_process
from xql.files import require_writable, save_figure, whole_file, write_texts
from xql.gumbel.errors import DISTRIBUTIONS, SHOWN, ErrorFits, draw_fits, fit_errors
from xql.presets import resolve
from xql.reports.style import COLUMN, PAGE, new_figure, styled
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
"""A distribution is rejected at a checkpoint where the p of its KS statistic is below this."""
RIGHT, LEFT = DISTRIBUTIONS[:2]

Range = tuple[float, float]
Action = Literal["drawn", "mean"]
"""What a' is: drawn from the policy, or its mean action, as in the paper."""
KEPT: dict[Action, str] = {"drawn": "errors", "mean": "mean_action_errors"}
"""The arrays of errors.npz. Cells that were trained before both were kept have the first only."""
PAPER_WINDOWS: dict[str, Range] = {
    "dm_control/cheetah-run": (-0.2, 0.35),
    "dm_control/walker-run": (-0.2, 0.3),
    "dm_control/hopper-hop": (-0.06, 0.06),
}
"""The horizontal axes of the figure in Garg et al. (arXiv 2301.02328). The published code takes the
mean action and keeps errors unclipped (`online/research/algs/sac.py`); it has no code of the fit.
"""


class Window(NamedTuple):
    """What the errors are clipped to before they are fitted."""

    name: Literal["none", "paper", "symmetric"]
    bounds: Range | None
    """None: they are fitted as they are."""


class Checkpoint(NamedTuple):
    """The fits to the errors of one seed at one step, or of several together."""

    seed: int | None
    """None: all of them."""
    step: int | None
    """None: all of them."""
    errors: Float32[np.ndarray, " errors"]
    fits: ErrorFits


class Protocol(NamedTuple):
    """The errors with one choice of a' and of the window, and what was fitted to them."""

    action: Action
    window: Window
    checkpoints: list[Checkpoint]
    """Every seed at every step; within a window only those with two distinct errors there."""
    last: Checkpoint
    """All seeds at the last step."""
    pooled: Checkpoint
    """All seeds at all steps, as the paper shows them."""


class Study(NamedTuple):
    """What one task came to."""

    task: str
    protocols: list[Protocol]
    """First the one without a window and with a' drawn."""
    episode_return: float
    """Of the policies at the last step."""
    frozen: list[int]
    """Seeds that diverged, and kept their last good networks."""
    rolled_back: list[int]
    """Seeds that diverged once, and went on from there."""

    @property
    def raw(self) -> Protocol:
        """All errors as they are, a' drawn."""
        return self.protocols[0]


def train_keeping_errors(
    task: str, steps: int, every: int, seeds: Sequence[int], out: Path, progress: bool = True
) -> None:
    """Train one cell, and keep its errors as `errors.npz` beside its run.

    The file holds `steps` [checkpoints], and [seeds, checkpoints, transitions] `errors`, where a'
    is drawn, and `mean_action_errors` of the same transitions.
    """
    loop, size, plan = loop_for(steps), min(SAMPLE, every), _evaluation(steps, every)
    backup = ONLINE[AGENT].make(resolve(AGENT, PRESET, task).config, steps).backup
    assert backup is not None, "SAC has a critic"
    seen: list[int] = []
    drawn: list[Float32[np.ndarray, "seeds transitions"]] = []
    by_mean: list[Float32[np.ndarray, "seeds transitions"]] = []

    def observe(step: int, population: TrainState, replay: Replay, filled: int) -> None:
        if step % every or step <= loop.warmup:
            return
        rows = np.random.default_rng(step).choice(filled, size, replace=False)
        keys = jax.random.split(jax.random.key(step), len(seeds))
        seen.append(step)
        errors = functools.partial(_replay_errors, population, replay, rows, backup=backup)
        drawn.append(np.asarray(errors(keys)))
        by_mean.append(np.asarray(errors(None)))

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
        report=False,
    )
    if not seen:
        raise InputError(
            "every seed diverged before any errors were kept",
            where=task,
            hint="give a smaller `every`, or other seeds",
        )
    with whole_file(out / "errors.npz") as draft:
        np.savez_compressed(
            draft,
            steps=np.array(seen),
            errors=np.stack(drawn, axis=1),
            mean_action_errors=np.stack(by_mean, axis=1),
        )


def _evaluation(steps: int, every: int) -> EvaluationPlan:
    """These bring the observer to every multiple of `every`; only the last plays episodes."""
    return EvaluationPlan(evaluations=steps // every, episodes=0, last_episodes=10)


@functools.partial(jax.jit, static_argnames="backup")
def _replay_errors(
    population: TrainState,
    replay: Replay,
    rows: Int[Array, " rows"],
    keys: Key[Array, " members"] | None,
    *,
    backup: Backup,
) -> Float[Array, "members rows"]:
    """The errors of the same rows of every member's own buffer."""

    def one(state: TrainState, memory: Replay, key: Array | None) -> Array:
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
            f"`steps={steps}` is no multiple of `every={every}`",
            hint=f"give `steps={steps // every * every or every}`",
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
    """Fit every distribution to every checkpoint of a finished cell, by every protocol.

    Raises:
        InputError: errors.npz cannot be read, or its errors cannot be fitted.
    """
    run = RunFolder.open(folder)
    kept = read_columns(folder / "errors.npz")
    require_columns(kept, ("steps", KEPT["drawn"]), str(folder / "errors.npz"))
    steps = kept["steps"].tolist()
    errors = {action: kept[name] for action, name in KEPT.items() if name in kept}
    seeds = [one.seed for one in run.config.members]
    last_step = run.config.steps
    returns = [row.episode_return for row in run.read_evaluations() if row.step == last_step]
    try:
        protocols = [
            fit_protocol(action, window, values, seeds, steps)
            for action, values in errors.items()
            for window in windows(task, values)
        ]
    except ValueError as error:
        raise InputError(str(error), where=str(folder / "errors.npz")) from None
    return Study(
        task,
        protocols,
        episode_return=float(np.mean(returns)),
        frozen=[seeds[member] for member in run.read_frozen()],
        rolled_back=[seeds[member] for member in run.read_rolled_back()],
    )


def windows(task: str, errors: Float32[np.ndarray, "..."]) -> list[Window]:
    """None, and for a task of the paper its window and one as wide around the errors' median.

    A window around 0 would not do for the latter: the paper's own on hopper-hop is that.
    """
    found = [Window("none", None)]
    if task in PAPER_WINDOWS:
        low, high = PAPER_WINDOWS[task]
        middle, half = float(np.median(errors)), (high - low) / 2
        found.append(Window("paper", (low, high)))
        found.append(Window("symmetric", (middle - half, middle + half)))
    return found


def fit_protocol(
    action: Action,
    window: Window,
    errors: Float32[np.ndarray, "seeds checkpoints transitions"],
    seeds: Sequence[int],
    steps: Sequence[int],
) -> Protocol:
    """Fit every distribution to every checkpoint, to the last ones together, and to all.

    Raises:
        ValueError: the errors cannot be fitted.
    """

    def fitted(seed: int | None, step: int | None, values: np.ndarray) -> Checkpoint:
        return Checkpoint(seed, step, values.ravel(), fit_errors(values, window.bounds))

    def spread(values: np.ndarray) -> bool:
        return window.bounds is None or bool(np.ptp(np.clip(values, *window.bounds)))

    return Protocol(
        action,
        window,
        [
            fitted(seed, step, errors[member, number])
            for member, seed in enumerate(seeds)
            for number, step in enumerate(steps)
            if spread(errors[member, number])
        ],
        last=fitted(None, steps[-1], errors[:, -1]),
        pooled=fitted(None, None, errors),
    )


def figure1(
    out: Path,
    tasks: Sequence[str] = TASKS,
    *,
    steps: int = 100_000,
    every: int = 5_000,
    seeds: int = 1,
    jobs: int | None = None,
    address: str | None = None,
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
        jobs: how many tasks to train at a time; as `executor_for` takes it.
        address: of a Ray cluster to train on; this machine where None.
        say: called with each step of progress, in words.

    Returns:
        The text of figure1.md.

    Raises:
        InputError: nothing can be written, or no task could be trained.
    """
    require_matplotlib()
    executor = executor_for(jobs, address)
    quiet = executor is not in_process
    wanted = cells(tasks, steps=steps, every=every, seeds=seeds, quiet=quiet)
    require_writable(out, "figure")
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
        raise InputError("; ".join(problems) or "there is no task", hint="name others with `tasks`")
    command = f"xql paper figure1 --tasks {' '.join(tasks)} --steps {steps} --every {every}"
    text = report(studies, f"{command} --seeds {seeds}", problems)
    write_texts(out, {"figure1.md": text, "figure1.csv": _csv(studies)})
    with decoration("figure", say):
        draw(studies, out / "figure1.png")
        reduce_colours(out / "figure1.png")
    return text


def _csv(studies: Sequence[Study]) -> str:
    """One row for each fit: of every checkpoint, of the last ones together, and of all."""
    header = "task,action,window,low,high,seed,step,errors,distribution,location,scale"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header.split(","), "mean_log_likelihood", "aic", "ks_statistic", "ks_p"])
    for one in studies:
        for protocol in one.protocols:
            bounds = [f"{end:.6g}" for end in protocol.window.bounds or ()] or ["", ""]
            which = [one.task, protocol.action, protocol.window.name, *bounds]
            for at in (*protocol.checkpoints, protocol.last, protocol.pooled):
                place = ["all" if value is None else value for value in (at.seed, at.step)]
                for fit in at.fits.fits:
                    mean = fit.log_likelihood / at.errors.size
                    numbers = (fit.location, fit.scale, mean, fit.aic, fit.ks_statistic)
                    shown = [f"{number:.6g}" for number in (*numbers, fit.ks_pvalue)]
                    writer.writerow([*which, *place, at.errors.size, fit.name, *shown])
    return text.getvalue()


def report(studies: Sequence[Study], command: str, problems: Sequence[str] = ()) -> str:
    """The verdicts and the tables that they are read from, as Markdown."""
    lines = [
        "# The Bellman errors of SAC",
        "",
        f"    {command}",
        "",
        "r + γ · mask · Q₁(s', a') − Q₁(s, a), with the networks that learn and no entropy. "
        "Likelihoods are mean natural logarithms per error; all four distributions have two "
        "parameters, fitted by maximum likelihood. The Gumbel loss is the likelihood of the "
        "left-skewed Gumbel distribution; the paper shows errors skewed to the right.",
        "",
        *_summary(studies),
    ]
    for one in studies:
        lines += ["", f"## {one.task}", "", verdict(one), "", *_table(one)]
        if len(one.protocols) > 1:
            lines += ["", *_protocol_table(one)]
    return "\n".join([*lines, *(f"\n{problem}" for problem in problems)]) + "\n"


def _summary(studies: Sequence[Study]) -> list[str]:
    """What the protocols come to over all tasks."""
    lines = [
        "**All errors as they are, a' ~ π(·|s').** A distribution is best at a checkpoint where "
        "its likelihood is largest, or its KS statistic smallest. The p of KS is too large, for "
        "the distribution was fitted to the same errors: a small one rejects, a large one proves "
        "nothing. The skewness by deciles, (q₉₀ + q₁₀ − 2 q₅₀)/(q₉₀ − q₁₀), is ±0.22 for Gumbel "
        "and 0 for the others."
    ]
    if any(one.task in PAPER_WINDOWS for one in studies):
        lines += [
            "",
            "**The paper's protocol** takes the policy's mean action for a', and clips the errors "
            "to the window that its figure shows before it fits. What lies beyond is moved to the "
            "window's ends, where it is a point mass that none of the four has. The symmetric "
            "window is as wide, with the errors' median in its middle. Likelihoods within "
            "different windows are of different data: compare along a row only. "
            + window_verdict(studies),
        ]
    lacking = [one.task for one in studies if not _of(one, "mean", "none")]
    if lacking:
        lines += [
            "",
            f"All errors of {_and(lacking)} are of drawn actions: these runs were trained before "
            "those of the mean action were kept too.",
        ]
    return lines


def window_verdict(studies: Sequence[Study]) -> str:
    """On which tasks a window puts the right-skewed Gumbel above the normal, where it was below."""
    actions: dict[Action, str] = {"drawn": "With a' drawn", "mean": "With the mean action"}
    sentences = []
    for action, words in actions.items():
        turned: dict[bool, list[str]] = {True: [], False: []}
        back: dict[bool, list[str]] = {True: [], False: []}
        for one in studies:
            raw, paper, symmetric = (
                _of(one, action, name) for name in ("none", "paper", "symmetric")
            )
            if raw and paper and symmetric:
                turns = _gumbel_ahead(paper.pooled) and not _gumbel_ahead(raw.pooled)
                turned[turns].append(one.task)
                if turns:
                    back[not _gumbel_ahead(symmetric.pooled)].append(one.task)
        if turned[True]:
            said = f"{words}, the paper's window puts the right-skewed Gumbel distribution above "
            said += f"the normal on {_and(turned[True])}, where all errors have it below"
            said += f"; it does not on {_and(turned[False])}." if turned[False] else "."
            if back[True]:
                said += f" The symmetric window takes that back on {_and(back[True])}."
            if back[False]:
                said += f" The symmetric window leaves it so on {_and(back[False])}."
            sentences.append(said)
        elif turned[False]:
            sentences.append(
                f"{words}, the paper's window does not put the right-skewed Gumbel distribution "
                f"above the normal on {_and(turned[False])}."
            )
    return " ".join(sentences)


def _gumbel_ahead(at: Checkpoint) -> bool:
    """Whether the right-skewed Gumbel distribution is likelier than the normal."""
    return at.fits.named(RIGHT).log_likelihood > at.fits.named("normal").log_likelihood


def _of(one: Study, action: Action, window: str) -> Protocol | None:
    found = (it for it in one.protocols if (it.action, it.window.name) == (action, window))
    return next(found, None)


def _and(names: Sequence[str]) -> str:
    """As a list stands in a sentence."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def verdict(one: Study) -> str:
    """Which distribution the errors follow, in words that say no more than the numbers do."""
    raw = one.raw
    count = len(raw.checkpoints)
    by_likelihood, by_ks = best_distributions(raw)
    leader, wins = by_likelihood.most_common(1)[0]
    if 2 * wins > count and 2 * by_ks[leader] > count:
        words = f"Of the four, the {_worded(leader)} is nearest to the errors: it is best"
    else:
        words = f"None of the four leads throughout. The {_worded(leader)} is best most often,"
    words += f" by likelihood at {wins} and by KS at {by_ks[leader]} of {count} checkpoints."
    gumbel = [found[RIGHT] + found[LEFT] for found in (by_likelihood, by_ks)]
    if not leader.startswith("gumbel"):
        words += f" A Gumbel distribution of either skew is so at {gumbel[0]} and {gumbel[1]}."
    words += f" All errors together are nearest to the {_worded(raw.pooled.fits.best.name)}"
    words += f"; their skewness by deciles is {decile_skewness(raw.pooled.errors):.2f}."
    none = sum(all(f.ks_pvalue < REJECTED for f in at.fits.fits) for at in raw.checkpoints)
    words += f" KS rejects all four (p < {REJECTED}) at {none} of {count}"
    words += ": nearest does not mean that they follow it." if none else "."
    words += f" The policies return {one.episode_return:.1f} at the last step."
    if one.frozen:
        seeds = ", ".join(map(str, one.frozen))
        words += f" Diverged, and held at the last good networks: seed {seeds}."
    if one.rolled_back:
        seeds = ", ".join(map(str, one.rolled_back))
        words += f" Diverged, and went on with smaller learning rates: seed {seeds}."
    return words


def best_distributions(one: Protocol) -> tuple[Counter[str], Counter[str]]:
    """At how many checkpoints each distribution is best: by likelihood, and by KS."""
    return (
        Counter(at.fits.best.name for at in one.checkpoints),
        Counter(min(at.fits.fits, key=lambda fit: fit.ks_statistic).name for at in one.checkpoints),
    )


def _table(one: Study) -> list[str]:
    """All errors with a' drawn: both measures, at the checkpoints and together."""
    by_likelihood, by_ks = best_distributions(one.raw)
    rows = [
        "| distribution | best by likelihood | best by KS | not rejected | all: likelihood | KS "
        "| last: likelihood | KS |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in DISTRIBUTIONS:
        kept = sum(at.fits.named(name).ks_pvalue >= REJECTED for at in one.raw.checkpoints)
        cells = [name, *(str(number) for number in (by_likelihood[name], by_ks[name], kept))]
        for at in (one.raw.pooled, one.raw.last):
            fit = at.fits.named(name)
            cells += [f"{fit.log_likelihood / at.errors.size:.3f}", f"{fit.ks_statistic:.3f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _protocol_table(one: Study) -> list[str]:
    """The likelihoods of every protocol, the largest of a row in bold."""
    columns = " | ".join(DISTRIBUTIONS)
    rows = [
        f"| a' | window | below, above | errors | {columns} | right-skewed Gumbel best at |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for protocol in one.protocols:
        wins = best_distributions(protocol)[0][RIGHT]
        for at, which in ((protocol.pooled, "all"), (protocol.last, "last")):
            shown = [
                f"{at.fits.named(name).log_likelihood / at.errors.size:.3f}"
                for name in DISTRIBUTIONS
            ]
            best = DISTRIBUTIONS.index(at.fits.best.name)
            shown[best] = f"**{shown[best]}**"
            count = f"{wins} of {len(protocol.checkpoints)} checkpoints" if which == "all" else ""
            cells = [protocol.action, _named(protocol.window), _beyond(protocol.window, at.errors)]
            rows.append(f"| {' | '.join([*cells, which, *shown, count])} |")
    return rows


def _named(window: Window) -> str:
    """The window as the tables name it."""
    if window.bounds is None:
        return "none"
    ends = ", ".join(f"{end:.3g}".replace("-", "−") for end in window.bounds)
    return f"{window.name} [{ends}]"


def _beyond(window: Window, errors: Float32[np.ndarray, " errors"]) -> str:
    """The shares that are moved to the window's ends."""
    if window.bounds is None:
        return ""
    low, high = window.bounds
    return f"{(errors < low).mean():.1%}, {(errors > high).mean():.1%}"


def _worded(name: str) -> str:
    """As it stands in a sentence."""
    family, _, skew = name.partition(", ")
    return f"{skew} Gumbel distribution" if skew else f"{family} distribution"


def decile_skewness(errors: Float32[np.ndarray, " errors"]) -> float:
    """(q₉₀ + q₁₀ − 2 q₅₀)/(q₉₀ − q₁₀): a few far errors, which rule the third moment, do not."""
    low, middle, high = np.quantile(errors.astype(np.float64), (0.1, 0.5, 0.9))
    return float((high + low - 2 * middle) / (high - low))


@styled
def draw(studies: Sequence[Study], path: Path) -> Path:
    """A row for each task: all errors, and within each window; of the mean action, where kept."""
    action: Action = "mean" if all(_of(one, "mean", "none") for one in studies) else "drawn"
    rows = [[it for it in one.protocols if it.action == action] for one in studies]
    width = max(map(len, rows))
    figure = new_figure(PAGE if width > 1 else COLUMN, 1.6 * len(rows) + 0.7)
    panels = figure.subplots(len(rows), width, squeeze=False)
    kinds = {
        "none": f"{SHOWN:.0%} of the errors",
        "paper": "paper's window",
        "symmetric": "symmetric window",
    }
    for row, one, protocols in zip(panels, studies, rows, strict=True):
        for axes, it in itertools.zip_longest(row, protocols):
            if it is None:
                axes.axis("off")
                continue
            draw_fits(axes, it.pooled.errors, it.pooled.fits, it.window.bounds)
            title = f"{one.task.removeprefix('dm_control/')}, {kinds[it.window.name]}"
            axes.set_title(f"{title}\nbest: {it.pooled.fits.best.name}", fontsize=7)
            axes.set(xlabel="", ylabel="")
        row[0].set_ylabel("density")
    a_next = "drawn from the policy" if action == "drawn" else "the policy's mean action"
    note = "\n← →: share of the errors that clipping moves to this end" if width > 1 else ""
    figure.supxlabel(f"Bellman error, in units of the return; a' {a_next}{note}", fontsize=7)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return save_figure(figure, path, vector=True)

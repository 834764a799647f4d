"""`xql demo`: offline RL from end to end, on data made here."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

from xql.cli.console import is_terminal, plain_console, print_words, sign_of_life

DATASET = "pointmaze/medium-play-v0"
AGENTS = {"bc": "behaviour cloning", "xql": "Extreme Q-Learning"}
TITLE = "PointMaze-Medium, from corner to corner"
TRANSITIONS = 200_000
EVALUATIONS = 10
EPISODES = 100
"""Of the behaviour policy, and of each seed at the last step."""


class Row(NamedTuple):
    """One line of the demo's table."""

    name: str
    success: str
    of: str
    updates: str
    seconds: str


def demo(steps: int = 20_000, seeds: int = 2, out: Path | None = None) -> None:
    """Make a PointMaze dataset, train XQL and behaviour cloning (BC) on it, and compare.

    Args:
        steps: updates of each agent and seed.
        seeds: seeds of each agent.
        out: the folder for both runs, the table and the learning curves; runs/demo-N without it.
    """
    sign_of_life(f"data: {DATASET}, {TRANSITIONS:,} transitions")
    from xql.agents import Unchecked
    from xql.collect.pointmaze import behaviour_rollouts
    from xql.evaluation.statistics import format_interval
    from xql.runs.config import require_at_least
    from xql.runs.folder import RunFolder, free_folder
    from xql.training.offline import train_offline
    from xql.training.population import use_all_cores

    require_at_least("steps", steps, 1)
    require_at_least("seeds", seeds, 1)
    use_all_cores()
    if out is not None:
        RunFolder.require_free(out)
    _make_data()
    home = free_folder("demo") if out is None else out

    began = time.perf_counter()
    reached = behaviour_rollouts("medium", EPISODES, seed=10_000)
    rows = [
        Row(
            "behaviour policy",
            _proportion(reached),
            f"{len(reached)} episodes",
            "–",
            f"{time.perf_counter() - began:.0f}",
        )
    ]
    # On this task the fixed temperature settles sooner than one that tunes itself, which swings
    # until 18,000 updates (docs/choosing-beta.md).
    presets = {"xql": "fixed"}
    many = f"{seeds} seed{'s' * (seeds != 1)}"
    for agent, name in AGENTS.items():
        print(f"\n{name}: {many} × {steps:,} updates")
        began = time.perf_counter()
        run = train_offline(
            f"minari:{DATASET}",
            agent=Unchecked(agent),
            preset=Unchecked(presets.get(agent, "default")),
            steps=steps,
            seeds=seeds,
            evaluations=EVALUATIONS,
            last_episodes=EPISODES,
            out=home / agent,
        )
        last = run.results[0].last
        rows.append(
            Row(
                name,
                f"{format_interval(last.interval)} %",
                f"{many} × {last.episodes} episodes, last step",
                f"{steps:,}",
                f"{time.perf_counter() - began:.0f}",
            )
        )
    _write_table(rows, home)
    _draw(home, 100.0 * sum(reached) / len(reached))
    print(f"runs: {home}")
    _report(home)


def _draw(home: Path, of_data: float) -> None:
    from xql.errors import decoration
    from xql.reports.plots import curves_from_run, plot_learning_curves
    from xql.runs.folder import RunFolder

    with decoration("figure"):
        figure = plot_learning_curves(
            [
                curve
                for agent, name in AGENTS.items()
                for curve in curves_from_run(RunFolder.open(home / agent), "success", name)
            ],
            home / "learning-curves.png",
            quantity="success",
            title=TITLE,
            data_figure=of_data,
            data_label="behaviour policy",
        )
        print(f"learning curves: {figure}")


def _report(home: Path) -> None:
    """One page of both runs, which the last line names."""
    from xql.errors import decoration
    from xql.reports.page import FILE, write_page

    with decoration("report"):
        page = write_page([home / agent for agent in reversed(AGENTS)], home / FILE)
        print(f"report: {page}")


def _make_data() -> None:
    """The dataset by its name; the same seed gives the same bytes, so one made before will do."""
    from xql.collect.pointmaze import ensure_pointmaze

    began = time.perf_counter()
    _, made = ensure_pointmaze("medium", transitions=TRANSITIONS, dataset_id=DATASET)
    how = f"made in {time.perf_counter() - began:.0f} s" if made else "here already"
    print(f"data: {DATASET}, {how}")


def _proportion(reached: list[bool]) -> str:
    """A success rate with its exact 95 % binomial interval over episodes."""
    from scipy.stats import binomtest

    low, high = binomtest(sum(reached), len(reached)).proportion_ci()
    rate = 100.0 * sum(reached) / len(reached)
    return f"{rate:.1f} [{100 * low:.1f}, {100 * high:.1f}] %"


def _write_table(rows: list[Row], home: Path) -> None:
    """Print the table and write table.md."""
    from rich.table import Table

    from xql.errors import decoration
    from xql.files import write_text

    heads = ("", "success [95 %]", "of", "updates", "seconds")
    table = Table(title=TITLE)
    for head in heads:
        table.add_column(head, no_wrap=head.startswith("success"))
    lines = ["| " + " | ".join(heads) + " |", "|---|---|---|---:|---:|"]
    for row in rows:
        table.add_row(*row)
        lines.append("| " + " | ".join(row) + " |")
    note = (
        "Agents: interquartile mean over seeds with its bootstrap interval over seeds, at the last "
        "step. Behaviour policy: exact binomial interval over episodes."
    )
    plain_console(width=None if is_terminal(sys.stdout) else 100).print(table)
    print_words(note)
    with decoration("table.md"):
        write_text(home / "table.md", "\n".join([*lines, "", note, ""]))

"""`xql paper table1|table2|table3`: the paper's tables: the published numbers, and ours."""

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from xql.cli.train import Address, Assignments, Words, parse_settings
from xql.errors import InputError

Names = Annotated[Words, tyro.conf.arg(metavar="NAME...")]


@dataclass(frozen=True)
class Options:
    """What to train for a table, and how."""

    rows: Names = ()
    """Datasets, such as hopper-medium-v2 or 'antmaze-*'; all of the table without it."""
    methods: Names = ()
    """AGENT or AGENT:PRESET, such as xql:tuned or iql; xql:consistent without it."""
    seeds: int = 4
    """How many."""
    steps: int = 1_000_000
    """Updates of each seed, from logged data."""
    d4rl_dir: Path | None = None
    """The folder with D4RL's files. Minari's datasets and those made here are found by name."""
    jobs: int | None = None
    """How many cells to train at a time; one without it, or on a cluster as many as there is room
    for."""
    address: Address = None
    """A Ray cluster to train on; this machine without it (docs/cluster.md)."""
    set: Assignments = ()
    """Settings over the preset's, such as batch_size=1024."""
    evaluations: int = 20
    """How many times to evaluate, evenly spaced, the last step included."""
    episodes: int = 10
    """Episodes per seed at each of these but the last."""
    last_episodes: int = 100
    """Episodes per seed at the last step."""
    train: bool = True
    """Train what is missing; without, only write the table of what is there."""
    cells: Annotated[Words, tyro.conf.arg(metavar="FOLDER...")] = ()
    """Train nothing, and show the runs that lie in these folders instead, such as results, under
    whatever settings they learned from the data of the rows."""


Flags = Annotated[Options, tyro.conf.arg(name="")]


def table1(options: Flags = Options(), out: Path = Path("table1")) -> None:
    """Table 1, offline learning on MuJoCo, AntMaze and Kitchen, published and ours.

    Trains a cell for every method and every dataset that is on this machine, unless it is there
    already: after Ctrl-C the same command goes on with those that are missing.

    Args:
        options: what to train, and how.
        out: the folder for the table, as Markdown and CSV, and for its cells.
    """
    _fill("table1", options, out)


def table2(
    options: Flags = Options(),
    online_steps: int = 1_000_000,
    replay: str = "prefill",
    out: Path = Path("table2"),
) -> None:
    """Table 2, fine-tuning on AntMaze, published and ours: before it and after.

    Trains as `xql paper table1` does, and goes on from each cell's last step in the environment.

    Args:
        options: what to train, and how; the evaluations are those of the online steps.
        online_steps: environment steps of each seed, after the updates of --steps.
        replay: what batches are drawn from online: prefill, from all rows of the log and the
            replay buffer alike, as in the published code; symmetric, half from each; online, from
            the replay buffer alone.
        out: the folder for the table, as Markdown and CSV, and for its cells.
    """
    _fill("table2", options, out, online_steps, replay)


def table3(options: Flags = Options(), out: Path = Path("table3")) -> None:
    """Table 3, offline learning on Adroit, published and ours.

    Trains as `xql paper table1` does.

    Args:
        options: what to train, and how.
        out: the folder for the table, as Markdown and CSV, and for its cells.
    """
    _fill("table3", options, out)


def _fill(
    table: str,
    options: Options,
    out: Path,
    online_steps: int | None = None,
    replay: str = "prefill",
) -> None:
    from xql.agents import Unchecked
    from xql.experiments.executors import executor_for, in_process
    from xql.experiments.paper_tables import Training, choose_methods, choose_rows, fill, find_kept
    from xql.experiments.table_text import csv_lines, kept_markdown, markdown
    from xql.training.population import use_all_cores

    rows = choose_rows(table, sum(options.rows, ()))
    folders = [Path(folder) for folder in sum(options.cells, ())]
    if folders:
        given = {one.name: getattr(options, one.name) for one in fields(options)}
        if table == "table2":
            given |= {"online_steps": online_steps, "replay": replay}
        _require_nothing_to_train(given)
        kept = find_kept(rows, folders, finetuned=table == "table2")
        text = kept_markdown(table, rows, kept, folders)
        _write(table, text, csv_lines(table, rows, kept), out)
        return
    use_all_cores()
    methods = choose_methods(sum(options.methods, ()) or ("xql:consistent",))
    training = Training(
        steps=options.steps,
        seeds=options.seeds,
        evaluations=options.evaluations,
        episodes=options.episodes,
        last_episodes=options.last_episodes,
        options=parse_settings(options.set),
        online_steps=online_steps,
        replay=Unchecked(replay),
    )
    executor = executor_for(options.jobs, options.address)
    places = fill(
        rows,
        methods,
        training,
        out / "cells",
        d4rl_dir=options.d4rl_dir,
        executor=executor,
        train=options.train,
        quiet=executor is not in_process,
        say=lambda text: print(text, file=sys.stderr),
    )
    text = markdown(table, rows, places, training)
    _write(table, text, csv_lines(table, rows, places), out)


def _require_nothing_to_train(given: Mapping[str, object]) -> None:
    defaults = {one.name: one.default for one in fields(Options)}
    defaults |= {name: one.default for name, one in inspect.signature(table2).parameters.items()}
    for name, value in given.items():
        if name not in ("rows", "train", "cells") and value != defaults[name]:
            raise InputError(
                f"`{name}` is for what is trained, and with `cells` nothing is",
                hint="leave out one of them",
            )


def _write(table: str, text: str, lines: str, out: Path) -> None:
    """Write the table anew from what there is; only its cells are never written over."""
    from xql.files import write_texts

    write_texts(out, {f"{table}.md": text, f"{table}.csv": lines})
    print(text, end="")
    print(f"{out / table}.md, {table}.csv", file=sys.stderr)

"""`xql data make`: benchmark data made on this machine."""

import sys
import time
from typing import Annotated, get_args

import tyro

from xql.errors import InputError, nearest


def make(
    name: tyro.conf.Positional[str],
    transitions: int = 200_000,
    seed: int = 0,
    noise: float | None = None,
    out_id: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None,
) -> None:
    """Make a benchmark dataset with a simulator and write it among Minari's datasets.

    Args:
        name: pointmaze-umaze, pointmaze-medium or pointmaze-large.
        transitions: how many transitions to make.
        seed: the same seed gives the same bytes.
        noise: standard deviation of the noise on each action, whose bounds are ±1; 0.5 without it.
        out_id: Minari's name for the dataset, such as pointmaze/medium-play-v0.

    Raises:
        InputError: an unknown name, a number out of range, an id that exists.
        MissingExtra: Minari or the simulator is not installed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from xql.collect.pointmaze import NOISE, Maze, make_pointmaze

    mazes: dict[str, Maze] = {f"pointmaze-{maze}": maze for maze in get_args(Maze)}
    if name not in mazes:
        raise InputError(f"nothing called '{name}' can be made", mend=nearest(name, mazes))
    began = time.perf_counter()
    episodes = 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} transitions"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    ) as bar:
        task = bar.add_task(name, total=transitions)

        def progress(made: int, wanted: int) -> None:
            nonlocal episodes
            episodes += 1
            bar.update(task, completed=made, total=wanted)

        dataset_id = make_pointmaze(
            mazes[name],
            transitions=transitions,
            seed=seed,
            noise=NOISE if noise is None else noise,
            dataset_id=out_id,
            progress=progress,
        )
    seconds = time.perf_counter() - began
    from minari.storage.datasets_root_dir import get_dataset_path

    print(
        f"made {dataset_id}: {transitions:,} transitions in {episodes:,} episodes, "
        f"{seconds:.1f} s, {transitions / seconds:,.0f} transitions/s\n"
        f"it lies in {get_dataset_path(dataset_id)}\n"
        f"next: xql train offline --data minari:{dataset_id}"
    )

"""`xql paper …`: the paper's figures and tables, one command each."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from xql.cli.console import print_words
from xql.cli.train import Address, Trust, Words

FIGURES = {
    "figure1": "the Bellman errors of SAC, and which distribution they follow",
    "figure2": "Gumbel densities, the Gumbel loss, and a regression at three temperatures",
    "figure3": "SAC, TD3 and their extreme variants on DeepMind Control, over the paper's curves",
    "videos": "X-TD3 beside TD3, or any two runs of one task, returns in the frame",
    "table1": "offline learning on MuJoCo, AntMaze and Kitchen, published and ours",
    "table2": "fine-tuning on AntMaze, published and ours",
    "table3": "offline learning on Adroit, published and ours",
}


def list_() -> None:
    """Say which figures and tables can be made."""
    for name, about in FIGURES.items():
        print_words(f"xql paper {name:8} {about}", indent=19)


def figure1(
    tasks: Annotated[Words, tyro.conf.arg(metavar="ENV...")] = (),
    steps: int = 100_000,
    every: int = 5_000,
    seeds: int = 1,
    jobs: int | None = None,
    address: Address = None,
    out: Path = Path("figure1"),
) -> None:
    """Figure 1: fit Gumbel, normal and logistic to the Bellman errors of SAC, and say which wins.

    Fits all errors as they are, and for the paper's tasks also by its protocol: those within the
    window that its figure shows, with the policy's mean action for the next one. Trains every task
    that is not there already: after Ctrl-C the same command goes on with those that are missing.

    Args:
        tasks: environments; without it cheetah-run, walker-run and hopper-hop of DeepMind Control,
            and HalfCheetah-v5.
        steps: environment steps of each seed.
        every: steps between two measurements of the errors.
        seeds: how many for each task.
        jobs: how many tasks to train at a time; one without it, or on a cluster as many as
            there is room for.
        address: a Ray cluster to train on; this machine without it (docs/cluster.md).
        out: the folder for the figure, its table as CSV, the verdicts as Markdown, and its cells.
    """
    from xql.experiments.figure1 import TASKS
    from xql.experiments.figure1 import figure1 as study
    from xql.training.population import use_all_cores

    use_all_cores()
    print(
        study(
            out,
            sum(tasks, ()) or TASKS,
            steps=steps,
            every=every,
            seeds=seeds,
            jobs=jobs,
            address=address,
            say=lambda text: print(text, file=sys.stderr),
        ),
        end="",
    )
    _name_files(out, "figure1")


def _name_files(out: Path, figure: str) -> None:
    """Say what has been written; a figure that could not be drawn is not there."""
    names = [f"{figure}{ending}" for ending in (".png", ".svg", ".csv", ".md")]
    there = ", ".join(name for name in names if (out / name).exists())
    print(f"{out}: {there}", file=sys.stderr)


def figure2(out: Path = Path("figure2"), seed: int = 0) -> None:
    """Draw the paper's Figure 2: densities, the loss, and Gumbel regression at three β.

    Args:
        out: the folder for figure2.png, figure2.svg and the drawn curves as CSV.
        seed: of the regression's noise.
    """
    from xql.experiments.figure2 import figure2 as draw

    print(draw(out, seed))


def figure3(
    tasks: Annotated[Words, tyro.conf.arg(metavar="TASK...")] = (),
    methods: Annotated[Words, tyro.conf.arg(metavar="METHOD...")] = (),
    steps: int = 2_000_000,
    seeds: int = 4,
    jobs: int | None = None,
    address: Address = None,
    train: bool = True,
    out: Path = Path("figure3"),
) -> None:
    """Figure 3: SAC, TD3 and their extreme variants on DeepMind Control, over the paper's curves.

    Trains a cell for every task and method that is not there already: after Ctrl-C the same command
    goes on with those that are missing.

    Args:
        tasks: cheetah-run, walker-run, hopper-hop, quadruped-run; all of them without it.
        methods: sac, x-sac, td3, x-td3, td3-dq, x-td3-dq, the paper's six, as without it; sac-256
            and x-sac-256, which a laptop can train; and td3-5k, x-td3-5k, td3-dq-5k, x-td3-dq-5k,
            with this library's warm-up and loss; x-td3-5k-auto and x-sac-256-auto with beta=auto.
        steps: environment steps of each seed.
        seeds: how many of each method on each task.
        jobs: how many cells to train at a time, each on its share of the cores; one without it, or
            on a cluster as many as there is room for.
        address: a Ray cluster to train on; this machine without it (docs/cluster.md).
        train: train what is missing; without, only draw what is there.
        out: the folder for the figure, its numbers as CSV and Markdown, and its cells.
    """
    from xql.experiments.figure3 import PAPER, TASKS
    from xql.experiments.figure3 import figure3 as draw
    from xql.training.population import use_all_cores

    use_all_cores()
    print(
        draw(
            out,
            sum(tasks, ()) or TASKS,
            sum(methods, ()) or PAPER,
            steps=steps,
            seeds=seeds,
            jobs=jobs,
            address=address,
            train_missing=train,
            say=lambda text: print(text, file=sys.stderr),
        ),
        end="",
    )
    _name_files(out, "figure3")


def videos(
    left: Path,
    right: Path,
    out: Path,
    member: int = 0,
    episodes: int = 1,
    seed: int = 10_000,
    trust_environment: Trust = (),
) -> None:
    """Record two runs of one task side by side, as the paper's page shows X-TD3 and TD3.

    Args:
        left: a run's folder, such as X-TD3's on dm_control/hopper-hop.
        right: another run's, of the same environment.
        out: the mp4.
        member: which member of each run.
        episodes: how many, one after another, from the same starts.
        seed: the first one's.
        trust_environment: installed packages, or ids, whose environments the runs may name besides
            Gymnasium's, Gymnasium-Robotics' and xql's own.
    """
    from xql.evaluation.statistics import format_number
    from xql.reports.videos import videos as film

    for run, played in zip(
        (left, right),
        film(
            left,
            right,
            out,
            member=member,
            episodes=episodes,
            seed=seed,
            trust=sum(trust_environment, ()),
        ),
        strict=True,
    ):
        print(f"{run}: returns {', '.join(format_number(one.episode_return) for one in played)}")
    print(out)

"""Offline results, cell by cell: `python -m xql.experiments.offline_results TABLE`.

    pointmaze     XQL against BC on PointMaze-Medium and -Large, 256-256, 4 seeds × 100k updates
    peers         every offline agent, IQL also matched, on PointMaze-Medium, 4 seeds × 50k updates
    antmaze       XQL, IQL (also matched), ReBRAC and BC on AntMaze-UMaze made here, 2 seeds × 200k
    door-human    XQL on D4RL's door-human-v0, preset consistent without its dropout, 4 seeds × 200k
                  updates
    door-peers    XQL, IQL (also matched) and BC on door-human-v0, 4 seeds × 100k updates
    peers-large   every offline agent but CQL on PointMaze-Large, 4 seeds × 100k updates
    antmaze-more  XQL, IQL, ReBRAC and BC on AntMaze-Medium and -Large made here, 4 seeds × 1M
    mujoco        the offline agents on Hopper, HalfCheetah and Walker2d data of three kinds made
                  here with `xql data make mujoco`, 4 seeds × 1M updates
    beta          XQL over β, one population each of 2 seeds: PointMaze-Medium, 25k updates, and
                  AntMaze-UMaze made here, 75k
    stability     XQL on six tasks, 4 seeds × 50k updates: with temperatures that tune themselves,
                  over six fixed β, and with the paper's own loss at its nearest β
    neorl2        XQL, IQL, TD3+BC, ReBRAC and BC on NeoRL-2's DMSD and SafetyHalfCheetah, 4 seeds
                  × 50k updates
    extraction    XQL's four ways to extract a policy, on AntMaze-UMaze-diverse made here and DMSD,
                  2 seeds × 25k updates

A cell is one agent on one dataset; it is trained only if OUT/TABLE/cells does not hold it yet, so
that a table can grow over days. Table and figure are drawn from the cells alone, which need neither
the data nor the simulator.
"""

import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from xql.agents import OFFLINE
from xql.agents.hyperparameters import to_dict
from xql.data.d4rl import d4rl_name
from xql.errors import InputError, decoration, nearest
from xql.evaluation.statistics import format_interval
from xql.experiments.cells import Cell, kept, offline_cell, train_cells
from xql.experiments.compact import reduce_colours
from xql.experiments.sources import minari_fingerprint
from xql.files import write_texts
from xql.reports.plots import curves_from_run, plot_against, plot_learning_curves
from xql.runs.config import EvaluationPlan, RunConfig
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.summary import (
    SYMBOLS,
    UNITS,
    Quantity,
    by_changes,
    member_means,
    quantity_of,
    results,
    value_of,
)
from xql.training.population import use_all_cores


class Entry(NamedTuple):
    """A cell of a table: its name, and the run folder that it was kept in."""

    name: str
    run: RunFolder


class Table(NamedTuple):
    """Cells that stand together."""

    cells: Callable[[str | None], list[Cell]]
    """Of what --data gives, where that is needed."""
    note: str
    needs: str = ""
    """What --data has to be: "FILE" or "FOLDER"; empty where nothing is needed."""
    shown: tuple[str, ...] = ("beta",)
    """Hyperparameters that have a column, beside those that a cell sweeps."""
    seconds: str = "evaluations included, on one or two cores that may\nhave done other work too."
    """Of what and where they are."""


def _cell(name: str, data: str, agent: str, steps: int, seeds: int = 4, **more: Any) -> Cell:
    """One agent on one Minari dataset."""
    return offline_cell(
        name,
        data,
        opened=f"minari:{data}",
        fingerprint=minari_fingerprint(data),
        agent=agent,
        steps=steps,
        seeds=seeds,
        **more,
    )


def _pointmaze(_: str | None) -> list[Cell]:
    return [
        _cell(f"{maze}-{agent}", f"pointmaze/{maze}-play-v0", agent, 100_000)
        for maze in ("medium", "large")
        for agent in ("xql", "bc")
    ]


def _peers(_: str | None) -> list[Cell]:
    data = "pointmaze/medium-play-v0"
    cells = [_cell(agent, data, agent, 50_000) for agent in OFFLINE]
    return [
        *cells,
        _cell("iql-matched", data, "iql", 50_000, preset="matched"),
        _cell("bc-top-10", data, "bc", 50_000, options={"subset": "top:0.1"}),
    ]


def _antmaze(_: str | None) -> list[Cell]:
    data, steps = "antmaze/umaze-v0", 200_000
    cells = [_cell(agent, data, agent, steps, 2) for agent in ("xql", "iql", "rebrac", "bc")]
    return [*cells, _cell("iql-matched", data, "iql", steps, 2, preset="matched")]


def _peers_large(_: str | None) -> list[Cell]:
    data = "pointmaze/large-play-v0"
    # CQL draws 3n actions for each state, and would take longer than all the others together.
    return [_cell(agent, data, agent, 100_000) for agent in OFFLINE if agent != "cql"]


def _antmaze_more(_: str | None) -> list[Cell]:
    tasks = ("medium-play", "medium-diverse", "large-play", "large-diverse")
    return [
        _cell(f"{task}-{agent}", f"antmaze/{task}-v0", agent, 1_000_000)
        for task in tasks
        for agent in ("xql", "iql", "rebrac", "bc")
    ]


def _mujoco(_: str | None) -> list[Cell]:
    return [
        _cell(f"{env}-{kind}-{agent}", f"{env}/{kind}-v0", agent, 1_000_000)
        for env in ("hopper", "halfcheetah", "walker2d")
        for kind in ("medium", "medium-replay", "medium-expert")
        for agent in OFFLINE
    ]


def _door_human(file: str | None) -> list[Cell]:
    # Trained before the preset had the published dropout.
    options = {"policy_dropout": 0.0}
    return [_door("xql-consistent", "xql", 200_000, file, "consistent", options)]


def _door_peers(file: str | None) -> list[Cell]:
    cells = [_door(agent, agent, 100_000, file) for agent in ("xql", "iql", "bc")]
    return [*cells, _door("iql-matched", "iql", 100_000, file, "matched")]


def _beta(_: str | None) -> list[Cell]:
    sweep = {"beta": (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)}
    return [
        # At β = 1 every seed succeeds in every episode from 15k on (results/peers).
        _cell("pointmaze-medium", "pointmaze/medium-play-v0", "xql", 25_000, 2, sweep=sweep),
        # At β = 0.6 success is level from 60k on (results/antmaze).
        _cell("antmaze-umaze", "antmaze/umaze-v0", "xql", 75_000, 2, sweep=sweep),
    ]


class _Task(NamedTuple):
    """One of the tasks that `stability` is measured on."""

    data: str
    betas: tuple[float, ...]
    """Six, around the preset's."""
    official: Mapping[str, Any]
    """With the paper's loss: its β nearest to the task, and its rewards."""
    episodes: int = 100
    """Of a seed, at the last step."""


_TASKS = {
    "pointmaze-medium": _Task(
        "pointmaze/medium-play-v0", (0.1, 0.3, 0.6, 1.0, 2.0, 4.0), {"beta": 0.6}
    ),
    "pointmaze-large": _Task(
        "pointmaze/large-play-v0", (0.2, 0.6, 1.0, 2.0, 4.0, 8.0), {"beta": 0.6}
    ),
    "antmaze-umaze-short": _Task(
        "antmaze/umaze-short-v0", (0.1, 0.3, 0.6, 1.0, 2.0, 4.0), {"beta": 0.6}, episodes=30
    ),
    "door-human": _Task("door-human-v0", (0.5, 1.0, 2.0, 5.0, 10.0, 20.0), {"beta": 5.0}),
    "dmsd": _Task(
        "neorl2/DMSD",
        (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        {"beta": 2.0, "rewards": "return_range"},
    ),
    "safety-half-cheetah": _Task(
        "neorl2/SafetyHalfCheetah",
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        {"beta": 2.0, "rewards": "return_range"},
    ),
}
_SCALED = {"rewards": "auto", "observations": "auto"}
_AUTO = _SCALED | {
    "beta": "auto",
    "beta_kl": 0.05,
    "inverse_temperature": "auto",
    "policy_kl": 2.0,
    "loss": "bounded",
    "max_gradient_norm": None,
}
_OFFICIAL = {"loss": "official", "clip": 7.0, "max_gradient_norm": None}


def _short(
    name: str, data: str, agent: str, folder: str | None, episodes: int = 100, **more: Any
) -> Cell:
    """One agent on one dataset for 50,000 updates, evaluated once, at their end."""
    plan = EvaluationPlan(evaluations=1, last_episodes=episodes)
    settings: dict[str, Any] = {"agent": agent, "steps": 50_000, "seeds": 4, "evaluation": plan}
    settings |= more
    kind, _, task = data.rpartition("/")
    if kind in ("pointmaze", "antmaze"):
        opened, fingerprint = f"minari:{data}", minari_fingerprint(data)
        return offline_cell(name, data, opened=opened, fingerprint=fingerprint, **settings)
    home = Path(folder or ".")
    if kind == "neorl2":
        opened = f"neorl2:{home / f'{task}-high-100000-train.npz'}"
        return offline_cell(name, data, opened=opened, **settings)
    files = (one for one in sorted(home.glob("*.hdf5")) if d4rl_name(one) == data)
    opened = f"d4rl:{next(files, home / f'{data}.hdf5')}"
    return offline_cell(name, data, opened=opened, env=DOOR, **settings)


def _stability(folder: str | None) -> list[Cell]:
    return [
        _short(f"{name}-{kind}", task.data, "xql", folder, task.episodes, **more)
        for name, task in _TASKS.items()
        for kind, more in (
            ("auto", {"options": _AUTO}),
            ("fixed", {"sweep": {"beta": task.betas}}),
            ("official", {"options": {**_OFFICIAL, **task.official}}),
        )
    ]


def _neorl2(folder: str | None) -> list[Cell]:
    peers: dict[str, dict[str, dict[str, Any]]] = {
        "DMSD": {
            "iql": {"expectile": 0.6, "inverse_temperature": 10.0},
            "td3-bc": {"value_weight": 2.5},
            "rebrac": {"policy_cloning": 0.003, "critic_cloning": 0.0},
            "bc": {},
        },
        "SafetyHalfCheetah": {
            "iql": {"expectile": 0.6, "inverse_temperature": 3.0},
            "td3-bc": {"value_weight": 0.1},
            "bc": {},
        },
    }
    cells = []
    for task, settings in peers.items():
        name, data = ("dmsd" if task == "DMSD" else "safety-half-cheetah"), f"neorl2/{task}"
        cells.append(_short(f"{name}-xql", data, "xql", folder, options=_AUTO))
        for agent, own in settings.items():
            # BC sees no rewards.
            scaled = {"observations": "auto"} if agent == "bc" else _SCALED
            cells.append(_short(f"{name}-{agent}", data, agent, folder, options=scaled | own))
    return cells


def _extraction(folder: str | None) -> list[Cell]:
    of_awr = ("inverse_temperature", "policy_kl")
    shared = {name: value for name, value in _AUTO.items() if name not in of_awr}
    choices: dict[str, dict[str, Any]] = {
        "awr": dict(_AUTO),
        "ddpg_bc": shared,
        "best_of_n": shared,
        "flow": shared,
    }
    cells = []
    for name, data, bc_weight in (
        ("antmaze-umaze-diverse", "antmaze/umaze-diverse-v0", 0.3),
        ("dmsd", "neorl2/DMSD", 0.01),
    ):
        for policy, options in choices.items():
            weight = {"bc_weight": bc_weight} if policy in ("ddpg_bc", "flow") else {}
            settings = {**options, **weight, "policy": policy}
            cells.append(
                _short(
                    f"{name}-{policy}", data, "xql", folder, steps=25_000, seeds=2, options=settings
                )
            )
    return cells


def _door(
    name: str,
    agent: str,
    steps: int,
    file: str | None,
    preset: str = "default",
    options: Mapping[str, Any] | None = None,
) -> Cell:
    """One agent on D4RL's door-human."""
    return offline_cell(
        name,
        "door-human-v0",
        opened=f"d4rl:{file or 'door-human-v0.hdf5'}",
        agent=agent,
        preset=preset,
        options=options,
        steps=steps,
        seeds=4,
        env=DOOR,
    )


DOOR = "AdroitHandDoor-v1"
_PLAY = "From the farthest cell to the farthest cell; the data is undirected play."
_TUNED = (
    "Learning rates, polyak rate, schedule and XQL's β were chosen for XQL on PointMaze-Medium, on "
    "a seed that no result uses; the options of the other agents' own were not tuned."
)
_UNTUNED = "No agent was tuned on this task."
_MATCHED = "iql-matched has XQL's settings in all but the loss of V."
_ANT = (
    "The data was made here, with `xql data make antmaze-umaze`; it is not D4RL's. An episode "
    "ends at its first success."
)
_MUJOCO = "The data was made here with `xql data make mujoco`; it is not D4RL's."
_DOOR = (
    f"The environment is {DOOR} of gymnasium-robotics, whose reward changed in release 1.2.1: "
    "success compares with D4RL's, returns and normalised scores do not."
)
_GPU = (
    "Trained on one NVIDIA H200, each cell one population, and evaluated on a processor, once, at "
    "the last step: *best* is *last*."
)
_GPU_SECONDS = "without evaluations, on a GPU that some 12 cells shared."
_BEFORE = (
    "*auto* was trained before its temperatures had a floor in the spread of Q (../README.md): "
    "trained anew it gives other numbers."
)
_STABILITY = (
    "*auto*: one setting for all tasks (rewards, observations, β and κ auto, beta_kl 0.05, "
    "policy_kl 2, the bounded loss), chosen on seed 100. *fixed*: preset default over six β. "
    f"*official*: the paper's own loss at its nearest β, clipped at 7. {_BEFORE} {_GPU}"
)
_EXTRACTION = (
    "Q and V are learned as by *auto* of the table stability. bc_weight of DMSD: the best of 0.01, "
    "0.03, 0.1 and 0.3 for ddpg_bc on seed 100; of AntMaze, the default. best_of_n draws 32."
)
_NEORL2 = (
    "Normalised as NeoRL-2 does; settings were chosen on seed 100. XQL is *auto* of the table "
    f"stability. {_BEFORE} ReBRAC was stopped at 45,000 updates. {_GPU}"
)
TABLES = {
    "pointmaze": Table(_pointmaze, f"{_PLAY} {_TUNED}"),
    "peers": Table(_peers, f"{_PLAY} {_TUNED} {_MATCHED}"),
    "antmaze": Table(_antmaze, f"{_ANT} {_UNTUNED} {_MATCHED}"),
    "peers-large": Table(_peers_large, f"{_PLAY} {_TUNED}"),
    "antmaze-more": Table(_antmaze_more, _ANT),
    "mujoco": Table(_mujoco, _MUJOCO),
    "door-human": Table(_door_human, _DOOR, needs="FILE"),
    "door-peers": Table(_door_peers, f"{_DOOR} {_UNTUNED} {_MATCHED}", needs="FILE"),
    "beta": Table(_beta, f"PointMaze: {_PLAY} AntMaze: {_ANT}"),
    "stability": Table(_stability, _STABILITY, needs="FOLDER", seconds=_GPU_SECONDS),
    "extraction": Table(_extraction, _EXTRACTION, needs="FOLDER", shown=("policy", "bc_weight")),
    "neorl2": Table(_neorl2, _NEORL2, needs="FOLDER", shown=(), seconds=_GPU_SECONDS),
}


def make_data(cell: Cell) -> None:
    """Make the maze dataset of a cell where this machine does not hold it."""
    name = str(cell.configuration["data"]["name"])
    task: Any = name.partition("/")[2].removesuffix("-v0")
    short = task.endswith("-short")
    if name.startswith("pointmaze/"):
        from xql.collect.pointmaze import ensure_pointmaze

        ensure_pointmaze(task.removesuffix("-play"))
    elif name.startswith("antmaze/"):
        from xql.collect.antmaze import make_antmaze
        from xql.collect.writing import dataset_folder

        if not dataset_folder(name).exists():
            # The kept cells had the first 350,000 of the 1,000,000 transitions of umaze-v0.
            more: Any = {"transitions": 350_000, "dataset_id": name} if short else {}
            make_antmaze(task.removesuffix("-short"), **more)


def quantities_of(evaluations: Sequence[Evaluation]) -> Iterator[Quantity]:
    """The measure that matters most, then those that say something it does not say."""
    first = quantity_of(evaluations)
    values = np.array([value_of(row, first) for row in evaluations])
    yield first
    others: tuple[Quantity, ...] = ("score", "return")
    for quantity in others:
        missing = quantity == "score" and any(row.score is None for row in evaluations)
        if missing or quantity == first:
            continue
        # A maze rewards success with 1 and nothing else.
        own = np.array([value_of(row, quantity) for row in evaluations])
        if not any(np.array_equal(scale * own, values, equal_nan=True) for scale in (1, 100)):
            yield quantity


def swept(config: RunConfig) -> tuple[str, ...]:
    """The names of the hyperparameters that a run sweeps."""
    return tuple(config.members[0].changes)


def rows_of(entry: Entry, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of table.csv for one cell, from what its run wrote.

    Args:
        entry: the cell.
        names: the hyperparameters that have a column; it is empty for an agent without one.
    """
    run, config = entry.run, entry.run.config
    evaluations = run.read_evaluations()
    seconds = round(run.read_metrics()[-1].values["seconds"][0])
    own_values = to_dict(config.member_config(0))
    groups = [rows for _, rows in by_changes(evaluations, config.members)]
    for quantity in quantities_of(evaluations):
        for result, own in zip(results(evaluations, config.members, quantity), groups, strict=True):
            end = max(row.step for row in own)
            means = member_means([row for row in own if row.step == end], quantity).values()
            each = {"last": " ".join(f"{one:.4g}" for one in means)}
            values = own_values | result.changes
            for which, summary in (("last", result.last), ("best", result.best)):
                yield {
                    "cell": entry.name,
                    "agent": config.agent,
                    "preset": config.preset,
                    **{name: values.get(name, "") for name in names},
                    "updates": end,
                    "measure": UNITS[quantity],
                    "IQM": f"{summary.interval.estimate:.2f}",
                    "low": f"{summary.interval.low:.2f}",
                    "high": f"{summary.interval.high:.2f}",
                    "which": which,
                    "of": summary.label,
                    "seeds": summary.interval.seeds,
                    "each seed": each.get(which, ""),
                    "episodes": summary.episodes,
                    "seconds": seconds,
                    "shown": format_interval(summary.interval),
                }


def markdown(table: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """table.md: last and best of each cell and measure side by side."""
    lasts, bests = ([row for row in rows if row["which"] == which] for which in ("last", "best"))
    shown = [
        {**last, "last": last["shown"], "best": best["shown"]}
        for last, best in zip(lasts, bests, strict=True)
    ]
    episodes = {
        (last["episodes"], best["episodes"]) for last, best in zip(lasts, bests, strict=True)
    }
    counts = "; ".join(
        f"{last} at the last, {best} at each other" for last, best in sorted(episodes)
    )
    columns = ("cell", *names, "updates", "measure", "last", "each seed", "best", "seconds")
    header = [SYMBOLS.get(name, name) for name in columns]
    needs = TABLES[table].needs
    needed = f" --data {needs}" if needs else ""
    return "\n".join(
        [
            f"# {table}",
            "",
            f"`python -m xql.experiments.offline_results {table}{needed}`",
            "",
            TABLES[table].note,
            "Interquartile mean over seeds with its 95 % bootstrap interval over seeds. *Last* is",
            "the last step's and is the result, *each seed* its mean there; *best* takes each",
            f"seed's best evaluation and is biased upwards. Episodes of a seed: {counts}. Seconds",
            f"are those of all seeds together, {TABLES[table].seconds}",
            "",
            "| " + " | ".join(header) + " |",
            "|" + "---|" * len(header),
            *("| " + " | ".join(str(row[name]) for name in columns) + " |" for row in shown),
            "",
        ]
    )


def entries_of(table: str, home: Path) -> list[Entry]:
    """The cells of a table that are kept, by name."""
    found = [(one.name, kept(home / "cells", one)) for one in TABLES[table].cells(None)]
    return [Entry(name, RunFolder.open(path)) for name, path in sorted(found) if path is not None]


def tabulate(table: str, home: Path) -> list[Entry]:
    """Write table.csv and table.md from the cells that are kept.

    Returns:
        These cells.
    """
    entries = entries_of(table, home)
    named = [name for one in entries for name in swept(one.run.config)]
    names = list(dict.fromkeys((*TABLES[table].shown, *named)))
    rows = [row for one in entries for row in rows_of(one, names)]
    if rows:
        text = io.StringIO()
        columns = [name for name in rows[0] if name != "shown"]
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        tables = {"table.csv": text.getvalue(), "table.md": markdown(table, rows, names)}
        write_texts(home, tables)
    return entries


def draw(table: str, entries: Sequence[Entry], home: Path) -> None:
    """The one figure of a table: the last score over what cells sweep, or else learning curves.

    There is none where every cell was evaluated once, and none sweeps.
    """
    runs = [one.run for one in entries]
    sweeping = [one for one in entries if swept(one.run.config)]
    names = {swept(one.run.config) for one in sweeping}
    if len(names) == 1 and len(name := min(names)) == 1:
        labels = [one.name for one in sweeping]
        shown = [one.run for one in sweeping]
        beside = [
            {
                one.name: one.run
                for one in entries
                if one not in sweeping and one.run.config.data.name == run.config.data.name
            }
            for run in shown
        ]
        path = plot_against(shown, name[0], home / f"{name[0]}.png", titles=labels, beside=beside)
    elif all(run.config.evaluation.evaluations == 1 for run in runs):
        return
    else:
        curves = [curve for one in entries for curve in curves_from_run(one.run, label=one.name)]
        quantity = quantity_of(runs[0].read_evaluations())
        path = plot_learning_curves(curves, home / "curves.png", title=table, quantity=quantity)
    reduce_colours(path)


def chosen(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells asked for.

    Raises:
        InputError: a name that the table does not have.
    """
    names = [cell.name for cell in cells]
    for name in only:
        if name not in names:
            raise InputError(f"no cell '{name}'", hint=nearest(name, names))
    return [cell for cell in cells if not only or cell.name in only]


def main(
    table: tyro.conf.Positional[str],
    data: str | None = None,
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CELL")] = (),
    train: bool = True,
    out: Path = Path("results"),
) -> None:
    """Train the cells of a table that are not kept yet, then write the table and its figure.

    Args:
        table: one of those that the head of this file lists.
        data: the file of door-human and door-peers, as D4RL publishes it; for stability and neorl2
            a folder with NeoRL-2's files, and with that file, under their published names.
        only: names of cells; all without it.
        train: train what is missing; without, only write what is there.
        out: the folder; the table goes to the folder of its name in there.
    """
    if table not in TABLES:
        raise InputError(f"no table '{table}'", hint=nearest(table, TABLES))
    use_all_cores()
    home = out / table
    for one in chosen(TABLES[table].cells(data), only) if train else ():
        if kept(home / "cells", one) is None:
            make_data(one)
            # With the fingerprint of the data that was made.
            [one] = chosen(TABLES[table].cells(data), [one.name])
        [outcome] = train_cells([one], home / "cells", say=print).values()
        if outcome.problem:
            raise InputError(outcome.problem)
        # After every cell: the next may take a day.
        tabulate(table, home)
    entries = tabulate(table, home)
    with decoration("figure"):
        draw(table, entries, home)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        sys.exit(f"xql.experiments.offline_results: {error}")

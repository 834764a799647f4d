"""`xql data make`: benchmark data made on this machine."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import tyro

from xql.errors import InputError, nearest


class Kind(NamedTuple):
    """One name that can be made."""

    make: Callable[..., str]
    """Takes `what`, the policy's file where `policy` says so, and the keywords `seed`, `noise`,
    `dataset_id`, `progress` and the `unit`; returns the dataset's id."""
    what: str
    size: int
    """Where the user names no number."""
    noise: float
    """Where the user names none."""
    policy: str = ""
    """What the file given with --policy must hold; none is taken where this is empty."""
    needs_policy: bool = True
    """Whether the user must give that file; else `make` has one of its own."""
    unit: Literal["transitions", "episodes"] = "transitions"
    """What the size is counted in."""


ONLINE = ("mujoco", "online")
"""Names of the data that come from an online run, of any environment."""

MADE = {
    "pointmaze-umaze": False,
    "pointmaze-medium": False,
    "pointmaze-large": False,
    "antmaze-umaze": False,
    "antmaze-umaze-diverse": False,
    "antmaze-medium-play": False,
    "antmaze-medium-diverse": False,
    "antmaze-large-play": False,
    "antmaze-large-diverse": False,
    "adroit-pen-expert": True,
    "adroit-door-expert": True,
    "adroit-relocate-expert": True,
    "kitchen-complete": False,
    "kitchen-partial": False,
    "kitchen-mixed": False,
}
"""The names of `kinds`, whose import takes seconds, and whether the user must give a policy."""


def kinds() -> dict[str, Kind]:
    """All that can be made, by name."""
    from xql.collect import adroit, antmaze, kitchen, pointmaze

    found = {
        f"pointmaze-{maze}": Kind(pointmaze.make_pointmaze, maze, 200_000, pointmaze.NOISE)
        for maze in get_args(pointmaze.Maze)
    }
    ant, hand = "a goal-reaching ant", "a policy for this task"
    for task in get_args(antmaze.Task):
        kind = Kind(antmaze.make_antmaze, task, 1_000_000, antmaze.NOISE, ant, False)
        found[f"antmaze-{task}"] = kind
    for task in get_args(adroit.Task):
        kind = Kind(adroit.make_adroit, task, 1_000_000, adroit.NOISE, hand)
        found[f"adroit-{task}-expert"] = kind
    for what, episodes in kitchen.EPISODES.items():
        kind = Kind(kitchen.make_kitchen, what, episodes, kitchen.NOISE, unit="episodes")
        found[f"kitchen-{what}"] = kind
    return found


def make(
    name: tyro.conf.Positional[str],
    policy: Path | None = None,
    transitions: int | None = None,
    seed: int = 0,
    noise: float | None = None,
    out_id: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None,
    env: str | None = None,
    kind: str | None = None,
    steps: int | None = None,
    run: Path | None = None,
    out: Path | None = None,
    episodes: int | None = None,
    missing: float | None = None,
) -> None:
    """Make a benchmark dataset with a simulator and write it among Minari's datasets.

    `icu-sepsis` writes a file instead, `greenhouse` a CSV, to be converted as a table of one's own,
    and `ant-policy` makes no dataset but the policy file that antmaze walks with.

    Args:
        name: pointmaze-{umaze,medium,large}, antmaze-{umaze,umaze-diverse}, adroit-{pen,door,
            relocate}-expert, antmaze-{medium,large}-{play,diverse}, kitchen-{complete,partial,
            mixed}, mujoco, online, icu-sepsis, greenhouse, or ant-policy; mujoco and online are the
            same.
        policy: for adroit, and if wished antmaze, the .npz file of the behaviour policy
            (docs/data.md).
        transitions: how many transitions to make; 200,000 of pointmaze and 1,000,000 of the others
            without it. A kitchen's size is said in episodes.
        seed: the same seed gives the same bytes.
        noise: standard deviation of the noise on each action, whose bounds are ±1 (pointmaze 0.5
            and antmaze 0.2 without it); for adroit a factor on the policy's own deviation (1); for
            kitchen the mean over the episodes (0.1), each of which has between half and three
            halves of it.
        out_id: Minari's name for the dataset, such as pointmaze/medium-play-v0.
        env: for mujoco and online, halfcheetah, hopper, walker2d, ant, cartpole, acrobot or a
            Gymnasium id; the run's without it.
        kind: for mujoco and online, random, medium, medium-replay, medium-expert or expert
            (docs/data.md).
        steps: for mujoco, online and ant-policy, how long SAC learns; 250,000 of ant-policy and
            1,000,000 of the others without it.
        run: for mujoco, online and ant-policy, a finished online run to take the policies from;
            nothing is trained then.
        out: for icu-sepsis and ant-policy the .npz, for greenhouse the .csv file to write.
        episodes: for kitchen, 19 of complete and 600 of the others without it; for icu-sepsis, how
            many patients are treated, 5,000 without it; for greenhouse, how many seasons of 40
            days, 60 without it.
        missing: for greenhouse, the share of the measurements that are left out; 0 without it.

    Raises:
        InputError: an unknown name, a number out of range, an id that exists, a file that holds no
            such policy.
        MissingExtra: Minari or the simulator is not installed.
    """
    began = time.perf_counter()
    if out_id == "":
        raise InputError("it is empty", where="--out-id", hint="write it as NAMESPACE/NAME-v0")
    if name == "greenhouse":
        unused = {"policy": policy, "transitions": transitions, "noise": noise, "out-id": out_id}
        _refuse(name, **unused, env=env, kind=kind, steps=steps, run=run)
        _greenhouse(out, episodes, seed, missing)
        return
    _refuse(name, missing=missing)
    if name == "ant-policy":
        given = {"policy": policy, "transitions": transitions, "noise": noise, "out-id": out_id}
        _refuse(name, **given, env=env, kind=kind, episodes=episodes)
        _ant_policy(out, run, steps, seed)
        return
    if name == "icu-sepsis":
        given = {"policy": policy, "transitions": transitions, "noise": noise, "out-id": out_id}
        _refuse(name, **given, env=env, kind=kind, steps=steps, run=run)
        _icu_sepsis(out, episodes, seed)
        return
    _refuse(name, out=out)
    if name in ONLINE:
        _refuse(name, policy=policy, noise=noise, episodes=episodes)
        dataset_id = _online(name, env, kind, steps, transitions, seed, run, out_id)
        _report(dataset_id, time.perf_counter() - began)
        return
    known = kinds()
    if name not in known:
        raise InputError(
            f"nothing called '{name}' can be made",
            hint=nearest(name, [*known, *ONLINE, "icu-sepsis", "greenhouse", "ant-policy"]),
        )
    _refuse(name, env=env, kind=kind, steps=steps, run=run)
    found = known[name]
    sizes = {"transitions": transitions, "episodes": episodes}
    size = sizes.pop(found.unit)
    _refuse(name, **sizes)
    if policy is None and found.policy and found.needs_policy:
        raise InputError(
            f"it needs {found.policy}", where=name, hint="give its .npz file with --policy"
        )
    if policy is not None and not found.policy:
        raise InputError("it takes no policy", where=name, hint="leave --policy out")
    dataset_id = _with_bar(
        name, found, [] if policy is None else [policy], size, seed, noise, out_id
    )
    _report(dataset_id, time.perf_counter() - began)


def _with_bar(
    name: str,
    kind: Kind,
    policy: list[Path],
    size: int | None,
    seed: int,
    noise: float | None,
    out_id: str | None,
) -> str:
    total = kind.size if size is None else size
    with _bar(kind.unit) as bar:
        task = bar.add_task(name, total=total)
        return kind.make(
            kind.what,
            *policy,
            **{kind.unit: total},
            seed=seed,
            noise=kind.noise if noise is None else noise,
            dataset_id=out_id,
            progress=lambda made, wanted: bar.update(task, completed=made, total=wanted),
        )


def _online(
    name: str,
    env: str | None,
    kind: str | None,
    steps: int | None,
    transitions: int | None,
    seed: int,
    run: Path | None,
    out_id: str | None,
) -> str:
    from xql.collect.mujoco import KINDS, STEPS, make_mujoco
    from xql.training.population import use_all_cores

    if kind is None:
        raise InputError("it needs a kind", where=name, hint=f"give --kind {{{','.join(KINDS)}}}")
    if run is not None:
        _refuse(f"{name} --run", steps=steps)
    use_all_cores()
    bar = _bar()
    task = bar.add_task(kind, total=transitions)

    def progress(made: int, wanted: int) -> None:
        # Not before: while it trains, the run has a progress bar of its own.
        bar.start()
        bar.update(task, completed=made, total=wanted)

    try:
        return make_mujoco(
            env,
            kind,
            steps=STEPS if steps is None else steps,
            transitions=transitions,
            seed=seed,
            run=run,
            dataset_id=out_id,
            command=name,
            progress=progress,
        )
    finally:
        bar.stop()


def _ant_policy(out: Path | None, run: Path | None, steps: int | None, seed: int) -> None:
    from xql.collect.antmaze import controller_success
    from xql.collect.goal_ant import STEPS, make_ant_policy
    from xql.collect.policies import load_goal_policy

    if out is None:
        raise InputError("it needs a file", where="ant-policy", hint="name it with --out")
    if run is not None:
        _refuse("ant-policy --run", steps=steps)
    made = make_ant_policy(out, steps=STEPS if steps is None else steps, seed=seed, run=run)
    success = controller_success("umaze", load_goal_policy(out), seed=seed)
    print(f"made {out} from {made}: the ant succeeds in {100 * success:.0f} % of UMaze's trials")
    print(f"next: xql data make antmaze-umaze --policy {out}")


def _icu_sepsis(out: Path | None, episodes: int | None, seed: int) -> None:
    from xql.collect.icu_sepsis import EPISODES, make_icu_sepsis

    if out is None:
        hint = "name it with --out, such as --out icu-sepsis.npz"
        raise InputError("it needs a file", where="icu-sepsis", hint=hint)
    began = time.perf_counter()
    made = make_icu_sepsis(out, episodes=EPISODES if episodes is None else episodes, seed=seed)
    print(
        f"made {out}: {made.transitions:,} transitions in {made.episodes:,} episodes, "
        f"{time.perf_counter() - began:.1f} s; {made.returns.mean():.1%} of the patients survive"
    )
    print(f"next: xql train offline --data {out}")


def _greenhouse(out: Path | None, episodes: int | None, seed: int, missing: float | None) -> None:
    from xql.collect.greenhouse import EPISODES, make_greenhouse

    if out is None:
        raise InputError("it needs a file", where="greenhouse", hint="name it with --out LOG.csv")
    total = EPISODES if episodes is None else episodes
    with _bar("seasons") as bar:
        task = bar.add_task("greenhouse", total=total)
        rows, harvests = make_greenhouse(
            out,
            episodes=total,
            seed=seed,
            missing=0.0 if missing is None else missing,
            progress=lambda made, wanted: bar.update(task, completed=made, total=wanted),
        )
    print(f"made {out}: {rows:,} rows of {total:,} seasons, {harvests:,} of them up to the harvest")
    print(
        f"next: xql data convert {out} {out.with_suffix('.npz')} --observation 'sensor_*' "
        "--action 'change_*' --reward reward --episode season --time time --terminated harvested"
        f"{' --missing ffill' if missing else ''}"
    )


def _refuse(name: str, **given: Any) -> None:
    for option, value in given.items():
        if value is not None:
            raise InputError(f"it takes no --{option}", where=name, hint="leave it out")


def _bar(unit: str = "transitions") -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from xql.cli.console import is_terminal, plain_console

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
        TimeRemainingColumn(),
        console=plain_console(file=sys.stderr),
        transient=True,
        disable=not is_terminal(sys.stderr),
    )


def _report(dataset_id: str, seconds: float) -> None:
    from xql.collect.writing import dataset_folder, read_metadata

    metadata: dict[str, Any] = read_metadata(dataset_id)
    transitions, episodes = metadata["total_steps"], metadata["total_episodes"]
    print(
        f"made {dataset_id}: {transitions:,} transitions in {episodes:,} episodes, "
        f"{seconds:.1f} s, {transitions / seconds:,.0f} transitions/s"
    )
    if "outcome" in metadata["made_by"]:
        print(metadata["made_by"]["outcome"])
    print(f"it lies in {dataset_folder(dataset_id)}")
    print(f"next: xql train offline --data minari:{dataset_id}")

"""The cells of tables, figures and sweeps: one run each, trained once and kept by configuration.

A cell is a function that trains, and the configuration of the run that it makes. What is kept of it
lies in a folder NAME-HASH, the hash being of both, so that a table under other settings never shows
a cell of these, and a changed preset makes another cell. Beside what `compact.py` keeps, a cell
keeps its checkpoints, so that it can be filmed and evaluated like any run, and `cell.json`, what
tells it apart that is no part of config.yaml.

A cell trains in the folder `work` beside the kept ones. What interrupted it, training goes on from
its latest checkpoint, with the bits of one that was not (`training/resume.py`).

A cell is *found* by what its files say. Neither the data nor the simulator need be here for that,
and a hyperparameter that a later version adds, with a default that changes nothing, loses no cell.
"""

import contextlib
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xql.agents import AGENTS, Unchecked
from xql.data.actions import Box, Discrete
from xql.data.scaling import Scaling
from xql.data.sources import open_dataset
from xql.errors import EnvironmentFault, InputError, MissingExtra
from xql.experiments.compact import compact
from xql.experiments.executors import Executor, Lost, in_process
from xql.files import (
    beside,
    made_folder,
    remove_folder,
    require_writable,
    unwritable,
    write_text,
    writing,
)
from xql.presets import resolve
from xql.runs.checkpoints import drop_extra, latest_step
from xql.runs.config import (
    DEFAULT_EVALUATION,
    DataConfig,
    EvaluationPlan,
    OnlineLoop,
    ReplayKind,
    RunConfig,
    require_at_least,
)
from xql.runs.folder import RunFolder
from xql.runs.lock import locked
from xql.runs.run import Run
from xql.runs.sweep import choose_members
from xql.training.finetune import train_finetune
from xql.training.offline import plan_offline, train_offline
from xql.training.online import train_online
from xql.training.resume import resume

Train = Callable[..., object]
"""Writes a run folder at its keyword argument `out`; importable by name, so that another process
can call it."""

OF_THE_DATA = ("transitions", "episodes", "mean_return")
"""What only the data itself says, and a configuration that was asked for without it leaves open."""


LEFT_OUT: dict[str, Any] = {"precision": "float32", "hold_out": 0.0, "streamed": None}
"""What a configuration says only where it is otherwise, so that an older one keeps its hash."""


def configuration(config: RunConfig) -> dict[str, Any]:
    """All that a run's result depends on, in plain values.

    Its data counts by name and extent and not by where it lay; what follows from the data or the
    simulator (numbers of the scaling, sizes, bounds), notes, versions and when it was saved do not
    count. Nor does the name of the preset: its values do.
    """
    values = config.to_dict()
    saved = ("checkpoints", "keep_policies", "keep_replay")
    for name in ("version", "xql", "preset", "sources", *saved):
        values.pop(name, None)
    scaling, data = values["scaling"], values["data"]
    values["scaling"] = {name: scaling[name] for name in ("rewards", "observations")}
    values["data"] = {
        name: data[name]
        for name in ("name", "subset", "hold_out", "streamed", *OF_THE_DATA)
        if name in data
    }
    if "mean_return" in data:
        # The last digits of a sum depend on the processor.
        values["data"]["mean_return"] = float(f"{data['mean_return']:.6g}")
    return values


def asked(
    agent: str,
    preset: str,
    data: str,
    *,
    steps: int,
    seeds: int | Sequence[int],
    sweep: Mapping[str, Sequence[float]] | None = None,
    env: str | None = None,
    options: Mapping[str, Any] | None = None,
    evaluation: EvaluationPlan = DEFAULT_EVALUATION,
    loop: OnlineLoop | None = None,
) -> dict[str, Any]:
    """The `configuration` of a run as far as it is known without its data or its simulator.

    Args:
        agent, preset, steps, seeds, sweep, options, evaluation: as `plan_offline` takes them.
        data: the dataset's name; online, the environment.
        env: the environment to evaluate in; None where the data names it.
        loop: how acting and learning take turns, of an online run.

    Raises:
        InputError: as `plan_offline` does, but for the data.
    """
    require_at_least("steps", steps, 1)
    require_at_least("seeds", seeds if isinstance(seeds, int) else len(seeds), 1)
    evaluation.check()
    sweep = dict(sweep or {})
    chosen = resolve(agent, preset, data, options, swept=sweep)
    made = AGENTS[agent].make(chosen.config, steps)
    none = np.zeros(0, np.float32)
    known = configuration(
        RunConfig(
            agent=agent,
            preset=preset,
            steps=steps,
            members=choose_members(made, agent, seeds, sweep),
            hyperparameters=chosen.config,
            scaling=Scaling(chosen.rewards, chosen.observations, 1.0, 0.0, none, none),
            data=DataConfig(data, "", 0, Box((), ()), subset=chosen.subset),
            environment=env,
            evaluation=replace(evaluation, stop_at_success=False),
            loop=loop,
        )
    )
    if loop is None:
        # The data decides these: its actions, whatever their number, the first.
        for name in AGENTS[agent].suited_to(chosen.config, Discrete(2)):
            if name not in chosen.sources and name not in sweep:
                known["hyperparameters"].pop(name, None)
        known["evaluation"].pop("stop_at_success")
        if env is None:
            known.pop("environment")
    return known


class Cell(NamedTuple):
    """One run of a table, a figure or a sweep."""

    name: str
    train: Train
    settings: Mapping[str, Any]
    """The keyword arguments of `train`, but for `out`."""
    configuration: Mapping[str, Any]
    """Of the run: `configuration` of what was planned, or what was `asked`."""
    more: Mapping[str, Any] = {}
    """What else the result depends on, in plain values. What a kept cell does not say of this, such
    as the data's fingerprint, is not compared."""

    @property
    def stem(self) -> str:
        """Its folder's name, without the hash."""
        return self.name.replace("/", "-").replace(":", "-")

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it apart that is no part of a run's configuration."""
        return {"train": self.train.__name__, **self.more}


def offline_cell(
    name: str,
    data: str,
    *,
    opened: str | None,
    fingerprint: str = "",
    agent: str,
    preset: str = "default",
    steps: int,
    seeds: int | Sequence[int],
    sweep: Mapping[str, Sequence[float]] | None = None,
    env: str | None = None,
    options: Mapping[str, Any] | None = None,
    evaluation: EvaluationPlan = DEFAULT_EVALUATION,
    quiet: bool = False,
) -> Cell:
    """A cell that `train_offline` trains.

    Args:
        name: the cell's.
        data: the dataset's name.
        opened: what `open_dataset` takes; None where the data is not here, and the cell can be read
            alone.
        fingerprint: changes with the data; empty where it is not known.
        agent, preset, steps, seeds, sweep, env, options, evaluation: as `asked` takes them.
        quiet: show no progress bar.

    Raises:
        InputError: as `asked` does.
    """
    settings: dict[str, Any] = {
        "agent": agent,
        "preset": preset,
        "steps": steps,
        "seeds": seeds,
        "sweep": sweep,
    }
    settings |= {"env": env, "options": options, **_counts(evaluation), **_output(quiet)}
    known = asked(
        agent,
        preset,
        data,
        steps=steps,
        seeds=seeds,
        sweep=sweep,
        env=env,
        options=options,
        evaluation=evaluation,
    )
    more = {"fingerprint": fingerprint} if fingerprint else {}
    return Cell(name, train_offline, {"data": opened, **settings}, known, more)


def online_cell(
    name: str,
    env: str,
    *,
    agent: str,
    preset: str = "default",
    steps: int,
    seeds: int | Sequence[int],
    options: Mapping[str, Any] | None = None,
    evaluation: EvaluationPlan = DEFAULT_EVALUATION,
    loop: OnlineLoop,
    quiet: bool = False,
) -> Cell:
    """A cell that `train_online` trains.

    Args:
        name: the cell's.
        env, agent, preset, steps, seeds, options, evaluation, loop: as `plan_online` takes them.
        quiet: show no progress bar.

    Raises:
        InputError: as `asked` does.
    """
    settings: dict[str, Any] = {
        "env": env,
        "agent": agent,
        "preset": preset,
        "steps": steps,
        "seeds": seeds,
    }
    settings |= {"options": options, "loop": loop, **_counts(evaluation), **_output(quiet)}
    known = asked(
        agent,
        preset,
        env,
        steps=steps,
        seeds=seeds,
        env=env,
        options=options,
        evaluation=evaluation,
        loop=loop,
    )
    return Cell(name, train_online, settings, known)


def train_then_finetune(
    data: str,
    *,
    steps: int,
    online_steps: int,
    replay: ReplayKind | Unchecked,
    env: str | None,
    evaluations: int,
    episodes: int,
    last_episodes: int,
    progress: bool,
    out: Path,
    **settings: Any,
) -> None:
    """Train offline, then go on online from the last step; or go on with what lies there of both.

    The offline run is `offline` beside `out`.

    Args:
        data, steps, env, **settings: as `train_offline` takes them.
        online_steps, replay, out: as `train_finetune` takes `steps`, `replay` and `out`.
        evaluations, episodes, last_episodes: of the second run, whose step 0 is the first's last.
        progress: show progress bars.
    """
    again: dict[str, Any] = {"data": data, "env": env, "progress": progress, "report": False}
    if is_begun(out) and latest_step(out / "checkpoints") is not None:
        resume(out, **again)
        return
    remove_folder(out)
    offline = out.with_name("offline")
    run: Run
    if is_begun(offline):
        run = resume(offline, **again)
    else:
        run = train_offline(
            data,
            steps=steps,
            env=env,
            evaluations=1,
            last_episodes=0,
            progress=progress,
            out=offline,
            **settings,
        )
    if len(run.folder.read_frozen()) == len(run.config.members):
        raise InputError("every member diverged offline", hint="take another preset or seed")
    train_finetune(
        run,
        env=env,
        steps=online_steps,
        replay=replay,
        data=data,
        evaluations=evaluations,
        episodes=episodes,
        last_episodes=last_episodes,
        progress=progress,
        report=False,
        out=out,
    )


def finetuned_cell(cell: Cell, online_steps: int, replay: ReplayKind | Unchecked) -> Cell:
    """A cell that goes on online where an offline one ends.

    Args:
        cell: from `offline_cell`; its evaluations are those of the online steps.
        online_steps: environment steps of each member.
        replay: what batches are drawn from.
    """
    online: dict[str, Any] = {"online_steps": online_steps, "replay": replay}
    known = {"offline": dict(cell.configuration), **online, **cell.more}
    return Cell(cell.name, train_then_finetune, {**cell.settings, **online}, {}, known)


def _output(quiet: bool) -> dict[str, bool]:
    """What a cell's run shows and writes besides its numbers."""
    return {"progress": not quiet, "report": False}


def _counts(plan: EvaluationPlan) -> dict[str, Any]:
    names = ("evaluations", "episodes", "last_episodes")
    return {name: getattr(plan, name) for name in names}


class Outcome(NamedTuple):
    """What became of a cell: its run folder, or why there is none."""

    folder: Path | None
    problem: str = ""


def kept(home: Path, cell: Cell) -> Path | None:
    """Where a finished cell lies; None where it has yet to be trained.

    Raises:
        InputError: a cell of this name cannot be read, or two of them are what is asked for: they
            were trained on different data of one name.
    """
    pattern = re.compile(re.escape(cell.stem) + "-[0-9a-f]{10}")
    folders = [one for one in sorted(home.glob(f"{cell.stem}-*")) if pattern.fullmatch(one.name)]
    found = [one for one in folders if _answers(one, cell)]
    if not found and "fingerprint" in cell.more:
        # Of a dataset that was made again, what it says of itself may differ where no number does.
        more = {name: one for name, one in cell.more.items() if name != "fingerprint"}
        others = [one for one in folders if _answers(one, cell._replace(more=more))]
        found = [one for one in others if _same_data(one, cell)]
    if len(found) > 1:
        raise InputError(
            f"{cell.name} was trained on different data of one name",
            where=str(home),
            hint=f"remove one of {', '.join(one.name for one in found)}",
        )
    return found[0] if found else None


def _answers(folder: Path, cell: Cell) -> bool:
    """Whether a kept cell is the one that is asked for."""
    if not (folder / "cell.json").is_file():
        return False  # as xql 0.1 kept them
    own = cell.identity
    try:
        identity = dict(json.loads((folder / "cell.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(
            "this file is damaged", where=str(folder / "cell.json"), hint="remove that cell"
        ) from None
    shared = own.keys() & identity.keys()
    # A hyperparameter that was added since is not in what was kept.
    said = {name: _still_said(identity[name], own[name]) for name in shared}
    if "train" not in shared or not all(agrees(said[name], own[name]) for name in shared):
        return False
    if not (folder / "config.yaml").exists():
        return not cell.configuration
    return agrees(cell.configuration, configuration(RunConfig.load(folder)))


def _same_data(folder: Path, cell: Cell) -> bool:
    """Whether a kept cell has learned from the very transitions that are here under that name."""
    if not (folder / "config.yaml").exists():
        return False
    here = _contents(str(cell.settings.get("data")), str(cell.more["fingerprint"]))
    return RunConfig.load(folder).data.fingerprint == here


@functools.lru_cache(maxsize=4)
def _contents(source: str, fingerprint: str) -> str:
    """The fingerprint of a dataset's transitions; empty where it cannot be opened.

    Args:
        source: as `open_dataset` takes it.
        fingerprint: of what it says of itself, with which it is opened again.
    """
    try:
        return open_dataset(source).fingerprint()
    except (InputError, MissingExtra):
        return ""


def _still_said(kept: Any, own: Any, inside: bool = False) -> Any:
    """What was kept, without the hyperparameters that a cell no longer names: they have no effect
    in it.

    Args:
        kept, own: of the kept cell and of the one that is asked for.
        inside: whether these are hyperparameters.
    """
    if not (isinstance(kept, Mapping) and isinstance(own, Mapping)):
        return kept
    return {
        name: _still_said(one, own.get(name), name == "hyperparameters")
        for name, one in kept.items()
        if not inside or name in own
    }


def agrees(asked: Any, found: Any) -> bool:
    """Whether all that is asked for is found, and nothing of `LEFT_OUT` that is not asked for."""
    if isinstance(asked, Mapping) and isinstance(found, Mapping):
        return not _unlike(asked, found)
    return bool(asked == found)


def _unlike(asked: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The names of what is asked for and not found so."""
    said = {name: one for name, one in LEFT_OUT.items() if name in asked or name in found}
    asked, found = {**said, **asked}, {**said, **found}
    return [name for name in asked if name not in found or not agrees(asked[name], found[name])]


def folder_name(cell: Cell, values: Mapping[str, Any]) -> str:
    """The folder of a cell: its name, and a hash of what it is.

    Args:
        cell: the cell.
        values: the whole configuration of its run.
    """
    text = json.dumps({**cell.identity, "configuration": values}, sort_keys=True)
    return f"{cell.stem}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def in_work(file: Path) -> bool:
    """Whether a file is of a cell that is not finished; of a sweep's, too.

    What was not removed to its end has a dot before its name.
    """
    return re.search(r"(^|/)work/(\.|[^/]+-[0-9a-f]{10}/)", file.as_posix()) is not None


def train_cells(
    cells: Sequence[Cell],
    home: Path,
    executor: Executor = in_process,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Outcome]:
    """Train the cells that `home` does not hold yet.

    Args:
        cells: no two of one name.
        home: where their folders lie; made if need be.
        executor: where they train.
        say: called with each step of progress, in words.

    Returns:
        By name, what became of each. A cell that cannot be trained (its simulator is not installed
        or fails, its preset does not know the data) says why and does not stop the others.
    """
    outcomes: dict[str, Outcome] = {}
    missing = []
    for cell in cells:
        there = kept(home, cell)
        if there is None:
            missing.append(cell)
        else:
            say(f"{cell.name}: there already")
            outcomes[cell.name] = Outcome(there)
    # A worker's current folder may be another.
    trained = executor(functools.partial(_train, home.absolute()), missing)
    for number, (cell, found) in enumerate(trained, start=1):
        outcome = Outcome(None, found.why) if isinstance(found, Lost) else found
        if outcome.folder is not None:
            outcome = Outcome(home / outcome.folder.name)
        say(f"{cell.name}: {outcome.problem or 'trained'} ({number} of {len(missing)})")
        outcomes[cell.name] = outcome
    return outcomes


def train_and_keep(home: Path, cell: Cell) -> Path:
    """Train one cell, or go on with it, and keep of its run what tables and figures need.

    Returns:
        Its folder.

    Raises:
        InputError, EnvironmentFault, KeyboardInterrupt: it could not be trained or kept, or another
            process trains it. What it has learned lies in `work`.
    """
    require_writable(home, "cell")
    work = home.with_name("work") / folder_name(cell, cell.configuration)
    run, trained = work / "run", work / "trained"
    with writing(work, "cell"):
        work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        try:
            # Another process may have kept it since it was found to be missing.
            folder = kept(home, cell)
            if folder is None:
                _require_agreement(cell)
                if not trained.exists():
                    _train_or_resume(cell, run)
                    with writing(trained, "cell"):
                        trained.touch()  # only the keeping may have to be done again
                folder = keep(run, home, cell)
        except BaseException as error:
            if not any(work.glob("*/checkpoints")):
                _remove(work)
            elif isinstance(error, InputError | EnvironmentFault):
                there = f"what was trained is kept in {work}"
                hint = f"{error.hint}; {there}" if error.hint else there
                raise type(error)(error.what, where=error.where, hint=hint) from error
            raise
        _remove(work)
    return folder


def _train_or_resume(cell: Cell, run: Path) -> None:
    """Train a cell, or go on with what there is of it."""
    if cell.train in (train_offline, train_online):
        if is_begun(run):
            names = ("data", "env", "progress", "report")
            resume(run, **{name: cell.settings[name] for name in names if name in cell.settings})
            return
    elif cell.train is not train_then_finetune:
        remove_folder(run)  # by another trainer: nothing goes on from there
    cell.train(**cell.settings, out=run)


def is_begun(run: Path) -> bool:
    """Whether a run lies there that can be gone on with; what is less than that is removed.

    Raises:
        InputError: it has learned something, and cannot be read.
    """
    try:
        RunFolder.open(run)
    except InputError:
        if latest_step(run / "checkpoints") is not None:
            raise
        remove_folder(run)  # its process was killed while it made the files
        return False
    return True


def _remove(work: Path) -> None:
    remove_folder(work)
    with contextlib.suppress(OSError):  # another cell's is there
        work.parent.rmdir()


def keep(run: Path, home: Path, cell: Cell) -> Path:
    """Write what is kept of a run to the cell's folder: all of it, or nothing.

    Raises:
        InputError: it cannot be written.
    """
    written = (run / "config.yaml").exists()
    folder = home / folder_name(cell, configuration(RunConfig.load(run)) if written else {})
    draft = beside(folder)
    with made_folder(home, "cell"), writing(folder, "cell"):
        try:
            draft.mkdir()
            compact(run, draft)
            write_text(draft / "cell.json", json.dumps(cell.identity) + "\n")
            if (run / "checkpoints").is_dir():
                shutil.copytree(run / "checkpoints", draft / "checkpoints")
                for checkpoint in (draft / "checkpoints").iterdir():
                    drop_extra(checkpoint)  # a replay buffer, which no table needs
            try:
                draft.rename(folder)
            except OSError:
                # Where another process has kept the same cell meanwhile, that one stands.
                if not folder.is_dir():
                    raise
        except shutil.Error as error:
            # One line for each file that could not be copied.
            raise unwritable(folder, OSError(error.args[0][0][2]), "cell") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _require_agreement(cell: Cell) -> None:
    """Check that the run will be the one that is asked for, before hours are spent on it.

    A preset is chosen by the data's name; data that names another suite's environment has another.

    Raises:
        InputError: the data decides otherwise; or as `plan_offline` says.
    """
    if cell.train is not train_offline:
        return
    settings = {name: one for name, one in cell.settings.items() if name not in _output(True)}
    counts = {name: settings.pop(name) for name in _counts(DEFAULT_EVALUATION)}
    data = settings.pop("data")
    planned = configuration(
        plan_offline(data, **settings, evaluation=EvaluationPlan(**counts)).config
    )
    wrong = _unlike(cell.configuration, planned)
    if wrong:
        raise InputError(
            f"its data decides otherwise on {', '.join(wrong)} than its name says",
            where=f"{cell.name}, {data}",
            hint="rename the dataset, or give the settings by hand",
        )


def _train(home: Path, cell: Cell) -> Outcome:
    try:
        return Outcome(train_and_keep(home, cell))
    except (EnvironmentFault, InputError, MissingExtra) as error:
        return Outcome(None, str(error))

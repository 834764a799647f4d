"""`xql sweep`: many cells from one specification, trained by any executor, each once.

    sweep.yaml     the specification, complete
    summary.csv    a row for each member: its settings, what became of it, its score
    cells          finished cells, as `cells.py` keeps them: one population each
    work           the run folders of cells that are not finished, to go on with
    study.log      Optuna's journal, of a search by it

So its folder. What is trained is known by its configuration, member by member. Starting again looks
what is in `cells` and goes on in `work`; the members that neither has are divided into populations
by how many workers there are now. On a cluster all of this and the data lie where every machine
sees them.
"""

import collections
import contextlib
import csv
import dataclasses
import functools
import io
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from xql.agents import ONLINE
from xql.data.dataset import Dataset
from xql.data.sources import open_dataset
from xql.errors import InputError
from xql.experiments.cells import agrees, configuration
from xql.experiments.executors import Executor, Lost, in_process
from xql.experiments.search import Trial, Trials, tell
from xql.experiments.sweep_spec import Method, Point, SweepSpec, is_swept
from xql.experiments.sweep_worker import (
    Job,
    Outcome,
    as_sweep,
    attempt,
    final_score,
    population_cell,
)
from xql.files import made_folder, require_writable, write_text
from xql.presets import preset_warmup
from xql.runs.config import Member, RunConfig
from xql.runs.folder import RunFolder
from xql.runs.lock import locked
from xql.runs.plain import yaml_by_hand
from xql.runs.summary import label_of, quantity_of, value_of
from xql.runs.sweep import choose_members
from xql.training.offline import plan_offline
from xql.training.online import loop_for, plan_online
from xql.training.reopen import source_from

State = Literal["waiting", "training", "done", "ended early", "failed"]
MemberKey = tuple[int, tuple[tuple[str, float], ...]]
"""A seed, and swept values by name."""


class Group(NamedTuple):
    """Members that may share one compiled population: they differ in swept values and seeds."""

    method: Method
    source: str
    """What the agent learns from, as it is opened."""
    settings: Mapping[str, Any]
    """Arguments of `plan_offline` or `plan_online`, but for seeds and sweep."""
    varied: tuple[str, ...]
    """The options among them that the sweep varies."""
    config: RunConfig
    """Of a run of the first member alone."""
    members: tuple[Member, ...]


@dataclass
class Entry:
    """A cell of a sweep, and what is known of it."""

    job: Job
    group: Group
    members: tuple[Member, ...]
    """Those of the cell's that the sweep asks for."""
    state: State = "waiting"
    folder: Path | None = None
    """Where it is kept; None until then."""
    problem: str = ""

    @property
    def label(self) -> str:
        """In a table: the data, the method, what is varied, the seeds."""
        options = self.group.settings["options"]
        words = [f"{name} = {json.dumps(options[name])}" for name in self.group.varied]
        changes = list({json.dumps(one.changes): one.changes for one in self.members}.values())
        if len(changes) == 1:
            words += filter(None, [label_of(changes[0])])
        else:
            words.append(f"{len(changes)} points of {', '.join(changes[0])}")
        seeds = sorted({one.seed for one in self.members})
        shown = ", ".join(map(str, seeds[:4])) + ", …" * (len(seeds) > 4)
        words.append(f"seed{'s' * (len(seeds) > 1)} {shown}")
        return f"{self.group.config.data.name} {self.group.method.label}: {', '.join(words)}"


@dataclass
class Plan:
    """What a sweep has to do."""

    spec: SweepSpec
    out: Path
    entries: list[Entry]
    """All cells; of Optuna's search, those that came to something before."""
    studies: list[Trials] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was decided, or may be wrong with the data, a line each."""
    planner: "_Planner | None" = None
    refused: int = 0
    """Trials of Optuna whose values no run can have together."""
    repeated: int = 0
    """Trials of Optuna whose cell is another one's."""

    def find(self, run: str) -> Entry | None:
        """The cell of that name."""
        return next((one for one in self.entries if one.job.run == run), None)

    def refuse(self, trial: Trial, error: InputError) -> None:
        """Leave out a trial that cannot be trained."""
        self.refused += 1
        self.notes.append(f"trial {trial.number} is left out: {error}")

    @property
    def total(self) -> int:
        """How many cells there are to be."""
        if not self.studies:
            return len(self.entries)
        return self.spec.trials * len(self.studies) - self.repeated

    @property
    def left(self) -> int:
        """How many of them are to be trained."""
        begun = sum(one.state != "waiting" for one in self.entries)
        return self.total - self.refused - begun


def plan_sweep(spec: SweepSpec, out: Path, workers: int = 1) -> Plan:
    """Decide what a sweep trains; write nothing.

    Opens every data set, and plans a run of every group, so that whatever no run could be made of
    is refused before anything trains.

    Args:
        spec: the sweep.
        out: its folder, which need not exist.
        workers: how many cells train at a time; see `_pieces`.

    Raises:
        InputError: as `plan_offline` and `plan_online` say.
        MissingExtra: likewise, or Optuna is not installed.
    """
    require_writable(out, "sweep")
    planner = _Planner(spec)
    plan = Plan(spec, out, [], planner=planner)
    for method in spec.methods:
        for name in (*spec.sweep, *spec.options):
            if name not in {*spec.space_of(method), *spec.options_of(method)}:
                plan.notes.append(f"{method.agent} has no {name}, and is trained without it")
    each = [(source, method) for method in spec.methods for source in spec.sources_of(method)]
    each.sort(key=lambda one: one[0])  # each data set is opened once
    if spec.search == "optuna":
        for source, method in each:
            _require_scores(planner, method, source)
            cell = _first_cell(planner, method, source)
            study = Trials(spec, out / "study.log", method, source, cell)
            plan.studies.append(study)
            for trial, ended in study.done():
                try:
                    entry = planner.entry(study, trial)
                except InputError as error:
                    plan.refuse(trial, error)
                else:
                    if plan.find(entry.job.run) is None:
                        plan.entries.append(_come_to(entry, out, ended))
                    else:
                        plan.repeated += 1
    else:
        groups = [
            group
            for source, method in each
            for group in planner.groups(method, source, spec.points_of(method))
        ]
        plan.entries = _entries(spec, out, groups, workers)
    plan.notes += planner.notes
    planner.close()
    return plan


class _Planner:
    """Plans runs; each data set is opened once, each static setting planned once."""

    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        self._open: tuple[str, Dataset] | None = None
        self._configs: dict[str, RunConfig] = {}
        self.notes: dict[str, None] = {}

    def groups(self, method: Method, source: str, points: Sequence[Point]) -> list[Group]:
        """Points by what a program is compiled for; those of one group differ in swept values.

        Raises:
            InputError: some of them cannot be trained.
        """
        shared: dict[str, list[tuple[Point, Point]]] = collections.defaultdict(list)
        for point in points:
            names = [name for name, value in point.items() if is_swept(method.agent, name, value)]
            changes = {name: float(point[name]) for name in names}
            options = {name: value for name, value in point.items() if name not in changes}
            key = json.dumps([method, source, options, sorted(changes)], sort_keys=True)
            shared[key].append((options, changes))
        return [
            self._group(key, method, source, alike[0][0], [changes for _, changes in alike])
            for key, alike in shared.items()
        ]

    def close(self) -> None:
        """Let go of the data; it is opened again where it is needed."""
        self._open = None

    def entry(self, study: Trials, trial: Trial) -> Entry:
        """The cell of a trial."""
        [group] = self.groups(study.method, study.source, [trial.point])
        return _entry(group, group.members, trial)

    def _group(
        self, key: str, method: Method, source: str, varied: Point, changes: Sequence[Point]
    ) -> Group:
        spec, online = self._spec, method.agent in ONLINE
        settings: dict[str, Any] = {
            "agent": method.agent,
            "preset": method.preset,
            "steps": spec.steps,
            "options": {**spec.options_of(method), **varied},
            "env_kwargs": dict(spec.env_args) or None,
            "episode_limit": spec.episode_limit,
            "evaluation": spec.evaluation,
            "checkpoints": spec.checkpoints,
        }
        if online:
            warmup = preset_warmup(method.agent, method.preset, source)
            settings["loop"] = dataclasses.replace(loop_for(spec.steps, warmup), **spec.loop)
        else:
            settings |= {"env": spec.env, "trust": spec.trust}
            settings["stop_at_success"] = spec.stop_at_success
        where = source if online else source_from(Path.cwd(), source)
        if key not in self._configs:
            first = as_sweep(Member(spec.seeds[0], changes[0]))
            if online:
                self._configs[key] = plan_online(where, **settings, **first)
            else:
                self._configs[key] = self._planned_offline(where, settings | first)
        config = self._configs[key]
        made = config.make_agent()
        members = [
            member
            for one in changes
            for member in choose_members(
                made, method.agent, spec.seeds, as_sweep(Member(0, one))["sweep"]
            )
        ]
        return Group(method, where, settings, tuple(varied), config, tuple(members))

    def _planned_offline(self, source: str, given: Mapping[str, Any]) -> RunConfig:
        if self._open is None or self._open[0] != source:
            self._open = None  # before another is opened: each may fill the memory
            self._open = (source, open_dataset(source))
        plan = plan_offline(self._open[1], **given)
        for one in plan.warnings:
            name = plan.config.data.name
            self.notes[f"warning: {name}: {one.what} ({one.where}); {one.hint}"] = None
        return plan.config


def _require_scores(planner: _Planner, method: Method, source: str) -> None:
    """Refuse a search with a value that cannot be trained, or whose trials would have no score."""
    space = planner._spec.space_of(method)
    first, last = ({name: one.values[end] for name, one in space.items()} for end in (0, -1))
    others = [
        first | {name: value}
        for name, one in space.items()
        for value in (one.values[1:-1] if one.kind == "choice" else ())
    ]
    for point in (first, last, *others):
        for group in planner.groups(method, source, [point]):
            if group.config.environment is None or planner._spec.last_episodes == 0:
                raise InputError(
                    "a search by optuna needs scores, and nothing is evaluated",
                    where=group.config.data.name,
                    hint="name an environment with env: …, and last_episodes above 0",
                )
            if planner._spec.metric == "score" and group.config.data.reference is None:
                raise InputError(
                    "metric: score needs reference scores, and none are known",
                    where=group.config.data.name,
                    hint="take metric: success or return",
                )


def _first_cell(planner: _Planner, method: Method, source: str) -> str:
    """The name of the first cell, which is another where the data or a preset has changed."""
    point = {name: one.values[0] for name, one in planner._spec.space_of(method).items()}
    [group] = planner.groups(method, source, [point])
    return _entry(group, group.members).job.run


def _entries(spec: SweepSpec, out: Path, groups: Sequence[Group], workers: int) -> list[Entry]:
    """Cells for all members: those that are kept or begun as they are, the rest divided anew."""
    kept, begun = _runs_in(out / "cells"), _runs_in(out / "work")
    found: list[list[Entry]] = []
    rest: list[tuple[list[Entry], Group, list[Member]]] = []
    for group in groups:
        left = {_key(one): one for one in group.members}
        own: list[Entry] = []
        for folder, config in kept:
            # A kept cell may hold more than is asked for.
            asked = [left[_key(one)] for one in config.members if _key(one) in left]
            if asked and _same(group, config):
                whole = _entry(group, config.members)
                own.append(dataclasses.replace(whole, members=tuple(asked)))
                own[-1].state, own[-1].folder = "done", folder
                left = {name: one for name, one in left.items() if one not in asked}
        for folder, config in begun:
            # What is begun is trained whole.
            asked = [left[_key(one)] for one in config.members if _key(one) in left]
            if len(asked) == len(config.members) and _same(group, config):
                entry = _entry(group, asked)
                if entry.job.run == folder.name:
                    own.append(entry)
                    left = {name: one for name, one in left.items() if one not in asked}
        found.append(own)
        if left:
            rest.append((own, group, list(left.values())))
    for own, group, members in rest:
        for some in np.array_split(
            np.arange(len(members)), _pieces(len(members), len(rest), workers, spec.members)
        ):
            own.append(_entry(group, [members[place] for place in some]))
    return [entry for own in found for entry in own]


def _pieces(members: int, groups: int, workers: int, most: int) -> int:
    """Into how many populations the members of a group are divided.

    No more than it takes for every worker to have one, if all groups are divided so: members that
    share a program save its compilation and a copy of the data, and on a GPU much more than that.
    """
    return max(min(members, -(-workers // groups)), -(-members // most))


def _entry(group: Group, members: Sequence[Member], trial: Trial | None = None) -> Entry:
    config = dataclasses.replace(group.config, members=tuple(members))
    cell = population_cell(
        f"{config.data.name}-{group.method.label}",
        group.source,
        group.settings,
        members,
        configuration(config),
        config.data.fingerprint,
    )
    return Entry(Job(cell, trial), group, tuple(members))


def _key(member: Member) -> MemberKey:
    return member.seed, tuple(sorted(member.changes.items()))


def _runs_in(home: Path) -> list[tuple[Path, RunConfig]]:
    """The runs of a folder, as far as they can be read."""
    found = []
    for path in sorted(home.glob("*/config.yaml")):
        if path.parent.name.startswith("."):
            continue  # half-written, by a process that was killed
        with contextlib.suppress(InputError):
            found.append((path.parent, RunConfig.load(path.parent)))
    return found


def _same(group: Group, found: RunConfig) -> bool:
    """Whether a run is one of the group's, whatever its members."""
    if found.data.fingerprint != group.config.data.fingerprint:
        return False
    mine = configuration(group.config)
    del mine["members"]
    return agrees(mine, configuration(found))


def _come_to(entry: Entry, out: Path, ended: bool) -> Entry:
    """The cell of a trial that came to something before; one that is gone is trained again."""
    folder = out / "cells" / entry.job.run
    if ended:
        entry.state = "ended early"
    elif folder.is_dir():
        entry.state, entry.folder = "done", folder
    else:
        entry.job = Job(entry.job.cell)  # Optuna knows its score
    return entry


def run_sweep(
    plan: Plan,
    executor: Executor = in_process,
    *,
    say: Callable[[Entry], None] = lambda entry: None,
    session: str | None = None,
) -> list[Entry]:
    """Train what a plan has left to train.

    Args:
        plan: from `plan_sweep`; its entries are brought up to date.
        executor: where cells train.
        say: called with each cell that is given to a worker, and again when it comes back.
        session: what workers write down of this driver; see `sweep_worker.started_file`.

    Returns:
        The plan's entries.

    Raises:
        InputError: another process runs this sweep, or its folder cannot be written to.
        KeyboardInterrupt: what is trained is kept, and `plan_sweep` finds it again.
    """
    out = plan.out
    with made_folder(out, "sweep"):
        for name in ("cells", "work"):
            (out / name).mkdir(exist_ok=True)
    session = session or new_session()
    with locked(out):
        for path in (out / "cells").glob(".*.part*"):
            shutil.rmtree(path, ignore_errors=True)  # half-written, by a process that was killed
        write_text(out / "sweep.yaml", yaml_by_hand(plan.spec.to_plain()))
        write_text(out / "summary.csv", summary(plan))
        given = _Given(plan, say)
        # A worker's current folder may be another.
        work = functools.partial(attempt, out.absolute(), session)
        with contextlib.closing(executor(work, given.jobs())) as results:
            for job, outcome in results:
                given.came_back(job, outcome)
                write_text(out / "summary.csv", summary(plan))
    with contextlib.suppress(OSError):
        (out / "work").rmdir()  # unless something failed
    return plan.entries


def new_session() -> str:
    """A name for this driver that no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"


class _Given:
    """What workers have been given, and what became of it."""

    def __init__(self, plan: Plan, say: Callable[[Entry], None]) -> None:
        self._plan, self._say = plan, say
        self._entries: dict[str, Entry] = {}
        self._twins: dict[str, list[Trial]] = collections.defaultdict(list)

    def jobs(self) -> Iterator[Job]:
        """One cell after another; of Optuna's search, each proposed when it is asked for."""
        for entry in self._waiting():
            self._entries[entry.job.run] = entry
            entry.state = "training"
            self._say(entry)
            yield entry.job

    def _waiting(self) -> Iterator[Entry]:
        plan = self._plan
        yield from [one for one in plan.entries if one.state == "waiting"]
        assert plan.planner is not None
        for study in plan.studies:
            for trial in study:
                try:
                    entry = plan.planner.entry(study, trial)
                except InputError as error:
                    # Each value passed by itself before the start; these do not go together.
                    tell(trial, math.nan)
                    plan.refuse(trial, error)
                    continue
                before = plan.find(entry.job.run)
                if before is None:
                    plan.entries.append(entry)
                    yield entry
                else:  # a point that was proposed before: it comes to the same
                    plan.repeated += 1
                    self._twins[entry.job.run].append(trial)
                    if before.state != "training":
                        self._tell_twins(before)

    def came_back(self, job: Job, outcome: Outcome | Lost) -> None:
        """A worker is done with a cell."""
        entry = self._entries[job.run]
        if isinstance(outcome, Lost):
            outcome = Outcome(None, outcome.why)
        entry.problem = outcome.problem
        if outcome.folder is not None:
            entry.state = "done"
            entry.folder = self._plan.out / "cells" / outcome.folder.name
        else:
            entry.state = "ended early" if outcome.pruned else "failed"
        self._tell_twins(entry)
        self._say(entry)

    def _tell_twins(self, entry: Entry) -> None:
        if entry.state == "failed":
            return  # said of neither: both are tried again
        for trial in self._twins.pop(entry.job.run, ()):
            score = None if entry.folder is None else final_score(entry.folder, trial.metric)
            tell(trial, score)


def summary(plan: Plan) -> str:
    """A row for each member, as CSV."""
    names = list(plan.spec.sweep)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["data", "agent", "preset", *names, "seed", "steps", "state"]
    writer.writerow([*columns, "quantity", "last", "cell", "problem"])
    for entry in plan.entries:
        config = entry.group.config
        scores = {} if entry.folder is None else _scores(entry.folder)
        for member in entry.members:
            given = {**entry.group.settings["options"], **member.changes}
            values = [_plain(given[name]) if name in given else "" for name in names]
            quantity, score = scores.get(_key(member), ("", None))
            cell = "" if entry.folder is None else entry.folder.name
            state = "waiting" if entry.state == "training" else entry.state
            last = "" if score is None else f"{score:.6g}"
            what = (config.data.name, entry.group.method.agent, config.preset, *values)
            become = (config.steps, state, quantity, last, cell, entry.problem)
            writer.writerow([*what, member.seed, *become])
    return text.getvalue()


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache  # the summary is written after each cell
def _scores(folder: Path) -> dict[MemberKey, tuple[str, float]]:
    """What each member of a kept cell came to at the last step, and what that counts."""
    run = RunFolder.open(folder)
    rows = [row for row in run.read_evaluations() if row.step == run.config.steps]
    quantity = quantity_of(rows)
    values: dict[int, list[float]] = collections.defaultdict(list)
    for row in rows:
        values[row.member].append(value_of(row, quantity))
    return {
        _key(member): (quantity, float(np.mean(values[place])))
        for place, member in enumerate(run.config.members)
        if place in values
    }

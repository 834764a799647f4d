"""What a worker does for a sweep: train one cell, or go on with it, and keep it."""

import contextlib
import dataclasses
import json
import math
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xql.agents import ONLINE
from xql.errors import EnvironmentFault, InputError, MissingExtra, reason
from xql.experiments.cells import Cell, folder_name, is_begun, keep
from xql.experiments.search import Trial, pruning, tell
from xql.files import remove_folder, write_text
from xql.runs.config import Member
from xql.runs.folder import RunFolder
from xql.runs.lock import is_locked
from xql.runs.run import Run
from xql.runs.summary import Quantity, quantity_of, value_of
from xql.training.offline import execute_offline, plan_offline
from xql.training.online import execute_online, plan_online
from xql.training.resume import resume

PATIENCE = 60
"""Seconds to wait for a process that still writes to a run, such as one whose driver was killed."""


class Pruned(Exception):
    """A trial is ended early, by its scores so far."""


class Job(NamedTuple):
    """A cell, as a worker gets it."""

    cell: Cell
    trial: Trial | None = None

    @property
    def run(self) -> str:
        """The name of its folder, in `cells` and in `work`."""
        return folder_name(self.cell, self.cell.configuration)


class Outcome(NamedTuple):
    """What became of a cell."""

    folder: Path | None
    problem: str = ""
    pruned: bool = False


def population_cell(
    name: str,
    source: str,
    settings: Mapping[str, Any],
    members: Sequence[Member],
    configuration: Mapping[str, Any],
    fingerprint: str | None,
) -> Cell:
    """A cell that `train_members` trains.

    Args:
        name: the cell's.
        source: what its agent learns from.
        settings: arguments of `plan_offline` or `plan_online`, but for seeds and sweep.
        members: seeds and swept values.
        configuration: of the planned run.
        fingerprint: of the data; None online.
    """
    given: dict[str, Any] = {"source": source, "settings": dict(settings)}
    given |= {"members": tuple(members), "fingerprint": fingerprint}
    more = {} if fingerprint is None else {"fingerprint": fingerprint}
    return Cell(name, train_members, given, configuration, more)


def train_members(
    source: str,
    *,
    settings: Mapping[str, Any],
    members: tuple[Member, ...],
    fingerprint: str | None,
    out: Path,
    callbacks: Sequence[Callable[..., object]] = (),
) -> Run:
    """Train a population of any members, or go on with one that lies at `out`.

    Args:
        source, settings, members, fingerprint: as `population_cell` takes them.
        out: the run's folder.
        callbacks: as `train_offline` takes them.

    Raises:
        InputError: as `plan_offline` and `resume` say, or the data is other data here.
    """
    shown: dict[str, Any] = {"loggers": (), "callbacks": callbacks}
    shown |= {"progress": False, "report": False}
    online = settings["agent"] in ONLINE
    if _begun(out):
        env = source if online else settings["env"]
        return resume(
            out,
            data=None if online else source,
            env=env,
            env_kwargs=None if env in (None, "none") else settings["env_kwargs"],
            trust=settings.get("trust", ()),
            **shown,
        )
    alone = as_sweep(members[0])
    if online:
        config = dataclasses.replace(plan_online(source, **settings, **alone), members=members)
        return execute_online(config, out, **shown)
    plan = plan_offline(source, **settings, **alone)
    if plan.config.data.fingerprint != fingerprint:
        raise InputError(
            "this is other data than the sweep was planned with", where=source, hint="start again"
        )
    config = dataclasses.replace(plan.config, members=members)
    return execute_offline(plan._replace(config=config), out, **shown)


def as_sweep(member: Member) -> dict[str, Any]:
    """The arguments `seeds` and `sweep` of a population of one."""
    return {
        "seeds": [member.seed],
        "sweep": {name: [value] for name, value in member.changes.items()},
    }


def _begun(out: Path) -> bool:
    """Whether a run lies at `out` that can be gone on with, once no other process writes to it."""
    for _ in range(PATIENCE):
        if not is_locked(out):
            break
        time.sleep(1.0)
    return is_begun(out)


def attempt(out: Path, session: str, job: Job) -> Outcome:
    """Train a cell, if it is not there already, and keep it; or say in one line why it cannot be.

    Args:
        out: the sweep's folder.
        session: of the driver, which looks in `work` for what is training.
        job: the cell.
    """
    cell, trial = job.cell, job.trial
    folder, work = out / "cells" / job.run, out / "work" / job.run
    try:
        if not folder.is_dir():
            about = {"session": session, "host": socket.gethostname(), "pid": os.getpid()}
            write_text(started_file(work), json.dumps(about) + "\n")
            more = {} if trial is None else {"callbacks": [pruning(trial, Pruned)]}
            cell.train(**cell.settings, **more, out=work)
            folder = keep(work, folder.parent, cell)
        if trial is not None:
            tell(trial, final_score(folder, trial.metric))
    except Pruned:
        assert trial is not None, "only a trial is ended early"
        tell(trial, None)
        _clear(work)
        return Outcome(None, pruned=True)
    except (EnvironmentFault, InputError, MissingExtra) as error:
        return Outcome(None, str(error))
    except Exception as error:
        report = work.with_name(f"{work.name}.txt")
        with contextlib.suppress(InputError):
            write_text(report, traceback.format_exc())
        return Outcome(None, f"{reason(error)}; the report is {report}")
    _clear(work)
    return Outcome(folder)


def started_file(work: Path) -> Path:
    """Where it says which process trains a cell."""
    return work.with_name(f"{work.name}.json")


def _clear(work: Path) -> None:
    remove_folder(work)
    for path in (started_file(work), work.with_name(f"{work.name}.txt")):
        path.unlink(missing_ok=True)


def final_score(folder: Path, metric: Quantity | None = None) -> float:
    """The mean over a cell's members and episodes at the last step; nan where there is none."""
    run = RunFolder.open(folder)
    rows = [row for row in run.read_evaluations() if row.step == run.config.steps]
    if not rows:
        return math.nan
    quantity = metric or quantity_of(rows)
    return float(np.mean([value_of(row, quantity) for row in rows]))

"""The data of a finished or interrupted offline run, opened again and known to be the same."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xql.data.dataset import Dataset
from xql.data.selection import select_episodes, set_apart
from xql.data.sources import open_dataset
from xql.data.stored import on_disk
from xql.errors import InputError
from xql.presets import suite
from xql.runs.config import RunConfig
from xql.runs.origin import started_in
from xql.training.offline import OfflinePlan

Source = str | os.PathLike[str] | Mapping[str, np.ndarray] | Dataset
"""What `open_dataset` takes."""


def plan_again(config: RunConfig, where: Path, data: Source | None = None) -> OfflinePlan:
    """The plan of an offline run that was made before: its own configuration, its data reopened.

    Nothing is resolved again: a preset that has changed since does not change the run. Warnings
    about the data were given when the run was first made.

    Args:
        config: the run's.
        where: its folder.
        data: the run's data, as `reopen` takes it.

    Raises:
        InputError: as `reopen` says.
    """
    dataset = reopen(config, where, data)
    part, whole = config.data.part, config.data.whole
    notes = [
        f"{config.data.name}: {dataset.transitions:,} transitions in {len(dataset):,} episodes",
        config.settings(suite(config.data.name, dataset.environment)),
        config.scaling.describe(),
    ]
    if whole is not None:
        notes.append(f"{part}: {len(dataset):,} of {whole.episodes:,} episodes kept")
    if config.environment is None:
        notes.append("nothing is evaluated, as before")
    return OfflinePlan(config, dataset, notes, [])


def reopen(config: RunConfig, where: Path, data: Source | None = None) -> Dataset:
    """The episodes that an offline run learned from, with raw rewards and observations.

    A relative path starts in the folder in which the run was started, or where there is nothing,
    in the current one.

    Args:
        config: the run's.
        where: its folder.
        data: the run's data, where it lies elsewhere now or was given as arrays; anything that
            `open_dataset` takes.

    Raises:
        InputError: the data is not there any more, was given as arrays, or is not what the run
            learned from.
    """
    return _reopen(config, where, data)[0]


def reopen_held_out(config: RunConfig, where: Path, data: Source | None = None) -> Dataset | None:
    """The episodes that an offline run did not learn from; None where it held none out.

    Args:
        config, where, data: as `reopen` takes them.

    Raises:
        InputError: as `reopen` says, or they are not those that were held out.
    """
    held = _reopen(config, where, data)[1]
    if held is not None and held.fingerprint() != config.data.held_out:
        raise InputError(
            "the episodes that it held out have other numbers in them than before",
            where=str(where),
            hint="put back what the run was made with, or give it with `data`",
        )
    return held


def _reopen(config: RunConfig, where: Path, data: Source | None) -> tuple[Dataset, Dataset | None]:
    """What was learned from, known to be the same, and what was held out."""
    if config.online and config.finetune is None:
        raise InputError("an online run has no data", where=str(where), hint="leave out `data`")
    in_memory = config.data.streamed is None
    if data is not None:
        dataset, shown = open_dataset(data, in_memory=in_memory), _shown(data)
    else:
        dataset, shown = _reopened(config, where), config.data.source
    try:
        with on_disk(not in_memory):
            kept, held = set_apart(dataset, config.data.hold_out)
    except InputError as error:
        what = f"its data has changed ({error.what})"
        raise InputError(what, where=f"{where}, {shown}", hint=error.hint) from None
    with on_disk(not in_memory):
        dataset = select_episodes(kept, config.data.subset)
    if changed := _changed(config, dataset):
        raise InputError(
            f"its data {changed}",
            where=f"{where}, {shown}",
            hint="give what the run learned from"
            if data is not None
            else "put back what the run learned from, or give it with `data`",
        )
    return dataset, held


def _reopened(config: RunConfig, where: Path) -> Dataset:
    source = config.data.source
    if source == "arrays":
        raise InputError(
            "its data was given as arrays, which no run keeps",
            where=str(where),
            hint="give it again with `data`",
        )
    try:
        found = _found(source, where)
        return open_dataset(found, download=False, in_memory=config.data.streamed is None)
    except InputError as error:
        raise InputError(
            f"its data cannot be opened any more ({error.what})",
            where=f"{where}, {source}",
            hint="put it back, or give it with `data`",
        ) from None


def _found(source: str, where: Path) -> str:
    """The source, as seen from the folder of the run's start."""
    home = started_in(where)
    return source if home is None else source_from(home, source)


def source_from(home: Path, source: str) -> str:
    """A source, its relative path made absolute where it leads from a folder to something.

    A Minari name stays as it is, because no such file is there.
    """
    text, question, query = source.partition("?")
    kind, colon, rest = text.partition(":")
    if not colon or len(kind) < 2 or "/" in kind:
        kind, colon, rest = "", "", text
    if kind == "minari" or not os.path.lexists(home / rest):
        return source
    return f"{kind}{colon}{home / rest}{question}{query}"


def _shown(data: Source) -> str:
    return os.fspath(data) if isinstance(data, str | os.PathLike) else "`data`"


def _changed(config: RunConfig, dataset: Dataset) -> str:
    """What is different from the data that the run learned from; empty where nothing is."""
    before = config.data
    sizes = {
        "observation size": (before.observation_size, dataset.observation_size),
        "action size": (config.spec.actions.size, dataset.action_size),
    }
    for name, (then, now) in sizes.items():
        if then != now:
            return f"had {name} {then} and has {now} now"
    if before.extent is None:
        return ""
    for name in ("transitions", "episodes"):
        then, now = getattr(before.extent, name), getattr(dataset, name)
        if then != now:
            return f"had {then:,} {name} and has {now:,} now"
    mean, mean_now = before.extent.mean_return, float(dataset.returns.mean())
    # The last digits of a sum depend on the processor.
    if not math.isclose(mean, mean_now, rel_tol=1e-6, abs_tol=1e-6):
        return f"had a mean return of {mean:g} and has {mean_now:g} now"
    if before.fingerprint not in (None, dataset.fingerprint()):
        return "has as many transitions as before, but other numbers in them"
    return ""

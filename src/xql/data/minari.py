"""Minari's datasets (`minari:ID`): local ones first, by name from the remote where a network is."""

import math
import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import h5py
import numpy as np
from gymnasium import spaces

from xql.data.actions import Discrete, action_spec
from xql.data.dataset import Dataset, Episode, empty
from xql.data.flatten import (
    flat_layout,
    is_choice,
    leaves,
    one_hot,
    require_vectors,
    select_keys,
)
from xql.data.local import local_names, local_root
from xql.data.minari_metadata import Metadata, again, damaged, read_metadata
from xql.data.reading import require_file, require_files, require_room
from xql.data.schema import check_finite
from xql.data.tables import node_at, values_of
from xql.errors import InputError, MissingExtra, nearest, require

GOAL = "desired_goal"
"""What Gymnasium calls the goal in an observation."""

PROBE_SECONDS = 1.5  # minari itself retries an unreachable remote for some 20 s


def open_minari(
    name: str, keys: tuple[str, ...] | None = None, *, download: bool = True, finite: bool = True
) -> Dataset:
    """Open a Minari dataset by its name, such as "D4RL/door/human-v2".

    Looks in `MINARI_DATASETS_PATH` (else ~/.minari/datasets); if it is not there and `download`,
    fetches it from Minari's remote.

    Raises:
        InputError: no such dataset, no network to fetch it over, actions that are neither vectors
            of floats nor one discrete choice, observations that are no vectors, a NaN, or `keys`
            that leave out a goal which is not always the same.
        MissingExtra: minari is not installed.
    """
    if not re.fullmatch(r"([-\w]+/)*[-\w]+-v\d+", name):
        hint = "a name looks like D4RL/door/human-v2"
        raise InputError("this is no Minari name", where=f"minari:{name}", hint=hint)
    try:
        here = (local_root() / name / "data").is_dir()
    except OSError as error:
        raise damaged(name, error) from None
    if not here:
        _fetch(name, download=download)
    folder, where = local_root() / name / "data", f"minari:{name}"
    metadata = read_metadata(name, folder)
    try:
        size = require_files(folder)
    except InputError as error:
        raise InputError(f"{error.where}: {error.what}", where=where, hint=error.hint) from None
    except OSError as error:
        raise damaged(name, error) from None
    observed = metadata.observation_space or _recorded(name, folder, "observations")
    space = metadata.action_space or _recorded(name, folder, "actions")
    choices = _choices(space, where)
    kept = select_keys(observed, keys, where=where)
    require_vectors(kept, where)
    opened = _Opened(name, folder, metadata, observed, space, choices, size)
    dataset = _read(opened, kept, finite)
    _require_goal(opened, kept)
    described: dict[str, Any] = {} if keys is None else {"observation_keys": sorted(keys)}
    layout = flat_layout(kept)
    if layout[0][0]:
        described["observation_layout"] = [[path, size] for path, size in layout]
    return dataset.with_metadata(
        name=name,
        source=f"minari:{name}" + (f"?keys={','.join(keys)}" if keys else ""),
        **({} if choices else _bounds(space)),
        environment=metadata.environment,
        evaluation_environment=metadata.evaluation_environment,
        metadata={**metadata.others, **described},
    )


class _Opened(NamedTuple):
    """A dataset on this machine."""

    name: str
    folder: Path
    metadata: Metadata
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    choices: Discrete | None
    """Its actions, where they are discrete."""
    size: int
    """Bytes of its files."""


def _recorded(name: str, folder: Path, key: str) -> spaces.Space[Any]:
    """The space of the first episode's arrays, without bounds.

    Raises:
        InputError: they are in another format than HDF5, or link to another file.
    """
    main, where = folder / "main_data.hdf5", f"minari:{name}"
    if not main.is_file():
        raise InputError(
            f"its metadata state no space of the {key}",
            where=where,
            hint="write it again with Minari, its spaces stated",
        )
    try:
        with h5py.File(main, "r") as file:
            return _space_of(node_at(file, f"episode_0/{key}", where), where)
    except InputError:
        raise
    except Exception as error:  # a damaged file raises whatever trips over it
        raise damaged(name, error) from None


def _space_of(node: Any, where: str) -> spaces.Space[Any]:
    if isinstance(node, h5py.Group):
        inner = {key: _space_of(node_at(node, key, where), where) for key in node}
        numbered = [f"_index_{number}" for number in range(len(inner))]
        if not inner:
            raise ValueError(f"{node.name} is empty")
        if set(inner) == set(numbered):  # how Minari stores a tuple
            return spaces.Tuple([inner[key] for key in numbered])
        return spaces.Dict(inner)
    if node.dtype.kind not in "fiub" or not node.shape:
        raise ValueError(f"{node.name} is {node.dtype} of shape {node.shape}")
    require_room({node.name: (4 * math.prod(node.shape[1:]), node.id.get_storage_size())}, where)
    low, high = (-np.inf, np.inf) if node.dtype.kind == "f" else (0, 1)
    return spaces.Box(low, high, node.shape[1:], node.dtype)


def _fetch(name: str, *, download: bool) -> None:
    where, here = f"minari:{name}", local_names()
    close = nearest(name, here) if here else ""
    hint = f"{close} Otherwise " if close.startswith("did you mean") else ""
    by_hand = (
        f"{hint}run 'minari download {name}' on a machine with a network and copy its folder to "
        f"{local_root() / name}, or set MINARI_DATASETS_PATH to where it is"
    )
    if not download:
        raise InputError("the dataset is not on this machine", where=where, hint=by_hand)
    host, port = _remote()
    if not reachable(host, port):
        what = f"the dataset is not on this machine and {host} cannot be reached"
        raise InputError(what, where=where, hint=by_hand)
    minari = require("minari", "minari")
    try:
        minari.download_dataset(name)
    except Exception as error:  # the remotes raise their own, which no base class joins
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = f"the download failed ({reason[:120]})"
        raise InputError(what, where=where, hint=f"check the name; {by_hand}") from error


def _remote() -> tuple[str, int]:
    """The host that a download first speaks to: a proxy where one is set, else the remote."""
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    if os.environ.get("MINARI_REMOTE", "hf://").startswith("gcp"):
        remote = "https://storage.googleapis.com"
    else:
        remote = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    address = urlparse(proxy or remote)
    return address.hostname or "huggingface.co", address.port or 443


def reachable(host: str, port: int) -> bool:
    """Whether a connection opens within `PROBE_SECONDS`, the name's resolution included."""
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
            answers.append(True)
        except OSError:
            answers.append(False)

    # A name's resolution takes no timeout of its own, hence the thread.
    probe = threading.Thread(target=connect, daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    return answers == [True]


def _choices(space: Any, where: str) -> Discrete | None:
    """The actions of a space, where they are discrete; None where they are floats.

    Raises:
        InputError: they are neither.
    """
    if hasattr(space, "low") and np.issubdtype(space.dtype, np.floating):
        return None
    if isinstance(space, spaces.Discrete):
        spec = action_spec(space, where)
        assert isinstance(spec, Discrete)
        return spec
    hint = "a Box of floats or a Discrete is needed"
    raise InputError(f"the actions are {space}", where=where, hint=hint)


@np.errstate(over="ignore")
def _bounds(space: Any) -> dict[str, np.ndarray]:
    """The bounds that an action space states; one that is unbounded anywhere states none."""
    low, high = (bound.ravel().astype(np.float32) for bound in (space.low, space.high))
    finite = np.isfinite(low).all() and np.isfinite(high).all()
    return {"action_low": low, "action_high": high} if finite else {}


@np.errstate(over="ignore")  # a float64 too large for float32 becomes an infinity, which is named
def _read(opened: _Opened, space: Any, finite: bool) -> Dataset:
    """Fill the arrays episode by episode; each piece goes straight to its place."""
    name, where = opened.name, f"minari:{opened.name}"
    layout = flat_layout(space)
    choices_of = {path: leaf for path, leaf in leaves(space) if is_choice(leaf)}
    steps, count = opened.metadata.total_steps, opened.metadata.total_episodes
    if count == 0:
        raise InputError("there is no episode", where=where, hint="take another dataset")
    logged = math.prod(opened.action_space.shape or ())
    choices = opened.choices
    widths = sum(size for _, size in layout), logged if choices is None else choices.size
    for key, width in zip(("observations", "actions"), widths, strict=True):
        if width == 0:
            hint = "give at least 1"
            raise InputError(f"the {key} have no numbers in a row", where=where, hint=hint)
    require_room({"total_steps": (4 * (steps + count) * (sum(widths) + 1), opened.size)}, where)
    observations, actions = (empty((steps + count, width)) for width in widths)
    rewards = empty((steps + count,))
    lengths: list[int] = []
    terminated: list[bool] = []
    truncated: list[bool] = []
    inner: list[np.ndarray] = []
    first = 0
    for episode in _episodes(opened, [path for path, _ in layout]):
        parts, action, reward, ends, cuts = episode
        here = f"{where}: episode {len(lengths)}"
        length = _check_steps(episode[1:], logged, here)
        last = first + length
        if last >= len(rewards):
            raise _miscounted("total_steps", steps, f"more than {steps:,}", where)
        column = 0
        for part, (path, size) in zip(parts, layout, strict=True):
            part = np.asarray(part)
            if part.shape[:1] != (length + 1,):
                number = len(part) if part.ndim else "one number"
                what = f"episode {len(lengths)} has {length} steps and {number} of '{path}'"
                hint = "an episode needs one observation more than steps"
                raise InputError(what, where=where, hint=hint)
            if path in choices_of:
                shown = f"{here}: its observation{f' {path!r}' if path else ''}"
                part = one_hot(choices_of[path], part, shown)
            if part.size != (length + 1) * size or part.dtype.kind not in "fiub":
                what = f"'{path}' of episode {len(lengths)} is {part.dtype} of shape {part.shape}"
                hint = f"its space says {size} numbers a row"
                raise InputError(what, where=where, hint=hint)
            observations[first : last + 1, column : column + size] = part.reshape(-1, size)
            column += size
        taken = np.asarray(action)
        if choices is not None:
            taken = choices.flatten(taken, here)
        actions[first:last] = taken.reshape(length, -1)
        rewards[first:last] = np.ravel(reward)
        actions[last], rewards[last] = 0.0, 0.0
        inner.append(np.flatnonzero(np.ravel(ends)[:-1]))
        lengths.append(length)
        terminated.append(bool(ends[-1]))
        truncated.append(bool(cuts[-1]))
        first = last + 1
    if first != len(rewards):
        raise _miscounted("total_steps", steps, f"{first - count:,}", where)
    dataset = Dataset(
        observations=observations,
        actions=actions,
        rewards=rewards,
        lengths=np.asarray(lengths, np.int64),
        terminated=np.asarray(terminated, bool),
        truncated=np.asarray(truncated, bool),
        name=name,
        discrete=choices is not None,
    )
    if any(len(rows) for rows in inner):
        dataset = _split(dataset, inner)
    for key in ("observations", "actions", "rewards") if finite else ():
        check_finite(getattr(dataset, key), key, where, row_name="row (as laid out)")
    return dataset


def _miscounted(key: str, stated: int, found: str, where: str) -> InputError:
    what = f"'{key}' in its metadata.json is {stated:,}, and its data has {found}"
    return InputError(what, where=where, hint="fetch it again, or correct the number")


def _require_goal(opened: _Opened, kept: Any) -> None:
    """Refuse data whose rewards depend on a goal that the observation, as chosen, does not show."""
    every = [path for path, _ in leaves(opened.observation_space)]
    chosen = {path for path, _ in flat_layout(kept)}
    goal = [p for p in every if p.partition("/")[0] == GOAL and p not in chosen]
    first: list[np.ndarray] = []
    for parts, *_ in _episodes(opened, goal) if goal else ():
        rows = [np.asarray(part).reshape(len(part), -1) for part in parts]
        first = first or [part[0] for part in rows]
        for path, part, same in zip(goal, rows, first, strict=True):
            if not np.array_equal(part, np.broadcast_to(same, part.shape)):
                hint = f"keep it: ?keys={','.join(sorted({GOAL, *_tops(chosen)}))}"
                what = f"the keys leave out '{path}', a goal that is not always the same"
                raise InputError(what, where=f"minari:{opened.name}", hint=hint)


def _tops(paths: Iterable[str]) -> set[str]:
    return {path.partition("/")[0] for path in paths}


def _check_steps(columns: tuple[Any, ...], action_size: int, where: str) -> int:
    """The number of an episode's steps; actions, rewards and flags must have just as many."""
    sizes = dict(zip(_COLUMNS, (action_size, 1, 1, 1), strict=True))
    arrays = dict(zip(_COLUMNS, map(np.asarray, columns), strict=True))
    length = len(arrays["rewards"]) if arrays["rewards"].ndim else 0
    if length == 0:
        raise InputError("it has no step", where=where, hint="leave it out of the dataset")
    for key, array in arrays.items():
        bad = array.shape[:1] != (length,) or array.size != length * sizes[key]
        if bad or array.dtype.kind not in "fiub":
            what = f"its {key} are {array.dtype} of shape {array.shape}"
            hint = f"{length} steps need {length} x {sizes[key]} numbers"
            raise InputError(what, where=where, hint=hint)
    for key in ("terminations", "truncations"):
        check_finite(arrays[key], key, where)
    return length


def _split(dataset: Dataset, inner: list[np.ndarray]) -> Dataset:
    """Cut where a step in the middle of an episode states a termination: its mask must be 0."""
    pieces = []
    for episode, rows in zip(dataset, inner, strict=True):
        edges = [0, *(rows + 1).tolist(), len(episode.actions)]
        for first, last in pairwise(edges):
            whole = last == len(episode.actions)
            pieces.append(
                Episode(
                    observations=episode.observations[first : last + 1],
                    actions=episode.actions[first:last],
                    rewards=episode.rewards[first:last],
                    terminated=episode.terminated if whole else True,
                    truncated=episode.truncated if whole else False,
                )
            )
    return Dataset.from_episodes(pieces, name=dataset.name, discrete=dataset.discrete)


_COLUMNS = ("actions", "rewards", "terminations", "truncations")
_Raw = tuple[list[Any], Any, Any, Any, Any]


def _episodes(opened: _Opened, paths: list[str]) -> Iterator[_Raw]:
    """Observation leaves, actions, rewards, terminations, truncations of each episode."""
    try:
        # Straight from the file where it is hdf5: minari's own reader also decodes every info.
        if opened.metadata.data_format == "hdf5":
            yield from _from_hdf5(opened, paths)
        else:
            yield from _from_storage(opened, paths)
    except (InputError, MissingExtra):
        raise
    except Exception as error:  # as above
        raise damaged(opened.name, error) from None


def _from_hdf5(opened: _Opened, paths: list[str]) -> Iterator[_Raw]:
    where, episodes = f"minari:{opened.name}", opened.metadata.total_episodes
    main = opened.folder / "main_data.hdf5"
    with h5py.File(require_file(main, again(opened.name)), "r") as file:
        there = sum(1 for name in file if re.fullmatch(r"episode_[0-9]+", name))
        if there != episodes:
            raise _miscounted("total_episodes", episodes, f"{there:,}", where)
        first = node_at(file, "episode_0", where)
        stored = [_stored(first, path, where) for path in paths]
        for index in range(episodes):
            group = node_at(file, f"episode_{index}", where)
            parts = [values_of(node_at(group, path, where), where) for path in stored]
            actions, rewards, ends, cuts = (
                values_of(node_at(group, key, where), where) for key in _COLUMNS
            )
            yield parts, actions, rewards, ends, cuts


def _stored(episode: h5py.Group, path: str, where: str) -> str:
    """Where an observation's part lies in an episode: Minari stores that of a tuple as _index_0."""
    found = "observations"
    for part in path.split("/") if path else ():
        tuples = part.isdecimal() and f"_index_{part}" in node_at(episode, found, where)
        name = f"_index_{part}" if tuples else part
        found = f"{found}/{name}"
    return found


def _from_storage(opened: _Opened, paths: Iterable[str]) -> Iterator[_Raw]:
    # Minari's own way to open it makes the environment that the metadata name, and so runs what
    # they say, where they state no spaces; here it is given them.
    storages = require("minari.dataset._storages", "minari")
    storage = storages.get_minari_storage(opened.metadata.data_format)(
        opened.folder,
        opened.observation_space,
        opened.action_space,
        jpeg_encoding=opened.metadata.jpeg_encoding,
    )
    for episode in storage.get_episodes(range(opened.metadata.total_episodes)):
        tree = dict(leaves(episode["observations"]))
        rest = (episode[key] for key in _COLUMNS)
        yield ([tree[path] for path in paths], *rest)

"""Minari's datasets (`minari:ID`): local ones first, by name from the remote where a network is."""

import json
import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import h5py
import numpy as np
from gymnasium import spaces

from xql.data.dataset import Dataset, Episode, empty
from xql.data.flatten import flat_layout, leaves, require_vectors, select_keys
from xql.data.schema import check_finite
from xql.data.tables import node_at, unreadable
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
        InputError: no such dataset, no network to fetch it over, discrete actions, observations
            that are no vectors, a NaN, or `keys` that leave out a goal which is not always the
            same.
        MissingExtra: minari is not installed.
    """
    if not re.fullmatch(r"([-\w]+/)*[-\w]+-v\d+", name):
        hint = "a name looks like D4RL/door/human-v2"
        raise InputError("this is no Minari name", where=f"minari:{name}", hint=hint)
    try:
        here = (local_root() / name / "data").is_dir()
    except OSError as error:
        raise _damaged(name, error) from None
    if not here:
        _fetch(name, download=download)
    folder = local_root() / name / "data"
    storage, raw = _open_storage(name, folder)
    space = storage.action_space
    if not _is_continuous(space):
        hint = "discrete actions are not supported yet: a Box of floats is needed"
        raise InputError(f"the actions are {space}", where=f"minari:{name}", hint=hint)
    observation_space = select_keys(storage.observation_space, keys, where=f"minari:{name}")
    require_vectors(observation_space, f"minari:{name}")
    dataset = _read(name, folder, storage, observation_space, finite)
    _require_goal(name, folder, storage, observation_space)
    described: dict[str, Any] = {} if keys is None else {"observation_keys": sorted(keys)}
    layout = flat_layout(observation_space)
    if layout[0][0]:
        described["observation_layout"] = [[path, size] for path, size in layout]
    return dataset.with_metadata(
        name=name,
        source=f"minari:{name}" + (f"?keys={','.join(keys)}" if keys else ""),
        **_bounds(space),
        environment=_specification(raw.get("env_spec")),
        evaluation_environment=_specification(raw.get("eval_env_spec")),
        metadata={**_reference(raw), **described},
    )


def _open_storage(name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Minari's reader of a folder, and the metadata there.

    Where the metadata state no spaces, `MinariStorage.read` makes the environment that they name,
    and so runs what the file says; here the spaces are those of the recorded arrays.
    """
    storages = require("minari.dataset._storages", "minari")
    serialization = require("minari.serialization", "minari")
    try:
        raw = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        found = {}
        for key, arrays in (("observation_space", "observations"), ("action_space", "actions")):
            if key in raw:
                found[key] = serialization.deserialize_space(raw[key])
            else:
                found[key] = _recorded(name, folder, arrays)
        storage = storages.get_minari_storage(raw["data_format"])(
            folder, **found, jpeg_encoding=bool(raw.get("jpeg_encoding", True))
        )
        for count in (storage.total_steps, storage.total_episodes):
            if not isinstance(count, int) or count < 0:
                raise ValueError(f"its metadata count {count!r}")
    except (InputError, MissingExtra):
        raise
    except Exception as error:  # what a wrong value raises depends on who trips over it
        raise _damaged(name, error) from None
    return storage, raw


def _recorded(name: str, folder: Path, key: str) -> spaces.Space[Any]:
    """The space of the first episode's arrays, without bounds.

    Raises:
        InputError: they are in another format than HDF5, or link to another file.
    """
    main, where = folder / "main_data.hdf5", f"minari:{name}"
    if not main.exists():
        raise InputError(
            f"its metadata state no space of the {key}",
            where=where,
            hint="write it again with Minari, its spaces stated",
        )
    with h5py.File(main, "r") as file:
        return _space_of(node_at(file, f"episode_0/{key}", where), where)


def _space_of(node: Any, where: str) -> spaces.Space[Any]:
    if isinstance(node, h5py.Group):
        inner = {key: _space_of(node_at(node, key, where), where) for key in node}
        numbered = [f"_index_{number}" for number in range(len(inner))]
        if inner and set(inner) == set(numbered):  # how Minari stores a tuple
            return spaces.Tuple([inner[key] for key in numbered])
        return spaces.Dict(inner)
    if node.dtype.kind not in "fiub" or node.ndim == 0:
        raise ValueError(f"{node.name} is {node.dtype} with {node.ndim} axes")
    low, high = (-np.inf, np.inf) if node.dtype.kind == "f" else (0, 1)
    return spaces.Box(low, high, node.shape[1:], node.dtype)


def local_root() -> Path:
    """The folder that Minari keeps its datasets in."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return Path(root) if root else Path.home() / ".minari" / "datasets"


def local_names() -> list[str]:
    """The datasets that are on this machine."""
    root = local_root()
    if not root.is_dir():
        return []
    found = root.glob("**/data/metadata.json")
    return sorted(path.parent.parent.relative_to(root).as_posix() for path in found)


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


def _is_continuous(space: Any) -> bool:
    return hasattr(space, "low") and np.issubdtype(space.dtype, np.floating)


@np.errstate(over="ignore")
def _bounds(space: Any) -> dict[str, np.ndarray]:
    """The bounds that an action space states; one that is unbounded anywhere states none."""
    low, high = (bound.ravel().astype(np.float32) for bound in (space.low, space.high))
    finite = np.isfinite(low).all() and np.isfinite(high).all()
    return {"action_low": low, "action_high": high} if finite else {}


def _specification(raw: Any) -> str | None:
    return raw if raw is None or isinstance(raw, str) else json.dumps(raw)


def _reference(raw: Mapping[str, Any]) -> dict[str, Any]:
    skip = ("env_spec", "eval_env_spec", "observation_space", "action_space")
    return {key: value for key, value in raw.items() if key not in skip and value is not None}


def _damaged(name: str, error: Exception) -> InputError:
    barred = unreadable(local_root() / name, error)
    if barred is not None:
        return barred
    reason = (str(error) or type(error).__name__).splitlines()[0][:100]
    hint = f"remove {local_root() / name} and fetch it again"
    return InputError(f"it cannot be read ({reason})", where=f"minari:{name}", hint=hint)


def _read(name: str, folder: Path, storage: Any, space: Any, finite: bool) -> Dataset:
    """Fill the arrays episode by episode; each piece goes straight to its place."""
    where = f"minari:{name}"
    layout = flat_layout(space)
    steps, count = int(storage.total_steps), int(storage.total_episodes)
    if count == 0:
        raise InputError("there is no episode", where=where, hint="take another dataset")
    observations = empty((steps + count, sum(size for _, size in layout)))
    actions = empty((steps + count, int(np.prod(storage.action_space.shape))))
    rewards = empty((steps + count,))
    lengths: list[int] = []
    terminated: list[bool] = []
    truncated: list[bool] = []
    inner: list[np.ndarray] = []
    first = 0
    for episode in _episodes(name, folder, storage, [path for path, _ in layout]):
        parts, action, reward, ends, cuts = episode
        length = _check_steps(episode[1:], actions.shape[1], f"{where}: episode {len(lengths)}")
        last = first + length
        if last >= len(rewards):
            raise _damaged(name, ValueError("more steps than its metadata states"))
        column = 0
        for part, (path, size) in zip(parts, layout, strict=True):
            part = np.asarray(part)
            if part.shape[:1] != (length + 1,):
                number = len(part) if part.ndim else "one number"
                what = f"episode {len(lengths)} has {length} steps and {number} of '{path}'"
                hint = "an episode needs one observation more than steps"
                raise InputError(what, where=where, hint=hint)
            if part.size != (length + 1) * size or part.dtype.kind not in "fiub":
                what = f"'{path}' of episode {len(lengths)} is {part.dtype} of shape {part.shape}"
                hint = f"its space says {size} numbers a row"
                raise InputError(what, where=where, hint=hint)
            observations[first : last + 1, column : column + size] = part.reshape(-1, size)
            column += size
        actions[first:last] = np.asarray(action).reshape(length, -1)
        rewards[first:last] = np.ravel(reward)
        actions[last], rewards[last] = 0.0, 0.0
        inner.append(np.flatnonzero(np.ravel(ends)[:-1]))
        lengths.append(length)
        terminated.append(bool(ends[-1]))
        truncated.append(bool(cuts[-1]))
        first = last + 1
    dataset = Dataset(
        observations=observations[:first],
        actions=actions[:first],
        rewards=rewards[:first],
        lengths=np.asarray(lengths, np.int64),
        terminated=np.asarray(terminated, bool),
        truncated=np.asarray(truncated, bool),
        name=name,
    )
    if any(len(rows) for rows in inner):
        dataset = _split(dataset, inner)
    for key in ("observations", "actions", "rewards") if finite else ():
        check_finite(getattr(dataset, key), key, where, row_name="row (as laid out)")
    return dataset


def _require_goal(name: str, folder: Path, storage: Any, kept: Any) -> None:
    """Refuse data whose rewards depend on a goal that the observation, as chosen, does not show."""
    every = [path for path, _ in leaves(storage.observation_space)]
    chosen = {path for path, _ in flat_layout(kept)}
    goal = [p for p in every if p.partition("/")[0] == GOAL and p not in chosen]
    first: list[np.ndarray] = []
    for parts, *_ in _episodes(name, folder, storage, goal) if goal else ():
        rows = [np.asarray(part).reshape(len(part), -1) for part in parts]
        first = first or [part[0] for part in rows]
        for path, part, same in zip(goal, rows, first, strict=True):
            if not np.array_equal(part, np.broadcast_to(same, part.shape)):
                hint = f"keep it: ?keys={','.join(sorted({GOAL, *_tops(chosen)}))}"
                what = f"the keys leave out '{path}', a goal that is not always the same"
                raise InputError(what, where=f"minari:{name}", hint=hint)


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
    return Dataset.from_episodes(pieces, name=dataset.name)


_COLUMNS = ("actions", "rewards", "terminations", "truncations")
_Raw = tuple[list[Any], Any, Any, Any, Any]


def _episodes(name: str, folder: Path, storage: Any, paths: list[str]) -> Iterator[_Raw]:
    """Observation leaves, actions, rewards, terminations, truncations of each episode."""
    main = folder / "main_data.hdf5"
    try:
        # Straight from the file where it is hdf5: minari's own reader also decodes every info.
        if main.exists():
            yield from _from_hdf5(name, main, storage.total_episodes, paths)
        else:
            yield from _from_storage(storage, paths)
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise _damaged(name, error) from None


def _from_hdf5(name: str, main: Path, episodes: int, paths: list[str]) -> Iterator[_Raw]:
    where = f"minari:{name}"
    with h5py.File(main, "r") as file:
        first = node_at(file, "episode_0", where)
        stored = [_stored(first, path, where) for path in paths]
        for index in range(episodes):
            group = node_at(file, f"episode_{index}", where)
            parts = [node_at(group, path, where)[()] for path in stored]
            rest = (node_at(group, key, where)[()] for key in _COLUMNS)
            yield (parts, *rest)


def _stored(episode: h5py.Group, path: str, where: str) -> str:
    """Where an observation's part lies in an episode: Minari stores that of a tuple as _index_0."""
    found = "observations"
    for part in path.split("/") if path else ():
        name = part if part in node_at(episode, found, where) else f"_index_{part}"
        found = f"{found}/{name}"
    return found


def _from_storage(storage: Any, paths: Iterable[str]) -> Iterator[_Raw]:
    for episode in storage.get_episodes(range(storage.total_episodes)):
        tree = dict(leaves(episode["observations"]))
        rest = (episode[key] for key in _COLUMNS)
        yield ([tree[path] for path in paths], *rest)

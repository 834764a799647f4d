"""Write collected logs as a Minari dataset: whole or not at all; equal logs give equal bytes."""

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Bool, Float, Shaped

from xql import __version__
from xql.errors import InputError, brief, require
from xql.files import beside, made_folder, writing

SIMULATORS = ("gymnasium_robotics", "mujoco", "numpy")
"""The bytes of a dataset depend on the releases of these; they are written beside it."""

ROBOTICS = "gymnasium-robotics>=1.4"

MOST_TRANSITIONS = 1_000_000_000
"""They are held in memory until they are written."""

MOST_EPISODES = 1_000_000
"""The same, where a dataset's size is said in episodes."""


class Log(NamedTuple):
    """One log of T steps, to be written as one episode of a Minari dataset.

    It counts as truncated where its last step is no termination.
    """

    observations: Shaped[np.ndarray, "steps_plus_1 _"] | dict[str, Any]
    """An array, or a dictionary of such arrays, nested as the environment's is."""
    actions: Shaped[np.ndarray, "steps *action"]
    """As the environment takes them: vectors, or the numbers of discrete ones."""
    rewards: Float[np.ndarray, " steps"]
    terminations: Bool[np.ndarray, " steps"]


class Description(NamedTuple):
    """A dataset's metadata."""

    algorithm: str
    about: str
    made: dict[str, Any]
    """How it was made: command, seed, parameters; neither a date nor a path, so that the same
    command gives the same bytes."""
    reference: tuple[float, float] | None = None
    """The returns that score 0 and 100."""
    requirements: tuple[str, ...] = (ROBOTICS,)
    """What its environment needs, as pip's requirement specifiers."""
    simulators: tuple[str, ...] = SIMULATORS
    """The packages whose releases its bytes depend on."""


def refuse_existing(dataset_id: str) -> None:
    """Check that a dataset of this id can be written.

    Raises:
        InputError: the id is malformed, or a dataset has it.
        MissingExtra: Minari is not installed.
    """
    minari = require("minari", "minari")
    try:
        _, _, version = minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        version = None
    if version is None:
        raise InputError(
            f"'{dataset_id}' is no dataset id",
            where="`dataset_id`",
            hint="write it as 'folder/name-v0'",
        )
    if dataset_folder(dataset_id).exists():
        raise InputError(
            f"a dataset '{dataset_id}' exists",
            where="Minari's folder",
            hint="choose another id with `dataset_id`, or remove that one: "
            f"minari delete {dataset_id}",
        )


def check_numbers(
    where: str, *, transitions: int = 1, episodes: int = 1, seed: int, noise: float
) -> None:
    """Check the numbers that every kind of data takes, its size in transitions or in episodes.

    Raises:
        InputError: fewer than one of either, a negative seed, or a noise that is no size.
    """
    limits = (
        ("transitions", transitions, 1, MOST_TRANSITIONS),
        ("episodes", episodes, 1, MOST_EPISODES),
        ("seed", seed, 0, 2**32 - 1),
    )
    for name, value, least, most in limits:
        if value < least:
            raise InputError(f"{name} is {value}", where=where, hint=f"give {least} or more")
        if value > most:
            raise InputError(f"{name} is {brief(value)}", where=where, hint=f"give {most} or less")
    if not 0 <= noise < np.inf:
        raise InputError(f"noise is {noise}", where=where, hint="give 0 or more")


def dataset_folder(dataset_id: str) -> Path:
    """Where Minari keeps a dataset of this id.

    Raises:
        MissingExtra: Minari is not installed.
    """
    require("minari", "minari")
    from minari.storage.datasets_root_dir import get_dataset_path

    return cast(Path, get_dataset_path(dataset_id))


def read_metadata(dataset_id: str) -> dict[str, Any]:
    """What a dataset that is on this machine says of itself.

    Raises:
        OSError, ValueError: it is not there, or damaged.
        MissingExtra: Minari is not installed.
    """
    text = (dataset_folder(dataset_id) / "data" / "metadata.json").read_text(encoding="utf-8")
    return cast(dict[str, Any], json.loads(text))


def write_dataset(
    dataset_id: str,
    logs: Sequence[Log],
    description: Description,
    env: gymnasium.Env[Any, Any],
    evaluation: EnvSpec | None = None,
    observations: gymnasium.Space[Any] | None = None,
) -> None:
    """Write through Minari; a write that does not finish leaves nothing behind.

    It is written under a name of its own and renamed when whole: nobody opens half a dataset, and
    one that another process made of the same id in the meantime stays.

    Args:
        dataset_id: Minari's name for it.
        logs: in the order in which they were made.
        description: what the dataset says of itself.
        env: what the logs come from; its specification is stored.
        evaluation: the environment to evaluate in, where it is another one.
        observations: the space of the logs' observations, where it is not the environment's own.

    Raises:
        InputError: the id is malformed, or a dataset has it.
        MissingExtra: Minari is not installed.
    """
    refuse_existing(dataset_id)
    minari = require("minari", "minari")
    stem, _, version = dataset_id.rpartition("-v")
    draft = f"{stem}-draft-{uuid.uuid4().hex}-v{version}"
    folder = dataset_folder(dataset_id)
    with made_folder(folder.parent, "dataset"), writing(folder, "dataset"):
        _require_room(folder.parent, logs)
        try:
            with warnings.catch_warnings():
                # Minari warns of each piece of metadata left out, such as a web address of the
                # code.
                warnings.simplefilter("ignore")
                minari.create_dataset_from_buffers(
                    draft,
                    [_buffer(log) for log in logs],
                    env=env,
                    eval_env=evaluation,
                    observation_space=observations,
                    algorithm_name=description.algorithm,
                    author="xql",
                    description=description.about,
                    requirements=list(description.requirements),
                )
            _add_provenance(draft, dataset_id, description)
            try:
                dataset_folder(draft).rename(folder)
            except OSError:
                refuse_existing(dataset_id)
                raise
        finally:
            shutil.rmtree(dataset_folder(draft), ignore_errors=True)


def _require_room(folder: Path, logs: Sequence[Log]) -> None:
    """Check that a folder can hold the logs: HDF5, out of room, crashes the process.

    Raises:
        OSError: it cannot.
    """
    arrays = [array for log in logs for array in jax.tree.leaves(log)]
    # HDF5 writes some pages for each episode, beside its arrays.
    size = sum(array.nbytes for array in arrays) + (1 << 14) * (len(logs) + 16)
    room = beside(folder / "room")
    try:
        with room.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    finally:
        room.unlink(missing_ok=True)


def _add_provenance(draft: str, dataset_id: str, description: Description) -> None:
    versions = {name: require(name, "mujoco").__version__ for name in description.simulators}
    # Minari, given these, makes an environment to measure what is missing of them.
    scores = dict(
        zip(("ref_min_score", "ref_max_score"), description.reference or (), strict=False)
    )
    metadata = read_metadata(draft) | {
        "dataset_id": dataset_id,
        **scores,
        "made_by": {**description.made, "xql": __version__, **versions},
    }
    path = dataset_folder(draft) / "data" / "metadata.json"
    path.write_text(json.dumps(metadata), encoding="utf-8")


def _buffer(log: Log) -> Any:
    from minari.data_collector import EpisodeBuffer

    truncations = np.zeros(len(log.actions), bool)
    truncations[-1] = not log.terminations[-1]
    return EpisodeBuffer(
        observations=log.observations,
        actions=log.actions,
        rewards=cast(Any, log.rewards),
        terminations=cast(Any, log.terminations),
        truncations=cast(Any, truncations),
    )

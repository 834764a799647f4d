"""People's own data in a file, opened and saved in one schema (`docs/data.md`)."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xql.data.dataset import Dataset
from xql.data.schema import OPTIONAL, REQUIRED, dataset_from
from xql.data.tables import DESCRIPTION, SUFFIXES, read_columns
from xql.errors import InputError, require


def open_file(path: Path, keys: tuple[str, ...] | None = None) -> Dataset:
    """Open people's own data, in the schema of `docs/data.md`.

    Args:
        path: a file whose name ends in one of `SUFFIXES`.
        keys: which parts of a dictionary observation to keep; None keeps all.

    Raises:
        InputError: the file is missing, truncated or of an unknown kind, lacks a column, or holds
            a NaN; the message names the row.
    """
    columns = read_columns(path, [*REQUIRED, *OPTIONAL, DESCRIPTION])
    description = _parse_description(columns.pop(DESCRIPTION, None), str(path))
    dataset = dataset_from(columns, str(path), keys, name=description.pop("name", path.stem))
    metadata = {**description.pop("metadata", {}), **dataset.metadata}
    for bound in ("action_low", "action_high"):
        if description.get(bound) is not None:
            description[bound] = np.asarray(description[bound], np.float32)
    return dataset.with_metadata(**description, metadata=metadata, source=str(path))


def _parse_description(text: np.ndarray | None, where: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        description = json.loads(str(text))
    except json.JSONDecodeError as error:
        mend = "remove it or write the file again"
        raise InputError(f"'{DESCRIPTION}' is no JSON ({error})", where=where, mend=mend) from None
    known = ("name", "action_low", "action_high", "environment", "evaluation_environment")
    return {key: description[key] for key in (*known, "metadata") if key in description}


def save_dataset(dataset: Dataset, path: Path | str) -> Path:
    """Write a dataset in the schema of `docs/data.md`; opening the file gives the same arrays back.

    Dictionary observations stay flat: the file holds one vector per step.

    Raises:
        InputError: the file exists (nothing is ever written over), or its name ends in none of
            `SUFFIXES`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        mend = f"the name must end in one of {', '.join(SUFFIXES)}"
        raise InputError(f"cannot tell what '{path.suffix}' is", where=str(path), mend=mend)
    if path.exists():
        raise InputError("the file exists", where=str(path), mend="give another name or remove it")
    if not path.parent.is_dir():
        mend = "make it first"
        raise InputError(f"there is no folder {path.parent}", where=str(path), mend=mend)
    write = {".npz": _write_npz, ".parquet": _write_parquet}.get(path.suffix, _write_hdf5)
    # Written beside and then renamed, so that an interrupted write leaves no half file behind.
    beside = path.with_name(f".{path.name}.part")
    try:
        write(beside, _columns_of(dataset), _describe(dataset))
        beside.rename(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
    return path


def _columns_of(dataset: Dataset) -> dict[str, np.ndarray]:
    starts = dataset.starts
    last = np.cumsum(dataset.lengths) - 1
    flags = {"terminated": dataset.terminated, "truncated": dataset.truncated}
    columns = {
        "observations": dataset.observations[starts],
        "actions": dataset.actions[starts],
        "rewards": dataset.rewards[starts],
        "next_observations": dataset.observations[starts + 1],
        "episode": np.repeat(np.arange(dataset.episodes, dtype=np.int32), dataset.lengths),
    }
    for name, per_episode in flags.items():
        columns[name] = np.zeros(dataset.transitions, bool)
        columns[name][last] = per_episode
    return columns


def _describe(dataset: Dataset) -> str:
    low, high = dataset.action_low, dataset.action_high
    metadata = {key: value for key, value in dataset.metadata.items() if not key.startswith("_")}
    description = {
        "name": dataset.name,
        "action_low": None if low is None else low.tolist(),
        "action_high": None if high is None else high.tolist(),
        "environment": dataset.environment,
        "evaluation_environment": dataset.evaluation_environment,
        "metadata": metadata,
    }
    return json.dumps(description, default=_plain)


def _plain(value: Any) -> Any:
    # numpy's numbers and arrays, which json does not know; anything else as its text.
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _write_npz(path: Path, columns: Mapping[str, np.ndarray], description: str) -> None:
    with path.open("wb") as file:
        arrays: dict[str, Any] = {**columns, DESCRIPTION: np.asarray(description)}
        np.savez_compressed(file, **arrays)


def _write_hdf5(path: Path, columns: Mapping[str, np.ndarray], description: str) -> None:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, compression="gzip", compression_opts=1)
        file.attrs[DESCRIPTION] = description


def _write_parquet(path: Path, columns: Mapping[str, np.ndarray], description: str) -> None:
    parquet = require("pyarrow.parquet", "parquet")
    arrow = require("pyarrow", "parquet")
    arrays = {
        name: arrow.array(values)
        if values.ndim == 1
        else arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel()), values.shape[1])
        for name, values in columns.items()
    }
    table = arrow.table(arrays).replace_schema_metadata({DESCRIPTION: description})
    parquet.write_table(table, path)

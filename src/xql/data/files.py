"""Users' own data files, opened and saved in one schema (`docs/data.md`)."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np

from xql.data.actions import MOST_CHOICES
from xql.data.columns import TableColumns
from xql.data.dataset import Continuity, Dataset
from xql.data.reading import is_number, parse_json
from xql.data.schema import OPTIONAL, REQUIRED, dataset_from
from xql.data.stored import Readable
from xql.data.tables import DESCRIPTION, SUFFIXES, open_columns
from xql.errors import InputError, require
from xql.files import require_new, whole_file


def open_file(path: Path, keys: tuple[str, ...] | None = None, *, finite: bool = True) -> Dataset:
    """Open a user's own data, in the schema of `docs/data.md`.

    Args:
        path: a file whose name ends in one of `SUFFIXES`.
        keys: which parts of a dictionary observation to keep; None keeps all.
        finite: whether a NaN is refused.

    Raises:
        InputError: the file is missing, truncated or of an unknown kind, lacks a column, or holds
            a NaN; the message names the row.
    """
    with open_columns(path, [*REQUIRED, *OPTIONAL, DESCRIPTION]) as columns:
        description = _parse_description(columns.pop(DESCRIPTION, None), str(path))
        name = description.pop("name", path.stem)
        count = description.pop("discrete_actions", None)
        dataset = dataset_from(
            columns, str(path), keys, finite=finite, discrete_actions=count, name=name
        )
    for key in ("action_low", "action_high"):
        if key in description and len(description[key]) != dataset.action_size:
            what = f"'{key}' in '{DESCRIPTION}' has {len(description[key])} numbers"
            hint = f"give one for each of the {dataset.action_size} action columns"
            raise InputError(what, where=str(path), hint=hint)
    metadata = {**description.pop("metadata", {}), **dataset.metadata}
    source = str(path) + (f"?keys={','.join(keys)}" if keys else "")
    return dataset.with_metadata(**description, metadata=metadata, source=source)


def _parse_description(text: Readable | None, where: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        description = parse_json(str(np.asarray(text)))
    except ValueError as error:
        hint = "remove it or write the file again"
        raise InputError(f"'{DESCRIPTION}' is no JSON ({error})", where=where, hint=hint) from None
    if not isinstance(description, dict):
        what = f"'{DESCRIPTION}' is no JSON object"
        raise InputError(what, where=where, hint='write it as {"name": ..., ...}')
    known: dict[str, type[Any]] = {
        "name": str,
        "action_low": list,
        "action_high": list,
        "discrete_actions": int,
        "environment": str,
        "evaluation_environment": str,
        "metadata": dict,
        "continuity": str,
    }
    found: dict[str, Any] = {}
    for key, kind in known.items():
        value = description.get(key)
        if value is None:
            continue
        right = isinstance(value, kind)
        right &= kind is not list or (right and all(map(is_number, value)))
        right &= kind is not int or (is_number(value) and 1 <= value <= MOST_CHOICES)
        if not right:
            what = f"'{key}' in '{DESCRIPTION}' is {json.dumps(value)[:40]}"
            hint = f"it must be {_KINDS[kind]}"
            raise InputError(what, where=where, hint=hint)
        found[key] = _float32(value) if kind is list else value
    if found.get("continuity", "stated") not in get_args(Continuity):
        what = f"'continuity' in '{DESCRIPTION}' is '{found['continuity']}'"
        raise InputError(what, where=where, hint=f"choose from {', '.join(get_args(Continuity))}")
    _check_metadata(found.get("metadata", {}), where)
    return found


_KINDS = {
    str: "a text",
    list: "a list of numbers",
    dict: "an object",
    int: f"a whole number from 1 to {MOST_CHOICES}",
}


@np.errstate(over="ignore")  # a bound too large becomes an infinity, which `Dataset` refuses
def _float32(numbers: list[int | float]) -> np.ndarray:
    return np.asarray([float(number) for number in numbers], np.float32)


def _check_metadata(metadata: dict[str, Any], where: str) -> None:
    """The few entries that this package itself reads."""

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    def layout(value: Any) -> bool:
        return isinstance(value, list) and all(
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in value
        )

    def findings(value: Any) -> bool:
        return isinstance(value, list) and all(
            texts(one) and len(one) == 4 and one[0] in ("warning", "note") for one in value
        )

    if metadata.get("columns") is not None:
        TableColumns.from_dict(metadata["columns"], where)
    read = {
        "findings": (findings, "a list of [severity, what, where, hint]"),
        "ref_min_score": (is_number, "a number"),
        "ref_max_score": (is_number, "a number"),
        "observation_keys": (texts, "a list of texts"),
        "observation_layout": (layout, "a list of [path, size]"),
    }
    for key, (fits, kind) in read.items():
        if metadata.get(key) is not None and not fits(metadata[key]):
            what = f"'{key}' in the metadata of '{DESCRIPTION}' is {json.dumps(metadata[key])[:40]}"
            raise InputError(what, where=where, hint=f"it must be {kind}")


def save_dataset(dataset: Dataset, path: Path | str) -> Path:
    """Write a dataset in the schema of `docs/data.md`; opening the file gives the same arrays back.

    Dictionary observations stay flat: the file holds one vector per step.

    Raises:
        InputError: the file exists (nothing is ever written over), its folder does not or cannot
            be written to, or its name ends in none of `SUFFIXES`.
    """
    path = check_destination(Path(path))
    write = {".npz": _write_npz, ".parquet": _write_parquet}.get(path.suffix, _write_hdf5)
    with whole_file(path, "dataset") as draft:
        write(draft, _columns_of(dataset), _describe(dataset))
    return path


def check_destination(path: Path) -> Path:
    """Raise `InputError` unless `save_dataset` can write there; the path itself otherwise."""
    if path.suffix not in SUFFIXES:
        hint = f"the name must end in one of {', '.join(SUFFIXES)}"
        raise InputError(f"cannot tell what '{path.suffix}' is", where=str(path), hint=hint)
    require_new(path)
    return path


def _columns_of(dataset: Dataset) -> dict[str, np.ndarray]:
    starts = dataset.starts
    last = np.cumsum(dataset.lengths) - 1
    flags = {"terminated": dataset.terminated, "truncated": dataset.truncated}
    columns = {
        "observations": dataset.observations[starts],
        "actions": dataset.action_spec.unflatten(dataset.actions[starts]),
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
        "discrete_actions": dataset.action_size if dataset.discrete else None,
        "environment": dataset.environment,
        "evaluation_environment": dataset.evaluation_environment,
        "metadata": metadata,
        "continuity": dataset.continuity,
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
    # HDF5 cannot close a file that its disk has no room for, and then crashes the process.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, compression="gzip", compression_opts=1)
        file.attrs[DESCRIPTION] = description
    path.write_bytes(content.getbuffer())


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

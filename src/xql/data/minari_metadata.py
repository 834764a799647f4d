"""What a Minari dataset's metadata.json says: one typed loader, which names the file and the key.

Minari's own takes the spaces and the counts as they are, and makes the environment that the file
names where it states no spaces.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from xql.data.local import local_root
from xql.data.reading import is_number, parse_json, require_file, unreadable
from xql.errors import InputError, MissingExtra, require

_LARGEST = 1 << 26  # bytes of metadata; a space of a million numbers takes half of that


class Metadata(NamedTuple):
    """What a dataset's metadata.json says, each value of its kind."""

    data_format: str
    total_steps: int
    total_episodes: int
    observation_space: spaces.Space[Any] | None
    action_space: spaces.Space[Any] | None
    environment: str | None
    evaluation_environment: str | None
    jpeg_encoding: bool
    others: dict[str, Any]
    """What is passed on and not read here, but that the reference scores are numbers."""


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data_format": (lambda value: value in ("hdf5", "arrow", "parquet"), "hdf5, arrow or parquet"),
    "total_steps": (lambda value: type(value) is int and value >= 0, "a whole number"),
    "total_episodes": (lambda value: type(value) is int and value >= 0, "a whole number"),
    "env_spec": (lambda value: isinstance(value, str | dict), "the JSON of an EnvSpec"),
    "eval_env_spec": (lambda value: isinstance(value, str | dict), "the JSON of an EnvSpec"),
    "jpeg_encoding": (lambda value: isinstance(value, bool), "true or false"),
    "ref_min_score": (is_number, "a number"),
    "ref_max_score": (is_number, "a number"),
}
_REQUIRED = ("data_format", "total_steps", "total_episodes")
_SPACES = ("observation_space", "action_space")
_OURS = ("observation_keys", "observation_layout")  # what this package writes of what it opened


def read_metadata(name: str, folder: Path) -> Metadata:
    """Minari's metadata.json, checked.

    Raises:
        InputError: it is missing or no JSON, or one of its values is not what it must be.
    """
    where, path = f"minari:{name}", folder / "metadata.json"
    try:
        if require_file(path, again(name)).stat().st_size > _LARGEST:
            raise ValueError("metadata.json is too large")
        raw = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("metadata.json is no object")
    except InputError as error:
        what = f"it cannot be read (metadata.json: {error.what})"
        raise InputError(what, where=where, hint=error.hint) from None
    except (OSError, ValueError) as error:
        raise damaged(name, error) from None
    for key in _REQUIRED:
        if key not in raw:
            hint = f"it must be {_KINDS[key][1]}"
            raise InputError(f"'{key}' is missing in its metadata.json", where=where, hint=hint)
    for key, (fits, kind) in _KINDS.items():
        if key in raw and not fits(raw[key]) and (raw[key] is not None or key in _REQUIRED):
            what = f"'{key}' in its metadata.json is {json.dumps(raw[key])[:40]}"
            raise InputError(what, where=where, hint=f"it must be {kind}")
    read = {key: None if key not in raw else _stated(raw[key], key, where) for key in _SPACES}
    known = (*_REQUIRED, *_SPACES, *_OURS, "env_spec", "eval_env_spec")
    return Metadata(
        data_format=raw["data_format"],
        total_steps=raw["total_steps"],
        total_episodes=raw["total_episodes"],
        observation_space=read["observation_space"],
        action_space=read["action_space"],
        environment=_specification(raw.get("env_spec")),
        evaluation_environment=_specification(raw.get("eval_env_spec")),
        jpeg_encoding=raw.get("jpeg_encoding") is not False,
        others={key: value for key, value in raw.items() if key not in known and value is not None},
    )


def _stated(described: Any, key: str, where: str) -> spaces.Space[Any]:
    try:
        value = parse_json(described) if isinstance(described, str) else described
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _space(value)
    except MissingExtra:
        raise
    except Exception as error:  # what a wrong value raises depends on who trips over it
        what = f"'{key}' in its metadata.json is no space ({_first_line(error)})"
        raise InputError(what, where=where, hint="write it again with Minari") from None


def _space(described: Any) -> spaces.Space[Any]:
    """A space as Minari describes it."""
    if not isinstance(described, dict):
        raise ValueError(f"it is {json.dumps(described)[:40]}")
    kind, inner = described.get("type"), described.get("subspaces")
    if kind in ("Dict", "Tuple") and not inner:
        raise ValueError(f"a {kind} without subspaces")
    if kind == "Dict" and isinstance(inner, dict):
        return spaces.Dict({key: _space(inner[key]) for key in inner})
    if kind == "Tuple" and isinstance(inner, list):
        return spaces.Tuple([_space(each) for each in inner])
    if kind == "Box":
        return _box(described)
    if kind not in ("Discrete", "MultiDiscrete", "MultiBinary", "Text"):
        raise ValueError(f"of type {json.dumps(kind)[:40]}")
    serialization = require("minari.serialization", "minari")
    found: spaces.Space[Any] = serialization.deserialize_space(described)
    return found


def _box(described: dict[str, Any]) -> spaces.Box:
    missing = [key for key in ("dtype", "shape", "low", "high") if key not in described]
    if missing:
        raise ValueError(f"a Box without '{missing[0]}'")
    if not isinstance(described["dtype"], str) or not isinstance(described["shape"], list):
        raise ValueError("a Box whose dtype is no text or whose shape is no list")
    dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
    if dtype.kind not in "fiub":
        raise ValueError(f"a Box of {dtype}")
    low, high = (np.array(described[key], dtype) for key in ("low", "high"))
    # Gymnasium would stretch a lone number to whatever shape is stated.
    if low.shape != shape or high.shape != shape:
        raise ValueError(f"a Box of shape {shape} with bounds of {low.shape} and {high.shape}")
    return spaces.Box(low, high, dtype=dtype.type)


def _specification(raw: Any) -> str | None:
    return raw if raw is None or isinstance(raw, str) else json.dumps(raw)


def damaged(name: str, error: Exception) -> InputError:
    """What to say of a dataset that raised an error when it was read."""
    barred = unreadable(local_root() / name, error)
    if barred is not None:
        return barred
    reason = _first_line(error)
    return InputError(f"it cannot be read ({reason})", where=f"minari:{name}", hint=again(name))


def again(name: str) -> str:
    """The hint where a dataset is damaged."""
    return f"remove {local_root() / name} and fetch it again"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:100]

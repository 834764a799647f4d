"""Named settings, read from YAML: every value with its source, and an unknown key is an error."""

import dataclasses
import importlib.resources
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from xql.agents import AGENTS, beta_of
from xql.errors import InputError, nearest

SUITES = {
    "pointmaze": ("pointmaze",),
    "antmaze": ("antmaze",),
    "kitchen": ("kitchen",),
    "adroit": ("pen", "door", "hammer", "relocate"),
    "mujoco": ("halfcheetah", "hopper", "walker2d", "ant"),
    "dm_control": (),
}
"""The words by which a dataset's name is known to belong to a suite."""

RECIPE = {"rewards": "raw", "observations": "raw", "episodes": "all"}
"""The settings that name what is done to the data rather than a field of the agent, with their
defaults."""

POSITIVE = frozenset(
    {"beta", "clip", "weight_cap", "polyak", "hidden", "critics", "batch_size", "v_updates"}
    | {"huber_delta", "max_gradient_norm", "policy_delay", "initial_temperature"}
    | {"expectile", "temperature", "samples", "critic_hidden"}
)
AT_MOST_ONE = frozenset({"discount", "polyak", "expectile"})
"""The numbers that must be above 0, and those that are shares; every other is at least 0."""


class Settings(NamedTuple):
    """What a preset and the user's own words come to."""

    config: Any
    """The agent's configuration, a frozen dataclass."""
    rewards: str
    observations: str
    sources: dict[str, str]
    """Where each value comes from; what is not named here is the library's default."""
    episodes: str = "all"


MADE_FOR = {
    "PointMaze": "pointmaze",
    "AntMaze": "antmaze",
    "FrankaKitchen": "kitchen",
    "AdroitHandDoor": "adroit",
    "AdroitHandHammer": "adroit",
    "AdroitHandPen": "adroit",
    "AdroitHandRelocate": "adroit",
    "HalfCheetah": "mujoco",
    "Hopper": "mujoco",
    "Walker2d": "mujoco",
    "Ant": "mujoco",
}
"""The suite of an environment, by the first word of its id."""


def suite(name: str, environment: str | None = None) -> str | None:
    """The benchmark suite that a dataset belongs to, or None.

    Benchmark datasets carry a version ("door-human-v0"); anyone's own door.npz does not. DeepMind
    Control's tasks have none; their names begin with the suite's.

    Args:
        name: the dataset's.
        environment: the one that it was recorded in, an id or the JSON of an `EnvSpec`. Where it is
            of a suite, that decides, whatever the dataset is called.
    """
    recorded = _environment_suite(environment) if environment else None
    if recorded is not None:
        return recorded
    if _plain_name(name).startswith("dm-control/"):
        return "dm_control"
    if re.search(r"-v\d+$", name) is None:
        return None
    words = re.split(r"[^a-z0-9]+", name.lower())
    for known, marks in SUITES.items():
        if any(mark in words for mark in marks):
            return known
    return None


def _environment_suite(environment: str) -> str | None:
    identity = re.search(r'"id": *"([^"]*)"', environment)
    word = re.match(r"(?:xql/)?([A-Za-z0-9]*)", identity[1] if identity else environment)
    return MADE_FOR.get(word[1]) if word else None


def settings(
    agent: str,
    preset: str,
    dataset: str,
    options: Mapping[str, Any] | None = None,
    *,
    needs_beta: bool = True,
    task: str | None = None,
) -> Settings:
    """An agent's settings for a dataset: the preset's, overridden by the user's `options`.

    Args:
        agent: a name in `AGENTS`.
        preset: a name in the agent's YAML file.
        dataset: the dataset's name, by which the preset's suite and row are found.
        options: field names of the agent's configuration, or of `RECIPE`.
        needs_beta: whether a preset without a β for this dataset is an error; not where the
            population brings its own.
        task: the environment that the data was recorded in, where it says so; see `suite`.

    Raises:
        InputError: an unknown agent, preset or option (the nearest is named), a value of the wrong
            type, or a preset that has nothing for this dataset.
    """
    if agent not in AGENTS:
        raise InputError(f"unknown agent '{agent}'", hint=nearest(agent, AGENTS))
    presets = _presets(agent)
    if preset not in presets:
        raise InputError(
            f"unknown preset '{preset}' of agent {agent}", hint=nearest(preset, presets)
        )
    sections = presets[preset]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    row = _row(dataset, sections)
    of_suite = suite(dataset, task)
    if preset != "default" and row is None and (of_suite is None or of_suite not in sections):
        raise InputError(
            f"preset '{preset}' has no settings for '{dataset}'",
            hint=f"use --preset default; '{preset}' knows {', '.join(_known(sections))}",
        )
    for section in ("any", of_suite, row):
        for key, entry in sections.get(section or "", {}).items():
            values[key] = entry["value"]
            sources[key] = f"preset {preset}: {entry['source']}"
    for key, value in (options or {}).items():
        values[key], sources[key] = value, "given"
    scaling = {key: str(values.pop(key, default)) for key, default in RECIPE.items()}
    config = configure(agent, values)
    if "beta" in (options or {}) and beta_of(config) is None:
        raise InputError(f"agent {agent} has no β", hint="leave --set beta out")
    if needs_beta and beta_of(config) is not None and "beta" not in sources:
        other = f", or use --preset default; it knows {', '.join(_known(sections))}"
        raise InputError(
            f"preset '{preset}' has no β for '{dataset}'",
            hint=f"give --beta{'' if preset == 'default' else other}",
        )
    return Settings(config, sources=sources, **scaling)


def configure(agent: str, values: Mapping[str, Any]) -> Any:
    """The agent's configuration with some fields given.

    Raises:
        InputError: an unknown field (the nearest is named), a value of the wrong type, or a number
            out of range.
    """
    kind = AGENTS[agent].config
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    checked = {}
    for key, value in values.items():
        if key not in fields:
            raise InputError(
                f"unknown option '{key}' of agent {agent}", hint=nearest(key, (*fields, *RECIPE))
            )
        checked[key] = _coerce(key, value, fields[key])
        _check_range(key, checked[key])
    return kind(**{**AGENTS[agent].defaults, **checked})


def _check_range(key: str, value: Any) -> None:
    """Refuse numbers of the right type with which no update would make sense."""
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        above_zero, most = key in POSITIVE, 1.0 if key in AT_MOST_ONE else math.inf
        hint = f"give {'a number above 0' if above_zero else 'at least 0'}"
        hint += " and at most 1" if key in AT_MOST_ONE else ""
        wrong = not math.isfinite(number) or not 0 <= number <= most
        if key == "maclaurin_order":
            wrong, hint = number < 2 or number % 2 == 1, "give an even number, at least 2"
        if wrong or (above_zero and number == 0):
            raise InputError(f"option {key} cannot be {value!r}", hint=hint)


def _coerce(key: str, value: Any, wanted: Any) -> Any:
    """`value` as the field's type, where it is that without loss."""
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    for option in options:
        origin = typing.get_origin(option)
        if origin is typing.Literal and value in typing.get_args(option):
            return value
        if origin is tuple and isinstance(value, list | tuple) and value:
            inner = typing.get_args(option)[0]
            return tuple(_coerce(key, item, inner) for item in value)
        if option is type(None) and value is None:
            return None
        if option is bool and isinstance(value, bool):
            return value
        if option is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    names = [str(getattr(one, "__name__", one)) for one in options]
    if typing.get_origin(wanted) is typing.Literal:
        names = [f"'{one}'" for one in typing.get_args(wanted)]
    raise InputError(f"option {key} cannot be {value!r}", hint=f"it takes {' or '.join(names)}")


def preset_names(agent: str) -> list[str]:
    """The presets that an agent has."""
    return list(_presets(agent))


def _presets(agent: str) -> dict[str, dict[str, dict[str, Any]]]:
    text = importlib.resources.files(__name__).joinpath(f"{agent}.yaml").read_text("utf-8")
    loaded: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(text)
    return loaded


def _row(dataset: str, sections: Mapping[str, Any]) -> str | None:
    """The section of this very dataset, however its name is spelled.

    A version more or less is the same data set's row, and DeepMind Control's tasks may be written
    with underscores.
    """
    for section in sections:
        if _plain_name(section) == _plain_name(dataset):
            return section
    return None


def _plain_name(name: str) -> str:
    return re.sub(r"-v\d+$", "", name).lower().replace("_", "-")


def _known(sections: Mapping[str, Any]) -> list[str]:
    named = [name for name in sections if name != "any"]
    rows = [name for name in named if name not in SUITES]
    return rows if rows else named

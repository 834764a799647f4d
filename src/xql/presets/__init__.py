"""Named settings, read from YAML: every value with its source, and an unknown key is an error."""

import functools
import importlib.resources
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import yaml

from xql.agents import AGENTS, configure
from xql.agents.hyperparameters import AUTO, hyperparameters, inactive
from xql.agents.temperature import activation
from xql.errors import InputError, nearest

PresetName = Literal[
    "default", "fixed", "consistent", "tuned", "official", "published", "matched", "paper"
]

SUITES = {
    "pointmaze": ("pointmaze",),
    "antmaze": ("antmaze",),
    "kitchen": ("kitchen",),
    "adroit": ("pen", "door", "hammer", "relocate"),
    "mujoco": ("halfcheetah", "hopper", "walker2d", "ant"),
    "dm_control": (),
}
"""The words by which a dataset's name is known to belong to a suite."""

DATA_OPTIONS = {"rewards": "raw", "observations": "raw", "subset": "all"}
"""The options that say what is done to the data rather than set a hyperparameter, with their
defaults: see `data/scaling.py` and `data/selection.py`."""

IN_RETURNS = "beta_optimism"
"""What presets give in standard deviations of the data's returns, which are 1, nearly, in rewards
that are scaled to them (`rewards="auto"`) and unknown in others, where it is left out."""

FIXED = "fixed"
"""What the preset `default` is, of an agent that has this one too, where the user gives a number as
β: a β belongs to a unit of the rewards, and to a κ."""

WARMUP = "warmup"
"""What an online agent's preset may set besides: the steps of random actions before the first
update. An option of the loop and no hyperparameter; see `preset_warmup`."""


class Resolved(NamedTuple):
    """What a preset and the user's own options come to."""

    config: Any
    """The agent's configuration, a frozen dataclass."""
    rewards: str
    observations: str
    sources: dict[str, str]
    """Where each value comes from; what is not named here is the library's default."""
    subset: str = "all"
    preset: str = "default"
    """The one that was read: `FIXED` where `default` and a β were asked for."""


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


def resolve(
    agent: str,
    preset: str,
    dataset: str,
    options: Mapping[str, Any] | None = None,
    *,
    swept: Collection[str] = (),
    task: str | None = None,
) -> Resolved:
    """An agent's settings for a dataset: the preset's, overridden by the user's `options`.

    Args:
        agent: a name in `AGENTS`.
        preset: a name in the agent's YAML file.
        dataset: the dataset's name, by which the preset's suite and row are found.
        options: field names of the agent's configuration, or of `DATA_OPTIONS`.
        swept: the hyperparameters that the population brings its own values of, so that the preset
            need not have one.
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
    beta = (options or {}).get("beta", AUTO)
    tunes_itself = isinstance(beta, str) and beta == AUTO and "beta" not in swept
    if preset == "default" and FIXED in presets and not tunes_itself:
        preset = FIXED
    sections = presets[preset]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    row = _row(dataset, sections)
    of_suite = suite(dataset, task)
    if (
        preset not in ("default", FIXED)
        and row is None
        and (of_suite is None or of_suite not in sections)
    ):
        raise InputError(
            f"preset '{preset}' has no settings for '{dataset}'",
            hint=f"use `preset='default'`; '{preset}' knows {', '.join(_covered(sections))}",
        )
    for key, entry in _entries(sections, of_suite, row).items():
        # What the population brings numbers of does not tune itself.
        if key != WARMUP and not (key in swept and entry["value"] == AUTO):
            values[key] = entry["value"]
            sources[key] = f"preset {preset}: {entry['source']}"
    for key, value in (options or {}).items():
        values[key], sources[key] = value, "given"
    if values.get("rewards") != AUTO and sources.get(IN_RETURNS) != "given":
        values.pop(IN_RETURNS, None)
        sources.pop(IN_RETURNS, None)
    data = {key: str(values.pop(key, default)) for key, default in DATA_OPTIONS.items()}
    config = configure(agent, values, others=DATA_OPTIONS)
    unused = inactive(config)
    for name in unused & set(options or {}):
        raise InputError(
            f"{name} has no effect on agent {agent} as it is configured",
            hint=f"{activation(config, name)}leave it out of `options`",
        )
    # What a preset sets without effect keeps its default: config.yaml does not have it either.
    if idle := unused & values.keys():
        config = configure(agent, {name: values[name] for name in values.keys() - idle})
        sources = {name: source for name, source in sources.items() if name not in idle}
    missing = [
        one.name
        for one in hyperparameters(config).values()
        if one.required and one.name not in unused and one.name not in sources
    ]
    for name in set(missing) - set(swept):
        others = [section for section in sections if name in sections[section]]
        other = f", or use `preset='default'`; '{preset}' has it for {', '.join(others)}"
        raise InputError(
            f"preset '{preset}' has no {name} for '{dataset}'",
            hint=f"give `options={{'{name}': …}}`{'' if preset == 'default' else other}",
        )
    return Resolved(config, sources=sources, preset=preset, **data)


def preset_warmup(agent: str, preset: str, environment: str) -> int | None:
    """The warm-up that a preset asks for; None where it leaves that to the loop, or is unknown."""
    if agent not in AGENTS:  # which is refused elsewhere, and need not be the name of a file
        return None
    sections = _presets(agent).get(preset, {})
    entries = _entries(sections, suite(environment), _row(environment, sections))
    warmup: int | None = entries[WARMUP]["value"] if WARMUP in entries else None
    return warmup


def preset_names(agent: str) -> list[str]:
    """The presets that an agent has."""
    return list(_presets(agent))


@functools.cache  # parsing YAML takes longer than all that is done with it
def _presets(agent: str) -> dict[str, dict[str, dict[str, Any]]]:
    file = importlib.resources.files(__name__).joinpath(f"{agent}.yaml")
    if not file.is_file():  # an agent that a user added
        return {"default": {}}
    loaded: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(file.read_text("utf-8"))
    return loaded


def _entries(
    sections: Mapping[str, Mapping[str, Any]], of_suite: str | None, row: str | None
) -> dict[str, dict[str, Any]]:
    """A preset's values with their sources, from the general to the particular."""
    entries: dict[str, dict[str, Any]] = {}
    for section in ("any", of_suite, row):
        entries |= sections.get(section or "", {})
    return entries


def _row(dataset: str, sections: Mapping[str, Any]) -> str | None:
    """The section of this very dataset, however its name is spelled.

    A version more or less is the same data set's row, and DeepMind Control's tasks may be written
    with underscores.
    """
    for section in _rows(sections):
        if _plain_name(section) == _plain_name(dataset):
            return section
    return None


def _plain_name(name: str) -> str:
    return re.sub(r"-v\d+$", "", name).lower().replace("_", "-")


def _rows(sections: Mapping[str, Any]) -> list[str]:
    """The datasets that have a section of their own."""
    return [name for name in sections if name not in ("any", *SUITES)]


def _covered(sections: Mapping[str, Any]) -> list[str]:
    """The suites that have settings, and the datasets of others."""
    rows = [name for name in _rows(sections) if suite(name) not in sections]
    return [*(name for name in sections if name in SUITES), *rows]

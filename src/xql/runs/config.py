"""A run's configuration, typed and frozen: the arguments it was given and the values resolved.

`plan_offline` and `plan_online` make one; `RunConfig.load(folder)` reads one back from config.yaml.
Whatever continues, evaluates, exports or compares a run starts from here.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from xql.agents import AGENTS, Agent, EnvironmentSpec, configure
from xql.agents.hyperparameters import to_dict as hyperparameters_to_dict
from xql.data.actions import ActionSpec, Box, Discrete, box, require_box
from xql.data.scaling import Scaling
from xql.envs.trusted import trusted_environment
from xql.errors import InputError, printable
from xql.evaluation.scores import Reference
from xql.version import __version__

VERSION = 2
"""Of config.yaml. Version 1, which xql 0.1 wrote without saying so, is still read."""


class Member(NamedTuple):
    """One run of a population: its seed, and its values of the swept hyperparameters."""

    seed: int
    changes: Mapping[str, float] = {}


@dataclass(frozen=True)
class EvaluationPlan:
    """When a run is evaluated, and with how many episodes of each member."""

    evaluations: int = 20
    """How many, evenly spaced, the last step included."""
    episodes: int = 10
    """Episodes at each evaluation but the last."""
    last_episodes: int = 100
    """Episodes at the last step, whose score is the run's result."""
    stop_at_success: bool = False
    """End an episode at its first success, as D4RL counts AntMaze."""

    def check(self) -> None:
        """Refuse counts with which nothing would be evaluated.

        Raises:
            InputError: one is too small.
        """
        for name, least in (("evaluations", 1), ("episodes", 0), ("last_episodes", 0)):
            require_at_least(name, getattr(self, name), least)

    def steps(self, total: int, stride: int = 1) -> list[int]:
        """The steps to evaluate at: evenly spaced multiples of `stride`, the last step included."""
        strides, count = total // stride, self.evaluations
        return sorted({-(-strides * i // count) * stride for i in range(1, count + 1)})


DEFAULT_EVALUATION = EvaluationPlan()


def require_at_least(name: str, value: int, least: int) -> None:
    """Refuse a count below `least`.

    Raises:
        InputError: it is.
    """
    if value < least:
        raise InputError(f"`{name}={value}` is too small", hint=f"give at least {least}")


@dataclass(frozen=True)
class OnlineLoop:
    """How acting and learning take turns. Steps are those of one member's environments together."""

    environments: int = 1
    """Copies of the environment for each member, stepped in turn."""
    warmup: int = 5_000
    """Steps of uniformly random actions before the first update."""
    update_to_data: float = 1.0
    """Updates for each step after the warm-up (the UTD ratio)."""
    buffer: int = 1_000_000
    """Capacity of each member's replay buffer, in transitions."""


@dataclass(frozen=True)
class Extent:
    """How much data there is."""

    transitions: int
    episodes: int
    mean_return: float


@dataclass(frozen=True)
class DataConfig:
    """What a policy needs to know of the data or the environment that it was trained on."""

    name: str
    source: str
    """As `open_dataset` takes it; "arrays" for arrays, "online" for an environment."""
    observation_size: int
    actions: ActionSpec
    observation_keys: tuple[str, ...] | None = None
    """The keys kept of a dictionary observation."""
    reference: Reference | None = None
    """The returns of normalised scores 0 and 100."""
    extent: Extent | None = None
    """What was learned from; None online."""
    subset: str = "all"
    """Which episodes of the data were learned from."""
    whole: Extent | None = None
    """The data before the subset was taken; None where that is all of it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


@dataclass(frozen=True, eq=False)
class RunConfig:
    """The arguments of a run and the values that they resolve to."""

    agent: str
    preset: str
    steps: int
    """Offline, updates of each member; online, environment steps."""
    members: tuple[Member, ...]
    hyperparameters: Any
    """The agent's configuration; a member's own changes come on top."""
    scaling: Scaling
    data: DataConfig
    environment: str | None
    """Where the run is evaluated: an id, or the JSON of an `EnvSpec`."""
    evaluation: EvaluationPlan = EvaluationPlan()
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each value comes from; what is not named here is the library's default."""
    loop: OnlineLoop | None = None
    """None for an offline run."""
    keep_policies: bool = False
    trust: tuple[str, ...] = ()
    """Whose environments may be made besides `xql.envs.trusted.PACKAGES`; `environment` itself
    where the user named it. Never stored: a run folder says nothing of whom to trust."""
    xql: str = __version__
    """The version that wrote it."""
    version: int = VERSION

    @property
    def online(self) -> bool:
        """Whether the run learned in an environment instead of from logged data."""
        return self.loop is not None

    @property
    def spec(self) -> EnvironmentSpec:
        """What the networks are built for."""
        return EnvironmentSpec(
            self.data.observation_size, require_box(self.data.actions, self.data.name)
        )

    def make_agent(self) -> Agent:
        """The agent that this run trains."""
        return AGENTS[self.agent].make(self.hyperparameters, self.steps)

    def member_config(self, index: int) -> Any:
        """The agent's configuration of one member."""
        return dataclasses.replace(self.hyperparameters, **self.members[index].changes)

    def require_member(self, index: int, where: str) -> int:
        """`index`, where there is such a member.

        Raises:
            InputError: there is not.
        """
        if not 0 <= index < len(self.members):
            raise InputError(
                f"there is no member {index}",
                where=where,
                hint=f"choose 0 to {len(self.members) - 1}",
            )
        return index

    def require_environment(
        self, where: str, env: str | None = None, trust: Sequence[str] = ()
    ) -> str:
        """What `make_environment` may make: `env`, or else the run's own environment.

        A run folder is a file: of its own environment only what `trusted_environment` lets pass.

        Raises:
            InputError: there is neither, or the run's own is not trusted.
            MissingExtra: the run's own needs an extra that is not installed.
        """
        if env is not None:
            return env
        if self.environment is None:
            raise InputError("this run has no environment", where=where, hint="give one with `env`")
        return trusted_environment(self.environment, (*self.trust, *trust), where=where)

    def to_dict(self) -> dict[str, Any]:
        """The same in plain values, for YAML or JSON."""
        data = dataclasses.asdict(self.data)
        data |= data.pop("extent") or {}
        reference = self.data.reference
        data["actions"] = _actions_to_dict(self.data.actions)
        data["reference"] = None if reference is None else reference._asdict()
        plain: dict[str, Any] = _plain(
            {
                "version": self.version,
                "xql": self.xql,
                "kind": "online" if self.online else "offline",
                "agent": self.agent,
                "preset": self.preset,
                "steps": self.steps,
                "members": [one._asdict() for one in self.members],
                "hyperparameters": hyperparameters_to_dict(self.hyperparameters),
                "sources": dict(self.sources),
                "scaling": self.scaling.to_dict(),
                "data": data,
                "environment": self.environment,
                "evaluation": dataclasses.asdict(self.evaluation),
                **(
                    {}
                    if self.loop is None
                    else {
                        "loop": dataclasses.asdict(self.loop),
                        "keep_policies": self.keep_policies,
                    }
                ),
            }
        )
        return plain

    @classmethod
    def from_dict(cls, values: Any, where: str = "config.yaml") -> "RunConfig":
        """The inverse of `to_dict`; also reads what xql 0.1 wrote.

        Args:
            values: plain values.
            where: the file, for messages.

        Raises:
            InputError: a value is missing, of the wrong type, or of a version to come.
        """
        if not isinstance(values, Mapping):
            raise _damaged("it holds no settings", where)
        version = values.get("version", 1)
        if not isinstance(version, int) or version > VERSION:
            raise InputError(
                f"its version is {version}, this xql reads up to {VERSION}",
                where=where,
                hint="update xql",
            )
        plain = _Fields(_from_version_1(values) if version == 1 else values, where)
        data = _Fields(plain.get("data", Mapping), where, "data.")
        try:
            agent = plain.get("agent", str)
            if agent not in AGENTS:
                raise _damaged(f"there is no agent '{agent}'", where)
            return cls(
                agent=agent,
                preset=str(values.get("preset", "default")),
                steps=plain.get("steps", int),
                members=tuple(
                    Member(int(one["seed"]), dict(one.get("changes", {})))
                    for one in plain.get("members", list)
                ),
                hyperparameters=configure(agent, plain.get("hyperparameters", Mapping)),
                sources=dict(plain.values.get("sources", {})),
                scaling=Scaling.from_dict(plain.get("scaling", Mapping)),
                data=_data_config(data),
                environment=plain.get("environment", str, None),
                evaluation=EvaluationPlan(**plain.get("evaluation", Mapping)),
                loop=_loop(plain.values),
                keep_policies=bool(values.get("keep_policies", False)),
                xql=str(values.get("xql", "")),
            )
        except (TypeError, KeyError, ValueError) as error:
            if isinstance(error, InputError) and error.where == where:
                raise
            raise _damaged(f"a value is missing or wrong ({error})", where) from None

    @classmethod
    def load(cls, folder: Path | str) -> "RunConfig":
        """Read config.yaml in a run folder.

        Raises:
            InputError: it is missing, no YAML, or damaged.
        """
        path = Path(folder) / "config.yaml"
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                "config.yaml is missing",
                where=str(folder),
                hint="this is no complete run folder",
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise _damaged(f"this is not YAML: {error}", str(path)) from None
        return cls.from_dict(values, str(path))


class _Fields:
    """Plain values by name, read with a type check."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.values, self._where, self._prefix = values, where, prefix

    def get(self, name: str, *kinds: Any) -> Any:
        """The value, where it has one of `kinds` (None stands for no value).

        Raises:
            InputError: it is missing or of another type.
        """
        if name not in self.values:
            raise _damaged(f"'{self._prefix}{name}' is missing", self._where)
        value = self.values[name]
        types = tuple(type(None) if kind is None else kind for kind in kinds)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise _damaged(f"'{self._prefix}{name}' is {value!r:.60}", self._where)
        return value


def _damaged(what: str, where: str) -> InputError:
    return InputError(what, where=where, hint="restore the file as the run wrote it")


def _actions_to_dict(actions: ActionSpec) -> dict[str, Any]:
    if isinstance(actions, Discrete):
        return {"kind": "discrete", "n": actions.n}
    return {"kind": "box", "low": list(actions.low), "high": list(actions.high)}


def _actions_from_dict(values: Mapping[str, Any]) -> ActionSpec:
    if values["kind"] == "discrete":
        return Discrete(int(values["n"]))
    if values["kind"] != "box":
        raise ValueError(f"actions of kind '{values['kind']}'")
    actions: Box = box(values["low"], values["high"])
    return actions


def _data_config(data: _Fields) -> DataConfig:
    values = data.values
    reference, keys, whole = (values.get(n) for n in ("reference", "observation_keys", "whole"))
    return DataConfig(
        name=data.get("name", str),
        source=str(values.get("source", "")),
        observation_size=data.get("observation_size", int),
        actions=_actions_from_dict(data.get("actions", Mapping)),
        observation_keys=None if not keys else tuple(keys),
        reference=None if reference is None else Reference(**reference),
        extent=_extent(values) if "transitions" in values else None,
        subset=str(values.get("subset", "all")),
        whole=None if whole is None else _extent(whole),
    )


def _extent(values: Mapping[str, Any]) -> Extent:
    return Extent(*(values[one.name] for one in dataclasses.fields(Extent)))


def _loop(values: Mapping[str, Any]) -> OnlineLoop | None:
    if values.get("kind", "offline") != "online":
        return None
    return OnlineLoop(**values.get("loop", {}))


def _from_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """What xql 0.1 wrote, under the names of version 2."""
    names = {"settings": "hyperparameters", "settings_sources": "sources", "recipe": "scaling"}
    found = {names.get(key, key): value for key, value in values.items()}
    if isinstance(data := found.get("data"), Mapping):
        data = dict(data)
        if "selection" in data:
            data["subset"] = data.pop("selection")
        if {"action_low", "action_high"} <= data.keys():
            bounds = {"low": data.pop("action_low"), "high": data.pop("action_high")}
            data["actions"] = {"kind": "box", **bounds}
        found["data"] = data
    if isinstance(sources := found.get("sources"), Mapping) and "episodes" in sources:
        found["sources"] = {
            "subset" if name == "episodes" else name: source for name, source in sources.items()
        }
    return found


def _plain(value: Any) -> Any:
    """The same settings in the types that YAML has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value

"""A run's configuration, typed and frozen: the arguments it was given and the values resolved.

`plan_offline` and `plan_online` make one; `RunConfig.load(folder)` reads one back from config.yaml.
Whatever continues, evaluates, exports or compares a run starts from here.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args, get_type_hints

import numpy as np

from xql.agents import AGENTS, Agent, EnvironmentSpec, configure
from xql.agents.hyperparameters import AUTO, Range, hyperparameters
from xql.agents.hyperparameters import to_dict as hyperparameters_to_dict
from xql.agents.networks import Precision, in_bf16
from xql.data.actions import ActionSpec, Box, Discrete
from xql.data.columns import TableColumns
from xql.data.scaling import Scaling
from xql.envs.given import (
    NO_ENVIRONMENT,
    Given,
    Simulator,
    arguments_in,
    is_of_python,
    limit_in,
    name_in,
    simulator,
)
from xql.envs.trusted import trusted_environment
from xql.errors import InputError, brief, nearest, printable
from xql.evaluation.scores import Reference
from xql.runs.plain import MOST_BYTES, Finite, damaged, read_yaml, typed, wrong
from xql.version import __version__

VERSION = 2
"""Of config.yaml. Version 1, which xql 0.1 wrote without saying so, is still read."""

LARGEST = 2**31 - 1
"""Of what is counted in JAX's whole numbers: steps, sizes."""
MOST_MEMBERS = 10_000
"""Of a population: every one of them has its networks, and its environments to be evaluated in."""
Count = Annotated[int, Range(1, LARGEST)]
Episodes = Annotated[int, Range(0, 1_000_000)]


class Member(NamedTuple):
    """One run of a population: its seed, and its values of the swept hyperparameters."""

    seed: Annotated[int, Range(0, 2**32 - 1)]
    changes: Mapping[str, float] = {}


@dataclass(frozen=True)
class EvaluationPlan:
    """When a run is evaluated, and with how many episodes of each member."""

    evaluations: Annotated[int, Range(1, 1_000_000)] = 20
    """How many, evenly spaced, the last step included."""
    episodes: Episodes = 10
    """Episodes at each evaluation but the last."""
    last_episodes: Episodes = 100
    """Episodes at the last step, whose score is the run's result."""
    stop_at_success: bool = False
    """End an episode at its first success, as D4RL counts AntMaze."""

    def check(self) -> None:
        """Refuse counts with which nothing would be evaluated, or nothing else done.

        Raises:
            InputError: one is out of range.
        """
        require_in_range(self)

    def episodes_at(self, step: int, total: int) -> int:
        """Episodes of each member at a step: a fine-tuned run is evaluated at step 0 too."""
        return self.last_episodes if step in (0, total) else self.episodes

    def steps(self, total: int, stride: int = 1) -> list[int]:
        """The steps to evaluate at: evenly spaced multiples of `stride`, the last step included."""
        strides = total // stride
        count = min(self.evaluations, strides)
        return sorted({-(-strides * i // count) * stride for i in range(1, count + 1)})


DEFAULT_EVALUATION = EvaluationPlan()

_SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class CheckpointPlan:
    """When the whole state of a run is saved, besides before each evaluation, and what stays.

    Saving changes no number of a run, so that a resumed run may save at other times.
    """

    every: str = "10min"
    """A time such as "30s", "10min" or "2h"; or a number of steps."""
    keep_last: Count = 2
    """The latest checkpoints that stay: one to go on from, and others should it be damaged."""
    keep_every: Count | None = None
    """Besides, those whose step is a multiple of this."""
    keep_best: bool = False
    """Besides, the one with the best evaluation, the mean over the members."""

    def check(self) -> None:
        """Refuse what says no time and no number of steps.

        Raises:
            InputError: one of the values cannot be used.
        """
        self.interval()
        require_at_least("keep_last", self.keep_last, 1)
        if self.keep_every is not None:
            require_at_least("keep_every", self.keep_every, 1)

    def interval(self) -> tuple[int | None, float | None]:
        """Steps or seconds from one checkpoint to the next; the other is None.

        Raises:
            InputError: `every` is neither.
        """
        found = re.fullmatch(r"(\d{1,9})(s|min|h)?", str(self.every).strip())
        if found is None or int(found[1]) == 0:
            raise InputError(
                f"`checkpoint_every={brief(self.every)}` is no time and no number of steps",
                hint="write it as 30s, 10min, 2h or 5000",
            )
        number, unit = int(found[1]), found[2]
        return (number, None) if unit is None else (None, number * float(_SECONDS[unit]))


DEFAULT_CHECKPOINTS = CheckpointPlan()


def require_named(env_kwargs: Mapping[str, Any] | None, env: Any = None) -> None:
    """Refuse arguments of an environment that the user does not name.

    Raises:
        InputError: there are some.
    """
    if env_kwargs and env is None:
        raise InputError(
            "`env_kwargs` are of an environment that is not named", hint="name it with `env`"
        )


def require_at_least(name: str, value: int, least: int) -> None:
    """Refuse a count below `least`, or more than can be counted.

    Raises:
        InputError: it is.
    """
    _require(name, value, Range(least, MOST_MEMBERS if name == "seeds" else LARGEST))


def require_precision(precision: str) -> Precision:
    """`precision`, where it is one.

    Raises:
        InputError: it is not.
    """
    known = get_args(Precision)
    if precision not in known:
        raise InputError(
            f"`precision={brief(precision)}` is unknown", hint=nearest(precision, known)
        )
    return cast(Precision, precision)


def require_in_range(counts: Any) -> None:
    """Refuse a dataclass whose whole numbers are not in the ranges that their types state.

    Raises:
        InputError: one is not; named as the argument that gives it.
    """
    hints = get_type_hints(type(counts), include_extras=True)
    for name, hint in hints.items():
        if get_args(hint)[:1] == (int,):
            _require(name, getattr(counts, name), get_args(hint)[1])


def _require(name: str, value: Any, range: Range) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"`{name}` cannot be {brief(value)}", hint="give a whole number")
    if value < range.least:
        raise InputError(f"`{name}={value}` is too small", hint=f"give at least {range.least}")
    if value > range.most:
        raise InputError(f"`{name}={brief(value)}` is too large", hint=f"give {range.text}")


@dataclass(frozen=True)
class OnlineLoop:
    """How acting and learning take turns. Steps are those of one member's environments together."""

    environments: Annotated[int, Range(1, 10_000)] = 1
    """Copies of the environment for each member, stepped in turn."""
    warmup: Count = 5_000
    """Steps before the first update: of uniformly random actions, or in fine-tuning of the policy
    that the run starts from."""
    update_to_data: Finite = 1.0
    """Updates for each step after the warm-up (the UTD ratio)."""
    buffer: Count = 1_000_000
    """Capacity of each member's replay buffer, in transitions."""


ReplayKind = Literal["symmetric", "prefill", "online"]
"""What fine-tuning learns from: half of each batch from the log and half from the replay buffer
(Ball et al. 2023, arXiv 2302.02948), all rows of both alike, or the replay buffer alone."""

AtSuccess = Literal["simulator", "terminate", "continue"]
"""What a success means for an online episode: what the simulator makes of it, that the episode
terminates there (mask 0), or that its value goes on (mask 1)."""


@dataclass(frozen=True)
class FineTuning:
    """Where a fine-tuned run starts, and what it learns from."""

    run: str
    """The folder's name of the offline run."""
    step: Annotated[int, Range(0, LARGEST)]
    """Of the offline run's checkpoint: its updates."""
    replay: ReplayKind = "symmetric"
    at_success: AtSuccess = "simulator"
    rolled_back: tuple[Annotated[int, Range(0, MOST_MEMBERS)], ...] = ()
    """The members that had diverged once, and keep the smaller learning rates of the offline run;
    the hyperparameters do not show them."""


@dataclass(frozen=True)
class Extent:
    """How much data there is."""

    transitions: Annotated[int, Range(0, 2**63 - 1)]
    episodes: Annotated[int, Range(0, 2**63 - 1)]
    mean_return: float


def part_of(subset: str, hold_out: float) -> str:
    """A subset without what is held out, in words; empty where nothing is left out."""
    words = [] if subset == "all" else [f"subset {subset}"]
    if hold_out:
        share = f"{100 * hold_out:g} %" if hold_out < 1 else f"{hold_out:g}"
        words.append(f"{share} of the episodes held out")
    return ", ".join(words)


@dataclass(frozen=True)
class DataConfig:
    """What a policy needs to know of the data or the environment that it was trained on."""

    name: str
    source: str
    """As `open_dataset` takes it; "arrays" for arrays, "online" for an environment."""
    observation_size: Count
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
    """All of the data; None where the run learned from all of it."""
    fingerprint: str | None = None
    """Of what was learned from (`Dataset.fingerprint`); None online, and in older runs."""
    columns: TableColumns | None = None
    """Of the table that the data was made of; None where it was made of none."""
    unit_actions: bool = False
    """Whether critics see actions rescaled from their bounds to ±1; not in older runs, nor online,
    nor where those are the bounds."""
    hold_out: Finite = 0.0
    """The share, or from 1 on the number, of the episodes that were never learned from."""
    held_out: str | None = None
    """The fingerprint of these; None where there are none."""
    streamed: Count | None = None
    """Transitions of each shuffled buffer that updates draw from; None where they draw from all of
    the data."""

    @property
    def part(self) -> str:
        """Which episodes of the data were learned from, in words; empty where that is all."""
        return part_of(self.subset, self.hold_out)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


@dataclass(frozen=True, eq=False)
class RunConfig:
    """The arguments of a run and the values that they resolve to."""

    agent: str
    preset: str
    steps: Annotated[int, Range(0, LARGEST)]
    """Offline, updates of each member; online, environment steps. Fine-tuning alone may have 0."""
    members: tuple[Member, ...]
    hyperparameters: Any
    """The agent's configuration; a member's own changes come on top."""
    scaling: Scaling
    data: DataConfig
    environment: str | None
    """Where the run is evaluated: an id, or the JSON of one with its arguments and its time limit;
    or {"python": "its name"} where only the program that made the run can make it."""
    evaluation: EvaluationPlan = EvaluationPlan()
    checkpoints: CheckpointPlan = CheckpointPlan()
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each value comes from; what is not named here is the library's default."""
    loop: OnlineLoop | None = None
    """None for an offline run."""
    finetune: FineTuning | None = None
    """What an online run that continues an offline one starts from; None for any other."""
    keep_policies: bool = False
    """Whether the policies of every evaluation stay."""
    keep_replay: bool = False
    """Whether the replay buffers are written to replay.npz at the end."""
    precision: Precision = "float32"
    """Of the matrix products in the updates; "bf16" changes nothing but these (`in_bf16`)."""
    trust: tuple[str, ...] = ()
    """Whose environments may be made besides `xql.envs.trusted.PACKAGES`; `environment` itself
    where the user named it. Never stored: a run folder says nothing of whom to trust."""
    given: Simulator | None = None
    """The environment as the user gave it where that is an instance or a factory. Never stored: it
    is given again, or made from `environment`."""
    xql: str = __version__
    """The version that wrote it."""
    version: int = VERSION

    @property
    def online(self) -> bool:
        """Whether the run learned in an environment, after logged data or without any."""
        return self.loop is not None

    @property
    def kind(self) -> Literal["offline", "online", "finetune"]:
        """How the run was trained: `train_offline`, `train_online` or `train_finetune`."""
        if self.finetune is not None:
            return "finetune"
        return "online" if self.online else "offline"

    @property
    def evaluation_steps(self) -> list[int]:
        """The steps to evaluate at, the last one included; of a fine-tuned run, step 0 too."""
        stride = 1 if self.loop is None else self.loop.environments
        first = [] if self.finetune is None else [0]
        return first + self.evaluation.steps(self.steps, stride)

    @property
    def spec(self) -> EnvironmentSpec:
        """What the networks are built for."""
        return EnvironmentSpec(
            self.data.observation_size, self.data.actions, self.data.unit_actions
        )

    def make_agent(self) -> Agent:
        """The agent that this run trains."""
        made = AGENTS[self.agent].make(self.hyperparameters, self.steps)
        return made if self.precision == "float32" else made._replace(update=in_bf16(made.update))

    def settings(self, of_suite: str | None) -> str:
        """Where the hyperparameters come from, and which of them tune themselves, in one line."""
        swept = self.members[0].changes
        tuned = [
            name
            for name, value in hyperparameters_to_dict(self.hyperparameters).items()
            if value == AUTO and name not in swept
        ]
        suite = f", suite {of_suite}" if of_suite else ""
        itself = "tune themselves" if len(tuned) > 1 else "tunes itself"
        return (
            f"settings: preset {self.preset}{suite}"
            + (f"; {' and '.join(tuned)} {itself}" if tuned else "")
            + ("" if self.precision == "float32" else f"; matrix products in {self.precision}")
        )

    def member_config(self, index: int) -> Any:
        """The agent's configuration of one member."""
        return dataclasses.replace(self.hyperparameters, **self.members[index].changes)

    def require_member(self, index: int, where: str) -> int:
        """`index`, where there is such a member.

        Raises:
            InputError: there is not.
        """
        whole = isinstance(index, int | np.integer) and not isinstance(index, bool)
        if not whole or not 0 <= index < len(self.members):
            raise InputError(
                f"there is no member {brief(index)}",
                where=where,
                hint=f"choose 0 to {len(self.members) - 1}",
            )
        return index

    def require_environment(
        self,
        where: str,
        env: Given | None = None,
        trust: Sequence[str] = (),
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        limit: int | None = None,
    ) -> Simulator:
        """What `make_environment` may make: `env`, or else the run's own environment.

        A run folder is a file: of its own environment only what `trusted_environment` lets pass.

        Args:
            where: the run, for messages.
            env: as `xql.envs.given.simulator` takes it.
            trust: whose environments the run may name.
            env_kwargs: of `env`.
            limit: the episode limit in steps; the environment's own where None.

        Raises:
            InputError: there is neither, or the run's own is not trusted.
            MissingExtra: the run's own needs an extra that is not installed.
        """
        if env is not None:
            return simulator(env, env_kwargs, limit)
        require_named(env_kwargs)
        if self.given is not None:
            return self.given.limited(limit)
        if self.environment is None:
            hint = "give one with `env`; or evaluate it on logged data: xql ope RUN"
            raise InputError("this run has no environment", where=where, hint=hint)
        own = trusted_environment(self.environment, (*self.trust, *trust), where=where)
        return Simulator(own).limited(limit)

    def with_environment(
        self, where: str, env: Given | None, env_kwargs: Mapping[str, Any] | None = None
    ) -> "RunConfig":
        """The configuration with its own environment named again by the user.

        Arguments and time limit are those that the run has recorded.

        Args:
            where: the run, for messages.
            env: its environment, which is then trusted; "none" for no more evaluations; None leaves
                everything as it is.
            env_kwargs: its arguments, which need not be given.

        Raises:
            InputError: it is another one, or the run has none.
        """
        require_named(env_kwargs, env)
        if env is None:
            return self
        if isinstance(env, str) and env == NO_ENVIRONMENT and not self.online:
            return dataclasses.replace(self, environment=None, given=None)
        again = simulator(env, env_kwargs)
        if self.environment is None:
            raise InputError(
                "this run was made without evaluation", where=where, hint="leave out `env`"
            )
        if self.online:
            again.require_copies()
        name = name_in(self.environment)
        if not (is_of_python(again.record) or is_of_python(self.environment)):
            if again.name != name:
                raise InputError(
                    f"`env` is {again.name}, and this run was made in {name}",
                    where=where,
                    hint="a run goes on in its own environment: leave it out, or name that one",
                )
            stated, own = arguments_in(again.record), arguments_in(self.environment)
            if own and not stated and callable(env):
                again, stated = simulator(env, own), own
            if (stated or again.factory is not None) and stated != own:
                raise InputError(
                    f"`env_kwargs` are not those of the run, {own}",
                    where=where,
                    hint="leave them out, or give those",
                )
        if again.factory is not None or env_kwargs or again.record == self.environment:
            given = again.limited(limit_in(self.environment))
            return dataclasses.replace(self, given=given)
        return dataclasses.replace(self, trust=(*self.trust, name))

    def to_dict(self) -> dict[str, Any]:
        """The same in plain values, for YAML or JSON."""
        data = dataclasses.asdict(self.data)
        data |= data.pop("extent") or {}
        # A configuration without keeps the hash that it had.
        for name in ("columns", "hold_out", "held_out", "streamed"):
            if not data[name]:
                del data[name]
        finetune = None if self.finetune is None else dataclasses.asdict(self.finetune)
        if finetune is not None and not finetune["rolled_back"]:
            del finetune["rolled_back"]
        reference = self.data.reference
        data["actions"] = _actions_to_dict(self.data.actions)
        data["reference"] = None if reference is None else reference._asdict()
        plain: dict[str, Any] = _plain(
            {
                "version": self.version,
                "xql": self.xql,
                "kind": self.kind,
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
                "checkpoints": dataclasses.asdict(self.checkpoints),
                # A configuration without keeps the hash that it had.
                **({} if self.precision == "float32" else {"precision": self.precision}),
                **(
                    {}
                    if self.loop is None
                    else {
                        "loop": dataclasses.asdict(self.loop),
                        "keep_policies": self.keep_policies,
                        "keep_replay": self.keep_replay,
                    }
                ),
                **({} if finetune is None else {"finetune": finetune}),
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
        plain = dict(typed(Mapping[str, Any], values, where))
        version = plain.get("version", 1)
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise wrong(where, "version", f"a number from 1 to {VERSION}", version)
        if version > VERSION:
            raise InputError(
                f"its version is {brief(version)}, this xql reads up to {VERSION}",
                where=where,
                hint="update xql",
            )
        if version == 1:
            plain = _from_version_1(plain) | {"version": VERSION}
        for name in ("agent", "hyperparameters", "data", "evaluation"):
            if name not in plain:
                raise damaged(f"{name} is missing", where)
        agent = typed(str, plain["agent"], where, "agent")
        if agent not in AGENTS:
            raise damaged(f"there is no agent {brief(agent)}", where)
        plain["hyperparameters"] = _hyperparameters_of(agent, plain["hyperparameters"], where)
        data = dict(typed(Mapping[str, Any], plain["data"], where, "data"))
        if "actions" not in data:
            raise damaged("data.actions is missing", where)
        data["actions"] = _actions_of(data["actions"], where)
        if "transitions" in data:
            extent = {one.name: data.pop(one.name) for one in fields(Extent) if one.name in data}
            data["extent"] = typed(Extent, extent, where, "data")
        if data.get("columns") is not None:
            data["columns"] = TableColumns.from_dict(data["columns"], where)
        plain["data"] = {"source": ""} | data
        kinds = Literal["offline", "online", "finetune"]
        kind = typed(kinds, plain.pop("kind", "offline"), where, "kind")
        if kind == "offline" and plain.get("loop") is not None:
            raise damaged("loop: an offline run has none", where)
        if kind != "offline":
            plain.setdefault("loop", {})
            if plain["loop"] is None:
                raise damaged("loop: an online run has one", where)
        if (kind == "finetune") != (plain.get("finetune") is not None):
            raise damaged("finetune: a run of that kind has it, and no other", where)
        if "trust" in plain:
            raise damaged("trust is unknown: a file says nothing of whom to trust", where)
        if "given" in plain:
            raise damaged("given is unknown: a file holds no environment", where)
        config: RunConfig = typed(cls, {"preset": "default", "xql": ""} | plain, where)
        _require_consistent(config, where)
        return config

    @classmethod
    def load(cls, folder: Path | str) -> "RunConfig":
        """Read config.yaml in a run folder.

        Raises:
            InputError: it is missing, no YAML, or damaged.
        """
        path = Path(folder) / "config.yaml"
        try:
            if path.exists() and not path.is_file():
                raise damaged("this is no file", str(path))
            with path.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                "config.yaml is missing",
                where=str(folder),
                hint="this is no complete run folder",
            ) from None
        except OSError as error:
            raise InputError(
                f"it cannot be read ({error.strerror})", where=str(path), hint="check the file"
            ) from None
        try:
            values = read_yaml(text)
        except ValueError as error:
            raise damaged(f"this is not YAML: {error}", str(path)) from None
        return cls.from_dict(values, str(path))


def _actions_to_dict(actions: ActionSpec) -> dict[str, Any]:
    if isinstance(actions, Discrete):
        return {"kind": "discrete", "n": actions.n}
    return {"kind": "box", "low": list(actions.low), "high": list(actions.high)}


def _actions_of(values: Any, where: str) -> ActionSpec:
    key = "data.actions"
    plain = dict(typed(Mapping[str, Any], values, where, key))
    kind = typed(Literal["box", "discrete"], plain.pop("kind", None), where, f"{key}.kind")
    if kind == "discrete":
        discrete: Discrete = typed(Discrete, plain, where, key)
        if not 1 <= discrete.n <= LARGEST:
            raise wrong(where, f"{key}.n", f"a number from 1 to {LARGEST}", discrete.n)
        return discrete
    box: Box = typed(Box, plain, where, key)
    if not 1 <= len(box.low) == len(box.high) or not all(
        -math.inf < low <= high < math.inf for low, high in zip(box.low, box.high, strict=True)
    ):
        raise damaged(f"{key}: its bounds low and high are not finite pairs in order", where)
    return box


def _hyperparameters_of(agent: str, values: Any, where: str) -> Any:
    plain = typed(Mapping[str, Any], values, where, "hyperparameters")
    try:
        return configure(agent, plain)
    except InputError as error:
        raise InputError(error.what, where=f"{where}: hyperparameters", hint=error.hint) from None


def _require_consistent(config: "RunConfig", where: str) -> None:
    """Check what one value of a configuration says of another.

    Raises:
        InputError: names the two.
    """
    for name in ("reward_scale", "reward_shift"):
        typed(Finite, getattr(config.scaling, name), where, f"scaling.{name}")
    size = config.data.observation_size
    for name in ("observation_shift", "observation_scale"):
        if len(getattr(config.scaling, name)) != size:
            raise damaged(
                f"scaling.{name} has {len(getattr(config.scaling, name))} numbers, "
                f"data.observation_size is {size}",
                where,
            )
    columns = config.data.columns
    if columns is not None and columns.observation_size != size:
        raise damaged(
            f"data.columns has {columns.observation_size} numbers, data.observation_size is {size}",
            where,
        )
    if columns is not None and columns.action_size != config.data.actions.size:
        raise damaged(
            f"data.columns has {columns.action_size} actions, data.actions has "
            f"{config.data.actions.size}",
            where,
        )
    if config.data.hold_out < 0:
        raise wrong(where, "data.hold_out", "a number from 0 on", config.data.hold_out)
    reference = config.data.reference
    if reference is not None and not reference.minimum < reference.maximum:
        raise damaged("data.reference.minimum is not below data.reference.maximum", where)
    try:
        config.checkpoints.interval()
    except InputError:
        asked = "a time such as 10min, or a number of steps"
        raise wrong(where, "checkpoints.every", asked, config.checkpoints.every) from None
    if config.steps == 0 and config.finetune is None:
        asked = f"a whole number, at least 1 and at most {LARGEST}"
        raise wrong(where, "steps", asked, config.steps)
    if not config.members:
        raise damaged("members is empty", where)
    known = hyperparameters(config.hyperparameters)
    for index, member in enumerate(config.members):
        key = f"members[{index}].changes"
        if member.changes.keys() != config.members[0].changes.keys():
            raise damaged(f"{key} names other hyperparameters than members[0].changes", where)
        for name, value in member.changes.items():
            if name not in known or not known[name].swept:
                raise damaged(f"{key}.{name} is nothing that agent {config.agent} sweeps", where)
            if not known[name].range.holds(value):
                raise wrong(where, f"{key}.{name}", known[name].range.text, value)


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

"""`SweepSpec`: what `xql sweep` trains, as its YAML file says it; checked before anything else.

A sweep is every agent with every preset on every data set, at every *point* of its search space,
with every seed. A point gives some hyperparameters values: each combination of them (grid), random
draws, or what Optuna proposes.
"""

import dataclasses
import itertools
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from xql.agents import AGENTS, OFFLINE, ONLINE
from xql.agents.hyperparameters import Range, hyperparameters
from xql.data.reading import is_number
from xql.errors import InputError, brief, nearest
from xql.presets import DATA_OPTIONS, preset_names
from xql.runs.config import (
    LARGEST,
    MOST_MEMBERS,
    CheckpointPlan,
    Count,
    EvaluationPlan,
    OnlineLoop,
    require_at_least,
)
from xql.runs.plain import MOST_BYTES, RESTORE, read_yaml, typed
from xql.runs.summary import Quantity

Search = Literal["grid", "random", "optuna"]
Direction = Literal["maximize", "minimize"]
Point = Mapping[str, Any]
"""Values by hyperparameter."""

KINDS = ("uniform", "log_uniform", "int", "choice")
"""The distributions: {uniform: [low, high]} and so on; a list is a choice."""

SINGLE = ("agents", "presets", "data", "envs", "seeds", "trust")
"""The keys that take a list, or one alone."""

OF_SEARCH: dict[str, tuple[Search, ...]] = {
    "trials": ("random", "optuna"),
    "seed": ("random", "optuna"),
    "metric": ("optuna",),
    "direction": ("optuna",),
    "asha": ("optuna",),
}
"""The keys that only some searches have."""

OF_LEARNING = {
    "env": OFFLINE,
    "stop_at_success": OFFLINE,
    "trust": OFFLINE,
    "loop": ONLINE,
}
"""The keys that only some agents have, besides what they learn from."""


class Method(NamedTuple):
    """An agent with a preset."""

    agent: str
    preset: str

    @property
    def label(self) -> str:
        """In a table, or in a folder's name."""
        return self.agent if self.preset == "default" else f"{self.agent}-{self.preset}"


class Distribution(NamedTuple):
    """What a hyperparameter's values are drawn from."""

    kind: Literal["uniform", "log_uniform", "int", "choice"]
    values: tuple[Any, ...]
    """The lowest and the highest; of a choice, all of them."""

    def draw(self, random: np.random.Generator) -> Any:
        """One value."""
        if self.kind == "choice":
            return self.values[int(random.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "int":
            return int(random.integers(low, high, endpoint=True))
        if self.kind == "uniform":
            return float(random.uniform(low, high))
        return float(np.exp(random.uniform(np.log(low), np.log(high))))


@dataclass(frozen=True)
class Resources:
    """What each cell has for itself."""

    cpus: Annotated[int, Range(1, 4096)] | None = None
    """Cores; without it, as many as the cells that train at a time leave each other."""
    gpus: Annotated[float, Range(0.0, 64.0)] = 0.0
    """GPUs; 0.5 for two cells on each."""


@dataclass(frozen=True)
class Asha:
    """When a trial is ended early (ASHA, Li et al. 2018, arXiv 1810.05934)."""

    first: Annotated[int, Range(1, 1_000_000)] = 1
    """The evaluation after which the first are ended."""
    factor: Annotated[int, Range(2, 1000)] = 3
    """The best 1/factor go on, at evaluations first, first·factor, first·factor², and so on."""


@dataclass(frozen=True)
class SweepSpec:
    """What a sweep trains."""

    agents: tuple[str, ...] = ("xql",)
    """Names; AGENT:PRESET for one with a preset of its own."""
    presets: tuple[str, ...] = ("default",)
    """Each of them with each agent that is named alone."""
    data: tuple[str, ...] = ()
    """What the offline agents learn from, as `xql train offline` takes it."""
    envs: tuple[str, ...] = ()
    """What the online agents learn in, as `xql train online` takes it."""
    env: str | None = None
    """Where offline agents are evaluated; without it, where the data says; none for no
    evaluation."""
    env_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `env` or of `envs`."""
    episode_limit: int | None = None
    """Steps after which an episode is truncated."""
    steps: Count = 100_000
    """Updates of each member; online, environment steps."""
    seeds: tuple[int, ...] = (0,)
    """How many, or a list of which."""
    sweep: Mapping[str, Any] = field(default_factory=dict)
    """By hyperparameter: a list of values; for a search at random or with Optuna also
    {uniform: [low, high]}, {log_uniform: [low, high]} or {int: [low, high]}."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters with one value, and `rewards`, `observations`, `subset`, as --set."""
    loop: Mapping[str, Any] = field(default_factory=dict)
    """Of online agents: `environments`, `warmup`, `update_to_data`, `buffer`."""
    search: Search = "grid"
    """Every combination of the values, `trials` random draws, or `trials` proposals of Optuna."""
    trials: Annotated[int, Range(1, MOST_MEMBERS)] = 20
    """How many points of each method on each data set."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Of the random draws, or of Optuna's sampler."""
    metric: Quantity | None = None
    """What Optuna optimizes, the members' mean at the last step; without it, the success rate where
    it is reported, else the normalised score, else the return."""
    direction: Direction = "maximize"
    asha: Asha | None = Asha()
    """How Optuna's trials are ended early; null to train each to its end."""
    evaluations: int = EvaluationPlan.evaluations
    """How many times to evaluate, evenly spaced, the last step included."""
    episodes: int = EvaluationPlan.episodes
    """Episodes of each member at each evaluation but the last."""
    last_episodes: int = EvaluationPlan.last_episodes
    """Episodes of each member at the last step."""
    stop_at_success: bool | None = None
    """End an episode at its first success; for AntMaze without it."""
    checkpoint_every: str = CheckpointPlan.every
    """How often the whole state is saved besides before each evaluation: 30s, 10min, 5000."""
    trust: tuple[str, ...] = ()
    """Packages, or ids, whose environments the data may name."""
    members: Annotated[int, Range(1, MOST_MEMBERS)] = 64
    """At most so many members in one compiled population."""
    resources: Resources = Resources()

    @property
    def evaluation(self) -> EvaluationPlan:
        """When cells are evaluated."""
        return EvaluationPlan(self.evaluations, self.episodes, self.last_episodes)

    @property
    def checkpoints(self) -> CheckpointPlan:
        """When cells are saved."""
        return CheckpointPlan(self.checkpoint_every)

    @property
    def methods(self) -> list[Method]:
        """Every agent with every preset."""
        found = []
        for word in self.agents:
            agent, _, preset = word.partition(":")
            found += [Method(agent, one) for one in ([preset] if preset else self.presets)]
        return found

    def sources_of(self, method: Method) -> tuple[str, ...]:
        """What an agent learns from."""
        return self.envs if method.agent in ONLINE else self.data

    def space_of(self, method: Method) -> dict[str, Distribution]:
        """The part of the search space that an agent has."""
        known = _fields_of(method.agent)
        found = {name: distribution(name, one) for name, one in self.sweep.items()}
        return {name: one for name, one in found.items() if name in known}

    def options_of(self, method: Method) -> dict[str, Any]:
        """The options that an agent has."""
        known = _fields_of(method.agent)
        return {name: value for name, value in self.options.items() if name in known}

    def points_of(self, method: Method) -> list[Point]:
        """The points at which an agent is trained, each once; not of a search with Optuna."""
        space = self.space_of(method)
        if self.search == "grid":
            each = itertools.product(*(one.values for one in space.values()))
            points: list[Point] = [dict(zip(space, values, strict=True)) for values in each]
        else:
            points = [_drawn(space, self.seed, trial) for trial in range(self.trials)]
        return list({json.dumps(point, sort_keys=True): point for point in points}.values())

    def to_plain(self) -> dict[str, Any]:
        """For YAML; `spec_from` reads it back."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for name, searches in OF_SEARCH.items():
            if self.search not in searches:
                del plain[name]
        return {name: one for name, one in plain.items() if one != []}


def _drawn(space: Mapping[str, Distribution], seed: int, trial: int) -> Point:
    """The values of one trial, each of which depends on the seed, the trial and its own name."""
    return {
        name: one.draw(np.random.default_rng([seed, trial, zlib.crc32(name.encode())]))
        for name, one in space.items()
    }


def _fields_of(agent: str) -> set[str]:
    """What an agent can be given."""
    offline = DATA_OPTIONS if agent in OFFLINE else ()
    return {*hyperparameters(AGENTS[agent].config), *offline}


def read_spec(path: Path) -> SweepSpec:
    """A sweep's YAML file.

    Raises:
        InputError: it cannot be read, or says what cannot be trained.
    """
    try:
        with path.open("rb") as file:
            values = read_yaml(file.read(MOST_BYTES + 1), by_hand=True)
    except OSError as error:
        raise InputError(
            f"this file cannot be read ({error.strerror})", where=str(path), hint="check the path"
        ) from None
    except ValueError as error:
        raise InputError(f"this is no YAML ({error})", where=str(path)) from None
    return spec_from(values, str(path))


def spec_from(values: Any, where: str = "the sweep") -> SweepSpec:
    """A sweep from plain values.

    Args:
        values: by key, as YAML gives them.
        where: they stand, for messages.

    Raises:
        InputError: an unknown key (the nearest is named), or values that nothing can be trained
            with; one line says which.
    """
    if not isinstance(values, Mapping):
        raise InputError(
            "this is no mapping of keys to values", where=where, hint="write KEY: VALUE lines"
        )
    try:
        plain = {name: _listed(name, value) for name, value in values.items()}
        spec: SweepSpec = typed(SweepSpec, plain, where)
        _check(spec, values)
    except InputError as error:
        at = where if error.where in ("", where) else f"{where}, {error.where}"
        hint = "see docs/cluster.md" if error.hint == RESTORE else error.hint
        raise InputError(error.what, where=at, hint=hint) from None
    return spec


def _listed(name: str, value: Any) -> Any:
    """What may be given alone as a list of one; a number of seeds as the seeds."""
    if name == "checkpoint_every" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # of steps
    if name not in SINGLE or isinstance(value, list | tuple) or value is None:
        return value
    if name == "seeds" and isinstance(value, int) and not isinstance(value, bool):
        require_at_least("seeds", value, 1)
        return list(range(value))
    return [value]


def _check(spec: SweepSpec, given: Mapping[str, Any]) -> None:
    """Refuse what no sweep could be made of, as far as can be said without data.

    Raises:
        InputError: says what.
    """
    for name, searches in OF_SEARCH.items():
        if name in given and spec.search not in searches:
            raise InputError(
                f"{name} has no effect with search: {spec.search}",
                hint=f"leave it out, or choose search: {' or '.join(searches)}",
            )
    for name in ("agents", "presets", "data", "envs", "seeds"):
        values = getattr(spec, name)
        if len(set(values)) < len(values):
            raise InputError(f"{name} names one twice", hint="name each one once")
        if name in given and not values:
            raise InputError(f"{name} is empty", hint="name one, or leave the key out")
    require_at_least("steps", spec.steps, 1)
    spec.evaluation.check()
    spec.checkpoints.check()
    typed(OnlineLoop, spec.loop, "", "loop")
    _check_methods(spec)
    _check_names(spec)
    if spec.search == "grid":
        points = math.prod(len(distribution(*one).values) for one in spec.sweep.items())
        if points > MOST_MEMBERS:
            raise InputError(
                f"the grid has {points:,} points",
                where="sweep",
                hint=f"give at most {MOST_MEMBERS:,}, or search: random",
            )


def _check_methods(spec: SweepSpec) -> None:
    for word in spec.agents:
        agent = word.partition(":")[0]
        if agent not in AGENTS:
            raise InputError(f"unknown agent '{agent}'", hint=nearest(agent, AGENTS))
    if len(set(spec.methods)) < len(spec.methods):
        raise InputError("an agent is named twice with one preset", hint="name each one once")
    for method in spec.methods:
        known = preset_names(method.agent)
        if method.preset not in known:
            raise InputError(
                f"unknown preset '{method.preset}' of agent {method.agent}",
                hint=nearest(method.preset, known),
            )
    keys = {"data": (OFFLINE, "logged data"), "envs": (ONLINE, "an environment")}
    for key, (among, what) in keys.items():
        learns = [one.agent for one in spec.methods if one.agent in among]
        if learns and not getattr(spec, key):
            raise InputError(
                f"{learns[0]} learns from {what}, and {key} names none", hint=f"add {key}: …"
            )
    for key, (among, what) in keys.items():
        if getattr(spec, key) and not any(one.agent in among for one in spec.methods):
            raise InputError(
                f"{key} is given, and no agent learns from {what}",
                hint=f"leave it out, or choose from {', '.join(among)}",
            )
    for key, among in OF_LEARNING.items():
        if getattr(spec, key) not in (None, (), {}) and not any(
            one.agent in among for one in spec.methods
        ):
            raise InputError(
                f"{key} has no effect on {spec.methods[0].agent}",
                hint=f"leave it out, or choose from {', '.join(among)}",
            )
    if spec.presets != SweepSpec.presets and all(":" in word for word in spec.agents):
        raise InputError(
            "presets has no effect, since each agent names its own", hint="leave it out"
        )


def _check_names(spec: SweepSpec) -> None:
    """Every hyperparameter is some agent's, and its values can be had by the search."""
    known = set().union(*(_fields_of(one.agent) for one in spec.methods))
    for key in ("sweep", "options"):
        for name in getattr(spec, key):
            if name not in known:
                agents = ", ".join(dict.fromkeys(one.agent for one in spec.methods))
                own = {one.name for one in dataclasses.fields(SweepSpec)}
                raise InputError(
                    f"{key}: {agents} has no {brief(name)[1:-1]}",
                    hint=f"write {name}: … beside {key}"
                    if name in own
                    else nearest(name[:80], known),
                )
    for name in set(spec.sweep) & set(spec.options):
        raise InputError(
            f"{name} is swept and given", where="sweep, options", hint="give it in one of them"
        )
    for name, values in spec.sweep.items():
        found = distribution(name, values)
        if spec.search == "grid" and found.kind != "choice":
            raise InputError(
                f"{name} is a distribution, and a grid takes values",
                where="sweep",
                hint="give a list, or search: random",
            )
        _check_range(spec, name, found)
    if spec.search != "grid" and not spec.sweep:
        raise InputError(
            f"search: {spec.search} has nothing to search", where="sweep", hint="add sweep: …"
        )


def _check_range(spec: SweepSpec, name: str, found: Distribution) -> None:
    """Refuse a distribution of which an end is no value of the hyperparameter."""
    for method in spec.methods:
        one = hyperparameters(AGENTS[method.agent].config).get(name)
        if one is None or found.kind == "choice":
            continue
        if not one.swept and (found.kind != "int" or one.type != "int"):
            raise InputError(
                f"{name} takes {one.type}, no range of numbers",
                where="sweep",
                hint="give a list of values",
            )
        for end in found.values:
            if not one.range.holds(end):
                raise InputError(
                    f"{name} cannot be {end:g}", where="sweep", hint=f"give {one.range.text}"
                )


def distribution(name: str, values: Any) -> Distribution:
    """What stands under a hyperparameter's name in `sweep`.

    Raises:
        InputError: it is neither a list of values nor a distribution.
    """
    if isinstance(values, list | tuple):
        return _choice(name, values)
    if not isinstance(values, Mapping) or len(values) != 1:
        raise InputError(
            f"{name} is {brief(values)}",
            where="sweep",
            hint="give a list of values, or one of "
            + ", ".join(f"{{{kind}: [low, high]}}" for kind in KINDS[:3]),
        )
    [(kind, inside)] = values.items()
    if kind not in KINDS:
        raise InputError(
            f"{name}: there is no distribution {brief(kind)}",
            where="sweep",
            hint=nearest(str(kind)[:80], KINDS),
        )
    if kind == "choice":
        return _choice(name, inside)
    whole = kind == "int"
    ends = list(inside) if isinstance(inside, list | tuple) else []
    fits = all(
        (isinstance(one, int) and abs(one) <= LARGEST) if whole else is_number(one) for one in ends
    )
    if len(ends) != 2 or not fits or any(isinstance(one, bool) for one in ends):
        raise InputError(
            f"{name}: {kind} is {brief(inside)}",
            where="sweep",
            hint=f"give [low, high]{', whole numbers' * whole}",
        )
    low, high = ends
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise InputError(
            f"{name}: {kind} goes from {low:g} to {high:g}",
            where="sweep",
            hint="give two finite numbers, the lower one first",
        )
    if kind == "log_uniform" and low <= 0:
        raise InputError(
            f"{name}: log_uniform begins at {low:g}", where="sweep", hint="begin above 0"
        )
    return Distribution(kind, (low, high))


def _choice(name: str, values: Any) -> Distribution:
    if not isinstance(values, list | tuple) or not values:
        raise InputError(f"{name} has no values", where="sweep", hint="give one or more")
    if len(values) > MOST_MEMBERS:
        raise InputError(
            f"{name} has too many values", where="sweep", hint=f"give at most {MOST_MEMBERS:,}"
        )
    if len({json.dumps(one, default=str) for one in values}) < len(values):
        raise InputError(f"{name} has a value twice", where="sweep", hint="give each one once")
    return Distribution("choice", tuple(values))


def is_swept(agent: str, name: str, value: Any) -> bool:
    """Whether members of one population can differ in a value, by what its field declares.

    The discount could, but a population's rewards are scaled by one of them all: runs that differ
    in it would not be those that each makes alone.
    """
    known = hyperparameters(AGENTS[agent].config)
    if name == "discount" or name not in known or not known[name].swept:
        return False
    return is_number(value)

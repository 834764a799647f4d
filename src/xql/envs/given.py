"""The environment that a user gives, and what a run folder says of it.

An id, an instance or a factory becomes a `Simulator`. Its record is text: an id, the JSON of an
id with arguments and a limit, or, where nothing outside of the running program can name the
environment, {"python": "its name"}. Evaluation and training step several copies, so an instance is
made again from its `spec`; one that cannot be is stepped alone.
"""

import copy
import functools
import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium

from xql.data.reading import parse_json
from xql.envs.checked import name_of
from xql.envs.maze_files import without_maze_file
from xql.errors import EnvironmentFault, InputError, MissingExtra, brief, reason

NO_ENVIRONMENT = "none"
"""What `env` is called where nothing is to be evaluated."""
PYTHON = "python"
"""The key of a record whose environment only the running program can make."""
LONGEST = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Simulator:
    """What `make_environment` may make, and what a run folder says of it."""

    record: str
    """An id, or JSON."""
    factory: Callable[..., gymnasium.Env[Any, Any]] | None = None
    """What makes it; None where the record says enough. A keyword `render_mode` may be given."""
    limit: int | None = None
    """The time limit around what the factory makes."""
    alone: bool = False
    """Whether there is one instance, which the factory gives again and again."""

    @property
    def name(self) -> str:
        """The id, or the name in Python."""
        return name_in(self.record)

    def limited(self, limit: int | None) -> "Simulator":
        """The same with a time limit in steps; None leaves it as it is.

        Raises:
            InputError: no limit can be so.
        """
        if limit is None:
            return self
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LONGEST:
            raise InputError(
                f"`episode_limit={brief(limit)}` is no number of steps",
                hint=f"give a whole number from 1 to {LONGEST}",
            )
        described = described_by(self.record)
        if described is None:  # which is said where it is made
            return self
        record = json.dumps(described | {"max_episode_steps": limit})
        return replace(self, record=record, limit=limit if self.factory else None)

    def require_copies(self) -> None:
        """Refuse an instance of which there is one only, where acting and evaluating take turns.

        Raises:
            InputError: it is.
        """
        if self.alone:
            raise InputError(
                "this instance cannot be made again from its spec, and an online run acts in one "
                "copy and is evaluated in others",
                where=self.name,
                hint="give a function that makes a new one, such as env=lambda: MyEnv()",
            )


Given = str | gymnasium.Env[Any, Any] | Callable[..., gymnasium.Env[Any, Any]] | Simulator
"""What `env` may be: an id, an instance, or what makes a new one with every call."""


def simulator(
    env: Any, kwargs: Mapping[str, Any] | None = None, limit: int | None = None
) -> Simulator:
    """The environment that a user gives.

    Args:
        env: `Given`: an id, "module:id", "module:name" of what makes one, or the JSON of an
            `EnvSpec`; an instance; or a factory: a class or a function that makes a new one with
            every call.
        kwargs: arguments of the id, or of the factory.
        limit: the episode limit in steps; the environment's own where None.

    Raises:
        InputError: `env` is none of these, or arguments or limit cannot be used.
        EnvironmentFault: an instance fails where its `spec` is asked for.
    """
    kwargs = _arguments(kwargs)
    if isinstance(env, Simulator):
        found = env
    elif isinstance(env, str):
        found = _of_text(env, kwargs)
    elif isinstance(env, gymnasium.Env):
        if kwargs:
            raise InputError(
                "`env_kwargs` has no effect on an instance, which is made already",
                hint="leave it out, or give the class as `env`",
            )
        found = _of_instance(env)
    elif callable(env):
        found = _of_factory(env, kwargs)
    else:
        raise InputError(
            f"`env` is {_a(env)}, not one environment",
            hint="give an id, an instance of gymnasium.Env, or a function that makes one",
        )
    return found.limited(limit)


def require_simulator(env: Any) -> None:
    """Refuse "none" where the run learns in its environment.

    Raises:
        InputError: it is.
    """
    if isinstance(env, str) and env.strip() == NO_ENVIRONMENT:
        raise InputError(
            "an online run learns in a simulator",
            where=f"`env={NO_ENVIRONMENT}`",
            hint="name one, or learn from logged data alone: xql train offline",
        )


def described_by(record: str) -> dict[str, Any] | None:
    """What a record says, as of an `EnvSpec`; None where it cannot be read."""
    if not record.lstrip().startswith("{"):
        return {"id": record}
    try:
        found = parse_json(record)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def name_in(record: str) -> str:
    """The id that a record states, or the name in Python; the record where it states none."""
    described = described_by(record) or {}
    found = described.get("id", described.get(PYTHON))
    return found if isinstance(found, str) else record


def limit_in(record: str) -> int | None:
    """The episode limit that a record states."""
    found = (described_by(record) or {}).get("max_episode_steps")
    return found if type(found) is int and 1 <= found <= LONGEST else None


def arguments_in(record: str) -> Any:
    """The arguments that a record states; {} where it states none."""
    return (described_by(record) or {}).get("kwargs") or {}


def is_of_python(record: str) -> bool:
    """Whether only the program that wrote a record could make its environment."""
    return PYTHON in (described_by(record) or {})


def making(name: str, make: Callable[..., Any], **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Call what makes an environment.

    Raises:
        InputError: it raised, or made something else.
    """
    try:
        env = make(**kwargs)
    except (InputError, MissingExtra, EnvironmentFault):
        raise
    except Exception as error:
        raise InputError(
            f"the environment cannot be made ({reason(error)})",
            where=name,
            hint="call it alone in Python to see where",
        ) from error
    if not isinstance(env, gymnasium.Env):
        raise InputError(
            f"it made {_a(env)}, not an environment",
            where=name,
            hint="return an instance of gymnasium.Env",
        )
    return env


def takes_render_mode(make: Callable[..., Any]) -> bool:
    """Whether what makes an environment takes `render_mode`."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(one.name == "render_mode" or one.kind is one.VAR_KEYWORD for one in parameters)


def _a(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"


def _arguments(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    named = isinstance(kwargs, Mapping) and all(isinstance(one, str) for one in kwargs)
    if kwargs is not None and not named:
        raise InputError(
            f"`env_kwargs={brief(kwargs)}` are no arguments by name",
            hint="give a dictionary such as {'size': 3}",
        )
    return dict(kwargs or {})


def _jsonable(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _of_text(text: str, kwargs: dict[str, Any]) -> Simulator:
    if text.strip() == NO_ENVIRONMENT:
        raise InputError(
            "no simulator: no scores",
            where=f"`env={NO_ENVIRONMENT}`",
            hint="xql ope RUN evaluates a policy on logged data alone",
        )
    described = described_by(text) if kwargs else None
    if described is None:
        return Simulator(text)
    for name, value in kwargs.items():
        if not _jsonable(value):
            raise InputError(
                f"`env_kwargs`: {name} is {_a(value)}, which no run folder can hold",
                hint="give a function as `env` that makes the environment with it",
            )
    before = described.get("kwargs")
    merged = (before if isinstance(before, dict) else {}) | kwargs
    return Simulator(json.dumps(described | {"kwargs": merged}))


def _of_factory(make: Callable[..., Any], kwargs: dict[str, Any]) -> Simulator:
    importable = None if isinstance(make, functools.partial) else _import_name(make)
    whole = functools.partial(make, **kwargs) if kwargs else make
    if importable is None or not _jsonable(kwargs):
        return Simulator(json.dumps({PYTHON: _plain_name(make)}), whole)
    if kwargs:
        return Simulator(json.dumps({"id": importable, "kwargs": kwargs}), whole)
    return Simulator(importable, whole)


def _import_name(made: Any) -> str | None:
    """ "module:name", where that is what it is called from outside of the running program."""
    module, name = (str(getattr(made, one, "")) for one in ("__module__", "__qualname__"))
    if module == "__main__" or not re.fullmatch(r"\w+", name):
        return None
    there = getattr(sys.modules.get(module), name, None)
    return f"{module}:{name}" if there is made else None


def _plain_name(made: Any) -> str:
    while isinstance(made, functools.partial):
        made = made.func
    name = str(getattr(made, "__qualname__", type(made).__name__))
    return re.sub(r"\W", "", name.rpartition(".")[2]) or "environment"


def _of_instance(env: gymnasium.Env[Any, Any]) -> Simulator:
    try:
        spec, name = copy.deepcopy(env.spec), name_of(env)
    except Exception as error:
        raise EnvironmentFault(
            f"asking for its spec raised {reason(error)}", where=type(env).__name__
        ) from error
    if spec is not None:
        spec.kwargs.pop("render_mode", None)  # a window would open for each copy
        if _is_made_by(spec, env):
            make = functools.partial(gymnasium.make, spec, disable_env_checker=True)
            return Simulator(_record_of(spec), make)
    return Simulator(json.dumps({PYTHON: name}), lambda: Kept(env), alone=True)


def _is_made_by(spec: Any, env: gymnasium.Env[Any, Any]) -> bool:
    """Whether a specification makes an environment like an instance."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = without_maze_file(gymnasium.make(spec, disable_env_checker=True))
    except Exception:  # whatever its constructor raises without what it was given
        return False
    try:
        return bool(
            _layers(other) == _layers(env)
            and other.observation_space == env.observation_space
            and other.action_space == env.action_space
        )
    finally:
        other.close()


def _layers(env: gymnasium.Env[Any, Any]) -> list[type]:
    """The classes of an environment and its wrappers, those left out that only check."""
    found = []
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        if not isinstance(layer, gymnasium.wrappers.PassiveEnvChecker):
            found.append(type(layer))
        layer = layer.env
    return [*found, type(layer)]


def _record_of(spec: Any) -> str:
    """The id, arguments, limit and wrappers of a specification: nothing to import."""
    fields: dict[str, Any] = {"id": spec.id}
    if spec.kwargs:
        fields["kwargs"] = spec.kwargs
    if spec.max_episode_steps is not None:
        fields["max_episode_steps"] = spec.max_episode_steps
    if spec.additional_wrappers:
        fields["additional_wrappers"] = [
            {"name": one.name, "entry_point": one.entry_point, "kwargs": one.kwargs}
            for one in spec.additional_wrappers
        ]
    known = gymnasium.registry.get(spec.id)
    if not _jsonable(fields) or known is None or known.entry_point != spec.entry_point:
        return json.dumps({PYTHON: spec.id})
    limit = known.max_episode_steps
    registered = {"id": spec.id, "kwargs": known.kwargs, "max_episode_steps": limit}
    stated = {"kwargs": {}, "max_episode_steps": None} | fields
    return str(spec.id) if stated == registered else json.dumps(fields)


class Kept(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A user's own instance, which stays open for its user."""

    def close(self) -> None:
        """Leave it open."""

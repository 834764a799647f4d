"""One way to get a simulator: Gymnasium's, Gymnasium-Robotics' and DeepMind Control's, with flat
float32 observations."""

import contextlib
import copy
import functools
import importlib
import io
import json
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from jaxtyping import Float32

from xql.data.actions import ActionSpec, action_spec
from xql.data.flatten import (
    flat_bounds,
    flat_size,
    flatten_observation,
    is_choice,
    leaves,
    require_vectors,
    select_keys,
)
from xql.data.reading import parse_json
from xql.envs import checked
from xql.envs.antmaze import ANTMAZES, one_goal_spec
from xql.envs.control import PREFIX, control_spec
from xql.envs.dmsd import DMSD_ID, dmsd_spec
from xql.envs.given import Simulator, making, takes_render_mode
from xql.envs.goal_ant import GOAL_ANT, goal_ant_spec
from xql.envs.greenhouse import GREENHOUSE, greenhouse_spec
from xql.envs.icu_sepsis import ICU_SEPSIS_ID, icu_sepsis_spec
from xql.envs.maze_files import without_maze_file
from xql.envs.render import aim_camera, choose_renderer, drawing
from xql.envs.safety_half_cheetah import SAFETY_HALF_CHEETAH, safety_half_cheetah_spec
from xql.errors import (
    EnvironmentFault,
    InputError,
    MissingExtra,
    missing_extra,
    nearest,
    reason,
    require,
)

# D4RL's names for its tasks, which people type from habit, and the simulator of each today.
_D4RL = {
    "antmaze-umaze": "AntMaze_UMaze-v4",
    "antmaze-medium": "AntMaze_Medium-v4",
    "antmaze-large": "AntMaze_Large-v4",
    "maze2d-umaze": "PointMaze_UMaze-v3",
    "maze2d-medium": "PointMaze_Medium-v3",
    "maze2d-large": "PointMaze_Large-v3",
    "kitchen": "FrankaKitchen-v1",
    "door": "AdroitHandDoor-v1",
    "hammer": "AdroitHandHammer-v1",
    "pen": "AdroitHandPen-v1",
    "relocate": "AdroitHandRelocate-v1",
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
}
_CHOOSE = "gymnasium.wrappers.FilterObservation(env, {})"
_ROBOTICS = ("PointMaze", "AntMaze", "AdroitHand", "FrankaKitchen", "Fetch", "Hand")


class FlatObservation(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """The same environment, its observation one float32 vector.

    A dictionary is laid out as `xql.data.flatten.flatten_observation` does it for data: keys in
    alphabetical order, depth first, each array raveled in C order, a choice as a one-hot row.
    """

    _space: Any = None  # with choices among its leaves; else no state is to be saved of it

    def __init__(
        self, env: gymnasium.Env[Any, Any], keys: tuple[str, ...] | None, where: str
    ) -> None:
        super().__init__(env)
        space = select_keys(env.observation_space, keys, where=where)
        self._keys = keys
        require_vectors(space, where, _CHOOSE)
        size = sum(flat_size(leaf) for _, leaf in leaves(space))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        if any(is_choice(leaf) for _, leaf in leaves(space)):
            self._space = space

    def reset(self, **kwargs: Any) -> Any:
        """As of any environment, where the one below gives what it must."""
        result: Any = self.env.reset(**kwargs)
        observation, info = checked.require_tuple(self, "reset", result)
        return self.observation(observation), info

    def step(self, action: Any) -> Any:
        """As of any environment, where the one below gives what it must."""
        result: Any = self.env.step(action)
        observation, *rest = checked.require_tuple(self, "step", result)
        return (self.observation(observation), *rest)

    def observation(self, observation: Any) -> Float32[np.ndarray, " observation"]:
        """The flat float32 vector of one observation; a copy, since simulators reuse theirs.

        Raises:
            EnvironmentFault: it is nothing of the space.
        """
        try:
            flat = flatten_observation(select_keys(observation, self._keys), self._space)
        except (InputError, TypeError, ValueError) as error:
            raise EnvironmentFault(
                f"its observation cannot be read ({reason(error)})",
                where=checked.name_of(self),
                hint="return what its observation_space says",
            ) from error
        return np.array(flat)

    def outside(self, flat: Float32[np.ndarray, " observation"]) -> str:
        """Where a flat observation lies outside of the bounds of the space, in words; else ""."""
        space = select_keys(self.env.observation_space, self._keys)
        low, high = (
            np.concatenate(bounds)
            for bounds in zip(*(flat_bounds(leaf) for _, leaf in leaves(space)), strict=True)
        )
        slack = 1e-6 * np.maximum(1.0, np.abs(flat))
        beyond = np.flatnonzero((flat < low - slack) | (flat > high + slack))
        if not len(beyond):
            return ""
        at = beyond[0]
        return (
            f"its observation is {flat[at]:g} in column {at}, and its space says "
            f"[{low[at]:g}, {high[at]:g}]: it is taken as it is"
        )


def make_environment(
    spec: str | Simulator,
    *,
    keys: tuple[str, ...] | None = None,
    max_episode_steps: int | None = None,
    picture: tuple[int, int] | None = None,
    **kwargs: Any,
) -> gymnasium.Env[Any, Any]:
    """Make an environment whose observation is one flat float32 vector.

    Args:
        spec: a Gymnasium id with its version ("AdroitHandDoor-v1", "PointMaze_Medium-v3"), a task
            of DeepMind Control ("dm_control/hopper-hop"), "module:id" (the module is imported
            first), "module:name" of a class or function that makes one, or the JSON of an
            `EnvSpec`; without an entry point, that of the registered environment of its id. Modules
            are imported and entry points called: an environment that a file names must come through
            `xql.envs.trusted` first. Or a `Simulator`, which the user gave.
        keys: the keys of a dictionary observation to keep ("observation", "desired_goal/kettle");
            all without it.
        max_episode_steps: the time limit in steps; the environment's own without it.
        picture: (width, height) in pixels for an environment that `render.draw` will draw, from a
            camera that shows the robot.
        **kwargs: passed on to the environment (such as `render_mode`, `maze_map`).

    Returns:
        A `gymnasium.Env` with a Box observation of shape (n,) in float32, laid out as
        `FlatObservation` says, and the environment's own actions, a flat Box or a Discrete.

    Raises:
        InputError: an unknown or retired id, unreadable JSON, an argument that the environment does
            not take, a module that is not installed, a constructor that raises, actions that are
            neither a flat Box nor a Discrete, an observation that is not made of Boxes and choices.
        MissingExtra: the environment needs this package's extra `mujoco`, which is not installed.
    """
    choose_renderer()
    if isinstance(spec, Simulator) and spec.factory is not None:
        limit = spec.limit if max_episode_steps is None else max_episode_steps
        name, env = spec.name, _from_factory(spec, limit, picture is not None, kwargs)
    else:
        text = spec.record if isinstance(spec, Simulator) else spec
        name, env = _from_text(text, max_episode_steps, picture, kwargs)
    try:
        if picture is not None:
            aim_camera(env)
        for space in ("action_space", "observation_space"):
            if not isinstance(getattr(env, space, None), gymnasium.Space):
                what = f"its {space} is no space of Gymnasium's"
                raise InputError(what, where=name, hint="set it where the environment is made")
        action_spec(env.action_space, name, bounded=False)
        return FlatObservation(env, keys, name)
    except BaseException:
        env.close()
        raise


def _from_text(
    text: str, limit: int | None, picture: tuple[int, int] | None, kwargs: dict[str, Any]
) -> tuple[str, gymnasium.Env[Any, Any]]:
    """The name of an id or of the JSON of an `EnvSpec`, and its environment."""
    written = text.lstrip().startswith("{")
    described = _read_spec(text) if written else registered(text)
    name = described.id if written else text
    if limit is not None:
        kwargs = kwargs | {"max_episode_steps": limit}
    if picture is not None:
        kwargs = drawing(described, picture) | kwargs
    try:
        with _quiet():
            return name, _gymnasium_make(described, name, kwargs)
    except (MissingExtra, EnvironmentFault):
        raise
    except Exception as error:
        fault = error if isinstance(error, InputError) else _cannot_be_made(name, error)
        # One that is written out fails for its arguments, which a file may hold.
        hint = f"{fault.hint}, or give another environment with `env`" if written else fault.hint
        cause = None if isinstance(error, InputError) else error
        raise InputError(fault.what, where=fault.where, hint=hint) from cause


def _from_factory(
    given: Simulator, limit: int | None, drawn: bool, kwargs: dict[str, Any]
) -> gymnasium.Env[Any, Any]:
    """What a user's factory makes, within a time limit, and so that it can be drawn."""
    assert given.factory is not None
    if drawn and takes_render_mode(given.factory):
        kwargs = {"render_mode": "rgb_array"} | kwargs
    with _quiet():
        env = without_maze_file(making(given.name, given.factory, **kwargs))
    if drawn and env.render_mode != "rgb_array":
        env.close()
        raise InputError(
            "it cannot be drawn",
            where=given.name,
            hint="give an environment that was made with render_mode='rgb_array'",
        )
    if limit is None:
        return env
    while isinstance(env, gymnasium.wrappers.TimeLimit):
        env = env.env  # which could only be shortened by one around it
    return gymnasium.wrappers.TimeLimit(env, limit)


def try_out(env: gymnasium.Env[Any, Any]) -> list[str]:
    """Play one step of an environment, so that its faults show before anything is trained.

    Args:
        env: as `make_environment` makes it.

    Returns:
        What to say of it.

    Raises:
        EnvironmentFault: it raised, or gave what no environment may.
    """
    first = checked.reset(env, seed=0)
    # A copy: the space may be an attribute of a class, whose random numbers no checkpoint holds.
    space = copy.deepcopy(env.action_space)
    space.seed(0)
    taken = checked.step(env, space.sample())
    if not taken.finite:
        raise EnvironmentFault(f"its first step gave {taken.wrong}", where=checked.name_of(env))
    notes = []
    if isinstance(env, FlatObservation):
        outside = env.outside(first) or env.outside(taken.observation)
        notes = [f"{checked.name_of(env)}: {outside}"] if outside else []
    return notes


def check_fits(
    env: gymnasium.Env[Any, Any], observation_size: int, actions: ActionSpec, where: str
) -> None:
    """Check that the policies of the data named by `where` can act in a flat environment.

    Raises:
        InputError: they cannot: other observations or actions; the line gives both.
    """
    assert env.observation_space.shape is not None
    name = env.spec.id if env.spec is not None else "the environment"
    theirs = action_spec(env.action_space, name, bounded=False)
    size = int(np.prod(env.observation_space.shape))
    if size == observation_size and type(actions) is type(theirs) and theirs.takes(actions.size):
        return
    raise InputError(
        f"observation size {observation_size} and {actions.words} do not fit {name}, "
        f"which has observation size {size} and {theirs.words}",
        where=where,
        hint="give the environment that the data came from with `env`",
    )


def register_robotics() -> None:
    """Make Gymnasium-Robotics' ids known to Gymnasium.

    Raises:
        MissingExtra: it is not installed.
    """
    choose_renderer()
    with _quiet():
        robotics = require("gymnasium_robotics", "mujoco")
        gymnasium.register_envs(robotics)


def registered(name: str) -> EnvSpec:
    """What is registered under an id, with Gymnasium or here; "module:id" imports the module first.

    Raises:
        InputError: no such id; the hint says what to type instead.
        MissingExtra: it is an environment of an extra that is not installed.
    """
    module, colon, rest = name.partition(":")
    if colon and re.fullmatch(r"\w+(\.\w+)*", module):
        makes = getattr(_imported(module, name), rest, None)
        if rest not in gymnasium.registry and callable(makes):
            return EnvSpec(id=name, entry_point=name)
        name = rest
    if name.startswith(PREFIX):
        with _quiet():
            return control_spec(name)
    own = {
        GOAL_ANT: goal_ant_spec,
        DMSD_ID: dmsd_spec,
        ICU_SEPSIS_ID: icu_sepsis_spec,
        GREENHOUSE: greenhouse_spec,
        SAFETY_HALF_CHEETAH: safety_half_cheetah_spec,
    }
    if name in own:
        return own[name]()
    if name in ANTMAZES:
        with _quiet():
            return one_goal_spec(name)
    if name not in gymnasium.registry:
        try:
            register_robotics()
        except MissingExtra:
            if name.startswith(_ROBOTICS):
                raise
    if name not in gymnasium.registry and colon:
        there = [one for one, spec in gymnasium.registry.items() if _is_of(spec, module)]
        hint = nearest(name, there) if there else "register it there, or name a class of it"
        raise InputError(f"there is no '{name}' in {module}", where="environment", hint=hint)
    if name not in gymnasium.registry:
        raise InputError(f"no environment '{name}'", where="environment", hint=_instead(name))
    return gymnasium.registry[name]


def _is_of(spec: EnvSpec, module: str) -> bool:
    package = module.partition(".")[0]
    return entry_module(spec.entry_point).partition(".")[0] == package


def _imported(module: str, name: str) -> Any:
    """A module that the user named, which may lie in the current folder.

    Raises:
        InputError: it is not there, or raises where it is imported.
    """
    try:
        with _quiet():
            try:
                return importlib.import_module(module)
            except ModuleNotFoundError as error:
                here = str(Path.cwd())
                if error.name != module.partition(".")[0] or here in sys.path:
                    raise
                # Last, so that nothing in this folder stands in for what is installed.
                sys.path.append(here)
                try:
                    return importlib.import_module(module)
                except ModuleNotFoundError:
                    sys.path.remove(here)
                    raise
    except ModuleNotFoundError as error:
        raise InputError(
            f"it needs the module {error.name}, which is not installed",
            where=name,
            hint="install it",
        ) from None
    except (InputError, MissingExtra):
        raise
    except Exception as error:
        raise InputError(
            f"importing {module} raised {type(error).__name__} ({reason(error)})",
            where=name,
            hint=f"python -c 'import {module}' shows where",
        ) from error


def entry_module(entry_point: Any) -> str:
    """The module of an entry point ("module:name" or a callable); "" where there is none."""
    if isinstance(entry_point, str):
        return entry_point.partition(":")[0]
    while isinstance(entry_point, functools.partial):
        entry_point = entry_point.func
    return str(getattr(entry_point, "__module__", None) or "")


def _instead(name: str) -> str:
    """What to type in place of an id that does not exist, or whose simulator no longer does."""
    newest: dict[str, str] = {}
    for known in sorted(gymnasium.registry, key=_version):
        newest[_stem(known)] = known
    if _stem(name) in newest:
        return f"use '{newest[_stem(name)]}'"
    for prefix in sorted(_D4RL, key=len, reverse=True):
        if _stem(name) == prefix or _stem(name).startswith(prefix + "-"):
            return f"the simulator of D4RL's {prefix} is '{_D4RL[prefix]}'"
    close = nearest(name, newest.values())
    if close.startswith("did"):
        return close
    # The full list of ids would fill a screen.
    return "give the id of a registered one, such as HalfCheetah-v5"


def _stem(name: str) -> str:
    return re.sub(r"-v\d+$", "", name).lower()


def _version(name: str) -> int:
    found = re.search(r"-v(\d+)$", name)
    return int(found.group(1)) if found else -1


def _read_spec(text: str) -> EnvSpec:
    """An `EnvSpec` from its JSON, whichever Gymnasium release wrote it.

    Without an entry point it is the registered one of its id, with arguments of its own.
    """
    try:
        parsed = parse_json(text)
        _check_fields(parsed)
        if parsed.get("entry_point") is None and isinstance(parsed.get("id"), str):
            return _with_arguments(registered(parsed["id"]), parsed)
        # Releases before 1.0 wrote fields that EnvSpec no longer takes, such as autoreset.
        fields = {key: parsed[key] for key in EnvSpec.__dataclass_fields__ if key in parsed}
        for derived in ("namespace", "name", "version"):
            fields.pop(derived, None)
        wrappers = [WrapperSpec(**each) for each in fields.pop("additional_wrappers", None) or ()]
        return EnvSpec(**fields, additional_wrappers=tuple(wrappers))
    except InputError:
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        gymnasium.error.Error,
        RecursionError,
    ) as error:
        raise InputError(
            f"this is no specification of an environment ({error})",
            where="environment",
            hint="give an id such as 'PointMaze_Medium-v3', or the JSON of EnvSpec.to_json()",
        ) from None


def _check_fields(parsed: dict[str, Any]) -> None:
    """Raise a `ValueError` for what `EnvSpec` would take, and nobody could use."""
    kinds = {
        "id": str,
        "entry_point": str,
        "kwargs": dict,
        "max_episode_steps": int,
        "reward_threshold": int | float,
        "nondeterministic": bool,
        "order_enforce": bool,
        "disable_env_checker": bool,
        "additional_wrappers": list,
        "vector_entry_point": str,
    }
    for key, kind in kinds.items():
        value = parsed.get(key)
        odd = isinstance(value, bool) and kind is not bool
        if value is not None and (odd or not isinstance(value, kind)):
            raise ValueError(f"its {key} is {json.dumps(value)[:40]}")
    limit = parsed.get("max_episode_steps")
    if limit is not None and not 1 <= limit < 2**31:
        raise ValueError(f"its max_episode_steps is {limit!r:.40}")
    for wrapper in parsed.get("additional_wrappers") or ():
        texts = [wrapper.get(key) for key in ("name", "entry_point")]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a wrapper has no name")
        if not isinstance(wrapper.get("kwargs"), dict | None):
            raise ValueError(f"the arguments of its wrapper {texts[0]:.40} are no object")


def _with_arguments(known: EnvSpec, parsed: dict[str, Any]) -> EnvSpec:
    """A registered environment with the arguments and the time limit of some JSON."""
    described = copy.deepcopy(known)
    described.kwargs |= parsed.get("kwargs") or {}
    if parsed.get("max_episode_steps") is not None:
        described.max_episode_steps = parsed["max_episode_steps"]
    return described


def _gymnasium_make(
    described: EnvSpec, name: str, kwargs: dict[str, Any]
) -> gymnasium.Env[Any, Any]:
    try:
        # The checker warns about details of other people's environments and slows each step.
        return without_maze_file(gymnasium.make(described, disable_env_checker=True, **kwargs))
    except gymnasium.error.DeprecatedEnv as error:
        raise InputError(
            f"'{name}' has been retired ({error})", where="environment", hint=_instead(name)
        ) from None
    except (ModuleNotFoundError, gymnasium.error.DependencyNotInstalled) as error:
        if "mujoco_py" in str(error):
            raise InputError(
                f"'{name}' needs mujoco_py, which has been retired",
                where="environment",
                hint=_instead(name),
            ) from None
        if re.search("mujoco|gymnasium_robotics", str(described.entry_point)):
            what = f"{name} needs a simulator that is not installed ({error})"
            raise missing_extra(what, "mujoco") from None
        # Gymnasium's own error is raised from the import that failed, which names the module.
        first = error if isinstance(error, ModuleNotFoundError) else error.__cause__
        module = getattr(first, "name", None) or str(error)
        raise InputError(
            f"it needs the module {module}, which is not installed", where=name, hint="install it"
        ) from None
    except (AssertionError, gymnasium.error.Error) as error:
        raise _cannot_be_made(name, error) from None
    except TypeError as error:
        refusal = r"unexpected keyword argument '(\w+)'|takes no arguments"
        unknown = re.search(refusal, str(error))
        if unknown is None:
            raise
        argument = unknown.group(1) or next(iter(kwargs))
        if argument == "render_mode":
            raise InputError(
                "it cannot be drawn",
                where=name,
                hint="choose an environment with the render mode rgb_array",
            ) from None
        raise InputError(
            f"it takes no argument '{argument}'", where=name, hint="leave it out"
        ) from None


def _cannot_be_made(name: str, error: Exception) -> InputError:
    return InputError(
        f"the environment cannot be made ({_said(error)})",
        where=name,
        hint="check its id and its arguments",
    )


def _said(error: Exception) -> str:
    """What Gymnasium or an assertion says, or what was raised; in one line."""
    theirs = isinstance(error, AssertionError | gymnasium.error.Error)
    text = " ".join(str(error).split())
    return text[:300] if theirs and text else reason(error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence notices that a user can do nothing about: imports and makes print and warn."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield

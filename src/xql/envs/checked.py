"""Somebody's environment, called with care: whatever it does wrong is one line that names it."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float32

from xql.errors import EnvironmentFault, InputError, MissingExtra


class Step(NamedTuple):
    """What one step of an environment gave, in plain types."""

    observation: Float32[np.ndarray, " observation"]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def finite(self) -> bool:
        """Whether observation and reward are numbers; a simulator that broke down gives others."""
        return bool(np.isfinite(self.observation).all() and np.isfinite(self.reward))

    @property
    def wrong(self) -> str:
        """What is not finite, in words."""
        if not np.isfinite(self.reward):
            return f"the reward {self.reward}"
        return _wrong(self.observation)


def name_of(env: gymnasium.Env[Any, Any]) -> str:
    """An environment's id, or its class where it has none."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def reset(
    env: gymnasium.Env[Any, Any], seed: int | None = None
) -> Float32[np.ndarray, " observation"]:
    """The first observation of an episode.

    Raises:
        EnvironmentFault: the environment raised, or returned no observation of its space, or one
            that is not finite: no policy can act on it.
    """
    try:
        result = env.reset() if seed is None else env.reset(seed=seed)
    except (InputError, MissingExtra, EnvironmentFault):
        raise  # ours, and in one line already
    except Exception as error:
        raise _raised(env, "reset", error) from error
    observation = _observation(env, require_tuple(env, "reset", result)[0])
    if not np.isfinite(observation).all():
        how = "" if seed is None else f" with the seed {seed}"
        raise EnvironmentFault(f"reset{how} gave {_wrong(observation)}", where=name_of(env))
    return observation


def step(env: gymnasium.Env[Any, Any], action: Any) -> Step:
    """One step.

    Raises:
        EnvironmentFault: the environment raised, or returned what no environment may.
    """
    try:
        result = env.step(action)
    except (InputError, MissingExtra, EnvironmentFault):
        raise
    except Exception as error:
        raise _raised(env, "step", error) from error
    observation, reward, terminated, truncated, info = require_tuple(env, "step", result)
    number = np.asarray(reward)
    if number.ndim != 0 or number.dtype.kind not in "fiub":
        raise EnvironmentFault(
            f"its reward is {_kind(reward)}", where=name_of(env), hint="return one plain number"
        )
    for word, flag in (("terminated", terminated), ("truncated", truncated)):
        if np.ndim(flag) or np.asarray(flag).dtype.kind not in "biuf":
            raise EnvironmentFault(
                f"its {word} is {_kind(flag)}", where=name_of(env), hint="return True or False"
            )
    return Step(
        _observation(env, observation),
        float(number),
        bool(terminated),
        bool(truncated),
        info if isinstance(info, dict) else {},
    )


_RETURNS = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}


def require_tuple(env: gymnasium.Env[Any, Any], call: str, result: Any) -> tuple[Any, ...]:
    """What `reset` or `step` returned, where it has as many parts as it must.

    Raises:
        EnvironmentFault: it has not, as of an environment of the old gym.
    """
    names = _RETURNS[call]
    if isinstance(result, tuple) and len(result) == len(names):
        return result
    raise _not_parts(env, call, _kind(result))


def _not_parts(env: gymnasium.Env[Any, Any], call: str, kind: str) -> EnvironmentFault:
    what = f"{call} returned {kind}, not ({', '.join(_RETURNS[call])})"
    old = call == "step" and kind == "a tuple of 4"
    hint = "the old gym did so; say terminated and truncated apart" if old else ""
    return EnvironmentFault(what, where=name_of(env), hint=hint)


def require_alike(copies: Sequence[gymnasium.Env[Any, Any]]) -> None:
    """Check that several copies are environments of their own with the same spaces.

    Raises:
        EnvironmentFault: they are not.
    """
    first = copies[0]
    for other in copies[1:]:
        if other.unwrapped is first.unwrapped:
            raise EnvironmentFault(
                "what makes it gives the same instance again",
                where=name_of(first),
                hint="make a new one with every call",
            )
        for name in ("observation_space", "action_space"):
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise EnvironmentFault(
                    f"two copies differ in their {name}: {_shape(one)} and {_shape(two)}",
                    where=name_of(first),
                    hint="make every copy with the same arguments",
                )


def _shape(space: Any) -> str:
    return " ".join(str(space).split())[:80]


def success(info: dict[str, Any]) -> bool | None:
    """Whether a step reports success; None where it reports neither way.

    A text such as "False" is no report: it would count as true.
    """
    reported = np.asarray(info.get("success", info.get("is_success")))
    return bool(reported.item()) if reported.size == 1 and reported.dtype.kind in "biuf" else None


def _observation(env: gymnasium.Env[Any, Any], observation: Any) -> np.ndarray:
    try:
        flat = np.asarray(observation, np.float32)
    except (TypeError, ValueError):
        flat = None
    shape = env.observation_space.shape
    if flat is None or flat.shape != shape:
        raise EnvironmentFault(
            f"its observation is {_kind(observation)}, its space says {shape}", where=name_of(env)
        )
    return flat


def _wrong(observation: Float32[np.ndarray, " observation"]) -> str:
    columns = np.flatnonzero(~np.isfinite(observation))
    more = f" and {len(columns) - 1} more columns" if len(columns) > 1 else ""
    return f"an observation that is {observation[columns[0]]} in column {columns[0]}{more}"


def _raised(env: gymnasium.Env[Any, Any], call: str, error: Exception) -> EnvironmentFault:
    # A wrapper of Gymnasium's fails to take apart what the environment below it returned.
    found = re.search(r"unpack.*expected (\d)(?:, got (\d))?", str(error))
    if found and int(found[1]) == len(_RETURNS[call]):
        return _not_parts(env, call, f"a tuple of {found[2]}" if found[2] else "something else")
    text = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
    return EnvironmentFault(f"{call} raised {reason}", where=name_of(env))


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"

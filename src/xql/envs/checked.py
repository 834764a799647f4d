"""Somebody's environment, called with care: whatever it does wrong is one line that names it."""

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
    except (InputError, MissingExtra):
        raise  # ours, and in one line already
    except Exception as error:
        raise _raised(env, "reset", error) from error
    if not isinstance(result, tuple) or len(result) != 2:
        raise EnvironmentFault(
            f"reset returned {_kind(result)}, not (observation, info)", where=name_of(env)
        )
    observation = _observation(env, result[0])
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
    except (InputError, MissingExtra):
        raise
    except Exception as error:
        raise _raised(env, "step", error) from error
    if not isinstance(result, tuple) or len(result) != 5:
        raise EnvironmentFault(
            f"step returned {_kind(result)}, not (observation, reward, terminated, truncated, "
            "info)",
            where=name_of(env),
        )
    observation, reward, terminated, truncated, info = result
    number = np.asarray(reward)
    if number.ndim != 0 or number.dtype.kind not in "fiub":
        raise EnvironmentFault(
            f"its reward is {_kind(reward)}", where=name_of(env), hint="return one plain number"
        )
    return Step(
        _observation(env, observation),
        float(number),
        bool(terminated),
        bool(truncated),
        info if isinstance(info, dict) else {},
    )


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
    text = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
    return EnvironmentFault(f"{call} raised {reason}", where=name_of(env))


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"

"""The population of a run: every combination of the swept hyperparameters, times seeds."""

import itertools
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, cast

import numpy as np

from xql.agents import AGENTS, Agent
from xql.agents.hyperparameters import hyperparameters, inactive
from xql.agents.temperature import activation
from xql.errors import InputError, brief, nearest, require_seed
from xql.presets import DATA_OPTIONS
from xql.runs.config import MOST_MEMBERS, Member

SWEPT_SOURCE = "given: each member's own, see members"
"""What `RunConfig.sources` says of a swept hyperparameter."""

SUITED_SOURCE = "ours: from the number of actions"
"""What it says of one that follows from the data's actions."""

Beta = Literal["auto"] | float | Sequence[float]
"""One temperature, several, or one that tunes itself in each member."""


def with_beta(
    sweep: Mapping[str, Sequence[float]] | None,
    options: Mapping[str, Any] | None,
    beta: Beta | None,
    agent: str,
) -> tuple[dict[str, Sequence[float]], dict[str, Any]]:
    """A sweep and options with `beta`, the short form of either, taken in.

    Raises:
        InputError: two of them say what β is, or the agent has none.
    """
    swept, given = dict(sweep or {}), dict(options or {})
    if beta is None:
        return swept, given
    if agent in AGENTS and "beta" not in hyperparameters(AGENTS[agent].config):
        raise InputError(f"agent {agent} has no beta", hint="leave out `beta`")
    for name, other in (("sweep", swept), ("options", given)):
        if "beta" in other:
            raise InputError(
                "beta is given twice", where=f"`{name}`, `beta`", hint="give one of them"
            )
    if isinstance(beta, str):
        return swept, {**given, "beta": beta}
    betas = cast(Sequence[float], [beta] if isinstance(beta, Real) else beta)
    return {"beta": betas, **swept}, given


def with_policy(
    options: Mapping[str, Any] | None, policy: str | None, agent: str
) -> dict[str, Any]:
    """The options with `policy`, their short form, taken in.

    Raises:
        InputError: both say how the policy is extracted, or the agent has no choice of it.
    """
    found = dict(options or {})
    if policy is None:
        return found
    if agent in AGENTS and "policy" not in hyperparameters(AGENTS[agent].config):
        raise InputError(f"agent {agent} has no choice of policy", hint="leave out `policy`")
    if "policy" in found:
        raise InputError(
            "policy is given twice", where="`options`, `policy`", hint="give one of them"
        )
    return {**found, "policy": policy}


def require_apart(sweep: Collection[str], options: Collection[str] | None) -> None:
    """Check that no hyperparameter is both swept and given one value.

    Raises:
        InputError: one is; its one value would have no effect.
    """
    for name in set(sweep) & set(options or ()):
        raise InputError(
            f"{name} is swept and given", where="`sweep`, `options`", hint="give it in one of them"
        )


def require_hyperparameters(
    sweep: Collection[str], options: Collection[str] | None, arguments: Collection[str]
) -> None:
    """Check that nothing stands among the hyperparameters that is said beside them.

    Args:
        sweep, options: what was given.
        arguments: of what trains, such as its precision.

    Raises:
        InputError: one of them does.
    """
    known = {*DATA_OPTIONS}.union(*(hyperparameters(one.config) for one in AGENTS.values()))
    for where, given in (("`sweep`", sweep), ("`options`", options or ())):
        for name in given:
            if name in arguments and name not in known:
                raise InputError(
                    f"{name} is no hyperparameter", where=where, hint=f"give `{name}` beside it"
                )


def choose_members(
    agent: Agent, name: str, seeds: int | Sequence[int], sweep: Mapping[str, Sequence[float]]
) -> tuple[Member, ...]:
    """The population of a run: every combination of the swept values, times seeds.

    The first name of `sweep` is outermost, seeds are innermost.

    Args:
        agent: what is trained.
        name: the agent's, for messages.
        seeds: how many (0, 1, …), or which.
        sweep: values by hyperparameter.

    Raises:
        InputError: no seed, one given twice, or a sweep of something that cannot be swept, of no
            values, of one value twice, or of one out of range.
    """
    which = _which_seeds(seeds)
    grid = [
        [(key, value) for value in _swept_values(agent.config, name, key, values)]
        for key, values in sweep.items()
    ]
    count = math.prod([len(which), *map(len, grid)])
    if count > MOST_MEMBERS:
        raise InputError(
            f"the seeds and the sweep make {count:,} members",
            where="`seeds`, `sweep`",
            hint=f"give fewer, at most {MOST_MEMBERS:,}",
        )
    return tuple(
        Member(seed, dict(changes)) for changes in itertools.product(*grid) for seed in which
    )


def _which_seeds(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that are meant, each once."""
    if isinstance(seeds, Integral) and not isinstance(seeds, bool):
        seeds = range(int(seeds))
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence | np.ndarray):
        raise InputError(
            f"seeds cannot be {brief(seeds)}", hint="give how many, or a list of whole numbers"
        )
    # The length of a range can be more than Python's own whole numbers for a length.
    if seeds[MOST_MEMBERS:]:
        raise InputError(
            "these are too many seeds",
            where="`seeds`",
            hint=f"give fewer, at most {MOST_MEMBERS:,}",
        )
    which = list(seeds)
    if not which:
        raise InputError("there is no seed to train", hint="give `seeds=1` or more")
    if len(set(which)) < len(which):
        raise InputError(f"a seed is given twice in {which}", hint="give each one once")
    return [require_seed(seed) for seed in which]


def _swept_values(config: Any, agent: str, key: str, values: Sequence[float]) -> list[float]:
    known = hyperparameters(config)
    can = [one.name for one in known.values() if one.swept and one.name not in inactive(config)]
    if key in inactive(config):
        raise InputError(
            f"{key} has no effect on agent {agent} as it is configured",
            where="`sweep`",
            hint=f"{activation(config, key)}leave it out; these can be swept: {', '.join(can)}",
        )
    if key in known and not known[key].swept:
        raise InputError(
            f"{key} cannot be swept: it changes the compiled program",
            where="`sweep`",
            hint=f"give it with `options`, one run for each; these can: {', '.join(can)}",
        )
    if key not in can:
        raise InputError(f"agent {agent} has no {key}", where="`sweep`", hint=nearest(key, can))
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(
            f"{key} is {brief(values)}", where="`sweep`", hint="give a list of numbers"
        )
    values = list(itertools.islice(values, MOST_MEMBERS + 1))
    if len(values) > MOST_MEMBERS:
        raise InputError(
            f"{key} has too many values", where="`sweep`", hint=f"give at most {MOST_MEMBERS:,}"
        )
    for value in values:
        if (
            isinstance(value, bool)
            or not isinstance(value, Real)
            or not abs(value) <= sys.float_info.max
        ):
            raise InputError(f"{key} cannot be {brief(value)}", hint="give finite numbers")
    numbers = [float(value) for value in values]
    for number in numbers:
        if not known[key].range.holds(number):
            raise InputError(f"{key} cannot be {number:g}", hint=f"give {known[key].range.text}")
    if not numbers or len(set(numbers)) < len(numbers):
        given = ",".join(f"{number:g}" for number in numbers[:20])
        raise InputError(f"{key}={given}", hint="give values, each one once")
    return numbers

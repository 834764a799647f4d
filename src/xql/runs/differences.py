"""Whether two runs of one configuration went the same way: their files, number by number."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from xql.agents import TrainState
from xql.runs.folder import RunFolder
from xql.runs.policy import load_population

NOT_COMPARED = ("version", "xql", "sources", "data.source")
"""What config.yaml says of its making, and of where the data lay."""


class Outcome(NamedTuple):
    """What a run's folder says of the run, each number under its name."""

    configuration: dict[str, Any]
    metrics: dict[str, float]
    evaluations: dict[str, float | bool | None]
    diverged: dict[str, int]
    step: int
    """Of its latest checkpoint that can be read."""
    state: dict[str, Shaped[np.ndarray, "members ..."]]
    """Each leaf of the training state in that checkpoint."""


class Part(NamedTuple):
    """One part of two outcomes, compared."""

    name: str
    same: bool
    text: str
    """How much there is; or what differs first, how much differs, and by how much at most."""


def outcome_of(folder: RunFolder) -> Outcome:
    """Read all that two runs are compared by; the seconds that a run took are no part of it.

    Raises:
        InputError: a file is missing or damaged, or there is no checkpoint.
    """
    metrics = {
        f"{name} of member {member} at step {line.step:,}": value
        for line in folder.read_metrics()
        for name, values in line.values.items()
        if name != "seconds"
        for member, value in enumerate(values)
    }
    evaluations = {
        f"{name} of episode {row.episode} of member {row.member} at step {row.step:,}": value
        for row in folder.read_evaluations()
        for name, value in (
            ("return", row.episode_return),
            ("length", row.length),
            ("success", row.success),
        )
    }
    diverged = {f"member {one}": step for one, step in folder.read_frozen().items()}
    _, population, step = load_population(folder)
    return Outcome(
        _flat(folder.config.to_dict()), metrics, evaluations, diverged, step, _leaves(population)
    )


def compare_outcomes(then: Outcome, now: Outcome) -> list[Part]:
    """Each part of two outcomes. Numbers are the same where all their bits are."""
    before, after = then.configuration.copy(), now.configuration.copy()
    # Older runs have none, and the data of an online run is its environment.
    if None in (before.get("data.fingerprint"), after.get("data.fingerprint")):
        for one in (before, after):
            one.pop("data.fingerprint", None)
    return [
        _compared("configuration", before, after, "values"),
        _compared("metrics", then.metrics, now.metrics, "numbers"),
        _compared("evaluations", then.evaluations, now.evaluations, "numbers"),
        _compared("diverged members", then.diverged, now.diverged, "members"),
        _compared_states(then, now),
    ]


def _compared(name: str, then: Mapping[str, Any], now: Mapping[str, Any], unit: str) -> Part:
    keys = [*then, *(key for key in now if key not in then)]
    different = [
        key for key in keys if key not in then or key not in now or not _same(then[key], now[key])
    ]
    if not different:
        return Part(name, True, f"{len(keys):,} {unit}" if keys else "none")
    first = different[0]
    text = f"{first} {_change(then, now, first)}; {len(different):,} of {len(keys):,} {unit} differ"
    sizes = {key: abs(then[key] - now[key]) for key in different if _are_numbers(then, now, key)}
    largest = max(sizes, key=sizes.__getitem__, default=first)
    if sizes:
        text += f", at most by {sizes[largest]:.3g}"
    if largest != first:
        text += f" ({largest})"
    return Part(name, False, text)


def _compared_states(then: Outcome, now: Outcome) -> Part:
    name, before, after = f"training state at step {now.step:,}", then.state, now.state
    total = sum(leaf.size for leaf in before.values())
    first, different, leaves, largest, where = "", 0, 0, 0.0, ""
    for key in [*before, *(key for key in after if key not in before)]:
        a, b = before.get(key), after.get(key)
        if a is None or b is None or (a.shape, a.dtype) != (b.shape, b.dtype):
            first = first or f"leaf {key} is of another shape or kind, or missing"
            leaves += 1
            continue
        other = _bits(a) != _bits(b)
        if not other.any():
            continue
        leaves += 1
        different += int(other.sum())
        if not first:
            member, *place = np.argwhere(other)[0].tolist()
            index = tuple(place)
            shown = _change({key: a[member][index]}, {key: b[member][index]}, key)
            first = f"{key}{list(index) if index else ''} of member {member} {shown}"
        if np.issubdtype(a.dtype, np.inexact):
            size = float(np.abs(a[other].astype(np.float64) - b[other]).max())
            if not size <= largest:  # a nan is larger than any number
                largest, where = size, key
    if not first:
        return Part(name, True, f"{len(before):,} leaves, {total:,} numbers")
    text = f"{first}; {different:,} of {total:,} numbers in {leaves:,} of {len(before):,} leaves"
    at_most = f", at most by {largest:.3g} ({where})" if where else ""
    return Part(name, False, f"{text} differ{at_most}")


def _leaves(population: TrainState) -> dict[str, Shaped[np.ndarray, "members ..."]]:
    """Each leaf of a population, by its path; random keys as their words."""
    return {
        jax.tree_util.keystr(path).lstrip("."): np.asarray(
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(population)
    }


def _bits(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _flat(values: Any, head: str = "") -> dict[str, Any]:
    """The leaves of a configuration's plain values, by path; without those `NOT_COMPARED`."""
    if head in NOT_COMPARED:
        return {}
    if isinstance(values, Mapping):
        inner = {f"{head}.{key}" if head else f"{key}": one for key, one in values.items()}
    elif isinstance(values, list):
        inner = {f"{head}[{index}]": one for index, one in enumerate(values)}
    else:
        return {head: values}
    return {path: leaf for key, one in inner.items() for path, leaf in _flat(one, key).items()}


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (_is_nan(one) and _is_nan(other))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _are_numbers(then: Mapping[str, Any], now: Mapping[str, Any], key: str) -> bool:
    return all(isinstance(one.get(key), int | float) for one in (then, now))


def _change(then: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    if key not in now:
        return f"was {_shown(then[key])} and is missing"
    if key not in then:
        return f"was missing and is {_shown(now[key])}"
    pair = [_shown(one[key]) for one in (then, now)]
    if pair[0] == pair[1]:  # in nine digits
        pair = [repr(one[key]) for one in (then, now)]
    return "was {} and is {}".format(*pair)


def _shown(value: Any) -> str:
    """A value in words: numbers in nine digits, which tell any two of float32 apart."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return f"{value:.9g}"
    return "none" if value is None else str(value)

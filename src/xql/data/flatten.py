"""The one order in which a dictionary observation becomes a flat vector.

Keys are sorted alphabetically at every level, depth first; a tuple keeps its order; each array is
raveled in C order; a number takes one place, and one of n choices takes n: a one among zeros. So
{"observation": [1, 2], "goal": {"y": 4, "x": 3}} becomes [3, 4, 1, 2].
Data and environments both flatten here, which is what lets a policy that was trained on one act in
the other. (`gymnasium.spaces.flatten` keeps the order in which a space was written down, which need
not be this one.)
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Float32, Shaped

from xql.data.actions import MOST_CHOICES
from xql.data.dataset import empty
from xql.data.stored import Readable, Stored
from xql.errors import InputError, nearest

_TUPLES = (tuple, gymnasium.spaces.Tuple)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and tuples in the flat order, each with its path ("goal/x").

    Gymnasium's `Dict` and `Tuple` spaces count as what they hold. A part of a tuple is named by its
    number.
    """
    for key, part in _parts(tree):
        if key is None:
            yield path, part
        else:
            yield from leaves(part, f"{path}/{key}" if path else str(key))


def _parts(tree: Any) -> Iterable[tuple[Any, Any]]:
    mapping = getattr(tree, "spaces", tree)
    if isinstance(mapping, Mapping):
        return [(key, mapping[key]) for key in sorted(mapping)]
    if isinstance(tree, _TUPLES):
        return enumerate(mapping)
    return [(None, tree)]


def is_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether numbers of this shape are pixels, from which no agent here can learn."""
    if dtype == np.uint8 and len(shape) >= 2:
        return min(shape[:2]) > 1
    sides = sorted(shape)[1:]
    return len(shape) == 3 and bool({shape[0], shape[-1]} & {1, 3, 4}) and min(sides) >= 8


def require_vectors(space: Any, where: str, option: str = "") -> None:
    """Raise `InputError` unless an observation space is made of vectors of numbers.

    Args:
        space: of an environment or a dataset.
        where: its name, for the message.
        option: what chooses among the keys of a dictionary, for the hint, "{}" for a list of them;
            "?keys=…" unless given.
    """
    sound = {path: _fault(leaf) is None for path, leaf in leaves(space)}
    tops = {path.partition("/")[0] for path in sound}
    tops -= {path.partition("/")[0] for path in sound if not sound[path]}
    for path, leaf in leaves(space):
        if not sound[path]:
            hint = "only vectors of numbers and choices are supported"
            if tops and isinstance(getattr(space, "spaces", space), Mapping):
                keep = option.format(sorted(tops)) if option else f"?keys={','.join(sorted(tops))}"
                hint += f"; {keep} leaves it out"
            name = f" '{path}'" if path else ""
            shown = " ".join(str(leaf).split())
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise InputError(
                f"the observation{name} is {shown}{_fault(leaf)}", where=where, hint=hint
            )


def _fault(leaf: Any) -> str | None:
    """What to say after the words of a leaf that no agent here learns from; None of any other."""
    if is_choice(leaf):
        size = flat_size(leaf)
        many = f": {size:,} numbers as one-hot rows, at most {MOST_CHOICES:,} are supported"
        return many if size > MOST_CHOICES else None
    if isinstance(leaf, gymnasium.spaces.MultiBinary):
        return None
    if not isinstance(leaf, gymnasium.spaces.Box):
        return ""
    return ", an image" if is_image(leaf.shape, leaf.dtype) else None


def is_choice(space: Any) -> bool:
    """Whether a leaf of a space is a choice or several, which becomes one-hot rows."""
    return isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete)


def flat_size(leaf: Any) -> int:
    """How many numbers a leaf of a space, or of an observation, becomes."""
    if isinstance(leaf, gymnasium.spaces.Discrete):
        return int(leaf.n)
    if isinstance(leaf, gymnasium.spaces.MultiDiscrete):
        return sum(map(int, leaf.nvec.ravel()))  # which no file makes overflow
    return math.prod(np.shape(leaf))


def flat_bounds(leaf: Any) -> tuple[Float[np.ndarray, " numbers"], Float[np.ndarray, " numbers"]]:
    """The least and the largest value of each number that a leaf of a space becomes."""
    if isinstance(leaf, gymnasium.spaces.Box):
        return leaf.low.ravel().astype(np.float64), leaf.high.ravel().astype(np.float64)
    return np.zeros(flat_size(leaf)), np.ones(flat_size(leaf))


def one_hot(
    space: Any, values: Shaped[np.ndarray, "rows *one"], where: str = ""
) -> Float32[np.ndarray, "rows numbers"]:
    """Rows of a leaf that `is_choice`: ones at the chosen places, one choice beside another.

    Args:
        space: the leaf.
        values: as its environment gives them, one row after another.
        where: their source, for the message.

    Raises:
        InputError: a value that the space does not have.
    """
    counts = np.ravel(space.n if isinstance(space, gymnasium.spaces.Discrete) else space.nvec)
    starts = np.ravel(space.start).astype(np.int64)
    values, hint = np.asarray(values), "check the values, or the space" if where else ""
    if values.dtype.kind not in "fiub" or values.size != len(values) * len(counts):
        what = f"{values.dtype} of shape {values.shape}"
        raise InputError(f"it is {what}, and its space is {space}", where=where, hint=hint)
    numbers = values.reshape(len(values), len(counts)) - starts
    known = (numbers >= 0) & (numbers < counts) & (numbers == np.floor(numbers))
    if not known.all():
        row, column = np.argwhere(~known)[0]
        first, last = starts[column], starts[column] + counts[column] - 1
        found = values.reshape(len(values), -1)[row, column]
        raise InputError(f"it is {found}, not one of {first} to {last}", where=where, hint=hint)
    rows = np.zeros((len(values), counts.sum()), np.float32)
    places = numbers.astype(np.int64) + np.cumsum(counts) - counts
    np.put_along_axis(rows, places, 1.0, axis=1)
    return rows


def flatten_observation(observation: Any, space: Any = None) -> Float32[np.ndarray, " observation"]:
    """One observation (array, number, or nested mappings and tuples of them) as a flat vector.

    Args:
        observation: any such.
        space: its space, where there are choices in it, which become one-hot rows.

    Raises:
        InputError: a choice that the space does not have, or a part that is missing.
    """
    if space is None:
        parts = [_numbers(leaf) for _, leaf in leaves(observation)]
    else:
        found, parts = dict(leaves(observation)), []
        for path, leaf in leaves(space):
            if path not in found:
                raise InputError(f"it has no '{path}'")
            parts.append(_part(leaf, found[path]))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _part(space: Any, value: Any) -> Float32[np.ndarray, " numbers"]:
    return one_hot(space, np.asarray(value)[None])[0] if is_choice(space) else _numbers(value)


def _numbers(value: Any) -> Float32[np.ndarray, " numbers"]:
    return np.asarray(value, np.float32).ravel()


def flatten_batch(observations: Any) -> Float32[np.ndarray, "batch observation"]:
    """Many observations at once: an array, or nested mappings and tuples of arrays, by row."""
    parts = []
    for _, leaf in leaves(observations):
        array = np.asarray(leaf, np.float32)
        parts.append(array.reshape(len(array), int(np.prod(array.shape[1:]))))
    if len(parts) == 1:
        return parts[0]
    flat = empty((len(parts[0]), sum(part.shape[1] for part in parts)))
    return np.concatenate(parts, axis=1, out=flat)


def flat_rows(tree: Any) -> Readable:
    """What `flatten_batch` makes of them, but only of the rows that are asked for."""
    parts: tuple[Readable, ...] = tuple(leaf for _, leaf in leaves(tree))
    first = parts[0]
    if len(parts) == 1 and isinstance(first, np.ndarray) and first.dtype == np.float32:
        return flatten_batch(first)

    @np.errstate(over="ignore")  # a float64 too large for float32 becomes an infinity
    def read(start: int, stop: int) -> np.ndarray:
        return flatten_batch(tuple(part[start:stop] for part in parts))

    width = sum(math.prod(part.shape[1:]) for part in parts)
    return Stored((len(first), width), np.float32, read)


def flat_layout(space: Any) -> list[tuple[str, int]]:
    """The path and the size of each leaf, in the flat order, of a space or of one observation.

    The path is "" for an observation that is no mapping.
    """
    return [(path, flat_size(leaf)) for path, leaf in leaves(space)]


def select_keys(tree: Any, keys: Iterable[str] | None, *, where: str = "") -> Any:
    """The part of a dictionary observation (or space) under some keys; None keeps everything.

    The order of `keys` does not matter: the flat order is always the sorted one. A key may reach
    into a nested dictionary, as "desired_goal/kettle" does.

    Raises:
        InputError: the observation is no dictionary, or has no such key.
    """
    if keys is None:
        return tree
    selected: dict[str, Any] = {}
    for key in keys:
        source, target = tree, selected
        *parents, name = key.split("/")
        for parent in parents:
            source = _child(source, parent, key, where)
            target = target.setdefault(parent, {})
        target[name] = _child(source, name, key, where)
    return selected


def _child(tree: Any, name: str, key: str, where: str) -> Any:
    mapping = getattr(tree, "spaces", tree)
    if not isinstance(mapping, Mapping):
        raise InputError(
            f"the observation is no dictionary, so '{key}' cannot be selected",
            where=where,
            hint="leave out ?keys=",
        )
    if name not in mapping:
        raise InputError(
            f"the observation has no key '{key}'", where=where, hint=nearest(name, mapping)
        )
    return mapping[name]

"""The one order in which a dictionary observation becomes a flat vector.

Keys are sorted alphabetically at every level, depth first; a tuple keeps its order; each array is
raveled in C order; a number takes one place. So {"observation": [1, 2], "goal": {"y": 4, "x": 3}}
becomes [3, 4, 1, 2].
Data and environments both flatten here, which is what lets a policy that was trained on one act in
the other. (`gymnasium.spaces.flatten` keeps the order in which a space was written down, which need
not be this one.)
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32

from xql.data.dataset import empty
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


def require_vectors(space: Any, where: str, option: str = "?keys=") -> None:
    """Raise `InputError` unless an observation space is made of vectors of numbers.

    Args:
        space: of an environment or a dataset.
        where: its name, for the message.
        option: what chooses among the keys of a dictionary, for the hint.
    """
    sound = {
        path: isinstance(leaf, gymnasium.spaces.Box) and not is_image(leaf.shape, leaf.dtype)
        for path, leaf in leaves(space)
    }
    tops = {path.partition("/")[0] for path in sound}
    tops -= {path.partition("/")[0] for path in sound if not sound[path]}
    for path, leaf in leaves(space):
        if not sound[path]:
            hint = "only vectors of numbers are supported"
            if tops and isinstance(getattr(space, "spaces", space), Mapping):
                hint += f"; {option}{','.join(sorted(tops))} leaves it out"
            name = f" '{path}'" if path else ""
            shown = " ".join(str(leaf).split())
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise InputError(f"the observation{name} is {shown}", where=where, hint=hint)


def flatten_observation(observation: Any) -> Float32[np.ndarray, " observation"]:
    """One observation (array, number, or nested mappings and tuples of them) as a flat vector."""
    parts = [np.asarray(leaf, np.float32).ravel() for _, leaf in leaves(observation)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


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


def flat_layout(space: Any) -> list[tuple[str, int]]:
    """The path and the size of each leaf, in the flat order, of a space or of one observation.

    The path is "" for an observation that is no mapping.
    """
    return [(path, int(np.prod(np.shape(leaf)))) for path, leaf in leaves(space)]


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

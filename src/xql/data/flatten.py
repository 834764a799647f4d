"""The one order in which a dictionary observation becomes a flat vector.

Keys are sorted alphabetically at every level, depth first; each array is raveled in C order; a
number takes one place. So {"observation": [1, 2], "goal": {"y": 4, "x": 3}} becomes [3, 4, 1, 2].
Data and environments both flatten here, which is what lets a policy that was trained on one act in
the other. (`gymnasium.spaces.flatten` keeps the order in which a space was written down, which need
not be this one.)
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from xql.data.dataset import empty
from xql.errors import InputError, nearest


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping in the flat order, each with its path such as "goal/x".

    A gymnasium `Dict` space counts as a mapping.
    """
    mapping = getattr(tree, "spaces", tree)
    if isinstance(mapping, Mapping):
        for key in sorted(mapping):
            yield from leaves(mapping[key], f"{path}/{key}" if path else str(key))
    else:
        yield path, tree


def flatten_observation(observation: Any) -> Float32[np.ndarray, " observation"]:
    """One observation (array, number, or nested mapping of them) as a flat vector."""
    parts = [np.asarray(leaf, np.float32).ravel() for _, leaf in leaves(observation)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def flatten_batch(observations: Any) -> Float32[np.ndarray, "batch observation"]:
    """Many observations at once: an array, or a nested mapping of arrays, with a leading axis."""
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

"""Checkpoints of a whole training state: bit for bit what is needed to go on as if never stopped.

On disk a checkpoint is one folder named by its step. Orbax writes it under another name and renames
it when it is whole, so an interrupted save leaves the checkpoint before it usable. Inside lies one
flat mapping from each leaf's path in the pytree to its array: no code is needed to read it, and a
mismatch can be named.
"""

import contextlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, Shaped

from xql.data.reading import require_files
from xql.errors import InputError

KEEP = 2
"""The latest checkpoints that stay: one to resume from, and one more should that be damaged."""

_OLD_CONFIG = ".hyper."
"""Where xql 0.1 kept the swept hyperparameters, which are in the state's `config` now."""


def save_checkpoint(
    folder: Path, step: int, state: PyTree, *, keep: int = KEEP, name: str | None = None
) -> Path:
    """Write `state` to `folder`, then forget all but the latest `keep` checkpoints.

    Only one process may save to a folder at a time.

    Args:
        folder: where checkpoints lie; made where absent.
        step: gradient updates done. A checkpoint of the same step is replaced.
        state: any pytree whose leaves are arrays, numbers or typed random keys.
        keep: how many unnamed checkpoints stay, at least 1.
        name: keep this one for good, under `name` instead of its step.

    Returns:
        The new checkpoint's folder.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(leftover)
    path = folder / (str(step) if name is None else name)
    # Orbax refuses arrays of no elements; there is nothing in them to save.
    arrays = {key: array for key, array in _arrays(state).items() if array.size}
    with _orbax() as checkpointer:
        checkpointer.save(path, arrays, force=True)
    if name is None:
        for old in _steps(folder)[: -max(keep, 1)]:
            shutil.rmtree(folder / str(old))
    return path


class Damaged(InputError):
    """A checkpoint that is there and cannot be read."""


def load_latest(folder: Path, template: PyTree) -> tuple[int, PyTree]:
    """The latest checkpoint that can be read, and its step.

    One that is damaged is passed over with a warning.

    Args:
        folder: where checkpoints lie.
        template: as `load_checkpoint` takes it.

    Raises:
        InputError: there is none, all are damaged, or the leaves are not those of `template`.
    """
    steps = _steps(Path(folder))
    if not steps:
        raise InputError(
            "there is no checkpoint", where=str(folder), hint="train first, or check the path"
        )
    first: Damaged | None = None
    for step in reversed(steps):
        try:
            state = load_checkpoint(folder, step, template)
        except Damaged as damaged:
            first = first or damaged
            continue
        if first is not None:
            warnings.warn(
                f"checkpoint {steps[-1]:,} is damaged, so that of step {step:,} is used ({first})",
                UserWarning,
                stacklevel=2,
            )
        return step, state
    assert first is not None
    raise first


def load_checkpoint(folder: Path, step: int | str, template: PyTree) -> PyTree:
    """Read a checkpoint back, with the structure, dtypes, key kinds and devices of `template`.

    Args:
        folder: where checkpoints lie.
        step: which one, by step or by name.
        template: a state of the same structure and shapes; its values do not matter.

    Raises:
        InputError: there is none, it is damaged, or its leaves are not those of `template`.
    """
    folder = Path(folder).absolute()
    path = folder / str(step)
    if not path.is_dir():
        have = ", ".join(str(one) for one in _steps(folder)) or "none"
        raise InputError(
            f"there is no checkpoint {step}", where=str(folder), hint=f"there are: {have}"
        )
    try:
        require_files(path)
    except InputError as error:
        raise _unreadable(path, f"{error.where}: {error.what}") from None
    wanted = _arrays(template)
    arrays = {key: array for key, array in wanted.items() if array.size}
    with _orbax() as checkpointer:
        # Orbax says None of a description that it cannot read.
        saved = checkpointer.metadata(path).item_metadata
        if saved is None:
            raise _unreadable(path, "its description is missing or damaged")
        if any(key.startswith(_OLD_CONFIG) for key in saved.tree):
            names = {key: key.replace(".config.", _OLD_CONFIG, 1) for key in arrays}
            arrays = {names[key]: array for key, array in arrays.items()}
            wanted = {names.get(key, key): array for key, array in wanted.items()}
        _check_leaves(
            {key: (tuple(one.shape), np.dtype(one.dtype)) for key, one in saved.tree.items()},
            arrays,
            path,
        )
        try:
            arrays = checkpointer.restore(path, arrays)
        except Exception as error:
            # Orbax wraps whatever stopped the reading of an array into a bare Exception.
            reason = error.__cause__ if type(error) is Exception else error
            # Of these are missing, cut or changed files; a lack of memory, say, is another matter.
            if not isinstance(reason, ValueError | KeyError | OSError):
                raise
            raise _unreadable(path, str(reason)) from error
    leaves, structure = jax.tree.flatten(template)
    restored = [arrays.get(key, array) for key, array in wanted.items()]
    return jax.tree.unflatten(structure, map(_like, leaves, restored))


def latest_step(folder: Path) -> int | None:
    """The step of the latest whole checkpoint, or None where there is none."""
    steps = _steps(Path(folder))
    return steps[-1] if steps else None


def _steps(folder: Path) -> list[int]:
    """The steps of the unnamed checkpoints, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _unreadable(path: Path, reason: str) -> Damaged:
    # TensorStore's reasons go on for lines, with its whole configuration behind the first sentence.
    short = " ".join(reason.split())[:200]
    return Damaged(
        f"this checkpoint cannot be read ({short})",
        where=str(path),
        hint="load an earlier one with `step`",
    )


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _arrays(state: PyTree) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Each leaf as a host array, by its path; random keys as their words."""
    return {
        jax.tree_util.keystr(path): np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _like(leaf: Any, array: Shaped[np.ndarray, "..."]) -> Any:
    """`array` as the kind of thing that the template's `leaf` is."""
    if _is_key(leaf):
        key = jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(leaf))
        return jax.device_put(key, leaf.sharding) if leaf.committed else key
    if isinstance(leaf, jax.Array):
        # A copy: training donates its state, and must not write into memory that numpy owns.
        return jnp.array(array, device=leaf.sharding if leaf.committed else None)
    if isinstance(leaf, np.ndarray):
        return array
    return array.dtype.type(array) if isinstance(leaf, np.generic) else array.item()


def _check_leaves(
    saved: dict[str, tuple[tuple[int, ...], np.dtype[Any]]],
    wanted: dict[str, Shaped[np.ndarray, "..."]],
    path: Path,
) -> None:
    """Raise for the first leaf that differs between a checkpoint and the state to fill."""
    hint = "load it with the configuration of its own run"
    for key, array in wanted.items():
        if key not in saved:
            raise InputError(f"this checkpoint has no leaf {key}", where=str(path), hint=hint)
        if saved[key] != (array.shape, array.dtype):
            (shape, dtype), needed = saved[key], f"{array.dtype}{list(array.shape)}"
            raise InputError(
                f"leaf {key} is {dtype}{list(shape)} here and {needed} in this configuration",
                where=str(path),
                hint=hint,
            )
    for key in saved:
        if key not in wanted:
            raise InputError(
                f"leaf {key} of this checkpoint has no place in this configuration",
                where=str(path),
                hint=hint,
            )


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """A checkpointer that writes before it returns and says nothing unless it fails."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Imported here because it takes longer than all the rest of a command's start.
            import orbax.checkpoint as ocp

            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                yield checkpointer
    finally:
        logger.setLevel(level)

"""Checkpoints of a whole training state: bit for bit what is needed to go on as if never stopped.

On disk a checkpoint is one folder named by its step. Orbax writes it under another name and renames
it when it is whole, so an interrupted save leaves the checkpoint before it usable. Inside lies one
flat mapping from each leaf's path in the pytree to its array: no code is needed to read it, and a
mismatch can be named.
"""

import contextlib
import functools
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, Shaped

from xql.data.reading import require_files
from xql.errors import InputError
from xql.files import beside, put_folder, unwritable

KEEP = 2
"""The latest checkpoints that stay: one to resume from, and one more should that be damaged."""

_OLD_CONFIG = ".hyper."
"""Where xql 0.1 kept the swept hyperparameters, which are in the state's `config` now."""


def save_checkpoint(
    folder: Path,
    step: int,
    state: PyTree,
    *,
    seeds: Sequence[int] = (),
    keep: int = KEEP,
    name: str | None = None,
) -> Path:
    """Write `state` to `folder`, then forget all but the latest `keep` checkpoints.

    Only one process may save to a folder at a time.

    Args:
        folder: where checkpoints lie; made where absent.
        step: gradient updates done. A checkpoint of the same step is replaced.
        state: any pytree whose leaves are arrays, numbers or typed random keys.
        seeds: of the population's members, stored beside the state.
        keep: how many unnamed checkpoints stay, at least 1.
        name: keep this one for good, under `name` instead of its step.

    Returns:
        The new checkpoint's folder.

    Raises:
        InputError: it cannot be written, as on a full disk; those before it stay as they are.
    """
    folder = Path(folder).absolute()
    path = folder / (str(step) if name is None else name)
    # Orbax refuses arrays of no elements; there is nothing in them to save.
    arrays = {key: array for key, array in _arrays(state).items() if array.size}
    about = {"seeds": [int(seed) for seed in seeds]} if seeds else None
    draft = beside(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_drafts(folder)
        with _orbax() as checkpointer:
            checkpointer.save(draft, arrays, custom_metadata=about)
        put_folder(draft, path)
    except Exception as error:
        # TensorStore says of a full disk that a value is wrong, and Orbax may wrap that.
        cause = error.__cause__ if type(error) is Exception else error
        if not isinstance(cause, ValueError | OSError):
            raise
        refused = unwritable(folder, cause, f"checkpoint of step {step:,}")
        whole = _steps(folder)
        last = f"that of step {whole[-1]:,} is whole" if whole else "there is none before it"
        raise InputError(refused.what, where=str(folder), hint=f"{refused.hint}; {last}") from error
    finally:
        _remove_drafts(folder)
    if name is None:
        for old in _steps(folder)[: -max(keep, 1)]:
            shutil.rmtree(folder / str(old), ignore_errors=True)
    return path


def _remove_drafts(folder: Path) -> None:
    """What an interrupted save left behind."""
    for draft in (*folder.glob(".*.part*"), *folder.glob("*.orbax-checkpoint-tmp*")):
        shutil.rmtree(draft, ignore_errors=True)


class Damaged(InputError):
    """A checkpoint that is there and cannot be read."""


def load_latest(folder: Path, template: PyTree, seeds: Sequence[int] = ()) -> tuple[int, PyTree]:
    """The latest checkpoint that can be read, and its step.

    One that is damaged is passed over with a warning.

    Args:
        folder: where checkpoints lie.
        template, seeds: as `load_checkpoint` takes them.

    Raises:
        InputError: there is none, all are damaged, or one is of another run.
    """
    steps = _steps(Path(folder))
    if not steps:
        raise InputError(
            "there is no checkpoint", where=str(folder), hint="train first, or check the path"
        )
    first: Damaged | None = None
    for step in reversed(steps):
        try:
            state = load_checkpoint(folder, step, template, seeds)
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


def load_checkpoint(
    folder: Path, step: int | str, template: PyTree, seeds: Sequence[int] = ()
) -> PyTree:
    """Read a checkpoint back, with the structure, dtypes, key kinds and devices of `template`.

    Args:
        folder: where checkpoints lie.
        step: which one, by step or by name.
        template: a state of the same structure and shapes; its values do not matter.
        seeds: of the members that it must hold, where it says any: xql 0.1 wrote none.

    Raises:
        InputError: there is none, it is damaged, or its leaves or seeds are not these.
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
        leaves_there, seeds_there = _described(checkpointer, path)
        if seeds and seeds_there and seeds_there != [int(seed) for seed in seeds]:
            here, asked = (", ".join(map(str, each)) for each in (seeds_there, seeds))
            raise InputError(
                f"this checkpoint is of seed {here}, config.yaml of seed {asked}",
                where=str(path),
                hint="files of two runs lie in this folder: make the run again",
            )
        if any(key.startswith(_OLD_CONFIG) for key in leaves_there):
            names = {key: key.replace(".config.", _OLD_CONFIG, 1) for key in arrays}
            arrays = {names[key]: array for key, array in arrays.items()}
            wanted = {names.get(key, key): array for key, array in wanted.items()}
        # A hyperparameter that a later version added keeps the template's value, which is its own.
        arrays = {
            key: array
            for key, array in arrays.items()
            if key in leaves_there or not key.startswith((".config.", _OLD_CONFIG))
        }
        _check_leaves(leaves_there, arrays, path)
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


_Leaves = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def _described(checkpointer: Any, path: Path) -> tuple[_Leaves, list[int]]:
    """What a checkpoint says that it holds: shape and dtype of each leaf, and the members' seeds.

    Raises:
        Damaged: it does not say so.
    """
    try:
        metadata = checkpointer.metadata(path)
        leaves = {
            key: (tuple(one.shape), np.dtype(one.dtype))
            for key, one in metadata.item_metadata.tree.items()
        }
        seeds = [int(seed) for seed in (metadata.custom_metadata or {}).get("seeds", [])]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        # Orbax says None of a description that it cannot read, or raises whatever it meets.
        raise _unreadable(path, "its description is missing or damaged") from None
    return leaves, seeds


def latest_step(folder: Path) -> int | None:
    """The step of the latest whole checkpoint, or None where there is none."""
    steps = _steps(Path(folder))
    return steps[-1] if steps else None


def _steps(folder: Path) -> list[int]:
    """The steps of the unnamed checkpoints, in order."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir() if path.is_dir())
    # Not every decimal digit is one of 0 to 9, and a step is written in one way only.
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


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
    saved: _Leaves,
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
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = functools.partial(_unless_late, hook)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Imported here because it takes longer than all the rest of a command's start.
            import orbax.checkpoint as ocp

            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                yield checkpointer
        sys.unraisablehook = hook
    finally:
        logger.setLevel(level)


def _unless_late(hook: Callable[[Any], object], unraisable: Any) -> None:
    """Print nothing of the arrays that fail after the first, also when Orbax has given up by then.

    TensorStore reports each to an event loop that is closed, for which Python prints a traceback.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)

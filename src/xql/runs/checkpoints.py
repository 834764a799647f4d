"""Checkpoints of a whole training state: bit for bit what is needed to go on as if never stopped.

On disk a checkpoint is one folder named by its step. It is written under another name and renamed
when all of it is on the disk, so that an interrupted save, or a power cut, leaves the checkpoint
before it usable. Inside lie

- what Orbax writes: one flat mapping from each leaf's path in the pytree to its array. No code is
  needed to read it, and a mismatch can be named;
- `extra.npz`, further arrays by name, and `notes.json`, plain values: what the next update depends
  on besides the state, such as a replay buffer;
- `checksums.json`, the SHA-256 of every other file, which is compared before anything is read.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import logging
import re
import shutil
import sys
import threading
import types
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, Shaped

from xql.data.reading import parse_json, require_files
from xql.data.tables import read_npz
from xql.errors import InputError
from xql.files import (
    beside,
    put_folder,
    remove_folder,
    set_aside,
    sync_file,
    sync_folder,
    sync_tree,
    unwritable,
)

EXTRA, NOTES, CHECKSUMS = "extra.npz", "notes.json", "checksums.json"
"""The files that lie in a checkpoint beside Orbax's."""

_CONFIG = ".config."
_OLD_CONFIG = ".hyper."
"""Where xql 0.1 kept the swept hyperparameters, which are in the state's `config` now."""

_MARK = "checksums"
"""The entry of Orbax's metadata that says that this checkpoint has checksums, should they be lost.

Those of xql 0.1 and 0.2 have none."""

_LOCK = threading.RLock()
"""Held while a checkpoint is written or read: Orbax is kept quiet by hooks of the whole process."""

_OTHER = "load it with the configuration of its own run"

_Arrays = dict[str, Shaped[np.ndarray, "..."]]


class Retention(NamedTuple):
    """Which unnamed checkpoints stay when another is saved.

    Those that stay only because of `every` or `best` keep the state and the notes, and lose the
    extra arrays, which may be hundreds of megabytes each: they are there to be evaluated.
    """

    last: int = 2
    """So many of the latest, at least 1: one to go on from, and one more should it be damaged."""
    every: int | None = None
    """Those of the steps that are multiples of this."""
    best: Collection[int] = ()
    """Those of these steps, whose policies are the best so far, or may be."""


KEEP = Retention()
"""The latest two."""


def save_checkpoint(
    folder: Path,
    step: int,
    state: PyTree,
    *,
    seeds: Sequence[int] = (),
    extra: Mapping[str, np.ndarray] | None = None,
    notes: Mapping[str, Any] | None = None,
    keep: Retention = KEEP,
    name: str | None = None,
) -> Path:
    """Write `state` to `folder` and wait until it is on the disk; then forget what `keep` leaves.

    Checkpoints of later steps are forgotten too: whoever saves an earlier step after them has gone
    back to one before, because they are damaged or were given up.

    Only one process may save to a folder at a time.

    Args:
        folder: where checkpoints lie; made where absent.
        step: gradient updates done. A checkpoint of the same step is replaced.
        state: any pytree whose leaves are arrays, numbers or typed random keys.
        seeds: of the population's members, stored beside the state.
        extra: further arrays by name, as `flatten` makes them of a pytree.
        notes: further values by name, as JSON holds them: a tuple comes back as a list.
        keep: which unnamed checkpoints stay.
        name: keep this one for good, under `name` instead of its step.

    Returns:
        The new checkpoint's folder.

    Raises:
        InputError: it cannot be written, as on a full disk; those before it stay as they are.
        TypeError, ValueError: JSON cannot hold the notes.
    """
    content = _Content(_arrays(state), dict(extra or {}), _json(notes), _about(seeds))
    return _write(Path(folder), step, content, keep, name)


class CheckpointWriter:
    """Saves checkpoints in a thread of its own, one at a time, while training goes on.

    A context manager: leaving it waits until all is on the disk. What stopped a save is raised by
    the next call, at the latest on leaving; where another exception leaves the block, it is a
    warning instead.
    """

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: concurrent.futures.Future[Path] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: types.TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            warnings.warn(str(failure), UserWarning, stacklevel=2)
        finally:
            self._pool.shutdown()

    def save(
        self,
        folder: Path,
        step: int,
        state: PyTree,
        *,
        seeds: Sequence[int] = (),
        extra: Mapping[str, np.ndarray] | None = None,
        notes: Mapping[str, Any] | None = None,
        keep: Retention = KEEP,
        name: str | None = None,
    ) -> None:
        """Copy what `save_checkpoint` takes to the host's memory, and begin to write it.

        Waits for the save before. When this returns, the arrays may be donated or changed.

        Raises:
            InputError: the save before failed; this one is not begun.
        """
        self.wait()
        for leaf in jax.tree.leaves((state, extra)):
            if isinstance(leaf, jax.Array) and not _is_key(leaf):
                leaf.copy_to_host_async()
        content = _Content(
            {key: np.array(array) for key, array in _arrays(state).items()},
            {key: np.array(array) for key, array in (extra or {}).items()},
            _json(notes),
            _about(seeds),
        )
        self._writing = self._pool.submit(_write, Path(folder), step, content, keep, name)

    def wait(self) -> None:
        """Return when the last save is on the disk.

        Raises:
            InputError: it failed, as `save_checkpoint` says.
        """
        if self._writing is not None:
            concurrent.futures.wait([self._writing])  # interrupted, it can be waited for again
            writing, self._writing = self._writing, None
            writing.result()


class _Content(NamedTuple):
    """What a checkpoint holds, on the host."""

    state: _Arrays
    extra: _Arrays
    notes: str
    about: dict[str, Any]


def _json(notes: Mapping[str, Any] | None) -> str:
    text = json.dumps(dict(notes or {}))
    parse_json(text)  # what could not be read back is no checkpoint
    return text


def _about(seeds: Sequence[int]) -> dict[str, Any]:
    """What Orbax's metadata says of a checkpoint."""
    return {"seeds": [int(seed) for seed in seeds], _MARK: "sha256"}


def _write(folder: Path, step: int, content: _Content, keep: Retention, name: str | None) -> Path:
    folder = folder.absolute()
    path = folder / (str(step) if name is None else name)
    # Orbax refuses arrays of no elements; there is nothing in them to save.
    arrays = {key: array for key, array in content.state.items() if array.size}
    draft = beside(path)
    with _LOCK:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
            tidy(folder)
            with _orbax() as checkpointer:
                checkpointer.save(draft, arrays, custom_metadata=content.about)
            if content.extra:
                _write_npz(draft / EXTRA, content.extra)
            (draft / NOTES).write_text(content.notes, encoding="utf-8")
            files = [one for one in draft.rglob("*") if one.is_file()]
            sums = {one.relative_to(draft).as_posix(): _sha256(one) for one in files}
            _write_checksums(draft / CHECKSUMS, sums)
            sync_tree(draft)
            put_folder(draft, path)
        except Exception as error:
            # TensorStore says of a full disk that a value is wrong, and Orbax may wrap that.
            cause = error.__cause__ if type(error) is Exception else error
            if not isinstance(cause, ValueError | OSError):
                raise
            refused = unwritable(folder, cause, f"checkpoint of step {step:,}")
            whole = _steps(folder)
            last = f"that of step {whole[-1]:,} is whole" if whole else "there is none before it"
            hint = f"{refused.hint}; {last}"
            raise InputError(refused.what, where=str(folder), hint=hint) from error
        finally:
            tidy(folder)
        if name is None:
            _forget(folder, step, keep)
    return path


def tidy(folder: Path) -> None:
    """Remove what an interrupted save left behind, and give back the name of what it put aside.

    Args:
        folder: of checkpoints, or of a run; nobody else may be writing to it.
    """
    for aside in folder.glob(".*.old"):
        path = folder / _name_of(aside)
        if path.exists():
            remove_folder(aside)
        else:
            with contextlib.suppress(OSError):
                aside.rename(path)
    for draft in (*folder.glob(".*.part*"), *folder.glob("*.orbax-checkpoint-tmp*")):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                draft.unlink()


def _forget(folder: Path, step: int, keep: Retention) -> None:
    """Remove the unnamed checkpoints that need not stay now that `step` is saved."""
    steps = _steps(folder)
    last = [one for one in steps if one <= step][-max(keep.last, 1) :]
    for one in steps:
        path = folder / str(one)
        if one > step:
            remove_folder(path)
        elif one not in last:
            if one in keep.best or (keep.every and one % keep.every == 0):
                drop_extra(path)
            else:
                remove_folder(path)


def drop_extra(path: Path) -> None:
    """Remove the extra arrays of a checkpoint, which loads at every moment of that."""
    if not (path / EXTRA).exists():
        return
    # Written outside, where nobody minds what a killed process leaves, and renamed into it. The
    # arrays may go once no checksum asks for them. What cannot be done now is tried again later.
    draft = beside(path.with_name(CHECKSUMS))
    with contextlib.suppress(OSError, InputError):
        sums = _checksums(path)
        if sums is None:
            return
        if sums.pop(EXTRA, None) is not None:
            _write_checksums(draft, sums)
            sync_file(draft)
            draft.replace(path / CHECKSUMS)
            sync_folder(path)
        (path / EXTRA).unlink()


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As `np.savez` writes, which takes no array called "file"."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def _write_checksums(path: Path, sums: Mapping[str, str]) -> None:
    path.write_text(json.dumps({"sha256": sums}), encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Damaged(InputError):
    """A checkpoint that is there and cannot be read, or has changed since it was written."""


def load_latest(
    folder: Path,
    template: PyTree,
    seeds: Sequence[int] = (),
    needed: Collection[str] | None = None,
) -> tuple[int, PyTree]:
    """The latest checkpoint that can be read, and its step.

    One that is damaged is passed over with a warning.

    Args:
        folder: where checkpoints lie.
        template, seeds, needed: as `load_checkpoint` takes them.

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
            state = load_checkpoint(folder, step, template, seeds, needed)
        except Damaged as damaged:
            first = first or damaged
            continue
        if first is not None:
            warnings.warn(
                f"checkpoint {steps[-1]:,} is damaged, so that of step {step:,} is used "
                f"({first.where}: {first.what})",
                UserWarning,
                stacklevel=2,
            )
        return step, state
    assert first is not None
    hint = "no other can be read either: train it again" if len(steps) > 1 else "train it again"
    raise Damaged(first.what, where=first.where, hint=hint)


def load_checkpoint(
    folder: Path,
    step: int | str,
    template: PyTree,
    seeds: Sequence[int] = (),
    needed: Collection[str] | None = None,
) -> PyTree:
    """Read a checkpoint back, with the structure, dtypes, key kinds and devices of `template`.

    Args:
        folder: where checkpoints lie.
        step: which one, by step or by name.
        template: a state of the same structure and shapes, its leaves arrays or, but for random
            keys that are needed, of kind `jax.ShapeDtypeStruct`; its values do not matter.
        seeds: of the members that it must hold, where it says any: xql 0.1 wrote none.
        needed: the leaves to read, by their paths as `jax.tree_util.keystr` writes them; all where
            None. The others stay as they are in `template`, and the checkpoint's extra arrays,
            which may be hundreds of megabytes, are not checked either.

    Raises:
        InputError: there is none, it is damaged, or its leaves or seeds are not these.
    """
    path = _find(folder, step)
    checked = _verify(path, but=() if needed is None else (EXTRA,))
    wanted = _arrays(template)
    read = set(wanted if needed is None else needed)
    arrays = {key: array for key, array in wanted.items() if array.size}
    with warnings.catch_warnings(), _orbax() as checkpointer:
        warnings.simplefilter("ignore")
        leaves_there, seeds_there = _described(checkpointer, path, checked)
        if seeds and seeds_there and seeds_there != [int(seed) for seed in seeds]:
            here, asked = (", ".join(map(str, each)) for each in (seeds_there, seeds))
            raise InputError(
                f"this checkpoint is of seed {here}, config.yaml of seed {asked}",
                where=str(path),
                hint="files of two runs lie in this folder: make the run again",
            )
        if any(key.startswith(_OLD_CONFIG) for key in leaves_there):
            names = {key: key.replace(_CONFIG, _OLD_CONFIG, 1) for key in arrays}
            arrays = {names[key]: array for key, array in arrays.items()}
            wanted = {names.get(key, key): array for key, array in wanted.items()}
            read = {names.get(key, key) for key in read}
        # A hyperparameter that was added since has its default, which changes nothing.
        arrays = {
            key: array
            for key, array in arrays.items()
            if key in leaves_there or not key.startswith((_CONFIG, _OLD_CONFIG))
        }
        _check_leaves(leaves_there, arrays, path)
        arrays = {key: array for key, array in arrays.items() if key in read}
        try:
            arrays = _restored(checkpointer, path, arrays, partial=needed is not None)
        except Exception as error:
            # Orbax wraps whatever stopped the reading of an array into a bare Exception.
            reason = error.__cause__ if type(error) is Exception else error
            # Of these are missing, cut or changed files; a lack of memory, say, is another matter.
            if not isinstance(reason, ValueError | KeyError | OSError):
                raise
            raise _unreadable(path, str(reason)) from error
    leaves, structure = jax.tree.flatten(template)
    restored = [
        _like(leaf, arrays.get(key, array)) if key in read else leaf
        for leaf, (key, array) in zip(leaves, wanted.items(), strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _restored(checkpointer: Any, path: Path, arrays: _Arrays, *, partial: bool) -> _Arrays:
    """The arrays of these names; `partial` where the checkpoint has others too."""
    if not partial:
        return dict(checkpointer.restore(path, arrays))
    import orbax.checkpoint as ocp

    as_numpy = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in arrays}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        asked = ocp.args.PyTreeRestore(item=arrays, restore_args=as_numpy, partial_restore=True)
        return dict(reader.restore(path, args=asked))


def load_extra(folder: Path, step: int | str) -> tuple[_Arrays, dict[str, Any]]:
    """What lies in a checkpoint besides the state.

    Returns:
        The extra arrays by name and the notes: both empty where there are none, as in checkpoints
        of xql 0.1 and 0.2. A checkpoint that has stayed because of `Retention`'s `every` or `best`
        has its notes alone.

    Raises:
        InputError: there is no such checkpoint, or it is damaged.
    """
    path = _find(folder, step)
    sums = _verify(path, (EXTRA, NOTES))
    if sums is None:
        with _orbax() as checkpointer:
            _described(checkpointer, path, sums)
        return {}, {}
    try:
        arrays = read_npz(path / EXTRA) if EXTRA in sums else {}
        notes = parse_json((path / NOTES).read_text(encoding="utf-8")) if NOTES in sums else {}
    except (InputError, OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    if not isinstance(notes, dict):
        raise _unreadable(path, f"{NOTES} is no JSON object")
    return arrays, notes


def flatten(tree: PyTree, prefix: str) -> _Arrays:
    """Each leaf of a pytree as an array, by its path behind `prefix`; random keys as their words.

    On a CPU an array of JAX's is not copied: save it, or copy it, before its memory is donated.
    """
    return {f"{prefix}{key}": array for key, array in _arrays(tree).items()}


def unflatten(arrays: Mapping[str, np.ndarray], prefix: str, template: PyTree) -> PyTree:
    """The pytree that `flatten` was given: structure, dtypes, key kinds, devices of `template`.

    Args:
        arrays: may hold others too.
        prefix: as `flatten` had it.
        template: a pytree of the same structure and shapes; its values do not matter.

    Raises:
        InputError: an array is missing, or of another shape or dtype.
    """
    restored = []
    for key, wanted in flatten(template, prefix).items():
        if key not in arrays:
            raise InputError(f"there is no array '{key}'", hint=_OTHER)
        array = arrays[key]
        if array.dtype.kind == "V" and array.dtype.itemsize == wanted.dtype.itemsize:
            array = array.view(wanted.dtype)  # .npz files do not know bfloat16 by name
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            here, needed = (f"{one.dtype}{list(one.shape)}" for one in (array, wanted))
            what = f"array '{key}' is {here} here and {needed} in this configuration"
            raise InputError(what, hint=_OTHER)
        restored.append(array)
    leaves, structure = jax.tree.flatten(template)
    return jax.tree.unflatten(structure, map(_like, leaves, restored))


def _find(folder: Path, step: int | str) -> Path:
    """Where a checkpoint lies.

    Raises:
        InputError: there is none.
    """
    folder = Path(folder).absolute()
    path = folder / str(step)
    # Between two renames of a save that was killed, only the one before is there.
    for place in (path, set_aside(path)):
        if place.is_dir():
            return place
    have = ", ".join(str(one) for one in _steps(folder)) or "none"
    raise InputError(f"there is no checkpoint {step}", where=str(folder), hint=f"there are: {have}")


def _verify(
    path: Path, only: Collection[str] = (), but: Collection[str] = ()
) -> dict[str, str] | None:
    """Compare a checkpoint's files with their checksums, before anything of them is believed.

    Args:
        path: the checkpoint.
        only: the files to compare; all where empty.
        but: those that are not compared.

    Returns:
        The checksums by file; None where there are none.

    Raises:
        Damaged: a file is missing or not as it was written, or there are no files but pipes, say.
    """
    try:
        require_files(path)
    except InputError as error:
        raise _unreadable(path, f"{error.where}: {error.what}") from None
    sums = _checksums(path)
    for name, digest in (sums or {}).items():
        if name in but or (only and name not in only):
            continue
        if not (path / name).is_file():
            raise _unreadable(path, f"{name} is missing")
        try:
            changed = _sha256(path / name) != digest
        except OSError as error:
            raise _unreadable(path, f"{name}: {error.strerror}") from None
        if changed:
            raise _unreadable(path, f"{name} is not as it was written")
    return sums


def _checksums(path: Path) -> dict[str, str] | None:
    """The SHA-256 of each file of a checkpoint, by its path there; None where none are stored.

    Raises:
        Damaged: they are, and cannot be read.
    """
    try:
        sums = parse_json((path / CHECKSUMS).read_text(encoding="utf-8"))["sha256"]
        for name, digest in sums.items():
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts or not isinstance(digest, str):
                raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise _unreadable(path, f"{CHECKSUMS} is damaged") from None
    return dict(sums)


_Leaves = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def _described(
    checkpointer: Any, path: Path, checked: Mapping[str, str] | None
) -> tuple[_Leaves, list[int]]:
    """What a checkpoint says that it holds: shape and dtype of each leaf, and the members' seeds.

    Raises:
        Damaged: it does not say so, or that it has checksums, and none were there to be checked.
    """
    try:
        metadata = checkpointer.metadata(path)
        leaves = {
            key: (tuple(one.shape), np.dtype(one.dtype))
            for key, one in metadata.item_metadata.tree.items()
        }
        about = metadata.custom_metadata or {}
        seeds = [int(seed) for seed in about.get("seeds", [])]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        # Orbax says None of a description that it cannot read, or raises whatever it meets.
        raise _unreadable(path, "its description is missing or damaged") from None
    if checked is None and _MARK in about:
        raise _unreadable(path, f"{CHECKSUMS} is missing")
    return leaves, seeds


def latest_step(folder: Path) -> int | None:
    """The step of the latest whole checkpoint, or None where there is none."""
    steps = _steps(Path(folder))
    return steps[-1] if steps else None


def _steps(folder: Path) -> list[int]:
    """The steps of the unnamed checkpoints, in order."""
    if not folder.is_dir():
        return []
    names = {_name_of(path) for path in folder.iterdir() if path.is_dir()}
    # Not every decimal digit is one of 0 to 9, and a step is written in one way only.
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def _name_of(path: Path) -> str:
    """A checkpoint's name, also of one that was put aside."""
    aside = re.fullmatch(r"\.(.+)\.old", path.name)
    return aside[1] if aside else path.name


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
        jax.tree_util.keystr(path): _array(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _array(leaf: Any) -> Shaped[np.ndarray, "..."]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _like(leaf: Any, array: Shaped[np.ndarray, "..."]) -> Any:
    """`array` as the kind of thing that the template's `leaf` is."""
    if _is_key(leaf):
        key = jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(leaf))
        return jax.device_put(key, leaf.sharding) if leaf.committed else key
    if isinstance(leaf, jax.Array):
        # A copy: training donates its state, and must not write into memory that numpy owns.
        return jnp.array(array, device=leaf.sharding if leaf.committed else None)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.array(array)
    if isinstance(leaf, np.ndarray):
        return array
    return array.dtype.type(array) if isinstance(leaf, np.generic) else array.item()


def _check_leaves(
    saved: _Leaves,
    wanted: dict[str, Shaped[np.ndarray, "..."]],
    path: Path,
) -> None:
    """Raise for the first leaf that differs between a checkpoint and the state to fill."""
    for key, array in wanted.items():
        if key not in saved:
            raise InputError(f"this checkpoint has no leaf {key}", where=str(path), hint=_OTHER)
        if saved[key] != (array.shape, array.dtype):
            (shape, dtype), needed = saved[key], f"{array.dtype}{list(array.shape)}"
            raise InputError(
                f"leaf {key} is {dtype}{list(shape)} here and {needed} in this configuration",
                where=str(path),
                hint=_OTHER,
            )
    for key in saved:
        if key not in wanted:
            raise InputError(
                f"leaf {key} of this checkpoint has no place in this configuration",
                where=str(path),
                hint=_OTHER,
            )


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """A checkpointer that writes before it returns and says nothing unless it fails."""
    # Imported here because it takes longer than all the rest of a command's start.
    import orbax.checkpoint as ocp

    logger = logging.getLogger("absl")
    logging.getLogger("asyncio").addFilter(_not_late)
    with _LOCK:
        before = sys.unraisablehook
        hook = functools.partial(_unless_late, before)
        sys.unraisablehook = hook
        logger.addFilter(_not_of_orbax)
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                yield checkpointer
            if sys.unraisablehook is hook:
                sys.unraisablehook = before
        finally:
            logger.removeFilter(_not_of_orbax)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Whether to log this, where other threads may log too."""
    return "orbax" not in record.pathname


def _not_late(record: logging.LogRecord) -> bool:
    """Whether to log this: not of arrays that failed after the first, for which nobody waited."""
    text = record.getMessage()
    return not ("exception was never retrieved" in text and "tensorstore" in text)


def _unless_late(hook: Callable[[Any], object], unraisable: Any) -> None:
    """Print nothing of the arrays that fail after the first, also when Orbax has given up by then.

    TensorStore reports each to an event loop that is closed, for which Python prints a traceback.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)

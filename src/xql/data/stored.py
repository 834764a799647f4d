"""Arrays that stay in their file: rows of them are read when they are asked for.

A dataset's arrays are made once and filled block by block, so that opening a file takes little more
memory than the data. Whatever takes rows by slices (`array[first:last]`) takes both a `Stored` and
an array of numpy's.
"""

import contextlib
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from xql.errors import InputError
from xql.files import writing

BLOCK = 4 << 20
"""Bytes of a column that are read at once."""

SMALL = 16 << 20
"""Bytes of an array that is in memory in any case."""

Read = Callable[[int, int], np.ndarray]
"""Gives the rows from the first on, up to the last, which is not one of them."""


class Stored:
    """An array whose rows lie in a file, or are computed from such rows.

    Attributes:
        shape, dtype: as of an array.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, read: Read) -> None:
        self.shape, self.dtype, self._read = tuple(shape), np.dtype(dtype), read

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> Any:
        if isinstance(rows, int):
            return self._read(rows, rows + 1)[0]
        first, last, step = rows.indices(len(self))
        return self._read(first, max(first, last))[::step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.empty(self.shape, dtype or self.dtype)
        for rows in blocks(self):
            whole[rows] = self[rows]
        return whole


Readable = np.ndarray | Stored


def rows_at_once(array: Readable) -> int:
    """How many rows take `BLOCK` bytes."""
    return max(1, BLOCK // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))


def blocks(array: Readable) -> Iterator[slice]:
    """The rows of an array, some at a time."""
    size = rows_at_once(array)
    for first in range(0, len(array), size):
        yield slice(first, min(first + size, len(array)))


def kept(shape: Sequence[int], dtype: Any, read: Read, multiple: int = 1) -> Stored:
    """An array of a file that is read in blocks, of which the last one read is kept.

    Args:
        shape, dtype: of the array.
        read: reads rows from the file.
        multiple: what the rows of a block are a multiple of, as the rows of a compressed chunk.
    """
    size = rows_at_once(Stored(shape, dtype, read))
    size = max(1, size // multiple) * multiple
    last_read: list[Any] = [-1, None]

    def block(number: int) -> np.ndarray:
        if last_read[0] != number:
            last_read[:] = -1, None  # not two at once
            last_read[:] = number, read(number * size, min((number + 1) * size, shape[0]))
        found: np.ndarray = last_read[1]
        return found

    def rows(first: int, last: int) -> np.ndarray:
        if first >= last:
            return np.empty((0, *shape[1:]), dtype)
        numbers = range(first // size, (last - 1) // size + 1)
        parts = []
        for number in numbers:
            part = block(number)
            part = part[max(first - number * size, 0) : last - number * size]
            parts.append(part if number == numbers[-1] else part.copy())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return Stored(shape, dtype, rows)


def flat(array: Readable) -> Readable:
    """The same with one axis beside the rows."""
    if array.ndim == 2:
        return array
    width = math.prod(array.shape[1:])
    return Stored(
        (len(array), width),
        array.dtype,
        lambda first, last: array[first:last].reshape(last - first, width),
    )


def taken(array: Readable, rows: np.ndarray) -> Stored:
    """Some of the rows, whose numbers ascend."""

    def read(first: int, last: int) -> np.ndarray:
        wanted = rows[first:last]
        if len(wanted) == 0:
            return np.asarray(array[0:0])
        there = np.asarray(array[int(wanted[0]) : int(wanted[-1]) + 1])
        found: np.ndarray = there[wanted - wanted[0]]
        return found

    return Stored((len(rows), *array.shape[1:]), array.dtype, read)


def beside(columns: Sequence[np.ndarray]) -> Stored:
    """Columns of one number each, as the columns of one array."""

    def read(first: int, last: int) -> np.ndarray:
        return np.stack([column[first:last] for column in columns], axis=1)

    dtypes = [column.dtype for column in columns]
    # Dates and numbers have no type in common: of the dates, then, and not read.
    other = next((dtype for dtype in dtypes if dtype.kind not in "fiub"), None)
    dtype = np.result_type(*dtypes) if other is None else other
    return Stored((len(columns[0]), len(columns)), dtype, read)


_ON_DISK: ContextVar[bool] = ContextVar("on_disk", default=False)


@contextlib.contextmanager
def on_disk(wanted: bool = True) -> Iterator[None]:
    """Datasets that are opened in the block have their arrays in files, mapped into memory.

    The files have no name and are gone with the arrays. They lie in TMPDIR; where that is not set,
    in /var/tmp, since /tmp may be memory.
    """
    before = _ON_DISK.set(wanted)
    try:
        yield
    finally:
        _ON_DISK.reset(before)


def is_on_disk() -> bool:
    """Whether the arrays of datasets are to lie in files."""
    return _ON_DISK.get()


class _File(mmap.mmap):
    """A file of ours. Of one that the user has mapped, what was written may be in memory alone."""


def mapped(shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros in float32 that lies in a file.

    Raises:
        InputError: there is no room for it.
    """
    size = max(1, 4 * math.prod(shape))
    here = os.environ.get("TMPDIR")
    folder = here or ("/var/tmp" if Path("/var/tmp").is_dir() else tempfile.gettempdir())
    with writing(folder, "file for data"), tempfile.TemporaryFile(dir=folder) as file:
        free = shutil.disk_usage(folder).free
        if size > free:
            what = f"the data needs {size / 2**30:,.1f} GiB, and {free / 2**30:,.1f} are free"
            raise InputError(what, where=folder, hint="make room, or set TMPDIR to another folder")
        if hasattr(os, "posix_fallocate"):
            # Else a disk that is full by then would end the process.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        whole = _File(file.fileno(), size)
    return np.frombuffer(whole, np.float32, math.prod(shape)).reshape(shape)


def release(array: np.ndarray) -> None:
    """Give back the memory of an array of `mapped`, whose numbers stay in its file."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    if isinstance(base, _File) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)

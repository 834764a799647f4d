"""One process at a time writes to a run folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from xql.errors import InputError
from xql.files import writing

NAME = ".lock"
"""The file in the run folder. Its being there says nothing: the system lets go of a lock when the
process that holds it ends, however it ends."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for the block.

    Raises:
        InputError: another process holds it, or the lock cannot be written.
    """
    # Imported here, since no reader of a run needs it.
    import filelock

    lock = filelock.FileLock(folder / NAME, timeout=0, thread_local=False)
    with writing(folder, "lock"):
        try:
            lock.acquire()
        except filelock.Timeout:
            raise InputError(
                "another process is writing to this run",
                where=str(folder),
                hint="wait until it has ended, or stop it",
            ) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether another process writes to a run folder by now, as far as can be seen."""
    import filelock

    if not (folder / NAME).exists():
        return False
    try:
        with filelock.FileLock(folder / NAME, timeout=0, thread_local=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # it may not even be opened here
        return False

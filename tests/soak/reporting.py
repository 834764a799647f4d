"""The command line of `xql`, which notes where it is: `python tests/soak/reporting.py FILE WORDS…`.

The notes are eight-byte numbers in a file that is mapped into memory, so that they survive the
process whenever it is killed. Nothing that a run computes or writes depends on them.
"""

import mmap
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NOTE_BYTES = 8 * 5


class Phase(IntEnum):
    """What the main thread does."""

    starting = 0
    training = 1
    logging = 2
    saving = 3
    evaluating = 4
    ending = 5


class Notes(NamedTuple):
    """Where a process was."""

    phase: Phase
    start: int
    """The step that it started from; -1 until its first update is done, or its evaluation begun."""
    step: int
    """The last step that was done, or online dispatched."""
    begun: int
    """The step of the last save that was begun."""
    saved: int
    """The step of the last save that was finished; at first `start`."""


def read_notes(path: Path) -> Notes:
    """What a process has noted by now."""
    phase, *rest = np.frombuffer(path.read_bytes(), np.int64).tolist()
    return Notes(Phase(phase), *rest)


def prepare(path: Path) -> None:
    """Make the file for a process that is to start."""
    path.write_bytes(np.array([Phase.starting, -1, 0, 0, 0], np.int64).tobytes())


def _report(path: Path) -> None:
    """Let the parts of a run note where they are."""
    from xql.runs import checkpoints
    from xql.training import online
    from xql.training.run_logger import RunLogger

    with path.open("r+b") as file:
        notes = np.frombuffer(mmap.mmap(file.fileno(), NOTE_BYTES), np.int64)
    PHASE, START, STEP, BEGUN, SAVED = range(5)
    first = [0]

    def during(phase: Phase, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = notes[PHASE]
            notes[PHASE] = phase
            try:
                return function(*args, **kwargs)
            finally:
                notes[PHASE] = before

        return call

    def at_step(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: RunLogger, step: int, *args: Any, **kwargs: Any) -> Any:
            notes[STEP], notes[START] = step, first[0]
            return function(self, step, *args, **kwargs)

        return call

    logger: Any = RunLogger
    writer: Any = checkpoints.CheckpointWriter
    saves: Any = checkpoints
    make, save, write = logger.__init__, writer.save, saves._write

    def start(self: RunLogger, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        saved = kwargs["saved"]
        first[0] = 0 if saved is None else saved.step
        notes[STEP] = notes[BEGUN] = notes[SAVED] = first[0]
        notes[PHASE] = Phase.training

    def begun(self: Any, folder: Path, step: int, *args: Any, **kwargs: Any) -> None:
        notes[BEGUN] = step
        save(self, folder, step, *args, **kwargs)

    def written(folder: Path, step: int, *args: Any) -> Any:
        path = write(folder, step, *args)
        notes[SAVED] = step
        return path

    logger.__init__ = start
    saves._write = written
    logger.metrics = during(Phase.logging, at_step(logger.metrics))
    logger._save = during(Phase.saving, logger._save)
    # By then the save before has been waited for.
    writer.save = begun
    # It waits for the save, then evaluates.
    logger.milestone = during(Phase.saving, at_step(logger.milestone))
    logger.between = at_step(logger.between)
    logger._evaluate = during(Phase.evaluating, logger._evaluate)
    logger.verdict = during(Phase.ending, logger.verdict)
    online._save_replay = during(Phase.ending, online._save_replay)


if __name__ == "__main__":
    from xql.cli import main

    _report(Path(sys.argv[1]))
    main(sys.argv[2:])

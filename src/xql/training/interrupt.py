"""SIGINT and SIGTERM while a run trains: what is learned is saved before the process ends.

A signal that raised an exception at once could come between an update and the assignment of its
result, when the old state has given up its memory to the new one.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from xql.errors import Terminated


class Interruption:
    """Whether a signal has asked the run to end.

    Attributes:
        requested: the signal; None as long as there was none.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._holding = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested is not None
        self.requested = number
        if again or not self._holding:
            self.end()

    def end(self) -> None:
        """End the run, as the signal asked for.

        Raises:
            KeyboardInterrupt, Terminated: always.
        """
        raise Terminated if self.requested == signal.SIGTERM else KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Only note a first signal while the block runs; a second one ends it.

        Raises:
            KeyboardInterrupt, Terminated: the block is over, and a signal had come.
        """
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self.requested is not None:
            self.end()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Within `held`: nothing is lost here, so that a signal ends the block at once."""
        if not self._holding:
            yield
            return
        if self.requested is not None:
            self.end()
        self._holding = False
        try:
            yield
        finally:
            self._holding = True


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Handle SIGINT and SIGTERM for the block; in another than the main thread, neither comes.

    What the process ignores, it goes on to ignore.
    """
    state = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Whoever started the process may have asked it to ignore one, as a script does for
            # what it runs in the background.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, state._handle)
        yield state
    finally:
        for number, handler in before.items():
            # None is a handler that was not set from Python, which Python cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

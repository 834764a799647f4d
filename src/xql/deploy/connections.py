"""Connections that a client opens to `xql serve` and does not use, and how they end.

The limits of `xql.deploy.service.Gate` are about requests whose head is there. uvicorn itself waits
for ever for a head that comes byte by byte, or not at all, and for a client that does not read its
answer.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Impatient(H11Protocol):
    """HTTP as uvicorn speaks it, over connections that may not idle; see `impatient`."""

    seconds = 10.0
    most = 256

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._reader_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._forget_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_reader()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # it waits until the answer has been taken
            self._set_deadline()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.transport.abort()  # what it has not read by now, it does not read

    def _await_head(self) -> None:
        """Set a deadline where the head of a request is due, however much of it is there."""
        # cycle is the request that is answered now, or was last.
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_deadline()
        else:
            self._set_deadline()

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.transport.abort)

    def _await_reader(self) -> None:
        """Set a deadline where more of an answer has been written than the client takes."""
        if self._reader_deadline is None:
            self._reader_deadline = self.loop.call_later(self.seconds, self.transport.abort)

    def _forget_reader(self) -> None:
        if self._reader_deadline is not None:
            self._reader_deadline.cancel()
            self._reader_deadline = None

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def impatient(seconds: float, most: int) -> type[Impatient]:
    """What `uvicorn.Config` takes as `http`.

    Args:
        seconds: until the whole head of a request must have come, and until its answer must have
            been taken.
        most: open connections; one more is closed at once.
    """
    return type("Impatient", (Impatient,), {"seconds": seconds, "most": most})

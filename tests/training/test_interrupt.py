"""What a signal does to a run, by where it comes."""

import os
import signal
from collections.abc import Iterator

import pytest

from xql.errors import Terminated
from xql.training.interrupt import interruption


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """As in a terminal: where tests run in the background, SIGINT may be ignored."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption() as stop, stop.held():
        send(signal.SIGINT)
    assert stop.requested is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_is_noted_while_held_and_ends_the_block_after_it(
    number: int, error: type[BaseException]
) -> None:
    done = []
    with pytest.raises(error), interruption() as stop, stop.held():
        send(number)
        done.append(stop.requested)
    assert done == [number]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruption() as stop, stop.held():
        send(signal.SIGINT)
        done.append(1)
        send(signal.SIGINT)
        done.append(2)
    assert done == [1]


def test_where_nothing_is_lost_a_signal_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruption() as stop, stop.held(), stop.released():
        done.append(1)
        send(signal.SIGINT)
        done.append(2)
    assert done == [1]
    with pytest.raises(KeyboardInterrupt), interruption() as stop, stop.held():
        send(signal.SIGINT)
        with stop.released():
            done.append(3)
    assert done == [1]
    with pytest.raises(Terminated), interruption():
        send(signal.SIGTERM)

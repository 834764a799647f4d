"""What the updates of an offline run draw from: all of its data, or shuffled buffers of it.

All of the data lies in the device's memory where it fits. Where it does not, it is streamed:

    data in a file   |b0|b1|b2|b3|b4|b5|b6|b7|...        blocks of 256 consecutive transitions
    epoch 1           b5 b0 b7 b2 | b3 b6 b1 b4 | ...     in an order of its own in each epoch
    buffers                 0     |      1      | ...     of 262,144 transitions

The updates draw from one buffer, uniformly with replacement, until as many transitions were drawn
as it holds; meanwhile a thread fills the next. In each epoch every transition is in a buffer
exactly once. Which buffer an update draws from, and what is in it, depends on the update's number
and the number of transitions alone: a run that goes on has the same ones again.

It differs from draws from all of the data in three ways. A transition is not drawn again until the
data has gone by. Those of a block are drawn in the same updates, so that batches vary more, as if
they were of a buffer's 1,024 blocks instead of single transitions. And of a block's last
transition, the action that follows is not known (`Batch.next_acted`), which ReBRAC alone asks for.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int64

from xql.data.dataset import Dataset, DeviceData, empty
from xql.data.scaling import Scaling, scale_rows
from xql.data.stored import release

BUFFER = 2**18
"""Transitions of a buffer."""
BLOCK = 256
"""Transitions that are read at once: 60 kB at 60 numbers, which disks read as fast as more."""
SEED = 0
"""Of the order of the blocks. The members of a population share the buffers."""

DataSource = Callable[[int], tuple[DeviceData, int]]
"""Gives, for the number of updates that are done, what the next ones draw from and how many may."""

ALL = 1 << 62


def all_of(data: DeviceData) -> DataSource:
    """A source that always is all of the data."""
    return lambda step: (data, ALL)


class Piece(NamedTuple):
    """Consecutive transitions, from the first to before the last."""

    first: int
    last: int


class Order:
    """The order of all transitions, epoch after epoch without an end."""

    def __init__(self, transitions: int) -> None:
        self.transitions = transitions
        self._blocks = -(-transitions // BLOCK)
        self._epoch = -1
        self._order: Int64[np.ndarray, " blocks"]
        self._ends: Int64[np.ndarray, " blocks"]

    def pieces(self, position: int, count: int) -> Iterator[Piece]:
        """The transitions from a position on, which count over all epochs."""
        while count > 0:
            epoch, place = divmod(position, self.transitions)
            self._require(epoch)
            index = int(np.searchsorted(self._ends, place, side="right"))
            block = int(self._order[index])
            stop = min((block + 1) * BLOCK, self.transitions)
            first = stop - (int(self._ends[index]) - place)
            last = min(stop, first + count)
            yield Piece(first, last)
            position += last - first
            count -= last - first

    def _require(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._order = np.random.default_rng([SEED, epoch]).permutation(self._blocks)
            sizes = np.minimum(BLOCK, self.transitions - self._order * BLOCK)
            self._ends, self._epoch = np.cumsum(sizes), epoch


class Stream:
    """A `DataSource` of shuffled buffers; the thread ends with `close`.

    Attributes:
        size: transitions of a buffer.
        updates: that draw from a buffer.
        rewards: the lowest and the highest, and 0, which ends each episode's rows.
    """

    def __init__(
        self,
        dataset: Dataset,
        scaling: Scaling,
        *,
        size: int,
        drawn: int,
        sharding: jax.sharding.Sharding,
        returns: Float32[np.ndarray, " rows"] | None = None,
    ) -> None:
        """Fill nothing yet.

        Args:
            dataset: with scaled rewards and raw observations; in memory or in files.
            scaling: of the observations.
            size: transitions of a buffer, if there are as many.
            drawn: transitions that an update draws.
            sharding: where the buffers are to lie.
            returns: as `Dataset.to_device` takes them.
        """
        self._dataset, self._scaling, self._sharding = dataset, scaling, sharding
        self._returns = returns
        self.rewards = float(dataset.rewards.min()), float(dataset.rewards.max())
        self.size = min(size, dataset.transitions)
        self.updates = max(1, self.size // drawn)
        self._order = Order(dataset.transitions)
        self._last = np.cumsum(dataset.lengths)
        blocks = np.arange(0, dataset.transitions, BLOCK)
        ends = np.minimum(blocks + BLOCK, dataset.transitions) - 1
        widest = int((self._row(ends) - self._row(blocks)).max()) + 2
        # A buffer begins and ends within a block, and so may an epoch.
        self._capacity = (self.size // BLOCK + 4) * widest
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._buffers: dict[int, Future[DeviceData]] = {}

    def __call__(self, step: int) -> tuple[DeviceData, int]:
        """As `DataSource` says; the next buffer is filled from here on."""
        number, done = divmod(step, self.updates)
        wanted = (number, number + 1)
        self._buffers = {
            one: self._buffers.get(one) or self._pool.submit(self._fill, one) for one in wanted
        }
        return self._buffers[number].result(), self.updates - done

    def close(self) -> None:
        """Wait for the thread to end."""
        self._pool.shutdown(cancel_futures=True)

    def _row(self, transitions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows that hold them: each episode before has one row more."""
        return np.asarray(transitions + self._episode(transitions))

    def _episode(self, transitions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        return np.searchsorted(self._last, transitions, side="right")

    def _fill(self, number: int) -> DeviceData:
        dataset, rows, filled = self._dataset, self._capacity, 0
        observations = empty((rows, dataset.observation_size))
        actions = empty((rows, dataset.action_size))
        rewards, masks = empty((rows,)), empty((rows,))
        returns = None if self._returns is None else empty((rows,))
        starts = []
        for piece in self._order.pieces(number * self.size, self.size):
            transitions = np.arange(piece.first, piece.last)
            episode = self._episode(transitions)
            places = transitions + episode
            source = slice(int(places[0]), int(places[-1]) + 2)
            target = slice(filled, filled + source.stop - source.start)
            observations[target] = dataset.observations[source]
            actions[target] = dataset.actions[source]
            rewards[target] = dataset.rewards[source]
            if returns is not None and self._returns is not None:
                returns[target] = self._returns[source]
            own = places - source.start + filled
            ends = dataset.terminated[episode] & (transitions + 1 == self._last[episode])
            masks[target] = 1.0
            masks[own[ends]] = 0.0
            starts.append(own)
            filled = target.stop
            # A page that is read brings many beside it.
            release(dataset.observations)
            release(dataset.actions)
        for array in (observations, actions, rewards, masks, returns):
            if array is not None:
                array[filled:] = 0.0  # drawn by no update
        scale_rows(observations[:filled], self._scaling)
        place = functools.partial(jax.device_put, device=self._sharding)
        return DeviceData(
            observations=place(observations),
            actions=place(actions),
            rewards=place(rewards),
            masks=place(masks),
            starts=place(np.concatenate(starts).astype(np.int32)),
            returns=None if returns is None else place(returns),
        )

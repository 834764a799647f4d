"""The ring buffer: what goes in comes out, the oldest rows go first, batches see what is filled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import spec_of
from xql.errors import InputError
from xql.training.replay import Rows, empty_replay, insert, pack, ring_capacity, sample

SPEC = spec_of(2, 1)


def numbered(step: int, members: int, rows: int) -> Rows:
    """Transitions with their step, member and row in every column."""
    numbers = 100.0 * step + 10.0 * np.arange(members)[:, None] + np.arange(rows)
    numbers = numbers.astype(np.float32)
    observations = np.stack([numbers, numbers + 0.25], -1)
    return Rows(observations, numbers[..., None] + 0.5, numbers, numbers + 1, observations + 0.125)


def test_what_is_packed_is_what_is_stored() -> None:
    rows = numbered(3, members=2, rows=2)
    replay = insert(empty_replay(2, 6, SPEC), jnp.asarray(pack(rows)), jnp.int32(4))
    for name in Rows._fields:
        stored = np.asarray(getattr(replay, name))
        np.testing.assert_array_equal(stored[:, 4:], getattr(rows, name))
        assert not stored[:, :4].any()


def test_the_ring_wraps_around_and_forgets_the_oldest() -> None:
    capacity = ring_capacity(7, steps=1000, environments=2)
    assert capacity == 6
    replay = empty_replay(1, capacity, SPEC)
    for step in range(5):
        position = jnp.int32(2 * step % capacity)
        replay = insert(replay, jnp.asarray(pack(numbered(step, 1, 2))), position)
    # Steps 0 to 4 wrote blocks 0, 1, 2, 0, 1.
    assert replay.rewards[0].tolist() == [300.0, 301.0, 400.0, 401.0, 200.0, 201.0]
    assert replay.actions[0, :, 0].tolist() == [300.5, 301.5, 400.5, 401.5, 200.5, 201.5]


def test_batches_come_from_the_filled_rows_alone_and_reach_them_all() -> None:
    replay = empty_replay(1, 8, SPEC)
    for step in range(3):
        replay = insert(replay, jnp.asarray(pack(numbered(step + 1, 1, 1))), jnp.int32(step))
    one = jax.tree.map(lambda column: column[0], replay)
    batch = sample(one, jax.random.key(0), jnp.int32(3), 200)
    assert set(batch.rewards.tolist()) == {100.0, 200.0, 300.0}
    # Every row is a whole transition.
    np.testing.assert_array_equal(batch.observations[:, 0], batch.rewards)
    np.testing.assert_array_equal(batch.actions[:, 0], batch.rewards + 0.5)
    np.testing.assert_array_equal(batch.next_observations[:, 1], batch.rewards + 0.375)
    np.testing.assert_array_equal(batch.masks, batch.rewards + 1)


def test_capacity_is_never_more_than_the_run_fills() -> None:
    assert ring_capacity(1_000_000, steps=3000, environments=4) == 3000
    with pytest.raises(InputError, match="`buffer` at least 4"):
        ring_capacity(3, steps=100, environments=4)

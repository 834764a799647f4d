"""The ring buffer: what goes in comes out, the oldest rows go first, batches see what is filled."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import spec_of
from xql.data.actions import box
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.runs.config import DataConfig, Member, OnlineLoop, RunConfig
from xql.training.replay import (
    Rows,
    empty_replay,
    insert,
    pack,
    read_episode_lengths,
    read_replay,
    ring_capacity,
    sample,
)

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


def kept(path: Path, **changes: Any) -> RunConfig:
    """A replay.npz of 2 members and 40 rows, changed, and the configuration of its run."""
    rows = (2, 40)
    columns = {
        "observations": np.zeros((*rows, 3), np.float32),
        "actions": np.zeros((*rows, 1), np.float32),
        "rewards": np.zeros(rows, np.float32),
        "masks": np.ones(rows, np.float32),
        "next_observations": np.zeros((*rows, 3), np.float32),
        "episode_lengths_0": np.array([10, 20]),
        "episode_lengths_1": np.array([], float),
    } | changes
    np.savez(path, **{name: column for name, column in columns.items() if column is not None})
    return RunConfig(
        agent="td3",
        preset="none",
        steps=60,
        members=(Member(0), Member(1)),
        hyperparameters=None,
        scaling=Scaling("raw", "raw", 1.0, 0.0, np.zeros(3, np.float32), np.ones(3, np.float32)),
        data=DataConfig("line", "", 3, box([-1.0], [1.0])),
        environment="Line-v0",
        loop=OnlineLoop(warmup=20, buffer=41, environments=2),
    )


def test_what_a_run_kept_is_read_back(tmp_path: Path) -> None:
    config = kept(tmp_path / "replay.npz")
    rows = read_replay(tmp_path / "replay.npz", config)
    assert rows.observations.shape == (2, 40, 3) and rows.masks.all()
    assert read_episode_lengths(tmp_path / "replay.npz", 60) == [10, 20]
    with pytest.raises(InputError, match="an offline run keeps no replay buffer"):
        read_replay(tmp_path / "replay.npz", dataclasses.replace(config, loop=None))


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "no rewards": ({"rewards": None}, "there is no 'rewards'"),
    "a member less": (
        {"rewards": np.zeros((1, 40), np.float32)},
        "'rewards' is float32[1, 40], not numbers [2, 40]",
    ),
    "a row less": (
        {"masks": np.ones((2, 39), np.float32)},
        "'masks' is float32[2, 39], not numbers",
    ),
    "wider": ({"actions": np.zeros((2, 40, 2), np.float32)}, "'actions' is float32[2, 40, 2], not"),
    "an axis less": (
        {"observations": np.zeros((2, 40), np.float32)},
        "'observations' is float32[2, 40], not",
    ),
    "scalar": ({"rewards": np.float32(0)}, "'rewards' is float32[], not numbers"),
    "texts": ({"rewards": np.full((2, 40), "a")}, "'rewards' is <U1[2, 40], not numbers"),
    "NaN": ({"rewards": np.full((2, 40), np.nan, np.float32)}, "NaN in rewards, row 0"),
    "infinity": ({"actions": np.full((2, 40, 1), np.inf, np.float32)}, "infinity in actions, row"),
    "mask": ({"masks": np.full((2, 40), 0.5, np.float32)}, "a mask is neither 0 nor 1"),
    "objects": ({"masks": np.full((2, 40), None)}, "'masks' holds Python objects (a pickle)"),
    "no lengths": ({"episode_lengths_0": None}, "there is no 'episode_lengths_0'"),
    "length 0": ({"episode_lengths_0": np.array([0])}, "episode_lengths_0 is not the lengths"),
    "too long": ({"episode_lengths_0": np.array([30, 31])}, "episode_lengths_0 is not the length"),
    "overflow": ({"episode_lengths_0": np.array([2**62, 2**62])}, "episode_lengths_0 is not the"),
    "fractions": ({"episode_lengths_0": np.array([1.5])}, "episode_lengths_0 is not the lengths"),
    "square": ({"episode_lengths_0": np.array([[1]])}, "episode_lengths_0 is not the lengths of"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_buffer_is_one_line(tmp_path: Path, case: str) -> None:
    changes, line = DAMAGE[case]
    path = tmp_path / "replay.npz"
    config = kept(path, **changes)
    with pytest.raises(InputError) as caught:
        read_replay(path, config)
        read_episode_lengths(path, config.steps)
    assert str(caught.value).startswith(f"{path}: {line}")

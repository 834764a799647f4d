"""The layout: which rows hold what, and that a mask is 0 at true terminations only."""

from typing import Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xql.data.actions import Box, box
from xql.data.dataset import Dataset, Episode, empty
from xql.errors import InputError


def column(*values: Any) -> Any:
    return np.array(values, np.float32)[:, None]


def test_hand_computed_layout() -> None:
    """Two episodes of 3 and 2 steps; the first terminates, the second is cut by a time limit."""
    data = Dataset.from_arrays(
        observations=column(0, 1, 2, 10, 11),
        actions=column(5, 6, 7, 8, 9),
        rewards=np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        terminated=np.array([0, 0, 1, 0, 0]),
        truncated=np.array([0, 0, 0, 0, 1]),
        next_observations=column(1, 2, 3, 11, 12),
    )
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 2, 3, 10, 11, 12])
    np.testing.assert_array_equal(data.actions[:, 0], [5, 6, 7, 0, 8, 9, 0])
    np.testing.assert_array_equal(data.rewards, [1, 2, 3, 0, 4, 5, 0])
    np.testing.assert_array_equal(data.masks, [1, 1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(data.starts, [0, 1, 2, 4, 5])
    np.testing.assert_array_equal(data.firsts, [0, 4])
    assert data.firsts is data.firsts  # `episode` needs them each time
    np.testing.assert_array_equal(data.returns, [6, 9])
    assert (data.transitions, data.episodes, len(data)) == (5, 2, 2)
    assert (data.observation_size, data.action_size) == (1, 1)
    second = data.episode(1)
    np.testing.assert_array_equal(second.observations[:, 0], [10, 11, 12])
    assert not second.terminated
    assert second.truncated


def test_without_next_observations_a_truncated_episode_loses_its_last_step() -> None:
    data = Dataset.from_arrays(
        column(0, 1, 2, 10, 11, 20),
        column(*range(6)),
        np.arange(6.0),
        terminated=np.array([0, 0, 0, 0, 1, 0], bool),
        truncated=np.array([0, 0, 1, 0, 0, 1], bool),
    )
    # The one-step third episode has no known outcome at all, so nothing of it is left.
    np.testing.assert_array_equal(data.lengths, [2, 2])
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 2, 10, 11, 11])
    np.testing.assert_array_equal(data.masks[data.starts], [1, 1, 1, 0])
    np.testing.assert_array_equal(data.truncated, [True, False])


@pytest.mark.parametrize(
    ("rewards", "between"),
    [
        ([1.0, 2.5, 4.0, 3.0, 2.0], "[1, 4]"),  # not 0, the padding of each final row
        ([-1.0, np.nan, -2.0, -3.0, -4.0], "[nan, nan]"),
    ],
)
def test_it_is_shown_in_one_line(rewards: list[float], between: str) -> None:
    data = Dataset.from_arrays(
        observations=column(0, 1, 2, 10, 11),
        actions=column(5, 6, 7, 8, 9),
        rewards=np.array(rewards),
        terminated=np.array([0, 0, 1, 0, 1]),
        name="log\n'of' mine",
    )
    assert repr(data) == (
        "Dataset(name=\"log\\\\n'of' mine\", transitions=5, episodes=2, observation_size=1, "
        f"action_size=1, rewards={between})"
    )


def test_an_unflagged_break_in_next_observations_is_never_bridged() -> None:
    data = Dataset.from_arrays(
        column(0, 1, 50, 51),
        column(0, 0, 0, 0),
        np.zeros(4),
        np.zeros(4, bool),
        next_observations=column(1, 2, 51, 52),
    )
    np.testing.assert_array_equal(data.lengths, [2, 2])
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 2, 50, 51, 52])
    assert not (data.terminated | data.truncated).any()
    assert data.masks.all()


def test_episode_labels_end_episodes() -> None:
    data = Dataset.from_arrays(
        column(0, 1, 2, 3),
        column(0, 0, 0, 0),
        np.zeros(4),
        np.zeros(4, bool),
        next_observations=column(1, 2, 3, 4),
        episode=np.array([7, 7, 3, 3]),
    )
    np.testing.assert_array_equal(data.lengths, [2, 2])


@st.composite
def steps(draw: Any) -> Any:
    count = draw(st.integers(1, 40))
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    terminated, truncated = np.array(draw(flags)), np.array(draw(flags))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {
        "observations": rng.normal(size=(count, 3)).astype(np.float32),
        "actions": rng.normal(size=(count, 2)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminated": terminated,
        "truncated": truncated,
        "next_observations": rng.normal(size=(count, 3)).astype(np.float32),
    }


@given(steps(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_transition_survives_the_layout(columns: Any, continuous: Any) -> None:
    if continuous:  # what follows a step is the next row, except where a flag says otherwise
        ends = columns["terminated"] | columns["truncated"]
        inner = np.flatnonzero(~ends[:-1])
        columns["next_observations"][inner] = columns["observations"][inner + 1]
    data = Dataset.from_arrays(**columns)
    rows = data.starts
    np.testing.assert_array_equal(data.observations[rows], columns["observations"])
    np.testing.assert_array_equal(data.observations[rows + 1], columns["next_observations"])
    np.testing.assert_array_equal(data.actions[rows], columns["actions"])
    np.testing.assert_array_equal(data.rewards[rows], columns["rewards"])
    np.testing.assert_array_equal(data.masks[rows] == 0, columns["terminated"])
    padding = np.setdiff1d(np.arange(len(data.rewards)), rows)
    assert not data.rewards[padding].any()
    assert not data.actions[padding].any()
    assert data.masks[padding].all()


@given(steps())
@settings(deadline=None, max_examples=30)
def test_from_episodes_rebuilds_the_same_data(columns: Any) -> None:
    data = Dataset.from_arrays(**columns)
    again = Dataset.from_episodes(list(data))
    for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))


def test_on_the_cpu_the_device_arrays_are_the_hosts_own_memory() -> None:
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(1000, 3)).astype(np.float32)
    data = Dataset.from_arrays(observations, observations, observations[:, 0], np.zeros(1000, bool))
    device = data.to_device()
    for name in ("observations", "actions", "rewards"):
        host = getattr(data, name)
        assert host.ctypes.data % 64 == 0
        assert getattr(device, name).unsafe_buffer_pointer() == host.ctypes.data
        assert not host.flags.writeable
    np.testing.assert_array_equal(device.starts, data.starts)
    np.testing.assert_array_equal(device.masks, data.masks)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (17, 2)])
def test_empty_is_aligned(shape: tuple[Any, ...]) -> None:
    array = empty(shape)
    assert array.shape == shape
    assert array.ctypes.data % 64 == 0


def episode(length: Any) -> Any:
    zeros = np.zeros((length, 1), np.float32)
    return Episode(np.zeros((length + 1, 1), np.float32), zeros, zeros[:, 0], False, False)


def test_bad_input_is_told_in_one_line() -> None:
    with pytest.raises(InputError, match=r"^there is no episode; give at least one$"):
        Dataset.from_episodes([])
    with pytest.raises(InputError, match=r"^unnamed: episode 1 has length 0; leave it out"):
        Dataset.from_episodes([episode(2), episode(0)])
    with pytest.raises(InputError, match=r"^unnamed: observations has 4 rows, .* need 3; each"):
        Dataset(
            np.zeros((4, 1), np.float32),
            np.zeros((4, 1), np.float32),
            np.zeros(4, np.float32),
            np.array([2]),
            np.array([False]),
            np.array([False]),
        )
    two = column(0, 1)
    with pytest.raises(InputError, match=r"^arrays: there is no step; give at least one$"):
        Dataset.from_arrays(two[:0], two[:0], two[:0, 0], two[:0, 0])
    with pytest.raises(InputError, match=r"^arrays: no step has a known outcome; give next_obs"):
        Dataset.from_arrays(two[:1], two[:1], two[:1, 0], np.zeros(1))


SOUND: dict[str, Any] = {
    "observations": np.zeros((3, 1), np.float32),
    "actions": np.zeros((3, 2), np.float32),
    "rewards": np.zeros(3, np.float32),
    "lengths": np.array([2]),
    "terminated": np.array([False]),
    "truncated": np.array([False]),
}
LOW, HIGH = np.array([-1, -1], np.float32), np.array([1, 1], np.float32)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"observations": np.zeros((3, 1))},
            "observations is float64 with 2 axes; make it float32 with 2",
        ),
        (
            {"actions": np.zeros(3, np.float32)},
            "actions is float32 with 1 axes; make it float32 with 2",
        ),
        (
            {"rewards": np.zeros((3, 1), np.float32)},
            "rewards is float32 with 2 axes; make it float32 with 1",
        ),
        ({"lengths": np.array([2.0])}, "lengths is float64 with 1 axes; make it int64 with 1"),
        ({"terminated": np.array([0])}, "terminated is int64 with 1 axes; make it bool with 1"),
        (
            {"truncated": np.array([False, True])},
            "truncated has 2 values for 1 episodes; give one for each episode",
        ),
        (
            {"action_low": LOW[:1]},
            "action_low is float32 of shape (1,); make it float32, one for each of the 2 action "
            "columns",
        ),
        (
            {"action_high": HIGH.astype(float)},
            "action_high is float64 of shape (2,); make it float32, one for each of the 2 action "
            "columns",
        ),
        (
            {"action_low": LOW, "action_high": np.array([1, np.inf], np.float32)},
            "action_high is inf in column 1; bounds must be finite; leave both out if there are "
            "none",
        ),
        (
            {"action_low": np.array([np.nan, 0], np.float32), "action_high": HIGH},
            "action_low is nan in column 0; bounds must be finite; leave both out if there are "
            "none",
        ),
        (
            {"action_low": np.array([-1, 1], np.float32), "action_high": HIGH},
            "action_low 1 is not below action_high 1 in column 1; fix the bounds, or drop a "
            "column that cannot move",
        ),
    ],
)
def test_arrays_and_bounds_of_the_wrong_kind(
    change: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The shape checks of the tests, which users do not have, would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    Dataset(**SOUND, action_low=LOW, action_high=HIGH)
    with pytest.raises(InputError) as caught:
        Dataset(**{**SOUND, **change})
    assert str(caught.value) == f"unnamed: {line}"


@pytest.mark.parametrize("fixed", [0.0, 0.7, -3.0, 32_768.0, -40_000.0, 16_777_216.0, -1e30])
def test_an_action_that_never_moves_has_a_box_of_some_width(fixed: float) -> None:
    actions = np.stack([np.full(4, fixed), [5.0, 5.5, 6.0, 5.0]], 1).astype(np.float32)
    data = Dataset.from_arrays(column(0, 1, 2, 3), actions, np.zeros(4), np.array([0, 0, 0, 1]))
    spec = data.action_spec
    assert isinstance(spec, Box)
    low, high = np.array([spec.low, spec.high], np.float32)
    half = (high - low) / 2
    assert low[0] == np.float32(fixed) and half[0] > 0
    assert np.isfinite((actions - (high + low) / 2) / half).all()
    # What moves keeps its range, however narrow.
    assert (spec.low[1], spec.high[1]) == (5.0, 6.0)


def test_bounds_are_kept_however_narrow() -> None:
    low = np.array([0.0, 1000.0], np.float32)
    high = np.array([1e-6, 1000.5], np.float32)
    actions = np.stack([low, high, low], dtype=np.float32)
    stated = Dataset(**SOUND | {"actions": actions}, action_low=low, action_high=high)
    read = Dataset(**SOUND | {"actions": actions})
    for data in (stated, read):
        assert data.action_spec == box(low, high)

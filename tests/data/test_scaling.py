import json
from typing import Any

import numpy as np
import pytest

from plant import ROLES, plant
from xql.data.convert import open_table
from xql.data.dataset import Dataset, Episode
from xql.data.scaling import (
    Scaling,
    apply_scaling,
    fit_scaling,
    least_returns,
    returns_to_go,
)
from xql.errors import InputError


@pytest.fixture
def data() -> Any:
    """Two terminated episodes with returns 3 and 7."""
    return Dataset.from_arrays(
        observations=np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]]),
        actions=np.zeros((3, 1)),
        rewards=np.array([1.0, 2.0, 7.0]),
        terminated=np.array([0, 1, 1], bool),
        next_observations=np.array([[2.0, 5.0], [2.0, 5.0], [4.0, 5.0]]),
    )


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("raw", [1, 2, 7]),
        ("minus_one", [0, 1, 6]),
        ("return_range", [250, 500, 1750]),  # 1000 / (7 - 3) = 250
        ("scale:0.5", [0.5, 1, 3.5]),
        ("shift:-2", [-1, 0, 5]),
        ("affine:10,-5", [5, 15, 65]),
    ],
)
def test_golden_rewards(data: Any, name: str, steps: list[float]) -> None:
    scaled = apply_scaling(data, fit_scaling(data, rewards=name))
    np.testing.assert_array_equal(scaled.rewards[scaled.starts], steps)
    # The row after each episode is no step: its reward must not enter a return.
    assert not scaled.rewards[scaled.firsts + scaled.lengths].any()
    assert scaled.returns.sum() == sum(steps)


def test_golden_observations(data: Any) -> None:
    scaling = fit_scaling(data, observations="standardised")
    # Stored rows of column 0: 0, 2, 2, 4, 4 with mean 2.4 and variance 2.24.
    np.testing.assert_allclose(scaling.observation_shift, [2.4, 5.0], rtol=1e-6)
    np.testing.assert_allclose(scaling.observation_scale, [2.24**-0.5, 1.0], rtol=1e-6)
    scaled = apply_scaling(data, scaling)
    np.testing.assert_allclose(scaled.observations.mean(axis=0), [0, 0], atol=1e-6)
    np.testing.assert_allclose(scaled.observations.std(axis=0), [1, 0], atol=1e-6)


def test_standardising_many_rows_agrees_with_numpy_in_float64() -> None:
    rng = np.random.default_rng(0)
    table = (1000.0 + rng.normal(size=(150_000, 2))).astype(np.float32)
    zeros = np.zeros(len(table), np.float32)
    data = Dataset.from_arrays(table, table, zeros, zeros)
    scaling = fit_scaling(data, observations="standardised")
    wide = data.observations.astype(np.float64)
    np.testing.assert_allclose(scaling.observation_shift, wide.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(1 / scaling.observation_scale, wide.std(axis=0), rtol=1e-5)


def test_a_column_that_hardly_moves_is_not_blown_up() -> None:
    table = np.full((100, 1), 1.0, np.float32)
    table[::2] += 1e-5
    data = Dataset.from_arrays(table, table, table[:, 0], np.zeros(100))
    np.testing.assert_allclose(
        fit_scaling(data, observations="standardised").observation_scale, 1e3
    )


@pytest.mark.parametrize("name", ["standardised", "auto"])
def test_knocks_of_a_joint_that_stands_still_stay_within_ten(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 3)).astype(np.float32)
    rows[:, 1] = 5e-3 * rows[:, 1] + 5.0
    rows[::2000, 1] += 0.4  # ten knocks, of 39 deviations of the column
    rows[:, 2] *= 1e3
    data = Dataset.from_episodes([Episode(rows, rows[1:, :1], rows[1:, 0], False, True)])
    scaled = apply_scaling(data, fit_scaling(data, observations=name)).observations
    assert np.abs(scaled[:, 1]).max() == pytest.approx(10.0, rel=1e-3)
    # The columns without such values are as far as ever.
    np.testing.assert_allclose(scaled[:, [0, 2]].std(0), 1.0, rtol=1e-2)


def test_the_original_is_untouched_and_raw_costs_nothing(data: Any) -> None:
    before = data.rewards.copy(), data.observations.copy()
    scaled = apply_scaling(data, fit_scaling(data, "minus_one", "standardised"))
    np.testing.assert_array_equal(data.rewards, before[0])
    np.testing.assert_array_equal(data.observations, before[1])
    assert scaled.actions is data.actions
    assert apply_scaling(data, fit_scaling(data)) is data
    assert apply_scaling(data, fit_scaling(data, "minus_one")).observations is data.observations
    # Aligned, so that the device may use the new arrays in place.
    assert scaled.rewards.ctypes.data % 64 == 0
    assert scaled.observations.ctypes.data % 64 == 0


def test_described_stored_and_read_back(data: Any) -> None:
    scaling = fit_scaling(data, "return_range", "standardised")
    assert scaling.describe() == (
        "rewards return_range: r' = 250 · r; "
        "observations standardised (2 columns to mean 0, deviation 1)"
    )
    assert fit_scaling(data, "minus_one").describe() == (
        "rewards minus_one: r' = r − 1; observations raw"
    )
    again = Scaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
    assert again.to_dict() == scaling.to_dict()
    np.testing.assert_array_equal(again.observation_scale, scaling.observation_scale)


def test_bad_input_is_told_in_one_line(data: Any) -> None:
    with pytest.raises(InputError, match=r"^unknown reward scaling 'minusone'; did you mean"):
        fit_scaling(data, "minusone")
    with pytest.raises(InputError, match=r"^unknown observation scaling 'standardized'; did you"):
        fit_scaling(data, observations="standardized")
    with pytest.raises(InputError, match=r"^cannot read the number in reward scaling 'scale:x';"):
        fit_scaling(data, "scale:x")
    with pytest.raises(InputError, match=r"number in reward scaling 'scale:0'"):
        fit_scaling(data, "scale:0")
    for wrong in ("affine:10", "affine:10,5,1", "affine:0,1", "affine:1,inf", "scale:1,2"):
        with pytest.raises(InputError, match=rf"number in reward scaling '{wrong}'; write it as"):
            fit_scaling(data, wrong)
    one = Dataset.from_episodes([data.episode(0)])
    with pytest.raises(InputError, match=r"^unnamed: reward scaling 'return_range' needs returns"):
        fit_scaling(one, "return_range")
    narrow = fit_scaling(data)._replace(observation_shift=np.zeros(3, np.float32))
    with pytest.raises(InputError, match=r"^unnamed: the scaling is for observations of size 3,"):
        apply_scaling(data, narrow)
    values = fit_scaling(data).to_dict()
    with pytest.raises(InputError, match=r"^scaling: unknown key 'reward'; did you mean 'rewards'"):
        Scaling.from_dict({**values, "reward": 1})
    del values["reward_scale"]
    with pytest.raises(InputError, match=r"^scaling: there is no 'reward_scale'; add it$"):
        Scaling.from_dict(values)


def logged(rewards: Any, lengths: list[int], **describe: Any) -> Dataset:
    """Episodes of these lengths, with nothing to see or do."""
    ends = np.zeros(len(rewards), bool)
    ends[np.cumsum(lengths) - 1] = True
    nothing = np.zeros((len(rewards), 1), np.float32)
    return Dataset.from_arrays(nothing, nothing, np.asarray(rewards), ends, **describe)


def seen(columns: Any, **describe: Any) -> Dataset:
    """One episode with these observations, the last of them after its last step."""
    table = np.asarray(columns, np.float32)
    nothing = np.zeros((len(table) - 1, 1), np.float32)
    episode = Episode(table, nothing, nothing[:, 0], terminated=False, truncated=True)
    return Dataset.from_episodes([episode], **describe)


def test_returns_to_go_of_a_table_made_by_hand() -> None:
    data = logged([1.0, 2.0, 4.0, 8.0, 3.0, 5.0, 6.0], [4, 1, 2])
    # 8, 4 + 8/2, 2 + 8/2, 1 + 6/2; a stored row without a step stands behind each episode.
    expected = [4.0, 6.0, 8.0, 8.0, 0.0, 3.0, 0.0, 8.0, 6.0, 0.0]
    np.testing.assert_array_equal(returns_to_go(data, 0.5), expected)


def test_returns_to_go_are_those_of_a_sum_backwards() -> None:
    rng = np.random.default_rng(0)
    # The longest covers several blocks and is no power of two.
    lengths = [1, 2, 3, 4, 5, 64, 1, 150_001]
    data = logged(rng.normal(size=sum(lengths)), lengths)
    expected, later = np.zeros(len(data.rewards)), 0.0
    last = set((data.firsts + data.lengths).tolist())
    for row in reversed(range(len(expected))):
        later = 0.0 if row in last else float(data.rewards[row]) + 0.999 * later
        expected[row] = later
    np.testing.assert_allclose(returns_to_go(data, 0.999), expected, rtol=1e-11, atol=1e-11)


def test_least_returns_go_on_with_the_lowest_reward_where_nothing_terminated() -> None:
    rewards, lengths = [-1.0, -2.0, -1.0, 0.0], [2, 1, 1]
    data = logged(rewards, lengths).with_metadata(terminated=np.array([False, True, False]))
    # −2 for ever is −4 at a discount of 1/2; a stored row without a step stands behind each.
    expected = [-1 - 2 / 2 - 4 / 4, -2 - 4 / 2, -4, -1, 0, 0 - 4 / 2, -4]
    np.testing.assert_allclose(least_returns(data, 0.5), expected)
    # Rewards above 0 may have ended there.
    positive = data.with_metadata(rewards=-data.rewards)
    np.testing.assert_allclose(least_returns(positive, 0.5), [2, 2, 0, 1, 0, 0, 0])
    assert np.isneginf(least_returns(data, 1.0)[0]) and least_returns(data, 1.0)[3] == -1


def test_auto_divides_by_the_deviation_of_returns_as_a_power_of_two() -> None:
    # Returns-to-go at a discount of 1: 10, 6, 3 and -6: deviation 6.
    data = logged([4.0, 3.0, 3.0, -6.0], [3, 1])
    scaling = fit_scaling(data, "auto", discount=1.0)
    assert scaling.reward_scale == 0.125  # 6 is nearer to 8 than to 4, as a factor
    assert scaling.describe() == "rewards auto: r' = 0.125 · r; observations raw"
    # At 0.5 they are 6.25, 4.5, 3 and -6.
    deviation = np.std([6.25, 4.5, 3.0, -6.0])
    assert fit_scaling(data, "auto", discount=0.5).reward_scale == 0.25
    assert 4 / np.sqrt(2) < deviation < 4 * np.sqrt(2)


@pytest.mark.parametrize("exponent", [-130, -7, 7, 100])
def test_rewards_times_a_power_of_two_scale_to_the_same_bits(exponent: int) -> None:
    rng = np.random.default_rng(1)
    rewards = np.round(rng.normal(size=3000) * 1024) / 1024  # whole even where float32 is coarse
    data, other = (logged(rewards * 2.0**e, [1000] * 3) for e in (0, exponent))
    if exponent == -130:
        with pytest.raises(InputError, match=r"cannot scale returns that deviate by .*e-39; give"):
            fit_scaling(logged(rewards * 2.0**-132, [1000] * 3), "auto")
    one, two = (apply_scaling(each, fit_scaling(each, "auto")) for each in (data, other))
    assert one.rewards.std() > 0
    np.testing.assert_array_equal(one.rewards, two.rewards)


@pytest.mark.parametrize(
    "rewards", [[0.1] * 4, [0.0] * 4, [1e38] * 4, [0.1, np.nextafter(np.float32(0.1), 1)] * 2]
)
def test_returns_that_do_not_differ_stay_as_they_are(rewards: Any) -> None:
    data = logged(rewards, [1, 1, 1, 1])
    scaling = fit_scaling(data, "auto")
    assert apply_scaling(data, scaling) is data
    assert scaling.describe().startswith("rewards auto: r' = r (the returns deviate by about 1, or")


def test_auto_observations_of_about_one_scale_stay_raw() -> None:
    rng = np.random.default_rng(2)
    data = seen(rng.normal(size=(1000, 3)) * [0.1, 1.0, 8.0] + [0.0, 5.0, -50.0])
    scaling = fit_scaling(data, observations="auto")
    assert apply_scaling(data, scaling) is data
    assert scaling.describe() == ("rewards raw; observations auto (all 3 columns left as they are)")


def test_auto_standardises_the_columns_of_a_table() -> None:
    # A temperature of 45 with a deviation of 3 alone would leave every first action on a bound.
    table = plant((50,)) | {"grade": ["A", "B"] * 25}
    table["sensor_a"] = np.random.default_rng(0).normal(45.0, 3.0, 50)
    data = open_table(table, **ROLES, categorical="grade")
    scaled = apply_scaling(data, fit_scaling(data, observations="auto")).observations
    np.testing.assert_allclose(scaled[:, 0].mean(), 0.0, atol=1e-4)
    np.testing.assert_allclose(scaled[:, 0].std(), 1.0, rtol=1e-3)
    np.testing.assert_array_equal(scaled[:, 2:], data.observations[:, 2:])
    bare = data.with_metadata(metadata={})
    assert "left as they are" in fit_scaling(bare, observations="auto").describe()


def test_auto_standardises_columns_of_different_scales_but_not_rare_or_binary_ones() -> None:
    rng = np.random.default_rng(3)
    count = 20_000
    rare = np.zeros(count)
    rare[:20] = 0.01  # one row of a thousand
    spikes = np.where(np.arange(count) % 1000 == 0, 500.0, rng.normal(size=count) * 1e-3)
    columns = {
        "small": rng.normal(size=count) * 0.002,
        "large": rng.normal(size=count) * 50,
        "one": rng.normal(size=count) + 3,
        "hot": np.arange(count) % 2,
        "rare": rare,
        "constant": np.ones(count),
        "far": np.full(count, 339.0),
        "switch": np.where(np.arange(count) % 4 == 0, 255.0, 0.0),
        "spikes": spikes,
    }
    data = seen(np.stack([*columns.values()], axis=1))
    scaling = fit_scaling(data, observations="auto")
    scaled = dict(zip(columns, apply_scaling(data, scaling).observations.T, strict=True))
    for name in ("small", "large", "one"):
        np.testing.assert_allclose(
            [scaled[name].mean(), scaled[name].std()], [0, 1], atol=1e-4, err_msg=name
        )
    for name in ("hot", "rare", "constant"):
        np.testing.assert_array_equal(scaled[name], np.float32(columns[name]), err_msg=name)
    np.testing.assert_array_equal(scaled["far"], 0.0)
    np.testing.assert_allclose(scaled["switch"].std(), 1.0, atol=1e-4)
    np.testing.assert_allclose(scaled["spikes"].std(), 1.0, atol=1e-4)
    assert scaling.describe() == (
        "rewards raw; observations auto (6 of 9 columns standardised, 3 left as they are)"
    )


def test_positions_far_from_zero_are_standardised() -> None:
    rng = np.random.default_rng(4)
    data = seen(rng.normal([0.0, 5000.0], size=(1000, 2)))
    scaled = apply_scaling(data, fit_scaling(data, observations="auto")).observations
    np.testing.assert_allclose([scaled.mean(0), scaled.std(0)], [[0, 0], [1, 1]], atol=1e-3)


@pytest.mark.parametrize(
    ("keys", "varies", "raw"),
    [
        # Speeds are standardised, the positions that the goal is compared with are not.
        (("achieved_goal", "desired_goal", "observation"), True, [0, 1, 2, 3, 4, 5]),
        # Without the achieved goal nobody says which columns are positions.
        (("desired_goal", "observation"), True, [0, 1, 2, 3, 4, 5]),
        # Nothing is compared with a goal that is always the same, or with none.
        (("achieved_goal", "desired_goal", "observation"), False, [2, 3]),
        (("observation",), True, []),
    ],
)
def test_a_goal_and_the_positions_compared_with_it_keep_their_coordinates(
    keys: tuple[str, ...], varies: bool, raw: list[int]
) -> None:
    rng = np.random.default_rng(5)
    position = rng.normal(size=(2000, 2)) * 3
    goal = rng.normal(size=(2000, 2)) * varies + 1.0
    noisy, speed = position + 0.01 * rng.normal(size=position.shape), rng.normal(size=(2000, 2))
    parts = {
        "achieved_goal": position,
        "desired_goal": goal,
        "observation": np.concatenate([noisy, speed * [0.002, 300.0]], axis=1),
    }
    table = np.concatenate([parts[key] for key in keys], axis=1)
    layout = [[key, parts[key].shape[1]] for key in keys]
    data = seen(table, metadata={"observation_layout": layout})
    scaling = fit_scaling(data, observations="auto")
    as_they_are = (scaling.observation_scale == 1) & (scaling.observation_shift == 0)
    assert np.flatnonzero(as_they_are).tolist() == raw

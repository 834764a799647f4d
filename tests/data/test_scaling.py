import json
from typing import Any

import numpy as np
import pytest

from xql.data.dataset import Dataset
from xql.data.scaling import Scaling, apply_scaling, fit_scaling
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

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from xql.data.flatten import (
    flat_layout,
    flatten_batch,
    flatten_observation,
    is_image,
    select_keys,
)
from xql.errors import InputError

NESTED = {"observation": np.array([1.0, 2.0]), "goal": {"y": 4.0, "x": np.array([[3.0], [5.0]])}}


def test_sorted_depth_first_c_order() -> None:
    np.testing.assert_array_equal(flatten_observation(NESTED), [3, 5, 4, 1, 2])
    assert flatten_observation(NESTED).dtype == np.float32
    assert flat_layout(NESTED) == [("goal/x", 2), ("goal/y", 1), ("observation", 2)]


def test_a_batch_is_its_rows() -> None:
    batch: dict[str, Any] = {"b": np.arange(6.0).reshape(3, 2), "a": {"c": np.arange(3.0)}}
    flat = flatten_batch(batch)
    for row in range(3):
        one = {"b": batch["b"][row], "a": {"c": batch["a"]["c"][row]}}
        np.testing.assert_array_equal(flat[row], flatten_observation(one))
    np.testing.assert_array_equal(flatten_batch(np.eye(2)), np.eye(2))


def test_a_space_and_its_samples_agree_however_they_were_written_down() -> None:
    box = gym.spaces.Box(-1, 1, (2, 3))
    space = gym.spaces.Dict(z=box, a=gym.spaces.Dict(k=box, b=box), m=box)
    sample = space.sample()
    other = {"m": sample["m"], "a": dict(reversed(sample["a"].items())), "z": sample["z"]}
    np.testing.assert_array_equal(flatten_observation(other), flatten_observation(sample))
    np.testing.assert_array_equal(flatten_observation(sample)[:6], sample["a"]["b"].ravel())
    assert flat_layout(sample) == flat_layout(space)
    assert flat_layout(space) == [("a/b", 6), ("a/k", 6), ("m", 6), ("z", 6)]
    assert flat_layout(box) == [("", 6)]


def test_selection() -> None:
    assert flatten_observation(select_keys(NESTED, ("observation", "goal/y"))).tolist() == [4, 1, 2]
    assert select_keys(NESTED, None) is NESTED


def test_bad_selections() -> None:
    with pytest.raises(InputError, match=r"^it: the observation has no key 'gaol'; did you mean"):
        select_keys(NESTED, ("gaol",), where="it")
    with pytest.raises(InputError, match=r"^the observation is no dictionary, so 'a' cannot be se"):
        select_keys(np.zeros(2), ("a",))


def test_a_tuple_is_flattened_in_order() -> None:
    space = gym.spaces.Tuple([gym.spaces.Box(-1, 1, (1,))] * 11)
    sample = tuple(np.full(1, index) for index in range(11))
    assert flatten_observation(sample).tolist() == list(range(11))
    assert flat_layout(space) == [(str(index), 1) for index in range(11)]
    nested = {"b": sample, "a": np.zeros(2)}
    assert flatten_observation(nested).tolist() == [0, 0, *range(11)]


@pytest.mark.parametrize(
    ("shape", "dtype", "image"),
    [
        ((64, 64), np.uint8, True),
        ((64, 64, 3), np.uint8, True),
        ((4, 4, 3), np.uint8, True),
        ((3, 64, 64), np.float32, True),
        ((4096,), np.uint8, False),
        ((5, 1), np.uint8, False),
        ((2, 3, 4), np.float32, False),
        ((64, 64), np.float32, False),
        ((), np.uint8, False),
    ],
)
def test_images(shape: Any, dtype: Any, image: bool) -> None:
    assert is_image(shape, np.dtype(dtype)) == image

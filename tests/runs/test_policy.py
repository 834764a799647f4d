"""What a policy refuses to act on."""

import time
from typing import Any

import jax
import numpy as np
import pytest

from xql.data.actions import Box
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.runs.policy import Policy


def first(observations: jax.Array, key: Any) -> jax.Array:
    return observations[..., :1]


def policy(size: int = 7) -> Policy:
    zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
    actor: Any = jax.tree_util.Partial(first)  # type: ignore[no-untyped-call]
    return Policy(actor, Scaling("raw", "raw", 1.0, 0.0, zeros, ones), Box((-1.0,), (1.0,)))


def with_(changes: dict[int, float], size: int = 7) -> np.ndarray:
    observation = np.zeros(size)
    for column, value in changes.items():
        observation[column] = value
    return observation


@pytest.mark.parametrize(
    ("observation", "what"),
    [
        (with_({2: np.nan}), "the observation is NaN in column 2"),
        (with_({0: np.nan, 5: np.nan}), "the observation is NaN in columns 0, 5"),
        (with_({1: -np.inf}), "the observation is infinite in column 1"),
        (with_({1: 1e300}), "the observation is infinite in column 1"),
        (with_({0: np.inf, 1: np.nan}), "the observation is NaN or infinite in columns 0, 1"),
        (np.full(7, np.nan), "the observation is NaN in columns 0, 1, 2, 3, 4 and 2 more"),
        (np.stack([with_({}), with_({3: np.nan})]), "the observation is NaN in column 3"),
        (np.ma.masked_equal(with_({4: 9.0}), 9.0), "the observation is NaN in column 4"),
    ],
)
def test_an_observation_that_is_no_number_is_refused(observation: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        policy()(observation)
    hint = "fill in what was not measured, or act on it all the same with finite=False"
    assert str(caught.value) == f"policy: {what}; {hint}"


def test_it_can_be_acted_on_all_the_same() -> None:
    act = policy()
    assert np.isnan(act(with_({0: np.nan}), finite=False)).all()
    assert act(with_({0: 2.0, 1: np.nan}), finite=False).tolist() == [2.0]
    assert act(with_({0: 2.0})).tolist() == [2.0]


def test_the_check_takes_microseconds() -> None:
    act, observation = policy(40), np.zeros(40, np.float32)

    def least(finite: bool) -> float:
        times = []
        for _ in range(300):
            begin = time.perf_counter()
            act(observation, finite=finite)
            times.append(time.perf_counter() - begin)
        return min(times)

    act(observation)
    assert least(True) - least(False) < 50e-6

"""What a policy refuses to act on."""

import time
from typing import Any

import jax
import numpy as np
import pytest

from xql.data.actions import box
from xql.data.columns import Column, TableColumns
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.runs.policy import Policy


def first(observations: jax.Array, key: Any) -> jax.Array:
    return observations[..., :1]


def policy(size: int = 7) -> Policy:
    zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
    actor: Any = jax.tree_util.Partial(first)  # type: ignore[no-untyped-call]
    return Policy(actor, Scaling("raw", "raw", 1.0, 0.0, zeros, ones), box([-1.0], [1.0]))


COLUMNS = TableColumns(
    observation=(Column("t_in", offset=300.0), Column("grade", ("A", "B"))),
    action=(Column("valve", offset=20.0),),
    reward="yield",
)


def of_table() -> Policy:
    """Answers with its first number."""
    return Policy(policy(3).actor, policy(3).scaling, policy(3).actions, COLUMNS)


def test_a_row_gives_named_actions() -> None:
    act = of_table().act
    assert act({"t_in": 301.5, "grade": "B", "comment": "ok"}) == {"valve": 21.5}
    assert act({"t_in": "301.5", "grade": "A"}) == {"valve": 21.5}
    many = act({"t_in": np.array([301.5, 302.0]), "grade": np.array(["A", "B"])})
    assert many["valve"].tolist() == [21.5, 22.0]
    encoded = COLUMNS.encode({"t_in": 301.5, "grade": "B"})
    assert encoded.tolist() == [1.5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"t_in": 1.0, "grade": "C"}, "grade is 'C', which the table never had; choose from A, B"),
        ({"t_im": 1.0, "grade": "A"}, "there is no 't_in'; did you mean 't_im'?"),
        ({"t_in": None, "grade": "A"}, "t_in is missing; fill it as the table was filled"),
        ({"t_in": np.nan, "grade": "A"}, "t_in is missing"),
        ({"t_in": 1.0, "grade": None}, "grade is missing"),
        ({"t_in": "hot", "grade": "A"}, "t_in is 'hot' in row 0"),
        ({"t_in": np.inf, "grade": "A"}, "t_in is infinite in row 0"),
        ({"t_in": 1e300, "grade": "A"}, "the observation is infinite in column 0"),
        ({"t_in": np.zeros(2), "grade": ["A"]}, "the columns have different lengths"),
        (3.0, "there is no 't_in'; give a dictionary, or a row of a data frame"),
    ],
)
def test_a_row_that_the_table_could_not_have_is_refused(row: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        of_table().act(row)
    assert str(caught.value).startswith(f"policy: {what}")


def test_a_policy_without_a_table_takes_no_row() -> None:
    with pytest.raises(InputError, match="it was not trained on a table"):
        policy().act({"t_in": 1.0})


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

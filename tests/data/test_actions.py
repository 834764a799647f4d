"""What an action is, by hand: boxes and choices."""

import gymnasium
import numpy as np
import pytest

from xql.data.actions import Box, Discrete, action_spec, box, require_box, whole_numbers
from xql.errors import InputError

BOX = Box((-1.0, 0.0), (1.0, 4.0))


def test_a_box_clips_each_number_to_its_own_bounds() -> None:
    actions = np.array([[-3.0, -3.0], [0.5, 5.0], [1.0, 4.0]])
    clipped = BOX.clip(actions)
    np.testing.assert_array_equal(clipped, [[-1.0, 0.0], [0.5, 4.0], [1.0, 4.0]])
    assert clipped.dtype == np.float32
    # Any leading axes, and the argument stays as it is.
    np.testing.assert_array_equal(BOX.clip(np.full((2, 3, 2), 9.0)), np.full((2, 3, 2), [1, 4]))
    assert actions[0, 0] == -3.0


def test_numbers_that_are_not_finite_become_finite() -> None:
    actions = np.array([[np.nan, np.nan], [np.inf, -np.inf]], np.float32)
    np.testing.assert_array_equal(BOX.clip(actions), [[0.0, 0.0], [1.0, 0.0]])
    # 0 lies below these bounds, so nan becomes the lowest action.
    np.testing.assert_array_equal(Box((2.0,), (3.0,)).clip(np.array([[np.nan]])), [[2.0]])
    unbounded = box([-np.inf], [np.inf]).clip(np.array([[7.0], [np.nan]]))
    np.testing.assert_array_equal(unbounded, [[7.0], [0.0]])


def test_samples_of_a_box_are_uniform_within_its_bounds() -> None:
    drawn = BOX.sample(np.random.default_rng(0), 10_000)
    assert drawn.shape == (10_000, 2) and drawn.dtype == np.float32
    assert (drawn >= [-1, 0]).all() and (drawn <= [1, 4]).all()
    # Uniform on a range of 2 and of 4: means 0 and 2, deviations 2/√12 and 4/√12.
    np.testing.assert_allclose(drawn.mean(0), [0, 2], atol=0.05)
    np.testing.assert_allclose(drawn.std(0), [2 / 12**0.5, 4 / 12**0.5], atol=0.02)
    np.testing.assert_array_equal(drawn, BOX.sample(np.random.default_rng(0), 10_000))


def test_a_box_is_flat_already() -> None:
    flat = BOX.flatten(np.array([[1, 2], [3, 4]]))
    np.testing.assert_array_equal(flat, np.array([[1, 2], [3, 4]], np.float32))
    assert flat.dtype == np.float32 and BOX.size == 2
    np.testing.assert_array_equal(Box((0.0,), (1.0,)).flatten(np.array([0.5, 1.0])), [[0.5], [1]])
    np.testing.assert_array_equal(BOX.unflatten(flat[1]), [3, 4])


def test_a_choice_is_a_one_hot_row() -> None:
    choice = Discrete(3)
    assert choice.size == 3
    rows = choice.flatten(np.array([2, 0]))
    np.testing.assert_array_equal(rows, np.array([[0, 0, 1], [1, 0, 0]], np.float32))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(choice.unflatten(rows), [2, 0])
    assert gymnasium.spaces.Discrete(3).contains(choice.unflatten(rows[0]))
    # A column of one number in each row, and choices that are yes or no.
    np.testing.assert_array_equal(choice.flatten(np.array([[2], [0]], np.uint8)), rows)
    np.testing.assert_array_equal(Discrete(2).flatten(np.array([True, False])), [[0, 1], [1, 0]])
    with pytest.raises(InputError, match="the policy's answer is NaN, which is no action"):
        choice.unflatten(np.full((2, 3), np.nan, np.float32))


def test_a_choice_clips_to_the_largest_entry() -> None:
    values = np.array([[[0.1, 0.7, 0.2]], [[-5.0, -9.0, -7.0]], [[np.nan, -1.0, -2.0]]])
    np.testing.assert_array_equal(Discrete(3).clip(values), [[[0, 1, 0]], [[1, 0, 0]], [[1, 0, 0]]])


def test_samples_of_a_choice_are_uniform() -> None:
    drawn = Discrete(4).sample(np.random.default_rng(0), 8_000)
    assert drawn.shape == (8_000, 4) and (drawn.sum(1) == 1).all()
    np.testing.assert_allclose(drawn.mean(0), np.full(4, 0.25), atol=4 * (0.1875 / 8_000) ** 0.5)


@pytest.mark.parametrize(("numbers", "bad"), [([0, 3], "3"), ([-1, 0], "-1"), ([0, 0.5], "0.5")])
def test_a_choice_that_there_is_not_is_an_error(numbers: list[float], bad: str) -> None:
    line = f"log: an action is {bad}, not one of 0 to 2; check the action"
    with pytest.raises(InputError, match=line):
        Discrete(3).flatten(np.array(numbers), "log")
    assert Discrete(3).flatten(np.zeros(0, np.int64)).shape == (0, 3)


def test_gymnasium_s_spaces_become_specs() -> None:
    space = gymnasium.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 4.0]), dtype=np.float64)
    assert action_spec(space, "here") == BOX
    assert action_spec(gymnasium.spaces.Discrete(5), "here") == Discrete(5)
    unbounded = action_spec(gymnasium.spaces.Box(-np.inf, 1.0, (1,)), "here", bounded=False)
    assert unbounded == Box((-np.inf,), (1.0,))


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (gymnasium.spaces.Box(-1, 1, (2, 2)), r"here: its actions are Box.*; one flat Box, or"),
        (gymnasium.spaces.MultiBinary(2), r"here: its actions are MultiBinary\(2\); one flat Box"),
        (gymnasium.spaces.Discrete(3, start=1), r"here: its actions are Discrete\(3, start=1\);"),
        (gymnasium.spaces.Box(-np.inf, np.inf, (1,)), r"here: its actions have no bounds; wrap it"),
    ],
)
def test_other_spaces_are_one_line(space: gymnasium.Space[object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        action_spec(space, "here")


def test_a_box_where_one_is_needed() -> None:
    assert require_box(BOX, "here") is BOX
    with pytest.raises(InputError, match=r"here: its actions are Discrete\(n=2\); continuous act"):
        require_box(Discrete(2), "here")


def test_whole_numbers_are_choices() -> None:
    assert whole_numbers(np.array([0, 4, 2]), "log") == Discrete(5)
    assert whole_numbers(np.array([[0], [1]]), "log", 3) == Discrete(3)
    assert whole_numbers(np.zeros(3, bool), "log") == Discrete(2)
    assert whole_numbers(np.zeros((0, 1), int), "log") == Discrete(1)


@pytest.mark.parametrize(
    ("actions", "count", "line"),
    [
        (
            np.zeros((3, 2), int),
            None,
            r"log: actions are 2 whole numbers a row \(int64\); giv",
        ),
        (
            np.array([-1, 1]),
            None,
            r"log: actions are whole numbers \(int64\) from -1 to 1; numbe",
        ),
        (
            np.array([0, 1000]),
            None,
            "from 0 to 1000; number discrete actions from 0 to at most 99",
        ),
        (np.array([0, 3]), 3, "from 0 to 3; number discrete actions from 0 to at most 2"),
    ],
)
def test_whole_numbers_that_count_nothing(
    actions: np.ndarray, count: int | None, line: str
) -> None:
    with pytest.raises(InputError, match=line):
        whole_numbers(actions, "log", count)


def test_what_policies_of_other_actions_are_told() -> None:
    assert Discrete(3).compare(Discrete(3), "env") == ""
    said = Discrete(2).compare(Discrete(4), "env")
    assert "among the actions 0 to 1, and env takes 0 to 3" in said
    assert Discrete(4).takes(2) and not Discrete(2).takes(4)
    assert BOX.takes(2) and not BOX.takes(1)

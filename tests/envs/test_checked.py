"""An environment that fails is named in one line; one that is sound is passed through."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from worlds import Line
from xql.envs import checked
from xql.errors import EnvironmentFault


class Faulty(Line):
    """`Line`, whose next reset or step gives what it was told to give."""

    def __init__(self, gives: Any) -> None:
        self.gives = gives

    def step(self, action: np.ndarray) -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


SEEN = np.zeros(2, np.float32)
FAULTS: list[tuple[Any, str]] = [
    (ConnectionError("licence server gone\nbye"), "raised ConnectionError: licence server gone"),
    (ValueError(), "step raised ValueError"),
    (None, "step returned None, not (observation, reward, terminated, truncated, info)"),
    ((SEEN, 1.0, False, {}), "step returned a tuple of 4"),
    ((SEEN, np.ones(1), False, False, {}), "its reward is float64 of shape (1,); return one plain"),
    ((SEEN, None, False, False, {}), "its reward is None"),
    ((SEEN, "1.0", False, False, {}), "its reward is a str"),
    ((np.zeros(3), 1.0, False, False, {}), "its observation is float64 of shape (3,), its space"),
    ((None, 1.0, False, False, {}), "its observation is None"),
    (({"a": 1}, 1.0, False, False, {}), "its observation is a dict"),
]


@pytest.mark.parametrize(("gives", "line"), FAULTS, ids=[line for _, line in FAULTS])
def test_a_faulty_step_is_one_line_that_names_the_environment(gives: Any, line: str) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        checked.step(Faulty(gives), np.zeros(1, np.float32))
    assert str(fault.value).startswith("Faulty: ") and line in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_faulty_reset_is_one_line_too() -> None:
    class NoInfo(Line):
        def reset(self, **_: Any) -> Any:
            return SEEN

    with pytest.raises(EnvironmentFault, match=r"^NoInfo: reset returned float32 of shape \(2,\)"):
        checked.reset(NoInfo(), 3)

    class Raises(Line):
        def reset(self, **_: Any) -> Any:
            raise RuntimeError("no display")

    with pytest.raises(EnvironmentFault, match=r"^Raises: reset raised RuntimeError: no display$"):
        checked.reset(Raises())


def test_a_sound_step_is_passed_through() -> None:
    env = gymnasium.wrappers.TimeLimit(Line(), 10)
    np.testing.assert_array_equal(checked.reset(env, 5), Line().reset(seed=5)[0])
    taken = checked.step(env, np.ones(1, np.float32))
    assert taken.finite and taken.reward == pytest.approx(-abs(float(taken.observation[0])))
    assert (taken.terminated, taken.truncated) == (False, False)
    assert not taken._replace(reward=float("nan")).finite
    taken = checked.step(Faulty((SEEN, np.float32(2), 0, 1, None)), None)
    assert (taken.reward, taken.terminated, taken.truncated, taken.info) == (2.0, False, True, {})


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, None),
        ({"success": True}, True),
        ({"is_success": np.False_}, False),
        ({"success": 1.0}, True),
        ({"success": np.array([False])}, False),
        ({"success": "False"}, None),  # a text is true, whatever it says
        ({"success": None}, None),
        ({"success": [True, False]}, None),
    ],
)
def test_what_counts_as_success(info: dict[str, Any], expected: bool | None) -> None:
    assert checked.success(info) is expected

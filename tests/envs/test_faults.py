"""What a user's environment does wrong is one line that names it, before anything is trained."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from own_worlds import Grid, Odd
from xql.cli import main
from xql.envs.make import FlatObservation, make_environment, try_out

FAULTS = {
    "Unmade": "the environment cannot be made (RuntimeError: no licence at all)",
    "UnsoundReset": "reset raised KeyError: 'valve'",
    "UnsoundStep": "step raised ZeroDivisionError: flow",
    "NanReward": "its first step gave the reward nan",
    "InfiniteObservation": "gave an observation that is inf in column 0",
    "WrongShape": "its observation is float32 of shape (4,), its space says (1,)",
    "Words": "its observation cannot be read (ValueError: could not convert string to float",
    "OutOfChoices": "its observation cannot be read (it is 4, not one of 1 to 3)",
    "MissingKey": "its observation cannot be read (it has no 'b')",
    "OldStep": "step returned a tuple of 4, not (observation, reward, terminated, truncated, info)",
    "OldReset": "reset returned float32 of shape (2,), not (observation, info)",
    "ManyRewards": "its reward is float64 of shape (1,); return one plain number",
    "NoFlag": "its truncated is None; return True or False",
    "Unbounded": "its actions have no bounds",
    "NoSpaces": "its action_space is no space of Gymnasium's",
    "NoObservationSpace": "its observation_space is no space of Gymnasium's",
    "Picture": "the observation 'pixels' is Box(0, 255, (9, 9, 3), uint8), an image; only vectors "
    "of numbers and choices are supported; gymnasium.wrappers.FilterObservation(env, ['state']) l",
    "Growing": "two copies differ in their observation_space",
    "the_same": "what makes it gives the same instance again",
    "nothing": "must inherit from the gymnasium.Env class",
    "Nowhere-v0": "there is no 'Nowhere-v0' in own_worlds; choose from OwnWalk-v0",
}


@pytest.mark.parametrize(
    ("name", "limit"),
    [*((name, []) for name in FAULTS), ("OldStep", ["--episode-limit", "9"])],
)
def test_a_fault_is_one_line_and_leaves_nothing(
    name: str, limit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--env", f"own_worlds:{name}", "--agent", "td3", "--steps", "40", *limit]
    with pytest.raises(SystemExit) as end:
        main(["train", "online", *words, "--out", str(tmp_path / "run"), "--no-plot"])
    assert end.value.code in (1, 2)
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("xql: ") and "own_worlds" in last
    assert FAULTS[name] in last
    assert not (tmp_path / "run").exists()


def test_what_is_odd_is_said_and_taken() -> None:
    env = make_environment("own_worlds:Odd")
    (note,) = try_out(env)
    assert note.startswith("own_worlds:Odd: its observation is ")
    assert "in column 0, and its space says [-0.001, 0.001]: it is taken as it is" in note
    assert try_out(make_environment("own_worlds:Walk")) == []
    assert Odd.observation_space.shape == (1,)


def test_choices_are_one_hot_in_the_flat_order() -> None:
    env = FlatObservation(Grid(), None, "grid")
    assert env.observation_space.shape == (4 + 2 + 5,)
    seen, _ = env.reset(seed=0)
    np.testing.assert_array_equal(seen, [0, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0])
    assert seen.dtype == np.float32
    assert try_out(env) == []
    lake: Any = make_environment("FrozenLake-v1", is_slippery=False)
    assert lake.observation_space.shape == (16,)
    np.testing.assert_array_equal(lake.reset(seed=0)[0], np.eye(16)[0])
    np.testing.assert_array_equal(lake.step(2)[0], np.eye(16)[1])


def test_one_of_too_many_choices_is_refused() -> None:
    class Large(Grid):
        observation_space = gymnasium.spaces.Discrete(20_000)  # type: ignore[assignment]

    with pytest.raises(ValueError, match=r"^large: the observation is Discrete\(20000\): 20,000 n"):
        FlatObservation(Large(), None, "large")

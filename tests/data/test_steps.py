"""Whose action a row's reward and termination are of, by hand."""

from typing import Any

import numpy as np
import pytest

from plant import ROLES, plant, without
from xql.data.check import check_dataset
from xql.data.convert import open_table
from xql.errors import InputError

# Two batches, in which what a row's reward shows was done in the row before:
#
#   row      0    1    2    3  |  4    5    6
#   action   0.5  .51  .52  .53|  .54  .55  .56
#   reward   –    11   12   13 |  –    15   16
LATE: dict[str, Any] = without(plant(), ("yield", 0), ("yield", 4))


def test_a_reward_in_the_next_row_is_of_the_action_before() -> None:
    data = open_table(LATE, **ROLES, reward_at="next")
    assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert data.rewards.tolist() == [11, 12, 13, 0, 15, 16, 0]
    np.testing.assert_allclose(data.actions[data.starts, 0], [0.5, 0.51, 0.52, 0.54, 0.55])
    assert data.metadata["columns"]["reward_at"] == "next"
    # It is the table whose rewards were moved by hand.
    moved = plant() | {"yield": [11, 12, 13, None, 15, 16, None]}
    assert data.fingerprint() == open_table(moved, **ROLES).fingerprint()


def test_a_termination_in_the_next_row_is_of_the_action_before() -> None:
    ended = LATE | {"ended": [0, 0, 0, 1, 0, 0, 0]}
    data = open_table(ended, **ROLES, terminated="ended", reward_at="next")
    assert data.terminated.tolist() == [True, False]
    assert data.masks[data.starts].tolist() == [1, 1, 0, 1, 1]
    assert data.observations[:4, 0].tolist() == [0, 1, 2, 3]
    # Within an episode's rows it ends that episode there.
    inside = LATE | {"ended": [0, 1, 0, 0, 0, 0, 0]}
    data = open_table(inside, **ROLES, terminated="ended", reward_at="next")
    assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert data.lengths.tolist() == [1, 1, 2] and data.rewards.tolist() == [11, 0, 13, 0, 15, 16, 0]


@pytest.mark.parametrize("missing", ["error", "drop", "ffill"])
def test_what_a_termination_leads_to_need_not_be_observed(missing: str) -> None:
    died = without(LATE, ("sensor_a", 3), ("sensor_b", 3), ("valve_x", 3))
    died |= {"ended": [0, 0, 0, 1, 0, 0, 0]}
    options: dict[str, Any] = {"terminated": "ended", "reward_at": "next", "missing": missing}
    data = open_table(died, **ROLES, **options)
    assert data.rewards[data.starts].tolist() == [11, 12, 13, 15, 16]
    assert data.masks[data.starts].tolist() == [1, 1, 0, 1, 1]
    assert data.observations[:4, 0].tolist() == [0, 1, 2, 2]
    assert not any("lack a part" in one.what for one in check_dataset(data))


def test_a_missing_reward_is_named_by_its_own_row() -> None:
    table = without(LATE, ("yield", 2))
    with pytest.raises(InputError, match="yield is empty in row 2; a reward is never filled"):
        open_table(table, **ROLES, reward_at="next")
    data = open_table(table, **ROLES, reward_at="next", missing="drop")
    assert data.rewards[data.starts].tolist() == [11, 13, 15, 16]
    assert data.lengths.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    "table",
    [
        LATE,
        without(plant(), ("valve_x", 3)) | {"ended": [0, 0, 0, 1, 0, 0, 0]},
    ],
)
def test_a_table_that_seems_to_reward_late_is_asked_about(table: dict[str, Any]) -> None:
    flag = {"terminated": "ended"} if "ended" in table else {}
    with pytest.raises(InputError, match=r"of the action before it, choose `reward_at=next`$"):
        open_table(table, **ROLES, **flag)


def test_rewards_that_no_action_precedes_are_said() -> None:
    table = plant() | {"yield": [9, 0, 0, 0, 7, 0, 1]}
    found = check_dataset(open_table(table, **ROLES, reward_at="next"))
    assert any("94.1 % of all reward is in the first rows" in one.what for one in found)
    with pytest.raises(InputError, match="`reward_at='before'` is unknown; choose from same, next"):
        open_table(table, **ROLES, reward_at="before")

"""A category as the action: discrete actions, and names for them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plant import ROLES, plant
from xql.data.actions import Discrete
from xql.data.check import check_dataset
from xql.data.columns import TableColumns
from xql.data.convert import open_table
from xql.data.files import save_dataset
from xql.data.sources import open_dataset
from xql.errors import InputError

OFFERS = ["gift", "none", "gift", "cash", "cash", "none", "gift"]


def shop(values: list[Any] = OFFERS) -> dict[str, Any]:
    return plant() | {"valve_x": values}


def test_a_column_of_texts_is_a_discrete_action() -> None:
    data = open_table(shop(), **ROLES)
    assert data.action_spec == Discrete(3)
    assert data.action_low is None
    (column,) = data.metadata["columns"]["action"]
    assert column["categories"] == ("cash", "gift", "none")
    # Rows 3 and 6 end an episode: theirs start no transition.
    assert data.actions[data.starts].argmax(1).tolist() == [1, 2, 1, 0, 2]
    for part in ("action, 3 categories", "cash 28.6 %, gift 42.9 %, none 28.6 %"):
        assert part in data.metadata["_preview"]
    assert not any("valve_x is none" in one.what for one in check_dataset(data))


def test_whole_numbers_are_one_where_they_are_named() -> None:
    doses = shop([2, 0, 10, 2, 0, 0, 2])
    quantity = open_table(doses, **ROLES)
    assert not quantity.discrete
    assert any("the action valve_x has 3 values" in one.what for one in check_dataset(quantity))
    data = open_table(doses, **ROLES, categorical="valve_*")
    assert data.metadata["columns"]["action"][0]["categories"] == ("0", "2", "10")
    assert data.actions[data.starts].argmax(1).tolist() == [1, 0, 2, 0, 0]


def test_a_category_that_no_transition_takes_is_no_action() -> None:
    data = open_table(shop(["a", "b", "a", "last", "b", "a", "last"]), **ROLES)
    assert data.metadata["columns"]["action"][0]["categories"] == ("a", "b")


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        ([True, False, True, True, False, False, True], ("false", "true")),
        (["TRUE", "False", "true", "TRUE", "False", "false", "TRUE"], ("false", "true")),
        (["a", None, "a", "b", "a", "b", "b"], ("a", "b")),
    ],
)
def test_truth_values_and_empty_cells(values: list[Any], categories: tuple[str, ...]) -> None:
    data = open_table(shop(values), **ROLES, categorical="valve_x", missing="ffill")
    assert data.metadata["columns"]["action"][0]["categories"] == categories


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"action": ["valve_x", "valve_y"], "categorical": "valve_x"},
            "the action valve_x is a category and stands beside other actions (valve_y)",
        ),
        ({"action": ["valve_x", "valve_y"]}, "valve_x is 'gift' in row 0; write a number"),
    ],
)
def test_a_category_stands_alone(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError) as caught:
        open_table(shop() | {"valve_y": [0.5] * 7}, **(ROLES | changes))
    assert what in str(caught.value)


def test_numbers_and_texts_in_turn_are_refused() -> None:
    with pytest.raises(InputError, match="valve_x is 'gift' in row 0"):
        open_table(shop(["gift", 1, 2, 3, 1, 2, 3]), **ROLES)
    parts = [shop(), shop([0.5] * 7) | {"batch": ["c"] * 4 + ["d"] * 3}]
    with pytest.raises(InputError, match="valve_x is 'gift' in row 0"):
        open_table(parts, **ROLES)


def test_rare_actions_are_said() -> None:
    table = plant((60,)) | {"valve_x": ["a", "b"] * 29 + ["c", "a"]}
    found = [one for one in check_dataset(open_table(table, **ROLES)) if "fewer than" in one.what]
    assert [(one.what, one.where) for one in found] == [
        ("1 of 3 actions were taken fewer than 10 times", "c 1")
    ]


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_the_names_of_actions_are_kept(tmp_path: Any, suffix: str) -> None:
    data = open_table(shop(), **ROLES)
    again = open_dataset(save_dataset(data, tmp_path / f"shop{suffix}"))
    assert again.action_spec == Discrete(3)
    assert again.fingerprint() == data.fingerprint()
    columns = TableColumns.from_dict(again.metadata["columns"], "")
    assert columns.names("action") == ["valve_x=cash", "valve_x=gift", "valve_x=none"]
    assert columns.decode(np.int64(1)) == {"valve_x": "gift"}
    assert columns.decode(np.array([2, 0]))["valve_x"].tolist() == ["none", "cash"]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(2, 5), min_size=1, max_size=4),
    st.sampled_from(["same", "next"]),
    st.randoms(use_true_random=False),
)
def test_decisions_are_lossless_in_any_order_of_rows(
    lengths: list[int], reward_at: str, random: Any
) -> None:
    rows = sum(lengths)
    table = plant(tuple(lengths)) | {"valve_x": [random.choice("xyz") for _ in range(rows)]}
    order = list(range(rows))
    random.shuffle(order)
    data = open_table(table, **ROLES, reward_at=reward_at)
    shuffled = {name: [values[row] for row in order] for name, values in table.items()}
    again = open_table(shuffled, **ROLES, reward_at=reward_at)
    assert again.fingerprint() == data.fingerprint()
    assert again.metadata["columns"] == data.metadata["columns"]
    taken = data.observations[data.starts][:, 0].astype(int)
    columns = TableColumns.from_dict(data.metadata["columns"], "")
    numbers = data.action_spec.unflatten(data.actions[data.starts])
    assert columns.decode(numbers)["valve_x"].tolist() == [table["valve_x"][row] for row in taken]
    late = int(reward_at == "next")
    assert data.rewards[data.starts].tolist() == [table["yield"][row + late] for row in taken]
    assert len(taken) == rows - len(lengths)

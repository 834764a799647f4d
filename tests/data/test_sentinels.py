"""Values that stand for a missing one: found by hand-made columns, and declared."""

from typing import Any

import numpy as np
import pytest

from plant import ROLES, plant
from xql.data.check import check_dataset
from xql.data.columns import TableColumns
from xql.data.convert import open_table
from xql.data.sentinels import suspicious_numbers, suspicious_texts
from xql.errors import InputError

SMOOTH = np.linspace(20.0, 60.0, 41)


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        ([-999.0, -999.0], [(-999.0, 2)]),
        ([9999.0] * 3, [(9999.0, 3)]),
        ([-999.0, -999.0, 9999.0, 9999.0], [(-999.0, 2), (9999.0, 2)]),
        ([-9999.0, -9999.0, -999.0, -999.0], [(-9999.0, 2), (-999.0, 2)]),
        ([-999.9, -999.9, np.nan], [(-999.9, 2)]),
        ([-1234.0] * 3, [(-1234.0, 3)]),
        # Once is an outlier; 0 is what is switched off; 99 is no gap above 98.
        ([-999.0], []),
        ([-1234.0] * 2, []),
        ([0.0] * 9, []),
        ([60.5] * 9, []),
    ],
)
def test_numbers_far_outside_the_rest_that_occur_often(
    extra: list[float], found: list[tuple[float, int]]
) -> None:
    assert suspicious_numbers(np.append(SMOOTH, extra)) == found


def test_a_column_of_few_levels_has_codes_only() -> None:
    levels = np.repeat([0.0, 1.0, 100.0], 10)
    assert suspicious_numbers(levels) == []
    assert suspicious_numbers(np.append(levels, [-999.0, -999.0])) == [(-999.0, 2)]
    goal = np.append(-SMOOTH, [1e4] * 5)
    assert suspicious_numbers(goal) == [(1e4, 5)]
    assert suspicious_numbers(goal, codes_only=True) == []
    assert suspicious_numbers(np.full(5, -999.0)) == []


def test_texts_that_say_that_nothing_is_known() -> None:
    assert suspicious_texts(["A", "?", "N/A", "none", "Unknown"]) == ["?", "N/A", "Unknown"]


def test_a_sentinel_is_said_and_changes_nothing() -> None:
    table = plant((30, 30)) | {"grade": ["A", "?"] * 30}
    table["sensor_b"][5] = table["sensor_b"][40] = -999.0
    data = open_table(table, **ROLES, categorical="grade")
    assert (data.observations[:, 1] == -999.0).sum() == 2
    said = {one.what: one for one in check_dataset(data)}
    found = said["sensor_b is -999 in 2 rows"]
    assert (found.severity, found.where) == ("warning", "sensor_b")
    assert "`missing_values=sensor_b=-999`" in found.hint
    assert said["grade is ? in 30 rows"].severity == "note"
    assert "sensor_b is -999 in 2 rows" in data.metadata["_preview"]
    # Arrays in the schema say it of their columns' numbers.
    bare = data.with_metadata(metadata={})
    (of_columns,) = [one for one in check_dataset(bare) if "far from all others" in one.what]
    assert of_columns.where == "column 1"


@pytest.mark.parametrize("declared", [-999, "-999.0", ["?", "-999"], ["sensor_b=-999"]])
def test_what_is_declared_missing_is_as_an_empty_cell(declared: Any) -> None:
    table, marked = plant(), plant()
    table["sensor_b"][1], marked["sensor_b"][1] = None, -999
    expected = open_table(table, **ROLES, missing="ffill")
    data = open_table(marked, **ROLES, missing="ffill", missing_values=declared)
    assert data.fingerprint() == expected.fingerprint()
    with pytest.raises(InputError, match="sensor_b is empty in row 1"):
        open_table(marked, **ROLES, missing_values=declared)


def test_a_marker_of_one_column_is_of_no_other() -> None:
    table = plant() | {"sensor_a": [-1.0, 1, 2, 3, 4, 5, 6], "valve_x": [0, -1.0, 1, 0, 0, 1, 0]}
    options: dict[str, Any] = {"missing": "drop", "missing_values": "sensor_a=-1"}
    assert open_table(table, **ROLES, **options).actions.min() == -1.0
    assert len(open_table(table, **ROLES, **options).starts) == 4
    with pytest.raises(InputError, match="`missing_values=sensor_z=-1` names no column"):
        open_table(table, **ROLES, missing_values="sensor_z=-1")


def test_markers_of_every_kind_of_column() -> None:
    table = plant() | {"grade": list("AB?ABAB")}
    table["sensor_b"] = np.array([1, -999.9, 2, 3, 4, 5, 6], np.float32)
    table["valve_x"][2] = "bad"
    data = open_table(
        table,
        **ROLES,
        categorical="grade",
        missing="ffill",
        missing_values=["?", "-999.9", "BAD"],
    )
    assert data.observations[1].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert data.observations[2].tolist() == [2.0, 2.0, 0.0, 1.0]
    assert data.actions[2, 0] == data.actions[1, 0]
    # A row that the policy acts on is read alike.
    columns = TableColumns.from_dict(data.metadata["columns"], "")
    with pytest.raises(InputError, match="grade is missing"):
        columns.encode({"sensor_a": 1, "sensor_b": 1, "grade": "?"})
    late = plant() | {"t": [0, 1, -999, 3, 0, 1, 2]}
    with pytest.raises(InputError, match="t is empty in row 2"):
        open_table(late, **ROLES, missing_values=-999)


def test_a_mark_among_numbers_names_the_option() -> None:
    table = plant()
    table["sensor_b"][2] = "?"
    with pytest.raises(InputError, match=r"sensor_b is '\?' in row 2; if it stands for a missing"):
        open_table(table, **ROLES)

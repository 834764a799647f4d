"""A table of one's own becomes a dataset: lossless, in any order of rows, with nothing invented."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plant import ROLES, plant, without, write_csv
from xql.data import tables
from xql.data.check import check_dataset
from xql.data.columns import TableColumns
from xql.data.convert import open_table, open_table_like
from xql.data.files import save_dataset
from xql.data.sources import open_dataset
from xql.errors import InputError


def first_column(data: Any) -> list[list[float]]:
    """sensor_a of each episode: which rows it holds, its last observation included."""
    return [episode.observations[:, 0].tolist() for episode in data]


# What a row is: its action and reward belong to its own observation.


def test_a_row_is_an_observation_its_action_and_the_reward_of_that_action() -> None:
    table = plant()
    data = open_table(table, **ROLES)
    assert first_column(data) == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert data.rewards[data.starts].tolist() == [10.0, 11.0, 12.0, 14.0, 15.0]
    np.testing.assert_array_equal(
        data.actions[data.starts, 0], np.asarray(table["valve_x"], np.float32)[[0, 1, 2, 4, 5]]
    )
    assert not data.terminated.any()
    assert not data.truncated.any()
    assert data.name == "table"


def test_flags_end_episodes_and_only_a_termination_keeps_the_last_row() -> None:
    table = plant() | {"ended": [0, 0, 0, 1, 0, 0, 0], "cut": [0, 0, 0, 0, 0, 0, 1]}
    data = open_table(table, **ROLES, terminated="ended", truncated="cut")
    assert first_column(data) == [[0.0, 1.0, 2.0, 3.0, 3.0], [4.0, 5.0, 6.0]]
    assert data.terminated.tolist() == [True, False]
    assert data.truncated.tolist() == [False, True]
    assert data.rewards[data.masks == 0].tolist() == [13.0]


def test_a_flag_inside_an_episode_ends_it_there_and_is_said() -> None:
    table = plant((6,)) | {"ended": [0, 0, 1, 0, 0, 0]}
    data = open_table(table, **ROLES, terminated="ended")
    assert first_column(data) == [[0.0, 1.0, 2.0, 2.0], [3.0, 4.0, 5.0]]
    assert said(data, "episodes go on after their end in 1 rows")


def said(data: Any, what: str) -> bool:
    return any(what in finding.what for finding in check_dataset(data))


@pytest.mark.parametrize("value", [2, 0.5, None, "maybe"])
def test_a_flag_is_0_or_1(value: Any) -> None:
    table = plant() | {"ended": [0, 0, 0, value, 0, 0, 0]}
    with pytest.raises(InputError, match=r"ended is .* in row 3"):
        open_table(table, **ROLES, terminated="ended")


# Order.


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_conversion_is_lossless_and_independent_of_the_order_of_rows(
    lengths: list[int], random: Any
) -> None:
    lengths = [*lengths, 4]  # in which a transition is left whatever is missing
    table = plant(tuple(lengths)) | {
        "grade": [random.choice("ABC") for _ in range(sum(lengths))],
        "ended": [random.random() < 0.1 for _ in range(sum(lengths))],
    }
    table = without(table, *(("sensor_b", row) for row in range(sum(lengths)) if row % 5 == 3))
    options = ROLES | {"terminated": "ended", "categorical": "grade", "missing": "drop"}
    order = list(range(sum(lengths)))
    random.shuffle(order)
    data = open_table(table, **options)
    shuffled = open_table({name: [v[i] for i in order] for name, v in table.items()}, **options)
    assert shuffled.fingerprint() == data.fingerprint()
    assert shuffled.metadata["columns"] == data.metadata["columns"]
    # Every number of the dataset is the table's, and every transition that could be is there.
    columns = TableColumns.from_dict(data.metadata["columns"], "")
    rows = data.observations[data.starts][:, 0].astype(int)
    kept = {name: [values[row] for row in rows] for name, values in table.items()}
    np.testing.assert_array_equal(columns.encode(kept), data.observations[data.starts])
    assert data.rewards[data.starts].tolist() == kept["yield"]
    np.testing.assert_array_equal(
        data.actions[data.starts, 0], np.asarray(kept["valve_x"], np.float32)
    )
    after = data.observations[data.starts + 1][:, 0].astype(int)
    expected = []
    for row in range(sum(lengths)):
        follows = row + 1 < sum(lengths) and table["batch"][row + 1] == table["batch"][row]
        whole = [table["sensor_b"][index] is not None for index in (row, row + follows)]
        if table["ended"][row] and whole[0]:
            expected.append((row, row))
        elif follows and not table["ended"][row] and all(whole):
            expected.append((row, row + 1))
    assert list(zip(rows.tolist(), after.tolist(), strict=True)) == expected


def test_interleaved_and_unsorted_rows_are_said() -> None:
    table = plant()
    reverse = {name: values[::-1] for name, values in table.items()}
    assert said(open_table(reverse, **ROLES), "the rows were not in order")
    turns = {name: [values[i] for i in (0, 4, 1, 5, 2, 6, 3)] for name, values in table.items()}
    assert said(
        open_table(turns, **ROLES),
        "rows of other episodes stand between those of one, 5 times: they were sorted",
    )
    quiet = open_table(table, **ROLES).metadata["findings"]
    assert quiet == []


def test_episodes_come_in_the_order_of_their_numbers() -> None:
    table = plant((2, 2, 2)) | {"batch": ["b10", "b10", "b9", "b9", "b1", "b1"]}
    assert first_column(open_table(table, **ROLES)) == [[4.0, 5.0], [2.0, 3.0], [0.0, 1.0]]


def test_patterns_take_columns_in_the_order_of_the_file() -> None:
    table = plant()
    turned = dict(reversed(table.items()))

    def names(table: Any, observation: Any) -> list[str]:
        data = open_table(table, **(ROLES | {"observation": observation}))
        return [one["name"] for one in data.metadata["columns"]["observation"]]

    assert names(table, "sensor_*") == ["sensor_a", "sensor_b"]
    assert names(turned, "sensor_*") == ["sensor_b", "sensor_a"]
    assert names(table, ["sensor_b", "sensor_*"]) == ["sensor_b", "sensor_a"]
    # A pattern takes nothing that is something else; the time is named to be observed.
    assert names(without({k: v for k, v in table.items() if k != "comment"}), "*") == [
        "sensor_a",
        "sensor_b",
    ]
    assert names(table, ["t", "sensor_a"]) == ["t", "sensor_a"]


# Times.


def test_times_are_dates_or_numbers() -> None:
    table, begin = plant((11,)), datetime.datetime(2024, 3, 1)
    order = np.random.default_rng(0).permutation(11)
    plain = open_table(table, **ROLES).fingerprint()
    moments = [begin + datetime.timedelta(minutes=minute) for minute in range(11)]
    for times in (
        [moment.isoformat() for moment in moments],
        [f"{moment.isoformat()}Z" for moment in moments],
        [f"{moment.isoformat(' ')}+02:00" for moment in moments],
        moments,
        np.array(moments, "datetime64[ns]"),
        [0.1 * index for index in range(11)],
        [1.7e18 + index for index in range(11)],
        [1_700_000_000_000_000_000 + index for index in range(11)],
        [str(1_700_000_000_000_000_000 + index) for index in range(11)],
    ):
        if isinstance(times[0], float) and times[0] > 1.0:
            with pytest.raises(InputError, match="has two rows at t"):
                open_table(table | {"t": times}, **ROLES)
            continue
        shuffled = {
            name: [list(values)[index] for index in order]
            for name, values in (table | {"t": times}).items()
        }
        assert open_table(shuffled, **ROLES).fingerprint() == plain


@pytest.mark.parametrize(
    ("times", "what"),
    [
        (["03/01/2024 10:00"] * 7, "t is '03/01/2024 10:00' in row 0; write numbers, or dates"),
        ([0, 1, None, 3, 0, 1, 2], "t is empty in row 2; fill or drop the row"),
        ([0, 1, "", "nan", 0, 1, 2], "t is empty in row 2 and 1 more"),
        (
            ["2024-01-01T00:00:00", "2024-01-01T00:01:00Z"] + ["2024-01-02"] * 5,
            "t has a time zone in some rows only, such as in row 1",
        ),
        ([0, 1, 1, 3, 0, 1, 2], "episode b0 has two rows at t 1, the second in row 2"),
    ],
)
def test_times_that_give_no_order_are_refused(times: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        open_table(plant() | {"t": times}, **ROLES)
    assert what in str(caught.value)


PLAIN = [f"2024-01-01T00:0{minute}:00" for minute in (0, 1, 2, 3, 0, 1, 2)]
ZONED = [f"{moment}+05:00" for moment in PLAIN]
SECONDS = [str(60 * row) for row in range(7)]


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (PLAIN, ZONED, "t has a time zone in some rows only, such as in row {}; give all of them"),
        (ZONED, PLAIN, "t has a time zone in some rows only, such as not in row {}; give all of"),
        (PLAIN, SECONDS, "t is a number in row {} and a date before; write all of them alike"),
        (SECONDS, ZONED, "t is a date with a time zone in row {} and a number before; write all"),
    ],
)
def test_times_are_alike_in_all_parts_of_a_table(
    tmp_path: Path, before: Any, after: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BLOCK", 4)
    path = write_csv(tmp_path / "a.csv", plant() | {"t": before[:4] + after[4:]})
    files = [
        write_csv(tmp_path / f"{i}.csv", plant() | {"t": t}) for i, t in enumerate((before, after))
    ]
    others = [plant() | {"t": before}, plant() | {"t": after, "batch": list("ccccddd")}]
    for source, row in ((path, 4), (files, 0), (others, 0)):
        with pytest.raises(InputError) as caught:
            open_table(source, **ROLES)
        assert what.format(row) in str(caught.value)
    write_csv(path, plant() | {"t": after})
    assert open_table(path, **ROLES).lengths.tolist() == [3, 2]


def test_rows_that_are_there_twice_are_dropped_and_said() -> None:
    table = without(plant(), ("yield", 3))
    twice = {name: [*values, values[1], values[3]] for name, values in table.items()}
    data = open_table(twice, **ROLES)
    assert data.fingerprint() == open_table(table, **ROLES).fingerprint()
    assert said(data, "2 rows repeat another row of the same time")


def test_irregular_time_steps_are_said_in_numbers() -> None:
    table = plant((40,))
    table["t"][20:] = [time + 540.0 for time in table["t"][20:]]
    (finding,) = [
        one for one in check_dataset(open_table(table, **ROLES)) if "time steps" in one.what
    ]
    assert finding.what == (
        "the time steps differ: usually 60, from 60 to 600; 1 of 39 are longer than 1.5 times the "
        "usual"
    )
    assert finding.severity == "warning"


# Missing values.


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        (("sensor_b", 1), "sensor_b is empty in row 1; fill them, or choose `missing=ffill`"),
        (("sensor_b", 3), "sensor_b is empty in row 3"),
        (("valve_x", 1), "valve_x is empty in row 1"),
        (("yield", 1), "yield is empty in row 1; a reward is never filled"),
        (("batch", 1), "batch is empty in row 1"),
    ],
)
def test_a_missing_value_is_refused_by_its_column_and_row(cell: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        open_table(without(plant(), cell), **ROLES)
    assert what in str(caught.value)


def test_the_last_row_needs_no_action_and_no_reward() -> None:
    table = without(plant(), ("yield", 3), ("valve_x", 3), ("yield", 6))
    assert open_table(table, **ROLES).fingerprint() == open_table(plant(), **ROLES).fingerprint()
    ended = table | {"ended": [0, 0, 0, 1, 0, 0, 0]}
    with pytest.raises(InputError, match="valve_x is empty in row 3 and 1 more cells of 2 columns"):
        open_table(ended, **ROLES, terminated="ended")


def test_values_are_filled_within_an_episode_and_never_across() -> None:
    cells = (("sensor_b", 1), ("sensor_b", 2), ("sensor_b", 4), ("valve_x", 2), ("grade", 3))
    table = without(plant() | {"grade": list("ABABABA")}, *cells)
    data = open_table(table, **ROLES, categorical="grade", missing="ffill")
    # Row 4 begins a batch: there is nothing in it to fill from.
    assert first_column(data) == [[0.0, 1.0, 2.0, 3.0], [5.0, 6.0]]
    filled = np.float32(table["sensor_b"][0])
    assert data.observations[:3, 1].tolist() == [filled] * 3
    assert data.actions[2, 0] == np.float32(table["valve_x"][1])
    assert data.observations[2:4, 2:].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert said(data, "missing values were filled from the row before")
    assert said(data, "1 of 7 rows lack a part of the observation, and there is nothing before")


@pytest.mark.parametrize(
    "values",
    [
        np.array([5.0, -999, 5, 6, 7, 8, 9]),
        np.array([5.0, -999, 5, 6, 7, 8, 9], np.float32),
        np.array([5, -999, 5, 6, 7, 8, 9]),
        np.array([True, False, True, False, True, False, True]),
        np.array(list("5056789"), object),
        np.array(list("5056789")),
    ],
)
def test_a_masked_cell_is_missing(values: Any) -> None:
    mask = np.arange(7) == 1
    for cells in (np.ma.masked_array(values, mask), list(np.ma.masked_array(values, mask))):
        table = plant() | {"sensor_b": cells}
        with pytest.raises(InputError, match="sensor_b is empty in row 1; fill them, or choose"):
            open_table(table, **ROLES)
        filled = open_table(table, **ROLES, missing="ffill")
        assert filled.observations[:2, 1].tolist() == [float(values[0])] * 2
        columns = TableColumns.from_dict(filled.metadata["columns"], "")
        with pytest.raises(InputError, match="sensor_b is missing"):
            columns.encode(table)
        row = {name: column[1] for name, column in table.items()}
        with pytest.raises(InputError, match="sensor_b is missing"):
            columns.encode(row)
    whole = np.ma.masked_array(values, np.zeros(7, bool))
    plain = open_table(plant() | {"sensor_b": values}, **ROLES)
    assert open_table(plant() | {"sensor_b": whole}, **ROLES).fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("empty", [None, np.nan, "", " ", b"", np.datetime64("NaT")])
def test_a_missing_label_is_refused_by_its_row(empty: Any) -> None:
    label = b"b0" if isinstance(empty, bytes) else "b0"
    day = np.datetime64("2024-03-01")
    for labels in ([label, label, empty, empty, label, label, label], [day, day, *[empty] * 5]):
        with pytest.raises(InputError, match="batch is empty in row 2; fill or drop the row"):
            open_table(plant() | {"batch": labels}, **ROLES)


def test_bytes_are_texts() -> None:
    grades = list("ABABABA")
    texts, stored = (
        open_table(plant() | {"grade": cells}, **ROLES, categorical="grade")
        for cells in (grades, [grade.encode() for grade in grades])
    )
    assert stored.metadata["columns"] == texts.metadata["columns"]


def test_a_masked_label_or_time_is_missing() -> None:
    mask = np.arange(7) == 2
    hours = np.arange("2024-01-01T00", "2024-01-01T07", dtype="datetime64[h]")
    for name, values in (
        ("batch", np.array(plant()["batch"])),
        ("batch", np.array([1, 1, 1, 1, 2, 2, 2])),
        ("t", np.array(plant()["t"])),
        ("t", np.arange(7)),
        ("t", hours),
        ("t", hours.astype("datetime64[ns]")),
    ):
        for cells in (np.ma.masked_array(values, mask), list(np.ma.masked_array(values, mask))):
            with pytest.raises(InputError, match=f"{name} is empty in row 2; fill or drop the row"):
                open_table(plant() | {name: cells}, **ROLES)
    grade = np.ma.masked_array(list("ABABABA"), mask)
    data = open_table(plant() | {"grade": grade}, **ROLES, categorical="grade", missing="ffill")
    assert data.observations[:3, 2:].tolist() == [[1, 0], [0, 1], [0, 1]]


def test_a_termination_is_not_filled_across() -> None:
    table = without(plant((6,)) | {"ended": [0, 0, 1, 0, 0, 0]}, ("sensor_b", 3))
    data = open_table(table, **ROLES, terminated="ended", missing="ffill")
    assert first_column(data) == [[0.0, 1.0, 2.0, 2.0], [4.0, 5.0]]


def test_no_transition_goes_over_a_dropped_row() -> None:
    table = without(plant((7,)), ("sensor_b", 3))
    data = open_table(table, **ROLES, missing="drop")
    assert first_column(data) == [[0.0, 1.0, 2.0], [4.0, 5.0, 6.0]]
    assert not data.terminated.any()
    assert said(data, "1 of 7 rows lack a part of the observation")
    assert said(data, "1 episodes are cut where rows were left out, 1 times")
    at_the_start = open_table(without(plant((7,)), ("sensor_b", 0)), **ROLES, missing="drop")
    assert first_column(at_the_start) == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    assert not said(at_the_start, "are cut")
    # Row 3 was observed, so the step to it is known, and only the step from it is not.
    for name in ("yield", "valve_x"):
        data = open_table(without(plant((7,)), (name, 3)), **ROLES, missing="drop")
        assert first_column(data) == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
        assert said(data, "1 of 7 rows have no reward or no action")


def test_a_reward_is_never_filled() -> None:
    data = open_table(without(plant((7,)), ("yield", 3)), **ROLES, missing="ffill")
    assert data.rewards[data.starts].tolist() == [10.0, 11.0, 12.0, 14.0, 15.0]


def test_rewards_that_only_last_rows_have_are_a_warning() -> None:
    table = plant() | {"yield": [0, 0, 0, 5, 0, 0, 7]}
    data = open_table(table, **ROLES)
    assert said(data, "100.0 % of all reward is in the last rows of episodes")
    ended = table | {"ended": [0, 0, 0, 1, 0, 0, 1]}
    data = open_table(ended, **ROLES, terminated="ended")
    assert data.returns.tolist() == [5.0, 7.0]
    assert not said(data, "all reward")


def test_episodes_of_one_row_are_left_out_and_said() -> None:
    data = open_table(plant((4, 1, 3, 1)), **ROLES)
    assert data.episodes == 2
    assert said(data, "2 of 4 episodes have no transition")
    with pytest.raises(InputError, match="no row has an observation after it"):
        open_table(plant((1, 1)), **ROLES)
    sparse = without(plant(), *(("yield", row) for row in (0, 1, 2, 4, 5)))
    with pytest.raises(InputError, match=r"no transition is left without .* yield 71\.4 %"):
        open_table(sparse, **ROLES, missing="ffill")


class Lazy:
    columns = ("t",)

    def collect(self) -> None: ...


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (Lazy(), "a Lazy has no values yet; call its collect() first"),
        (None, "a NoneType is no table"),
        ([], "there is no table; give at least one file or data frame"),
    ],
)
def test_what_is_no_table_is_refused(source: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        open_table(source, **ROLES)
    assert str(caught.value).startswith(what)


def test_check_says_what_the_columns_are_called() -> None:
    table = plant() | {"sensor_b": [5.0] * 7, "grade": list("AAAAAAB")}
    data = open_table(table, **ROLES, categorical="grade")
    found = [one for one in check_dataset(data) if "observation columns never" in one.what]
    assert [one.where for one in found] == ["sensor_b"]
    columns = TableColumns.from_dict(data.metadata["columns"], "")
    assert columns.names("observation") == ["sensor_a", "sensor_b", "grade=A", "grade=B"]


# Columns: categories, offsets, scales.


def test_categories_are_sorted_and_one_hot() -> None:
    table = plant() | {"grade": ["B", "A", "C", "A", "B", "C", "A"]}
    data = open_table(table, **ROLES, categorical="grade")
    assert data.metadata["columns"]["observation"][-1]["categories"] == ("A", "B", "C")
    assert data.observations[:4, 2:].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]]
    with pytest.raises(InputError, match="grade is 'B' in row 0; write a number; a column of"):
        open_table(table, **(ROLES | {"observation": ["sensor_*", "grade"]}))


def test_a_category_of_numbers_is_the_same_in_any_type() -> None:
    for values in (
        [2, 10, 2, 2, 10, 2, 2],
        [2.0, 10.0, None, 2.0, 10.0, 2.0, 2.0],
        list("2323232"),
    ):
        data = open_table(
            plant() | {"grade": values}, **ROLES, categorical="grade", missing="ffill"
        )
        order = data.metadata["columns"]["observation"][-1]["categories"]
        assert order == (("2", "3") if "3" in values else ("2", "10"))


def test_too_many_categories_are_refused() -> None:
    table = plant((1500,)) | {"serial": [f"s{index}" for index in range(1500)]}
    with pytest.raises(InputError, match="serial has 1,500 categories"):
        open_table(table, **ROLES, categorical="serial")


def test_places_whose_steps_float32_loses_are_offset_and_split_no_episode() -> None:
    random, rows = np.random.default_rng(0), 200
    east = 3948996.0 + np.cumsum(random.uniform(-0.05, 0.05, rows))
    table = plant((100, 100)) | {"sensor_b": east.tolist(), "sensor_a": np.arange(200.0).tolist()}
    data = open_table(table, **ROLES)
    assert data.episodes == 2
    offset = data.metadata["columns"]["observation"][1]["offset"]
    assert offset == pytest.approx(3948996.0, abs=1.0)
    kept = data.observations[data.starts, 1].astype(np.float64) + offset
    np.testing.assert_allclose(kept, np.delete(east, [99, 199]), rtol=0, atol=1e-6)
    assert said(data, "is subtracted from sensor_b")
    assert not said(data, "float32 cannot tell")
    assert data.metadata["columns"]["observation"][0]["offset"] == 0.0


def test_scales_that_differ_are_said() -> None:
    table = plant() | {"sensor_b": (1e6 * np.random.default_rng(0).normal(size=7)).tolist()}
    assert said(open_table(table, **ROLES), "the columns differ in scale")
    assert not said(open_table(plant(), **ROLES), "the columns differ in scale")


def test_the_policy_acts_within_what_was_logged() -> None:
    data = open_table(plant(), **ROLES)
    assert data.action_low is not None
    assert data.action_low.tolist() == [0.5]
    fixed = open_table(plant() | {"valve_y": [40.0] * 7}, **ROLES)
    assert fixed.action_high is not None
    assert fixed.action_high[1] == pytest.approx(40.04)
    narrow = open_table(plant() | {"valve_y": [1013.0, 1013.5] * 3 + [1013.0]}, **ROLES)
    assert narrow.action_high is not None
    assert narrow.action_high[1] == 1013.5
    found = [one for one in check_dataset(fixed) if "action columns never" in one.what]
    assert [one.where for one in found] == ["valve_y"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"reward": "yeild"}, "there is no column 'yeild' for the `reward`; did you mean 'yield'?"),
        ({"observation": "sensors_*"}, "`observation=sensors_*` matches no column"),
        ({"observation": ["sensor_a", "valve_x"]}, "`observation=valve_x` is the `action` already"),
        ({"observation": ["yield"]}, "`observation=yield` is the `reward` already"),
        ({"episode": "t"}, "`time=t` is the `episode` already"),
        ({"action": ["valve_x", "t"]}, "`action=t` is the `time` already"),
        ({"observation": []}, "`observation` names no column"),
        ({"categorical": "batch"}, "`categorical=batch` is the `episode`"),
        ({"missing": "zero"}, "`missing='zero'` is unknown; choose from error, ffill, drop"),
        ({"observation": "comment"}, "comment is 'ok' in row 0"),
    ],
)
def test_columns_that_cannot_be_are_refused_in_one_line(changes: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        open_table(plant(), **(ROLES | changes))
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("inf", "sensor_b is infinite in row 2"),
        ("3,14", "sensor_b is '3,14' in row 2; write numbers with a decimal point"),
        ([1, 2], "sensor_b is [1, 2] in row 2; give one number in each row"),
        (1e300, "sensor_b is too large for float32 in row 2"),
    ],
)
def test_a_value_that_is_no_number_is_refused_by_its_row(value: Any, what: str) -> None:
    table = plant()
    table["sensor_b"][2] = value
    with pytest.raises(InputError) as caught:
        open_table(table, **ROLES)
    assert what in str(caught.value)


@pytest.mark.parametrize("unit", ["ns", "us", "D"])
@pytest.mark.parametrize("kind", ["datetime64", "timedelta64"])
@pytest.mark.parametrize("name", ["sensor_b", "valve_x", "yield"])
def test_dates_are_no_numbers_in_any_unit(kind: str, unit: str, name: str) -> None:
    cells = np.arange(7).astype(f"{kind}[{unit}]")
    for column in (cells, list(cells), np.ma.masked_array(cells, np.arange(7) == 6)):
        with pytest.raises(
            InputError, match=rf"{name} is .* in row 0; give one number in each row"
        ):
            open_table(plant() | {name: column}, **ROLES)
    columns = TableColumns.from_dict(open_table(plant(), **ROLES).metadata["columns"], "")
    with pytest.raises(InputError, match=r"sensor_b is .* in row 0; give one number in each"):
        columns.encode({"sensor_a": 1.0, "sensor_b": cells[1]})
    cells[0] = "NaT"
    with pytest.raises(InputError, match=rf"{name} is .* in row 1; give one number in each row"):
        open_table(plant() | {name: cells}, **ROLES)


def test_dates_are_the_same_labels_in_any_unit() -> None:
    days = np.repeat(np.array(["2024-03-01", "2024-03-02"], "datetime64[D]"), [4, 3])
    options: dict[str, Any] = ROLES | {"categorical": "grade"}
    moments = [datetime.datetime(2024, 3, 1)] * 4 + [datetime.datetime(2024, 3, 2)] * 3
    for cells in (days.astype("datetime64[ns]"), days.astype("datetime64[s]"), moments):
        data = open_table(plant() | {"batch": cells, "grade": cells}, **options)
        assert data.lengths.tolist() == [3, 2]
        categories = data.metadata["columns"]["observation"][-1]["categories"]
        assert categories == ("2024-03-01 00:00:00", "2024-03-02 00:00:00")
        columns = TableColumns.from_dict(data.metadata["columns"], "")
        for moment in (moments[-1], np.datetime64("2024-03-02", "ns")):
            row = {"sensor_a": 0.0, "sensor_b": 0.0, "grade": moment}
            assert columns.encode(row)[2:].tolist() == [0, 1]
    for cells in (days, days.tolist(), days.astype(str)):
        data = open_table(plant() | {"grade": cells}, **options)
        categories = data.metadata["columns"]["observation"][-1]["categories"]
        assert categories == ("2024-03-01", "2024-03-02")


# Files.


def test_every_kind_of_file_gives_the_same(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    options = ROLES | {"categorical": "grade", "missing": "ffill"}
    table = without(plant() | {"grade": list("ABABABA")}, ("sensor_b", 1), ("grade", 2))
    expected = open_table(table, **options)
    arrow = pyarrow.table(table)
    parquet.write_table(arrow, tmp_path / "log.parquet")
    write_csv(tmp_path / "log.csv", table)
    write_csv(tmp_path / "excel.csv", table, ";")
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    text = "\n".join(json.dumps({k: v for k, v in row.items() if v is not None}) for row in rows)
    (tmp_path / "log.jsonl").write_text(f"{text}\n")
    for source in (
        tmp_path / "log.parquet",
        tmp_path / "log.csv",
        str(tmp_path / "excel.csv"),
        tmp_path / "log.jsonl",
        arrow,
        arrow.set_column(7, "grade", arrow["grade"].dictionary_encode()),
    ):
        data = open_table(source, **options)
        assert data.fingerprint() == expected.fingerprint(), source
        columns = dict(data.metadata["columns"]) | {"files": ()}
        assert columns == expected.metadata["columns"]


def test_lists_and_patterns_of_files(tmp_path: Path) -> None:
    table = plant((3, 4, 2))
    expected = open_table(table, **ROLES)
    order = np.random.default_rng(1).permutation(9)
    for number, rows in enumerate((order[:4], order[4:])):
        part = {name: [values[row] for row in rows] for name, values in table.items()}
        write_csv(tmp_path / f"part-{number}.csv", part if number else dict(reversed(part.items())))
    paths = [tmp_path / "part-0.csv", tmp_path / "part-1.csv"]
    data = open_table(paths, **(ROLES | {"observation": ["sensor_a", "sensor_b"]}))
    assert data.fingerprint() == expected.fingerprint()
    pattern = open_table(
        str(tmp_path / "part-*.csv"), **(ROLES | {"observation": ["sensor_a", "sensor_b"]})
    )
    assert pattern.fingerprint() == expected.fingerprint()
    # The files' names only: where they lay is nobody else's business.
    assert pattern.metadata["columns"]["files"] == ("part-0.csv", "part-1.csv")
    with pytest.raises(InputError, match=r"parts-\*\.csv: no file matches"):
        open_table(str(tmp_path / "parts-*.csv"), **ROLES)


def test_files_without_episodes_are_one_each(tmp_path: Path) -> None:
    roles = {name: value for name, value in ROLES.items() if name not in ("episode", "time")}
    paths = [write_csv(tmp_path / f"{name}.csv", plant((3,))) for name in "ab"]
    data = open_table(paths, **roles)
    assert data.lengths.tolist() == [2, 2]
    assert said(data, "there is no column of episodes: each of the 2 files is one episode")
    with pytest.raises(InputError, match="the rows of episode b0 are in several files"):
        open_table(paths, **roles, episode="batch")


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.jsonl", '{"t": 1}\n{"t": ', "row 1 is no JSON"),
        ("a.jsonl", "[1, 2]\n", "row 0 is no JSON object"),
        ("a.jsonl", '{"t": 1, "t": 2}\n', "row 0 is no JSON (the key 't' is there twice)"),
        ("a.csv", "", "there is no column"),
        ("a.csv", "batch,t,sensor_a,valve_x,yield,t\n1,2,3,4,5,6\n", "there are two columns 't'"),
        ("a.csv", "batch,t,sensor_a,valve_x,yield\n1,2,3\n", "row 0 has 3 cells and the header 5"),
        ("a.csv", "batch,t,sensor_a,valve_x,yield\n", "there is no row"),
        ("a.csv", b"temp [\xb0C],t\n", "it is not UTF-8 text; save it as UTF-8 (in Excel"),
        ("a.parquet", "no", "truncated, or not what its name says"),
        (
            "a.xlsx",
            "no",
            "a table's name must end in one of .csv, .csv.gz, .parquet, .jsonl",
        ),
    ],
)
def test_files_that_are_no_tables_are_refused(
    tmp_path: Path, name: str, text: str | bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        open_table(tmp_path / name, **ROLES)
    assert what in str(caught.value)


# A further table.


def test_a_further_table_is_read_as_the_first_was() -> None:
    table = plant() | {"grade": list("ABCABAC"), "ended": [0, 0, 0, 1, 0, 0, 0]}
    table["sensor_b"] = [1.7e9 + 0.01 * row for row in range(7)]
    first = open_table(
        table,
        **ROLES,
        categorical="grade",
        terminated="ended",
        missing="ffill",
        missing_values="sensor_a=-1",
    )
    later = table | {"grade": list("CCCCCAA"), "sensor_b": [1.7e9 + 50.0] * 7}
    later["sensor_a"] = [0.0, -1.0, *later["sensor_a"][2:]]
    later |= {"sensor_c": [0.0] * 7}  # which "sensor_*" would take
    data = open_table_like(later, first)
    assert data.metadata["columns"] == first.metadata["columns"]
    columns = TableColumns.from_dict(first.metadata["columns"], "")
    row = {name: values[3] for name, values in later.items()}
    np.testing.assert_array_equal(data.observations[3], columns.encode(row))
    assert data.observations[0, 2:].tolist() == [0, 0, 1]
    assert data.observations[1, 0] == 0.0
    assert data.terminated.tolist() == [True, False]
    columns.require_same(TableColumns.from_dict(data.metadata["columns"], ""), "later")
    with pytest.raises(InputError, match=r"later: its observation is not as .* sensor_b differs"):
        other = open_table(table | {"sensor_b": [0.5] * 7}, **ROLES, categorical="grade")
        columns.require_same(TableColumns.from_dict(other.metadata["columns"], ""), "later")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"valve_x": list("ababaaa")}, "valve_x is a category, and a number in table"),
        ({"sensor_b": list("ababaaa")}, "sensor_b is 'a' in row 0"),
        ({"grade": list("ABZABAB")}, "grade is 'Z', which the table never had"),
        ({"batch": None}, "there is no column 'batch' for the `episode`"),
    ],
)
def test_a_further_table_of_other_columns_is_refused(changes: dict[str, Any], what: str) -> None:
    table = plant() | {"grade": list("ABCABAC")}
    first = open_table(table, **ROLES, categorical="grade")
    later = {name: cells for name, cells in (table | changes).items() if cells is not None}
    with pytest.raises(InputError) as caught:
        open_table_like(later, first)
    assert what in str(caught.value)
    with pytest.raises(InputError, match="it was not made of a table"):
        open_table_like(later, first.with_metadata(metadata={}))


# What is kept.


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet"])
def test_the_columns_are_kept_in_the_file(tmp_path: Path, suffix: str) -> None:
    table = plant() | {"grade": list("ABABABA")}
    data = open_table(table, **ROLES, categorical="grade")
    again = open_dataset(save_dataset(data, tmp_path / f"out{suffix}"))
    assert again.fingerprint() == data.fingerprint()
    columns = TableColumns.from_dict(data.metadata["columns"], "")
    assert TableColumns.from_dict(again.metadata["columns"], "") == columns
    assert check_dataset(again) == check_dataset(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"observation": []},
        {"observation": 3},
        {"observation": [{"name": 3}]},
        {"observation": [{"name": "a", "categories": ["A", "A"]}]},
        {"observation": [{"name": "a", "offset": "NaN"}]},
        {"observation": [{"name": "a", "more": 1}]},
        {"reward": None},
        {"files": [3]},
        {"else": 1},
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, changes: Any) -> None:
    data = open_table(plant(), **ROLES)
    metadata = {**data.metadata, "columns": data.metadata["columns"] | changes}
    path = save_dataset(data.with_metadata(metadata=metadata), tmp_path / "out.npz")
    with pytest.raises(InputError, match=r"out\.npz: the description of the table's columns is"):
        open_dataset(path)


def test_the_preview_says_what_was_made_of_it() -> None:
    table = without(plant() | {"grade": list("ABABABA")}, ("sensor_b", 1))
    data = open_table(table, **ROLES, categorical="grade", missing="ffill")
    preview = data.metadata["_preview"]
    for text in (
        "table: 7 rows",
        "sensor_b  observation                14.3 %",
        "grade     observation, 2 categories           A, B ",
        "not used: comment",
        "episodes: 2 of batch, of 3 rows (median; 3 to 4)",
        "time: every 60",
        "transitions: 5 in 2 episodes, 0 of which terminate",
        "note: missing values were filled from the row before",
    ):
        assert text in preview

"""Files and frames of people's own: what each writes differently, read or refused by name."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from plant import ROLES, plant, write_csv
from xql.data.convert import open_table
from xql.errors import InputError


def text_of(table: dict[str, Any], tmp_path: Path, between: str = ",") -> str:
    return write_csv(tmp_path / "plain.csv", table, between).read_text()


def test_what_programs_write_around_the_same_cells(tmp_path: Path) -> None:
    expected = open_table(plant(), **ROLES).fingerprint()
    plain = text_of(plant(), tmp_path)
    semicolons = text_of(
        {("note, in words" if name == "comment" else name): v for name, v in plant().items()},
        tmp_path,
        ";",
    )
    header, rest = plain.split("\n", 1)
    spaced = header.strip().replace(",", " , ") + "\n" + rest
    for text in (plain, f"\ufeff{plain}", semicolons, plain.replace(",", "|"), spaced):
        (tmp_path / "log.csv").write_bytes(text.encode())
        assert open_table(tmp_path / "log.csv", **ROLES).fingerprint() == expected, text[:80]
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(plain.encode()))
    data = open_table(str(tmp_path / "*.csv.gz"), **ROLES)
    assert data.fingerprint() == expected
    assert data.metadata["columns"]["files"] == ("log.csv.gz",)


@pytest.mark.parametrize(
    ("whole", "what"),
    [
        (False, "gz could not read it (Not a gzipped file"),
        (True, "gz could not read it (Compressed file ended"),
    ],
)
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, whole: bool, what: str) -> None:
    text = text_of(plant((300,)), tmp_path).encode()
    content = gzip.compress(text)[:-20] if whole else text
    (tmp_path / "log.csv.gz").write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_table(tmp_path / "log.csv.gz", **ROLES)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("3,14", "write numbers with a decimal point"),
        ("1,234.5", "without separators of thousands"),
        ("1'234", "without separators of thousands"),
        ("yes", "a column of categories needs `categorical=sensor_b`"),
    ],
)
def test_numbers_as_people_write_them_name_what_is_expected(cell: str, hint: str) -> None:
    table = plant()
    table["sensor_b"][1] = cell
    with pytest.raises(InputError) as caught:
        open_table(table, **ROLES)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sensor_c": [1.0] * 7}, "b.csv: its column 'sensor_c' is the `observation` too"),
        ({"sensor_b": None}, "b.csv: there is no column 'sensor_b' for the `observation`"),
    ],
)
def test_files_whose_columns_differ_are_refused(
    tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    write_csv(tmp_path / "a.csv", plant())
    other = plant() | {"batch": ["c"] * 4 + ["d"] * 3} | changes
    write_csv(tmp_path / "b.csv", {name: v for name, v in other.items() if v is not None})
    with pytest.raises(InputError) as caught:
        open_table(str(tmp_path / "*.csv"), **ROLES)
    assert what in str(caught.value)
    # A column of no role may be in some files only.
    if "sensor_c" in changes:
        named = ROLES | {"observation": ["sensor_a", "sensor_b"]}
        assert open_table(str(tmp_path / "*.csv"), **named).episodes == 4


def test_columns_that_are_empty_or_of_other_lengths() -> None:
    with pytest.raises(InputError, match="and 6 more cells; no row has it: leave the column out"):
        open_table(plant() | {"sensor_b": [None] * 7}, **ROLES)
    with pytest.raises(InputError, match="sensor_b has 1 rows and yield 7; give columns of one"):
        open_table(plant() | {"sensor_b": [1.0]}, **ROLES)
    with pytest.raises(InputError, match="the table has no column at all"):
        open_table({}, **ROLES)


def test_frames_of_polars() -> None:
    polars: Any = pytest.importorskip("polars")
    table = plant() | {"grade": list("ABABABA")}
    options: dict[str, Any] = ROLES | {"categorical": "grade", "missing": "ffill"}
    expected = open_table(table, **options).fingerprint()
    frame = polars.DataFrame(table)
    minutes = polars.duration(seconds=polars.col("t"))
    for same in (
        frame,
        frame.sample(fraction=1.0, shuffle=True, seed=0),
        frame.with_columns(polars.col("grade").cast(polars.Categorical)),
        frame.with_columns(polars.col("grade").cast(polars.Enum(["B", "A"]))),
        frame.with_columns(t=polars.datetime(2024, 1, 1) + minutes),
        frame.with_columns(
            t=(polars.datetime(2024, 1, 1) + minutes).dt.replace_time_zone("Europe/Paris")
        ),
        [frame.filter(polars.col("batch") == "b0"), frame.filter(polars.col("batch") == "b1")],
    ):
        assert open_table(same, **options).fingerprint() == expected
    gaps = frame.with_columns(
        sensor_a=polars.when(polars.col("t") != 60.0).then(polars.col("sensor_a").cast(int))
    )
    rows = {name: gaps[name].to_list() for name in gaps.columns}
    assert open_table(gaps, **options).fingerprint() == open_table(rows, **options).fingerprint()
    with pytest.raises(InputError, match=r"sensor_b is array\(\[1, 2\]\) in row 0"):
        open_table(frame.with_columns(sensor_b=polars.Series([[1, 2]] * 7)), **options)
    with pytest.raises(InputError, match="a LazyFrame has no values yet"):
        open_table(frame.lazy(), **options)

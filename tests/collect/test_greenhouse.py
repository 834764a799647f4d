"""The log of a greenhouse: played again it gives itself, and it goes from a CSV to an action."""

import csv
import datetime
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xql.cli import main
from xql.collect.greenhouse import COLUMNS, make_greenhouse, start_days
from xql.data.convert import open_table
from xql.envs.greenhouse import CHANGES, LOGGED, SENSORS, WITHHELD, Greenhouse
from xql.errors import InputError
from xql.runs.policy import load_policy

pytest.importorskip("lettuce_greenhouse_gym", reason="the extra greenhouse is not installed")

SHORT = 286
"""A seed whose first two seasons start on days 29 and 16: they are cut after 11 and 24 days."""
OPTIONS = {
    "observation": "sensor_*",
    "action": "change_*",
    "reward": "reward",
    "episode": "season",
    "time": "time",
    "terminated": "harvested",
}
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("greenhouse") / "log.csv"
    assert make_greenhouse(path, episodes=2, seed=SHORT) == (35 * 48, 0)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_its_rows_played_again_give_the_observations_in_their_order(log: Path) -> None:
    data = open_table(log, **OPTIONS)
    assert data.environment is None and data.episodes == 2 and not data.terminated.any()
    assert [one["name"] for one in data.metadata["columns"]["observation"]] == list(SENSORS)
    assert [one["name"] for one in data.metadata["columns"]["action"]] == list(CHANGES)
    env = Greenhouse()
    observation, _ = env.reset(options={"start_day": 16})
    for row in range(24 * 48 - 1):
        # The file has six digits of each number, and the settings add up the actions.
        np.testing.assert_allclose(data.observations[row], observation, rtol=1e-3, atol=5e-3)
        observation, reward, *_ = env.step(data.actions[row])
        assert data.rewards[row] == pytest.approx(reward, rel=1e-3, abs=1e-6)


def test_no_row_is_of_a_day_that_evaluates(log: Path) -> None:
    rows = rows_of(log)
    assert list(rows[0]) == list(COLUMNS)
    days = {datetime.date.fromisoformat(row["time"][:10]).timetuple().tm_yday for row in rows}
    assert days == set(range(16, 40)) and days.isdisjoint(WITHHELD)
    assert {row["season"]: row["time"] for row in reversed(rows)} == {
        "S001": "2014-01-16T00:00:00",
        "S002": "2014-01-29T00:00:00",
    }


def test_start_days_are_those_of_the_log_in_turn() -> None:
    days = start_days(2 * len(LOGGED), seed=3)
    assert sorted(days[: len(LOGGED)]) == sorted(LOGGED) == sorted(days[len(LOGGED) :])
    assert start_days(5, 3) == days[:5] != start_days(5, 4)


def test_equal_seeds_give_equal_bytes_and_cells_are_left_out_where_asked(
    log: Path, tmp_path: Path
) -> None:
    make_greenhouse(tmp_path / "one.csv", episodes=1, seed=SHORT)
    make_greenhouse(tmp_path / "again.csv", episodes=1, seed=SHORT)
    make_greenhouse(tmp_path / "gaps.csv", episodes=1, seed=SHORT, missing=0.1)
    one, gaps = rows_of(tmp_path / "one.csv"), rows_of(tmp_path / "gaps.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    # A season depends on the seed and its turn, not on how many there are.
    later = [row for row in rows_of(log) if row["season"] == "S002"]
    assert [row | {"season": ""} for row in one] == [row | {"season": ""} for row in later]
    empty = {name: np.mean([row[name] == "" for row in gaps]) for name in COLUMNS}
    clock = ("sensor_season_share", "sensor_hour_sin", "sensor_hour_cos")
    for name, share in empty.items():
        measured = name in SENSORS and name not in clock
        assert 0.05 < share < 0.16 if measured else share == 0, name
    filled = [{k: v or one[row][k] for k, v in each.items()} for row, each in enumerate(gaps)]
    assert filled == one


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"episodes": 0}, r"^greenhouse: `episodes=0`; give 1 to"),
        ({"missing": 1.0}, r"^greenhouse: `missing=1`; give a share below 1"),
        ({"seed": -1}, r"^`seed=-1` is no seed"),
        ({"out": Path("log.txt")}, r"^log.txt: it is no .csv file; name it NAME.csv"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    arguments: dict[str, Any], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=line):
        functools.partial(make_greenhouse, **({"out": Path("log.csv")} | arguments))()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_not_written_over(log: Path) -> None:
    before = log.read_bytes()
    with pytest.raises(InputError, match=r"log.csv: the file exists; give another name$"):
        make_greenhouse(log, episodes=1)
    assert log.read_bytes() == before


def test_from_the_command_line_to_a_named_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"data make greenhouse --out log.csv --episodes 1 --seed {SHORT} --missing 0.01"
    main(words.split())
    made = capsys.readouterr().out
    assert "made log.csv: 528 rows of 1 seasons, 0 of them up to the harvest" in made
    main(["data", "convert", "log.csv", "log.npz", *FLAGS, "--missing", "ffill"])
    printed = capsys.readouterr().out
    command = made[made.index("next: xql ") + len("next: xql ") :].replace("'", "").split()
    assert command == ["data", "convert", "log.csv", "log.npz", *FLAGS, "--missing", "ffill"]
    assert "sensor_humidity_pct" in printed and "change_heating" in printed
    main(["data", "check", "log.npz"])
    assert "error" not in capsys.readouterr().out
    words = "train offline --data log.npz --agent bc --steps 20 --set hidden=[16,16] --env none"
    main([*words.split(), "--out", "run", "--no-plot"])
    row: dict[str, Any] = {name: float(value or 0) for name, value in last_sensors("log.csv")}
    action = load_policy("run").act(row)
    assert list(action) == list(CHANGES)
    assert all(abs(value) <= 1 for value in action.values())


def last_sensors(path: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in rows_of(Path(path))[-1].items() if name in SENSORS]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("greenhouse", "greenhouse: it needs a file; name it with --out LOG.csv"),
        ("greenhouse --out a.csv --noise 0.1", "greenhouse: it takes no --noise; leave it out"),
        ("pointmaze-umaze --episodes 3", "pointmaze-umaze: it takes no --episodes; leave it out"),
    ],
)
def test_flags_of_something_else_are_refused(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["data", "make", *words.split()])
    assert left.value.code == 2 and line in capsys.readouterr().err

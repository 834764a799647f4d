import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xql.cli import data as commands
from xql.cli import main
from xql.data.files import save_dataset
from xql.data.sources import open_dataset
from xql.errors import InputError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two episodes of 3 and 2 steps, saved."""
    monkeypatch.setenv("COLUMNS", "80")
    observations = np.array([0.0, 1.0, 2.0, 50.0, 51.0])[:, None]
    columns = {
        "observations": observations,
        "actions": np.linspace(-1, 1, 5)[:, None],
        "rewards": np.arange(5.0),
        "terminated": np.array([0, 0, 1, 0, 0], bool),
        "truncated": np.array([0, 0, 0, 0, 1], bool),
        "next_observations": observations + 1,
    }
    return save_dataset(open_dataset(columns), tmp_path / "two.npz")


def fits(text: Any) -> Any:
    return all(len(line) <= 80 for line in text.splitlines())


def test_info(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    commands.info("two.npz")
    printed = capsys.readouterr().out
    assert fits(printed)
    for part in (
        "episodes     2",
        "transitions  5 ",
        "1 terminated, 1 cut by a time limit, 0",
    ):
        assert part in printed
    assert "mean 5.0, median 5.0, from 3.0 to 7.0" in printed


def test_check_of_sound_data(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.check(str(path))
    printed = capsys.readouterr().out
    assert printed.startswith("arrays: 2 episodes, 5 transitions")
    assert "error" not in printed
    assert fits(printed)


def test_check_exits_1_on_an_error(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = np.zeros((5, 1))
    flags = np.array([0, 0, 1, 0, 1], bool)
    columns = {"observations": still, "actions": still, "rewards": still[:, 0]}
    bad = open_dataset({**columns, "terminated": flags, "truncated": flags})
    saved = save_dataset(bad, tmp_path / "still.hdf5")
    with pytest.raises(SystemExit) as caught:
        commands.check(str(saved))
    assert caught.value.code == 1
    printed = capsys.readouterr().out
    assert "error    no observation ever changes (observations); an observation must" in printed
    assert "warning  every reward is 0" in printed
    assert fits(printed)


def test_check_names_every_row_that_is_not_finite(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(path) as file:
        columns = dict(file)
    columns["rewards"][[1, 3]] = np.nan
    np.savez(tmp_path / "nan.npz", **columns)
    with pytest.raises(SystemExit) as caught:
        commands.check(str(tmp_path / "nan.npz"))
    assert caught.value.code == 1
    assert "error    NaN in rewards (rows 1, 3); drop or fix these rows" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"NaN in rewards, row 1"):
        commands.info(str(tmp_path / "nan.npz"))


EVIL = "red\x1b[31m\x9b2J\u202eend\x07[/bold]"
SHOWN = "red\\x1b[31m\\x9b2J\\u202eend\\x07[/bold]"


def test_names_from_a_file_never_reach_the_terminal_raw(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data = open_dataset(path).with_metadata(
        name=EVIL,
        environment=json.dumps({"id": EVIL}),
        metadata={"observation_layout": [[EVIL, 1]]},
    )
    assert data.name == SHOWN
    saved = save_dataset(data, tmp_path / "evil.npz")
    commands.info(str(saved))
    commands.check(str(saved))
    printed = capsys.readouterr().out
    assert printed.count(SHOWN) == 4
    assert not any(character in printed for character in "\x1b\x9b\u202e\x07")
    plain = data.with_metadata(environment=EVIL)
    assert dict(commands.describe(plain))["environment"] == SHOWN


def test_names_of_folders_never_reach_the_terminal_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (tmp_path / "a\x1b[31m-v0/data").mkdir(parents=True)
    (tmp_path / "a\x1b[31m-v0/data/metadata.json").write_text("{}")
    commands.list_()
    assert "minari:a\\x1b[31m-v0\n" in capsys.readouterr().out


def test_the_environment_as_it_shows(path: Path) -> None:
    data = open_dataset(path)
    for stated, shown in (
        ("Pendulum-v1", "Pendulum-v1"),
        ('{"id": "Door-v1"}', "Door-v1"),
        ('{"di": 1}', "stated, but not readable"),
        ("{", "stated, but not readable"),
    ):
        lines = dict(commands.describe(data.with_metadata(environment=stated)))
        assert lines["environment"] == shown


def test_convert_looks_at_where_it_writes_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; make it first$"):
        commands.convert((str(tmp_path / "missing.npz"), str(tmp_path / "nowhere" / "a.npz")))


def test_convert_and_refusal_to_overwrite(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "two.hdf5"
    commands.convert((str(path), str(out)))
    assert "2 episodes, 5 transitions" in capsys.readouterr().out
    np.testing.assert_array_equal(open_dataset(out).observations, open_dataset(path).observations)
    with pytest.raises(InputError, match=r"the file exists"):
        commands.convert((str(path), str(out)))


LOG = """batch,t,sensor_a,grade,valve,yield
b0,0,1.0,A,0.5,1
b0,60,2.0,B,0.25,2
b0,120,,A,0.5,3
b1,0,5.0,A,0.75,4
b1,60,6.0,A,0.5,
"""
TABLE = [
    "--observation",
    "sensor_*",
    "--action",
    "valve",
    "--reward",
    "yield",
    "--episode",
    "batch",
    "--time",
    "t",
]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(LOG)
    return ["data", "convert", "log.csv", "out.npz", *TABLE, "--categorical", "grade"]


def test_a_table_is_shown_and_then_written(
    table: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*table, "--missing", "ffill"])
    printed = capsys.readouterr().out
    assert "log.csv: 5 rows" in printed
    assert "transitions: 3 in 2 episodes" in printed
    assert "out.npz: 2 episodes, 3 transitions" in printed
    data = open_dataset("out.npz")
    assert data.name == "out"
    columns = data.metadata["columns"]
    assert [one["name"] for one in columns["observation"]] == ["sensor_a", "grade"]
    assert columns["files"] == ["log.csv"]
    shown = dict(commands.describe(data))
    assert shown["observation"] == "3 numbers: sensor_a, grade=A, grade=B"
    assert shown["action"] == "1 numbers: valve in [0.25, 0.75]"
    commands.check("out.npz")
    assert "missing values were filled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ([], "log.csv: sensor_a is empty in row 2; fill them, or choose --missing ffill or "),
        (["--reward", "gain"], "log.csv: there is no column 'gain' for the --reward; choose from"),
        (["--observation", "s*r"], "log.csv: --observation s*r matches no column"),
    ],
)
def test_a_table_that_cannot_be_is_refused(
    table: list[str], more: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*table, *more])
    assert ended.value.code == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(f"xql: {what}")
    assert found.err.count("\n") == 1
    assert not Path("out.npz").exists()


def test_sentinels_and_late_rewards_are_declared_by_flags(
    table: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("log.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.replace(",,", ",-999,") for line in lines))
    main([*table, "--missing-values", "-999", "?", "--missing", "ffill", "--reward-at", "next"])
    printed = capsys.readouterr().out
    assert "reward, of the action before" in printed
    assert "missing values were filled" in printed
    columns = open_dataset("out.npz").metadata["columns"]
    assert columns["missing_values"] == ["-999", "?"] and columns["reward_at"] == "next"


def test_columns_may_be_named_by_one_flag_or_several(table: list[str]) -> None:
    lines = [f"{line},{number}" for number, line in enumerate(LOG.splitlines())]
    lines[0] = lines[0].rsplit(",", 1)[0] + ",other"
    Path("log.csv").write_text("\n".join(lines))
    main([*table, "--observation", "other", "--missing", "ffill"])
    columns = open_dataset("out.npz").metadata["columns"]["observation"]
    assert sorted(one["name"] for one in columns) == ["grade", "other", "sensor_a"]


def test_a_table_without_roles_is_asked_for_them(
    table: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["data", "convert", "log.csv", "out.npz"])
    assert capsys.readouterr().err.endswith("with --observation, --action and --reward\n")


def test_a_table_is_not_written_over_another(
    table: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.npz").write_text("mine")
    with pytest.raises(SystemExit):
        main([*table, "--missing", "ffill"])
    assert Path("out.npz").read_text() == "mine"
    assert "the file exists" in capsys.readouterr().err


def test_on_a_terminal_it_asks_first(
    table: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xql.cli.data.is_terminal", lambda stream: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    main([*table, "--missing", "ffill"])
    assert capsys.readouterr().out.endswith("nothing was written\n")
    assert not Path("out.npz").exists()

    def nothing(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nothing)
    main([*table, "--missing", "ffill"])
    assert not Path("out.npz").exists()
    main([*table, "--missing", "ffill", "--yes"])
    assert Path("out.npz").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["log.csv"], "there is no file to write"),
        (["log.csv", "b.csv", "out.npz"], "b.csv: there is more than one source"),
        (["log.csv", "out.npz", "--observation", "a"], "--action is not given"),
        (["log.csv", "out.npz"], "log.csv: there is no 'observations' (the file has batch, grade"),
        (["*.jsonl", "out.npz", *TABLE], "*.jsonl: no file matches"),
        (
            ["log.csv", "out.npz", "--like", "a.npz", "--missing", "ffill"],
            "--like says what each column is; leave out --missing",
        ),
        (
            ["log.csv", "out.npz", "--missing-values", "-999"],
            "--missing-values is for a table with columns of any names; name its --observation",
        ),
        (
            ["log.csv", "out.npz", "--like", "a.npz", "--action", "valve"],
            "--like says what each column is; leave out --action",
        ),
    ],
)
def test_what_convert_lacks(
    table: list[str], words: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["data", "convert", *words])
    assert capsys.readouterr().err.startswith(f"xql: {what}")


def test_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (tmp_path / "D4RL/door/human-v2/data").mkdir(parents=True)
    (tmp_path / "D4RL/door/human-v2/data/metadata.json").write_text("{}")
    commands.list_()
    printed = capsys.readouterr().out
    assert "minari:D4RL/door/human-v2" in printed
    for maze in ("umaze", "medium", "large"):
        assert f"  pointmaze-{maze}\n" in printed

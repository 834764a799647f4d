from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xql.cli import data as commands
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
        commands.convert(str(tmp_path / "missing.npz"), tmp_path / "nowhere" / "a.npz")


def test_convert_and_refusal_to_overwrite(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "two.hdf5"
    commands.convert(str(path), out)
    assert "2 episodes, 5 transitions" in capsys.readouterr().out
    np.testing.assert_array_equal(open_dataset(out).observations, open_dataset(path).observations)
    with pytest.raises(InputError, match=r"the file exists"):
        commands.convert(str(path), out)


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

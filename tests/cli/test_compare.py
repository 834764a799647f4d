"""`xql compare` as a user types it."""

from pathlib import Path

import pytest

from worlds import line_data, register_line
from xql.agents import Unchecked
from xql.cli import main
from xql.training.offline import train_offline


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """XQL with two β and BC, two seeds each, and one run that was evaluated otherwise."""
    home = tmp_path_factory.mktemp("runs")
    for name, agent, changes in (
        ("xql", "xql", {"beta": [0.5, 2.0]}),
        ("bc", "bc", {}),
        ("other", "bc", {"episodes": 3, "seeds": [5]}),
    ):
        asked = {"seeds": 2, "evaluations": 2, "episodes": 2, "last_episodes": 3} | changes
        train_offline(
            line_data(),
            agent=Unchecked(agent),
            steps=20,
            env=register_line(),
            out=home / name,
            options={"hidden": [8], "batch_size": 8},
            progress=False,
            **asked,
        )
    return {path.name: path for path in home.iterdir()}


def test_a_flag_s_path_may_begin_in_the_home_folder(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("compare", str(runs["bc"]), "--out=~/compared") == 0
    assert list((tmp_path / "compared").iterdir())
    assert not Path("~").exists()


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return 0 if end.code is None else int(str(end.code))
    return 0


def test_tables_and_figure(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert run("compare", str(runs["xql"]), str(runs["bc"]), "--out", str(out)) == 0
    printed = capsys.readouterr().out
    for part in ("xql fixed β=0.5", "xql fixed β=2", "| bc", "% success", "last: IQM", "best: IQM"):
        assert part in printed
    assert (out / "comparison.md").read_text(encoding="utf-8") == printed
    names = {f"comparison.{kind}" for kind in ("md", "csv", "tex", "png", "svg")}
    assert {path.name for path in out.iterdir()} == names | {"improvement.csv", "profiles.csv"}
    assert run("compare", str(runs["bc"]), "--out", str(out)) == 2
    assert "nothing is written over" in capsys.readouterr().err


@pytest.mark.parametrize(("format", "first"), [("csv", "task,method"), ("latex", r"\begin{tab")])
def test_formats(
    format: str, first: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", str(runs["bc"]), "--format", format, "--quantity", "return") == 0
    assert capsys.readouterr().out.startswith(first)


def test_bad_input_is_one_line(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for words, part in (
        ((), "there is no run; name one"),
        (("nowhere",), "no such run folder"),
        (
            (str(runs["bc"] / "config.yaml"),),
            f"this is a file; name a run folder; is it {runs['bc']}?",
        ),
        ((str(runs["bc"]), str(runs["other"])), "evaluation.episodes is 2 here and 3 in"),
        ((str(runs["bc"]), "--quantity", "score"), "have no score"),
        ((str(runs["bc"]), "--format", "html"), "html"),
    ):
        assert run("compare", *words) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and len(printed.err.splitlines()) == 1 and part in printed.err, (
            printed.err
        )

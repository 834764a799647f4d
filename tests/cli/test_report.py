"""`xql report`, and the page that a run ends with."""

import time
from pathlib import Path
from typing import Any

import pytest

from worlds import line_data, register_line
from xql.cli import demo, main
from xql.reports import page
from xql.runs.folder import RunFolder
from xql.runs.lock import locked
from xql.runs.run import Run
from xql.training import diagnostics
from xql.training.offline import train_offline


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return 0 if end.code is None else int(str(end.code))
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that left its page and its diagnostics."""
    pytest.importorskip("jinja2")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(diagnostics.SWITCH)
        patch.setattr(page, "_bundle", lambda: "// Vega")
        return train_offline(
            line_data(),
            agent="bc",
            steps=20,
            env=register_line(),
            out=tmp_path_factory.mktemp("runs") / "bc",
            options={"hidden": [8], "batch_size": 8},
            evaluations=1,
            episodes=1,
            last_episodes=1,
            progress=False,
        )


@pytest.fixture(autouse=True)
def without_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setattr(page, "_bundle", lambda: "// Vega")


def test_a_run_leaves_its_page(trained: Run) -> None:
    text = (trained.path / page.FILE).read_text(encoding="utf-8")
    assert "complete" in text and 'data-figure="actions"' in text
    found = diagnostics.load(trained.folder)
    assert found is not None and found.step == 20


def test_the_page_replaces_an_earlier_one_in_the_run_alone(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    own, path = trained.path / page.FILE, str(trained.path)
    own.write_text("old")
    assert run("report", path) == 0
    assert capsys.readouterr().out == f"report: {own}\n"
    assert own.read_text(encoding="utf-8").startswith("<!doctype html>")
    other = tmp_path / "mine.html"
    other.write_text("mine")
    assert run("report", path, "--out", str(other)) == 2
    assert capsys.readouterr().err.startswith(f"xql: {other}: the page exists")
    assert other.read_text() == "mine"
    assert run("report", str(tmp_path / "none")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    # Of several the page lies where the command runs.
    monkeypatch.chdir(tmp_path)
    again = RunFolder.create(tmp_path / "again", trained.config)
    assert run("report", path, str(again.path)) == 0
    assert (tmp_path / page.FILE).is_file()


def test_a_page_follows_a_run_until_it_ends(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "live.html"
    held = locked(trained.path)
    seen: list[bool] = []

    def slept(seconds: float) -> None:
        seen.append('data-seconds="2"' in out.read_text(encoding="utf-8"))
        if len(seen) == 2:
            held.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", slept)
    held.__enter__()
    assert run("report", str(trained.path), "--live", "--every", "2", "--out", str(out)) == 0
    assert seen == [True, True]
    assert "data-seconds" not in out.read_text(encoding="utf-8")
    assert "written again every 2 s" in capsys.readouterr().err


def test_the_demo_names_its_page(trained: Run, tmp_path: Path, capsys: Any) -> None:
    for agent in demo.AGENTS:
        (tmp_path / agent).symlink_to(trained.path)
    demo._report(tmp_path)
    # Two names of one run: the page is refused in one line, and the demo goes on.
    assert capsys.readouterr().err.startswith("no report: ")
    (tmp_path / "xql").unlink()
    RunFolder.create(tmp_path / "xql", trained.config)
    demo._report(tmp_path)
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"

"""What decorates a result never fails it, and names are printed as they are."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worlds import line_data, register_line
from xql.cli import demo, main, train
from xql.errors import MissingExtra, decoration, require_matplotlib
from xql.runs.run import Run
from xql.training.offline import train_offline

NAMES = ("[red]x[/]", "a[b]", "[n/a (1 seed)]", ":smile:", "x[/bold]")
ERRORS = "error\n1\n2\n4\n-1\n0.5\n0.2\n3\n"


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return 0 if end.code is None else int(str(end.code))
    return 0


def typed(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`xql WORDS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from xql.cli import main; main()", *words],
        capture_output=True,
        check=False,
        cwd=folder,
        env={**os.environ, **environment},
    )


EACH = """
import sys
from xql.cli import main
words = sys.argv[1:]
while words:
    place, status = words.index(";"), 0
    try:
        main(words[:place])
    except SystemExit as end:
        status = end.code
    for stream in (sys.stdout, sys.stderr):
        print("status", status, file=stream, flush=True)
    words = words[place + 1 :]
"""
"""Commands one after another in one process; each one ends with ";"."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_offline(
        line_data(),
        agent="bc",
        steps=20,
        env=register_line(),
        out=tmp_path_factory.mktemp("runs") / "a[b]",
        options={"hidden": [8], "batch_size": 8},
        evaluations=1,
        episodes=1,
        last_episodes=1,
        progress=False,
    )


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no such\n  [font]")


def test_a_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with decoration("figure", said.append):
        broken()
    with decoration("figure", said.append):
        raise MissingExtra(
            "matplotlib is not installed; run: pip install 'extreme-q-learning[report]'"
        )
    with decoration("figure", said.append):
        raise PermissionError(13, "Permission denied")
    assert said == [
        "no figure: RuntimeError: no such [font]",
        "no figure: matplotlib is not installed; run: pip install 'extreme-q-learning[report]'",
        "no figure: [Errno 13] Permission denied",
    ]
    with decoration("figure"):
        broken()
    assert capsys.readouterr() == ("", f"{said[0]}\n")
    with pytest.raises(KeyboardInterrupt), decoration("figure"):
        raise KeyboardInterrupt


def test_a_figure_that_fails_does_not_fail_the_command(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("matplotlib")
    for name in ("plot_learning_curves", "plot_comparison"):
        monkeypatch.setattr(f"xql.reports.plots.{name}", broken)
    train.finish(trained, plot=True)
    printed = capsys.readouterr()
    assert printed.err == "no figure: RuntimeError: no such [font]\n"
    assert printed.out.endswith(f"run folder: {trained.path}\n")
    demo._draw(tmp_path, 50.0)
    assert capsys.readouterr().err.startswith("no figure: ")
    assert run("compare", str(trained.path), "--out", str(tmp_path / "out")) == 0
    assert capsys.readouterr().err.splitlines() == [
        "no figure: RuntimeError: no such [font]",
        f"tables: {tmp_path / 'out'}",
    ]
    (tmp_path / "errors.csv").write_text(ERRORS)
    monkeypatch.setattr("xql.gumbel.errors.draw_fits", broken)
    words = (str(tmp_path / "errors.csv"), "--plot", str(tmp_path / "errors.png"))
    assert run("gumbel", "errors", *words) == 0
    printed = capsys.readouterr()
    assert "7 errors, best fit first" in printed.out
    assert printed.err == "no figure: RuntimeError: no such [font]\n"


@pytest.mark.parametrize("backend", ["module://no_such.backend", "nonsense", "TkAgg"])
def test_figures_need_no_backend(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "errors.csv").write_text(ERRORS)
    words = ("gumbel", "errors", "errors.csv", "--plot", "errors.png")
    done = typed(tmp_path, *words, MPLBACKEND=backend)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "errors.png").stat().st_size > 5000


def test_the_program_s_backend_stays(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import os; from xql.errors import require_matplotlib; require_matplotlib()\n"
        "import matplotlib; print(matplotlib.get_backend(), os.environ['MPLBACKEND'])"
    )
    environment = {**os.environ, "MPLBACKEND": "pdf"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "pdf pdf\n"
    require_matplotlib()


@pytest.mark.parametrize(
    "encoding",
    [
        "ascii",
        "cp1252",
        pytest.param("cp437", marks=pytest.mark.nightly),
        pytest.param("utf-8", marks=pytest.mark.nightly),
    ],
)
def test_letters_that_an_encoding_lacks_do_not_fail_a_command(
    encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "errors.csv").write_text("x,y,é\n1,2,1\n2,3,1\n3,5,2\n", encoding="utf-8")
    words = ("errors.csv", "--target", "y", "--features", "x,é", "--out", "out.csv")
    commands = (
        ("gumbel", "demo"),
        ("gumbel", "fit", *words),
        ("train", "offline", "--help"),
        ("gumbel", "errors", "β.csv"),
    )
    done = subprocess.run(
        [sys.executable, "-c", EACH, *(word for one in commands for word in (*one, ";"))],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )
    *fine, missing, status = done.stderr.splitlines()
    assert fine == [b"status 0"] * 3 and missing and status == b"status 2"
    printed = re.split(r"status \d\n", done.stdout.decode(encoding))
    assert all(printed[:3]) and printed[3:] == ["", ""]


def test_names_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(20, len(NAMES) + 1))
    text = "\n".join(",".join(map(str, row)) for row in [[*NAMES, "y"], *rows.tolist()])
    Path("table.csv").write_text(text + "\n")
    assert run("gumbel", "fit", "table.csv", "--target", "y", "--features", ",".join(NAMES)) == 0
    printed = capsys.readouterr().out
    for name in NAMES:
        assert f"coefficient of {name} " in printed
    assert "E[e^z] (1 at the optimum)" in printed

    columns = {
        "observations": np.arange(5.0)[:, None],
        "actions": np.linspace(-1, 1, 5)[:, None],
        "rewards": np.arange(5.0),
        "terminated": np.array([0, 0, 0, 0, 1], bool),
        "truncated": np.zeros(5, bool),
    }
    for name in ("[red]x[bold]", "a[b]", ":smile:"):
        np.savez(f"{name}.npz", **columns)  # type: ignore[arg-type]
        for command in ("info", "check"):
            run("data", command, f"{name}.npz")
            assert name in capsys.readouterr().out


def test_an_interval_is_printed_as_it_is(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = demo.Row("bc [red]", "50.0 [n/a (1 seed)] %", "1 seed", "20", "1")
    demo._write_table([row], tmp_path)
    printed = capsys.readouterr().out
    assert "50.0 [n/a (1 seed)] %" in printed and "bc [red]" in printed
    train.finish(trained, plot=False)
    assert "[n/a (1 seed)]" in capsys.readouterr().out
    # A folder in place of the table.
    (tmp_path / "full" / "table.md").mkdir(parents=True)
    demo._write_table([row], tmp_path / "full")
    assert capsys.readouterr().err == (
        f"no table.md: {tmp_path / 'full' / 'table.md'}: no file can be written here "
        "(Is a directory); choose another place\n"
    )


def test_output_of_any_kind_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from xql.cli.console import print_anything

    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    monkeypatch.setattr(sys, "stderr", None)
    print_anything()
    print("β = 1", end="", flush=True)
    raw = narrow.buffer
    assert isinstance(raw, io.BytesIO) and raw.getvalue() == b"beta = 1"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    print_anything()

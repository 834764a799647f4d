"""What no command foresaw: one line, a report, exit status 70; and readers that go."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from xql.cli import main

TAIL = "; this should not happen: the report is "


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def status_where(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit status of a command that raises."""

    def fail() -> NoReturn:
        raise error

    monkeypatch.setattr("xql.cli.paper.list_", fail)
    with pytest.raises(SystemExit) as end:
        main(["paper", "list"])
    return end.value.code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("seed [red]\n\x1b[31m"), r"xql: KeyError: 'seed [red]\n\x1b[31m'"),
        (RecursionError("maximum recursion depth exceeded"), "xql: RecursionError: maximum"),
        (MemoryError(), "xql: not enough memory: MemoryError"),
        (OSError(5, "Input/output error"), "xql: [Errno 5] Input/output error"),
        (ValueError("long " * 1000), "xql: ValueError: long long"),
    ],
)
def test_a_fault_is_one_line_and_its_report(
    error: Exception,
    said: str,
    reports: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status_where(error, monkeypatch) == 70
    printed = capsys.readouterr()
    line, place = printed.err.removesuffix("\n").split(TAIL)
    assert printed.out == "" and "\n" not in printed.err.removesuffix("\n")
    assert line.startswith(said) and len(line) < 400
    (report,) = reports.iterdir()
    assert str(report) == place
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    text = report.read_text(encoding="utf-8")
    assert text.startswith("xql 0.") and "jax " in text and "arguments: paper list" in text
    assert "Traceback (most recent call last)" in text and type(error).__name__ in text


def test_a_report_that_cannot_be_written_is_still_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert status_where(KeyError("x"), monkeypatch) == 70
    assert capsys.readouterr().err == (
        "xql: KeyError: 'x'; this should not happen: no report can be written (No such file or "
        "directory), XQL_DEBUG=1 shows it\n"
    )


def test_the_traceback_is_shown_to_who_asks(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XQL_DEBUG", "1")
    assert status_where(KeyError("x"), monkeypatch) == 70
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("xql: KeyError: 'x'")


def test_a_full_disk_is_no_fault_of_ours(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_where(OSError(28, "No space left on device", "run/x"), monkeypatch) == 2
    assert capsys.readouterr().err == (
        "xql: there is no space left ([Errno 28] No space left on device: 'run/x')\n"
    )
    assert not list(reports.iterdir())


def test_a_file_that_the_system_refuses_is_bad_input(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_where(PermissionError(13, "Permission denied", "a/b"), monkeypatch) == 2
    assert capsys.readouterr().err == "xql: a/b: Permission denied\n"
    assert status_where(OSError(36, "File name too long", "x" * 5000), monkeypatch) == 2
    line = capsys.readouterr().err
    assert line.endswith("xxx: File name too long\n") and len(line) < 650
    assert not list(reports.iterdir())


def xql_into(out: object, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from xql.cli import main; main()", *words],
        stdout=out,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_a_reader_that_has_gone_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    done = xql_into(write, "paper", "list")
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = xql_into(full, "paper", "list")
    assert done.returncode == 2
    assert done.stderr == "xql: there is no space left ([Errno 28] No space left on device)\n"


def test_closed_output_is_quiet() -> None:
    code = "import os; os.close(1); os.execv(sys.executable, [sys.executable, '-c', run])"
    run = "from xql.cli import main; main(['paper', 'list'])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; run = {run!r}; {code}"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

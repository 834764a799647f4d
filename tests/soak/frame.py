"""Bad inputs, and what must become of each: one line, the right exit status, and nothing written.

A file `*_cases.py` beside this one holds `CASES`; `test_corpus.py` runs them all.
"""

import contextlib
import hashlib
import io
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck

from xql.cli import main
from xql.errors import EnvironmentFault, InputError, MissingExtra

CPU_SECONDS = 10.0
"""Of one case. A process that computes for longer than this counts as hanging."""
HANG_SECONDS = 60
"""Until a case that waits, as for the other end of a pipe, is ended; the machine may be busy."""
LONGEST_LINE = 700
MEMORY = 8 << 30
"""Bytes of address space that a case may ask for; the machine's own are others' too."""


class Place(NamedTuple):
    """A case's own folders."""

    inputs: Path
    """Where `make` writes. What lies here must not change; MINARI_DATASETS_PATH is its minari."""
    out: Path
    """Does not exist. The one place that may be written to, and only by a command that exits 0."""


Subject = Sequence[str] | Callable[[], object]


class Case(NamedTuple):
    """One bad input."""

    name: str
    kind: str
    """A group of like cases, such as "config" or "set"."""
    make: Callable[[Place], Subject]
    """Writes the input; returns the words after `xql`, or a call of the Python interface."""
    exits: tuple[int, ...] = (2,)
    """The exit statuses that are right; of a call, 2 stands for InputError and 0 for a return."""
    says: str = ""
    """What the line must hold; where it exits 0, what it must print."""
    alone: bool = False
    """Run it as a process of its own: for what may end or stop this one."""


class Outcome(NamedTuple):
    """What a case did."""

    status: int | None
    """None where it was ended for its time."""
    out: str
    err: str
    faults: list[str]
    """Why this is not what should have happened; mostly none."""


def run_case(case: Case, folder: Path, *, alone: bool = False) -> Outcome:
    """Run one case in an empty folder.

    Args:
        case: the case.
        folder: an empty folder of its own.
        alone: start a process for it, where it does not ask for one itself and is no call.
    """
    place = Place(folder / "inputs", folder / "out")
    for name in ("inputs", "work", "tmp", "home"):
        (folder / name).mkdir()
    with _surroundings(folder):
        subject = case.make(place)
        before = _snapshot(place.inputs)
        began = time.process_time()
        if callable(subject):
            status, out, err = _inside(subject, folder)
        elif alone or case.alone:
            status, out, err = _process(subject, folder)
        else:
            words = list(subject)
            status, out, err = _inside(lambda: main(words), folder)
        seconds = time.process_time() - began
        after = _snapshot(place.inputs)
        if after.get("minari", "").startswith("d"):
            before.setdefault("minari", after["minari"])  # Minari makes its root when it is asked
    faults = _faults(case, status, out, err)
    if seconds > CPU_SECONDS:
        faults.append(f"it computed for {seconds:.0f} s")
    if before != after:
        changed = sorted({path for path, _ in before.items() ^ after.items()})
        faults.append(f"its inputs were changed: {', '.join(changed)}")
    for name in ("work", "tmp", "home", *(["out"] if status != 0 else [])):
        if left := sorted(_snapshot(folder / name)):
            faults.append(f"it left files in {name}: {', '.join(left)}")
    return Outcome(status, out, err, faults)


def _faults(case: Case, status: int | None, out: str, err: str) -> list[str]:
    faults = []
    lines = [line for line in err.splitlines() if not line.startswith(("warning: ", "note: "))]
    said = "\n".join(line[:2000] for line in [*lines[:5], *lines[5:][-60:]])
    if status is None:
        faults.append(f"it was ended after {HANG_SECONDS} s\n{said}")
    elif status not in case.exits:
        faults.append(f"it exits {status}, not {' or '.join(map(str, case.exits))}\n{said}")
    if "Traceback" in out or "Traceback" in err:
        faults.append(f"it prints a traceback\n{said}")
    elif status not in (0, None):
        own = [line for line in lines if line.startswith("xql: ")]
        if len(own) != 1 or lines[-1:] != own:
            faults.append(f"it prints {len(lines)} lines of error\n{said}")
        elif len(own[0]) > LONGEST_LINE:
            faults.append(f"its line has {len(own[0])} letters\n{said}")
        elif not own[0].isprintable():
            faults.append(f"its line is not printable\n{own[0]!r}")
        elif case.says not in own[0]:
            faults.append(f"it does not say '{case.says}'\n{said}")
    elif status == 0 and case.says not in out:
        faults.append(f"it does not print '{case.says}'\n{out[:2000]}")
    return faults


class _Ended(BaseException):
    """The time is up; nothing below may catch it as an Exception."""


def _inside(call: Callable[[], object], folder: Path) -> tuple[int | None, str, str]:
    """Run a command or a call in this process."""
    out, err = io.StringIO(), io.StringIO()

    def end(*_: Any) -> None:
        raise _Ended

    previous = signal.signal(signal.SIGALRM, end)
    here = Path.cwd()
    os.chdir(folder / "work")
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            # What a library warns its programmers of would be one more line to a user.
            warnings.simplefilter("error")
            warnings.filterwarnings("default", category=UserWarning)
            signal.alarm(HANG_SECONDS)
            try:
                with _limited_memory():
                    call()
                status: int | None = 0
            finally:
                signal.alarm(0)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except (InputError, MissingExtra, EnvironmentFault) as error:
        status = 1 if isinstance(error, EnvironmentFault) else 2
        err.write(f"xql: {error}\n")
    except _Ended:
        status = None
        err.write(traceback.format_exc())
    except Exception:
        status = 70
        err.write(traceback.format_exc())
    finally:
        os.chdir(here)
        signal.signal(signal.SIGALRM, previous)
    return status, out.getvalue(), err.getvalue() + _reports(folder)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Let a giant size be an error here, where it would be the end of a process elsewhere."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _process(words: Sequence[str], folder: Path) -> tuple[int | None, str, str]:
    """Run a command in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from xql.cli import main; main()", *words],
            cwd=folder / "work",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=HANG_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return None, "", str(late.stderr)
    return done.returncode, done.stdout, done.stderr + _reports(folder)


def _reports(folder: Path) -> str:
    """What the command line saved of unexpected exceptions."""
    found = sorted((folder / "tmp").rglob("xql-*.txt"))
    return "".join("\n" + path.read_text(encoding="utf-8") for path in found)


@contextlib.contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """Let temporary files, the home folder and Minari's root be the case's own."""
    changes = {
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "home"),
        "MINARI_DATASETS_PATH": str(folder / "inputs" / "minari"),
        "COLUMNS": "80",
        # Matplotlib's list of fonts takes seconds to make, and is nobody's input.
        "MPLCONFIGDIR": str(Path("~/.config/matplotlib").expanduser()),
    }
    before = {name: os.environ.get(name) for name in changes}
    temporary = tempfile.tempdir
    os.environ.update(changes)
    tempfile.tempdir = changes["TMPDIR"]
    try:
        yield
    finally:
        tempfile.tempdir = temporary
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder, with what tells a change of it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= 1 << 22:
            said = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISREG(status.st_mode):
            said = f"{status.st_size} {status.st_mtime_ns}"
        else:
            said = stat.filemode(status.st_mode)
        found[str(path.relative_to(folder))] = said
    return found


def fuzz(check: Callable[[Any], None], inputs: Any, *, seconds: float = 0.0, each: int = 20) -> int:
    """Check drawn inputs: the same `each` ones of them, or others until the time is up.

    Args:
        check: raises where an input does what it must not.
        inputs: a strategy of hypothesis.
        seconds: how long to go on.
        each: how many at a time.

    Returns:
        How many were checked.
    """
    count = 0

    def counted(one: Any) -> None:
        nonlocal count
        count += 1
        check(one)

    began, first = time.monotonic(), int(time.time()) if seconds else 0
    for seed in range(first, first + 10_000_000):
        settings = hypothesis.settings(
            max_examples=each,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            print_blob=False,
        )
        given: Any = hypothesis.given(inputs)
        hypothesis.seed(seed)(settings(given(counted)))()
        if time.monotonic() - began >= seconds:
            break
    return count


def refused_in_a_line(call: Callable[[], object]) -> object:
    """What the call returns; None where it refuses its input as it should."""
    try:
        return call()
    except InputError as error:
        line = str(error)
        assert "\n" not in line and line.isprintable() and len(line) <= LONGEST_LINE, line
        return None

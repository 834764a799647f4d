"""How a run was made: origin.json in its folder.

    {"sessions": [{"time": …, "command": …, "folder": …, "xql": …, "git": {…}, …}, …]}

One session for each process that trained the run: the first made it, the others resumed it. What
the run is stands in config.yaml, which says nothing of a machine; what can change its last bits, or
helps to find its data, stands here.
"""

import contextlib
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from xql.errors import printable
from xql.files import write_text
from xql.version import __version__

FILE = "origin.json"
PACKAGES = (
    "jax",
    "jaxlib",
    "numpy",
    "equinox",
    "optax",
    "gymnasium",
    "mujoco",
    "dm-control",
    "gymnasium-robotics",
)
"""What a number of a run can depend on, beside xql itself."""
MOST_BYTES = 16 << 20

Session = dict[str, Any]

_command: ContextVar[str] = ContextVar("command", default="Python")


@contextlib.contextmanager
def command_line(words: Sequence[str]) -> Iterator[None]:
    """Say of the runs that the block makes that the command line made them.

    Args:
        words: as they were typed, without "xql".
    """
    token = _command.set(shlex.join(["xql", *words]))
    try:
        yield
    finally:
        _command.reset(token)


def append(folder: Path, step: int = 0) -> None:
    """Add this process to a run's origin.json, which is made where there is none.

    Args:
        folder: the run's.
        step: that it starts from.

    Raises:
        InputError: it cannot be written.
    """
    sessions = [*read(folder), {"step": step, **this_session()}]
    text = json.dumps({"sessions": sessions}, indent=1, ensure_ascii=False) + "\n"
    # What is no text in UTF-8, as a file's name may be, becomes JSON's \udcff.
    text = text.encode("utf-8", "backslashreplace").decode()
    write_text(Path(folder) / FILE, text, "run")


def read(folder: Path) -> list[Session]:
    """The sessions of a run, in order; none where xql 0.1 made it.

    A file that cannot be read counts as none, with a warning: no run depends on it.
    """
    path = Path(folder) / FILE
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(MOST_BYTES).decode())
        sessions = values["sessions"]
        if not isinstance(sessions, list) or not all(isinstance(one, dict) for one in sessions):
            raise ValueError("no list of sessions")
        return sessions
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        warnings.warn(f"{path}: this file is damaged and left out", UserWarning, stacklevel=2)
        return []


def started_in(folder: Path) -> Path | None:
    """The folder from which a run was started, which may be gone; None where it is not known."""
    home = next((one.get("folder") for one in read(folder)), None)
    return Path(home) if isinstance(home, str) and Path(home).is_absolute() else None


def this_session() -> Session:
    """What is known of this process, in plain values."""
    # The command line imports this module, also where it only prints help.
    import jax

    from xql.jax_config import cores

    devices = jax.devices()
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": _command.get(),
        "folder": _current_folder(),
        "xql": __version__,
        "git": _git(),
        "python": platform.python_version(),
        "packages": _packages(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def differences(then: Sequence[Session], now: Sequence[Session]) -> list[str]:
    """What differs between the sessions of two runs of what can change a number, a line each."""
    if not then or not now:
        return []
    count = "their number changes the last bits of a matrix product"
    before, after = [_compared(one) for one in then], [_compared(one) for one in now]
    found = []
    for name in dict.fromkeys(name for one in (*before, *after) for name in one):
        values = [
            list(dict.fromkeys(one.get(name, "none") for one in each)) for each in (before, after)
        ]
        if values[0] != values[1]:
            first, second = (" and ".join(each) for each in values)
            why = f": {count}" if name in ("cores", "devices") else ""
            found.append(f"{name} {first} then, {second} now{why}")
    return found


def is_uncommitted(session: Session) -> bool:
    """Whether xql's files were not those of the revision that the session names."""
    git = session.get("git")
    return isinstance(git, dict) and bool(git.get("changed"))


def _compared(session: Session) -> dict[str, str]:
    """What of a session can change a number, as text; a file may say anything."""
    git, packages = session.get("git"), session.get("packages")
    found = {name: session.get(key) for name, key in (("xql", "xql"), ("Python", "python"))}
    if isinstance(git, dict):
        changed = " with changes" if is_uncommitted(session) else ""
        found["git revision"] = f"{str(git.get('revision'))[:10]}{changed}"
    if isinstance(packages, dict):
        found |= {str(name): one for name, one in packages.items()}
    for name in ("platform", "processor", "cores", "device", "devices", "XLA_FLAGS"):
        found[name] = session.get(name)
    return {name: printable(str(one or "none"))[:100] for name, one in found.items()}


def _current_folder() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


@functools.cache
def _packages() -> dict[str, str]:
    """The version of each package that is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _processor() -> str:
    """Its name, as far as the system says one: another kind computes other last bits."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def _git() -> dict[str, Any] | None:
    """The revision of the checkout that xql runs from, and whether its files were changed.

    None where xql is installed otherwise: also within somebody's repository, which does not track
    it. As the first session finds it: what was imported stays, whatever happens to the files then.
    """
    source = Path(__file__).resolve().parents[1]
    try:
        _ask_git(source, "ls-files", "--error-unmatch", "version.py")
        return {
            "revision": _ask_git(source, "rev-parse", "HEAD"),
            "changed": bool(_ask_git(source, "status", "--porcelain", "--", ".")),
        }
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _ask_git(folder: Path, *words: str) -> str:
    # Of another repository, where xql is called from one of its hooks.
    environment = {name: one for name, one in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True,
        check=True,
        timeout=10,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    return done.stdout.strip()

"""Where compiled programs are kept from one command to the next: JAX's persistent cache.

For the command line and its workers: in a program of the user's own, JAX's configuration is the
user's.
"""

import contextlib
import hashlib
import os
import platform
import re
import sys
from pathlib import Path

from xql.files import make_own_folder
from xql.version import __version__

FOLDER = "JAX_COMPILATION_CACHE_DIR"
SIZE = 512 * 2**20
"""Bytes after which those that were not used for longest are removed, until half is left. A
training of a new kind leaves about half a MiB."""

_FAILED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '([\w.-]+)'")


def keep_programs() -> None:
    """Let JAX, which must not have been imported yet, keep what it compiles.

    Where JAX's own variables say where, that is the place, and none where they turn it off. Nothing
    is kept where there is no folder that this user alone can write to: what lies there is run as
    code. The variables that are set here hold for the processes that this one starts, too.
    """
    asked = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "1").lower()
    if asked in ("0", "f", "false", "n", "no", "off"):
        return
    if FOLDER not in os.environ:
        folder = _folder()
        if folder is None:
            return
        try:
            make_own_folder(folder.parent)
            make_own_folder(folder)
            _make_room(folder)
        except OSError:
            return
        os.environ[FOLDER] = str(folder)
    # The networks' initialisation is dozens of small programs, and JAX keeps slow ones only.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def keep_worker_programs() -> str | None:
    """Where a worker keeps its programs, once it is kept to cores of its own.

    Where what started it keeps its own in xql's folder, that is the folder for so many cores; else
    the place stays what JAX's variables say. None for nowhere.
    """
    caches, given = user_caches(), os.environ.get(FOLDER)
    if given is not None and caches is not None and Path(given).parent == caches / "xql":
        del os.environ[FOLDER]
        keep_programs()
    return os.environ.get(FOLDER)


def is_of_cache(warning: str) -> bool:
    """Whether a warning is JAX's, that a kept program cannot be read or written.

    Nothing is lost but time. A file that cannot be read is removed, so that the program is written
    anew: a full disk, or a process that was killed, leaves half of one.
    """
    found = _FAILED.match(warning)
    if found is not None and found[1] == "reading" and FOLDER in os.environ:
        for path in Path(os.environ[FOLDER]).glob(f"{found[2]}-*-cache"):
            with contextlib.suppress(OSError):
                path.unlink()
    return found is not None


def user_caches() -> Path | None:
    """The user's folder for caches; None where the user has no home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():  # a relative one must be ignored, says the standard
        return given
    with contextlib.suppress(RuntimeError):
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches"
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        return Path.home() / ".cache"
    return None


def _folder() -> Path | None:
    """The folder of this machine: programs are compiled for one kind of processor.

    A home may be shared by machines of several kinds, and XLA may stop at an instruction that is
    not there. Programs also depend on how many cores they may use.
    """
    caches = user_caches()
    if caches is None:
        return None
    described = f"{__version__} {platform.machine()} {_processor()}"
    kind = hashlib.sha256(described.encode()).hexdigest()[:12]
    return caches / "xql" / f"programs-{kind}"


def _processor() -> str:
    """What Linux says of the first processor, and how many of them this process may use."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    named = r"^(?:model name|flags|Features|CPU [a-z]+)\s*:.*$"
    lines = re.findall(named, text.partition("\n\n")[0], re.MULTILINE)
    return "\n".join([*lines, str(len(_affinity()))])


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _make_room(folder: Path) -> None:
    """Remove the programs that were not used for longest, where there are too many."""
    found = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process may have removed it
            about = path.stat()
            found.append((max(about.st_atime, about.st_mtime), about.st_size, path))
    total = sum(size for _, size, _ in found)
    if total <= SIZE:
        return
    for _, size, path in sorted(found):
        path.unlink(missing_ok=True)
        total -= size
        if total <= SIZE // 2:
            return

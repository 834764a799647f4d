"""Work for executors, in a module that other processes can import."""

import os
import signal
import time
from pathlib import Path

from xql.errors import InputError


def double(number: int) -> int:
    return 2 * number


def refuse(number: int) -> int:
    raise InputError("no such thing", where=str(number))


def cores(number: int) -> tuple[int, list[int]]:
    """The process, and the cores that it may use; slow enough for two to take part."""
    time.sleep(0.2)
    return os.getpid(), sorted(os.sched_getaffinity(0))


def programs(number: int) -> tuple[int, str | None, str]:
    """How many cores the process has, and where it and those that it starts keep programs."""
    import jax

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    return len(os.sched_getaffinity(0)), jax.config.jax_compilation_cache_dir, folder  # type: ignore[attr-defined]


def die_once(path: Path) -> str:
    """Kill the process, but for the first task alone, and only once."""
    mark = path.with_suffix(".died")
    if path.name == "a" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(path: Path) -> str:
    if path.name == "die":
        with path.with_suffix(".tries").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def save_when_interrupted(path: Path) -> str:
    path.with_suffix(".began").touch()
    try:
        for _ in range(600):  # an interruption waits for the end of a sleep
            time.sleep(0.1)
    except KeyboardInterrupt:
        path.with_suffix(".saved").touch()
        raise
    return "done"

"""All benchmarks of speed, one after the other: `make bench`, or `python -m benchmarks`.

Each is a process of its own, so that none has another's memory or devices, and prints a table of
ratios taken in the same minutes. It takes most of an hour; nothing else should run meanwhile.
"""

import subprocess
import sys
import time
from pathlib import Path

import tyro

EVERY = ("updates", "populations", "startup", "memory", "around", "online", "first-policy")


def commands(peer: Path | None, sbx: Path | None, out: Path) -> dict[str, list[str]]:
    """The arguments of each benchmark, by name."""
    write = ["--out", str(out)]
    beside = [] if peer is None else ["--peer", str(peer)]
    return {
        "updates": ["benchmarks.updates", *write, *beside],
        "populations": ["benchmarks.updates", "--members", "1", "2", "4", "8", *write],
        "startup": ["benchmarks.startup", *write],
        "memory": ["benchmarks.memory", *write],
        "around": ["benchmarks.around", *write],
        "online": ["benchmarks.online", *write, *([] if sbx is None else ["--peer", str(sbx)])],
        "first-policy": ["benchmarks.first_policy", *write, *beside],
    }


def main(
    names: tuple[str, ...] = EVERY,
    peer: Path | None = None,
    sbx: Path | None = None,
    out: Path = Path("bench"),
) -> None:
    """Run benchmarks, and write a CSV file of each.

    Args:
        names: which.
        peer: the Python of a virtual environment with xql and d3rlpy (`benchmarks.first_policy`).
        sbx: the Python of one with sbx-rl (`benchmarks.online`).
        out: the folder of the files.
    """
    chosen = commands(peer, sbx, out)
    if unknown := [name for name in names if name not in chosen]:
        raise SystemExit(f"there is no benchmark {unknown[0]}; choose from {', '.join(chosen)}")
    failed = []
    for name in names:
        began = time.monotonic()
        if subprocess.run([sys.executable, "-m", *chosen[name]]).returncode:
            failed.append(name)
        print(f"({name}: {time.monotonic() - began:.0f} s)\n", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    tyro.cli(main)

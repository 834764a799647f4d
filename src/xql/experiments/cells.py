"""Cells of a table or a figure: one run each, trained once and kept under its configuration.

A cell is a name and a function of keyword arguments that writes a run folder (`train_offline`, or
`train_online`). Its folder's name carries a hash of its configuration, so that a table under other
settings never shows a cell of these. What is kept of a run is what tables and figures are drawn
from, and its checkpoints, so that a cell can be filmed and evaluated like any run; a cell that was
interrupted leaves nothing, and is trained again.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from xql.errors import InputError, MissingExtra

KEPT = ("config.yaml", "evaluations.csv", "metrics.jsonl", "frozen.csv", "errors.npz")
"""The files that a cell keeps of its run, where the run wrote them; `errors.npz` is figure 1's."""

Train = Callable[..., object]
"""Writes a run folder at its keyword argument `out`; importable by name, so that another process
can call it."""


class Cell(NamedTuple):
    """One run of a table or figure."""

    name: str
    train: Train
    settings: Mapping[str, Any]
    """The keyword arguments of `train`, but for `out`."""
    configuration: Mapping[str, Any] | None = None
    """All that the result depends on, in plain values; the settings where None."""

    @property
    def folder(self) -> str:
        """The name of its folder: its own, and a hash of what it is."""
        told = self.settings if self.configuration is None else self.configuration
        what = {"train": f"{self.train.__module__}.{self.train.__qualname__}", **told}
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return f"{self.name.replace('/', '-').replace(':', '-')}-{digest[:10]}"


class Outcome(NamedTuple):
    """What became of a cell: its run folder, or why there is none."""

    folder: Path | None
    problem: str = ""


def kept(home: Path, cell: Cell) -> Path | None:
    """Where a finished cell lies; None where it has yet to be trained."""
    folder = home / cell.folder
    return folder if folder.is_dir() else None


def train_cells(
    cells: Sequence[Cell],
    home: Path,
    *,
    jobs: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Outcome]:
    """Train the cells that `home` does not hold yet.

    Args:
        cells: no two of one name.
        home: where their folders lie; made if need be.
        jobs: how many processes train at a time, sharing the processor's cores; each needs memory
            of its own. 1 trains here.
        say: told what happens, a line at a time.

    Returns:
        By name, what became of each. A cell that cannot be trained (its simulator is not installed,
        its preset does not know the data) says why and does not stop the others.

    Raises:
        InputError: `jobs` is below 1.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs} is too small", hint="give at least 1")
    outcomes: dict[str, Outcome] = {}
    missing = []
    for cell in cells:
        there = kept(home, cell)
        if there is None:
            missing.append(cell)
        else:
            say(f"{cell.name}: there already")
            outcomes[cell.name] = Outcome(there)
    trained = _one_by_one if jobs == 1 else _side_by_side
    for number, (cell, outcome) in enumerate(trained(missing, home, jobs), start=1):
        say(f"{cell.name}: {outcome.problem or 'trained'} ({number} of {len(missing)})")
        outcomes[cell.name] = outcome
    return outcomes


def keep_run(folder: Path, train: Train, settings: Mapping[str, Any]) -> None:
    """Train one run and keep at `folder` what it wrote; all of it or nothing."""
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / "run"
        train(**settings, out=run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
        try:
            for name in KEPT:
                if (run / name).exists():
                    shutil.copy(run / name, draft / name)
            if (run / "checkpoints").is_dir():
                shutil.copytree(run / "checkpoints", draft / "checkpoints")
            draft.chmod(0o755)  # mkdtemp makes folders that only their owner can read
            draft.rename(folder)
        except OSError:
            # Where another process has kept the same cell meanwhile, that one stands.
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _train(cell: Cell, home: Path) -> Outcome:
    try:
        keep_run(home / cell.folder, cell.train, cell.settings)
    except (InputError, MissingExtra) as error:
        return Outcome(None, str(error))
    return Outcome(home / cell.folder)


def _one_by_one(cells: Sequence[Cell], home: Path, jobs: int) -> Iterator[tuple[Cell, Outcome]]:
    for cell in cells:
        yield cell, _train(cell, home)


def _side_by_side(cells: Sequence[Cell], home: Path, jobs: int) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell in one of `jobs` fresh processes: JAX does not survive a fork."""
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(cells)) or 1
    executor = ProcessPoolExecutor(workers, context, _share_cores, (workers, context.Value("i", 0)))
    try:
        waiting = {executor.submit(_train, cell, home): cell for cell in cells}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BaseException:
        # Else an interruption would wait for cells that still have hours to go.
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _share_cores(jobs: int, counter: Any) -> None:
    """Give this process its own share of the cores.

    Kept to its cores, it does not split its matrix products over those of the others; with a single
    core there is also nothing to win from dispatching ahead.
    """
    import jax

    from xql.training.population import cores

    with counter.get_lock():
        place, counter.value = counter.value, counter.value + 1
    share = max(1, cores() // jobs)
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        first = place * share % len(mine)
        os.sched_setaffinity(0, mine[first : first + share])
    jax.config.update("jax_num_cpu_devices", share)  # type: ignore[no-untyped-call]
    jax.config.update("jax_cpu_enable_async_dispatch", share > 1)  # type: ignore[no-untyped-call]

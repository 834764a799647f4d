"""Where tasks run: one after another in this process, or in several processes of this machine."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Protocol, TypeVar, runtime_checkable

from xql.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """Does some work on every task, and yields each with its result as it is done."""

    def __call__(
        self, work: Callable[[Task], Result], tasks: Sequence[Task], /
    ) -> Iterator[tuple[Task, Result]]:
        """`work` and the tasks can be pickled. An exception of `work` ends the iteration."""


def in_process(
    work: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[tuple[Task, Result]]:
    """One after another, here."""
    for task in tasks:
        yield task, work(task)


def local(jobs: int) -> Executor:
    """`jobs` at a time on this machine; with 1, in this process.

    Args:
        jobs: how many processes share the processor's cores; each needs memory of its own.

    Raises:
        InputError: `jobs` is below 1.
    """
    if jobs < 1:
        raise InputError(f"`jobs={jobs}` is too small", hint="give at least 1")
    if jobs == 1:
        return in_process

    def side_by_side(
        work: Callable[[Task], Result], tasks: Sequence[Task], /
    ) -> Iterator[tuple[Task, Result]]:
        return _processes(work, tasks, jobs)

    return side_by_side


def _processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Fresh processes: JAX does not survive a fork."""
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(tasks)) or 1
    pool = ProcessPoolExecutor(workers, context, _share_cores, (workers, context.Value("i", 0)))
    try:
        waiting = {pool.submit(work, task): number for number, task in enumerate(tasks)}
        for done in as_completed(waiting):
            yield tasks[waiting[done]], done.result()
    except BaseException:
        # Else an interruption would wait for tasks that still have hours to go.
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _share_cores(jobs: int, counter: Any) -> None:
    """Give this process its own share of the cores.

    Kept to its cores, it does not split its matrix products over those of the others; with a single
    core there is also nothing to win from dispatching ahead.
    """
    import jax

    from xql.jax_config import cores

    with counter.get_lock():
        place, counter.value = counter.value, counter.value + 1
    share = max(1, cores() // jobs)
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        first = place * share % len(mine)
        os.sched_setaffinity(0, mine[first : first + share])
    jax.config.update("jax_num_cpu_devices", share)  # type: ignore[no-untyped-call]
    jax.config.update("jax_cpu_enable_async_dispatch", share > 1)  # type: ignore[no-untyped-call]

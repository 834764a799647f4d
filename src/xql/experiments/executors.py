"""Where tasks run: in this process, in several processes of this machine, or on a Ray cluster.

Several processes are Ray's where Ray is installed, else joblib's. A process that is killed costs
its task nothing but time: the task is given to another one, which goes on with what lies on disk.
"""

import collections
import contextlib
import importlib.util
import io
import itertools
import logging
import os
import pickle
import re
import socket
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from xql.errors import InputError, brief, reason, require
from xql.files import make_own_folder
from xql.programs import keep_worker_programs

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 3
"""Times that a task is given to another process after one was killed."""
GRACE = 30.0
"""Seconds that an interrupted task has to save what it has learned."""
OBJECTS = 100 << 20
"""Bytes of Ray's object store, which holds names and results alone."""


class Lost(NamedTuple):
    """In place of a task's result: each process that worked on it was killed."""

    why: str


@runtime_checkable
class Executor(Protocol):
    """Does some work on every task, and yields each with its result as it is done."""

    def __call__(
        self, work: Callable[[Task], Result], tasks: Iterable[Task], /
    ) -> Generator[tuple[Task, Result | Lost]]:
        """`work` and the tasks can be pickled. An exception of `work` ends the iteration.

        A task is taken from `tasks` when a process has become free for it.
        """


class Share(NamedTuple):
    """What each task has of a machine for itself."""

    cpus: int | None = None
    """Cores; None for as many as the tasks leave each other, on a cluster one."""
    gpus: float = 0.0
    """GPUs; a part of one, where several tasks share it."""


WHOLE = Share()
"""As much of it as there is."""


def in_process(
    work: Callable[[Task], Result], tasks: Iterable[Task]
) -> Generator[tuple[Task, Result]]:
    """One after another, here."""
    for task in tasks:
        yield task, work(task)


def executor_for(
    jobs: int | None = None, address: str | None = None, share: Share = WHOLE
) -> Executor:
    """Where tasks run, as the command line asks for it.

    Args:
        jobs: how many at a time; None for one, or on a cluster for as many as there is room for.
            Without an address, one is in this process.
        address: of a Ray cluster: "auto" for the one that this machine belongs to, HOST:PORT or
            ray://HOST:PORT. This machine alone where None.
        share: of a machine, for each task.

    Raises:
        InputError: `jobs` is below 1, or nothing answers at the address.
        MissingExtra: an address, or GPUs, without Ray.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"`jobs={jobs}` is too small", hint="give at least 1")
    if address is not None:
        return OnRay(jobs, address, share)
    if jobs in (None, 1):
        return in_process
    if share.gpus or importlib.util.find_spec("ray") is not None:
        return OnRay(jobs, None, share)
    return OnJoblib(jobs, share)


def workers_of(executor: Executor) -> int:
    """How many tasks an executor runs at a time; a cluster is connected to for that."""
    return executor.workers if isinstance(executor, OnRay | OnJoblib) else 1


def _cores_each(jobs: int, share: Share) -> int:
    """How many cores each of some processes of this machine has."""
    from xql.jax_config import cores

    return share.cpus or max(1, cores() // jobs)


class OnJoblib:
    """Processes of this machine, where Ray is not installed."""

    def __init__(self, jobs: int, share: Share = WHOLE) -> None:
        self.workers, self._cpus = jobs, _cores_each(jobs, share)

    def __call__(
        self, work: Callable[[Task], Result], tasks: Iterable[Task], /
    ) -> Generator[tuple[Task, Result | Lost]]:
        """As `Executor` says."""
        # Imported here: only a command that was given --jobs waits for it.
        from joblib.externals import loky

        packed, source = pickle.dumps(work), enumerate(tasks)
        again: list[tuple[int, Task]] = []
        alone: list[tuple[int, Task]] = []
        running: dict[Any, tuple[int, Task]] = {}
        deaths: collections.Counter[int] = collections.Counter()

        def start() -> Any:
            # As Ray does; what the user has set stays.
            threads = {"OMP_NUM_THREADS": str(self._cpus), **os.environ}["OMP_NUM_THREADS"]
            return loky.ProcessPoolExecutor(self.workers, env={"OMP_NUM_THREADS": threads})

        pool = start()

        def give(numbered: tuple[int, Task]) -> None:
            nonlocal pool
            call = (_in_worker, packed, pickle.dumps(numbered[1]), self._cpus)
            try:
                running[pool.submit(*call)] = numbered
            except loky.BrokenProcessPool:  # it has ended its other processes too
                pool.shutdown(wait=True)
                pool = start()
                running[pool.submit(*call)] = numbered

        try:
            while True:
                while len(running) < self.workers:
                    one = again.pop() if again else next(source, None)
                    if one is None:
                        break
                    give(one)
                if not running:
                    if not alone:
                        return
                    give(alone.pop())
                done, _ = loky.wait(running, return_when=loky.FIRST_COMPLETED)
                for call in done:
                    number, task = running.pop(call)
                    try:
                        result = call.result()
                    except loky.BrokenProcessPool as error:
                        # It knows not whose process was killed: each task is suspected, and the
                        # second time tried without others, after them.
                        deaths[number] += 1
                        if deaths[number] > RETRIES:
                            yield task, _lost(error)
                        else:
                            (again if deaths[number] == 1 else alone).append((number, task))
                    else:
                        yield task, result
        finally:
            # An idle process would hold its cores for minutes, and a busy one train for hours.
            pool.shutdown(wait=True, kill_workers=True)


def _lost(error: Exception) -> Lost:
    return Lost(f"its process was killed {RETRIES + 1} times ({type(error).__name__})")


class OnRay:
    """Ray: processes of this machine, started for the iteration, or those of a cluster.

    Where the program has started Ray already, that is taken and left running.
    """

    def __init__(self, jobs: int | None, address: str | None = None, share: Share = WHOLE) -> None:
        self._address, self._jobs, self._gpus = address, jobs, share.gpus
        self._ray = require("ray", "cluster")
        if address is not None:
            _require_answer(address)
        self._own = False
        self._cpus = share.cpus or 1 if address else _cores_each(jobs or 1, share)

    @property
    def workers(self) -> int:
        """How many tasks it runs at a time; Ray is started, where a cluster or GPUs decide that.

        Raises:
            InputError: as `start` says, or no machine has what a task asks for.
        """
        if self._address is None and not self._gpus:
            return self._jobs or 1
        self.start()
        self._require_room()
        return self._limit()

    def _limit(self) -> int:
        """How many tasks can run now; at least one, for which Ray then waits."""
        room = max(1, self._room())
        return room if self._jobs is None else min(room, self._jobs)

    def _room(self) -> int:
        """For how many tasks there is room, on the machines that answer."""
        room = 0
        for node in self._ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            by = [has.get("CPU", 0) // self._cpus]
            if self._gpus:
                by.append(has.get("GPU", 0) // self._gpus)
            room += int(min(by))
        return room

    def _require_room(self) -> None:
        if not self._room():
            gpus = f" and {self._gpus:g} GPUs" if self._gpus else ""
            raise InputError(
                f"no machine has {self._cpus} cores{gpus}, as each cell asks for",
                where="resources",
                hint="ask for less",
            )

    def __call__(
        self, work: Callable[[Task], Result], tasks: Iterable[Task], /
    ) -> Generator[tuple[Task, Result | Lost]]:
        """As `Executor` says."""
        ray, source, packed = self._ray, iter(tasks), pickle.dumps(work)
        running: dict[Any, Task] = {}
        try:
            self.start()
            self._require_room()
            remote = ray.remote(
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_retries=RETRIES,
                retry_exceptions=False,
            )(_in_worker)
            while True:
                for task in itertools.islice(source, max(0, self._limit() - len(running))):
                    call = remote.remote(packed, pickle.dumps(task), self._cpus, self._gpus)
                    running[call] = task
                if not running:
                    return
                # Ray prints a paragraph to standard output where a process is killed.
                with contextlib.redirect_stdout(io.StringIO()):
                    [done], _ = ray.wait(list(running), num_returns=1)
                task = running.pop(done)
                yield task, self._result(done)
        finally:
            with contextlib.redirect_stdout(io.StringIO()):
                if running:
                    self._cancel(list(running))
                self.close()

    def _result(self, done: Any) -> Any:
        """What a task came to.

        Raises:
            Exception: what its work raised.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(done)
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError as error:
            return _lost(error)

    def _cancel(self, calls: list[Any]) -> None:
        """Interrupt tasks, and give them time to save what they have learned."""
        for call in calls:
            self._ray.cancel(call, force=False)
        _, busy = self._ray.wait(calls, num_returns=len(calls), timeout=GRACE)
        for call in busy:
            self._ray.cancel(call, force=True)

    def start(self) -> None:
        """Connect to the cluster, or start Ray on this machine.

        Raises:
            InputError: there is no such cluster.
        """
        ray = self._ray
        if ray.is_initialized():
            return
        if self._address is None:
            from xql.jax_config import cores

            try:
                start_ray_here(max(cores(), (self._jobs or 1) * self._cpus))
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"Ray does not start here ({reason(error)[:150]})",
                    hint="see to that, or train one at a time with `jobs=1`",
                ) from error
        else:
            try:
                ray.init(address=self._address, **QUIET)
            except (ImportError, OSError, RuntimeError, ValueError) as error:
                why = reason(error).partition(". ")[0]
                raise _no_cluster(
                    self._address, why, "; where it asks for a token, set RAY_AUTH_MODE=token"
                ) from error
        self._own = True

    def close(self) -> None:
        """Let go of what was started."""
        if self._own:
            self._ray.shutdown()
            self._own = False


def start_ray_here(cores: int) -> None:
    """Start Ray on this machine alone, quietly.

    Args:
        cores: how many its tasks share.

    Raises:
        InputError: it cannot be started, such as where the path of its folder is too long.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        # JAX's, of a fork. What Ray forks becomes another program at once.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=OBJECTS,
                **QUIET,
            )
        except OSError as error:
            raise InputError(
                f"Ray cannot be started ({reason(error)[:150]})",
                hint="name a folder with a short path in RAY_TMPDIR, or give `jobs=1`",
            ) from error


def _require_answer(address: str) -> None:
    """Refuse an address at which nothing listens: Ray would try it for minutes.

    Raises:
        InputError: nothing does.
    """
    found = re.fullmatch(r"(?:ray://)?([^/\s:]+|\[[^/\s]+\]):(\d{1,5})", address)
    if address == "auto":
        return
    if found is None:
        raise InputError(
            f"`address={brief(address)[1:-1]}` is no address",
            hint="give auto, HOST:PORT or ray://HOST:PORT",
        )
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, reason(error)) from None


def _no_cluster(address: str, why: str, more: str = "") -> InputError:
    return InputError(
        f"no Ray cluster answers ({why[:150]})",
        where=f"`address={address}`",
        hint=f"start one with: ray start --head{more}",
    )


def _in_worker(work: bytes, task: bytes, cpus: int, gpus: float = 0.0) -> Any:
    """Do the work in a process of its own.

    Both are packed until here, since the cores must be chosen before JAX can be used.
    """
    if 0 < gpus < 1:
        # JAX takes most of a GPU's memory when it starts.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * gpus:.3f}")
    _take_cores(cpus)
    return pickle.loads(work)(pickle.loads(task))


def _lock_cores(share: int) -> None:
    """Take so many cores, or none where fewer are left.

    Raises:
        OSError: the locks cannot be written.
    """
    import filelock

    folder = Path(tempfile.gettempdir()) / f"xql-cores-{os.getuid()}"
    make_own_folder(folder)
    cores = []
    with contextlib.ExitStack() as held:
        for core in sorted(os.sched_getaffinity(0)):
            lock = filelock.FileLock(folder / str(core), timeout=0, thread_local=False)
            try:
                held.enter_context(lock)
            except filelock.Timeout:
                continue
            cores.append(core)
            if len(cores) == share:
                os.sched_setaffinity(0, cores)
                _taken.append(held.pop_all())
                return


_taken: list[Any] = []
"""The locks of this process's cores, held until it ends."""


def _take_cores(share: int) -> None:
    """Keep this process to cores of its own, and give JAX a device for each; done once.

    Kept to its cores, it does not split its matrix products over those of the others; with a single
    core there is also nothing to win from dispatching ahead. A core is taken by locking a file,
    which the system unlocks when the process ends, however it ends. Where too few are left, because
    something else of the user's has them, the system chooses. Compiled programs depend on how many
    there are.
    """
    if _taken:
        return
    import jax

    if hasattr(os, "sched_setaffinity"):
        # No room for a lock, or somebody else has the folder's name: the system chooses, too.
        with contextlib.suppress(OSError):
            _lock_cores(share)
    _taken.append(None)
    jax.config.update("jax_compilation_cache_dir", keep_worker_programs())  # type: ignore[no-untyped-call]
    jax.config.update("jax_num_cpu_devices", share)  # type: ignore[no-untyped-call]
    jax.config.update("jax_cpu_enable_async_dispatch", share > 1)  # type: ignore[no-untyped-call]

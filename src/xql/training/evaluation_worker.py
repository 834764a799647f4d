"""Evaluate in a process of its own while training goes on: the same episodes, the same numbers.

The worker is a fresh Python, started as a command and not by `multiprocessing`: a fork breaks JAX,
and a spawned process would import the user's script again. It is sent the run's configuration, then
for each evaluation the policies as NumPy arrays, and answers with the rows of evaluations.csv. It
ends when its pipe is closed, however the training ends.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
from typing import IO, Any, cast

import jax
import numpy as np

from xql.agents import Agent, TrainState
from xql.envs.given import Simulator
from xql.errors import EnvironmentFault, InputError, reason
from xql.jax_config import cores
from xql.runs.config import RunConfig
from xql.runs.folder import Evaluation
from xql.training.evaluate import PopulationEvaluator
from xql.training.population import mesh_for, place

SWITCH = "XQL_EVALUATION_WORKER"
"""Set to 0, no worker is started, and set to 1, every evaluation but the last is played in one."""

START = 10.0
"""Seconds of evaluations that must be left for a worker to pay. It takes a second of a core and
280 MB to start, and compiles the policies once more."""

FEWEST_CORES = 2
"""On one, an evaluation takes from the updates what it saves. On two, a run of which evaluations
had been 16 % took 0.91 of its time (docs/performance.md)."""

NICER = 10
"""What the worker adds to its niceness: training comes first, since it is what is waited for."""

_SETTINGS = (
    "jax_platforms",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_default_matmul_precision",
)
"""What may be set in the trainer's JAX, and must be set alike in the worker's."""

_RUN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {} import main; main()"
_LENGTH = struct.Struct("<Q")


def worth_a_worker(evaluations: int, seconds: float) -> bool:
    """Whether a worker pays, where nobody says.

    Args:
        evaluations: how many it would play.
        seconds: what one takes.
    """
    asked = os.environ.get(SWITCH, "")
    if asked in ("0", "1"):
        return asked == "1" and evaluations > 0
    enough = jax.default_backend() != "cpu" or cores() >= FEWEST_CORES
    return enough and evaluations * seconds > START


def policies_of(agent: Agent, population: TrainState) -> Any:
    """What acts, in arrays that nothing changes any more."""
    return jax.tree.map(np.array, jax.vmap(agent.actor)(population))


class WorkerLost(Exception):
    """The worker ended, or cannot evaluate; the message says why, in a few words."""


class EvaluationWorker:
    """The trainer's side: begins an evaluation, and is given its rows later."""

    def __init__(self, config: RunConfig, environment: Simulator) -> None:
        """Start the process; what it imports is not awaited.

        Args:
            config: the run's.
            environment: to evaluate in.

        Raises:
            WorkerLost: no other process can have the environment, or none can be started.
        """
        if environment.alone:
            raise WorkerLost("there is one instance of the environment")
        settings = {name: getattr(jax.config, name, None) for name in _SETTINGS}
        if jax.default_backend() == "cpu":
            settings["jax_num_cpu_devices"] = len(jax.devices())
        try:
            about = pickle.dumps((dataclasses.replace(config, given=None), environment))
        except Exception as error:  # whatever objects of the user's raise
            raise WorkerLost(f"the environment cannot be pickled ({reason(error)})") from error
        if b"__main__" in about:
            raise WorkerLost("the environment is defined in the running program")
        command = [sys.executable, "-W", "ignore", "-c", _RUN.format(__name__)]
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # On a GPU the trainer has taken most of the memory.
                env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                process_group=0,  # Ctrl-C is for the trainer, which ends it
            )
        except OSError as error:
            raise WorkerLost(f"no process can be started ({reason(error)})") from error
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        # In turn in the thread: a pipe takes no more than 64 KiB before the other side reads.
        self._thread.submit(self._send, pickle.dumps(settings))
        self._thread.submit(self._send, about)

    def begin(
        self, policies: Any, step: int, episodes: int
    ) -> concurrent.futures.Future[list[Evaluation]]:
        """Let every member play the same episodes.

        Args:
            policies: from `policies_of`.
            step: the run's.
            episodes: of each member.

        Returns:
            Their rows, when they are there; or it raises `WorkerLost`, or the `EnvironmentFault` or
            `InputError` that the evaluation would raise here.
        """
        return self._thread.submit(self._ask, pickle.dumps((policies, step, episodes)))

    def _send(self, content: bytes) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(_LENGTH.pack(len(content)) + content)
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise WorkerLost("its process has ended") from error

    def _ask(self, content: bytes) -> list[Evaluation]:
        self._send(content)
        assert self._process.stdout is not None
        try:
            answer = _read(self._process.stdout)
        except (OSError, ValueError):
            answer = None
        if answer is None:
            raise WorkerLost("its process has ended")
        kind, found = pickle.loads(answer)
        if kind == "rows":
            return cast(list[Evaluation], found)
        if kind == "lost":
            raise WorkerLost(found)
        what, where, hint = found
        raise (EnvironmentFault if kind == "fault" else InputError)(what, where=where, hint=hint)

    def close(self) -> None:
        """End the process at once; what it was playing is lost."""
        self._process.kill()
        self._process.wait()
        self._thread.shutdown()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # of what was not sent
                pipe.close()


def _read(stream: IO[bytes]) -> bytes | None:
    """The next message; None where the other side has ended."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = stream.read(length)
    return content if len(content) == length else None


def main() -> None:
    """The worker's side, until its pipe is closed."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a simulator prints is no answer, and nobody is there to answer its questions.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.nice(NICER)
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        while (message := _read(requests)) is not None:
            messages.put(message)
        # Also in the middle of an episode: the trainer has ended, or does not want it any more.
        os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    for name, value in pickle.loads(messages.get()).items():
        if value is not None:
            jax.config.update(name, value)  # type: ignore[no-untyped-call]
    about, evaluator = messages.get(), None
    while True:
        message = messages.get()
        try:
            if evaluator is None:
                evaluator = _evaluator(about)
            policies, step, episodes = pickle.loads(message)
            placed = place(policies, mesh_for(evaluator.members))
            answer: tuple[str, Any] = ("rows", evaluator.play(placed, step, episodes))
        except (EnvironmentFault, InputError) as error:
            kind = "fault" if isinstance(error, EnvironmentFault) else "input"
            answer = (kind, (error.what, error.where, error.hint))
            if evaluator is None:  # which the trainer has, from the same words
                answer = ("lost", f"it cannot make the environment ({reason(error)})")
        except Exception as error:  # whatever it is, the trainer meets it too, or does not
            answer = ("lost", reason(error))
        content = pickle.dumps(answer)
        answers.write(_LENGTH.pack(len(content)) + content)
        answers.flush()


def _evaluator(about: bytes) -> PopulationEvaluator:
    config, environment = pickle.loads(about)
    return PopulationEvaluator(config, config.make_agent().actor, environment)

"""Where the time of an offline run goes: `python -m benchmarks.around`.

XQL at its default settings, 256-256 networks, batch 256, from noise in the shape of a simulator's
data, evaluated in that simulator as any run is: in the process, and by a worker beside training, in
turn. The time on the clock from the first update to the end is divided among what the process did.
With a worker, *evaluation* is what training waited for it. A run before them compiles.

A row's ratio is its share of the run. The last rows of each place are the processor's seconds of
this process and of the worker.
"""

import contextlib
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import tyro

from benchmarks.table import machine, report, rows
from xql.agents import Unchecked
from xql.data.dataset import Dataset
from xql.runs.folder import RunFolder
from xql.training import offline
from xql.training.divergence import DivergenceGuard
from xql.training.evaluation_worker import SWITCH
from xql.training.loggers import Loggers
from xql.training.population import use_all_cores
from xql.training.progress import ProgressBar
from xql.training.run_logger import RunLogger
from xql.training.saving import StateSaver

TRANSITIONS = 100_000

PARTS: tuple[tuple[Any, str, str], ...] = (
    (offline, "_loop", "updates"),
    (RunLogger, "metrics", "other"),
    (RunLogger, "milestone", "other"),
    (RunLogger, "between", "other"),
    (RunLogger, "_evaluate", "evaluation"),
    (RunLogger, "_begin_evaluation", "evaluation"),
    (RunLogger, "_arrived", "evaluation"),
    (RunFolder, "log_metrics", "metrics.jsonl"),
    (Loggers, "log", "loggers"),
    (DivergenceGuard, "check", "check for divergence"),
    (ProgressBar, "advance", "progress bar"),
    (StateSaver, "save", "copy of the state"),
    (StateSaver, "wait", "wait for the disk"),
)
"""What is timed: of a module or a class, a function, and the part that its time counts to."""

Place = Literal["process", "worker"]


class Clock:
    """Divides time among parts: what is called within a part does not count to it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._parts: list[str] = []
        self._since = 0.0

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._parts:
            self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The same function, its time charged to a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._parts.pop()

        return call


@contextlib.contextmanager
def clock() -> Iterator[Clock]:
    """Time a run's parts while the block runs."""
    found, before = Clock(), [getattr(owner, name) for owner, name, _ in PARTS]
    for (owner, name, part), function in zip(PARTS, before, strict=True):
        setattr(owner, name, found.timed(function, part))
    try:
        yield found
    finally:
        for (owner, name, _), function in zip(PARTS, before, strict=True):
            setattr(owner, name, function)


def noise(env: str) -> Dataset:
    """Noise in the shape of a simulator's data: the speed does not depend on the numbers."""
    made, random = gymnasium.make(env), np.random.default_rng(0)
    assert made.observation_space.shape is not None and made.action_space.shape is not None
    size, actions = made.observation_space.shape[0], made.action_space.shape[0]
    made.close()
    observations = random.standard_normal((TRANSITIONS // 1000, 1001, size), np.float32)
    return Dataset.from_arrays(
        observations[:, :-1].reshape(TRANSITIONS, size),
        random.uniform(-1, 1, (TRANSITIONS, actions)).astype(np.float32),
        random.standard_normal(TRANSITIONS).astype(np.float32),
        np.zeros(TRANSITIONS, bool),
        np.arange(TRANSITIONS) % 1000 == 999,
        next_observations=observations[:, 1:].reshape(TRANSITIONS, size),
        name="noise",
    )


def used(who: int) -> float:
    """Processor seconds of this process, or of those that it has started and that have ended."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def main(
    env: str = "HalfCheetah-v5",
    agent: str = "xql",
    steps: int = 20_000,
    evaluations: int = 20,
    episodes: int = 10,
    seeds: int = 1,
    places: tuple[Place, ...] = ("process", "worker"),
    repetitions: int = 2,
    out: Path | None = None,
) -> None:
    """Print the parts of a run's time.

    Args:
        env: the simulator; of flat observations and continuous actions.
        agent: what is trained.
        steps: updates of each member.
        evaluations: of a run.
        episodes: of each evaluation, the last included; with 0 nothing is evaluated.
        seeds: members.
        places: where it is evaluated.
        repetitions: of every place, in turn.
        out: the folder of a CSV file.
    """
    use_all_cores()
    data = noise(env)

    def train(folder: Path, updates: int, played: int) -> None:
        offline.train_offline(
            data,
            agent=Unchecked(agent),
            steps=updates,
            seeds=seeds,
            env=env,
            out=folder,
            evaluations=evaluations,
            episodes=played,
            last_episodes=played,
            progress=False,
            report=False,
        )

    about, found = machine(), {place: defaultdict[str, list[float]](list) for place in places}
    with tempfile.TemporaryDirectory() as work:
        train(Path(work) / "first", max(evaluations, 500), min(1, episodes))
        for repetition in range(repetitions):
            for place in places:
                os.environ[SWITCH] = "1" if place == "worker" else "0"
                own, others = used(resource.RUSAGE_SELF), used(resource.RUSAGE_CHILDREN)
                with clock() as timed:
                    train(Path(work) / f"{place}-{repetition}", steps, episodes)
                seconds, each = timed.seconds, found[place]
                each["in all"].append(sum(seconds.values()))
                each["without evaluation"].append(each["in all"][-1] - seconds["evaluation"])
                for _, _, part in PARTS:
                    if len(each[part]) == repetition:  # several functions may count to one part
                        each[part].append(seconds[part])
                each["processor, this process"].append(used(resource.RUSAGE_SELF) - own)
                each["processor, worker"].append(used(resource.RUSAGE_CHILDREN) - others)
    table = [row for place in places for row in rows(f"evaluated: {place}", "s", found[place])]
    both: dict[str, list[float]] = {place: found[place]["in all"] for place in places}
    report("around", [*table, *rows("in all", "s", both)], about, out)


if __name__ == "__main__":
    tyro.cli(main)

"""What saving the whole state costs while a run trains: `python -m benchmarks.checkpoints`.

256-256 networks, one member:

- offline: XQL, observation 60, action 9 (`benchmarks.updates`);
- online: X-TD3 in dm_control's hopper-hop with a full replay buffer of a million transitions.

Stretches of training with and without a save take turns. A save is begun as a run begins it,
between two updates, and written in the background while training goes on; its stretch ends when it
is on the disk and its updates are done. What it costs is the difference, in processor seconds of
the whole process, which other programs on the machine change less than the time on the clock. The
share is that cost over the processor seconds between two saves: those of ten minutes of training
on one core of its own, or of the updates between two evaluations.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from benchmarks.updates import OBSERVATION, make_data
from xql.agents import ONLINE, EnvironmentSpec, XQLConfig, configure, make_xql
from xql.data.actions import box
from xql.envs.make import make_environment
from xql.runs import checkpoints
from xql.runs.checkpoints import CheckpointWriter, flatten
from xql.runs.config import Member
from xql.training.actors import Actors
from xql.training.online_state import add, explore, initial_online_state, learn, online_arrays
from xql.training.population import (
    initial_population,
    place,
    replicated,
    train_chunk,
    use_all_cores,
    zero_totals,
)
from xql.training.replay import Replay

INTERVAL = 600.0
"""Seconds between two checkpoints, if nothing else is said."""
CAPACITY = 1_000_000
TASK = "dm_control/hopper-hop"

Content = tuple[Any, dict[str, np.ndarray]]
"""The state of a checkpoint, and its further arrays."""


class Job(NamedTuple):
    """Something that trains and can be saved."""

    train: Callable[[], None]
    """One stretch; returns when it is done."""
    content: Callable[[], Content]
    """What is saved, taken as a run takes it."""
    updates: int
    """Of one stretch."""
    between: int
    """Updates between two evaluations of a run as long as the default."""


class Cost(NamedTuple):
    """What one save took, in seconds."""

    blocked: float
    """On the clock: training waited."""
    blocked_cpu: float
    """Of the processor, meanwhile."""
    written: float
    """On the clock: from then until it was on the disk, with training going on."""
    alone: float
    """On the clock: the writing of one with nothing beside it."""
    extra: float
    """Of the processor: more than a stretch without a save."""
    stretch: float
    """Of the processor: a stretch without a save."""
    slower: float
    """On the clock: a stretch with a save over one without."""
    size: int
    """Bytes on the disk."""


def offline(updates: int) -> Job:
    """XQL on noise."""
    data = make_data()
    assert data.action_low is not None and data.action_high is not None
    spec = EnvironmentSpec(OBSERVATION, box(data.action_low, data.action_high))
    agent = make_xql(XQLConfig(), 1_000_000)
    population = initial_population(agent, spec, [Member(0)])
    arrays = data.to_device(replicated(population))
    state: dict[str, Any] = {
        "population": population,
        "totals": zero_totals(population, arrays, agent),
    }

    def train() -> None:
        state["population"], state["totals"] = train_chunk(
            state["population"], state["totals"], arrays, updates, agent=agent
        )
        state["population"].step.block_until_ready()

    def content() -> Content:
        # With what is kept of the last row of the log.
        extra = flatten(state["totals"], "totals") | flatten(state["population"], "good")
        return state["population"], extra

    return Job(train, content, updates, 100_000 // 20)


def online(updates: int) -> Job:
    """X-TD3 in a simulator, its buffer full."""
    actors = Actors(lambda: make_environment(TASK), [0], 1)
    agent = ONLINE["x-td3"].make(configure("x-td3", {}), 1_000_000)
    population = initial_population(agent, actors.spec, [Member(0)])
    state = initial_online_state(population, agent, actors.spec, CAPACITY, [0])
    random = np.random.default_rng(0)
    noise: list[Any] = [random.standard_normal(one.shape, np.float32) for one in state.replay]
    state = state._replace(replay=place(Replay(*noise), state.mesh))
    del noise
    kept: dict[str, Any] = {"state": state, "actions": actors.random_actions(), "at": 0}

    def train() -> None:
        state, actions = kept["state"], kept["actions"]
        for _ in range(updates):
            rows = actors.step(np.asarray(actions))
            state, actions = explore(state, actors.observations, agent)
            state = add(state, rows, kept["at"])
            state = learn(state, CAPACITY, 1, agent)
            kept["at"] = (kept["at"] + 1) % CAPACITY
        kept["state"], kept["actions"] = state, actions
        state.population.step.block_until_ready()

    def content() -> Content:
        state = kept["state"]
        own = {f"actors.{name}": array for name, array in actors.state().items()}
        more = flatten(state.totals, "totals") | flatten(state.population, "good")
        rest = {**online_arrays(state, CAPACITY), **own, "actions": np.asarray(kept["actions"])}
        return state.population, rest | more

    return Job(train, content, updates, 1_000_000 // 20)


@contextlib.contextmanager
def timed_writes() -> Iterator[list[float]]:
    """When each save was on the disk."""
    saves: Any = checkpoints
    write, ended = saves._write, []

    def timed(*args: Any) -> Any:
        path = write(*args)
        ended.append(time.perf_counter())
        return path

    saves._write = timed
    try:
        yield ended
    finally:
        saves._write = write


def measure(job: Job, folder: Path) -> Cost:
    """One stretch without a save, one with one, and a save alone."""
    cpu, clock = time.process_time(), time.perf_counter()
    job.train()
    plain_cpu, plain = time.process_time() - cpu, time.perf_counter() - clock
    with CheckpointWriter() as writer, timed_writes() as ended:
        cpu, clock = time.process_time(), time.perf_counter()
        state, extra = job.content()
        writer.save(folder, 1, state, extra=extra)
        blocked_cpu, blocked = time.process_time() - cpu, time.perf_counter() - clock
        job.train()
        writer.wait()
        with_cpu, whole = time.process_time() - cpu, time.perf_counter() - clock
        began = time.perf_counter()
        state, extra = job.content()
        writer.save(folder, 2, state, extra=extra)
        writer.wait()
        alone = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (folder / "2").rglob("*") if path.is_file())
    return Cost(
        blocked,
        blocked_cpu,
        ended[0] - clock - blocked,
        alone,
        with_cpu - plain_cpu,
        plain_cpu,
        whole / plain,
        size,
    )


def row(name: str, job: Job, costs: list[Cost]) -> str:
    """Medians of a job, with the least and the greatest of what is noisy."""

    def middle(field: str) -> float:
        return float(np.median([getattr(one, field) for one in costs]))

    def spread(field: str) -> str:
        all_ = [getattr(one, field) for one in costs]
        return f"{np.median(all_):.2f} ({min(all_):.2f}, {max(all_):.2f})"

    each = middle("stretch") / job.updates
    shares = [100 * one.extra / INTERVAL for one in costs]
    evaluation = [100 * one.extra / (each * job.between) for one in costs]
    return (
        f"| {name} | {middle('size') / 1e6:.1f} | {spread('blocked')} "
        f"| {middle('blocked_cpu'):.3f} "
        f"| {spread('written')} | {spread('alone')} | {spread('extra')} "
        f"| {1000 * each:.2f} | {np.median(shares):.3f} ({min(shares):.3f}, {max(shares):.3f}) "
        f"| {np.median(evaluation):.2f} ({min(evaluation):.2f}, {max(evaluation):.2f}) |"
    )


def main(updates: int = 500, repetitions: int = 5) -> None:
    """Print what a save costs.

    Args:
        updates: of one stretch; long enough for a save to end within it.
        repetitions: of a stretch without and one with a save.
    """
    use_all_cores()
    print(f"load of the machine at the beginning: {os.getloadavg()[0]:.1f}")
    print(
        "| | MB | blocked, s | of it CPU | written meanwhile, s | alone, s | extra CPU, s "
        "| CPU ms per update | % of 10 min | % between evaluations |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    slower = []
    for name, make in (("offline", offline), ("online", online)):
        job = make(updates)
        job.train()
        with tempfile.TemporaryDirectory() as folder:
            measure(job, Path(folder))  # compiles what a save needs, and imports Orbax
            costs = [measure(job, Path(folder)) for _ in range(repetitions)]
        print(row(name, job, costs))
        ratio = np.median([one.slower for one in costs])
        slower.append(f"{name} {ratio:.2f}")
    print(f"a stretch with a save over one without, on the clock: {', '.join(slower)}")
    print(f"load at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    tyro.cli(main)

"""How fast one update of offline XQL is: `python -m benchmarks.updates`.

The task is fixed: 200,000 transitions, observation 60, action 9, 256-256 networks, batch 256,
float32. Speeds of different machines compare only as a fraction of what the machine can do, so the
same run measures the rate of numpy's 2048 × 2048 × 2048 float32 matrix product on all cores, in
turn with the updates, and divides the update's own operations by it. Those are counted in code: the
matrix products of the forward and backward passes that the algorithm needs, and nothing else.
"""

import resource
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import tyro

from xql.agents import EnvironmentSpec, Metrics, XQLConfig, configure, make_xql
from xql.data.actions import box
from xql.data.dataset import Dataset, empty
from xql.runs.config import Member
from xql.training.population import (
    initial_population,
    replicated,
    train_chunk,
    use_all_cores,
    zero_totals,
)

TRANSITIONS, OBSERVATION, ACTION, EPISODE = 200_000, 60, 9, 1000


def make_data() -> Dataset:
    """Noise in the shape of data: the speed does not depend on the numbers."""
    random = np.random.default_rng(0)
    episodes = TRANSITIONS // EPISODE
    rows = TRANSITIONS + episodes
    observations, actions, rewards = (
        empty((rows, OBSERVATION)),
        empty((rows, ACTION)),
        empty((rows,)),
    )
    random.standard_normal(out=observations, dtype=np.float32)
    random.random(out=actions, dtype=np.float32)
    random.standard_normal(out=rewards, dtype=np.float32)
    return Dataset(
        observations,
        actions,
        rewards,
        lengths=np.full(episodes, EPISODE, np.int64),
        terminated=np.zeros(episodes, bool),
        truncated=np.ones(episodes, bool),
        name="noise",
        action_low=-np.ones(ACTION, np.float32),
        action_high=np.ones(ACTION, np.float32),
    )


def forward(sizes: Sequence[int], batch: int) -> int:
    """Operations of one forward pass: two per weight and sample."""
    return sum(2 * batch * inputs * outputs for inputs, outputs in pairwise(sizes))


def gradient(sizes: Sequence[int], batch: int) -> int:
    """Operations of a forward and a backward pass, the gradient of the network's input left out."""
    return 3 * forward(sizes, batch) - 2 * batch * sizes[0] * sizes[1]


def operations(config: XQLConfig) -> int:
    """The matrix-product operations of one XQL update."""
    batch, hidden = config.batch_size, config.hidden
    value, policy = (OBSERVATION, *hidden, 1), (OBSERVATION, *hidden, ACTION)
    critic = (OBSERVATION + ACTION, *hidden, 1)
    total = config.critics * (forward(critic, batch) + gradient(critic, batch))
    total += gradient(value, batch) + gradient(policy, batch)
    # V(s') for the backup; after the V step, V(s) for the advantage is computed anew.
    return total + (2 if config.update_order == "sequential" else 1) * forward(value, batch)


def machine_rate(seconds: float = 1.0) -> float:
    """Operations per second of numpy's 2048³ float32 matrix product."""
    size = 2048
    a = np.random.default_rng(0).random((size, size), np.float32)
    b, out = a.copy(), np.empty_like(a)
    np.matmul(a, b, out=out)
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        np.matmul(a, b, out=out)
        count += 1
    return 2 * size**3 * count / elapsed


def measure(config: XQLConfig, members: int, repetitions: int, updates: int) -> dict[str, float]:
    """Compile, then time chunks of updates in turn with the machine's own rate."""
    data = make_data()
    assert data.action_low is not None and data.action_high is not None
    spec = EnvironmentSpec(OBSERVATION, box(data.action_low, data.action_high))
    agent = make_xql(config, 1_000_000)
    population = initial_population(agent, spec, [Member(seed) for seed in range(members)])
    device_data = data.to_device(replicated(population))

    began = time.perf_counter()
    totals = zero_totals(population, device_data, agent)
    population, totals = train_chunk(population, totals, device_data, 1, agent=agent)
    _wait(totals)
    compiling = time.perf_counter() - began

    speeds, rates = [], [machine_rate()]
    for _ in range(repetitions):
        began = time.perf_counter()
        population, totals = train_chunk(population, totals, device_data, updates, agent=agent)
        _wait(totals)
        speeds.append(members * updates / (time.perf_counter() - began))
        rates.append(machine_rate())
    fractions = [
        speed * operations(config) / ((before + after) / 2)
        for speed, (before, after) in zip(speeds, pairwise(rates), strict=True)
    ]
    return {
        "updates/s": float(np.median(speeds)),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "GFLOP/update": operations(config) / 1e9,
        "machine GFLOP/s": float(np.median(rates)) / 1e9,
        "fraction": float(np.median(fractions)),
        "compile s": compiling,
    }


def _wait(metrics: Metrics) -> None:
    metrics["value_loss"].block_until_ready()


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(members: int = 1, repetitions: int = 7, updates: int = 500) -> None:
    """Print the speed of both update orders.

    Args:
        members: the population; updates of all members are counted.
        repetitions: timed chunks; the median counts.
        updates: updates of each member per chunk.
    """
    if members > 1:
        use_all_cores()
    device: Any = jax.devices()[0]
    data = make_data()
    size = sum(array.nbytes for array in (data.observations, data.actions, data.rewards)) / 2**20
    del data
    print(f"{device.device_kind}, jax {jax.__version__}, {members} member(s)")
    for order in ("sequential", "simultaneous"):
        config: XQLConfig = configure("xql", {"update_order": order})
        found = measure(config, members, repetitions, updates)
        print(f"\nupdate_order={order}")
        for name, value in found.items():
            print(f"  {name:16} {value:8.3f}" if value < 100 else f"  {name:16} {value:8.0f}")
    print(f"\npeak memory {peak_megabytes():.0f} MiB; the data is {size:.0f} MiB, held once")


if __name__ == "__main__":
    tyro.cli(main)

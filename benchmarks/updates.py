"""How fast updates are: `python -m benchmarks.updates [--peer PYTHON]`.

The task is fixed: 200,000 transitions, observation 60, action 9, 256-256 networks, batch 256,
float32. All that is compared alternates in one run: ours, IQL in the style of one-file JAX code
(`one_file.py`) and, with `--peer`, the Python of another virtual environment that holds d3rlpy,
that library's IQL. Speeds of different machines compare only as a fraction of what the machine can
do, so the same rounds measure numpy's 2048 × 2048 × 2048 float32 matrix product on all cores; an
update's own operations are counted in code, the matrix products of its forward and backward passes
and nothing else.

A population's members share the cores: `--members 1 2 4 8` prints the updates of all of them.
"""

import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import one_file
from benchmarks.table import interleaved, machine, report
from xql.agents import AGENTS, EnvironmentSpec, XQLConfig, configure
from xql.agents.networks import Precision, in_bf16
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
AUTO = {"beta": "auto", "inverse_temperature": "auto"}


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


class Loop:
    """A population that learns from noise, compiled: each call makes some updates.

    Args:
        agent, options: whose, and its settings.
        members: of the population; updates of all are counted.
        precision: of the matrix products.
        data: what it learns from.
        updates: of each member in a call.
    """

    def __init__(
        self,
        agent: str,
        options: dict[str, Any],
        data: Dataset,
        updates: int,
        *,
        members: int = 1,
        precision: Precision = "float32",
    ) -> None:
        assert data.action_low is not None and data.action_high is not None
        self.config = configure(agent, options)
        self.updates, self.members = updates, members
        made = AGENTS[agent].make(self.config, 1_000_000)
        self.agent = made._replace(update=in_bf16(made.update)) if precision == "bf16" else made
        spec = EnvironmentSpec(OBSERVATION, box(data.action_low, data.action_high))
        seeds = [Member(seed) for seed in range(members)]
        self.population = initial_population(self.agent, spec, seeds)
        self.data = data.to_device(replicated(self.population))
        self.totals = zero_totals(self.population, self.data, self.agent)
        self.train(1)

    def train(self, updates: int) -> None:
        self.population, self.totals = train_chunk(
            self.population, self.totals, self.data, updates, agent=self.agent
        )
        self.population.step.block_until_ready()

    def __call__(self) -> float:
        """Updates per second of all members."""
        began = time.perf_counter()
        self.train(self.updates)
        return self.members * self.updates / (time.perf_counter() - began)


def one_file_iql(data: Dataset, updates: int) -> Callable[[], float]:
    """IQL in the style of one-file code, as `Loop`."""
    rows = data.starts
    arrays = (data.observations[rows], data.actions[rows], data.rewards[rows])
    following = (data.observations[rows + 1], 1 - data.masks[rows])
    run = one_file.train(one_file.Transitions(*map(jnp.asarray, (*arrays, *following))))
    state = [one_file.initial(jax.random.key(0), OBSERVATION, ACTION)]

    def call() -> float:
        began = time.perf_counter()
        state[0], losses = run(state[0], updates)
        losses.block_until_ready()
        return updates / (time.perf_counter() - began)

    call()  # compiles
    return call


# Runs in the peer's environment.
D3RLPY = """
import sys, time
import d3rlpy, numpy as np
transitions, observation, action, episode, updates = map(int, sys.argv[1:])
random = np.random.default_rng(0)
ends = np.arange(transitions) % episode == episode - 1
data = d3rlpy.dataset.MDPDataset(
    random.standard_normal((transitions, observation), np.float32),
    random.uniform(-1, 1, (transitions, action)).astype(np.float32),
    random.standard_normal(transitions).astype(np.float32),
    np.zeros(transitions), ends.astype(np.float32),
)
agent = d3rlpy.algos.IQLConfig(batch_size=256).create(device=False)
quiet = {"show_progress": False, "logger_adapter": d3rlpy.logging.NoopAdapterFactory()}
agent.fit(data, n_steps=20, n_steps_per_epoch=20, **quiet)
began = time.perf_counter()
agent.fit(data, n_steps=updates, n_steps_per_epoch=updates, **quiet)
print("updates/s", updates / (time.perf_counter() - began))
"""


def d3rlpy_iql(python: Path, updates: int) -> Callable[[], float]:
    """The peer's IQL, in a process of its own with each call."""
    sizes = (TRANSITIONS, OBSERVATION, ACTION, EPISODE, updates)

    def call() -> float:
        command = [str(python), "-c", D3RLPY, *map(str, sizes)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(printed.split("updates/s")[1])

    return call


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(
    members: tuple[int, ...] = (1,),
    rounds: int = 7,
    updates: int = 500,
    peer: Path | None = None,
    out: Path | None = None,
) -> None:
    """Print updates per second.

    Args:
        members: with 1 alone, one run beside its peers; else populations of these sizes.
        rounds: of everything, in turn; the median counts.
        updates: of each member in a round.
        peer: the Python of a virtual environment with d3rlpy.
        out: the folder of a CSV file.
    """
    if members != (1,):
        use_all_cores()
    about = machine()
    data = make_data()
    if members != (1,):
        sizes: dict[str, Callable[[], float]] = {
            f"{count} members": Loop("xql", {"beta": 1.0}, data, updates, members=count)
            for count in members
        }
        found = interleaved("XQL, all members", "updates/s", sizes, rounds)
        report("populations", found, about, out)
        return
    xql = Loop("xql", {"beta": 1.0}, data, updates)
    measures: dict[str, Callable[[], float]] = {
        "IQL, one-file JAX": one_file_iql(data, updates),
        "IQL": Loop("iql", {}, data, updates),
        "XQL": xql,
        "XQL, simultaneous": Loop(
            "xql", {"beta": 1.0, "update_order": "simultaneous"}, data, updates
        ),
        "XQL, both temperatures auto": Loop("xql", AUTO, data, updates),
        "XQL, bf16": Loop("xql", {"beta": 1.0}, data, updates, precision="bf16"),
    }
    if peer is not None:
        measures["IQL, d3rlpy"] = d3rlpy_iql(peer, updates)
    measures["machine"] = lambda: machine_rate() / 1e9
    found = interleaved("one run", "updates/s", measures, rounds)
    *found, rate = found
    operations_in = operations(xql.config) / 1e9
    about |= {
        "numpy's 2048³ product": f"{rate.median:.0f} GFLOP/s",
        "XQL's products": f"{operations_in:.3f} GFLOP per update, "
        f"{operations_in * found[2].median / rate.median:.2f} of that rate",
        "peak memory": f"{peak_megabytes():.0f} MiB",
    }
    report("updates", found, about, out)


if __name__ == "__main__":
    tyro.cli(main)

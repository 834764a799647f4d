"""What each policy extraction of offline XQL costs: `python -m benchmarks.extraction`.

On one core, at the task of `benchmarks.updates` (observation 60, action 9, 256-256, batch 256): the
time of an update and the time of acting, for one observation and for 100 at once, each as a
multiple of `awr`'s. The four take turns, so that what else the machine does falls on all of them;
the medians count. Acting is without a key, as in evaluation, the answer on the host included.
"""

import os

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])

import time
from collections.abc import Callable
from typing import Any, get_args

import jax
import numpy as np
import tyro

from benchmarks.updates import ACTION, OBSERVATION, make_data
from xql.agents import EnvironmentSpec, Extraction, configure, make_xql, member
from xql.data.actions import box
from xql.data.dataset import Dataset
from xql.runs.config import Member
from xql.training.population import initial_population, replicated, train_chunk, zero_totals

SPEC = EnvironmentSpec(OBSERVATION, box([-1.0] * ACTION, [1.0] * ACTION))
POLICIES: tuple[Extraction, ...] = get_args(Extraction)


class Timed:
    """One extraction, compiled and ready to be timed."""

    def __init__(self, policy: Extraction, data: Dataset) -> None:
        self.agent = make_xql(configure("xql", {"policy": policy}), 1_000_000)
        self.population = initial_population(self.agent, SPEC, [Member(0)])
        self.data = data.to_device(replicated(self.population))
        self.totals = zero_totals(self.population, self.data, self.agent)
        self.act: Callable[[Any, Any], Any] = jax.jit(lambda actor, rows: actor(rows))
        self.update_seconds(1)
        self.actor = self.agent.actor(member(self.population, 0))
        for rows in (1, 100):
            self.act_seconds(rows, 1)

    def update_seconds(self, updates: int) -> float:
        """Of one update."""
        began = time.perf_counter()
        self.population, self.totals = train_chunk(
            self.population, self.totals, self.data, updates, agent=self.agent
        )
        self.totals["q"].block_until_ready()
        return (time.perf_counter() - began) / updates

    def act_seconds(self, rows: int, calls: int) -> float:
        """Of one call for so many observations."""
        observations = np.zeros((rows, OBSERVATION), np.float32)
        began = time.perf_counter()
        for _ in range(calls):
            np.asarray(self.act(self.actor, observations))
        return (time.perf_counter() - began) / calls


def main(repetitions: int = 7, updates: int = 100, calls: int = 200) -> None:
    """Print a row for each extraction.

    Args:
        repetitions: timed turns of each; the median counts.
        updates: of each turn.
        calls: of the policy in each turn, for each number of observations.
    """
    data = make_data()
    timed = {policy: Timed(policy, data) for policy in POLICIES}
    measured: dict[Extraction, list[list[float]]] = {policy: [] for policy in POLICIES}
    for _ in range(repetitions):
        for policy, one in timed.items():
            measured[policy].append(
                [
                    1e3 * one.update_seconds(updates),
                    1e6 * one.act_seconds(1, calls),
                    1e6 * one.act_seconds(100, calls) / 100,
                ]
            )
    medians = {policy: np.median(rows, axis=0) for policy, rows in measured.items()}
    print(f"{'policy':10} {'ms/update':>16} {'µs/action, one':>20} {'µs/action, of 100':>20}")
    for policy, row in medians.items():
        cells = [
            f"{value:.3g} (×{ratio:.2f})"
            for value, ratio in zip(row, row / medians["awr"], strict=True)
        ]
        print(f"{policy:10} {cells[0]:>16} {cells[1]:>20} {cells[2]:>20}")


if __name__ == "__main__":
    tyro.cli(main)

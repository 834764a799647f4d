"""What one GPU does in a few minutes: `python -m benchmarks.gpu --out FOLDER`.

Updates per second of populations of XQL at door-human's size (observation 39, action 28), in
float32, in TF32 (JAX's own choice of precision on a GPU) and with products in bfloat16; the time of
1,000,000 updates of one run at the best of these rates, compilation included; and, with `--data`,
four members trained on that file, evaluations included. It ends within `--minutes`: what has not
been measured by then is left out.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tyro

from benchmarks.table import Row, machine, report, rows
from xql.agents import AGENTS, EnvironmentSpec, configure
from xql.agents.networks import in_bf16
from xql.data.actions import box
from xql.data.dataset import Dataset
from xql.runs.config import Member
from xql.training.offline import train_offline
from xql.training.population import initial_population, replicated, train_chunk, zero_totals

OBSERVATION, ACTION, TRANSITIONS, EPISODE = 39, 28, 6_800, 200
MODES = ("float32", "tf32", "bf16")


def noise() -> Dataset:
    """Noise in the shape of door-human."""
    random = np.random.default_rng(0)
    ends = np.arange(TRANSITIONS) % EPISODE == EPISODE - 1
    observations = random.standard_normal((TRANSITIONS, OBSERVATION)).astype(np.float32)
    return Dataset.from_arrays(
        observations,
        random.uniform(-1, 1, (TRANSITIONS, ACTION)).astype(np.float32),
        random.standard_normal(TRANSITIONS).astype(np.float32),
        np.zeros(TRANSITIONS, bool),
        ends,
        observations,
        name="noise",
        action_low=-np.ones(ACTION, np.float32),
        action_high=np.ones(ACTION, np.float32),
    )


def speed(
    data: Dataset, members: int, mode: str, chunk: int, rounds: int
) -> tuple[float, list[float]]:
    """Seconds to the end of the first update, and all members' updates per second by round."""
    began = time.perf_counter()
    made = AGENTS["xql"].make(configure("xql", {"beta": 1.0}), 1_000_000)
    agent = made._replace(update=in_bf16(made.update)) if mode == "bf16" else made
    spec = EnvironmentSpec(OBSERVATION, box([-1.0] * ACTION, [1.0] * ACTION))
    with jax.default_matmul_precision("highest" if mode == "float32" else "default"):
        population = initial_population(agent, spec, [Member(seed) for seed in range(members)])
        on_device = data.to_device(replicated(population))
        totals = zero_totals(population, on_device, agent)

        def train(updates: int) -> None:
            nonlocal population, totals
            population, totals = train_chunk(population, totals, on_device, updates, agent=agent)
            population.step.block_until_ready()

        train(1)
        first = time.perf_counter() - began
        speeds = []
        for _ in range(rounds):
            began = time.perf_counter()
            train(chunk)
            speeds.append(members * chunk / (time.perf_counter() - began))
    return first, speeds


def main(
    members: Sequence[int] = (1, 4, 16, 64),
    chunk: int = 2_000,
    rounds: int = 5,
    minutes: float = 7.0,
    data: str | None = None,
    steps: int = 20_000,
    out: Path | None = None,
) -> None:
    """Print what the GPU does.

    Args:
        members: sizes of the populations.
        chunk: updates of each member in a round.
        rounds: of each.
        minutes: after which nothing new is begun.
        data: a data set with an environment, of which one cell is trained.
        steps: of that cell, for 4 seeds.
        out: the folder of a CSV file.
    """
    about, began, log = machine(), time.monotonic(), noise()
    firsts: dict[str, float] = {}
    found: dict[str, list[float]] = {}
    for mode in MODES:
        for count in members:
            if time.monotonic() - began > 60 * minutes:
                continue
            name = f"{count} members, {mode}"
            firsts[name], found[name] = speed(log, count, mode, chunk, rounds)
            print(f"{name}: {np.median(found[name]):,.0f} updates/s in all", flush=True)
    table: list[Row] = rows("XQL at door-human's size, all members", "updates/s", found)
    table += rows("to the end of the first update", "s", {k: [v] for k, v in firsts.items()})
    alone = {k: firsts[k] + 1e6 / np.median(v) for k, v in found.items() if k.startswith("1 ")}
    if alone:
        table += rows("1,000,000 updates of one run", "s", {k: [v] for k, v in alone.items()})
    if data is not None and time.monotonic() - began < 60 * minutes:
        table += rows("a cell of 4 seeds", "s", {f"{steps:,} updates": [_cell(data, steps, out)]})
    report("gpu", table, about, out)


def _cell(data: str, steps: int, out: Path | None) -> float:
    began = time.perf_counter()
    folder = Path("runs" if out is None else out) / "gpu-cell"
    run = train_offline(data, seeds=4, steps=steps, evaluations=1, out=folder, report=False)
    print(run.describe(), flush=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    tyro.cli(main)

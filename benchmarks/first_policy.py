"""From the command to a policy that solves the task: `python -m benchmarks.first_policy`.

What a user waits for: the wall time from a command until an evaluation on PointMaze-Medium, 20
episodes every 2,500 updates, first has 95 % success. Start-up, reading, compiling, training and
evaluating all count. It is the first such evaluation and no result: a later one may be worse. With
`--peer`, the Python of another virtual environment that holds xql and d3rlpy, that library's IQL
does the same on the same data, in the same episodes. d3rlpy pins an older Gymnasium, hence:

    python -m venv PEER
    PEER/bin/pip install '.[mujoco]' torch scikit-learn structlog colorama dataclasses-json gym
    PEER/bin/pip install --no-deps d3rlpy

All are at their defaults. Ours of this suite were tuned on this data, d3rlpy's are general ones, so
d3rlpy's IQL runs once more with ours: rewards of −1 per step, expectile, temperature, rates.
"""

import csv
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tyro

from benchmarks.table import interleaved, machine, report
from xql.collect.pointmaze import ensure_pointmaze

EVERY, EPISODES, ENOUGH = 2_500, 20, 0.95

# Runs in the peer's environment.
D3RLPY = """
import sys
import d3rlpy, numpy as np
from xql.data.sources import open_dataset
from xql.envs.make import make_environment
from xql.evaluation.rollout import Evaluator
from xql.training.evaluate import EVALUATION_SEED

source, settings, numbers = sys.argv[1], sys.argv[2], map(float, sys.argv[3:])
seed, steps, every, episodes, enough = numbers
d3rlpy.seed(int(seed))
data = open_dataset(source)
rows = data.starts
ends = np.zeros(len(data.rewards), np.float32)
terminals, timeouts = ends.copy(), ends.copy()
last = np.cumsum(data.lengths + 1) - 2
terminals[last[data.terminated]] = 1
timeouts[last[~data.terminated]] = 1
rewards, own = data.rewards[rows], {}
if settings == "ours":
    rewards = rewards - 1
    own = {"expectile": 0.9, "weight_temp": 10.0, "tau": 0.02}
    own |= {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
log = d3rlpy.dataset.MDPDataset(
    data.observations[rows], data.actions[rows], rewards, terminals[rows], timeouts[rows]
)
keys = data.metadata.get("observation_keys")
environment = data.evaluation_environment or data.environment
evaluator = Evaluator(
    lambda: make_environment(environment, keys=tuple(keys) if keys else None), 1, int(episodes)
)
agent = d3rlpy.algos.IQLConfig(batch_size=256, **own).create(device=False)
quiet = {"show_progress": False, "logger_adapter": d3rlpy.logging.NoopAdapterFactory()}
fitter = agent.fitter(log, int(steps), n_steps_per_epoch=int(every), **quiet)
for _ in fitter:
    played = evaluator.rollout(
        lambda seen: agent.predict(seen[0])[None], int(episodes), EVALUATION_SEED
    )
    success = np.mean([one.success for one in played])
    print("evaluated", success, flush=True)
    if success >= enough:
        break
"""


def ours(source: str, agent: str, seed: int, steps: int) -> float:
    """Seconds from the command to an evaluation with enough success; infinity without one."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "run"
        command = [sys.executable, "-m", "xql", "train", "offline", "--data", source]
        command += ["--agent", agent, "--first-seed", str(seed), "--steps", str(steps)]
        command += ["--evaluations", str(steps // EVERY), "--episodes", str(EPISODES)]
        command += ["--last-episodes", str(EPISODES), "--no-report", "--no-plot", "--quiet"]
        began = time.perf_counter()
        process = subprocess.Popen([*command, "--out", str(out)])
        try:
            while process.poll() is None:
                if _solved(out / "evaluations.csv"):
                    return time.perf_counter() - began
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        if process.returncode not in (0, -9):
            raise SystemExit(f"the command failed: {' '.join(command)}")
        return time.perf_counter() - began if _solved(out / "evaluations.csv") else float("inf")


def _solved(file: Path) -> bool:
    """Whether one of its evaluations is whole and has enough success."""
    if not file.exists():
        return False
    successes: dict[str, list[str]] = {}
    with file.open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            successes.setdefault(row["step"], []).append(row["success"] or "")
    return any(
        len(one) == EPISODES and one.count("True") + one.count("1") >= ENOUGH * EPISODES
        for one in successes.values()
    )


def peers(python: Path, source: str, settings: str, seed: int, steps: int) -> float:
    """The same of d3rlpy's IQL, with "its" settings or "ours" (but for the cosine schedules)."""
    numbers = (seed, steps, EVERY, EPISODES, ENOUGH)
    began = time.perf_counter()
    command = [str(python), "-c", D3RLPY, source, settings, *map(str, numbers)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = time.perf_counter() - began
    # d3rlpy prints its log between them.
    found = re.findall(r"^evaluated ([0-9.]+)$", printed, re.MULTILINE)
    print(
        f"d3rlpy with {settings} settings, seed {seed}: {' '.join(found)} in {seconds:.0f} s",
        flush=True,
    )
    return seconds if any(float(one) >= ENOUGH for one in found) else float("inf")


def main(
    agents: tuple[str, ...] = ("xql", "iql"),
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 50_000,
    peer: Path | None = None,
    out: Path | None = None,
) -> None:
    """Print the seconds of each, over seeds.

    Args:
        agents: ours.
        seeds: one a round.
        steps: after which one is given up; it has inf then.
        peer: the Python of a virtual environment with xql and d3rlpy.
        out: the folder of a CSV file.
    """
    about = machine()
    source = f"minari:{ensure_pointmaze('medium')[0]}"
    left = {name: iter(seeds) for name in (*agents, "its", "ours")}
    measures: dict[str, Callable[[], float]] = {}
    for agent in agents:
        measures[agent.upper()] = partial(
            lambda name: ours(source, name, next(left[name]), steps), agent
        )
    for settings, name in (("its", "IQL, d3rlpy"), ("ours", "IQL, d3rlpy with our settings")):
        if peer is not None:
            measures[name] = partial(
                lambda which, python: peers(python, source, which, next(left[which]), steps),
                settings,
                peer,
            )
    found = interleaved("until 95 % success", "s", measures, len(seeds))
    report("first-policy", found, about, out)


if __name__ == "__main__":
    tyro.cli(main)

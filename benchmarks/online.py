"""How fast online training is: `python -m benchmarks.online [--peer PYTHON]`.

Environment steps per second of one member with one update for each, 256-256 networks, batch 256,
warm-up and compilation left out, and the rate of this machine's float32 matrix product measured in
turn with them. With `--peer`, the Python of another virtual environment that holds `sbx-rl`, that
library's TD3 and SAC are timed in turn with ours: `python -m venv PEER; PEER/bin/pip install
sbx-rl 'gymnasium[mujoco]' 'mujoco<3.12'`.

Then, for each agent, what a step is made of, in milliseconds on the clock: an update within a call
of many, which is the least that a step can take; an update that is called by itself; a step without
an update, which overlaps with the update before it where there is a core for it; and a whole step.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.table import Row, interleaved, machine, report, rows
from benchmarks.updates import machine_rate
from xql.agents import ONLINE, Unchecked, configure
from xql.envs.make import make_environment
from xql.runs.config import Member, OnlineLoop
from xql.training.actors import Actors
from xql.training.online import train_online
from xql.training.online_state import add, explore, initial_online_state, learn
from xql.training.population import initial_population, use_all_cores

WARMUP, LEAD = 1_000, 1_000
"""Random steps, and steps after them that compile and warm the caches."""

# Runs in the peer's environment. Its `learn` calls back after every environment step.
PEER = """
import sys, time
import sbx, gymnasium
from stable_baselines3.common.callbacks import BaseCallback

name, env, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

class Clock(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == first:
            self.began = time.perf_counter()
        return True

clock = Clock()
model = getattr(sbx, name)(
    "MlpPolicy", gymnasium.make(env), seed=0, learning_starts=1000, buffer_size=1_000_000,
    batch_size=256, train_freq=1, gradient_steps=1, policy_kwargs={"net_arch": [256, 256]},
)
model.learn(last, callback=clock)
print("steps/s", (last - first) / (time.perf_counter() - clock.began))
"""


def ours(agent: str, env: str, steps: int, environments: int) -> float:
    """Environment steps per second, from the run's own clock."""
    with tempfile.TemporaryDirectory() as work:
        run = train_online(
            env,
            agent=Unchecked(agent),
            steps=WARMUP + LEAD + steps,
            out=Path(work) / "run",
            loop=OnlineLoop(environments, WARMUP),
            evaluations=1,
            episodes=0,
            last_episodes=0,
            progress=False,
        )
        clock = {line.step: line.values["seconds"][0] for line in run.folder.read_metrics()}
    return steps / (clock[WARMUP + LEAD + steps] - clock[WARMUP + LEAD])


def peers(python: Path, agent: str, env: str, steps: int) -> float:
    """The same of sbx-rl."""
    first = WARMUP + LEAD
    command = [str(python), "-c", PEER, agent.upper(), env, str(first), str(first + steps)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split("steps/s")[1])


class Step:
    """One member in one environment, whose step can be made in parts."""

    CAPACITY = 100_000

    def __init__(self, agent: str, env: str) -> None:
        self.agent = ONLINE[agent].make(configure(agent, {}), 1_000_000)
        self.actors = Actors(lambda: make_environment(env), [0], 1)
        spec = self.actors.spec
        population = initial_population(self.agent, spec, [Member(0)])
        self.state = initial_online_state(population, self.agent, spec, self.CAPACITY, [0])
        self.actions: Any = self.actors.random_actions()
        self.at = 0

    def act(self) -> None:
        """As `xql.training.online` does it, but for the update."""
        rows = self.actors.step(np.asarray(self.actions))
        self.state, self.actions = explore(self.state, self.actors.observations, self.agent)
        self.state = add(self.state, rows, self.at)
        self.at = (self.at + 1) % self.CAPACITY

    def learn(self, updates: int) -> None:
        self.state = learn(self.state, WARMUP, updates, self.agent)

    def parts(self, steps: int) -> dict[str, float]:
        """Milliseconds of each."""

        def whole() -> None:
            self.act()
            self.learn(1)

        def repeated(part: Callable[[], None]) -> Callable[[], None]:
            def repeat() -> None:
                for _ in range(steps):
                    part()

            return repeat

        found = {}
        for name, timed in {
            "update within a call": lambda: self.learn(steps),
            "update by itself": repeated(lambda: self.learn(1)),
            "step without update": repeated(self.act),
            "step": repeated(whole),
        }.items():
            whole()
            self.state.arrays[0].block_until_ready()
            began = time.perf_counter()
            timed()
            self.state.arrays[0].block_until_ready()
            found[name] = 1000 * (time.perf_counter() - began) / steps
        return found


def main(
    env: str = "HalfCheetah-v5",
    agents: tuple[str, ...] = ("td3", "sac"),
    steps: int = 5_000,
    repetitions: int = 3,
    peer: Path | None = None,
    environments: int = 1,
    parts: int = 300,
    out: Path | None = None,
) -> None:
    """Print the speed of each agent, slowest and fastest too.

    Args:
        env: the simulator.
        agents: whose speed.
        steps: timed in each repetition, a multiple of 1000.
        repetitions: of everything, in turn.
        peer: the Python of a virtual environment with sbx-rl; nothing is compared without it.
        environments: copies of ours, with as many updates at a time. sbx-rl has one.
        parts: steps for the time of each part of a step; none with 0.
        out: the folder of a CSV file.
    """
    use_all_cores()
    about, table = machine(), list[Row]()
    for agent in agents:
        measures: dict[str, Callable[[], float]] = {}
        if peer is not None and agent in ("td3", "sac"):
            measures["sbx-rl"] = partial(peers, peer, agent, env, steps)
        measures["xql"] = partial(ours, agent, env, steps, environments)
        table += interleaved(f"{agent}, {env}", "steps/s", measures, repetitions)
    for agent in agents if parts else ():
        step = Step(agent, env)
        made = [step.parts(parts) for _ in range(repetitions)]
        step.actors.close()
        each = {name: [one[name] for one in made] for name in reversed(made[0])}
        table += rows(f"a step of {agent}", "ms", each)
    about |= {"numpy's 2048³ product": f"{machine_rate() / 1e9:.0f} GFLOP/s"}
    report("online", table, about, out)


if __name__ == "__main__":
    tyro.cli(main)

"""How fast online training is: `python -m benchmarks.online [--peer PYTHON]`.

Environment steps per second of one member with one update for each, 256-256 networks, batch 256,
warm-up and compilation left out, and the rate of this machine's float32 matrix product measured in
turn with them. With `--peer`, the Python of another virtual environment that holds `sbx-rl`, that
library's TD3 and SAC are timed in turn with ours: `python -m venv PEER; PEER/bin/pip install
sbx-rl 'gymnasium[mujoco]' 'mujoco<3.12'`.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tyro

from benchmarks.updates import machine_rate
from xql.agents import Unchecked
from xql.runs.config import OnlineLoop
from xql.training.online import train_online
from xql.training.population import use_all_cores

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


def ours(agent: str, env: str, steps: int) -> float:
    """Environment steps per second, from the run's own clock."""
    with tempfile.TemporaryDirectory() as work:
        run = train_online(
            env,
            agent=Unchecked(agent),
            steps=WARMUP + LEAD + steps,
            out=Path(work) / "run",
            loop=OnlineLoop(warmup=WARMUP),
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


def main(
    env: str = "HalfCheetah-v5",
    agents: tuple[str, ...] = ("td3", "sac"),
    steps: int = 5_000,
    repetitions: int = 3,
    peer: Path | None = None,
) -> None:
    """Print the speed of each agent, slowest and fastest too.

    Args:
        env: the simulator.
        agents: whose speed.
        steps: timed in each repetition, a multiple of 1000.
        repetitions: of everything, in turn.
        peer: the Python of a virtual environment with sbx-rl; nothing is compared without it.
    """
    use_all_cores()
    found: dict[str, list[float]] = {}
    rates = [machine_rate()]
    for _ in range(repetitions):
        for agent in agents:
            found.setdefault(f"xql {agent}", []).append(ours(agent, env, steps))
            if peer is not None and agent in ("td3", "sac"):
                found.setdefault(f"sbx-rl {agent}", []).append(peers(peer, agent, env, steps))
            rates.append(machine_rate())
    print(f"{env}; numpy's 2048³ product: {np.median(rates) / 1e9:.0f} GFLOP/s")
    for name, speeds in found.items():
        print(
            f"  {name:12} {np.median(speeds):5.0f} steps/s ({min(speeds):.0f} to {max(speeds):.0f})"
        )


if __name__ == "__main__":
    tyro.cli(main)

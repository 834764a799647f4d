"""Whether our TD3 and SAC learn as those of a peer library do.

    python -m xql.experiments.online_results --peer PYTHON


HalfCheetah-v5, 100k steps, one update a step, 256-256 networks, batch 256, 5000 random steps first.
PYTHON is that of another virtual environment with `sbx-rl` in it (see `benchmarks.online`). Both
sides get the same sizes, rates and noise; what has no option keeps each side's default. A cell is
one agent's one seed; those that `results/halfcheetah` holds are not trained again.
"""

import csv
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import tyro

from xql.experiments.cells import keep_run
from xql.reports.plots import COLOURS
from xql.runs.folder import RunFolder
from xql.training.online import Loop, train_online

HOME = Path(__file__).parent.parent / "results" / "halfcheetah"
ENV, STEPS, WARMUP, EVERY = "HalfCheetah-v5", 100_000, 5_000, 10_000
EPISODES, LAST_EPISODES = 5, 20
Library = Literal["xql", "sbx-rl"]
Learner = Literal["td3", "sac"]
LIBRARIES: tuple[Library, ...] = get_args(Library)
AGENTS: tuple[Learner, ...] = get_args(Learner)

# Runs in the peer's environment; writes step,episode,return for its mean actions.
PEER = """
import csv, sys
import gymnasium, numpy, sbx
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

name, env, seed, path = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
steps, warmup, every, episodes, last_episodes = map(int, sys.argv[5:])
train, judge = gymnasium.make(env), gymnasium.make(env)
size = train.action_space.shape[0]
own = {
    "TD3": {
        "learning_rate": 1e-3,
        "action_noise": NormalActionNoise(numpy.zeros(size), numpy.full(size, 0.1)),
    },
    "SAC": {"learning_rate": 3e-4},
}[name]
model = getattr(sbx, name)(
    "MlpPolicy", train, seed=seed, learning_starts=warmup, buffer_size=1_000_000, batch_size=256,
    tau=0.005, gamma=0.99, train_freq=1, gradient_steps=1,
    policy_kwargs={"net_arch": [256, 256]}, **own,
)
with open(path, "w", newline="") as stream:
    writer = csv.writer(stream, lineterminator="\\n")
    writer.writerow(["step", "episode", "return"])
    judge.reset(seed=10_000 + seed)
    for step in range(every, steps + 1, every):
        model.learn(every, reset_num_timesteps=step == every)
        count = last_episodes if step == steps else episodes
        returns, _ = evaluate_policy(model, judge, count, return_episode_rewards=True)
        for episode, value in enumerate(returns):
            writer.writerow([step, episode, f"{value:.2f}"])
"""


class Curve(NamedTuple):
    """One seed: the mean return of each evaluation."""

    library: str
    agent: str
    seed: int
    steps: list[int]
    returns: list[float]


def cell(library: str, agent: str, seed: int) -> Path:
    """Where a seed lies: a run's folder of ours, a CSV file of the peer."""
    return HOME / "cells" / f"{library}-{agent}-{seed}{'' if library == 'xql' else '.csv'}"


def train_ours(agent: str, seed: int) -> None:
    """Train and keep one seed of ours."""
    settings = {
        "env": ENV,
        "agent": agent,
        "steps": STEPS,
        "seeds": [seed],
        "loop": Loop(warmup=WARMUP),
        "evaluations": STEPS // EVERY,
        "episodes": EPISODES,
        "last_episodes": LAST_EPISODES,
        "progress": False,
    }
    keep_run(cell("xql", agent, seed), train_online, settings)


def train_peers(python: Path, agent: str, seed: int) -> None:
    """Train and keep one seed of the peer."""
    counts = map(str, (STEPS, WARMUP, EVERY, EPISODES, LAST_EPISODES))
    with tempfile.TemporaryDirectory() as work:
        draft = Path(work) / "returns.csv"
        told = [str(python), "-c", PEER, agent.upper(), ENV, str(seed), str(draft), *counts]
        subprocess.run(told, check=True)
        shutil.copy(draft, cell("sbx-rl", agent, seed))


def curves() -> Iterator[Curve]:
    """Every cell that is there."""
    for agent in AGENTS:
        for library in LIBRARIES:
            for path in sorted((HOME / "cells").glob(f"{library}-{agent}-*")):
                seed = int(path.stem.rpartition("-")[2])
                found: dict[int, list[float]] = {}
                if library == "xql":
                    for row in RunFolder.open(path).read_evaluations():
                        found.setdefault(row.step, []).append(row.episode_return)
                else:
                    with path.open(encoding="utf-8") as stream:
                        for line in csv.DictReader(stream):
                            found.setdefault(int(line["step"]), []).append(float(line["return"]))
                means = [float(np.mean(values)) for values in found.values()]
                yield Curve(library, agent, seed, list(found), means)


def tabulate() -> None:
    """Write table.md and curves.png from the cells that are there."""
    found = list(curves())
    lines = [
        f"# {ENV}, {STEPS:,} steps, beside sbx-rl",
        "",
        "`python -m xql.experiments.online_results --peer PYTHON`",
        "",
        f"Mean return of {LAST_EPISODES} episodes of the mean action at the last step.",
        "",
        "| agent | library | seeds | mean | each seed |",
        "|---|---|---|---|---|",
    ]
    for agent in AGENTS:
        for library in LIBRARIES:
            of = [one for one in found if (one.agent, one.library) == (agent, library)]
            if of:
                last = [one.returns[-1] for one in of]
                each = ", ".join(f"{value:.0f}" for value in last)
                lines.append(f"| {agent} | {library} | {len(of)} | {np.mean(last):.0f} | {each} |")
    (HOME / "table.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    draw(found)


def draw(found: list[Curve]) -> None:
    """A panel for each agent, a line for each seed."""
    from matplotlib.figure import Figure

    agents = [agent for agent in AGENTS if any(one.agent == agent for one in found)]
    if not agents:
        return
    figure = Figure(figsize=(4.8 * len(agents), 3.6), layout="constrained")
    panels = figure.subplots(1, len(agents), sharey=True, squeeze=False)[0]
    for axes, agent in zip(panels, agents, strict=True):
        for colour, library in zip(COLOURS, LIBRARIES, strict=False):
            of = [one for one in found if (one.agent, one.library) == (agent, library)]
            for number, one in enumerate(of):
                label = None if number else library
                axes.plot(one.steps, one.returns, color=colour, label=label, lw=1.5)
        axes.set(title=f"{agent.upper()}, {ENV}", xlabel="environment steps")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("return, one line a seed")
    figure.savefig(HOME / "curves.png", dpi=150)


def main(
    peer: Path | None = None,
    agents: tuple[Learner, ...] = AGENTS,
    libraries: tuple[Library, ...] = LIBRARIES,
    seeds: tuple[int, ...] = (0, 1),
) -> None:
    """Train the cells that results/ does not hold, then draw the table.

    Args:
        peer: the Python of a virtual environment with sbx-rl; without it only ours are trained.
        agents: which.
        libraries: which side to train; the table always shows both.
        seeds: which.
    """
    (HOME / "cells").mkdir(parents=True, exist_ok=True)
    for agent in agents:
        for library in libraries:
            for seed in seeds:
                if cell(library, agent, seed).exists():
                    print(f"{cell(library, agent, seed).stem}: there already")
                elif library == "xql":
                    train_ours(agent, seed)
                elif peer is not None:
                    train_peers(peer, agent, seed)
    tabulate()


if __name__ == "__main__":
    tyro.cli(main)

"""Whether our TD3 and SAC learn as those of a peer library do.

    python -m xql.experiments.online_results --peer PYTHON

HalfCheetah-v5, 100k steps, one update a step, 256-256 networks, batch 256, 5000 random steps first.
PYTHON is that of another virtual environment with `sbx-rl` in it (see `benchmarks.online`). Both
sides get the same sizes, rates and noise; what has no option keeps each side's default. A cell is
one agent's one seed; those that OUT/halfcheetah/cells holds are not trained again.
"""

import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from xql.errors import decoration
from xql.experiments.cells import Cell, kept, online_cell, train_cells
from xql.experiments.command import as_command
from xql.experiments.compact import reduce_colours
from xql.files import save_figure, write_texts
from xql.reports.style import (
    COLUMN,
    look,
    note,
    one_legend,
    panels,
    short_steps,
    styled,
)
from xql.runs.config import EvaluationPlan, OnlineLoop
from xql.runs.folder import RunFolder

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
train, evaluation = gymnasium.make(env), gymnasium.make(env)
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
    evaluation.reset(seed=10_000 + seed)
    for step in range(every, steps + 1, every):
        model.learn(every, reset_num_timesteps=step == every)
        count = last_episodes if step == steps else episodes
        returns, _ = evaluate_policy(model, evaluation, count, return_episode_rewards=True)
        for episode, value in enumerate(returns):
            writer.writerow([step, episode, f"{value:.2f}"])
"""


class Curve(NamedTuple):
    """One seed's mean return over its episodes at each evaluation."""

    library: Library
    agent: Learner
    seed: int
    steps: list[int]
    returns: list[float]


def ours(agent: Learner, seed: int) -> Cell:
    """One seed of ours."""
    return online_cell(
        f"xql-{agent}-{seed}",
        ENV,
        agent=agent,
        steps=STEPS,
        seeds=[seed],
        evaluation=EvaluationPlan(STEPS // EVERY, EPISODES, LAST_EPISODES),
        loop=OnlineLoop(warmup=WARMUP),
        quiet=True,
    )


def theirs(agent: Learner, seed: int, python: Path | None = None) -> Cell:
    """One seed of the peer's; it has no configuration of ours, only what `PEER` is given."""
    counts = {
        "steps": STEPS,
        "warmup": WARMUP,
        "every": EVERY,
        "episodes": EPISODES,
        "last_episodes": LAST_EPISODES,
    }
    given = {"agent": agent, "env": ENV, "seed": seed, "counts": counts}
    return Cell(f"sbx-rl-{agent}-{seed}", train_peer, {"python": python, **given}, {}, given)


def train_peer(
    python: Path, agent: str, env: str, seed: int, counts: dict[str, int], out: Path
) -> None:
    """Train one seed of the peer's, and write its returns to `out`/returns.csv."""
    out.mkdir()
    given = [agent.upper(), env, str(seed), str(out / "returns.csv"), *map(str, counts.values())]
    subprocess.run([str(python), "-c", PEER, *given], check=True)


def curves(home: Path) -> Iterator[Curve]:
    """Every cell that is there, whatever its seed."""
    for agent in AGENTS:
        for library in LIBRARIES:
            for seed in seeds_of(home, library, agent):
                cell = ours(agent, seed) if library == "xql" else theirs(agent, seed)
                folder = kept(home, cell)
                if folder is None:
                    continue
                found: dict[int, list[float]] = {}
                for step, value in episodes_of(folder, library):
                    found.setdefault(step, []).append(value)
                means = [float(np.mean(values)) for values in found.values()]
                yield Curve(library, agent, seed, list(found), means)


def seeds_of(home: Path, library: str, agent: str) -> list[int]:
    """The seeds that have a folder."""
    names = [path.name.split("-") for path in home.glob(f"{library}-{agent}-*-*")]
    return sorted({int(words[-2]) for words in names})


def episodes_of(folder: Path, library: str) -> Iterator[tuple[int, float]]:
    """The step and the return of every episode of a cell."""
    if library == "xql":
        for row in RunFolder.open(folder).read_evaluations():
            yield row.step, row.episode_return
    else:
        with (folder / "returns.csv").open(encoding="utf-8") as stream:
            for line in csv.DictReader(stream):
                yield int(line["step"]), float(line["return"])


def tabulate(home: Path) -> None:
    """Write table.md and curves.png from the cells that are there."""
    found = list(curves(home / "cells"))
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
    write_texts(home, {"table.md": "\n".join([*lines, ""])})
    with decoration("figure"):
        if found:
            draw(found, home / "curves.png")


@styled
def draw(found: list[Curve], path: Path) -> Path:
    """A panel for each agent, a curve for each seed."""
    agents = [agent for agent in AGENTS if any(one.agent == agent for one in found)]
    figure, axes = panels(len(agents), 2, COLUMN, 1.9, sharey=True)
    for panel, agent in zip(axes, agents, strict=True):
        for index, library in enumerate(LIBRARIES):
            for one in found:
                if (one.agent, one.library) == (agent, library):
                    panel.plot(one.steps, one.returns, **look(index), label=library)
        panel.set_title(agent.upper())
        short_steps(panel, "Environment steps")
        panel.grid(axis="y")
    axes[0].set_ylabel("Return")
    one_legend(figure, axes, title=ENV)
    note(figure, "A line for each seed.")
    save_figure(figure, path, vector=True)
    reduce_colours(path)
    return path


def main(
    peer: Path | None = None,
    agents: tuple[Learner, ...] = AGENTS,
    libraries: tuple[Library, ...] = LIBRARIES,
    seeds: tuple[int, ...] = (0, 1),
    out: Path = Path("results"),
) -> None:
    """Train the cells that are not kept yet, then write the table and its figure.

    Args:
        peer: the Python of a virtual environment with sbx-rl; without it only ours are trained.
        agents: which.
        libraries: which side to train; the table always shows both.
        seeds: which.
        out: the folder; the table goes to its folder halfcheetah.
    """
    wanted: dict[str, Any] = {"xql": ours}
    if peer is not None:
        wanted["sbx-rl"] = lambda agent, seed: theirs(agent, seed, peer)
    cells = [
        wanted[library](agent, seed)
        for agent in agents
        for library in libraries
        if library in wanted
        for seed in seeds
    ]
    home = out / "halfcheetah"
    train_cells(cells, home / "cells", say=print)
    tabulate(home)


if __name__ == "__main__":
    as_command(main, "online_results")

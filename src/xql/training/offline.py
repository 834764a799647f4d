"""Train a policy from logged data: one compiled population, evaluated as it goes.

The flow of a run: dataset → scaling → check → device → population → compiled chunks, and between
chunks metrics, evaluations and checkpoints into the run's folder.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xql.agents import OFFLINE, ONLINE, Agent, Spec, TrainState
from xql.data.check import require_sound
from xql.data.dataset import Dataset, DeviceData
from xql.data.scaling import Scaling, apply_scaling, fit_scaling
from xql.data.selection import select_episodes
from xql.data.sources import open_dataset
from xql.envs.kitchen import as_judged
from xql.errors import InputError, nearest
from xql.evaluation.scores import reference_score
from xql.presets import Settings, settings, suite
from xql.runs.folder import RunFolder, free_folder
from xql.runs.run import Run
from xql.training.divergence import RewardRange
from xql.training.evaluate import PopulationEvaluator
from xql.training.population import Member, initial_population, replicated, train_chunk
from xql.training.progress import Line
from xql.training.run_logger import (
    RunLogger,
    check_counts,
    choose_members,
    describe_members,
    milestones,
)
from xql.version import __version__

LOG_EVERY = 1000
"""Updates between two lines of metrics.jsonl."""


def train_offline(
    data: str | Path | Mapping[str, np.ndarray] | Dataset,
    *,
    agent: str = "xql",
    preset: str = "default",
    steps: int = 100_000,
    seeds: int | Sequence[int] = 1,
    beta: float | Sequence[float] | None = None,
    env: str | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    evaluations: int = 20,
    episodes: int = 10,
    last_episodes: int = 100,
    stop_at_success: bool | None = None,
    progress: bool = True,
) -> Run:
    """Learn a policy from logged data alone.

    Args:
        data: anything that `open_dataset` takes.
        agent: "xql", "iql", "cql", "td3-bc", "awac", "rebrac" or "bc".
        preset: named settings; see docs/presets.md.
        steps: updates per member.
        seeds: how many seeds (0, 1, ...), or which.
        beta: one temperature or several; the population is seeds × β. The preset's where None.
        env: the simulator to evaluate in, a Gymnasium id; where None, the one that the data names,
            and without one nothing is evaluated.
        out: the run's folder, which must not exist; where None, runs/DATA-AGENT-N.
        options: settings by name that override the preset's: the fields of the agent's
            configuration, `rewards` and `observations` for the scaling, and `episodes` for the
            choice of episodes.
        evaluations: how many times to evaluate on the way, evenly spaced, the last step included.
        episodes: episodes per member at each of these but the last.
        last_episodes: episodes per member at the last step, whose score is the run's result.
        stop_at_success: end an evaluation episode at its first success, as D4RL counts AntMaze;
            where None, exactly for AntMaze.
        progress: show a live line on standard error.

    Raises:
        InputError: anything among these that cannot be used, or data that is not sound. Nothing is
            written then.
    """
    check_counts(steps, evaluations, episodes, last_episodes)
    if out is not None:
        RunFolder.require_free(Path(out))
    _require_offline(agent)
    dataset = open_dataset(data)
    task = dataset.environment
    chosen = settings(agent, preset, dataset.name, options, needs_beta=beta is None, task=task)
    members = choose_members(agent, chosen.config, seeds, beta)
    findings = require_sound(dataset)
    whole = dataset
    dataset = select_episodes(dataset, chosen.episodes)
    scaling = fit_scaling(dataset, chosen.rewards, chosen.observations)
    spec = _spec(dataset)
    learner = OFFLINE[agent].make(chosen.config, steps)
    of_suite = suite(dataset.name, task)
    at_success = of_suite == "antmaze" if stop_at_success is None else stop_at_success
    if beta is not None:
        chosen.sources["beta"] = "given: each member's own, see members"
    about = _describe(dataset, agent, preset, steps, members, chosen, scaling, spec) | {
        "environment": env or _judged_in(dataset),
        "evaluation": {
            "evaluations": evaluations,
            "episodes": episodes,
            "last_episodes": last_episodes,
            "stop_at_success": at_success,
        },
    }
    if chosen.episodes != "all":
        about["data"]["whole"] = _extent(whole)
    judge = None if about["environment"] is None else PopulationEvaluator(about, learner.act)
    with contextlib.ExitStack() as stack:
        if judge is not None:
            stack.callback(judge.close)
        path = free_folder(f"{dataset.name}-{agent}") if out is None else Path(out)
        folder = RunFolder.create(path, about)
        stack.callback(folder.close)
        line = stack.enter_context(Line(steps, len(members), enabled=progress))
        line.say(
            f"{dataset.name}: {dataset.transitions:,} transitions in {len(dataset):,} episodes"
        )
        line.say(f"settings: preset {preset}" + (f", suite {of_suite}" if of_suite else ""))
        line.say(scaling.describe())
        if chosen.episodes != "all":
            line.say(f"episodes {chosen.episodes}: {len(dataset):,} of {len(whole):,} kept")
        for finding in findings:
            if finding.severity == "warning":
                line.warn_once(f"{finding.what} ({finding.where}); {finding.hint}")
        if judge is None:
            line.say("no environment: nothing is evaluated (give --env)")
        population = initial_population(learner, spec, members)
        device_data = apply_scaling(dataset, scaling).to_device(replicated(population))
        population = _loop(population, device_data, learner, judge, folder, line)
    return Run(folder, population)


def _judged_in(dataset: Dataset) -> str | None:
    """The simulator that the data names for judging policies."""
    named = dataset.evaluation_environment or dataset.environment
    return None if named is None else as_judged(named)


def _require_offline(agent: str) -> None:
    if agent in ONLINE:
        raise InputError(
            f"agent {agent} learns from a simulator, not from logged data",
            hint=f"use xql train online, or choose from {', '.join(OFFLINE)}",
        )
    if agent not in OFFLINE:
        raise InputError(f"unknown agent '{agent}'", hint=nearest(agent, OFFLINE))


def _loop(
    population: TrainState,
    data: DeviceData,
    learner: Agent,
    judge: PopulationEvaluator | None,
    folder: RunFolder,
    line: Line,
) -> TrainState:
    """Compiled chunks, and between them what the book does."""
    config = folder.config
    book, step = RunLogger(folder, line, judge, population), 0
    rewards = RewardRange(float(data.rewards.min()), float(data.rewards.max()))
    for target in milestones(config["steps"], config["evaluation"]["evaluations"]):
        while step < target:
            updates = min(LOG_EVERY, target - step)
            population, metrics = train_chunk(population, data, updates, agent=learner)
            step += updates
            values = {name: np.asarray(value) for name, value in metrics.items()}
            population = book.metrics(step, population, values, rewards)
        book.milestone(step, population)
    line.say(f"{step:,} updates × {len(config['members'])} in {book.seconds:.0f} s")
    return population


def _spec(dataset: Dataset) -> Spec:
    """Sizes and action bounds; where the data does not state its bounds, what its actions span."""
    low, high = dataset.action_low, dataset.action_high
    if low is None or high is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        taken = dataset.actions[dataset.starts]
        low, high = taken.min(0), taken.max(0)
        if (low >= -1).all() and (high <= 1).all():
            # Nearly every logged task acts in [-1, 1]; the data need not reach its corners.
            low, high = -np.ones_like(low), np.ones_like(high)
    # A dimension that never moves has no range to scale by.
    high = np.maximum(high, low + 1e-3)
    return Spec(dataset.observation_size, tuple(map(float, low)), tuple(map(float, high)))


def _extent(dataset: Dataset) -> dict[str, Any]:
    """How much data there is, for config.yaml."""
    return {
        "transitions": dataset.transitions,
        "episodes": dataset.episodes,
        "mean_return": float(dataset.returns.mean()),
    }


def _describe(
    dataset: Dataset,
    agent: str,
    preset: str,
    steps: int,
    members: Sequence[Member],
    chosen: Settings,
    scaling: Scaling,
    spec: Spec,
) -> dict[str, Any]:
    """What the run was told and decided, for config.yaml."""
    reference = reference_score(dataset.name, dataset.metadata)
    return {
        "xql": __version__,
        "agent": agent,
        "preset": preset,
        "steps": steps,
        "members": describe_members(members),
        "settings": asdict(chosen.config),
        "settings_sources": chosen.sources,
        "scaling": scaling.to_dict(),
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            **_extent(dataset),
            "selection": chosen.episodes,
            "observation_size": dataset.observation_size,
            "observation_keys": dataset.metadata.get("observation_keys"),
            "action_low": spec.action_low,
            "action_high": spec.action_high,
            "reference": None if reference is None else reference._asdict(),
        },
    }

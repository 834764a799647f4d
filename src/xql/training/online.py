"""Train a policy in a simulator: act, remember, learn; a whole population at once.

One step of the loop: every member acts in its own copies of the environment, the transitions go to
its ring buffer on the device, and one compiled program writes them there and makes the updates.
While it runs the simulators take the next step, with actions chosen just before it: the policy that
acts is behind the one that learns by one step's updates.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from xql.agents import ONLINE, Agent, Spec, TrainState, beta_of
from xql.data.scaling import Scaling
from xql.envs.make import make_environment
from xql.errors import InputError, nearest
from xql.evaluation.scores import reference_score
from xql.presets import settings, suite
from xql.runs.folder import RunFolder, free_folder
from xql.runs.run import Run
from xql.training.actors import Actors
from xql.training.evaluate import PopulationEvaluator
from xql.training.online_state import Learner, explore, fresh_learner, learn, remember
from xql.training.population import initial_population
from xql.training.progress import Line
from xql.training.replay import Replay, ring_capacity
from xql.training.run_logger import (
    RunLogger,
    check_counts,
    choose_members,
    describe_members,
    milestones,
)
from xql.version import __version__

LOG_EVERY = 1000
"""Environment steps of each member between two lines of metrics.jsonl."""


@dataclass(frozen=True)
class Loop:
    """How acting and learning take turns. Steps are those of one member's environments together."""

    environments: int = 1
    """Copies of the simulator for each member, stepped in turn."""
    warmup: int = 5_000
    """Steps of uniformly random actions before the first update."""
    update_to_data: float = 1.0
    """Updates for each step after the warm-up."""
    buffer: int = 1_000_000
    """The transitions that each member remembers."""


def loop_for(steps: int) -> Loop:
    """The usual loop; a run shorter than 100,000 steps warms up for a twentieth of them."""
    return Loop(warmup=max(1, min(Loop.warmup, steps // 20)))


Observe = Callable[[int, TrainState, Replay, int], None]
"""What `train_online` may be given to look at a run while it learns."""


def train_online(
    env: str,
    *,
    agent: str = "x-td3",
    preset: str = "default",
    steps: int = 1_000_000,
    seeds: int | Sequence[int] = 1,
    beta: float | Sequence[float] | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    loop: Loop | None = None,
    evaluations: int = 20,
    episodes: int = 10,
    last_episodes: int = 100,
    keep_replay: bool = False,
    keep_policies: bool = False,
    observe: Observe | None = None,
    progress: bool = True,
) -> Run:
    """Learn a policy in a simulator.

    Args:
        env: "dm_control/hopper-hop" and its like, or a Gymnasium id.
        agent: sac, td3, ddpg, x-sac or x-td3.
        preset: named settings; see docs/online-agents.md.
        steps: environment steps of each member, the warm-up included.
        seeds: how many seeds (0, 1, ...), or which.
        beta: one temperature or several; the population is seeds × β. The preset's where None.
        out: the run's folder, which must not exist; where None, runs/ENV-AGENT-N.
        options: settings by name that override the preset's.
        loop: how acting and learning take turns; `loop_for(steps)` where None.
        evaluations: how many times to evaluate on the way, evenly spaced, the last step included.
        episodes: episodes per member at each of these but the last.
        last_episodes: episodes per member at the last step, whose score is the run's result.
        keep_replay: write the buffers to replay.npz at the end.
        keep_policies: keep the policies of every evaluation; `load_policy(run, step=…)`.
        observe: called whenever metrics are logged, every 1000 steps and at each evaluation, with
            the step, the population, its replay buffers and how many rows of them are filled. The
            arrays are the run's own: look at them, or copy them, before it returns.
        progress: show a live line on standard error.

    Raises:
        InputError: anything among these that cannot be used. Nothing is written then.
    """
    check_counts(steps, evaluations, episodes, last_episodes)
    loop = loop_for(steps) if loop is None else loop
    _check_loop(loop, steps)
    if out is not None:
        RunFolder.require_free(Path(out))
    if agent not in ONLINE:
        raise InputError(f"agent '{agent}' does not learn online", hint=nearest(agent, ONLINE))
    chosen = settings(agent, preset, env, options, needs_beta=beta is None)
    members = choose_members(agent, chosen.config, seeds, beta)
    learner = ONLINE[agent].make(chosen.config, steps)
    if beta is not None:
        chosen.sources["beta"] = "given: each member's own, see members"
    with contextlib.ExitStack() as stack:
        actors = Actors(
            lambda: make_environment(env), [one.seed for one in members], loop.environments
        )
        stack.callback(actors.close)
        about = {
            "xql": __version__,
            "kind": "online",
            "agent": agent,
            "preset": preset,
            "steps": steps,
            "loop": asdict(loop),
            "keep_policies": keep_policies,
            "members": describe_members(members),
            "settings": _settings_of(chosen.config),
            "settings_sources": chosen.sources,
            **_describe_simulator(env, actors.spec),
            "evaluation": {
                "evaluations": evaluations,
                "episodes": episodes,
                "last_episodes": last_episodes,
                "stop_at_success": False,
            },
        }
        judge = PopulationEvaluator(about, learner.act)
        stack.callback(judge.close)
        path = free_folder(f"{env}-{agent}") if out is None else Path(out)
        folder = RunFolder.create(path, about)
        stack.callback(folder.close)
        line = stack.enter_context(
            Line(steps, len(members), unit="steps", skip=loop.warmup, enabled=progress)
        )
        of_suite = suite(env)
        line.say(f"settings: preset {preset}" + (f", suite {of_suite}" if of_suite else ""))
        population = initial_population(learner, actors.spec, members)
        book = RunLogger(folder, line, judge, population)
        population, replay = _run(population, actors, learner, loop, book, folder.config, observe)
        if keep_replay:
            _save_replay(path / "replay.npz", replay, steps, actors, len(members))
        if actors.breakdowns.any():
            each = ", ".join(map(str, actors.breakdowns))
            line.warn_once(f"steps at which a simulator gave no finite number, by member: {each}")
        line.say(f"{steps:,} steps × {len(members)} in {book.seconds:.0f} s")
    return Run(folder, population)


def _run(
    population: TrainState,
    actors: Actors,
    agent: Agent,
    loop: Loop,
    book: RunLogger,
    config: Mapping[str, Any],
    observe: Observe | None,
) -> tuple[TrainState, Replay]:
    """Act, remember, learn, until the steps are done."""
    steps, each = config["steps"], loop.environments
    capacity = ring_capacity(loop.buffer, steps, each)
    seeds = [one["seed"] for one in config["members"]]
    learner = fresh_learner(population, agent, actors.spec, capacity, seeds)
    updates = round(loop.update_to_data * each)
    targets = set(milestones(steps, config["evaluation"]["evaluations"], each))
    actions: np.ndarray | Array = actors.random_actions()
    step = logged = done = 0
    while step < steps:
        rows = actors.step(np.asarray(actions))
        step += each
        filled = min(step, capacity)
        if step < loop.warmup:
            actions = actors.random_actions()
        else:
            # Before the update is dispatched, so that the simulators need not wait for it.
            learner, actions = explore(learner, actors.observations, agent)
        learner = remember(learner, rows, (step - each) % capacity)
        if step > loop.warmup:
            learner = learn(learner, filled, updates, agent)
            done += updates
        if step - logged >= LOG_EVERY or step in targets:
            learner = _log(book, learner, actors, step, done)
            logged, done = step, 0
            if observe is not None:
                observe(step, learner.population, learner.replay, filled)
        if step in targets:
            book.milestone(step, learner.population)
    return learner.population, learner.replay


def _log(book: RunLogger, learner: Learner, actors: Actors, step: int, updates: int) -> Learner:
    """The mean of each metric over `updates` updates; the sums begin anew."""
    means = {name: np.asarray(total) / updates for name, total in learner.totals.items() if updates}
    told = actors.recent_returns()
    if actors.breakdowns.any():
        told["breakdowns"] = actors.breakdowns.astype(np.float64)
    return learner.restart(book.metrics(step, learner.population, means, actors.rewards, **told))


def _check_loop(loop: Loop, steps: int) -> None:
    """Refuse a loop that cannot be run as it is told.

    Raises:
        InputError: says which number, and what it can be.
    """
    each, updates = loop.environments, loop.update_to_data * loop.environments
    if each < 1:
        raise InputError(f"--environments {each} is too small", hint="give at least 1")
    if not (math.isfinite(updates) and updates > 0.5 and abs(updates - round(updates)) < 1e-6):
        raise InputError(
            f"--update-to-data {loop.update_to_data:g} with {each} environments is {updates:g} "
            "updates at a time",
            hint="their product must be a whole number, at least 1",
        )
    if steps % each:
        raise InputError(
            f"--steps {steps} cannot be shared by {each} environments", hint="give a multiple"
        )
    ring_capacity(loop.buffer, steps, each)
    if not 1 <= loop.warmup < steps:
        raise InputError(
            f"--warmup {loop.warmup} leaves nothing to learn in of --steps {steps}",
            hint="give fewer, at least 1, or more --steps",
        )


def _settings_of(config: Any) -> dict[str, Any]:
    """An agent's settings for config.yaml, without the β of one that has no use for it."""
    told = asdict(config)
    if beta_of(config) is None:
        told.pop("beta", None)
    return told


def _describe_simulator(env: str, spec: Spec) -> dict[str, Any]:
    """What config.yaml says where an offline run tells of its data."""
    reference = reference_score(env)
    zeros = np.zeros(spec.observation_size, np.float32)
    return {
        "environment": env,
        "scaling": Scaling("raw", "raw", 1.0, 0.0, zeros, zeros + 1).to_dict(),
        "data": {
            "name": env,
            "source": "online",
            "observation_size": spec.observation_size,
            "observation_keys": None,
            "action_low": spec.action_low,
            "action_high": spec.action_high,
            "reference": None if reference is None else reference._asdict(),
        },
    }


def _save_replay(path: Path, replay: Replay, steps: int, actors: Actors, members: int) -> None:
    """Everything that each member remembers, oldest first, and how long its episodes were.

    The lengths are of all the run's finished episodes, also those that the buffer has forgotten.
    """
    lengths = {
        f"episode_lengths_{member}": [one.length for one in actors.finished if one.member == member]
        for member in range(members)
    }
    oldest = steps % replay.capacity
    columns = {
        name: np.roll(np.asarray(column), -oldest, axis=1)
        for name, column in replay._asdict().items()
    }
    arrays: dict[str, Any] = {**columns, **lengths}
    np.savez(path, **arrays)

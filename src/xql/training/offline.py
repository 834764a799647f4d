"""Train a policy from logged data: one compiled population, evaluated as it goes.

    train_offline = plan_offline → execute_offline

Planning opens and checks the data, resolves the preset and writes nothing. Executing puts the data
on the device and runs compiled chunks of updates; between chunks it logs, evaluates and saves.
"""

import contextlib
import dataclasses
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xql.agents import (
    OFFLINE,
    ONLINE,
    Agent,
    Extraction,
    OfflineName,
    TrainState,
    Unchecked,
    require_actions,
)
from xql.agents.networks import Precision
from xql.data.actions import Box
from xql.data.check import Finding, require_sound
from xql.data.columns import TableColumns
from xql.data.dataset import Dataset
from xql.data.scaling import DEFAULT_DISCOUNT, apply_scaling, fit_scaling
from xql.data.selection import select_episodes, set_apart
from xql.data.sources import open_dataset
from xql.data.stored import on_disk
from xql.envs.given import NO_ENVIRONMENT, Given, Simulator, simulator
from xql.envs.kitchen import as_evaluated
from xql.errors import InputError, MissingExtra, nearest
from xql.evaluation.scores import reference_score
from xql.jax_config import forget_programs, standard_jax
from xql.presets import PresetName, resolve, suite
from xql.runs.checkpoints import CheckpointWriter
from xql.runs.config import (
    DEFAULT_CHECKPOINTS,
    DEFAULT_EVALUATION,
    CheckpointPlan,
    DataConfig,
    EvaluationPlan,
    Extent,
    Member,
    RunConfig,
    require_at_least,
    require_named,
    require_precision,
)
from xql.runs.folder import RunFolder
from xql.runs.run import Run
from xql.runs.sweep import (
    SUITED_SOURCE,
    SWEPT_SOURCE,
    Beta,
    choose_members,
    require_apart,
    require_hyperparameters,
    with_beta,
    with_policy,
)
from xql.training.diagnostics import diagnose, leave_report
from xql.training.divergence import RewardRange
from xql.training.evaluate import PopulationEvaluator
from xql.training.interrupt import interruption
from xql.training.listeners import Callback, Listeners, check_callbacks
from xql.training.loggers import Chosen, Loggers, check_loggers
from xql.training.memory import give_back, require_memory
from xql.training.population import (
    initial_population,
    mesh_for,
    place,
    train_chunk,
    zero_totals,
)
from xql.training.progress import ProgressBar
from xql.training.recipe import on_devices, require_one_discount, stream_of
from xql.training.run_logger import RunLogger, saying_what_is_kept
from xql.training.saved import Saved, start_or_go_on
from xql.training.saving import Moment
from xql.training.streaming import BUFFER, DataSource, all_of

LOG_EVERY = 1000
"""Updates between two lines of metrics.jsonl."""

LARGE = 1 << 28
"""Bytes of observations that are not to be in memory twice."""

LOOKED_AT = 250_000
"""Transitions, evenly spread over data of which more are not to be in memory twice: the networks
are looked at on them, or on a quarter of the data if that is less, and where the data is streamed,
they are checked, and observations are scaled by them."""

FIRST_CHUNK = 64
"""Updates of the first call, before it is known how long one takes."""


class OfflinePlan(NamedTuple):
    """An offline run, decided but not begun."""

    config: RunConfig
    dataset: Dataset
    """The episodes to learn from, with raw rewards and observations."""
    notes: list[str]
    """What was decided, a line each."""
    warnings: list[Finding]
    """What may be wrong with the data."""


@standard_jax()
def train_offline(
    data: str | Path | Mapping[str, np.ndarray] | Dataset,
    *,
    agent: OfflineName | Unchecked = "xql",
    preset: PresetName | Unchecked = "default",
    steps: int = 100_000,
    seeds: int | Sequence[int] = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    beta: Beta | None = None,
    policy: Extraction | Unchecked | None = None,
    hold_out: int | float = 0,
    env: Given | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    precision: Precision | Unchecked = "float32",
    evaluations: int = 20,
    episodes: int = 10,
    last_episodes: int = 100,
    stop_at_success: bool | None = None,
    stream: bool = False,
    checkpoints: CheckpointPlan = DEFAULT_CHECKPOINTS,
    trust: Sequence[str] = (),
    loggers: Chosen = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    report: bool = True,
) -> Run:
    """Learn a policy from logged data alone.

    Args:
        data: anything that `open_dataset` takes.
        agent: "xql", "iql", "cql", "td3-bc", "awac", "rebrac" or "bc".
        preset: named settings; see docs/presets.md.
        steps: updates per member.
        seeds: how many seeds (0, 1, ...), or which.
        sweep: values by hyperparameter, such as {"beta": [0.5, 2], "discount": [0.99, 0.995]}; the
            population is every combination × seeds, trained as one compiled program.
        beta: one temperature or several, short for sweep={"beta": ...}, and the preset "default" of
            XQL is "fixed" then; or "auto", one that tunes itself, short for
            options={"beta": "auto"}, which "default" has anyway.
        policy: how XQL extracts its policy: "awr", "ddpg_bc", "best_of_n" or "flow"; short for
            options={"policy": ...}.
        hold_out: a share of the episodes, such as 0.1, or a number of them, that is never learned
            from, so that `xql ope` can evaluate on it. By a hash of their numbers: the same
            episodes of the same data in every run.
        env: the environment to evaluate in: a Gymnasium id or "module:id", an instance, or a
            factory, which makes a new one with every call. Where None, the one that the data names,
            and without one nothing is evaluated; "none" trains without evaluation.
        env_kwargs: arguments of an id or a factory.
        episode_limit: steps after which an evaluation episode is truncated, in place of the
            environment's own limit.
        out: the run's folder, which must not exist; where None, runs/DATA-AGENT-N.
        options: settings by name that override the preset's: the fields of the agent's
            configuration (`xql.options` has them checked), `rewards` and `observations` for the
            scaling, and `subset` for the episodes to learn from.
        precision: "bf16" rounds the factors of the updates' matrix products to bfloat16, and leaves
            all else float32 (docs/performance.md); evaluation and exports do not round.
        evaluations: how many times to evaluate, evenly spaced, the last step included.
        episodes: evaluation episodes per member at each of these but the last.
        last_episodes: evaluation episodes per member at the last step, whose score is the result.
        stop_at_success: end an evaluation episode at its first success, as D4RL counts AntMaze;
            where None, exactly for AntMaze.
        stream: keep the data in files instead of in memory, and draw from shuffled buffers of it
            (`xql.training.streaming`): for data that does not fit.
        checkpoints: when the whole state is saved besides before each evaluation, and what stays.
        trust: packages and ids of environments that the data may name besides those of
            `xql.envs.trusted.PACKAGES`; a package is imported.
        loggers: where numbers go besides the run's folder: "tensorboard", "wandb", "mlflow", or
            objects with the methods of `xql.training.loggers.Logger`. TensorBoard where None, if
            installed. A fault of one never stops the run.
        callbacks: functions that are called with an `xql.training.listeners.Event` at each log and
            each evaluation. What one raises ends the run, whose state is saved.
        progress: show a progress bar on standard error.
        report: write report.html at the end, and diagnostics.npz for it.

    Returns:
        The run. Where every member diverged it ends early: its folder's `read_frozen()` has all
        members, and their last good policies are evaluated as at the last step.

    Raises:
        InputError: anything among these that cannot be used, or data that is not sound. Nothing is
            written then.
        EnvironmentFault: the environment failed in an evaluation; the run is kept.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved, and `resume` goes on.
    """
    check_loggers(loggers)
    check_callbacks(callbacks)
    if out is not None:
        RunFolder.require_free(Path(out))
    sweep, options = with_beta(sweep, options, beta, agent)
    plan = plan_offline(
        data,
        agent=agent,
        preset=preset,
        steps=steps,
        seeds=seeds,
        sweep=sweep,
        hold_out=hold_out,
        env=env,
        env_kwargs=env_kwargs,
        episode_limit=episode_limit,
        options=with_policy(options, policy, agent),
        precision=precision,
        evaluation=EvaluationPlan(evaluations, episodes, last_episodes),
        stop_at_success=stop_at_success,
        stream=stream,
        checkpoints=checkpoints,
        trust=trust,
    )
    return execute_offline(
        plan,
        out,
        own=not isinstance(data, Dataset),
        loggers=loggers,
        callbacks=callbacks,
        progress=progress,
        report=report,
    )


def plan_offline(
    data: str | Path | Mapping[str, np.ndarray] | Dataset,
    *,
    agent: str = "xql",
    preset: str = "default",
    steps: int = 100_000,
    seeds: int | Sequence[int] = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    hold_out: int | float = 0,
    env: Given | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    precision: str = "float32",
    evaluation: EvaluationPlan = DEFAULT_EVALUATION,
    stop_at_success: bool | None = None,
    stream: bool = False,
    checkpoints: CheckpointPlan = DEFAULT_CHECKPOINTS,
    trust: Sequence[str] = (),
) -> OfflinePlan:
    """Decide everything about an offline run; write nothing.

    Args:
        data, agent, preset, steps, seeds, sweep, hold_out, env, options: as `train_offline` takes
            them.
        env_kwargs, episode_limit, precision, stop_at_success, stream, checkpoints, trust: likewise.
        evaluation: when to evaluate; `stop_at_success` has the last word on its own field.

    Raises:
        InputError: as `train_offline` does.
    """
    require_at_least("steps", steps, 1)
    evaluation.check()
    checkpoints.check()
    _require_offline(agent)
    sweep = dict(sweep or {})
    require_hyperparameters(sweep, options, inspect.signature(train_offline).parameters)
    without = isinstance(env, str) and env == NO_ENVIRONMENT
    require_named(env_kwargs, None if without else env)
    named = None if without or env is None else simulator(env, env_kwargs, episode_limit)
    whole = open_dataset(data, in_memory=not stream)
    if named is None and not without:
        played = _by_data(whole, episode_limit)
    else:
        played = None if named is None else named.record
    task = whole.environment
    chosen = resolve(agent, preset, whole.name, options, swept=sweep, task=task)
    algorithm = OFFLINE[agent]
    suited = {
        name: value
        for name, value in algorithm.suited_to(chosen.config, whole.action_spec).items()
        if name not in chosen.sources and name not in sweep
    }
    if suited:
        sources = chosen.sources | dict.fromkeys(suited, SUITED_SOURCE)
        suitable = dataclasses.replace(chosen.config, **suited)
        chosen = chosen._replace(config=suitable, sources=sources)
    made = algorithm.make(chosen.config, steps)
    require_actions(made, agent, whole.action_spec, whole.name, OFFLINE)
    members = choose_members(made, agent, seeds, sweep)
    require_apart(sweep, options)
    require_one_discount(made, members)
    # From files, only a part is looked at column by column.
    checked = whole.part(LOOKED_AT) if stream else whole
    findings = require_sound(checked, part=checked is not whole)
    with on_disk(stream):
        kept, held = set_apart(whole, hold_out)
        dataset = select_episodes(kept, chosen.subset)
    scaling = fit_scaling(
        dataset,
        chosen.rewards,
        chosen.observations,
        discount=_discount(chosen.config, members),
        part=dataset.part(LOOKED_AT) if stream else None,
    )
    actions = dataset.action_spec
    of_suite = suite(whole.name, task)
    stop = of_suite == "antmaze" if stop_at_success is None else stop_at_success
    config = RunConfig(
        agent=agent,
        preset=chosen.preset,
        steps=steps,
        members=members,
        hyperparameters=chosen.config,
        sources=chosen.sources | dict.fromkeys(sweep, SWEPT_SOURCE),
        scaling=scaling,
        data=DataConfig(
            name=whole.name,
            source=whole.source,
            observation_size=whole.observation_size,
            observation_keys=_keys(whole),
            actions=actions,
            reference=reference_score(whole.name, whole.metadata),
            extent=_extent(dataset),
            subset=chosen.subset,
            whole=None if dataset is whole else _extent(whole),
            fingerprint=dataset.fingerprint(),
            columns=_columns(whole),
            unit_actions=isinstance(actions, Box) and not actions.is_unit,
            hold_out=float(hold_out),
            held_out=None if held is None else held.fingerprint(),
            streamed=BUFFER if stream else None,
        ),
        environment=played,
        trust=tuple(trust) if named is None else (*trust, named.record),
        given=None if named is None or named.factory is None else named,
        evaluation=dataclasses.replace(evaluation, stop_at_success=stop),
        checkpoints=checkpoints,
        precision=require_precision(precision),
    )
    notes = [
        f"{dataset.name}: {dataset.transitions:,} transitions in {len(dataset):,} episodes",
        config.settings(of_suite),
        scaling.describe(),
    ]
    if part := config.data.part:
        notes.append(f"{part}: {len(dataset):,} of {len(whole):,} episodes kept")
    if stream:
        notes.append(
            f"streamed: updates draw from shuffled buffers of "
            f"{min(BUFFER, dataset.transitions):,} transitions"
        )
    if without:
        notes.append("nothing is evaluated, as was asked for")
    elif config.environment is None:
        notes.append("no environment is named: nothing is evaluated")
    warnings = [one for one in findings if one.severity == "warning"]
    return OfflinePlan(config, dataset, notes, warnings)


@standard_jax()
def execute_offline(
    plan: OfflinePlan,
    out: str | Path | RunFolder | None = None,
    *,
    saved: Saved | None = None,
    own: bool = False,
    loggers: Chosen = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    report: bool = True,
) -> Run:
    """Train what was planned.

    Args:
        plan: from `plan_offline`.
        out: the run's folder, which must not exist; where None, runs/DATA-AGENT-N. Or one that was
            begun, is held (`runs.lock`) and has no checkpoint.
        saved: the run to go on with instead, whose folder is held (`runs.lock`).
        own: whether nobody else has the plan's data, so that it may be scaled where it is.
        loggers, callbacks, progress, report: as `train_offline` takes them.

    Raises:
        InputError: the environment or the folder cannot be used. Nothing is written then.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved.
    """
    config, dataset = plan.config, plan.dataset
    require_memory(config)
    agent = config.make_agent()
    forget_programs()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(interruption())
        evaluator = None
        if config.environment is not None:
            new = saved is None and not isinstance(out, RunFolder)
            by_data = new and config.environment not in config.trust
            with _or_none() if by_data else contextlib.nullcontext():
                evaluator = PopulationEvaluator(config, agent.actor)
            stack.callback(evaluator.close)
        folder = start_or_go_on(stack, out, f"{dataset.name}-{config.agent}", config, saved)
        bar = stack.enter_context(ProgressBar(config.steps, len(config.members), enabled=progress))
        stack.enter_context(saying_what_is_kept(folder, bar))
        for note in [*plan.notes, *(evaluator.notes if evaluator else [])]:
            bar.say(note)
        for finding in plan.warnings:
            bar.warn_once(f"{finding.what} ({finding.where}); {finding.hint}")
        bar.compiling()
        if saved is None:
            population = initial_population(agent, config.spec, config.members)
        else:
            population = place(saved.population, mesh_for(len(config.members)))
        give_back()
        large = dataset.observations.nbytes > LARGE
        shown = dataset
        if report and large:  # copied before the data is scaled where it is
            shown = dataset.part(min(LOOKED_AT, dataset.transitions // 4))
        if config.data.streamed is not None:
            stream = stream_of(dataset, config, population, agent)
            stack.callback(stream.close)
            source: DataSource = stream
            rewards = RewardRange(*stream.rewards)
        else:
            scaled = apply_scaling(dataset, config.scaling, in_place=own and large)
            data = on_devices(scaled, config, population, agent)
            del scaled
            rewards = RewardRange(float(data.rewards.min()), float(data.rewards.max()))
            source = all_of(data)
        writer = stack.enter_context(CheckpointWriter())
        heard = stack.enter_context(Loggers(loggers, folder, bar))
        logger = RunLogger(
            folder,
            bar,
            evaluator,
            agent,
            population,
            writer=writer,
            source=source,
            saved=saved,
            interruption=stop,
            listeners=Listeners(folder.path, config.members, heard, callbacks),
        )
        stack.callback(logger.close)
        with stop.held():
            population = _loop(population, source, rewards, agent, logger, config, saved)
        if not logger.stopped:
            bar.say(f"{config.steps:,} updates × {len(config.members)} in {logger.seconds:.0f} s")
        bar.say(logger.verdict())
        run = Run(folder, population)
        if report:
            look = partial(diagnose, config, population, shown, config.steps, whole=dataset)
            leave_report(run, look, bar.say)
    return run


class Pace:
    """How many updates to make at a time, so that one call of the compiled chunk takes a second.

    A longer one would keep an interruption waiting; a shorter one would keep the device waiting.
    """

    def __init__(self) -> None:
        self.updates = FIRST_CHUNK

    def took(self, updates: int, seconds: float) -> None:
        """Learn from a call: the first holds the compilation, and says little."""
        fitting = int(updates / max(seconds, 1e-3))
        self.updates = max(1, min(fitting, 4 * self.updates, LOG_EVERY))


def _loop(
    population: TrainState,
    source: DataSource,
    rewards: RewardRange,
    agent: Agent,
    logger: RunLogger,
    config: RunConfig,
    saved: Saved | None,
) -> TrainState:
    """Compiled chunks of updates, and between them what the logger does."""
    step = logged = 0
    data, _ = source(step if saved is None else saved.step)
    pace, totals, compiling = Pace(), zero_totals(population, data, agent), True
    if saved is not None:
        step, logged = saved.step, saved.logged
        totals = saved.totals(totals)
        logger.catch_up(Moment(step, population, totals, logged))
    targets = config.evaluation_steps
    while step < config.steps:
        target = next(one for one in targets if one > step)
        log_at = min(logged + LOG_EVERY, target)
        data, left = source(step)
        updates = min(pace.updates, log_at - step, logger.next_save(step) - step, left)
        began = time.perf_counter()
        population, totals = train_chunk(population, totals, data, updates, agent=agent)
        population.step.block_until_ready()
        pace.took(updates, time.perf_counter() - began)
        if compiling:
            give_back()
            compiling = False
        step += updates
        if step == log_at:
            count = np.float32(step - logged)
            means = {name: np.asarray(total) / count for name, total in totals.items()}
            population = logger.metrics(step, population, means, rewards)
            logged, totals = step, jax.tree.map(jnp.zeros_like, totals)
        now = Moment(step, population, totals, logged)
        if logger.stopped:
            logger.end(now)
            break
        if step == target:
            logger.milestone(now)
        logger.between(now)
    return population


def _require_offline(agent: str) -> None:
    if agent in ONLINE:
        raise InputError(
            f"agent {agent} learns from an environment, not from logged data",
            hint=f"use xql train online, or choose from {', '.join(OFFLINE)}",
        )
    if agent not in OFFLINE:
        raise InputError(f"unknown agent '{agent}'", hint=nearest(agent, OFFLINE))


def _discount(config: Any, members: Sequence[Member]) -> float:
    """Of the returns that the data's rewards are scaled by: the members share one scaling.

    The largest where they differ, whose returns are the largest.
    """
    own = getattr(config, "discount", DEFAULT_DISCOUNT)
    return max(one.changes.get("discount", own) for one in members)


def _by_data(dataset: Dataset, episode_limit: int | None) -> str | None:
    """The environment that the data names for evaluations."""
    named = dataset.evaluation_environment or dataset.environment
    return None if named is None else Simulator(as_evaluated(named)).limited(episode_limit).record


@contextlib.contextmanager
def _or_none() -> Iterator[None]:
    """Say of an environment that cannot be used that one can train without it."""
    without = f"or train without evaluation: `env='{NO_ENVIRONMENT}'`"
    try:
        yield
    except InputError as error:
        hint = f"{error.hint}, {without}" if error.hint else without
        raise InputError(error.what, where=error.where, hint=hint) from error.__cause__
    except MissingExtra as missing:
        raise MissingExtra(f"{missing}; {without}") from None


def _keys(dataset: Dataset) -> tuple[str, ...] | None:
    keys = dataset.metadata.get("observation_keys")
    return tuple(keys) if keys else None


def _columns(dataset: Dataset) -> TableColumns | None:
    found = dataset.metadata.get("columns")
    return None if found is None else TableColumns.from_dict(found, dataset.name)


def _extent(dataset: Dataset) -> Extent:
    return Extent(dataset.transitions, dataset.episodes, float(dataset.returns.mean()))

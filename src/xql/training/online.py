"""Train a policy in an environment: act, store, learn; a whole population at once.

    train_online = plan_online → execute_online

One step of the loop: every member acts in its own copies of the environment, the transitions go to
its replay buffer on the device, and one compiled program makes the updates. While it runs the
environments take the next step, with actions chosen just before it: the policy that acts is behind
the one that learns by one step's updates.
"""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from xql.agents import (
    ONLINE,
    Agent,
    EnvironmentSpec,
    OnlineName,
    TrainState,
    Unchecked,
    require_actions,
)
from xql.agents.networks import Precision
from xql.data.dataset import Dataset
from xql.data.scaling import Scaling
from xql.envs.given import Given, Simulator, require_simulator, simulator
from xql.envs.make import make_environment
from xql.errors import EnvironmentFault, InputError, nearest
from xql.evaluation.scores import reference_score
from xql.files import whole_file
from xql.jax_config import forget_programs, standard_jax
from xql.presets import DATA_OPTIONS, PresetName, preset_warmup, resolve, suite
from xql.runs.checkpoints import CheckpointWriter
from xql.runs.config import (
    DEFAULT_CHECKPOINTS,
    DEFAULT_EVALUATION,
    CheckpointPlan,
    DataConfig,
    EvaluationPlan,
    OnlineLoop,
    RunConfig,
    require_at_least,
    require_in_range,
    require_precision,
)
from xql.runs.folder import RunFolder
from xql.runs.run import Run
from xql.runs.sweep import (
    SWEPT_SOURCE,
    Beta,
    choose_members,
    require_apart,
    require_hyperparameters,
    with_beta,
)
from xql.training.actors import Actors, environment_spec
from xql.training.diagnostics import Diagnostics, diagnose, leave_report
from xql.training.evaluate import PopulationEvaluator
from xql.training.interrupt import interruption
from xql.training.listeners import Callback, Listeners, check_callbacks
from xql.training.loggers import Chosen, Loggers, check_loggers
from xql.training.memory import require_memory
from xql.training.online_state import (
    OnlineState,
    add,
    explore,
    initial_online_state,
    learn,
    online_arrays,
    restored_online_state,
)
from xql.training.population import initial_population, mesh_for, place
from xql.training.progress import ProgressBar
from xql.training.recipe import SCRATCH, Recipe, Start, recipe_for, training_environment
from xql.training.replay import Replay, ring_capacity
from xql.training.replay_diagnostics import diagnose_replay, recent_of
from xql.training.run_logger import RunLogger, saying_what_is_kept
from xql.training.saved import Saved, start_or_go_on
from xql.training.saving import Moment

MOST_UPDATES = 100_000
"""Between two steps of the environments."""

LOG_EVERY = 1000
"""Environment steps of each member between two lines of metrics.jsonl."""


def loop_for(steps: int, warmup: int | None = None) -> OnlineLoop:
    """The usual loop of a run.

    Args:
        steps: its environment steps.
        warmup: a preset's, at most half of the run; where None, 5,000, at most a twentieth of it.
    """
    wanted, most = (OnlineLoop.warmup, steps // 20) if warmup is None else (warmup, steps // 2)
    return OnlineLoop(warmup=max(1, min(wanted, most)))


Observe = Callable[[int, TrainState, Replay, int], None]
"""What `train_online` may be given to look at a run while it learns."""


@standard_jax()
def train_online(
    env: Given,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int | None = None,
    agent: OnlineName | Unchecked = "x-td3",
    preset: PresetName | Unchecked = "default",
    steps: int = 1_000_000,
    seeds: int | Sequence[int] = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    beta: Beta | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    precision: Precision | Unchecked = "float32",
    loop: OnlineLoop | None = None,
    evaluations: int = 20,
    episodes: int = 10,
    last_episodes: int = 100,
    keep_replay: bool = False,
    keep_policies: bool = False,
    checkpoints: CheckpointPlan = DEFAULT_CHECKPOINTS,
    observe: Observe | None = None,
    loggers: Chosen = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    report: bool = True,
) -> Run:
    """Learn a policy in an environment.

    Args:
        env: "dm_control/hopper-hop" and its like, a Gymnasium id or "module:id"; an instance that
            can be made again from its `spec`; or a factory, which makes a new one with every call.
        env_kwargs: arguments of an id or a factory.
        episode_limit: steps after which an episode is truncated, in place of the environment's own
            limit.
        agent: sac, td3, ddpg, x-sac or x-td3.
        preset: named settings; see docs/online-agents.md.
        steps: environment steps of each member, the warm-up included.
        seeds: how many seeds (0, 1, ...), or which.
        sweep: values by hyperparameter, such as {"beta": [2, 5]}; the population is every
            combination × seeds.
        beta: one temperature or several, short for sweep={"beta": ...}; or "auto", one that tunes
            itself, short for options={"beta": "auto"}.
        out: the run's folder, which must not exist; where None, runs/ENV-AGENT-N.
        options: settings by name that override the preset's; `xql.options` has them checked.
        precision: "bf16" rounds the factors of the updates' matrix products to bfloat16, and leaves
            all else float32 (docs/performance.md); evaluation and exports do not round.
        loop: how acting and learning take turns; `loop_for(steps)` with the preset's warm-up where
            None.
        evaluations: how many times to evaluate, evenly spaced, the last step included.
        episodes: evaluation episodes per member at each of these but the last.
        last_episodes: evaluation episodes per member at the last step, whose score is the result.
        keep_replay: write the replay buffers to replay.npz at the end; not where every member
            diverged.
        keep_policies: keep the policies of every evaluation; `load_policy(run, step=…)`.
        checkpoints: when the whole state is saved besides before each evaluation, and what stays.
        observe: called whenever metrics are logged, every 1000 steps and at each evaluation, with
            the step, the population, its replay buffers and how many rows of them are filled. The
            arrays are the run's own: look at them, or copy them, before it returns.
        loggers: where numbers go besides the run's folder: "tensorboard", "wandb", "mlflow", or
            objects with the methods of `xql.training.loggers.Logger`. TensorBoard where None, if
            installed. A fault of one never stops the run.
        callbacks: functions that are called with an `xql.training.listeners.Event` at each log and
            each evaluation. What one raises ends the run, whose state is saved.
        progress: show a progress bar on standard error.
        report: write report.html at the end.

    Raises:
        InputError: anything among these that cannot be used. Nothing is written then.
        EnvironmentFault: the environment failed; the run is kept.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved, and `resume` goes on.
    """
    check_loggers(loggers)
    check_callbacks(callbacks)
    if out is not None:
        RunFolder.require_free(Path(out))
    sweep, options = with_beta(sweep, options, beta, agent)
    config = plan_online(
        env,
        env_kwargs=env_kwargs,
        episode_limit=episode_limit,
        agent=agent,
        preset=preset,
        steps=steps,
        seeds=seeds,
        sweep=sweep,
        options=options,
        precision=precision,
        loop=loop,
        evaluation=EvaluationPlan(evaluations, episodes, last_episodes),
        keep_policies=keep_policies,
        keep_replay=keep_replay,
        checkpoints=checkpoints,
    )
    return execute_online(
        config,
        out,
        observe=observe,
        loggers=loggers,
        callbacks=callbacks,
        progress=progress,
        report=report,
    )


def plan_online(
    env: Given,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int | None = None,
    agent: str = "x-td3",
    preset: str = "default",
    steps: int = 1_000_000,
    seeds: int | Sequence[int] = 1,
    sweep: Mapping[str, Sequence[float]] | None = None,
    options: Mapping[str, Any] | None = None,
    precision: str = "float32",
    loop: OnlineLoop | None = None,
    evaluation: EvaluationPlan = DEFAULT_EVALUATION,
    keep_policies: bool = False,
    keep_replay: bool = False,
    checkpoints: CheckpointPlan = DEFAULT_CHECKPOINTS,
) -> RunConfig:
    """Decide everything about an online run; write nothing.

    Args:
        env, agent, preset, steps, seeds, sweep, options, loop: as `train_online` takes them.
        env_kwargs, episode_limit, precision, keep_policies, keep_replay, checkpoints: likewise.
        evaluation: when to evaluate.

    Raises:
        InputError: as `train_online` does.
    """
    require_simulator(env)
    given = simulator(env, env_kwargs, episode_limit)
    given.require_copies()
    name = given.name
    require_at_least("steps", steps, 1)
    evaluation.check()
    checkpoints.check()
    loop = loop_for(steps, preset_warmup(agent, preset, name)) if loop is None else loop
    check_loop(loop, steps)
    if agent not in ONLINE:
        raise InputError(f"agent '{agent}' does not learn online", hint=nearest(agent, ONLINE))
    if unused := [name for name in DATA_OPTIONS if name in (options or {})]:
        raise InputError(
            f"{unused[0]} is an option of logged data, and an online run has none",
            hint="leave it out of `options`",
        )
    sweep = dict(sweep or {})
    require_hyperparameters(sweep, options, inspect.signature(train_online).parameters)
    chosen = resolve(agent, preset, name, options, swept=sweep)
    made = ONLINE[agent].make(chosen.config, steps)
    members = choose_members(made, agent, seeds, sweep)
    require_apart(sweep, options)
    spec = _spec_of(given)
    require_actions(made, agent, spec.actions, name, ONLINE)
    zeros = np.zeros(spec.observation_size, np.float32)
    return RunConfig(
        agent=agent,
        preset=preset,
        steps=steps,
        members=members,
        hyperparameters=chosen.config,
        sources=chosen.sources | dict.fromkeys(sweep, SWEPT_SOURCE),
        scaling=Scaling("raw", "raw", 1.0, 0.0, zeros, zeros + 1),
        data=DataConfig(
            name=name,
            source="online",
            observation_size=spec.observation_size,
            actions=spec.actions,
            reference=reference_score(name),
        ),
        environment=given.record,
        trust=(given.record,),
        given=None if given.factory is None else given,
        evaluation=replace(evaluation, stop_at_success=False),
        checkpoints=checkpoints,
        loop=loop,
        keep_policies=keep_policies,
        keep_replay=keep_replay,
        precision=require_precision(precision),
    )


@standard_jax()
def execute_online(
    config: RunConfig,
    out: str | Path | RunFolder | None = None,
    *,
    start: Start | None = None,
    saved: Saved | None = None,
    observe: Observe | None = None,
    loggers: Chosen = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    report: bool = True,
) -> Run:
    """Train what was planned.

    Args:
        config: from `plan_online` or `plan_finetune`.
        out: the run's folder, which must not exist; where None, runs/ENV-AGENT-N. Or one that was
            begun, is held (`runs.lock`) and has no checkpoint.
        start: what a fine-tuned run begins with, or goes on with; its population's memory is given
            up to the run.
        saved: the run to go on with instead, whose folder is held (`runs.lock`).
        observe, loggers, callbacks, progress, report: as `train_online` takes them.

    Raises:
        InputError: the environment or the folder cannot be used. Nothing is written then.
        EnvironmentFault: the environment failed; the state is saved.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved.
    """
    assert config.loop is not None and config.environment is not None, "an online run has both"
    require_memory(config)
    name, loop, agent = config.data.name, config.loop, config.make_agent()
    makes = config.require_environment(name)
    forget_programs()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(interruption())
        actors = Actors(
            lambda: training_environment(config, makes),
            [one.seed for one in config.members],
            loop.environments,
        )
        stack.callback(actors.close)
        evaluator = PopulationEvaluator(config, agent.actor)
        stack.callback(evaluator.close)
        folder = start_or_go_on(stack, out, _name(config), config, saved)
        bar = stack.enter_context(
            ProgressBar(
                config.steps,
                len(config.members),
                unit="steps",
                skip=loop.warmup,
                enabled=progress,
            )
        )
        stack.enter_context(saying_what_is_kept(folder, bar))
        about = [config.settings(suite(name))] if start is None else start.notes
        for note in [*about, *evaluator.notes]:
            bar.say(note)
        recipe = SCRATCH
        log = None if start is None else start.dataset
        if start is not None:
            population = place(start.population, mesh_for(len(config.members)))
            recipe = recipe_for(config, start, population, agent)
        elif saved is not None:
            population = place(saved.population, mesh_for(len(config.members)))
        else:
            population = initial_population(agent, config.spec, config.members)
        bar.compiling()
        writer = stack.enter_context(CheckpointWriter())
        heard = stack.enter_context(Loggers(loggers, folder, bar))
        logger = RunLogger(
            folder,
            bar,
            evaluator,
            agent,
            population,
            writer=writer,
            saved=saved,
            interruption=stop,
            listeners=Listeners(folder.path, config.members, heard, callbacks),
        )
        stack.callback(logger.close)
        if config.steps == 0:
            logger.milestone(Moment(0, population, {}, 0))
            run = Run(folder, population)
            if report:
                leave_report(run, _look(run, log, None), bar.say)
            return run
        with stop.held():
            population, replay = _loop(
                population, actors, agent, logger, config, recipe, saved, observe
            )
        if config.keep_replay and logger.stopped:
            bar.warn_once("no replay buffer is kept, since every member diverged")
        elif config.keep_replay:
            _save_replay(folder.replay, replay, config.steps, actors)
        if actors.breakdowns.any():
            each = ", ".join(map(str, actors.breakdowns))
            bar.warn_once(f"steps at which a simulator gave no finite number, by member: {each}")
        if not logger.stopped:
            bar.say(f"{config.steps:,} steps × {len(config.members)} in {logger.seconds:.0f} s")
        bar.say(logger.verdict())
        run = Run(folder, population)
        if report:
            leave_report(run, _look(run, log, None if logger.stopped else replay), bar.say)
    return run


def _look(run: Run, log: Dataset | None, replay: Replay | None) -> Callable[[], Diagnostics] | None:
    """What makes the diagnostics: of the log, or else of the replay buffer, where there is one."""
    config, population = run.config, run.population
    if log is not None:
        return partial(diagnose, config, population, log, config.steps)
    if replay is None:
        return None
    recent = recent_of(config, replay, oldest_first=False)
    return partial(diagnose_replay, config, population, recent, config.steps)


def _loop(
    population: TrainState,
    actors: Actors,
    agent: Agent,
    logger: RunLogger,
    config: RunConfig,
    recipe: Recipe,
    saved: Saved | None,
    observe: Observe | None,
) -> tuple[TrainState, Replay]:
    """Act, store, learn, until the steps are done."""
    assert config.loop is not None
    steps, loop = config.steps, config.loop
    each = loop.environments
    capacity = ring_capacity(loop.buffer, steps, each)
    seeds = [one.seed for one in config.members]
    state = initial_online_state(population, agent, config.spec, capacity, seeds, recipe)
    updates = round(loop.update_to_data * each)
    targets = set(config.evaluation_steps)
    step = logged = 0
    actions: np.ndarray | Array

    def rest(*, simulators: bool = True) -> dict[str, np.ndarray]:
        """What the next step depends on, beside the population."""
        own = actors.state(simulators=simulators)
        return {
            **online_arrays(state, min(step, capacity)),
            **{f"actors.{name}": array for name, array in own.items()},
            "actions": np.asarray(actions),
        }

    def first_actions(state: OnlineState, step: int) -> tuple[OnlineState, np.ndarray | Array]:
        """Of new episodes."""
        if step < loop.warmup and not recipe.pretrained:
            return state, actors.random_actions()
        return explore(state, recipe.observations(actors.observations), agent)

    if saved is None:
        state, actions = first_actions(state, step)
        if recipe.pretrained:
            # What it scores before it learns anything online.
            logger.milestone(Moment(0, state.population, state.totals, 0, rest))
    else:
        step, logged = saved.step, saved.logged
        # Where every member diverged, an evaluation is all that can be missing: the replay buffer
        # is of the step at which that was found.
        if not logger.stopped:
            state = restored_online_state(state, saved.extra, min(step, capacity))
            state = state._replace(totals=saved.totals(state.totals))
            if actors.restore(saved.part("actors"), step):
                actions = saved.extra["actions"]
            else:
                logger.say("the state of these simulators is not saved: every episode starts anew")
                state, actions = first_actions(state, step)
        logger.catch_up(Moment(step, state.population, state.totals, logged))
    while step < steps:
        try:
            rows = recipe.rows(actors.step(np.asarray(actions)))
        except EnvironmentFault as fault:
            # Some copies have taken the step: they start anew where the run goes on.
            without = partial(rest, simulators=False)
            now = Moment(step, state.population, state.totals, logged, without)
            logger.rescue(fault, now)
        step += each
        filled = min(step, capacity)
        if step < loop.warmup and not recipe.pretrained:
            actions = actors.random_actions()
        else:
            # Before the update is dispatched, so that the simulators need not wait for it.
            state, actions = explore(state, recipe.observations(actors.observations), agent)
        state = add(state, rows, (step - each) % capacity)
        if step > loop.warmup:
            state = learn(state, filled, updates, agent, recipe)
        if step - logged >= LOG_EVERY or step in targets:
            # Those at whose steps there was a batch to learn from.
            done = updates * max(0, step // each - max(logged, loop.warmup) // each)
            state = _log(logger, state, actors, recipe, step, done)
            logged = step
            if observe is not None:
                observe(step, state.population, state.replay, filled)
        now = Moment(step, state.population, state.totals, logged, rest)
        if logger.stopped:
            logger.end(now)
            break
        if step in targets:
            logger.milestone(now)
        logger.between(now)
    return state.population, state.replay


def _log(
    logger: RunLogger, state: OnlineState, actors: Actors, recipe: Recipe, step: int, updates: int
) -> OnlineState:
    """The mean of each metric over `updates` updates; the sums begin anew."""
    means = {name: np.asarray(total) / updates for name, total in state.totals.items() if updates}
    more = actors.recent_returns()
    if actors.breakdowns.any():
        more["breakdowns"] = actors.breakdowns.astype(np.float64)
    rewards = recipe.reward_range(actors.rewards)
    return state.restart(logger.metrics(step, state.population, means, rewards, **more))


def _name(config: RunConfig) -> str:
    """What a run is called where nobody names its folder."""
    if config.finetune is not None:
        return f"{config.data.name}-{config.agent}-finetune"
    return f"{config.data.name}-{config.agent}"


def check_loop(loop: OnlineLoop, steps: int) -> None:
    """Refuse a loop that cannot be run.

    Raises:
        InputError: says which number, and what it can be.
    """
    require_in_range(loop)
    each, updates = loop.environments, loop.update_to_data * loop.environments
    if not 0.5 < updates <= MOST_UPDATES or abs(updates - round(updates)) >= 1e-6:
        raise InputError(
            f"`update_to_data={loop.update_to_data:g}` with {each} environments is {updates:g} "
            "updates at a time",
            hint=f"their product must be a whole number, at least 1 and at most {MOST_UPDATES:,}",
        )
    if steps % each:
        raise InputError(
            f"`steps={steps}` cannot be shared by {each} environments", hint="give a multiple"
        )
    ring_capacity(loop.buffer, steps, each)
    if not 1 <= loop.warmup < steps:
        raise InputError(
            f"`warmup={loop.warmup}` leaves nothing to learn in of `steps={steps}`",
            hint="give fewer, at least 1, or more `steps`",
        )


def _spec_of(given: Simulator) -> EnvironmentSpec:
    """What networks are built for in an environment."""
    probe = make_environment(given)
    try:
        return environment_spec(probe, given.name)
    finally:
        probe.close()


def _save_replay(path: Path, replay: Replay, steps: int, actors: Actors) -> None:
    """Each member's replay buffer, oldest transition first, and how long its episodes were.

    The lengths are of all the run's finished episodes, also those that the buffer no longer holds.
    """
    lengths = {
        f"episode_lengths_{member}": [one.length for one in actors.finished if one.member == member]
        for member in range(len(replay.rewards))
    }
    oldest = steps % replay.capacity
    columns = {
        name: np.roll(np.asarray(column), -oldest, axis=1)
        for name, column in replay._asdict().items()
    }
    arrays: dict[str, Any] = {**columns, **lengths}
    with whole_file(path, "replay buffer", replace=True) as draft:
        np.savez(draft, **arrays)

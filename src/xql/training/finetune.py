"""Continue an offline run in an environment: the same agent, the same losses, more data.

    train_finetune = plan_finetune → execute_online

The policy of the offline run acts from the first step; its transitions go to a replay buffer, from
which, together with the log, every member learns as it did offline. Observations and rewards are
scaled as the log's were (`recipe.py`). What keeps the policy from collapsing at the change:

 - the updates wait until the buffer has the first `warmup` steps of the loaded policy, so that no
   batch is of a handful of states; no action is ever uniformly random;
 - half of each batch stays the log's (`replay="symmetric"`, as RLPD, Ball et al. 2023);
 - everything is continued: targets, moments of Adam, temperatures that tune themselves, counters,
   and the smaller learning rates of a member that diverged;
 - learning rates that fell to zero by the end of the offline run are constant from here on.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from xql.agents import AGENTS, Agent, TrainState, Unchecked, configure
from xql.agents.hyperparameters import inactive, learning_rates
from xql.agents.hyperparameters import to_dict as hyperparameters_to_dict
from xql.agents.temperature import activation, carried_temperatures
from xql.data.dataset import Dataset
from xql.envs.given import Given, require_simulator
from xql.errors import InputError
from xql.jax_config import standard_jax
from xql.presets import DATA_OPTIONS
from xql.runs.config import (
    DEFAULT_CHECKPOINTS,
    DEFAULT_EVALUATION,
    CheckpointPlan,
    EvaluationPlan,
    FineTuning,
    OnlineLoop,
    ReplayKind,
    RunConfig,
    require_at_least,
)
from xql.runs.folder import SMALLER, RunFolder
from xql.runs.policy import load_population, template
from xql.runs.run import Run
from xql.runs.sweep import SUITED_SOURCE, require_hyperparameters
from xql.training.listeners import Callback, check_callbacks
from xql.training.loggers import Chosen, check_loggers
from xql.training.online import Observe, check_loop, execute_online, loop_for
from xql.training.recipe import Start, require_one_discount, rule_at_success
from xql.training.reopen import reopen

REPLAYS: Mapping[ReplayKind, str] = {
    "symmetric": "half of each batch is the log's, half the replay buffer's",
    "prefill": "batches are drawn from all rows of the log and the replay buffer alike",
    "online": "batches are drawn from the replay buffer alone",
}

AT_SUCCESS = {
    "simulator": "episodes end as the simulator's do",
    "terminate": "an episode terminates at a success (mask 0), as those of the log do",
    "continue": "no episode terminates at a success (mask 1), as none of the log does",
}

CONTINUED = "constant from here on: the run's own schedule has ended"
"""What `RunConfig.sources` says of a learning rate schedule."""


class FinetunePlan(NamedTuple):
    """A fine-tuned run, decided but not begun."""

    config: RunConfig
    start: Start


@standard_jax()
def train_finetune(
    run: Run | Path | str,
    *,
    env: Given | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int | None = None,
    steps: int = 250_000,
    step: int | None = None,
    replay: ReplayKind | Unchecked = "symmetric",
    data: str | Path | Mapping[str, np.ndarray] | Dataset | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    loop: OnlineLoop | None = None,
    evaluations: int = 20,
    episodes: int = 10,
    last_episodes: int = 100,
    trust: Sequence[str] = (),
    keep_replay: bool = False,
    keep_policies: bool = False,
    checkpoints: CheckpointPlan = DEFAULT_CHECKPOINTS,
    observe: Observe | None = None,
    loggers: Chosen = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    report: bool = True,
) -> Run:
    """Continue an offline run in an environment; its members go on as one population.

    Args:
        run: an offline run of an agent with a critic, or its folder, which is left as it is.
        env: the environment to act and to be evaluated in, as `train_online` takes it; the run's
            own where None.
        env_kwargs, episode_limit: of the environment, as `train_online` takes them.
        steps: environment steps of each member, the warm-up included. With 0 the loaded policies
            are evaluated and saved.
        step: of the run's checkpoint; the latest where None.
        replay: what batches are drawn from: "symmetric", half from the log and half from the
            replay buffer; "prefill", from all rows of both alike; or "online", from the replay
            buffer alone.
        data: the log, where it is not where the run found it; the same transitions.
        out: the new run's folder, which must not exist; where None, runs/DATA-AGENT-finetune-N.
        options: hyperparameters that are to change, such as {"policy_learning_rate": 1e-4} or
            {"beta": "auto"}; none that the shapes of the networks follow from.
        loop: how acting and learning take turns; `loop_for(steps)` where None. Its warm-up is acted
            by the loaded policy.
        evaluations: how many times to evaluate, evenly spaced, the last step included; the loaded
            policy is evaluated besides, at step 0.
        episodes: evaluation episodes per member at each of these but the last.
        last_episodes: evaluation episodes per member at step 0 and at the last step.
        trust: packages and ids of environments that the run may name besides those of
            `xql.envs.trusted.PACKAGES`.
        keep_replay, keep_policies, checkpoints, observe: as `train_online` takes them.
            Rows of the replay buffer are scaled as the log was.
        loggers, callbacks, progress, report: likewise.

    Raises:
        InputError: anything among these that cannot be used. Nothing is written then.
        EnvironmentFault: the environment failed; the run is kept.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved, and `resume` goes on.
    """
    check_loggers(loggers)
    check_callbacks(callbacks)
    if out is not None:
        RunFolder.require_free(Path(out))
    plan = plan_finetune(
        run,
        env=env,
        env_kwargs=env_kwargs,
        episode_limit=episode_limit,
        steps=steps,
        step=step,
        replay=replay,
        data=data,
        options=options,
        loop=loop,
        evaluation=EvaluationPlan(evaluations, episodes, last_episodes),
        trust=trust,
        keep_policies=keep_policies,
        keep_replay=keep_replay,
        checkpoints=checkpoints,
    )
    return execute_online(
        plan.config,
        out,
        start=plan.start,
        observe=observe,
        loggers=loggers,
        callbacks=callbacks,
        progress=progress,
        report=report,
    )


@standard_jax()
def plan_finetune(
    run: Run | Path | str,
    *,
    env: Given | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int | None = None,
    steps: int = 250_000,
    step: int | None = None,
    replay: ReplayKind | Unchecked = "symmetric",
    data: str | Path | Mapping[str, np.ndarray] | Dataset | None = None,
    options: Mapping[str, Any] | None = None,
    loop: OnlineLoop | None = None,
    evaluation: EvaluationPlan = DEFAULT_EVALUATION,
    trust: Sequence[str] = (),
    keep_policies: bool = False,
    keep_replay: bool = False,
    checkpoints: CheckpointPlan = DEFAULT_CHECKPOINTS,
) -> FinetunePlan:
    """Decide everything about a fine-tuned run; write nothing.

    Args:
        run, env, steps, step, replay, data, options, loop, trust: as `train_finetune` takes them.
        env_kwargs, episode_limit, keep_policies, keep_replay, checkpoints: likewise.
        evaluation: when to evaluate; success ends an episode where it did offline.

    Raises:
        InputError: as `train_finetune` does.
    """
    require_simulator(env)
    require_at_least("steps", steps, 0)
    evaluation.check()
    checkpoints.check()
    if replay not in REPLAYS:
        raise InputError(
            f"`replay={replay}` is no way to draw batches", hint=f"choose from {', '.join(REPLAYS)}"
        )
    require_hyperparameters((), options, inspect.signature(train_finetune).parameters)
    loop = loop_for(steps) if loop is None else loop
    if steps > 0:
        check_loop(loop, steps)
    folder = RunFolder.open(run.path if isinstance(run, Run) else Path(run))
    parent, where = folder.config, str(folder.path)
    _require_offline(parent, where)
    environment = parent.require_environment(
        where, env, trust, env_kwargs=env_kwargs, limit=episode_limit
    )
    environment.require_copies()
    if parent.make_agent().backup is None:
        raise InputError(
            f"agent {parent.agent} has no critic, and nothing else says which new actions are good",
            where=where,
            hint="fine-tune a run of another agent",
        )
    config, changed = _continued(parent, options or {}, where)
    _, population, step = load_population(folder, step)
    made = AGENTS[parent.agent].make(config, steps)
    require_one_discount(made, parent.members)
    dataset = None if replay == "online" else _log_of(folder, data)
    if dataset is None and made.wants_returns:
        raise InputError(
            "calibrated=True needs the returns of the log",
            where="`replay=online`",
            hint="choose symmetric or prefill",
        )
    at_success = "simulator" if dataset is None else rule_at_success(dataset)
    # The log of a fine-tuned run is in memory, beside its replay buffers.
    opened = dataclasses.replace(parent.data, streamed=None)
    if dataset is not None and dataset.source != "arrays":
        # A relative path starts where its run was started, and this one may be started elsewhere.
        opened = dataclasses.replace(opened, source=dataset.source)
    rates = [name for name in learning_rates(config) if name not in (options or {})]
    finetune = FineTuning(
        folder.path.resolve().name,
        step,
        cast(ReplayKind, replay),
        at_success,
        rolled_back=_slower(population, parent, rates),
    )
    planned = dataclasses.replace(
        parent,
        steps=steps,
        hyperparameters=config,
        sources={
            name: source
            for name, source in {**parent.sources, **changed}.items()
            if name not in inactive(config)
        },
        data=opened,
        environment=environment.record,
        trust=(*trust, environment.record),
        given=None if environment.factory is None else environment,
        evaluation=dataclasses.replace(
            evaluation, stop_at_success=parent.evaluation.stop_at_success
        ),
        loop=loop,
        finetune=finetune,
        checkpoints=checkpoints,
        keep_policies=keep_policies,
        keep_replay=keep_replay,
        **_of_this_version(),
    )
    population = _carried(population, made, planned, rates)
    notes = [
        f"from {where} at step {step:,}: {parent.agent}, {len(parent.members)} members, all kept",
        parent.scaling.describe(),
        f"replay {replay}: {REPLAYS[finetune.replay]}",
        AT_SUCCESS[at_success],
    ]
    if dataset is not None:
        notes.insert(1, f"{dataset.name}: {dataset.transitions:,} transitions of the log")
    if names := [name for name, why in changed.items() if why == CONTINUED]:
        notes.append(f"{' and '.join(names)} constant from here on")
    if finetune.rolled_back:
        who = ", ".join(map(str, finetune.rolled_back))
        notes.append(f"diverged offline, and keep learning rates divided by {SMALLER}: {who}")
    if frozen := folder.read_frozen():
        who = ", ".join(map(str, frozen))
        notes.append(f"diverged offline, and go on from where they were put back to: {who}")
    return FinetunePlan(planned, Start(population, dataset, notes))


def _of_this_version() -> dict[str, Any]:
    fresh = {one.name: one.default for one in dataclasses.fields(RunConfig)}
    return {name: fresh[name] for name in ("xql", "version")}


def _require_offline(parent: RunConfig, where: str) -> None:
    if parent.online:
        raise InputError(
            "this run has learned online already",
            where=where,
            hint="name an offline run",
        )


def _continued(
    parent: RunConfig, options: Mapping[str, Any], where: str
) -> tuple[Any, dict[str, str]]:
    """The run's hyperparameters with some changed, and why each is.

    Raises:
        InputError: an unknown one, one of the data or the networks, one without effect, or one that
            the members differ in.
    """
    own = hyperparameters_to_dict(parent.hyperparameters)
    ended = {name: "constant" for name, value in own.items() if value == "cosine"}
    changed = {**dict.fromkeys(ended, CONTINUED), **dict.fromkeys(options, "given")}
    for name, value in options.items():
        if name in DATA_OPTIONS:
            raise InputError(
                f"{name} is part of what the run has learned",
                where="`options`",
                hint="leave it out, or train offline with it",
            )
        if name in parent.members[0].changes:
            raise InputError(
                f"the members of this run differ in {name}",
                where=where,
                hint="leave it out of `options`",
            )
        if value == "cosine":
            raise InputError(
                f"option {name} cannot be 'cosine' in fine-tuning: the run's schedule has ended",
                hint="leave it out: learning rates are constant",
            )
    config = configure(parent.agent, {**own, **ended, **options}, others=DATA_OPTIONS)
    suited = {
        name: value
        for name, value in AGENTS[parent.agent].suited_to(config, parent.spec.actions).items()
        if name not in own and name not in options
    }
    config = dataclasses.replace(config, **suited)
    changed |= dict.fromkeys(suited, SUITED_SOURCE)
    for name in inactive(config) & set(options):
        raise InputError(
            f"{name} has no effect on agent {parent.agent} as it is configured",
            hint=f"{activation(config, name)}leave it out of `options`",
        )
    for name in inactive(config) & set(parent.members[0].changes):
        raise InputError(
            f"the members of this run differ in {name}, which would have no effect",
            where=where,
            hint=f"leave {' and '.join(options)} out of `options`",
        )
    shapes = _shapes(parent, parent.hyperparameters)
    if reshaped := [name for name, one in _shapes(parent, config).items() if one != shapes[name]]:
        wrong = [
            name
            for name, value in options.items()
            if _shapes(parent, configure(parent.agent, {**own, name: value})) != shapes
        ]
        follow = "networks follow" if len(reshaped) > 1 else f"{reshaped[0]} follows"
        raise InputError(
            f"{' and '.join(wrong or options)} cannot change: the run's {follow} from it",
            where=where,
            hint="leave it out of `options`, or train offline with it",
        )
    return config, changed


def _shapes(parent: RunConfig, config: Any) -> dict[str, Any]:
    """Shape and kind of every array that a member has learned, by the part of its state.

    A temperature is none of them: it is a number, whether it tunes itself or is fixed.
    """
    state: Any = template(AGENTS[parent.agent].make(config, 1), parent.spec, 1)
    return {
        name: {
            jax.tree_util.keystr(path): (leaf.shape, leaf.dtype)
            for path, leaf in jax.tree_util.tree_leaves_with_path(part)
        }
        for name, part in state._asdict().items()
        if name not in ("config", "temperatures")
    }


def _slower(population: TrainState, parent: RunConfig, rates: Sequence[str]) -> tuple[int, ...]:
    """The members whose learning rates are smaller than the run's configuration says."""
    configs = [parent.member_config(index) for index in range(len(parent.members))]
    found = np.zeros(len(configs), bool)
    for name in rates:
        asked = np.array([getattr(one, name) for one in configs], np.float32)
        found |= np.asarray(getattr(population.config, name)) != asked
    return tuple(np.flatnonzero(found).tolist())


def _carried(
    population: TrainState, agent: Agent, config: RunConfig, rates: Sequence[str]
) -> TrainState:
    """The loaded population with the new hyperparameters, each member's own changes on top.

    Args:
        population: as it was loaded.
        agent: as it is from now on.
        config: the new run's.
        rates: the learning rates that every member goes on with as it had them.
    """
    like: Any = template(agent, config.spec, len(config.members))
    configs = [config.member_config(index) for index in range(len(config.members))]
    stacked = jax.tree.map(lambda *values: jnp.array(values, jnp.float32), *configs)
    own = {name: getattr(population.config, name) for name in rates}
    changed = {"config": dataclasses.replace(stacked, **own)}
    if hasattr(like, "temperatures"):
        changed["temperatures"] = carried_temperatures(population, like.temperatures)
    # What is no array, such as the number of steps of a flow, is the new configuration's.
    carried: TrainState = jax.tree.unflatten(
        jax.tree.structure(like), jax.tree.leaves(population._replace(**changed))
    )
    return carried


def _log_of(folder: RunFolder, given: Any) -> Dataset:
    """The episodes that the run learned from.

    Raises:
        InputError: they cannot be opened, or are not those.
    """
    data = folder.config.data
    if given is None and data.source == "arrays":
        raise InputError(
            "its data was given as arrays, which no run keeps",
            where=str(folder.path),
            hint="give it again with `data`, or `replay='online'`",
        )
    return reopen(folder.config, folder.path, given)

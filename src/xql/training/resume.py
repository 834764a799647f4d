"""Go on with a run that was interrupted, bit for bit as if it had not been; or make one longer.

What it goes on from is the latest checkpoint that can be read, or the beginning where none was
saved yet. Rows of the log that came after it come again, the same. Bits are those of the
uninterrupted run on the same machine with as many cores; online, where the simulators' state can be
saved (`envs.state`).
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xql.agents.hyperparameters import to_dict
from xql.data.dataset import Dataset
from xql.envs.given import Given
from xql.errors import InputError
from xql.jax_config import standard_jax
from xql.runs.checkpoints import latest_step
from xql.runs.config import RunConfig, require_at_least
from xql.runs.folder import RunFolder
from xql.runs.lock import locked
from xql.runs.run import Run
from xql.training.listeners import Callback, check_callbacks
from xql.training.loggers import Chosen, check_loggers
from xql.training.offline import execute_offline
from xql.training.online import check_loop, execute_online
from xql.training.recipe import Start
from xql.training.reopen import plan_again, reopen
from xql.training.saved import Saved, load_saved


@standard_jax()
def resume(
    run: str | Path,
    *,
    data: str | Path | Mapping[str, np.ndarray] | Dataset | None = None,
    steps: int | None = None,
    evaluations: int | None = None,
    env: Given | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    loggers: Chosen = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    report: bool = True,
) -> Run:
    """Go on with a run from its latest checkpoint; from the beginning where it saved none yet.

    Args:
        run: its folder.
        data: what an offline run learns from, where it lies elsewhere now or was given as arrays.
        steps: in all, where the run is to become longer. A cosine schedule ends with the run, so
            that a longer one has higher learning rates from there on, and other results than one
            that was planned so long.
        evaluations: how many in all, evenly spaced over all the steps, where they are to be others.
        env: the run's own environment, named again: needed where it was an instance or a nameless
            factory, or "module:id", which no run folder is trusted with. With "none" an offline run
            goes on without evaluations.
        env_kwargs: its arguments; those of the run where None.
        trust: packages and ids of environments that the run may name besides those of
            `xql.envs.trusted.PACKAGES`.
        loggers: as `train_offline` takes them; those of the run where None. What a logger calls the
            run is kept in its folder, so that the same log goes on where that is still there.
        callbacks: as `train_offline` takes them; none are kept with the run.
        progress: show a progress bar on standard error.
        report: write report.html at the end.

    Returns:
        The run; one that was complete as it is.

    Raises:
        InputError: no run, its checkpoints are lost, data that is gone or has changed, another
            process that writes to the run, or fewer `steps` than are done. Nothing is written then.
        EnvironmentFault: the environment failed; the run is kept.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved.
    """
    check_loggers(loggers)
    check_callbacks(callbacks)
    shown: Any = {
        "loggers": loggers,
        "callbacks": callbacks,
        "progress": progress,
        "report": report,
    }
    own = not isinstance(data, Dataset)
    folder = RunFolder.open(Path(run))
    if latest_step(folder.checkpoints) is None:
        _require_unsaved(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(folder.path))
        folder = RunFolder.open(folder.path)
        saved = None if latest_step(folder.checkpoints) is None else load_saved(folder)
        config = _continued(folder, saved, steps, evaluations, trust)
        config = config.with_environment(str(folder.path), env, env_kwargs)
        if saved is None:
            if config.online:
                return execute_online(config, folder, **shown)
            plan = plan_again(config, folder.path, data)
            return execute_offline(plan, folder, own=own, **shown)
        if _complete(saved, config):
            return Run(folder, saved.population)
        saved.require_whole()
        if config.finetune is not None:
            log = config.finetune.replay != "online"
            dataset = reopen(config, folder.path, data) if log else None
            start = Start(saved.population, dataset, [config.scaling.describe()])
            return execute_online(config, start=start, saved=saved, **shown)
        if config.online:
            return execute_online(config, saved=saved, **shown)
        plan = plan_again(config, folder.path, data)
        return execute_offline(plan, saved=saved, own=own, **shown)


def _complete(saved: Saved, config: RunConfig) -> bool:
    """Whether there is nothing left to do."""
    missing = config.keep_replay and not saved.folder.replay.exists()
    return saved.step == config.steps and saved.evaluated(config) and not missing


def _require_unsaved(folder: RunFolder) -> None:
    """Check that a run without a checkpoint had none to lose, so that it can begin anew.

    The state is saved before the first evaluation, at the latest.

    Raises:
        InputError: it had, or it is a fine-tuned one, which begins with another run's networks.
    """
    config = folder.config
    where = str(folder.path)
    if config.finetune is not None:
        raise InputError(
            f"there is no checkpoint to go on from, and it began with those of "
            f"{config.finetune.run}",
            where=where,
            hint="fine-tune that run again",
        )
    first = config.evaluation_steps[0]
    if folder.read_evaluations() or any(row.step > first for row in folder.read_metrics()):
        raise InputError("there is no checkpoint to go on from", where=where, hint="train it again")


def _continued(
    folder: RunFolder,
    saved: Saved | None,
    steps: int | None,
    evaluations: int | None,
    trust: Sequence[str],
) -> RunConfig:
    """The configuration of a run from now on, of which nothing or what is `saved` is done.

    Raises:
        InputError: a number that cannot be, or every member has diverged.
    """
    before, done = folder.config, 0 if saved is None else saved.step
    config = dataclasses.replace(before, trust=tuple(trust))
    diverged = len(folder.read_frozen()) == len(config.members) and done == config.steps
    # Its evaluation may have been interrupted.
    played = saved is None or config.environment is None or saved.evaluated(config)
    if diverged and (played or steps is not None):
        raise InputError(
            "every member of this run diverged, so there is nothing to go on from",
            where=str(folder.path),
            hint="train it again with other settings",
        )
    if steps is not None:
        require_at_least("steps", steps, 1)
        if steps < done:
            raise InputError(
                f"`steps={steps}` is fewer than the {done:,} that are done",
                where=str(folder.path),
                hint="give more, or leave it out",
            )
        config = dataclasses.replace(config, steps=steps)
        if config.loop is not None:
            check_loop(config.loop, steps)
    if evaluations is not None:
        plan = dataclasses.replace(config.evaluation, evaluations=evaluations)
        plan.check()
        config = dataclasses.replace(config, evaluation=plan)
    if config.steps > done:
        _warn_of_schedules(before, config)
    return config


def _warn_of_schedules(before: RunConfig, config: RunConfig) -> None:
    """Say which learning rates a longer run changes."""
    schedules = [
        name for name, value in to_dict(config.hyperparameters).items() if value == "cosine"
    ]
    if config.steps != before.steps and schedules:
        warnings.warn(
            f"{' and '.join(schedules)}: the cosine ends at step {config.steps:,} now and not at "
            f"{before.steps:,}, so the learning rate differs from here on",
            UserWarning,
            stacklevel=4,
        )

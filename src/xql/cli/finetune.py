"""`xql train finetune`: continue an offline run in an environment."""

from pathlib import Path
from typing import Annotated

import tyro

from xql.cli.console import sign_of_life
from xql.cli.train import (
    Assignments,
    LoggerNames,
    Trust,
    finish,
    given_to,
    parse_loggers,
    parse_settings,
)


def finetune(
    run: Annotated[Path, tyro.conf.arg(name="from")],
    env: str | None = None,
    env_arg: Assignments = (),
    episode_limit: int | None = None,
    steps: int = 250_000,
    step: int | None = None,
    replay: str = "symmetric",
    data: str | None = None,
    out: Path | None = None,
    set: Assignments = (),
    environments: int = 1,
    warmup: int | None = None,
    update_to_data: float = 1.0,
    buffer: int = 1_000_000,
    evaluations: int = 20,
    episodes: int = 10,
    last_episodes: int = 100,
    trust_environment: Trust = (),
    keep_replay: bool = False,
    keep_policies: bool = False,
    checkpoint_every: str = "10min",
    keep_last: int = 2,
    keep_every: int | None = None,
    keep_best: bool = False,
    logger: LoggerNames = (),
    plot: bool = True,
    report: bool = True,
) -> None:
    """Continue an offline run in an environment.

    Args:
        run: the offline run's folder, which is left as it is; of any agent with a critic.
        env: the environment to act and to be evaluated in; the run's own without it. Your own as
            module:Env-v0, or as module:Class.
        env_arg: arguments of the environment that --env names, such as size=3.
        episode_limit: steps after which an episode is truncated, in place of the environment's
            own limit.
        steps: environment steps of each member, the warm-up included. With 0 the loaded policies
            are evaluated and saved.
        step: of the run's checkpoint; the latest without it.
        replay: what batches are drawn from: symmetric, half from the log and half from the replay
            buffer; prefill, from all rows of both alike; online, from the replay buffer alone.
        data: the log, where it is not where the run found it.
        out: the new run's folder, which must not exist; runs/DATA-AGENT-finetune-N without it.
        set: hyperparameters that are to change, such as policy_learning_rate=1e-4.
        environments: copies of the environment for each member, stepped in turn.
        warmup: steps of the loaded policy before the first update; 5000 without it, at most a
            twentieth of the run.
        update_to_data: gradient updates for each environment step.
        buffer: capacity of each member's replay buffer, in transitions.
        evaluations: how many times to evaluate, evenly spaced, the last step included; the loaded
            policies are evaluated besides, at step 0.
        episodes: evaluation episodes per member at each of these but the last.
        last_episodes: evaluation episodes per member at step 0 and at the last step.
        trust_environment: installed packages, or ids, whose environments the run may name besides
            Gymnasium's, Gymnasium-Robotics' and xql's own.
        keep_replay: write the replay buffers to replay.npz at the end; not where every member
            diverged.
        keep_policies: keep the policies of every evaluation.
        checkpoint_every: how often to save the whole state besides before each evaluation: a time
            such as 30s, 10min or 2h, or a number of steps.
        keep_last: how many of the latest checkpoints stay.
        keep_every: besides, those whose step is a multiple of this.
        keep_best: besides, the one with the best evaluation.
        logger: as for xql train offline.
        plot: draw learning-curves.png into the run's folder.
        report: write report.html, a page of the run, into the run's folder.
    """
    sign_of_life(f"opening {run}")
    from xql.agents import Unchecked
    from xql.runs.config import CheckpointPlan, OnlineLoop
    from xql.training.finetune import train_finetune
    from xql.training.online import loop_for
    from xql.training.population import use_all_cores

    options, _ = given_to(finetune, set)
    use_all_cores()
    tuned = train_finetune(
        run,
        env=env,
        env_kwargs=parse_settings(env_arg, "--env-arg", "size=3"),
        episode_limit=episode_limit,
        steps=steps,
        step=step,
        replay=Unchecked(replay),
        data=data,
        out=out,
        options=options,
        loop=OnlineLoop(
            environments,
            loop_for(steps).warmup if warmup is None else warmup,
            update_to_data,
            buffer,
        ),
        evaluations=evaluations,
        episodes=episodes,
        last_episodes=last_episodes,
        trust=sum(trust_environment, ()),
        keep_replay=keep_replay,
        keep_policies=keep_policies,
        checkpoints=CheckpointPlan(checkpoint_every, keep_last, keep_every, keep_best),
        report=report,
        loggers=parse_loggers(sum(logger, ())),
    )
    finish(tuned, plot)

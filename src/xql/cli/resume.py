"""`xql resume RUN`: go on with a run."""

from pathlib import Path

import tyro

from xql.cli.console import print_words, sign_of_life
from xql.cli.train import (
    Assignments,
    LoggerNames,
    Trust,
    finish,
    parse_loggers,
    parse_settings,
)


def resume(
    run: tyro.conf.Positional[Path],
    steps: int | None = None,
    evaluations: int | None = None,
    data: str | None = None,
    env: str | None = None,
    env_arg: Assignments = (),
    trust_environment: Trust = (),
    logger: LoggerNames = (),
    plot: bool = True,
    report: bool = True,
) -> None:
    """Go on with an interrupted run, bit for bit, or make one longer.

    Args:
        run: the run's folder.
        steps: how many in all, to make the run longer. A cosine schedule ends with the run, so that
            a longer one has higher learning rates from there on.
        evaluations: how many in all, evenly spaced; the run's own without it.
        data: where an offline run's data lies now; where it lay without it.
        env: the run's own environment, named again, where it is one that no run folder is trusted
            with, such as module:Env-v0. With none, an offline run
            goes on without evaluations.
        env_arg: its arguments, such as size=3; the run's own without it.
        trust_environment: installed packages, or ids, whose environments the run may name besides
            Gymnasium's, Gymnasium-Robotics' and xql's own.
        logger: as for xql train offline; those of the run without it, and the same log goes on.
        plot: draw learning-curves.png into the run's folder.
        report: write report.html, a page of the run, into the run's folder.
    """
    sign_of_life(f"opening {run}")
    from xql.runs.checkpoints import latest_step
    from xql.training.population import use_devices_of
    from xql.training.resume import resume as go_on

    use_devices_of(run)
    done = latest_step(run / "checkpoints")
    trust = sum(trust_environment, ())
    resumed = go_on(
        run,
        data=data,
        steps=steps,
        evaluations=evaluations,
        env=env,
        env_kwargs=parse_settings(env_arg, "--env-arg", "size=3"),
        trust=trust,
        report=report,
        loggers=parse_loggers(sum(logger, ())),
    )
    if done == resumed.config.steps:
        print_words(f"nothing was left to train: all {done:,} steps are done; --steps adds more")
    finish(resumed, plot)

"""`xql reproduce RUN`: make a run again and compare."""

from pathlib import Path

import tyro

from xql.cli.console import print_words, sign_of_life
from xql.cli.train import Assignments, Trust, parse_settings


def reproduce(
    run: tyro.conf.Positional[Path],
    out: Path | None = None,
    data: str | None = None,
    env: str | None = None,
    env_arg: Assignments = (),
    trust_environment: Trust = (),
) -> None:
    """Make a run again from its folder and compare the two, number by number.

    Args:
        run: the run's folder, which is only read.
        out: the new run's folder, which must not exist; runs/DATA-AGENT-N without it.
        data: the data of an offline run, where it lies elsewhere now.
        env: the run's own environment, named again, where it is one that no run folder is trusted
            with, such as module:Env-v0.
        env_arg: its arguments, such as size=3; the run's own without it.
        trust_environment: installed packages, or ids, whose environments the run may name besides
            Gymnasium's, Gymnasium-Robotics' and xql's own.
    """
    sign_of_life(f"reading {run}")
    from xql.training.population import use_devices_of
    from xql.training.reproduce import reproduce as make_again

    use_devices_of(run)
    found = make_again(
        run,
        out=out,
        data=data,
        env=env,
        env_kwargs=parse_settings(env_arg, "--env-arg", "size=3"),
        trust=sum(trust_environment, ()),
    )
    print_words(found.describe(), indent=4)
    print(f"run folder: {found.run.path}")
    if not found.same:
        raise SystemExit(1)

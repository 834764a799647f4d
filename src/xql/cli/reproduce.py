"""`xql reproduce RUN`: make a run again and compare."""

from pathlib import Path

import tyro

from xql.cli.console import print_words, sign_of_life
from xql.cli.train import Trust


def reproduce(
    run: tyro.conf.Positional[Path],
    out: Path | None = None,
    data: str | None = None,
    trust_environment: Trust = (),
) -> None:
    """Make a run again from its folder and compare the two, number by number.

    Args:
        run: the run's folder, which is only read.
        out: the new run's folder, which must not exist; runs/DATA-AGENT-N without it.
        data: the data of an offline run, where it lies elsewhere now.
        trust_environment: installed packages, or ids, whose environments the run may name besides
            Gymnasium's, Gymnasium-Robotics' and xql's own.
    """
    sign_of_life(f"reading {run}")
    from xql.training.population import use_devices_of
    from xql.training.reproduce import reproduce as make_again

    use_devices_of(run)
    found = make_again(run, out=out, data=data, trust=sum(trust_environment, ()))
    print_words(found.describe(), indent=4)
    print(f"run folder: {found.run.path}")
    if not found.same:
        raise SystemExit(1)

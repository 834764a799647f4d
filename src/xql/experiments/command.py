"""How the modules here that are commands of their own, `python -m xql.experiments.NAME`, end."""

import sys
from collections.abc import Callable

import tyro

from xql.errors import EnvironmentFault, InputError, MissingExtra, Terminated


def as_command(main: Callable[..., object], name: str) -> None:
    """Call `main` as the command line asks; what goes wrong is one line on standard error.

    Args:
        main: its arguments are those of the command line.
        name: the module's.
    """
    try:
        tyro.cli(main)
    except (EnvironmentFault, InputError, MissingExtra) as error:
        sys.exit(f"xql.experiments.{name}: {error}")
    except KeyboardInterrupt as signal:
        ended = isinstance(signal, Terminated)
        word = "terminated" if ended else "interrupted"
        print(f"xql.experiments.{name}: {word}", file=sys.stderr)
        sys.exit(143 if ended else 130)

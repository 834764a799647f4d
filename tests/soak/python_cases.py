"""Wrong arguments in Python."""

from typing import Any

import jaxtyping
import numpy as np

from soak.frame import Case, Place, Subject
from soak.inputs import NAN, data_file


def python_cases() -> list[Case]:
    """The same from Python."""
    options: dict[str, Any] = {
        "array": {"loss": np.zeros(3)},
        "array for numbers": {"hidden": np.array([4, 4])},
        "giant": {"batch_size": 10**400},
        "giant digits": {"batch_size": 10**5000},
        "key of a number": {3: 1},
        "nan": {"beta": NAN},
        "nested": {"hidden": [[4]]},
        "object": {"loss": object()},
        "set": {"hidden": {4}},
        "bytes": {"loss": b"linear"},
        "data option": {"subset": 3},
    }
    more: dict[str, dict[str, Any]] = {
        "sweep nothing": {"sweep": {"beta": []}},
        "sweep nan": {"sweep": {"beta": [NAN]}},
        "steps bool": {"steps": True},
        "seeds text": {"seeds": "0"},
        "seeds many": {"seeds": 10**9},
        "beta giant": {"beta": 10**400},
    }
    calls = {f"options {name}": {"options": value} for name, value in options.items()} | more

    def case(name: str, given: dict[str, Any]) -> Case:
        def make(place: Place) -> Subject:
            def call() -> None:
                from xql.training.offline import train_offline

                # No user has the check of types that the tests have.
                jaxtyping.config.update("jaxtyping_disable", True)
                try:
                    train_offline(
                        data_file_once, out=place.out, progress=False, **({"env": "none"} | given)
                    )
                finally:
                    jaxtyping.config.update("jaxtyping_disable", False)

            data_file_once = data_file(place)
            return call

        return Case(name, "python", make)

    return [case(name, given) for name, given in calls.items()]


CASES = python_cases()

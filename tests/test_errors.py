"""The errors of this package, wherever they were raised."""

import pickle

import pytest

from xql.errors import EnvironmentFault, InputError


@pytest.mark.parametrize("kind", [InputError, EnvironmentFault])
def test_an_error_of_another_process_arrives_whole(
    kind: type[InputError] | type[EnvironmentFault],
) -> None:
    error = kind("it is wrong", where="here", hint="change it")
    there = pickle.loads(pickle.dumps(error))
    assert (str(there), there.what, there.hint) == (str(error), "it is wrong", "change it")

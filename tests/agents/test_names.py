"""What a type checker finds in a call, before it runs.

The functions under `TYPE_CHECKING` never run: mypy, which is strict here, fails where one of their
calls is not the error that its comment names.
"""

from typing import TYPE_CHECKING, Any, get_args

import pytest

import xql
from xql.agents import AGENTS, OFFLINE, ONLINE, OfflineName, OnlineName, XQLConfig
from xql.agents.hyperparameters import options
from xql.errors import InputError
from xql.presets import PresetName, preset_names

if TYPE_CHECKING:
    from xql.agents import SACConfig, Unchecked

    def offline_calls() -> None:
        xql.train_offline("log.npz", agent="rebrac", preset="tuned")
        xql.train_offline("log.npz", agent=Unchecked("awr"))
        xql.train_offline("log.npz", agent="xqll")  # type: ignore[arg-type]
        xql.train_offline("log.npz", agent="sac")  # type: ignore[arg-type]
        xql.train_offline("log.npz", preset="tunned")  # type: ignore[arg-type]
        xql.train_offline("log.npz", step=10)  # type: ignore[call-arg]

    def online_calls() -> None:
        xql.train_online("Pendulum-v1", agent="x-sac", preset="paper")
        xql.train_online("Pendulum-v1", agent="xql")  # type: ignore[arg-type]

    def options_of_agents() -> None:
        xql.options(XQLConfig, beta=1, hidden=(64, 64), loss="official", max_gradient_norm=None)
        xql.options(SACConfig, value="gumbel") | {"rewards": "standardised"}
        xql.options(XQLConfig, bata=1.0)  # type: ignore[call-arg]
        xql.options(XQLConfig, beta="1")  # type: ignore[arg-type]
        xql.options(XQLConfig, loss="liner")  # type: ignore[arg-type]
        xql.options(XQLConfig, 1.0)  # type: ignore[call-arg]
        XQLConfig(1.0)  # type: ignore[call-arg]


def test_the_names_are_those_of_the_agents_and_their_presets() -> None:
    assert get_args(OfflineName) == tuple(OFFLINE)
    assert get_args(OnlineName) == tuple(ONLINE)
    assert set(get_args(PresetName)) == {name for agent in AGENTS for name in preset_names(agent)}


def test_options_are_those_that_are_given() -> None:
    assert xql.options(XQLConfig) == {}
    assert xql.options(XQLConfig, beta=2, hidden=(8,)) == {"beta": 2, "hidden": (8,)}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"bata": 1.0}, "unknown option 'bata' of XQLConfig; did you mean 'beta'?"),
        ({"beta": -1.0}, "option beta cannot be -1.0; give a number above 0"),
        ({"beta": "1"}, "option beta cannot be '1'; it takes a number or 'auto'"),
    ],
)
def test_options_that_cannot_be_are_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as error:
        options(XQLConfig, **given)
    assert str(error.value) == line


def test_options_have_names() -> None:
    numbers: list[Any] = [1.0]
    with pytest.raises(TypeError, match="by its name"):
        options(XQLConfig, *numbers)

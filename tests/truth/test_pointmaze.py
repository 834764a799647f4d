"""Every agent beats the behaviour policy in a maze. Ten minutes or more: `make nightly`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.stats import binomtest

import xql
from xql.agents import OFFLINE, OfflineName
from xql.collect.pointmaze import behaviour_rollouts, ensure_pointmaze
from xql.presets import PresetName

EPISODES = 100


class Case(NamedTuple):
    """How long an agent learns, and what it does not take from its preset."""

    steps: int
    options: dict[str, Any]
    preset: PresetName = "default"


SMALL = {"hidden": [64, 64]}
CASES = {
    # A temperature that tunes itself swings until 18,000 updates (docs/choosing-beta.md).
    "xql": Case(20_000, SMALL, "fixed"),
    "iql": Case(20_000, SMALL),
    "bc": Case(20_000, SMALL | {"subset": "top:0.1"}),
    # With small networks some seeds fail; after more steps it gets worse (docs/where-xql-wins.md).
    "awac": Case(10_000, {}),
    "cql": Case(20_000, SMALL | {"critic_hidden": [64, 64]}),
    # With small networks or fewer steps it stays near behaviour cloning.
    "td3-bc": Case(50_000, {}),
    # With its published weight the policy leaves the data.
    "rebrac": Case(20_000, {"hidden": [64, 64, 64], "policy_cloning": 0.03}),
}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        yield f"minari:{ensure_pointmaze('medium')[0]}"


@pytest.fixture(scope="module")
def behaviour() -> float:
    """What the behaviour policy may reach at most: the upper end of its 95 % interval."""
    reached = behaviour_rollouts("medium", EPISODES, seed=10_000)
    return float(binomtest(sum(reached), len(reached)).proportion_ci().high)


def test_no_agent_is_left_out() -> None:
    assert set(CASES) == set(OFFLINE)


@pytest.mark.nightly
@pytest.mark.parametrize("agent", CASES)
def test_an_agent_beats_the_behaviour_policy(
    agent: OfflineName, play: str, behaviour: float, tmp_path: Path
) -> None:
    run = xql.train_offline(
        play,
        agent=agent,
        preset=CASES[agent].preset,
        steps=CASES[agent].steps,
        seeds=1,
        options=CASES[agent].options,
        evaluations=1,
        last_episodes=EPISODES,
        out=tmp_path / "run",
        progress=False,
    )
    assert np.mean([row.success for row in run.evaluations]) > behaviour

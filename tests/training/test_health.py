"""Warnings of training that goes wrong in silence, against metrics made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from worlds import line_data
from xql.agents import IQLConfig, XQLConfig, make_iql, make_xql
from xql.training.health import HealthMonitor

XQL = make_xql(XQLConfig(), 100)
SOUND = {
    "weight": [1.2, 3.0],
    "advantage": [-0.1, -0.1],
    "clip_fraction": [0.0, 0.01],
    "effective_sample_size": [0.3, 0.9],
    "mean_exp": [1.1, 1e5],  # of a few outliers: sound runs have such stretches
}


def monitor(agent: Any = XQL, scalable: bool = True) -> HealthMonitor:
    config = agent.config
    return HealthMonitor(agent, [config, config], scalable=scalable)


def metrics(**changes: list[float]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in (SOUND | changes).items()}


def test_sound_training_says_nothing() -> None:
    found = monitor()
    assert [found.check(step, metrics()) for step in (1000, 2000, 3000)] == [[], [], []]
    assert found.problems == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"weight": [1.0, 1e-9], "advantage": [-0.1, -850.0]},
            "the policy's weights are all 0, or nearly (mean 1.0e-09): the advantages (mean -850) "
            "are too large for their temperature, so that almost no action counts; beta is 1, "
            "inverse_temperature is 3, try a larger beta and a smaller inverse_temperature, or "
            "the option rewards=return_range",
        ),
        ({"weight": [1.0, 95.0]}, "the policy's weights are nearly all at their cap (mean 95)"),
        ({"clip_fraction": [0.1, 0.97]}, "97% of the residuals lie beyond the clip"),
        ({"effective_sample_size": [0.5, 0.004]}, "0.4% of each batch decides the value"),
    ],
)
def test_each_fault_is_said_once_of_the_member_that_has_it(
    changes: dict[str, list[float]], said: str
) -> None:
    found = monitor()
    assert found.check(1000, metrics(**changes)) == []  # the first updates of a sound run may too
    (line,) = found.check(2000, metrics(**changes))
    assert line.startswith(f"member 1 by step 2,000: {said}")
    assert found.check(3000, metrics(**changes)) == []
    assert len(found.problems) == 1


def test_a_fault_that_passes_is_not_said() -> None:
    found, bad = monitor(), metrics(clip_fraction=[0.9, 0.9])
    assert [found.check(1, bad), found.check(2, metrics()), found.check(3, bad)] == [[], [], []]
    (line,) = found.check(4, bad)
    assert line.startswith("members 0, 1 by step 4: ")


def test_what_an_agent_does_not_report_is_not_checked_and_its_own_remedy_is_named() -> None:
    iql = make_iql(IQLConfig(), 100)
    found = monitor(iql, scalable=False)
    few = {"weight": np.array([1e-8, 1.0]), "advantage": np.array([-9.0, 0.0])}
    assert found.check(1, few) == []
    (line,) = found.check(2, few)
    assert line.endswith("inverse_temperature is 3, try a smaller inverse_temperature")
    # Not finite is divergence, which is another guard's to find.
    nothing = {"weight": np.array([np.nan, np.nan])}
    assert monitor(iql).check(1, nothing) == []


def test_rewards_in_another_unit_are_warned_of_while_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = line_data()
    run = xql.train_offline(
        data.with_metadata(rewards=data.rewards * 1e5),
        steps=2500,
        options={"hidden": [8], "batch_size": 16, "critic_learning_rate": 0.1},
        evaluations=1,
        out=tmp_path / "run",
    )
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("warning: member 0 by step 2,500: the policy's weights are all 0") == 1
    assert "beta is 1" in said and "the option rewards=return_range" in said
    assert "look at the warnings: " in said and "training looks healthy" not in said
    assert run.folder.read_metrics()[-1].values["weight"][0] < 1e-3

"""Warnings of training that goes wrong in silence, against metrics made by hand."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import xql
from worlds import line_data
from xql.agents import AGENTS, IQLConfig, XQLConfig, make_iql, make_xql
from xql.training.health import SETTLED, HealthMonitor
from xql.training.units import POWERS

XQL = make_xql(XQLConfig(), 100)
SOUND = {
    "weight": [1.2, 3.0],
    "advantage": [-0.1, -0.1],
    "clip_fraction": [0.0, 0.01],
    "effective_sample_size": [0.3, 0.9],
    "mean_exp": [1.1, 1e5],  # of a few outliers: sound runs have such stretches
}


def monitor(agent: Any = XQL, scalable: bool = True, unit: float = 1.0) -> HealthMonitor:
    config = agent.config
    return HealthMonitor(agent, [config, config], scalable=scalable, unit=unit)


class Tuned(NamedTuple):
    """A configuration whose temperatures tune themselves."""

    beta: Any = "auto"
    beta_kl: float = 0.15
    inverse_temperature: Any = "auto"
    policy_kl: float = 1.0
    weight_cap: float = 100.0
    beta_optimism: float = 3.0


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
            "the option rewards=auto",
        ),
        (
            {"weight": [1.0, 95.0]},
            "the policy's weights are nearly all at their cap (mean 95): every action counts the "
            "same, as in behaviour cloning; inverse_temperature is 3, try a smaller "
            "inverse_temperature, or the option rewards=auto",
        ),
        ({"clip_fraction": [0.1, 0.97]}, "97% of the residuals lie beyond the clip"),
        (
            {"effective_sample_size": [0.5, 0.004]},
            "0.4% of each batch decides the value (effective sample size); beta is 1, try a "
            "larger beta, or the option rewards=auto",
        ),
        (
            {"policy_effective_sample_size": [0.5, 0.004]},
            "0.4% of each batch decides the policy (effective sample size); inverse_temperature "
            "is 3, try a smaller inverse_temperature, or",
        ),
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


def test_where_a_temperature_tunes_itself_its_kl_is_what_helps() -> None:
    agent = XQL._replace(config=Tuned())
    found, bad = monitor(agent), metrics(weight=[1.0, 1e-9], effective_sample_size=[0.3, 0.01])
    assert found.check(1, bad) == []
    weights, size = found.check(2, bad)
    assert weights.endswith(
        "; beta_kl is 0.15, policy_kl is 1, try a smaller beta_kl and a smaller policy_kl"
    )
    assert size.endswith("; beta_kl is 0.15, try a smaller beta_kl")
    # One of the two may have a number.
    mixed = monitor(XQL._replace(config=Tuned(beta=2.0)))
    mixed.check(1, bad)
    assert mixed.check(2, bad)[0].endswith(
        "; beta is 2, policy_kl is 1, try a larger beta and a smaller policy_kl, or the option "
        "rewards=auto"
    )


def test_a_kl_that_is_not_reached_is_said_where_something_is_tuned_to_it() -> None:
    flat = metrics(kl=[0.15, 0.07], policy_kl=[0.51, 0.4])
    found = monitor(XQL._replace(config=Tuned()))
    # The first updates say nothing: values that begin near 0 change more than actions differ.
    assert [found.check(step, flat) for step in (1, 2, SETTLED, SETTLED + 1)] == [[]] * 4
    value, policy = found.check(SETTLED + 2, flat)
    assert value == (
        "member 1 by step 10,002: beta=auto does not reach its KL (mean 0.07 nats): the actions in "
        "the data hardly differ in value, and beta stands at its floor; beta_kl is 0.15, try a "
        "smaller beta_kl"
    )
    assert policy.startswith(
        "member 1 by step 10,002: inverse_temperature=auto does not reach its KL"
    )
    assert found.problems == [
        "beta=auto does not reach its KL",
        "inverse_temperature=auto does not reach its KL",
    ]
    # A temperature that is given has whatever KL it has.
    given = monitor()
    assert [given.check(SETTLED + step, flat) for step in (1, 2, 3)] == [[], [], []]


def test_a_beta_that_the_bound_on_optimism_holds_up_need_not_reach_its_kl() -> None:
    # Shown in the data's own unit, of which 10 are a scaled one: the bound is at 30.
    flat = metrics(kl=[0.05, 0.05], optimism=[29.9, 2.9])
    found = monitor(XQL._replace(config=Tuned()), unit=10.0)
    assert found.check(SETTLED + 1, flat) == []
    (line,) = found.check(SETTLED + 2, flat)
    assert line.startswith("member 1 by step 10,002: beta=auto does not reach its KL")


def test_a_remedy_names_both_units_where_auto_scaled_the_rewards() -> None:
    found, bad = monitor(scalable=False, unit=8.0), metrics(weight=[1e-9, 1e-9])
    found.check(1, bad)
    (line,) = found.check(2, bad)
    assert line.endswith(
        "; beta is 1 (8 in the data's unit), inverse_temperature is 3 (0.375 in the data's unit), "
        "try a larger beta and a smaller inverse_temperature"
    )


def test_every_agent_s_hyperparameters_of_scale_have_a_unit() -> None:
    for name, one in AGENTS.items():
        hint = one.make(one.config(**one.defaults), 100).scale_hint
        assert set(hint.names) <= set(POWERS), name


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
        beta=1.0,
        options={"hidden": [8], "batch_size": 16, "critic_learning_rate": 0.1},
        evaluations=1,
        out=tmp_path / "run",
    )
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("warning: member 0 by step 2,500: the policy's weights are all 0") == 1
    assert "beta is 1" in said and "the option rewards=auto" in said
    assert "look at the warnings: " in said and "training looks healthy" not in said
    assert run.folder.read_metrics()[-1].values["weight"][0] < 1e-3

"""Every offline agent on data of mixed quality: what behaviour cloning cannot do, values can.

Two steps, one action dimension. At the start an action above 0 leads on and one below 0 ends the
episode; at the second step an action below 0 earns 1. The behaviour policy does the right thing one
time in four at each, so its return is 1/16, the mean of its actions is wrong in both places, and
the reward of the second step must be backed up to the first.
"""

import importlib.resources
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from worlds import (
    assert_close,
    first_state,
    line_data,
    one_update,
    random_batch,
    same_bits,
    spec_of,
    trained,
)
from xql import train_offline
from xql.agents import OFFLINE, Agent, OfflineName, configure, member
from xql.data.dataset import Dataset
from xql.errors import InputError
from xql.presets import resolve
from xql.runs.config import Member
from xql.runs.run import Run

START, SECOND = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)

OPTIONS: dict[str, Any] = {
    "hidden": [32, 32],
    "batch_size": 128,
    "discount": 0.9,
    "polyak": 0.1,
    "critic_learning_rate": 3e-3,
    "policy_learning_rate": 3e-3,
}
OWN: dict[str, dict[str, Any]] = {
    "xql": {"beta": 0.1, "inverse_temperature": 10.0, "value_learning_rate": 3e-3},
    "iql": {"expectile": 0.95, "inverse_temperature": 10.0, "value_learning_rate": 3e-3},
    "awac": {"temperature": 0.1},
    "td3-bc": {},
    "rebrac": {"policy_cloning": 0.1},
    "cql": {"critic_hidden": [32, 32], "penalty": 0.1},
}


def chain(episodes: int = 1000) -> Dataset:
    random = np.random.default_rng(0)
    rows = []
    for _ in range(episodes):
        onward, wins = random.random(2) < 0.25
        first, second = 0.5 * (2 * onward - 1), 0.5 * (1 - 2 * wins)
        rows.append((START, first, 0.0, not onward, SECOND))
        if onward:
            rows.append((SECOND, second, float(wins), True, START))
    s, a, r, ends, after = (np.array(column) for column in zip(*rows, strict=True))
    a = a + random.uniform(-0.2, 0.2, len(a))
    return Dataset.from_arrays(
        s,
        a.astype(np.float32)[:, None],
        r.astype(np.float32),
        ends,
        next_observations=after,
        name="chain",
        action_low=-np.ones(1, np.float32),
        action_high=np.ones(1, np.float32),
    )


def learn(agent: OfflineName, folder: Path, **options: Any) -> Run:
    known = vars(OFFLINE[agent].config())
    shared = {name: value for name, value in OPTIONS.items() if name in known}
    return train_offline(
        chain(),
        agent=agent,
        steps=1000,
        out=folder / "run",
        options=shared | options,
        evaluations=1,
        progress=False,
    )


def return_of(run: Run) -> float:
    """What the policy's mode earns; the world is deterministic."""
    onward = run.policy(START)[0] > 0
    return float(onward and run.policy(SECOND)[0] < 0)


def test_the_behaviour_policy_seldom_wins_and_its_mean_never() -> None:
    data = chain()
    assert data.returns.mean() == pytest.approx(1 / 16, abs=0.02)
    starts = data.observations[data.starts][:, 0] == 1
    assert data.actions[data.starts][starts].mean() < -0.2


def test_behaviour_cloning_loses(tmp_path: Path) -> None:
    assert return_of(learn("bc", tmp_path)) == 0


def test_behaviour_cloning_of_the_best_episodes_wins(tmp_path: Path) -> None:
    assert return_of(learn("bc", tmp_path, subset="top:0.05")) == 1


@pytest.mark.parametrize("agent", OWN)
def test_every_other_agent_wins(agent: OfflineName, tmp_path: Path) -> None:
    assert return_of(learn(agent, tmp_path, **OWN[agent])) == 1


def test_no_agent_is_left_out() -> None:
    assert {*OWN, "bc"} == set(OFFLINE)


SPEC = spec_of(2, 1)


def small(agent: str) -> Agent:
    sizes: dict[str, Any] = {"hidden": [8], "batch_size": 16}
    if agent == "cql":
        sizes |= {"critic_hidden": [8]}
    return OFFLINE[agent].make(configure(agent, sizes), 100)


@pytest.mark.nightly
@pytest.mark.parametrize("agent", [agent for agent in OWN if agent != "xql"])
def test_a_member_is_the_same_run_alone(agent: str) -> None:
    # Four members on two devices are two on each, side by side under vmap.
    rate = {"policy_learning_rate": 1e-3}
    members = [Member(3, {}), Member(5, rate), Member(7, {}), Member(8, {})]
    together: Any = trained(small(agent), SPEC, members, line_data(), 30, 21)
    alone: Any = member(trained(small(agent), SPEC, [members[1]], line_data(), 51), 0)
    beside = member(together, 1)
    assert same_bits(alone.key, beside.key)  # the very same batches and noise
    assert_close(alone._replace(key=None), beside._replace(key=None), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("agent", OFFLINE)
def test_every_update_reports_the_same_finite_numbers(agent: str) -> None:
    learner = small(agent)
    state, batch = first_state(learner, SPEC), random_batch(learner.transitions, SPEC)
    seen = []
    for _ in range(3):
        state, metrics = one_update(learner, state, batch)
        assert all(np.isfinite(value) for value in metrics.values()), metrics
        seen.append(set(metrics))
    assert seen[0] == seen[1] == seen[2]
    assert int(state.step) == 3


@pytest.mark.parametrize("agent", OFFLINE)
@pytest.mark.parametrize("data", ["my-data", "hopper-medium-v2", "antmaze-umaze-v0"])
def test_the_default_preset_is_there_for_any_data(agent: str, data: str) -> None:
    chosen = resolve(agent, "default", data)
    assert {"rewards", "observations"} <= set(chosen.sources)


@pytest.mark.parametrize("agent", OFFLINE)
def test_every_preset_value_names_its_source(agent: str) -> None:
    text = importlib.resources.files("xql.presets").joinpath(f"{agent}.yaml").read_text()
    for preset, sections in yaml.safe_load(text).items():
        for section, entries in sections.items():
            for key, entry in entries.items():
                assert set(entry) == {"value", "source"}, (preset, section, key)
                assert str(entry["source"]).strip(), (preset, section, key)


@pytest.mark.parametrize("agent", [agent for agent in OFFLINE if agent not in ("xql", "bc")])
@pytest.mark.parametrize("task", ["pointmaze/medium-play-v0", "pointmaze/large-play-v0"])
def test_on_our_own_data_the_peers_get_what_xql_gets(agent: str, task: str) -> None:
    xql, peer = resolve("xql", "fixed", task), resolve(agent, "default", task)
    assert peer.rewards == xql.rewards == "minus_one"
    for name in ("discount", "batch_size", "critic_learning_rate", "policy_learning_rate"):
        assert getattr(peer.config, name) == getattr(xql.config, name), name
    # Targets move as fast: at every second update, and then twice as far.
    delay = getattr(peer.config, "policy_delay", 1)
    assert peer.config.polyak / delay == xql.config.polyak
    schedule = "schedule" if hasattr(peer.config, "schedule") else "value_schedule"
    assert getattr(peer.config, schedule) == xql.config.value_schedule == "cosine"


REFUSED = [
    ("iql", {"expectile": 1.5}, "option expectile cannot be 1.5"),
    ("iql", {"expectile": 0.0}, "option expectile cannot be 0"),
    ("awac", {"temperature": 0.0}, "option temperature cannot be 0"),
    ("awac", {"weights": "sum"}, "it takes 'exponential' or 'softmax'"),
    ("cql", {"samples": 0}, "option samples cannot be 0"),
    ("cql", {"penalty": -1.0}, "option penalty cannot be -1"),
    ("td3-bc", {"policy_delay": 0}, "option policy_delay cannot be 0"),
    ("td3-bc", {"alpha": 2.5}, "unknown option 'alpha' of agent td3-bc"),
    ("rebrac", {"critic_cloning": -0.1}, "option critic_cloning cannot be -0.1"),
]


@pytest.mark.parametrize(("agent", "options", "line"), REFUSED)
def test_numbers_that_no_update_could_use_are_refused(
    agent: str, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        resolve(agent, "default", "my-data", options)

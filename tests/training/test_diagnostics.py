"""What trained networks say of their data, in a file beside the run."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import constant, first_state, in_place, random_log, spec_of
from xql.agents import XQLConfig, make_xql
from xql.agents.bc import BCConfig, make_bc
from xql.data.actions import ActionSpec, Box
from xql.data.dataset import Dataset, Episode
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.runs.config import DataConfig, Member, RunConfig
from xql.runs.folder import RunFolder
from xql.runs.run import Run
from xql.training import diagnostics
from xql.training.diagnostics import Diagnostics, diagnose, leave_report, load, save

BETA = 0.5
ACTION = 0.25


def configured(
    config: Any, actions: ActionSpec, size: int = 1, rewards: str = "raw", scale: float = 1.0
) -> RunConfig:
    zeros = np.zeros(size, np.float32)
    return RunConfig(
        agent="xql" if isinstance(config, XQLConfig) else "bc",
        preset="default",
        steps=10,
        members=(Member(0), Member(1)),
        hyperparameters=config,
        scaling=Scaling(rewards, "raw", scale, 0.0, zeros, zeros + 1),
        data=DataConfig("log", "arrays", size, actions),
        environment=None,
    )


@pytest.fixture(scope="module")
def log() -> Dataset:
    """Two steps of rewards 1 and 2 in each of ten episodes, always with the same action."""
    episode = Episode(
        np.array([[0.0], [0.5], [1.0]], np.float32),
        np.full((2, 1), ACTION, np.float32),
        np.array([1.0, 2.0], np.float32),
        True,
        False,
    )
    return Dataset.from_episodes([episode] * 10)


def stacked(*states: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@pytest.fixture(scope="module")
def found(log: Dataset) -> Diagnostics:
    """Of two members: Q̄ is 2 and 3, V is 1, and 0 in the second."""
    config = XQLConfig(beta=BETA, hidden=(4,), discount=0.5)
    spec = spec_of(1, 1, bound=2.0)
    agent = make_xql(config, 10)
    states = [
        in_place(
            first_state(agent, spec, seed),
            target_critic=constant(first_state(agent, spec).critic.network, 2.0, 3.0),
            value=constant(first_state(agent, spec).value.network, value),
        )
        for seed, value in enumerate((1.0, 0.0))
    ]
    run = configured(config, spec.actions, rewards="auto", scale=0.25)
    return diagnose(run, stacked(*states), log, 10)


def test_differences_values_and_returns_are_in_the_data_s_unit(found: Diagnostics) -> None:
    # The smaller Q̄ counts; (Q − V)/β has no unit, and V has that of the rewards before scaling.
    np.testing.assert_allclose(found.differences, np.repeat([[2.0], [4.0]], 20, axis=1))
    np.testing.assert_allclose(found.values, np.repeat([[4.0], [0.0]], 20, axis=1))
    np.testing.assert_allclose(found.returns, [[2.0, 2.0] * 10])
    np.testing.assert_allclose(found.beta, [BETA, BETA])
    np.testing.assert_allclose(found.rewards, [1.0, 1.0, 1.5, 2.0, 2.0])
    assert (found.unit, found.terminated, found.truncated) == ("return", 1.0, 0.0)
    assert set(found.episode_returns) == {3.0} and set(found.episode_lengths) == {2}


def test_where_the_discount_is_swept_every_member_has_returns_of_its_own(
    log: Dataset, tmp_path: Path
) -> None:
    config = XQLConfig(beta=BETA, hidden=(4,))
    spec = spec_of(1, 1, bound=2.0)
    agent = make_xql(config, 10)
    members = tuple(Member(seed, {"discount": 0.5 - seed / 2}) for seed in (0, 1))
    run = dataclasses.replace(configured(config, spec.actions), members=members)
    population = stacked(*(first_state(agent, spec, seed) for seed in (0, 1)))
    found = diagnose(run, population, log, 10)
    np.testing.assert_allclose(found.returns, [[2.0, 2.0] * 10, [1.0, 2.0] * 10])
    save(folder(tmp_path, run), found)
    again = load(RunFolder.open(tmp_path / "run"))
    assert again is not None
    np.testing.assert_array_equal(again.returns, found.returns)


def test_of_a_part_the_rewards_and_episodes_are_those_of_the_whole(log: Dataset) -> None:
    config = configured(BCConfig(hidden=(4,)), spec_of(1, 1).actions)
    agent = make_bc(BCConfig(hidden=(4,)), 10)
    population = stacked(*(first_state(agent, spec_of(1, 1), seed) for seed in (0, 1)))
    found = diagnose(config, population, log.part(5), 10, whole=log)
    np.testing.assert_array_equal(found.episode_lengths, [2] * 10)
    np.testing.assert_array_equal(found.episode_returns, [3.0] * 10)
    assert found.distances.shape[1] < 10


def test_distances_are_in_half_action_ranges(found: Diagnostics, log: Dataset) -> None:
    assert not found.logged.any()  # another episode has the same action
    assert found.distances.shape == (2, 10)
    # The policy's own action, a number for each state; the range is [−2, 2].
    agent = make_xql(XQLConfig(beta=BETA, hidden=(4,), discount=0.5), 10)
    states = [first_state(agent, spec_of(1, 1, bound=2.0), seed) for seed in (0, 1)]
    half = log.starts[10:]
    for distances, state in zip(found.distances, states, strict=True):
        acted = np.asarray(agent.actor(state)(jnp.asarray(log.observations[half])))
        own = np.abs(acted[:, 0] - ACTION) / 2
        np.testing.assert_allclose(np.sort(distances), np.sort(own), atol=1e-5)


def test_an_agent_without_a_critic_has_actions_alone(log: Dataset) -> None:
    config, spec = BCConfig(hidden=(4,)), spec_of(1, 1)
    agent = make_bc(config, 10)
    states = stacked(first_state(agent, spec), first_state(agent, spec, 1))
    found = diagnose(configured(config, spec.actions), states, log, 10)
    assert found.differences.shape == found.values.shape == (2, 0)
    assert found.distances.shape == (2, 10)


def test_discrete_actions_are_counted() -> None:
    log = random_log(0, states=4, actions=3, steps=300, limit=20)
    dataset = log.dataset(discrete=True)
    config = BCConfig(hidden=(4,))
    agent = make_bc(config, 10)
    states = stacked(*(first_state(agent, log.spec, seed) for seed in (0, 1)))
    found = diagnose(configured(config, log.spec.actions, 4), states, dataset, 10)
    shares = np.bincount(log.actions, minlength=3) / 300
    np.testing.assert_allclose(found.taken, shares, atol=1e-6)
    np.testing.assert_allclose(found.chosen.sum(1), [1.0, 1.0], rtol=1e-5)
    assert found.distances.shape == (2, 0) and len(found.agreement) == 2
    assert found.acted.shape == (2, 0, diagnostics.BINS)


def test_each_number_of_an_action_has_its_distribution() -> None:
    spread = np.array([-1.0, *np.arange(-0.975, 1.0, 0.05), 1.0])
    numbers = np.stack([spread, np.zeros(42)], axis=1).astype(np.float32)
    one = diagnostics.action_columns(Box((-9.0,) * 2, (9.0,) * 2), [numbers / 2], [numbers])
    np.testing.assert_allclose(one["edges"][:, [0, -1]], [[-1.0, 1.0], [-0.5, 0.5]])
    np.testing.assert_allclose(one["acted"].sum(-1), [[1.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(one["recorded"].sum(-1), [1.0, 1.0], rtol=1e-6)
    # The first number is evenly spread over the bins, the policy's over half of them.
    assert (one["recorded"][0] > 0).all() and (one["acted"][0, 0] > 0).sum() == 21
    # Of a member that diverged nothing is counted, and it moves no edge.
    broken = diagnostics.action_columns(
        Box((-9.0,), (9.0,)), [np.full((42, 1), np.nan, np.float32)], [numbers[:, :1]]
    )
    np.testing.assert_allclose(broken["edges"][0, [0, -1]], [-1, 1])
    assert not broken["acted"].any()


def test_a_file_of_an_older_version_opens(found: Diagnostics, tmp_path: Path) -> None:
    run = folder(tmp_path, configured(BCConfig(hidden=(4,)), spec_of(1, 1).actions))
    save(run, found)
    path = run.path / diagnostics.FILE
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored}
    for name in ("edges", "acted", "recorded"):
        del arrays[name]
    arrays["returns"] = arrays["returns"][0]
    about = json.dumps({"version": 1, "unit": "return"}).encode()
    np.savez_compressed(path, **{**arrays, "about": np.frombuffer(about, np.uint8)})
    again = load(run)
    assert again is not None and again.source == "log" and again.difference == found.difference
    np.testing.assert_array_equal(again.returns, found.returns)
    assert again.recorded.shape == (0, diagnostics.BINS)


def folder(path: Path, config: RunConfig) -> RunFolder:
    return RunFolder.create(path / "run", config)


def test_what_is_kept_comes_back(found: Diagnostics, tmp_path: Path) -> None:
    run = folder(tmp_path, configured(BCConfig(hidden=(4,)), spec_of(1, 1).actions))
    assert load(run) is None
    save(run, found)
    again = load(run)
    assert again is not None
    for name, one in found._asdict().items():
        np.testing.assert_array_equal(getattr(again, name), one, err_msg=name)


def damage(run: RunFolder, kind: str, found: Diagnostics) -> None:
    path = run.path / diagnostics.FILE
    if kind == "no archive":
        path.write_bytes(b"PK\x03\x04 and no more")
    elif kind == "an array of another length":
        save(run, found._replace(returns=found.returns[:, :3]))
    elif kind == "another member":
        save(run, found._replace(differences=found.differences[:1]))
    elif kind == "a missing array":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            kept = {name: archive.read(name) for name in names if name != "values.npy"}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in kept.items():
                archive.writestr(name, content)


@pytest.mark.parametrize(
    "kind", ["no archive", "an array of another length", "another member", "a missing array"]
)
def test_a_damaged_file_is_one_line(found: Diagnostics, tmp_path: Path, kind: str) -> None:
    run = folder(tmp_path, configured(BCConfig(hidden=(4,)), spec_of(1, 1).actions))
    path = save(run, found)
    damage(run, kind, found)
    with pytest.raises(InputError, match=r"diagnostics\.npz is damaged") as error:
        load(run)
    assert str(path) in str(error.value)


def test_what_cannot_be_written_is_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(BCConfig(hidden=(4,)), spec_of(1, 1).actions)
    state = first_state(make_bc(config.hyperparameters, 10), spec_of(1, 1))
    run = Run(folder(tmp_path, config), stacked(state, state))

    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Run, "report", broken)
    said: list[str] = []
    leave_report(run, broken, said.append)
    assert said == []  # the tests' own switch
    monkeypatch.delenv(diagnostics.SWITCH)
    leave_report(run, broken, said.append)
    assert said == ["no diagnostics: RuntimeError: no memory", "no report: RuntimeError: no memory"]
    leave_report(run, None, said.append)  # there is nothing to look at, and nothing is missing
    assert said[2:] == ["no report: RuntimeError: no memory"]

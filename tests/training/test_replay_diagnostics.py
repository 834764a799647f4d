"""What an online run's networks make of its replay buffer."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import constant, first_state, in_place, spec_of
from xql.agents.sac import SACConfig, make_sac
from xql.agents.td3 import TD3Config, make_td3
from xql.data.scaling import Scaling
from xql.runs.config import DataConfig, Member, OnlineLoop, RunConfig
from xql.training.diagnostics import Diagnostics
from xql.training.replay import Rows
from xql.training.replay_diagnostics import diagnose_replay, recent_of, returns_in

STEPS, GAMMA, BETA = 12, 0.5, 2.0


def rows_of(*episodes: tuple[int, bool]) -> Rows:
    """One member and one environment: lengths of episodes, and whether each terminated. Rewards and
    observations are 1, 2, …, over all."""
    count = sum(length for length, _ in episodes)
    numbers = np.arange(1.0, count + 1, dtype=np.float32)
    masks, following = np.ones(count, np.float32), numbers + 1
    for end, (_, terminated) in zip(
        np.cumsum([length for length, _ in episodes]) - 1, episodes, strict=True
    ):
        masks[end] = 0.0 if terminated else 1.0
        following[end] = -1.0
    columns = (numbers[:, None], np.zeros((count, 1), np.float32), numbers, masks)
    return Rows(*(one[None] for one in (*columns, following[:, None])))


def one_member(rows: Rows) -> Rows:
    return Rows(*(column[0] for column in rows))


def test_returns_end_with_their_episode() -> None:
    found = returns_in(one_member(rows_of((3, True), (2, False), (2, False))), 1, GAMMA)
    np.testing.assert_allclose(found, [1 + 1 + 0.75, 2 + 1.5, 3, 4 + 2.5, 5, 6 + 3.5, 7])


def test_environments_take_turns() -> None:
    alone = one_member(rows_of((3, True), (2, False)))
    both = Rows(*(np.repeat(column, 2, axis=0) for column in alone))
    found = returns_in(both, 2, GAMMA).reshape(-1, 2)
    np.testing.assert_allclose(found, np.stack([returns_in(alone, 1, GAMMA)] * 2, axis=1))


def configured(agent: str, config: Any, buffer: int = STEPS) -> RunConfig:
    zeros = np.zeros(1, np.float32)
    return RunConfig(
        agent=agent,
        preset="default",
        steps=STEPS,
        members=(Member(0),),
        hyperparameters=config,
        scaling=Scaling("raw", "raw", 1.0, 0.0, zeros, zeros + 1),
        data=DataConfig("world", "online", 1, spec_of(1, 1).actions),
        environment=None,
        loop=OnlineLoop(buffer=buffer),
    )


def test_the_ring_and_the_file_give_the_same_order() -> None:
    kept = rows_of((STEPS, False))
    config = configured("td3", TD3Config())
    smaller = replace(config, steps=STEPS + 5, loop=OnlineLoop(buffer=STEPS))
    ring = Rows(*(np.roll(column, 5, axis=1) for column in kept))
    for given, settings, ordered in ((kept, config, True), (ring, smaller, False)):
        found = recent_of(settings, given, oldest_first=ordered)(0)
        np.testing.assert_array_equal(found.rewards, np.arange(1, STEPS + 1))


def diagnosed(agent: str, make: Any, config: Any, **networks: float) -> Diagnostics:
    spec = spec_of(1, 1)
    state = first_state(make(config, STEPS), spec)
    constants: dict[str, Any] = {}
    for name, value in networks.items():
        held = getattr(state, name)
        numbers = (value, value) if "critic" in name else (value,)
        constants[name] = constant(getattr(held, "network", held), *numbers)
    population = jax.tree.map(lambda leaf: jnp.stack([leaf]), in_place(state, **constants))
    settings = configured(agent, config)
    recent = recent_of(settings, rows_of((6, True), (6, False)), oldest_first=True)
    return diagnose_replay(settings, population, recent, STEPS)


def test_x_sac_has_v_and_the_policy_s_own_actions() -> None:
    config = SACConfig(value="gumbel", beta=BETA, hidden=(4,), discount=GAMMA)
    found = diagnosed("x-sac", make_sac, config, critic=5.0, target_critic=5.0, value=1.0)
    assert (found.source, found.difference) == ("replay", "z = (Q − V) / β")
    np.testing.assert_allclose(found.differences, np.full((1, STEPS), 2.0))
    np.testing.assert_allclose(found.values, np.full((1, STEPS), 5.0))
    assert found.returns.shape == (1, STEPS) and found.returns[0, 5] == 6.0
    assert found.acted.shape == (1, 1, 40) and found.recorded.sum() == pytest.approx(1.0)


def test_x_td3_has_the_error_of_its_target() -> None:
    config = TD3Config(loss="bounded", beta=BETA, hidden=(4,), discount=GAMMA)
    found = diagnosed("x-td3", make_td3, config, critic=4.0, target_critic=4.0)
    assert found.difference == "z = (y − Q) / β"
    # y is r + γ · 4, and r alone where the episode terminated.
    expected = (np.arange(1, STEPS + 1) + GAMMA * 4.0 - 4.0) / BETA
    expected[5] = (6.0 - 4.0) / BETA
    np.testing.assert_allclose(found.differences[0], expected)


def test_an_agent_without_a_gumbel_loss_has_values_alone() -> None:
    found = diagnosed("td3", make_td3, TD3Config(hidden=(4,), discount=GAMMA), target_critic=3.0)
    assert found.differences.shape == (1, 0) and found.beta.shape == (0,)
    np.testing.assert_allclose(found.values, np.full((1, STEPS), 3.0))

"""A member that diverges is put back to where it was sound; no other member changes."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import line_data, same_bits, spec_of, trained
from xql.agents import TrainState, XQLConfig, make_xql, member
from xql.agents.hyperparameters import learning_rates
from xql.runs.config import Member
from xql.runs.folder import Divergence
from xql.training.divergence import DivergenceGuard, RewardRange

SPEC = spec_of(2, 1)
AGENT = make_xql(XQLConfig(hidden=(8,), batch_size=8), 100)
FINE = {"loss": np.zeros(3)}


def three(updates: int) -> TrainState:
    return trained(AGENT, SPEC, [Member(seed, {}) for seed in range(3)], line_data(), updates)


def poisoned(population: TrainState, index: int) -> TrainState:
    network = eqx.tree_at(
        lambda policy: policy.log_std,
        population.policy.network,
        population.policy.network.log_std.at[index].set(jnp.nan),
    )
    return population._replace(policy=population.policy._replace(network=network))


def rolled_back(updates: int) -> TrainState:
    """All three as a member is that was put back to where it was after so many updates."""
    population = three(updates)
    config = population.config
    smaller = {name: getattr(config, name) / 10 for name in learning_rates(config)}
    assert set(smaller) == {f"{one}_learning_rate" for one in ("value", "critic", "policy")}
    key = jax.vmap(lambda one: jax.random.fold_in(one, 2**31 - 2))(population.key)
    return population._replace(config=dataclasses.replace(config, **smaller), key=key)


def test_parameters_that_are_not_finite_roll_their_member_alone_back() -> None:
    start, later = three(1), three(5)
    guard = DivergenceGuard(start, step=1)
    restored, [(found, cause)] = guard.check(poisoned(later, 1), FINE, 5)
    assert found == Divergence(member=1, step=1, noticed=5, action="rolled back", lost=4)
    assert (cause.networks, cause.metrics, cause.update) == (("policy",), (), None)
    assert same_bits(member(restored, 1), member(rolled_back(1), 1))
    for other in (0, 2):
        assert same_bits(member(restored, other), member(three(5), other))
    assert same_bits(guard.good, restored) and guard.step == 5


def test_one_that_is_sound_with_smaller_steps_goes_on() -> None:
    guard = DivergenceGuard(three(1), step=1)
    guard.check(poisoned(three(5), 1), FINE, 5)
    population, found = guard.check(three(9), FINE, 9)
    assert found == [] and (guard.rolled_back, guard.frozen) == ({1: 1}, {})
    assert same_bits(population, three(9))


def test_a_second_divergence_freezes_for_good() -> None:
    guard = DivergenceGuard(three(1), step=1)
    population, found = guard.check(three(2), FINE, 2)
    assert found == [] and guard.notes() == {"rolled_back": {}, "frozen": {}}
    assert same_bits(population, three(2))
    infinite = {"loss": np.array([0.0, 1.0, np.inf])}
    population, [(found_first, cause)] = guard.check(three(3), infinite, 3)
    assert (found_first.action, cause.networks, cause.metrics) == ("rolled back", (), ("loss",))
    population, [(found_second, _)] = guard.check(three(6), infinite, 6)
    # It stood at its third update's step as it was after its second.
    assert found_second == Divergence(member=2, step=3, noticed=6, action="frozen", lost=4)
    # Later checks find it sound again, since it was put back; it stays frozen all the same.
    for metrics in (FINE, infinite):
        population, found = guard.check(three(9), metrics, 9)
        assert found == [] and (guard.rolled_back, guard.frozen) == ({2: 2}, {2: 3})
        assert same_bits(member(population, 2), member(rolled_back(2), 2))
        assert same_bits(member(population, 0), member(three(9), 0))


def test_a_guard_restored_from_its_copy_and_notes_goes_on_as_the_other() -> None:
    guard = DivergenceGuard(three(1), step=1)
    infinite = {"loss": np.array([np.inf, 0.0, np.inf])}
    guard.check(three(3), infinite, 3)
    guard.check(three(4), {"loss": np.array([0.0, 0.0, np.nan])}, 4)
    notes = json.loads(json.dumps(guard.notes()))
    other = DivergenceGuard(three(2), step=2)
    other.restore(guard.good, notes, guard.step)
    one, two = (each.check(poisoned(three(6), 1), infinite, 6) for each in (guard, other))
    assert same_bits(one[0], two[0]) and one[1] == two[1]
    assert [(found.member, found.action) for found, _ in two[1]] == [
        (0, "frozen"),
        (1, "rolled back"),
    ]
    assert (
        guard.notes()
        == other.notes()
        == {
            "rolled_back": {"0": 1, "1": 4, "2": 1},
            "frozen": {"0": 4, "2": 3},
        }
    )


def test_the_guard_keeps_its_own_copy() -> None:
    population = three(1)
    guard = DivergenceGuard(population, step=1)
    jax.tree.map(lambda leaf: leaf.delete(), population)
    restored, _ = guard.check(poisoned(three(4), 0), FINE, 4)
    assert same_bits(member(restored, 0), member(rolled_back(1), 0))
    # Nor does a restored one share its copy.
    good = three(1)
    guard.restore(good, {"rolled_back": {}, "frozen": {}}, 1)
    jax.tree.map(lambda leaf: leaf.delete(), good)
    restored, _ = guard.check(poisoned(three(4), 0), FINE, 4)
    assert same_bits(member(restored, 0), member(rolled_back(1), 0))


@pytest.mark.parametrize(
    ("low", "high", "critic", "expected"),
    [
        # A reward of -1 a step: returns from -100 to 0, so that 10 + 1 is the most that noise does.
        (-1.0, 0.0, [-100.0, 0.0, 10.9, 11.1, 461.0], [False, False, False, True, True]),
        # Never arriving is a return of -100, and ending at once still one of 0.
        (-1.0, -1.0, [10.9, 11.1], [False, True]),
        # 0 to 1 a step, as in DeepMind Control: at most 100.
        (0.0, 1.0, [100.0, 110.9, 111.1, 4e6], [False, False, True, True]),
        # No reward at all: a fresh network is no alarm.
        (0.0, 0.0, [0.9, 1.1], [False, True]),
        # Not finite: that is divergence, which the guard itself finds.
        (0.0, 1.0, [np.nan, -np.inf], [False, False]),
    ],
)
def test_a_critic_above_every_return_is_overestimated(
    low: float, high: float, critic: list[float], expected: list[bool]
) -> None:
    rewards = RewardRange(low, high)
    assert [rewards.overestimated(q, discount=0.99) for q in critic] == expected


@pytest.mark.parametrize(
    ("low", "high", "values", "expected"),
    [
        # Never arriving returns -100; a tenth of the span and 1 are noise.
        (-1.0, 0.0, [0.0, -100.0, -110.9, -111.1], [False, False, False, True]),
        # Rewards that are never negative: no return is below 0.
        (0.0, 1.0, [-10.9, -11.1], [False, True]),
        (0.5, 1.0, [-10.9, -11.1], [False, True]),
        # Not finite: that is divergence.
        (-1.0, 0.0, [np.nan, -np.inf], [False, False]),
    ],
)
def test_a_v_below_every_return_is_underestimated(
    low: float, high: float, values: list[float], expected: list[bool]
) -> None:
    rewards = RewardRange(low, high)
    assert [rewards.underestimated(v, discount=0.99) for v in values] == expected


def test_without_discounting_negative_rewards_have_any_return() -> None:
    assert not RewardRange(-1.0, 0.0).underestimated(-1e30, discount=1.0)
    assert RewardRange(0.0, 0.0).underestimated(-2.0, discount=1.0)


@pytest.mark.parametrize(
    ("low", "high", "bound", "expected"),
    [
        # Endless episodes of positive rewards have any return.
        (0.0, 1.0, np.inf, [False, False, False]),
        (-1.0, 1.0, np.inf, [False, False, False]),
        # Without a positive reward no return is above 0, but any is below.
        (-1.0, 0.0, 0.0, [False, False, False]),
        (0.0, 0.0, 0.0, [False, True, True]),
    ],
)
def test_without_discounting_no_finite_critic_is_above_positive_rewards(
    low: float, high: float, bound: float, expected: list[bool]
) -> None:
    rewards = RewardRange(low, high)
    assert rewards.highest_return(1.0) == bound
    assert [rewards.overestimated(q, discount=1.0) for q in (0.5, 2.0, 1e30)] == expected

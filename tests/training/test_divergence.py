"""A member that diverges is put back to where it was sound; nobody else notices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import line_data, same_bits, spec_of, trained
from xql.agents import TrainState, XQLConfig, make_xql, member
from xql.runs.config import Member
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


def test_parameters_that_are_not_finite_freeze_their_member_alone() -> None:
    start, later = three(1), three(5)
    guard = DivergenceGuard(start, step=1)
    restored, newly = guard.check(poisoned(later, 1), FINE, 5)
    assert newly == [1] and guard.frozen == {1: 1}
    assert same_bits(member(restored, 1), member(three(1), 1))
    for other in (0, 2):
        assert same_bits(member(restored, other), member(three(5), other))


def test_a_metric_that_is_not_finite_freezes_too_and_for_good() -> None:
    guard = DivergenceGuard(three(1), step=1)
    population, newly = guard.check(three(2), FINE, 2)
    assert newly == [] and guard.frozen == {}
    assert same_bits(population, three(2))
    population, newly = guard.check(three(3), {"loss": np.array([0.0, 1.0, np.inf])}, 3)
    assert newly == [2]
    # Later checks find it sound again, since it was put back; it stays frozen all the same.
    population, newly = guard.check(three(9), FINE, 9)
    assert newly == [] and guard.frozen == {2: 2}
    assert same_bits(member(population, 2), member(three(2), 2))
    assert same_bits(member(population, 0), member(three(9), 0))


def test_the_guard_keeps_its_own_copy() -> None:
    population = three(1)
    guard = DivergenceGuard(population, step=1)
    jax.tree.map(lambda leaf: leaf.delete(), population)
    restored, _ = guard.check(poisoned(three(4), 0), FINE, 4)
    assert same_bits(member(restored, 0), member(three(1), 0))


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

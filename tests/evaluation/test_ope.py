"""Fitted Q evaluation against exact policy evaluation, and against the returns of the log."""

import functools
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import line_data, random_mdp
from xql.data.dataset import Dataset, Episode
from xql.errors import InputError
from xql.evaluation.ope import (
    FQE,
    Estimate,
    OffPolicy,
    Steps,
    actions_at,
    enough_updates,
    evaluate,
    interval,
    steps_of,
    verdict,
)

STATES, ACTIONS, DISCOUNT = 5, 3, 0.8


class Table(eqx.Module):
    """Q(s, a) of one-hot s and a, as a critic of one member."""

    table: Array

    def __call__(self, observations: Array, actions: Array) -> Array:
        return jnp.einsum("...s,sa,...a->...", observations, self.table, actions)[None]


def behaviour_of(seed: int) -> np.ndarray:
    return 0.7 * random_mdp(seed)[2] + 0.3 / ACTIONS


def log_of(seed: int, episodes: int = 40, limit: int = 15) -> Dataset:
    """Play `random_mdp` from any state but the last, which terminates an episode."""
    transition, reward, _ = random_mdp(seed)
    behaviour, random = behaviour_of(seed), np.random.default_rng(seed)

    def play() -> Episode:
        states = [int(random.integers(STATES - 1))]
        actions, rewards = list[int](), list[float]()
        while len(actions) < limit and states[-1] != STATES - 1:
            state = states[-1]
            actions.append(int(random.choice(ACTIONS, p=behaviour[state])))
            rewards.append(reward[state, actions[-1]] + 0.3 * random.normal())
            states.append(int(random.choice(STATES, p=transition[state, actions[-1]])))
        ended = states[-1] == STATES - 1
        one_hot = np.eye(STATES, dtype=np.float32)[states]
        taken = np.eye(ACTIONS, dtype=np.float32)[actions]
        return Episode(one_hot, taken, np.array(rewards, np.float32), ended, not ended)

    return Dataset.from_episodes([play() for _ in range(episodes)])


def exact_value(seed: int, policy: np.ndarray) -> float:
    """What a policy [states, actions] is worth from the first states of `log_of`, by algebra."""
    transition, reward, _ = random_mdp(seed)
    under = np.einsum("sa,sat->st", policy, transition)
    under[:, -1] = 0.0
    v = np.linalg.solve(np.eye(STATES) - DISCOUNT * under, (policy * reward).sum(1))
    return float(v[:-1].mean())


def padded(steps: Steps, rows: int) -> Steps:
    """So that logs of different lengths stack; no episode holds the rows that are added."""

    def longer(column: Array) -> Array:
        return jnp.zeros((rows, *column.shape[1:])).at[: len(column)].set(column)

    of_rows = ("observations", "actions", "rewards", "masks")
    return steps._replace(**{name: longer(getattr(steps, name)) for name in of_rows})


@pytest.mark.parametrize("draws", [20, pytest.param(100, marks=pytest.mark.nightly)])
def test_the_interval_holds_the_exact_value_in_9_of_10_random_mdps(draws: int) -> None:
    settings = FQE(replicates=10, updates=400, batch_size=128, learning_rate=0.05, polyak=0.1)
    logs, rows = [log_of(seed) for seed in range(draws)], 40 * 16
    greedy = np.eye(ACTIONS, dtype=np.float32)
    policies = [greedy[np.random.default_rng(seed).integers(3, size=5)] for seed in range(draws)]
    each = [
        padded(steps_of(log, log.observations, log.actions, log.rewards, DISCOUNT), rows)
        for log in logs
    ]
    steps: Steps = jax.tree.map(lambda *one: jnp.stack(one), *each)
    actions = jnp.einsum("dra,dab->drb", steps.observations, jnp.array(policies))
    random = np.random.default_rng(0)
    episodes = random.integers(40, size=(draws, settings.replicates, 40), dtype=np.int32)
    keys = jax.random.split(jax.random.key(0), (draws, settings.replicates))
    tables = Table(jnp.zeros((draws, settings.replicates, STATES, ACTIONS)))
    values: Any = jax.vmap(functools.partial(evaluate, settings=settings))(
        keys, tables, jnp.asarray(episodes), steps, actions
    )
    found = [interval(np.asarray(one, np.float64)) for one in values]
    exact = [exact_value(seed, policy) for seed, policy in enumerate(policies)]
    held = [one.low <= truth <= one.high for one, truth in zip(found, exact, strict=True)]
    assert sum(held) >= 0.9 * draws
    # An interval that holds everything would say nothing: half of what the values differ by.
    assert np.median([one.high - one.low for one in found]) < 2 * np.std(exact)


SMALL = FQE(replicates=6, updates=600, batch_size=64, hidden=(32,), learning_rate=3e-3)


@pytest.fixture(scope="module")
def log() -> Dataset:
    return log_of(1)


@pytest.fixture(scope="module")
def data(log: Dataset) -> OffPolicy:
    return OffPolicy(log, DISCOUNT, SMALL)


def test_the_behaviour_is_worth_what_it_is(data: OffPolicy) -> None:
    found, logged = interval(data.behaviour), data.logged_return()
    assert found.low <= exact_value(1, behaviour_of(1)) <= found.high
    # Nearly every episode terminates, so that little is missing from the returns of the log.
    assert found.low <= logged.estimate <= found.high
    assert logged.low <= found.estimate <= logged.high


def test_better_and_worse_policies_are_called_so(data: OffPolicy, log: Dataset) -> None:
    reward = random_mdp(1)[1]
    best, worst = reward.argmax(1), reward.argmin(1)
    for chosen, said in ((best, "better"), (worst, "worse")):
        policy = np.eye(ACTIONS, dtype=np.float32)[chosen]
        actions = actions_at(lambda rows, policy=policy: rows @ policy, log.observations)  # type: ignore[misc]
        difference = interval(data.value(actions) - data.behaviour)
        exact = exact_value(1, policy) - exact_value(1, behaviour_of(1))
        assert difference.low <= exact <= difference.high
        assert verdict(difference) == said


def test_continuous_policies_rank_as_they_are_worth() -> None:
    # The stronger a controller pulls the point to 0, the less it pays: see `worlds.Line`.
    log = line_data(episodes=100)
    data = OffPolicy(log, 0.9, replace(SMALL, replicates=3, updates=1500))
    gains = (-5.0, -1.0, 0.0, 1.0)
    values = [data.value(np.clip(gain * log.observations[:, :1], -1, 1)) for gain in gains]
    estimates = [interval(one).estimate for one in values]
    assert estimates == sorted(estimates, reverse=True)
    assert verdict(interval(values[0] - values[-1])) == "better"
    assert verdict(interval(values[0] - data.behaviour)) == "better"


def test_the_behaviour_does_not_differ_from_itself(data: OffPolicy, log: Dataset) -> None:
    difference = interval(data.value(log.actions) - data.behaviour)
    assert difference.low <= 0.0 <= difference.high
    assert verdict(difference) == "cannot be said"
    # Paired: the same resamples, first weights and batches leave less than the values vary by.
    assert (data.value(log.actions) - data.behaviour).std() < 0.5 * data.behaviour.std()


def test_rewards_in_another_unit_give_the_same_digits(data: OffPolicy, log: Dataset) -> None:
    other = OffPolicy(log.with_metadata(rewards=log.rewards * 32), DISCOUNT, SMALL)
    np.testing.assert_array_equal(other.behaviour, 32 * data.behaviour)


def in_units(log: Dataset, low: float, high: float) -> Dataset:
    """The same log with actions from `low` to `high` in place of −1 to 1."""
    ends = (np.full(1, end, np.float32) for end in (low, high))
    actions = (log.actions + 1) / 2 * (high - low) + low
    return log.with_metadata(
        actions=actions.astype(np.float32),
        **dict(zip(("action_low", "action_high"), ends, strict=True)),
    )


@pytest.mark.parametrize(("low", "high"), [(-4.0, 4.0), (0.0, 64.0), (0.0, 2.0**-7)])
def test_actions_in_another_unit_give_the_same_values(low: float, high: float) -> None:
    log = line_data(episodes=20)
    settings = replace(SMALL, replicates=2, updates=50)
    one, other = (OffPolicy(own, 0.9, settings) for own in (log, in_units(log, low, high)))
    chosen = log.with_metadata(actions=-log.actions)
    ours, theirs = one.value(chosen.actions), other.value(in_units(chosen, low, high).actions)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3)
    np.testing.assert_allclose(other.behaviour, one.behaviour, rtol=1e-3)


def test_one_episode_has_one_replicate_and_no_interval(log: Dataset) -> None:
    one = OffPolicy(Dataset.from_episodes([log.episode(0)]), DISCOUNT, replace(SMALL, updates=5))
    assert one.settings.replicates == len(one.behaviour) == 1
    for found in (interval(one.behaviour), one.logged_return()):
        assert np.isnan([found.low, found.high]).all()
        assert str(found).endswith("[no interval]")


def test_discrete_actions_are_numbers_or_one_hot_rows(log: Dataset) -> None:
    numbers = log.with_metadata(discrete=True)
    data = OffPolicy(numbers, DISCOUNT, replace(SMALL, replicates=2, updates=5))
    chosen = actions_at(lambda rows: np.arange(len(rows)) % ACTIONS, log.observations)
    rows = np.eye(ACTIONS, dtype=np.float32)[chosen.astype(int)]
    np.testing.assert_array_equal(data.value(chosen), data.value(rows))
    with pytest.raises(InputError, match=r"an action is 3\.0, not one of 0 to 2"):
        data.value(chosen + 1)


def test_actions_of_another_shape_are_refused(data: OffPolicy, log: Dataset) -> None:
    for wrong in (log.actions[:, :1], log.actions[1:], log.actions[:, 0]):
        with pytest.raises(InputError, match="the policy's actions have shape"):
            data.value(wrong)


@pytest.mark.parametrize(("discount", "updates"), [(0.8, 5_000), (0.99, 10_000), (0.999, 100_000)])
def test_a_longer_horizon_takes_more_updates(discount: float, updates: int) -> None:
    never = Dataset.from_episodes([log_of(1).episode(0)._replace(terminated=False)])
    assert enough_updates(never, discount, 0.05) == pytest.approx(updates, abs=1)


@pytest.mark.parametrize("discount", [1.0, -0.1, float("nan")])
def test_a_discount_without_values_is_refused(log: Dataset, discount: float) -> None:
    with pytest.raises(InputError, match="discount"):
        OffPolicy(log, discount, SMALL)


def test_a_policy_that_diverged_is_refused(log: Dataset) -> None:
    with pytest.raises(InputError, match="not finite"):
        actions_at(lambda rows: np.full((len(rows), ACTIONS), np.nan), log.observations)


def test_an_interval_is_students() -> None:
    # Deviation 1 of three numbers; t of 2 degrees of freedom is 4.303 at 97.5 %.
    found = interval(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(found, (2.0, 2.0 - 4.302653, 2.0 + 4.302653), rtol=1e-6)
    assert verdict(Estimate(1.0, 0.1, 2.0)) == "better"
    assert np.isnan(interval(np.array([1.0])).low)
    assert verdict(interval(np.array([1.0]))) == "cannot be said"

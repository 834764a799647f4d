"""Support: policies near the logged actions, and far from them."""

import numpy as np
import pytest

from xql.data.dataset import Dataset, Episode
from xql.evaluation.support import Support, support

SPREAD = 0.2


@pytest.fixture(scope="module")
def log() -> Dataset:
    """Actions around a function of the state, with a Gaussian spread."""
    random = np.random.default_rng(0)

    def play() -> Episode:
        states = random.uniform(-1, 1, (21, 1)).astype(np.float32)
        actions = states[:-1] + SPREAD * random.normal(size=(20, 1)).astype(np.float32)
        return Episode(states, actions.astype(np.float32), np.zeros(20, np.float32), False, True)

    return Dataset.from_episodes([play() for _ in range(60)])


def found(log: Dataset, chosen: np.ndarray) -> Support:
    result = support(log, log.observations, log.actions, chosen.astype(np.float32))
    assert result is not None
    return result


def test_the_behaviour_policy_is_as_near_as_itself(log: Dataset) -> None:
    noise = SPREAD * np.random.default_rng(1).normal(size=log.observations.shape)
    drawn = found(log, log.observations + noise)
    assert drawn.distance == pytest.approx(1.0, abs=0.1)
    assert drawn.far == pytest.approx(0.05, abs=0.03)
    # E[w]² / E[w²] of w = e^{−d²/2} with d² = 2 z²: (1/√3)² / (1/√5).
    assert drawn.effective == pytest.approx(np.sqrt(5) / 3, abs=0.05)


def test_the_usual_action_is_nearer(log: Dataset) -> None:
    usual = found(log, log.observations)
    assert usual.distance < 0.5
    assert usual.far < 0.02
    # d² = z²: (1/√2)² / (1/√3).
    assert usual.effective == pytest.approx(np.sqrt(3) / 2, abs=0.05)


def test_actions_that_nobody_took_are_far(log: Dataset) -> None:
    other = found(log, log.observations + 10 * SPREAD)
    assert other.distance == pytest.approx(10.0, rel=0.1)
    assert other.far == 1.0
    assert other.effective < 0.05


def test_one_episode_has_nothing_to_compare_with(log: Dataset) -> None:
    one = Dataset.from_episodes([log.episode(0)])
    assert support(one, one.observations, one.actions, one.actions) is None


def choices(actions: int, logged: int, usual: float = 0.0) -> Dataset:
    """Of `actions`, the first `logged` at random, or the first of all in a share `usual`."""
    random = np.random.default_rng(0)

    def play() -> Episode:
        states = random.uniform(-1, 1, (41, 1)).astype(np.float32)
        numbers = random.integers(logged, size=40) * (random.uniform(size=40) >= usual)
        taken = np.eye(actions, dtype=np.float32)[numbers]
        return Episode(states, taken, np.zeros(40, np.float32), False, True)

    return Dataset.from_episodes([play() for _ in range(60)]).with_metadata(discrete=True)


def always(log: Dataset, number: int) -> np.ndarray:
    rows: np.ndarray = np.eye(log.action_size)[np.full(len(log.observations), number)]
    return rows


def test_a_discrete_action_that_nobody_took_is_far() -> None:
    # With so many actions hardly any of the 20 nearest states has a given one.
    log = choices(26, logged=25)
    never = found(log, always(log, 25))
    assert (never.far, never.effective) == (1.0, 0.0)
    # 1 + Σ p² beside 1 − Σ p², of p = 1/25.
    assert never.distance == pytest.approx(np.sqrt(1.04 / 0.96), rel=0.01)


def test_a_discrete_behaviour_policy_is_as_near_as_itself() -> None:
    log = choices(25, logged=25)
    random = np.random.default_rng(1)
    drawn = found(log, np.eye(25)[random.integers(25, size=len(log.observations))])
    assert drawn.far < 0.05
    assert drawn.distance == pytest.approx(1.0, abs=0.02)
    assert drawn.effective == pytest.approx(1 / 25, abs=0.02)


def test_the_usual_discrete_action_is_nearer() -> None:
    log = choices(4, logged=4, usual=0.6)
    p = np.array([0.7, 0.1, 0.1, 0.1])
    usual = found(log, always(log, 0))
    assert usual.far == 0.0
    assert usual.effective == pytest.approx(p[0], abs=0.05)
    squares = np.square(p).sum()
    exact = np.sqrt((1 - 2 * p[0] + squares) / (1 - squares))
    assert usual.distance == pytest.approx(exact, rel=0.1)


def test_the_only_discrete_action_has_no_spread() -> None:
    log = choices(3, logged=1)
    assert found(log, always(log, 0)) == Support(distance=0.0, far=0.0, effective=1.0)
    assert found(log, always(log, 2)).far == 1.0

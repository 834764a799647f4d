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

"""Probes: logged worlds so small that V, Q and the policy are known in closed form.

Each rules out one kind of defect: no reward reaches V; the observation is not seen; the discount or
the mask is wrong; the action is not seen; a time limit is taken for a termination.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from xql import train_offline
from xql.agents import member
from xql.agents.xql import XQLState
from xql.data.dataset import Dataset
from xql.runs.run import Run

OPTIONS = {
    "hidden": [32],
    "batch_size": 128,
    "polyak": 0.2,
    "value_learning_rate": 5e-3,
    "critic_learning_rate": 5e-3,
    "policy_learning_rate": 5e-3,
    "value_schedule": "cosine",
    "critic_loss": "squared",
}
STEPS = 1500


def learn(data: Dataset, folder: Path, beta: float, **options: object) -> Run:
    return train_offline(
        data,
        steps=STEPS,
        beta=beta,
        out=folder / "run",
        options=OPTIONS | options,
        evaluations=1,
        progress=False,
    )


def rows(*values: float) -> Array:
    return jnp.array(values, jnp.float32)[:, None]


def state_of(run: Run) -> XQLState:
    state: XQLState = member(run.population, 0)
    return state


def value(run: Run, observations: Array) -> np.ndarray:
    return np.asarray(state_of(run).value.network(observations))


def critic(run: Run, observations: Array, actions: Array) -> np.ndarray:
    return np.asarray(state_of(run).critic.network(observations, actions).min(0))


def steps_of(seed: int, count: int = 512) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Observations of −1 or 1 and uniform actions."""
    random = np.random.default_rng(seed)
    s = random.choice([-1.0, 1.0], size=(count, 1)).astype(np.float32)
    return random, s, random.uniform(-1.0, 1.0, (count, 1)).astype(np.float32)


def test_one_step_with_reward_one(tmp_path: Path) -> None:
    _, s, a = steps_of(0)
    ends = np.ones(len(s), bool)
    data = Dataset.from_arrays(s, a, np.ones(len(s), np.float32), ends, name="one")
    run = learn(data, tmp_path, beta=1.0)
    np.testing.assert_allclose(value(run, rows(-1.0, 1.0)), 1.0, atol=0.02)
    np.testing.assert_allclose(critic(run, rows(-1.0, 1.0), rows(0.5, -0.5)), 1.0, atol=0.03)


def test_a_reward_that_depends_on_the_observation(tmp_path: Path) -> None:
    _, s, a = steps_of(1)
    data = Dataset.from_arrays(s, a, 2 * s[:, 0], np.ones(len(s), bool), name="seen")
    run = learn(data, tmp_path, beta=1.0)
    np.testing.assert_allclose(value(run, rows(-1.0, 1.0)), [-2.0, 2.0], atol=0.04)


def test_two_steps_with_a_discount(tmp_path: Path) -> None:
    # s = 0 gives nothing and leads to s = 1, which gives 1 and ends: V = (γ, 1).
    random = np.random.default_rng(2)
    s = np.tile([[0.0], [1.0]], (256, 1)).astype(np.float32)
    a = random.uniform(-1.0, 1.0, s.shape).astype(np.float32)
    data = Dataset.from_arrays(s, a, s[:, 0], s[:, 0] == 1.0, name="two")
    run = learn(data, tmp_path, beta=1.0, discount=0.7)
    np.testing.assert_allclose(value(run, rows(0.0, 1.0)), [0.7, 1.0], atol=0.02)
    np.testing.assert_allclose(critic(run, rows(0.0, 1.0), rows(0.0, 0.0)), [0.7, 1.0], atol=0.03)


@pytest.mark.parametrize(("beta", "kappa"), [(0.5, 1.0), (2.0, 6.0)])
def test_a_reward_that_depends_on_the_action(tmp_path: Path, beta: float, kappa: float) -> None:
    # a = −1/2 gives 0 and a = 1/2 gives 1, one time in four. V is the soft maximum; the best mean
    # of the weighted likelihood is the weighted mean of the actions.
    random, s, _ = steps_of(3)
    good = random.permutation(len(s)) % 4 == 0
    a = np.where(good, 0.5, -0.5).astype(np.float32)[:, None]
    data = Dataset.from_arrays(s, a, good.astype(np.float32), np.ones(len(s), bool), name="act")
    run = learn(data, tmp_path, beta=beta, inverse_temperature=kappa)
    v = beta * np.log(0.75 + 0.25 * np.exp(1 / beta))
    np.testing.assert_allclose(value(run, rows(-1.0, 1.0)), v, atol=0.03)
    found = critic(run, rows(1.0, 1.0), rows(-0.5, 0.5))
    np.testing.assert_allclose(found, [0.0, 1.0], atol=0.03)
    weight = 0.25 * np.exp(kappa)
    mode = 0.5 * (weight - 0.75) / (weight + 0.75)
    np.testing.assert_allclose(run.policy(np.ones(1, np.float32)), [mode], atol=0.03)
    if kappa > 5:
        assert mode > 0.49  # the good action, though the data prefers the other


def cycle(length: int, episodes: int, *, terminates: bool) -> Dataset:
    """Three states in a circle, reward 1 a step, cut after `length` steps."""
    random = np.random.default_rng(4)
    place = np.arange(length + 1)
    # Where episodes truly end, the time to go must be seen; a time limit must not need it.
    seen = np.eye(length + 1 if terminates else 3, dtype=np.float32)
    s = seen[place if terminates else place % 3]
    one = np.arange(length) == length - 1
    ends = np.tile(one, episodes)
    return Dataset.from_arrays(
        np.tile(s[:-1], (episodes, 1)),
        random.uniform(-1.0, 1.0, (episodes * length, 1)).astype(np.float32),
        np.ones(episodes * length, np.float32),
        ends if terminates else np.zeros_like(ends),
        np.zeros_like(ends) if terminates else ends,
        next_observations=np.tile(s[1:], (episodes, 1)),
        name="cycle",
    )


def test_a_time_limit_is_bootstrapped_across(tmp_path: Path) -> None:
    run = learn(cycle(7, 60, terminates=False), tmp_path, beta=1.0, discount=0.8)
    np.testing.assert_allclose(value(run, jnp.eye(3)), 1 / (1 - 0.8), rtol=0.02)


def test_a_termination_is_not(tmp_path: Path) -> None:
    run = learn(cycle(4, 100, terminates=True), tmp_path, beta=1.0, discount=0.8)
    to_go = np.array([4, 3, 2, 1])
    finite = (1 - 0.8**to_go) / (1 - 0.8)
    np.testing.assert_allclose(value(run, jnp.eye(5)[:4]), finite, rtol=0.02)

"""Flow policies: the distribution that they learn, against one that no Gaussian can have."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import spec_of
from xql.agents import Batch
from xql.agents.flows import BestOfN, FlowPolicy, OneStepFlowPolicy
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.update import decay, descend, trainable
from xql.agents.xql import flow_loss

ROWS = 20_000
BEND = np.linspace(0, np.pi, 200)
UPPER = np.stack([np.cos(BEND) - 0.5, np.sin(BEND) - 0.25], 1) / 1.8
MOONS = np.concatenate([UPPER, -UPPER])
"""Two half circles, each around an end of the other."""


def moons(rows: int, seed: int) -> np.ndarray:
    """Actions at two half circles, 0.05 around them."""
    random = np.random.default_rng(seed)
    return MOONS[random.integers(len(MOONS), size=rows)] + random.normal(0, 0.05, (rows, 2))


def beyond(actions: np.ndarray) -> float:
    """The share of actions that are three deviations or more from both half circles."""
    distances = np.linalg.norm(actions[:, None] - MOONS, axis=-1).min(1)
    return float((distances > 0.15).mean())


def discrepancy(one: np.ndarray, other: np.ndarray) -> float:
    """The squared maximum mean discrepancy, by a Gaussian kernel of width 0.1."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-50 * np.square(a[:, None] - b).sum(-1)).mean())

    return kernel(one, one) + kernel(other, other) - 2 * kernel(one, other)


def fit(loss: Callable[[Any, Array, Array], Array], network: Any, steps: int) -> Any:
    """A network after Adam's steps on `loss(network, actions, key)`, batches of 256."""
    actions = jnp.float32(moons(ROWS, seed=0))

    @jax.jit
    def train(model: Any) -> Any:
        def step(model: Any, index: Array) -> tuple[Any, None]:
            rows_key, key = jax.random.split(jax.random.fold_in(jax.random.key(1), index))
            rows = actions[jax.random.randint(rows_key, (256,), 0, ROWS)]
            rate = 0.01 * decay("cosine", index, steps)
            return descend(model, lambda one: (loss(one, rows, key), {}), rate)[0], None

        return jax.lax.scan(step, model, jnp.arange(steps))[0].network

    return train(trainable(network))


def states(rows: int) -> Array:
    return jnp.ones((rows, 1))


@functools.cache
def behaviour() -> FlowPolicy:
    def loss(network: FlowPolicy, actions: Array, key: Array) -> Array:
        return network.matching_error(states(len(actions)), actions, key).mean()

    fresh = FlowPolicy.create(jax.random.key(0), spec_of(1, 2), (64, 64, 64), 20)
    trained: FlowPolicy = fit(loss, fresh, 4000)
    return trained


def test_a_flow_reproduces_two_moons_and_a_gaussian_does_not() -> None:
    seen, held_out = moons(ROWS, seed=0), moons(1000, seed=1)
    random = np.random.default_rng(2)
    gaussian = random.multivariate_normal(seen.mean(0), np.cov(seen.T), 1000)
    drawn = np.asarray(behaviour()(states(1000), jax.random.key(2)))
    assert beyond(drawn) < 0.1 < 0.3 < beyond(gaussian)
    assert discrepancy(drawn, held_out) < 0.01 < 0.025 < discrepancy(gaussian, held_out)
    # Both moons, as often as in the data.
    nearest = np.linalg.norm(drawn[:, None] - MOONS, axis=-1).argmin(1) < len(UPPER)
    assert nearest.mean() == pytest.approx(0.5, abs=0.05)


def test_the_one_step_policy_without_values_is_the_flow_s_map() -> None:
    none = jnp.zeros(256)
    start = OneStepFlowPolicy.create(jax.random.key(3), spec_of(1, 2), (64, 64, 64), 20)
    start = dataclasses.replace(start, behaviour=behaviour())

    no_values = Critic((MLP((Linear(jnp.zeros((3, 1)), jnp.zeros(1)),), ()),))

    def loss(network: OneStepFlowPolicy, actions: Array, key: Array) -> Array:
        batch = Batch(states(len(actions)), actions, none, none, states(len(actions)))
        return flow_loss(network, no_values, batch, 1.0, key)[0]

    one_step = fit(loss, start, 1500)
    noise = jax.random.normal(jax.random.key(4), (1000, 2))
    flowed = one_step.behaviour.flow(states(1000), noise)
    errors = np.linalg.norm(one_step.one_step(states(1000), noise) - flowed, axis=-1)
    assert np.median(errors) < 0.03  # the moons are 1.7 wide


def drift(speed: float, steps: int = 4, low: float = -2.0, high: float = 4.0) -> FlowPolicy:
    """v(s, x, t) = speed · s: every draw moves by that."""
    layer = Linear(jnp.array([[speed], [0.0], [0.0]]), jnp.zeros(1))
    return FlowPolicy(MLP((layer,), ()), (low,), (high,), steps)


def test_noise_flows_along_the_field_into_the_data_s_units() -> None:
    # s = 0.5 and speed 0.6: the noise moves by 0.3 within [-1, 1], by 0.9 within [-2, 4].
    noise = jax.random.normal(jax.random.key(5), (1, 1000, 1))[0]
    drawn = drift(0.6)(jnp.full((1000, 1), 0.5), jax.random.key(5))
    expected = np.clip(1.0 + 3.0 * (np.asarray(noise) + 0.3), -2.0, 4.0)
    np.testing.assert_allclose(drawn, expected, rtol=1e-5, atol=1e-6)
    assert (expected == 4.0).any() and (expected == -2.0).any()


def test_the_field_is_asked_at_the_times_of_euler_s_steps() -> None:
    # v = t: four steps sum 0, ¼, ½ and ¾, over four.
    layer = Linear(jnp.array([[0.0], [0.0], [1.0]]), jnp.zeros(1))
    policy = FlowPolicy(MLP((layer,), ()), (-1.0,), (1.0,), 4)
    flowed = policy.flow(jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    assert float(flowed[0, 0]) == pytest.approx(0.375)


def test_without_a_key_every_policy_is_a_function_of_the_state() -> None:
    flow, s = drift(0.6), jnp.array([[0.1], [0.2], [0.1]])
    one_step = OneStepFlowPolicy(flow, MLP((Linear(jnp.ones((2, 1)), jnp.zeros(1)),), ()))

    @jax.jit
    def act(policy: Any) -> tuple[Array, ...]:
        draws = policy(jnp.full((50, 1), 0.1), jax.random.key(0))
        return policy(s), policy(s[1]), draws

    for policy in (flow, one_step, BestOfN(flow, NEAR_ONE, 4)):
        together, single, draws = act(policy)
        np.testing.assert_array_equal(together[0], together[2])
        np.testing.assert_allclose(together[1], single, rtol=1e-6)
        assert float(together[0, 0]) != float(together[1, 0])
        assert len(np.unique(draws)) > 10
        assert (draws >= -2.0).all() and (draws <= 4.0).all()
        if policy is flow:  # z = 0 stands at the centre of [-2, 4], and the field adds to it
            np.testing.assert_allclose(single, 1.0 + 3.0 * 0.6 * 0.2, rtol=1e-6)


class NearOne(Critic):
    """Two critics: one likes high actions, the other, which is the smaller, those near 1."""

    def __call__(self, observations: Array, actions: Array) -> Array:
        near_one = -jnp.abs(actions[..., 0] - 1.0)
        return jnp.stack([near_one, 100.0 + actions[..., 0]])


NEAR_ONE = NearOne(())


def test_the_best_of_n_is_the_candidate_with_the_highest_min_q() -> None:
    flow, s = drift(0.6), jnp.linspace(-1, 1, 12).reshape(3, 4, 1)
    for key in (None, jax.random.key(7)):
        candidates = np.asarray(flow.candidates(s, key, 5))
        assert candidates.shape == (5, 3, 4, 1)
        nearest = np.abs(candidates - 1.0).argmin(0)[None]
        expected = np.take_along_axis(candidates, nearest, 0)[0]
        np.testing.assert_array_equal(BestOfN(flow, NEAR_ONE, 5)(s, key), expected)
        assert len(np.unique(nearest)) > 1 or key is None


def test_the_best_of_one_is_the_behaviour_policy() -> None:
    flow, s = drift(0.6), jnp.linspace(-1, 1, 12).reshape(12, 1)
    one = BestOfN(flow, NEAR_ONE, 1)
    for key in (None, jax.random.key(8)):
        np.testing.assert_array_equal(one(s, key), flow(s, key))

"""Behaviour cloning: the most likely Gaussian, and nothing but the data's actions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import first_state, one_update, random_batch, same_bits, spec_of
from xql.agents import Agent, Batch, BCConfig, make_bc
from xql.agents.bc import BCState
from xql.agents.networks import MLP, Linear
from xql.agents.policies import GaussianPolicy
from xql.agents.update import trainable

SPEC = spec_of(1, 1)
AGENT = make_bc(BCConfig(hidden=(8,), batch_size=4, policy_schedule="constant"), 10)


@functools.cache
def start() -> BCState:
    state: BCState = first_state(AGENT, SPEC)
    return state


@functools.partial(jax.jit, static_argnames=("agent", "updates"))
def run(agent: Agent, state: BCState, batch: Batch, updates: int) -> BCState:
    result: BCState = jax.lax.fori_loop(
        0, updates, lambda _, one: agent.update(one, batch)[0], state
    )
    return result


def test_it_finds_the_most_likely_gaussian() -> None:
    # Actions N(0.5, 0.2²) at s = −1 and N(−0.3, 0.2²) at s = 1; the shared deviation is 0.2.
    random = np.random.default_rng(0)
    s = np.repeat([[-1.0], [1.0]], 128, axis=0)
    a = np.where(s < 0, 0.5, -0.3) + 0.2 * random.normal(size=s.shape)
    columns = (s, a, np.zeros(256), np.ones(256), s)
    batch = Batch(*(jnp.array(column, jnp.float32) for column in columns))
    agent = make_bc(BCConfig(hidden=(16,), policy_learning_rate=0.02), 600)
    policy = run(agent, first_state(agent, SPEC), batch, 600).policy.network
    means = [a[s < 0].mean(), a[s > 0].mean()]
    modes = np.asarray(policy.mean(jnp.array([[-1.0], [1.0]])))[:, 0]
    np.testing.assert_allclose(modes, means, atol=0.005)
    residuals = a - np.where(s < 0, *means)
    assert float(jnp.exp(policy.log_std)[0]) == pytest.approx(residuals.std(), rel=0.02)


def test_it_has_no_other_networks_and_does_not_see_rewards() -> None:
    batch = random_batch(4, SPEC)
    assert BCState._fields == ("policy", "key", "step", "config")
    after, metrics = one_update(AGENT, start(), batch)
    other, _ = one_update(AGENT, start(), batch._replace(rewards=100 * batch.rewards))
    assert same_bits(after, other)
    assert set(metrics) == {"policy_loss", "log_prob"}
    assert float(metrics["policy_loss"]) == -float(metrics["log_prob"])
    assert not same_bits(after.policy, start().policy)


def test_a_sample_that_is_there_twice_counts_twice() -> None:
    # (a, a, b, b) against (a, a, a, b): the means of their gradients, 1/2 and 1/2 or 3/4 and 1/4.
    base = random_batch(4, SPEC)

    def gradient(*rows: int) -> Array:
        batch = jax.tree.map(lambda column: column[jnp.array(rows)], base)
        after, _ = one_update(AGENT, start(), batch)
        leaves = jax.tree.leaves(after.policy.optimizer.mu)
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    a, b = gradient(0, 0, 0, 0), gradient(1, 1, 1, 1)
    np.testing.assert_allclose(gradient(0, 0, 1, 1), (a + b) / 2, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(gradient(0, 0, 0, 1), (3 * a + b) / 4, rtol=1e-3, atol=1e-6)
    assert float(jnp.abs(a - b).max()) > 0.01


def test_the_deviation_comes_back_from_its_bound() -> None:
    # π(s) = 0. On the lower bound with actions far from the mean, one step must widen the policy.
    still = MLP((Linear(jnp.zeros((1, 1)), jnp.zeros(1)),), ())
    policy = trainable(GaussianPolicy(still, jnp.array([-5.0]), (-1.0,), (1.0,)))
    state = start()._replace(policy=policy)
    config = jax.tree.map(lambda _: jnp.float32(0.1), state.config)
    batch = random_batch(4, SPEC)._replace(actions=jnp.array([[-0.9], [0.9], [-0.9], [0.9]]))
    after, _ = one_update(AGENT, state._replace(config=config), batch)
    assert float(after.policy.network.log_std[0]) == pytest.approx(-4.9, abs=1e-4)
    # And with all actions on the mean it stays on the bound.
    mean = batch._replace(actions=jnp.zeros((4, 1)))
    after, _ = one_update(AGENT, state._replace(config=config), mean)
    assert float(after.policy.network.log_std[0]) == -5.0

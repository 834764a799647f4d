"""AWAC: how the weights sum, what the backup is, and the settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import constant, first_state, in_place, one_update, random_batch
from xql.agents import AWACConfig, Spec, awac, steps
from xql.agents.awac import softmax_weights
from xql.agents.networks import MLP, Critic, Linear
from xql.presets import settings

SPEC = Spec(3, (-1.0, -2.0), (1.0, 2.0))
AGENT = awac(AWACConfig(hidden=(8,), batch_size=6), 10)


def test_softmax_weights_sum_to_the_batch_by_hand() -> None:
    # A/λ = (0, log 2, log 5): odds 1 : 2 : 5, so that three weights are 3/8, 6/8 and 15/8.
    advantages = 0.5 * jnp.log(jnp.array([1.0, 2.0, 5.0]))
    weights = softmax_weights(advantages, jnp.float32(0.5))
    np.testing.assert_allclose(weights, [3 / 8, 6 / 8, 15 / 8], rtol=1e-5)
    assert float(weights.sum()) == pytest.approx(3.0, rel=1e-6)
    # Where one action is far better than all others, it has the whole sum, and nothing overflows.
    far = softmax_weights(jnp.array([-1e6, 0.0, 1e6]), jnp.float32(0.5))
    np.testing.assert_array_equal(far, [0.0, 0.0, 3.0])


def test_exponential_weights_do_not_and_are_capped() -> None:
    # λ = 1/4: e^{4A}, at most 50.
    advantages = jnp.array([0.5, -1.0, 2.0])
    weights = steps.advantage_weights(advantages, 1 / jnp.float32(0.25), jnp.float32(50.0))
    np.testing.assert_allclose(weights, [np.exp(2.0), np.exp(-4.0), 50.0], rtol=1e-5)


def test_the_advantage_is_over_the_policy_s_own_action() -> None:
    # Q(s, a) = 2 a₀ and a policy that always takes a₀ = tanh(.5) (its noise is made nothing), while
    # the data takes a₀ = −.5: A = −1 − 2 tanh .5, and the weight e^{A/λ} with λ = 2.
    state = first_state(AGENT, SPEC)
    slope = jnp.zeros((5, 1)).at[3, 0].set(2.0)
    critic = Critic(tuple(MLP((Linear(slope, jnp.zeros(1)),), ()) for _ in range(2)))
    policy = constant(state.policy.network, 0.5, 0.0)
    policy = type(policy)(policy.mlp, jnp.full(2, -40.0), policy.low, policy.high)
    state = state._replace(
        policy=steps.trainable(policy),
        critic=steps.trainable(critic),
        target_critic=critic,
        hyper=state.hyper._replace(
            temperature=jnp.float32(2.0), critic_learning_rate=jnp.float32(0.0)
        ),
    )
    batch = random_batch(6, SPEC)._replace(actions=jnp.tile(jnp.array([-0.5, 1.0]), (6, 1)))
    _, metrics = one_update(AGENT, state, batch)
    advantage = -1 - 2 * np.tanh(0.5)
    assert float(metrics["advantage"]) == pytest.approx(advantage, rel=1e-4)
    assert float(metrics["weight"]) == pytest.approx(np.exp(advantage / 2), rel=1e-4)
    # The backup asks the same policy: r + γ·mask·2 tanh(.5), against Q = −1.
    targets = np.asarray(batch.rewards + 0.99 * batch.masks * 2 * np.tanh(0.5))
    by_hand = 2 * (np.square(-1 - targets) / 2).mean()
    assert float(metrics["critic_loss"]) == pytest.approx(by_hand, rel=1e-4)


def test_the_backup_takes_the_smaller_target_critic_and_the_mask() -> None:
    state = first_state(AGENT, SPEC)
    state = in_place(
        state._replace(hyper=state.hyper._replace(discount=jnp.float32(0.9))),
        critic=constant(state.critic.network, 3.0, 3.0),
        target_critic=constant(state.target_critic, 5.0, 2.0),
    )
    batch = random_batch(6, SPEC)._replace(
        rewards=jnp.array([1.0, 2.0] * 3), masks=jnp.array([0.0, 1.0] * 3)
    )
    _, metrics = one_update(AGENT, state, batch)
    # Targets 1 and 3.8, Q = 3: errors 2 and −.8.
    assert float(metrics["critic_loss"]) == pytest.approx(2 * (4 + 0.64) / 4, rel=1e-5)


@pytest.mark.parametrize("kind", ["exponential", "softmax"])
def test_equal_advantages_are_behaviour_cloning(kind: str) -> None:
    agent = awac(AWACConfig(hidden=(8,), batch_size=6, weights=kind), 10)
    state, batch = first_state(agent, SPEC), random_batch(6, SPEC)
    still = state._replace(hyper=state.hyper._replace(critic_learning_rate=jnp.float32(0.0)))
    still = in_place(still, critic=constant(state.critic.network, 1.0, 1.0))
    after, metrics = one_update(agent, still, batch)
    assert float(metrics["weight"]) == pytest.approx(1.0, rel=1e-6)
    cloned, _ = jax.jit(steps.fit_policy_weighted)(
        state.policy,
        batch.observations,
        batch.actions,
        jnp.ones(6),
        learning_rate=state.hyper.policy_learning_rate,
    )
    for a, b in zip(jax.tree.leaves(after.policy), jax.tree.leaves(cloned), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


# CORL's configurations: λ and the reward scaling.
GOLDEN = {
    "hopper-medium-v2": (0.3333, "raw"),
    "antmaze-large-play-v2": (0.1, "minus_one"),
    "door-human-v1": (0.1, "raw"),
    "my-data": (1.0, "raw"),
}


@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_preset_is_the_published_configuration(dataset: str) -> None:
    temperature, rewards = GOLDEN[dataset]
    chosen = settings("awac", "default", dataset)
    assert vars(chosen.config) == {
        "temperature": temperature,
        "weight_cap": 100.0,
        "discount": 0.99,
        "polyak": 0.005,
        "critic_learning_rate": 3e-4,
        "policy_learning_rate": 3e-4,
        "hidden": (256, 256, 256),
        "critics": 2,
        "critic_layer_norm": False,
        "weights": "exponential",
        "schedule": "constant",
        "batch_size": 256,
    }
    assert (chosen.rewards, chosen.observations) == (rewards, "standardised")

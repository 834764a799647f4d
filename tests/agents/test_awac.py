"""AWAC: what the advantage is over, what the backup is, and the settings."""

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
import pytest

from worlds import assert_close, constant, first_state, in_place, one_update, random_batch
from xql.agents import AWACConfig, BCConfig, EnvironmentSpec, make_awac, make_bc
from xql.agents.awac import AWACState
from xql.agents.bc import BCState
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.policies import GaussianPolicy
from xql.agents.update import trainable
from xql.data.actions import box
from xql.presets import resolve

ACTIONS = box([-1.0, -2.0], [1.0, 2.0])
SPEC = EnvironmentSpec(3, ACTIONS)
Weights = Literal["exponential", "softmax"]
AGENT = make_awac(AWACConfig(hidden=(8,), batch_size=6), 10)


@functools.cache
def start() -> AWACState:
    state: AWACState = first_state(AGENT, SPEC)
    return state


def swept(state: AWACState, **numbers: float) -> AWACState:
    changes = {name: jnp.float32(number) for name, number in numbers.items()}
    return state._replace(config=dataclasses.replace(state.config, **changes))


@pytest.mark.parametrize("kind", ["exponential", "softmax"])
def test_the_advantage_is_over_the_policy_s_own_action(kind: Weights) -> None:
    # Q(s, a) = 2 a₀ and a policy that always takes a₀ = tanh(.5) (its noise is made nothing), while
    # the data takes a₀ = −.5, or .5 in the last row: A = ∓1 − 2 tanh .5, with λ = 2.
    agent = make_awac(dataclasses.replace(AGENT.config, hidden=(), weights=kind), 10)
    slope = jnp.zeros((5, 1)).at[3, 0].set(2.0)
    critic = Critic(tuple(MLP((Linear(slope, jnp.zeros(1)),), ()) for _ in range(2)))
    output = MLP((Linear(jnp.zeros((3, 2)), jnp.array([0.5, 0.0])),), ())
    policy = GaussianPolicy(output, jnp.full(2, -40.0), ACTIONS.low, ACTIONS.high)
    state = swept(start(), temperature=2.0, critic_learning_rate=0.0)
    state = state._replace(
        policy=trainable(policy),
        critic=trainable(critic),
        target_critic=critic,
        config=dataclasses.replace(state.config, hidden=(), weights=kind),
    )
    actions = jnp.tile(jnp.array([-0.5, 1.0]), (6, 1)).at[5, 0].set(0.5)
    batch = random_batch(6, SPEC)._replace(actions=actions)
    _, metrics = one_update(agent, state, batch)
    advantages = np.array([-1.0] * 5 + [1.0]) - 2 * np.tanh(0.5)
    assert float(metrics["advantage"]) == pytest.approx(advantages.mean(), rel=1e-4)
    weights = np.exp(advantages / 2)
    if kind == "softmax":
        weights *= 6 / weights.sum()
    assert float(metrics["weight"]) == pytest.approx(weights.mean(), rel=1e-4)
    # log π is far below 0 here, where the last row's action is as far from π's as no other.
    unit = np.asarray(actions) / [1.0, 2.0] - [np.tanh(0.5), 0.0]
    z = unit * np.exp(40.0)
    log_prob = -(z**2 / 2 - 40 + np.log(2 * np.pi) / 2).sum(1)
    assert float(metrics["policy_loss"]) == pytest.approx(-(weights * log_prob).mean(), rel=1e-3)
    # The backup evaluates the same policy: r + γ·mask·2 tanh(.5), against Q = ∓1.
    targets = np.asarray(batch.rewards + 0.99 * batch.masks * 2 * np.tanh(0.5))
    by_hand = 2 * (np.square(2 * np.asarray(actions)[:, 0] - targets) / 2).mean()
    assert float(metrics["critic_loss"]) == pytest.approx(by_hand, rel=1e-4)


def test_the_backup_takes_the_smaller_target_critic_and_the_mask() -> None:
    state = in_place(
        swept(start(), discount=0.9),
        critic=constant(start().critic.network, 3.0, 3.0),
        target_critic=constant(start().target_critic, 5.0, 2.0),
    )
    batch = random_batch(6, SPEC)._replace(
        rewards=jnp.array([1.0, 2.0] * 3), masks=jnp.array([0.0, 1.0] * 3)
    )
    _, metrics = one_update(AGENT, state, batch)
    # Targets 1 and 3.8, Q = 3: errors 2 and −.8.
    assert float(metrics["critic_loss"]) == pytest.approx(2 * (4 + 0.64) / 4, rel=1e-5)


@pytest.mark.parametrize("kind", ["exponential", "softmax"])
def test_equal_advantages_are_behaviour_cloning(kind: Weights) -> None:
    agent = make_awac(dataclasses.replace(AGENT.config, weights=kind), 10)
    state = in_place(
        swept(start(), critic_learning_rate=0.0),
        critic=constant(start().critic.network, 1.0, 1.0),
    )
    state = state._replace(config=dataclasses.replace(state.config, weights=kind))
    batch = random_batch(6, SPEC)
    after, metrics = one_update(agent, state, batch)
    assert float(metrics["weight"]) == pytest.approx(1.0, rel=1e-6)
    config = BCConfig(hidden=(8,), batch_size=6, policy_schedule="constant")
    cloner = BCState(state.policy, state.key, state.step, config)
    cloned, _ = one_update(make_bc(config, 10), cloner, batch)
    assert_close(after.policy, cloned.policy, rtol=1e-4, atol=1e-7)


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
    chosen = resolve("awac", "default", dataset)
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

"""TD3+BC: λ, the delay, the backup and the published settings, in numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import (
    constant,
    first_gradient,
    first_state,
    in_place,
    one_update,
    random_batch,
    same_bits,
)
from xql.agents import Batch, EnvironmentSpec, TD3BCConfig, make_td3_bc
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.policies import DeterministicPolicy
from xql.agents.td3_bc import TD3BCState
from xql.data.actions import box
from xql.presets import resolve

ACTIONS = box([-1.0, -2.0], [1.0, 2.0])
SPEC = EnvironmentSpec(3, ACTIONS)
# Every network one linear layer.
AGENT = make_td3_bc(TD3BCConfig(hidden=(), batch_size=6), 10)


@functools.cache
def start() -> TD3BCState:
    state: TD3BCState = first_state(AGENT, SPEC)
    return state


def swept(state: TD3BCState, **numbers: float) -> TD3BCState:
    changes = {name: jnp.float32(number) for name, number in numbers.items()}
    return state._replace(config=dataclasses.replace(state.config, **changes))


def critic_of(*members: dict[int, float]) -> Critic:
    """For each member the weights of (s₀, s₁, s₂, a₀, a₁, 1) by place; the others are 0."""

    def linear(weights: dict[int, float]) -> MLP:
        row = np.zeros(6, np.float32)
        row[list(weights)] = list(weights.values())
        return MLP((Linear(jnp.array(row[:5, None]), jnp.array(row[5:])),), ())

    return Critic(tuple(linear(one) for one in members))


ACTION, CONSTANT = 3, 5
FAR = {CONSTANT: 100.0}  # a second critic, which the policy must not see


def still() -> DeterministicPolicy:
    """π(s) = 0; its slope in the bias is half the range of each action."""
    mlp = MLP((Linear(jnp.zeros((3, 2)), jnp.zeros(2)),), ())
    return DeterministicPolicy(mlp, ACTIONS.low, ACTIONS.high)


def rows(first: list[float], second: list[float]) -> Batch:
    """Six rows, whose two actions repeat these numbers."""
    actions = [jnp.tile(jnp.array(one), 6 // len(one)) for one in (first, second)]
    return random_batch(6, SPEC)._replace(actions=jnp.stack(actions, axis=1))


def slope_of(critic: Critic, batch: Batch, alpha: float = 2.5) -> np.ndarray:
    """The gradient of the policy's loss in its two biases, at a second update."""
    state = in_place(
        swept(start(), value_weight=alpha, critic_learning_rate=0.0), critic=critic, policy=still()
    )
    after, _ = one_update(AGENT, state._replace(step=jnp.int32(1)), batch)
    slopes: np.ndarray = first_gradient(after.policy).mlp.layers[-1].bias
    return slopes


def test_lambda_is_alpha_over_the_mean_of_q_by_hand() -> None:
    # π = 0, so Q₁ = −4 with slope 2 in a₀; λ = 2.5/4, and the value's slope −λ · 2 = −1.25. The
    # data's a₀ of .5 and .1 pull with 2 · mean(0 − a₀) / 2 = −.3, over d = 2 dimensions.
    critic = critic_of({CONSTANT: -4.0, ACTION: 2.0}, FAR)
    found = slope_of(critic, rows([0.5, 0.1], [0.0]))
    np.testing.assert_allclose(found, [-1.55, 0.0], rtol=1e-5, atol=1e-6)


def test_lambda_takes_the_mean_of_absolute_values() -> None:
    # Q₁ = s₀ here, by the observations 3 and −1: |Q| has mean 2, Q itself mean 1. The metrics of a
    # second update count twice.
    batch = rows([0.0], [0.0])
    batch = batch._replace(
        observations=batch.observations.at[:, 0].set(jnp.tile(jnp.array([3.0, -1.0]), 3))
    )
    state = in_place(
        swept(start(), critic_learning_rate=0.0), critic=critic_of({0: 1.0}, FAR), policy=still()
    )
    _, metrics = one_update(AGENT, state._replace(step=jnp.int32(1)), batch)
    assert float(metrics["policy_loss"]) == pytest.approx(2 * -2.5 * 1 / 2, rel=1e-5)
    assert float(metrics["bc_distance"]) == 0.0


def test_the_scale_of_rewards_does_not_matter_and_alpha_does() -> None:
    batch = rows([0.5, 0.1], [0.0])
    small = slope_of(critic_of({CONSTANT: -0.04, ACTION: 0.02}, FAR), batch)
    large = critic_of({CONSTANT: -4000.0, ACTION: 2000.0}, FAR)
    np.testing.assert_allclose(small, slope_of(large, batch), rtol=1e-5, atol=1e-6)
    cloning = slope_of(large, batch, alpha=0.0)
    np.testing.assert_allclose(cloning, [-0.3, 0.0], rtol=1e-5, atol=1e-6)


def test_a_critic_of_zero_divides_nothing_by_zero() -> None:
    found = slope_of(critic_of({}, FAR), rows([0.5], [0.0]))
    np.testing.assert_allclose(found, [-0.5, 0.0], rtol=1e-5, atol=1e-6)


def test_distances_are_in_halves_of_the_action_range() -> None:
    # Bounds ±2 for a₁: 1 is .5 away from 0 in half ranges, so the slope is −2 · .5 / 2.
    found = slope_of(critic_of({CONSTANT: 1.0}, FAR), rows([0.0], [1.0]))
    np.testing.assert_allclose(found, [0.0, -0.5], rtol=1e-5, atol=1e-6)


def test_the_backup_by_hand() -> None:
    # Targets 1 and 2 + .9 · 2 = 3.8 at masks 0 and 1; Q = 3: errors 2 and −.8.
    state = in_place(
        swept(start(), discount=0.9),
        critic=constant(start().critic.network, 3.0, 3.0),
        target_critic=constant(start().target_critic, 5.0, 2.0),
    )
    batch = random_batch(6, SPEC)._replace(
        rewards=jnp.array([1.0, 2.0] * 3), masks=jnp.array([0.0, 1.0] * 3)
    )
    _, metrics = one_update(AGENT, state, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(2 * (4 + 0.64) / 4, rel=1e-5)


def test_the_backup_sees_the_target_policy_s_action_with_noise_within_its_limits() -> None:
    # Q̄ = a₀ and Q = 0: each target is γ (.2 · noise, cut at ±.5), for the noise that the key gives.
    # The online policy is elsewhere, where it must not be seen.
    state = in_place(
        start(),
        critic=critic_of({}, {}),
        target_critic=critic_of({ACTION: 1.0}, {ACTION: 1.0}),
        target_policy=still(),
        policy=constant(start().policy.network, 1.0, 1.0),
    )
    batch = random_batch(6, SPEC)._replace(rewards=jnp.zeros(6), masks=jnp.ones(6))
    for seed in range(40):
        key = jax.random.key(seed)
        noise = 0.2 * np.asarray(jax.random.normal(jax.random.split(key)[1], (6, 2)))[:, 0]
        targets = 0.99 * np.clip(noise, -0.5, 0.5)
        _, metrics = one_update(AGENT, state._replace(key=key), batch)
        assert float(metrics["bellman_error"]) == pytest.approx(np.abs(targets).mean(), rel=1e-4)
        if np.abs(noise).max() > 0.5:
            return
    raise AssertionError("no noise reached its limit")


def test_policy_and_targets_move_at_every_second_update() -> None:
    state, batch = start(), random_batch(6, SPEC)
    late = ("policy", "target_policy", "target_critic")
    seen = []
    for _ in range(4):
        after, metrics = one_update(AGENT, state, batch)
        assert not same_bits(state.critic, after.critic)
        moved = {name: not same_bits(getattr(state, name), getattr(after, name)) for name in late}
        assert len(set(moved.values())) == 1
        seen.append((moved["policy"], set(metrics), float(metrics["bc_distance"])))
        state = after
    assert [moved for moved, _, _ in seen] == [False, True, False, True]
    assert len({frozenset(names) for _, names, _ in seen}) == 1
    assert all((distance > 0) == moved for moved, _, distance in seen)


def test_the_policy_follows_the_first_critic() -> None:
    still, batch = swept(start(), critic_learning_rate=0.0), random_batch(6, SPEC)
    still = still._replace(step=jnp.int32(1))
    first, second = still.critic.network.mlps
    other = in_place(still, critic=Critic((first, jax.tree.map(lambda x: x - 3.0, second))))
    swapped = in_place(still, critic=Critic((second, first)))
    policies = [one_update(AGENT, one, batch)[0].policy for one in (still, other, swapped)]
    assert same_bits(policies[0], policies[1])
    assert not same_bits(policies[0], policies[2])


GOLDEN = {
    "hopper-medium-v2": "raw",
    "antmaze-umaze-v2": "minus_one",
    "pen-human-v1": "raw",
}


@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_preset_is_the_published_configuration(dataset: str) -> None:
    chosen = resolve("td3-bc", "default", dataset)
    assert vars(chosen.config) == {
        "value_weight": 2.5,
        "discount": 0.99,
        "polyak": 0.005,
        "critic_learning_rate": 3e-4,
        "policy_learning_rate": 3e-4,
        "hidden": (256, 256),
        "critics": 2,
        "critic_layer_norm": False,
        "policy_delay": 2,
        "exploration_noise": 0.1,
        "target_noise": 0.2,
        "target_noise_clip": 0.5,
        "schedule": "constant",
        "batch_size": 256,
    }
    assert (chosen.rewards, chosen.observations) == (GOLDEN[dataset], "standardised")

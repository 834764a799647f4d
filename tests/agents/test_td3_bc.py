"""TD3+BC: λ, the delay, the backup and the published settings, in numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import constant, first_state, in_place, one_update, random_batch, same_bits
from xql.agents import Spec, TD3BCConfig, TrainState, steps, td3_bc
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.policies import DeterministicPolicy
from xql.presets import settings

SPEC = Spec(3, (-1.0, -2.0), (1.0, 2.0))
AGENT = td3_bc(TD3BCConfig(hidden=(8,), batch_size=6, target_noise=0.0), 10)

fit_policy = jax.jit(steps.fit_policy_cloned)


def still_policy(bound: float = 1.0) -> DeterministicPolicy:
    """π(s) = bound · tanh(0), whatever s of size 1; its slope in the bias is the bound."""
    return DeterministicPolicy(
        MLP((Linear(jnp.zeros((1, 1)), jnp.zeros(1)),), ()), (-bound,), (bound,)
    )


def sloped_critic(*members: tuple[float, float]) -> Critic:
    """Q(s, a) = intercept + slope · a, one (intercept, slope) per member."""
    return Critic(
        tuple(
            MLP((Linear(jnp.array([[0.0], [slope]]), jnp.array([intercept])),), ())
            for intercept, slope in members
        )
    )


def slope_of(critic: Critic, actions: list[float], bound: float = 1.0, alpha: float = 2.5) -> float:
    """The slope of the policy's loss in its bias, read from Adam's first moment."""
    policy, _ = fit_policy(
        steps.trainable(still_policy(bound)),
        critic,
        jnp.zeros((len(actions), 1)),
        jnp.array(actions)[:, None],
        value_weight=jnp.float32(alpha),
        cloning_weight=1.0,
        learning_rate=jnp.float32(0.1),
    )
    return float(policy.optimizer.mu.mlp.layers[-1].bias[0]) / 0.1


def test_lambda_is_alpha_over_the_mean_of_q_by_hand() -> None:
    # π = 0, so Q = −4 with slope 2, λ = 2.5/4, and the value's slope −λ · 2 = −1.25. The data's
    # actions .5 and .1 pull with 2 · mean(0 − a) = −.6.
    assert slope_of(sloped_critic((-4.0, 2.0)), [0.5, 0.1]) == pytest.approx(-1.85, rel=1e-5)


def test_lambda_takes_the_mean_of_absolute_values() -> None:
    # Q = s here, by the data's own observations 3 and −1: |Q| has mean 2, Q itself mean 1.
    critic = Critic((MLP((Linear(jnp.array([[1.0], [0.0]]), jnp.zeros(1)),), ()),))
    _, metrics = fit_policy(
        steps.trainable(still_policy()),
        critic,
        jnp.array([[3.0], [-1.0]]),
        jnp.zeros((2, 1)),
        value_weight=jnp.float32(2.5),
        cloning_weight=1.0,
        learning_rate=jnp.float32(0.1),
    )
    assert float(metrics["policy_loss"]) == pytest.approx(-2.5 * 1 / 2, rel=1e-5)


def test_the_scale_of_rewards_does_not_matter_and_alpha_does() -> None:
    actions = [0.5, 0.1]
    small, large = sloped_critic((-0.04, 0.02)), sloped_critic((-4000.0, 2000.0))
    assert slope_of(small, actions) == pytest.approx(slope_of(large, actions), rel=1e-5)
    assert slope_of(small, actions, alpha=0.0) == pytest.approx(-0.6, rel=1e-5)  # cloning


def test_a_critic_of_zero_divides_nothing_by_zero() -> None:
    assert slope_of(sloped_critic((0.0, 0.0)), [0.5]) == pytest.approx(-1.0, rel=1e-5)


def test_distances_are_in_halves_of_the_action_range() -> None:
    # Bounds ±2: a = 1 is .5 away from 0, so its square is .25 and the slope −2 · .5.
    assert slope_of(sloped_critic((1.0, 0.0)), [1.0], bound=2.0) == pytest.approx(-1.0, rel=1e-5)


def ready(state: TrainState, step: int = 0) -> TrainState:
    """Target critics 5 and 2, critics 3, γ = .9."""
    state = state._replace(hyper=state.hyper._replace(discount=jnp.float32(0.9)))
    return in_place(
        state._replace(step=jnp.int32(step)),
        critic=constant(state.critic.network, 3.0, 3.0),
        target_critic=constant(state.target_critic, 5.0, 2.0),
    )


def test_the_backup_by_hand() -> None:
    # Targets 1 and 2 + .9 · 2 = 3.8 at masks 0 and 1; Q = 3: errors 2 and −.8.
    batch = random_batch(6, SPEC)._replace(
        rewards=jnp.array([1.0, 2.0] * 3), masks=jnp.array([0.0, 1.0] * 3)
    )
    _, metrics = one_update(AGENT, ready(first_state(AGENT, SPEC)), batch)
    assert float(metrics["critic_loss"]) == pytest.approx(2 * (4 + 0.64) / 4, rel=1e-5)


def test_the_target_policy_s_action_is_blurred_within_its_limits() -> None:
    policy = first_state(AGENT, SPEC).policy.network
    policy = constant(policy, 0.0, 0.0)
    states = jnp.zeros((4000, 3))
    scaled = np.asarray(policy.sample(states, jax.random.key(0), 0.2, 0.5)) / [1.0, 2.0]
    # A normal that is held at 2.5 of its deviations keeps .9776 of its variance.
    assert scaled.std(0) == pytest.approx([0.2 * 0.9776**0.5] * 2, rel=0.03)
    assert np.abs(scaled).max() == pytest.approx(0.5, abs=1e-6)


def test_policy_and_targets_move_at_every_second_update() -> None:
    state, batch = first_state(AGENT, SPEC), random_batch(6, SPEC)
    late = ("policy", "target_policy", "target_critic")
    seen = []
    for _ in range(4):
        after, metrics = one_update(AGENT, state, batch)
        assert not same_bits(state.critic, after.critic)
        moved = {name: not same_bits(getattr(state, name), getattr(after, name)) for name in late}
        assert len(set(moved.values())) == 1
        seen.append((moved["policy"], set(metrics), float(metrics["cloning"])))
        state = after
    assert [moved for moved, _, _ in seen] == [False, True, False, True]
    assert len({frozenset(names) for _, names, _ in seen}) == 1
    assert all((cloning > 0) == moved for moved, _, cloning in seen)


def test_means_over_many_steps_are_means_over_the_updates_made() -> None:
    def update(value: Array) -> tuple[Array, dict[str, Array]]:
        return value + 1, {"loss": value}

    value, total = jnp.float32(10.0), 0.0
    for step in range(1, 7):
        change = functools.partial(update, value)
        value, metrics = steps.every(3, jnp.int32(step), change, value)
        total += float(metrics["loss"])
    assert float(value) == 12.0
    assert total / 6 == pytest.approx((10 + 11) / 2)


def test_the_policy_follows_the_first_critic() -> None:
    state, batch = first_state(AGENT, SPEC)._replace(step=jnp.int32(1)), random_batch(6, SPEC)
    still = state._replace(hyper=state.hyper._replace(critic_learning_rate=jnp.float32(0.0)))
    mlps = still.critic.network.mlps
    other = in_place(still, critic=Critic((mlps[0], jax.tree.map(lambda x: x - 3.0, mlps[1]))))
    swapped = in_place(still, critic=Critic((mlps[1], mlps[0])))
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
    chosen = settings("td3-bc", "default", dataset)
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
        "target_noise": 0.2,
        "target_noise_clip": 0.5,
        "schedule": "constant",
        "batch_size": 256,
    }
    assert (chosen.rewards, chosen.observations) == (GOLDEN[dataset], "standardised")

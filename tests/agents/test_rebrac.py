"""ReBRAC: both penalties in numbers, the next action that the log holds, and the settings."""

import csv
import dataclasses
import functools
import importlib.resources
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from jaxtyping import Array

from worlds import (
    assert_close,
    constant,
    first_gradient,
    first_state,
    in_place,
    line_data,
    one_update,
    random_batch,
)
from xql.agents import Batch, EnvironmentSpec, ReBRACConfig, make_rebrac
from xql.agents.policies import DeterministicPolicy
from xql.agents.rebrac import ReBRACState
from xql.data.actions import box
from xql.presets import resolve, suite
from xql.training.population import draw

SPEC = EnvironmentSpec(3, box([-1.0, -2.0], [1.0, 2.0]))
AGENT = make_rebrac(ReBRACConfig(hidden=(8,), batch_size=6, target_noise=0.0), 10)


@functools.cache
def start() -> ReBRACState:
    state: ReBRACState = first_state(AGENT, SPEC)
    return state


def swept(state: ReBRACState, **numbers: float) -> ReBRACState:
    changes = {name: jnp.float32(number) for name, number in numbers.items()}
    return state._replace(config=dataclasses.replace(state.config, **changes))


def ready(**numbers: float) -> ReBRACState:
    """Target critics 5 and 2, critics 3, both policies at (.5, −.5) of half the action range."""
    bias = np.arctanh(0.5)
    state: ReBRACState = start()
    return in_place(
        swept(state, **numbers),
        critic=constant(state.critic.network, 3.0, 3.0),
        target_critic=constant(state.target_critic, 5.0, 2.0),
        policy=constant(state.policy.network, bias, -bias),
        target_policy=constant(state.target_policy, bias, -bias),
    )


def simple_batch() -> Batch:
    """Six times: reward 1, next action (.1, 1) in bounds ±1 and ±2, so (.1, .5) of half of them."""
    return random_batch(6, SPEC)._replace(
        rewards=jnp.ones(6),
        masks=jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0]),
        next_actions=jnp.tile(jnp.array([0.1, 1.0]), (6, 1)),
        next_acted=jnp.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0]),
    )


def test_the_critic_s_penalty_by_hand() -> None:
    # ‖(.5, −.5) − (.1, .5)‖² = .16 + 1 = 1.16. With β₂ = .5 and γ = .9 the targets are
    # 1 + .9 (2 − .58) = 2.278 three times, 1 + .9 · 2 = 2.8 where the log ends, and 1 twice.
    state = ready(critic_cloning=0.5, discount=0.9)
    _, metrics = one_update(AGENT, state, simple_batch())
    errors = 3.0 - np.array([2.278, 2.278, 2.278, 2.8, 1.0, 1.0])
    assert float(metrics["critic_loss"]) == pytest.approx(np.square(errors).mean(), rel=1e-5)
    assert float(metrics["next_bc_distance"]) == pytest.approx(4 / 6 * 1.16, rel=1e-5)


def test_without_the_penalty_the_backup_is_td3_s() -> None:
    state = ready(critic_cloning=0.0, discount=0.9)
    _, metrics = one_update(AGENT, state, simple_batch())
    errors = 3.0 - np.array([2.8, 2.8, 2.8, 2.8, 1.0, 1.0])
    assert float(metrics["critic_loss"]) == pytest.approx(np.square(errors).mean(), rel=1e-5)


def test_the_policy_s_penalty_by_hand() -> None:
    # At a second update. The policy stands at (.5, −.5), the data at (−.5, .5) in the same units:
    # ‖·‖² = 2, its β₁ = .3 share .6. The smaller critic is −4 everywhere, so Q/|Q| = −1.
    # The metrics of a second update count twice, as it stands for the one before too.
    state = ready(policy_cloning=0.3, critic_learning_rate=0.0)
    state = in_place(state, critic=constant(state.critic.network, -4.0, 9.0))
    batch = simple_batch()._replace(actions=jnp.tile(jnp.array([-0.5, 1.0]), (6, 1)))
    _, metrics = one_update(AGENT, state._replace(step=jnp.int32(1)), batch)
    assert float(metrics["bc_distance"]) == pytest.approx(2 * 2.0, rel=1e-5)
    assert float(metrics["policy_loss"]) == pytest.approx(2 * (0.3 * 2.0 + 1.0), rel=1e-5)


def test_the_policy_s_gradient_by_the_equation_with_the_smaller_critic() -> None:
    state, batch = swept(start(), polyak=0.25)._replace(step=jnp.int32(1)), random_batch(6, SPEC)
    after, _ = one_update(AGENT, state, batch)
    s, a = batch.observations, batch.actions
    critic = after.critic.network

    def q_of(policy: DeterministicPolicy) -> tuple[Array, Array]:
        actions = policy.mean(s)
        q1, q2 = critic(s, actions)
        return actions, jnp.where(q1 < q2, q1, q2)

    @jax.jit
    def by_the_equation(policy: DeterministicPolicy) -> DeterministicPolicy:
        size = jnp.abs(q_of(policy)[1]).mean()  # a constant to the gradient

        def loss(policy: DeterministicPolicy) -> Array:
            actions, q = q_of(policy)
            squares = ((actions - a) / jnp.array([1.0, 2.0])) ** 2
            return 0.01 * squares.sum(1).mean() - q.mean() / size

        gradient: DeterministicPolicy = jax.grad(loss)(policy)
        return gradient

    found = first_gradient(after.policy)
    assert_close(found, by_the_equation(state.policy.network), rtol=1e-3, atol=1e-6)
    # Both critics are the smaller one somewhere, so that neither alone would do.
    q1, q2 = np.asarray(critic(s, state.policy.network.mean(s)))
    assert 0 < (q1 < q2).mean() < 1
    # And the target policy follows the new weights.
    moved = jax.tree.map(
        lambda t, o: 0.75 * t + 0.25 * o, state.target_policy, after.policy.network
    )
    assert_close(after.target_policy, moved)


def test_the_critics_are_normalised_and_the_policy_is_not() -> None:
    agent = make_rebrac(ReBRACConfig(hidden=(8, 8, 8)), 10)
    state = jax.eval_shape(lambda key: agent.init(key, SPEC, agent.config), jax.random.key(0))
    assert [len(mlp.norms) for mlp in state.critic.network.mlps] == [3, 3]
    assert state.policy.network.mlp.norms == ()


def test_a_drawn_batch_knows_the_next_action_except_at_an_episode_s_end() -> None:
    data = line_data(episodes=4)
    on_device = data.to_device()
    batch = jax.jit(draw, static_argnames="size")(on_device, jax.random.key(0), size=2000)
    row = {action: index for index, action in enumerate(data.actions[:, 0].tolist())}
    rows = np.array([row[action] for action in np.asarray(batch.actions)[:, 0].tolist()])
    goes_on = np.isin(rows + 1, data.starts)
    np.testing.assert_array_equal(batch.next_acted, goes_on)
    assert 0 < goes_on.mean() < 1
    following = np.asarray(batch.next_actions)[goes_on]
    np.testing.assert_array_equal(following, data.actions[rows[goes_on] + 1])


# The published configurations: dataset, β₁ (actor), β₂ (critic).
PUBLISHED = """
halfcheetah-medium-v2 0.001 0.01
hopper-medium-v2 0.01 0.01
walker2d-medium-v2 0.05 0.1
halfcheetah-medium-replay-v2 0.01 0.001
hopper-medium-replay-v2 0.05 0.5
walker2d-medium-replay-v2 0.05 0.01
halfcheetah-medium-expert-v2 0.01 0.1
hopper-medium-expert-v2 0.1 0.01
walker2d-medium-expert-v2 0.01 0.01
antmaze-umaze-v2 0.003 0.002
antmaze-umaze-diverse-v2 0.003 0.001
antmaze-medium-play-v2 0.001 0.0005
antmaze-medium-diverse-v2 0.001 0.0
antmaze-large-play-v2 0.002 0.001
antmaze-large-diverse-v2 0.002 0.002
pen-human-v1 0.1 0.5
pen-cloned-v1 0.05 0.5
pen-expert-v1 0.01 0.01
door-human-v1 0.1 0.1
door-cloned-v1 0.01 0.1
door-expert-v1 0.05 0.01
hammer-human-v1 0.01 0.5
hammer-cloned-v1 0.1 0.5
hammer-expert-v1 0.01 0.01
relocate-human-v1 0.1 0.01
relocate-cloned-v1 0.1 0.01
relocate-expert-v1 0.05 0.01
"""
GOLDEN = {
    name: (float(policy), float(critic))
    for name, policy, critic in csv.reader(PUBLISHED.split("\n")[1:-1], delimiter=" ")
}
# suite: γ, critic rate, policy rate, batch, reward scaling
SUITES = {
    "mujoco": (0.99, 1e-3, 1e-3, 1024, "raw"),
    "antmaze": (0.999, 5e-5, 3e-4, 256, "scale:100"),
    "adroit": (0.99, 3e-4, 3e-4, 256, "raw"),
}


@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_tuned_preset_is_the_published_configuration(dataset: str) -> None:
    discount, critic_rate, policy_rate, batch, rewards = SUITES[str(suite(dataset))]
    chosen = resolve("rebrac", "tuned", dataset)
    assert vars(chosen.config) == {
        "policy_cloning": GOLDEN[dataset][0],
        "critic_cloning": GOLDEN[dataset][1],
        "discount": discount,
        "polyak": 0.005,
        "critic_learning_rate": critic_rate,
        "policy_learning_rate": policy_rate,
        "hidden": (256, 256, 256),
        "critics": 2,
        "critic_layer_norm": True,
        "policy_layer_norm": False,
        "policy_delay": 2,
        "exploration_noise": 0.1,
        "target_noise": 0.2,
        "target_noise_clip": 0.5,
        "schedule": "constant",
        "batch_size": batch,
    }
    assert (chosen.rewards, chosen.observations) == (rewards, "raw")


def test_the_tuned_preset_has_no_row_that_is_not_published() -> None:
    text = importlib.resources.files("xql.presets").joinpath("rebrac.yaml").read_text()
    assert set(yaml.safe_load(text)["tuned"]) == {"any", *SUITES, *GOLDEN}


@pytest.mark.parametrize(
    ("name", "dataset"), [("mujoco", "hopper-x-v9"), ("antmaze", "antmaze-v9")]
)
def test_the_default_preset_takes_the_medians(name: str, dataset: str) -> None:
    rows = [betas for row, betas in GOLDEN.items() if suite(row) == name]
    config = resolve("rebrac", "default", dataset).config
    assert config.policy_cloning == statistics.median(policy for policy, _ in rows)
    assert config.critic_cloning == statistics.median(critic for _, critic in rows)


def test_the_default_preset_of_adroit_takes_the_upper_median() -> None:
    rows = [betas for row, betas in GOLDEN.items() if suite(row) == "adroit"]
    config = resolve("rebrac", "default", "pen-v9").config
    assert config.policy_cloning == statistics.median(policy for policy, _ in rows)
    assert config.critic_cloning == statistics.median_high(critic for _, critic in rows)

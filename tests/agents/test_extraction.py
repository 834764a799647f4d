"""XQL's policies: extracted otherwise from the same Q and V."""

import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jaxtyping import Array

from worlds import first_state, line_data, one_update, random_batch, same_bits, spec_of, trained
from xql.agents import Agent, Batch, Extraction, XQLConfig, make_xql, member
from xql.agents.flows import BestOfN
from xql.agents.hyperparameters import inactive
from xql.agents.networks import MLP, Critic, Linear
from xql.agents.policies import DeterministicPolicy
from xql.agents.update import decay, descend, trainable
from xql.agents.xql import ddpg_bc_loss
from xql.runs.config import Member

POLICIES: tuple[Extraction, ...] = get_args(Extraction)
OTHERS = POLICIES[1:]
SPEC = spec_of(2, 1)


def made(policy: Extraction, **changes: Any) -> Agent:
    config = XQLConfig(hidden=(8,), batch_size=4, candidates=3, flow_steps=2, policy=policy)
    return make_xql(dataclasses.replace(config, **changes), 100)


@pytest.mark.parametrize("policy", OTHERS)
def test_q_and_v_do_not_depend_on_the_policy(policy: Extraction) -> None:
    batch = random_batch(4, SPEC)
    states = [first_state(made(one), SPEC) for one in ("awr", policy)]
    after = [
        one_update(made(one), state, batch)[0]
        for one, state in zip(("awr", policy), states, strict=True)
    ]
    for part in ("value", "critic", "target_critic"):
        assert same_bits(getattr(after[0], part), getattr(after[1], part)), part
    assert not same_bits(states[1].policy.network, after[1].policy.network)


class Bandit(Critic):
    """Two critics, the smaller 10 − 2 (a − 0.5)²."""

    def __call__(self, observations: Array, actions: Array) -> Array:
        q = 10.0 - 2.0 * jnp.square(actions[..., 0] - 0.5)
        return jnp.stack([q + 1.0, q])


def test_ddpg_bc_settles_where_the_value_s_pull_and_the_data_s_are_equal() -> None:
    # One state, Q = 10 − 2 (a − 0.5)², data around −0.3: the optimum m solves
    # 4 (0.5 − m) / |Q(m)| = α (m − mean a), α a constant beside 1/|Q|.
    actions = np.random.default_rng(0).normal(-0.3, 0.1, (64, 1)).astype(np.float32)
    s, none = jnp.zeros((64, 2)), jnp.zeros(64)
    batch = Batch(s, jnp.array(actions), none, none, s)

    @jax.jit
    def train(bc_weight: Array) -> Array:
        network = DeterministicPolicy(
            MLP((Linear(jnp.zeros((2, 1)), jnp.zeros(1)),), ()), (-1.0,), (1.0,)
        )

        def step(model: Any, index: Array) -> tuple[Any, None]:
            loss = lambda one: ddpg_bc_loss(one, Bandit(()), batch, bc_weight)  # noqa: E731
            return descend(model, loss, 0.05 * decay("cosine", index, 400))[0], None

        model = jax.lax.scan(step, trainable(network), jnp.arange(400))[0]
        return model.network.mean(jnp.zeros(2))[0]

    def imbalance(m: float, bc_weight: float) -> float:
        pull = 4.0 * (0.5 - m) / (10.0 - 2.0 * (m - 0.5) ** 2)
        return float(pull - bc_weight * (m - actions.mean()))

    found = [float(train(jnp.float32(weight))) for weight in (0.03, 0.3, 3.0)]
    expected = [
        scipy.optimize.brentq(imbalance, -1.0, 1.0, (weight,)) for weight in (0.03, 0.3, 3.0)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert expected[0] > 0.4 and expected[2] < -0.15


@pytest.mark.parametrize("policy", POLICIES)
def test_the_advice_names_only_what_has_an_effect(policy: Extraction) -> None:
    agent = made(policy)
    assert not set(agent.scale_hint.names) & inactive(agent.config)


def test_the_actor_of_best_of_n_looks_at_the_target_critic() -> None:
    agent = made("best_of_n")
    state = first_state(agent, SPEC)
    acting = agent.actor(state)
    assert isinstance(acting, BestOfN)
    assert acting.critic is state.target_critic and acting.count == 3
    single = made("best_of_n", candidates=1)
    s = jnp.linspace(-1, 1, 10).reshape(5, 2)
    alone = single.actor(first_state(single, SPEC))
    for key in (None, jax.random.key(0)):
        np.testing.assert_array_equal(alone(s, key), state.policy.network(s, key))


@pytest.mark.parametrize(
    "policy", ["flow", *(pytest.param(one, marks=pytest.mark.nightly) for one in OTHERS[:-1])]
)
def test_a_member_of_a_population_equals_the_run_alone(policy: Extraction) -> None:
    data, agent = line_data(episodes=3), made(policy)
    # Three share one of the tests' two devices: on its own device a member rounds otherwise.
    together = trained(agent, SPEC, [Member(seed) for seed in (3, 4, 5)], data, 5)
    alone = trained(agent, SPEC, [Member(4)], data, 5)
    assert same_bits(member(together, 1), member(alone, 0))


@pytest.mark.parametrize("policy", ["ddpg_bc", "flow"])
def test_the_weight_of_cloning_is_the_member_s_own(policy: Extraction) -> None:
    agent, batch = made(policy), random_batch(4, SPEC)
    near, far = (
        one_update(agent, first_state(agent, SPEC, bc_weight=weight), batch)[1]
        for weight in (1.0, 3.0)
    )
    difference = float(far["policy_loss"] - near["policy_loss"])
    assert difference == pytest.approx(float(near["bc_distance"]), rel=1e-4)

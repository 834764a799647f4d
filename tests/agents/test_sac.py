"""SAC, with and without a value network, and X-SAC, against numbers worked out by hand."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import assert_close, first_gradient, first_state, in_place, one_update, same_bits
from xql.agents import Agent, Batch, EnvironmentSpec, SACConfig, configure, make_sac, member
from xql.agents.hyperparameters import AUTO, inactive
from xql.agents.networks import MLP, Critic, Linear, Value
from xql.agents.policies import LOG_STD_RANGE, SquashedGaussianPolicy
from xql.agents.sac import SACState, TargetValueSACState, XSACState
from xql.data.actions import box
from xql.gumbel import dual_temperature

ACTIONS = box([-1.0], [3.0])  # actions 1 ± 2
SPEC = EnvironmentSpec(1, ACTIONS)
Variant = Literal["none", "soft", "gumbel"]
KINDS = ["none", "soft", "gumbel"]
ROWS = 64
BATCH = Batch(  # every second row ends for good
    jnp.zeros((ROWS, 1), jnp.float32),
    jnp.zeros((ROWS, 1), jnp.float32),
    jnp.tile(jnp.array([10.0, 20.0], jnp.float32), ROWS // 2),
    jnp.tile(jnp.array([1.0, 0.0], jnp.float32), ROWS // 2),
    jnp.zeros((ROWS, 1), jnp.float32),
)


@functools.partial(jax.jit, static_argnames=("agent", "updates"))
def run(agent: Agent, state: Any, batch: Batch, updates: int) -> Any:
    return jax.lax.fori_loop(0, updates, lambda _, one: agent.update(one, batch)[0], state)


@functools.cache
def linear(value: Variant, **choices: Any) -> Agent:
    """Every network one linear layer."""
    return make_sac(SACConfig(hidden=(), value=value, **choices), 10)


@functools.cache
def fresh(value: Variant) -> Any:
    return first_state(linear(value), SPEC)


def start(value: Variant, agent: Any = None, **numbers: float) -> Any:
    """A fresh state with some swept hyperparameters set, of the variant or for `agent`."""
    config = dataclasses.replace((agent or linear(value)).config, **numbers)
    state = fresh(value)._replace(config=jax.tree.map(jnp.float32, config))
    return in_place(state, temperature=jnp.log(state.config.initial_temperature))


def column(*values: float) -> Array:
    return jnp.array(values, jnp.float32)[:, None]


def critic_of(*members: tuple[float, float]) -> Critic:
    """Q(s, a) = w·a + b for each (w, b)."""
    return Critic(tuple(MLP((Linear(column(0.0, w), jnp.array([b])),), ()) for w, b in members))


def value_of(number: float) -> Value:
    return Value(MLP((Linear(column(0.0), jnp.array([number])),), ()))


def raw(log_std: float) -> float:
    """The network's output for a log standard deviation."""
    low, high = LOG_STD_RANGE
    return float(np.arctanh(2 * (log_std - low) / (high - low) - 1))


def policy_of(mean: float, log_std: float) -> SquashedGaussianPolicy:
    """a = 1 + 2 tanh u with u ~ N(mean, e^{2·log_std}) in every state."""
    mlp = MLP((Linear(jnp.zeros((1, 2)), jnp.array([mean, raw(log_std)], jnp.float32)),), ())
    return SquashedGaussianPolicy(mlp, ACTIONS.low, ACTIONS.high)


def draw(noise: np.ndarray, mean: float, log_std: float) -> tuple[np.ndarray, np.ndarray]:
    """Actions and log-densities of a tanh of a Gaussian, from the textbook formula."""
    u = mean + np.exp(log_std) * noise
    normal = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    return 1 + 2 * np.tanh(u), normal - np.log(1 - np.tanh(u) ** 2)


def entropy_of(mean: float, log_std: float) -> float:
    """E[−log π] by quadrature over the Gaussian."""
    noise = np.linspace(-8, 8, 20_001)
    weights = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
    return float(-(weights * draw(noise, mean, log_std)[1]).sum())


def noise_of(state: Any, which: int) -> np.ndarray:
    """The noise of the update's draws: the first for values, the second for the policy."""
    key = jax.random.split(state.key, 3)[which]
    return np.asarray(jax.random.normal(key, (ROWS, 1)), np.float64)[:, 0]


def test_sac_s_backup_by_hand() -> None:
    # Q̄ = (a, 4 − a), γ = 0.5, α = 0.7: y = r + 0.5 (min(a, 4 − a) − 0.7 log π(a)) where it goes on,
    # r where it ends, for the very draws a that the key gives. Q = 0, so the loss of each of two
    # critics is the mean of y²/2 and its gradient −E[y].
    state = in_place(
        start("none", discount=0.5, initial_temperature=0.7),
        policy=policy_of(0.3, -0.5),
        critic=critic_of((0.0, 0.0), (0.0, 0.0)),
        target_critic=critic_of((1.0, 0.0), (-1.0, 4.0)),
    )
    after, metrics = one_update(linear("none"), state, BATCH)
    a, log_prob = draw(noise_of(state, 1), 0.3, -0.5)
    assert (a < 2).any() and (a > 2).any()
    rewards, masks = np.asarray(BATCH.rewards), np.asarray(BATCH.masks)
    y = rewards + 0.5 * masks * (np.minimum(a, 4 - a) - 0.7 * log_prob)
    assert float(metrics["critic_loss"]) == pytest.approx((y**2).mean(), rel=1e-5)
    for mlp in first_gradient(after.critic).mlps:
        assert mlp.layers[0].bias[0] == pytest.approx(-y.mean(), rel=1e-5)


def test_the_value_network_s_backup_by_hand() -> None:
    # Q's target is r + γ·mask·V̄(s') with V̄ = 8, γ = 0.5: 14 and 20, and Q = 12. V's own targets
    # are Q = 12 plus the entropy's share, not Q̄ (there is none).
    state = in_place(
        start("soft", discount=0.5, initial_temperature=0.7),
        policy=policy_of(0.3, -0.5),
        critic=critic_of((0.0, 12.0), (0.0, 12.0)),
        value=value_of(1.0),
        target_value=value_of(8.0),
    )
    assert "target_critic" not in TargetValueSACState._fields
    after, metrics = one_update(linear("soft"), state, BATCH)
    assert float(metrics["critic_loss"]) == pytest.approx((2.0**2 + 8.0**2) / 2, rel=1e-5)
    _, log_prob = draw(noise_of(state, 1), 0.3, -0.5)
    targets = 12 - 0.7 * log_prob
    assert float(metrics["value_loss"]) == pytest.approx(((1 - targets) ** 2).mean() / 2, rel=1e-4)
    slope = first_gradient(after.value).mlp.layers[0].bias[0]
    assert slope == pytest.approx((1 - targets).mean(), rel=1e-4)
    moved = 0.995 * 8.0 + 0.005 * float(after.value.network.mlp.layers[0].bias[0])
    assert float(after.target_value.mlp.layers[0].bias[0]) == pytest.approx(moved, rel=1e-6)


def test_x_sac_s_backup_by_hand() -> None:
    # V = 8, which cannot move, regresses on min Q̄ = 9 at β = 2 (z = 1/2) and not on Q = 12;
    # Q's targets at γ = 0.5 are 10 + 4 and 20.
    state = in_place(
        start("gumbel", discount=0.5, beta=2.0, value_learning_rate=0.0),
        critic=critic_of((0.0, 12.0), (0.0, 12.0)),
        target_critic=critic_of((0.0, 9.0), (0.0, 15.0)),
        value=value_of(8.0),
    )
    after, metrics = one_update(linear("gumbel"), state, BATCH)
    assert float(metrics["value_loss"]) == pytest.approx(np.exp(0.5) - 1.5, rel=1e-4)
    slope = first_gradient(after.value).mlp.layers[0].bias[0]
    assert slope == pytest.approx((1 - np.exp(0.5)) / 2, rel=1e-4)
    assert float(metrics["critic_loss"]) == pytest.approx((2.0**2 + 8.0**2) / 2, rel=1e-5)
    assert float(metrics["q"]) == 12.0
    assert "target_value" not in XSACState._fields
    biases = zip(after.target_critic.mlps, after.critic.network.mlps, (9.0, 15.0), strict=True)
    for target, online, old in biases:
        moved = 0.995 * old + 0.005 * float(online.layers[0].bias[0])
        assert float(target.layers[0].bias[0]) == pytest.approx(moved, rel=1e-6)


def test_x_sac_s_backup_with_a_target_of_v_by_hand() -> None:
    # As in the paper: V = 8, which cannot move, regresses on min Q = 12 at β = 2 (z = 2); Q's
    # targets at γ = 0.5 with V̄ = 6 are 10 + 3 and 20; and it is V̄ that follows.
    agent = linear("gumbel", target_network="value")
    state = in_place(
        start("soft", agent, discount=0.5, beta=2.0, value_learning_rate=0.0),
        critic=critic_of((0.0, 12.0), (0.0, 13.0)),
        value=value_of(8.0),
        target_value=value_of(6.0),
    )
    shapes = jax.eval_shape(lambda key: agent.init(key, SPEC, state.config), state.key)
    assert isinstance(shapes, TargetValueSACState)
    after, metrics = one_update(agent, state, BATCH)
    assert float(metrics["value_loss"]) == pytest.approx(np.exp(2.0) - 3.0, rel=1e-4)
    # Halves of squares: (13 − 12)² and (20 − 12)² of the one critic, 0 and (20 − 13)² of the other.
    assert float(metrics["critic_loss"]) == pytest.approx((1 + 64 + 0 + 49) / 4, rel=1e-5)
    moved = float(after.target_value.mlp.layers[0].bias[0])
    assert moved == pytest.approx(0.995 * 6.0 + 0.005 * 8.0, rel=1e-6)


@pytest.mark.parametrize(("value", "name"), [("none", "target_critic"), ("soft", "target_value")])
def test_a_target_moves_at_every_so_manyth_update(value: Variant, name: str) -> None:
    agent = linear(value, target_delay=3)
    states = [start(value, agent, polyak=0.25)]
    for _ in range(3):
        states.append(one_update(agent, states[-1], BATCH)[0])
    first, *between, last = (getattr(state, name) for state in states)
    assert all(same_bits(first, one) for one in between)
    online = getattr(states[-1], name.removeprefix("target_")).network
    assert_close(last, jax.tree.map(lambda t, o: 0.75 * t + 0.25 * o, first, online))
    assert not same_bits(first, last)


@pytest.mark.parametrize("value", KINDS)
def test_only_x_sac_s_values_have_no_log_probability_in_them(value: Variant) -> None:
    # With critics that ignore the action, narrower policies and larger α change log-probabilities
    # and α log π but no Q: X-SAC's V and Q must stay the same to the bit, SAC's must not.
    networks = {"policy": policy_of(0.0, -0.5), "critic": critic_of((0.0, 12.0), (0.0, 12.0))}
    if value != "soft":
        networks["target_critic"] = critic_of((0.0, 9.0), (0.0, 15.0))
    state = in_place(start(value), **networks)
    reference, _ = one_update(linear(value), state, BATCH)
    for change in (
        {"policy": policy_of(0.0, -3.0)},
        {"temperature": jnp.float32(3.0)},
    ):
        other, _ = one_update(linear(value), in_place(state, **change), BATCH)
        parts = {"value", "critic", "target_critic", "target_value"} & set(state._fields)
        same = all(same_bits(getattr(other, part), getattr(reference, part)) for part in parts)
        assert same == (value == "gumbel"), change


def test_x_sac_s_value_is_the_soft_maximum_over_the_policy_s_actions() -> None:
    # Q̄ = 1.5 a held fixed, a = 1 + 2 tanh u, u ~ N(0.2, e^{-1}): β log E[e^{Q/β}] by quadrature.
    noise = np.linspace(-8, 8, 20_001)
    weights = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
    a, _ = draw(noise, 0.2, -0.5)
    batch = jax.tree.map(lambda part: jnp.concatenate([part] * 8), BATCH)
    held = {f"{name}_learning_rate": 0.0 for name in ("critic", "policy", "temperature")}
    fixed = critic_of((1.5, 0.0), (1.5, 0.0))
    found = []
    for beta in (1.0, 5.0):
        state = start("gumbel", beta=beta, value_learning_rate=0.004, **held)
        state = in_place(state, policy=policy_of(0.2, -0.5), critic=fixed, target_critic=fixed)
        v = run(linear("gumbel"), state, batch, 3000).value.network(jnp.zeros((1, 1)))
        truth = beta * np.log((weights * np.exp(1.5 * a / beta)).sum())
        assert float(v[0]) == pytest.approx(truth, abs=0.06)
        found.append(truth)
    assert found[0] - found[1] > 0.5  # so that the two β differ, and from the mean
    assert found[1] - (weights * 1.5 * a).sum() > 0.15


@pytest.mark.parametrize("target", ["critic", "value"])
def test_a_beta_that_tunes_itself_has_the_kl_that_is_asked_for(target: str) -> None:
    # d = min Q(s, a~) − V(s) for the very draws a~ that the key gives, of the critic that V has.
    agent = linear("gumbel", target_network=target, beta=AUTO)
    state = first_state(agent, SPEC, beta_kl=0.3, value_learning_rate=0.0)
    slope, constant = critic_of((1.5, 0.0), (1.5, 2.0)), critic_of((0.0, 12.0), (0.0, 12.0))
    networks: dict[str, Any] = {"critic": slope}
    if target == "critic":
        networks = {"critic": constant, "target_critic": slope}
    state = in_place(state, policy=policy_of(0.3, -0.5), value=value_of(1.0), **networks)
    after, metrics = one_update(agent, state, BATCH)
    a, _ = draw(noise_of(state, 1), 0.3, -0.5)
    beta = float(metrics["beta"])
    assert beta == pytest.approx(float(dual_temperature(1.5 * a, 0.3)), rel=2e-3)
    assert float(metrics["kl"]) == pytest.approx(0.3, rel=1e-2)
    z = (1.5 * a - 1) / beta
    assert float(metrics["value_loss"]) == pytest.approx((np.exp(z) - z - 1).mean(), rel=1e-3)
    assert float(after.temperatures["value"]) == beta


def test_x_sac_s_value_is_the_soft_maximum_at_the_beta_that_its_kl_asks_for() -> None:
    # As above, with the β that solves the dual of Q's distribution under the policy, by quadrature.
    noise = np.linspace(-8, 8, 2001)
    weights = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
    q = 1.5 * draw(noise, 0.2, -0.5)[0]
    batch = jax.tree.map(lambda part: jnp.concatenate([part] * 4), BATCH)
    held = {f"{name}_learning_rate": 0.0 for name in ("critic", "policy", "temperature")}
    agent, fixed = linear("gumbel", beta=AUTO), critic_of((1.5, 0.0), (1.5, 0.0))
    found = []
    for kl in (0.05, 0.4):
        state = first_state(agent, SPEC, 0, beta_kl=kl, value_learning_rate=0.004, **held)
        state = in_place(state, policy=policy_of(0.2, -0.5), critic=fixed, target_critic=fixed)
        after = run(agent, state, batch, 3000)
        beta = float(dual_temperature(q, kl, weights=weights))
        assert float(after.temperatures["value"]) == pytest.approx(beta, rel=0.05)
        truth = beta * np.log((weights * np.exp(q / beta)).sum())
        v = float(after.value.network(jnp.zeros((1, 1)))[0])
        assert v == pytest.approx(truth, abs=0.06)
        found.append(truth)
    assert found[1] - found[0] > 0.2  # so that the two KLs differ


def test_a_kl_is_for_a_beta_that_tunes_itself() -> None:
    assert "beta_kl" in inactive(SACConfig(value="gumbel"))
    assert inactive(SACConfig(value="gumbel", beta=AUTO)) == {"maclaurin_order"}
    for value in ("none", "soft"):
        assert {"beta", "beta_kl"} <= inactive(SACConfig(value=value, beta=AUTO))
    assert first_state(linear("soft", beta=AUTO), SPEC).temperatures == {}


def test_the_policy_s_gradient_is_the_finite_difference_of_its_loss() -> None:
    # E[α log π(a|s) − min Q(s, a)] with the same noise, in float64 from the textbook formula.
    state = in_place(
        start("none", initial_temperature=0.3, critic_learning_rate=0.0),
        policy=policy_of(0.3, -0.5),
        critic=critic_of((0.8, 0.0), (-0.4, 1.5)),
    )
    noise = noise_of(state, 2)
    low, high = LOG_STD_RANGE

    def loss(mean: float, output: float) -> float:
        a, log_prob = draw(noise, mean, low + (high - low) * (np.tanh(output) + 1) / 2)
        return float((0.3 * log_prob - np.minimum(0.8 * a, 1.5 - 0.4 * a)).mean())

    after, metrics = one_update(linear("none"), state, BATCH)
    at, h = (0.3, raw(-0.5)), 1e-5
    by_mean = (loss(at[0] + h, at[1]) - loss(at[0] - h, at[1])) / (2 * h)
    by_output = (loss(at[0], at[1] + h) - loss(at[0], at[1] - h)) / (2 * h)
    found = first_gradient(after.policy).mlp.layers[0].bias
    np.testing.assert_allclose(found, [by_mean, by_output], rtol=1e-3, atol=1e-5)
    assert float(metrics["policy_loss"]) == pytest.approx(loss(*at), rel=1e-4)


@pytest.mark.parametrize(("log_std", "up"), [(-3.0, True), (-0.5, False)])
def test_the_temperature_rises_while_the_entropy_is_below_its_target(
    log_std: float, up: bool
) -> None:
    # The target is −1 for one action dimension; on [-1, 1] the uniform distribution has log 2.
    assert (entropy_of(0.0, log_std) < -1.0) == up
    state = in_place(start("none"), policy=policy_of(0.0, log_std))
    after, metrics = one_update(linear("none"), state, BATCH)
    _, log_prob = draw(noise_of(state, 2), 0.0, log_std)
    assert float(metrics["entropy"]) == pytest.approx(-log_prob.mean(), rel=1e-4)
    assert (float(after.temperature.network) > 0.0) == up
    assert float(metrics["temperature"]) == 1.0
    slope = float(metrics["entropy"]) + 1.0
    assert first_gradient(after.temperature) == pytest.approx(slope, rel=1e-5)
    config = dataclasses.replace(state.config, temperature_learning_rate=jnp.float32(0.0))
    still, _ = one_update(linear("none"), state._replace(config=config), BATCH)
    assert float(still.temperature.network) == 0.0


def test_the_temperature_starts_where_it_is_asked_to() -> None:
    state = first_state(linear("none"), SPEC, initial_temperature=0.1)
    assert float(jnp.exp(state.temperature.network)) == pytest.approx(0.1)


@pytest.mark.nightly
@pytest.mark.parametrize("value", [*KINDS, "auto"])
def test_a_population_is_its_members(value: Any) -> None:
    given = {"value": "gumbel", "beta": AUTO} if value == "auto" else {"value": value}
    swept = "beta_kl" if value == "auto" else "beta"
    agent = make_sac(SACConfig(hidden=(8,), **given), 10)
    states = [first_state(agent, SPEC, seed, **{swept: 1.0 + seed}) for seed in range(3)]
    population = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together, metrics = jax.jit(jax.vmap(agent.update, in_axes=(0, None)))(population, BATCH)
    for index, state in enumerate(states):
        alone, numbers = one_update(agent, state, BATCH)
        one = member(together, index)
        assert set(metrics) == set(numbers)
        assert all(np.isfinite(float(number)) for number in numbers.values())
        assert same_bits(one.key, alone.key) and not same_bits(alone.key, state.key)
        assert_close(one._replace(key=None), alone._replace(key=None))


def test_the_policy_finds_the_best_action_of_a_bandit() -> None:
    # r = −3 (a − 1 − s)², every step the last: with little entropy to gain, π's mode is 1 + s.
    random = np.random.default_rng(0)
    s, a = random.uniform(-1, 1, (128, 1)), random.uniform(-1, 3, (128, 1))
    columns = (s, a, -3 * ((a - 1 - s) ** 2)[:, 0], np.zeros(128), s)
    batch = Batch(*(jnp.array(part, jnp.float32) for part in columns))
    agent = make_sac(SACConfig(hidden=(32, 32)), 10)
    rates = {f"{name}_learning_rate": 3e-3 for name in ("critic", "policy")}
    held = {"initial_temperature": 0.01, "temperature_learning_rate": 0.0}
    state: SACState = first_state(agent, SPEC, 0, **held, **rates)
    policy = run(agent, state, batch, 1200).policy.network
    np.testing.assert_allclose(policy.mean(column(-0.5, 0.0, 0.5))[:, 0], [0.5, 1, 1.5], atol=0.25)


def test_the_variants_are_one_configuration_with_other_defaults() -> None:
    assert configure("sac", {}) == SACConfig()
    assert configure("x-sac", {}) == SACConfig(value="gumbel")
    assert configure("sac", {"value": "soft"}) == SACConfig(value="soft")


@pytest.mark.parametrize("value", KINDS)
def test_what_is_true_of_the_variants(value: Variant) -> None:
    # Entropy enters the values of SAC, and then no bound on returns is a bound on them.
    agent = linear(value)
    assert agent.values_include_entropy == (value != "gumbel")
    assert agent.backup is not None
    assert agent.backup.formula == ("Q₁(s', a')" if value == "none" else "V(s')")
    assert (agent.scale_hint.advice == "a larger beta") == (value == "gumbel")

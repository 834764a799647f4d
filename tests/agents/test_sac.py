"""SAC, with and without a value network, and X-SAC, against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, PyTree

from worlds import same_bits
from xql.agents import Agent, Batch, Metrics, SACConfig, Spec, TrainState, member, sac, steps
from xql.agents.networks import MLP, Critic, Linear, Value
from xql.agents.policies import LOG_STD_RANGE, SquashedGaussianPolicy
from xql.agents.sac import soft_values
from xql.presets import configure

SPEC = Spec(1, (-1.0,), (3.0,))  # actions 1 ± 2
KINDS = ["none", "soft", "gumbel"]
BATCH = Batch(  # the second row ends for good
    jnp.zeros((2, 1), jnp.float32),
    jnp.zeros((2, 1), jnp.float32),
    jnp.array([10.0, 20.0], jnp.float32),
    jnp.array([1.0, 0.0], jnp.float32),
    jnp.zeros((2, 1), jnp.float32),
)


@functools.partial(jax.jit, static_argnames="agent")
def update(agent: Agent, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    return agent.update(state, batch)


@functools.partial(jax.jit, static_argnames=("agent", "updates"))
def run(agent: Agent, state: TrainState, batch: Batch, updates: int) -> TrainState:
    return jax.lax.fori_loop(0, updates, lambda _, one: agent.update(one, batch)[0], state)


def start(agent: Agent, seed: int = 0, **numbers: float) -> TrainState:
    return fresh(agent, seed, jax.tree.map(np.float32, agent.hyper._replace(**numbers)))


@functools.partial(jax.jit, static_argnames="agent")
def fresh(agent: Agent, seed: Array, hyper: PyTree) -> TrainState:
    return agent.init(jax.random.key(seed), SPEC, hyper)


@functools.cache
def linear(value: str) -> Agent:
    """Every network one linear layer."""
    return sac(SACConfig(hidden=(), batch_size=2, value=value), 10)


def column(*values: float) -> Array:
    return jnp.array(values, jnp.float32)[:, None]


def repeated(times: int) -> Batch:
    return jax.tree.map(lambda part: jnp.tile(part, (times,) + (1,) * (part.ndim - 1)), BATCH)


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
    return SquashedGaussianPolicy(mlp, SPEC.action_low, SPEC.action_high)


def with_networks(state: TrainState, **networks: PyTree) -> TrainState:
    """The state with some networks replaced; the online ones keep their fresh optimizers."""
    for name in ("policy", "critic", "value", "temperature"):
        if name in networks:
            networks[name] = getattr(state, name)._replace(network=networks[name])
    return state._replace(**networks)


def gradient(trained: PyTree) -> PyTree:
    """Of the first step, from Adam's first moment: mu = (1 − 0.9) · gradient."""
    return jax.tree.map(lambda mu: np.asarray(mu) / 0.1, trained.optimizer.mu)


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


def test_soft_values_by_hand() -> None:
    # min(a, 4 − a) − α log π(a) for the very draws that the key gives.
    key, s = jax.random.key(3), jnp.zeros((64, 1), jnp.float32)
    noise = np.asarray(jax.random.normal(key, (64, 1)), np.float64)[:, 0]
    a, log_prob = draw(noise, 0.3, -0.5)
    assert (a < 2).any() and (a > 2).any()
    critic = critic_of((1.0, 0.0), (-1.0, 4.0))
    found = soft_values(critic, policy_of(0.3, -0.5), s, jnp.float32(0.7), key)
    np.testing.assert_allclose(found, np.minimum(a, 4 - a) - 0.7 * log_prob, rtol=1e-4, atol=1e-4)


def test_sac_s_backup_by_hand() -> None:
    # Q̄ = (5, 3) whatever the action, γ = 0.5, α = 0.2: over many rows the mean of the targets is
    # r + 0.5 (3 + 0.2 · entropy) where it goes on, and r where it ends. Q = 0, so with y > 0 the
    # Bellman error is y.
    agent = linear("none")
    state = with_networks(
        start(agent, discount=0.5, initial_temperature=0.2),
        policy=policy_of(0.3, -0.5),
        critic=critic_of((0.0, 0.0), (0.0, 0.0)),
        target_critic=critic_of((0.0, 5.0), (0.0, 3.0)),
    )
    _, metrics = update(agent, state, repeated(20_000))
    first = 10 + 0.5 * (3 + 0.2 * entropy_of(0.3, -0.5))
    assert float(metrics["bellman_error"]) == pytest.approx((first + 20) / 2, abs=2e-3)


def test_the_value_network_s_backup_by_hand() -> None:
    # Q's target is r + γ·mask·V̄(s') with V̄ = 8, γ = 0.5: 14 and 20, and Q = 12. V's own targets
    # are Q = 12 plus the entropy's share, not Q̄ (there is none).
    agent = linear("soft")
    state = start(agent, discount=0.5, initial_temperature=1e-6)
    assert state.target_critic is None
    state = with_networks(
        state, critic=critic_of((0.0, 12.0), (0.0, 12.0)), value=value_of(1.0)
    )._replace(target_value=value_of(8.0))
    after, metrics = update(agent, state, BATCH)
    assert float(metrics["critic_loss"]) == pytest.approx((2.0**2 + 8.0**2) / 2, rel=1e-5)
    assert float(metrics["value_loss"]) == pytest.approx(11.0**2 / 2, rel=1e-3)
    assert gradient(after.value).mlp.layers[0].bias[0] == pytest.approx(-11.0, rel=1e-3)
    moved = 0.995 * 8.0 + 0.005 * float(after.value.network.mlp.layers[0].bias[0])
    assert float(after.target_value.mlp.layers[0].bias[0]) == pytest.approx(moved, rel=1e-6)


def test_x_sac_s_backup_by_hand() -> None:
    # V = 8, which cannot move, regresses on min Q̄ = 9 at β = 2 (z = 1/2) and not on Q = 12;
    # Q's targets at γ = 0.5 are 10 + 4 and 20.
    agent = linear("gumbel")
    state = with_networks(
        start(agent, discount=0.5, beta=2.0, value_learning_rate=0.0),
        critic=critic_of((0.0, 12.0), (0.0, 12.0)),
        target_critic=critic_of((0.0, 9.0), (0.0, 15.0)),
        value=value_of(8.0),
    )
    after, metrics = update(agent, state, BATCH)
    assert float(metrics["value_loss"]) == pytest.approx(np.exp(0.5) - 1.5, rel=1e-4)
    assert gradient(after.value).mlp.layers[0].bias[0] == pytest.approx(
        (1 - np.exp(0.5)) / 2, rel=1e-4
    )
    assert float(metrics["critic_loss"]) == pytest.approx((2.0**2 + 8.0**2) / 2, rel=1e-5)
    assert float(metrics["critic"]) == 12.0
    assert after.target_value is None
    biases = zip(after.target_critic.mlps, after.critic.network.mlps, (9.0, 15.0), strict=True)
    for target, online, old in biases:
        moved = 0.995 * old + 0.005 * float(online.layers[0].bias[0])
        assert float(target.layers[0].bias[0]) == pytest.approx(moved, rel=1e-6)


@pytest.mark.parametrize("value", KINDS)
def test_only_x_sac_s_values_take_no_heed_of_log_probabilities(value: str) -> None:
    # With critics that ignore the action, narrower policies and larger α change log-probabilities
    # and α log π but no Q: X-SAC's V and Q must stay the same to the bit, SAC's must not.
    agent = linear(value)
    state = with_networks(
        start(agent),
        policy=policy_of(0.0, -0.5),
        critic=critic_of((0.0, 12.0), (0.0, 12.0)),
    )
    if state.target_critic is not None:
        state = state._replace(target_critic=critic_of((0.0, 9.0), (0.0, 15.0)))
    reference, _ = update(agent, state, BATCH)
    for change in (
        {"policy": policy_of(0.0, -3.0)},
        {"temperature": jnp.float32(3.0)},
    ):
        other, _ = update(agent, with_networks(state, **change), BATCH)
        same = all(
            same_bits(getattr(other, part), getattr(reference, part))
            for part in ("value", "critic", "target_critic", "target_value")
        )
        assert same == (value == "gumbel"), change


def test_x_sac_s_value_is_the_soft_maximum_over_the_policy_s_actions() -> None:
    # Q̄ = 1.5 a held fixed, a = 1 + 2 tanh u, u ~ N(0.2, e^{-1}): β log E[e^{Q/β}] by quadrature.
    noise = np.linspace(-8, 8, 20_001)
    weights = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
    a, _ = draw(noise, 0.2, -0.5)
    agent = sac(SACConfig(hidden=(), value="gumbel", batch_size=512), 10)
    held = {f"{name}_learning_rate": 0.0 for name in ("critic", "policy", "temperature")}
    fixed = critic_of((1.5, 0.0), (1.5, 0.0))
    found = []
    for beta in (1.0, 5.0):
        state = start(agent, beta=beta, value_learning_rate=0.004, **held)
        state = with_networks(state, policy=policy_of(0.2, -0.5), critic=fixed, target_critic=fixed)
        v = run(agent, state, repeated(256), 3000).value.network(jnp.zeros((1, 1)))
        truth = beta * np.log((weights * np.exp(1.5 * a / beta)).sum())
        assert float(v[0]) == pytest.approx(truth, abs=0.06)
        found.append(truth)
    assert found[0] - found[1] > 0.5  # so the two β are really told apart, and from the mean
    assert found[1] - (weights * 1.5 * a).sum() > 0.15


def test_the_policy_s_gradient_is_the_finite_difference_of_its_loss() -> None:
    # E[α log π(a|s) − min Q(s, a)] with the same noise, in float64 from the textbook formula.
    key, rows, temperature = jax.random.key(5), 64, 0.3
    noise = np.asarray(jax.random.normal(key, (rows, 1)), np.float64)[:, 0]
    low, high = LOG_STD_RANGE

    def loss(mean: float, output: float) -> float:
        a, log_prob = draw(noise, mean, low + (high - low) * (np.tanh(output) + 1) / 2)
        return float((temperature * log_prob - np.minimum(0.8 * a, 1.5 - 0.4 * a)).mean())

    trained, metrics = steps.fit_policy_soft(
        steps.trainable(policy_of(0.3, -0.5)),
        critic_of((0.8, 0.0), (-0.4, 1.5)),
        jnp.zeros((rows, 1), jnp.float32),
        key,
        temperature=jnp.float32(temperature),
        learning_rate=jnp.float32(0.01),
    )
    at, h = (0.3, raw(-0.5)), 1e-5
    by_mean = (loss(at[0] + h, at[1]) - loss(at[0] - h, at[1])) / (2 * h)
    by_output = (loss(at[0], at[1] + h) - loss(at[0], at[1] - h)) / (2 * h)
    found = gradient(trained).mlp.layers[0].bias
    np.testing.assert_allclose(found, [by_mean, by_output], rtol=1e-3, atol=1e-5)
    assert float(metrics["policy_loss"]) == pytest.approx(loss(*at), rel=1e-4)


@pytest.mark.parametrize(("log_std", "up"), [(-3.0, True), (-0.5, False)])
def test_the_temperature_rises_while_the_entropy_is_below_its_target(
    log_std: float, up: bool
) -> None:
    # The target is −1 for one action dimension; on [-1, 1] the uniform distribution has log 2.
    assert (entropy_of(0.0, log_std) < -1.0) == up
    agent = linear("none")
    state = with_networks(start(agent), policy=policy_of(0.0, log_std))
    after, metrics = update(agent, state, BATCH)
    assert (float(after.temperature.network) > 0.0) == up
    assert float(metrics["temperature"]) == 1.0
    slope = float(metrics["entropy"]) + 1.0
    assert gradient(after.temperature) == pytest.approx(slope, rel=1e-5)
    still = state._replace(hyper=state.hyper._replace(temperature_learning_rate=jnp.float32(0.0)))
    assert float(update(agent, still, BATCH)[0].temperature.network) == 0.0


def test_the_temperature_starts_where_it_is_told() -> None:
    state = start(linear("none"), initial_temperature=0.1)
    assert float(jnp.exp(state.temperature.network)) == pytest.approx(0.1)


@pytest.mark.nightly
@pytest.mark.parametrize("value", KINDS)
def test_a_population_is_its_members(value: str) -> None:
    agent = sac(SACConfig(hidden=(8,), batch_size=2, value=value), 10)
    states = [start(agent, seed, beta=1.0 + seed) for seed in range(3)]
    keys = jnp.stack([state.key for state in states])
    rest = [state._replace(key=None) for state in states]
    population = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest)._replace(key=keys)
    together, metrics = jax.jit(jax.vmap(agent.update, in_axes=(0, None)))(population, BATCH)
    for index, state in enumerate(states):
        alone, numbers = update(agent, state, BATCH)
        one = member(together, index)
        assert set(metrics) == set(numbers)
        assert all(np.isfinite(float(number)) for number in numbers.values())
        np.testing.assert_array_equal(jax.random.key_data(one.key), jax.random.key_data(alone.key))
        assert not np.array_equal(jax.random.key_data(alone.key), jax.random.key_data(state.key))
        pairs = zip(
            jax.tree.leaves(one._replace(key=None)),
            jax.tree.leaves(alone._replace(key=None)),
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_policy_finds_the_best_action_of_a_bandit() -> None:
    # r = −3 (a − 1 − s)², every step the last: with little entropy to gain, π's mode is 1 + s.
    random = np.random.default_rng(0)
    s, a = random.uniform(-1, 1, (128, 1)), random.uniform(-1, 3, (128, 1))
    columns = (s, a, -3 * ((a - 1 - s) ** 2)[:, 0], np.zeros(128), s)
    batch = Batch(*(jnp.array(part, jnp.float32) for part in columns))
    agent = sac(SACConfig(hidden=(32, 32)), 10)
    rates = {f"{name}_learning_rate": 3e-3 for name in ("critic", "policy")}
    state = start(agent, initial_temperature=0.01, temperature_learning_rate=0.0, **rates)
    policy = run(agent, state, batch, 1200).policy.network
    np.testing.assert_allclose(policy.mean(column(-0.5, 0.0, 0.5))[:, 0], [0.5, 1, 1.5], atol=0.25)


def test_the_variants_are_one_configuration_with_other_defaults() -> None:
    assert configure("sac", {}) == SACConfig()
    assert configure("x-sac", {}) == SACConfig(value="gumbel")
    assert configure("sac", {"value": "soft"}) == SACConfig(value="soft")

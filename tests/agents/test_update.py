"""What every update is made of, against optax and numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

from worlds import first_gradient
from xql.agents.networks import Value
from xql.agents.types import Metrics, Trainable
from xql.agents.update import Schedule, bind, decay, descend, every, polyak, trainable


def float32(*values: float) -> Array:
    return jnp.array(values, jnp.float32)


def test_a_step_is_optax_adam() -> None:
    model = trainable(Value.create(jax.random.key(0), 3, (8,), layer_norm=True))
    network, adam = model.network, optax.adam(0.01)
    state = adam.init(network)
    observations = jax.random.normal(jax.random.key(1), (5, 3))

    def loss(value: Value) -> tuple[Array, Metrics]:
        error = jnp.square(value(observations) - 2.0).mean()
        return error, {"error": error}

    @jax.jit
    def both(
        model: Trainable, network: Value, state: optax.OptState
    ) -> tuple[Trainable, Value, optax.OptState, Metrics]:
        change, state = adam.update(jax.grad(lambda v: loss(v)[0])(network), state, network)
        model, metrics = descend(model, loss, jnp.float32(0.01))
        return model, optax.apply_updates(network, change), state, metrics

    for _ in range(3):
        before = network
        model, network, state, metrics = both(model, network, state)
    for ours, theirs in zip(jax.tree.leaves(model.network), jax.tree.leaves(network), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    # The metrics are those of the network before its step.
    assert float(metrics["error"]) == pytest.approx(float(loss(before)[0]), rel=1e-5)


def test_the_gradient_norm_is_scaled_down_but_never_up() -> None:
    # The gradient of g·x in x is g: (3, 4) has norm 5.
    def direction(gradient: Array, limit: float | None) -> Array:
        def loss(x: Array) -> tuple[Array, Metrics]:
            return gradient @ x, {}

        model, _ = descend(trainable(jnp.zeros(2)), loss, 0.01, limit)
        found: Array = first_gradient(model)
        return found

    np.testing.assert_allclose(direction(float32(3.0, 4.0), None), [3.0, 4.0], rtol=1e-5)
    np.testing.assert_allclose(direction(float32(3.0, 4.0), 1.0), [0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(direction(float32(0.3, 0.4), 1.0), [0.3, 0.4], rtol=1e-5)
    np.testing.assert_array_equal(direction(float32(0.0, 0.0), 1.0), [0.0, 0.0])


def test_the_norm_is_that_of_all_leaves_together() -> None:
    def loss(x: dict[str, Array]) -> tuple[Array, Metrics]:
        return 3 * x["a"] + 4 * x["b"], {}

    model, _ = descend(trainable({"a": jnp.zeros(()), "b": jnp.zeros(())}), loss, 0.01, 1.0)
    found = first_gradient(model)
    assert (found["a"], found["b"]) == (pytest.approx(0.6), pytest.approx(0.8))


def test_polyak_moves_its_share_of_the_way() -> None:
    target = {"w": float32(0.0, 4.0), "b": jnp.float32(1.0)}
    online = {"w": float32(1.0, 0.0), "b": jnp.float32(1.0)}
    moved = polyak(target, online, jnp.float32(0.25))
    np.testing.assert_allclose(moved["w"], [0.25, 3.0])
    assert float(moved["b"]) == 1.0


def test_the_learning_rate_s_decay() -> None:
    def at(schedule: Schedule, step: int) -> float:
        return float(decay(schedule, jnp.int32(step), 100))

    assert [at("constant", step) for step in (0, 50, 1000)] == [1.0, 1.0, 1.0]
    assert at("cosine", 0) == 1.0
    assert at("cosine", 25) == pytest.approx(0.5 * (1 + np.sqrt(0.5)), abs=1e-6)
    assert at("cosine", 50) == pytest.approx(0.5, abs=1e-6)
    assert at("cosine", 100) == pytest.approx(0.0, abs=1e-6)
    assert at("cosine", 150) == pytest.approx(0.0, abs=1e-6)  # and it does not rise again


def test_means_over_many_steps_are_means_over_the_updates_made() -> None:
    def update(value: Array) -> tuple[Array, Metrics]:
        return value + 1, {"loss": value}

    value, total = jnp.float32(10.0), 0.0
    for step in range(1, 7):
        change = functools.partial(update, value)
        value, metrics = every(3, jnp.int32(step), change, value)
        total += float(metrics["loss"])
    assert float(value) == 12.0
    assert total / 6 == pytest.approx((10 + 11) / 2)


def test_a_population_makes_a_delayed_update_only_when_it_is_due() -> None:
    def one(value: Array, step: Array) -> Array:
        changed, _ = every(2, step, lambda: (value + 1, {}), value)
        return jnp.asarray(changed)

    values, lockstep = jnp.arange(3.0), jnp.full(3, 7)
    # A choice that is left to each member would be a selection, with the update made every time.
    program = str(jax.make_jaxpr(jax.vmap(one))(values, lockstep))
    assert "cond[" in program
    assert jax.vmap(one)(values, lockstep).tolist() == [0.0, 1.0, 2.0]
    assert jax.vmap(one)(values, lockstep + 1).tolist() == [1.0, 2.0, 3.0]
    # A frozen member has stayed behind at a step of the other parity: it has no say.
    frozen = jnp.array([8, 5, 8])
    assert jax.vmap(one)(values, frozen)[jnp.array([0, 2])].tolist() == [1.0, 3.0]
    frozen = jnp.array([7, 4, 7])
    assert jax.vmap(one)(values, frozen)[jnp.array([0, 2])].tolist() == [0.0, 2.0]


def test_a_bound_function_is_the_same_object_so_that_it_compiles_once() -> None:
    def power(base: float, exponent: float) -> float:
        return float(base**exponent)

    assert bind(power, 2.0)(3.0) == 8.0
    assert bind(power, 2.0) is bind(power, 2.0)
    assert bind(power, 2.0) is not bind(power, 3.0)

"""IQL in the style of one-file JAX code, to measure the speed of ours against it.

Re-made from what unifloral (github.com/EmptyJackson/unifloral, algorithms/iql.py) does: a `scan`
over updates that draws from the data on the device, V, Q and the policy from one batch of targets,
both critics as one batched product, a policy of tanh means with one standard deviation for each
number, standardised observations inside the networks, Adam under a cosine.
"""

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

WIDTH, BATCH, UPDATES = 256, 256, 1_000_000
DISCOUNT, EXPECTILE, INVERSE_TEMPERATURE, CAP, POLYAK = 0.99, 0.7, 3.0, 100.0, 0.005
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(3e-4, UPDATES), eps=1e-5)

Layers = list[tuple[Array, Array]]


class Transitions(NamedTuple):
    """The whole data, a row each."""

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    done: Array


class State(NamedTuple):
    """Parameters and states of the optimizers."""

    policy: Any
    critics: Layers
    target_critics: Layers
    value: Layers
    optimizers: tuple[Any, Any, Any]
    key: Array


def mlp(key: Array, *sizes: int) -> Layers:
    """Weights and biases; how they are drawn does not change the speed."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (inputs, outputs)) / jnp.sqrt(inputs), jnp.zeros(outputs))
        for k, (inputs, outputs) in zip(keys, pairwise(sizes), strict=True)
    ]


def forward(layers: Layers, x: Array) -> Array:
    """The outputs."""
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def initial(key: Array, observation: int, action: int) -> State:
    """Fresh networks."""
    key, *keys = jax.random.split(key, 5)
    policy = mlp(keys[0], observation, WIDTH, WIDTH, action), jnp.zeros(action)
    value = mlp(keys[1], observation, WIDTH, WIDTH, 1)
    one, two = (mlp(k, observation + action, WIDTH, WIDTH, 1) for k in keys[2:])
    critics = jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two)
    optimizers = tuple(OPTIMIZER.init(one) for one in (policy, critics, value))
    return State(policy, critics, jax.tree.map(jnp.copy, critics), value, optimizers, key)


def train(data: Transitions) -> Callable[[State, int], tuple[State, Array]]:
    """`(state, updates) -> (state, losses)`, compiled."""
    mean, deviation = data.observations.mean(0), data.observations.std(0) + 1e-3

    def scaled(observations: Array) -> Array:
        return (observations - mean) / deviation

    def value_of(layers: Layers, observations: Array) -> Array:
        return forward(layers, scaled(observations))[..., 0]

    def q_of(critics: Layers, observations: Array, actions: Array) -> Array:
        inputs = jnp.concatenate([scaled(observations), actions], -1)
        return jax.vmap(lambda one: forward(one, inputs)[..., 0])(critics)

    def step(state: State, _: None) -> tuple[State, Array]:
        key, drawn = jax.random.split(state.key)
        rows = jax.random.randint(drawn, (BATCH,), 0, len(data.rewards))
        batch: Transitions = jax.tree.map(lambda one: one[rows], data)
        targets = jax.tree.map(
            lambda target, online: target + POLYAK * (online - target),
            state.target_critics,
            state.critics,
        )
        q = q_of(targets, batch.observations, batch.actions).min(0)
        next_v = value_of(state.value, batch.next_observations)
        wanted = batch.rewards + DISCOUNT * (1 - batch.done) * next_v

        def critic_loss(critics: Layers) -> Array:
            found = q_of(critics, batch.observations, batch.actions)
            return jnp.square(found - wanted).mean()

        def value_loss(layers: Layers) -> tuple[Array, Array]:
            advantage = q - value_of(layers, batch.observations)
            weight = jnp.abs(EXPECTILE - (advantage < 0))
            return (weight * jnp.square(advantage)).mean(), advantage

        def policy_loss(policy: Any, weights: Array) -> Array:
            layers, log_deviation = policy
            means = jnp.tanh(forward(layers, scaled(batch.observations)))
            log_deviation = jnp.clip(log_deviation, -20, 2)
            errors = (batch.actions - means) / jnp.exp(log_deviation)
            log_prob = -(0.5 * jnp.square(errors) + log_deviation).sum(-1)
            return -(weights * log_prob).mean()

        q_loss, of_critics = jax.value_and_grad(critic_loss)(state.critics)
        (v_loss, advantage), of_value = jax.value_and_grad(value_loss, has_aux=True)(state.value)
        weights = jnp.minimum(jnp.exp(INVERSE_TEMPERATURE * advantage), CAP)
        p_loss, of_policy = jax.value_and_grad(policy_loss)(state.policy, weights)
        networks = (state.policy, state.critics, state.value)
        moved = [
            OPTIMIZER.update(gradient, optimizer)
            for gradient, optimizer in zip(
                (of_policy, of_critics, of_value), state.optimizers, strict=True
            )
        ]
        policy, critics, value = (
            optax.apply_updates(network, change)
            for network, (change, _) in zip(networks, moved, strict=True)
        )
        optimizers = tuple(optimizer for _, optimizer in moved)
        after = State(policy, critics, targets, value, optimizers, key)
        return after, jnp.stack([q_loss, v_loss, p_loss])

    @functools.partial(jax.jit, static_argnums=1, donate_argnums=0)
    def run(state: State, updates: int) -> tuple[State, Array]:
        result: tuple[State, Array] = jax.lax.scan(step, state, None, updates)
        return result

    return run

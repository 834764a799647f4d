"""Small worlds whose answers are known: tabular MDPs, and an environment of one line."""

import dataclasses
import functools
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xql.agents import Agent, Batch, EnvironmentSpec, Metrics, TrainState
from xql.data.actions import Discrete, box
from xql.data.dataset import Dataset
from xql.runs.config import Member
from xql.training.online_state import add
from xql.training.population import initial_population, replicated, train_chunk, zero_totals


class Log(NamedTuple):
    """Transitions between numbered states by numbered actions."""

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_states: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    state_count: int
    action_count: int

    @property
    def one_hot_states(self) -> np.ndarray:
        return np.eye(self.state_count, dtype=np.float32)[self.states]

    @property
    def one_hot_next_states(self) -> np.ndarray:
        return np.eye(self.state_count, dtype=np.float32)[self.next_states]

    @property
    def one_hot_actions(self) -> np.ndarray:
        return np.eye(self.action_count, dtype=np.float32)[self.actions]

    @property
    def masks(self) -> np.ndarray:
        return 1.0 - self.terminated.astype(np.float32)

    @property
    def spec(self) -> EnvironmentSpec:
        """Of the log with its actions as discrete ones."""
        return EnvironmentSpec(self.state_count, Discrete(self.action_count))

    def dataset(self, **describe: Any) -> Dataset:
        return Dataset.from_arrays(
            self.one_hot_states,
            self.one_hot_actions,
            self.rewards.astype(np.float32),
            self.terminated,
            self.truncated,
            next_observations=self.one_hot_next_states,
            **describe,
        )


def random_log(
    seed: int, states: int = 12, actions: int = 5, steps: int = 4000, limit: int = 40
) -> Log:
    """Log a random stochastic behaviour policy in a random MDP with noisy rewards.

    One state terminates when entered; episodes are cut after `limit` steps.
    """
    random = np.random.default_rng(seed)
    transition = random.dirichlet(np.full(states, 0.3), size=(states, actions))
    # The last state is the one that ends an episode; it is seldom entered.
    transition[..., -1] *= 0.2
    transition /= transition.sum(-1, keepdims=True)
    reward = random.normal(size=(states, 1)) + 0.7 * random.normal(size=(states, actions))
    # Every action keeps probability 0.06 or more, so that log 1/µ stays below the loss's clip of 5.
    behaviour = 0.7 * random.dirichlet(np.ones(actions), size=states) + 0.3 / actions
    rows, state, length = [], int(random.integers(states - 1)), 0
    for _ in range(steps):
        action = int(random.choice(actions, p=behaviour[state]))
        after = int(random.choice(states, p=transition[state, action]))
        length += 1
        terminated = after == states - 1
        truncated = not terminated and length == limit
        noisy = reward[state, action] + 0.3 * random.normal()
        rows.append((state, action, noisy, after, terminated, truncated))
        state = after
        if terminated or truncated:
            state, length = int(random.integers(states - 1)), 0
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Log._make([*columns, states, actions])


def soft_value_iteration(
    log: Log, beta: float, discount: float, *, entropy: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """V [states], Q [states, actions] and how often each pair occurs, of the log's own MDP.

    V(s) = β log Σ_a µ̂(a|s) e^{Q(s,a)/β} and Q = r̂ + γ P̂ V, every hat a frequency in the log. With
    `entropy` V(s) = β log Σ_a e^{Q(s,a)/β}, over the actions that the log has: β weighs an entropy.
    """
    pairs = (log.state_count, log.action_count)
    counts, reward = np.zeros(pairs), np.zeros(pairs)
    transition = np.zeros((*pairs, log.state_count))
    np.add.at(counts, (log.states, log.actions), 1.0)
    np.add.at(reward, (log.states, log.actions), log.rewards)
    np.add.at(transition, (log.states, log.actions, log.next_states), log.masks)
    seen = np.maximum(counts, 1.0)
    reward, transition = reward / seen, transition / seen[..., None]
    behaviour = counts / np.maximum(counts.sum(1, keepdims=True), 1.0)
    if entropy:
        behaviour = (counts > 0).astype(np.float64)
    # The state that ends episodes has no action in the log; nothing ever asks for its value.
    acted = np.flatnonzero(counts.sum(1))
    v = np.zeros(log.state_count)
    for _ in range(10_000):
        q = reward + discount * transition @ v
        odds = (behaviour * np.exp((q - q.max(1, keepdims=True)) / beta)).sum(1)[acted]
        after = q.max(1)[acted] + beta * np.log(odds)
        if np.abs(after - v[acted]).max() < 1e-12:
            break
        v[acted] = after
    return v, q, counts


def trained(
    agent: Agent, spec: EnvironmentSpec, members: Sequence[Member], dataset: Dataset, *chunks: int
) -> TrainState:
    """A population after chunks of so many updates each."""
    population = initial_population(agent, spec, members)
    data = dataset.to_device(replicated(population))
    totals = zero_totals(population, data, agent)
    for updates in chunks:
        population, totals = train_chunk(population, totals, data, updates, agent=agent)
    return population


def spec_of(observation_size: int, action_size: int, bound: float = 1.0) -> EnvironmentSpec:
    """Observations of one size, actions within ±`bound`."""
    return EnvironmentSpec(observation_size, box([-bound] * action_size, [bound] * action_size))


def first_state(agent: Agent, spec: EnvironmentSpec, seed: int = 0, **changes: float) -> Any:
    """One member's fresh state."""
    config = dataclasses.replace(agent.config, **changes)
    return _first_state(agent.init, spec, jax.random.key(seed), jax.tree.map(jnp.float32, config))


@functools.partial(jax.jit, static_argnames=("init", "spec"))
def _first_state(init: Any, spec: EnvironmentSpec, key: Any, config: Any) -> Any:
    return init(key, spec, config)


def one_update(agent: Agent, state: Any, batch: Batch) -> tuple[Any, Metrics]:
    """One update of one member, compiled once for each agent's static hyperparameters."""
    return _one_update(agent.update, state, batch)


@functools.partial(jax.jit, static_argnames="update")
def _one_update(update: Any, state: Any, batch: Batch) -> tuple[Any, Metrics]:
    result: tuple[Any, Metrics] = update(state, batch)
    return result


def random_batch(rows: int, spec: EnvironmentSpec, seed: int = 0) -> Batch:
    """Transitions that mean nothing; every second one terminates, every third is its log's last."""
    random = np.random.default_rng(seed)
    columns = (
        random.normal(size=(rows, spec.observation_size)),
        spec.actions.sample(random, rows),
        random.normal(size=rows),
        np.arange(rows) % 2,
        random.normal(size=(rows, spec.observation_size)),
        spec.actions.sample(random, rows),
        np.arange(rows) % 3 > 0,
    )
    return Batch(*(jnp.array(column, jnp.float32) for column in columns))


def constant(network: Any, *numbers: float) -> Any:
    """The network with its output fixed: a number for each member of a critic, else for each unit.

    The layers before the last keep their weights, to which no gradient comes.
    """

    def fixed(mlp: Any, values: Sequence[float]) -> Any:
        last = mlp.layers[-1]
        bias = jnp.broadcast_to(jnp.array(values, jnp.float32), last.bias.shape)
        where = lambda one: (one.layers[-1].weight, one.layers[-1].bias)  # noqa: E731
        return eqx.tree_at(where, mlp, (jnp.zeros_like(last.weight), bias))

    if hasattr(network, "mlps"):
        each = tuple(fixed(mlp, [n]) for mlp, n in zip(network.mlps, numbers, strict=True))
        return eqx.tree_at(lambda one: one.mlps, network, each)
    return eqx.tree_at(lambda one: one.mlp, network, fixed(network.mlp, numbers))


def in_place(state: Any, **networks: Any) -> Any:
    """The state with some networks replaced; the optimizers stay."""
    changes = {
        name: network
        if name.startswith("target")
        else getattr(state, name)._replace(network=network)
        for name, network in networks.items()
    }
    return state._replace(**changes)


def first_gradient(trained: Any) -> Any:
    """The gradient of a network's first step, read from Adam's first moment: mu = (1 − 0.9) · g."""
    return jax.tree.map(lambda mu: np.asarray(mu) / 0.1, trained.optimizer.mu)


def assert_close(one: Any, other: Any, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Two pytrees have as many leaves, and every leaf about the same numbers."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


class Line(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point at x moves by 0.2 a; the reward is −|x|. Starts anywhere in [-1, 1]."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._x, self._steps = float(self.np_random.uniform(-1.0, 1.0)), 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._x += 0.2 * float(np.clip(action, -1.0, 1.0)[0])
        self._steps += 1
        close = abs(self._x) < 0.1
        return self._observe(), -abs(self._x), False, self._steps == 10, {"success": close}

    def _observe(self) -> np.ndarray:
        return np.array([self._x, 1.0], np.float32)


def register_line() -> str:
    """Make `Line` known to Gymnasium, and return its id."""
    if "XQLTestLine-v0" not in gymnasium.registry:
        gymnasium.register("XQLTestLine-v0", entry_point="worlds:Line")
    return "XQLTestLine-v0"


class Drawn(Line):
    """`Line`, drawn as one grey that says the step: 20 times its number."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    size = (40, 64)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def render(self) -> np.ndarray:
        return np.full((*self.size, 3), 20 * self._steps, np.uint8)


def register_drawn() -> str:
    """Make `Drawn` known to Gymnasium, and return its id."""
    if "XQLTestDrawn-v0" not in gymnasium.registry:
        gymnasium.register("XQLTestDrawn-v0", entry_point="worlds:Drawn")
    return "XQLTestDrawn-v0"


def line_data(episodes: int = 20, seed: int = 0, **describe: Any) -> Dataset:
    """`Line` played by uniformly random actions."""
    random = np.random.default_rng(seed)
    rows = []
    env = Line()
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        done = False
        while not done:
            action = random.uniform(-1.0, 1.0, 1).astype(np.float32)
            after, reward, terminated, done, _ = env.step(action)
            rows.append((observation, action, np.float32(reward), terminated, done, after))
            observation = after
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Dataset.from_arrays(*columns, **({"name": "line"} | describe))


def stop_after(calls: int, patch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Let a signal come during a call of the compiled program of either loop."""
    left = [calls]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
            return function(*args, **kwargs)

        return call

    patch.setattr("xql.training.offline.train_chunk", counted(train_chunk))
    patch.setattr("xql.training.online.add", counted(add))


def same_bits(one: Any, other: Any) -> bool:
    """Whether two pytrees have the same structure and every leaf the same bits."""
    structures: list[Any] = [jax.tree.structure(one), jax.tree.structure(other)]
    if structures[0] != structures[1]:
        return False
    return all(
        np.array_equal(_bits(a), _bits(b))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def _bits(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(leaf)
    return array.view(np.uint8) if array.ndim else array


def random_mdp(
    seed: int = 0, states: int = 5, actions: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transition probabilities, rewards, and a reference policy."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(states), (states, actions))
    return transitions, rng.normal(size=(states, actions)), rng.dirichlet(np.ones(actions), states)


def iterate(
    backup: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], steps: int = 600
) -> np.ndarray:
    """The fixed point of a contraction, from zero."""
    q = np.zeros(shape)
    for _ in range(steps):
        q = backup(q)
    return q

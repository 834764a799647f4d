"""What an online run that continues an offline one does otherwise than one from scratch.

Its networks have learned from scaled observations and rewards, so whatever the simulator gives is
scaled as the log was before they see it or the replay buffer stores it; the policy of the offline
run acts from the first step; and a batch may hold rows of the log beside those of the buffer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, PRNGKeyArray

from xql.agents import Agent, Batch, TrainState
from xql.data.dataset import Dataset, DeviceData
from xql.data.scaling import Scaling, apply_scaling, least_returns
from xql.envs import checked
from xql.envs.given import Simulator
from xql.envs.make import make_environment
from xql.errors import InputError
from xql.runs.config import AtSuccess, Member, ReplayKind, RunConfig
from xql.runs.policy import scale
from xql.training.divergence import RewardRange
from xql.training.population import replicated, transitions_at
from xql.training.replay import Replay, Rows, rows_at, sample
from xql.training.streaming import Stream


class Start(NamedTuple):
    """What a fine-tuned run begins with."""

    population: TrainState
    dataset: Dataset | None
    """The log, with raw rewards and observations; None where nothing is drawn from it."""
    notes: Sequence[str] = ()
    """What was decided, a line each."""


class Mixture(NamedTuple):
    """How the batches of fine-tuning are drawn; part of the compiled program."""

    replay: ReplayKind
    environments: int
    """Copies of the environment for each member: the rows of the buffer from one step to the
    next."""


class Recipe(NamedTuple):
    """What the loop does to what the simulators give, and what it draws batches from."""

    scaling: Scaling | None = None
    mixture: Mixture | None = None
    """None for a run from scratch, whose batches are the replay buffer's."""
    log: DeviceData | None = None
    rewards: RewardRange | None = None
    """Of the log, scaled."""

    @property
    def pretrained(self) -> bool:
        """Whether the policy that acts first has learned already."""
        return self.mixture is not None

    def observations(
        self, raw: Float32[np.ndarray, "members environments observation"]
    ) -> Float32[np.ndarray, "members environments observation"]:
        """Observations as the networks were trained to see them."""
        return raw if self.scaling is None else scale(raw, self.scaling)

    def rows(self, raw: Rows) -> Rows:
        """Transitions as the log has them."""
        if self.scaling is None:
            return raw
        by, shift = np.float32(self.scaling.reward_scale), np.float32(self.scaling.reward_shift)
        return raw._replace(
            observations=self.observations(raw.observations),
            next_observations=self.observations(raw.next_observations),
            rewards=raw.rewards * by + shift,
        )

    def reward_range(self, raw: RewardRange) -> RewardRange:
        """The lowest and highest reward of what is learned from, given the simulators'."""
        if self.scaling is None:
            return raw
        found = [self.scaling.reward_scale * one + self.scaling.reward_shift for one in raw]
        found += self.rewards or ()
        return RewardRange(min(found), max(found))


SCRATCH = Recipe()
"""Of a run that continues none."""


def recipe_for(config: RunConfig, start: Start, population: TrainState, agent: Agent) -> Recipe:
    """The recipe of a fine-tuned run.

    Args:
        config: the run's.
        start: what it begins with.
        population: as it is placed on the devices.
        agent: the run's.
    """
    assert config.loop is not None and config.finetune is not None
    mixture = Mixture(config.finetune.replay, config.loop.environments)
    if start.dataset is None:
        return Recipe(config.scaling, mixture)
    scaled = apply_scaling(start.dataset, config.scaling)
    taken = scaled.rewards[scaled.starts]
    rewards = RewardRange(float(taken.min()), float(taken.max()))
    log = on_devices(scaled, config, population, agent) if mixture.replay != "online" else None
    return Recipe(config.scaling, mixture, log, rewards)


def on_devices(
    scaled: Dataset, config: RunConfig, population: TrainState, agent: Agent
) -> DeviceData:
    """A run's data on the devices of its population, with what its agent asks for.

    Args:
        scaled: the data as `apply_scaling` gives it.
        config, population, agent: the run's.
    """
    return scaled.to_device(replicated(population), _returns(scaled, config, agent))


def stream_of(dataset: Dataset, config: RunConfig, population: TrainState, agent: Agent) -> Stream:
    """A run's data in shuffled buffers, each on the devices of its population.

    Args:
        dataset: with raw rewards and observations.
        config, population, agent: the run's.
    """
    assert config.data.streamed is not None
    scaled = apply_scaling(dataset, config.scaling.of_rewards())
    return Stream(
        scaled,
        config.scaling,
        size=config.data.streamed,
        drawn=agent.transitions,
        sharding=replicated(population),
        returns=_returns(scaled, config, agent),
    )


def _returns(
    scaled: Dataset, config: RunConfig, agent: Agent
) -> Float32[np.ndarray, " rows"] | None:
    """What bounds the returns of the scaled rewards, where the agent asks for it."""
    if not agent.wants_returns:
        return None
    return least_returns(scaled, getattr(config.member_config(0), "discount", 1.0))


def require_one_discount(agent: Agent, members: Sequence[Member]) -> None:
    """Refuse members with discounts of their own where the data must have returns of one.

    Raises:
        InputError: the agent asks for returns, and the discount is swept.
    """
    if agent.wants_returns and any("discount" in one.changes for one in members):
        raise InputError(
            "discount cannot be swept with calibrated=True, since the members share the returns "
            "of the data",
            hint="give it with `options`, one run for each",
        )


def draw_batch(
    memory: Replay,
    log: DeviceData | None,
    key: PRNGKeyArray,
    filled: Int[Array, ""],
    size: int,
    mixture: Mixture | None,
) -> Batch:
    """`size` transitions for an update of one member, drawn with replacement.

    Args:
        memory: the member's replay buffer.
        log: the data; None where `mixture` takes nothing from it.
        key: of the draw.
        filled: how many rows of the buffer are.
        size: transitions.
        mixture: None for the buffer alone, without the actions at s'.
    """
    if mixture is None:
        return sample(memory, key, filled, size)
    if mixture.replay == "online" or log is None:
        numbers = jax.random.randint(key, (size,), 0, filled)
        return _played(memory, numbers, filled, mixture)
    logged = len(log.starts)
    if mixture.replay == "prefill":
        numbers = jax.random.randint(key, (size,), 0, logged + filled)
        from_log = numbers < logged
        one = transitions_at(log, jnp.minimum(numbers, logged - 1))
        other = _played(memory, jnp.maximum(numbers - logged, 0), filled, mixture)
        return _joined(log, one, other, lambda a, b: jnp.where(_beside(from_log, a), a, b))
    half = (size + 1) // 2
    log_key, memory_key = jax.random.split(key)
    one = transitions_at(log, jax.random.randint(log_key, (half,), 0, logged))
    numbers = jax.random.randint(memory_key, (half,), 0, filled)
    other = _played(memory, numbers, filled, mixture)

    def in_turn(a: Array, b: Array) -> Array:
        # Any block of a batch, such as each of XQL's `v_updates`, is then half and half.
        return jnp.stack([a, b], 1).reshape(2 * half, *a.shape[1:])[:size]

    return _joined(log, one, other, in_turn)


def _joined(log: DeviceData, one: Batch, other: Batch, join: Any) -> Batch:
    if log.returns is not None:
        other = other._replace(returns=jnp.full(other.rewards.shape, -jnp.inf))
    joined: Batch = jax.tree.map(join, one, other)
    return joined


def _beside(condition: Array, column: Array) -> Array:
    return condition.reshape(-1, *[1] * (column.ndim - 1))


def _played(memory: Replay, rows: Array, filled: Int[Array, ""], mixture: Mixture) -> Batch:
    """Rows of the buffer, with the action that was taken at s'.

    That is the one of the same copy's next row, unless the episode ended in between: the buffer
    then goes on with another observation. The newest rows have no next one yet.
    """
    following = rows + mixture.environments
    # Once the buffer is full, the oldest rows stand behind the newest: another observation.
    there = following < filled
    following = following % memory.capacity
    there |= filled == memory.capacity
    batch = rows_at(memory, rows)
    same = (memory.observations[following] == batch.next_observations).all(-1)
    return batch._replace(
        next_actions=memory.actions[following],
        next_acted=(there & same).astype(jnp.float32),
    )


class AtSuccessOf(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose episodes end at a success as those of a log do.

    To an agent that learned from both, one termination more or less is another task: with a cost
    for each step, a goal that does not terminate is worth no more than the step before it.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], rule: AtSuccess) -> None:
        super().__init__(env)
        self._rule = rule

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; only one that reports a success is changed."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if checked.success(info):
            if self._rule == "terminate":
                terminated = True
            elif terminated:
                # The simulator does not go on; the value of what would follow still counts.
                terminated, truncated = False, True
        return observation, reward, terminated, truncated, info


def training_environment(
    config: RunConfig, environment: str | Simulator
) -> gymnasium.Env[Any, Any]:
    """A simulator for an online run to act in.

    Args:
        config: the run's.
        environment: what `make_environment` may make.
    """
    env = make_environment(environment, keys=config.data.observation_keys)
    rule = "simulator" if config.finetune is None else config.finetune.at_success
    return env if rule == "simulator" else AtSuccessOf(env, rule)


def rule_at_success(dataset: Dataset) -> AtSuccess:
    """How the episodes of a log end at a success, where its rewards say which steps those are.

    They do where there are two rewards only: the higher one is the success. Where every such step
    terminates, online ones are to terminate too; where none does, none is to.
    """
    rewards = dataset.rewards[dataset.starts]
    best = rewards == rewards.max()
    if best.all() or (rewards[~best] != rewards.min()).any():
        return "simulator"
    ends = dataset.masks[dataset.starts][best] == 0
    if ends.all():
        return "terminate"
    return "simulator" if ends.any() else "continue"

"""What an online run's networks make of the last transitions in its replay buffer.

The Gumbel losses of the online agents are of other numbers than XQL's: X-SAC's V is the soft
maximum of Q over actions that its policy draws, and X-TD3's Q that of its target y, without a V.
So z is (min Q̄(s, a~) − V(s)) / β for the first, and (y − Q₁(s, a)) / β for the second.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from xql.agents import Agent, Batch, TrainState, member
from xql.data.scaling import Scaling
from xql.evaluation.bellman import bellman_errors
from xql.evaluation.ope import spread_out
from xql.jax_config import standard_jax
from xql.runs.config import RunConfig
from xql.runs.policy import Policy
from xql.training.diagnostics import (
    MEMBERS,
    STATES,
    TRANSITIONS,
    Diagnostics,
    action_columns,
    beta_of,
    none,
)
from xql.training.replay import Replay, Rows, ring_capacity

RECENT = 20_000
"""Of each member's buffer, the last: older ones are of policies that have changed since."""

Recent = Callable[[int], Rows]
"""A member's last transitions, oldest first; those of several environments take turns."""


def recent_of(config: RunConfig, replay: Replay | Rows, *, oldest_first: bool) -> Recent:
    """How to take a member's last transitions from the buffers of a run that is complete.

    Args:
        config: the run's.
        replay: the buffers.
        oldest_first: whether they are in the order of time, as in replay.npz; or else a ring.
    """
    assert config.loop is not None
    each = config.loop.environments
    capacity = ring_capacity(config.loop.buffer, config.steps, each)
    count = min(capacity, max(RECENT // each, 1) * each)
    rows = np.arange(capacity - count, capacity)
    if not oldest_first:
        rows = (rows + config.steps) % capacity

    def recent(index: int) -> Rows:
        return Rows(*(np.asarray(column[index, rows]) for column in replay))

    return recent


@standard_jax()
def diagnose_replay(
    config: RunConfig, population: TrainState, recent: Recent, step: int
) -> Diagnostics:
    """Let the members of an online run look at what they did last.

    Args:
        config: the run's.
        population: as it is at `step`.
        recent: each member's last transitions, as its networks see them.
        step: the run's.
    """
    assert config.loop is not None
    agent, spec = config.make_agent(), config.data.actions
    zeros = np.zeros(config.data.observation_size, np.float32)
    # The buffer has what the networks see.
    plain = Scaling("raw", "raw", 1.0, 0.0, zeros, zeros + 1)
    found, acted, recorded, rewards = [], [], [], []
    for index in range(min(len(config.members), MEMBERS)):
        state, rows = member(population, index), recent(index)
        returns = returns_in(rows, config.loop.environments, float(state.config.discount))
        chosen = spread_out(np.arange(len(returns)), TRANSITIONS)
        batch = Batch(*(jnp.asarray(column[chosen]) for column in rows))
        draws = config.finetune is None
        found.append((*_differences(agent, state, batch, draws=draws), returns[chosen]))
        asked = spread_out(np.arange(len(returns)), STATES)
        policy = Policy(agent.actor(state), plain, spec)
        acted.append(policy.flat(rows.observations[asked], finite=False))
        recorded.append(rows.actions[asked])
        rewards.append(rows.rewards)
    differences, q, betas, returns_of = zip(*found, strict=True)
    members = len(found)
    quantiles = np.quantile(np.concatenate(rewards), [0, 0.25, 0.5, 0.75, 1])
    return Diagnostics(
        step=step,
        differences=np.stack(differences).astype(np.float32),
        beta=np.array([one for one in betas if one is not None], np.float32),
        values=np.stack(q).astype(np.float32),
        returns=np.stack(returns_of).astype(np.float32),
        distances=none(members, 0),
        logged=none(),
        **action_columns(spec, acted, recorded),
        episode_returns=none(),
        episode_lengths=np.zeros(0, np.int64),
        rewards=quantiles.astype(np.float32),
        terminated=0.0,
        truncated=0.0,
        unit="return" if config.scaling.rewards == "raw" else "scaled return",
        source="replay",
        difference="z = (Q − V) / β" if hasattr(population, "value") else "z = (y − Q) / β",
    )


def _differences(
    agent: Agent, state: Any, batch: Batch, *, draws: bool
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """z and min Q̄ of transitions, and β; no z without a β.

    Args:
        agent, state, batch: of one member.
        draws: whether V is the soft maximum over the policy's actions, and not the buffer's.
    """
    critic = getattr(state, "target_critic", state.critic.network)
    q = np.asarray(critic(batch.observations, batch.actions).min(0), np.float64)
    beta = beta_of(state)
    if beta is None or agent.backup is None:
        return none(), q, None
    if hasattr(state, "value"):
        actions = batch.actions
        if draws:
            actions = state.policy.network.sample(batch.observations, jax.random.key(0))
        above = critic(batch.observations, actions).min(0)
        errors = above - state.value.network(batch.observations)
    else:
        errors = bellman_errors(state, batch, None, backup=agent.backup)
    return np.asarray(errors, np.float64) / beta, q, beta


def returns_in(rows: Rows, environments: int, discount: float) -> Float64[np.ndarray, " rows"]:
    """The discounted return from each transition to where its episode, or the buffer, ends.

    Args:
        rows: in the order of time; those of several environments take turns.
        environments: how many.
        discount: γ.
    """
    goes_on = rows.masks.astype(bool)
    # A truncated episode has no mark of its own: the next observation is not where it had led.
    goes_on[:-environments] &= (
        rows.next_observations[:-environments] == rows.observations[environments:]
    ).all(-1)
    goes_on[-environments:] = False
    weights = discount * goes_on.reshape(-1, environments)
    returns = rows.rewards.astype(np.float64).reshape(-1, environments)
    for time in range(len(returns) - 2, -1, -1):
        returns[time] += weights[time] * returns[time + 1]
    return returns.ravel()

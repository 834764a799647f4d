"""Behaviour cloning: maximum likelihood of the data's own actions. The baseline to beat.

    policy  maximises  E[log π(a|s)]

with the same Gaussian policy, optimizer and schedule as `xql.py`, and nothing else.

10%-BC clones the best tenth of the episodes by return alone. A batch knows nothing of returns, so
that this is a choice of data, made before training: `episodes="top:0.1"` (`data/selection.py`),
which any other agent takes as well.

What it scores is in results/, with the commands.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents import update as steps
from xql.agents.policies import GaussianPolicy
from xql.agents.types import Agent, Batch, Metrics, Spec, TrainState


@dataclass(frozen=True)
class BCConfig:
    """Every choice of the algorithm."""

    policy_learning_rate: float = 3e-4

    hidden: tuple[int, ...] = (256, 256)
    policy_schedule: steps.Schedule = "cosine"
    batch_size: int = 256


class BCHyper(NamedTuple):
    """The numbers that may differ along a population."""

    policy_learning_rate: Float[Array, ""] | float


@functools.cache  # the same configuration is the same agent, and so compiles once
def bc(config: BCConfig, total_steps: int) -> Agent:
    """The agent for one configuration; the cosine schedule ends at `total_steps`."""
    return Agent(
        init=functools.partial(init, config),
        update=functools.partial(update, config, total_steps),
        act=steps.act,
        hyper=BCHyper(*(getattr(config, name) for name in BCHyper._fields)),
        transitions=config.batch_size,
    )


def init(config: BCConfig, key: PRNGKeyArray, spec: Spec, hyper: BCHyper) -> TrainState:
    """A fresh policy."""
    key, policy_key = jax.random.split(key)
    policy = GaussianPolicy.create(
        policy_key, spec.observation_size, spec.action_low, spec.action_high, config.hidden
    )
    return TrainState(steps.trainable(policy), key, jnp.zeros((), jnp.int32), hyper)


def update(
    config: BCConfig, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """One step of maximum likelihood."""
    decay = steps.decay(config.policy_schedule, state.step, total_steps)
    policy, metrics = steps.fit_policy_weighted(
        state.policy,
        batch.observations,
        batch.actions,
        jnp.ones_like(batch.rewards),
        learning_rate=state.hyper.policy_learning_rate * decay,
    )
    return state._replace(policy=policy, step=state.step + 1), metrics

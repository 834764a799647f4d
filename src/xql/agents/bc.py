"""Behaviour cloning (BC): maximum likelihood of the actions in the data. The baseline to beat.

    policy  maximises  E[log π(a|s)]

with the same Gaussian policy, optimizer and schedule as `xql.py`, and nothing else.

10 % BC learns from the 10 % of the episodes with the highest returns. That is a choice of data,
made before training: `subset="top:0.1"` (`data/selection.py`). Every other agent takes it as well.

What it scores is in results/, with the commands.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from xql.agents.hyperparameters import SIZE, Swept, agent_config, static, swept
from xql.agents.policies import StochasticPolicy, network_of, policy_for, project
from xql.agents.types import Agent, Batch, EnvironmentSpec, Metrics, Scalar, Trainable
from xql.agents.update import Schedule, bind, decay, descend, trainable
from xql.data.actions import Box, Discrete


@agent_config
class BCConfig:
    """Every choice of the algorithm."""

    policy_learning_rate: Swept = swept(default=3e-4, doc="Learning rate of the policy (Adam).")

    hidden: tuple[int, ...] = static(default=(256, 256), doc="Hidden layer widths.", range=SIZE)
    policy_schedule: Schedule = static(default="cosine", doc="Learning rate schedule.")
    batch_size: int = static(default=256, doc="Transitions per batch.", range=SIZE)


class BCState(NamedTuple):
    """Everything that the next update depends on."""

    policy: Trainable
    key: PRNGKeyArray
    step: Int[Array, ""]
    config: BCConfig


def make_bc(config: BCConfig, total_steps: int) -> Agent:
    """The agent for one configuration; the cosine schedule ends at `total_steps`."""
    return Agent(
        init=init,
        update=bind(update, total_steps),
        actor=network_of,
        config=config,
        transitions=config.batch_size,
        takes=(Box, Discrete),
    )


def init(key: PRNGKeyArray, spec: EnvironmentSpec, config: BCConfig) -> BCState:
    """A fresh policy."""
    key, policy_key = jax.random.split(key)
    policy = policy_for(policy_key, spec, config.hidden)
    return BCState(trainable(policy), key, jnp.zeros((), jnp.int32), config)


def update(total_steps: int, state: BCState, batch: Batch) -> tuple[BCState, Metrics]:
    """One step of maximum likelihood."""
    config = state.config

    def policy_loss(network: StochasticPolicy) -> tuple[Scalar, Metrics]:
        log_prob = network.log_prob(batch.observations, batch.actions)
        loss = -log_prob.mean()
        return loss, {"policy_loss": loss, "log_prob": log_prob.mean()}

    learning_rate = config.policy_learning_rate * decay(
        config.policy_schedule, state.step, total_steps
    )
    policy, metrics = descend(state.policy, policy_loss, learning_rate)
    return state._replace(policy=project(policy), step=state.step + 1), metrics

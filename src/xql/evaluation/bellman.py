"""Bellman errors: how far the first critic is from what it backs up, one number per transition.

    δ = r + γ · mask · V(s') − Q₁(s, a)                      where the agent has a V
    δ = r + γ · mask · Q₁(s', a') − Q₁(s, a),  a' ~ π(·|s')  where it has none

An agent says which of the two is its own in `Agent.backup`. All networks are the online ones, not
their targets. No entropy is added; where the first SAC has fitted some into its V, it stays there.
A deterministic policy's a' is π(s').
"""

import functools
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents.types import Backup, Batch


@functools.partial(jax.jit, static_argnames="backup")
def bellman_errors(
    state: Any, batch: Batch, key: PRNGKeyArray | None, *, backup: Backup
) -> Float[Array, " transitions"]:
    """δ of every transition, in units of the scaled return; above 0 where Q₁ is too low.

    Compiled once for each agent and number of transitions.

    Args:
        state: one member's, of an agent that has a critic; for a population, `jax.vmap` this.
        batch: transitions as the agent learns from them, with the run's scaling.
        key: of the actions a'; None takes the policy's mean action instead (SAC's squashed mean),
            as the published code of Garg et al. does (arXiv 2301.02328).
        backup: the agent's.
    """
    q: Float[Array, "members transitions"] = state.critic.network(batch.observations, batch.actions)
    next_values = backup.next_values(state, batch, key)
    targets = batch.rewards + state.config.discount * batch.masks * next_values
    errors: Float[Array, " transitions"] = targets - q[0]
    return errors

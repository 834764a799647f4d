"""Bellman errors: how far the first critic is from what it backs up, one number per transition.

    δ = r + γ · mask · V(s') − Q₁(s, a)                      where the agent has a V
    δ = r + γ · mask · Q₁(s', a') − Q₁(s, a),  a' ~ π(·|s')  where it has none

All networks are the ones that learn, not their targets. No entropy is added; where the first SAC
has fitted some into its V, it stays there. A deterministic policy's a' is π(s').
"""

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents import Batch, TrainState
from xql.agents.networks import Critic


def bellman_errors(
    state: TrainState, batch: Batch, key: PRNGKeyArray
) -> Float[Array, " transitions"]:
    """δ of every transition, in units of the scaled return; above 0 where Q₁ is too low.

    Args:
        state: one member's, of an agent that has a critic; for a population, `jax.vmap` this.
        batch: transitions as the agent learns from them, scaled by the run's scaling.
        key: of the actions a'.
    """
    assert state.critic is not None
    first = Critic(state.critic.network.mlps[:1])
    if state.value is not None:
        following = state.value.network(batch.next_observations)
    else:
        actions = state.policy.network.sample(batch.next_observations, key)
        following = first(batch.next_observations, actions)[0]
    targets = batch.rewards + state.hyper.discount * batch.masks * following
    errors: Float[Array, " transitions"] = targets - first(batch.observations, batch.actions)[0]
    return errors


errors_of_member = jax.jit(bellman_errors)
"""The same, compiled: once for each agent and number of transitions."""

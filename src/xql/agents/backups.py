"""What critics bootstrap from, for Bellman errors: V(s'), or Q at the policy's next action."""

from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents.types import Backup, Batch


def _value_of_next(state: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, " batch"]:
    del key
    values: Float[Array, " batch"] = state.value.network(batch.next_observations)
    return values


def _first_q_of_next(state: Any, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, " batch"]:
    network = state.policy.network
    following = batch.next_observations
    actions = network.mean(following) if key is None else network.sample(following, key)
    q: Float[Array, "members batch"] = state.critic.network(batch.next_observations, actions)
    return q[0]


value_backup = Backup("V(s')", _value_of_next)
"""For agents with a V: the online network, not its target."""

policy_backup = Backup("Q₁(s', a')", _first_q_of_next)
"""For agents without one: the first critic at a' ~ π(·|s'), without a key at π's mean action."""

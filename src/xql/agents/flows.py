"""Flow policies: a learned velocity field carries Gaussian noise to actions.

    z ~ N(0, I) stands at t = 0, the action at t = 1, and between them dx/dt = v(s, x, t).

v is learned by conditional flow matching (Lipman et al., ICLR 2023, arXiv 2210.02747): on the
segment x = (1 − t) z + t a from noise to a logged action, v(s, x, t) regresses on a − z. The flow
of the minimiser carries the noise to the distribution of the actions, whatever its shape; a
Gaussian policy has one mode. Noise and velocities live in actions rescaled to [-1, 1].

Acting draws noise. Without a key a policy is a function of the state, as the others are: z is 0,
the mode of the noise, and where more than one candidate is asked for, the rest are the same fixed
draws in every state and every run. One fixed draw instead of 0 would push every action the same
way: that cost 38 of 58 points on DMSD (docs/xql.md).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents.networks import MLP, Critic
from xql.agents.policies import Bounds, action_range, within_bounds
from xql.agents.types import EnvironmentSpec
from xql.data.actions import require_box


def _noise(
    key: PRNGKeyArray | None, count: int, batch: tuple[Any, ...], size: int
) -> Float[Array, "count *batch action"]:
    """`count` draws for each row; without a key 0 and then fixed draws, the same for every row.

    A size in `batch` may be one of `jax.export`'s symbols, which are no whole numbers.
    """
    if key is not None:
        return jax.random.normal(key, (count, *batch, size))
    fixed = fixed_noise(count, size).reshape(count, *(1 for _ in batch), size)
    return jnp.broadcast_to(fixed, (count, *batch, size))


def fixed_noise(count: int, size: int) -> Float[Array, "count size"]:
    """The draws of every policy that acts without a key: 0, and then `count` − 1 others."""
    return jax.random.normal(jax.random.key(0), (count, size)).at[0].set(0.0)


class FlowPolicy(eqx.Module):
    """The behaviour policy as a flow: noise, carried by v in Euler steps, clipped to the bounds."""

    mlp: MLP
    low: Bounds = eqx.field(static=True)
    high: Bounds = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    @classmethod
    def create(
        cls, key: PRNGKeyArray, spec: EnvironmentSpec, hidden: Sequence[int], steps: int
    ) -> "FlowPolicy":
        """An MLP from (s, x, t) to a velocity."""
        actions = require_box(spec.actions)
        size = actions.size
        mlp = MLP.create(key, (spec.observation_size + size + 1, *hidden, size))
        return cls(mlp, actions.low, actions.high, steps)

    def __call__(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch action"]:
        """The action that a draw of noise flows to; without a key, that of z = 0."""
        return self.candidates(observations, key, 1)[0]

    def candidates(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None, count: int
    ) -> Float[Array, "count *batch action"]:
        """`count` draws for each state, in the data's action units."""
        batch = observations.shape[:-1]
        noise = _noise(key, count, batch, len(self.low))
        repeated = jnp.broadcast_to(observations, (count, *observations.shape))
        return rescale(self, self.flow(repeated, noise))

    def flow(
        self,
        observations: Float[Array, "*batch observation"],
        noise: Float[Array, "*batch action"],
    ) -> Float[Array, "*batch action"]:
        """Where noise flows to, in actions rescaled to [-1, 1]."""

        def step(index: Array, x: Array) -> Array:
            times = jnp.full((*x.shape[:-1], 1), index / self.steps)
            return x + self.velocity(observations, x, times) / self.steps

        x: Array = jax.lax.fori_loop(0, self.steps, step, noise)
        return jnp.clip(x, -1.0, 1.0)

    def velocity(
        self,
        observations: Float[Array, "*batch observation"],
        x: Float[Array, "*batch action"],
        times: Float[Array, "*batch 1"],
    ) -> Float[Array, "*batch action"]:
        """v(s, x, t)."""
        return self.mlp(jnp.concatenate([observations, x, times], axis=-1))

    def matching_error(
        self,
        observations: Float[Array, "*batch observation"],
        actions: Float[Array, "*batch action"],
        key: PRNGKeyArray,
    ) -> Float[Array, "*batch"]:
        """‖v(s, x, t) − (a − z)‖² at x = (1 − t) z + t a, z and t ~ U[0, 1] drawn for each row."""
        noise_key, time_key = jax.random.split(key)
        centre, half_range = action_range(self.low, self.high)
        ends = (actions - centre) / half_range
        noise = jax.random.normal(noise_key, ends.shape)
        times = jax.random.uniform(time_key, (*ends.shape[:-1], 1))
        x = (1 - times) * noise + times * ends
        return jnp.square(self.velocity(observations, x, times) - (ends - noise)).sum(-1)


class BestOfN(eqx.Module):
    """Of n actions of the behaviour policy, the one with the highest min Q."""

    behaviour: FlowPolicy
    critic: Critic
    count: int = eqx.field(static=True)

    def __call__(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch action"]:
        """The best of n draws; without a key, of z = 0 and n − 1 fixed draws.

        NaN where a Q is not finite: nothing says then which one is the best.
        """
        actions = self.behaviour.candidates(observations, key, self.count)
        states = jnp.broadcast_to(observations, (self.count, *observations.shape))
        q = self.critic(states, actions).min(0)
        best = jnp.take_along_axis(actions, q.argmax(0)[None, ..., None], axis=0)[0]
        return jnp.where(jnp.isfinite(q).all(0)[..., None], best, jnp.nan)


class OneStepFlowPolicy(eqx.Module):
    """a = π(s, z), one network evaluation, and the flow of the behaviour policy that anchors it."""

    behaviour: FlowPolicy
    mlp: MLP

    @classmethod
    def create(
        cls, key: PRNGKeyArray, spec: EnvironmentSpec, hidden: Sequence[int], steps: int
    ) -> "OneStepFlowPolicy":
        """An MLP from (s, z) to an action, beside the flow."""
        flow_key, key = jax.random.split(key)
        size = spec.actions.size
        mlp = MLP.create(key, (spec.observation_size + size, *hidden, size))
        return cls(FlowPolicy.create(flow_key, spec, hidden, steps), mlp)

    @property
    def low(self) -> Bounds:
        """The lowest actions."""
        return self.behaviour.low

    @property
    def high(self) -> Bounds:
        """The highest actions."""
        return self.behaviour.high

    def __call__(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch action"]:
        """The action of a draw of noise; without a key, that of z = 0."""
        noise = _noise(key, 1, observations.shape[:-1], len(self.low))[0]
        return rescale(self, self.one_step(observations, noise))

    def one_step(
        self,
        observations: Float[Array, "*batch observation"],
        noise: Float[Array, "*batch action"],
    ) -> Float[Array, "*batch action"]:
        """π(s, z) in actions rescaled to [-1, 1], not clipped."""
        return self.mlp(jnp.concatenate([observations, noise], axis=-1))


def rescale(
    policy: FlowPolicy | OneStepFlowPolicy, actions: Float[Array, "*batch action"]
) -> Float[Array, "*batch action"]:
    """Actions rescaled to [-1, 1], in the data's units again and clipped to the bounds."""
    centre, half_range = action_range(policy.low, policy.high)
    # Clipped in the data's units, where rounding could otherwise pass a bound.
    return within_bounds(centre + half_range * actions, policy.low, policy.high)

"""The policies: what turns an observation into an action within the bounds.

A call of a policy acts: its mode, or with a random key a draw, within the bounds. Losses use its
`mean` (the mode) and `sample` (a draw), both in the environment's own action units; of discrete
actions, as one-hot rows. Rounding may take what comes out of a tanh past a bound by its last bit;
only a call clips that, as a loss would lose its gradient there. Densities are those of actions
rescaled to [-1, 1], so that a temperature or a target entropy means the same whatever the bounds
are.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xql.agents.networks import MLP
from xql.agents.types import EnvironmentSpec, Trainable
from xql.data.actions import Discrete, require_box

Bounds = tuple[float, ...]

# Standard deviations stay within [e^-5, e^2], as in the published XQL code.
LOG_STD_RANGE = (-5.0, 2.0)


def action_range(
    low: Bounds, high: Bounds
) -> tuple[Float[Array, " action"], Float[Array, " action"]]:
    """The centre and half the width of the action bounds."""
    lowest, highest = jnp.array(low), jnp.array(high)
    return (highest + lowest) / 2, (highest - lowest) / 2


def within_bounds(
    actions: Float[Array, "*batch action"], low: Bounds, high: Bounds
) -> Float[Array, "*batch action"]:
    """The nearest actions within the bounds."""
    return jnp.clip(actions, jnp.array(low), jnp.array(high))


class GaussianPolicy(eqx.Module):
    """π(a|s) = N(bounded mean(s), e^{2·log_std}), the standard deviation shared by all states.

    The mean is a tanh scaled to the action bounds; the density is not squashed, so that actions on
    a bound keep a finite likelihood.
    """

    mlp: MLP
    log_std: Float[Array, "*ensemble action"]
    low: Bounds = eqx.field(static=True)
    high: Bounds = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        spec: EnvironmentSpec,
        hidden: Sequence[int],
    ) -> "GaussianPolicy":
        """Standard deviation 1 in units of half the action range."""
        actions = require_box(spec.actions)
        mlp = MLP.create(key, (spec.observation_size, *hidden, actions.size))
        return cls(mlp, jnp.zeros(actions.size), actions.low, actions.high)

    def __call__(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch action"]:
        """The mode, or with a key a draw, within the bounds."""
        actions = self.mean(observations) if key is None else self.sample(observations, key)
        return within_bounds(actions, self.low, self.high)

    def mean(
        self, observations: Float[Array, "*batch observation"]
    ) -> Float[Array, "*batch action"]:
        """The mode of the policy, in the data's action units."""
        centre, half_range = action_range(self.low, self.high)
        return centre + half_range * jnp.tanh(self.mlp(observations))

    def log_prob(
        self,
        observations: Float[Array, "*batch observation"],
        actions: Float[Array, "*batch action"],
        dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch"]:
        """log π(a|s) in actions rescaled to [-1, 1], in nats, summed over dimensions.

        Args:
            observations, actions: one per row.
            dropout: of hidden units, while training; see `MLP`.
            key: of the dropout; none is dropped without it.
        """
        centre, half_range = action_range(self.low, self.high)
        mean = jnp.tanh(self.mlp(observations, dropout=dropout, key=key))
        z = ((actions - centre) / half_range - mean) * jnp.exp(-self.log_std)
        return -(0.5 * jnp.square(z) + self.log_std + 0.5 * jnp.log(2 * jnp.pi)).sum(-1)

    def sample(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray
    ) -> Float[Array, "*batch action"]:
        """A draw, clipped to the bounds."""
        mean = self.mean(observations)
        _, half_range = action_range(self.low, self.high)
        noise = jax.random.normal(key, mean.shape) * jnp.exp(self.log_std) * half_range
        return within_bounds(mean + noise, self.low, self.high)

    def projected(self) -> "GaussianPolicy":
        """The same policy with its standard deviation within its range.

        For use after a step of the optimizer: clipping where it is used would leave a standard
        deviation outside the range without a gradient, and so without a way back.
        """
        log_std = jnp.clip(self.log_std, *LOG_STD_RANGE)
        return GaussianPolicy(self.mlp, log_std, self.low, self.high)


class CategoricalPolicy(eqx.Module):
    """π(a|s) of discrete actions: a softmax over one logit for each."""

    mlp: MLP

    @classmethod
    def create(
        cls, key: PRNGKeyArray, spec: EnvironmentSpec, hidden: Sequence[int]
    ) -> "CategoricalPolicy":
        """An MLP from the observation to the logits."""
        return cls(MLP.create(key, (spec.observation_size, *hidden, spec.actions.size)))

    def __call__(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch action"]:
        """The most likely action, or with a key a draw."""
        return self.mean(observations) if key is None else self.sample(observations, key)

    def mean(
        self, observations: Float[Array, "*batch observation"]
    ) -> Float[Array, "*batch action"]:
        """The most likely action, a one-hot row; NaN where a logit is not finite."""
        return self._rows(self.mlp(observations))

    def sample(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray
    ) -> Float[Array, "*batch action"]:
        """A draw, a one-hot row."""
        logits = self.mlp(observations)
        # The largest of logits + Gumbel noise is a draw from their softmax.
        return self._rows(logits + jax.random.gumbel(key, logits.shape))

    def log_probabilities(
        self,
        observations: Float[Array, "*batch observation"],
        dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch action"]:
        """log π(·|s) in nats, of every action."""
        return jax.nn.log_softmax(self.mlp(observations, dropout=dropout, key=key))

    def log_prob(
        self,
        observations: Float[Array, "*batch observation"],
        actions: Float[Array, "*batch action"],
        dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch"]:
        """log π(a|s) of one-hot actions, in nats; its negative is the cross entropy.

        Args:
            observations, actions: one per row.
            dropout: of hidden units, while training; see `MLP`.
            key: of the dropout; none is dropped without it.
        """
        return (self.log_probabilities(observations, dropout, key) * actions).sum(-1)

    def projected(self) -> "CategoricalPolicy":
        """The same: any logits are a distribution."""
        return self

    @staticmethod
    def _rows(scores: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        rows = jax.nn.one_hot(scores.argmax(-1), scores.shape[-1])
        finite = jnp.isfinite(scores).all(-1, keepdims=True)
        return jnp.where(finite, rows, jnp.nan)


StochasticPolicy = GaussianPolicy | CategoricalPolicy
"""What maximum likelihood is done with."""


def policy_for(key: PRNGKeyArray, spec: EnvironmentSpec, hidden: Sequence[int]) -> StochasticPolicy:
    """The policy of continuous actions, or that of discrete ones."""
    kind = CategoricalPolicy if isinstance(spec.actions, Discrete) else GaussianPolicy
    return kind.create(key, spec, hidden)


class DeterministicPolicy(eqx.Module):
    """a = π(s): a tanh scaled to the action bounds."""

    mlp: MLP
    low: Bounds = eqx.field(static=True)
    high: Bounds = eqx.field(static=True)
    exploration_noise: float = eqx.field(static=True, default=0.0)
    """Standard deviation of the noise on drawn actions, in half action ranges."""

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        spec: EnvironmentSpec,
        hidden: Sequence[int],
        *,
        layer_norm: bool = False,
    ) -> "DeterministicPolicy":
        """An MLP from the observation to one number per action dimension."""
        actions = require_box(spec.actions)
        sizes = (spec.observation_size, *hidden, actions.size)
        mlp = MLP.create(key, sizes, layer_norm=layer_norm)
        return cls(mlp, actions.low, actions.high)

    def __call__(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch action"]:
        """The action, with a key plus the exploration noise, within the bounds."""
        if key is None:
            return within_bounds(self.mean(observations), self.low, self.high)
        return self.sample(observations, key, self.exploration_noise)

    def mean(
        self, observations: Float[Array, "*batch observation"]
    ) -> Float[Array, "*batch action"]:
        """The action, in the environment's own units."""
        centre, half_range = action_range(self.low, self.high)
        return centre + half_range * jnp.tanh(self.mlp(observations))

    def sample(
        self,
        observations: Float[Array, "*batch observation"],
        key: PRNGKeyArray,
        deviation: float = 0.0,
        limit: float | None = None,
    ) -> Float[Array, "*batch action"]:
        """The action plus Gaussian noise, clipped to the bounds.

        Args:
            observations: one per row.
            key: of the noise.
            deviation: the noise's standard deviation, in units of half the action range.
            limit: where the noise itself is cut off, in the same units; nowhere without it.
        """
        mean = self.mean(observations)
        _, half_range = action_range(self.low, self.high)
        noise = deviation * jax.random.normal(key, mean.shape)
        noise = noise if limit is None else jnp.clip(noise, -limit, limit)
        return within_bounds(mean + half_range * noise, self.low, self.high)

    def distance(
        self, chosen: Float[Array, "*batch action"], actions: Float[Array, "*batch action"]
    ) -> Float[Array, "*batch"]:
        """‖a − b‖² in actions rescaled to [-1, 1], summed over dimensions."""
        _, half_range = action_range(self.low, self.high)
        return jnp.square((chosen - actions) / half_range).sum(-1)


class SquashedGaussianPolicy(eqx.Module):
    """A Gaussian with its own mean and deviation in every state, squashed by tanh into the bounds.

    As in SAC (Haarnoja et al. 2018). The log standard deviation comes through a tanh too, so that
    it stays within its range without ever losing its gradient.
    """

    mlp: MLP
    low: Bounds = eqx.field(static=True)
    high: Bounds = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        spec: EnvironmentSpec,
        hidden: Sequence[int],
    ) -> "SquashedGaussianPolicy":
        """An MLP from the observation to a mean and a log deviation per action dimension."""
        actions = require_box(spec.actions)
        mlp = MLP.create(key, (spec.observation_size, *hidden, 2 * actions.size))
        return cls(mlp, actions.low, actions.high)

    def __call__(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch action"]:
        """The mode, or with a key a draw, within the bounds."""
        actions = self.mean(observations) if key is None else self.sample(observations, key)
        return within_bounds(actions, self.low, self.high)

    def mean(
        self, observations: Float[Array, "*batch observation"]
    ) -> Float[Array, "*batch action"]:
        """The squashed mean: the median action, which is what SAC is evaluated by."""
        centre, half_range = action_range(self.low, self.high)
        return centre + half_range * jnp.tanh(self._gaussian(observations)[0])

    def sample(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray
    ) -> Float[Array, "*batch action"]:
        """A draw."""
        return self.sample_with_log_prob(observations, key)[0]

    def sample_with_log_prob(
        self, observations: Float[Array, "*batch observation"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch"]]:
        """A draw and its log-density in nats; both differentiable in the policy's parameters."""
        centre, half_range = action_range(self.low, self.high)
        mean, log_std = self._gaussian(observations)
        noise = jax.random.normal(key, mean.shape)
        u = mean + jnp.exp(log_std) * noise
        log_prob = self._log_density(u, noise, log_std)
        return centre + half_range * jnp.tanh(u), log_prob

    def log_prob(
        self,
        observations: Float[Array, "*batch observation"],
        actions: Float[Array, "*batch action"],
    ) -> Float[Array, "*batch"]:
        """log π(a|s) of actions rescaled to [-1, 1], in nats, summed over dimensions.

        An action on its bound, where the density is infinite, is moved 1e-5 of the range inwards.
        """
        centre, half_range = action_range(self.low, self.high)
        mean, log_std = self._gaussian(observations)
        within = jnp.clip((actions - centre) / half_range, -1 + 1e-5, 1 - 1e-5)
        u = jnp.arctanh(within)
        return self._log_density(u, (u - mean) * jnp.exp(-log_std), log_std)

    def _gaussian(self, observations: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(self.mlp(observations), 2, axis=-1)
        low, high = LOG_STD_RANGE
        return mean, low + (high - low) * (jnp.tanh(raw) + 1) / 2

    @staticmethod
    def _log_density(u: Array, z: Array, log_std: Array) -> Array:
        """log N(u) − log |d tanh u / du|, the latter as 2 (log 2 − u − softplus(−2u))."""
        normal = -(0.5 * jnp.square(z) + log_std + 0.5 * jnp.log(2 * jnp.pi))
        squash = 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))
        return (normal - squash).sum(-1)


def network_of(state: Any) -> Any:
    """The policy network of a state: the actor of every agent that acts by it alone."""
    return state.policy.network


def exploring_actor(state: Any) -> DeterministicPolicy:
    """The deterministic policy of a state, with Gaussian noise where it explores."""
    policy: DeterministicPolicy = dataclasses.replace(
        state.policy.network, exploration_noise=state.config.exploration_noise
    )
    return policy


def project(policy: Trainable) -> Trainable:
    """A policy with its parameters within their range, after an optimizer step."""
    return policy._replace(network=policy.network.projected())

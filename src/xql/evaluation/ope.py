"""Fitted Q evaluation: what a policy is worth, from logged data alone.

A critic learns the value of a fixed policy π by bootstrapping from π's own actions,

    Q(s, a) ← r + γ · mask · Q̄(s', a'),   a' = π(s'),

and the estimate is the mean of Q(s₀, π(s₀)) over the first states of the episodes (Le et al. 2019,
arXiv 1903.08738). The behaviour policy is evaluated by the same program, with the logged action for
a': an error that both share is not in their difference.

Every replicate resamples the *episodes* with replacement, since the steps of one are not
independent, and starts from weights of its own (Hao et al. 2021, arXiv 2102.03607). Its resample,
its first weights and its batches are the same for every policy, so that differences are paired.

Nothing here depends on how a policy was trained: rewards are those of the data, times a power of
two, and the inputs of the critic are scaled by the data. The worth of a policy is its discounted
return without a time limit. Where a log ends without termination, the behaviour's a' is the action
that was logged in the most similar state.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int, Int32, Key, PRNGKeyArray, Shaped

from xql.agents.networks import Critic
from xql.agents.types import Metrics, Scalar
from xql.agents.update import decay, descend, polyak, trainable
from xql.data.actions import Discrete
from xql.data.dataset import Dataset
from xql.data.scaling import fit_scaling
from xql.errors import InputError, brief, require_seed

Decide = Callable[[Float32[np.ndarray, "rows observation"]], Shaped[np.ndarray, "rows *action"]]
"""A policy on raw observations, such as `xql.runs.policy.Policy`; discrete actions are numbers, or
one-hot rows."""

Advance = Callable[[int], object]
"""Takes how many updates of each critic have been made since its last call."""

CHUNK = 100
"""Updates of one call, about half a second: between two, progress is shown, and Ctrl-C heard."""
BLOCK = 65536
"""Rows that a policy acts in at once."""
SEARCHED = 20_000
"""Logged states among which the most similar one is looked for."""


@dataclass(frozen=True)
class FQE:
    """How the critics are fitted."""

    replicates: int = 20
    """Resamples of the episodes, and so critics for each policy."""
    updates: int | None = None
    """Of each critic; None for as many as `enough_updates` says."""
    batch_size: int = 256
    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3
    """Falls to 0 by half a cosine."""
    polyak: float = 0.05

    def start(
        self, seed: int, observation_size: int, action_size: int
    ) -> tuple[Key[Array, " replicates"], Critic]:
        """Each replicate's random key and fresh critic, of actions that are scaled already."""
        first_key, key = jax.random.split(jax.random.key(seed))

        def fresh(key: PRNGKeyArray) -> Critic:
            sizes = (observation_size, action_size, self.hidden)
            return Critic.create(key, *sizes, members=1, layer_norm=True)

        # Not within the compiled program, where drawing orthogonal weights compiles for minutes.
        critics: Critic = jax.vmap(fresh)(jax.random.split(first_key, self.replicates))
        return jax.random.split(key, self.replicates), critics


DEFAULT = FQE()


def enough_updates(dataset: Dataset, discount: float, polyak: float) -> int:
    """How many leave e⁻⁵ of the error in the mean of Q with which a critic begins; 5,000 at least.

    An update takes a share of it away: `polyak` times the mean of 1 − γ · mask.
    """
    terminations = dataset.terminated.sum() / dataset.transitions
    share = polyak * (1.0 - discount * (1.0 - terminations))
    return max(5_000, int(np.ceil(5.0 / share)))


class Estimate(NamedTuple):
    """A number and its 95 % interval over episodes."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.estimate:.4g} [no interval]"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Steps(NamedTuple):
    """A log as the critics see it. Rows are those of a `Dataset`."""

    observations: Float32[Array, "rows observation"]
    actions: Float32[Array, "rows action"]
    rewards: Float32[Array, " rows"]
    masks: Float32[Array, " rows"]
    firsts: Int32[Array, " episodes"]
    lengths: Int32[Array, " episodes"]
    sums: Float32[Array, " episodes"]
    """Σ r of each episode."""
    decays: Float32[Array, " episodes"]
    """Σ (1 − γ · mask) of each episode."""
    bounds: Float32[Array, "2"]
    """What no discounted return lies beyond: those of the lowest and of the highest reward."""
    discount: Float32[Array, ""]


def steps_of(
    dataset: Dataset,
    observations: Float32[np.ndarray, "rows observation"],
    actions: Float32[np.ndarray, "rows action"],
    rewards: Float32[np.ndarray, " rows"],
    discount: float,
) -> Steps:
    """A dataset's episodes, with its columns as they are given here."""
    masks, starts, firsts = dataset.masks, dataset.starts, dataset.firsts
    decays = np.zeros(len(masks))
    decays[starts] = 1.0 - discount * masks[starts]
    return Steps(
        observations=jnp.asarray(observations),
        actions=jnp.asarray(actions),
        rewards=jnp.asarray(rewards),
        masks=jnp.asarray(masks),
        firsts=jnp.asarray(firsts, jnp.int32),
        lengths=jnp.asarray(dataset.lengths, jnp.int32),
        sums=jnp.asarray(np.add.reduceat(rewards.astype(np.float64), firsts), jnp.float32),
        decays=jnp.asarray(np.add.reduceat(decays, firsts), jnp.float32),
        bounds=jnp.asarray(return_bounds(rewards[starts], discount), jnp.float32),
        discount=jnp.float32(discount),
    )


def return_bounds(rewards: Float[np.ndarray, " steps"], discount: float) -> tuple[float, float]:
    """What no discounted return lies beyond: those of the lowest and of the highest reward."""
    low, high = float(rewards.min()), float(rewards.max())
    for_ever = 1.0 / (1.0 - discount)
    return min(low, low * for_ever), max(high, high * for_ever)


class OffPolicy:
    """Data to evaluate policies on: each by the same resamples, first critics and batches.

    Attributes:
        dataset: the data, in its own units.
        discount: γ.
        observations, actions: the data's, scaled as the critics see them.
        settings: how critics are fitted, with the number of updates; of one episode there is one
            replicate, for every resample of it is the same.
    """

    def __init__(
        self,
        dataset: Dataset,
        discount: float,
        settings: FQE = DEFAULT,
        seed: int = 0,
        advance: Advance = lambda updates: None,
    ) -> None:
        """Scale the data, and draw the resamples.

        Args:
            dataset: the log.
            discount: γ, of the returns that are estimated.
            settings: how critics are fitted.
            seed: of the resamples, the first weights and the batches.
            advance: is called with the updates of each critic since its last call.

        Raises:
            InputError: γ is not from 0 to below 1. At 1, what never terminates has no value.
        """
        require_seed(seed)
        number = isinstance(discount, Real) and not isinstance(discount, bool)
        if not number or not 0.0 <= discount < 1.0:
            hint = "give at least 0 and less than 1, such as 0.99"
            given = f"{discount:g}" if number else brief(discount)
            raise InputError(f"`discount={given}` cannot be used here", hint=hint)
        self.dataset, self.discount = dataset, float(discount)
        self._advance = advance
        scaling = fit_scaling(dataset, "auto", "auto", discount=discount)
        self._unit = 1.0 / scaling.reward_scale
        shifted = dataset.observations - scaling.observation_shift
        self.observations = np.asarray(shifted * scaling.observation_scale, np.float32)
        logged = dataset.actions[dataset.starts]
        low, high = logged.min(0), logged.max(0)
        if dataset.discrete:
            # An action that was never logged, too, is as far from the others as they are.
            low, high = np.zeros_like(low), np.ones_like(high)
        elif dataset.action_low is not None and dataset.action_high is not None:
            low, high = dataset.action_low, dataset.action_high
        self._centre, self._half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
        self.actions = self.scaled(dataset.actions)
        rewards = dataset.rewards * np.float32(scaling.reward_scale)
        self._steps = steps_of(dataset, self.observations, self.actions, rewards, self.discount)
        random, episodes = np.random.default_rng(seed), dataset.episodes
        updates = settings.updates or enough_updates(dataset, self.discount, settings.polyak)
        settings = replace(settings, updates=updates)
        if episodes == 1:
            # The spread of several would be that of their first weights and batches alone.
            settings = replace(settings, replicates=1)
        self.settings = settings
        shape = (settings.replicates, episodes)
        self._episodes = random.integers(episodes, size=shape, dtype=np.int32)
        self._start = settings.start(seed, dataset.observation_size, dataset.action_size)

    def scaled(
        self, actions: Float[np.ndarray, "rows action"]
    ) -> Float32[np.ndarray, "rows action"]:
        """Actions with their bounds at −1 and 1."""
        return np.asarray((actions - self._centre) / self._half, np.float32)

    def value(
        self, actions: Shaped[np.ndarray, "rows *action"]
    ) -> Float64[np.ndarray, " replicates"]:
        """What a policy is worth, an estimate from each replicate, in the data's own unit.

        Args:
            actions: the policy's, for each row of the data, from `actions_at`; of discrete ones the
                numbers, or one-hot rows.

        Raises:
            InputError: they are not as many or as wide as the data's, or a number is none of its
                actions.
        """
        keys, critics = self._start
        spec = self.dataset.action_spec
        if isinstance(spec, Discrete) and actions.ndim == 1:
            actions = spec.flatten(actions)
        if actions.shape != self.dataset.actions.shape:
            raise InputError(
                f"the policy's actions have shape {actions.shape}, those of {self.dataset.name} "
                f"{self.dataset.actions.shape}",
                hint="give one action for each row of `dataset.observations`",
            )
        taken = jnp.asarray(self.scaled(actions))
        args = (keys, critics, jnp.asarray(self._episodes), self._steps, taken)
        values = evaluate(*args, settings=self.settings, advance=self._advance)
        return np.asarray(values, np.float64) * self._unit

    @functools.cached_property
    def behaviour(self) -> Float64[np.ndarray, " replicates"]:
        """What the policy that acted in the log is worth, by the same program."""
        # SciPy's parts take half a second, and every training imports this module.
        from scipy.spatial import KDTree

        dataset = self.dataset
        actions = dataset.actions.copy()
        ends = (dataset.firsts + dataset.lengths)[~dataset.terminated]
        if len(ends):
            acted = spread_out(dataset.starts, SEARCHED)
            tree = KDTree(self.observations[acted])
            actions[ends] = dataset.actions[acted[tree.query(self.observations[ends])[1]]]
        return self.value(actions)

    @functools.cached_property
    def fingerprint(self) -> str:
        """That of the data, which takes time to compute where there is much of it."""
        return self.dataset.fingerprint()

    def logged_return(self) -> Estimate:
        """The mean discounted return of the episodes themselves, as far as each log goes."""
        dataset = self.dataset
        steps = np.arange(len(dataset.rewards)) - np.repeat(dataset.firsts, dataset.lengths + 1)
        worth = dataset.rewards.astype(np.float64) * self.discount**steps
        returns = np.add.reduceat(worth, dataset.firsts)
        return interval(returns[self._episodes].mean(1), float(returns.mean()))


def actions_at(
    policy: Decide, observations: Float32[np.ndarray, "rows observation"]
) -> Float32[np.ndarray, "rows *action"]:
    """The policy's action in every row.

    Raises:
        InputError: one is not finite.
    """
    rows = range(0, len(observations), BLOCK)
    actions = np.concatenate([policy(observations[row : row + BLOCK]) for row in rows])
    if not np.isfinite(actions).all():
        hint = "it has diverged: take another member or an earlier step"
        raise InputError("the policy's actions are not finite", hint=hint)
    return np.asarray(actions, np.float32)


def spread_out(rows: Int[np.ndarray, " rows"], most: int) -> Int[np.ndarray, " some"]:
    """At most so many of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, most).astype(int)])


def interval(
    replicates: Float64[np.ndarray, " replicates"], estimate: float | None = None
) -> Estimate:
    """The replicates' mean, ± their standard deviation times the 97.5 % quantile of Student's t.

    Args:
        replicates: one number from each.
        estimate: what to put in place of their mean.
    """
    middle = float(replicates.mean()) if estimate is None else estimate
    if len(replicates) < 2:
        return Estimate(middle, float("nan"), float("nan"))
    from scipy.stats import t as student

    half = float(student.ppf(0.975, len(replicates) - 1) * replicates.std(ddof=1))
    return Estimate(middle, middle - half, middle + half)


Verdict = Literal["better", "worse", "cannot be said"]


def verdict(difference: Estimate) -> Verdict:
    """Whether the interval of a difference is above 0, below it, or neither."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "cannot be said"


def evaluate(
    keys: Key[Array, " replicates"],
    critics: Any,
    episodes: Int32[Array, "replicates episodes"],
    steps: Steps,
    actions: Float32[Array, "rows action"],
    *,
    settings: FQE,
    advance: Advance = lambda updates: None,
) -> Float[Array, " replicates"]:
    """Every replicate's estimate, all of them in one program.

    Args:
        keys: of the batches, one for each replicate.
        critics: to begin with, likewise.
        episodes: the numbers of the episodes that each replicate has drawn.
        steps: the log.
        actions: what the policy does in the state of every row.
        settings: how the critics are fitted.
        advance: is called with the updates of each critic since its last call.
    """
    assert settings.updates is not None
    fitted = jax.vmap(lambda network: (trainable(network), network))(critics)
    for first in range(0, settings.updates, CHUNK):
        last = min(first + CHUNK, settings.updates)
        chunk = jnp.int32(first), jnp.int32(last)
        fitted = _fit(fitted, keys, episodes, steps, actions, *chunk, settings=settings)
        jax.block_until_ready(fitted)  # type: ignore[no-untyped-call]
        advance(last - first)
    values: Float[Array, " replicates"] = _estimate(fitted[1], episodes, steps, actions)
    return values


@functools.partial(jax.jit, static_argnames="settings")
def _fit(
    fitted: Any,
    keys: Key[Array, " replicates"],
    episodes: Int32[Array, "replicates episodes"],
    steps: Steps,
    actions: Float32[Array, "rows action"],
    first: Int32[Array, ""],
    last: Int32[Array, ""],
    *,
    settings: FQE,
) -> Any:
    """The critics and their targets after the updates from `first` to before `last`."""

    def replicate(fitted: Any, key: PRNGKeyArray, drawn: Int32[Array, " episodes"]) -> Any:
        update = _update(key, drawn, steps, actions, settings)
        return jax.lax.fori_loop(first, last, update, fitted)

    return jax.vmap(replicate)(fitted, keys, episodes)


@jax.jit
def _estimate(
    targets: Any,
    episodes: Int32[Array, "replicates episodes"],
    steps: Steps,
    actions: Float32[Array, "rows action"],
) -> Float[Array, " replicates"]:
    def replicate(target: Any, drawn: Int32[Array, " episodes"]) -> Scalar:
        firsts = steps.firsts[drawn]
        q = target(steps.observations[firsts], actions[firsts])[0]
        value: Scalar = _constant(steps, drawn) + q.mean()
        return value

    values: Float[Array, " replicates"] = jax.vmap(replicate)(targets, episodes)
    return values


def _constant(steps: Steps, episodes: Int32[Array, " episodes"]) -> Scalar:
    """The c for which r + γ · mask · c − c is 0 in the mean.

    Bootstrapping alone would need 1/(1 − γ) times as long for it as for what differs between states
    and actions.
    """
    c: Scalar = steps.sums[episodes].sum() / steps.decays[episodes].sum()
    return c


def _update(
    key: PRNGKeyArray,
    episodes: Int32[Array, " episodes"],
    steps: Steps,
    actions: Float32[Array, "rows action"],
    settings: FQE,
) -> Callable[[Any, Any], Any]:
    """One update, by its number, of one replicate's critic and target."""
    total = settings.updates
    assert total is not None
    firsts, lengths = steps.firsts[episodes], steps.lengths[episodes]
    ends, c = jnp.cumsum(lengths), _constant(steps, episodes)

    def draw(key: PRNGKeyArray) -> Int32[Array, " batch"]:
        """Rows of transitions, uniformly from the resample."""
        number = jax.random.randint(key, (settings.batch_size,), 0, ends[-1])
        which = jnp.searchsorted(ends, number, side="right")
        return firsts[which] + number - (ends[which] - lengths[which])

    def update(number: Int[Array, ""], carry: Any) -> Any:
        critic, target = carry
        rows = draw(jax.random.fold_in(key, number))
        following = c + target(steps.observations[rows + 1], actions[rows + 1])[0]
        backup = steps.rewards[rows] + steps.discount * steps.masks[rows] * following
        backup = jnp.clip(backup, *steps.bounds)

        def loss(network: Any) -> tuple[Scalar, Metrics]:
            q = c + network(steps.observations[rows], steps.actions[rows])[0]
            return jnp.square(q - backup).mean(), {}

        rate = settings.learning_rate * decay("cosine", number, total)
        critic, _ = descend(critic, loss, rate)
        return critic, polyak(target, critic.network, settings.polyak)

    return update

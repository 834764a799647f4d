"""A learned policy, ready to act: what acts, and the scaling that its inputs need."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray, PyTree, Shaped

from xql.agents import Agent, EnvironmentSpec, TrainState, member
from xql.agents.hyperparameters import learning_rates
from xql.agents.types import Backup, Batch
from xql.data.actions import ActionSpec, Discrete
from xql.data.columns import TableColumns
from xql.data.scaling import Scaling, reward_unit
from xql.display import html_table
from xql.errors import InputError
from xql.jax_config import standard_jax
from xql.runs.as_arrays import as_arrays
from xql.runs.checkpoints import load_checkpoint, load_latest
from xql.runs.config import RunConfig
from xql.runs.folder import SMALLER, RunFolder
from xql.runs.numpy_policy import Network

FEW = 64
"""Observations that NumPy computes at once; for more, JAX's start pays."""


class Values(NamedTuple):
    """What an agent's critic says, of one member."""

    backup: Backup
    state: Any
    """The member's training state, as far as its values depend on it."""
    unit: float
    """How many of the data's own rewards one of the critic's is, where that is undone."""


class Policy:
    """a = π(s), in the units of the data: raw observations in, actions within the bounds out.

    It can be pickled, and be called by several threads, and in a forked process without a key.

    Attributes:
        actor: what acts on scaled observations; see `xql.agents.Actor`.
        scaling: of the observations.
        actions: what its actions are; discrete ones come out as their numbers.
        columns: of the table that it was trained on, if it was.
        step: of the checkpoint, where it comes from one.
    """

    def __init__(
        self,
        actor: PyTree,
        scaling: Scaling,
        actions: ActionSpec,
        columns: TableColumns | None = None,
        *,
        step: int | None = None,
        values: Callable[[], Values] | None = None,
    ) -> None:
        self.actor, self.scaling = actor, scaling
        self.actions, self.columns = actions, columns
        self.step = step
        self._load_values = values

    def __getstate__(self) -> dict[str, Any]:
        made = ("_network", "_few", "_values")  # from the rest, when it is asked for
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{name}={value!r}' for name, value in self._shown().items())})"

    def _repr_html_(self) -> str:
        return html_table("Policy", self._shown())

    def _shown(self) -> dict[str, object]:
        actions = self.actions
        shown: dict[str, object] = {
            "network": type(self.actor).__name__,
            "observation_size": len(self.scaling.observation_shift),
            "actions": actions.words,
        }
        return shown if self.step is None else {**shown, "step": self.step}

    def act(self, row: Any, key: PRNGKeyArray | None = None) -> dict[str, Any]:
        """The actions for a row of the table that the policy was trained on, by their names.

        Args:
            row: a dictionary or a row of a data frame, with at least the columns of the
                observation; or a data frame, for which each action is an array.
            key: `jax.random.key(...)` to sample.

        Raises:
            InputError: a column or a value is missing, a category was not in the table, or the
                policy was not trained on a table.
        """
        if self.columns is None:
            raise InputError(
                "it was not trained on a table, so that its columns have no names",
                where="policy",
                hint="call it with an array",
            )
        return self.columns.decode(self(self.columns.encode(row), key))

    def __call__(
        self,
        observation: Float[np.ndarray, "*batch observation"],
        key: PRNGKeyArray | None = None,
        *,
        finite: bool = True,
    ) -> Any:
        """The most likely action, or with a random key a draw.

        Without a key, up to `FEW` observations are computed by NumPy, which takes a third of the
        time that JAX does for one (results/latency.md). The last bits are not JAX's: the actions
        differ by less than 1e-6 of their range (docs/export.md).

        Args:
            observation: one flat observation or a batch, in the data's own units and order.
            key: `jax.random.key(...)` to sample.
            finite: whether a NaN or an infinity is refused. A policy has learned nothing about
                them; for a NaN most answer with a NaN.

        Returns:
            float32 [*batch, action]; of discrete actions their numbers, whole [*batch].

        Raises:
            InputError: an observation of another size, or one that is not finite; or a NaN that a
                discrete policy has no answer to.
        """
        numbers = self._read(observation, finite)
        if key is None and finite and numbers.size <= self._few and self._network is not None:
            # What overflows is no action, which the other way says in a line.
            with contextlib.suppress(ValueError), np.errstate(all="ignore"):
                return self._network(numbers)
        return self.actions.unflatten(self._flat(numbers, key))

    def flat(
        self,
        observation: Float[np.ndarray, "*batch observation"],
        key: PRNGKeyArray | None = None,
        *,
        finite: bool = True,
    ) -> Float32[np.ndarray, "*batch action"]:
        """The same with discrete actions as one-hot rows, as `rollout` and replay buffers take it.

        JAX computes it for any number of observations, to the same bits as in training.

        Args:
            observation, key, finite: as for a call of the policy.

        Raises:
            InputError: an observation of another size, or one that is not finite.
        """
        return self._flat(self._read(observation, finite), key)

    @standard_jax()
    def value(
        self, observation: Float[np.ndarray, "*batch observation"]
    ) -> Float32[np.ndarray, "*batch"]:
        """V(s): what the agent's critic bootstraps from, such as its own V, or Q at π(s).

        It is the discounted return from here on as the agent learned it, in the unit of its
        rewards: those of the data where they were scaled by "auto" or not at all, else scaled.

        Args:
            observation: one flat observation or a batch, in the data's own units and order.

        Raises:
            InputError: the agent has no critic, it is not there any more, or the observation.
        """
        values, numbers = self._values, self._read(observation, True)
        rows = scale(numbers, self.scaling).reshape(-1, numbers.shape[-1])
        actions = np.zeros((len(rows), self.actions.size), np.float32)
        found = _value(values.state, rows, actions, next_values=values.backup.next_values)
        return np.asarray(found * values.unit, np.float32).reshape(numbers.shape[:-1])

    @standard_jax()
    def q(
        self,
        observation: Float[np.ndarray, "*batch observation"],
        action: Shaped[np.ndarray, "*batch_action"] | float,
    ) -> Float32[np.ndarray, "*batch"]:
        """Q(s, a), the smallest of the agent's critics, in the unit of `value`.

        Args:
            observation: one flat observation or a batch, in the data's own units and order.
            action: one for each observation, as a call of the policy gives them.

        Raises:
            InputError: the agent has no critic, it is not there any more, the observation, or an
                action of another size.
        """
        values, numbers = self._values, self._read(observation, True)
        rows, discrete = numbers.shape[:-1], isinstance(self.actions, Discrete)
        if np.shape(action) != (rows if discrete else (*rows, self.actions.size)):
            raise InputError(
                f"the action has shape {np.shape(action)}",
                where="policy",
                hint="give an action for each observation, as the policy does",
            )
        flat = self.actions.flatten(np.asarray(action).reshape(math.prod(rows), -1))
        scaled = scale(numbers, self.scaling).reshape(len(flat), -1)
        found = _q(values.state, scaled, flat)
        return np.asarray(found * values.unit, np.float32).reshape(rows)

    @functools.cached_property
    def _network(self) -> Network | None:
        """The same policy for NumPy; None where it is of a kind that NumPy does not know here."""
        found = as_arrays(self.actor, self.scaling)
        return None if found is None else Network(found.program, found.arrays)

    @functools.cached_property
    def _few(self) -> int:
        """The numbers that `FEW` observations have."""
        return FEW * len(self.scaling.observation_shift)

    @functools.cached_property
    def _values(self) -> Values:
        if self._load_values is None:
            raise InputError(
                "it has no values: its agent has no critic, or it was not loaded with one",
                where="policy",
                hint="load the policy of a run of another agent with xql.load_policy",
            )
        return self._load_values()

    def _read(self, observation: Any, finite: bool) -> Float32[np.ndarray, "*batch observation"]:
        """The observation as float32, checked."""
        size = len(self.scaling.observation_shift)
        if np.shape(observation)[-1:] != (size,):
            raise InputError(
                f"the observation has shape {np.shape(observation)}",
                where="policy",
                hint=f"its last axis must be {size}",
            )
        if isinstance(observation, np.ma.MaskedArray):
            observation = np.ma.filled(observation.astype(np.float32), np.nan)
        with np.errstate(over="ignore"):  # a float64 too large for float32 is an infinity
            numbers = np.asarray(observation, np.float32)
        if finite and not np.isfinite(numbers).all():
            raise _not_finite(numbers)
        return numbers

    @standard_jax()
    def _flat(
        self, numbers: Float32[np.ndarray, "*batch observation"], key: PRNGKeyArray | None
    ) -> Float32[np.ndarray, "*batch action"]:
        return np.asarray(_act(self.actor, scale(numbers, self.scaling), key))


def _not_finite(observations: Float32[np.ndarray, "*batch observation"]) -> InputError:
    rows = observations.reshape(-1, observations.shape[-1])
    kinds = {"NaN": np.isnan(rows).any(), "infinite": np.isinf(rows).any()}
    columns = np.flatnonzero(~np.isfinite(rows).all(axis=0)).tolist()
    listing = ", ".join(map(str, columns[:5]))
    more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
    return InputError(
        f"the observation is {' or '.join(kind for kind, found in kinds.items() if found)} "
        f"in column{'s' if len(columns) > 1 else ''} {listing}{more}",
        where="policy",
        hint="fill in what was not measured, or act on it all the same with finite=False",
    )


def scale(
    observations: Float32[np.ndarray, "*batch observation"], scaling: Scaling
) -> Float32[np.ndarray, "*batch observation"]:
    """Observations as the networks were trained to see them."""
    scaled: np.ndarray = (observations - scaling.observation_shift) * scaling.observation_scale
    return scaled


@jax.jit
def _act(actor: Any, observations: PyTree, key: PyTree) -> jax.Array:
    actions: Array = actor(observations, key)
    return actions


def _value_at(
    state: Any,
    rows: Float[Array, "rows observation"],
    actions: Float[Array, "rows action"],
    *,
    next_values: Callable[..., Any],
) -> Float[Array, " rows"]:
    """What a critic bootstraps from, at the rows; the rest of the batch has no part in it."""
    nothing = jnp.zeros(len(rows))
    batch = Batch(rows, actions, nothing, nothing, rows)
    found: Array = next_values(state, batch, None)
    return found


def _q_at(
    state: Any, rows: Float[Array, "rows observation"], actions: Float[Array, "rows action"]
) -> Float[Array, " rows"]:
    found: Array = state.critic.network(rows, actions).min(0)
    return found


_value = jax.jit(_value_at, static_argnames="next_values")
_q = jax.jit(_q_at)


@functools.partial(jax.jit, static_argnames="actor")
def act_members(
    population: PyTree,
    observations: Float[Array, "members *batch observation"],
    *,
    actor: Callable[[Any], Any],
) -> Float[Array, "members *batch action"]:
    """The most likely actions of a population, each member for its own block of observations.

    Args:
        population: a state, or whatever else `actor` makes of it what acts.
        observations: scaled.
        actor: the agent's.
    """
    actions: Array = jax.vmap(lambda state, rows: actor(state)(rows, None))(
        population, observations
    )
    return actions


def template(agent: Agent, spec: EnvironmentSpec, members: int) -> TrainState:
    """A population's structure, to load a checkpoint into: shapes, for which nothing is compiled.

    Its random keys are arrays, whose values mean nothing, and so is its configuration, which older
    checkpoints have less of.
    """

    def one(key: PRNGKeyArray) -> TrainState:
        state: TrainState = agent.init(key, spec, jax.tree.map(jnp.float32, agent.config))
        return state

    def repeated(value: float) -> Array:
        return jnp.asarray(np.full(members, value, np.float32))

    numbers = jnp.asarray(np.zeros((members, 2), np.uint32))
    keys = jax.random.wrap_key_data(numbers, impl="threefry2x32")
    shapes = jax.eval_shape(jax.vmap(one), keys)
    config = jax.tree.map(repeated, agent.config)
    return shapes._replace(key=keys, config=config)  # type: ignore[no-any-return]


def template_of(config: RunConfig) -> TrainState:
    """The template of a run's population."""
    return template(config.make_agent(), config.spec, len(config.members))


class Loaded(NamedTuple):
    """A run's training state, from one of its checkpoints."""

    agent: Agent
    population: TrainState
    step: int


@standard_jax()
def load_population(folder: RunFolder, step: int | None = None) -> Loaded:
    """A run's whole training state, at `step` or else the latest checkpoint that can be read."""
    empty, seeds = template_of(folder.config), [one.seed for one in folder.config.members]
    if step is None:
        step, state = load_latest(folder.checkpoints, empty, seeds)
    else:
        state = load_checkpoint(folder.checkpoints, step, empty, seeds)
    _require_own_settings(folder, step, state)
    return Loaded(folder.config.make_agent(), state, step)


def _require_own_settings(folder: RunFolder, step: int, state: TrainState) -> None:
    """Check that each member was trained with the hyperparameters that config.yaml gives it.

    A member that was rolled back has smaller learning rates from then on; a fine-tuned one may have
    been rolled back offline before.

    Raises:
        InputError: one was not: the checkpoint is of another run, or the file was edited.
    """
    rolled_back = [*folder.read_rolled_back()]
    if folder.config.finetune is not None:
        rolled_back += folder.config.finetune.rolled_back
    rates = learning_rates(folder.config.hyperparameters)
    for index in range(len(folder.config.members)):
        asked = jax.tree_util.tree_leaves_with_path(folder.config.member_config(index))
        for (path, value), saved in zip(asked, jax.tree.leaves(state.config), strict=True):
            trained = np.asarray(saved)[index]
            if trained != np.float32(value):
                name = jax.tree_util.keystr(path).lstrip(".")
                times = rolled_back.count(index) if name in rates else 0
                smaller = [trained * float(SMALLER) ** one for one in range(1, times + 1)]
                if np.isclose(smaller, value, rtol=1e-5, atol=0.0).any():
                    continue
                raise InputError(
                    f"member {index} was trained with {name} {trained:g}, config.yaml says "
                    f"{value:g}",
                    where=str(folder.checkpoints / str(step)),
                    hint="restore config.yaml as the run wrote it, or make the run again",
                )


def load_policy(run: Path | str, index: int = 0, step: int | None = None) -> Policy:
    """The policy of one member of a run.

    Of the checkpoint it reads the arrays that the policy consists of, and not the optimizers or a
    replay buffer; the critic is read when it is asked for.

    Args:
        run: the run's folder.
        index: which member, in the order of config.yaml.
        step: which checkpoint, or which of the evaluations whose policies the run kept; the latest
            checkpoint where None.

    Raises:
        InputError: no run, no checkpoint or no such member.
    """
    folder = RunFolder.open(Path(run))
    folder.config.require_member(index, str(run))
    found, actors = _load_actors(folder, step)
    values = functools.partial(_load_values, folder.path.absolute(), index, found)
    return policy_of(folder.config, member(actors, index), values, found)


def policy_of(
    config: RunConfig, actor: PyTree, values: Callable[[], Values], step: int | None = None
) -> Policy:
    """The policy of one member of a run, from what acts."""
    data = config.data
    return Policy(actor, config.scaling, data.actions, data.columns, step=step, values=values)


def load_actors(folder: RunFolder, step: int | None = None) -> PyTree:
    """What acts, of every member of a run, at a step that `load_policy` takes."""
    return _load_actors(folder, step)[1]


@standard_jax()
def _load_actors(folder: RunFolder, step: int | None) -> tuple[int, PyTree]:
    actor, empty = jax.vmap(folder.config.make_agent().actor), _abstract(folder.config)
    if step is not None and (folder.policies / str(step)).is_dir():
        seeds = [one.seed for one in folder.config.members]
        shapes = jax.eval_shape(actor, empty)
        paths = _paths(shapes)
        return step, load_checkpoint(folder.policies, step, shapes, seeds, paths)
    step, population = _load_part(folder, step, empty, _used(actor, empty))
    return step, actor(_pruned(population))


def _load_part(
    folder: RunFolder, step: int | None, empty: TrainState, needed: set[str]
) -> tuple[int, TrainState]:
    """Some leaves of a run's training state and the members' hyperparameters, and the step."""
    needed = needed | {path for path in _paths(empty) if path.startswith(".config.")}
    seeds = [one.seed for one in folder.config.members]
    if step is None:
        step, state = load_latest(folder.checkpoints, empty, seeds, needed)
    else:
        state = load_checkpoint(folder.checkpoints, step, empty, seeds, needed)
    _require_own_settings(folder, step, state)
    return step, state


@standard_jax()
def _load_values(run: Path, index: int, step: int) -> Values:
    """What a run's critic says at a step.

    Raises:
        InputError: the agent has none, or the checkpoint of the step is gone.
    """
    folder = RunFolder.open(run)
    config, agent = folder.config, folder.config.make_agent()
    if agent.backup is None:
        raise _no_values(config)
    if not (folder.checkpoints / str(step)).is_dir():
        raise InputError(
            f"there is no checkpoint of step {step:,} any more, and so no critic",
            where=str(run),
            hint="load the policy of a step whose checkpoint is kept",
        )
    empty = _abstract(config)
    _, population = _load_part(folder, step, empty, _of_values(config.spec, agent.backup, empty))
    return Values(agent.backup, member(_pruned(population), index), reward_unit(config.scaling))


class HeldValues:
    """What the critic of a population in memory says of one member, found when it is called."""

    def __init__(self, config: RunConfig, population: TrainState, index: int) -> None:
        # The user's environment has no part in it, and a pickle may not hold it.
        self.config = dataclasses.replace(config, given=None)
        self.population, self.index = population, index

    @standard_jax()
    def __call__(self) -> Values:
        """Raise an InputError where the agent has no critic."""
        backup = self.config.make_agent().backup
        if backup is None:
            raise _no_values(self.config)
        shapes = jax.eval_shape(lambda state: state, self.population)
        needed = _of_values(self.config.spec, backup, shapes)
        kept = jax.tree_util.tree_map_with_path(
            lambda path, leaf, shape: leaf if jax.tree_util.keystr(path) in needed else shape,
            self.population,
            shapes,
        )
        return Values(backup, member(_pruned(kept), self.index), reward_unit(self.config.scaling))

    def __getstate__(self) -> dict[str, Any]:
        """Without what the values do not depend on, such as random keys, which no pickle holds."""
        found = None if self.config.make_agent().backup is None else self()
        state = None if found is None else jax.tree.map(lambda leaf: leaf[None], found.state)
        return {"config": self.config, "population": state, "index": 0}


def _no_values(config: RunConfig) -> InputError:
    return InputError(
        f"agent {config.agent} has no critic, and so no values",
        where="policy",
        hint="take another agent's run",
    )


def _of_values(spec: EnvironmentSpec, backup: Backup, empty: TrainState) -> set[str]:
    """The leaves of the training state that V and Q depend on."""
    one = jax.eval_shape(functools.partial(member, index=0), empty)
    rows = jnp.zeros((1, spec.observation_size))

    def both(state: TrainState) -> Any:
        actions = jnp.zeros((1, spec.actions.size))
        value = _value_at(state, rows, actions, next_values=backup.next_values)
        return value, _q_at(state, rows, actions)

    return _used(both, one)


def _abstract(config: RunConfig) -> TrainState:
    """A run's population as shapes, for which no network is drawn, and its hyperparameters."""
    count = len(config.members)
    own = jax.tree.map(lambda value: np.full(count, value, np.float32), config.hyperparameters)
    return template_of(config)._replace(config=own)  # type: ignore[no-any-return]


def _paths(tree: PyTree) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _used(function: Callable[[PyTree], Any], argument: PyTree) -> set[str]:
    """The paths of the leaves on which a function's result depends."""
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    used = {id(one) for equation in jaxpr.eqns for one in equation.invars}
    used |= {id(one) for one in jaxpr.outvars}
    pairs = zip(_paths(argument), jaxpr.invars, strict=True)
    return {path for path, one in pairs if id(one) in used}


def _pruned(population: PyTree) -> PyTree:
    """The same with zeros, one for each member, in place of each leaf that was not read."""

    def read(leaf: Any) -> Any:
        unread = isinstance(leaf, jax.ShapeDtypeStruct)
        return np.zeros(leaf.shape[0], np.float32) if unread else leaf

    return jax.tree.map(read, population)

"""A learned policy, ready to act: what acts, and the scaling that its inputs need."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray, PyTree

from xql.agents import Agent, EnvironmentSpec, TrainState, member
from xql.agents.hyperparameters import learning_rates
from xql.data.actions import ActionSpec
from xql.data.columns import TableColumns
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.jax_config import standard_jax
from xql.runs.checkpoints import load_checkpoint, load_latest
from xql.runs.config import RunConfig
from xql.runs.folder import SMALLER, RunFolder


class Policy:
    """a = π(s), in the units of the data: raw observations in, actions within the bounds out.

    Attributes:
        actor: what acts on scaled observations; see `xql.agents.Actor`.
        scaling: of the observations.
        actions: what its actions are; discrete ones come out as their numbers.
        columns: of the table that it was trained on, if it was.
    """

    def __init__(
        self,
        actor: PyTree,
        scaling: Scaling,
        actions: ActionSpec,
        columns: TableColumns | None = None,
    ) -> None:
        self.actor, self.scaling = actor, scaling
        self.actions, self.columns = actions, columns

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
        return self.actions.unflatten(self.flat(observation, key, finite=finite))

    @standard_jax()
    def flat(
        self,
        observation: Float[np.ndarray, "*batch observation"],
        key: PRNGKeyArray | None = None,
        *,
        finite: bool = True,
    ) -> Float32[np.ndarray, "*batch action"]:
        """The same with discrete actions as one-hot rows, as `rollout` and replay buffers take it.

        Args:
            observation, key, finite: as for a call of the policy.

        Raises:
            InputError: an observation of another size, or one that is not finite.
        """
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


@functools.partial(jax.jit, static_argnames="actor")
def act_members(
    population: TrainState,
    observations: Float[Array, "members *batch observation"],
    *,
    actor: Callable[[Any], Any],
) -> Float[Array, "members *batch action"]:
    """The most likely actions of a population, each member for its own block of observations."""
    actions: Array = jax.vmap(lambda state, rows: actor(state)(rows, None))(
        population, observations
    )
    return actions


def template(agent: Agent, spec: EnvironmentSpec, members: int) -> TrainState:
    """A population of the right structure whose values mean nothing, to load a checkpoint into."""

    def one(key: PRNGKeyArray) -> TrainState:
        state: TrainState = agent.init(key, spec, jax.tree.map(jnp.float32, agent.config))
        return state

    population: TrainState = jax.vmap(one)(jax.random.split(jax.random.key(0), members))
    return population


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

    A member that was rolled back has smaller learning rates from then on.

    Raises:
        InputError: one was not: the checkpoint is of another run, or the file was edited.
    """
    rolled_back = folder.read_rolled_back()
    rates = learning_rates(folder.config.hyperparameters)
    for index in range(len(folder.config.members)):
        asked = jax.tree_util.tree_leaves_with_path(folder.config.member_config(index))
        for (path, value), saved in zip(asked, jax.tree.leaves(state.config), strict=True):
            trained = np.asarray(saved)[index]
            if trained != np.float32(value):
                name = jax.tree_util.keystr(path).lstrip(".")
                smaller = name in rates and index in rolled_back
                if smaller and np.isclose(trained * SMALLER, value, rtol=1e-5, atol=0.0):
                    continue
                raise InputError(
                    f"member {index} was trained with {name} {trained:g}, config.yaml says "
                    f"{value:g}",
                    where=str(folder.checkpoints / str(step)),
                    hint="restore config.yaml as the run wrote it, or make the run again",
                )


@standard_jax()
def load_policy(run: Path | str, index: int = 0, step: int | None = None) -> Policy:
    """The policy of one member of a run.

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
    actor, data = member(load_actors(folder, step), index), folder.config.data
    return Policy(actor, folder.config.scaling, data.actions, data.columns)


def load_actors(folder: RunFolder, step: int | None = None) -> PyTree:
    """What acts, of every member of a run, at a step that `load_policy` takes."""
    if step is not None and (folder.policies / str(step)).is_dir():
        agent, empty = folder.config.make_agent(), template_of(folder.config)
        seeds = [one.seed for one in folder.config.members]
        return load_checkpoint(folder.policies, step, jax.vmap(agent.actor)(empty), seeds)
    agent, population, _ = load_population(folder, step)
    return jax.vmap(agent.actor)(population)

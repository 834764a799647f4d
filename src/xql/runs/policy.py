"""A learned policy, ready to act: the network, and the scaling that its inputs need."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray, PyTree

from xql.agents import AGENTS, Act, Agent, Spec, TrainState, member
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.presets import configure
from xql.runs.checkpoints import load_checkpoint
from xql.runs.folder import RunFolder


class Policy:
    """a = π(s), in the units of the data: raw observations in, actions within the bounds out."""

    def __init__(self, network: PyTree, act: Act, scaling: Scaling) -> None:
        self.network, self.scaling = network, scaling
        self._act = act

    def __call__(
        self,
        observation: Float[np.ndarray, "*batch observation"],
        key: PRNGKeyArray | None = None,
    ) -> Float32[np.ndarray, "*batch action"]:
        """The most likely action, or with a random key a draw.

        Args:
            observation: one flat observation or a batch, in the data's own units and order.
            key: `jax.random.key(...)` to sample.

        Raises:
            InputError: an observation of another size.
        """
        size = len(self.scaling.observation_shift)
        if np.shape(observation)[-1:] != (size,):
            raise InputError(
                f"the observation has shape {np.shape(observation)}",
                where="policy",
                hint=f"its last axis must be {size}",
            )
        scaled = scale(np.asarray(observation, np.float32), self.scaling)
        return np.asarray(_act(self.network, scaled, key, act=self._act))


def scale(
    observations: Float32[np.ndarray, "*batch observation"], scaling: Scaling
) -> Float32[np.ndarray, "*batch observation"]:
    """Observations as the networks were trained to see them."""
    scaled: np.ndarray = (observations - scaling.observation_shift) * scaling.observation_scale
    return scaled


@functools.partial(jax.jit, static_argnames="act")
def _act(network: PyTree, observations: PyTree, key: PyTree, *, act: Act) -> jax.Array:
    return act(network, observations, key)


@functools.partial(jax.jit, static_argnames="act")
def act_members(
    networks: PyTree, observations: Float[Array, "members *batch observation"], *, act: Act
) -> Float[Array, "members *batch action"]:
    """The modes of a population's policies, each for its own block of observations."""
    actions: Array = jax.vmap(lambda network, rows: act(network, rows, None))(
        networks, observations
    )
    return actions


def agent_of(config: Mapping[str, Any]) -> tuple[Agent, Spec]:
    """The agent and the sizes that a run's config.yaml describes."""
    name = str(config["agent"])
    settings = configure(name, config["settings"])
    data = config["data"]
    spec = Spec(
        int(data["observation_size"]), tuple(data["action_low"]), tuple(data["action_high"])
    )
    return AGENTS[name].make(settings, int(config["steps"])), spec


def template(agent: Agent, spec: Spec, members: int) -> TrainState:
    """A population of the right structure whose values mean nothing, to load a checkpoint into."""

    def one(key: PRNGKeyArray) -> TrainState:
        hyper = jax.tree.map(jnp.float32, agent.hyper)
        return agent.init(key, spec, hyper)

    population: TrainState = jax.vmap(one)(jax.random.split(jax.random.key(0), members))
    return population


def load_population(folder: RunFolder, step: int | None = None) -> tuple[Agent, TrainState]:
    """A run's agent and its whole training state, at `step` or else the latest checkpoint."""
    agent, spec = agent_of(folder.config)
    empty = template(agent, spec, len(folder.config["members"]))
    state: TrainState = load_checkpoint(folder.checkpoints, step, empty)
    return agent, state


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
    members = len(folder.config["members"])
    if not 0 <= index < members:
        raise InputError(
            f"there is no member {index}", where=str(run), hint=f"choose 0 to {members - 1}"
        )
    if step is not None and (folder.policies / str(step)).is_dir():
        agent, spec = agent_of(folder.config)
        empty = template(agent, spec, members).policy.network
        networks = load_checkpoint(folder.policies, step, empty)
    else:
        agent, population = load_population(folder, step)
        networks = population.policy.network
    return Policy(member(networks, index), agent.act, Scaling.from_dict(folder.config["scaling"]))

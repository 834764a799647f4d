"""What a trained run says of its data: diagnostics.npz, a sample for `xql report`.

They need the networks and the data, which are both at hand when training ends. A few thousand
transitions, evenly spread over the data, are enough to draw.
"""

import functools
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from xql.agents import Batch, TrainState, member
from xql.agents.types import Backup
from xql.data.actions import ActionSpec, Box
from xql.data.dataset import Dataset
from xql.data.scaling import DEFAULT_DISCOUNT, returns_to_go
from xql.errors import InputError, decoration
from xql.evaluation.ope import spread_out
from xql.files import whole_file
from xql.jax_config import standard_jax
from xql.runs.config import RunConfig
from xql.runs.folder import RunFolder
from xql.runs.policy import Policy, scale
from xql.runs.run import Run
from xql.training.units import reward_unit

FILE = "diagnostics.npz"
SWITCH = "XQL_REPORT"
"""The environment variable that is 0 where no run is to write diagnostics and a report."""
VERSION = 2
READ = (1, 2)
"""The versions that are read; 1 had neither the distributions of actions nor online runs."""
TRANSITIONS = 5_000
"""Of the data, on which Q and V are computed."""
STATES = 1_000
"""In which the policy acts."""
SEARCHED = 5_000
"""Logged states among which similar ones are looked for."""
NEIGHBOURS = 20
"""Similar states for each."""
MEMBERS = 16
"""Of a population: the first of them, at most."""
EPISODES = 5_000
"""Whose returns and lengths are kept."""
BINS = 40
"""Of the distribution of each number of an action."""
DIMENSIONS = 24
"""Numbers of an action, the first of them, whose distributions are kept."""
LARGEST = 64 << 20
"""Bytes of an array in the file; ours have less than a million."""


class Diagnostics(NamedTuple):
    """A sample of what the run's members make of its data. What an agent lacks has no columns."""

    step: int
    """The updates, or environment steps, of the members."""
    differences: Float[np.ndarray, "members transitions"]
    """(min Q̄(s, a) − V(s)) / β of logged transitions; of an agent without β, not divided and in
    `unit`. Where an agent has no V, it is Q at its policy's action."""
    beta: Float[np.ndarray, " members"]
    """What was divided by, as the agent has it; empty of an agent without."""
    values: Float[np.ndarray, "members transitions"]
    """V(s), in `unit`; of a replay buffer, min Q̄(s, a)."""
    returns: Float[np.ndarray, "one_or_members transitions"]
    """The discounted return from s to where its log ends, in `unit`; one row for all members where
    they learned from the same data with the same discount."""
    distances: Float[np.ndarray, "members states"]
    """How far the policy's action is from the nearest one that was logged in a similar state of
    another episode: the root mean square over dimensions, in half action ranges."""
    logged: Float[np.ndarray, " states"]
    """Likewise of the logged action."""
    chosen: Float[np.ndarray, "members actions"]
    """Discrete actions: how often the policy takes each, as a share of the states."""
    taken: Float[np.ndarray, " actions"]
    """Likewise in the log."""
    edges: Float[np.ndarray, "dimensions edges"]
    """Of the bins of each number of an action."""
    acted: Float[np.ndarray, "members dimensions bins"]
    """The share of the states in which the policy's action lies in each bin."""
    recorded: Float[np.ndarray, "dimensions bins"]
    """Likewise of the recorded actions, in the same states."""
    agreement: Float[np.ndarray, " members"]
    """Discrete actions: the share of states in which the policy does what was logged."""
    episode_returns: Float[np.ndarray, " episodes"]
    episode_lengths: Int[np.ndarray, " episodes"]
    rewards: Float[np.ndarray, "5"]
    """The least, the quartiles and the largest."""
    terminated: float
    """The share of the episodes that terminated."""
    truncated: float
    unit: str
    """Of values and returns: "return", or "scaled return" where rewards were shifted or scaled."""
    source: str = "log"
    """What was looked at: "log", or "replay", the last transitions of an online run."""
    difference: str = "z = (Q − V) / β"
    """What `differences` are."""


@standard_jax()
def diagnose(
    config: RunConfig,
    population: TrainState,
    dataset: Dataset,
    step: int,
    *,
    whole: Dataset | None = None,
) -> Diagnostics:
    """Let the members of a run look at the data that they learned from.

    Args:
        config: the run's.
        population: as it is at `step`.
        dataset: with raw rewards and observations.
        step: the run's.
        whole: where `dataset` is a part of it, all of the data, whose rewards and episodes are
            described; its observations may be scaled.
    """
    whole = dataset if whole is None else whole
    rows = spread_out(dataset.starts, TRANSITIONS)
    count = min(len(config.members), MEMBERS)
    states = [member(population, index) for index in range(count)]
    unit = reward_unit(config.scaling)
    q, v, beta = _critics(config, states, dataset, rows)
    differences = q - v
    differences = differences / beta[:, None] if len(beta) else differences * unit
    kind = "z = (Q − V) / β" if len(beta) else "Q − V"
    raw = config.scaling.rewards in ("raw", "auto")
    parts: dict[str, Any] = _actions(config, states, dataset)
    rewards = whole.rewards[whole.acted]
    episodes = spread_out(np.arange(whole.episodes), EPISODES)
    return Diagnostics(
        step=step,
        differences=differences.astype(np.float32),
        beta=beta,
        values=(v * unit).astype(np.float32),
        returns=_returns(config, dataset, rows, unit) if v.size else none(1, 0),
        **parts,
        episode_returns=whole.returns[episodes].astype(np.float32),
        episode_lengths=whole.lengths[episodes],
        rewards=np.quantile(rewards, [0, 0.25, 0.5, 0.75, 1]).astype(np.float32),
        terminated=float(whole.terminated.mean()),
        truncated=float(whole.truncated.mean()),
        unit="return" if raw else "scaled return",
        difference=kind,
    )


def none(*shape: int) -> np.ndarray:
    """What an agent lacks."""
    return np.zeros(shape or (0,), np.float32)


def _critics(
    config: RunConfig, states: list[Any], dataset: Dataset, rows: Int[np.ndarray, " rows"]
) -> tuple[np.ndarray, np.ndarray, Float32[np.ndarray, " members"]]:
    """min Q̄, V and β of every member; empty where the agent has none."""
    backup = config.make_agent().backup
    if backup is None:
        return none(len(states), 0), none(len(states), 0), none()
    observations = jnp.asarray(scale(dataset.observations[rows], config.scaling))
    actions = jnp.asarray(dataset.actions[rows])
    zeros = jnp.zeros(len(rows))
    batch = Batch(observations, actions, zeros, zeros, observations)
    both = [_q_and_v(state, batch, backup=backup) for state in states]
    q, v = (np.asarray(jnp.stack(each), np.float64) for each in zip(*both, strict=True))
    betas = [beta_of(state) for state in states]
    return q, v, np.array([one for one in betas if one is not None], np.float32)


@functools.partial(jax.jit, static_argnames="backup")
def _q_and_v(state: Any, batch: Batch, *, backup: Backup) -> tuple[jax.Array, jax.Array]:
    critic = getattr(state, "target_critic", state.critic.network)
    q = critic(batch.observations, batch.actions).min(0)
    # The batch's next observations are its own: this is V(s), and not V(s').
    return q, backup.next_values(state, batch, None)


def beta_of(state: Any) -> float | None:
    """The temperature of the Gumbel loss, as it is by now; None where the agent has none."""
    if "beta" in getattr(state.config, "inactive", ()):
        return None
    own = getattr(state, "temperatures", {}).get("value", getattr(state.config, "beta", None))
    return None if own is None else float(own)


def _returns(
    config: RunConfig, dataset: Dataset, rows: Int[np.ndarray, " rows"], unit: float
) -> Float32[np.ndarray, "one_or_members rows"]:
    """The discounted returns-to-go of the rewards that were learned from, in the unit of V.

    A row for each member where they differ in the discount.
    """
    rewards = np.zeros_like(dataset.rewards)
    starts = dataset.starts
    scaling = config.scaling
    rewards[starts] = dataset.rewards[starts] * scaling.reward_scale + scaling.reward_shift
    learned = dataset.with_metadata(rewards=rewards)
    swept = "discount" in config.members[0].changes
    configs = [config.member_config(index) for index in range(len(config.members) if swept else 1)]
    discounts = [getattr(one, "discount", DEFAULT_DISCOUNT) for one in configs[:MEMBERS]]
    found = {one: returns_to_go(learned, float(one))[rows] for one in set(discounts)}
    return (np.stack([found[one] for one in discounts]) * unit).astype(np.float32)


def _actions(config: RunConfig, states: list[Any], dataset: Dataset) -> dict[str, np.ndarray]:
    """The policies' actions beside those that were logged in similar states."""
    episode = np.repeat(np.arange(dataset.episodes), dataset.lengths + 1)[dataset.starts]
    others = episode % 2 == 0
    known = spread_out(dataset.starts[others], SEARCHED)
    # One episode leaves no other one to compare with.
    asked = spread_out(dataset.starts[~others] if dataset.episodes > 1 else known, STATES)
    agent, spec = config.make_agent(), config.data.actions
    acted = [
        Policy(agent.actor(state), config.scaling, spec).flat(dataset.observations[asked])
        for state in states
    ]
    logged = dataset.actions[asked]
    if not isinstance(spec, Box):
        return {
            "distances": none(len(states), 0),
            "logged": none(),
            **action_columns(spec, acted, [logged] * len(acted)),
            "taken": dataset.actions[dataset.starts].mean(0),
        }
    near = dataset.actions[known[_nearest(dataset.observations, known, asked)]]
    half = (np.array(spec.high) - np.array(spec.low)) / 2

    def distance(actions: np.ndarray) -> np.ndarray:
        apart = (near - actions[:, None]) / half
        least: np.ndarray = np.sqrt(np.square(apart).mean(-1)).min(1)
        return least.astype(np.float32)

    return {
        "distances": np.stack([distance(one) for one in acted]),
        "logged": distance(logged),
        **action_columns(spec, acted, [logged] * len(acted)),
    }


def action_columns(
    spec: ActionSpec,
    acted: Sequence[Float32[np.ndarray, "states action"]],
    recorded: Sequence[Float32[np.ndarray, "states action"]],
) -> dict[str, np.ndarray]:
    """How the actions of each member are distributed, beside those recorded in the same states."""
    count = len(acted)
    if not isinstance(spec, Box):
        pairs = zip(acted, recorded, strict=True)
        same = [float((one.argmax(1) == other.argmax(1)).mean()) for one, other in pairs]
        return {
            "chosen": np.stack([one.mean(0) for one in acted]),
            "taken": np.concatenate(recorded).mean(0),
            "agreement": np.array(same, np.float32),
            "edges": none(0, BINS + 1),
            "acted": none(count, 0, BINS),
            "recorded": none(0, BINS),
        }
    # Bins where the actions are, which may be a small part of what the bounds allow.
    every = [one[:, :DIMENSIONS] for one in (*acted, *recorded) if np.isfinite(one).all()]
    low, high = (
        (np.min([one.min(0) for one in every], 0), np.max([one.max(0) for one in every], 0))
        if every
        else (np.array(spec.low[:DIMENSIONS]), np.array(spec.high[:DIMENSIONS]))
    )
    flat = low == high
    edges = np.linspace(low - 0.5 * flat, high + 0.5 * flat, BINS + 1, axis=-1)

    def shares(actions: np.ndarray) -> np.ndarray:
        counts = [
            np.histogram(column[np.isfinite(column)], one)[0]
            for column, one in zip(actions.T, edges, strict=False)
        ]
        return (np.array(counts) / len(actions)).astype(np.float32)

    return {
        "chosen": none(count, 0),
        "taken": none(),
        "agreement": none(),
        "edges": edges.astype(np.float32),
        "acted": np.stack([shares(one) for one in acted]),
        "recorded": shares(np.concatenate(recorded)),
    }


def _nearest(
    observations: Float32[np.ndarray, "rows observation"],
    known: Int[np.ndarray, " known"],
    asked: Int[np.ndarray, " asked"],
) -> Int[np.ndarray, "asked near"]:
    """Of each asked row the most similar known ones, all columns standardised."""
    mean, deviation = observations[known].mean(0), observations[known].std(0)
    divisor = np.where(deviation > 0, deviation, 1)
    one, other = ((observations[rows] - mean) / divisor for rows in (asked, known))
    squares = np.square(other).sum(1) - 2 * one @ other.T
    count = min(NEIGHBOURS, len(known))
    return np.asarray(np.argpartition(squares, count - 1, axis=1)[:, :count])


def save(folder: RunFolder, found: Diagnostics) -> Path:
    """Write diagnostics.npz into a run's folder.

    Raises:
        InputError: it cannot be written.
    """
    path = folder.path / FILE
    arrays: dict[str, Any] = found._asdict()
    about = {name: arrays.pop(name) for name in _WORDS}
    text = json.dumps({"version": VERSION, **about})
    arrays["about"] = np.frombuffer(text.encode(), np.uint8)
    with whole_file(path, "diagnostics", replace=True) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def load(folder: RunFolder) -> Diagnostics | None:
    """A run's diagnostics; None where it has none.

    Raises:
        InputError: the file is damaged, or is of another run.
    """
    path = folder.path / FILE
    if not path.is_file():
        return None
    try:
        _require_small(path)
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes().decode())
            if about["version"] not in READ:
                raise ValueError(f"its version is {about['version']}")
            older = _added(stored) if about["version"] == 1 else {}
            names = [name for name in Diagnostics._fields if name not in _WORDS]
            numbers = {name: older[name] if name in older else stored[name] for name in names}
        found = Diagnostics(
            **{
                name: one.astype(np.float64) if one.dtype.kind == "f" else one
                for name, one in numbers.items()
                if name not in _SCALARS
            },
            step=int(numbers["step"]),
            terminated=float(numbers["terminated"]),
            truncated=float(numbers["truncated"]),
            unit="return" if about["unit"] == "return" else "scaled return",
            source="replay" if about.get("source") == "replay" else "log",
            difference=str(about.get("difference", _said_before(numbers))),
        )
        _require_shapes(found, len(folder.config.members))
    except (OSError, ValueError, TypeError, LookupError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{FILE} is damaged ({error})", where=str(path), hint="remove it"
        ) from None
    return found


_SCALARS = ("step", "terminated", "truncated")
_WORDS = ("unit", "source", "difference")


def _added(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a file of version 1 does not have, and the returns as they are by now."""
    return {
        "returns": stored["returns"][None],
        "edges": none(0, BINS + 1),
        "acted": none(len(stored["values"]), 0, BINS),
        "recorded": none(0, BINS),
    }


def _said_before(numbers: Mapping[str, np.ndarray]) -> str:
    return "z = (Q − V) / β" if len(numbers["beta"]) else "Q − V"


def _require_small(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(one.file_size > LARGEST for one in archive.infolist()):
            raise ValueError("an array is too large")


def _require_shapes(found: Diagnostics, members: int) -> None:
    """Check that the arrays belong together.

    Raises:
        ValueError: they do not.
    """
    count = min(members, MEMBERS)
    for name in ("differences", "values", "distances", "chosen"):
        if np.shape(getattr(found, name))[:1] != (count,) or getattr(found, name).ndim != 2:
            raise ValueError(f"{name} is not of {count} members")
    if found.returns.ndim != 2 or len(found.returns) not in (1, count):
        raise ValueError(f"returns are not of {count} members")
    sizes = {
        "values": found.returns.shape[1],
        "distances": len(found.logged),
        "chosen": len(found.taken),
    }
    for name, size in sizes.items():
        if getattr(found, name).shape[1] != size:
            raise ValueError(f"{name} has another length")
    if found.rewards.shape != (5,) or len(found.beta) not in (0, count):
        raise ValueError("rewards or beta has another length")
    dimensions, bins = found.recorded.shape
    if found.acted.shape != (count, dimensions, bins) or found.edges.shape != (
        dimensions,
        bins + 1,
    ):
        raise ValueError("the distributions of actions do not fit each other")


def leave_report(
    run: Run, look: Callable[[], Diagnostics] | None, say: Callable[[str], object]
) -> None:
    """Write diagnostics.npz and report.html of a run that has just ended; a failure is one line.

    Args:
        run: as it ended.
        look: makes the diagnostics; None where there is nothing to look at.
        say: takes that line.
    """
    if os.environ.get(SWITCH, "1") == "0":
        return
    folder = run.folder
    if look is not None:
        with decoration("diagnostics", say):
            save(folder, look())
    with decoration("report", say):
        run.report()

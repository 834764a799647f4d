"""ICU-Sepsis: the treatment of sepsis in an intensive care unit, as a small MDP with known tables.

A benchmark of Choudhary, Gupta and Thomas (2024, arXiv 2406.05646), estimated by them from the
records of real patients (MIMIC-III). A state is a cluster of patients, an action a level of fluids
and one of vasopressors. It is a simulator to compare algorithms on, and says nothing of how to
treat anybody.

The tables are those of the package `icu-sepsis`, which is not imported: it needs packages that this
one does not (gym, pandas). Since they are known, so is what any policy is worth, exactly.
"""

import functools
import importlib.util
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Bool, Float32, Float64, Int

from xql.errors import InputError

ICU_SEPSIS_ID = "xql/ICU-Sepsis-v0"

LIMIT = 500
"""Steps of an episode, as in the benchmark; one of the clinicians has 9 on average."""
ENDS = 3
"""The last states of the tables: death, survival, and what follows either. There it ends."""

_PACKAGE, _ASSETS = "icu_sepsis", ("envs", "assets")
_HINT = "run: pip install --no-deps icu-sepsis"

Observation = Float32[np.ndarray, " states"]


class Tables(NamedTuple):
    """The MDP."""

    transitions: Float64[np.ndarray, "states actions states"]
    """P(s' | s, a); of an action that is not admissible, the mean of those that are."""
    rewards: Float32[np.ndarray, "states actions states"]
    """r(s, a, s'): 1 on survival, 0 else."""
    starts: Float64[np.ndarray, " states"]
    """How likely an episode starts in each state."""
    clinicians: Float64[np.ndarray, "states actions"]
    """π(a | s), as estimated from the records: the behaviour policy."""
    admissible: Bool[np.ndarray, "states actions"]
    """Which actions were taken often enough in the records that their transitions are known."""

    @property
    def states(self) -> int:
        """How many, with those in which an episode ends."""
        return len(self.starts)

    @property
    def actions(self) -> int:
        """How many."""
        return int(self.clinicians.shape[1])

    @property
    def living(self) -> int:
        """How many states an episode can go on from: the first of them."""
        return self.states - ENDS


def sepsis_tables() -> Tables:
    """The tables of the installed package `icu-sepsis`.

    Raises:
        InputError: it is not installed, or its files are others than this reads.
    """
    found = importlib.util.find_spec(_PACKAGE)  # runs nothing of it
    homes = list(found.submodule_search_locations or ()) if found is not None else []
    if not homes:
        raise InputError("it needs the package icu-sepsis", where=ICU_SEPSIS_ID, hint=_HINT)
    return _read(Path(homes[0], *_ASSETS))


@functools.lru_cache(maxsize=1)
def _read(folder: Path) -> Tables:
    """The tables in a folder: read once, since an environment for each member shares them."""
    try:
        # Opened here: NumPy leaves the file of a damaged archive open.
        with (folder / "dynamics.npz").open("rb") as raw, np.load(raw) as file:
            transitions = np.asarray(file["tx_mat"], np.float64)
            rewards = np.asarray(file["r_mat"], np.float32)
            starts, clinicians = (
                np.asarray(file[name], np.float64) for name in ("d_0", "expert_policy")
            )
        states, actions = clinicians.shape
        admissible = np.zeros((states, actions), bool)
        # The first row of the file counts the numbers of the others.
        text = (folder / "admissible_actions.txt").read_text(encoding="utf-8")
        rows = text.splitlines()[1 : 1 + states]
        for state, row in enumerate(rows):
            admissible[state, [int(number) for number in row.split()]] = True
        shapes = (transitions.shape, rewards.shape, (*starts.shape, actions, len(rows)))
        if set(shapes) != {(states, actions, states)} or not admissible.any(axis=1).all():
            raise ValueError("their shapes do not fit each other")
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        what = f"the tables of the package icu-sepsis cannot be read ({error})"
        raise InputError(what, where=str(folder), hint=f"{_HINT} --force-reinstall") from None
    return Tables(transitions, rewards, starts, clinicians, admissible)


def one_hot(states: Int[np.ndarray, "*batch"], count: int) -> Float32[np.ndarray, "*batch states"]:
    """The observation of each state number."""
    rows: np.ndarray = np.eye(count, dtype=np.float32)[states]
    return rows


class ICUSepsis(gymnasium.Env[Observation, Any]):
    """A patient with sepsis, who is treated until survival (reward 1) or death (0).

    The observation is a one-hot vector of the 716 states; the 25 actions are 5 · (level of fluids)
    + (level of vasopressors). The benchmark has no discount: a return is 0 or 1, and its mean the
    share of patients who survive. `info["admissible_actions"]` has the numbers of the actions whose
    effect was measured in the state; any other one has the mean effect of those. `info["success"]`
    says, when an episode terminates, whether the patient survives.

    Attributes:
        state: its number.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        """Make it.

        Raises:
            InputError: the package `icu-sepsis` is not installed.
        """
        tables = sepsis_tables()
        self.state = 0
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (tables.states,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(tables.actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Admit a patient; equal seeds start equally."""
        super().reset(seed=seed)
        tables = sepsis_tables()
        self.state = self._draw(tables.starts)
        return self._observe(tables), self._info(tables)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Treat the patient for 4 hours with the action of this number."""
        tables = sepsis_tables()
        before, number = self.state, int(action)
        self.state = self._draw(tables.transitions[before, number])
        reward = float(tables.rewards[before, number, self.state])
        terminated = self.state >= tables.living
        info = self._info(tables)
        if terminated:
            info["success"] = reward > 0.0
        return self._observe(tables), reward, terminated, False, info

    def _draw(self, probabilities: Float64[np.ndarray, " states"]) -> int:
        return int(draw(probabilities[None], self.np_random)[0])

    def _observe(self, tables: Tables) -> Observation:
        observation = np.zeros(tables.states, np.float32)
        observation[self.state] = 1.0
        return observation

    def _info(self, tables: Tables) -> dict[str, Any]:
        return {"admissible_actions": np.flatnonzero(tables.admissible[self.state])}


def draw(
    probabilities: Float64[np.ndarray, "rows choices"], random: np.random.Generator
) -> Int[np.ndarray, " rows"]:
    """A choice from each row."""
    sums = np.cumsum(probabilities, axis=1)
    # Of the last sum, which rounding leaves a little beside 1: what has no chance is never drawn.
    numbers = random.random((len(sums), 1)) * sums[:, -1:]
    choices: np.ndarray = (sums <= numbers).sum(axis=1)
    return choices


class Worth(NamedTuple):
    """What a policy is worth in the MDP, exactly, without the time limit."""

    value: float
    """The expected discounted return from where episodes start."""
    survival: float
    """Likewise without discount: the probability that the patient survives."""
    steps: float
    """The expected length of an episode."""


def exact_worth(
    tables: Tables, policy: Float64[np.ndarray, "states actions"], discount: float = 1.0
) -> Worth:
    """Solve v = r + γ P v for a policy.

    Args:
        tables: the MDP.
        policy: π(a | s), in every state.
        discount: γ of `Worth.value`.
    """
    living = tables.living
    chosen = np.asarray(policy, np.float64)[:living]
    goes_on = (chosen[:, None] @ tables.transitions[:living, :, :living])[:, 0]
    rewards = (chosen * expected_rewards(tables)).sum(axis=1)
    starts, eye = tables.starts[:living], np.eye(living)
    discounted = np.linalg.solve(eye - discount * goes_on, rewards)
    both = np.linalg.solve(eye - goes_on, np.stack([rewards, np.ones(living)], axis=1))
    survival, steps = starts @ both
    return Worth(float(starts @ discounted), float(survival), float(steps))


def optimal_policy(tables: Tables, discount: float = 1.0) -> Float64[np.ndarray, "states actions"]:
    """The policy of the highest value, by policy iteration; where episodes end it is uniform."""
    living = tables.living
    goes_on, rewards = tables.transitions[:living, :, :living], expected_rewards(tables)
    states, actions = np.arange(living), np.zeros(living, np.int64)
    better = np.ones(living, bool)
    while better.any():
        system = np.eye(living) - discount * goes_on[states, actions]
        value = np.linalg.solve(system, rewards[states, actions])
        q = rewards + discount * goes_on @ value
        # Rounding must not exchange two actions that are as good for ever.
        better = q.max(axis=1) > q[states, actions] + 1e-12
        actions = np.where(better, q.argmax(axis=1), actions)
    policy = np.full((tables.states, tables.actions), 1.0 / tables.actions)
    policy[:living] = np.eye(tables.actions)[actions]
    return policy


def expected_rewards(tables: Tables) -> Float64[np.ndarray, "living actions"]:
    """E[r | s, a], where an episode goes on from."""
    living = tables.living
    sums: np.ndarray = np.einsum(
        "sat,sat->sa", tables.transitions[:living], tables.rewards[:living]
    )
    return sums


def icu_sepsis_spec() -> EnvSpec:
    """The specification of `ICU_SEPSIS_ID`."""
    return EnvSpec(
        ICU_SEPSIS_ID, entry_point="xql.envs.icu_sepsis:ICUSepsis", max_episode_steps=LIMIT
    )

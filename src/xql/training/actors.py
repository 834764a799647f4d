"""The simulators that a population learns in: some copies for each member, stepped in turn.

A plain loop and not Gymnasium's vector environments: with an update for every step the simulator
is a small part of the time (results/online-speed.md), and here the end of an episode is plain to
see. A copy that ends is reset at once, and what is reported as the transition's next observation is
the one that the episode really ended in.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from xql.agents import EnvironmentSpec
from xql.data.actions import Box, action_spec
from xql.data.reading import parse_json
from xql.envs import checked
from xql.envs.state import restore_simulator, simulator_state
from xql.errors import InputError
from xql.training.divergence import RewardRange
from xql.training.replay import Rows


class Episode(NamedTuple):
    """An episode that ended while its member explored."""

    member: int
    episode_return: float
    """NaN where it was left because its simulator could not be restored."""
    length: int


class Actors:
    """`environments` copies of one simulator for each member.

    Attributes:
        observations: where every copy stands, [members, environments, observation].
        spec: what networks are built for.
        finished: the episodes that ended, in order.
        breakdowns: of each member's simulators: steps that gave no finite number. The episode ends
            there, with the observation before it and no reward.
        rewards: the lowest and highest that any of them has given, and 0 and 1 (the bounds of
            DeepMind Control's), since a sparse task gives nothing for long.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        seeds: Sequence[int],
        environments: int,
    ) -> None:
        """Make and reset the copies.

        Args:
            make: a fresh environment with flat float32 observations.
            seeds: each member's own seed, which decides its copies' first states and all later
                ones, whatever other members there are.
            environments: copies for each member.
        """
        self.finished: list[Episode] = []
        self.breakdowns = np.zeros(len(seeds), np.int64)
        self.rewards = RewardRange(0.0, 1.0)
        self._make, self._seeds, self._each = make, tuple(seeds), environments
        self._copies: list[list[gymnasium.Env[Any, Any]]] = []
        self._make_copies()
        first = self._copies[0][0]
        try:
            self.spec = environment_spec(first, checked.name_of(first))
        except BaseException:
            self.close()
            raise
        self._begin()
        self._random = [np.random.default_rng([seed, 1]) for seed in seeds]

    def _make_copies(self) -> None:
        try:
            for _ in self._seeds:
                self._copies.append([])
                for _ in range(self._each):
                    self._copies[-1].append(self._make())
            checked.require_alike([copy for own in self._copies for copy in own])
        except BaseException:
            self.close()
            raise

    def _begin(self, *step: int) -> None:
        """Start an episode in every copy, seeded by its member, its place and, later, the step."""
        try:
            starts = [
                [checked.reset(copy, _seed(seed, place, *step)) for place, copy in enumerate(own)]
                for seed, own in zip(self._seeds, self._copies, strict=True)
            ]
        except BaseException:
            self.close()
            raise
        self.observations = np.asarray(starts, np.float32)
        self._returns = np.zeros(self.observations.shape[:2])
        self._lengths = np.zeros(self.observations.shape[:2], np.int64)

    def state(self, *, simulators: bool = True) -> dict[str, np.ndarray]:
        """All that `restore` needs, as arrays for `numpy.savez` that change no more.

        The simulators are among it where all of them can be saved (see `xql.envs.state`).

        Args:
            simulators: whether they are asked for; not where one of them has failed.
        """
        generators = [one.bit_generator.state for one in self._random]
        state: dict[str, np.ndarray] = {
            "observations": self.observations.copy(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "breakdowns": self.breakdowns.copy(),
            "rewards": np.array(self.rewards),
            "random": np.frombuffer(json.dumps(generators).encode(), np.uint8),
            "finished": np.array(self.finished, np.float64).reshape(-1, len(Episode._fields)),
        }
        if not simulators:
            return state
        copies: dict[str, np.ndarray] = {}
        for at, copy in self._named_copies():
            saved = simulator_state(copy)
            if saved is None:
                return state
            copies |= {at + name: array for name, array in saved.items()}
        return state | copies

    def restore(self, state: Mapping[str, np.ndarray], step: int) -> bool:
        """Go on where other actors with the same arguments stood.

        Args:
            state: theirs.
            step: the run's, from which the seeds of new episodes are made.

        Returns:
            Whether every copy goes on in the middle of its episode. If not, every copy starts a new
            one, and the episodes that were open have ended without a return.

        Raises:
            InputError: the state is damaged, or that of other actors.
            EnvironmentFault: a simulator cannot be reset.
        """
        try:
            self._restore_counts(state)
        except (KeyError, TypeError, ValueError):
            raise InputError(
                "the saved simulators are not those of this run",
                where=checked.name_of(self._copies[0][0]),
                hint="go on from an earlier checkpoint",
            ) from None
        if any(name.startswith("simulator/") for name in state):
            try:
                for at, copy in self._named_copies():
                    saved = {name: state[at + name] for name in ("graph", "numbers")}
                    restore_simulator(copy, saved)
            except (KeyError, InputError):
                # Some may have taken a part of a state.
                self.close()
                self._make_copies()
            else:
                self.observations = np.array(state["observations"], np.float32)
                self._returns = np.array(state["returns"], np.float64)
                self._lengths = np.array(state["lengths"], np.int64)
                return True
        # Their steps are in the replay buffer, which these lengths divide.
        self.finished += [
            Episode(int(member), np.nan, int(state["lengths"][member, place]))
            for member, place in np.argwhere(state["lengths"] > 0)
        ]
        self._begin(step)
        return False

    def _restore_counts(self, state: Mapping[str, np.ndarray]) -> None:
        """All but the simulators and their open episodes, whose shapes are checked."""
        shape = self.observations.shape
        expected_shapes = {"observations": shape, "returns": shape[:2], "lengths": shape[:2]}
        for name, expected in expected_shapes.items():
            if state[name].shape != expected:
                raise ValueError(f"{name} of another shape")
        generators = parse_json(bytes(state["random"]).decode())
        for own, one in zip(self._random, generators, strict=True):
            own.bit_generator.state = one
        self.finished = [
            Episode(int(member), total, int(length))
            for member, total, length in state["finished"].tolist()
        ]
        self.breakdowns = np.array(state["breakdowns"], np.int64)
        self.rewards = RewardRange(*state["rewards"].tolist())

    def _named_copies(self) -> Iterator[tuple[str, gymnasium.Env[Any, Any]]]:
        """Every copy with what the names of its arrays begin with."""
        for member, own in enumerate(self._copies):
            for place, copy in enumerate(own):
                yield f"simulator/{member}/{place}/", copy

    def random_actions(self) -> Float32[np.ndarray, "members environments action"]:
        """Uniform within the bounds, from each member's own stream."""
        each = self.observations.shape[1]
        return np.stack([self.spec.actions.sample(one, each) for one in self._random])

    def step(self, actions: Float[np.ndarray, "members environments action"]) -> Rows:
        """One step of every copy: the transitions, as arrays [members, environments, ...]."""
        before = self.observations
        # A diverged member is found by its metrics; until then its simulator gets no nan.
        size = actions.shape[-1]
        actions = self.spec.actions.clip(actions)
        after, following = np.empty_like(before), np.empty_like(before)
        rewards = np.empty(before.shape[:2], np.float32)
        masks = np.ones_like(rewards)
        for member, own in enumerate(self._copies):
            for place, copy in enumerate(own):
                at = (member, place)
                taken = checked.step(copy, self.spec.actions.unflatten(actions[at]))
                if not taken.finite:
                    # One nan in the buffer would sooner or later be in every parameter.
                    broken = {"physics_error": "not finite"}
                    taken = taken._replace(observation=before[at], reward=0.0, info=broken)
                if "physics_error" in taken.info:
                    # A simulation that broke down has no next state to bootstrap from.
                    taken = taken._replace(terminated=True)
                    self.breakdowns[member] += 1
                after[at], rewards[at] = taken.observation, taken.reward
                # A time limit is no termination: the value of what would have come still counts.
                masks[at] = 0.0 if taken.terminated else 1.0
                self._returns[at] += taken.reward
                self._lengths[at] += 1
                following[at] = taken.observation
                if taken.terminated or taken.truncated:
                    self._finish(at)
                    following[at] = checked.reset(copy)
        self.observations = following
        low, high = self.rewards
        self.rewards = RewardRange(min(low, float(rewards.min())), max(high, float(rewards.max())))
        # Policies of a log may know the first of the environment's discrete actions alone.
        return Rows(before, actions[..., :size], rewards, masks, after)

    def _finish(self, at: tuple[int, int]) -> None:
        ended = Episode(at[0], float(self._returns[at]), int(self._lengths[at]))
        self.finished.append(ended)
        self._returns[at], self._lengths[at] = 0.0, 0

    def recent_returns(self) -> dict[str, Float[np.ndarray, " members"]]:
        """Each member's mean over its last ten finished episodes, once every member has some."""
        members = len(self._copies)
        recent = [
            [
                one.episode_return
                for one in self.finished
                if one.member == member and not np.isnan(one.episode_return)
            ][-10:]
            for member in range(members)
        ]
        if not all(recent):
            return {}
        return {"training_return": np.array([np.mean(returns) for returns in recent])}

    def close(self) -> None:
        """Close every copy."""
        for own in self._copies:
            for copy in own:
                copy.close()
        self._copies = []


def environment_spec(env: gymnasium.Env[Any, Any], name: str) -> EnvironmentSpec:
    """What networks are built for in an environment of flat observations.

    Raises:
        InputError: its actions are neither one flat Box with finite bounds nor a Discrete; or one
            of them has no range.
    """
    assert env.observation_space.shape is not None
    size = int(np.prod(env.observation_space.shape))
    actions = action_spec(env.action_space, name)
    if isinstance(actions, Box):
        for column, (low, high) in enumerate(zip(actions.low, actions.high, strict=True)):
            if not low < high:
                what = f"its action {column} is {low:g} at least and {high:g} at most"
                hint = "leave it out with a wrapper: there is nothing to choose"
                raise InputError(what, where=name, hint=hint)
    return EnvironmentSpec(size, actions)


def _seed(*numbers: int) -> int:
    """A copy's own seed, far from the small numbers that evaluations use."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])

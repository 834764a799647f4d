"""The simulators that a population learns in: some copies for each member, stepped in turn.

A plain loop and not Gymnasium's vector environments: with an update for every step the simulator
is a small part of the time (results/online-speed.md), and here the end of an episode is plain to
see. A copy that ends is reset at once, and what is reported as the transition's next observation is
the one that the episode really ended in.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from xql.agents import EnvironmentSpec
from xql.data.actions import action_spec, require_box
from xql.envs import checked
from xql.training.divergence import RewardRange
from xql.training.replay import Rows


class Episode(NamedTuple):
    """An episode that ended while its member explored."""

    member: int
    episode_return: float
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
        self._copies: list[list[gymnasium.Env[Any, Any]]] = []
        try:
            for _ in seeds:
                self._copies.append([])
                for _ in range(environments):
                    self._copies[-1].append(make())
            first = self._copies[0][0]
            self.spec = environment_spec(first, checked.name_of(first))
            starts = [
                [checked.reset(copy, _seed(seed, place)) for place, copy in enumerate(own)]
                for seed, own in zip(seeds, self._copies, strict=True)
            ]
        except BaseException:
            self.close()
            raise
        self.observations = np.asarray(starts, np.float32)
        self._returns = np.zeros(self.observations.shape[:2])
        self._lengths = np.zeros(self.observations.shape[:2], np.int64)
        self._random = [np.random.default_rng([seed, 1]) for seed in seeds]

    def random_actions(self) -> Float32[np.ndarray, "members environments action"]:
        """Uniform within the bounds, from each member's own stream."""
        each = self.observations.shape[1]
        return np.stack([self.spec.actions.sample(one, each) for one in self._random])

    def step(self, actions: Float[np.ndarray, "members environments action"]) -> Rows:
        """One step of every copy: the transitions, as arrays [members, environments, ...]."""
        before = self.observations
        # A diverged member is found by its metrics; until then its simulator gets no nan.
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
        return Rows(before, np.asarray(actions, np.float32), rewards, masks, after)

    def _finish(self, at: tuple[int, int]) -> None:
        ended = Episode(at[0], float(self._returns[at]), int(self._lengths[at]))
        self.finished.append(ended)
        self._returns[at], self._lengths[at] = 0.0, 0

    def recent_returns(self) -> dict[str, Float[np.ndarray, " members"]]:
        """Each member's mean over its last ten finished episodes, once every member has some."""
        members = len(self._copies)
        recent = [
            [one.episode_return for one in self.finished if one.member == member][-10:]
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
        InputError: its actions are not one flat Box with finite bounds.
    """
    assert env.observation_space.shape is not None
    size = int(np.prod(env.observation_space.shape))
    return EnvironmentSpec(size, require_box(action_spec(env.action_space, name), name))


def _seed(seed: int, place: int) -> int:
    """A copy's own seed, far from the small numbers that evaluations use."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])

"""Evaluate a population's policies: the same fixed episodes for every member, always.

Episode e starts from `reset(seed=seed + e)` at every evaluation and for every member, so two scores
differ by their policies and not by their starts. The loop is our own and not gymnasium's vector
environment, because the seed of each single episode and the step at which it ends must be exact.
"""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float32

from xql.data.actions import action_spec
from xql.envs import checked
from xql.errors import EnvironmentFault, InputError

Act = Callable[
    [Float32[np.ndarray, "members parallel observation"]],
    Float32[np.ndarray, "members parallel action"],
]
"""A population's policies: one observation per member and parallel environment, one action each."""


LONGEST_EPISODE = 10_000
"""Steps after which an episode is cut where the environment has no time limit of its own."""


class EpisodeResult(NamedTuple):
    """One episode that one member played."""

    member: int
    episode: int
    seed: int
    """The seed that the environment was reset with, not the member's own."""
    episode_return: float
    """Undiscounted, summed in float64; nan where the policy gave an action that is not finite."""
    length: int
    success: bool | None
    """Whether any step reported success; None where no step reported either way."""


@dataclass(eq=False)
class _Slot:
    """One environment copy and the episode that it is playing (None: nothing left to play)."""

    environment: gymnasium.Env[Any, Any]
    member: int
    place: int
    limit: int
    episode: int | None = None
    rewards: list[float] = field(default_factory=list)
    success: bool | None = None

    def start(self, episode: int, seed: int) -> Float32[np.ndarray, " observation"]:
        self.episode, self.rewards, self.success = episode, [], None
        return checked.reset(self.environment, seed + episode)

    def step(
        self, action: Any, stop_at_success: bool
    ) -> Float32[np.ndarray, " observation"] | None:
        """The next observation, or None where the episode has ended.

        Raises:
            EnvironmentFault: it gave a number that is not finite, for an action that is.
        """
        taken = checked.step(self.environment, action)
        if not taken.finite:
            raise EnvironmentFault(
                f"step {len(self.rewards) + 1} of episode {self.episode} gave {taken.wrong}",
                where=checked.name_of(self.environment),
                hint="an episode's return needs finite numbers",
            )
        self.rewards.append(taken.reward)
        reported = checked.success(taken.info)
        if reported is not None:
            self.success = reported or bool(self.success)
        over = taken.terminated or taken.truncated or len(self.rewards) >= self.limit
        return None if over or (stop_at_success and self.success) else taken.observation

    def fail(self) -> None:
        """End the episode for an action that is not finite: a simulator's answer would be noise."""
        self.rewards.append(float("nan"))

    def result(self, seed: int) -> EpisodeResult:
        assert self.episode is not None
        return EpisodeResult(
            member=self.member,
            episode=self.episode,
            seed=seed + self.episode,
            episode_return=float(np.sum(self.rewards, dtype=np.float64)),
            length=len(self.rewards),
            success=self.success,
        )


class Evaluator:
    """At most `members` × `parallel` copies of one environment, kept for every evaluation.

    A copy is made when there is an episode for it: a training begins without waiting for them.

    Attributes:
        members: how many policies one call of `act` answers for.
        parallel: environment copies for each member.
        observation_size: the length of one flat observation.
        actions: the environment's.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        members: int,
        parallel: int = 10,
        *,
        alone: bool = False,
    ) -> None:
        """Make the first environments, and see that they can be used.

        Args:
            make: a fresh environment with flat float32 observations, and a bounded or unbounded
                Box or a Discrete of actions. Where it has no time limit, episodes are cut after
                `LONGEST_EPISODE` steps.
            members: the size of the population.
            parallel: environment copies for each member, at most as many as it plays episodes.
            alone: whether `make` always gives the one instance that there is: it plays the episodes
                of one member after another.

        Raises:
            InputError: the environment's observations are not flat, or its actions neither a flat
                Box nor a Discrete.
            EnvironmentFault: the copies are not alike.
        """
        if members < 1 or parallel < 1:
            raise InputError(
                f"{members} members with {parallel} parallel environments", hint="give at least 1"
            )
        self.members, self.parallel = members, 1 if alone else parallel
        self._make, self._alone = make, alone
        self._slots: list[_Slot] = []
        try:
            # Two, so that copies that are not alike are found before anything is learned.
            self._make_copies(self._places(parallel)[:2])
            first = self._slots[0].environment
            where = checked.name_of(first)
            self.observation_size = _observation_size(first.observation_space, where)
            self.actions = action_spec(first.action_space, where, bounded=False)
        except BaseException:
            self.close()
            raise

    def _places(self, parallel: int) -> list[tuple[int, int]]:
        """Of `parallel` copies for each member: the member that it plays for, and which it is."""
        if self._alone:
            return [(0, 0)]
        return list(itertools.product(range(self.members), range(parallel)))

    def _make_copies(self, places: list[tuple[int, int]]) -> None:
        """Make those that are not there yet.

        Raises:
            EnvironmentFault: the copies are not alike.
        """
        there = {(slot.member, slot.place) for slot in self._slots}
        for member, place in places:
            if (member, place) not in there:
                environment = self._make()
                limit = time_limit(environment) or LONGEST_EPISODE
                self._slots.append(_Slot(environment, member, place, limit))
        self._slots.sort(key=lambda slot: (slot.member, slot.place))
        checked.require_alike([slot.environment for slot in self._slots])

    def rollout(
        self, act: Act, episodes: int, seed: int = 10_000, *, stop_at_success: bool = False
    ) -> list[EpisodeResult]:
        """Let every member play the same `episodes` episodes; sorted by member, then episode.

        Args:
            act: called once per step with every slot's observation; the shape never changes, so a
                jitted policy compiles once. A slot with nothing left to play holds zeros.
            episodes: episodes for each member.
            seed: episode e is reset with `seed + e`.
            stop_at_success: end an episode at its first success, as D4RL counts AntMaze.

        Raises:
            EnvironmentFault: the environment failed, or gave a number that is not finite.
            InputError: `act` gives an array of another shape than [members, parallel, action].
        """
        if episodes < 1:
            raise InputError(f"{episodes} evaluation episodes", hint="give at least 1")
        for slot in self._slots:
            slot.member = 0 if self._alone else slot.member
        self._make_copies(self._places(min(self.parallel, episodes)))
        grid = (self.members, self.parallel)
        observations = np.zeros((*grid, self.observation_size), np.float32)
        waiting = [iter(range(episodes)) for _ in range(self.members)]
        results: list[EpisodeResult] = []

        def start_next(slot: _Slot) -> None:
            episode = next(waiting[slot.member], None)
            while self._alone and episode is None and slot.member + 1 < self.members:
                observations[slot.member, slot.place] = 0.0
                slot.member += 1
                episode = next(waiting[slot.member], None)
            slot.episode = None
            observations[slot.member, slot.place] = (
                0.0 if episode is None else slot.start(episode, seed)
            )

        for slot in self._slots:
            start_next(slot)
        while playing := [slot for slot in self._slots if slot.episode is not None]:
            # A fresh copy: a device may read the array in place after the call has returned.
            actions = np.asarray(act(observations.copy()))
            if actions.shape[:-1] != grid or not self.actions.takes(actions.shape[-1]):
                raise InputError(
                    f"the policy gave actions of shape {actions.shape}",
                    hint=f"this environment needs {(*grid, self.actions.size)}",
                )
            finite = np.isfinite(actions).all(axis=-1)
            actions = self.actions.clip(actions)
            for slot in playing:
                at = (slot.member, slot.place)
                following = None
                if finite[at]:
                    action = self.actions.unflatten(actions[at])
                    following = slot.step(action, stop_at_success)
                else:
                    slot.fail()
                if following is None:
                    results.append(slot.result(seed))
                    start_next(slot)
                else:
                    observations[at] = following
        return sorted(results)

    def close(self) -> None:
        """Close every environment."""
        for slot in self._slots:
            slot.environment.close()
        self._slots = []


def time_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """The steps after which an environment truncates its episodes; None where it states none."""
    if env.spec is not None:
        return env.spec.max_episode_steps
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, gymnasium.wrappers.TimeLimit):
            limit: int = layer._max_episode_steps
            return limit
        layer = layer.env
    return None


def _observation_size(space: gymnasium.Space[Any], where: str) -> int:
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise InputError(
            f"the observations are {space}", where=where, hint="one flat Box of numbers is needed"
        )
    return int(space.shape[0])


def rollout(
    make: Callable[[], gymnasium.Env[Any, Any]],
    act: Act,
    *,
    members: int,
    episodes: int,
    seed: int = 10_000,
    parallel: int = 10,
    stop_at_success: bool = False,
) -> list[EpisodeResult]:
    """Evaluate once: make the environments, play, close them.

    Every member plays the same `episodes` episodes, episode e reset with `seed + e`; the results do
    not depend on `parallel`. To evaluate again and again, keep an `Evaluator`.

    Args:
        make: as `Evaluator` takes it.
        act: as `Evaluator.rollout` takes it.
        members: the size of the population.
        episodes: episodes for each member.
        seed: the first episode's seed.
        parallel: environment copies for each member, at most as many as it plays episodes.
        stop_at_success: end an episode at its first success, as D4RL counts AntMaze.

    Returns:
        members × episodes results, sorted by member, then episode.
    """
    with contextlib.closing(Evaluator(make, members, max(1, min(parallel, episodes)))) as evaluator:
        return evaluator.rollout(act, episodes, seed, stop_at_success=stop_at_success)

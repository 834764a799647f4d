"""The simulators of an online run: ends, time limits, resets and seeds."""

import io
from typing import Any

import gymnasium
import numpy as np
import pytest

from xql.envs.make import make_environment
from xql.errors import InputError
from xql.training.actors import Actors


class Count(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observes (episode, step). Odd episodes terminate at step 3, even ones time out at step 2."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(
        np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32)
    )

    def __init__(self) -> None:
        self.episode, self.steps = 0, 0
        self.seeds: list[int | None] = []
        self.taken: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.seeds.append(seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        self.steps += 1
        odd = self.episode % 2 == 1
        return self._observe(), 1.0, odd and self.steps == 3, not odd and self.steps == 2, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.episode, self.steps], np.float32)


def test_no_transition_crosses_the_end_of_an_episode() -> None:
    actors = Actors(Count, [0], 1)
    steps = [actors.step(np.zeros((1, 1, 2), np.float32)) for _ in range(7)]
    seen = [
        (*step.observations[0, 0], *step.next_observations[0, 0], step.masks[0, 0])
        for step in steps
    ]
    assert seen == [
        (1, 0, 1, 1, 1),
        (1, 1, 1, 2, 1),
        (1, 2, 1, 3, 0),  # terminated
        (2, 0, 2, 1, 1),
        (2, 1, 2, 2, 1),  # a time limit: the value of what would have come still counts
        (3, 0, 3, 1, 1),
        (3, 1, 3, 2, 1),
    ]
    assert [(one.member, one.episode_return, one.length) for one in actors.finished] == [
        (0, 3.0, 3),
        (0, 2.0, 2),
    ]
    assert actors.observations.tolist() == [[[3.0, 2.0]]]


def test_what_was_returned_is_not_changed_by_later_steps() -> None:
    # A device may read an array in place after the call that was given it has returned.
    actors = Actors(Count, [0], 1)
    first = actors.step(np.zeros((1, 1, 2), np.float32))
    kept = [column.copy() for column in first]
    actors.step(np.ones((1, 1, 2), np.float32))
    for before, after in zip(kept, first, strict=True):
        np.testing.assert_array_equal(before, after)


def test_every_copy_has_a_seed_of_its_own_whatever_members_there_are() -> None:
    made: list[Count] = []

    def make() -> Count:
        made.append(Count())
        return made[-1]

    Actors(make, [5, 6], 2)
    seeds = [one.seeds[0] for one in made]
    assert len(set(seeds)) == 4
    made.clear()
    Actors(make, [6], 2)
    assert [one.seeds[0] for one in made] == seeds[2:]


def test_actions_are_within_the_bounds_and_the_buffer_holds_what_was_done() -> None:
    made: list[Count] = []

    def make() -> Count:
        made.append(Count())
        return made[-1]

    actors = Actors(make, [0], 1)
    rows = actors.step(np.array([[[np.nan, 9.0]]], np.float32))
    assert made[0].taken[0].tolist() == [0.0, 4.0]
    assert rows.actions.tolist() == [[[0.0, 4.0]]]
    drawn = np.stack([actors.random_actions()[0, 0] for _ in range(500)])
    assert (drawn >= [-1, 0]).all() and (drawn <= [1, 4]).all()
    np.testing.assert_allclose(drawn.mean(0), [0.0, 2.0], atol=0.3)
    np.testing.assert_allclose(drawn.std(0), [2 / 12**0.5, 4 / 12**0.5], rtol=0.1)


def test_recent_returns_wait_until_every_member_has_finished_an_episode() -> None:
    actors = Actors(Count, [0, 1], 1)
    for _ in range(2):
        actors.step(np.zeros((2, 1, 2), np.float32))
    assert actors.recent_returns() == {}
    for _ in range(3):
        actors.step(np.zeros((2, 1, 2), np.float32))
    assert actors.recent_returns()["training_return"].tolist() == [2.5, 2.5]


def test_unbounded_actions_are_refused() -> None:
    class Unbounded(Count):
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    with pytest.raises(InputError, match="its actions have no bounds"):
        Actors(Unbounded, [0], 1)


def test_an_action_without_a_range_is_refused() -> None:
    class Fixed(Count):
        action_space = gymnasium.spaces.Box(
            np.array([-1.0, 3.0], np.float32), np.array([1.0, 3.0], np.float32)
        )

    with pytest.raises(InputError, match="its action 1 is 3 at least and 3 at most"):
        Actors(Fixed, [0], 1)


class Breaks(Count):
    """As Count, but whatever is at step 2 of an episode is no number."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, facts = super().step(action)
        if self.steps == 2 and self.broken == "observation":
            observation[1] = np.nan
        if self.steps == 2 and self.broken == "reward":
            reward = np.inf
        return observation, reward, terminated, truncated, facts


@pytest.mark.parametrize("broken", ["observation", "reward"])
def test_what_is_no_number_ends_the_episode_and_never_enters_the_buffer(broken: str) -> None:
    actors = Actors(lambda: Breaks(broken), [0], 1)
    steps = [actors.step(np.zeros((1, 1, 2), np.float32)) for _ in range(3)]
    seen = [
        (*step.observations[0, 0], *step.next_observations[0, 0], *step.rewards[0], *step.masks[0])
        for step in steps
    ]
    # What was seen before the breakdown stands for what came after it, and counts for nothing.
    assert seen == [(1, 0, 1, 1, 1, 1), (1, 1, 1, 1, 0, 0), (2, 0, 2, 1, 1, 1)]
    assert [(one.episode_return, one.length) for one in actors.finished] == [(1.0, 2)]
    assert actors.breakdowns.tolist() == [1]


def test_the_range_of_rewards_is_what_was_given_and_at_least_0_to_1() -> None:
    rewards = iter([0.5, -3.0, 0.0, 7.0])

    class Scripted(Count):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            after, _, terminated, truncated, info = super().step(action)
            return after, next(rewards), terminated, truncated, info

    actors, seen = Actors(Scripted, [0], 1), []
    for _ in range(4):
        actors.step(np.zeros((1, 1, 2), np.float32))
        seen.append(tuple(actors.rewards))
    assert seen == [(0.0, 1.0), (-3.0, 1.0), (-3.0, 1.0), (-3.0, 7.0)]


def played(actors: Actors, steps: int) -> list[bytes]:
    """All that random actions give, down to the last bit."""
    rows = [actors.step(actors.random_actions()) for _ in range(steps)]
    return [column.tobytes() for one in rows for column in one]


def in_a_file(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    file = io.BytesIO()
    np.savez(file, **state)  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


def dmsd() -> gymnasium.Env[np.ndarray, np.ndarray]:
    return make_environment("xql/DMSD-v0", max_episode_steps=9)


@pytest.mark.parametrize("make", [Count, dmsd, lambda: Breaks("reward")])
def test_restored_actors_go_on_in_the_middle_of_their_episodes_to_the_last_bit(make: Any) -> None:
    actors = Actors(make, [4, 7], 2)
    played(actors, 13)
    state = in_a_file(actors.state())
    expected = played(actors, 40)
    fresh = Actors(make, [4, 7], 2)
    played(fresh, 5)
    assert fresh.restore(state, 13)
    assert played(fresh, 40) == expected
    assert fresh.finished == actors.finished and len(fresh.finished) > 8
    assert fresh.rewards == actors.rewards
    assert fresh.breakdowns.tolist() == actors.breakdowns.tolist()
    assert fresh.recent_returns()["training_return"].tolist() == (
        actors.recent_returns()["training_return"].tolist()
    )
    after, theirs = fresh.state(), actors.state()
    assert after.keys() == theirs.keys()
    assert all(np.array_equal(after[name], theirs[name]) for name in after)


def test_what_was_saved_is_not_changed_by_later_steps() -> None:
    actors = Actors(dmsd, [0], 1)
    played(actors, 12)
    state = actors.state()
    kept = in_a_file(state)
    played(actors, 12)
    assert all(np.array_equal(state[name], kept[name]) for name in kept)


class Unsavable(Count):
    """As Count, but something in it cannot be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.iterator = iter(range(9))


def test_simulators_that_cannot_be_saved_start_new_episodes_with_seeds_of_their_own() -> None:
    made: list[Unsavable] = []

    def make() -> Unsavable:
        made.append(Unsavable())
        return made[-1]

    actors = Actors(make, [4, 7], 2)
    played(actors, 4)
    state, finished = in_a_file(actors.state()), list(actors.finished)
    assert not any(name.startswith("simulator/") for name in state)

    def restored(step: int) -> tuple[Actors, list[int | None]]:
        made.clear()
        fresh = Actors(make, [4, 7], 2)
        assert not fresh.restore(state, step)
        return fresh, [one.seeds[-1] for one in made]

    fresh, seeds = restored(4)
    first = [one.seeds[0] for one in made]
    assert len({*seeds, *first}) == 8
    assert restored(4)[1] == seeds and not {*restored(5)[1]} & {*seeds}
    # What was begun has ended after its one step, without a return.
    left = fresh.finished[len(finished) :]
    assert fresh.finished[: len(finished)] == finished
    assert [(one.member, one.length) for one in left] == [(0, 1), (0, 1), (1, 1), (1, 1)]
    np.testing.assert_array_equal(
        fresh.recent_returns()["training_return"], actors.recent_returns()["training_return"]
    )
    assert fresh.random_actions().tolist() == actors.random_actions().tolist()
    # The open episode's return and length begin anew.
    fresh.step(np.zeros((2, 2, 2), np.float32))
    fresh.step(np.zeros((2, 2, 2), np.float32))
    assert {one.length for one in fresh.finished[len(finished) + len(left) :]} == {2}


def test_simulators_of_another_release_start_new_episodes() -> None:
    class Other(Count):
        pass

    actors = Actors(Count, [4], 1)
    played(actors, 1)
    made: list[Other] = []

    def make() -> Other:
        made.append(Other())
        return made[-1]

    fresh = Actors(make, [4], 1)
    assert not fresh.restore(actors.state(), 1)
    # None goes on that took a part of another's state.
    assert len(made) == 2 and fresh.observations.tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize("seeds", [[4], [4, 7, 8]])
def test_the_state_of_other_actors_is_refused(seeds: list[int]) -> None:
    state = Actors(Count, [4, 7], 1).state()
    with pytest.raises(InputError, match="not those of this run"):
        Actors(Count, seeds, 1).restore(state, 0)
    with pytest.raises(InputError, match="not those of this run"):
        Actors(Count, [4, 7], 1).restore(state | {"random": state["random"][:-9]}, 0)

from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

from xql.errors import EnvironmentFault, InputError
from xql.evaluation.rollout import Evaluator, rollout


class Walk(gymnasium.Env[np.ndarray, np.ndarray]):
    """x moves by the action. Success ends it at x ≥ `goal`, a limit after 2 + seed % 4 steps."""

    closed = 0

    def __init__(self, goal: float = 1e9, key: str | None = "success") -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.goal, self.key = goal, key

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.x, self.time, self.limit = self.np_random.uniform(), 0, 2 + seed % 4
        return self.look(), {}

    def look(self) -> np.ndarray:
        return np.array([self.x, self.time], np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert action.shape == (1,) and self.action_space.contains(action)
        self.x, self.time = self.x + float(action[0]), self.time + 1
        there = self.x >= self.goal
        info = {} if self.key is None else {self.key: np.bool_(there)}
        return self.look(), self.x, bool(there), self.time >= self.limit, info

    def close(self) -> None:
        Walk.closed += 1


class Hold(Walk):
    """Reports success at its second step only, and goes on for all of its six steps."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.look(), 1.0, False, self.time >= 6, {"is_success": float(self.time == 2)}


def push(strength: float) -> Any:
    """Member m pushes with strength·(m + 1); looks at x so that a mixed-up slot would show."""

    def act(observations: np.ndarray) -> np.ndarray:
        members = np.arange(1, len(observations) + 1, dtype=np.float32)[:, None, None]
        actions: np.ndarray = strength * members + 0.001 * np.sin(observations[..., :1])
        return actions

    return act


def by_hand(seed: int, strength: float, goal: float = 1e9) -> tuple[float, int, bool]:
    x = float(np.random.Generator(np.random.PCG64(seed)).uniform())
    total, length, there = 0.0, 0, False
    for _ in range(2 + seed % 4):
        action = np.float32(strength) + np.float32(0.001) * np.sin(np.float32(x))
        x += float(np.clip(action, -1, 1))
        total, length, there = total + x, length + 1, x >= goal
        if there:
            break
    return total, length, there


@pytest.mark.parametrize("parallel", [1, 3, 7, 20])
def test_returns_lengths_and_seeds_are_those_of_a_loop_by_hand(parallel: int) -> None:
    results = rollout(Walk, push(0.3), members=2, episodes=9, seed=50, parallel=parallel)
    assert [(one.member, one.episode, one.seed) for one in results] == [
        (member, episode, 50 + episode) for member in range(2) for episode in range(9)
    ]
    for one in results:
        total, length, _ = by_hand(one.seed, 0.3 * (one.member + 1))
        assert one.episode_return == pytest.approx(total, rel=1e-6)
        assert (one.length, one.success) == (length, False)


def test_results_do_not_depend_on_parallel() -> None:
    alone, many = (
        rollout(Walk, push(0.3), members=3, episodes=8, parallel=parallel) for parallel in (1, 7)
    )
    assert alone == many
    assert [one.seed for one in alone[:8]] == list(range(10_000, 10_008))


def test_the_starts_are_the_same_at_every_evaluation() -> None:
    evaluator = Evaluator(Walk, members=2, parallel=3)
    first = evaluator.rollout(push(0.3), episodes=5)
    evaluator.rollout(push(0.9), episodes=2)
    assert evaluator.rollout(push(0.3), episodes=5) == first
    evaluator.close()


def test_a_copy_is_made_when_there_is_an_episode_for_it() -> None:
    made = []

    def make() -> Walk:
        made.append(Walk())
        return made[-1]

    evaluator = Evaluator(make, members=2, parallel=5)
    counts = [len(made)]
    for episodes in (1, 3, 2, 9):
        shapes: list[tuple[int, ...]] = []

        def act(rows: np.ndarray, shapes: list[tuple[int, ...]] = shapes) -> np.ndarray:
            shapes.append(rows.shape)
            actions: np.ndarray = push(0.3)(rows)
            return actions

        played = evaluator.rollout(act, episodes)
        assert set(shapes) == {(2, 5, 2)}
        assert played == rollout(Walk, push(0.3), members=2, episodes=episodes, parallel=5)
        counts.append(len(made))
    assert counts == [2, 3, 6, 6, 10]
    evaluator.close()


def test_an_episode_ends_at_termination_and_at_truncation() -> None:
    def make() -> Walk:
        return Walk(goal=1.6)

    results = rollout(make, push(0.4), members=2, episodes=8, seed=0, parallel=4)
    expected = [by_hand(one.seed, 0.4 * (one.member + 1), 1.6) for one in results]
    assert [(one.length, one.success) for one in results] == [
        (length, success) for _, length, success in expected
    ]
    assert {one.success for one in results} == {True, False}


def test_actions_are_clipped_to_the_bounds() -> None:
    results = rollout(Walk, push(30.0), members=1, episodes=3, seed=0)
    for one in results:
        start = float(np.random.Generator(np.random.PCG64(one.seed)).uniform())
        steps = np.arange(1, one.length + 1)
        assert one.episode_return == pytest.approx(float((start + steps).sum()))


def test_the_policy_always_sees_the_same_shape_and_zeros_where_nothing_is_left() -> None:
    seen: list[np.ndarray] = []

    def act(observations: np.ndarray) -> np.ndarray:
        seen.append(observations)
        return np.zeros((2, 4, 1), np.float32)

    evaluator = Evaluator(Walk, members=2, parallel=4)
    results = evaluator.rollout(act, episodes=5, seed=0)
    evaluator.close()
    assert {array.shape for array in seen} == {(2, 4, 2)}
    assert {str(array.dtype) for array in seen} == {"float32"}
    # Episodes 0…3 take 2, 3, 4, 5 steps and episode 4 takes 2 in the first slot after episode 0:
    # calls end with the longest slot, and slot 1 idles from its third step on.
    assert [one.length for one in results[:5]] == [2, 3, 4, 5, 2]
    assert len(seen) == 5
    assert not seen[3][:, 1].any() and seen[2][:, 1].any()
    assert seen[0] is not seen[1] and seen[0].base is None


def test_success_at_any_step_counts_and_can_end_the_episode() -> None:
    def act(observations: np.ndarray) -> np.ndarray:
        return np.zeros((1, 2, 1), np.float32)

    whole = rollout(Hold, act, members=1, episodes=2, parallel=2)
    assert [(one.length, one.episode_return, one.success) for one in whole] == [(6, 6.0, True)] * 2
    cut = rollout(Hold, act, members=1, episodes=2, parallel=2, stop_at_success=True)
    assert [(one.length, one.episode_return, one.success) for one in cut] == [(2, 2.0, True)] * 2


def test_success_is_none_where_the_environment_reports_none() -> None:
    def make() -> Walk:
        return Walk(key=None)

    results = rollout(make, push(0.1), members=1, episodes=2, stop_at_success=True)
    assert [one.success for one in results] == [None, None]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("observation", "an observation that is nan in column 0 and 1 more columns"),
        ("reward", "the reward inf"),
    ],
)
def test_a_simulator_that_gives_no_number_is_named(broken: str, said: str) -> None:
    class Breaks(Hold):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Any]:
            observation, reward, terminated, truncated, info = super().step(action)
            if self.time == 4 and self.limit == 5:  # of the seeds 3, 7, …
                observation, reward = (
                    (observation * np.nan, reward)
                    if broken == "observation"
                    else (observation, np.inf)
                )
            return observation, reward, terminated, truncated, info

    with pytest.raises(EnvironmentFault) as fault:
        rollout(Breaks, push(0.0), members=2, episodes=5, seed=0, parallel=2)
    assert str(fault.value) == (
        f"Breaks: step 4 of episode 3 gave {said}; an episode's return needs finite numbers"
    )


def test_a_start_that_is_no_number_is_the_environment_s_fault_and_not_the_member_s() -> None:
    class Lost(Walk):
        def look(self) -> np.ndarray:
            return np.array([self.x, np.inf], np.float32)

    fault = r"^Lost: reset with the seed 70 gave an observation that is inf in column 1$"
    with pytest.raises(EnvironmentFault, match=fault):
        rollout(Lost, push(0.0), members=1, episodes=1, seed=70)


def test_a_diverged_member_gets_nan_and_harms_no_other() -> None:
    def act(observations: np.ndarray) -> np.ndarray:
        actions: np.ndarray = push(0.3)(observations)
        actions[1] = np.nan
        return actions

    results = rollout(Walk, act, members=3, episodes=4)
    sound = rollout(Walk, push(0.3), members=3, episodes=4)
    for one, other in zip(results, sound, strict=True):
        if one.member == 1:
            assert np.isnan(one.episode_return) and one.length == 1
            # No step was taken, so the environment reported nothing.
            assert one.success is None
        else:
            assert one == other


def test_every_environment_is_closed_even_when_the_policy_fails() -> None:
    Walk.closed = 0
    with pytest.raises(InputError, match=r"the policy gave actions of shape \(1, 3, 2\)"):
        rollout(Walk, lambda seen: np.zeros((1, 3, 2)), members=1, episodes=3, parallel=3)
    assert Walk.closed == 3


def test_an_environment_of_other_spaces_is_refused_in_one_line() -> None:
    class Switches(Walk):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gymnasium.spaces.MultiBinary(3)

    class Flat(Walk):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2, 1), np.float32)

    class Seeing(Walk):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gymnasium.spaces.Discrete(4)  # type: ignore[assignment]

    for kind, line in (
        (
            Switches,
            "Switches: its actions are MultiBinary(3); one flat Box, or a Discrete that starts at "
            "0, is needed",
        ),
        (
            Flat,
            "Flat: its actions are Box(-1.0, 1.0, (2, 1), float32); one flat Box, or a Discrete "
            "that starts at 0, is needed",
        ),
        (Seeing, "Seeing: the observations are Discrete(4); one flat Box of numbers is needed"),
    ):
        with pytest.raises(InputError) as error:
            Evaluator(kind, members=1)
        assert str(error.value) == line


def test_actions_without_bounds_are_played_as_they_are() -> None:
    class Unbounded(Walk):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    bounded = rollout(Walk, push(5.0), members=1, episodes=1)[0].episode_return
    unbounded = rollout(Unbounded, push(5.0), members=1, episodes=1)[0].episode_return
    # Two steps of 5 + 0.001·sin(x) instead of 1, from the same start: 4 and then 8 more.
    assert unbounded - bounded == pytest.approx(4 + 8, abs=0.01)


@pytest.mark.parametrize("wrong", [{"members": 0}, {"episodes": 0}])
def test_nothing_to_play_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="give at least 1"):
        asked: dict[str, Any] = {"members": 1, "episodes": 1} | wrong
        rollout(Walk, push(0.1), **asked)


def test_a_jitted_policy_compiles_once_for_all_evaluations() -> None:
    traced = []

    @jax.jit
    def policy(observations: jax.Array) -> jax.Array:
        traced.append(observations.shape)
        return 0.1 * observations[..., :1]

    evaluator = Evaluator(Walk, members=2, parallel=3)
    for episodes in (1, 3, 7):
        results = evaluator.rollout(lambda seen: np.asarray(policy(seen)), episodes)
        assert len(results) == 2 * episodes
    evaluator.close()
    assert traced == [(2, 3, 2)]


class Endless(gymnasium.Env[np.ndarray, np.ndarray]):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 1.0, False, False, {}


def test_an_environment_without_a_time_limit_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xql.evaluation.rollout.LONGEST_EPISODE", 50)
    (result,) = rollout(Endless, lambda obs: obs[..., :1], members=1, episodes=1)
    assert (result.length, result.episode_return) == (50, 50.0)


def test_a_time_limit_of_the_environment_s_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xql.evaluation.rollout.LONGEST_EPISODE", 50)
    spec = gymnasium.envs.registration.EnvSpec(
        "XQLTestEndless-v0", lambda **_: Endless(), max_episode_steps=80
    )
    (result,) = rollout(
        lambda: gymnasium.make(spec, disable_env_checker=True),
        lambda obs: obs[..., :1],
        members=1,
        episodes=1,
    )
    assert result.length == 80

"""10 % behaviour cloning: which episodes are kept, and that nothing else is learned from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worlds import line_data, register_line
from xql import train_offline
from xql.data.dataset import Dataset, Episode
from xql.data.selection import select_episodes, set_apart
from xql.errors import InputError
from xql.reports.compare import compare
from xql.runs.config import Extent, RunConfig
from xql.runs.run import Run
from xql.training.offline import plan_offline


def episodes_of(*returns_and_lengths: tuple[float, int]) -> Dataset:
    """Episode i sees the number i and acts by it; its whole return comes at its last step."""
    episodes = []
    for index, (total, length) in enumerate(returns_and_lengths):
        rewards = np.zeros(length, np.float32)
        rewards[-1] = total
        seen = np.full((length + 1, 1), index, np.float32)
        taken = np.full((length, 1), index / 10, np.float32)
        episodes.append(Episode(seen, taken, rewards, index % 2 == 0, index % 2 == 1))
    describe = {"name": "ten", "source": "here", "metadata": {"author": "nobody"}}
    return Dataset.from_episodes(episodes, **describe)


TEN = episodes_of(
    (3.0, 2),
    (9.0, 4),
    (1.0, 2),
    (9.0, 3),
    (0.0, 1),
    (9.0, 4),
    (-5.0, 2),
    (7.0, 2),
    (2.0, 1),
    (8.0, 9),
)

HELD = [2, 3, 8, 9]
"""What is held out of these by 0.4."""

STANDARDISED = {"observations": "standardised"}


def kept(dataset: Dataset) -> list[int]:
    return [int(number) for number in dataset.observations[dataset.firsts, 0]]


@pytest.mark.parametrize(
    ("subset", "numbers"),
    [
        # Of the three that return 9 the shortest comes first, then the one that is stored first.
        ("top:0.1", [3]),
        ("top:0.2", [1, 3]),
        ("top:0.3", [1, 3, 5]),
        ("top:0.49", [1, 3, 5, 9]),
        ("top:0.01", [3]),  # never none
        ("top:1", list(range(10))),
        ("all", list(range(10))),
    ],
)
def test_the_best_by_return_are_kept_in_stored_order(subset: str, numbers: list[int]) -> None:
    assert kept(select_episodes(TEN, subset)) == numbers


def test_a_share_is_not_lost_to_rounding() -> None:
    hundred = episodes_of(*((float(i), 1) for i in range(100)))
    assert len(select_episodes(hundred, "top:0.29")) == 29  # 0.29 · 100 = 28.999999999999996


def test_a_kept_episode_is_whole_and_the_dataset_s_description_stays() -> None:
    best = select_episodes(TEN, "top:0.2")
    assert best.lengths.tolist() == [4, 3]
    assert best.returns.tolist() == [9.0, 9.0]
    assert best.terminated.tolist() == [False, False] and best.truncated.tolist() == [True, True]
    assert (best.name, best.source, best.metadata) == ("ten", "here", {"author": "nobody"})
    np.testing.assert_array_equal(best.episode(1).actions, TEN.episode(3).actions)
    assert select_episodes(TEN) is TEN


@pytest.mark.parametrize(
    ("subset", "line"),
    [
        ("best:0.1", "unknown subset 'best:0.1'; choose from all, top:X"),
        ("top", "subset 'top' is no share of the episodes; write it as top:0.1"),
        ("top:ten", "'top:ten' is no share"),
        ("top:0", "'top:0' is no share"),
        ("top:10", "'top:10' is no share of the episodes; write it as top:0.1, at most top:1"),
        ("top:nan", "'top:nan' is no share"),
    ],
)
def test_what_is_no_subset_is_refused_in_one_line(subset: str, line: str) -> None:
    with pytest.raises(InputError) as refusal:
        select_episodes(TEN, subset)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)


def learn(folder: Path, data: Dataset, **changes: Any) -> Run:
    asked: dict[str, Any] = {
        "agent": "bc",
        "steps": 300,
        "out": folder / "run",
        "options": {"hidden": [16], "batch_size": 32, "policy_learning_rate": 0.01},
        "evaluations": 1,
        "progress": False,
    }
    return train_offline(data, **(asked | changes))


def test_ten_percent_bc_learns_from_nothing_else(tmp_path: Path) -> None:
    # Ten actions from 0 to .9 in two states, each its own reward: the best tenth takes .9.
    numbers = np.repeat(np.arange(10, dtype=np.float32), 4)
    states = np.arange(40, dtype=np.float32)[:, None] % 2
    columns = states, numbers[:, None] / 10, numbers
    data = Dataset.from_arrays(*columns, np.ones(40, bool), name="ten")
    small = {"hidden": [16], "batch_size": 32, "policy_learning_rate": 0.01}
    run = learn(tmp_path, data, options=small | {"subset": "top:0.1"})
    actions = run.policy(np.array([[0.0], [1.0]], np.float32))
    np.testing.assert_allclose(actions, 0.9, atol=0.02)
    config = run.config
    assert config.data.subset == "top:0.1"
    assert config.data.extent == Extent(transitions=4, episodes=4, mean_return=9.0)
    assert config.data.whole == Extent(transitions=40, episodes=40, mean_return=4.5)
    assert config.sources["subset"] == "given"


def test_it_is_compared_with_bc_on_all_of_the_same_data(tmp_path: Path) -> None:
    data = line_data(episodes=20)
    few = {"steps": 4, "env": register_line(), "last_episodes": 3, "seeds": 2}
    small = {"hidden": [4], "batch_size": 4}
    runs = [
        learn(tmp_path / name, data, options=small | chosen, **few).path
        for name, chosen in (("all", {}), ("top", {"subset": "top:0.1"}))
    ]
    names = compare(runs).methods
    assert len(set(names)) == 2
    assert any("top:0.1" in name for name in names)


def test_a_run_on_all_episodes_says_so(tmp_path: Path) -> None:
    run = learn(tmp_path, line_data(episodes=3), steps=5)
    assert run.config.data.subset == "all"
    assert run.config.data.whole is None


@pytest.mark.parametrize(
    ("agent", "line"),
    [
        ("sac", "agent sac learns from an environment, not from logged data; use xql train online"),
        ("x-td3", "agent x-td3 learns from an environment"),
        ("ilq", "unknown agent 'ilq'; did you mean 'iql'?"),
        ("td3bc", "unknown agent 'td3bc'; did you mean 'td3-bc'?"),
        ("zzz", "choose from awac, bc, cql, iql, rebrac, td3-bc, xql"),
    ],
)
def test_only_offline_agents_learn_from_logged_data(agent: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        learn(tmp_path, line_data(episodes=2), agent=agent)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("amount", "count"), [(0.1, 1), (0.3, 3), (0.01, 1), (1, 1), (4.0, 4)])
def test_what_is_held_out_is_of_that_many_episodes(amount: float, count: int) -> None:
    learned, held = set_apart(TEN, amount)
    assert held is not None
    assert len(held) == count
    assert sorted(kept(learned) + kept(held)) == list(range(10))
    assert kept(held) == sorted(kept(held))
    assert learned.metadata == held.metadata == TEN.metadata
    # A larger share holds the same ones out, and more.
    assert set(kept(held)) <= set(kept(set_apart(TEN, 9)[1] or TEN))


def copied(*copies: int) -> Dataset:
    """The first episodes of `TEN`, each so many times; every second copy with other rewards."""
    episodes = []
    for number, times in enumerate(copies):
        one = TEN.episode(number)
        episodes += [one._replace(rewards=one.rewards + copy % 2) for copy in range(times)]
    return Dataset.from_episodes(episodes, name="copies")


@pytest.mark.parametrize(
    ("copies", "amount"),
    [((2,) * 10, 0.3), ((2,) * 10, 5), ((3, 1, 4, 1, 5), 6), ((1, 1, 9, 1), 2), ((5, 4), 1)],
)
def test_copies_of_an_episode_are_held_out_together(copies: tuple[int, ...], amount: float) -> None:
    data = copied(*copies)
    learned, held = set_apart(data, amount)
    assert held is not None and learned.episodes + held.episodes == data.episodes
    assert not set(kept(learned)) & set(kept(held))
    count = amount if amount >= 1 else amount * data.episodes
    # No more than was asked for, unless every episode has more copies than that.
    assert held.episodes <= max(count, min(copies))


def test_nothing_but_copies_of_one_episode_cannot_be_held_out() -> None:
    with pytest.raises(InputError, match=r"hold_out=0\.2` leaves no .* are copies of one"):
        set_apart(copied(5), 0.2)


def test_nothing_is_held_out_without_being_asked_for() -> None:
    learned, held = set_apart(TEN, 0)
    assert learned is TEN
    assert held is None


def test_the_same_episodes_are_held_out_in_any_order() -> None:
    turned = Dataset.from_episodes([TEN.episode(i) for i in reversed(range(10))], name="other")
    first, second = set_apart(TEN, 0.4)[1], set_apart(turned, 0.4)[1]
    assert first is not None
    assert second is not None
    assert sorted(kept(first)) == sorted(kept(second))
    # The hash belongs to the format: the episodes that a kept run held out stay those.
    assert kept(first) == HELD


def test_a_fifth_of_the_episodes_is_as_good_as_random() -> None:
    data = episodes_of(*[(float(i % 7), 1 + i % 3) for i in range(2000)])
    held = set_apart(data, 0.2)[1]
    assert held is not None
    # The mean of 400 of the numbers 0 to 1999, within four standard deviations.
    assert abs(np.mean(kept(held)) - 999.5) < 4 * 577 / 20


@pytest.mark.parametrize("amount", [-0.1, 1.5, float("nan"), float("inf"), 10, 0.99])
def test_what_cannot_be_held_out_is_refused(amount: float) -> None:
    with pytest.raises(InputError, match=r"^.*`hold_out="):
        set_apart(TEN, amount)


@pytest.mark.parametrize("amount", [None, "0.1", True, [2]])
def test_what_is_no_number_cannot_be_held_out(amount: Any) -> None:
    with pytest.raises(InputError, match=r"^`hold_out` cannot be .*give a share such as 0\.1"):
        set_apart(TEN, amount)


def test_what_is_held_out_is_never_learned_from() -> None:
    plan = plan_offline(TEN, agent="bc", hold_out=0.3, env="none", options={"subset": "top:0.5"})
    learned, held = set_apart(TEN, 0.3)
    assert held is not None
    data = plan.config.data
    assert plan.dataset.fingerprint() == select_episodes(learned, "top:0.5").fingerprint()
    assert not set(kept(plan.dataset)) & set(kept(held))
    assert (data.hold_out, data.held_out) == (0.3, held.fingerprint())
    assert data.whole is not None
    assert data.whole.episodes == 10
    assert "subset top:0.5, 30 % of the episodes held out: 3 of 10 episodes kept" in plan.notes
    # Nor does it scale anything: an episode that would move the mean is not there.
    scaled = plan_offline(TEN, agent="bc", hold_out=0.3, env="none", options=STANDARDISED)
    np.testing.assert_allclose(
        scaled.config.scaling.observation_shift, learned.observations.mean(0), rtol=1e-6
    )
    again = RunConfig.from_dict(plan.config.to_dict())
    assert again.data == data
    assert "hold_out" not in plan_offline(TEN, agent="bc", env="none").config.to_dict()["data"]

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import gymnasium
import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")
minari = pytest.importorskip("minari")

from xql.cli import main  # noqa: E402
from xql.cli.make import make  # noqa: E402
from xql.collect.planner import Planner, evaluation_map  # noqa: E402
from xql.collect.pointmaze import (  # noqa: E402
    Maze,
    behaviour_rollouts,
    collect,
    ensure_pointmaze,
    evaluation_environment,
    make_pointmaze,
)
from xql.envs.maze_files import without_maze_file  # noqa: E402
from xql.errors import InputError  # noqa: E402

RING: list[list[int | str]] = [
    [1, 1, 1, 1, 1],
    [1, 0, 0, 0, 1],
    [1, 0, 1, 0, 1],
    [1, 0, 1, 0, 1],
    [1, 1, 1, 1, 1],
]


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Minari's folder; no file of a maze is left in the one for temporary files."""
    temporary, folder = tmp_path / "temporary", tmp_path / "minari"
    temporary.mkdir()
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    yield folder
    assert not any(temporary.iterdir())


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_planner_walks_the_shortest_path() -> None:
    planner = Planner.of(RING)
    cells = list(planner.cells)
    assert cells == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 3)]
    goal, here = cells.index((3, 3)), cells.index((3, 1))
    path = [cells[here]]
    while here != goal:
        here = int(planner.following[goal, here])
        path.append(cells[here])
    assert path == [(3, 1), (2, 1), (1, 1), (1, 2), (1, 3), (2, 3), (3, 3)]
    assert planner.distances[goal].tolist() == [4, 3, 2, 5, 1, 6, 0]
    assert planner.distances.tolist() == planner.distances.T.tolist()
    assert [cells[number] for number in planner.farthest()] == [(3, 1), (3, 3)]


def test_planner_marks_what_no_path_reaches() -> None:
    planner = Planner.of([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]])
    assert planner.distances.tolist() == [[0, -1], [-1, 0]]
    assert planner.following.tolist() == [[0, 1], [0, 1]]


def test_evaluation_runs_between_the_farthest_cells() -> None:
    expected = [row.copy() for row in RING]
    expected[3][1], expected[3][3] = "r", "g"
    assert evaluation_map(RING) == expected
    # Marks that a map already carries make no difference.
    assert evaluation_map(expected) == expected
    # The known longest shortest paths of the three mazes.
    mazes: dict[Maze, int] = {"umaze": 6, "medium": 11, "large": 19}
    for maze, longest in mazes.items():
        env: Any = evaluation_environment(maze)
        planner = Planner.of(env.unwrapped.maze.maze_map)
        marks = {env.unwrapped.maze.maze_map[r][c]: i for i, (r, c) in enumerate(planner.cells)}
        assert planner.distances[marks["g"], marks["r"]] == longest == planner.distances.max()
        env.close()


def test_transitions_are_exactly_what_the_environment_gives(datasets: Path) -> None:
    made = make_pointmaze("umaze", transitions=900, seed=4)
    dataset = minari.load_dataset(made)
    env = without_maze_file(dataset.recover_environment())
    step_by_step = env.unwrapped
    for episode in dataset.iterate_episodes():
        env.reset(seed=0)
        observations = episode.observations
        step_by_step.goal = observations["desired_goal"][0].copy()
        step_by_step.point_env.set_state(
            observations["observation"][0, :2], observations["observation"][0, 2:]
        )
        for t, action in enumerate(episode.actions):
            observation, reward, terminated, _, _ = env.step(action)
            for key, value in observation.items():
                assert np.array_equal(value, observations[key][t + 1])
            assert reward == episode.rewards[t]
            assert terminated == episode.terminations[t]
    env.close()


def test_episodes_end_only_at_the_goal_or_at_the_limit(datasets: Path) -> None:
    dataset = minari.load_dataset(make_pointmaze("umaze", transitions=3000, seed=1))
    episodes = list(dataset.iterate_episodes())
    assert sum(len(episode.rewards) for episode in episodes) == dataset.total_steps == 3000
    assert {bool(e.terminations[-1]) for e in episodes} == {True, False}
    for number, episode in enumerate(episodes):
        observations, steps = episode.observations, len(episode.rewards)
        gap = observations["achieved_goal"] - observations["desired_goal"]
        inside = np.linalg.norm(gap[1:], axis=1) <= 0.45
        assert not inside[:-1].any()
        assert episode.terminations.tolist() == inside.tolist()
        assert episode.rewards.tolist() == inside.astype(float).tolist()
        assert not episode.truncations[:-1].any()
        assert episode.truncations[-1] == (not inside[-1])
        if episode.truncations[-1] and number + 1 < len(episodes):
            assert steps == 300
        # One evaluation goal, with the environment's own noise of a quarter cell.
        env = without_maze_file(dataset.recover_environment())
        goal = env.unwrapped.maze.unique_goal_locations[0]
        assert np.abs(observations["desired_goal"] - goal).max() <= 0.25
        assert np.abs(episode.actions).max() <= 1


def test_recovered_environment_is_the_evaluation_task(datasets: Path) -> None:
    dataset = minari.load_dataset(make_pointmaze("medium", transitions=50))
    own: Any
    env = without_maze_file(dataset.recover_environment(eval_env=True))
    own = evaluation_environment("medium")
    assert env.spec.max_episode_steps == own.spec.max_episode_steps == 600
    assert env.unwrapped.maze.maze_map == own.unwrapped.maze.maze_map
    assert env.unwrapped.continuing_task is False
    assert env.unwrapped.reset_target is False
    first, second = env.reset(seed=9)[0], own.reset(seed=9)[0]
    for key in first:
        assert np.array_equal(first[key], second[key])
    metadata = dataset.storage.metadata
    assert minari.get_normalized_score(dataset, np.array([0.0, 1.0])).tolist() == [0, 1]
    assert metadata["made_by"]["command"] == (
        "xql data make pointmaze-medium --transitions 50 --seed 0 --noise 0.5"
        " --out-id pointmaze/medium-play-v0"
    )
    assert str(datasets) not in (
        datasets / "pointmaze" / "medium-play-v0" / "data" / "metadata.json"
    ).read_text(encoding="utf-8")


def test_same_seed_same_bytes_another_seed_not(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets / name))
        make_pointmaze("umaze", transitions=1500, seed=seed)
        seen.append(hashes(datasets / name))
    assert len(seen[0]) >= 2
    assert seen[0] == seen[1]
    data = next(key for key in seen[0] if key.endswith(".hdf5"))
    assert seen[0][data] != seen[2][data]


def test_without_noise_each_action_pulls_to_the_centre_of_a_free_cell() -> None:
    env: Any = evaluation_environment("umaze")
    maze = env.unwrapped.maze
    cells = Planner.of(maze.maze_map).cells
    centres = np.array([maze.cell_rowcol_to_xy(np.array(cell)) for cell in cells])
    env.close()
    for walk in collect("umaze", 700, 0, 0.0):
        state = walk.observations["observation"][:-1, None, :]
        # The proportional and derivative gains are 10 and 1; forces are clipped to ±1.
        pulls = np.clip(10 * (centres - state[..., :2]) - state[..., 2:], -1, 1)
        misses = np.abs(pulls - walk.actions[:, None]).max(axis=2).min(axis=1)
        assert misses.max() < 1e-6


def test_progress_reports_up_to_the_whole() -> None:
    seen = []
    walks = list(collect("umaze", 700, 0, 0.5, lambda made, wanted: seen.append((made, wanted))))
    assert seen[-1] == (700, 700)
    assert len(seen) == len(walks)
    assert [made for made, _ in seen] == np.cumsum([len(w.actions) for w in walks]).tolist()


def test_behaviour_seldom_does_the_evaluation_task() -> None:
    outcomes = behaviour_rollouts("large", 20, 0)
    assert len(outcomes) == 20
    assert sum(outcomes) <= 6
    assert behaviour_rollouts("large", 5, 0) == outcomes[:5]
    # In the small maze the same policy stumbles upon the goal: success can be seen.
    assert any(behaviour_rollouts("umaze", 20, 0))


def test_nothing_is_overwritten(datasets: Path) -> None:
    make_pointmaze("umaze", transitions=20)
    before = hashes(datasets)
    with pytest.raises(InputError) as error:
        make_pointmaze("umaze", transitions=30)
    assert str(error.value).startswith(
        "Minari's folder: a dataset 'pointmaze/umaze-play-v0' exists; choose another id"
    )
    assert hashes(datasets) == before
    make_pointmaze("umaze", transitions=30, dataset_id="pointmaze/umaze-play-v1")


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_write_that_fails_leaves_nothing_behind(
    datasets: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*_: Any) -> Never:
        raise OSError(errno.ENOSPC, "No space left on device")

    from minari.dataset._storages.hdf5_storage import HDF5Storage

    if when == "before":
        # HDF5 crashes the process at its end where it has run out of room.
        monkeypatch.setattr(HDF5Storage, "update_episodes", lambda *_: pytest.fail("too late"))
        monkeypatch.setattr(os, "posix_fallocate", full)
    else:
        monkeypatch.setattr(HDF5Storage, "update_episodes", full)
    with pytest.raises(InputError) as error:
        make_pointmaze("umaze", transitions=20)
    assert str(error.value) == (
        f"{datasets / 'pointmaze' / 'umaze-play-v0'}: no dataset can be written here "
        "(No space left on device); make room there"
    )
    # Minari has a file of its own there by then.
    assert when == "while" or not (datasets / "pointmaze").exists()
    assert [path.name for path in (datasets / "pointmaze").glob("*/")] == []


@pytest.mark.parametrize("when", ["while collecting", "while writing"])
def test_what_another_process_writes_meanwhile_stays(
    datasets: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    theirs = datasets / "pointmaze" / "umaze-play-v0" / "data" / "metadata.json"

    def other(*_: Any) -> None:
        theirs.parent.mkdir(parents=True)
        theirs.write_text("theirs")

    progress = None
    if when == "while collecting":
        progress = other
    else:
        from minari.dataset._storages.hdf5_storage import HDF5Storage

        monkeypatch.setattr(HDF5Storage, "update_episodes", other)
    with pytest.raises(InputError, match="a dataset 'pointmaze/umaze-play-v0' exists; choose"):
        make_pointmaze("umaze", transitions=20, progress=progress)
    assert theirs.read_text() == "theirs"
    folders = [path.name for path in (datasets / "pointmaze").iterdir() if path.is_dir()]
    assert folders == ["umaze-play-v0"]


def test_a_dataset_is_reused_only_if_the_same_arguments_made_it(datasets: Path) -> None:
    wanted: dict[str, Any] = {"transitions": 20, "seed": 3, "noise": 1.0}
    assert ensure_pointmaze("umaze", **wanted) == ("pointmaze/umaze-play-v0", True)
    assert minari.load_dataset("pointmaze/umaze-play-v0").spec.dataset_id == (
        "pointmaze/umaze-play-v0"
    )
    before = hashes(datasets)
    assert ensure_pointmaze("umaze", **wanted) == ("pointmaze/umaze-play-v0", False)
    for other in ({"transitions": 21}, {"seed": 4}, {"noise": 0.5}):
        with pytest.raises(InputError):
            ensure_pointmaze("umaze", **(wanted | other))
    with pytest.raises(InputError) as error:
        ensure_pointmaze("medium", dataset_id="pointmaze/umaze-play-v0", **wanted)
    rest = "--transitions 20 --seed 3 --noise 1.0 --out-id pointmaze/umaze-play-v0"
    assert str(error.value) == (
        f"pointmaze/umaze-play-v0: this dataset was made by: xql data make pointmaze-umaze {rest}, "
        f"not by: xql data make pointmaze-medium {rest}; "
        "remove it (minari delete pointmaze/umaze-play-v0), or choose another id with `dataset_id`"
    )
    assert hashes(datasets) == before
    (datasets / "pointmaze" / "umaze-play-v0" / "data" / "metadata.json").write_text("{}")
    with pytest.raises(InputError, match="was made by: something else, not by: xql data make"):
        ensure_pointmaze("umaze", **wanted)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"transitions": 0}, "pointmaze-umaze: transitions is 0; give 1 or more"),
        ({"seed": -1}, "pointmaze-umaze: seed is -1; give 0 or more"),
        ({"noise": -0.1}, "pointmaze-umaze: noise is -0.1; give 0 or more"),
        ({"noise": float("nan")}, "pointmaze-umaze: noise is nan; give 0 or more"),
        (
            {"dataset_id": "no version"},
            "`dataset_id`: 'no version' is no dataset id; write it as 'folder/name-v0'",
        ),
    ],
)
def test_bad_numbers_and_ids_are_one_line(datasets: Path, arguments: Any, line: str) -> None:
    with pytest.raises(InputError) as error:
        make_pointmaze("umaze", **arguments)
    assert str(error.value) == line
    assert not any(datasets.iterdir())


def test_command_line_makes_and_says_what_comes_next(
    datasets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("pointmaze-umaze", transitions=400, out_id="mine/play-v0")
    printed = capsys.readouterr().out
    episodes = minari.load_dataset("mine/play-v0").total_episodes
    assert f"made mine/play-v0: 400 transitions in {episodes} episodes, " in printed
    assert "next: xql train offline --data minari:mine/play-v0" in printed
    assert minari.load_dataset("mine/play-v0").total_steps == 400
    with pytest.raises(InputError) as error:
        make("pointmaze-medum")
    line = "nothing called 'pointmaze-medum' can be made; did you mean 'pointmaze-medium'?"
    assert str(error.value) == line


def test_bad_input_of_the_command_line_is_one_line_in_flags(
    datasets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, line in (
        (["--transitions", "0"], "pointmaze-umaze: transitions is 0; give 1 or more"),
        (["--out-id", "a b"], "--out-id: 'a b' is no dataset id; write it as 'folder/name-v0'"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["data", "make", "pointmaze-umaze", *words])
        assert end.value.code == 2
        assert capsys.readouterr() == ("", f"xql: {line}\n")
    assert not any(datasets.iterdir())


def test_named_environments_stay_as_they_are() -> None:
    before = gymnasium.spec("PointMaze_Medium-v3").kwargs["maze_map"]
    evaluation_environment("medium").close()
    assert not any(cell in ("r", "g") for row in before for cell in row)

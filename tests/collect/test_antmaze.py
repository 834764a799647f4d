import hashlib
import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")
minari = pytest.importorskip("minari")

from xql.cli.data import list_  # noqa: E402
from xql.cli.make import make  # noqa: E402
from xql.collect import antmaze, rollouts  # noqa: E402
from xql.collect.antmaze import collect, controller_success, evaluation_spec, make_antmaze  # noqa: E402
from xql.collect.goal_ant import SHIPPED  # noqa: E402
from xql.collect.planner import Cell, Planner  # noqa: E402
from xql.collect.policies import load_goal_policy  # noqa: E402
from xql.data.sources import open_dataset  # noqa: E402
from xql.envs.make import make_environment  # noqa: E402
from xql.errors import InputError  # noqa: E402

SHARED = Path(os.environ.get("XQL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
ANT = SHARED / "ant_goal_policy.npz"
needs_ant = pytest.mark.skipif(
    not ANT.exists(), reason="ant_goal_policy.npz is not in XQL_SHARED_DATA"
)
# Logs too short to reach a goal in.
QUICK: dict[str, Any] = {"trials": 1, "least_success": 0.0}


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "minari").mkdir()
    return tmp_path / "minari"


@pytest.fixture
def short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(antmaze, "LOG_STEPS", 12)


@pytest.fixture
def wild(tmp_path: Path) -> Path:
    """The file of a random small policy."""
    random = np.random.default_rng(0)
    shapes = {"fc0": (16, 29), "last_fc": (8, 16), "last_fc_log_std": (8, 16)}
    arrays: dict[str, Any] = {
        f"{name}.weight": random.normal(size=shape) for name, shape in shapes.items()
    }
    arrays |= {f"{name}.bias": random.normal(size=shape[0]) for name, shape in shapes.items()}
    np.savez(tmp_path / "wild.npz", **arrays)
    return tmp_path / "wild.npz"


@pytest.fixture
def compass(tmp_path: Path) -> Path:
    """The file of a policy whose first two actions tell where it is sent: tanh(relative / 20)."""
    weight, head = np.zeros((4, 29)), np.zeros((8, 4))
    weight[0, 27], weight[1, 27], weight[2, 28], weight[3, 28] = 1, -1, 1, -1
    head[0, :2], head[1, 2:] = [0.05, -0.05], [0.05, -0.05]
    arrays: dict[str, Any] = {"fc0.weight": weight, "fc0.bias": np.zeros(4)}
    arrays |= {"last_fc.weight": head, "last_fc.bias": np.zeros(8)}
    np.savez(tmp_path / "compass.npz", **arrays)
    return tmp_path / "compass.npz"


def hashes(folder: Path) -> Any:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def is_near(place: Any, centre: Any) -> Any:
    return np.linalg.norm(np.array(centre) - place) < 1.0


def test_evaluation_goes_where_that_of_d4rl_goes() -> None:
    # Start, goal and the number of cells between them, counted by hand in the maps.
    cases: list[tuple[antmaze.Task, Cell, Cell, int]] = [
        ("umaze", (1, 1), (3, 1), 6),
        ("medium-play", (1, 1), (6, 6), 10),
        ("large-diverse", (1, 1), (7, 9), 14),
    ]
    for task, start, goal, apart in cases:
        maze = evaluation_spec(task).kwargs["maze_map"]
        planner = Planner.of(maze)
        marks = {maze[r][c]: number for number, (r, c) in enumerate(planner.cells)}
        assert planner.cells[marks["r"]] == start
        assert planner.cells[marks["g"]] == goal
        assert planner.distances[marks["g"], marks["r"]] == apart


def test_where_logs_of_each_task_are_sent(compass: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(antmaze, "LOG_STEPS", 1)
    policy = load_goal_policy(compass)
    sent = {}
    for task in ("umaze", "umaze-diverse", "medium-play", "large-play", "large-diverse"):
        controller = antmaze._Controller(task, policy, 0, 0.0)
        routes = [controller._route(0, number) for number in range(300)]
        cells = controller._planner.cells
        sent[task] = {cells[route.goal] for route in routes}
        starts = {tuple(route.reset["options"]["reset_cell"].tolist()) for route in routes}
        assert starts == ({(1, 1)} if task == "umaze" else set(cells))
        for route in routes:
            assert tuple(route.reset["options"]["reset_cell"]) != cells[route.goal]
            gap = np.array(controller._centres[route.goal]) - route.place
            assert np.abs(gap).max() <= 1.0
        controller.close()
        if task.endswith("diverse"):
            assert sent[task] == set(cells)
    assert sent["umaze"] == {(3, 1)}
    assert sent["medium-play"] == {(2, 6), (5, 1), (6, 5), (6, 6)}
    assert sent["large-play"] == {(1, 6), (3, 5), (3, 10), (5, 2), (7, 4), (7, 6), (7, 9)}


def test_the_ant_is_sent_to_its_cells_centre_and_then_on(
    compass: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(antmaze, "LOG_STEPS", 2)
    seen = set()
    for one in collect("umaze", load_goal_policy(compass), 60, 0, 0.0):
        log: Any = one.log
        relative = 20 * np.arctanh(log.actions[:, :2].astype(float))
        assert np.linalg.norm(relative, axis=1) == pytest.approx([10.0, 10.0], abs=1e-3)
        # The first cell's centre is (-4, 4), the next one's (0, 4).
        for place, direction in zip(log.observations[:-1, :2], relative, strict=True):
            target = np.array([0.0, 4.0] if is_near(place, (-4.0, 4.0)) else [-4.0, 4.0])
            gap = target - place
            across = gap[0] * direction[1] - gap[1] * direction[0]
            angle = np.arctan2(across, gap @ direction)
            # Waypoints are spread over half a metre to either side.
            assert abs(angle) <= np.arcsin(min(1.0, np.sqrt(0.5) / np.linalg.norm(gap))) + 1e-3
            seen.add(float(target[0]))
    assert seen == {0.0, -4.0}


def test_transitions_are_exactly_what_the_environment_gives(
    wild: Path, short_logs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets = []
    real = rollouts.play

    def spy(envs: Any, given: Any, *rest: Any) -> Any:
        resets.extend(given)
        return real(envs, given, *rest)

    monkeypatch.setattr(antmaze, "play", spy)
    played = collect("umaze-diverse", load_goal_policy(wild), 70, 3, 0.2)
    logs: list[Any] = [one.log for one in played]
    assert [len(log.actions) for log in logs] == [12] * 5 + [10]
    env = gymnasium.make(evaluation_spec("umaze-diverse"))
    for reset, log in zip(resets, logs, strict=True):
        observation, _ = env.reset(**reset)
        assert np.array_equal(observation, log.observations[0])
        for t, action in enumerate(log.actions):
            observation, reward, terminated, _, _ = env.step(action)
            assert np.array_equal(observation, log.observations[t + 1])
            assert (reward, terminated) == (log.rewards[t], log.terminations[t])
    env.close()


def test_noise_is_added_and_cut_off(wild: Path, short_logs: None) -> None:
    policy = load_goal_policy(wild)
    plain, noisy = (
        next(iter(collect("umaze", policy, 12, 0, noise))).log.actions for noise in (0.0, 0.2)
    )
    assert np.abs(noisy).max() <= 1.0
    # The same draws otherwise, so that the first actions differ by the noise alone.
    free = (np.abs(noisy[0]) < 1.0) & (noisy[0] != plain[0])
    assert 0.02 < np.abs(noisy[0] - plain[0])[free].std() < 1.0


def test_same_seed_same_bytes_another_seed_not(
    datasets: Path, wild: Path, short_logs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets / name))
        make_antmaze("medium-diverse", wild, transitions=80, seed=seed, **QUICK)
        seen.append(hashes(datasets / name))
    assert len(seen[0]) >= 2
    assert seen[0] == seen[1]
    data = next(key for key in seen[0] if key.endswith(".hdf5"))
    assert seen[0][data] != seen[2][data]


def test_what_a_dataset_says_of_itself(datasets: Path, wild: Path, short_logs: None) -> None:
    made = make_antmaze("umaze", wild, transitions=30, seed=2, **QUICK)
    assert made == "antmaze/umaze-v0"
    dataset = open_dataset(f"minari:{made}")
    assert (dataset.transitions, dataset.observation_size) == (30, 29)
    assert dataset.action_low is not None and dataset.action_high is not None
    assert dataset.action_low.tolist() == [-1.0] * 8
    assert dataset.action_high.tolist() == [1.0] * 8
    assert dataset.metadata["ref_min_score"] == 0.0
    assert dataset.metadata["ref_max_score"] == 1.0
    by = dataset.metadata["made_by"]
    assert by["command"] == (
        "xql data make antmaze-umaze --policy wild.npz --transitions 30 --seed 2 --noise 0.2"
        " --out-id antmaze/umaze-v0"
    )
    assert by["policy"] == {
        "file": "wild.npz",
        "sha256": hashlib.sha256(wild.read_bytes()).hexdigest(),
    }
    assert by["outcome"] == (
        "the ant arrived in 0 % of 1 trials; 0 of 3 logs reach the evaluation goal"
    )
    text = (datasets / made / "data" / "metadata.json").read_text(encoding="utf-8")
    assert str(wild.parent) not in text
    assert dataset.evaluation_environment is not None
    env: Any = make_environment(dataset.evaluation_environment)
    assert env.spec.max_episode_steps == 700
    first, _ = env.reset(seed=1)
    assert first.shape == (29,)
    env.close()
    recovered = minari.load_dataset(made).recover_environment(eval_env=True)
    assert np.array_equal(recovered.reset(seed=1)[0], first)
    recovered.close()


def test_an_ant_that_does_not_arrive_makes_no_data(
    datasets: Path, wild: Path, short_logs: None
) -> None:
    with pytest.raises(InputError) as error:
        make_antmaze("umaze", wild, transitions=30, trials=2)
    assert str(error.value) == (
        "antmaze-umaze: with wild.npz the ant succeeds in 0 % of 2 trials, and 80 % are needed; "
        "give another policy with `policy`, or less `noise`; nothing was written"
    )
    assert not any(datasets.iterdir())


@needs_ant
def test_the_ant_of_d4rl_arrives() -> None:
    policy = load_goal_policy(ANT)
    # 46 of 50 and 47 of 50 were measured; below 8 of 12 has a probability of 0.004 at 0.9.
    assert controller_success("umaze", policy, trials=12) >= 8 / 12


def test_our_own_ant_arrives() -> None:
    # 46 of 50 were measured; see above.
    assert controller_success("umaze", load_goal_policy(SHIPPED), trials=12) >= 8 / 12


def test_without_a_file_our_own_ant_walks(datasets: Path, short_logs: None) -> None:
    make_antmaze("umaze", transitions=20, **QUICK)
    made = minari.load_dataset("antmaze/umaze-v0").storage.metadata["made_by"]
    made = json.loads(made) if isinstance(made, str) else made
    assert made["policy"]["file"] == "goal_ant.npz"
    assert made["command"].startswith("xql data make antmaze-umaze --transitions 20 ")


def test_logs_go_on_at_the_goal(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough to reach the goal in, some 24 m along at 1.5 m/s, and to stay a while.
    monkeypatch.setattr(antmaze, "LOG_STEPS", 400)
    make_antmaze("umaze", SHIPPED, transitions=1400, **QUICK)
    episodes = list(minari.load_dataset("antmaze/umaze-v0").iterate_episodes())
    assert [len(episode.rewards) for episode in episodes] == [400, 400, 400, 200]
    pieces = 0
    for episode in episodes:
        gap = np.linalg.norm(episode.observations[1:, :2] - [-4.0, -4.0], axis=1)
        clear = np.abs(gap - 0.45) > 1e-5
        assert (episode.rewards == episode.terminations).all()
        assert (episode.terminations == (gap <= 0.45))[clear].all()
        assert not episode.truncations[:-1].any()
        assert episode.truncations[-1] == (not episode.terminations[-1])
        pieces += int(episode.terminations[:-1].sum()) + 1
    rewarded = sum(int(episode.rewards.sum()) for episode in episodes)
    assert rewarded > 20
    # Read as transitions, each of these steps ends an episode with mask 0, and none is lost.
    dataset = open_dataset("minari:antmaze/umaze-v0")
    assert (dataset.transitions, dataset.episodes) == (1400, pieces)
    assert int(dataset.terminated.sum()) == rewarded
    assert dataset.returns.max() == 1.0


def test_nothing_is_overwritten(datasets: Path, wild: Path, short_logs: None) -> None:
    make_antmaze("umaze", wild, transitions=12, **QUICK)
    before = hashes(datasets)
    with pytest.raises(InputError, match="a dataset 'antmaze/umaze-v0' exists; choose another id"):
        make_antmaze("umaze", wild, transitions=24, **QUICK)
    assert hashes(datasets) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"transitions": 0}, "antmaze-umaze: transitions is 0; give 1 or more"),
        ({"seed": -1}, "antmaze-umaze: seed is -1; give 0 or more"),
        ({"noise": float("inf")}, "antmaze-umaze: noise is inf; give 0 or more"),
        (
            {"dataset_id": "no version"},
            "`dataset_id`: 'no version' is no dataset id; write it as 'folder/name-v0'",
        ),
    ],
)
def test_bad_input_is_one_line(datasets: Path, wild: Path, arguments: Any, line: str) -> None:
    with pytest.raises(InputError) as error:
        make_antmaze("umaze", wild, **arguments)
    assert str(error.value) == line
    assert not any(datasets.iterdir())


def test_command_line(
    datasets: Path,
    wild: Path,
    short_logs: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InputError) as error:
        make("pointmaze-umaze", policy=wild)
    assert str(error.value) == "pointmaze-umaze: it takes no policy; leave --policy out"
    with pytest.raises(InputError, match=r"absent.npz: there is no such file"):
        make("antmaze-umaze", policy=wild.with_name("absent.npz"))
    monkeypatch.setattr(antmaze, "controller_success", lambda *_, **__: 0.96)
    make("antmaze-umaze", policy=wild, transitions=20, out_id="mine/ant-v0")
    printed = capsys.readouterr().out
    assert "made mine/ant-v0: 20 transitions in 2 episodes, " in printed
    assert "\nthe ant arrived in 96 % of 50 trials; 0 of 2 logs reach the evaluation" in printed
    assert "\nnext: xql train offline --data minari:mine/ant-v0" in printed
    list_()
    printed = capsys.readouterr().out
    assert "  minari:mine/ant-v0\n" in printed
    assert "  antmaze-large-diverse\n" in printed
    assert "  pointmaze-umaze\n" in printed

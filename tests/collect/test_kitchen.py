import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")
minari = pytest.importorskip("minari")

import xql  # noqa: E402
from xql.cli import main  # noqa: E402
from xql.collect import kitchen  # noqa: E402
from xql.collect.kitchen import (  # noqa: E402
    TARGETS,
    Kind,
    collect,
    make_kitchen,
    play,
    recording_environment,
    sequences,
)
from xql.collect.kitchen_tasks import TASKS, Task  # noqa: E402
from xql.envs.kitchen import as_evaluated  # noqa: E402
from xql.envs.make import make_environment  # noqa: E402
from xql.errors import InputError  # noqa: E402
from xql.presets import suite  # noqa: E402

KINDS: tuple[Kind, ...] = ("complete", "partial", "mixed")
COMMAND = "data make kitchen-complete --episodes 1"


@pytest.fixture(scope="module")
def env() -> Iterator[gymnasium.Env[Any, Any]]:
    env = recording_environment("complete")
    yield env
    env.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minari's folder, after one episode of the complete data was made on the command line."""
    root = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        main(COMMAND.split())
    return root


@pytest.fixture
def datasets(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    return made


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_succeeds_under_noise(env: gymnasium.Env[Any, Any], task: Task) -> None:
    for seed in range(2):
        played = play(env, (task,), np.random.default_rng(seed), 0.1)
        assert played.done == {task}


def test_what_the_kinds_hold() -> None:
    assert TARGETS["complete"] == TARGETS["partial"]
    assert sequences("complete") == [TARGETS["complete"]]
    for kind in KINDS:
        each = sequences(kind)
        assert len(set(each)) == len(each) == {"complete": 1, "partial": 35, "mixed": 34}[kind]
        for sequence in each:
            assert len(sequence) == 4
            assert list(sequence) == sorted(sequence, key=TASKS.index)
        assert (TARGETS[kind] in each) == (kind != "mixed")


def test_logs_of_mixed_data(env: gymnasium.Env[Any, Any]) -> None:
    first, second = collect("mixed", 2, seed=3, noise=0.1)
    assert first.sequence != second.sequence
    assert first.noise != second.noise
    for played in (first, second):
        assert 0.05 <= played.noise <= 0.15
        assert not played.done.issuperset(TARGETS["mixed"])
        assert len(played.log.actions) <= 280
        assert played.log.actions.dtype == np.float32
        assert np.abs(played.log.actions).max() == 1.0
    # A log depends on the seed and its number alone, and not on what was played before.
    again = play(env, second.sequence, np.random.default_rng([3, 1, 0]), 0.1)
    assert np.array_equal(again.log.actions, second.log.actions)
    observed: Any = again.log.observations
    assert np.array_equal(observed["observation"], second.log.observations["observation"])
    assert again.done == second.done


@pytest.mark.parametrize("kind", ["complete", "mixed"])
def test_a_log_that_does_not_belong_to_the_data_is_left_out(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What complete data must hold, mixed must not: give each the other's logs.
    others: dict[Kind, tuple[Task, ...]] = {
        "complete": ("microwave", "kettle", "bottom burner", "light switch"),
        "mixed": TARGETS["mixed"],
    }
    monkeypatch.setattr(kitchen, "sequences", lambda _: [others[kind]])
    monkeypatch.setattr(kitchen, "_ATTEMPTS", 1)
    with pytest.raises(InputError, match="1 attempts in a row make no log of this kind"):
        list(collect(kind, 1, seed=0, noise=0.1))


def test_the_layout_is_that_of_d4rl_in_minari(datasets: Path) -> None:
    data = minari.load_dataset("kitchen/complete-v0")
    (episode,) = data.iterate_episodes()
    steps = len(episode.actions)
    assert steps == data.total_steps < 280
    observed = episode.observations
    assert sorted(observed) == ["achieved_goal", "desired_goal", "observation"]
    assert observed["observation"].shape == (steps + 1, 59)
    sizes = {"microwave": 1, "kettle": 7, "light switch": 2, "slide cabinet": 1}
    for key in ("achieved_goal", "desired_goal"):
        assert {task: one.shape[1] for task, one in observed[key].items()} == sizes
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(observed))
    # The reward counts the tasks that are done at the step, however long they have been.
    done = [
        np.linalg.norm(observed["achieved_goal"][task] - observed["desired_goal"][task], axis=1)
        < 0.3
        for task in sizes
    ]
    assert episode.rewards.tolist() == np.sum(done, axis=0)[1:].tolist()
    assert episode.rewards[0] == 0 and episode.rewards[-1] == 4
    assert not episode.terminations.any()
    assert np.flatnonzero(episode.truncations).tolist() == [steps - 1]
    kwargs = data.recover_environment().spec.kwargs
    assert kwargs["tasks_to_complete"] == list(sizes)
    assert not kwargs["terminate_on_tasks_completed"]
    assert not kwargs["remove_task_when_completed"]


def test_what_a_dataset_says_of_itself(datasets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = xql.open_dataset("minari:kitchen/complete-v0")
    by = data.metadata["made_by"]
    assert by["command"] == f"xql {COMMAND} --seed 0 --noise 0.1 --out-id kitchen/complete-v0"
    assert by["outcome"] == (
        "scripted, not D4RL: 1 of 1 logs do all of their four tasks, 1 the four target tasks"
    )
    assert "scripted, not D4RL" in data.metadata["description"]
    assert by["target"] == list(TARGETS["complete"])
    main(["data", "check", "minari:kitchen/complete-v0"])  # an error would exit with 1
    printed = capsys.readouterr().out
    assert "error" not in printed and "warning" not in printed
    # A return of the recording is no return of an evaluation.
    main(["data", "info", "minari:kitchen/complete-v0"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "0 at a return of 0, 100 at 4; of evaluation; the recording has" in printed


def test_the_log_scores_a_hundred_in_the_evaluation(datasets: Path) -> None:
    data = xql.open_dataset("minari:kitchen/complete-v0")
    spec = data.environment
    assert spec is not None
    assert suite(data.name, spec) == "kitchen"
    env = make_environment(as_evaluated(spec))
    assert env.spec is not None and env.spec.max_episode_steps == 280
    ends = []
    real = env.step

    def spy(action: Any) -> Any:
        result = real(action)
        ends.append(result[2])
        return result

    env.step = spy  # type: ignore[method-assign]
    played = play(env, TARGETS["complete"], np.random.default_rng([0, 0, 0]), 0.1)
    env.close()
    assert np.array_equal(played.log.actions, data.actions[: len(played.log.actions)])
    assert played.log.rewards.sum() == 4.0
    # It terminates with the last task's reward.
    assert ends.index(True) == np.flatnonzero(played.log.rewards)[-1]


def test_same_seed_same_bytes(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert make_kitchen("complete", episodes=1) == "kitchen/complete-v0"
    assert hashes(tmp_path / "kitchen") == hashes(datasets / "kitchen")
    make_kitchen("complete", episodes=1, seed=1, dataset_id="kitchen/other-v0")
    data = "data/main_data.hdf5"
    assert (
        hashes(tmp_path / "kitchen/other-v0")[data]
        != (hashes(datasets / "kitchen/complete-v0")[data])
    )


@pytest.mark.nightly  # tests/envs/test_kitchen.py does the same with data of the same layout
def test_training_and_evaluation(datasets: Path, tmp_path: Path) -> None:
    run = xql.train_offline(
        "minari:kitchen/complete-v0",
        steps=5,
        out=tmp_path / "run",
        options={"hidden": [16], "batch_size": 16},
        evaluations=1,
        last_episodes=1,
        progress=False,
    )
    (row,) = run.evaluations
    assert row.length <= 280 and 0 <= row.episode_return <= 4
    assert row.score == 25 * row.episode_return


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("kitchen-mix", "nothing called 'kitchen-mix' can be made; did you mean 'kitchen-mixed'?"),
        ("kitchen-mixed --transitions 9", "kitchen-mixed: it takes no --transitions; leave it out"),
        ("kitchen-mixed --episodes 0", "kitchen-mixed: episodes is 0; give 1 or more"),
        ("kitchen-mixed --episodes 10000000", "kitchen-mixed: episodes is 10000000; give 1000000"),
        ("kitchen-mixed --seed -1", "kitchen-mixed: seed is -1; give 0 or more"),
        ("kitchen-mixed --noise nan", "kitchen-mixed: noise is nan; give 0 or more"),
        ("kitchen-mixed --policy x.npz", "kitchen-mixed: it takes no policy; leave --policy out"),
        ("kitchen-mixed --out x.npz", "kitchen-mixed: it takes no --out; leave it out"),
        ("kitchen-mixed --env hopper", "kitchen-mixed: it takes no --env; leave it out"),
        ("kitchen-mixed --out-id mixed", "--out-id: 'mixed' is no dataset id; write it as"),
        ("kitchen-complete", "Minari's folder: a dataset 'kitchen/complete-v0' exists; choose"),
        (
            "kitchen-complete --episodes 1 --noise 5 --out-id kitchen/wild-v0",
            "kitchen-complete: with noise 5, 1 attempts in a row make no log of this kind; give "
            "less noise; nothing was written",
        ),
    ],
)
def test_bad_input_is_one_line(
    words: str,
    said: str,
    datasets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(kitchen, "_ATTEMPTS", 1)
    before = hashes(datasets)
    with pytest.raises(SystemExit) as end:
        main(["data", "make", *words.split()])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"xql: {said}")
    assert hashes(datasets) == before


def test_an_unknown_kind() -> None:
    wrong: Any = "complet"
    unchecked: Any = recording_environment.__wrapped__  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"kitchen: no kind 'complet'; did you mean 'complete'\?"):
        unchecked(wrong)

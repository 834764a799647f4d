import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")
minari = pytest.importorskip("minari")

from xql.cli.make import make  # noqa: E402
from xql.collect import adroit, rollouts  # noqa: E402
from xql.collect.adroit import Task, collect, make_adroit, task_environment  # noqa: E402
from xql.collect.policies import load_hand_policy  # noqa: E402
from xql.data.sources import open_dataset  # noqa: E402
from xql.envs.make import make_environment  # noqa: E402
from xql.errors import InputError  # noqa: E402

SHARED = Path(os.environ.get("XQL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
EXPERTS = SHARED / "adroit_policies"
SIZES = {"pen": (45, 24), "door": (39, 28), "relocate": (39, 30)}


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "minari").mkdir()
    return tmp_path / "minari"


@pytest.fixture
def clumsy(tmp_path: Path) -> Path:
    """The file of a random small policy for the door."""
    random = np.random.default_rng(0)
    inputs, outputs = SIZES["door"]
    arrays: dict[str, Any] = {
        "model.fc_layers.0.weight": random.normal(size=(8, inputs)),
        "model.fc_layers.0.bias": random.normal(size=8),
        "model.fc_layers.1.weight": random.normal(size=(outputs, 8)),
        "model.fc_layers.1.bias": random.normal(size=outputs),
        "model.in_shift": np.zeros(inputs),
        "model.in_scale": np.ones(inputs),
        "model.out_shift": np.zeros(outputs),
        "model.out_scale": np.full(outputs, 0.3),
        "log_std": np.full(outputs, -2.0),
    }
    np.savez(tmp_path / "clumsy.npz", **arrays)
    return tmp_path / "clumsy.npz"


def hashes(folder: Path) -> Any:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_transitions_are_exactly_what_the_environment_gives(
    clumsy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets = []
    real = rollouts.play

    def spy(envs: Any, given: Any, *rest: Any) -> Any:
        resets.extend(given)
        return real(envs, given, *rest)

    monkeypatch.setattr(adroit, "play", spy)
    logs: list[Any] = [
        one.log for one in collect("door", load_hand_policy(clumsy, 39, 28), 250, 3, 1.0)
    ]
    assert [len(log.actions) for log in logs] == [200, 50]
    env = task_environment("door")
    for reset, log in zip(resets, logs, strict=True):
        observation, _ = env.reset(**reset)
        assert np.array_equal(observation, log.observations[0])
        for t, action in enumerate(log.actions):
            observation, reward, terminated, _, _ = env.step(action)
            assert np.array_equal(observation, log.observations[t + 1])
            assert (reward, terminated) == (log.rewards[t], log.terminations[t])
    env.close()
    assert not np.array_equal(logs[0].observations[0], logs[1].observations[0])


def test_actions_are_draws_from_the_policy(clumsy: Path) -> None:
    policy = load_hand_policy(clumsy, 39, 28)
    still = np.zeros((200, 28), np.float32)
    for noise in (0.0, 1.0):
        (one,) = collect("door", policy, 200, 0, noise)
        log: Any = one.log
        assert np.abs(log.actions).max() <= 1.0
        mean = policy.act(log.observations[:-1], still)
        # The bounds are five deviations or more away from these.
        deviation = (log.actions - mean)[np.abs(mean) < 0.3]
        assert len(deviation) > 500
        assert deviation.std() == pytest.approx(noise * np.exp(-2.0), rel=0.1, abs=1e-5)


def test_same_seed_same_bytes_another_seed_not(
    datasets: Path, clumsy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets / name))
        make_adroit("door", clumsy, transitions=230, seed=seed)
        seen.append(hashes(datasets / name))
    assert len(seen[0]) >= 2
    assert seen[0] == seen[1]
    data = next(key for key in seen[0] if key.endswith(".hdf5"))
    assert seen[0][data] != seen[2][data]


def test_what_a_dataset_says_of_itself(datasets: Path, clumsy: Path) -> None:
    made = make_adroit("door", clumsy, transitions=210, seed=1, noise=0.5)
    assert made == "adroit/door-expert-v0"
    dataset = open_dataset(f"minari:{made}")
    assert (dataset.transitions, dataset.episodes) == (210, 2)
    assert dataset.truncated.all()
    assert not dataset.terminated.any()
    assert "ref_max_score" not in dataset.metadata
    by = dataset.metadata["made_by"]
    assert by["command"] == (
        "xql data make adroit-door-expert --policy clumsy.npz --transitions 210 --seed 1"
        " --noise 0.5 --out-id adroit/door-expert-v0"
    )
    assert by["policy"] == {
        "file": "clumsy.npz",
        "sha256": hashlib.sha256(clumsy.read_bytes()).hexdigest(),
    }
    assert by["outcome"].startswith("0 of 2 logs succeed, mean return ")
    assert dataset.environment is not None
    env: Any = make_environment(dataset.environment)
    assert env.spec.id == "AdroitHandDoor-v1"
    env.close()


@pytest.mark.parametrize("task", ["door", "relocate"])
def test_the_experts_of_d4rl_succeed(task: Task) -> None:
    if not (EXPERTS / f"{task}.npz").exists():
        pytest.skip(f"adroit_policies/{task}.npz is not in XQL_SHARED_DATA")
    expert = load_hand_policy(EXPERTS / f"{task}.npz", *SIZES[task])
    played = list(collect(task, expert, 1000, 0, 0.0))
    # Their most likely actions open the door and move the ball in every episode; returns known
    # from ten episodes of the same environments.
    assert [one.success for one in played] == [True] * 5
    known = {"door": 3011, "relocate": 4205}[task]
    returns = [one.log.rewards.sum() for one in played]
    assert np.mean(returns) == pytest.approx(known, rel=0.15)


def test_the_pen_is_turned_in_most_episodes() -> None:
    if not (EXPERTS / "pen.npz").exists():
        pytest.skip("adroit_policies/pen.npz is not in XQL_SHARED_DATA")
    played = list(collect("pen", load_hand_policy(EXPERTS / "pen.npz", 45, 24), 2000, 0, 0.0))
    assert sum(one.success for one in played) >= 5


def test_bad_input_is_one_line(datasets: Path, clumsy: Path) -> None:
    with pytest.raises(InputError) as error:
        make_adroit("pen", clumsy)
    assert str(error.value) == (
        f"{clumsy}: model.fc_layers.0.weight is 8x39 of float64, where 8x45 of floats fits; "
        "is it a policy for this task? docs/data.md has the layout"
    )
    with pytest.raises(InputError, match=r"adroit-door-expert: transitions is 0; give 1 or more"):
        make_adroit("door", clumsy, transitions=0)
    with pytest.raises(InputError) as error:
        make("adroit-pen-expert")
    assert str(error.value) == (
        "adroit-pen-expert: it needs a policy for this task; give its .npz file with --policy"
    )
    assert not any(datasets.iterdir())


def test_command_line(datasets: Path, clumsy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("adroit-door-expert", policy=clumsy, transitions=200, noise=0.0)
    printed = capsys.readouterr().out
    assert "made adroit/door-expert-v0: 200 transitions in 1 episodes, " in printed
    assert "\n0 of 1 logs succeed, mean return " in printed
    with pytest.raises(InputError, match="a dataset 'adroit/door-expert-v0' exists; choose"):
        make("adroit-door-expert", policy=clumsy, transitions=200)
    assert open_dataset("minari:adroit/door-expert-v0").transitions == 200

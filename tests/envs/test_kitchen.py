"""The kitchen: recorded as Minari's data was, read, trained on, evaluated as in D4RL."""

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")
pytest.importorskip("minari")

import xql
from xql.envs.kitchen import as_evaluated
from xql.envs.make import make_environment, register_robotics
from xql.evaluation.scores import normalised_score, reference_score

TASKS = ["microwave", "kettle", "light switch", "slide cabinet"]
STEPS = 12


def recording_kitchen() -> gymnasium.Env[Any, Any]:
    """As the data sets' own specifications say."""
    register_robotics()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(
            "FrankaKitchen-v1",
            tasks_to_complete=TASKS,
            terminate_on_tasks_completed=False,
            remove_task_when_completed=False,
            max_episode_steps=450,
            disable_env_checker=True,
        )


def open_microwave(env: gymnasium.Env[Any, Any]) -> None:
    """Put the door where the task wants it."""
    env.unwrapped.data.qpos[22] = -0.75  # type: ignore[attr-defined]


def rewards_after_opening(env: gymnasium.Env[Any, Any], steps: int = 3) -> list[float]:
    env.reset(seed=0)
    open_microwave(env)
    still = np.zeros(9, np.float32)
    return [float(env.step(still)[1]) for _ in range(steps)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Three short episodes under Minari's name for the complete data, and the kitchen's spec."""
    root = tmp_path_factory.mktemp("minari")
    random = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        import minari

        kitchen = recording_kitchen()
        spec = kitchen.spec
        env = minari.DataCollector(kitchen)
        for episode in range(3):
            env.reset(seed=episode)
            if episode == 1:
                open_microwave(env)
            for step in range(STEPS):
                action = random.uniform(-1, 1, 9)
                *_, truncated, _ = env.step(action)
                assert not truncated, step
        env.create_dataset("D4RL/kitchen/complete-v2")
        env.close()
        # Minari leaves its temporary folder to the collector, which warns of it.
        del env
        gc.collect()
    assert spec is not None
    return root, spec.to_json()


def test_the_recorder_repeats_a_reward_and_the_evaluation_does_not() -> None:
    recorder = recording_kitchen()
    assert recorder.spec is not None
    evaluated = as_evaluated(recorder.spec.to_json())
    assert rewards_after_opening(recorder) == [1.0, 1.0, 1.0]
    recorder.close()
    kitchen = make_environment(evaluated)
    assert rewards_after_opening(kitchen) == [1.0, 0.0, 0.0]
    assert kitchen.spec is not None and kitchen.spec.max_episode_steps == 280
    assert kitchen.spec.kwargs["tasks_to_complete"] == TASKS
    kitchen.close()


def test_the_evaluation_ends_when_every_task_is_done() -> None:
    recorder = recording_kitchen()
    assert recorder.spec is not None
    described = json.loads(recorder.spec.to_json())
    recorder.close()
    described["kwargs"]["tasks_to_complete"] = ["microwave"]
    kitchen = make_environment(as_evaluated(json.dumps(described)))
    kitchen.reset(seed=0)
    open_microwave(kitchen)
    _, reward, terminated, truncated, _ = kitchen.step(np.zeros(9, np.float32))
    assert (reward, terminated, truncated) == (1.0, True, False)
    kitchen.close()


@pytest.mark.parametrize("spec", ["FrankaKitchen-v1", "HalfCheetah-v5", '{"id": "Hopper-v5"}', "["])
def test_every_other_specification_stays_as_it_is(spec: str) -> None:
    assert as_evaluated(spec) == spec


@pytest.mark.parametrize("kind", ["complete", "partial", "mixed"])
def test_four_tasks_are_a_hundred_percent(kind: str) -> None:
    reference = reference_score(f"D4RL/kitchen/{kind}-v2")
    assert reference is not None
    assert normalised_score(np.array([0.0, 1.0, 4.0]), reference).tolist() == [0.0, 25.0, 100.0]


def test_from_minari_s_data_to_a_score(
    recorded: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, spec = recorded
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    data = xql.open_dataset("minari:D4RL/kitchen/complete-v2")
    assert (data.episodes, data.transitions) == (3, 3 * STEPS)
    # 59 of the robot and the kitchen, and the four tasks' state and goal: 1, 7, 2 and 1 numbers.
    assert data.observation_size == 59 + 2 * (1 + 7 + 2 + 1)
    assert data.returns[1] >= 3  # the door stays open, and the recorder goes on rewarding it
    run = xql.train_offline(
        data,
        steps=5,
        out=tmp_path / "run",
        options={"hidden": [16], "batch_size": 16},
        evaluations=1,
        last_episodes=1,
        progress=False,
    )
    assert run.config.environment == as_evaluated(spec)
    assert run.config.sources["beta"].startswith("preset default")
    (row,) = run.evaluations
    assert row.length <= 280 and 0 <= row.episode_return <= 4
    assert row.score == 25 * row.episode_return

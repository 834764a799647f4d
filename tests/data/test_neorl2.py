"""NeoRL-2's files: names, endings, the validation file, scores; and training on them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from xql.cli import main
from xql.data.check import check_dataset
from xql.data.files import save_dataset
from xql.data.sources import open_dataset
from xql.envs.dmsd import DMSD, DMSD_ID
from xql.errors import InputError
from xql.evaluation.scores import normalised_score, reference_score

SHARED = Path(os.environ.get("XQL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SOURCE = "polixir/NeoRL2:neorl2/envs/info.py"


def columns(episodes: int = 3, steps: int = 5) -> dict[str, Any]:
    """Random actions in DMSD, in NeoRL-2's layout; every episode reaches its time limit."""
    env, random, rows = DMSD(), np.random.default_rng(0), []
    for seed in range(episodes):
        before, _ = env.reset(seed=seed)
        for step in range(steps):
            action = random.uniform(-1, 1, 2)
            after, reward, *_ = env.step(action)
            rows.append((before, action, after, reward, 0.0, step == steps - 1))
            before = after
    names = ("obs", "action", "next_obs", "reward", "done", "truncated")
    return {
        name: np.array(column, np.float32)
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def write(path: Path, **changes: Any) -> Path:
    kept = {name: value for name, value in (columns() | changes).items() if value is not None}
    np.savez(path, **kept)
    return path


def test_rows_become_episodes(tmp_path: Path) -> None:
    logged = columns()
    data = open_dataset(f"neorl2:{write(tmp_path / 'DMSD-train.npz')}")
    assert data.lengths.tolist() == [5, 5, 5]
    assert data.truncated.all() and not data.terminated.any()
    assert (data.masks == 1.0).all()
    for index, episode in enumerate(data):
        rows = slice(5 * index, 5 * index + 5)
        assert np.array_equal(episode.observations[:-1], logged["obs"][rows])
        assert np.array_equal(episode.observations[1:], logged["next_obs"][rows])
        assert np.array_equal(episode.actions, logged["action"][rows])
        assert np.array_equal(episode.rewards, logged["reward"][rows])
    assert data.action_low is not None and data.action_low.tolist() == [-1.0, -1.0]
    assert data.continuity == "stated"


def test_done_is_a_termination_and_wins_over_a_time_limit(tmp_path: Path) -> None:
    done = np.zeros(15, np.float32)
    done[[4, 12]] = 1.0  # where a time limit is, too, and where none is
    data = open_dataset(f"neorl2:{write(tmp_path / 'mine.npz', done=done)}")
    assert data.lengths.tolist() == [5, 5, 3, 2]
    assert data.terminated.tolist() == [True, False, True, False]
    assert data.truncated.tolist() == [False, True, False, True]
    assert np.flatnonzero(data.masks == 0.0).tolist() == [4, 14]


@pytest.mark.parametrize(
    ("stem", "name", "environment"),
    [
        ("DMSD-train", "neorl2/DMSD", DMSD_ID),
        ("DMSD-high-100000-train", "neorl2/DMSD", DMSD_ID),
        ("DMSD-high-20000-val", "neorl2/DMSD-val", DMSD_ID),
        ("SafetyHalfCheetah-val", "neorl2/SafetyHalfCheetah-val", "xql/SafetyHalfCheetah-v0"),
        ("Simglucose-high-100000-train", "neorl2/Simglucose", None),
        ("Simglucose", "Simglucose", None),
        ("pump-high-10-train", "pump-high-10-train", None),
    ],
)
def test_names_environments_and_scores(
    tmp_path: Path, stem: str, name: str, environment: str | None
) -> None:
    data = open_dataset(f"neorl2:{write(tmp_path / f'{stem}.npz')}")
    assert (data.name, data.environment) == (name, environment)
    reference = reference_score(data.name, data.metadata)
    assert (reference is not None) == name.startswith("neorl2/")
    assert reference is None or reference.source == SOURCE
    # A converted file is the same data.
    again = open_dataset(str(save_dataset(data, tmp_path / "copy.hdf5")))
    assert (again.name, again.environment) == (name, environment)
    assert reference_score(again.name, again.metadata) == reference


def test_the_validation_file_is_found_beside(tmp_path: Path) -> None:
    train = write(tmp_path / "DMSD-high-100-train.npz")
    write(tmp_path / "DMSD-high-100-val.hdf5")  # another format
    write(tmp_path / "Pipeline-high-20-val.npz")
    assert "validation_source" not in open_dataset(f"neorl2:{train}").metadata
    validation = write(tmp_path / "DMSD-high-20-val.npz")
    assert open_dataset(f"neorl2:{train}").metadata["validation_source"] == f"neorl2:{validation}"
    assert "validation_source" not in open_dataset(f"neorl2:{validation}").metadata
    write(tmp_path / "DMSD-high-21-val.npz")  # which of the two?
    assert "validation_source" not in open_dataset(f"neorl2:{train}").metadata


@pytest.mark.parametrize("missing", ["obs", "action", "next_obs", "reward", "done", "truncated"])
def test_a_missing_array_is_named(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path / "DMSD-train.npz", **{missing: None})
    with pytest.raises(InputError, match=rf"DMSD-train\.npz: there is no '{missing}' \(the file"):
        open_dataset(f"neorl2:{path}")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"obs": np.zeros((14, 6))}, "rows and"),
        ({"next_obs": np.zeros((15, 5))}, "next_observations has 5 numbers a row and observations"),
        ({"action": np.zeros((15, 2), int)}, "actions are whole numbers"),
        ({"action": np.full((15, 2), np.nan)}, "NaN in actions, row 0, column 0"),
        ({"reward": np.zeros((15, 3))}, "rewards has shape 15x3"),
        ({"done": np.full(15, np.nan)}, "NaN in terminated, row 0"),
        ({"truncated": np.zeros(3)}, "truncated has 3 rows"),
        ({"obs": np.array("text")}, "observations holds <U4, not numbers"),
    ],
)
def test_a_bad_array_is_one_line(tmp_path: Path, changes: Any, complaint: str) -> None:
    path = write(tmp_path / "DMSD-train.npz", **changes)
    with pytest.raises(InputError) as caught:
        open_dataset(f"neorl2:{path}")
    text = str(caught.value)
    assert complaint in text and str(path) in text and "\n" not in text


def test_other_layouts_are_recognised(tmp_path: Path) -> None:
    path = write(tmp_path / "DMSD-train.npz")
    with pytest.raises(InputError, match=rf"open it as neorl2:{path}"):
        open_dataset(str(path))
    ours = save_dataset(open_dataset(f"neorl2:{path}"), tmp_path / "ours.npz")
    with pytest.raises(InputError, match=r"there is no 'obs' \(the file has actions, "):
        open_dataset(f"neorl2:{ours}")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="truncated, or not what its name says"):
        open_dataset(f"neorl2:{path}")
    with pytest.raises(InputError, match=r"nothing follows 'neorl2:'; give a file, such as neorl2"):
        open_dataset("neorl2:")


def test_info_names_scores_and_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reward = np.zeros(15, np.float32)
    reward[::5] = 440.055  # half way between 30.6 and 849.51
    write(Path("DMSD-train.npz"), reward=reward)
    write(Path("DMSD-val.npz"))
    main(["data", "info", "neorl2:DMSD-train.npz"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "score 0 at a return of 30.6, 100 at 849.51; the mean return scores 50.0" in printed
    assert "environment xql/DMSD-v0 validation neorl2:DMSD-val.npz" in printed


SMALL: dict[str, Any] = {
    "agent": "bc",
    "steps": 4,
    "options": {"hidden": [8], "batch_size": 8},
    "evaluations": 1,
    "last_episodes": 2,
    "progress": False,
}


def test_training_is_evaluated_with_a_score(tmp_path: Path) -> None:
    path = write(tmp_path / "DMSD-train.npz")
    run = xql.train_offline(f"neorl2:{path}", out=tmp_path / "run", **SMALL)
    assert run.config.environment == DMSD_ID
    reference = reference_score("neorl2/DMSD")
    assert reference is not None
    rows = run.evaluations
    assert len(rows) == 2
    for row in rows:
        assert row.length == 100
        assert row.score == pytest.approx(float(normalised_score(row.episode_return, reference)))


def test_without_a_simulator_nothing_is_evaluated(tmp_path: Path) -> None:
    path = write(tmp_path / "Simglucose-train.npz")
    run = xql.train_offline(f"neorl2:{path}", out=tmp_path / "run", **SMALL)
    assert run.config.environment is None and run.config.preset == "default"
    assert not run.evaluations


# From the published files: what each holds, and its mean return as NeoRL-2's own table scores it
# (benchmark/task_score.csv, column `data`).
PUBLISHED = [
    ("DMSD-high-100000-train", 1000, 100_000, 0, 494.45, 56.642698),
    ("DMSD-high-20000-val", 200, 20_000, 0, 481.22, None),
    ("SafetyHalfCheetah-high-100000-train", 18, 18_000, 0, 1769.31, 73.559432),
    ("SafetyHalfCheetah-high-20000-val", 2, 2_000, 0, 1656.54, None),
    ("Simglucose-high-100000-train", 280, 100_257, 111, 353.45, 73.874663),
    ("Simglucose-high-20000-val", 62, 20_018, 30, 316.16, None),
]


@pytest.mark.parametrize(
    ("stem", "episodes", "transitions", "terminated", "mean", "score"), PUBLISHED
)
def test_the_published_files(
    stem: str, episodes: int, transitions: int, terminated: int, mean: float, score: float | None
) -> None:
    path = SHARED / "neorl2" / f"{stem}.npz"
    if not path.exists():
        pytest.skip(f"neorl2/{stem}.npz is not in XQL_SHARED_DATA")
    data = open_dataset(f"neorl2:{path}")
    assert (data.episodes, data.transitions) == (episodes, transitions)
    assert data.terminated.sum() == terminated
    assert (data.truncated ^ data.terminated).all(), "every episode ends by a flag"
    assert data.returns.mean() == pytest.approx(mean, abs=0.01)
    reference = reference_score(data.name, data.metadata)
    assert reference is not None
    if score is not None:
        assert float(normalised_score(data.returns.mean(), reference)) == pytest.approx(
            score, abs=1e-4
        )
        expected = stem.replace("100000-train", "20000-val")
        assert data.metadata["validation_source"] == f"neorl2:{path.with_stem(expected)}"
    assert {finding.severity for finding in check_dataset(data)} == {"note"}

"""`reopen`: a run's data again, and nothing but that data."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worlds import line_data
from xql.data.dataset import Dataset
from xql.data.files import save_dataset
from xql.errors import InputError
from xql.runs import origin
from xql.runs.config import OnlineLoop, RunConfig
from xql.training.offline import plan_offline
from xql.training.reopen import _found, plan_again, reopen

SMALL = {"hidden": [4], "batch_size": 4}


def planned(data: Any, **options: Any) -> RunConfig:
    return plan_offline(data, agent="bc", steps=4, options=SMALL | options).config


def changed(data: Dataset, **arrays: Any) -> Dataset:
    return dataclasses.replace(data, **arrays)


def one_more(array: np.ndarray) -> np.ndarray:
    """One number of it, changed by one bit."""
    array = array.copy()
    array.flat[7] = np.nextafter(array.flat[7], np.float32(9))
    return array


def test_the_fingerprint_is_of_what_a_run_learns_from() -> None:
    data = line_data()
    same = changed(data, name="other", source="else", truncated=~data.truncated)
    assert same.fingerprint() == data.fingerprint() and len(data.fingerprint()) == 16
    terminated = data.terminated.copy()
    terminated[0] = not terminated[0]
    lengths = data.lengths.copy()
    lengths[:2] += [1, -1]
    others = [
        *(
            changed(data, **{name: one_more(getattr(data, name))})
            for name in ("observations", "actions", "rewards")
        ),
        changed(data, terminated=terminated),
        changed(data, lengths=lengths),
    ]
    prints = {one.fingerprint() for one in (data, *others)}
    assert len(prints) == 1 + len(others)


def test_the_same_data_comes_back_and_the_plan_is_the_run_s_own(tmp_path: Path) -> None:
    path = save_dataset(line_data(), tmp_path / "line.npz")
    config = planned(path, subset="top:0.5", observations="standardised")
    # As a preset might, once it has changed: nothing is resolved again.
    config = dataclasses.replace(config, preset="no-more")
    plan = plan_again(config, tmp_path)
    assert plan.config is config and plan.warnings == []
    assert plan.dataset.fingerprint() == config.data.fingerprint != line_data().fingerprint()
    assert [note.split(":")[0] for note in plan.notes[:2]] == ["line", "settings"]
    assert any("subset top:0.5: 10 of 20 episodes kept" in note for note in plan.notes)


def test_data_that_has_changed_is_refused(tmp_path: Path) -> None:
    data = line_data()
    path = save_dataset(data, tmp_path / "line.npz")
    config = planned(path)
    spoiled = {
        "but other numbers in them": changed(data, observations=one_more(data.observations)),
        "had 200 transitions and has 30 now": line_data(episodes=3),
        "had a mean return of": changed(data, rewards=data.rewards * 2),
        "had action size 1 and has 2 now": changed(
            data, actions=np.repeat(data.actions, 2, 1), action_low=None, action_high=None
        ),
    }
    for said, other in spoiled.items():
        with pytest.raises(InputError, match=said) as error:
            reopen(config, tmp_path / "run", other)
        assert str(error.value).endswith("; give what the run learned from")
        path.unlink()
        save_dataset(other, path)
        with pytest.raises(InputError, match=said) as error:
            reopen(config, tmp_path / "run")
        assert str(tmp_path / "run") in str(error.value) and str(path) in str(error.value)
        assert str(error.value).endswith("or give it with `data`")
    # An older run has no fingerprint: only counts and the mean return can be compared.
    old = dataclasses.replace(config, data=dataclasses.replace(config.data, fingerprint=None))
    assert len(reopen(old, tmp_path, spoiled["but other numbers in them"])) == 20
    with pytest.raises(InputError, match="had 200 transitions"):
        reopen(old, tmp_path, line_data(episodes=3))


def test_what_is_gone_or_was_given_as_arrays_can_be_given_again(tmp_path: Path) -> None:
    path = save_dataset(line_data(), tmp_path / "line.npz")
    from_file, from_arrays = planned(path), planned(line_data())
    moved = path.rename(tmp_path / "moved.npz")
    with pytest.raises(InputError, match=r"cannot be opened any more .* give it with `data`"):
        reopen(from_file, tmp_path)
    with pytest.raises(InputError, match="given as arrays, which no run keeps; give it again with"):
        reopen(from_arrays, tmp_path)
    for config in (from_file, from_arrays):
        for data in (moved, str(moved), line_data()):
            assert reopen(config, tmp_path, data).fingerprint() == config.data.fingerprint
    online = dataclasses.replace(from_file, agent="td3", loop=OnlineLoop())
    with pytest.raises(InputError, match="an online run has no data"):
        reopen(online, tmp_path, moved)


def test_a_relative_path_starts_where_the_run_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run = first / "run"
    second.mkdir()
    run.mkdir(parents=True)
    monkeypatch.chdir(first)
    save_dataset(line_data(), Path("line.npz"))
    config = planned("line.npz")
    assert config.data.source == "line.npz"
    origin.append(run)
    monkeypatch.chdir(second)
    save_dataset(line_data(episodes=3), Path("line.npz"))
    assert len(reopen(config, run)) == 20
    for source, found in (
        ("d4rl:line.npz?keys=a", f"d4rl:{first}/line.npz?keys=a"),
        ("minari:line.npz", "minari:line.npz"),
        ("none.npz", "none.npz"),
        (f"{second}/line.npz", f"{second}/line.npz"),
    ):
        assert _found(source, run) == found
    with monkeypatch.context() as context:
        for home in ("\0", f"/{'x' * 5000}", str(tmp_path / "none")):
            context.setattr("xql.training.reopen.started_in", lambda _, home=home: Path(home))
            with pytest.raises(InputError, match="had 200 transitions and has 30 now"):
                reopen(config, run)
    # Of a run that was moved with its data, the first folder is no more.
    Path("line.npz").unlink()
    (first / "line.npz").rename(second / "line.npz")
    assert len(reopen(config, run)) == 20


def test_a_file_says_which_keys_were_kept(tmp_path: Path) -> None:
    data, path = line_data(), tmp_path / "keys.npz"
    rows = data.starts
    np.savez(
        path,
        **{
            "observations/a": data.observations[rows],
            "observations/b": data.observations[rows],
            "actions": data.actions[rows],
            "rewards": data.rewards[rows],
            "terminated": np.zeros(len(rows), bool),
            "truncated": np.arange(len(rows)) % 10 == 9,
        },
    )
    config = planned(f"{path}?keys=b")
    assert config.data.observation_size == data.observation_size
    assert reopen(config, tmp_path).observation_size == data.observation_size

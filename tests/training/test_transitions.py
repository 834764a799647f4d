"""`run_errors`: which transitions a run's Bellman errors are measured on."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xql
from worlds import line_data, register_line
from xql.agents import Batch, OfflineName, member
from xql.cli import gumbel
from xql.data.files import save_dataset
from xql.errors import InputError
from xql.evaluation.bellman import bellman_errors
from xql.runs.config import OnlineLoop
from xql.runs.policy import load_population
from xql.runs.run import Run
from xql.training.transitions import run_errors

SMALL = {"hidden": [8], "batch_size": 8}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def online(home: Path) -> Run:
    return xql.train_online(
        register_line(),
        agent="td3",
        steps=40,
        seeds=2,
        out=home / "online",
        options=SMALL,
        loop=OnlineLoop(warmup=20),
        evaluations=1,
        episodes=0,
        last_episodes=1,
        keep_replay=True,
        progress=False,
    )


def offline(home: Path, data: Any, agent: OfflineName = "xql", **options: Any) -> Run:
    return xql.train_offline(
        data,
        agent=agent,
        steps=5,
        out=home / f"{agent}-{len(list(home.iterdir()))}",
        options=SMALL | options,
        evaluations=1,
        progress=False,
    )


def test_the_replay_buffer_is_used_where_it_was_kept(online: Run) -> None:
    found = run_errors(online.path, index=1, transitions=1_000)
    assert found.origin == "40 of 40 transitions in its replay.npz"
    assert found.formula == "r + γ · mask · Q₁(s', a') − Q₁(s, a)"
    # TD3 draws nothing, and all 40 are taken: only their order is left open.
    kept = np.load(online.path / "replay.npz")
    batch = Batch(*(jnp.asarray(kept[name][1]) for name in Batch._fields[:5]))
    state = member(online.population, 1)
    backup = online.config.make_agent().backup
    assert backup is not None
    expected = bellman_errors(state, batch, jax.random.key(0), backup=backup)
    np.testing.assert_allclose(np.sort(found.errors), np.sort(expected), 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kept: {"rewards": kept["rewards"][:1]}, "'rewards' is float32[1, 40], not numbers"),
        (
            lambda kept: {name: one[:1] for name, one in kept.items()},
            "[1, 40, 2], not numbers [2, ",
        ),
        (
            lambda kept: {"actions": kept["actions"][..., 0]},
            "'actions' is float32[2, 40], not numb",
        ),
        (lambda kept: {"masks": kept["masks"].astype(str)}, "'masks' is <U32[2, 40], not numbers"),
        (lambda kept: {"rewards": np.float32(1)}, "'rewards' is float32[], not numbers [2, 40]"),
    ],
)
def test_a_replay_buffer_of_another_run_is_one_line(
    online: Run, tmp_path: Path, change: Any, said: str
) -> None:
    for path in online.path.iterdir():
        if path.name != "replay.npz":
            (tmp_path / path.name).symlink_to(path)
    kept = dict(np.load(online.path / "replay.npz"))
    np.savez(tmp_path / "replay.npz", **(kept | change(kept)))
    with pytest.raises(InputError) as error:
        run_errors(tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_without_it_an_online_run_plays(
    online: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in online.path.iterdir():
        if path.name != "replay.npz":
            (bare / path.name).symlink_to(path)
    seen: list[Batch] = []

    def listen(state: Any, batch: Batch, key: Any, backup: Any) -> Any:
        seen.append(batch)
        return bellman_errors(state, batch, key, backup=backup)

    monkeypatch.setattr("xql.training.transitions.bellman_errors", listen)
    found = run_errors(bare, transitions=25, seed=3, trust=["worlds"])
    assert found.errors.shape == (25,)
    assert "25 steps that its exploring policy played" in found.origin
    # The world's own rule, and the policy's own action but for its exploring noise.
    x, actions, after = (np.asarray(seen[0][i])[:, 0] for i in (0, 1, 4))
    np.testing.assert_allclose(after, x + 0.2 * actions, atol=1e-6)
    np.testing.assert_allclose(seen[0].rewards, -np.abs(after), atol=1e-6)
    away = np.asarray(actions - online.policies[0](np.asarray(seen[0].observations))[:, 0])
    assert 0.01 < np.abs(away).mean() < 0.3
    again = run_errors(bare, transitions=25, seed=3, trust=["worlds"])
    np.testing.assert_array_equal(again.errors, found.errors)


def test_an_offline_run_opens_its_data_again_scaled_as_it_learned(home: Path) -> None:
    path = save_dataset(line_data(), home / "line.npz")
    run = offline(home, path, rewards="affine:10,-5", observations="standardised")
    found = run_errors(run.path, transitions=1_000)
    assert found.origin == "200 of 200 transitions of line"
    assert found.formula == "r + γ · mask · V(s') − Q₁(s, a)"
    data, scaling = line_data(), run.config.scaling
    rows = data.starts
    scaled = (data.observations - scaling.observation_shift) * scaling.observation_scale
    state = member(load_population(run.folder).population, 0)
    v = state.value.network(jnp.asarray(scaled[rows + 1]))
    q = state.critic.network(jnp.asarray(scaled[rows]), jnp.asarray(data.actions[rows]))[0]
    expected = 10 * data.rewards[rows] - 5 + 0.99 * np.asarray(v) - np.asarray(q)
    np.testing.assert_allclose(np.sort(found.errors), np.sort(expected), 1e-4, 1e-4)
    assert len(run_errors(run.path, transitions=30).errors) == 30

    scaled = offline(home, path, rewards="scale:8")
    auto = home / "auto"
    shutil.copytree(scaled.path, auto)
    text = (auto / "config.yaml").read_text(encoding="utf-8")
    (auto / "config.yaml").write_text(text.replace("scale:8", "auto"), encoding="utf-8")
    undone = run_errors(auto, transitions=1_000).errors
    np.testing.assert_array_equal(8 * undone, run_errors(scaled.path, transitions=1_000).errors)

    save_dataset(line_data(episodes=3), home / "fewer.npz")
    path.unlink()
    with pytest.raises(InputError, match="its data cannot be opened any more"):
        run_errors(run.path)
    again = run_errors(run.path, transitions=1_000, data=line_data())
    np.testing.assert_array_equal(again.errors, found.errors)
    (home / "fewer.npz").rename(path)
    with pytest.raises(InputError, match="had 200 transitions and has 30 now"):
        run_errors(run.path)


def test_what_has_no_errors_says_so(home: Path, online: Run) -> None:
    with pytest.raises(InputError, match="agent bc has no critic"):
        run_errors(offline(home, line_data(), "bc").path)
    with pytest.raises(InputError, match="given as arrays"):
        run_errors(offline(home, line_data()).path)
    with pytest.raises(InputError, match="an online run has no data"):
        run_errors(online.path, data=line_data())
    with pytest.raises(InputError, match=r"there is no member 2; choose 0 to 1"):
        run_errors(online.path, index=2)
    with pytest.raises(InputError, match="`transitions=1` is too small"):
        run_errors(online.path, transitions=1)
    with pytest.raises(InputError, match="this is no run, but a folder of runs"):
        run_errors(home)


def test_the_command_takes_a_run(online: Run, capsys: pytest.CaptureFixture[str]) -> None:
    gumbel.errors(online.path, member=1)
    printed = capsys.readouterr().out
    assert "Q₁(s', a') − Q₁(s, a), member 1, 40 of 40 transitions in its replay.npz" in printed
    assert "40 errors, best fit first" in printed
    for name in ("gumbel, right-skewed", "gumbel, left-skewed", "normal", "logistic"):
        assert name in printed
    gumbel.errors(online.path, member=1, step=40)
    assert capsys.readouterr().out == printed
    with pytest.raises(InputError, match="there is no checkpoint 20; there are: 40"):
        gumbel.errors(online.path, step=20)

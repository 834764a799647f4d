"""ICU-Sepsis: the tables, the environment, exact values and the log, on a small MDP of its layout.

The package `icu-sepsis` itself is looked at where it is installed; nothing of it is run.
"""

import importlib.util
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import xql
from xql.cli import main
from xql.collect.icu_sepsis import collect
from xql.data.check import require_sound
from xql.envs import icu_sepsis
from xql.envs.icu_sepsis import (
    ICU_SEPSIS_ID,
    LIMIT,
    Tables,
    draw,
    exact_worth,
    optimal_policy,
    sepsis_tables,
)
from xql.envs.make import make_environment
from xql.errors import InputError

INSTALLED = importlib.util.find_spec("icu_sepsis") is not None


def write_package(home: Path) -> Path:
    """A package of the same files: patients ill (0) or very ill (1), who die (2) or survive (3).

    Action 0 is to wait, 1 to treat; very ill patients are always treated, so that waiting does the
    same there.
    """
    to = np.zeros((5, 2, 5))
    to[0, 0] = [0.5, 0.3, 0.0, 0.2, 0.0]
    to[0, 1] = [0.2, 0.1, 0.1, 0.6, 0.0]
    to[1, :] = [0.2, 0.3, 0.4, 0.1, 0.0]
    to[2:, :, 4] = 1.0
    rewards = np.zeros((5, 2, 5))
    rewards[:, :, 3] = 1.0
    assets = home / "icu_sepsis" / "envs" / "assets"
    assets.mkdir(parents=True)
    (home / "icu_sepsis" / "__init__.py").write_text("raise RuntimeError('it is imported')\n")
    np.savez(
        assets / "dynamics.npz",
        tx_mat=to,
        r_mat=rewards,
        d_0=np.array([0.75, 0.25, 0.0, 0.0, 0.0]),
        expert_policy=np.array([[0.5, 0.5], [0.1, 0.9], [1, 0], [1, 0], [1, 0]], float),
    )
    text = "2 1 2 2 2 \n0 1 \n1 \n0 1 \n0 1 \n0 1 \n"
    (assets / "admissible_actions.txt").write_text(text)
    return assets


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assets = write_package(tmp_path / "packages")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    return assets


def test_the_environment_follows_the_tables(assets: Path) -> None:
    tables = sepsis_tables()
    env = make_environment(ICU_SEPSIS_ID)
    assert env.action_space == gymnasium.spaces.Discrete(2)
    counts, firsts, lengths = np.zeros((5, 2, 5)), np.zeros(5), []
    random = np.random.default_rng(0)
    for episode in range(400):
        observation, info = env.reset(seed=None if episode else 0)
        firsts += observation
        over, length = False, 0
        while not over:
            before, action = int(observation.argmax()), int(random.integers(2))
            assert info["admissible_actions"].tolist() == [[0, 1], [1]][before]
            observation, reward, over, truncated, info = env.step(action)
            assert observation.sum() == 1.0
            assert not truncated
            after, length = int(observation.argmax()), length + 1
            counts[before, action, after] += 1
            assert reward == (after == 3)
        assert info["success"] == (after == 3)
        lengths.append(length)
    taken = counts.sum(axis=2, keepdims=True)[:2]
    error = np.abs(counts[:2] / taken - tables.transitions[:2])
    assert (error < 4 * np.sqrt(0.25 / taken)).all()
    assert counts[:2][tables.transitions[:2] == 0].sum() == 0
    assert np.abs(firsts / 400 - tables.starts).max() < 0.1
    # Uniform actions: what a linear system says of them.
    worth = exact_worth(tables, np.full((5, 2), 0.5))
    assert np.mean(lengths) == pytest.approx(worth.steps, abs=4 * np.std(lengths) / 400**0.5)


def test_it_is_what_gymnasium_asks_for(assets: Path) -> None:
    check_env(icu_sepsis.ICUSepsis(), skip_render_check=True)
    env = make_environment(ICU_SEPSIS_ID)
    assert env.spec is not None
    assert env.spec.max_episode_steps == LIMIT


def test_exact_values_by_hand(assets: Path) -> None:
    tables = sepsis_tables()
    # Always treat: v₀ = 0.6 + γ(0.2 v₀ + 0.1 v₁), v₁ = 0.1 + γ(0.2 v₀ + 0.3 v₁).
    treat = np.tile([0.0, 1.0], (5, 1))
    for discount in (1.0, 0.9):
        system = np.eye(2) - discount * np.array([[0.2, 0.1], [0.2, 0.3]])
        expected = np.array([0.75, 0.25]) @ np.linalg.solve(system, [0.6, 0.1])
        found = exact_worth(tables, treat, discount)
        assert found.value == pytest.approx(expected)
        assert found.survival == pytest.approx(exact_worth(tables, treat).value)
    best = optimal_policy(tables)
    worths = [
        exact_worth(tables, np.eye(2)[[first, second, 0, 0, 0]]).value
        for first in (0, 1)
        for second in (0, 1)
    ]
    assert exact_worth(tables, best).value == pytest.approx(max(worths))
    assert best.shape == (5, 2)


def test_what_has_no_chance_is_never_drawn() -> None:
    class Last(np.random.Generator):
        def random(self, *args: object, **kwargs: object) -> np.ndarray:  # type: ignore[override]
            return np.full((2, 1), np.nextafter(1.0, 0.0))

    # The sums of ten tenths, and of what follows them, stay below 1.
    rows = np.array([[0.1] * 10 + [0.0], [0.0, 1.0] + [0.0] * 9])
    assert draw(rows, Last(np.random.PCG64(0))).tolist() == [9, 1]


def test_the_log_is_of_the_clinicians(assets: Path, tmp_path: Path) -> None:
    tables = sepsis_tables()
    log = collect(episodes=3000, seed=1)
    assert log.discrete
    assert log.terminated.all()
    states, actions = log.observations.argmax(1), log.actions.argmax(1)
    for state in (0, 1):
        here = log.starts[states[log.starts] == state]
        share, error = (actions[here] == 1).mean(), 4 * (0.25 / len(here)) ** 0.5
        assert share == pytest.approx(tables.clinicians[state, 1], abs=error)
        after = np.bincount(states[here + 1], minlength=5) / len(here)
        expected = tables.clinicians[state] @ tables.transitions[state]
        assert after == pytest.approx(expected, abs=error)
    worth = exact_worth(tables, tables.clinicians)
    assert log.returns.mean() == pytest.approx(worth.survival, abs=4 * (0.25 / 2000) ** 0.5)
    assert (log.rewards[log.starts] == (states[log.starts + 1] == 3)).all()
    again, other = collect(episodes=3000, seed=1), collect(episodes=3000, seed=2)
    assert log.fingerprint() == again.fingerprint() != other.fingerprint()


def test_a_file_is_made_and_trained_on(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "log.npz"
    main(["data", "make", "icu-sepsis", "--episodes", "50", "--seed", "3", "--out", str(out)])
    said = capsys.readouterr().out
    assert "50 episodes" in said
    assert f"next: xql train offline --data {out}" in said
    log = xql.open_dataset(out)
    assert log.fingerprint() == collect(episodes=50, seed=3).fingerprint()
    require_sound(log)
    run = xql.train_offline(
        out,
        agent="bc",
        steps=4,
        last_episodes=2,
        out=tmp_path / "run",
        options={"hidden": [4], "batch_size": 4},
        progress=False,
    )
    assert {row.success for row in run.evaluations} <= {True, False}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "icu-sepsis: it needs a file; name it with --out, such as --out icu-sepsis.npz"),
        (("--out", "x.npz", "--episodes", "0"), "icu-sepsis: episodes is 0; give 1 or more"),
        (("--out", "x.npz", "--episodes", "100001"), "give 100000 or less"),
        (("--out", "x.npz", "--transitions", "10"), "it takes no --transitions"),
        (("--out", "x.foo"), "cannot tell what '.foo' is"),
    ],
)
def test_bad_input_is_one_line(
    assets: Path,
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["data", "make", "icu-sepsis", *words])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not list(tmp_path.glob("x*"))


def test_without_the_package_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> object:
        return None if name == "icu_sepsis" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    for use in (lambda: make_environment(ICU_SEPSIS_ID), lambda: collect(1)):
        with pytest.raises(InputError, match="pip install --no-deps icu-sepsis"):
            use()


@pytest.mark.parametrize("damage", ["missing", "cut", "shape", "actions"])
def test_damaged_tables_are_one_line(assets: Path, damage: str) -> None:
    file, listing = assets / "dynamics.npz", assets / "admissible_actions.txt"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "shape":
        with np.load(file) as found:
            np.savez(file, **{**found, "d_0": np.ones(4) / 4})
    else:
        listing.write_text("2 1 2 2 2\n0 1\n7\n0 1\n0 1\n0 1\n")
    with pytest.raises(InputError, match="cannot be read") as caught:
        sepsis_tables()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not INSTALLED, reason="icu-sepsis is not installed (pip install --no-deps)")
def test_the_benchmark_itself() -> None:
    tables: Tables = sepsis_tables()
    assert (tables.states, tables.actions, tables.living) == (716, 25, 713)
    chances = (tables.transitions, tables.clinicians[:713], tables.starts)
    assert all(np.abs(one.sum(-1) - 1).max() < 1e-9 for one in chances)
    # An action that is not admissible does what those that are do on average.
    for state in range(0, 713, 50):
        known = tables.admissible[state]
        usual = tables.transitions[state][known].mean(axis=0)
        assert np.abs(tables.transitions[state][~known] - usual).max(initial=0) < 1e-9
    # Its authors publish 0.78 (9.45 steps), 0.78 (9.22) and 0.88 (10.99), of rollouts.
    uniform = exact_worth(tables, np.full((716, 25), 1 / 25))
    clinicians = exact_worth(tables, tables.clinicians)
    best = exact_worth(tables, optimal_policy(tables))
    assert (uniform.survival, clinicians.survival, best.survival) == pytest.approx(
        (0.78007, 0.78184, 0.87514), abs=1e-5
    )
    assert (uniform.steps, clinicians.steps, best.steps) == pytest.approx(
        (9.462, 9.238, 10.992), abs=1e-3
    )
    assert "icu_sepsis" not in sys.modules


@pytest.mark.skipif(not INSTALLED, reason="icu-sepsis is not installed (pip install --no-deps)")
def test_rollouts_of_the_clinicians_are_worth_what_the_tables_say() -> None:
    tables, random = sepsis_tables(), np.random.default_rng(0)
    env = make_environment(ICU_SEPSIS_ID)

    def act(observations: np.ndarray) -> np.ndarray:
        return draw(tables.clinicians[observations.argmax(-1)], random)

    returns = []
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            observation, reward, over, cut, _ = env.step(act(observation[None])[0])
            total, over = total + float(reward), over or cut
        returns.append(total)
    assert np.mean(returns) == pytest.approx(0.782, abs=4 * (0.25 / 200) ** 0.5)

"""The tables of ICU-Sepsis and of fitted Q evaluation are what their files say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import xql
from collect.test_icu_sepsis import write_package
from xql.collect.icu_sepsis import collect
from xql.envs.icu_sepsis import exact_worth, optimal_policy, sepsis_tables
from xql.experiments import icu_sepsis_results, ope_results
from xql.experiments.ope_results import Evaluated, summarise

NUMBERS = ((5.0, 4.0, 2.0, 3.0, 0.1), (4.0, 6.0, 1.0, 0.5, 0.3), (1.0, 2.0, 1.0, 2.0, np.nan))
"""Truth, estimate, half of the interval, difference and share of far actions of three policies."""
RESULTS = Path(__file__).parents[2] / "results"


def test_the_table_of_icu_sepsis_is_what_its_values_say(tmp_path: Path) -> None:
    home = RESULTS / "icu-sepsis"
    icu_sepsis_results.write(tmp_path, icu_sepsis_results.read(home))
    for name in ("values.csv", "table.md"):
        assert (tmp_path / name).read_text() == (home / name).read_text(encoding="utf-8")


@pytest.mark.skipif(
    importlib.util.find_spec("icu_sepsis") is None,
    reason="icu-sepsis is not installed (pip install --no-deps)",
)
def test_its_references_are_those_of_the_benchmark() -> None:
    kept = {row.policy: row for row in icu_sepsis_results.read(RESULTS / "icu-sepsis")}
    for row in icu_sepsis_results.references(sepsis_tables()):
        assert kept[row.policy][3:] == pytest.approx(row[3:], abs=1e-5)


def test_a_trained_policy_is_worth_what_its_table_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path / "packages")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    tables = sepsis_tables()
    xql.train_offline(
        collect(50),
        agent="bc",
        steps=3,
        seeds=2,
        env="none",
        out=tmp_path / "run",
        options={"hidden": [4], "batch_size": 4},
        progress=False,
    )
    rows = icu_sepsis_results.values_of(tmp_path / "run", "bc", tables, seeds=2)
    assert [(row.seed, row.acts) for row in rows] == [
        (seed, acts) for seed in "01" for acts in ("likeliest", "drawn")
    ]
    # By hand from the policy's own numbers: drawn actions, and their shares.
    policy = xql.load_policy(tmp_path / "run", 1)
    chances = icu_sepsis_results.probabilities(policy, tables)
    assert chances.sum(axis=1) == pytest.approx(np.ones(5))
    best = policy(np.eye(5, dtype=np.float32))
    assert (chances.argmax(axis=1) == best).all()
    assert rows[2].survival == exact_worth(tables, np.eye(2)[best]).survival
    assert rows[3].survival == exact_worth(tables, chances).survival
    limit = exact_worth(tables, optimal_policy(tables)).survival
    assert all(0.0 < row.survival <= limit + 1e-9 for row in rows)


def test_the_numbers_of_fitted_q_evaluation_by_hand() -> None:
    def one(truth: float, estimate: float, half: float, difference: float, far: float) -> Evaluated:
        low, high = estimate - half, estimate + half
        return Evaluated(
            "", truth, 0.0, estimate, low, high, difference, difference - 1, difference + 1, far
        )

    rows = [one(*row) for row in NUMBERS]
    found = summarise(rows, behaviour=2.0)
    assert found.policies == 3
    # Ranks 1, 2, 3 of the truth are 2, 1, 3 of the estimates: 1 − 6·2/(3·8).
    assert found.rank_correlation == pytest.approx(0.5)
    assert found.regret == 1.0
    assert found.random_regret == pytest.approx(5 - 10 / 3)
    assert found.error == pytest.approx(4 / 3)
    assert found.coverage == pytest.approx(2 / 3)
    # Without the second, whose actions are far, the order is right.
    assert (found.supported, found.supported_regret) == (2, 0.0)
    # The second cannot be said, the third is called better and is worse.
    assert (found.right, found.wrong) == (1, 1)


def test_the_table_of_fitted_q_evaluation_is_what_its_files_say() -> None:
    text = (RESULTS / "ope" / "table.md").read_text(encoding="utf-8")
    assert text.partition(f"{ope_results.HEAD}\n\n")[2] == ope_results.markdown(RESULTS / "ope")

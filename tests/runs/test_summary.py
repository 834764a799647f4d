import math

import pytest

from xql.errors import InputError
from xql.evaluation.statistics import format_interval
from xql.runs.config import Member
from xql.runs.folder import Evaluation
from xql.runs.summary import by_changes, in_brief, member_means, quantity_of, results, value_of


def played(
    member: int,
    episode_return: float,
    success: bool | None,
    score: float | None = None,
) -> Evaluation:
    return Evaluation(100, member, member, 0, episode_return, 5, score, success)


SEEDS = [Member(seed) for seed in range(4)]


def test_one_diverged_seed_of_four_makes_the_headline_nan() -> None:
    for reported in (None, False):  # before the first step, and after one that reported
        rows = [played(member, 1.0, True) for member in range(3)]
        rows.append(played(3, math.nan, reported))
        assert quantity_of(rows) == "success"
        (result,) = results(rows, SEEDS)
        for summary in (result.last, result.best):
            assert format_interval(summary.interval) == "nan [n/a (a score is not finite)]"
        assert math.isnan(member_means(rows, "success")[3])
        assert member_means(rows, "success")[0] == 100.0


def test_a_diverged_seed_invents_no_success() -> None:
    rows = [played(member, 1.0, None) for member in range(3)] + [played(3, math.nan, None)]
    assert quantity_of(rows) == "return"
    (result,) = results(rows, SEEDS)
    assert math.isnan(result.last.interval.estimate)
    scored = [played(member, 1.0, None, 2.0) for member in range(3)]
    scored.append(played(3, math.nan, None, math.nan))
    assert quantity_of(scored) == "score"
    assert math.isnan(results(scored, SEEDS)[0].last.interval.estimate)
    assert quantity_of([played(0, math.nan, None)]) == "return"


def test_what_an_episode_lacks_is_one_line() -> None:
    assert value_of(played(0, 3.0, True), "success") == 100.0
    with pytest.raises(InputError) as error:
        value_of(played(0, 3.0, None), "success")
    assert str(error.value) == "step 100: the evaluations have no success; take the return"


def test_rows_are_grouped_by_swept_values_in_the_population_s_order() -> None:
    changes: list[dict[str, float]] = [{"beta": 2.0}, {"beta": 0.5}, {"beta": 2.0}]
    members = [Member(seed, one) for seed, one in enumerate(changes)]
    rows = [played(member, float(member), None) for member in (2, 1, 0)]
    groups = [
        (found, sorted(row.member for row in own)) for found, own in by_changes(rows, members)
    ]
    assert groups == [({"beta": 2.0}, [0, 2]), ({"beta": 0.5}, [1])]
    assert [one.label for one in results(rows, members)] == ["β = 2", "β = 0.5"]
    assert in_brief(rows, members) == "1.0 (β = 2), 1.0 (β = 0.5) return"
    crossed = [Member(0, {"beta": 2.0, "discount": 0.99})]
    assert results([played(0, 1.0, None)], crossed)[0].label == "β = 2, discount = 0.99"


def test_without_a_sweep_there_is_one_group_without_a_label() -> None:
    (result,) = results([played(member, 1.0, None) for member in range(4)], SEEDS)
    assert (result.changes, result.label) == ({}, "")
    assert result.last.interval.seeds == 4

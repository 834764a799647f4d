import math

import pytest

from xql.errors import InputError
from xql.evaluation.statistics import format_interval
from xql.runs.folder import Evaluation
from xql.runs.summary import by_beta, member_means, quantity_of, results, value_of


def played(
    member: int,
    episode_return: float,
    success: bool | None,
    score: float | None = None,
    beta: float | None = None,
) -> Evaluation:
    return Evaluation(100, member, member, beta, 0, episode_return, 5, score, success)


def test_one_diverged_seed_of_four_makes_the_headline_nan() -> None:
    for reported in (None, False):  # before the first step, and after one that reported
        rows = [played(member, 1.0, True) for member in range(3)]
        rows.append(played(3, math.nan, reported))
        assert quantity_of(rows) == "success"
        (result,) = results(rows)
        for summary in (result.last, result.best):
            assert format_interval(summary.interval) == "nan [n/a (a score is not finite)]"
        assert math.isnan(member_means(rows, "success")[3])
        assert member_means(rows, "success")[0] == 100.0


def test_a_diverged_seed_invents_no_success() -> None:
    rows = [played(member, 1.0, None) for member in range(3)] + [played(3, math.nan, None)]
    assert quantity_of(rows) == "return"
    (result,) = results(rows)
    assert math.isnan(result.last.interval.estimate)
    scored = [played(member, 1.0, None, 2.0) for member in range(3)]
    scored.append(played(3, math.nan, None, math.nan))
    assert quantity_of(scored) == "score"
    assert math.isnan(results(scored)[0].last.interval.estimate)
    assert quantity_of([played(0, math.nan, None)]) == "return"


def test_what_an_episode_lacks_is_one_line() -> None:
    assert value_of(played(0, 3.0, True), "success") == 100.0
    with pytest.raises(InputError) as error:
        value_of(played(0, 3.0, None), "success")
    assert str(error.value) == "step 100: the evaluations have no success; take the return"


def test_rows_are_grouped_in_order_of_beta_none_first() -> None:
    rows = [played(member, 1.0, None, beta=beta) for member, beta in enumerate([2.0, None, 0.5])]
    assert {beta: [row.member for row in group] for beta, group in by_beta(rows).items()} == {
        None: [1],
        0.5: [2],
        2.0: [0],
    }
    assert list(by_beta(rows)) == [None, 0.5, 2.0]

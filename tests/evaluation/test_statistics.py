import numpy as np
import pytest
import scipy.stats

from xql.evaluation.statistics import (
    Interval,
    best_summary,
    episode_means,
    format_interval,
    format_number,
    iqm,
    last_summary,
    step_intervals,
    stratified_bootstrap,
)


def test_iqm_by_hand() -> None:
    assert iqm(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5  # ⌊4/4⌋ = 1 dropped at either end
    assert iqm(np.array([7.0])) == 7.0
    assert iqm(np.array([1.0, 2.0, 9.0])) == 4.0
    assert iqm(np.array([5.0, -99.0, 1.0, 2.0, 3.0, 4.0, 99.0, 5.0])) == 3.5


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11, 40])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_iqm_is_scipy_s_trimmed_mean(count: int, axis: int) -> None:
    values = np.random.default_rng(count).standard_cauchy((count, count))
    np.testing.assert_allclose(iqm(values, axis), scipy.stats.trim_mean(values, 0.25, axis=axis))


def test_iqm_never_trims_a_nan_away() -> None:
    values = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(iqm(values), [np.nan, 2.5])


@pytest.mark.parametrize("seeds", [5, 20])
def test_one_task_agrees_with_scipy_s_percentile_bootstrap(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(50, 10, seeds)
    theirs = scipy.stats.bootstrap(
        (values,), iqm, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = stratified_bootstrap(values[:, None], repetitions=20_000)
    # Two Monte Carlo quantiles of 20 000 draws each lie a few hundredths of the width apart.
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)
    assert ours.estimate == scipy.stats.trim_mean(values, 0.25)


def test_two_seeds_by_enumeration() -> None:
    # Two seeds give the means 0, ½, ½, 1 with equal chance: the 10 % quantile is 0, the 90 % is 1.
    interval = stratified_bootstrap(np.array([[0.0], [1.0]]), confidence=0.8)
    assert interval == Interval(0.5, 0.0, 1.0, 2)
    narrow = stratified_bootstrap(np.array([[0.0], [1.0]]), confidence=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_seeds_are_drawn_within_each_task() -> None:
    # Within a task all seeds agree, so no resample can move the mean; pooling tasks would.
    scores = np.tile([[0.0, 100.0, 40.0]], (6, 1))
    interval = stratified_bootstrap(scores, lambda values: values.mean(axis=-1))
    assert (interval.low, interval.high) == pytest.approx((140 / 3, 140 / 3))


def test_tasks_are_drawn_independently() -> None:
    # Drawing whole rows would keep the two tasks' errors together and never shrink the interval:
    # a seed's scores are mirror images, so its row mean is always 0.
    scores = np.array([[1.0, -1.0], [2.0, -2.0], [-1.0, 1.0], [-2.0, 2.0]])
    interval = stratified_bootstrap(scores, lambda values: values.mean(axis=-1))
    assert interval.low < -0.3 and interval.high > 0.3


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = [
        low <= 0.0 <= high
        for _, low, high, _ in (
            stratified_bootstrap(rng.normal(size=(20, 1)), repetitions=300) for _ in range(300)
        )
    ]
    # The percentile bootstrap is a little short at 20 seeds; 300 trials leave ±2.5 % of noise.
    assert 0.86 < np.mean(held) < 0.98


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3))
    assert stratified_bootstrap(scores) == stratified_bootstrap(scores)
    assert stratified_bootstrap(scores, seed=1).low != stratified_bootstrap(scores).low


def test_one_seed_has_no_interval_and_says_so() -> None:
    interval = stratified_bootstrap(np.array([[61.26]]))
    assert np.isnan([interval.low, interval.high]).all()
    assert format_interval(interval) == "61.3 [n/a (1 seed)]"


def test_a_diverged_seed_shows() -> None:
    interval = stratified_bootstrap(np.array([[1.0], [np.nan], [2.0]]))
    assert format_interval(interval) == "nan [n/a (a score is not finite)]"


def test_an_interval_in_words() -> None:
    assert format_interval(Interval(61.25, 55.04, 68.16, 5), digits=1) == "61.2 [55.0, 68.2]"
    assert format_interval(Interval(0.5, 0.25, 0.75, 5), digits=2) == "0.50 [0.25, 0.75]"
    # Three digits of the largest of the three, where one decimal would show none.
    assert format_interval(Interval(0.0412, 0.0391, 0.0433, 4)) == "0.0412 [0.0391, 0.0433]"
    assert format_interval(Interval(-0.2661, -0.31, 0.05, 4)) == "-0.266 [-0.310, 0.050]"
    assert format_interval(Interval(0.5, 0.0, 1.0, 4)) == "0.5 [0.0, 1.0]"
    assert format_interval(Interval(0.0, 0.0, 0.0, 4)) == "0.0 [0.0, 0.0]"
    assert format_interval(Interval(0.25, np.nan, np.nan, 1)) == "0.250 [n/a (1 seed)]"
    assert [format_number(one) for one in (61.25, 0.0412, -0.5, 0.0, np.nan)] == [
        "61.2",
        "0.0412",
        "-0.500",
        "0.0",
        "nan",
    ]


# Two seeds, two steps, two episodes each.
STEPS = [100, 100, 100, 100, 200, 200, 200, 200]
SEEDS = [3, 3, 8, 8, 3, 3, 8, 8]
VALUES = [0.0, 10.0, 40.0, 60.0, 20.0, 40.0, 10.0, 20.0]


def test_episodes_are_averaged_per_seed_and_step() -> None:
    steps, seeds, means = episode_means(STEPS, SEEDS, VALUES)
    assert (steps, seeds) == ([100, 200], [3, 8])
    np.testing.assert_array_equal(means, [[5.0, 30.0], [50.0, 15.0]])


def test_a_seed_that_was_not_evaluated_is_nan() -> None:
    _, _, means = episode_means([1, 2, 1], [0, 0, 1], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(means, [[1.0, 2.0], [3.0, np.nan]])


def test_steps_get_their_own_intervals() -> None:
    _, _, means = episode_means(STEPS, SEEDS, VALUES)
    first, second = step_intervals(means)
    assert (first.estimate, first.low, first.high) == (27.5, 5.0, 50.0)
    assert (second.estimate, second.low, second.high) == (22.5, 15.0, 30.0)


def test_last_and_best_are_different_numbers_and_say_which_they_are() -> None:
    last, best = (one(STEPS, SEEDS, VALUES) for one in (last_summary, best_summary))
    assert last.interval.estimate == 22.5
    assert last.label == "last of 2 evaluations (step 200)"
    assert best.interval.estimate == 40.0  # (30 + 50)/2: each seed's own best step
    assert best.label == "best over 2 evaluations"
    assert (last.episodes, best.episodes) == (2, 2)
    assert last.interval.seeds == best.interval.seeds == 2
    only = best_summary([100, 100], [3, 8], [1.0, 2.0])
    assert only.label == "best over 1 evaluation: the last"

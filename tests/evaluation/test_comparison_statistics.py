"""Mean, probability of improvement and performance profile against hand counts and scipy."""

import numpy as np
import pytest
import scipy.stats

from xql.evaluation.statistics import (
    Interval,
    mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

NAN = float("nan")


def test_the_mean_s_interval_is_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(3).normal(50, 10, 12)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = stratified_bootstrap(values[:, None], mean, repetitions=20_000)
    # Two Monte Carlo quantiles of 20 000 draws each lie a few hundredths of the width apart.
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)
    assert ours.estimate == pytest.approx(values.mean())
    assert np.isnan(mean(np.array([1.0, NAN])))


def test_probability_by_counting_pairs() -> None:
    # 3 beats 1 and 2; 2 beats 1 and ties with 2: (1 + 1 + 1 + ½) / 4.
    found = probability_of_improvement([np.array([3.0, 2.0])], [np.array([1.0, 2.0])])
    assert found.estimate == 3.5 / 4
    # Two tasks, one won and one lost by a hair, count alike.
    low, high = np.array([0.0, 0.0]), np.array([1e-9, 1e-9])
    assert probability_of_improvement([high, low], [low, high]).estimate == 0.5


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 8), (20, 20)])
def test_probability_is_mann_whitney_s_statistic_over_the_pairs(n: int, m: int) -> None:
    random = np.random.default_rng(n)
    x, y = random.integers(0, 6, n).astype(float), random.integers(0, 6, m).astype(float)
    theirs = scipy.stats.mannwhitneyu(x, y).statistic / (n * m)
    assert probability_of_improvement([x], [y]).estimate == pytest.approx(theirs)
    # Either one or the other, so the two directions share the probability.
    assert probability_of_improvement([y], [x]).estimate == pytest.approx(1 - theirs)


def test_probability_s_interval_by_enumeration() -> None:
    # Redrawing {0, 2} gives 00, 02, 20, 22; against the constant 1 that is 0, ½, ½, 1.
    x, y = np.array([0.0, 2.0]), np.array([1.0, 1.0])
    assert probability_of_improvement([x], [y], confidence=0.8) == Interval(0.5, 0.0, 1.0, 2)
    narrow = probability_of_improvement([x], [y], confidence=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_probability_s_interval_is_scipy_s_bootstrap_of_both_samples() -> None:
    random = np.random.default_rng(5)
    x, y = random.normal(0.5, 1, 9), random.normal(0, 1, 7)

    def wins(x: np.ndarray, y: np.ndarray) -> float:
        return float((x[:, None] > y[None, :]).mean())

    theirs = scipy.stats.bootstrap(
        (x, y), wins, n_resamples=9_999, method="percentile", vectorized=False, rng=random
    ).confidence_interval
    ours = probability_of_improvement([x], [y], repetitions=20_000)
    # The statistic takes steps of 1/63, and a quantile may fall on the next one.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1.5 / 63)


def test_a_nan_loses_to_every_number_and_ties_with_a_nan() -> None:
    diverged, poor = np.array([NAN, NAN]), np.array([-1e9, -1e9])
    assert probability_of_improvement([diverged], [poor]).estimate == 0.0
    assert probability_of_improvement([poor], [diverged]).estimate == 1.0
    assert probability_of_improvement([diverged], [diverged]).estimate == 0.5


def test_one_seed_has_no_interval() -> None:
    found = probability_of_improvement([np.array([1.0])], [np.array([0.0, 2.0, 3.0])])
    assert found.estimate == pytest.approx(1 / 3)
    assert np.isnan([found.low, found.high]).all() and found.seeds == 1
    profile = performance_profile([np.array([1.0])], np.array([0.0]))
    assert profile.share[0] == 1.0 and np.isnan(profile.low[0])


def test_the_profile_is_one_minus_scipy_s_distribution_function() -> None:
    values = np.random.default_rng(0).normal(50, 20, 30)
    thresholds = np.linspace(0, 100, 23)
    theirs = scipy.stats.ecdf(values).sf.evaluate(thresholds)
    profile = performance_profile([values], thresholds)
    np.testing.assert_allclose(profile.share, theirs)
    assert (np.diff(profile.share) <= 0).all()
    assert (profile.low <= profile.share).all() and (profile.share <= profile.high).all()


def test_the_profile_averages_tasks_and_not_seeds() -> None:
    # One of one, and one of four above ½: the tasks' mean is (1 + ¼)/2, the seeds' would be 2/5.
    scores = [np.array([1.0]), np.array([1.0, 0.0, 0.0, NAN])]
    assert performance_profile(scores, np.array([0.5])).share[0] == 0.625


def test_the_profile_s_band_by_enumeration() -> None:
    profile = performance_profile([np.array([0.0, 2.0])], np.array([1.0]), confidence=0.8)
    assert (profile.low[0], profile.share[0], profile.high[0]) == (0.0, 0.5, 1.0)


def test_the_same_seed_gives_the_same_intervals() -> None:
    random = np.random.default_rng(2)
    x, y, at = random.normal(size=5), random.normal(size=5), np.linspace(-1, 1, 5)
    assert probability_of_improvement([x], [y]) == probability_of_improvement([x], [y], seed=0)
    one, same = performance_profile([x], at), performance_profile([x], at, seed=0)
    other = performance_profile([x], at, repetitions=20, seed=1)
    np.testing.assert_array_equal(one.low, same.low)
    assert (one.low != other.low).any() or (one.high != other.high).any()

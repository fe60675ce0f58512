"""Statistics against scipy, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from shunted_lab.report.image_statistics import mcnemar, paired_bootstrap
from shunted_lab.study.statistics.paired import paired_difference, summarize


def by_seed(values) -> dict[int, float]:
    return dict(enumerate(values))


def test_summary_is_numpys():
    values = [0.7, 0.75, 0.74, 0.69]
    found = summarize(values)
    assert (found.mean, found.std, found.n) == pytest.approx((np.mean(values), np.std(values, ddof=1), 4))
    assert math.isnan(summarize([0.5]).std)
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_paired_difference_is_scipys():
    a, b = [0.71, 0.75, 0.74, 0.69, 0.70], [0.70, 0.72, 0.745, 0.66, 0.69]
    found = paired_difference(by_seed(a), by_seed(b), 0.9)
    reference = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))


def test_three_pairs_in_closed_form():
    found = paired_difference(by_seed([1, 2, 3]), by_seed([0, 0, 0]))
    assert found is not None
    half = 4.302652729911275 * 1 / math.sqrt(3)  # the 97.5 % quantile of t with 2 degrees of freedom
    assert (found.low, found.high, found.std) == pytest.approx((2 - half, 2 + half, 1))


def test_only_seeds_that_both_have_are_paired():
    found = paired_difference({0: 5, 1: 6, 7: 100}, {7: 99, 0: 4, 3: -50})
    assert found is not None and (found.mean, found.n) == (1, 2)
    assert paired_difference({0: 1}, {1: 1}) is None


def test_one_pair_has_no_interval_and_proves_nothing():
    found = paired_difference({0: 0.8}, {0: 0.7})
    assert found is not None and math.isnan(found.low) and math.isnan(found.high) and found.holds_zero


def test_an_interval_on_either_side_of_zero_excludes_it():
    higher, lower = {0: 1.0, 1: 1.1, 2: 0.9}, {0: 0.0, 1: 0.0, 2: 0.0}
    for a, b in ((higher, lower), (lower, higher)):
        found = paired_difference(a, b)
        assert found is not None and not found.holds_zero


def test_equal_differences_have_no_interval():
    found = paired_difference({0: 3, 1: 4}, {0: 2, 1: 3})
    assert found is not None and found.mean == 1 and found.is_constant and not found.has_interval and found.holds_zero


@pytest.mark.parametrize("n", [3, 10])
def test_the_interval_covers_the_truth_95_times_in_100(n):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(4000):
        shared = rng.normal(0, 5, n)  # what a seed does to both
        found = paired_difference(by_seed(shared + rng.normal(0.3, 1, n)), by_seed(shared))
        assert found is not None
        hits += found.low <= 0.3 <= found.high
    assert 0.93 < hits / 4000 < 0.97


def test_mcnemar_is_the_exact_binomial_test():
    from scipy import stats

    a = np.array([1] * 30 + [0] * 12 + [1] * 50 + [0] * 8, bool)
    b = np.array([0] * 30 + [1] * 12 + [1] * 50 + [0] * 8, bool)
    found = mcnemar(a, b)
    tail = sum(stats.binom.pmf(k, 42, 0.5) for k in range(13))
    assert (found.only_a, found.only_b) == (30, 12) and found.p == pytest.approx(2 * tail)
    assert mcnemar(a, a).p == 1.0


def test_paired_bootstrap_agrees_with_scipy_and_with_the_closed_form():
    from scipy import stats

    rng = np.random.default_rng(0)
    a, b = rng.random((2, 400)) < np.array([[0.8], [0.7]])
    found = paired_bootstrap(a, b)
    difference = a.astype(float) - b
    same = stats.bootstrap((difference,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert found.mean == pytest.approx(difference.mean()) and found.n == 400
    assert (found.low, found.high) == pytest.approx(same.confidence_interval, abs=0.003)
    half = 1.96 * difference.std(ddof=1) / 400**0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.04)


def test_paired_bootstrap_compares_means_over_seeds():
    a = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    b = np.array([[0, 1, 0, 0], [0, 0, 0, 0]])
    found = paired_bootstrap(a, b)
    assert found.mean == pytest.approx(0.25) and found.low == 0.0 and found.high <= 1.0
    with pytest.raises(ValueError, match="4 and 3 images cannot be paired"):
        paired_bootstrap(a, b[:, :3])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t", "bootstrap"])
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent_of_simulations(kind):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        if kind == "t":  # 5 seeds, normal differences around 0.01
            values = dict(enumerate(0.01 + 0.02 * rng.standard_normal(5)))
            found = paired_difference(values, dict.fromkeys(values, 0.0))
        else:  # 300 images, right with 0.8 and 0.75, not independent
            b = rng.random(300) < 0.75
            a = np.where(b, rng.random(300) < 0.92, rng.random(300) < 0.48)
            found = paired_bootstrap(a, b, resamples=1000, seed=int(rng.integers(1 << 30)))
        truth = 0.01 if kind == "t" else 0.75 * 0.92 + 0.25 * 0.48 - 0.75
        held += found.low <= truth <= found.high
    assert 0.93 <= held / 2000 <= 0.97

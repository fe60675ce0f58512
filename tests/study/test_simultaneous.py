"""Simultaneous intervals, effects and power against scipy, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from shunted_lab.study.statistics import critical
from shunted_lab.study.statistics.effects import estimate, factorial, leave_one_out
from shunted_lab.study.statistics.family import compare
from shunted_lab.study.statistics.paired import paired_difference
from shunted_lab.study.statistics.power import detectable_with, deviation_range, smallest_difference

HALF = np.array([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]])


def table(y) -> dict[str, dict[int, float]]:
    """Variants base, v1, v2, ... of an array (seeds, variants)."""
    names = ["base", *(f"v{i}" for i in range(1, y.shape[1]))]
    return {name: dict(enumerate(column)) for name, column in zip(names, y.T.tolist(), strict=True)}


def against_base(k) -> dict[str, str]:
    return {f"v{i}": "base" for i in range(1, k + 1)}


@pytest.mark.parametrize(("k", "df"), [(2, 4), (3, 6), (6, 12), (3, 60)])
def test_dunnett_is_the_multivariate_t_of_scipy(k, df):
    c = critical.dunnett((k,), df, 0.95)
    found = stats.multivariate_t(np.zeros(k), np.full((k, k), 0.5) + 0.5 * np.eye(k), df=df, seed=0)
    assert found.cdf(np.full(k, c), lower_limit=np.full(k, -c)) == pytest.approx(0.95, abs=2e-4)


def test_dunnett_is_the_published_table():
    """Two-sided 5 % points (Dunnett, Biometrics 20, 1964, table II)."""
    known = {(1, 10): 2.23, (2, 10): 2.57, (3, 10): 2.76, (4, 10): 2.89, (2, 20): 2.38, (5, 20): 2.73}
    assert {key: round(critical.dunnett((key[0],), key[1], 0.95), 2) for key in known} == pytest.approx(
        known, abs=0.011
    )


def test_one_comparison_is_students_and_none_is_wider_than_bonferronis():
    assert critical.dunnett((1,), 4, 0.95) == pytest.approx(stats.t.ppf(0.975, 4))
    for sizes in ((3,), (1, 1, 1), (2, 2)):
        assert stats.t.ppf(0.975, 9) < critical.dunnett(sizes, 9, 0.95) < critical.bonferroni(sum(sizes), 9, 0.95)
    assert critical.dunnett((2, 2), 16, 0.95) > critical.dunnett((4,), 16, 0.95)  # less correlated


def test_any_correlation_agrees_with_dunnetts():
    assert critical.largest(HALF, 8, 0.95) == pytest.approx(critical.dunnett((3,), 8, 0.95), rel=0.005)
    assert critical.largest(np.ones((2, 2)), 8, 0.95) == pytest.approx(stats.t.ppf(0.975, 8), rel=0.01)


def test_a_complete_table_shares_one_deviation():
    y = np.array([[0.70, 0.72, 0.71], [0.74, 0.75, 0.76], [0.69, 0.72, 0.70]])
    found = compare(table(y), against_base(2))
    residuals = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    std = math.sqrt(2 * (residuals**2).sum() / 4)
    half = critical.dunnett((2,), 4, 0.95) * std / math.sqrt(3)
    assert (found.method, found.df, found.size) == ("dunnett", 4, 2) and found.std == pytest.approx(std)
    for i, name in enumerate(("v1", "v2"), 1):
        mean = (y[:, i] - y[:, 0]).mean()
        d = found.differences[name]
        assert (d.mean, d.low, d.high, d.n) == pytest.approx((mean, mean - half, mean + half, 3))
        assert found.separate[name] == paired_difference(table(y)[name], table(y)["base"])


def test_one_variant_has_students_interval():
    values = table(np.array([[0.70, 0.72], [0.74, 0.75], [0.69, 0.72]]))
    found = compare(values, against_base(1))
    assert found.method == "t" and found.differences["v1"] == paired_difference(values["v1"], values["base"])


def test_baselines_of_several_settings_are_one_family():
    rng = np.random.default_rng(0)
    y = rng.normal(0, 1, (5, 6))
    names = ["a-x", "b-x", "c-x", "a-y", "b-y", "c-y"]
    values = {name: dict(enumerate(column)) for name, column in zip(names, y.T.tolist(), strict=True)}
    found = compare(values, {"b-x": "a-x", "c-x": "a-x", "b-y": "a-y", "c-y": "a-y"})
    assert (found.method, found.df, found.size) == ("dunnett", 16, 4)
    assert found.critical == critical.dunnett((2, 2), 16, 0.95)
    sums = sum(float(critical.residual_squares(part[None]).sum()) for part in (y[:, :3], y[:, 3:]))
    assert found.std == pytest.approx(math.sqrt(2 * sums / 16))


def test_holes_spreads_and_constant_differences_have_bonferronis_intervals():
    rng = np.random.default_rng(0)
    values = table(rng.normal(0, 1, (5, 4)))
    del values["v2"][3]
    found = compare(values, against_base(3))
    assert (found.method, found.reason) == ("bonferroni", "holes") and found.differences["v2"].n == 4
    level = 1 - 0.05 / 3
    assert found.differences["v1"] == paired_difference(values["v1"], values["base"], level)
    noisy = rng.normal(0, 1, (8, 4)) * [1, 1, 1, 6]
    assert compare(table(noisy), against_base(3)).reason == "spreads"
    assert compare(table(noisy[:, ::-1]), against_base(3)).reason == "spreads"  # the baseline's
    same = rng.normal(0, 1, (5, 3))
    same[:, 1] = same[:, 0] - 0.71
    found = compare(table(same), against_base(2))
    assert found.reason == "constant" and not found.differences["v1"].has_interval
    assert found.differences["v2"].has_interval and found.differences["v1"].mean == pytest.approx(-0.71)


def test_two_seeds_with_the_same_difference_have_no_interval():
    found = compare({"base": {0: 0.5, 1: 0.6}, "v1": {0: 0.4, 1: 0.5}}, against_base(1))
    assert not found.differences["v1"].has_interval and found.differences["v1"].holds_zero


def test_one_seed_and_no_seed_in_common_have_no_interval():
    found = compare({"base": {0: 0.5}, "v1": {0: 0.4}, "v2": {1: 0.4}}, against_base(2))
    assert not found.differences["v1"].has_interval and found.differences["v2"] is None


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="v1: a value is NaN or infinite"):
        compare({"base": {0: 0.5}, "v1": {0: math.nan}}, against_base(1))


# Simultaneous coverage. The spread of all variants is 1, of one variant 3, or of the baseline 3.
EQUAL = {"equal": (0.93, 0.97)}
UNEQUAL = {"variant": (0.86, 0.97), "baseline": (0.86, 0.985)}


def coverage(k, n, kind, repeats, seed=0) -> float:
    spread = np.ones(k + 1)
    spread[{"variant": -1, "baseline": 0}.get(kind, 0)] = 1 if kind == "equal" else 3
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(repeats):
        y = rng.normal(0, 1, (n, k + 1)) * spread + rng.normal(0, 5, (n, 1))
        found = compare(table(y), against_base(k)).differences.values()
        held += all(d.low <= 0 <= d.high for d in found)
    return held / repeats


@pytest.mark.parametrize("kind", [*EQUAL, *UNEQUAL])
@pytest.mark.parametrize(("k", "n"), [(1, 3), (2, 5), (6, 3), (6, 8), (15, 5)])
def test_intervals_hold_together_in_95_percent_of_all_tables(k, n, kind):
    low, high = (EQUAL | UNEQUAL)[kind]
    assert low - 0.01 <= coverage(k, n, kind, 1000) <= high + 0.01  # the noise of 1,000 tables is 0.7 %


# Power.


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_smallest_difference_is_detected_4_times_in_5(n):
    rng = np.random.default_rng(1)
    c = stats.t.ppf(0.975, n - 1)
    x = rng.normal(smallest_difference(2.0, n, c, n - 1), 2.0, (100_000, n))
    assert (abs(x.mean(1)) > c * x.std(1, ddof=1) / math.sqrt(n)).mean() == pytest.approx(0.8, abs=0.01)


def test_a_table_detects_its_smallest_difference_4_times_in_5():
    shift, rng = detectable_with(math.sqrt(2), (3,), 5), np.random.default_rng(2)
    found = [
        compare(table(rng.normal([0, shift, 0, 0], 1, (5, 4))), against_base(3)).differences["v1"] for _ in range(2000)
    ]
    assert np.mean([not d.holds_zero for d in found]) == pytest.approx(0.78, abs=0.03)  # a few have Bonferroni's


def test_both_tails_count_where_the_power_is_low():
    bar = float(stats.t.ppf(0.975, 29))
    shift = smallest_difference(1.0, 30, bar, 29, power=0.06) * math.sqrt(30)
    assert stats.nct.sf(bar, 29, shift) + stats.nct.cdf(-bar, 29, shift) == pytest.approx(0.06, abs=1e-4)


def test_the_smallest_difference_agrees_with_the_noncentral_t():
    bar = float(stats.t.ppf(0.975, 29))
    assert stats.nct.sf(bar, 29, smallest_difference(1.0, 30, bar, 29) * math.sqrt(30)) == pytest.approx(0.8, abs=1e-3)
    assert math.isnan(smallest_difference(math.nan, 1, bar, 29)) and smallest_difference(0.0, 3, bar, 29) == 0


def test_the_range_of_a_deviation_is_the_chi_squares():
    """Estimated from three pairs, the deviation is 0.16 to 1.92 times the true one (2.5 to 97.5 %)."""
    low, high = deviation_range(2)
    assert (1 / high, 1 / low) == pytest.approx((0.159, 1.921), abs=1e-3)


# Effects.


def test_leave_one_out_gives_the_effects_of_parts_and_what_they_leave_unexplained():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.004, (4, 4)) + rng.normal(0, 0.05, (4, 1))
    y = np.array([0.80, 0.77, 0.79, 0.70]) + noise - (noise - noise.mean(1, keepdims=True)).mean(0)
    values = {name: dict(enumerate(c)) for name, c in zip(("full", "no_a", "no_b", "none"), y.T.tolist(), strict=True)}
    found = estimate(values, leave_one_out("full", ["no_a", "no_b"], "none"))
    means = {name: d.mean for name, d in found.differences.items()}
    assert means == pytest.approx({"no_a": 0.03, "no_b": 0.01, "all parts": 0.10, "interaction": 0.06})
    widths = {name: d.high - d.low for name, d in found.differences.items()}
    assert widths["no_a"] == pytest.approx(widths["all parts"])
    assert widths["interaction"] == pytest.approx(math.sqrt(2) * widths["no_a"])  # weights -1, 1, 1, -1 against 1, -1
    del values["no_b"][2]
    found = estimate(values, leave_one_out("full", ["no_a", "no_b"], "none"))
    assert (found.method, found.reason) == ("bonferroni", "holes") and found.differences["interaction"].n == 3


def test_factorial_effects_are_those_of_a_linear_model():
    rng = np.random.default_rng(0)
    factors = ["a", "b", "c"]
    cells = {frozenset(f for i, f in enumerate(factors) if bits >> i & 1): str(bits) for bits in range(8)}
    y = rng.normal(0, 1, 8)
    found = factorial(cells, factors)
    signs = {having: {f: 1 if f in having else -1 for f in factors} for having in cells}
    names = ["a", "b", "c", "a x b", "a x c", "b x c", "a x b x c"]
    design = np.array([[1, *(np.prod([signs[h][f] for f in name.split(" x ")]) for name in names)] for h in cells])
    coefficients = np.linalg.solve(design.astype(float), y)[1:]
    effects = [sum(w * y[int(name)] for name, w in found[effect].items()) for effect in names]
    assert list(found) == names and effects == pytest.approx(list(2 * coefficients))


@pytest.mark.parametrize("design", ["leave one out", "factorial"])
def test_effects_hold_together_in_95_percent_of_all_tables(design):
    if design == "factorial":
        cells = {frozenset(f for i, f in enumerate("ab") if bits >> i & 1): str(bits) for bits in range(4)}
        effects = factorial(cells, ["a", "b"])
    else:
        effects = leave_one_out("0", ["1", "2"], "3")
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        values = {str(i): dict(enumerate(rng.normal(0, 1, 4).tolist())) for i in range(4)}
        held += all(d.low <= 0 <= d.high for d in estimate(values, effects).differences.values())
    assert 0.92 <= held / 500 <= 0.98

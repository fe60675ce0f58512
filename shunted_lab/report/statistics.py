"""Means with their spread, and differences between variants that are compared seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1; NaN for one value) of `n` values."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of `n` paired differences, their standard deviation, and the t-interval from `low` to `high`.

    With one pair `std`, `low` and `high` are NaN. Differences that are all the same give an interval of width zero:
    true of these seeds, and no proof about others.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int

    @property
    def holds_zero(self) -> bool:
        """Whether the interval leaves open that there is no difference."""
        return not (self.low > 0 or self.high < 0)


def summarize(values: Sequence[float]) -> Summary:
    """Raises ValueError for no values."""
    n = len(values)
    if n == 0:
        raise ValueError("no values to summarize")
    mean = math.fsum(values) / n
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else math.nan
    return Summary(mean, std, n)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference | None:
    """a - b over the seeds that both have, with Student's t-interval; None if they share no seed.

    Args:
        a, b: seed -> value.
        confidence: of the interval.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    found = summarize([a[seed] - b[seed] for seed in seeds])
    if found.n == 1:
        return Difference(found.mean, math.nan, math.nan, math.nan, 1)
    half = stats.t.ppf((1 + confidence) / 2, found.n - 1) * found.std / math.sqrt(found.n)
    return Difference(found.mean, found.std, found.mean - half, found.mean + half, found.n)


def smallest_difference(std: float, n: int, confidence: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that `n` pairs would show: their interval excludes zero with probability `power`.

    The power of a paired t-test: the noncentral t distribution, averaged over quantiles of the estimated deviation
    (scipy's own `nct` is NaN in the tails of few degrees of freedom).

    Args:
        std: standard deviation of the paired differences.
        n: pairs; NaN is returned below 2.
    """
    if n < 2 or math.isnan(std):
        return math.nan
    critical = stats.t.ppf((1 + confidence) / 2, n - 1)
    quantiles = (np.arange(10_000) + 0.5) / 10_000
    bar = critical * np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))  # what a standard normal + shift must exceed

    def lacking(shift: float) -> float:
        return power - float((special.ndtr(shift - bar) + special.ndtr(-shift - bar)).mean())

    return float(optimize.brentq(lacking, 0, bar.max() + 10)) * std / math.sqrt(n)

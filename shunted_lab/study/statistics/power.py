"""What so many seeds detect."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import optimize, special, stats

from shunted_lab.study.statistics import critical

POWER = 0.8


def smallest_difference(std: float, n: int, c: float, df: int, power: float = POWER) -> float:
    """The smallest true difference that `n` pairs detect: their interval excludes zero with probability `power`.

    The power of a t test: the noncentral t distribution, averaged over quantiles of the estimated deviation (scipy's
    own `nct` is NaN in the tails of few degrees of freedom).

    Args:
        std: standard deviation of the paired differences, taken as known.
        n: pairs; NaN is returned below 2.
        c: critical value of the interval.
        df: degrees of freedom of the estimated deviation.
    """
    return math.nan if n < 2 or math.isnan(std) else std * _detectable(c, df, power) / math.sqrt(n)


@cache
def _detectable(c: float, df: int, power: float) -> float:
    """What is detected, in standard errors of the mean difference."""
    quantiles = (np.arange(10_000) + 0.5) / 10_000
    bar = c * np.sqrt(stats.chi2.ppf(quantiles, df) / df)  # what a standard normal + shift must exceed

    def lacking(shift: float) -> float:
        return power - float((special.ndtr(shift - bar) + special.ndtr(-shift - bar)).mean())

    return float(optimize.brentq(lacking, 0, bar.max() + 10))


def deviation_range(df: int, confidence: float = 0.95) -> tuple[float, float]:
    """True standard deviation / estimated one, from the chi-square distribution: the range with this confidence."""
    low, high = (float(np.sqrt(df / stats.chi2.ppf(q, df))) for q in ((1 + confidence) / 2, (1 - confidence) / 2))
    return low, high


def detectable_with(std: float, sizes: tuple[int, ...], n: int, confidence: float = 0.95) -> float:
    """The smallest difference that a complete table with `n` seeds detects.

    Args:
        std: standard deviation of the paired differences, the same for all.
        sizes: how many variants are compared with each baseline.
    """
    df = sum(sizes) * (n - 1)
    return smallest_difference(std, n, critical.dunnett(sizes, df, confidence), df)

"""Means with their spread, and differences of two variants that are compared seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

TINY = 1e-12  # a spread of fractions that is rounding of the arithmetic only


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1; NaN for one value) of `n` values."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of `n` paired differences, their own standard deviation, and an interval from `low` to `high`.

    `low` and `high` are NaN where there is no interval: of one pair, and of differences that are the same in every
    seed, which say nothing about other seeds.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def holds_zero(self) -> bool:
        """Whether it is left open that there is no difference: the interval contains zero, or there is none."""
        return not (self.low > 0 or self.high < 0)

    @property
    def is_constant(self) -> bool:
        """Whether the differences are the same in every seed, of several."""
        return self.n > 1 and self.std <= TINY


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
        confidence: of this interval alone; `family.compare` has intervals that hold together.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    found = summarize([a[seed] - b[seed] for seed in seeds])
    if found.n == 1 or found.std <= TINY:
        return Difference(found.mean, found.std, math.nan, math.nan, found.n)
    half = float(stats.t.ppf((1 + confidence) / 2, found.n - 1)) * found.std / math.sqrt(found.n)
    return Difference(found.mean, found.std, found.mean - half, found.mean + half, found.n)

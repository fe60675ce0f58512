"""Means with their spread, and differences between variants that are compared seed by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

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
    return math.nan if n < 2 or math.isnan(std) else std * _detectable(n, confidence, power)


@cache
def _detectable(n: int, confidence: float, power: float) -> float:
    """What `n` pairs detect, in standard deviations."""
    critical = stats.t.ppf((1 + confidence) / 2, n - 1)
    quantiles = (np.arange(10_000) + 0.5) / 10_000
    bar = critical * np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))  # what a standard normal + shift must exceed

    def lacking(shift: float) -> float:
        return power - float((special.ndtr(shift - bar) + special.ndtr(-shift - bar)).mean())

    return float(optimize.brentq(lacking, 0, bar.max() + 10)) / math.sqrt(n)


def wilson(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) of the share of which `right` of `n` images are a sample."""
    interval = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class McNemar:
    """Images that only the first of two models has right (`only_a`), only the second (`only_b`), and the exact p."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
    """McNemar's exact test (two-sided binomial) of two models on the same images.

    Args:
        a, b: (N,) booleans, whether each image is right.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Mean of a - b over the same images, with the percentile interval of resampled images (Efron and Tibshirani 1993).

    It says what other images of the same kind could have shown of these trained models; seeds are not resampled.

    Args:
        a, b: (N,) scores in [0, 1] of each image, or (n, N) of n runs, whose means are compared.
        confidence: of the interval.
        resamples: how often N images are drawn.
        seed: of the drawing.
    """
    a, b = np.atleast_2d(a).astype(np.float64), np.atleast_2d(b).astype(np.float64)
    if a.shape[1] != b.shape[1] or not a.size or not b.size:
        raise ValueError(f"{a.shape[1]} and {b.shape[1]} images cannot be paired")
    differences = a.mean(0) - b.mean(0)
    # Few values occur: how often each is drawn has a multinomial distribution, and no image has to be drawn by itself.
    values, counts = np.unique(differences.round(12), return_counts=True)
    n = len(differences)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples) @ values / n
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    std = float(differences.std(ddof=1)) if n > 1 else math.nan
    return Difference(float(differences.mean()), std, float(low), float(high), n)


def bootstrap(
    score: Callable[[np.ndarray], np.ndarray], units: int, resamples: int = 2_000, seed: int = 0
) -> np.ndarray:
    """Scores (resamples, ...) of images, or groups of them, that are drawn with replacement, as many as there are.

    The same seed draws the same ones for two models, so that their scores are paired.

    Args:
        score: (R, units) how often each is drawn -> (R, ...).
    """
    rng = np.random.default_rng(seed)
    step = max(1, 2**24 // units)  # resamples at a time: 128 MB
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([score(rng.multinomial(units, np.full(units, 1 / units), size=size)) for size in sizes])


def bootstrap_interval(draws: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of resampled scores (R,); those without a value are left out."""
    low, high = np.nanquantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def leave_one_out(
    values: Mapping[str, Mapping[int, float]], full: str, without: Mapping[str, str], none: str | None = None
) -> dict[str, Difference | None]:
    """The main effect of each part, as full model minus the model without it, seed by seed.

    Args:
        values: variant -> seed -> value.
        full: the variant with all parts.
        without: part -> the variant that lacks this part only.
        none: the variant that lacks all of them. With it there are two more entries: `all parts`, full minus none, and
            `interaction`, what the effects of single parts leave unexplained of it.
    """
    effects = {part: paired_difference(values[full], values[name]) for part, name in without.items()}
    if none is None:
        return effects
    together = {s: values[full][s] - values[none][s] for s in values[full].keys() & values[none].keys()}
    seeds = set(together).intersection(*(values[name].keys() for name in without.values()))
    single = {s: sum(values[full][s] - values[name][s] for name in without.values()) for s in seeds}
    zero = dict.fromkeys(together, 0.0)
    return effects | {
        "all parts": paired_difference(together, zero),
        "interaction": paired_difference({s: together[s] for s in seeds}, single),
    }

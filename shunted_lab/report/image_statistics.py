"""What other test images could have shown of trained models: exact tests and resampled images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from shunted_lab.study.statistics.paired import Difference


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

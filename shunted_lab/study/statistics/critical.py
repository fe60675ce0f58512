"""Critical values: how far the largest of several t statistics goes by chance.

The statistics share one estimated standard deviation with `df` degrees of freedom (a multivariate t distribution).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

Z, Z_WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
Z_WEIGHTS = Z_WEIGHTS / Z_WEIGHTS.sum()
S, S_WEIGHTS = np.polynomial.legendre.leggauss(200)  # over quantiles of the estimated standard deviation
S, S_WEIGHTS = (S + 1) / 2, S_WEIGHTS / 2


def dunnett_cdf(c: float, sizes: Sequence[int], df: int) -> float:
    """P(all |T| <= c) of comparisons with baselines (Dunnett, JASA 50, 1955).

    Args:
        sizes: how many variants are compared with each baseline. Those of one baseline have correlation 1/2, of
            different baselines 0.
        df: degrees of freedom of the standard deviation that all share.
    """
    reach = c * np.sqrt(2 * stats.chi2.ppf(S, df) / df)[:, None]  # differences of two normals have deviation sqrt 2
    inside = special.ndtr(Z + reach) - special.ndtr(Z - reach)  # one variant, given its baseline's value Z
    found = np.ones(len(S))
    for k in sizes:
        found *= (inside**k) @ Z_WEIGHTS
    return float(found @ S_WEIGHTS)


@lru_cache(1024)
def dunnett(sizes: tuple[int, ...], df: int, confidence: float) -> float:
    """The critical value of Dunnett's two-sided comparisons; Student's for a single one."""
    if sizes == (1,):
        return float(stats.t.ppf((1 + confidence) / 2, df))
    high = float(stats.t.ppf(1 - (1 - confidence) / (2 * sum(sizes)), df))  # Bonferroni's is larger
    return float(optimize.brentq(lambda c: dunnett_cdf(c, sizes, df) - confidence, 0.5, high + 1e-3, xtol=1e-6))


def bonferroni(comparisons: int, df: int, confidence: float) -> float:
    """The critical value of several t statistics, whatever their correlation and their standard deviations are."""
    return float(stats.t.ppf(1 - (1 - confidence) / (2 * comparisons), df))


def largest(correlation: np.ndarray, df: int, confidence: float) -> float:
    """The critical value of t statistics of any correlation, by simulation: the same draws for the same arguments.

    Args:
        correlation: (m, m) of the statistics; singular ones are allowed.
    """
    return _largest(np.ascontiguousarray(correlation.round(12)).tobytes(), len(correlation), df, confidence)


@lru_cache(256)
def _largest(correlation: bytes, m: int, df: int, confidence: float, draws: int = 2**18, seed: int = 0) -> float:
    values, vectors = np.linalg.eigh(np.frombuffer(correlation).reshape(m, m))
    root = vectors * np.sqrt(np.clip(values, 0, None))
    rng = np.random.default_rng(seed)
    deviations = np.sqrt(stats.chi2.ppf((rng.permutation(draws) + 0.5) / draws, df) / df)
    statistics = np.abs(rng.standard_normal((draws, m)) @ root.T).max(1) / deviations
    return float(np.quantile(statistics, confidence))


@lru_cache(1024)
def cochran(sizes: tuple[int, ...], n: int, level: float = 0.05, draws: int = 20_000) -> tuple[float, float]:
    """The shares in the residual sum of squares that one variant, and one baseline, have by chance at most.

    Cochran's C (Annals of Eugenics 11, 1941) of the residuals of complete seed x variant tables whose spreads are
    equal, simulated with one seed. A baseline has a bound of its own: it is in all comparisons, so its spread matters
    most.

    Args:
        sizes: how many variants stand beside each baseline.
        n: seeds.
        level: of each of the two.
    """
    rng = np.random.default_rng(0)
    sums = [residual_squares(rng.standard_normal((draws, n, k + 1))) for k in sizes]
    total = np.concatenate(sums, 1).sum(1)
    shares = (np.concatenate(sums, 1).max(1) / total, np.stack([of[:, 0] for of in sums], 1).max(1) / total)
    largest, of_baseline = (float(np.quantile(share, 1 - level)) for share in shares)
    return largest, of_baseline


def residual_squares(y: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
    """(N, V) sum of squares of each variant's residuals in N tables: without the means of seeds and of variants.

    Args:
        y: (N, n, V) a value for each seed and variant.
        active: (N, V) the variants that a table has; all without it. The others have 0.
    """
    if active is None:
        active = np.ones((1, y.shape[-1]), bool)
    shown = active[:, None, :]
    centred = np.where(shown, y - y.mean(1, keepdims=True), 0.0)
    rows = centred.sum(2, keepdims=True) / np.maximum(shown.sum(2, keepdims=True), 1)
    found: np.ndarray = np.where(shown, (centred - rows) ** 2, 0.0).sum(1)
    return found

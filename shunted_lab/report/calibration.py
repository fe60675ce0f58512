"""An A/A study: variants of one configuration, from which the intervals, the pairing and the noise are measured.

Its variants differ in nothing but what a seed shares with the baseline (`recipe.pair`), so every true difference is
zero, and whatever a table would find is a false alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from shunted_lab.config.experiment import Config
from shunted_lab.config.recipe import SOURCES
from shunted_lab.config.run import RunConfig
from shunted_lab.output.quantities import Unit, counted
from shunted_lab.report.facts import Fact
from shunted_lab.report.resamples import score_draws
from shunted_lab.study.statistics.family import compare
from shunted_lab.study.statistics.paired import summarize
from shunted_lab.study.statistics.power import deviation_range
from shunted_lab.tasks.evidence import StoredEvidence

SPLITS = 400  # of the baseline's seeds into variants
DESIGNS = ((1, 3), (2, 3), (2, 5), (3, 5), (5, 3))  # variants beside the baseline, seeds of each


@dataclass(frozen=True)
class Quantity:
    """A row of the table: what was measured, its value and, where there is one, its 95 % range, as text."""

    name: str
    value: str
    interval: str = ""


@dataclass(frozen=True)
class Calibration:
    """What an A/A study measures."""

    quantities: list[Quantity]
    facts: list[Fact]


def calibrate(
    config: Config,
    variants: Mapping[str, RunConfig],
    values: Mapping[str, Mapping[int, float]],
    evidence: Sequence[StoredEvidence],
    unit: Unit,
) -> Calibration | None:
    """Measure; None as long as the baseline has fewer than six results.

    Args:
        values: variant -> seed -> the metric of the table.
        evidence: of the baseline's runs, on the same test images.
    """
    baseline = values[str(config.baseline)]
    if len(baseline) < 6:
        return None
    scores = np.array([baseline[seed] for seed in sorted(baseline)])
    quantities = [*_coverage(scores), *_pairing(config, variants, values), *_noise(scores, evidence, unit)]
    coverage = (
        f"the {len(scores)} results of {config.baseline} are split into variants {SPLITS} times at random; all true "
        "differences are zero. The splits share results, so the share has more noise than that of independent tables"
    )
    pairing = (
        "variance of the difference between two runs of one seed / between two seeds; 1: pairing does not help, 0: the "
        "two runs are the same"
    )
    shown_in = unit.of_difference or unit.symbol
    noise = (
        f"{f'in {shown_in}; ' if shown_in else ''}over seeds: other trainings on these test images; over images: these "
        "trainings on other test images of the same kind"
    )
    facts = [Fact("Coverage", coverage), Fact("Pairing", pairing), Fact("Noise", noise)]
    return Calibration(quantities, facts)


def _coverage(scores: np.ndarray) -> list[Quantity]:
    """How often intervals hold zero, for the baseline's results split into variants at random."""
    found = []
    for k, n in ((k, n) for k, n in DESIGNS if (k + 1) * n <= len(scores)):
        rng = np.random.default_rng([k, n])
        together = alone = 0
        for _ in range(SPLITS):
            table = rng.permutation(scores)[: (k + 1) * n].reshape(k + 1, n)
            named = {f"{i}": dict(enumerate(row)) for i, row in enumerate(table.tolist())}
            family = compare(named, {f"{i}": "0" for i in range(1, k + 1)})
            together += all(d is not None and d.holds_zero for d in family.differences.values())
            alone += all(d is not None and d.holds_zero for d in family.separate.values())
        design = f"{counted(k, 'variant')} and a baseline, {n} seeds"
        found.append(Quantity(f"all simultaneous intervals hold zero: {design}", f"{100 * together / SPLITS:.1f} %"))
        if k > 1:
            found.append(Quantity(f"all separate intervals hold zero: {design}", f"{100 * alone / SPLITS:.1f} %"))
    return found


def _pairing(
    config: Config, variants: Mapping[str, RunConfig], values: Mapping[str, Mapping[int, float]]
) -> list[Quantity]:
    """What is left of the variance of a difference where a seed shares these sources."""
    found, base = [], values[str(config.baseline)]
    for name, run in variants.items():
        both = sorted(values[name].keys() & base.keys())
        shared = [source for source in SOURCES if source in run.recipe.pair]
        if name == config.baseline or len(both) < 6:
            continue
        n = len(both)
        variances = [summarize([of[s] for s in both]).std ** 2 for of in (base, values[name])]
        left = summarize([values[name][s] - base[s] for s in both]).std ** 2 / sum(variances)
        low, high = _ratio_range(left, n)
        what = f"variance of a difference, pair: [{', '.join(shared)}]"
        found.append(Quantity(what, f"{left:.2f}", f"[{low:.2f}, {high:.2f}]"))
    return found


def _ratio_range(left: float, n: int) -> tuple[float, float]:
    """The 95 % range of 1 - r, for the correlation r of two runs of one seed (Fisher's z; equal variances)."""
    z, half = math.atanh(min(1 - left, 1 - 1e-12)) if left < 2 else -math.inf, 1.96 / math.sqrt(n - 3)
    return 1 - math.tanh(z + half), 1 - math.tanh(z - half)


def _noise(scores: np.ndarray, evidence: Sequence[StoredEvidence], unit: Unit) -> list[Quantity]:
    """Standard deviations over seeds and over test images."""
    std, n = float(scores.std(ddof=1)), len(scores)
    low, high = (std * factor for factor in deviation_range(n - 1))
    found = [Quantity("standard deviation over seeds", _text(std, unit), f"[{_text(low, unit)}, {_text(high, unit)}]")]
    normal = stats.shapiro(scores).pvalue
    found.append(Quantity("Shapiro-Wilk test that seeds are normal", f"p = {normal:.2f}"))
    if len(evidence) > 1:
        draws = np.stack([score_draws(of) for of in evidence])
        found.append(Quantity("standard deviation over test images, of one run", _text(_mean(draws.std(1)), unit)))
        pairs = [(draws[a] - draws[b]).std() for a, b in combinations(range(len(draws)), 2)]
        found.append(Quantity("... of the difference of two seeds", _text(_mean(np.array(pairs)), unit)))
        found.append(Quantity("... of the mean of all seeds", _text(float(draws.mean(0).std()), unit)))
    return found


def _mean(deviations: np.ndarray) -> float:
    """Of standard deviations: the root of the mean variance."""
    return float(np.sqrt((deviations**2).mean()))


def _text(value: float, unit: Unit) -> str:
    return f"{unit.scale * value:.{unit.digits}f}"

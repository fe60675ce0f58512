"""Effects of parts and factors: sums of variants with weights, with intervals that hold together.

Like the comparisons of `family`, but for any weights that add up to zero. The effects of one experiment share variants,
so they are correlated: effects i and j by w_i . w_j / (|w_i| |w_j|), where the spreads of variants are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from shunted_lab.study.statistics import critical
from shunted_lab.study.statistics.family import Family, residual_squares, why_not_shared
from shunted_lab.study.statistics.paired import Difference, paired_difference

Weights = dict[str, float]  # variant -> its weight


def leave_one_out(full: str, without: Sequence[str], none: str | None = None) -> dict[str, Weights]:
    """The effect of each part: the full model minus the model without it.

    Args:
        full: the variant with all parts.
        without: the variants that lack one part each.
        none: the variant that lacks all of them. With it there are two more effects: `all parts`, full minus none, and
            `interaction`, what the effects of single parts leave unexplained of it.
    """
    effects = {name: {full: 1.0, name: -1.0} for name in without}
    if none is not None:
        effects["all parts"] = {full: 1.0, none: -1.0}
        effects["interaction"] = {full: 1.0 - len(without), none: -1.0, **dict.fromkeys(without, 1.0)}
    return effects


def factorial(cells: Mapping[frozenset[str], str], factors: Sequence[str]) -> dict[str, Weights]:
    """Main effects and interactions of a 2^k design.

    The main effect of a factor is the mean difference that it makes, over all combinations of the others. The
    interaction of two is half of what one changes in the effect of the other, and so on (Box, Hunter and Hunter,
    Statistics for Experimenters, chapter 5).

    Args:
        cells: the factors that a variant has -> its name, for all 2^k of them.
    """
    effects = {}
    for count in range(1, len(factors) + 1):
        for chosen in combinations(factors, count):
            signs = {name: (-1.0) ** (count - len(having & set(chosen))) for having, name in cells.items()}
            effects[" x ".join(chosen)] = {name: sign * 2 / len(cells) for name, sign in signs.items()}
    return effects


def estimate(
    values: Mapping[str, Mapping[int, float]], effects: Mapping[str, Weights], confidence: float = 0.95
) -> Family:
    """Effects with simultaneous intervals, over the seeds that all their variants have.

    Args:
        values: variant -> seed -> value.
        effects: name -> weights, which add up to zero.
    """
    size = len(effects)
    each = {name: _by_seed(values, weights) for name, weights in effects.items()}
    zero: dict[int, float] = dict.fromkeys((seed for of in each.values() for seed in of), 0.0)
    separate = {name: paired_difference(of, zero) for name, of in each.items()}
    variants = list(dict.fromkeys(name for weights in effects.values() for name in weights))
    reason = "holes" if len({frozenset(values[name]) for name in variants}) > 1 else ""
    if not any(d is not None and d.n > 1 for d in separate.values()):
        return Family(separate, separate, size, "bonferroni", "holes", confidence=confidence)
    reason = reason or why_not_shared(values, [variants], separate)
    if reason:
        level = 1 - (1 - confidence) / size
        own = {name: paired_difference(of, zero, level) for name, of in each.items()}
        return Family(own, separate, size, "bonferroni", reason, confidence=confidence)
    n = len(values[variants[0]])
    df = (len(variants) - 1) * (n - 1)
    std = math.sqrt(math.fsum(residual_squares(values, [variants]).values()) / df)
    matrix = np.array([[weights.get(name, 0.0) for name in variants] for weights in effects.values()])
    lengths = np.linalg.norm(matrix, axis=1)
    unit = matrix / lengths[:, None]
    c = critical.largest(unit @ unit.T, df, confidence)
    found: dict[str, Difference | None] = {}
    for (name, d), length in zip(separate.items(), lengths, strict=True):
        assert d is not None
        half = c * std * float(length) / math.sqrt(n)
        found[name] = Difference(d.mean, d.std, d.mean - half, d.mean + half, d.n)
    return Family(found, separate, size, "shared", "", std, df, c, confidence)


def _by_seed(values: Mapping[str, Mapping[int, float]], weights: Weights) -> dict[int, float]:
    seeds = set.intersection(*(set(values[name]) for name in weights))
    return {seed: math.fsum(w * values[name][seed] for name, w in weights.items()) for seed in sorted(seeds)}

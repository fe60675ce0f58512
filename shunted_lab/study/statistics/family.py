"""All comparisons of a table, with intervals that hold together.

Complete tables: the paired form of Dunnett's comparisons. The value of variant v with seed s is mean_v + seed_s + e.
The residuals e of all variants give one standard deviation with k (n - 1) degrees of freedom, for k variants beside
their baseline and n seeds. Where the spreads of variants differ clearly (`critical.cochran`), or results are missing,
each comparison has its own paired t-interval at Bonferroni's level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shunted_lab.study.statistics import critical
from shunted_lab.study.statistics.paired import TINY, Difference, paired_difference
from shunted_lab.study.statistics.power import detectable_with, smallest_difference


@dataclass(frozen=True)
class Family:
    """The comparisons of a table.

    Args:
        differences: variant -> its difference to its baseline with a simultaneous interval; None where they share no
            seed.
        separate: the same with intervals that hold one by one.
        size: how many comparisons the intervals hold for together.
        method: `t` (one comparison), `dunnett`, `bonferroni`, or `shared`: effects with one standard deviation.
        reason: why it is `bonferroni`: `holes`, `spreads`, or `constant` where a variant differs by the same in every
            seed.
        std: of a paired difference, estimated from all variants (`dunnett`); NaN otherwise.
        df: its degrees of freedom.
        critical: the critical value of all intervals (`dunnett`, `t`); NaN otherwise.
        confidence: of all intervals together.
        sizes: how many variants are compared with each baseline (`dunnett`).
    """

    differences: dict[str, Difference | None]
    separate: dict[str, Difference | None]
    size: int
    method: str
    reason: str = ""
    std: float = math.nan
    df: int = 0
    critical: float = math.nan
    confidence: float = 0.95
    sizes: tuple[int, ...] = ()

    def detectable(self, variant: str, n: int) -> float:
        """The smallest true difference that a table with `n` seeds detects, if spreads stay as they are."""
        found = self.differences[variant]
        assert found is not None
        if self.method == "dunnett":
            return detectable_with(self.std, self.sizes, n, self.confidence)
        c = critical.bonferroni(self.size, n - 1, self.confidence)
        return smallest_difference(found.std, n, c, n - 1)

    def spread(self, variant: str) -> tuple[float, int, float]:
        """Standard deviation of a variant's paired difference, its degrees of freedom, and the critical value."""
        if self.method == "dunnett":
            return self.std, self.df, self.critical
        found = self.differences[variant]
        assert found is not None and found.n > 1
        return found.std, found.n - 1, critical.bonferroni(self.size, found.n - 1, self.confidence)


def compare(
    values: Mapping[str, Mapping[int, float]],
    baselines: Mapping[str, str],
    confidence: float = 0.95,
    sizes: tuple[int, ...] = (),
) -> Family:
    """Compare variants with their baselines.

    Args:
        values: variant -> seed -> value, of baselines too.
        baselines: variant -> the one it is compared with; all of them are one family, also where some have no values.
        confidence: of all intervals together.
        sizes: how many variants the family has beside each baseline, where others than these belong to it.

    Raises:
        ValueError: for a value that is NaN or infinite.
    """
    for name, of in values.items():
        if not all(map(math.isfinite, of.values())):
            raise ValueError(f"{name}: a value is NaN or infinite")
    separate = {name: paired_difference(values[name], values[base]) for name, base in baselines.items()}
    sizes = sizes or sizes_of(baselines)
    size = sum(sizes)
    if not any(d is not None and d.n > 1 for d in separate.values()):
        return Family(separate, separate, size, "t" if size == 1 else "bonferroni", "holes", confidence=confidence)
    reason = why_not_shared(values, groups_of(baselines), separate)
    if reason or size == 1:
        level = 1 - (1 - confidence) / size
        own = {name: paired_difference(values[name], values[base], level) for name, base in baselines.items()}
        return Family(own, separate, size, "t" if size == 1 else "bonferroni", reason, confidence=confidence)
    n = len(values[next(iter(baselines))])
    df = len(baselines) * (n - 1)
    std = math.sqrt(2 * math.fsum(residual_squares(values, groups_of(baselines)).values()) / df)
    c = critical.dunnett(sizes, df, confidence)
    half = c * std / math.sqrt(n)
    found = {
        name: Difference(d.mean, d.std, d.mean - half, d.mean + half, d.n)
        for name, d in separate.items()
        if d is not None
    }
    return Family(dict(found), separate, size, "dunnett", "", std, df, c, confidence, sizes)


def sizes_of(baselines: Mapping[str, str]) -> tuple[int, ...]:
    """How many variants are compared with each baseline."""
    return tuple(sorted(len(of) - 1 for of in groups_of(baselines)))


def groups_of(baselines: Mapping[str, str]) -> list[list[str]]:
    """A baseline and what is compared with it, for each baseline."""
    groups: dict[str, list[str]] = {}
    for name, base in baselines.items():
        groups.setdefault(base, [base]).append(name)
    return list(groups.values())


def why_not_shared(
    values: Mapping[str, Mapping[int, float]],
    groups: Sequence[Sequence[str]],
    separate: Mapping[str, Difference | None],
) -> str:
    """Why variants cannot share one standard deviation (`Family.reason`); empty if they can.

    Args:
        groups: complete tables of seeds x variants, with the baseline first.
        separate: the differences that are compared.
    """
    names = [name for of in groups for name in of]
    if len({frozenset(values[name]) for name in names}) > 1:
        return "holes"
    if any(d is not None and d.std <= TINY for d in separate.values()):
        return "constant"
    sizes = tuple(sorted(len(of) - 1 for of in groups))
    if sum(sizes) == 1:  # the residuals of two mirror each other: nothing can be told
        return ""
    sums, n = residual_squares(values, groups), len(values[names[0]])
    largest, of_baseline = critical.cochran(sizes, n)
    share = {name: found / math.fsum(sums.values()) for name, found in sums.items()}
    noisy_baseline = max(share[of[0]] for of in groups) > of_baseline
    return "spreads" if noisy_baseline or max(share.values()) > largest else ""


def residual_squares(values: Mapping[str, Mapping[int, float]], groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """Of complete tables, the residual sum of squares of each variant and baseline."""
    seeds, found = sorted(values[groups[0][0]]), dict[str, float]()
    for of in groups:
        table = np.array([[[values[name][seed] for name in of] for seed in seeds]])
        found |= dict(zip(of, critical.residual_squares(table)[0].tolist(), strict=True))
    return found

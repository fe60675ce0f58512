"""Seeds until decided: a group-sequential comparison of variants with their baseline.

After 3, 5, 8, ... seeds (the looks) each variant is better, worse, equivalent or undecided. Only undecided variants and
their baseline get the seeds of the next look. Each look uses the simultaneous intervals of `family`, at a level that is
the same at all looks. Simulation chooses it such that, without any true difference, 5 % of all races call a variant
better or worse at some look. These are repeated confidence intervals (Jennison and Turnbull, JRSS B 51, 1989): those of
all looks hold together with 95 % probability, so they are valid wherever a race stops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from shunted_lab.study.rule import UNDECIDED, Rule
from shunted_lab.study.statistics import critical
from shunted_lab.study.statistics.family import Family, compare
from shunted_lab.study.statistics.paired import Difference

DRAWS = 60_000


@dataclass(frozen=True)
class Standing:
    """A race as far as its results go.

    Args:
        verdicts: variant -> what was decided at the last complete look that it took part in.
        seeds: variant -> how many seeds that look had; 0 before the first one is complete. Baselines too.
        differences: with the interval of that look.
        family: the comparisons of the last complete look; None before the first.
        active: the variants that are undecided and have looks left.
        needed: how many seeds `active` and their baselines are to have for the next look; 0 when the race is over.
    """

    verdicts: dict[str, str]
    seeds: dict[str, int]
    differences: dict[str, Difference | None]
    separate: dict[str, Difference | None]
    family: Family | None
    active: list[str]
    needed: int

    @property
    def is_over(self) -> bool:
        return not self.needed

    def required(self, baselines: Mapping[str, str]) -> dict[str, int]:
        """Variant or baseline -> how many seeds it is to have now."""
        need = dict(self.seeds)
        for name in self.active:
            need[name] = need[baselines[name]] = self.needed
        return need


def standing(
    values: Mapping[str, Mapping[int, float]], baselines: Mapping[str, str], seeds: Sequence[int], rule: Rule
) -> Standing:
    """What the results so far decide. Only complete looks count.

    Args:
        values: variant -> seed -> value, of baselines too.
        baselines: variant -> the one it is compared with.
        seeds: all seeds of the race, in their order.
    """
    names = {*baselines, *baselines.values()}
    found = Standing(
        verdicts=dict.fromkeys(baselines, UNDECIDED),
        seeds=dict.fromkeys(names, 0),
        differences=dict.fromkeys(baselines),
        separate=dict.fromkeys(baselines),
        family=None,
        active=list(baselines),
        needed=0,
    )
    for look in rule.looks:
        if not found.active:
            break
        part = {name: baselines[name] for name in found.active}
        here = {*part, *part.values()}
        shown = {name: {seed: values[name][seed] for seed in seeds[:look] if seed in values[name]} for name in here}
        if any(len(of) < look for of in shown.values()):
            return replace(found, needed=look)
        family = compare(shown, part, 1 - rule.level, rule.sizes)
        decided = {name: _verdict(rule, difference) for name, difference in family.differences.items()}
        found = Standing(
            verdicts=found.verdicts | decided,
            seeds=found.seeds | dict.fromkeys(here, look),
            differences=found.differences | family.differences,
            separate=found.separate | family.separate,
            family=family,
            active=[name for name in found.active if decided[name] == UNDECIDED],
            needed=0,
        )
    return replace(found, active=[])


def _verdict(rule: Rule, found: Difference | None) -> str:
    assert found is not None, "a look is complete"
    return rule.verdict(found.low, found.high)


def calibrated_level(
    looks: Sequence[int], sizes: Sequence[int], error: float, draws: int = DRAWS, seed: int = 0
) -> float:
    """The level of each look for which a race without any true difference has `error` false alarms.

    It is the `error` quantile of the smallest p value of all looks, over simulated races.
    """
    rng = np.random.default_rng(seed)
    smallest = np.ones(draws)
    tables = [rng.standard_normal((draws, max(looks), k + 1)) for k in sizes]
    for look in looks:
        part = [table[:, :look] for table in tables]
        largest, own, differ = table_statistics(part, tuple(sizes), look)
        order = np.argsort(np.argsort(-largest))  # 0 for the largest: p values of Dunnett's comparisons
        p = (order + 1) / draws
        alone = np.minimum(1, sum(sizes) * 2 * stats.t.sf(own, look - 1))
        smallest = np.minimum(smallest, np.where(differ, alone, p))
    return float(np.quantile(smallest, error))


def table_statistics(
    tables: Sequence[np.ndarray], sizes: tuple[int, ...], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `family.compare` looks at, of N simulated tables at once: (N,) the largest |t| with the shared deviation and
    with each difference's own, and whether the spreads differ clearly.

    Args:
        tables: (N, n, k + 1) for each baseline, which comes first.
        sizes: k of each.
        n: seeds.
    """
    sums = [critical.residual_squares(table) for table in tables]
    total = np.concatenate(sums, 1).sum(1)
    differences = np.concatenate([table[:, :, 1:] - table[:, :, :1] for table in tables], 2)
    means = np.abs(differences.mean(1))
    shared = np.sqrt(2 * total / (sum(sizes) * (n - 1)) / n)
    own = differences.std(1, ddof=1) / math.sqrt(n)
    if sum(sizes) == 1:
        differ = np.zeros(len(total), bool)
    else:
        largest, of_baseline = critical.cochran(sizes, n)
        noisy = np.stack([of[:, 0] for of in sums], 1).max(1) / total > of_baseline
        differ = noisy | (np.concatenate(sums, 1).max(1) / total > largest)
    return means.max(1) / shared, (means / own).max(1), differ


@dataclass(frozen=True)
class Simulated:
    """Races that were simulated: (N, variants) verdicts and numbers of seeds, and (N,) runs with those of baselines."""

    verdicts: np.ndarray
    seeds: np.ndarray
    runs: np.ndarray


def simulate(
    rule: Rule, effects: Sequence[float], std: float, draws: int = 500, seed: int = 0, noise: Sequence[float] = ()
) -> Simulated:
    """Simulate races.

    Args:
        effects: the true difference of each variant to its baseline, baseline by baseline.
        std: of the paired differences (base units), where the spreads of all are equal.
        noise: spread of each baseline with its variants, as factors of the equal one.
    """
    baselines = {f"v{i}{j}": f"base{i}" for i, k in enumerate(rule.sizes) for j in range(k)}
    names = [name for i, k in enumerate(rule.sizes) for name in (f"base{i}", *(f"v{i}{j}" for j in range(k)))]
    means = dict.fromkeys(names, 0.0) | dict(zip(baselines, effects, strict=True))
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((draws, max(rule.looks), len(names))) * std / math.sqrt(2) * (noise or 1.0)
    y += np.array([means[name] for name in names])
    verdicts, counts, runs = [], [], []
    for table in y:
        values = {name: dict(enumerate(column)) for name, column in zip(names, table.T.tolist(), strict=True)}
        found = standing(values, baselines, range(max(rule.looks)), rule)
        verdicts.append([found.verdicts[name] for name in baselines])
        counts.append([found.seeds[name] for name in baselines])
        runs.append(sum(found.seeds.values()))
    return Simulated(np.array(verdicts), np.array(counts), np.array(runs))

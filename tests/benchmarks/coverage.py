"""Simulated coverage of simultaneous intervals, and error rates of races: `python tests/benchmarks/coverage.py`.

Tables of n seeds and k variants beside a baseline, all without a true difference. The spread of every variant is 1; in
"variant" that of one is 3, in "baseline" that of the baseline. Takes about ten minutes on one core; `fast` a tenth.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy import stats

from shunted_lab.study.rule import Rule
from shunted_lab.study.statistics import critical
from shunted_lab.study.statistics.race import calibrated_level, simulate, table_statistics

SPREADS = {"equal": (1.0, 1.0), "variant x 3": (1.0, 3.0), "baseline x 3": (3.0, 1.0)}  # of baseline and last variant
LOOKS = (3, 5, 8, 12)


def coverage(k: int, n: int, spread: tuple[float, float], tables: int) -> tuple[float, float]:
    """How often all simultaneous, and all separate 95 % intervals hold zero."""
    rng = np.random.default_rng(0)
    noise = np.ones(k + 1)
    noise[0], noise[-1] = spread
    y = rng.standard_normal((tables, n, k + 1)) * noise
    shared, own, differ = table_statistics([y], (k,), n)
    by_shared = shared <= critical.dunnett((k,), k * (n - 1), 0.95)
    by_own = own <= critical.bonferroni(k, n - 1, 0.95)
    separate = own <= stats.t.ppf(0.975, n - 1)
    return float(np.where(differ, by_own, by_shared).mean()), float(separate.mean())


def main() -> None:
    tables, races = (4_000, 500) if "fast" in sys.argv else (20_000, 4_000)
    print("| k | n | separate, equal spreads | " + " | ".join(SPREADS) + " |")
    print("| ---: | ---: | ---: | " + " | ".join(["---:"] * len(SPREADS)) + " |")
    for k in (1, 2, 6, 15):
        for n in (3, 5, 8):
            found = [coverage(k, n, spread, tables) for spread in SPREADS.values()]
            shown = [f"{100 * value:.1f} %" for value in (found[0][1], *(together for together, _ in found))]
            print(f"| {k} | {n} | " + " | ".join(shown) + " |")
    print(f"\nraces with looks after {LOOKS} seeds")
    print("| k | level of a look | false alarms | power at 1, 1.5, 2 standard deviations | seeds then |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for k in (1, 2, 6):
        rule = Rule(LOOKS, None, calibrated_level(LOOKS, (k,), 0.05), (k,))
        none = simulate(rule, [0.0] * k, 1.0, races, seed=1)
        alarms = (none.verdicts != "undecided").any(1).mean()
        some = [simulate(rule, [size] * k, 1.0, races // 4, seed=2) for size in (1.0, 1.5, 2.0)]
        power = ", ".join(f"{(found.verdicts == 'better').mean():.2f}" for found in some)
        seeds = ", ".join(f"{found.seeds.mean():.1f}" for found in some)
        print(f"| {k} | {rule.level:.4f} | {100 * alarms:.1f} % | {power} | {seeds} |")


if __name__ == "__main__":
    main()

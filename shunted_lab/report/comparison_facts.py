"""The facts below a table on its comparisons: over which seeds, by which intervals, and what they can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shunted_lab.config.experiment import Config
from shunted_lab.output.quantities import Unit, counted, in_unit, listed
from shunted_lab.report.evidence import Evidence
from shunted_lab.report.facts import Fact
from shunted_lab.study.rule import UNDECIDED
from shunted_lab.study.statistics.family import Family
from shunted_lab.study.statistics.paired import Difference
from shunted_lab.study.statistics.power import POWER, deviation_range, smallest_difference

if TYPE_CHECKING:
    from shunted_lab.report.table import Row

SEEDS = 20  # that are named one by one
REASONS = {
    "spreads": "the spreads of the variants differ clearly",
    "holes": "results are missing",
    "constant": "a variant differs by the same in every seed",
}


def comparison_facts(config: Config, rows: Sequence[Row], unit: Unit, evidence: Evidence) -> list[Fact]:
    """What is compared, over which seeds, and what they can show."""
    if len(config.all_seeds) == 1:
        return [Fact("Seeds", f"one ({config.all_seeds[0]}): no spread, no comparison")]
    facts = [Fact("Seeds", _seeds(config, rows))]
    if all(row.is_baseline for row in rows):
        return facts
    if evidence.family is None:
        return [*facts, Fact("No interval", "the first look of the race is not complete")]
    facts.append(Fact("Δ", _method(config, unit, evidence)))
    if evidence.standing is not None:
        facts.append(Fact("Race", _race(config, evidence)))
        return [*facts, *_constant(evidence.differences)]
    return [*facts, *_proof(config, evidence.family, unit)]


def interval_name(family: Family | None, is_race: bool = False) -> str:
    """What the intervals of a table are called."""
    if is_race:
        return "repeated 95 % confidence interval"
    return "95 % t-interval" if family is None or family.method == "t" else "simultaneous 95 % interval"


def method_of(family: Family) -> str:
    """How simultaneous intervals were made."""
    if family.method == "t":
        return ""
    if family.method == "bonferroni":
        why = f", as {REASONS[family.reason]}" if family.reason else ""
        return f"Bonferroni's level for {family.size} comparisons, each with its own spread{why}"
    shared = f"one standard deviation of the residuals of all variants, {family.df} degrees of freedom"
    return f"paired Dunnett comparisons: {shared}" if family.method == "dunnett" else shared


def _seeds(config: Config, rows: Sequence[Row]) -> str:
    seeds = config.all_seeds
    if config.race is None:
        return f"{len(seeds)} ({listed([str(seed) for seed in seeds], SEEDS)}); mean ± standard deviation"
    margin = f", margin {config.race.margin}" if config.race.margin is not None else ""
    looks = ", ".join(map(str, config.race.look))
    counts = [row.summary.n if row.summary else 0 for row in rows]
    trained = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    return f"until decided, looks after {looks} seeds{margin}; {trained} were trained; mean ± standard deviation"


def _method(config: Config, unit: Unit, evidence: Evidence) -> str:
    assert evidence.family is not None
    shown_in = unit.of_difference or unit.symbol
    name = interval_name(evidence.family, evidence.rule is not None)
    parts = [f"paired difference to {_compared(config)} with its {name}{f', in {shown_in}' if shown_in else ''}"]
    if evidence.rule is not None:
        parts.append("the intervals of all looks and variants hold together with 95 % probability")
        method = method_of(evidence.family)
        return "; ".join([*parts, f"at the last look {method}"] if method else parts)
    return "; ".join([*parts, *filter(None, [method_of(evidence.family)])])


def _race(config: Config, evidence: Evidence) -> str:
    assert evidence.standing is not None and evidence.rule is not None
    names: dict[str, list[str]] = {}
    for name, verdict in evidence.standing.verdicts.items():
        names.setdefault(verdict, []).append(f"{name} ({evidence.standing.seeds[name]} seeds)")
    found = "; ".join(f"{verdict}: {', '.join(of)}" for verdict, of in names.items())
    if not evidence.standing.is_over:
        return f"{found}; not over, the next look is after {evidence.standing.needed} seeds"
    return f"{found}; over" + (f", {evidence.rule.looks[-1]} seeds were the most" if UNDECIDED in names else "")


def _compared(config: Config) -> str:
    return f"{config.baseline} in the same of {', '.join(config.across)}" if config.across else str(config.baseline)


def _proof(config: Config, family: Family, unit: Unit) -> list[Fact]:
    """Which differences so many seeds can show, and which are not significant."""
    differences = {name: d for name, d in family.differences.items() if d is not None}
    if not differences:
        return []
    if all(difference.n < 2 for difference in differences.values()):
        return [Fact("No interval", "no variant shares two finished seeds with the baseline")]
    facts = _power(family, unit) + _constant(differences)
    undecided = [name for name, d in differences.items() if d.holds_zero and not d.is_constant]
    if undecided:
        facts.append(Fact("Not significant", ", ".join(undecided)))
    return facts


def _constant(differences: Mapping[str, Difference | None]) -> list[Fact]:
    same = [name for name, d in differences.items() if d is not None and d.is_constant]
    return [Fact("Same in every seed", f"{', '.join(same)}; this says nothing about other seeds")] if same else []


def _power(family: Family, unit: Unit) -> list[Fact]:
    """The smallest true difference that each comparison detects, with the range that its estimated spread leaves."""
    by_text: dict[str, list[str]] = {}
    for name, d in family.differences.items():
        if d is not None and d.has_interval:
            std, df, c = family.spread(name)
            by_text.setdefault(detectable_text(std, df, d.n, c, unit), []).append(name)
    everything = len(by_text) == 1 and family.method != "bonferroni"
    found = [text if everything else f"{text} ({', '.join(of)})" for text, of in by_text.items()]
    how = f"with {100 * POWER:.0f} % probability (in brackets: 95 % range, as the spread is estimated)"
    return [Fact("Detectable", f"true differences of {'; '.join(found)}, {how}")] if found else []


def detectable_text(std: float, df: int, n: int, c: float, unit: Unit) -> str:
    """`1.6 [0.9, 4.5] points with n = 3`: what `n` pairs detect, for the spread and for the range of the true one."""
    least = unit.scale * smallest_difference(std, n, c, df)
    digits = max(unit.digits - 1, 0)
    low, high = (least * factor for factor in deviation_range(df))
    return f"{least:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{in_unit(unit)} with n = {n}"


def effects_facts(config: Config, family: Family, unit: Unit) -> list[Fact]:
    """What stands below a table of effects."""
    shown_in = unit.of_difference or unit.symbol
    if config.factorial:
        what = "the change that a factor makes, mean over all combinations of the others"
        what += "; a x b: half of what b changes in the effect of a"
    else:
        what = "full model minus the model without the part"
        none = config.leave_one_out.none if config.leave_one_out is not None else None
        what += "; interaction: what the effects of single parts leave unexplained of all parts" if none else ""
    how = f"simultaneous 95 % intervals of {counted(family.size, 'effect')}; {method_of(family)}"
    return [Fact("Effect", f"{what}{f', in {shown_in}' if shown_in else ''}"), Fact("Intervals", how)]

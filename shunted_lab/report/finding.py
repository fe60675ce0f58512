"""What a table shows, in plain English: which variants are better or worse, and what would decide the others."""

from __future__ import annotations

from shunted_lab.config.experiment import Config
from shunted_lab.output.quantities import Unit, in_unit, signed_text
from shunted_lab.report.render import interval_text
from shunted_lab.report.table import Row, Table
from shunted_lab.study.rule import EQUIVALENT

NAMED = 10  # variants with a sentence of their own; those first that are better or worse
FEW, MANY = 5, 20  # more seeds that are proposed: usually, and at most where they would decide


def finding(table: Table, config: Config) -> str | None:
    """The verdict in one sentence; None where nothing is compared."""
    lines = verdict(table, config)
    if not lines:
        return None
    return f"{lines[0]} {'; '.join(lines[1:])}." if len(lines) > 1 else lines[0]


def verdict(table: Table, config: Config) -> list[str]:
    """What is compared, and a line for each variant beside its baseline, by its simultaneous interval; empty where
    nothing is compared.

    A table with open runs concludes nothing. "Detect" means: with 80 % probability, if the differences keep their
    spread.
    """
    rows = [row for row in table.rows if not row.is_baseline]
    if not rows or not table.compares:
        return []
    if not table.complete:
        return ["Not all runs are done: nothing is concluded yet."]
    metric = table.goal.leading
    first = sorted(rows, key=_is_undecided)
    lines = [_sentence(row, config.baseline_of(row.variant), table) for row in first[:NAMED]]
    more = [f"{len(rows) - NAMED} more variants are in the table"] if len(rows) > NAMED else []
    return [f"{metric.label}:", *lines, *more]


def _is_undecided(row: Row) -> bool:
    return row.difference is None or row.difference.holds_zero


def _sentence(row: Row, baseline: str, table: Table) -> str:
    d, unit = row.difference, table.goal.leading.unit
    if row.verdict == EQUIVALENT and d is not None:
        return f"{row.variant} is equivalent to {baseline}, {interval_text(d, unit)}{in_unit(unit)}"
    if d is None or d.n < 2:
        return f"{row.variant} shares fewer than two seeds with {baseline}"
    if d.is_constant:
        value = signed_text(d.mean, unit)
        return f"{row.variant} differs from {baseline} by {value}{in_unit(unit)} in every seed, which shows no spread"
    if _is_undecided(row):
        more = "" if table.is_race else f": {_more_seeds(row, table)}"
        return f"{row.variant} is undecided, {interval_text(d, unit)}{in_unit(unit)}{more}"
    word = "better" if (d.mean > 0) == (table.goal.leading.direction == "max") else "worse"
    low, high = sorted((abs(d.low), abs(d.high)))
    by = f"{_amount(abs(d.mean), unit)}{in_unit(unit)} [{_amount(low, unit)}, {_amount(high, unit)}]"
    return f"{row.variant} is {word} than {baseline} by {by}"


def _more_seeds(row: Row, table: Table) -> str:
    """How many more seeds would decide a difference of this size; where that are too many, what a few would detect."""
    d, family, unit = row.difference, table.evidence.family, table.goal.leading.unit
    assert d is not None and family is not None
    needed = next((k for k in range(1, MANY + 1) if family.detectable(row.variant, d.n + k) <= abs(d.mean)), 0)
    count = needed or FEW
    least = _amount(family.detectable(row.variant, d.n + count), unit)
    return f"{count} more seed{'' if count == 1 else 's'} would detect {least}{in_unit(unit)}"


def _amount(value: float, unit: Unit) -> str:
    return f"{unit.scale * value:.{unit.digits}f}"

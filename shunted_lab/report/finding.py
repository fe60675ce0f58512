"""What a table shows, in one sentence."""

from __future__ import annotations

from shunted_lab.config.experiment import Config
from shunted_lab.report.render import interval_text
from shunted_lab.report.table import Row, Table


def finding(table: Table, config: Config) -> str | None:
    """Which variants differ from their baseline, by separate 95 % intervals; None for a table that compares nothing.

    A comparison of a table with open runs is not stated.
    """
    rows = [row for row in table.rows if not row.is_baseline]
    if not rows or not table.compares:
        return None
    if not table.complete:
        return "Not all runs are done: nothing is concluded yet."
    clear = [row for row in rows if row.difference is not None and row.difference.n > 1 and not _holds_zero(row)]
    parts = [_clear(row, table, config) for row in clear]
    others = [row.variant for row in rows if row not in clear]
    if others:
        than = {config.baseline_of(name) for name in others}
        beside = than.pop() if len(than) == 1 else "their baselines"
        parts.append(f"no significant difference from {beside}: {', '.join(others)}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "." if not clear else text + "."


def _holds_zero(row: Row) -> bool:
    return row.difference is None or row.difference.holds_zero


def _clear(row: Row, table: Table, config: Config) -> str:
    assert row.difference is not None
    word = "above" if row.difference.mean > 0 else "below"
    metric = table.goal.leading
    interval = interval_text(row.difference, metric.unit, row.planned)
    label = metric.label[0].lower() + metric.label[1:]
    unit = "points" if metric.unit.symbol == "%" else metric.unit.symbol
    return f"{row.variant} is {word} {config.baseline_of(row.variant)} in {label}: {interval} {unit}".rstrip()

"""A table as Markdown, LaTeX, CSV and in the terminal. Numbers are rounded in one place, `cells` and `paper_cells`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from shunted_lab.nn.cost import Cost
from shunted_lab.output.quantities import COSTS, Unit, cell_text, head_text, signed_text
from shunted_lab.output.terminal import Grid
from shunted_lab.report.facts import Fact, bullets, lines, sentences
from shunted_lab.report.table import Row, Table
from shunted_lab.study.statistics.paired import Difference, Summary

UNKNOWN = "–"


@dataclass(frozen=True)
class Block:
    """A table of text, as it stands in every format but CSV."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]]
    facts: Sequence[Fact]


def blocks(table: Table) -> list[Block]:
    """The ablation, and the same variants at paper scale if the experiment has `paper:`."""
    found = [Block(table.title, head(table), [cells(row, table) for row in table.rows], table.facts)]
    if table.paper_title:
        rows = [paper_cells(row, table) for row in table.rows]
        metric = table.goal.leading
        published = (f"Paper: {head_text(metric.label, metric.unit)}", "Paper: params (M)", "Paper: FLOPs (G)")
        columns = ("Variant", "Params (M)", *_macs_head(table), *published)
        found.append(Block(table.paper_title, columns, rows, table.paper_facts))
    if table.evidence.effects is not None:
        found.append(effects_block(table))
    if (calibration := table.calibration) is not None:
        measured: list[Sequence[str]] = [(q.name, q.value, q.interval) for q in calibration.quantities]
        found.append(Block("Calibration", ("Quantity", "Value", "95 % range"), measured, calibration.facts))
    return found


def calibration_csv(table: Table) -> str:
    """One line a quantity, as in the table."""
    assert table.calibration is not None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["quantity", "value", "range"])
    writer.writerows([q.name, q.value, q.interval] for q in table.calibration.quantities)
    return out.getvalue()


def effects_block(table: Table) -> Block:
    """The effects of parts or factors."""
    family, metric = table.evidence.effects, table.goal.leading
    assert family is not None
    rows: list[Sequence[str]] = [
        (name, interval_text(d, metric.unit), str(d.n if d else 0)) for name, d in family.differences.items()
    ]
    return Block(f"Effects on {metric.label}", ("Effect", "Δ [95 % CI]", "n"), rows, table.effects_facts)


def head(table: Table) -> Sequence[str]:
    """The columns; those of measured costs where a variant was measured, with the device where there are several."""
    metrics = [head_text(metric.label, metric.unit) for metric in (table.goal.leading, *table.goal.columns)]
    differences = ["Δ [95 % CI]"] if table.compares else []
    differences += ["Verdict"] if table.compares and table.is_race else []
    measured = [f"{title}{_on(device, table)}" for device, _, title in measured_columns(table)]
    costs = ["Params (M)", *_macs_head(table)] if table.has_costs else []
    return ("Variant", *costs, *measured, *metrics, *differences)


def _macs_head(table: Table) -> list[str]:
    return ["GMACs", "GMACs w/o attn"] if table.goal.both_macs else ["GMACs"]


QUANTITIES = {"latency": "Latency (ms)", "memory": "Memory (MB)"}  # that are measured: the title of their column


def measured_columns(table: Table) -> list[tuple[str, str, str]]:
    """Device, quantity and title of each column of measured costs, for those that some variant has."""
    return [
        (device, key, title)
        for device in table.devices
        for key, title in QUANTITIES.items()
        if any(getattr(row.measured.get(device), key, None) is not None for row in table.rows)
    ]


def _on(device: str, table: Table) -> str:
    return f", {device}" if len(table.devices) > 1 else ""


def measured_value(row: Row, device: str, key: str) -> float | None:
    """A measured cost in the unit of its column; None where it could not be told."""
    value = getattr(row.measured.get(device), key, None)
    return None if value is None else value * COSTS[key].scale


def cells(row: Row, table: Table) -> Sequence[str]:
    """A row's text."""
    measured = [_measured(measured_value(row, device, key)) for device, key, _ in measured_columns(table)]
    unit, units = table.goal.leading.unit, [metric.unit for metric in table.goal.columns]
    more = [UNKNOWN if found is None else _mean(found, u) for found, u in zip(row.columns, units, strict=True)]
    if table.compares:
        more.append("baseline" if row.is_baseline else interval_text(row.difference, unit, row.planned))
        more += ["" if row.is_baseline else row.verdict] if table.is_race else []
    return row.variant, *_cost_cells(row, table), *measured, _headline(row, unit), *more


def _cost_cells(row: Row, table: Table) -> list[str]:
    if row.cost is None:
        return [UNKNOWN] * (1 + len(_macs_head(table))) if table.has_costs else []
    return [_millions(row.cost.params), *_macs(row.cost, table)]


def _macs(cost: Cost, table: Table) -> list[str]:
    return [_giga(cost.macs), *([_giga(cost.macs_linear)] if table.goal.both_macs else [])]


def _measured(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"


def paper_cells(row: Row, table: Table) -> Sequence[str]:
    """A row's text in the second block."""
    assert row.paper_cost is not None
    published = [str(row.paper.get(key, UNKNOWN)) for key in (table.goal.lead, "params", "flops")]
    return row.variant, _millions(row.paper_cost.params), *_macs(row.paper_cost, table), *published


def _millions(count: int) -> str:
    return cell_text(count, COSTS["params"])


def _giga(count: int) -> str:
    return cell_text(count, COSTS["macs"])


def _headline(row: Row, unit: Unit) -> str:
    """`76.21 ± 0.40 (3)`; with open runs `76.21 ± 0.40 (2 of 3: 1 failed)`."""
    found = row.summary
    if not row.open:
        assert found is not None
        return f"{_mean(found, unit)} ({found.n})"
    states = ", ".join(f"{count} {state}" for state, count in row.open.items())
    return f"{_mean(found, unit) if found else UNKNOWN} ({found.n if found else 0} of {row.planned}: {states})"


def _mean(found: Summary, unit: Unit) -> str:
    spread = "" if math.isnan(found.std) else f" ± {_plain(found.std, unit)}"
    return f"{_plain(found.mean, unit)}{spread}"


def _plain(value: float, unit: Unit) -> str:
    return f"{unit.scale * value:.{unit.digits}f}"


def interval_text(found: Difference | None, unit: Unit, planned: int = 0) -> str:
    """`+2.00 [−0.48, +4.48]`; with fewer pairs than planned, or a single one, their number: `+1.00 (n = 1)`. Without an
    interval where the difference is the same in every seed: `−0.71 (same in all 3 seeds)`.
    """
    if found is None:
        return UNKNOWN
    if found.is_constant:
        return f"{signed_text(found.mean, unit)} (same in all {found.n} seeds)"
    low, high = signed_text(found.low, unit), signed_text(found.high, unit)
    interval = f" [{low}, {high}]" if found.has_interval else ""
    pairs = f" (n = {found.n})" if found.n < max(planned, 2) else ""
    return f"{signed_text(found.mean, unit)}{interval}{pairs}"


def to_markdown(table: Table) -> str:
    """Pipe tables with their facts."""
    return "\n".join(map(block_markdown, blocks(table)))


def block_markdown(block: Block) -> str:
    """A pipe table with its facts."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (block.head, *block.rows)]
    ruled = [lines[0], ["---"] + ["---:"] * (len(lines[0]) - 1), *lines[1:]]
    body = "\n".join(f"| {' | '.join(line)} |" for line in ruled)
    return f"**{block.title}**\n\n{body}\n\n{bullets(block.facts)}\n"


def block_grid(block: Block) -> Grid:
    """A table for a terminal."""
    return Grid(block.title, block.head, block.rows, lines(block.facts))


LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "Δ": r"$\Delta$"}
LATEX |= {UNKNOWN: "--", "<": "$<$", ">": "$>$", "×": r"$\times$"}


def to_latex(table: Table) -> str:
    """`table` environments with booktabs rules; needs `\\usepackage{booktabs}`."""
    parts = []
    for block in blocks(table):
        columns = "l" + "r" * (len(block.head) - 1)
        lines = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in (block.head, *block.rows)]
        body = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
        body += [*lines[1:], r"\bottomrule", r"\end{tabular}"]
        body += [rf"\caption{{\textbf{{{_escape(block.title)}.}} {_escape(sentences(block.facts))}}}", r"\end{table}"]
        parts.append("\n".join(body) + "\n")
    return "\n".join(parts)


def _escape(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def to_csv(table: Table) -> str:
    """One line a variant with the table's numbers as they are rounded there, each in a column; empty where unknown.

    Metrics and differences are in the units of the table. Without differences there are no columns for them.
    `runs.csv` has every run in full, in base units (fractions).
    """
    key, further = table.goal.lead, [metric.key for metric in table.goal.columns]
    names = [
        "variant",
        *(["baseline"] if table.compares else []),
        "params_m",
        "gmacs",
        *(f"{column}{of}" for of in _suffixes(table) for column in ("latency_ms", "memory_mb")),
        key,
        f"{key}_std",
        "n",
        "n_planned",
    ]
    names += ["open", *(part for name in further for part in (name, f"{name}_std"))]
    names += ["difference", "difference_low", "difference_high", "n_pairs"] if table.compares else []
    names += ["verdict"] if table.compares and table.is_race else []
    names += ["paper_scale_params_m", "paper_scale_gmacs", f"paper_{key}", "paper_params_m", "paper_flops_g"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(_csv_values(row, table) for row in table.rows)
    return out.getvalue()


def effects_csv(table: Table) -> str:
    """One line an effect, as they are rounded in the table."""
    family, unit = table.evidence.effects, table.goal.leading.unit
    assert family is not None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["effect", "difference", "difference_low", "difference_high", "n_seeds"])
    for name, d in family.differences.items():
        texts = [number_text(value, unit) for value in (d.mean, d.low, d.high)] if d else [""] * 3
        writer.writerow([name, *texts, d.n if d else 0])
    return out.getvalue()


def _csv_values(row: Row, table: Table) -> list[object]:
    compares, unit, columns = table.compares, table.goal.leading.unit, table.goal.columns
    d = row.difference
    states = "; ".join(f"{count} {state}" for state, count in row.open.items())
    values: list[object] = [row.variant, *([row.is_baseline] if compares else [])]
    values += [_millions(row.cost.params), _giga(row.cost.macs)] if row.cost else ["", ""]
    for device in table.devices or [""]:
        texts = [_measured(measured_value(row, device, key)) for key in QUANTITIES]
        values += ["" if text == UNKNOWN else text for text in texts]
    values += [*_csv_summary(row.summary, unit), row.summary.n if row.summary else 0, row.planned, states]
    for found, metric in zip(row.columns, columns, strict=True):
        values += _csv_summary(found, metric.unit)
    if compares:
        values += [*(number_text(value, unit) for value in (d.mean, d.low, d.high)), d.n] if d else [""] * 4
        values += [row.verdict] if table.is_race else []
    paper = row.paper_cost
    values += [_millions(paper.params), _giga(paper.macs)] if paper else ["", ""]
    return values + [row.paper.get(key, "") for key in (table.goal.lead, "params", "flops")]


def _suffixes(table: Table) -> list[str]:
    """What tells the columns of several devices apart; nothing for one."""
    return [f" ({device})" for device in table.devices] if len(table.devices) > 1 else [""]


def _csv_summary(found: Summary | None, unit: Unit) -> list[str]:
    return [number_text(found.mean, unit), number_text(found.std, unit)] if found else ["", ""]


def number_text(value: float, unit: Unit) -> str:
    """A number in a unit that is said elsewhere; nothing for NaN."""
    return "" if math.isnan(value) else _plain(value, unit)


def grids(table: Table) -> list[Grid]:
    """The table, and that of the paper's scale, for a terminal."""
    return [block_grid(block) for block in blocks(table)]

"""The ablation table: one row a variant, from the states of its runs. It fails closed.

A run that is missing, interrupted or failed, or whose metric is not finite, shows in its row and in the caption; it is
never averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shunted_lab.config.experiment import Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.task import Goal
from shunted_lab.nn.cost import Cost
from shunted_lab.report.facts import Fact
from shunted_lab.report.statistics import Difference, Summary, paired_difference, summarize
from shunted_lab.report.table_facts import measured_facts, paper_facts, table_facts
from shunted_lab.study.costs.measure import Measured
from shunted_lab.study.states import RunState


@dataclass(frozen=True)
class Row:
    """What is known of a variant. Metrics are in base units; `open` counts its runs that are not done, by state."""

    variant: str
    cost: Cost | None  # None for a result from elsewhere
    planned: int
    summary: Summary | None
    difference: Difference | None  # None for the baseline, and where no seed is shared
    is_baseline: bool
    open: dict[str, int] = field(default_factory=dict)
    paper_cost: Cost | None = None
    paper: Mapping[str, float] = field(default_factory=dict)  # published; metric in its unit, params [M], flops [G]
    columns: Sequence[Summary | None] = ()  # the goal's further metrics
    measured: Mapping[str, Measured] = field(default_factory=dict)  # by device


@dataclass(frozen=True)
class Table:
    """Rows, and the facts below them; `render` makes text of it."""

    title: str
    goal: Goal
    rows: list[Row]
    facts: list[Fact]
    paper_title: str | None = None
    paper_facts: list[Fact] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not any(row.open for row in self.rows)

    @property
    def has_costs(self) -> bool:
        return any(row.cost is not None for row in self.rows)

    @property
    def devices(self) -> list[str]:
        """The devices on which a variant was measured."""
        return sorted({device for row in self.rows for device in row.measured})

    @property
    def compares(self) -> bool:
        """Whether there are differences: a variant beside the baseline, and more than one seed."""
        return any(not row.is_baseline and row.planned > 1 for row in self.rows)


def build_table(
    config: Config,
    variants: Mapping[str, RunConfig],
    states: Sequence[RunState],
    costs: Mapping[str, Cost],
    paper_costs: Mapping[str, Cost],
    measured: Mapping[str, Mapping[str, Measured]] | None = None,
    begins_with: str = "",
) -> Table:
    """The table of an experiment.

    Args:
        config: the experiment.
        variants: the configuration of each, as composed.
        states: one for each planned run, in any order.
        costs, paper_costs: by variant, at the experiment's size and at the paper's (empty without `paper:`).
        measured: latency and memory by variant and device.
        begins_with: the weights that runs begin with (`Manifest.begins_with`).
    """
    measured = measured or {}
    states = checked(states)
    run = next(iter(variants.values()))
    goal = run.task.goal(run.data)
    values = headlines(variants, states)
    by_variant: dict[str, list[RunState]] = {name: [] for name in variants}
    for state in states:
        by_variant[state.run.variant].append(state)
    rows = []
    for name, mine in by_variant.items():
        baseline = config.baseline_of(name)
        results = [state.result for state in mine if state.result is not None]
        rows.append(
            Row(
                name,
                costs[name],
                len(mine),
                summarize(list(values[name].values())) if values[name] else None,
                None if name == baseline else paired_difference(values[name], values[baseline]),
                name == baseline,
                _open(mine),
                paper_costs.get(name),
                config.paper.rows.get(name, {}) if config.paper else {},
                [_column(results, f"test/{metric.key}") for metric in goal.columns],
                measured.get(name, {}),
            )
        )
    title = f"{config.name}: {config.description}" if config.description else config.name
    facts = table_facts(config, variants, states, rows, goal, begins_with) + measured_facts(measured)
    return Table(title, goal, rows, facts, *paper_facts(config, variants))


def headlines(variants: Mapping[str, RunConfig], states: Sequence[RunState]) -> dict[str, dict[int, float]]:
    """Variant -> seed -> the metric of the table, of the runs that are done."""
    values: dict[str, dict[int, float]] = {name: {} for name in variants}
    for state in states:
        if state.result is not None:
            values[state.run.variant][state.run.seed] = state.result["metrics"][state.result["headline"]]
    return values


def _column(results: Sequence[dict[str, Any]], metric: str) -> Summary | None:
    found = [result["metrics"][metric] for result in results if metric in result["metrics"]]
    return summarize(found) if found and len(found) == len(results) else None


def checked(states: Sequence[RunState]) -> list[RunState]:
    """The states, where a run without a finite metric has failed: its NaN would stand for the whole row."""
    return [_checked(state) for state in states]


def _checked(state: RunState) -> RunState:
    if state.result is None:
        return state
    metric = state.result["headline"]
    value = state.result["metrics"].get(metric, math.nan)
    return state if math.isfinite(value) else replace(state, state="failed", result=None, error=f"{metric} is {value}")


def _open(states: Sequence[RunState]) -> dict[str, int]:
    found: dict[str, int] = {}
    for state in states:
        if state.state != "done":
            found[state.state] = found.get(state.state, 0) + 1
    return found

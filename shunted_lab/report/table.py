"""The ablation table: one row a variant, from the states of its runs. It fails closed.

A run that is missing, interrupted or failed, or whose metric is not finite, shows in its row and in the caption; it is
never averaged away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shunted_lab.config.experiment import Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.task import Goal
from shunted_lab.nn.cost import Cost
from shunted_lab.report.calibration import Calibration
from shunted_lab.report.comparison_facts import effects_facts
from shunted_lab.report.evidence import Evidence, evidence_of
from shunted_lab.report.facts import Fact
from shunted_lab.report.table_facts import measured_facts, paper_facts, table_facts
from shunted_lab.study.costs.measure import Measured
from shunted_lab.study.rule import Rule
from shunted_lab.study.states import RunState, checked, headlines
from shunted_lab.study.statistics.paired import Difference, Summary, summarize


@dataclass(frozen=True)
class Row:
    """What is known of a variant. Metrics are in base units; `open` counts its runs that are not done, by state."""

    variant: str
    cost: Cost | None  # None for a result from elsewhere
    planned: int
    summary: Summary | None
    difference: Difference | None  # with a simultaneous interval; None for the baseline, and where no seed is shared
    is_baseline: bool
    open: dict[str, int] = field(default_factory=dict)
    paper_cost: Cost | None = None
    paper: Mapping[str, float] = field(default_factory=dict)  # published; metric in its unit, params [M], flops [G]
    columns: Sequence[Summary | None] = ()  # the goal's further metrics
    measured: Mapping[str, Measured] = field(default_factory=dict)  # by device
    verdict: str = ""  # of a race: better, worse, equivalent, undecided


@dataclass(frozen=True)
class Table:
    """Rows, and the facts below them; `render` makes text of it."""

    title: str
    goal: Goal
    rows: list[Row]
    facts: list[Fact]
    paper_title: str | None = None
    paper_facts: list[Fact] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)
    effects_facts: list[Fact] = field(default_factory=list)
    calibration: Calibration | None = None  # of an A/A study

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

    @property
    def is_race(self) -> bool:
        return self.evidence.rule is not None


def build_table(
    config: Config,
    variants: Mapping[str, RunConfig],
    states: Sequence[RunState],
    costs: Mapping[str, Cost],
    paper_costs: Mapping[str, Cost],
    measured: Mapping[str, Mapping[str, Measured]] | None = None,
    begins_with: str = "",
    rule: Rule | None = None,
) -> Table:
    """The table of an experiment.

    Args:
        config: the experiment.
        variants: the configuration of each, as composed.
        states: one for each planned run, in any order.
        costs, paper_costs: by variant, at the experiment's size and at the paper's (empty without `paper:`).
        measured: latency and memory by variant and device.
        begins_with: the weights that runs begin with (`Manifest.begins_with`).
        rule: how a race decides (`Manifest.rule`).
    """
    measured = measured or {}
    states = checked(states)
    run = next(iter(variants.values()))
    goal = run.task.goal(run.data)
    values = headlines(variants, states)
    evidence = evidence_of(config, values, rule)
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
                evidence.differences.get(name),
                name == baseline,
                _open(mine),
                paper_costs.get(name),
                config.paper.rows.get(name, {}) if config.paper else {},
                [_column(results, f"test/{metric.key}") for metric in goal.columns],
                measured.get(name, {}),
                evidence.standing.verdicts.get(name, "") if evidence.standing is not None else "",
            )
        )
    title = f"{config.name}: {config.description}" if config.description else config.name
    facts = table_facts(config, variants, states, rows, goal, evidence, begins_with) + measured_facts(measured)
    effects = effects_facts(config, evidence.effects, goal.leading.unit) if evidence.effects is not None else []
    return Table(title, goal, rows, facts, *paper_facts(config, variants), evidence, effects)


def _column(results: Sequence[dict[str, Any]], metric: str) -> Summary | None:
    found = [result["metrics"][metric] for result in results if metric in result["metrics"]]
    return summarize(found) if found and len(found) == len(results) else None


def _open(states: Sequence[RunState]) -> dict[str, int]:
    found: dict[str, int] = {}
    for state in states:
        if state.state != "done":
            found[state.state] = found.get(state.state, 0) + 1
    return found

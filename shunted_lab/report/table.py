"""The ablation table: one row a variant, from the states of its runs. It fails closed.

A run that is missing, interrupted or failed shows in its row and in the caption; it is never averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shunted_lab.config import Config, RunConfig
from shunted_lab.nn.cost import Cost
from shunted_lab.report.statistics import Difference, Summary, paired_difference, smallest_difference, summarize
from shunted_lab.study.plan import RunState

POWER = 0.8


@dataclass(frozen=True)
class Row:
    """What is known of a variant. Accuracies are fractions; `open` counts its runs that are not done, by state."""

    variant: str
    cost: Cost
    planned: int
    summary: Summary | None
    difference: Difference | None  # None for the baseline, and where no seed is shared
    is_baseline: bool
    open: dict[str, int] = field(default_factory=dict)
    paper_cost: Cost | None = None
    paper: Mapping[str, float] = field(default_factory=dict)  # published top1 [%], params [M], flops [G]


@dataclass(frozen=True)
class Table:
    """Rows and captions; `render` makes text of it."""

    title: str
    rows: list[Row]
    caption: list[str]  # sentences
    paper_title: str | None = None
    paper_caption: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not any(row.open for row in self.rows)


def build_table(
    config: Config,
    variants: Mapping[str, RunConfig],
    states: Sequence[RunState],
    costs: Mapping[str, Cost],
    paper_costs: Mapping[str, Cost],
) -> Table:
    """The table of an experiment.

    Args:
        config: the experiment.
        variants: the configuration of each, as composed.
        states: one for each planned run, in any order.
        costs, paper_costs: by variant, at the experiment's size and at the paper's (empty without `paper:`).
    """
    values: dict[str, dict[int, float]] = {name: {} for name in variants}
    for state in states:
        if state.result is not None:
            values[state.run.variant][state.run.seed] = state.result["metrics"][state.result["headline"]]
    baseline = values[config.baseline or ""]
    rows = []
    for name in variants:
        mine = [state for state in states if state.run.variant == name]
        rows.append(
            Row(
                name,
                costs[name],
                len(mine),
                summarize(list(values[name].values())) if values[name] else None,
                None if name == config.baseline else paired_difference(values[name], baseline),
                name == config.baseline,
                _open(mine),
                paper_costs.get(name),
                config.paper.rows.get(name, {}) if config.paper else {},
            )
        )
    title = f"{config.name}: {config.description}" if config.description else config.name
    caption = _caption(config, variants, states, rows)
    return Table(title, rows, caption, *_paper_captions(config, variants))


def _open(states: Sequence[RunState]) -> dict[str, int]:
    found: dict[str, int] = {}
    for state in states:
        if state.state != "done":
            found[state.state] = found.get(state.state, 0) + 1
    return found


def _caption(
    config: Config, variants: Mapping[str, RunConfig], states: Sequence[RunState], rows: Sequence[Row]
) -> list[str]:
    first = next(iter(variants.values()))
    results = [state.result for state in states if state.result is not None]
    lines = ["SMOKE TEST, not a result: a few batches of training."] if config.smoke else []
    lines += [_incomplete(states)] if any(row.open for row in rows) else []
    lines.append(_accuracy_of(first, results))
    epochs = {"last": "the last epoch", "best": "the epoch that was best on the validation split"}
    lines.append(
        f"Model {first.model.name}, recipe {first.recipe.name}, {first.recipe.epochs} epochs; "
        f"tested: {epochs[first.recipe.select]}."
    )
    devices = sorted({result["device"] for result in results})
    lines.append(f"Trained on {', '.join(devices)}." if devices else "Nothing is trained yet.")
    lines.append(
        f"Mean ± standard deviation over n seeds ({', '.join(map(str, config.seeds))}); "
        f"Δ: paired difference to {config.baseline} with its 95 % t-interval, in percentage points."
    )
    return lines + _proof(config, rows)


def _accuracy_of(run: RunConfig, results: Sequence[Mapping]) -> str:
    sizes = results[0].get("sizes") if results else None
    images = f" ({sizes['test']:,} images; training {sizes['train']:,}, validation {sizes['val']:,})" if sizes else ""
    size = run.data.image_size
    return f"Top-1 accuracy on the test split of {run.data.name}{images} at {size} x {size}; costs at the same size."


def _incomplete(states: Sequence[RunState]) -> str:
    missing = [
        f"{s.run.variant} seed {s.run.seed} {s.state}{f' ({s.error})' if s.error else ''}"
        for s in states
        if s.state != "done"
    ]
    return f"INCOMPLETE, {len(missing)} of {len(states)} runs are not done: {'; '.join(missing)}."


def _proof(config: Config, rows: Sequence[Row]) -> list[str]:
    """What so many seeds can prove, and what they have left open."""
    differences = {row.variant: row.difference for row in rows if row.difference is not None}
    if not differences:
        return []
    if all(difference.n < 2 for difference in differences.values()):
        return ["One seed proves no difference."]
    smallest = {name: smallest_difference(d.std, d.n, power=POWER) for name, d in differences.items()}
    shown = [f"{name} {100 * value:.1f}" for name, value in smallest.items() if not math.isnan(value)]
    lines = [
        f"With the spread seen here, n = {min(d.n for d in differences.values())} shows a true difference to "
        f"{config.baseline} with {100 * POWER:.0f} % probability from so many points on: {', '.join(shown)}."
    ]
    undecided = [name for name, difference in differences.items() if difference.holds_zero]
    if undecided:
        lines.append(f"Not told apart from {config.baseline} by these seeds: {', '.join(undecided)}.")
    return lines


def _paper_captions(config: Config, variants: Mapping[str, RunConfig]) -> tuple[str | None, list[str]]:
    paper = config.paper
    if paper is None:
        return None, []
    size = f"{paper.image_size} x {paper.image_size}"
    lines = ["Costs are counted; GMACs hold convolutions, linear layers and attention products."]
    lines.append(f"Paper columns: {paper.source}; – where no source is at hand." if paper.rows else "No paper numbers.")
    data = next(iter(variants.values())).data.name
    if data != "imagenet":
        lines.append(f"The accuracies above are of {data}; they say nothing about ImageNet.")
    return f"The same variants at paper scale ({paper.model}, {size})", lines

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
from shunted_lab.output.quantities import Unit, counted, listed
from shunted_lab.report.statistics import Difference, Summary, paired_difference, smallest_difference, summarize
from shunted_lab.study.measure import Measured
from shunted_lab.study.plan import RunState

POWER = 0.8
NAMED = 3  # replaced images that a caption names
TINY = 1e-12  # a spread of fractions that is rounding of the arithmetic only


@dataclass(frozen=True)
class Row:
    """What is known of a variant. Metrics are in base units; `open` counts its runs that are not done, by state."""

    variant: str
    cost: Cost
    planned: int
    summary: Summary | None
    difference: Difference | None  # None for the baseline, and where no seed is shared
    is_baseline: bool
    open: dict[str, int] = field(default_factory=dict)
    paper_cost: Cost | None = None
    paper: Mapping[str, float] = field(default_factory=dict)  # published; metric in its unit, params [M], flops [G]
    columns: Sequence[Summary | None] = ()  # the goal's further metrics
    latency: float | None = None  # seconds of one image's forward pass; None also where it could not be told
    memory: float | None = None  # bytes that it holds at most


@dataclass(frozen=True)
class Table:
    """Rows and captions; `render` makes text of it."""

    title: str
    goal: Goal
    rows: list[Row]
    caption: list[str]  # sentences
    paper_title: str | None = None
    paper_caption: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not any(row.open for row in self.rows)

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
    measured: Mapping[str, Measured] | None = None,
) -> Table:
    """The table of an experiment.

    Args:
        config: the experiment.
        variants: the configuration of each, as composed.
        states: one for each planned run, in any order.
        costs, paper_costs: by variant, at the experiment's size and at the paper's (empty without `paper:`).
        measured: latency and memory by variant; those on more than one device are left out.
    """
    measured = measured or {}
    devices = sorted({m.device for m in measured.values()})
    measured = measured if len(devices) == 1 else {}
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
                measured[name].latency if name in measured else None,
                measured[name].memory if name in measured else None,
            )
        )
    title = f"{config.name}: {config.description}" if config.description else config.name
    caption = _caption(config, variants, states, rows, goal)
    caption += _measured_captions(measured)
    return Table(title, goal, rows, caption, *_paper_captions(config, variants))


def _measured_captions(measured: Mapping[str, Measured]) -> list[str]:
    """How latency and memory were measured, and which latencies are not shown."""
    shown = ["latency"] if any(m.latency is not None for m in measured.values()) else []
    shown += ["peak memory above the weights"] if any(m.memory is not None for m in measured.values()) else []
    devices = ", ".join(sorted({m.device for m in measured.values()}))
    lines = [f"{' and '.join(shown).capitalize()}: forward, one image, alone on {devices}."] if shown else []
    busy = {name: m for name, m in measured.items() if m.latency is None}
    if busy:
        rounds, spread = max(m.rounds for m in busy.values()), max(m.spread for m in busy.values())
        lines.append(
            f"Latency of {', '.join(busy)} is not shown: {rounds} rounds differed by "
            f"{'up to ' if len(busy) > 1 else ''}{100 * spread:.0f} %, the machine was busy."
        )
    return lines


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


def _caption(
    config: Config, variants: Mapping[str, RunConfig], states: Sequence[RunState], rows: Sequence[Row], goal: Goal
) -> list[str]:
    lines = ["SMOKE TEST, not a result: a few batches of training."] if config.smoke else []
    lines += [_incomplete(states)] if any(row.open for row in rows) else []
    images: dict[str, str] = {}
    for run in variants.values():
        images.setdefault(_images_key(run), _images(run, states))
    lines += _shared({name: _measured_on(run, goal, images[_images_key(run)]) for name, run in variants.items()})
    done = [state for state in states if state.result is not None]
    lines += replaced_images({f"{s.run.variant} seed {s.run.seed}": s.result or {} for s in done})
    lines += _shared({name: _training_of(run, _has_new_head(name, states)) for name, run in variants.items()})
    lines += _trained_on(states)
    if len(config.seeds) == 1:
        return [*lines, f"One seed: no spread, no comparison (seed {config.seeds[0]})."]
    mean = f"Mean ± standard deviation over n seeds ({', '.join(map(str, config.seeds))})"
    if all(row.is_baseline for row in rows):
        return [*lines, f"{mean}."]
    unit = goal.leading.unit
    shown_in = unit.of_difference or unit.symbol
    difference = f"Δ: paired difference to {_compared(config)} with its 95 % t-interval"
    difference += f", in {shown_in}" if shown_in else ""
    return [*lines, f"{mean}; {difference}.", *_proof(config, rows, unit)]


CONDITIONS = {"device": "device", "precision": "precision", "batch_layout": "batch layout"}  # in a result: its name


def _trained_on(states: Sequence[RunState]) -> list[str]:
    """Device, precision and batch layout of the finished runs; where they differ, which runs had which."""
    done = [(state, state.result) for state in states if state.result is not None]
    if not done:
        return ["Nothing is trained yet."]
    shared: list[str] = []
    differing = []
    for key, name in CONDITIONS.items():
        groups: dict[str, list[RunState]] = {}
        for state, result in done:
            groups.setdefault(result.get(key, "unknown"), []).append(state)
        if len(groups) > 1:
            differing.append(f"The runs differ in {name}: {_by_size(groups)}.")
        elif "unknown" not in groups:
            shared += groups
    return [f"Trained on {', '.join(shared)}.", *differing] if shared else differing


def _by_size(groups: Mapping[str, Sequence[RunState]]) -> str:
    """What each group of runs had, the largest group last."""
    *few, (most, _) = sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))
    parts = [f"{value} ({', '.join(f'{s.run.variant} seed {s.run.seed}' for s in runs)})" for value, runs in few]
    return "; ".join([*parts, f"{most} (the others)"])


def _compared(config: Config) -> str:
    return f"{config.baseline} in the same of {', '.join(config.across)}" if config.across else str(config.baseline)


def _shared(sentences: Mapping[str, str]) -> list[str]:
    """Each sentence once; where variants differ, with the names of those that it holds for."""
    names: dict[str, list[str]] = {}
    for name, sentence in sentences.items():
        names.setdefault(sentence, []).append(name)
    return list(names) if len(names) == 1 else [f"{', '.join(of)}: {sentence}" for sentence, of in names.items()]


def replaced_images(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which training images could not be decoded and were replaced, by run where runs differ.

    Args:
        results: what a run is called -> its result.
    """
    runs: dict[tuple[str, ...], list[str]] = {}
    for run, result in results.items():
        if names := tuple(result.get("corrupt_images", ())):
            runs.setdefault(names, []).append(run)
    lines = []
    for names, of in runs.items():
        count = counted(len(names), "training image")
        where = "" if len(of) == len(results) else f" in {', '.join(of)}"
        verb = "was" if len(names) == 1 else "were"
        lines.append(f"{count} could not be decoded and {verb} replaced{where}: {listed(names, NAMED)}.")
    return lines


def _has_new_head(variant: str, states: Sequence[RunState]) -> bool:
    """Whether the finished runs of a variant did not take the head of the weights that they began with."""
    done = [s.result.get("initial_weights") for s in states if s.result is not None and s.run.variant == variant]
    return any(initial["new_head"] for initial in done if initial)


def _training_of(run: RunConfig, new_head: bool) -> str:
    tested = {"last": "the last epoch", "best": "the epoch that was best on the validation split"}[run.recipe.select]
    weights = "" if run.model.checkpoint is None else f" with the weights of {run.model.checkpoint}"
    weights += " (new head)" if new_head else ""
    epochs = counted(run.recipe.epochs, "epoch")
    return f"Model {run.model.name}{weights}, recipe {run.recipe.name}, {epochs}; tested: {tested}."


def _images_key(run: RunConfig) -> str:
    """Runs of one key see the same images."""
    return f"{run.data} {run.recipe.limit_batches} {run.recipe.repeated_aug}"


def _images(run: RunConfig, states: Sequence[RunState]) -> str:
    """How many images of each split are used, from any finished run on the same images; empty before there is one."""
    key = _images_key(run)
    result = next((s.result for s in states if s.result is not None and _images_key(s.run.config) == key), {})
    sizes, used = result.get("sizes"), result.get("used")
    if not sizes:
        return ""
    used = used or sizes
    text = {n: f"{used[n]:,}" + (f" of {size:,}" if used[n] < size else "") for n, size in sizes.items()}
    epoch = " in each epoch" if used["train"] < sizes["train"] else ""
    return f" ({text['test']} images; training {text['train']}{epoch}, validation {text['val']})"


def _measured_on(run: RunConfig, goal: Goal, images: str) -> str:
    height, width = run.task.input_size(run.data)
    kind = "SYNTHETIC images, " if run.data.synthetic else ""
    where = f"{kind}test split of {run.data.description}{images}"
    return f"{goal.leading.meaning} on the {where} at {height} x {width}; costs at the same size."


def _incomplete(states: Sequence[RunState]) -> str:
    missing = [
        f"{s.run.variant} seed {s.run.seed} {s.state}{f' ({s.error})' if s.error else ''}"
        for s in states
        if s.state != "done"
    ]
    of = f"{len(missing)} of {counted(len(states), 'run')}"
    return f"INCOMPLETE, {of} not done: {'; '.join(missing)}."


def _proof(config: Config, rows: Sequence[Row], unit: Unit) -> list[str]:
    """Which differences so many seeds can show, and which are not significant."""
    differences = {row.variant: row.difference for row in rows if row.difference is not None}
    if not differences:
        return []
    if all(difference.n < 2 for difference in differences.values()):
        return ["No variant shares two finished seeds with the baseline: no interval."]
    lines = _power(config, {name: d for name, d in differences.items() if d.n > 1 and d.std > TINY}, unit)
    same = [name for name, d in differences.items() if d.n > 1 and d.std <= TINY]
    if same:
        lines.append(f"The same difference in every seed, which says nothing about other seeds: {', '.join(same)}.")
    undecided = [name for name, difference in differences.items() if difference.holds_zero]
    if undecided:
        lines.append(f"No significant difference from {_compared(config)}: {', '.join(undecided)}.")
    return lines


def _power(config: Config, differences: Mapping[str, Difference], unit: Unit) -> list[str]:
    """The smallest true difference that each comparison detects, with the pairs that it has."""
    by_n: dict[int, list[str]] = {}
    for name, d in differences.items():
        least = unit.scale * smallest_difference(d.std, d.n, power=POWER)
        by_n.setdefault(d.n, []).append(f"{least:.{max(unit.digits - 1, 0)}f} ({name})")
    shown_in = " points" if unit.symbol == "%" else f" {unit.symbol}".rstrip()
    return [
        f"With this spread, n = {n} detects with {100 * POWER:.0f} % probability a true difference to "
        f"{config.baseline} of at least {', '.join(shown)}{shown_in}."
        for n, shown in sorted(by_n.items())
    ]


def _paper_captions(config: Config, variants: Mapping[str, RunConfig]) -> tuple[str | None, list[str]]:
    paper = config.paper
    if paper is None:
        return None, []
    size = f"{paper.image_size} x {paper.image_size}"
    lines = ["Costs are counted, not measured; GMACs include convolutions, linear layers and attention products."]
    lines.append(
        f"Paper columns: {paper.source}; – where no source is known."
        if paper.rows
        else "Numbers of the paper are not given."
    )
    small = sorted({run.data.name for run in variants.values()} - {"imagenet"})
    if small:
        lines.append(f"The results above are of {', '.join(small)}; they are not results on ImageNet.")
    return f"The same variants at paper scale ({paper.model}, {size})", lines

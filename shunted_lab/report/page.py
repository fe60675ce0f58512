"""The HTML page of a study: one file with all its pictures, light and dark, also for a phone."""

from __future__ import annotations

import json
import math
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from shunted_lab.config.experiment import Config
from shunted_lab.output.quantities import LOSS, Unit, counted, head_text, value_text
from shunted_lab.report import plots
from shunted_lab.report.collect import (
    ImageEvidence,
    RunData,
    StudyData,
    class_intervals,
    class_scores,
    curves,
    example_pictures,
    image_evidence,
    number,
)
from shunted_lab.report.comparison_facts import interval_name
from shunted_lab.report.detections import precision_curves, size_scores
from shunted_lab.report.effects import effect_pictures
from shunted_lab.report.finding import verdict
from shunted_lab.report.picture import Picture
from shunted_lab.report.render import (
    UNKNOWN,
    Block,
    blocks,
    interval_text,
    measured_columns,
    measured_value,
    number_text,
)
from shunted_lab.report.search import SearchTable, blocks_of, rates_of_heads
from shunted_lab.report.table import Row, Table
from shunted_lab.report.templates import render
from shunted_lab.study.manifest import Manifest
from shunted_lab.study.states import headlines

ROWS = 200  # a longer figure would be read by nobody
COSTS = {"macs": "MACs", "latency": "latency of one image (ms)", "memory": "peak memory of one image (MB)"}


def pictures(data: StudyData) -> Iterator[Picture]:
    """The figures of a study, those for which there are data."""
    makers: list[Callable[[StudyData], Iterator[Picture]]] = [
        _forest,
        _paired,
        _costs,
        effect_pictures,
        _curves,
        _times,
        _classes,
        _sizes,
        _precision,
        _rates,
    ]
    for make in makers:
        yield from make(data)


def _costs(data: StudyData) -> Iterator[Picture]:
    costs: dict[str, tuple[str, Callable[[Row], float | None]]] = {
        "macs": (COSTS["macs"], lambda row: None if row.cost is None else float(row.cost.macs))
    }
    devices = data.table.devices
    for device, key, _ in measured_columns(data.table):
        name = key if len(devices) == 1 else f"{key}{devices.index(device) + 1}"
        label = COSTS[key] if len(devices) == 1 else f"{COSTS[key]}, {device}"
        costs[name] = label, partial(measured_value, device=device, key=key)
    for name, (label, cost_of) in costs.items():
        yield from _against(data, name, label, cost_of)


def _against(data: StudyData, name: str, cost: str, cost_of: Callable[[Row], float | None]) -> Iterator[Picture]:
    """The leading metric against one cost."""
    metric, points = data.goal.leading, []
    for row in data.table.rows:
        found, value = row.summary, cost_of(row)
        if found is not None and not row.open and value is not None:
            spread = 0.0 if math.isnan(found.std) else found.std
            points.append(plots.Point(row.variant, found.mean, found.mean - spread, found.mean + spread, value))
    if len({point.cost for point in points}) > 1:  # one point, or one cost for all, says nothing
        yield Picture(
            f"{metric.key}_{name}",
            f"{metric.label} against {cost}",
            f"{_spread(data, 'bars')} The line is the Pareto front. Variants with unfinished runs are left out.",
            plots.metric_against_cost(points, cost, metric.label, metric.unit, metric.direction),
        )


def _spread(data: StudyData, drawn: str) -> str:
    """What a figure shows of the seeds."""
    if len(data.config.all_seeds) == 1:
        return "One seed: no spread."
    return f"Mean over the seeds, {drawn}: ± one standard deviation."


def _over_seeds(data: StudyData) -> str:
    return ", mean over the seeds" if len(data.config.all_seeds) > 1 else ""


def _forest(data: StudyData) -> Iterator[Picture]:
    yield from _differences(data.table)


def _differences(table: Table) -> Iterator[Picture]:
    rows = []
    for row in table.rows:
        if table.compares and not row.is_baseline:
            d = row.difference
            rows.append((row.variant, *((d.mean, d.low, d.high, d.n) if d else (math.nan, math.nan, math.nan, 0))))
    if len(rows) <= ROWS and any(not math.isnan(row[1]) for row in rows):
        yield Picture(
            "differences",
            "Paired differences to the baseline",
            f"Mean over the seeds that both have, with its {interval_name(table.evidence.family, table.is_race)}.",
            plots.forest(rows, table.goal.leading.label, table.goal.leading.unit),
        )


def _paired(data: StudyData) -> Iterator[Picture]:
    values = headlines(data.variants, [run.state for run in data.runs])
    why = "Within a seed all variants start from the same values and see the same images."
    yield from _seeds(data.table, values, why)


def _seeds(table: Table, values: Mapping[str, Mapping[int, float]], why: str = "") -> Iterator[Picture]:
    shown = {name: of for name, of in values.items() if of}
    if table.compares and 2 <= len(shown) <= plots.PAIRED_VARIANTS:
        yield Picture(
            "seeds",
            "Seed by seed",
            f"A line for each seed, a bar for the mean; lines that run alike show a difference. {why}".rstrip(),
            plots.paired_lines(shown, table.goal.leading.label, table.goal.leading.unit),
        )


def comparison_pictures(table: Table, values: Mapping[str, Mapping[int, float]]) -> Iterator[Picture]:
    """The figures of results from elsewhere."""
    yield from _differences(table)
    yield from _seeds(table, values)


def _curves(data: StudyData) -> Iterator[Picture]:
    leading = data.goal.leading
    shown = {
        data.goal.monitor: (f"{leading.label}, validation", leading.unit),
        "train/loss": ("Training loss", LOSS),
        "val/loss": ("Validation loss", LOSS),
    }
    for metric, (label, unit) in shown.items():
        found = curves(data, metric)
        if _are_lines(found):
            figure = plots.learning_curves(found, label, unit, images=_images_of_an_epoch(data))
            yield Picture(metric.replace("/", "_"), f"Learning curves: {label}", _spread(data, "band"), figure)


def _times(data: StudyData) -> Iterator[Picture]:
    """The metric over training time, where variants differ in it."""
    leading, found = data.goal.leading, curves(data, data.goal.monitor)
    seconds = {name: _seconds_of_an_epoch(data, name) for name in found}
    if not _are_lines(found) or len(found) < 2 or any(value is None for value in seconds.values()):
        return
    label = f"{leading.label}, validation"
    text = (
        f"Training without validation and testing, on {', '.join(sorted(_devices(data)))}; the mean over the seeds, "
        "spread evenly over the epochs. Runs that were trained beside each other share the machine. "
    )
    known = {name: value for name, value in seconds.items() if value is not None}
    figure = plots.learning_curves(found, label, leading.unit, seconds=known)
    yield Picture("time", f"{label}, against training time", text + _spread(data, "band"), figure)


def _are_lines(found: Mapping[str, Sequence[Sequence[float]]]) -> bool:
    return any(len(line) > 1 for lines in found.values() for line in lines)


def _seconds_of_an_epoch(data: StudyData, variant: str) -> float | None:
    """Mean over the finished runs of a variant; None where it is not known."""
    runs = [run for run in data.of(variant) if run.state.result is not None and "train_seconds" in run.state.result]
    each = [run.state.result["train_seconds"] / run.state.run.config.recipe.epochs for run in runs if run.state.result]
    return sum(each) / len(each) if each and all(each) else None


def _images_of_an_epoch(data: StudyData) -> int | None:
    """Training images of an epoch; None where variants differ in it."""
    found = {(run.state.result.get("used") or {}).get("train") for run in data.runs if run.state.result is not None}
    return found.pop() if len(found) == 1 else None


def _devices(data: StudyData) -> set[str]:
    return {str(run.state.result.get("device")) for run in data.runs if run.state.result is not None}


def _classes(data: StudyData) -> Iterator[Picture]:
    names, found = class_scores(data)
    if found:
        ends = class_intervals(data)
        over = OVER_IMAGES if ends and len(found) <= plots.INTERVALS else ""
        yield Picture(
            "classes",
            f"{data.goal.leading.label} of each class",
            f"{next(iter(data.variants.values())).task.per_class_meaning}{_over_seeds(data)}{over}.",
            plots.class_bars(names, found, data.goal.leading.label, data.goal.leading.unit, ends),
        )


OVER_IMAGES = "; bars are 95 % intervals over the test images"


def _sizes(data: StudyData) -> Iterator[Picture]:
    """Average precision of objects by size, of detectors."""
    names, found, ends = size_scores(data)
    if found:
        over = OVER_IMAGES if len(found) <= plots.INTERVALS else ""
        text = f"Average precision of boxes and masks by the area of the object{_over_seeds(data)}{over}."
        figure = plots.class_bars(names, found, "AP", data.goal.leading.unit, ends, in_order=True)
        yield Picture("sizes", "AP by the size of the object", text, figure)


def _precision(data: StudyData) -> Iterator[Picture]:
    found = precision_curves(data)
    if found:
        text = f"Precision of boxes at 101 recalls, mean over the classes{_over_seeds(data)}."
        yield Picture("precision", "Precision and recall", text, plots.precision_recall(found))


def _rates(data: StudyData) -> Iterator[Picture]:
    """Where the rates are what varies."""
    if "model.rates" in {key for changes in data.config.variants.values() for key in changes}:
        assignments = [(name, rates_of_heads(run.model)) for name, run in data.variants.items()]
        yield Picture(
            "rates",
            "Rates of the heads",
            "One column per head, stages from left to right.",
            plots.rates_heatmap(assignments),
        )


def render_page(data: StudyData, made: Sequence[Picture], folder: Path) -> str:
    """The page of a study with its pictures inside; `folder` is the page's, from which its links start."""
    names, per_class = class_scores(data)
    metric = data.goal.leading
    return render(
        "page.html",
        title=data.table.title,
        synthetic=any(run.data.synthetic for run in data.variants.values()),
        smoke=data.config.smoke,
        complete=data.table.complete,
        problems=data.problems,
        verdict=[] if data.config.smoke else verdict(data.table, data.config),
        blocks=[
            (
                block,
                [f"#run-{row[0]}" if row[0] in data.variants else "" for row in block.rows],
                important(block, data.table),
            )
            for block in blocks(data.table)
        ],
        pictures=[(p, plots.to_svg(p.figure, p.title, f"{p.name}-")) for p in made],
        evidence=(evidence := [_evidence_row(found, metric.unit) for found in image_evidence(data)]),
        answer=_answer(evidence),
        examples=[
            (name, seed, b64encode(picture).decode()) for name, (seed, picture) in example_pictures(data).items()
        ],
        class_names=names,
        per_class={name: [number_text(v, metric.unit) for v in values] for name, values in per_class.items()},
        metric=head_text(metric.label, metric.unit),
        difference_unit=metric.unit.of_difference or metric.unit.symbol,
        over_seeds=" of the mean over the seeds" if len(data.config.all_seeds) > 1 else "",
        variants=[(name, [_run_row(run, folder) for run in data.of(name)]) for name in data.variants],
        failures=[(run, run.traceback) for run in data.runs if run.state.state == "failed"],
        base=yaml.safe_dump(_options(next(iter(data.variants.values()))), sort_keys=False, allow_unicode=True),
        changes=yaml.safe_dump(dict(data.config.variants), sort_keys=False, allow_unicode=True),
        origins=_origins(data.runs),
        unknown=UNKNOWN,
    )


def render_comparison(table: Table, config: Config, made: Sequence[Picture]) -> str:
    """The page of results from elsewhere."""
    return render(
        "page.html",
        title=table.title,
        complete=table.complete,
        verdict=verdict(table, config),
        blocks=[(block, [""] * len(block.rows), important(block, table)) for block in blocks(table)],
        pictures=[(p, plots.to_svg(p.figure, p.title, f"{p.name}-")) for p in made],
        unknown=UNKNOWN,
    )


def render_search_page(
    manifest: Manifest, table: SearchTable, runs: Sequence[Path], made: Sequence[Picture], folder: Path
) -> str:
    """The page of a search; `runs` are the folders of its rows, `folder` is the page's, from which its links start."""
    config, base = manifest.config, _options(next(iter(manifest.variants.values())))
    links = [f"{quote(os.path.relpath(path, folder))}/" if path.exists() else "" for path in runs]
    first, *more = blocks_of(table)
    return render(
        "page.html",
        title=table.title,
        smoke=config.smoke,
        complete=table.complete,
        blocks=[(first, links, [0, 1]), *((block, [""] * len(block.rows), [0, 1]) for block in more)],
        pictures=[(p, plots.to_svg(p.figure, p.title, f"{p.name}-")) for p in made],
        base=yaml.safe_dump({key: base[key] for key in ("model", "data", "task", "recipe")}),
        changes=yaml.safe_dump({"variants": config.variants, "search": asdict(config.search)}),  # type: ignore[arg-type]
        unknown=UNKNOWN,
    )


def _options(config: Any) -> dict[str, Any]:
    """A configuration as plain values, with the data set and the task as they were configured."""
    return asdict(config) | {"data": config.data.options, "task": config.task.options}


def important(block: Block, table: Table) -> list[int]:
    """The columns that come first where the screen is narrow: names, the leading metric and its difference."""
    metric = head_text(table.goal.leading.label, table.goal.leading.unit)
    return [i for i, name in enumerate(block.head) if i == 0 or name == metric or name.startswith("Δ")]


def _answer(evidence: Sequence[Mapping[str, Any]]) -> str:
    """Whether other test images would change which of two variants is ahead."""
    may = [row["variant"] for row in evidence if row["may_change"]]
    if not may:
        return "Probably not: for each variant the interval over images excludes zero."
    sure = [row["variant"] for row in evidence if not row["may_change"]]
    rest = f" Probably not for {', '.join(sure)}." if sure else ""
    return f"They might for {', '.join(may)}: the interval over images contains zero.{rest}"


def _evidence_row(found: ImageEvidence, unit: Unit) -> dict[str, Any]:
    tests = [f"seed {seed}: {m.only_a} / {m.only_b}, p = {m.p:.3g}" for seed, m in found.mcnemar.items()]
    text = interval_text(found.bootstrap, unit)
    known = {"variant": found.variant, "baseline": found.baseline, "bootstrap": text, "mcnemar": "; ".join(tests)}
    return known | {"may_change": found.bootstrap.holds_zero}


def _run_row(run: RunData, folder: Path) -> dict[str, Any]:
    state = run.state
    goal = state.run.config.task.goal(state.run.config.data)
    metrics = state.result["metrics"] if state.result else {}
    return {
        "seed": state.run.seed,
        "state": state.state,
        "error": state.error or "",
        "value": number_text(number(run.value), goal.leading.unit),
        "metrics": {
            key: value_text(value, goal.unit(key))
            for key, value in sorted(metrics.items())
            if key.startswith(("test/", "val/"))
        },
        "epoch": state.result["epoch"] + 1 if state.result and "epoch" in state.result else "",  # from 1, as figures
        "seconds": state.result.get("seconds", "") if state.result else "",
        "device": state.result.get("device", "") if state.result else "",
        "link": quote(os.path.relpath(state.run.folder, folder)) if state.run.folder.exists() else "",
        "name": state.run.folder.name,
    }


def _origins(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """Git revision with versions, as JSON -> which runs have it; more than one is worth a look."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for origin in run.note.get("origins", ()):
            text = json.dumps({"git": origin.get("git"), **origin.get("versions", {})})
            found.setdefault(text, []).append(f"{run.state.run.variant} seed {run.state.run.seed}")
    return [
        (text, counted(len(names), "run") if len(found) == 1 else ", ".join(names)) for text, names in found.items()
    ]

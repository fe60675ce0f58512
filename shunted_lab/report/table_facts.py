"""The facts below a table: what was trained on what, what is incomplete, and what the seeds can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shunted_lab.config.experiment import Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.task import Goal
from shunted_lab.output.quantities import counted, listed
from shunted_lab.report.comparison_facts import comparison_facts
from shunted_lab.report.evidence import Evidence
from shunted_lab.report.facts import INCOMPLETE, SMOKE_TEST, Fact
from shunted_lab.study.costs.measure import Measured
from shunted_lab.study.states import RunState

if TYPE_CHECKING:
    from shunted_lab.report.table import Row

PUBLISHED = {"imagenet": "ImageNet", "ade20k": "ADE20K"}  # data sets as papers write them
NAMED = 3  # replaced images that a caption names


def measured_facts(measured: Mapping[str, Mapping[str, Measured]]) -> list[Fact]:
    """How latency and memory were measured, and which latencies are not shown.

    Args:
        measured: variant -> device -> what was measured there.
    """
    everything = [m for of in measured.values() for m in of.values()]
    shown = ["latency"] if any(m.latency is not None for m in everything) else []
    shown += ["peak memory above the weights"] if any(m.memory is not None for m in everything) else []
    devices = sorted({device for of in measured.values() for device in of})
    named = ", ".join(devices)
    facts = [Fact("Measured costs", f"{' and '.join(shown)} of a forward pass of one image, alone on {named}")]
    facts = facts if shown else []
    for device in devices:
        busy = {name: of[device] for name, of in measured.items() if device in of and of[device].latency is None}
        if busy:
            rounds, spread = max(m.rounds for m in busy.values()), max(m.spread for m in busy.values())
            where = f" on {device}" if len(devices) > 1 else ""
            up_to = "up to " if len(busy) > 1 else ""
            differed = f"{rounds} rounds differed by {up_to}{100 * spread:.0f} %, the machine was busy"
            facts.append(Fact("Latency not shown", f"{', '.join(busy)}{where}; {differed}"))
    return facts


def table_facts(
    config: Config,
    variants: Mapping[str, RunConfig],
    states: Sequence[RunState],
    rows: Sequence[Row],
    goal: Goal,
    evidence: Evidence,
    begins_with: str = "",
) -> list[Fact]:
    """What stands below a table, but for measured costs."""
    facts = [SMOKE_TEST] if config.smoke else []
    facts += [_incomplete(states)] if any(row.open for row in rows) else []
    facts.append(Fact("Metric", f"{goal.leading.meaning} on the test split"))
    images: dict[str, str] = {}
    for run in variants.values():
        images.setdefault(_images_key(run), _images(run, states))
    facts.append(_shared("Data", {name: _data_of(run, images[_images_key(run)]) for name, run in variants.items()}))
    done = [state for state in states if state.result is not None]
    facts += replaced_images({f"{s.run.variant} seed {s.run.seed}": s.result or {} for s in done})
    models = {name: _model_of(run, _has_new_head(name, states)) for name, run in variants.items()}
    training = {name: _training_of(run) for name, run in variants.items()}
    facts += [_shared("Model", models), *([Fact("Begins with", begins_with)] if begins_with else [])]
    facts += [*_matched(config, variants), _shared("Training", training)]
    facts += _trained_on(states)
    return facts + comparison_facts(config, rows, goal.leading.unit, evidence)


def _matched(config: Config, variants: Mapping[str, RunConfig]) -> list[Fact]:
    """What was scaled so that all variants cost the same."""
    if config.match is None:
        return []
    knob = config.match_by.removeprefix("model.")
    values = {name: ",".join(f"{value:g}" for value in getattr(run.model, knob)) for name, run in variants.items()}
    what = {"macs": "MACs", "params": "parameters"}[config.match]
    shown = "; ".join(f"{name} {text}" for name, text in values.items())
    return [Fact("Matched", f"{what} of each variant are within 1 % of its baseline's, by {config.match_by}: {shown}")]


CONDITIONS = {"device": "device", "precision": "precision", "batch_layout": "batch layout"}  # in a result: its name


def _trained_on(states: Sequence[RunState]) -> list[Fact]:
    """Device, precision and batch layout of the finished runs; where they differ, which runs had which."""
    done = [(state, state.result) for state in states if state.result is not None]
    if not done:
        return [Fact("Device", "nothing is trained yet")]
    shared: list[str] = []
    differing: list[Fact] = []
    for key, name in CONDITIONS.items():
        groups: dict[str, list[RunState]] = {}
        for state, result in done:
            groups.setdefault(result.get(key, "unknown"), []).append(state)
        if len(groups) > 1:
            differing.append(Fact(f"Runs differ in {name}", _by_size(groups)))
        elif "unknown" not in groups:
            shared += groups
    return [Fact("Device", ", ".join(shared)), *differing] if shared else differing


def _by_size(groups: Mapping[str, Sequence[RunState]]) -> str:
    """What each group of runs had, the largest group last."""
    *few, (most, _) = sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))
    parts = [f"{value} ({', '.join(f'{s.run.variant} seed {s.run.seed}' for s in runs)})" for value, runs in few]
    return "; ".join([*parts, f"{most} (the others)"])


def _shared(label: str, texts: Mapping[str, str]) -> Fact:
    """One fact of all variants; where they differ, with the names of those that each text holds for."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    if len(names) == 1:
        return Fact(label, next(iter(names)))
    return Fact(label, "; ".join(f"{text} ({', '.join(of)})" for text, of in names.items()))


def replaced_images(results: Mapping[str, Mapping[str, Any]]) -> list[Fact]:
    """Which training images could not be decoded and were replaced, by run where runs differ.

    Args:
        results: what a run is called -> its result.
    """
    runs: dict[tuple[str, ...], list[str]] = {}
    for run, result in results.items():
        if names := tuple(result.get("corrupt_images", ())):
            runs.setdefault(names, []).append(run)
    facts = []
    for names, of in runs.items():
        where = "" if len(of) == len(results) else f" in {', '.join(of)}"
        count = counted(len(names), "training image")
        facts.append(Fact("Replaced", f"{count} that could not be decoded{where}: {listed(names, NAMED)}"))
    return facts


def _has_new_head(variant: str, states: Sequence[RunState]) -> bool:
    """Whether the finished runs of a variant did not take the head of the weights that they began with."""
    done = [s.result.get("initial_weights") for s in states if s.result is not None and s.run.variant == variant]
    return any(initial["new_head"] for initial in done if initial)


def _model_of(run: RunConfig, new_head: bool) -> str:
    weights = "" if run.model.checkpoint is None else f" with the weights of {run.model.checkpoint}"
    return f"{run.model.name}{weights}{' (new head)' if new_head else ''}"


def _training_of(run: RunConfig) -> str:
    tested = {"last": "the last epoch", "best": "the epoch that was best on the validation split"}[run.recipe.select]
    return f"recipe {run.recipe.name}, {counted(run.recipe.epochs, 'epoch')}; tested: {tested}"


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
    epoch = " in each epoch" if used["train"] != sizes["train"] else ""
    epoch += f" (of {sizes['train']:,})" if used["train"] > sizes["train"] else ""
    return f"; {text['test']} test images, {text['train']} training images{epoch}, {text['val']} validation images"


def _data_of(run: RunConfig, images: str) -> str:
    height, width = run.task.input_size(run.data)
    kind = "SYNTHETIC images, " if run.data.synthetic else ""
    if (height, width) == (run.data.image_size,) * 2:
        return f"{kind}{run.data.description}, {height} x {width} (costs at the same size){images}"
    return f"{kind}{run.data.description}, {run.data.preparation} (costs at {height} x {width}){images}"


def _incomplete(states: Sequence[RunState]) -> Fact:
    missing = [
        f"{s.run.variant} seed {s.run.seed} {s.state}{f' ({s.error})' if s.error else ''}"
        for s in states
        if s.state != "done"
    ]
    of = f"{len(missing)} of {counted(len(states), 'run')}"
    return Fact(INCOMPLETE, f"{of} not done: {'; '.join(missing)}")


def paper_facts(config: Config, variants: Mapping[str, RunConfig]) -> tuple[str | None, list[Fact]]:
    """The title of the table at the paper's scale, and what stands below it; None without `paper:`."""
    paper = config.paper
    if paper is None:
        return None, []
    size = "{} x {}".format(*paper.size)
    text = "counted, not measured; GMACs include convolutions, linear layers and attention products"
    published = f"{paper.source}; – where no source is known" if paper.rows else "not given"
    facts = [Fact("Costs", text), Fact("Paper columns", published)]
    others = sorted({run.data.name for run in variants.values()} - {paper.data})
    if others:
        facts.append(
            Fact(f"Not {PUBLISHED.get(paper.data, paper.data)}", f"the results above are of {', '.join(others)}")
        )
    model = paper.model if paper.head is None else f"{paper.model} with {paper.head}"
    return f"The same variants at paper scale ({model}, {size})", facts

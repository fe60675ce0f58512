"""The captions of a table: what was trained on what, what is incomplete, and what the seeds can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shunted_lab.config.experiment import Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.task import Goal
from shunted_lab.output.quantities import Unit, counted, listed
from shunted_lab.report.statistics import Difference, smallest_difference
from shunted_lab.study.costs.measure import Measured
from shunted_lab.study.states import RunState

if TYPE_CHECKING:
    from shunted_lab.report.table import Row

POWER = 0.8
NAMED = 3  # replaced images that a caption names
TINY = 1e-12  # a spread of fractions that is rounding of the arithmetic only


def measured_captions(measured: Mapping[str, Mapping[str, Measured]]) -> list[str]:
    """How latency and memory were measured, and which latencies are not shown.

    Args:
        measured: variant -> device -> what was measured there.
    """
    everything = [m for of in measured.values() for m in of.values()]
    shown = ["latency"] if any(m.latency is not None for m in everything) else []
    shown += ["peak memory above the weights"] if any(m.memory is not None for m in everything) else []
    devices = sorted({device for of in measured.values() for device in of})
    named = ", ".join(devices)
    lines = [f"{' and '.join(shown).capitalize()}: forward, one image, alone on {named}."] if shown else []
    for device in devices:
        busy = {name: of[device] for name, of in measured.items() if device in of and of[device].latency is None}
        if busy:
            rounds, spread = max(m.rounds for m in busy.values()), max(m.spread for m in busy.values())
            where = f" on {device}" if len(devices) > 1 else ""
            lines.append(
                f"Latency of {', '.join(busy)}{where} is not shown: {rounds} rounds differed by "
                f"{'up to ' if len(busy) > 1 else ''}{100 * spread:.0f} %, the machine was busy."
            )
    return lines


def table_caption(
    config: Config, variants: Mapping[str, RunConfig], states: Sequence[RunState], rows: Sequence[Row], goal: Goal
) -> list[str]:
    """The sentences below a table, but for those about measured costs."""
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


def paper_captions(config: Config, variants: Mapping[str, RunConfig]) -> tuple[str | None, list[str]]:
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

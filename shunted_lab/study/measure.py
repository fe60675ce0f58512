"""Latency and memory of each variant, measured alone on this machine's device once nothing trains, and kept."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from shunted_lab.config.compose import Experiment
from shunted_lab.config.run import RunConfig
from shunted_lab.data import DataFacts
from shunted_lab.output.files import write_json
from shunted_lab.output.quantities import counted
from shunted_lab.study.plan import component_sources, study_folder

if TYPE_CHECKING:
    from shunted_lab.nn import Speed

FILE = "costs.json"
REPEATS, WARMUP = 10, 3  # passes of a round
AGREEMENT = 0.05  # share by which the two best rounds may differ
ROUNDS = 3, 20  # at least, at most
SECONDS = 60.0  # after which no round begins


@dataclass(frozen=True)
class Measured:
    """Of one image's forward pass: seconds, and bytes above the weights (None where the device does not tell).

    `latency` is None where the two best of `rounds` differed by `spread`, a share: more than can be trusted.
    """

    latency: float | None
    memory: float | None
    device: str
    rounds: int = 0
    spread: float = 0.0


@dataclass(frozen=True)
class Timing:
    """The rounds of one model: the median seconds of each, peak memory in bytes, and the device."""

    medians: list[float]
    memory: float | None
    device: str

    @property
    def best(self) -> float:
        return min(self.medians)


def spread_of(medians: Sequence[float]) -> float:
    """By which share the two best rounds differ; infinite where there is no second one."""
    first, second, *_ = [*sorted(medians), math.inf, math.inf]
    return second / first - 1 if first < math.inf else math.inf


def are_stable(medians: Sequence[float]) -> bool:
    """Whether the two best rounds agree. Something else on the machine makes a round slower and never faster."""
    return spread_of(medians) <= AGREEMENT


def is_over(rounds: Sequence[Sequence[float]], seconds: float) -> bool:
    """Whether to stop measuring, after so many seconds.

    Args:
        rounds: of each model the median of every round, as many for each.
    """
    least, most = ROUNDS
    done = len(rounds[0])
    if done >= least and all(are_stable(medians) for medians in rounds):
        return True
    return done >= most or (done >= 2 and seconds >= SECONDS)


def time_in_turns(measures: Mapping[str, Callable[[bool], Speed]]) -> dict[str, Timing]:
    """Measure models in turns, round by round, until the two best rounds of each agree, or it takes too long.

    In turns, a busy moment of the machine does not meet one model only.

    Args:
        measures: name -> a round of this model; told whether to measure memory too.
    """
    found: dict[str, list[Speed]] = {name: [] for name in measures}
    start = time.monotonic()
    while not is_over([[s.latency for s in those] for those in found.values()], time.monotonic() - start):
        for name, measure in measures.items():
            found[name].append(measure(not found[name]))
    return {name: _timing(those) for name, those in found.items()}


def _timing(rounds: Sequence[Speed]) -> Timing:
    memory = rounds[0].peak_memory
    return Timing([s.latency for s in rounds], None if memory is None else float(memory), rounds[0].device)


def read_measured(experiment: Experiment) -> dict[str, Measured]:
    """What has been measured of the variants as they are now; those that have changed since are left out."""
    path = study_folder(experiment.config) / FILE
    try:
        found = json.loads(path.read_text())
        return {
            name: Measured(**found[name]["measured"])
            for name, run in experiment.variants.items()
            if name in found and found[name]["model"] == _key(run)
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}  # not measured, or by another version


def measure_variants(
    experiment: Experiment,
    facts: dict[str, DataFacts],
    trained: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Measured]:
    """Measure all variants, unless they are known; nothing in a smoke test.

    `costs.json` in the study's folder keeps what was found. A latency that was not stable is null there, with the
    reason, and the next command tries again.

    Args:
        trained: whether runs were trained just now, on this machine's device; else what was measured on another device
            is kept.
        tell: gets a line before measuring begins, which may take a minute.
    """
    if experiment.config.smoke:
        return {}
    known = read_measured(experiment)
    if not trained and all(name in known and known[name].latency is not None for name in experiment.variants):
        return known
    from shunted_lab.nn import device_name
    from shunted_lab.tasks.device import find_device

    device = find_device(experiment.config.launch.accelerator, "launch.accelerator")
    known = {name: m for name, m in known.items() if m.device == device_name(device)}
    if all(name in known and known[name].latency is not None for name in experiment.variants):
        return known
    tell(f"measuring latency and memory of {counted(len(experiment.variants), 'variant')}: about a minute at most")
    rounds = {n: partial(_measure, run, len(facts[n].class_names), device) for n, run in experiment.variants.items()}
    found = {name: _measured(timing, known.get(name)) for name, timing in time_in_turns(rounds).items()}
    note = {name: {"model": _key(experiment.variants[name]), "measured": asdict(m)} for name, m in found.items()}
    write_json(study_folder(experiment.config) / FILE, note)
    return found


def _measured(timing: Timing, known: Measured | None) -> Measured:
    """What is kept of a variant: a stable latency, if there is one, of now or before."""
    if not are_stable(timing.medians) and known is not None and known.latency is not None:
        return known
    latency = timing.best if are_stable(timing.medians) else None
    rounds, spread = len(timing.medians), spread_of(timing.medians)
    return Measured(latency, timing.memory, timing.device, rounds, spread)


def time_run(run: RunConfig, classes: int, device: Any) -> Timing:
    """Measure the model of one run by itself, as `time_in_turns` does."""
    return time_in_turns({"": partial(_measure, run, classes, device)})[""]


def can_measure_memory(accelerator: str) -> bool:
    """Whether the device that `launch.accelerator` means on this machine can tell its peak memory."""
    from shunted_lab.tasks.device import find_device

    return find_device(accelerator, "launch.accelerator") != "mps"


def _measure(run: RunConfig, classes: int, device: Any, memory: bool) -> Speed:
    """A round of a run's model: passes of one image."""
    from shunted_lab.nn import measure

    model = run.task.build(run.model, classes)
    size, call = run.task.input_size(run.data), run.task.call
    return measure(model, size, 1, device, repeats=REPEATS, warmup=WARMUP, memory=memory, call=call)


def _key(run: RunConfig) -> str:
    """Tells models and image sizes apart, with the source of their components."""
    model = {**asdict(run.model), "name": "", "checkpoint": None}  # which change no cost
    parts = [model, asdict(run.task), run.task.input_size(run.data), component_sources(run.model)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

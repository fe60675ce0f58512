"""Latency and memory of each variant, measured on the device that trained, once nothing trains there any more."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shunted_lab.config.run import RunConfig
from shunted_lab.output.files import digest_of_values, write_json
from shunted_lab.output.quantities import counted
from shunted_lab.study.identity import component_sources

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


def read_measured(folder: Path, measured_as: Mapping[str, str]) -> dict[str, dict[str, Measured]]:
    """Variant -> device -> what has been measured of it there.

    Args:
        folder: the study's.
        measured_as: variant -> the key of its model as it is now; what has changed since has another one.
    """
    known = _read(folder)
    return {name: known[key] for name, key in measured_as.items() if key in known}


def _read(folder: Path) -> dict[str, dict[str, Measured]]:
    """Key of a model -> device -> what was measured."""
    try:
        found = json.loads((folder / FILE).read_text())
        return {key: {device: Measured(**m) for device, m in of.items()} for key, of in found.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # not measured, or by another version


def is_measured(folder: Path, measured_as: Mapping[str, str]) -> bool:
    """Whether a latency of every variant is known, on one device at least."""
    known = read_measured(folder, measured_as)
    devices = {device for of in known.values() for device in of}
    return any(all(_has_latency(known.get(name, {}).get(d)) for name in measured_as) for d in devices)


def _has_latency(found: Measured | None) -> bool:
    return found is not None and found.latency is not None


def measure_variants(
    folder: Path,
    variants: Mapping[str, RunConfig],
    classes: Mapping[str, int],
    measured_as: Mapping[str, str],
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Measure all variants on the device of this process, unless they are known on it.

    `costs.json` in the study's folder keeps what was found on each device. A latency that was not stable is null there,
    with the reason, and the next command tries again.

    Args:
        tell: gets a line before measuring begins, which may take a minute.
    """
    from shunted_lab.nn import device_name
    from shunted_lab.tasks.device import find_device

    device = find_device(next(iter(variants.values())).launch.accelerator, "launch.accelerator")
    name = device_name(device)
    known = {v: of[name] for v, of in read_measured(folder, measured_as).items() if name in of}
    if all(_has_latency(known.get(variant)) for variant in variants):
        return
    tell(f"measuring latency and memory of {counted(len(variants), 'variant')}: about a minute at most")
    rounds = {variant: partial(_measure, run, classes[variant], device) for variant, run in variants.items()}
    found = {variant: _measured(timing, known.get(variant)) for variant, timing in time_in_turns(rounds).items()}
    everything = _read(folder)
    for variant, measured in found.items():
        everything.setdefault(measured_as[variant], {})[name] = measured
    write_json(folder / FILE, {key: {d: asdict(m) for d, m in of.items()} for key, of in everything.items()})


def _measured(timing: Timing, known: Measured | None) -> Measured:
    """What is kept of a variant: a stable latency, if there is one, of now or before."""
    if not are_stable(timing.medians) and known is not None and known.latency is not None:
        return known
    latency = timing.best if are_stable(timing.medians) else None
    rounds, spread = len(timing.medians), spread_of(timing.medians)
    return Measured(latency, timing.memory, rounds, spread)


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


def measured_as(run: RunConfig) -> str:
    """The key of a run's model and image size, with the source of its components: what its costs depend on."""
    model = {**asdict(run.model), "name": "", "checkpoint": None}  # which change no cost
    parts = [model, asdict(run.task), run.task.input_size(run.data), component_sources(run.model)]
    return digest_of_values(parts)[:16]

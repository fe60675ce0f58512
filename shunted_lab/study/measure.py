"""Latency and memory of each variant, measured alone on this machine's device once nothing trains, and kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from shunted_lab.compose import Experiment
from shunted_lab.config import RunConfig
from shunted_lab.data import DataFacts
from shunted_lab.files import write_json
from shunted_lab.study.plan import study_folder

FILE = "costs.json"
ROUNDS, REPEATS, WARMUP = 3, 10, 3


@dataclass(frozen=True)
class Measured:
    """Of one image's forward pass: seconds, and bytes above the weights (None where the device does not tell)."""

    latency: float
    memory: float | None
    device: str


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


def measure_variants(experiment: Experiment, facts: dict[str, DataFacts]) -> dict[str, Measured]:
    """Measure all variants in turns, unless they are all known on this device; `costs.json` keeps the best medians."""
    from shunted_lab.nn import device_name
    from shunted_lab.tasks.device import find_device

    device = find_device(experiment.config.launch.accelerator, "launch.accelerator")
    known = read_measured(experiment)
    if len(known) == len(experiment.variants) and {m.device for m in known.values()} == {device_name(device)}:
        return known
    rounds = 1 if experiment.config.smoke else ROUNDS
    repeats = 2 if experiment.config.smoke else REPEATS
    found: dict[str, list[Measured]] = {name: [] for name in experiment.variants}
    for _ in range(rounds):  # in turns, so that a busy moment of the machine does not meet one variant only
        for name, run in experiment.variants.items():
            found[name].append(_measure(run, facts[name].num_classes, device, repeats))
    best = {name: min(those, key=lambda m: m.latency) for name, those in found.items()}
    note = {name: {"model": _key(experiment.variants[name]), "measured": asdict(m)} for name, m in best.items()}
    write_json(study_folder(experiment.config) / FILE, note)
    return best


def can_measure_memory(accelerator: str) -> bool:
    """Whether the device that `launch.accelerator` means on this machine can tell its peak memory."""
    from shunted_lab.tasks.device import find_device  # torch: 2 s

    return find_device(accelerator, "launch.accelerator").type != "mps"


def _measure(run: RunConfig, num_classes: int, device: Any, repeats: int) -> Measured:
    from shunted_lab.nn import measure
    from shunted_lab.tasks.model import build_model

    side = run.data.image_size
    speed = measure(build_model(run.model, num_classes), (side, side), 1, str(device), repeats=repeats, warmup=WARMUP)
    return Measured(speed.latency, None if speed.peak_memory is None else float(speed.peak_memory), speed.device)


def _key(run: RunConfig) -> str:
    """Tells models and image sizes apart, with the source of their components."""
    from shunted_lab.tasks.model import model_sources  # torch: 2 s

    model = {**asdict(run.model), "name": "", "checkpoint": None}  # which change no cost
    parts = [model, run.data.image_size, model_sources(run.model)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

"""Everything that a report is made of: a study's states, and what its runs have left in their folders.

What cannot be read is said in `problems`, and the rest is still reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from shunted_lab.config.experiment import Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.task import Goal
from shunted_lab.report.calibration import Calibration, calibrate
from shunted_lab.report.image_statistics import McNemar, bootstrap_interval, mcnemar, paired_bootstrap
from shunted_lab.report.resamples import class_draws, score_draws
from shunted_lab.report.states import StudyStates, load_states
from shunted_lab.report.table import Table, build_table
from shunted_lab.study.costs.measure import read_measured
from shunted_lab.study.folder import TRACEBACK
from shunted_lab.study.manifest import Manifest
from shunted_lab.study.states import RunState, checked, headlines
from shunted_lab.study.statistics.paired import Difference
from shunted_lab.tasks.evidence import EXAMPLES, StoredEvidence, read_evidence
from shunted_lab.tasks.history import read_history


@dataclass(frozen=True)
class RunData:
    """A run's state, and what its folder holds: `note` is `run.json`."""

    state: RunState
    history: dict[str, list[float]] = field(default_factory=dict)
    evidence: StoredEvidence | None = None
    note: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""

    @property
    def value(self) -> float | None:
        """The metric of the table."""
        result = self.state.result
        return None if result is None else result["metrics"][result["headline"]]


@dataclass(frozen=True)
class ImageEvidence:
    """A variant against its baseline on the same test images.

    `bootstrap` compares the means over the seeds that both have; `mcnemar` is by seed, where scores are 0 or 1.
    """

    variant: str
    baseline: str
    bootstrap: Difference
    mcnemar: dict[int, McNemar]


@dataclass(frozen=True)
class StudyData:
    """An experiment with all that is known of it."""

    config: Config
    variants: Mapping[str, RunConfig]
    folder: Path
    table: Table
    runs: list[RunData]
    problems: list[str]

    @property
    def goal(self) -> Goal:
        return self.table.goal

    def of(self, variant: str) -> list[RunData]:
        """The runs of a variant, by seed."""
        return sorted(
            (run for run in self.runs if run.state.run.variant == variant), key=lambda run: run.state.run.seed
        )


def load_study(folder: Path) -> StudyData:
    """The study in a folder with all that its runs have left; errors as in `load_states`."""
    return collect(load_states(folder))


def collect(found: StudyStates) -> StudyData:
    """Read the folders of the runs. What is broken there is named in `problems`."""
    manifest, states, problems = found.manifest, found.states, list(found.problems)
    measured = read_measured(manifest.folder, manifest.measured_as)
    costs = manifest.costs, manifest.paper_costs, measured
    table = build_table(manifest.config, manifest.variants, states, *costs, manifest.begins_with, manifest.rule)
    runs = [_read(state, problems) for state in checked(states)]
    if not any(run.state.result for run in runs):
        problems.append("No run is done yet.")
    gone = [r for r in runs if r.state.result is not None and not r.state.run.folder.exists()]
    if gone:
        names = ", ".join(f"{r.state.run.variant} seed {r.state.run.seed}" for r in gone)
        problems.append(
            f"Run folders are missing; the study has the metrics, but curves and predictions are lost: {names}."
        )
    if manifest.config.calibrate:
        table = replace(table, calibration=_calibration(manifest, states, runs))
    return StudyData(manifest.config, manifest.variants, manifest.folder, table, runs, problems)


def _calibration(manifest: Manifest, states: Sequence[RunState], runs: Sequence[RunData]) -> Calibration | None:
    config, values = manifest.config, headlines(manifest.variants, checked(states))
    own = [run.evidence for run in runs if run.state.run.variant == config.baseline and run.evidence is not None]
    same = [found for found in own if found.images == own[0].images]
    return calibrate(config, manifest.variants, values, same, manifest.goal.leading.unit)


def _read(state: RunState, problems: list[str]) -> RunData:
    folder = state.run.folder
    history: dict[str, list[float]] = {}
    evidence: StoredEvidence | None = None
    note: dict[str, Any] = {}
    traceback = ""
    try:
        history = read_history(folder)
        if state.result is not None:
            evidence = read_evidence(folder)
        note = json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else {}
        if state.state == "failed" and (folder / TRACEBACK).exists():
            traceback = (folder / TRACEBACK).read_text(errors="replace")
    except ConfigError as error:
        problems.append(str(error))
    except (OSError, ValueError, IndexError) as error:
        problems.append(f"{folder}: cannot be read ({' '.join(str(error).split())[:200]})")
    return RunData(state, history, evidence, note, traceback)


def curves(data: StudyData, metric: str) -> dict[str, list[list[float]]]:
    """Variant -> for each of its runs the values of a metric after each epoch."""
    found = {}
    for name in data.variants:
        lines = [run.history[metric] for run in data.of(name) if metric in run.history]
        if lines:
            found[name] = lines
    return found


def class_scores(data: StudyData) -> tuple[list[str], dict[str, list[float]]]:
    """Names of the classes, and variant -> the score of each class on the test split, mean over its runs."""
    names: list[str] = []
    found = {}
    for variant in data.variants:
        parts = [run.evidence for run in data.of(variant) if run.evidence is not None]
        parts = [p for p in parts if p.class_names and (not names or list(p.class_names) == names)]
        scores = [part.class_scores for part in parts if len(part.class_scores)]
        if scores:
            names = list(parts[0].class_names)
            found[variant] = np.mean(scores, 0).tolist()
    return names, found


def class_intervals(data: StudyData) -> dict[str, tuple[list[float], list[float]]]:
    """Variant -> the ends of the 95 % interval of each class's score, mean over its runs, over resampled images or
    groups of them; for the tasks that tell how a class does on a resample.
    """
    found = {}
    for variant in data.variants:
        evidence = [run.evidence for run in data.of(variant) if run.evidence is not None]
        each = [draws for run in evidence if (draws := class_draws(run)) is not None]
        if each:
            draws = np.mean(each, 0)  # (R, K)
            low, high = np.full((2, draws.shape[1]), np.nan)
            known = ~np.isnan(draws).all(0)
            low[known], high[known] = np.nanquantile(draws[:, known], [0.025, 0.975], axis=0)
            found[variant] = low.tolist(), high.tolist()
    return found


def example_pictures(data: StudyData) -> dict[str, tuple[int, bytes]]:
    """Variant -> the seed and the picture of examples of its first run that has one."""
    found = {}
    for variant in data.variants:
        for run in data.of(variant):
            path = run.state.run.folder / EXAMPLES
            if run.state.result is not None and path.exists():
                found[variant] = run.state.run.seed, path.read_bytes()
                break
    return found


def image_evidence(data: StudyData) -> Iterator[ImageEvidence]:
    """Each variant against its baseline, image by image, where both have stored evidence of the same images."""
    for variant in data.variants:
        baseline = data.config.baseline_of(variant)
        if variant == baseline:
            continue
        mine = {r.state.run.seed: r.evidence for r in data.of(variant) if r.evidence is not None}
        theirs = {r.state.run.seed: r.evidence for r in data.of(baseline) if r.evidence is not None}
        seeds = [s for s in mine if s in theirs and mine[s].images == theirs[s].images]
        if not seeds or len({len(mine[s].scores) for s in seeds}) > 1:
            continue
        pairs = {s: (mine[s], theirs[s]) for s in seeds}
        is_binary = mine[seeds[0]].is_binary
        tests = {s: mcnemar(a.scores == 1, b.scores == 1) for s, (a, b) in pairs.items()} if is_binary else {}
        yield ImageEvidence(variant, baseline, _over_images(*zip(*pairs.values(), strict=True)), tests)


def _over_images(mine: Sequence[StoredEvidence], theirs: Sequence[StoredEvidence]) -> Difference:
    """The difference of the means over the runs, with its interval over resampled images or groups of them."""
    if mine[0].is_mean and mine[0].groups is None:
        a, b = (np.stack([found.scores for found in runs]) for runs in (mine, theirs))
        return paired_bootstrap(a, b)
    draws, points = [], []
    for runs in (mine, theirs):
        draws.append(np.mean([score_draws(found) for found in runs], 0))
        points.append(np.mean([found.resampled(np.ones((1, found.units), np.int64))[0] for found in runs]))
    difference = draws[0] - draws[1]
    mean = float(points[0] - points[1])
    return Difference(mean, float(np.nanstd(difference)), *bootstrap_interval(difference), mine[0].units)


def number(value: float | None) -> float:
    return math.nan if value is None else value

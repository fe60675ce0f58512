"""What a report shows of detectors: precision against recall, and average precision of objects by their size."""

from __future__ import annotations

from typing import Any

import numpy as np

from shunted_lab.report.collect import StudyData
from shunted_lab.report.resamples import ap_draws
from shunted_lab.tasks.average_precision import IOUS, Marks, precision_at_recall, score
from shunted_lab.tasks.evidence import StoredEvidence, mean_of_known

SHOWN = (0, 5)  # of `IOUS`: 0.50 and 0.75
PLURAL = {"box": "boxes", "mask": "masks"}


def precision_curves(data: StudyData) -> dict[str, dict[str, list[float]]]:
    """Threshold of IoU -> variant -> precision of boxes at 101 recalls, the mean over classes and runs."""
    found: dict[str, dict[str, list[float]]] = {}
    for variant in data.variants:
        marks = [evidence.marks for evidence in _evidence(data, variant)]
        for iou in SHOWN if marks else ():
            curve = np.mean([precision_at_recall(each, iou) for each in marks if each is not None], 0)
            found.setdefault(f"IoU {IOUS[iou]:.2f}", {})[variant] = curve.tolist()
    return found


def size_scores(data: StudyData) -> tuple[list[str], dict[str, list[float]], dict[str, Any]]:
    """Names of forms and sizes; variant -> average precision of each, mean over its runs; variant -> the ends of the
    95 % intervals over resampled images, or groups of them.
    """
    names: list[str] = []
    scores: dict[str, list[float]] = {}
    ends: dict[str, tuple[list[float], list[float]]] = {}
    for variant in data.variants:
        evidence = _evidence(data, variant)
        known = [each.marks for each in evidence if each.marks is not None]
        if not known or (names and _names(known[0]) != names):
            continue
        names, cells = _names(known[0]), _cells(known[0])
        scores[variant] = [float(np.mean([score(m, None, *cell) for m in known])) for cell in cells]
        draws = np.mean([[mean_of_known(ap_draws(each, *cell)) for cell in cells] for each in evidence], 0).T
        low, high = np.full((2, len(cells)), np.nan)
        some = ~np.isnan(draws).all(0)
        low[some], high[some] = np.nanquantile(draws[:, some], [0.025, 0.975], axis=0)
        ends[variant] = low.tolist(), high.tolist()
    return names, scores, ends


def _evidence(data: StudyData, variant: str) -> list[StoredEvidence]:
    found = [run.evidence for run in data.of(variant) if run.evidence is not None]
    return [each for each in found if each.marks is not None]


def _cells(marks: Marks) -> list[tuple[int, int]]:
    """Form and range of areas of each row."""
    return [(form, area) for form in range(len(marks.forms)) for area in range(1 + len(marks.areas))]


def _names(marks: Marks) -> list[str]:
    sizes = ("all", *marks.areas)
    return [f"{PLURAL.get(marks.forms[form], marks.forms[form])}, {sizes[area]}" for form, area in _cells(marks)]

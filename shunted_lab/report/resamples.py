"""Scores of resampled test images, of which intervals over images are made; what takes long is kept on this machine."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from shunted_lab.data.cache import cache_folder
from shunted_lab.output.files import atomic
from shunted_lab.report.image_statistics import bootstrap
from shunted_lab.tasks.average_precision import FIELDS, NO_CLASS, Marks
from shunted_lab.tasks.evidence import StoredEvidence, mean_of_known

RESAMPLES, FEWER = 2_000, 500  # of images; fewer of detections, of which a resample takes longer
LONG = 20_000  # detections from which on draws are kept
VERSION = 1  # raised when the same marks give other draws


def score_draws(evidence: StoredEvidence) -> np.ndarray:
    """(R,) the score of resampled images, or groups of them; the same ones are drawn for every run."""
    classes = class_draws(evidence)
    return bootstrap(evidence.resampled, evidence.units, RESAMPLES) if classes is None else mean_of_known(classes)


@lru_cache(maxsize=64)
def class_draws(evidence: StoredEvidence) -> np.ndarray | None:
    """(R, K) the score of each class, NaN where it has none; None where the score is a mean over images."""
    if evidence.marks is not None:
        return ap_draws(evidence)
    return None if evidence.is_mean else bootstrap(evidence.resampled_classes, evidence.units, RESAMPLES)


@lru_cache(maxsize=512)
def ap_draws(evidence: StoredEvidence, form: int = 0, area: int = 0) -> np.ndarray:
    """(R, K) average precision of each class, of detections as `average_precision.Marks` has them."""
    assert evidence.marks is not None
    file = _file(evidence.marks, evidence.groups, form, area)
    if file is not None and file.exists():
        kept: np.ndarray = np.load(file)
        return kept
    found = bootstrap(lambda drawn: evidence.resampled_classes(drawn, form, area), evidence.units, FEWER)
    if file is not None:
        with suppress(OSError):  # without the file they are computed again
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic(file) as opened:
                np.save(opened, found)
    return found


def _file(marks: Marks, groups: np.ndarray | None, form: int, area: int) -> Path | None:
    """Where draws are kept; None for those that are computed in no time."""
    if (marks.classes != NO_CLASS).sum() < LONG:
        return None
    digest = hashlib.sha256(repr((VERSION, FEWER, form, area)).encode())
    for part in (*(getattr(marks, name) for name in FIELDS), *(() if groups is None else (groups,))):
        digest.update(repr((part.shape, part.dtype.str)).encode() + np.ascontiguousarray(part).tobytes())
    return cache_folder(None) / "resamples" / f"{digest.hexdigest()[:32]}.npy"

"""Scores of resampled images: the same draws for every run, and what takes long is kept."""

from __future__ import annotations

import numpy as np
import pytest

from shunted_lab.report import resamples
from shunted_lab.report.image_statistics import bootstrap
from shunted_lab.report.resamples import ap_draws, class_draws, score_draws
from shunted_lab.tasks.average_precision import MOST, NO_CLASS, Marks, class_ap, mean_ap
from shunted_lab.tasks.evidence import StoredEvidence

N, CLASSES = 12, 3


def detections(seed: int = 0, groups: np.ndarray | None = None) -> StoredEvidence:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, (N, MOST), dtype=np.int32)
    classes[:, 5:] = NO_CLASS
    scores = -np.sort(-rng.random((N, MOST), dtype=np.float32), 1)
    right = rng.integers(0, 2**10, (N, MOST, 1, 2), dtype=np.int32)
    objects = rng.integers(2, 6, (N, CLASSES, 2), dtype=np.int32)
    marks = Marks(classes, scores, right, np.zeros_like(right), objects, np.arange(N), areas=("small",))
    return StoredEvidence(np.zeros(N), False, "", ("a", "b", "c"), np.zeros(3), None, groups, marks)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "shunted_lab" / "resamples"


def test_draws_are_average_precision_of_the_images_that_are_drawn():
    evidence = detections()
    drawn = np.random.default_rng(0).multinomial(N, np.full(N, 1 / N), size=resamples.FEWER)
    for area in (0, 1):
        found = class_ap(evidence.marks, 0, area, drawn)
        assert np.array_equal(ap_draws(evidence, 0, area), found.mean(2))
    np.testing.assert_allclose(score_draws(evidence), mean_ap(class_ap(evidence.marks, weights=drawn)), atol=1e-12)


def test_groups_are_drawn_as_wholes():
    groups = np.arange(N) // 4
    found = ap_draws(detections(groups=groups))
    drawn = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), size=resamples.FEWER)
    assert np.array_equal(found, class_ap(detections().marks, weights=drawn[:, groups]).mean(2))


def test_a_mean_over_images_has_no_scores_of_classes():
    evidence = StoredEvidence(np.arange(4.0), False, "", (), np.empty(0))
    assert class_draws(evidence) is None
    assert np.array_equal(score_draws(evidence), bootstrap(evidence.resampled, 4, resamples.RESAMPLES))


def test_what_takes_long_is_computed_once_for_each_content(kept, monkeypatch):
    ap_draws(detections())
    assert not kept.exists(), "few detections take no time"
    monkeypatch.setattr(resamples, "LONG", 1)
    first = ap_draws(detections(1))
    ap_draws(detections(1), 0, 1)
    assert len(list(kept.glob("*.npy"))) == 2
    calls: list[int] = []

    def counted(score, units, count):
        calls.append(count)
        return bootstrap(score, units, count)

    monkeypatch.setattr(resamples, "bootstrap", counted)
    assert np.array_equal(ap_draws(detections(1)), first) and calls == []
    other = ap_draws(detections(1, np.arange(N) // 2))
    assert calls == [resamples.FEWER] and not np.array_equal(other, first)
    assert not np.array_equal(ap_draws(detections(2)), first) and len(calls) == 2

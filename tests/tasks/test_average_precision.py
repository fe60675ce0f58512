"""Average precision against pycocotools itself, on random detections with crowds, empty images and absent classes."""

from __future__ import annotations

import contextlib
import copy
import io
import math

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shunted_lab.data.objects import Truth, to_rle
from shunted_lab.report.collect import _over_images
from shunted_lab.report.image_statistics import bootstrap
from shunted_lab.tasks.average_precision import (
    FIELDS,
    DetectionEvidence,
    Marks,
    class_ap,
    mean_ap,
    precision_at_recall,
    resampled,
    score,
)
from shunted_lab.tasks.coco_matching import match
from shunted_lab.tasks.evidence import read_evidence, stored, write_evidence
from shunted_lab.tasks.found import Found

CLASSES, SIZE = 5, (120, 160)
AREAS = (("small", (0.0, 32.0**2)), ("medium", (32.0**2, 96.0**2)), ("large", (96.0**2, 1e10)))
FORMS = ("box", "mask")


def rectangle(box: np.ndarray) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    x0, y0, x1, y1 = np.round(box).astype(int)
    mask[y0:y1, x0:x1] = 1
    return mask


def scene(rng: np.random.Generator, number: int) -> tuple[Truth, Found]:
    """Objects, of which some are crowds, and detections near some of them; class 4 is nowhere, class 3 is not found."""
    n = 0 if number % 5 == 0 else int(rng.integers(1, 7))
    corners, sides = rng.uniform(0, 60, (n, 2)), rng.uniform(4, 60, (n, 2)) * rng.choice([0.3, 1.0, 1.6], (n, 1))
    boxes = np.concatenate([corners, (corners + sides).clip(max=[SIZE[1], SIZE[0]])], 1)
    labels = rng.integers(0, 4, n)
    crowd = rng.random(n) < 0.2
    masks = [rectangle(box) for box in boxes]
    areas = np.array([float(mask.sum()) for mask in masks])
    truth = Truth(f"image {number}", SIZE, boxes, labels, areas, crowd, masks)
    guesses = []
    for box, label in zip(boxes, labels, strict=True):
        for _ in range(int(rng.integers(0, 3))):
            moved = box + rng.normal(0, 3, 4)
            moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
            guesses.append((moved.clip(0, [160, 120, 160, 120]), int(label) if rng.random() < 0.8 else 0))
    guesses += [(np.array([5.0, 5, 30, 40]) + rng.uniform(0, 50), int(rng.integers(0, 3))) for _ in range(number % 3)]
    scores = -np.sort(-np.round(rng.random(len(guesses)), 1).astype(np.float32))  # with ties
    found = np.array([box for box, _ in guesses]).reshape(-1, 4)
    rles = [to_rle(rectangle(box), SIZE) for box in found]
    return truth, Found(found, scores, np.array([k for _, k in guesses], int), rles)


def scenes(count: int = 40, seed: int = 0) -> list[tuple[Truth, Found]]:
    rng = np.random.default_rng(seed)
    return [scene(rng, number) for number in range(count)]


def marks_of(pairs: list[tuple[Truth, Found]], forms=FORMS, areas=AREAS) -> Marks:
    found = [match(truth, each, CLASSES, forms, [r for _, r in areas]) for truth, each in pairs]
    names = tuple(f"class {k}" for k in range(CLASSES))
    arrays = {name: np.stack([getattr(one, name) for one in found]) for name in FIELDS}
    return Marks(**arrays, forms=tuple(forms), areas=tuple(name for name, _ in areas), class_names=names)


def theirs(pairs: list[tuple[Truth, Found]], kind: str) -> COCOeval:
    """pycocotools' own evaluation of a whole split, with its own ids."""
    truth, found = COCO(), []
    annotations, number = [], 0
    for i, (known, each) in enumerate(pairs):
        for k in range(len(known.labels)):
            number += 1
            x0, y0, x1, y1 = known.boxes[k].tolist()
            annotations.append(
                {
                    "id": number,
                    "image_id": i + 1,
                    "category_id": int(known.labels[k]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float(known.areas[k]),
                    "iscrowd": int(known.crowd[k]),
                    "segmentation": to_rle(known.segments[k], SIZE),
                }
            )
        for k in range(len(each.labels)):
            x0, y0, x1, y1 = each.boxes[k].tolist()
            one = {"image_id": i + 1, "category_id": int(each.labels[k]) + 1, "score": float(each.scores[k])}
            shape = {"segmentation": copy.deepcopy(each.masks[k])} if kind == "segm" else {}
            found.append(one | (shape or {"bbox": [x0, y0, x1 - x0, y1 - y0]}))
    images = [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(len(pairs))]
    truth.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k + 1} for k in range(CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


@pytest.mark.parametrize(("form", "kind"), [(0, "bbox"), (1, "segm")])
def test_average_precision_is_that_of_pycocotools(form, kind):
    pairs = scenes()
    marks, stats = marks_of(pairs), theirs(pairs, kind).stats
    mine = [score(marks, iou, form) for iou in (None, 0, 5)] + [score(marks, None, form, a) for a in (1, 2, 3)]
    mine = [-1.0 if math.isnan(value) else value for value in mine]
    assert mine == pytest.approx(stats[:6].tolist(), abs=1e-12)
    assert 0.05 < stats[0] < 0.9 and marks.ignored.any(), "crowds swallow some"


def test_each_class_and_the_curve_are_those_of_pycocotools():
    pairs = scenes()
    precision = theirs(pairs, "bbox").eval["precision"][..., 0, 2]  # (10, 101, K)
    assert (precision[..., 4] == -1).all(), "class 4 is nowhere"
    found = class_ap(marks_of(pairs))[0]
    assert np.isnan(found[4]).all()
    np.testing.assert_allclose(found[:4], precision[..., :4].mean(1).T, atol=1e-12)
    np.testing.assert_allclose(precision_at_recall(marks_of(pairs), 5), precision[5, :, :4].mean(1), atol=1e-12)


@pytest.mark.parametrize(("form", "kind"), [(0, "bbox"), (1, "segm")])
def test_a_resample_is_what_pycocotools_says_of_duplicated_images(form, kind):
    pairs = scenes(20)
    marks, rng = marks_of(pairs), np.random.default_rng(1)
    drawn = rng.multinomial(20, np.full(20, 1 / 20), size=4)
    for area, key in ((0, 0), (1, 3), (2, 4)):
        mine = mean_ap(resampled(marks, drawn, form, area))
        for counts, value in zip(drawn, mine, strict=True):
            images = np.repeat(np.arange(20), counts)
            stats = theirs([pairs[i] for i in images], kind).stats
            assert (-1 if math.isnan(value) else value) == pytest.approx(stats[key], abs=1e-12)


def test_evidence_survives_the_disk_and_is_compact(tmp_path):
    marks = marks_of(scenes())
    evidence = DetectionEvidence(marks)
    path = write_evidence(evidence, tmp_path, np.arange(40) // 4)
    assert path.stat().st_size < 20_000
    found = read_evidence(tmp_path)
    for name in FIELDS:
        assert np.array_equal(getattr(found.marks, name), getattr(marks, name)), name
    assert (found.marks.forms, found.marks.areas, found.class_names) == (
        FORMS,
        ("small", "medium", "large"),
        marks.class_names,
    )
    assert found.images == evidence.images and not found.is_mean and found.units == 10
    whole = found.resampled(np.ones((1, 10), int))
    assert float(whole[0]) == pytest.approx(score(marks), abs=1e-12)
    assert found.class_scores[:4] == pytest.approx(class_ap(marks)[0].mean(1)[:4])
    twice = found.resampled_classes(np.full((1, 10), 2))
    np.testing.assert_allclose(twice[0], class_ap(marks, weights=np.full((1, 40), 2))[0].mean(1))


def test_equal_runs_differ_by_nothing_and_other_images_have_another_digest():
    one, other = DetectionEvidence(marks_of(scenes())), DetectionEvidence(marks_of(scenes(seed=1)))
    assert one.images != other.images
    same = stored(one)
    difference = _over_images([same, same], [same])
    assert (difference.mean, difference.low, difference.high, difference.n) == (0, 0, 0, 40)
    spread = bootstrap(same.resampled, same.units, 200)
    assert spread.std() > 0.005 and abs(spread.mean() - score(one.marks)) < 0.05


def test_without_a_detection_the_score_is_zero_and_without_an_object_there_is_none():
    pairs = [(truth, Found(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, int), [])) for truth, _ in scenes(6)]
    assert score(marks_of(pairs)) == 0.0, "pycocotools' loadRes fails on an empty list"
    nothing = [pair for number, pair in enumerate(scenes(6)) if number % 5 == 0]
    assert math.isnan(score(marks_of(nothing)))
    assert math.isnan(precision_at_recall(marks_of(nothing)).max())
    np.testing.assert_array_equal(stored(DetectionEvidence(marks_of(nothing))).scores, [0, 0])


def test_captions_count_what_is_found_and_what_is_wrong():
    box = np.array([[10.0, 10, 40, 40], [60, 60, 100, 100]])
    truth = Truth("a", SIZE, box, np.array([0, 1]), np.array([900.0, 1600]), np.zeros(2, bool))
    guess = Found(box[[0, 0, 1]], np.array([0.9, 0.8, 0.4], np.float32), np.array([0, 0, 1]))
    evidence = DetectionEvidence(marks_of([(truth, guess)], ("box",), ()))
    assert evidence.captions([0]) == ["1 of 2 objects, 1 wrong"], "the second is a duplicate, the third is not sure"
    assert evidence.scores.tolist() == [1.0]


def test_ids_begin_at_one_so_that_the_first_match_counts():
    """pycocotools takes 0 for no match."""
    box = np.array([[10.0, 10, 40, 40]])
    truth = Truth("a", SIZE, box, np.array([2]), np.array([900.0]), np.zeros(1, bool))
    found = match(truth, Found(box, np.ones(1, np.float32), np.array([2])), CLASSES, ("box",), [])
    assert found.right[0, 0, 0] == 2**10 - 1 and found.objects[2, 0] == 1

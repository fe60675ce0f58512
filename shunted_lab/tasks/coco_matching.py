"""Which detections of an image are right, by pycocotools: what papers report is what this decides."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from shunted_lab.data.objects import Truth, to_rle
from shunted_lab.tasks.average_precision import IOUS, MOST, NO_CLASS
from shunted_lab.tasks.found import Found

ALL = (0.0, 1e10)  # the range of areas with all objects
OVERLAPS = {"box": "bbox", "mask": "segm"}  # as pycocotools calls them


class Matched(NamedTuple):
    """Of one image, what `average_precision.Marks` has of N."""

    classes: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray
    truth: int


def match(
    truth: Truth, found: Found, classes: int, forms: Sequence[str], ranges: Sequence[tuple[float, float]]
) -> Matched:
    """Match the detections of an image to its objects.

    Args:
        classes: K.
        forms: of `OVERLAPS`, what is judged.
        ranges: of areas [low, high], beside that of all objects.
    """
    assert len(found.scores) <= MOST
    areas = [ALL, *ranges]
    shape = (MOST, len(forms), len(areas))
    right, ignored = np.zeros((2, *shape), np.int32)
    objects = np.zeros((classes, len(areas)), np.int32)
    present = sorted({*truth.labels.tolist(), *found.labels.tolist()})
    for f, form in enumerate(forms):
        judge = _judge(truth, found, form)
        for k in present:
            judge.ious[0, k] = judge.computeIoU(0, k)
            for a, area in enumerate(areas):
                result = judge.evaluateImg(0, k, area, MOST)
                places = np.array(result["dtIds"], int) - 1
                skipped = result["dtIgnore"].astype(bool)
                right[places, f, a] = _bits((result["dtMatches"] > 0) & ~skipped)
                ignored[places, f, a] = _bits(skipped)
                objects[k, a] = int((np.asarray(result["gtIgnore"]) == 0).sum())
    labels, scores = np.full(MOST, NO_CLASS, np.int32), np.zeros(MOST, np.float32)
    labels[: len(found.labels)], scores[: len(found.scores)] = found.labels, found.scores
    return Matched(labels, scores, right, ignored, objects, _digest(truth))


def _judge(truth: Truth, found: Found, form: str) -> COCOeval:
    """pycocotools' evaluation of one image, number 0. Numbers of objects and detections begin at 1: 0 is no match."""
    judge = COCOeval(iouType=OVERLAPS[form])
    judge.params.maxDets = [MOST]
    assert np.allclose(judge.params.iouThrs, IOUS)
    for i, (box, label, area, crowd) in enumerate(
        zip(truth.boxes.tolist(), truth.labels.tolist(), truth.areas.tolist(), truth.crowd.tolist(), strict=True)
    ):
        known = {"id": i + 1, "bbox": _xywh(box), "area": area, "iscrowd": int(crowd), "ignore": int(crowd)}
        if form == "mask":
            known["segmentation"] = to_rle(truth.segments[i], truth.size)
        judge._gts[0, label].append(known)
    for i, (box, label) in enumerate(zip(found.boxes.tolist(), found.labels.tolist(), strict=True)):
        x, y, w, h = _xywh(box)
        shown: dict[str, Any] = {"id": i + 1, "bbox": [x, y, w, h], "area": w * h, "score": float(found.scores[i])}
        if form == "mask":
            assert found.masks is not None
            shown |= {"segmentation": found.masks[i], "area": float(coco_mask.area(found.masks[i]))}
        judge._dts[0, label].append(shown)
    return judge


def _xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _bits(flags: np.ndarray) -> np.ndarray:
    """(10, n) booleans -> (n,) int32."""
    return (flags.astype(np.int32) << np.arange(len(flags), dtype=np.int32)[:, None]).sum(0)


def _digest(truth: Truth) -> int:
    found = repr((truth.name, truth.size)).encode()
    for part in (truth.boxes.astype("<f8"), truth.areas.astype("<f8"), truth.labels.astype("<i8"), truth.crowd):
        found += part.tobytes()
    return zlib.crc32(found)

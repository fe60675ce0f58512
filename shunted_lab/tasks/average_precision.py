"""Average precision from what is kept of each detection, as pycocotools computes it; of resamples, too. No torch.

Whether a detection is right depends on its image alone (`coco_matching`), so AP of any multiset of images follows from
these marks, their scores, and the number of objects of each image: it is what pycocotools gives for images that are
really duplicated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # thresholds from which on a detection is right
RECALLS = np.linspace(0.0, 1.0, 101)  # at which precision is read
MOST = 100  # detections of an image
NO_CLASS = -1  # of a place without a detection
AT_ONCE = 2**24  # values that are resampled at a time
FIELDS = ("classes", "scores", "right", "ignored", "objects", "truth")  # of `Marks`, those with a value an image


@dataclass(frozen=True)
class Marks:
    """What is kept of the detections of N images, in the order of the test split.

    There are F forms of overlap that are judged (boxes, or boxes and masks), A ranges of areas, the first of which has
    all objects, and 10 thresholds of IoU, which are the bits of a number.

    Args:
        classes: (N, MOST) int32, `NO_CLASS` where an image has fewer detections; those of an image by falling score.
        scores: (N, MOST) float32.
        right: (N, MOST, F, A) int32: thresholds at which the detection is matched to an object that counts.
        ignored: (N, MOST, F, A) int32: thresholds at which it is neither right nor wrong.
        objects: (N, K, A) int32: the objects of each class that count.
        truth: (N,) int64: tells what an image is compared with.
        forms: names of the forms.
        areas: names of the ranges of areas beside the first.
        class_names: K.
    """

    classes: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray
    truth: np.ndarray
    forms: tuple[str, ...] = ("box",)
    areas: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def take(self, images: np.ndarray) -> Marks:
        """Those of some images."""
        return replace(self, **{name: getattr(self, name)[images] for name in FIELDS})

    @cached_property
    def by_class(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each class image and place of its detections, by falling score; those of one score in the order of the
        images."""
        image, place = np.nonzero(self.classes != NO_CLASS)
        order = np.lexsort((-self.scores[image, place].astype(np.float64), self.classes[image, place]))  # is stable
        image, place = image[order], place[order]
        edges = np.searchsorted(self.classes[image, place], np.arange(self.objects.shape[1] + 1))
        return [(image[a:b], place[a:b]) for a, b in pairwise(edges)]


def class_ap(marks: Marks, form: int = 0, area: int = 0, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of each class at each threshold of IoU.

    Args:
        weights: (R, N) how often each image counts in each of R resamples; None: once, and R is 1.

    Returns:
        (R, K, 10); NaN for a class without objects.
    """
    weights = np.ones((1, len(marks.scores))) if weights is None else weights.astype(np.float64)
    found = np.full((len(weights), marks.objects.shape[1], len(IOUS)), np.nan)
    objects = weights @ marks.objects[..., area].astype(np.float64)  # (R, K)
    for k in range(found.shape[1]):
        known = np.flatnonzero(objects[:, k] > 0)
        if not len(known):
            continue
        for t, precision in enumerate(_precisions(marks, k, form, area, weights[known], objects[known, k])):
            found[known, k, t] = precision.mean(1)
    return found


def precision_at_recall(marks: Marks, iou: int = 0, form: int = 0, area: int = 0) -> np.ndarray:
    """(101,) precision at `RECALLS`, mean over the classes with objects; NaN where there is none."""
    weights, found = np.ones((1, len(marks.scores))), []
    for k, count in enumerate(marks.objects[..., area].sum(0)):
        if count:
            curves = list(_precisions(marks, k, form, area, weights, np.array([float(count)])))
            found.append(curves[iou][0])
    return np.mean(found, 0) if found else np.full(len(RECALLS), np.nan)


def _precisions(
    marks: Marks, k: int, form: int, area: int, weights: np.ndarray, objects: np.ndarray
) -> Iterator[np.ndarray]:
    """Precision (R, 101) at `RECALLS` of a class, for each threshold of IoU."""
    image, place = marks.by_class[k]
    right, ignored = (part[image, place, form, area] for part in (marks.right, marks.ignored))
    drawn = weights[:, image]
    runs = _runs(image, marks.scores[image, place])
    if len(runs) == len(image) + 1 or drawn.max(initial=0) <= 1:
        return _curves(right, ignored, drawn, objects)
    # Several detections of one image with one score: its copies follow one another, each with all of them.
    rows = [_repeated(runs, row) for row in drawn.astype(np.int64)]
    each = [
        list(_curves(right[row], ignored[row], np.ones((1, len(row))), objects[i : i + 1]))
        for i, row in enumerate(rows)
    ]
    return (np.concatenate(curves) for curves in zip(*each, strict=True))


def _curves(right: np.ndarray, ignored: np.ndarray, drawn: np.ndarray, objects: np.ndarray) -> Iterator[np.ndarray]:
    """Precision (R, 101) for each threshold, of detections (D,) that count `drawn` (R, D) times.

    Only at detections that are right can precision be highest, so others are summed and left out.
    """
    sums: dict[bytes, np.ndarray] = {}
    for t in range(len(IOUS)):
        bit = 1 << t
        skipped = (ignored & bit) > 0
        hits = np.flatnonzero(((right & bit) > 0) & ~skipped)
        key = skipped.tobytes()
        if key not in sums:
            sums = {key: (drawn * ~skipped).cumsum(1)}  # of right and wrong ones
        right_so_far, all_so_far = drawn[:, hits].cumsum(1), sums[key][:, hits]
        precision = right_so_far / (all_so_far + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        yield _read_at(right_so_far / objects[:, None], precision)


def _runs(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Where runs of detections of one image with one score begin, and the end."""
    new = (np.diff(image) != 0) | (np.diff(scores) != 0)
    return np.concatenate([[0], np.flatnonzero(new) + 1, [len(image)]])


def _repeated(runs: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Indices of the detections (D,), where each run comes as often as it is drawn."""
    start, length = runs[:-1], np.diff(runs)
    total = length * drawn[start]
    within = np.arange(total.sum()) - np.repeat(np.cumsum(total) - total, total)
    return np.asarray(np.repeat(start, total) + within % np.repeat(length, total))


def _read_at(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """(R, m) recall, rising, and precision -> (R, 101) precision where recall first reaches each of `RECALLS`."""
    padded = np.pad(precision, ((0, 0), (0, 1)))  # 0 where it is not reached
    places = np.stack([np.searchsorted(row, RECALLS) for row in recall])
    return np.take_along_axis(padded, places, 1)


def mean_ap(found: np.ndarray, iou: int | None = None) -> np.ndarray:
    """(R, K, 10) of `class_ap` -> (R,) mean over the classes with objects, and over thresholds or at one; NaN where no
    class has objects."""
    each = found.mean(2) if iou is None else found[:, :, iou]
    known = ~np.isnan(each)
    count = known.sum(1)
    return np.divide(np.where(known, each, 0).sum(1), count, out=np.full(len(each), np.nan), where=count > 0)


def score(marks: Marks, iou: int | None = None, form: int = 0, area: int = 0) -> float:
    """AP of all images: the mean over thresholds, or at one of `IOUS`."""
    return float(mean_ap(class_ap(marks, form, area), iou)[0])


def resampled(marks: Marks, weights: np.ndarray, form: int = 0, area: int = 0) -> np.ndarray:
    """(R, N) how often each image is drawn -> (R, K, 10) as `class_ap`, some resamples at a time."""
    longest = max((len(image) for image, _ in marks.by_class), default=1)
    step = max(1, AT_ONCE // max(longest, len(marks.scores)))
    return np.concatenate(
        [class_ap(marks, form, area, weights[start : start + step]) for start in range(0, len(weights), step)]
    )


def average_recall(marks: Marks, form: int = 0) -> np.ndarray:
    """(N,) share of the objects of each image that are found, mean over thresholds; 0 for one without objects."""
    hits = marks.right[:, :, form, 0] & ~marks.ignored[:, :, form, 0]
    found = sum(((hits >> t) & 1).sum(1) for t in range(len(IOUS))) / len(IOUS)
    total = marks.objects[..., 0].sum(1)
    return np.divide(found, total, out=np.zeros(len(total)), where=total > 0)


@dataclass(frozen=True)
class DetectionEvidence:
    """The marks of the test split (`config.task.Evidence`)."""

    marks: Marks
    is_binary: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.marks.class_names

    @property
    def counts(self) -> None:
        return None

    @property
    def scores(self) -> np.ndarray:
        """(N,) average recall of each image by itself, to show."""
        return average_recall(self.marks)

    @property
    def images(self) -> str:
        """A digest of what the images are compared with, in their order."""
        return hashlib.sha256(self.marks.truth.astype("<i8").tobytes()).hexdigest()[:16]

    def per_class(self) -> np.ndarray:
        """(K,) AP of each class; NaN for one without objects."""
        return class_ap(self.marks)[0].mean(1)

    def captions(self, images: Sequence[int]) -> list[str]:
        """`3 of 4 objects, 1 wrong`: matched at IoU 0.5, by the detections with a score from 0.5 on."""
        found = []
        for image in images:
            sure = self.marks.scores[image] >= 0.5
            right, ignored = (part[image, :, 0, 0] & 1 for part in (self.marks.right, self.marks.ignored))
            wrong = int((sure & (right == 0) & (ignored == 0) & (self.marks.classes[image] != NO_CLASS)).sum())
            total = int(self.marks.objects[image, :, 0].sum())
            found.append(f"{int((sure & (right > 0) & (ignored == 0)).sum())} of {total} objects, {wrong} wrong")
        return found

    def write(self, folder: Path) -> None:
        """Nothing: `evidence.npz` has the marks."""

"""The evidence of a run as a file that a report reads without the run's task (`config.task.Evidence`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from shunted_lab.config.schema import ConfigError
from shunted_lab.config.task import Evidence
from shunted_lab.output.files import atomic
from shunted_lab.tasks.average_precision import MOST, NO_CLASS, Marks, resampled
from shunted_lab.tasks.iou import class_iou

FILE = "evidence.npz"
EXAMPLES = "examples.png"  # a picture of predictions beside it (`tasks.examples`, which imports torch)


def mean_of_known(scores: np.ndarray) -> np.ndarray:
    """(R, K) scores of classes -> (R,) the mean over those that have one; NaN where none has."""
    known = ~np.isnan(scores)
    count = known.sum(1)
    return np.divide(np.where(known, scores, 0).sum(1), count, out=np.full(len(scores), np.nan), where=count > 0)


@dataclass(frozen=True, eq=False)
class StoredEvidence:
    """What runs are compared by, image by image.

    Args:
        scores: (N,) how well each image of the test split was predicted, in its order.
        is_binary: whether scores are 0 or 1.
        images: tells test splits apart, with their targets.
        class_names: of `class_scores`; none for a task without classes.
        class_scores: (classes,) NaN for a class without images.
        counts: see `Evidence.counts`.
        groups: (N,) the group of each image, resampled as a whole; None where each image is a group.
        marks: see `Evidence.marks`.
    """

    scores: np.ndarray
    is_binary: bool
    images: str
    class_names: tuple[str, ...]
    class_scores: np.ndarray
    counts: np.ndarray | None = None
    groups: np.ndarray | None = None
    marks: Marks | None = None

    @property
    def is_mean(self) -> bool:
        """Whether the score of the split is the mean of the images' scores."""
        return self.counts is None and self.marks is None

    @property
    def units(self) -> int:
        """M, how many groups of images there are, or images."""
        return len(self.scores) if self.groups is None else len(np.unique(self.groups))

    def resampled(self, drawn: np.ndarray) -> np.ndarray:
        """(R, M) how often each group, or image, is drawn -> (R,) the score of each resample."""
        if not self.is_mean:
            return mean_of_known(self.resampled_classes(drawn))
        sums = self._sums(drawn, np.stack([self.scores, np.ones(len(self.scores))], 1))
        return np.asarray(sums[:, 0] / sums[:, 1])

    def resampled_classes(self, drawn: np.ndarray, form: int = 0, area: int = 0) -> np.ndarray:
        """(R, M) -> (R, K) the score of each class in each resample, NaN where it has none; not where `is_mean`.

        Args:
            form, area: of detections, what is judged (`average_precision.Marks`).
        """
        if self.marks is not None:
            return np.asarray(resampled(self.marks, self.of_images(drawn), form, area).mean(2))
        assert self.counts is not None
        return class_iou(self._sums(drawn, self.counts))

    def of_images(self, drawn: np.ndarray) -> np.ndarray:
        """(R, M) how often each group is drawn -> (R, N) how often each image is."""
        return drawn if self.groups is None else drawn[:, np.unique(self.groups, return_inverse=True)[1]]

    def _sums(self, drawn: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """(R, M), (N, ...) -> (R, ...) sums of the parts of all images that are drawn."""
        if self.groups is not None:
            _, group = np.unique(self.groups, return_inverse=True)
            total = np.zeros((group.max() + 1, *parts.shape[1:]), parts.dtype)
            np.add.at(total, group, parts)
            parts = total
        flat = parts.reshape(len(parts), -1).astype(np.float64)  # exact up to 2**53
        return (drawn.astype(np.float64) @ flat).reshape(len(drawn), *parts.shape[1:])


def stored(evidence: Evidence, groups: np.ndarray | None = None) -> StoredEvidence:
    """What is kept of evidence.

    Args:
        groups: of the images of the test split, which may be more than those that were tested.
    """
    per_class, scores = evidence.per_class(), evidence.scores.astype(np.float64)
    return StoredEvidence(
        scores,
        evidence.is_binary,
        evidence.images,
        evidence.class_names,
        np.empty(0) if per_class is None else per_class,
        evidence.counts,
        None if groups is None else groups[: len(scores)],
        evidence.marks,
    )


def write_evidence(evidence: Evidence, folder: Path, groups: np.ndarray | None = None) -> Path:
    """Write `evidence.npz` into a run's folder (see `stored`); binary scores of 50,000 images take 6 kB."""
    kept = stored(evidence, groups)
    arrays = {
        "scores": np.packbits(kept.scores.astype(bool)) if kept.is_binary else kept.scores,
        "count": np.int64(len(kept.scores)),
        "is_binary": np.bool_(kept.is_binary),
        "images": np.array(kept.images, dtype=np.str_),
        "class_names": np.array(kept.class_names, dtype=np.str_),
        "class_scores": kept.class_scores,
    }
    if kept.counts is not None:
        arrays["counts"] = kept.counts.astype(np.uint32)
    if kept.groups is not None:
        arrays["groups"] = kept.groups
    if kept.marks is not None:
        arrays |= _packed(kept.marks)
    with atomic(folder / FILE) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return folder / FILE


def read_evidence(folder: Path) -> StoredEvidence | None:
    """The evidence in a run's folder; None if there is none.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = dict(found)
        is_binary, scores = bool(arrays["is_binary"]), arrays["scores"]
        if is_binary:
            scores = np.unpackbits(scores, count=int(arrays["count"])).astype(np.float64)
        names = tuple(arrays["class_names"].tolist())
        counts = arrays["counts"].astype(np.int64) if "counts" in arrays else None
        marks = _unpacked(arrays, names) if "marks_objects" in arrays else None
        known = str(arrays["images"]), names, arrays["class_scores"], counts, arrays.get("groups"), marks
        return StoredEvidence(scores, is_binary, *known)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None


def _packed(marks: Marks) -> dict[str, np.ndarray]:
    """The marks of the detections that there are, one after the other, and the objects of the classes that occur."""
    image, place = np.nonzero(marks.classes != NO_CLASS)
    where, k = np.nonzero(marks.objects.any(2))
    arrays: dict[str, np.ndarray] = {
        "image": image.astype(np.uint32),
        "classes": marks.classes[image, place].astype(np.uint16),
        "scores": marks.scores[image, place],  # float16 would make equal what is not
        "right": marks.right[image, place].astype(np.uint16),
        "ignored": marks.ignored[image, place].astype(np.uint16),
        "objects": marks.objects[where, k].astype(np.uint16),
        "objects_in": np.stack([where, k]).astype(np.uint32),
        "truth": marks.truth,
        "forms": np.array(marks.forms, dtype=np.str_),
        "areas": np.array(marks.areas, dtype=np.str_),
    }
    return {f"marks_{name}": value for name, value in arrays.items()}


def _unpacked(arrays: dict[str, np.ndarray], class_names: tuple[str, ...]) -> Marks:
    found = {name.removeprefix("marks_"): value for name, value in arrays.items() if name.startswith("marks_")}
    n, forms, areas = len(found["truth"]), tuple(found["forms"].tolist()), tuple(found["areas"].tolist())
    image = found["image"].astype(np.int64)
    place = np.arange(len(image)) - np.searchsorted(image, image)
    whole: dict[str, np.ndarray] = {
        "classes": np.full((n, MOST), NO_CLASS, np.int32),
        "scores": np.zeros((n, MOST), np.float32),
        "right": np.zeros((n, MOST, len(forms), 1 + len(areas)), np.int32),
        "ignored": np.zeros((n, MOST, len(forms), 1 + len(areas)), np.int32),
    }
    for name, values in whole.items():
        values[image, place] = found[name]
    objects = np.zeros((n, len(class_names), 1 + len(areas)), np.int32)
    objects[tuple(found["objects_in"])] = found["objects"]
    return Marks(**whole, objects=objects, truth=found["truth"], forms=forms, areas=areas, class_names=class_names)

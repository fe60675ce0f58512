"""The evidence of a run as a file that a report reads without the run's task (`config.task.Evidence`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from shunted_lab.config.schema import ConfigError
from shunted_lab.config.task import Evidence
from shunted_lab.output.files import atomic
from shunted_lab.tasks.iou import mean_iou

FILE = "evidence.npz"
EXAMPLES = "examples.png"  # a picture of predictions beside it (`tasks.examples`, which imports torch)


@dataclass(frozen=True)
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
    """

    scores: np.ndarray
    is_binary: bool
    images: str
    class_names: tuple[str, ...]
    class_scores: np.ndarray
    counts: np.ndarray | None = None
    groups: np.ndarray | None = None

    @property
    def parts(self) -> np.ndarray:
        """(M, ...) of each group of images, or of each image: what is summed over a resample, to be scored by
        `score_of`: counts (3, K), or the sum of scores and the number of images.
        """
        parts = np.stack([self.scores, np.ones(len(self.scores))], 1) if self.counts is None else self.counts
        if self.groups is None:
            return parts
        _, group = np.unique(self.groups, return_inverse=True)
        total = np.zeros((group.max() + 1, *parts.shape[1:]), parts.dtype)
        np.add.at(total, group, parts)
        return total


def score_of(sums: np.ndarray) -> np.ndarray:
    """Sums of `StoredEvidence.parts` over resamples, (R, 2) or (R, 3, K), or classes of them -> (R,) scores."""
    return sums[..., 0] / sums[..., 1] if sums.ndim == 2 else mean_iou(sums)


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
        known = str(arrays["images"]), names, arrays["class_scores"], counts, arrays.get("groups")
        return StoredEvidence(scores, is_binary, *known)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None

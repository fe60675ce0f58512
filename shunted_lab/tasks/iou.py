"""Intersection over union from counts of pixels, and the evidence of segmentation. This imports no torch.

Of each image and class there are three counts of pixels: correct ones I, predicted ones P, true ones G. Summed over
images, IoU = I / (P + G - I); the mean is over the classes that occur, as mmseg has it (`nanmean`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def class_iou(counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) counts -> (..., K) IoU; NaN for a class that is neither there nor predicted."""
    right, predicted, true = (counts[..., i, :].astype(np.float64) for i in range(3))
    union = predicted + true - right
    return np.divide(right, union, out=np.full_like(union, np.nan), where=union > 0)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) counts -> (...) mean over the classes that occur; NaN where none does."""
    iou = class_iou(counts)
    known = ~np.isnan(iou)
    total = known.sum(-1)
    return np.divide(np.where(known, iou, 0).sum(-1), total, out=np.full(total.shape, np.nan), where=total > 0)


@dataclass(frozen=True)
class PixelEvidence:
    """Counts of the N images of the test split, (N, 3, K): see `Evidence.counts`."""

    counts: np.ndarray
    class_names: tuple[str, ...]
    is_binary: bool = False
    marks: None = None

    @property
    def scores(self) -> np.ndarray:
        """(N,) mean IoU of each image by itself, to show; 0 for one without pixels that count."""
        return np.nan_to_num(mean_iou(self.counts))

    @property
    def images(self) -> str:
        """A digest of how many pixels of each class each image has: the test split is read in one order."""
        true = np.ascontiguousarray(self.counts[:, 2], "<i8")
        return hashlib.sha256(repr(true.shape).encode() + true.tobytes()).hexdigest()[:16]

    def per_class(self) -> np.ndarray:
        """(K,) IoU of each class; NaN for one that is neither there nor predicted."""
        return class_iou(self.counts.sum(0))

    def captions(self, images: Sequence[int]) -> list[str]:
        """`mIoU 0.62`, of an image by itself."""
        return [f"mIoU {value:.2f}" for value in self.scores[list(images)]]

    def write(self, folder: Path) -> None:
        """Nothing: `evidence.npz` has the counts."""

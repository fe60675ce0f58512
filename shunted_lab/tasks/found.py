"""The detections of an image at its original size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from shunted_lab.data.objects import Size
from shunted_lab.nn.detection.contract import Detections
from shunted_lab.nn.detection.masks import paste_mask
from shunted_lab.tasks.drawing import draw_objects


class Found(NamedTuple):
    """Detections by falling score.

    Args:
        boxes: (n, 4) x0, y0, x1, y1.
        scores: (n,) float32.
        labels: (n,).
        masks: RLE of each; None where only boxes are predicted.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict[str, Any]] | None = None

    def at_least(self, score: float) -> Found:
        """Those with a score of at least so much."""
        kept = int((self.scores >= score).sum())
        masks = None if self.masks is None else self.masks[:kept]
        return Found(self.boxes[:kept], self.scores[:kept], self.labels[:kept], masks)

    def draw(self, image: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """The image (H, W, 3) uint8 with all detections, their classes and scores."""
        masks = [] if self.masks is None else [coco_mask.decode(mask).astype(bool) for mask in self.masks]
        labels, scores = self.labels.tolist(), self.scores.tolist()
        return draw_objects(image, self.boxes, labels, class_names, scores, masks)

    def plain(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """Plain values for a JSON file: class, score, box, and mask as COCO's run lengths."""
        objects: list[dict[str, Any]] = []
        for box, label, score in zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True):
            rounded = [round(value, 2) for value in box]
            objects.append({"class": class_names[label], "score": round(score, 4), "box": rounded})
        for each, mask in zip(objects, self.masks or [], strict=False):
            each["mask"] = {"size": list(mask["size"]), "counts": mask["counts"].decode()}
        return objects


def at_size(detections: Detections, size: Size, original: Size) -> Found:
    """The detections of an image that the network sees at `size`, at its `original` size."""
    height, width = original
    scale = torch.tensor([width / size[1], height / size[0]]).repeat(2)
    boxes = detections.boxes.float().cpu() * scale
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    masks = None
    if detections.masks is not None:
        pairs = zip(detections.masks.float().cpu(), boxes, strict=True)
        masks = [_encoded(mask, box, original) for mask, box in pairs]
    scores, labels = detections.scores.float().cpu().numpy(), detections.labels.cpu().numpy()
    return Found(boxes.double().numpy(), scores, labels, masks)


def _encoded(mask: Tensor, box: Tensor, size: Size) -> dict[str, Any]:
    """A mask at a box as run lengths of the whole image."""
    pasted, (top, left) = paste_mask(mask, box, *size)
    whole = np.zeros(size, np.uint8, order="F")
    whole[top : top + pasted.shape[0], left : left + pasted.shape[1]] = pasted.numpy()
    found: dict[str, Any] = coco_mask.encode(whole)
    return found

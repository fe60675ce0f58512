"""Overlap of predicted and true pixels: mean IoU, mean and pixel accuracy, as mmseg computes them.

Everything follows from three counts of pixels an image and class (`iou`): correct ones I, predicted ones P, true ones
G. Summed over images, the accuracy of a class is I / G; means are over the classes that occur.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from shunted_lab.data.label_maps import IGNORED, LabelMaps

Range = tuple[float, float]


def count_pixels(predicted: Tensor, targets: LabelMaps, classes: int, ranges: Sequence[Range] = ()) -> Tensor:
    """(B, 1 + len(ranges), 3, classes) int64: correct, predicted and true pixels of each image and class.

    The first of dimension 1 counts all. A range [low, high) of sizes counts the pixels of a class in the images whose
    object of that class has such a size; a class that is predicted where an image has none of it counts in no range.

    Args:
        predicted: (B, H, W) classes.
    """
    valid = targets.classes != IGNORED
    true = targets.classes.long().where(valid, 0)  # 255 is not an index
    image = torch.arange(len(predicted), device=predicted.device).view(-1, 1, 1) * classes
    size = len(predicted) * classes
    counted = [torch.bincount((image + c)[m], minlength=size) for c, m in _counted(true, predicted, valid)]
    whole = torch.stack([each.view(len(predicted), classes) for each in counted], 1)
    found = [whole]
    for low, high in ranges:
        assert targets.sizes is not None
        found.append(whole * ((targets.sizes >= low) & (targets.sizes < high) & (targets.sizes > 0))[:, None])
    return torch.stack(found, 1)


def _counted(true: Tensor, predicted: Tensor, valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Classes, and which pixels count: correct, predicted, true ones."""
    return [(true, valid & (predicted == true)), (predicted, valid), (true, valid)]


class PixelMetric(Metric):
    """A metric of the counts that `Segmentation.for_evaluation` gives, summed over all images and ranks.

    Args:
        kind: `miou`, `macc` (mean of the classes' accuracies) or `aacc` (share of the pixels that are right).
        classes: K.
        part: of dimension 1 of the counts.
        first: the first class that is averaged; 1 leaves out the background.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, kind: str, classes: int, part: int = 0, first: int = 0):
        super().__init__()
        self.kind, self.part, self.first = kind, part, first
        self.add_state("counts", torch.zeros(3, classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, outputs: tuple[Tensor, Tensor], targets: LabelMaps) -> None:
        """`outputs` are logits and counts."""
        self.counts += outputs[1][:, self.part].sum(0)

    def compute(self) -> Tensor:
        right, predicted, true = self.counts[:, self.first :].cpu().double()  # float32 cannot count above 2**24
        if self.kind == "aacc":
            return (right.sum() / true.sum()).to(self.device, torch.float32)
        total = predicted + true - right if self.kind == "miou" else true
        return (right / total).nanmean().to(self.device, torch.float32)

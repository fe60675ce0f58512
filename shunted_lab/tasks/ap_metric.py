"""Average precision as a metric of torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from shunted_lab.data.objects import Truth
from shunted_lab.tasks.average_precision import FIELDS, Marks, score
from shunted_lab.tasks.coco_matching import match
from shunted_lab.tasks.found import Found


def matched(
    found: Sequence[Found],
    truths: Sequence[Truth],
    classes: int,
    forms: Sequence[str],
    ranges: Sequence[tuple[float, float]],
) -> tuple[Tensor, ...]:
    """The fields of `average_precision.Marks` of a batch."""
    images = [match(truth, each, classes, forms, ranges) for each, truth in zip(found, truths, strict=True)]
    return tuple(torch.from_numpy(np.stack([getattr(image, name) for image in images])) for name in FIELDS)


class APMetric(Metric):
    """Average precision of all images of all ranks.

    Args:
        iou: index of the threshold (`average_precision.IOUS`); None: the mean over all.
        form: 0 for boxes, 1 for masks.
        area: 0 for all objects, else the number of a range of areas.
    """

    full_state_update = False

    def __init__(self, iou: int | None = None, form: int = 0, area: int = 0):
        super().__init__()
        self.iou, self.form, self.area = iou, form, area
        for name in FIELDS:
            self.add_state(f"of_{name}", [], dist_reduce_fx="cat")

    def update(self, outputs: Any, targets: Any) -> None:
        """`outputs` is `detection.Judged`."""
        for name, value in zip(FIELDS, outputs.marks, strict=True):
            getattr(self, f"of_{name}").append(value.to(self.device))  # ranks exchange them there

    def compute(self) -> Tensor:
        parts: Any = [dim_zero_cat(getattr(self, f"of_{name}")).cpu().numpy() for name in FIELDS]
        return torch.tensor(score(Marks(*parts), self.iou, self.form, self.area), dtype=torch.float32).to(self.device)

"""RoIAlign over the levels of a pyramid: the features of boxes, on a grid of one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

FINEST = 56.0  # boxes whose sides are below twice this, in the geometric mean, are pooled from the finest level


class RoIPool:
    """RoIAlign with half a pixel's offset and as many samples as a bin has pixels (mmdet, detectron2).

    Torchvision's `MultiScaleRoIAlign` lacks the offset, takes 2 x 2 samples, and guesses strides from the first batch.

    Args:
        strides: of the levels, finest first.
        size: of the grid.
    """

    def __init__(self, strides: Sequence[int], size: int):
        self.strides = list(strides)
        self.size = size

    def levels_of(self, boxes: Tensor) -> Tensor:
        """(n, 4) boxes -> (n,) the level that each is pooled from (FPN, equation 1)."""
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
        return (sides / FINEST + 1e-6).log2().floor().clamp(0, len(self.strides) - 1)

    def __call__(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, H_i, W_i) and the boxes (n_b, 4) of each image -> (sum of n_b, C, size, size)."""
        image = torch.cat([torch.full((len(each), 1), float(i), device=each.device) for i, each in enumerate(boxes)])
        rois = torch.cat([image, torch.cat(list(boxes))], 1)
        levels = self.levels_of(rois[:, 1:])
        found = maps[0].new_zeros((len(rois), maps[0].shape[1], self.size, self.size), dtype=torch.float32)
        for i, (stride, x) in enumerate(zip(self.strides, maps, strict=False)):
            here = (levels == i).nonzero()[:, 0]
            # Also of no box: every level takes part in the gradient, as DistributedDataParallel expects.
            pooled = roi_align(x, rois[here], self.size, 1 / stride, sampling_ratio=0, aligned=True)
            found = found.index_copy(0, here, pooled.float())
        return found

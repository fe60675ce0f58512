"""Masks between the image and the grid that the mask head predicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

HALF = 0.5  # a pixel belongs to an object from this share on


def mask_targets(masks: Tensor, boxes: Tensor, which: Tensor, size: int) -> Tensor:
    """What the mask head is trained for: the object's mask within a box, on a grid, binary (mmdet).

    Args:
        masks: (G, H, W) uint8 of the objects of an image.
        boxes: (n, 4) in pixels of the masks.
        which: (n,) the object of each box.
        size: of the grid.

    Returns:
        (n, size, size) float32, 0 or 1.
    """
    found = torch.zeros(len(boxes), size, size, device=boxes.device)
    for number in which.unique().tolist():  # one mask at a time as float32
        here = (which == number).nonzero()[:, 0]
        rois = torch.cat([boxes.new_zeros(len(here), 1), boxes[here]], 1)
        pooled = roi_align(masks[number][None, None].float(), rois, size, 1.0, sampling_ratio=0, aligned=True)
        found[here] = (pooled[:, 0] >= HALF).float()
    return found


def paste_mask(mask: Tensor, box: Tensor, height: int, width: int) -> tuple[Tensor, tuple[int, int]]:
    """A predicted mask in the pixels of its image, by bilinear interpolation at the centres of pixels (mmdet).

    Torchvision rounds boxes to whole pixels, here and in its targets, which costs 16 points of IoU at 12 pixels.

    Args:
        mask: (M, M) probabilities.
        box: (4,) in pixels of the image.

    Returns:
        (h, w) booleans of the box's pixels, and the row and column of the first one.
    """
    x0, y0, x1, y1 = box.tolist()
    left, top = max(int(x0) - 1, 0), max(int(y0) - 1, 0)
    right, bottom = min(int(x1) + 2, width), min(int(y1) + 2, height)
    x = (torch.arange(left, right, dtype=torch.float32) + 0.5 - x0) / max(x1 - x0, 1e-6) * 2 - 1
    y = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - y0) / max(y1 - y0, 1e-6) * 2 - 1
    grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
    if not len(x) or not len(y):
        return torch.zeros(len(y), len(x), dtype=torch.bool), (top, left)
    pasted = F.grid_sample(mask[None, None].float().cpu(), grid[None], align_corners=False)
    return pasted[0, 0] >= HALF, (top, left)

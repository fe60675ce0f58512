"""Anchors with fixed strides and unrounded sides, centred on multiples of the stride, as in mmdet.

Torchvision divides the image's size by the map's: where the stride does not divide the size, anchors drift by up to
84 pixels over an image of 800 x 1344. It also rounds their sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Anchors:
    """The anchors of all levels: at each place one for each ratio and scale, ratios first.

    Args:
        strides: pixels between the places of each level.
        scales: sides of the anchors, of ratio 1, in strides.
        ratios: height / width.
    """

    def __init__(self, strides: Sequence[int], scales: Sequence[float], ratios: Sequence[float] = (0.5, 1.0, 2.0)):
        self.strides = list(strides)
        root = torch.tensor(ratios).sqrt()
        sides = torch.tensor(scales)
        widths, heights = ((factor[:, None] * sides).flatten() for factor in (1 / root, root))
        self._around = torch.stack([-widths, -heights, widths, heights], 1) / 2  # (A, 4), in strides

    @property
    def per_place(self) -> int:
        """A, the anchors at each place of a map."""
        return len(self._around)

    def __call__(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, H, W) of the levels -> (H W A, 4) of each level: x0, y0, x1, y1, places row by row."""
        found = []
        for stride, x in zip(self.strides, maps, strict=True):
            y, x0 = (torch.arange(size, device=x.device, dtype=torch.float32) * stride for size in x.shape[-2:])
            places = torch.stack([x0.repeat(len(y)), y.repeat_interleave(len(x0))], 1).repeat(1, 2)
            found.append((places[:, None] + stride * self._around.to(x.device)).flatten(0, 1))
        return found

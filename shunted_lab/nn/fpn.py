"""The feature pyramid network that segmentation and detection share (arXiv 1612.03144, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Maps of one width at all strides: 1x1 laterals, nearest-neighbour sums from the top, a 3x3 convolution each.

    As in mmdet and mmseg: biases, no norm, no activation.

    Args:
        channels: of the maps, finest first.
        width: channels of every output.
    """

    def __init__(self, channels: Sequence[int], width: int = 256):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim in channels)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)

    def init_own_weights(self) -> None:
        """Xavier's uniform distribution; biases 0."""
        for layer in (*self.laterals, *self.convs):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(B, C_i, H_i, W_i), finest first -> (B, width, H_i, W_i)."""
        sums = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + F.interpolate(sums[i], size=sums[i - 1].shape[-2:], mode="nearest")
        return [conv(x) for conv, x in zip(self.convs, sums, strict=True)]

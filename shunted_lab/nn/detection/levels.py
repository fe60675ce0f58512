"""The levels that detectors add to a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from shunted_lab.nn.fpn import FPN


class PooledLevels(FPN):
    """P2 to P5, and P6 = every second value of P5 (Mask R-CNN)."""

    strides = (4, 8, 16, 32, 64)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (B, C_i, H_i, W_i), finest first -> five (B, width, H_i, W_i)."""
        levels = super().forward(maps)
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]


class ConvolvedLevels(nn.Module):
    """P3 to P5 of C3 to C5, P6 = a convolution of C5, P7 = a convolution of P6 without an activation between
    (RetinaNet in mmdet, `add_extra_convs="on_input"`).

    Args:
        channels: of the four maps, finest first; the first one is not used.
        width: channels of every level.
    """

    strides = (8, 16, 32, 64, 128)

    def __init__(self, channels: Sequence[int], width: int = 256):
        super().__init__()
        self.fpn = FPN(channels[1:], width)
        self.p6 = nn.Conv2d(channels[-1], width, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def init_own_weights(self) -> None:
        """Xavier's uniform distribution; biases 0."""
        for layer in (self.p6, self.p7):
            assert layer.bias is not None
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (B, C_i, H_i, W_i), finest first -> five (B, width, H_i, W_i)."""
        p6 = self.p6(maps[-1])
        return [*self.fpn(maps[1:]), p6, self.p7(p6)]

"""What the heads of segmentation have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormRelu(nn.Sequential):
    """A convolution without bias, BatchNorm, ReLU: mmseg's ConvModule. (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, in_chans: int, out_chans: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_chans)
        self.act = nn.ReLU(inplace=True)

    def init_own_weights(self) -> None:
        """He's normal distribution over the fan out."""
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn.reset_parameters()


class Classifier(nn.Sequential):
    """Dropout of whole channels, then the classes of each pixel: (B, C, H, W) -> (B, K, H, W)."""

    def __init__(self, in_chans: int, num_classes: int, dropout: float):
        super().__init__()
        self.drop = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(in_chans, num_classes, 1)

    def init_own_weights(self) -> None:
        """Normal with deviation 0.01; biases 0."""
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear, corners not aligned."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)

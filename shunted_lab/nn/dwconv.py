"""The 3x3 depthwise convolution that is added to its input, as one convolution.

Shapes: B batch, C channels, H W grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualDWConv(nn.Conv2d):
    """x + DWConv(x), with the parameters of a 3x3 depthwise convolution."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return residual_dwconv(x, self.weight, self.bias)


def residual_dwconv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x + DWConv(x), (B, C, H, W) -> (B, C, H, W): in float32 on a CPU, the identity is added to the kernel.

    Then the sum needs no pass of its own over the map, which is the largest tensor of a feed-forward layer. In half
    precision, and on a GPU, whose convolutions round float32 to TF32, the sum is computed as written, because 1 + w
    would round w away.
    """
    groups = weight.shape[0]
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return x + F.conv2d(x, weight, bias, padding=1, groups=groups)
    weight = weight.clone()  # (C, 1, 3, 3); computed from the weight alone, so that a compiler can fold it
    weight[:, :, 1, 1].add_(1.0)
    return F.conv2d(x, weight, bias, padding=1, groups=groups)


torch.fx.wrap("residual_dwconv")  # branches on type and device: a leaf for torch.fx

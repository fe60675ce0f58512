"""3x3 depthwise convolutions, alone and added to their input.

Shapes: B batch, C channels, H W grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3


class DWConv(nn.Conv2d):
    """A 3x3 depthwise convolution, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return dwconv(x, self.weight, self.bias)


class ResidualDWConv(DWConv):
    """x + DWConv(x), with the parameters of a 3x3 depthwise convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return residual_dwconv(x, self.weight, self.bias)


def dwconv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """DWConv(x), (B, C, H, W) -> (B, C, H, W).

    In training on a CPU, a map that is smaller than the kernel is enlarged by zeros to the kernel's size, which changes
    no value: for smaller maps oneDNN's backward pass takes its reference kernel, 3 to 15 times slower.
    """
    H, W = x.shape[-2], x.shape[-1]
    dim, kernel = weight.shape[0], weight.shape[-1]  # TorchScript knows no constants of a module
    if x.device.type != "cpu" or not torch.is_grad_enabled() or (H >= kernel and W >= kernel):
        return F.conv2d(x, weight, bias, padding=kernel // 2, groups=dim)
    x = F.pad(x, [0, max(0, kernel - W), 0, max(0, kernel - H)])
    return F.conv2d(x, weight, bias, padding=kernel // 2, groups=dim)[:, :, :H, :W]


def residual_dwconv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x + DWConv(x), (B, C, H, W) -> (B, C, H, W): in float32 on a CPU, the identity is added to the kernel.

    Then the sum needs no pass of its own over the map, which is the largest tensor of a feed-forward layer. In half
    precision, and on a GPU, whose convolutions round float32 to TF32, the sum is computed as written, because 1 + w
    would round w away.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return x + dwconv(x, weight, bias)
    weight = weight.clone()  # (C, 1, 3, 3); computed from the weight alone, so that a compiler can fold it
    weight[:, :, 1, 1].add_(1.0)
    return dwconv(x, weight, bias)


torch.fx.wrap("dwconv")  # both branch on type and device: leaves for torch.fx
torch.fx.wrap("residual_dwconv")

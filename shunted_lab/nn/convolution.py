"""Convolutions whose training on a CPU takes a faster way than torch's: 3x3 depthwise ones, and those of patches.

Shapes: B batch, C channels, H W grid, r side of a patch. On a GPU, and where no gradient is needed, all are `F.conv2d`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3  # of a depthwise convolution


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


class PatchConv(nn.Conv2d):
    """A convolution of patches side by side, kernel = stride = r: (B, C, H, W) -> (B, C', H / r, W / r).

    H and W are multiples of r.
    """

    def __init__(self, in_dim: int, dim: int, rate: int):
        super().__init__(in_dim, dim, rate, rate)

    def forward(self, x: Tensor) -> Tensor:
        return patch_conv(x, self.weight, self.bias)


def dwconv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """DWConv(x), (B, C, H, W) -> (B, C, H, W).

    For maps that are smaller than the kernel, oneDNN's backward pass takes its reference kernel. In training on a CPU a
    map of one pixel is therefore multiplied by the kernel's centre (30 times faster), and another small map is enlarged
    by zeros to the kernel's size (5 times faster); neither changes a value (docs/benchmarks.md).
    """
    H, W = x.shape[-2], x.shape[-1]
    dim, kernel = weight.shape[0], weight.shape[-1]  # TorchScript knows no constants of a module
    if x.device.type != "cpu" or not torch.is_grad_enabled() or (H >= kernel and W >= kernel):
        return F.conv2d(x, weight, bias, padding=kernel // 2, groups=dim)
    if H == 1 and W == 1:
        x = x * weight[:, :, kernel // 2, kernel // 2].to(x.dtype).unsqueeze(-1)  # (C, 1, 1)
        return x if bias is None else x + bias.to(x.dtype).view(-1, 1, 1)
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


def patch_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Conv2d with kernel = stride = r, (B, C, H, W) -> (B, C', H / r, W / r), channels last in memory on a CPU.

    In training on a CPU it is a linear layer of whole patches: 1.0 to 1.4 times as fast as the convolution for the maps
    of an image of 224 pixels, and 1.9 to 3.6 times for those of an image of 32 pixels (docs/benchmarks.md).
    """
    rate = weight.shape[-1]
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, stride=rate)
    B, C, H, W = x.shape
    patches = x.permute(0, 2, 3, 1).reshape(B, H // rate, rate, W // rate, rate, C).transpose(2, 3)
    weight = weight.permute(0, 2, 3, 1).flatten(1)  # (C', r * r * C)
    return F.linear(patches.flatten(3), weight, bias).permute(0, 3, 1, 2)


torch.fx.wrap("dwconv")  # all branch on type, device or size: leaves for torch.fx
torch.fx.wrap("residual_dwconv")
torch.fx.wrap("patch_conv")

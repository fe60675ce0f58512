"""Between tokens and maps, without copies; and the two layers that can be had cheaper for it.

Shapes: B batch, N = H*W tokens, C channels, H W grid, r rate. Tokens (B, N, C) and maps (B, C, H, W) that are
channels-last in memory hold the same bytes in the same order: each is a view of the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int]


def to_map(x: Tensor, grid: Grid) -> Tensor:
    """(B, N, C) -> (B, C, H, W); a view, channels last in memory.

    Not `transpose, unflatten`: of a batch of one, that has strides which convolutions do not take for channels-last.
    """
    return x.unflatten(1, grid).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C); a view of a map that is channels-last in memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def pad_to_multiple(x: Tensor, r: int) -> Tensor:
    """(B, C, H, W) -> (B, C, ceil(H/r)*r, ceil(W/r)*r): zeros at the right and the bottom; nothing is dropped."""
    H, W = x.shape[-2:]
    return F.pad(x, (0, -W % r, 0, -H % r)) if H % r or W % r else x


def token_linear(x: Tensor, weight: Tensor, bias: Tensor | None, onednn: bool) -> Tensor:
    """A linear layer of tokens, (B, N, C) -> (B, N, C').

    In a compiled inference in float32 on a CPU it is a 1x1 convolution of the same memory, because the compiler gives
    oneDNN's convolution the bias, and adds that of a matrix product in a pass of its own. Elsewhere a matrix product is
    as fast, or faster (tests/benchmarks/speed.py).
    """
    if not torch.jit.is_scripting():  # noqa: SIM102  # TorchScript skips what stands below this line, and no `and`
        if onednn and _compiles_inference() and x.device.type == "cpu" and x.dtype == torch.float32:
            x = F.conv2d(x.unsqueeze(1).permute(0, 3, 1, 2), weight[:, :, None, None], bias)  # (B, C', 1, N)
            return x.permute(0, 2, 3, 1).squeeze(1)
    return F.linear(x, weight, bias)


torch.fx.wrap("token_linear")  # branches on the device: a leaf for torch.fx


def _compiles_inference() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting() and not torch.is_grad_enabled()


class TokenLinear(nn.Linear):
    """`nn.Linear` for tokens (B, N, C), in the way that is fastest."""

    def __init__(self, dim_in: int, dim_out: int, bias: bool = True):
        super().__init__(dim_in, dim_out, bias)
        self.onednn = torch.backends.mkldnn.is_available()

    def forward(self, x: Tensor) -> Tensor:
        return token_linear(x, self.weight, self.bias, self.onednn)


def residual_dwconv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x + DWConv(x), 3x3 depthwise, (B, C, H, W) -> (B, C, H, W): the identity is added to the kernel.

    So the sum costs no pass over the map, which is the largest tensor of a feed-forward layer. In half precision, and
    on a GPU, whose convolutions round float32 to TF32, the sum is made as it is written: 1 + w would round w away.
    """
    groups = weight.shape[0]
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return x + F.conv2d(x, weight, bias, padding=1, groups=groups)
    weight = weight.clone()  # (C, 1, 3, 3); of nothing but the weight, so that a compiler can fold it
    weight[:, :, 1, 1].add_(1.0)
    return F.conv2d(x, weight, bias, padding=1, groups=groups)


torch.fx.wrap("residual_dwconv")  # branches on type and device: a leaf for torch.fx


class ResidualDWConv(nn.Conv2d):
    """x + DWConv(x), with the parameters of a 3x3 depthwise convolution."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return residual_dwconv(x, self.weight, self.bias)

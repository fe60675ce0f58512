"""Token aggregation: fewer tokens for keys and values. `forward(x, grid) -> (tokens, grid')`.

Shapes: B batch, N = H*W tokens, M = H'*W' reduced tokens, C channels, r rate; H' = ceil(H / r).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from shunted_lab.nn.registry import AGGREGATION

Grid = tuple[int, int]


def to_map(x: Tensor, grid: Grid) -> Tensor:
    """(B, N, C) -> (B, C, H, W); a view, channels last in memory."""
    return x.transpose(1, 2).unflatten(2, grid)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def pad_to_multiple(x: Tensor, r: int) -> Tensor:
    """(B, C, H, W) -> (B, C, ceil(H/r)*r, ceil(W/r)*r): zeros at the right and the bottom; nothing is dropped."""
    H, W = x.shape[-2:]
    return F.pad(x, (0, -W % r, 0, -H % r)) if H % r or W % r else x


@AGGREGATION.register("conv")
class ConvAggregation(nn.Module):
    """GELU(LN(conv(x))), kernel = stride = r (paper, section 3.1, equation 3)."""

    def __init__(self, dim: int, rate: int):
        super().__init__()
        self.rate = rate
        self.conv = nn.Conv2d(dim, dim, rate, rate)
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.act = nn.GELU()

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        x = self.conv(pad_to_multiple(to_map(x, grid), self.rate))  # (B, C, H', W')
        H, W = x.shape[-2:]
        return self.act(self.norm(to_tokens(x))), (H, W)  # (B, M, C)

"""Token aggregation: fewer tokens for keys and values. `forward(x, grid) -> (tokens, grid')`.

Shapes: B batch, N = H*W tokens, M = H'*W' reduced tokens, C channels, r rate; H' = ceil(H / r), or H where nothing
is aggregated. Every token takes part, also where r divides neither side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shunted_lab.nn.convolution import PatchConv
from shunted_lab.nn.layout import Grid, pad_to_multiple, to_map, to_tokens
from shunted_lab.nn.linear import Linear
from shunted_lab.nn.registry import AGGREGATION

torch.fx.wrap("pad_to_multiple")  # branches on the size: a leaf for torch.fx


@AGGREGATION.register("conv")
class ConvAggregation(nn.Module):
    """GELU(LN(conv(x))), kernel = stride = r (paper, section 3.1, equation 3); without GELU, the one of PVT's SRA."""

    def __init__(self, dim: int, rate: int, gelu: bool = True):
        super().__init__()
        self.rate = rate
        self.conv = PatchConv(dim, dim, rate)
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.act = nn.GELU() if gelu else nn.Identity()

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        x = self.conv(pad_to_multiple(to_map(x, grid), self.rate))  # (B, C, H', W')
        H, W = x.shape[-2:]
        return self.act(self.norm(to_tokens(x))), (H, W)  # (B, M, C)


@AGGREGATION.register("pooling")
class PoolingAggregation(nn.Module):
    """GELU(LN(linear(mean of r x r tokens))); at the border the mean of those that there are."""

    def __init__(self, dim: int, rate: int):
        super().__init__()
        self.rate = rate
        self.proj = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.act = nn.GELU()

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        x = F.avg_pool2d(to_map(x, grid), self.rate, ceil_mode=True)  # (B, C, H', W')
        H, W = x.shape[-2:]
        return self.act(self.norm(self.proj(to_tokens(x)))), (H, W)  # (B, M, C)


class FixedPooling(nn.Module):
    """GELU(LN(linear(pooled))), pooled to `size` x `size` whatever the grid (PVT v2, section 3.2, linear SRA)."""

    def __init__(self, dim: int, size: int = 7):
        super().__init__()
        self.size = size
        self.proj = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.act = nn.GELU()

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        x = F.adaptive_avg_pool2d(to_map(x, grid), (self.size, self.size))  # (B, C, size, size)
        return self.act(self.norm(self.proj(to_tokens(x)))), (self.size, self.size)  # (B, size*size, C)


@AGGREGATION.register("none")
class NoAggregation(nn.Module):
    """The tokens as they are: every head sees all of them, whatever its rate; groups keep their own projections."""

    def __init__(self, dim: int, rate: int):
        super().__init__()

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        return x, grid

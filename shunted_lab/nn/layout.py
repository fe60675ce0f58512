"""From tokens to maps and back, without copies.

Shapes: B batch, N = H*W tokens, C channels, H W grid, r rate. Tokens (B, N, C) and maps (B, C, H, W) that are
channels-last in memory hold the same bytes in the same order: each is a view of the other.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

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

"""Windows of tokens or pixels as small matrices: rows (H', H) and columns (W', W), each of whose rows sums to 1.

With them a map of mass m (H', W') is spread over what it covers: rows^T m columns (H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shunted_lab.nn.aggregation import FixedPooling
from shunted_lab.nn.attention import HeadGroup
from shunted_lab.nn.layout import Grid
from shunted_lab.nn.registry import ComponentError

Cells = tuple[Tensor, Tensor]
"""Rows (H', H) and columns (W', W)."""


def stride_of(stage: int) -> int:
    """Pixels on a side of a token of a stage, counted from 0."""
    return 4 * 2**stage


def uniform_rows(start: Tensor, stop: Tensor, length: int, step: int = 1) -> Tensor:
    """(n, length): row i is uniform over start, start + step, ... below stop, as far as they are in 0 .. length - 1."""
    offset = torch.arange(length, device=start.device) - start[:, None]  # (n, length)
    inside = (offset >= 0) & (offset < (stop - start)[:, None]) & (offset % step == 0)
    return inside / inside.sum(1, keepdim=True)


def adjacent_windows(count: int, side: int, length: int, device: torch.device) -> Tensor:
    """(count, length): windows of `side`, one after the other; the last one ends with the map."""
    start = torch.arange(count, device=device) * side
    return uniform_rows(start, start + side, length)


def cells_of(group: HeadGroup, grid: Grid, reduced: Grid, where: str, device: torch.device) -> Cells:
    """The tokens that each reduced token covers."""
    if isinstance(group.aggregation, FixedPooling):
        rows, columns = (pooling_windows(m, n, device) for m, n in zip(reduced, grid, strict=True))
        return rows, columns
    side = 1 if reduced == grid else group.rate
    if reduced != (-(-grid[0] // side), -(-grid[1] // side)):
        name = type(group.aggregation).__name__
        raise ComponentError(f"{where}: {name} makes {reduced} of {grid}: no windows of rate {group.rate}")
    return adjacent_windows(reduced[0], side, grid[0], device), adjacent_windows(reduced[1], side, grid[1], device)


def pooling_windows(count: int, length: int, device: torch.device) -> Tensor:
    """Windows of adaptive pooling: floor(i n / m) to ceil((i + 1) n / m). They overlap where m does not divide n."""
    index = torch.arange(count, device=device)
    return uniform_rows(index * length // count, -(-(index + 1) * length // count), length)


def pixels_of(cells: Cells, grid: Grid, size: Grid, stage: int) -> Cells:
    """The pixels that each reduced token covers, (H', H) and (W', W) of the image: evenly over pixels, not tokens."""
    side = stride_of(stage)
    if grid != (-(-size[0] // side), -(-size[1] // side)):
        raise ComponentError(f"size: {size} does not give the grid {grid} of stage {stage + 1} at stride {side}")
    covers = []
    for cell, count, length in zip(cells, grid, size, strict=True):
        inside = (cell @ adjacent_windows(count, side, length, cell.device)) > 0
        covers.append(inside / inside.sum(1, keepdim=True))
    return covers[0], covers[1]


def receptive_field(conv: nn.Conv2d, made: int, axis: int, length: int, device: torch.device) -> Tensor:
    """(made, length): the rows (or columns) that each output of a convolution sees, uniform over those in the map."""
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
    same = (reach - 1) // 2 if conv.padding == "same" else 0
    padding = same if isinstance(conv.padding, str) else conv.padding[axis]
    start = torch.arange(made, device=device) * conv.stride[axis] - padding
    return uniform_rows(start, start + reach, length, conv.dilation[axis])

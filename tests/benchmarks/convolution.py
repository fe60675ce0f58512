"""Convolutions as they are trained on a CPU (`shunted_lab.nn.convolution`), against torch's: one process, one thread.

    python tests/benchmarks/convolution.py        # about a minute

Forward and backward of one layer, channels last in memory, in rounds that alternate. Printed are medians in
milliseconds, and the median of the ratios of neighbouring rounds with their range.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shunted_lab.nn import device_name
from shunted_lab.nn.convolution import DWConv, PatchConv

ROUNDS, PASSES = 9, 10
# Batch, channels, side of the map, rate; those of shunted_mini and shunted_lite at 32 px, and of shunted_s at 224 px.
PATCHES = [
    (64, 16, 8, 8),
    (64, 16, 8, 4),
    (64, 32, 4, 4),
    (64, 64, 2, 2),
    (8, 64, 56, 8),
    (8, 64, 56, 4),
    (8, 256, 14, 2),
]
DEPTHWISE = [(64, 512, 1), (64, 768, 1), (64, 256, 2), (64, 384, 2), (64, 128, 4), (8, 2048, 7)]


def seconds(layer: Callable[[Tensor], Tensor], x: Tensor, along: Tensor) -> float:
    """Of one forward and backward pass."""
    start = time.perf_counter()
    for _ in range(PASSES):
        layer(x).backward(along)
    return (time.perf_counter() - start) / PASSES


def compare(name: str, layer: nn.Conv2d, x: Tensor) -> None:
    def plain(x: Tensor) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, groups=layer.groups)

    x = x.to(memory_format=torch.channels_last).requires_grad_()
    along = torch.randn_like(plain(x))
    seconds(plain, x, along), seconds(layer, x, along)
    rounds = [(seconds(plain, x, along), seconds(layer, x, along)) for _ in range(ROUNDS)]
    theirs, ours = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    print(
        f"{name:34} torch {theirs:7.2f}  ours {ours:6.2f} ms  {statistics.median(ratios):5.2f} x "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}")
    for batch, dim, side, rate in PATCHES:
        x = torch.randn(batch, dim, side, side)
        compare(f"patches {batch} x {dim} x {side} x {side}, r {rate}", PatchConv(dim, dim, rate), x)
    for batch, dim, side in DEPTHWISE:
        compare(f"depthwise {batch} x {dim} x {side} x {side}", DWConv(dim), torch.randn(batch, dim, side, side))


if __name__ == "__main__":
    main()

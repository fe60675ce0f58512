"""Parameters and multiply-accumulates, counted on the `meta` device, without arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shunted_lab.nn.contract import checked_outputs, has_own_components
from shunted_lab.nn.cost import Cost

Size = int | tuple[int, int]
"""Pixels: the side of a square, or height and width."""
Call = Callable[[Any, Tensor], Any]
"""How a network is called: network, images (B, C, H, W) -> what it returns. `lambda net, images: net(list(images))`."""


def call_with_batch(net: Any, images: Tensor) -> Any:
    """The usual `Call`."""
    return net(images)


def height_width(size: Size) -> tuple[int, int]:
    """Pixels of an image."""
    return (size, size) if isinstance(size, int) else size


def count_cost(
    make: Callable[[], nn.Module], image_size: Size, in_chans: int = 3, call: Call = call_with_batch
) -> Cost:
    """The cost of the network that `make()` builds, heads included, for one image (see `count_parts`)."""
    return count_parts(make, image_size, in_chans, call)[""]


def count_parts(
    make: Callable[[], nn.Module], image_size: Size, in_chans: int = 3, call: Call = call_with_batch
) -> dict[str, Cost]:
    """Name of each module -> its cost, what it contains included; "" is the whole network.

    Args:
        call: how the network is called, where that is not `net(images)`. What it returns is not looked at. On `meta`
            nothing can depend on values: of a detector, call what comes before the choice of boxes.

    Raises:
        ComponentError: for a component of a `Pyramid` that returns another shape than its contract says. Users'
            components are passed a batch of two as well: what they return for one may broadcast over a batch.
    """
    with torch.device("meta"):
        model = make().eval()
        image = torch.empty(1, in_chans, *height_width(image_size))
    called = _Called(model, call)
    # On a CPU the counter sees fused attention as zero; on meta it does not.
    with checked_outputs(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        called(image)
    if has_own_components(model):
        with checked_outputs(model), torch.no_grad():
            called(image.expand(2, -1, -1, -1))
    counts: dict[str, dict[Any, int]] = dict(counter.get_flop_counts())
    parts = {"": _cost(model, counts["Global"])}
    for name, module in model.named_modules():
        if name:
            parts[name] = _cost(module, _flops(f"_Called.net.{name}", module, counts))
    return parts


class _Called(nn.Module):
    """A network with how it is called. The counter names modules by their path from the first one that is called: with
    this one the network is at `_Called.net`, whatever `call` calls of it.
    """

    def __init__(self, net: nn.Module, call: Call):
        super().__init__()
        self.net = net
        self.call = call

    def forward(self, images: Tensor) -> Any:
        return self.call(self.net, images)


def _flops(path: str, module: nn.Module, counts: dict[str, dict[Any, int]]) -> dict[Any, int]:
    """Operator -> count of a module; where it was not called itself (`forward_intermediates`), the sum of its parts."""
    if path in counts:
        return counts[path]
    total: dict[Any, int] = {}
    for name, child in module.named_children():
        for operator, count in _flops(f"{path}.{name}", child, counts).items():
            total[operator] = total.get(operator, 0) + count
    return total


def _cost(module: nn.Module, flops: dict[Any, int]) -> Cost:
    macs = sum(flops.values()) // 2  # the counter has multiply and add
    attention = sum(count for op, count in flops.items() if "bmm" in str(op) or "attention" in str(op)) // 2
    return Cost(sum(p.numel() for p in module.parameters()), macs, macs - attention, attention)

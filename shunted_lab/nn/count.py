"""Parameters and multiply-accumulates, counted on the `meta` device, without arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shunted_lab.nn.contract import checked_outputs, has_own_components
from shunted_lab.nn.cost import Cost

Size = int | tuple[int, int]
"""Pixels: the side of a square, or height and width."""


def count_cost(make: Callable[[], nn.Module], image_size: Size, in_chans: int = 3) -> Cost:
    """The cost of the model that `make()` builds, for one image of `image_size`."""
    return count_parts(make, image_size, in_chans)[""]


def count_parts(make: Callable[[], nn.Module], image_size: Size, in_chans: int = 3) -> dict[str, Cost]:
    """Name of each module -> its cost, what it contains included; "" is the whole model.

    Raises:
        ComponentError: for a component of a `Pyramid` that returns another shape than its contract says. Users'
            components are passed a batch of two as well: what they return for one may broadcast over a batch.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    with torch.device("meta"):
        model = make().eval()
        image = torch.empty(1, in_chans, height, width)
    # On a CPU the counter sees fused attention as zero; on meta it does not.
    with checked_outputs(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    if has_own_components(model):
        with checked_outputs(model), torch.no_grad():
            model(image.expand(2, -1, -1, -1))
    counts: dict[str, dict[Any, int]] = dict(counter.get_flop_counts())
    root = type(model).__name__
    parts = {name: _cost(module, counts.get(f"{root}.{name}", {})) for name, module in model.named_modules()}
    return parts | {"": _cost(model, counts["Global"])}


def _cost(module: nn.Module, flops: dict[Any, int]) -> Cost:
    macs = sum(flops.values()) // 2  # the counter has multiply and add
    attention = sum(count for op, count in flops.items() if "bmm" in str(op) or "attention" in str(op)) // 2
    return Cost(sum(p.numel() for p in module.parameters()), macs, macs - attention, attention)

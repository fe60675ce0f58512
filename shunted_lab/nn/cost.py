"""What a model costs, counted on the `meta` device: no memory, no arithmetic, and no difference between machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-accumulates of one image: of convolutions and linear layers, and of attention products.

    Attention products are batched products of two activations (q k^T and weights times v), fused or not.
    Norms, activations, softmax and additions are not counted, as is the custom.
    """

    params: int
    macs: int
    macs_linear: int
    macs_attention: int


def count_cost(make: Callable[[], nn.Module], image_size: int | tuple[int, int]) -> Cost:
    """The cost of the model that `make()` builds, for one image of `image_size` pixels (side, or height, width)."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    with torch.device("meta"):
        model = make().eval()
        image = torch.empty(1, 3, height, width)
    # On a CPU the counter sees fused attention as zero; on meta it does not.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    flops = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    macs = sum(flops.values()) // 2  # it counts multiply and add
    attention = sum(count for op, count in flops.items() if "bmm" in op or "attention" in op) // 2
    return Cost(sum(p.numel() for p in model.parameters()), macs, macs - attention, attention)

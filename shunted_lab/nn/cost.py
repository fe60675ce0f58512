"""What a model costs, as numbers. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Speed:
    """What a pass over a batch took on a device. `peak_memory` is None where it was not measured."""

    latency: float  # seconds, the median of the repeats
    throughput: float  # images a second
    peak_memory: int | None  # bytes above weights, buffers and the batch
    device: str

"""The linear layer of attention and feed-forward layers: `nn.Linear`, except in compiled inference on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` for tokens (B, N, C) -> (B, N, C'), with the same parameters, names and numbers.

    A model that `torch.compile` compiles for inference in float32 on a CPU computes it as a 1x1 convolution of the same
    memory. The reason is the bias: the compiler passes it to oneDNN's convolution, but adds it to a matrix product in a
    second pass over the output. Everywhere else a matrix product is as fast or faster (tests/benchmarks/speed.py).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self.onednn = torch.backends.mkldnn.is_available()

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.onednn)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, onednn: bool) -> Tensor:
    """The product of `Linear`. `onednn`: whether this build of torch has that library."""
    if not torch.jit.is_scripting():  # noqa: SIM102  # TorchScript does not compile the lines below, and takes no `and`
        if onednn and _compiles_inference() and x.device.type == "cpu" and x.dtype == torch.float32:
            x = F.conv2d(x.unsqueeze(1).permute(0, 3, 1, 2), weight[:, :, None, None], bias)  # (B, C', 1, N)
            return x.permute(0, 2, 3, 1).squeeze(1)
    return F.linear(x, weight, bias)


torch.fx.wrap("linear")  # branches on the device: a leaf for torch.fx


def _compiles_inference() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting() and not torch.is_grad_enabled()

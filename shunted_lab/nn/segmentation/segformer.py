"""The head of SegFormer (arXiv 2105.15203, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shunted_lab.nn.layout import to_map, to_tokens
from shunted_lab.nn.registry import HEAD
from shunted_lab.nn.segmentation.layers import ConvNormRelu, resized


@HEAD.register("segformer")
class SegFormerHead(nn.Module):
    """A linear layer a map, upsampling to the finest, a 1x1 convolution over all, and the classes.

    Args:
        channels: of the backbone's maps, finest first.
        num_classes: K.
        width: channels of every map; the paper has 256 for B0 and B1, 768 for larger ones.
        dropout: of channels before the classifier.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, width: int = 768, dropout: float = 0.1):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(dim, width) for dim in channels)
        self.fuse = ConvNormRelu(len(channels) * width, width, 1)
        self.drop = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def init_own_weights(self) -> None:
        """Those of torch, as in the authors' code."""
        for layer in (*self.linears, self.classifier):
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            layer.reset_parameters()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, C_i, H_i, W_i), finest first -> logits (B, K, H_0, W_0)."""
        size = maps[0].shape[-2:]
        levels = []
        for linear, x in zip(self.linears, maps, strict=True):
            grid = (x.shape[-2], x.shape[-1])
            levels.append(resized(to_map(linear(to_tokens(x)), grid), size))
        return self.classifier(self.drop(self.fuse(torch.cat(levels[::-1], 1))))  # the deepest first


@HEAD.register("segformer_lite")
def segformer_lite(channels: Sequence[int], num_classes: int, dropout: float = 0.1) -> SegFormerHead:
    """SegFormer's head for small experiments: 64 channels."""
    return SegFormerHead(channels, num_classes, 64, dropout)

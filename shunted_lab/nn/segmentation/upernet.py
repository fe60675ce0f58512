"""UPerNet (arXiv 1807.10221) with an auxiliary FCN head, as in mmseg's `UPerHead` and `FCNHead`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shunted_lab.nn.registry import HEAD
from shunted_lab.nn.segmentation.layers import Classifier, ConvNormRelu, resized

POOLS = (1, 2, 3, 6)  # sides of the grids that the deepest map is pooled to


@HEAD.register("upernet")
class UPerNet(nn.Module):
    """Pyramid pooling of the deepest map, a feature pyramid with norms, and all levels fused at the finest.

    In training there is a second output: an FCN on the map before the deepest, weighted by `auxiliary_weight`.

    Args:
        channels: of the backbone's maps, finest first.
        num_classes: K.
        width: channels of every level.
        auxiliary_width: of the auxiliary head.
        dropout: of channels before the classifiers.
    """

    auxiliary_weight = 0.4

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        width: int = 512,
        auxiliary_width: int = 256,
        dropout: float = 0.1,
    ):
        super().__init__()
        *finer, deepest = channels
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvNormRelu(deepest, width, 1)) for side in POOLS
        )
        self.bottleneck = ConvNormRelu(deepest + len(POOLS) * width, width, 3)
        self.laterals = nn.ModuleList(ConvNormRelu(dim, width, 1) for dim in finer)
        self.convs = nn.ModuleList(ConvNormRelu(width, width, 3) for _ in finer)
        self.fuse = ConvNormRelu(len(channels) * width, width, 3)
        self.classifier = Classifier(width, num_classes, dropout)
        self.auxiliary = nn.Sequential(
            ConvNormRelu(channels[-2], auxiliary_width, 3), Classifier(auxiliary_width, num_classes, dropout)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """(B, C_i, H_i, W_i), finest first -> logits (B, K, H_0, W_0); in training also (B, K, H_2, W_2)."""
        deepest = maps[-1]
        pooled = [resized(pool(deepest), deepest.shape[-2:]) for pool in self.pools]
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps[:-1], strict=True)]
        levels.append(self.bottleneck(torch.cat([deepest, *pooled], 1)))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resized(levels[i], levels[i - 1].shape[-2:])
        size = levels[0].shape[-2:]
        levels = [conv(x) for conv, x in zip(self.convs, levels[:-1], strict=True)] + levels[-1:]
        logits = self.classifier(self.fuse(torch.cat([resized(x, size) for x in levels], 1)))
        return (logits, self.auxiliary(maps[-2])) if self.training else logits


@HEAD.register("upernet_lite")
def upernet_lite(channels: Sequence[int], num_classes: int, dropout: float = 0.1) -> UPerNet:
    """UPerNet for small experiments: 64 channels, an auxiliary head of 32."""
    return UPerNet(channels, num_classes, 64, 32, dropout)

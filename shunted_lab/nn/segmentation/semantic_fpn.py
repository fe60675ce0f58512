"""Semantic FPN (arXiv 1901.02446, section 3.2), as in mmseg's `FPNHead`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from shunted_lab.nn.fpn import FPN
from shunted_lab.nn.registry import HEAD
from shunted_lab.nn.segmentation.layers import Classifier, ConvNormRelu, resized


@HEAD.register("semantic_fpn")
class SemanticFPN(nn.Module):
    """An FPN; each level through 3x3 convolutions and upsampling by 2 up to the finest; their sum is classified.

    Args:
        channels: of the backbone's maps, finest first.
        num_classes: K.
        fpn_width: channels of the FPN.
        width: channels of the convolutions.
        dropout: of channels before the classifier.
    """

    def __init__(
        self, channels: Sequence[int], num_classes: int, fpn_width: int = 256, width: int = 128, dropout: float = 0.1
    ):
        super().__init__()
        self.fpn = FPN(channels, fpn_width)
        self.levels = nn.ModuleList(_level(i, fpn_width, width) for i in range(len(channels)))
        self.classifier = Classifier(width, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, C_i, H_i, W_i), finest first -> logits (B, K, H_0, W_0)."""
        finest, *others = (level(x) for level, x in zip(self.levels, self.fpn(maps), strict=True))
        for x in others:
            finest = finest + resized(x, finest.shape[-2:])
        return self.classifier(finest)


def _level(index: int, in_chans: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k in range(max(1, index)):
        layers.append(ConvNormRelu(in_chans if k == 0 else width, width, 3))
        if index:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


@HEAD.register("semantic_fpn_lite")
def semantic_fpn_lite(channels: Sequence[int], num_classes: int, dropout: float = 0.1) -> SemanticFPN:
    """Semantic FPN for small experiments: an FPN of 64 channels, convolutions of 32."""
    return SemanticFPN(channels, num_classes, 64, 32, dropout)

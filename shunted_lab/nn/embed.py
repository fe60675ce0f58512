"""Patch embeddings (image -> tokens at stride 4) and what stands between stages (feature map -> tokens at stride 2).

Shapes: B batch, C channels, H W grid. Any image size: the grid is ceil(H/4) x ceil(W/4), no pixel is dropped.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from shunted_lab.nn.convolution import PatchConv
from shunted_lab.nn.layout import Grid, pad_to_multiple, to_tokens
from shunted_lab.nn.registry import DOWNSAMPLE, PATCH_EMBED, ComponentError

torch.fx.wrap("pad_to_multiple")  # branches on the size: a leaf for torch.fx


class ConvEmbed(nn.Module):
    """LN(conv(x)). With kernel = stride the patches do not overlap, otherwise the padding is half the kernel."""

    def __init__(self, in_chans: int, embed_dim: int, kernel: int, stride: int):
        super().__init__()
        self.pad_to = stride if kernel == stride else 1
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel, stride, padding=0 if kernel == stride else kernel // 2)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-5)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """(B, C, H, W) -> (B, N, C'), (ceil(H / stride), ceil(W / stride))."""
        x = self.proj(pad_to_multiple(x, self.pad_to))
        H, W = x.shape[-2:]
        return self.norm(to_tokens(x)), (H, W)


@PATCH_EMBED.register("non_overlapping")
def non_overlapping(in_chans: int, embed_dim: int) -> ConvEmbed:
    """4x4 patches side by side, as in ViT and PVT."""
    return ConvEmbed(in_chans, embed_dim, kernel=4, stride=4)


@PATCH_EMBED.register("overlapping")
def overlapping(in_chans: int, embed_dim: int) -> ConvEmbed:
    """7x7 patches at stride 4, as in PVT v2."""
    return ConvEmbed(in_chans, embed_dim, kernel=7, stride=4)


class ConvStem(nn.Module):
    """The paper's stem (section 3.3): 7x7 stride 2, `extra` 3x3 convolutions, 2x2 stride 2, LayerNorm."""

    def __init__(self, in_chans: int, embed_dim: int, extra: int):
        super().__init__()
        if not isinstance(extra, int) or extra < 0:
            raise ComponentError(f"patch_embed: extra={extra!r} is not a number of convolutions: at least 0")
        layers: list[nn.Module] = []
        for index in range(1 + extra):
            conv = nn.Conv2d(embed_dim, embed_dim, 3, 1, 1, bias=False)
            if index == 0:
                conv = nn.Conv2d(in_chans, embed_dim, 7, 2, 3, bias=False)
            layers += [conv, nn.BatchNorm2d(embed_dim), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*layers)
        self.proj = PatchConv(embed_dim, embed_dim, 2)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-5)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """(B, 3, H, W) -> (B, N, C), (ceil(H/4), ceil(W/4))."""
        x = self.proj(pad_to_multiple(self.conv(x), 2))
        H, W = x.shape[-2:]
        return self.norm(to_tokens(x)), (H, W)


for _extra in range(4):
    PATCH_EMBED.register(f"conv_stem{_extra}")(partial(ConvStem, extra=_extra))


@DOWNSAMPLE.register("overlapping")
def overlapping_downsample(in_chans: int, embed_dim: int) -> ConvEmbed:
    """3x3 at stride 2, as in PVT v2 and the paper."""
    return ConvEmbed(in_chans, embed_dim, kernel=3, stride=2)


@DOWNSAMPLE.register("non_overlapping")
def non_overlapping_downsample(in_chans: int, embed_dim: int) -> ConvEmbed:
    """2x2 patches side by side, as in PVT."""
    return ConvEmbed(in_chans, embed_dim, kernel=2, stride=2)

"""The pyramid: patch embedding, then stages of blocks at strides 4, 8, 16, 32. Everything in it is a component.

Shapes: B batch, N = H*W tokens, C channels, H W grid.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shunted_lab.nn.aggregation import Grid, to_map, to_tokens
from shunted_lab.nn.attention import spread_rates
from shunted_lab.nn.registry import ATTENTION, DOWNSAMPLE, MLP, PATCH_EMBED, ComponentError


class DropPath(nn.Module):
    """Stochastic depth: in training, a sample keeps its branch with probability 1 - `rate`, scaled by its inverse.

    As `timm.layers.DropPath`, whose import takes longer than a plan may.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)  # (B, 1, 1)
        return x * keep.div_(1 - self.rate) if self.rate < 1 else x * keep


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)), each dropped with probability `drop_path`."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x), grid))


class Stage(nn.Module):
    """Embedding, blocks, norm: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, embed: nn.Module, blocks: Sequence[Block], dim: int):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x, grid = self.embed(x)
        for block in self.blocks:
            x = block(x, grid)
        return to_map(self.norm(x), grid)


class Pyramid(nn.Module):
    """A pyramid of stages; with the defaults of its slots, the Shunted Transformer (arXiv 2111.15193, section 3).

    Args:
        embed_dims, depths, num_heads, mlp_ratios: one entry per stage.
        rates: one list of downsampling rates per stage, spread over its heads (`spread_rates`).
        patch_embed, downsample, attn, aggregation, mlp: registry names.
        drop_rate: dropout before the head; `proj_drop_rate`, `attn_drop_rate`: inside the blocks.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        num_classes: 0 for no head.

    Raises:
        ComponentError: for lists of different lengths, and for what the components refuse.
    """

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[float],
        rates: Sequence[Sequence[int]],
        qkv_bias: bool = True,
        patch_embed: str = "conv_stem1",
        downsample: str = "overlapping",
        attn: str = "ssa",
        aggregation: str = "conv",
        mlp: str = "detail_specific",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        num_classes: int = 1000,
    ):
        super().__init__()
        for name, value in (("depths", depths), ("num_heads", num_heads), ("mlp_ratios", mlp_ratios), ("rates", rates)):
            if len(value) != len(embed_dims):
                raise ComponentError(f"{name}: {value} has {len(value)} entries for {len(embed_dims)} stages")
        drop_path = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        context: dict[str, Any] = {"qkv_bias": qkv_bias, "aggregation": aggregation}
        context |= {"attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate}
        self.stages = nn.ModuleList()
        for stage, (dim, depth, heads, ratio) in enumerate(zip(embed_dims, depths, num_heads, mlp_ratios, strict=True)):
            if dim % heads:
                raise ComponentError(f"num_heads[{stage}]={heads} does not divide embed_dims[{stage}]={dim}")
            context |= {"dim": dim, "num_heads": heads, "hidden_dim": int(dim * ratio)}
            context["rates"] = spread_rates(list(rates[stage]), heads)
            slot, name, chans = (
                (DOWNSAMPLE, downsample, embed_dims[stage - 1]) if stage else (PATCH_EMBED, patch_embed, in_chans)
            )
            embed = slot.build(name, in_chans=chans, embed_dim=dim)
            blocks = [
                Block(dim, ATTENTION.build(attn, **context), MLP.build(mlp, **context), next(drop_path))
                for _ in range(depth)
            ]
            self.stages.append(Stage(embed, blocks, dim))
        self.min_size = 2 ** (len(embed_dims) + 1)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dims[-1], num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, C_i, H_i, W_i) at strides 4, 8, 16, 32.

        Raises:
            ComponentError: for an image with a side below 32 pixels.
        """
        H, W = x.shape[-2:]
        if min(H, W) < self.min_size:
            stages = len(self.stages)
            raise ComponentError(
                f"an image of {H} x {W} is too small for {stages} stages: at least {self.min_size} a side"
            )
        x = x.contiguous(memory_format=torch.channels_last)  # as (B, N, C) viewed as a map: no copies between layouts
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward_head(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        return self.head(self.head_drop(to_tokens(x).mean(1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x)[-1])


@torch.no_grad()
def init_weights(model: nn.Module, seed: int) -> None:
    """The one place of initial values: each parameter is drawn from a generator of its own, seeded by (seed, name).

    So, within a seed, two models start from the same values in every parameter that they share by name and shape,
    whatever else differs (paired seeds). As in the official code, linear: truncated normal 0.02; convolution: normal
    sqrt(2 / fan out); biases 0; norms 1 and 0. A module of another kind that has `reset_parameters` (a user's
    component) is reset under a seed of its own name. Parameters that a component makes by itself keep the values of
    its constructor.
    The global generator is left as it was.
    """
    for name, module in model.named_modules():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}.weight".encode()))
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
        elif isinstance(module, nn.Conv2d):
            kh, kw = module.kernel_size
            fan_out = kh * kw * module.out_channels // module.groups
            module.weight.normal_(0, (2 / fan_out) ** 0.5, generator=generator)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(generator.initial_seed())  # torch.manual_seed would seed GPUs too
                reset()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            module.bias.zero_()

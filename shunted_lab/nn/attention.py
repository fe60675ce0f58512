"""Attention: `forward(x, grid) -> x` on tokens of any grid, with one downsampling rate per head.

Shapes: B batch, N = H*W tokens, M reduced key/value tokens, C channels, h heads, d = C/h channels of a head, r rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shunted_lab.nn.aggregation import ConvAggregation, FixedPooling
from shunted_lab.nn.convolution import DWConv, ResidualDWConv
from shunted_lab.nn.initial import place_seed, seeded
from shunted_lab.nn.layout import Grid, to_map, to_tokens
from shunted_lab.nn.linear import Linear
from shunted_lab.nn.registry import AGGREGATION, ATTENTION, ComponentError, RatesError, Spec

torch.fx.wrap("enlarge")  # branches on the grid: a leaf for torch.fx
LOCAL = ("published", "values", "output", "none")


def spread_rates(rates: Sequence[int], num_heads: int) -> list[int]:
    """One rate per head; a shorter list is spread in equal blocks: [8, 4] on four heads is [8, 8, 4, 4].

    Raises:
        ComponentError: if the length does not divide the heads, or a rate is not a positive integer.
    """
    if not rates or num_heads % len(rates):
        raise ComponentError(
            f"rates: {rates} has {len(rates)} rates for {num_heads} heads; its length must divide them"
        )
    if not all(isinstance(r, int) and r >= 1 for r in rates):
        raise ComponentError(f"rates: {rates} has a rate that is not a positive integer")
    return [r for r in rates for _ in range(num_heads // len(rates))]


def enlarge(x: Tensor, reduced: Grid, grid: Grid, rate: int) -> Tensor:
    """Reduced tokens (B, M, C) -> (B, N, C): each token of the grid gets the one that covers its place."""
    if reduced == grid:
        return x
    x = F.interpolate(to_map(x, reduced), scale_factor=float(rate))  # (B, C, H'*r, W'*r)
    return to_tokens(x[:, :, : grid[0], : grid[1]])


class HeadGroup(nn.Module):
    """The heads of a layer that share a rate: their aggregation, keys and values, and local enhancement.

    Args:
        heads: which heads of the layer.
        aggregation: None takes the tokens as they are.
        local: a 3x3 depthwise convolution of the values is added to the "values" or to the "output"; "none" has none.
    """

    def __init__(
        self,
        dim: int,
        head_dim: int,
        heads: list[int],
        rate: int,
        bias: bool,
        aggregation: nn.Module | None,
        local: str,
    ):
        super().__init__()
        width = len(heads) * head_dim
        self.heads = heads
        self.head_dim = head_dim
        self.rate = rate
        self.aggregation = aggregation
        self.kv = Linear(dim, 2 * width, bias=bias)
        self.enhances_values = local == "values"
        self.enhances_output = local == "output"
        self.local: nn.Module = nn.Identity()
        if self.enhances_values:
            self.local = ResidualDWConv(width)
        elif self.enhances_output:
            self.local = DWConv(width)

    def keys_values(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Grid]:
        """(B, N, C) -> keys and values, each (B, M, h*d), and their grid."""
        if self.aggregation is not None:
            x, grid = self.aggregation(x, grid)  # (B, M, C)
        k, v = self.kv(x).chunk(2, dim=-1)
        if self.enhances_values:
            v = to_tokens(self.local(to_map(v, grid)))
        return k, v, grid

    def forward(self, q: Tensor, x: Tensor, grid: Grid, dropout: float) -> Tensor:
        """Queries (B, h, N, d) of these heads, and all tokens (B, N, C) -> (B, N, h*d)."""
        k, v, reduced = self.keys_values(x, grid)
        y = F.scaled_dot_product_attention(
            q, split_heads(k, self.head_dim), split_heads(v, self.head_dim), None, dropout
        )
        y = y.transpose(1, 2).flatten(2)
        if self.enhances_output:
            y = y + enlarge(to_tokens(self.local(to_map(v, reduced))), reduced, grid, self.rate)
        return y


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, N, h*d) -> (B, h, N, d)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


class GroupedAttention(nn.Module):
    """What MSA, SRA and SSA have in common: queries of all heads, and for each rate a group of heads.

    Args:
        dim: channels C.
        num_heads: h; divides `dim`.
        rates: one rate per head, in any order (see `spread_rates` for shorter lists).
        aggregate: rate -> the aggregation of its group, or None.
        local: where the local enhancement is added (see `HeadGroup`).

    Raises:
        ComponentError: for rates or heads that do not fit.
    """

    if TYPE_CHECKING:  # TorchScript cannot read annotations of a class that are text
        to_groups: Tensor | None  # (h,) heads, group by group
        from_groups: Tensor | None  # (h,) head -> its place in `to_groups`

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rates: Sequence[int],
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
        aggregate: Callable[[int], nn.Module | None],
        local: str = "none",
    ):
        super().__init__()
        if dim % num_heads:
            raise ComponentError(f"num_heads: {num_heads} does not divide dim {dim}")
        self.head_dim = dim // num_heads
        self.rates = spread_rates(rates, num_heads)
        self.attn_drop = attn_drop
        self.q = Linear(dim, dim, bias=qkv_bias)
        # Named by rate, not by place: variants that share a rate are paired by parameter name.
        self.groups = nn.ModuleDict()
        for rate in dict.fromkeys(self.rates):
            heads = [head for head, r in enumerate(self.rates) if r == rate]
            self.groups[f"r{rate}"] = HeadGroup(dim, self.head_dim, heads, rate, qkv_bias, aggregate(rate), local)
        self.group_sizes = [self.rates.count(rate) for rate in dict.fromkeys(self.rates)]
        # Where rates interleave, as in [2, 1, 2, 1], heads are sorted by group before attention and back afterwards.
        order = self._grouped_heads()
        mixed = order != sorted(order)
        self.register_buffer("to_groups", torch.tensor(order) if mixed else None, persistent=False)
        self.register_buffer("from_groups", torch.tensor(order).argsort() if mixed else None, persistent=False)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q = split_heads(self.q(x), self.head_dim)  # (B, h, N, d)
        if self.to_groups is not None:
            q = q[:, self.to_groups]
        parts = q.split(self.group_sizes, dim=1)
        dropout = self.attn_drop if self.training else 0.0
        outs = []
        for i, group in enumerate(self.groups.values()):
            outs.append(group(parts[i], x, grid, dropout))
        y = outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)  # (B, N, C)
        if self.from_groups is not None:
            y = y.unflatten(-1, (-1, self.head_dim))[:, :, self.from_groups].flatten(2)
        return self.proj_drop(self.proj(y))

    def reset_parameters(self) -> None:
        """Compute the buffers, which no state dict has, after `to_empty`. Parameters belong to the layers inside."""
        if self.to_groups is not None and self.from_groups is not None:
            self.to_groups.copy_(torch.tensor(self._grouped_heads(), device="cpu"))
            self.from_groups.copy_(self.to_groups.argsort())

    def _grouped_heads(self) -> list[int]:
        return [head for rate in dict.fromkeys(self.rates) for head, r in enumerate(self.rates) if r == rate]


@ATTENTION.register("msa")
class MSA(GroupedAttention):
    """Multi-head self-attention: every head sees every token (ViT, arXiv 2010.11929). Its rates are all 1."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rates: Sequence[int] = (1,),
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        _require_ones("msa", rates)
        super().__init__(dim, num_heads, rates, qkv_bias, attn_drop, proj_drop, lambda rate: None)


@ATTENTION.register("sra")
class SRA(GroupedAttention):
    """Spatial reduction: one rate for all heads, by LN(strided convolution) (PVT, arXiv 2102.12122, sec. 3.3)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rates: Sequence[int],
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        if len(set(rates)) > 1:
            message = f"rates: {list(rates)} differ; sra has one rate for all heads of a stage"
            raise RatesError(message, [max(rates)])

        def aggregate(rate: int) -> nn.Module | None:
            return ConvAggregation(dim, rate, gelu=False) if rate > 1 else None

        super().__init__(dim, num_heads, rates, qkv_bias, attn_drop, proj_drop, aggregate)


@ATTENTION.register("linear_sra")
class LinearSRA(GroupedAttention):
    """Keys and values pooled to a fixed grid, so the cost is linear in N (PVT v2, arXiv 2106.13797, section 3.2)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rates: Sequence[int] = (1,),
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        pool_size: int = 7,
    ):
        _require_ones("linear_sra", rates)
        if not isinstance(pool_size, int) or pool_size < 1:
            raise ComponentError(f"attn: pool_size={pool_size!r} is not the size of a grid: at least 1")
        super().__init__(
            dim, num_heads, rates, qkv_bias, attn_drop, proj_drop, lambda rate: FixedPooling(dim, pool_size)
        )


def _require_ones(name: str, rates: Sequence[int]) -> None:
    if set(rates) != {1}:
        message = f"rates: {list(rates)} would do nothing; {name} does not use rates, so they must be all 1"
        raise RatesError(message, [1])


@ATTENTION.register("ssa")
class SSA(GroupedAttention):
    """Shunted self-attention: heads of one layer see keys and values at different rates (paper, section 3.1, eq. 3-5).

    Where all rates are 1 there is no aggregation.

    Args:
        aggregation: a component of the registry.
        local: where the local enhancement is added: to the "values", to the "output", "none"; "published" as in the
            official model: to the values, but to the output where all rates are 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rates: Sequence[int],
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        aggregation: Spec = "conv",
        local: str = "published",
    ):
        if local not in LOCAL:
            raise ComponentError(f"local: '{local}' is not known; choices: {', '.join(LOCAL)}")
        plain = set(rates) == {1}
        if local == "published":
            local = "output" if plain else "values"

        def aggregate(rate: int) -> nn.Module | None:
            with seeded(place_seed(f"groups.r{rate}.aggregation")):
                return None if plain else AGGREGATION.build(aggregation, dim=dim, rate=rate)

        super().__init__(dim, num_heads, rates, qkv_bias, attn_drop, proj_drop, aggregate, local)


ATTENTION.register("ssa_local_values")(partial(SSA, local="values"))
ATTENTION.register("ssa_local_output")(partial(SSA, local="output"))
ATTENTION.register("ssa_no_local")(partial(SSA, local="none"))

"""Attention: `forward(x, grid) -> x` on tokens of any grid, with one downsampling rate per head.

Shapes: B batch, N = H*W tokens, M reduced key/value tokens, C channels, h heads, d = C/h channels of a head, r rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shunted_lab.nn.aggregation import Grid, to_map, to_tokens
from shunted_lab.nn.registry import AGGREGATION, ATTENTION, ComponentError


def spread_rates(rates: list[int], num_heads: int) -> list[int]:
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


class GroupWeights(NamedTuple):
    """Attention weights of the heads of one rate, for figures."""

    heads: list[int]
    weights: Tensor  # (B, h, N, M), rows sum to 1
    grid: Grid  # of the M reduced tokens


class HeadGroup(nn.Module):
    """Keys and values of the heads that share a rate, and the local enhancement of their values.

    `aggregation=None` takes the tokens as they are.
    """

    def __init__(self, dim: int, head_dim: int, heads: list[int], rate: int, bias: bool, aggregation: str | None):
        super().__init__()
        self.heads = heads
        self.rate = rate
        self.aggregation = AGGREGATION.build(aggregation, dim=dim, rate=rate) if aggregation else None
        width = len(heads) * head_dim
        self.kv = nn.Linear(dim, 2 * width, bias=bias)
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Grid]:
        """(B, N, C) -> keys, values and the values' local enhancement, each (B, M, h*d), and their grid."""
        if self.aggregation is not None:
            x, grid = self.aggregation(x, grid)  # (B, M, C)
        k, v = self.kv(x).chunk(2, dim=-1)  # (B, M, h*d)
        return k, v, to_tokens(self.local(to_map(v, grid))), grid


@ATTENTION.register("ssa")
class SSA(nn.Module):
    """Shunted self-attention: heads of one layer see keys and values at different rates (paper, section 3.1, eq. 3-5).

    The local enhancement is added to the values; where all rates are 1 there is no aggregation, and it is added to the
    output (as in the official model's last stage).

    Args:
        dim: channels C.
        num_heads: h; divides `dim`.
        rates: one rate per head, in any order (see `spread_rates` for shorter lists).
        aggregation: registry name.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rates: list[int],
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        aggregation: str = "conv",
    ):
        super().__init__()
        if dim % num_heads:
            raise ComponentError(f"num_heads: {num_heads} does not divide dim {dim}")
        self.head_dim = dim // num_heads
        self.rates = spread_rates(rates, num_heads)
        self.plain = set(self.rates) == {1}
        self.attn_drop = attn_drop
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        # Named by rate, not by place: variants that share a rate are paired by parameter name.
        self.groups = nn.ModuleDict()
        order: list[int] = []
        for rate in dict.fromkeys(self.rates):
            heads = [head for head, r in enumerate(self.rates) if r == rate]
            used = None if self.plain else aggregation
            order += heads
            self.groups[f"r{rate}"] = HeadGroup(dim, self.head_dim, heads, rate, qkv_bias, used)
        self.place = [order.index(head) for head in range(num_heads)]  # head -> its place in the groups' output
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q = self._split(self.q(x))  # (B, h, N, d)
        dropout = self.attn_drop if self.training else 0.0
        out = []
        for group in self._groups():
            k, v, local, _ = group(x, grid)
            v, local = self._split(v), self._split(local)  # (B, h, M, d)
            if not self.plain:
                v = v + local
            y = F.scaled_dot_product_attention(self._heads(q, group), self._split(k), v, dropout_p=dropout)
            out.append(y + local if self.plain else y)  # (B, h, N, d)
        y = out[0] if len(out) == 1 else torch.cat(out, dim=1)
        if self.place != sorted(self.place):
            y = y[:, self.place]
        return self.proj_drop(self.proj(y.transpose(1, 2).flatten(2)))

    @torch.no_grad()
    def attention_weights(self, x: Tensor, grid: Grid) -> dict[int, GroupWeights]:
        """Rate -> softmax(q k^T / sqrt(d)) of its heads. For figures: this holds the whole matrix in memory."""
        q = self._split(self.q(x)) * self.head_dim**-0.5
        found = {}
        for group in self._groups():
            k, _, _, reduced = group(x, grid)
            weights = (self._heads(q, group) @ self._split(k).mT).softmax(-1)
            found[group.rate] = GroupWeights(group.heads, weights, reduced)
        return found

    def _groups(self) -> Iterator[HeadGroup]:
        return cast(Iterator[HeadGroup], iter(self.groups.values()))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, h*d) -> (B, h, N, d)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _heads(self, q: Tensor, group: HeadGroup) -> Tensor:
        first, last = group.heads[0], group.heads[-1]
        return q[:, first : last + 1] if last - first + 1 == len(group.heads) else q[:, group.heads]

"""Attention weights computed head by head from the parameters: the reference that tests compare with."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shunted_lab.nn.attention import GroupedAttention


class HeadWeights(NamedTuple):
    """Attention weights of the heads of one rate."""

    heads: list[int]
    weights: Tensor  # (B, h, N, M), rows sum to 1
    grid: tuple[int, int]  # of the M reduced tokens


@torch.no_grad()
def attention_weights(attn: GroupedAttention, x: Tensor, grid: tuple[int, int]) -> dict[int, HeadWeights]:
    """Rate -> softmax(q k^T / sqrt(d)) of its heads (paper, section 3.1, equation 4), the whole matrices."""
    d = x.shape[-1] // len(attn.rates)
    queries = F.linear(x, attn.q.weight, attn.q.bias)
    found = {}
    for rate in dict.fromkeys(attn.rates):
        group = attn.groups[f"r{rate}"]
        tokens, reduced = group.aggregation(x, grid) if group.aggregation else (x, grid)
        heads = [head for head, r in enumerate(attn.rates) if r == rate]
        matrices = []
        for i, head in enumerate(heads):  # the i-th head of a group has the i-th rows of its key projection
            bias = None if group.kv.bias is None else group.kv.bias[i * d : (i + 1) * d]
            k = F.linear(tokens, group.kv.weight[i * d : (i + 1) * d], bias)
            q = queries[..., head * d : (head + 1) * d]
            matrices.append((torch.einsum("bnd,bmd->bnm", q, k) / d**0.5).softmax(-1))
        found[rate] = HeadWeights(heads, torch.stack(matrices, 1), reduced)
    return found

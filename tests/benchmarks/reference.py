"""The Shunted Transformer written the straightforward way, to measure against: parameters are named as in the official
checkpoints; the attention matrix is materialised, and every layer turns tokens into maps and back by copies.

Sizes must be multiples of 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DWConv(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, _, C = x.shape
        x = self.dwconv(x.transpose(1, 2).reshape(B, C, H, W).contiguous())
        return x.flatten(2).transpose(1, 2).contiguous()


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DWConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        x = self.fc1(x)
        return self.fc2(self.act(x + self.dwconv(x, H, W)))


class Attention(nn.Module):
    """Two groups of heads at two rates; one group at rate 1 in the last stage."""

    def __init__(self, dim: int, num_heads: int, rates: list[int]):
        super().__init__()
        self.num_heads, self.rates, self.scale = num_heads, rates, (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        if len(rates) == 1:
            self.kv = nn.Linear(dim, 2 * dim)
            self.local_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
            return
        for number, rate in enumerate(rates, 1):
            self.add_module(f"sr{number}", nn.Conv2d(dim, dim, rate, rate))
            self.add_module(f"norm{number}", nn.LayerNorm(dim))
            self.add_module(f"kv{number}", nn.Linear(dim, dim))
            self.add_module(f"local_conv{number}", nn.Conv2d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2))
        self.act = nn.GELU()

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _local(self, conv: nn.Module, v: Tensor, H: int, W: int) -> Tensor:
        B, heads, M, d = v.shape
        x = v.transpose(1, 2).reshape(B, M, heads * d).transpose(1, 2).reshape(B, heads * d, H, W).contiguous()
        return conv(x).reshape(B, heads, d, M).transpose(-1, -2)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.num_heads, -1).permute(0, 2, 1, 3).contiguous()
        if len(self.rates) == 1:
            k, v = self.kv(x).reshape(B, N, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
            local = self._local(self.local_conv, v, H, W)
            return self.proj(self._attend(q, k, v) + local.transpose(1, 2).reshape(B, N, C))
        outs = []
        half = self.num_heads // 2
        image = x.permute(0, 2, 1).reshape(B, C, H, W).contiguous()
        for number, rate in enumerate(self.rates, 1):
            reduced = getattr(self, f"sr{number}")(image).reshape(B, C, -1).permute(0, 2, 1).contiguous()
            reduced = self.act(getattr(self, f"norm{number}")(reduced))
            k, v = (
                getattr(self, f"kv{number}")(reduced)
                .reshape(B, -1, 2, half, C // self.num_heads)
                .permute(2, 0, 3, 1, 4)
            )
            k, v = k.contiguous(), v.contiguous()
            v = v + self._local(getattr(self, f"local_conv{number}"), v, H // rate, W // rate)
            outs.append(self._attend(q[:, (number - 1) * half : number * half], k, v))
        return self.proj(torch.cat(outs, dim=-1))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, rates: list[int], hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, rates)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        x = x + self.attn(self.norm1(x), H, W)
        return x + self.mlp(self.norm2(x), H, W)


class Stem(nn.Module):
    def __init__(self, dim: int, extra: int):
        super().__init__()
        layers = [nn.Conv2d(3, dim, 7, 2, 3, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True)]
        for _ in range(extra):
            layers += [nn.Conv2d(dim, dim, 3, 1, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(dim, dim, 2, 2))
        self.conv = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.conv(x)
        _, _, H, W = x.shape
        return self.norm(x.flatten(2).transpose(1, 2).contiguous()), H, W


class Downsample(nn.Module):
    def __init__(self, dim_in: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim, 3, 2, 1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        _, _, H, W = x.shape
        return self.norm(x.flatten(2).transpose(1, 2).contiguous()), H, W


class Reference(nn.Module):
    """Shunted-T, -S or -B by `depths` and `extra` (convolutions in the stem)."""

    def __init__(self, depths: list[int], extra: int, num_classes: int = 1000):
        super().__init__()
        dims, heads, ratios, rates = [64, 128, 256, 512], [2, 4, 8, 16], [8, 8, 4, 4], [[8, 4], [4, 2], [2, 1], [1]]
        for i in range(4):
            self.add_module(f"patch_embed{i + 1}", Downsample(dims[i - 1], dims[i]) if i else Stem(dims[0], extra))
            blocks = [Block(dims[i], heads[i], rates[i], dims[i] * ratios[i]) for _ in range(depths[i])]
            self.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(dims[i], eps=1e-6))
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x, H, W = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"block{i}"):
                x = block(x, H, W)
            x = getattr(self, f"norm{i}")(x)
            if i < 4:
                x = x.reshape(len(x), H, W, -1).permute(0, 3, 1, 2).contiguous()
        return self.head(x.mean(1))

"""Feed-forward layers: `forward(x, grid) -> x`, (B, N, C) -> (B, N, C). Shapes: D = hidden_dim."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from shunted_lab.nn.convolution import DWConv, ResidualDWConv
from shunted_lab.nn.layout import Grid, to_map, to_tokens
from shunted_lab.nn.linear import Linear
from shunted_lab.nn.registry import MLP


@MLP.register("mlp")
class Mlp(nn.Module):
    """fc2(GELU(fc1(x)))."""

    def __init__(self, dim: int, hidden_dim: int, proj_drop: float = 0.0):
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(proj_drop)
        self.fc2 = Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(proj_drop)

    def hidden(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, N, D), activated."""
        return self.act(self.fc1(x))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.hidden(x, grid))))


class DWConvMlp(Mlp):
    """fc2(GELU(DWConv(fc1(x)))) (PVT v2, section 3.3); with `relu`, a ReLU before DWConv (its linear variant)."""

    def __init__(self, dim: int, hidden_dim: int, proj_drop: float = 0.0, relu: bool = False):
        super().__init__(dim, hidden_dim, proj_drop)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.dwconv = DWConv(hidden_dim)

    def hidden(self, x: Tensor, grid: Grid) -> Tensor:
        # The activation of a map and not of tokens: a compiler fuses it into the convolution.
        return to_tokens(self.act(self.dwconv(to_map(self.relu(self.fc1(x)), grid))))


MLP.register("mlp_dwconv")(DWConvMlp)
MLP.register("mlp_relu_dwconv")(partial(DWConvMlp, relu=True))


@MLP.register("detail_specific")
class DetailSpecific(Mlp):
    """fc2(GELU(h + DWConv(h))), h = fc1(x): each token looks at its neighbours (paper, section 3.2, equation 6)."""

    def __init__(self, dim: int, hidden_dim: int, proj_drop: float = 0.0):
        super().__init__(dim, hidden_dim, proj_drop)
        self.dwconv = ResidualDWConv(hidden_dim)

    def hidden(self, x: Tensor, grid: Grid) -> Tensor:
        return to_tokens(self.act(self.dwconv(to_map(self.fc1(x), grid))))


@MLP.register("conv_glu")
class ConvGLU(nn.Module):
    """fc2(GELU(DWConv(g)) * v), g and v the halves of fc1(x) (TransNeXt, arXiv 2311.17132, section 3.4).

    Each half is 2/3 of `hidden_dim` wide, so that it has about the parameters and products of the ungated layers.
    """

    def __init__(self, dim: int, hidden_dim: int, proj_drop: float = 0.0):
        super().__init__()
        width = max(1, 2 * hidden_dim // 3)
        self.fc1 = Linear(dim, 2 * width)
        self.dwconv = DWConv(width)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(proj_drop)
        self.fc2 = Linear(width, dim)
        self.drop2 = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)  # (B, N, 2/3 D) each
        gate = to_tokens(self.act(self.dwconv(to_map(gate, grid))))
        return self.drop2(self.fc2(self.drop1(gate * value)))

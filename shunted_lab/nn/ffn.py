"""Feed-forward layers: `forward(x, grid) -> x`, (B, N, C) -> (B, N, C)."""

from __future__ import annotations

from torch import Tensor, nn

from shunted_lab.nn.aggregation import Grid, to_map, to_tokens
from shunted_lab.nn.registry import MLP


@MLP.register("mlp")
class Mlp(nn.Module):
    """fc2(GELU(fc1(x)))."""

    def __init__(self, dim: int, hidden_dim: int, proj_drop: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(proj_drop)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(proj_drop)

    def hidden(self, x: Tensor, grid: Grid) -> Tensor:
        return self.fc1(x)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        h = self.hidden(x, grid)  # (B, N, hidden_dim)
        return self.drop2(self.fc2(self.drop1(self.act(h))))


@MLP.register("detail_specific")
class DetailSpecific(Mlp):
    """fc2(GELU(h + DWConv(h))), h = fc1(x): each token looks at its neighbours (paper, section 3.2, equation 6)."""

    def __init__(self, dim: int, hidden_dim: int, proj_drop: float = 0.0):
        super().__init__(dim, hidden_dim, proj_drop)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)

    def hidden(self, x: Tensor, grid: Grid) -> Tensor:
        h = self.fc1(x)
        return h + to_tokens(self.dwconv(to_map(h, grid)))

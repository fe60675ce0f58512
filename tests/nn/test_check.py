"""Every shipped component keeps the contract of its slot, and `check_component` catches one that does not."""

import math

import pytest
import torch
from torch import nn

from shunted_lab.nn import ATTENTION, MLP, ComponentError, check_component
from shunted_lab.nn.check import ContractError
from shunted_lab.nn.components import SLOTS
from shunted_lab.nn.layout import to_map, to_tokens

SHIPPED = [(slot.kind, name) for slot in SLOTS.values() for name in slot.names()]


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_shipped_component_passes(kind, name):
    assert len(check_component(name, kind, backend="aot_eager")) == 10


@pytest.mark.parametrize("rates", [[1, 1, 1, 1], [8, 8, 2, 1], [3, 1, 3, 1], [2, 4, 8, 1]])
def test_ssa_passes_with_any_rates(rates):
    assert "memory" in check_component("ssa", ATTENTION, backend="aot_eager", rates=rates)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_heads_of_any_number_get_one_rate_each(heads):
    seen = []

    class Recorded(Good):
        def __init__(self, dim: int, num_heads: int, rates: list[int]):
            super().__init__(dim, dim)
            seen.append(rates)

    assert check_component(Recorded, ATTENTION, backend="aot_eager", num_heads=heads)
    assert {len(rates) for rates in seen} == {heads} and seen[0][0] == 4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("attn", "ssa"), ("mlp", "detail_specific"), ("patch_embed", "conv_stem1")])
def test_the_paper_s_components_compile_to_machine_code(kind, name):
    assert "torch.compile" in check_component(name, kind)


# --- one broken component for each check -----------------------------------------------------------------------------


class Good(nn.Module):
    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x, grid):
        return self.fc2(torch.tanh(self.fc1(x)))


class Short(Good):
    def forward(self, x, grid):
        return super().forward(x, grid)[:, 1:]


class Swapped(nn.Module):
    """Takes the grid for (W, H)."""

    def __init__(self, dim: int, rate: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, rate, rate, padding=rate // 2)

    def forward(self, x, grid):
        x = self.conv(to_map(x, grid))
        return to_tokens(x), (x.shape[3], x.shape[2])


class Dropping(nn.Module):
    """A convolution without padding: the tokens at the border are dropped, though the grid is right."""

    def __init__(self, dim: int, rate: int):
        super().__init__()
        self.rate, self.proj = rate, nn.Linear(dim, dim)

    def forward(self, x, grid):
        x = to_map(self.proj(x), grid)[:, :, :: self.rate, :: self.rate]
        return to_tokens(x), (x.shape[2], x.shape[3])


class Unused(Good):
    def __init__(self, dim: int, hidden_dim: int):
        super().__init__(dim, hidden_dim)
        self.scale = nn.Parameter(torch.ones(dim))


class Overflowing(Good):
    def forward(self, x, grid):
        x = super().forward(x, grid)
        return (x * 1e30 / 1e30) if x.dtype == torch.float32 else x * 1e30 * 1e30


class AcrossBatch(Good):
    def forward(self, x, grid):
        return super().forward(x, grid) - x.mean(0)


class Noisy(Good):
    def forward(self, x, grid):
        return super().forward(x, grid) + 0.01 * torch.randn_like(x)


class Materialised(nn.Module):
    def __init__(self, dim: int, num_heads: int, rates: list[int]):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, grid):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj((q @ k.mT / math.sqrt(x.shape[-1])).softmax(-1) @ v)


class Forgetful(Good):
    def __init__(self, dim: int, hidden_dim: int):
        super().__init__(dim, hidden_dim)
        self.bias = torch.randn(dim)

    def forward(self, x, grid):
        return super().forward(x, grid) + self.bias


class Uncountable(Good):
    def forward(self, x, grid):
        return super().forward(x, grid) * (1.0 if x.flatten()[0].item() > -1e9 else 2.0)


class Unexportable(Good):
    def forward(self, x, grid):
        y = super().forward(x, grid)
        return y if x.device.type == "meta" or x.sum() > -1e9 else y + 1


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Short, r"mlp 'Short': shapes: at 8 x 8 it returns \(2, 63, 16\); expected \(2, 64, 16\)"),
        (Swapped, r"aggregation 'Swapped': shapes: at 7 x 5 it returns the grid \(2, 3\); expected \(3, 2\)"),
        (Dropping, r"gradients: at 8 x 8 some tokens have no influence"),
        (Unused, r"gradients: at 8 x 8 parameter 'scale' gets none"),
        (Overflowing, r"bf16 autocast: at 8 x 8 the output is not finite"),
        (AcrossBatch, r"batch independence: at 8 x 8 an image's output depends on the others"),
        (Noisy, r"determinism: at 8 x 8 two passes in evaluation differ"),
        (Materialised, r"memory: 4 x the tokens keep .* is the attention matrix kept\?"),
        (Forgetful, r"state dict: at 8 x 8 another instance with the same state dict gives another output"),
        (Uncountable, r"cost: it cannot be counted on the meta device"),
        (Unexportable, r"torch\.export: at 8 x 8"),
    ],
)
def test_a_broken_component_is_named_with_what_is_wrong(component, message):
    with pytest.raises(ContractError, match=message):
        check_component(component, backend="aot_eager")


def test_a_user_s_class_passes_without_being_registered():
    before = MLP.names()
    assert "gradients" in check_component(Good, backend="aot_eager")
    assert MLP.names() == before


def test_the_slot_must_be_known():
    with pytest.raises(ComponentError, match=r"slot: is missing; say where .* is to stand: attn, aggregation"):
        check_component(lambda x: x)
    with pytest.raises(ComponentError, match=r"slot: 'atn' is not known; choices: attn, aggregation"):
        check_component(Good, "atn")

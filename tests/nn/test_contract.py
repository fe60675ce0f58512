"""A component that breaks its contract is named while its model is counted, also where torch would not notice."""

import re

import pytest
import torch
from torch import nn

from shunted_lab.nn import ComponentError, Pyramid, count_cost, count_parts
from shunted_lab.nn.contract import checked_outputs, fault_of_grid, has_own_components
from shunted_lab.nn.layout import to_tokens

HERE = f"{__name__}."
SMALL = {
    "embed_dims": [24, 32, 40, 48],
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 2, 2],
    "mlp_ratios": [1, 1, 1, 1],
    "rates": [[4, 2], [2, 1], [2], [1]],
    "num_classes": 5,
}


class Layer(nn.Module):
    """An attention or a feed-forward layer: its output is a change of a good one."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, grid):
        return self.change(self.proj(x))

    def change(self, x):
        return x


class OneToken(Layer):
    def change(self, x):
        return x.mean(1, keepdim=True)  # broadcasts over the residual


class OneImage(Layer):
    def change(self, x):
        return x.mean(0, keepdim=True)  # broadcasts over the batch


class OneChannel(Layer):
    def change(self, x):
        return x[..., :1]


class Fewer(Layer):
    def change(self, x):
        return x[:, 1:]


class Pair(Layer):
    def change(self, x):
        return x, x


class Nothing(Layer):
    def change(self, x):
        return None


class Raises(Layer):
    def change(self, x):
        raise RuntimeError("a mistake in the user's code")


class Refuses(Layer):
    def __init__(self, dim: int):
        raise RuntimeError("a mistake in the user's constructor")


class Embed(nn.Module):
    def __init__(self, in_chans: int, embed_dim: int, stride: int = 4, pad: int = 0):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, stride, stride, pad)

    def forward(self, x):
        x = self.proj(x)
        return to_tokens(x), x.shape[-2:]


class EmbedAlone(Embed):
    def forward(self, x):
        return to_tokens(self.proj(x))


class EmbedSwapped(Embed):
    def forward(self, x):
        tokens, (height, width) = super().forward(x)
        return tokens, (width, height)


class Aggregation(nn.Module):
    """Keeps every second token and returns a grid that does not match."""

    def __init__(self, dim: int, rate: int):
        super().__init__()

    def forward(self, x, grid):
        return x[:, ::2], grid


class AggregationFloat(Aggregation):
    def forward(self, x, grid):
        return x, (grid[0] / 1, grid[1] / 1)


def count(size=(64, 96), **changes):
    return count_cost(lambda: Pyramid(**(SMALL | changes)), size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn": f"{HERE}OneToken"}, "OneToken returns (1, 1, 24); expected (1, 384, 24)"),
        ({"mlp": f"{HERE}OneToken"}, "OneToken returns (1, 1, 24); expected (1, 384, 24)"),
        ({"attn": ["ssa", "ssa", f"{HERE}OneToken", "ssa"]}, "OneToken returns (1, 1, 40); expected (1, 24, 40)"),
        ({"attn": f"{HERE}OneImage"}, "OneImage returns (1, 384, 24); expected (2, 384, 24)"),
        ({"mlp": f"{HERE}OneChannel"}, "OneChannel returns (1, 384, 1); expected (1, 384, 24)"),
        ({"attn": f"{HERE}Fewer"}, "Fewer returns (1, 383, 24); expected (1, 384, 24)"),
        ({"attn": f"{HERE}Pair"}, "Pair returns a tuple; expected a tensor of (1, 384, 24)"),
        ({"mlp": f"{HERE}Nothing"}, "Nothing returns a NoneType; expected a tensor of (1, 384, 24)"),
        ({"patch_embed": f"{HERE}EmbedAlone"}, "EmbedAlone returns a Tensor; expected tokens and their grid"),
        ({"patch_embed": f"{HERE}EmbedSwapped"}, "EmbedSwapped returns the grid (24, 16); expected (16, 24)"),
        (
            {"patch_embed": {"name": f"{HERE}Embed", "stride": 8}},
            "Embed returns the grid (8, 12); expected (16, 24)",
        ),
        ({"downsample": f"{HERE}Embed"}, "Embed returns the grid (4, 6); expected (8, 12)"),
        ({"aggregation": f"{HERE}Aggregation"}, "Aggregation returns (1, 192, 24); expected (1, 384, 24)"),
        (
            {"aggregation": f"{HERE}AggregationFloat"},
            "AggregationFloat returns the grid (16.0, 24.0); expected (height, width)",
        ),
    ],
)
def test_an_output_that_breaks_the_contract_is_refused_with_the_class(changes, message):
    with pytest.raises(ComponentError, match=f"^{re.escape(HERE + message)}$"):
        count(**changes)


def test_a_grid_that_drops_the_border_is_refused():
    with pytest.raises(ComponentError, match=r"Embed returns the grid \(8, 12\); expected \(9, 13\)"):
        count((33, 49), patch_embed=f"{HERE}Embed")


def test_a_good_component_of_a_user_costs_what_it_is_counted_as():
    found = count_parts(lambda: Pyramid(**(SMALL | {"attn": f"{HERE}Layer"})), 64)
    assert found["stages.0.blocks.0.attn"].macs == 256 * 24 * 24
    assert count((64, 64), patch_embed={"name": f"{HERE}Embed"}).params > 0


def test_an_exception_keeps_its_traceback_and_names_place_and_class():
    with pytest.raises(RuntimeError, match="a mistake in the user's code") as error:
        count(attn=["ssa", f"{HERE}Raises", "ssa", "ssa"])
    assert error.value.__notes__ == [f"raised in stages.1.blocks.0.attn, {HERE}Raises"]
    assert any("change" in str(entry.name) for entry in error.traceback)
    with pytest.raises(RuntimeError, match="constructor") as error:
        count(mlp=f"{HERE}Refuses")
    assert error.value.__notes__ == [f"raised while building mlp '{HERE}Refuses'"]


def test_an_image_that_is_too_small_is_still_the_pyramid_s_own_error():
    with pytest.raises(ComponentError, match="an image of 16 x 16 is too small"):
        count((16, 16))


def test_the_checks_leave_the_model_as_it_was():
    model = Pyramid(**(SMALL | {"attn": f"{HERE}OneToken"}))
    with pytest.raises(ComponentError, match="OneToken returns"), checked_outputs(model):
        model(torch.zeros(1, 3, 64, 64))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_only_users_components_are_passed_twice():
    assert not has_own_components(Pyramid(**SMALL)) and not has_own_components(nn.Linear(2, 2))
    assert has_own_components(Pyramid(**(SMALL | {"aggregation": f"{HERE}Aggregation"})))


def test_a_grid_may_be_of_any_integers():
    assert fault_of_grid((torch.zeros(1, 6, 4), torch.Size([2, 3])), 1, 4, [(2, 3)]) is None
    assert fault_of_grid((torch.zeros(1, 6, 4), [2, 3]), 1, 4) is None
    assert fault_of_grid((torch.zeros(1, 6, 4), (6,)), 1, 4) == "returns the grid (6,); expected (height, width)"

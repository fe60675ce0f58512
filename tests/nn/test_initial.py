"""Initial values follow from seed, name and place, whatever module draws them and whatever was drawn before."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from shunted_lab.nn import ATTENTION, Pyramid, init_weights
from shunted_lab.nn.initial import seeded

SMALL = {
    "embed_dims": [8, 8, 8, 8],
    "depths": [1, 2, 1, 1],
    "num_heads": [2, 2, 2, 2],
    "mlp_ratios": [2, 2, 2, 2],
    "rates": [[1]] * 4,
    "num_classes": 3,
}


class Own(nn.Module):
    """A user's attention with parameters of every origin, and no `reset_parameters`."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(dim))
        self.table = nn.Parameter(torch.from_numpy(np.random.randn(dim).astype(np.float32)))
        self.shift = nn.Parameter(torch.tensor([random.random() for _ in range(dim)]))
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("order", torch.randperm(dim))

    def forward(self, x, grid):
        return self.proj(x * self.scale + self.table + self.shift)


@pytest.fixture(autouse=True)
def registered():
    ATTENTION.register("own")(Own)
    yield
    del ATTENTION._entries["own"]


def build(seed: int, **changes) -> dict[str, torch.Tensor]:
    """As a run builds its model."""
    with seeded(str(seed)):
        model = Pyramid(**(SMALL | {"attn": "own"} | changes))
    init_weights(model, seed)
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_a_seed_gives_the_same_values_whatever_was_drawn_before():
    first = build(0)
    torch.randn(7), np.random.randn(3), random.random()
    second = build(0)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_seeds_differ_in_every_drawn_value():
    first, second = build(0), build(1)
    drawn = [name for name in first if name.rpartition(".")[2] in ("scale", "table", "shift", "order")]
    assert len(drawn) == 20
    for name in (*drawn, "head.weight", "stages.0.blocks.0.attn.proj.weight"):
        assert not torch.equal(first[name], second[name]), name


def test_places_differ():
    values = build(0)
    scales = [values[f"stages.{i}.blocks.{j}.attn.scale"] for i, j in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0))]
    assert len({tuple(scale.tolist()) for scale in scales}) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_embed": "overlapping"},
        {"mlp": "conv_glu"},
        {"downsample": "non_overlapping"},
        {"attn": ["msa", "own", "own", "own"]},
        {"depths": [2, 2, 1, 1]},
        {"num_classes": 5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variants_of_a_seed_share_every_value_of_the_same_name_and_shape(changes):
    first, second = build(0), build(0, **changes)
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    assert any(name.endswith("attn.scale") for name in shared)
    for name in shared:
        assert torch.equal(first[name], second[name]), name


def test_an_aggregation_of_a_user_is_paired_by_its_rate():
    from shunted_lab.nn import AGGREGATION

    class Weighted(nn.Module):
        def __init__(self, dim: int, rate: int):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(dim))

        def forward(self, x, grid):
            return x * self.weight, grid

    AGGREGATION.register("weighted")(Weighted)
    try:
        both, one = (
            build(0, attn="ssa", aggregation="weighted", rates=[rates, *[[1]] * 3]) for rates in ([4, 2], [2, 2])
        )
    finally:
        del AGGREGATION._entries["weighted"]
    name = "stages.0.blocks.0.attn.groups.r2.aggregation.weight"
    assert torch.equal(both[name], one[name])
    assert not torch.equal(both[name], both[name.replace("r2", "r4")])


def test_the_global_generators_are_left_as_they_were():
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    build(0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]
    with pytest.raises(RuntimeError), seeded("x"):
        torch.randn(3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before[0])

"""Initial values follow from seed, name and place, whatever module draws them and whatever was drawn before."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.retinanet import RetinaNetHead
from toy_detector import CLASSES, WIDTH, Detector, PriorHead, SeededHead
from toy_detector import SMALL as DETECTOR

from shunted_lab.nn import ATTENTION, Pyramid, build_seeded, init_weights
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


# --- networks around a backbone --------------------------------------------------------------------------------------


class RetinaHead(RetinaNetHead):
    """torchvision's, with the toy's sizes; the names of `logits` and `tower` as the toy has them."""

    def __init__(self):
        super().__init__(WIDTH, 1, CLASSES)
        self.logits = self.classification_head.cls_logits


def values(network: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def equal(first: nn.Module, second: nn.Module) -> bool:
    theirs = values(second)
    return all(torch.equal(value, theirs[name]) for name, value in values(first).items())


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("attribute", ["backbone", "encoder", "head_of_another_kind"])
@pytest.mark.parametrize("attn", ["ssa", "own"])
def test_a_backbone_starts_from_the_values_of_the_classifier(seed, attribute, attn):
    options = {"attn": attn} if attn == "ssa" else {"attn": attn, "rates": [[1]] * 4}
    classifier = build_seeded(lambda: Pyramid(**DETECTOR | options, num_classes=3), seed)
    detector = build_seeded(lambda: Detector(attribute=attribute, draws=7, **options), seed)
    assert equal(detector.pyramid, classifier) and len(values(detector.pyramid)) > 50


def test_a_backbone_inside_two_networks_is_still_a_backbone():
    classifier = build_seeded(lambda: Pyramid(**DETECTOR, num_classes=3), 1)
    assert equal(build_seeded(lambda: nn.ModuleDict({"net": Detector()}), 1)["net"].pyramid, classifier)


@pytest.mark.parametrize("head", [PriorHead, SeededHead, RetinaHead])
def test_a_head_keeps_the_values_that_it_defines(head):
    first, again, other = (build_seeded(lambda: Detector(head), seed) for seed in (0, 0, 1))
    for detector in (first, again, other):
        torch.testing.assert_close(detector.head.logits.bias, torch.full((CLASSES,), -math.log(99)))
        weights = [p.detach() for name, p in detector.head.named_parameters() if name.endswith("weight")]
        assert all(float(weight.std()) == pytest.approx(0.01, rel=0.2) for weight in weights if weight.numel() > 200)
    assert equal(first, again)
    assert not torch.equal(first.head.logits.weight, other.head.logits.weight)
    assert not torch.equal(first.laterals[0].weight, other.laterals[0].weight)


def test_a_head_that_draws_under_its_name_is_paired_whatever_was_drawn_before():
    first, second = (build_seeded(lambda: Detector(SeededHead, draws=n), 0) for n in (0, 5))  # noqa: B023
    assert equal(first.head, second.head) and not equal(first.laterals, second.laterals)


def test_a_component_may_define_its_own_values_inside_a_backbone():
    class Scaled(Own):
        def init_own_weights(self):
            nn.init.normal_(self.scale, std=5.0)
            nn.init.constant_(self.proj.bias, 7.0)

    def make(attn):
        return build_seeded(lambda: Pyramid(**SMALL | {"attn": attn}), 0)

    ATTENTION.register("scaled")(Scaled)
    try:
        own, scaled = make("own"), make("scaled")
    finally:
        del ATTENTION._entries["scaled"]
    theirs = values(own)
    differ = {name for name, value in values(scaled).items() if not torch.equal(value, theirs[name])}
    assert {name.split(".attn.")[-1] for name in differ} == {"scale", "proj.bias", "proj.weight"}
    attns = [block.attn for stage in scaled.stages for block in stage.blocks]
    assert all((attn.proj.bias == 7).all() for attn in attns)
    assert len({tuple(attn.scale.tolist()) for attn in attns}) == 5  # each place has values of its own


def test_init_weights_gives_the_same_values_again():
    detector = build_seeded(lambda: Detector(SeededHead), 0)
    expected = {name: value.clone() for name, value in values(detector).items()}
    with torch.no_grad():
        for p in (*detector.pyramid.parameters(), *detector.head.parameters()):
            p.add_(1.0)
    init_weights(detector, 0)
    assert all(torch.equal(value, expected[name]) for name, value in values(detector).items())


def test_without_a_seed_each_backbone_is_another():
    first, second = (Pyramid(**(SMALL | {"attn": "own"})) for _ in range(2))
    assert not torch.equal(first.stages[0].blocks[0].attn.scale, second.stages[0].blocks[0].attn.scale)

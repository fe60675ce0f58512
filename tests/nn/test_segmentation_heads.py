"""Heads of segmentation: as transformers computes them, as large as mmseg's, and held against their contract."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from segmentation_reference import CHANNELS, CLASSES, FILE, HEADS, expected, filled, maps, output, summary
from torch import nn

from shunted_lab.config.model import MODELS
from shunted_lab.nn import Pyramid, build_seeded, count_parts
from shunted_lab.nn.check import ContractError
from shunted_lab.nn.registry import ComponentError
from shunted_lab.nn.segmentation.check import check_head
from shunted_lab.nn.segmentation.heads import HEAD, SegmentationNet, build_head
from shunted_lab.nn.segmentation.upernet import UPerNet
from shunted_lab.tasks.segmentation import HEADS as NAMES

# Parameters, GMACs of convolutions and linear layers, and with the attention products, at 512 x 2048 for 150 classes.
# UPerNet with its auxiliary head, as mmseg counts it.
SIZES = {
    ("shunted_t", "semantic_fpn"): (15_290_838, 127.4, 192.9),
    ("shunted_t", "upernet"): (41_348_204, 886.6, 952.1),
    ("shunted_t", "segformer"): (14_257_110, 209.9, 275.4),
    ("shunted_s", "semantic_fpn"): (26_138_518, 182.8, 334.2),
    ("shunted_s", "upernet"): (52_195_884, 942.0, 1093.4),
    ("shunted_s", "segformer"): (25_104_790, 265.3, 416.7),
    ("shunted_b", "semantic_fpn"): (43_351_638, 244.6, 483.0),
    ("shunted_b", "upernet"): (69_409_004, 1003.8, 1242.1),
    ("shunted_b", "segformer"): (42_317_910, 327.1, 565.5),
    ("pvt_v2_b1", "semantic_fpn"): (17_762_646, 128.2, 161.5),
    ("pvt_v2_b1", "upernet"): (43_983_852, 888.1, 921.4),
    ("pvt_v2_b1", "segformer"): (16_761_686, 210.9, 244.2),
    ("pvt_v2_b2", "semantic_fpn"): (29_116_502, 166.9, 229.2),
    ("pvt_v2_b2", "upernet"): (55_337_708, 926.8, 989.0),
    ("pvt_v2_b2", "segformer"): (28_115_542, 249.6, 311.8),
}


def network(model: str, head: str, classes: int = 150) -> SegmentationNet:
    options = MODELS[model].options()
    head_module = build_head(head, options["embed_dims"], classes)
    return SegmentationNet(Pyramid(**options, num_classes=0), head_module, classes)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_computes_what_transformers_does(name):
    stored = json.loads(FILE.read_text())[name]
    found = summary(output(name))
    assert found["shape"] == stored["shape"]
    assert found["values"] == pytest.approx(stored["values"], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_transformers_itself_where_it_is_installed(name):
    pytest.importorskip("transformers")
    torch.testing.assert_close(output(name), expected(name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("model", "head"), SIZES)
def test_networks_are_as_large_as_published(model, head):
    found = count_parts(lambda: network(model, head), (512, 2048))[""]
    params, linear, total = SIZES[model, head]
    assert found.params == params
    auxiliary = 0.0
    if head == "upernet":  # in training only, on the map of stride 16
        auxiliary = 32 * 128 * 256 * (9 * MODELS[model].embed_dims[2] + 150) / 1e9
    assert found.macs_linear / 1e9 + auxiliary == pytest.approx(linear, abs=0.051)
    assert found.macs / 1e9 + auxiliary == pytest.approx(total, abs=0.051)


def test_the_auxiliary_head_has_the_size_of_mmseg_s():
    with torch.device("meta"):
        auxiliary = UPerNet(CHANNELS, CLASSES).auxiliary
    assert sum(p.numel() for p in auxiliary.parameters()) == 628_886


def test_semantic_fpn_is_the_sum_of_its_levels():
    """Computed once more from the parameters, without its modules; transformers has none."""
    head = filled(build_head("semantic_fpn", CHANNELS, CLASSES)).double()
    weights = head.state_dict()
    laterals = [
        F.conv2d(x, weights[f"fpn.laterals.{i}.weight"], weights[f"fpn.laterals.{i}.bias"])
        for i, x in enumerate(maps())
    ]
    for i in (3, 2, 1):
        laterals[i - 1] = laterals[i - 1] + laterals[i].repeat_interleave(2, 2).repeat_interleave(2, 3)
    total = torch.zeros(1, 128, 24, 32)
    for i, inner in enumerate(laterals):
        x = F.conv2d(inner, weights[f"fpn.convs.{i}.weight"], weights[f"fpn.convs.{i}.bias"], padding=1)
        for k in range(max(1, i)):
            layer = f"levels.{i}.{2 * k if i else k}."
            x = F.conv2d(x, weights[layer + "conv.weight"], padding=1)
            shape = (1, -1, 1, 1)
            mean, var = (weights[f"{layer}bn.running_{name}"].view(shape) for name in ("mean", "var"))
            x = (x - mean) / (var + 1e-5).sqrt()
            x = (x * weights[layer + "bn.weight"].view(shape) + weights[layer + "bn.bias"].view(shape)).relu()
            if i:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + x
    logits = F.conv2d(total, weights["classifier.conv.weight"], weights["classifier.conv.bias"])
    torch.testing.assert_close(head(maps()), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", HEAD.names())
def test_shipped_heads_keep_the_contract(name):
    options = {} if name.endswith("_lite") else {"width": 16}
    assert "gradients" in check_head(name, **options)


def test_names_of_the_configuration_are_those_of_the_registry():
    assert sorted(NAMES) == HEAD.names()


class Stride4(nn.Module):
    """Looks at the finest map only."""

    def __init__(self, channels, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, maps):
        return self.conv(maps[0])


class WrongClasses(Stride4):
    def __init__(self, channels, num_classes):
        super().__init__(channels, num_classes + 1)


class Unweighted(Stride4):
    def forward(self, maps):
        logits = self.conv(maps[0])
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Stride4, r"head 'Stride4': gradients: map 1 \(of 4\) has no influence"),
        (WrongClasses, r"shapes: of an image of 64 x 64 it returns \(2, 6, 16, 16\); expected \(2, 5, h, w\)"),
        (Unweighted, "shapes: auxiliary logits need an `auxiliary_weight`"),
    ],
)
def test_a_broken_head_is_named(head, message):
    with pytest.raises(ContractError, match=message):
        check_head(head)


def test_an_unknown_head_has_a_nearest_match():
    with pytest.raises(ComponentError, match="head: 'uper' is not known; did you mean 'upernet'"):
        build_head("uper", CHANNELS, CLASSES)


def test_heads_and_backbones_begin_with_the_values_of_their_seed():
    """Within a seed, the backbone is that of a classifier, and the head does not depend on the backbone's parts."""
    options = MODELS["shunted_lite"].options()
    other = options | {"patch_embed": "overlapping", "attn": "sra", "rates": [[4], [2], [1], [1]]}

    def net(options, seed=3):
        def make():
            head = build_head("upernet_lite", options["embed_dims"], 7)
            return SegmentationNet(Pyramid(**options, num_classes=0), head, 7)

        return build_seeded(make, seed).state_dict()

    first, second = net(options), net(other)
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    assert len(shared) > 100 and all(torch.equal(first[name], second[name]) for name in shared)
    classifier = build_seeded(lambda: Pyramid(**options, num_classes=10), 3).state_dict()
    assert all(torch.equal(first[f"backbone.{n}"], v) for n, v in classifier.items() if not n.startswith("head"))
    assert not torch.equal(first["head.fuse.conv.weight"], net(options, seed=4)["head.fuse.conv.weight"])
    assert first["head.classifier.conv.weight"].std() == pytest.approx(0.01, rel=0.2)


def test_in_training_the_auxiliary_logits_come_with_their_weight():
    net = network("shunted_lite", "upernet_lite", 5)
    images = torch.randn(2, 3, 64, 64)
    (main, weight), (other, less) = net.train()(images)
    assert main.shape == (2, 5, 16, 16) and other.shape == (2, 5, 4, 4) and (weight, less) == (1.0, 0.4)
    assert net.eval()(images).shape == (2, 5, 16, 16)

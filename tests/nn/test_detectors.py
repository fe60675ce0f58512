"""Detectors: as torchvision computes them with its anchors and pooling, as large as mmdet's, and mmdet's losses."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import MaskRCNN, RetinaNet, _utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.ops import MultiScaleRoIAlign, box_iou, sigmoid_focal_loss

from shunted_lab.config.model import MODELS
from shunted_lab.data.objects import Objects, boxes_of
from shunted_lab.nn import Pyramid, build_seeded, check_detector, count_cost
from shunted_lab.nn.check import ContractError
from shunted_lab.nn.detection import mask_rcnn
from shunted_lab.nn.detection.anchors import Anchors
from shunted_lab.nn.detection.contract import Detections
from shunted_lab.nn.detection.heads import DETECTOR, DetectionNet, build_detector
from shunted_lab.nn.detection.mask_rcnn import MaskRCNN as MaskRCNNOfOurs
from shunted_lab.nn.detection.masks import mask_targets, paste_mask
from shunted_lab.nn.detection.parts import BetterMatcher, Coder, average, sample
from shunted_lab.nn.detection.pool import RoIPool
from shunted_lab.nn.detection.retinanet import RetinaNet as RetinaNetOfOurs
from shunted_lab.nn.registry import ComponentError
from shunted_lab.tasks.detection import OF_BOXES, OF_MASKS

# Parameters, GMACs of convolutions and linear layers, and with the attention products, at 800 x 1280 for 80 classes;
# 1,000 boxes in the box head and 100 in the mask head, as mmdet counts.
SIZES = {
    ("shunted_t", "mask_rcnn"): (31_195_957, 210.8, 273.2),
    ("shunted_t", "retinanet"): (21_274_164, 192.2, 254.7),
    ("shunted_s", "mask_rcnn"): (42_043_637, 264.8, 409.2),
    ("shunted_s", "retinanet"): (32_121_844, 246.3, 390.7),
    ("shunted_b", "mask_rcnn"): (59_256_757, 325.2, 552.5),
    ("shunted_b", "retinanet"): (49_334_964, 306.6, 534.0),
    ("pvt_v2_b1", "mask_rcnn"): (33_667_765, 211.6, 243.3),
    ("pvt_v2_b1", "retinanet"): (23_745_972, 193.0, 224.7),
    ("pvt_v2_b2", "mask_rcnn"): (45_021_621, 249.4, 308.7),
    ("pvt_v2_b2", "retinanet"): (35_099_828, 230.8, 290.2),
}
SMALL = {
    "embed_dims": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 2, 2],
    "mlp_ratios": [2, 2, 2, 2],
    "rates": [[2, 1], [1], [1], [1]],
}
CLASSES = 4


def network(head, classes: int = CLASSES, seed: int = 0, **options) -> DetectionNet:
    def make() -> DetectionNet:
        backbone = Pyramid(**SMALL | options, num_classes=0)
        return DetectionNet(backbone, build_detector(head, SMALL["embed_dims"], classes), classes)

    return build_seeded(make, seed)


def targets(*boxes, size=(64, 96), masks=True) -> Objects:
    """Images with these boxes, of classes 0, 1, ...; a mask fills its box."""
    found = [torch.tensor(each, dtype=torch.float32).reshape(-1, 4) for each in boxes]
    filled = []
    for each in found:
        filled.append(torch.zeros(len(each), *size, dtype=torch.uint8))
        for mask, (x0, y0, x1, y1) in zip(filled[-1], each.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
    labels = [torch.arange(len(each)) % CLASSES for each in found]
    has_mask = [torch.ones(len(each), dtype=torch.bool) for each in found]
    seeds = list(range(len(found)))
    return Objects(found, labels, filled if masks else [], has_mask, seeds, [size] * len(found), [])


def images(count: int, size=(64, 96)) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def losses(net: DetectionNet, objects: Objects, together: int = 2) -> dict[str, torch.Tensor]:
    net.train().backbone.eval()  # its BatchNorm would make a batch more than its images
    found = net(images(len(objects.boxes)))
    return found.head.losses(found.features, objects, together)


def test_names_of_the_task_are_those_of_the_registry():
    assert sorted((*OF_BOXES, *OF_MASKS)) == DETECTOR.names()


@pytest.mark.parametrize(("model", "head"), SIZES)
def test_parameters_and_macs_are_those_of_mmdet(model, head):
    def make() -> DetectionNet:
        options = MODELS[model].options()
        backbone = Pyramid(**options, num_classes=0)
        return DetectionNet(backbone, build_detector(head, options["embed_dims"], 80), 80)

    cost = count_cost(make, (800, 1280), call=lambda net, x: net.fixed_work(x))
    assert (cost.params, round(cost.macs_linear / 1e9, 1), round(cost.macs / 1e9, 1)) == SIZES[model, head]


class Levels(nn.Module):
    """A backbone with its levels, as torchvision's detectors take it."""

    def __init__(self, net: DetectionNet, width: int):
        super().__init__()
        self.net = net
        self.out_channels = width

    def forward(self, x):
        maps = self.net.head.levels(self.net.backbone.forward_intermediates(x, intermediates_only=True))
        return OrderedDict((str(i), each) for i, each in enumerate(maps))


def restless(net: DetectionNet) -> DetectionNet:
    """Weights with which classes differ, so that there are many detections of all kinds."""
    generator = torch.Generator().manual_seed(1)
    for name, p in net.head.named_parameters():
        if "predictor" in name or "dense" in name or "rpn" in name:
            p.data = 0.3 * torch.randn(p.shape, generator=generator) / max(1, p[0].numel()) ** 0.5 * 4
    return net.eval()


class TheirAnchors:
    def __init__(self, generator: AnchorGenerator):
        self.generator = generator

    def __call__(self, maps):
        stride = 4 if len(maps) == 5 and maps[0].shape[-1] == 24 else 8
        size = [side * stride for side in maps[0].shape[-2:]]
        (flat,) = self.generator(ImageList(torch.empty(1, 3, *size), [tuple(size)]), list(maps))
        return list(
            flat.split([x.shape[-2] * x.shape[-1] * self.generator.num_anchors_per_location()[0] for x in maps])
        )


def test_mask_rcnn_with_torchvisions_anchors_and_pooling_is_torchvisions():
    net = restless(network("mask_rcnn_lite"))
    head, size = net.head, (64, 96)
    anchors = AnchorGenerator(tuple((2 * s,) for s in (4, 8, 16, 32, 64)), ((0.5, 1.0, 2.0),) * 5)
    pools = {grid: MultiScaleRoIAlign(["0", "1", "2", "3"], grid, 2) for grid in (7, 14)}
    theirs = MaskRCNN(
        Levels(net, 64),
        min_size=64,
        max_size=96,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        rpn_anchor_generator=anchors,
        rpn_head=head.rpn.head,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=100,
        box_roi_pool=pools[7],
        box_head=head.box_head,
        box_predictor=head.box_predictor,
        mask_roi_pool=pools[14],
        mask_head=head.mask_head,
        mask_predictor=head.mask_predictor,
    ).eval()
    head.rpn.anchors = TheirAnchors(anchors)
    for name, grid in (("box_pool", 7), ("mask_pool", 14)):
        setattr(head, name, lambda maps, boxes, g=grid: pools[g](named(maps), list(boxes), [size] * len(boxes)))
    batch = images(2)
    with torch.no_grad():
        ours, (first, second) = net(batch).detections, theirs(list(batch))
    assert len(ours[0].scores) > 20
    for mine, other in zip(ours, (first, second), strict=True):
        assert torch.equal(mine.boxes, other["boxes"]) and torch.equal(mine.scores, other["scores"])
        assert torch.equal(mine.labels + 1, other["labels"])
        pasted = paste_masks_in_image(mine.masks[:, None], mine.boxes, size)
        assert torch.equal(pasted, other["masks"])


def named(maps):
    return OrderedDict((str(i), each) for i, each in enumerate(maps[:4]))


def test_retinanet_with_torchvisions_anchors_is_torchvisions():
    net = restless(network("retinanet_lite"))
    sides = tuple(tuple(1.5 * s * 2 ** (i / 3) for i in range(3)) for s in (8, 16, 32, 64, 128))
    anchors = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 5)
    options = {"min_size": 64, "max_size": 96, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    theirs = RetinaNet(
        Levels(net, 64), CLASSES, anchor_generator=anchors, head=net.head.dense, detections_per_img=100, **options
    ).eval()
    net.head.anchors = TheirAnchors(anchors)
    batch = images(2)
    with torch.no_grad():
        for mine, other in zip(net(batch).detections, theirs(list(batch)), strict=True):
            assert len(mine.scores) == 100
            for name in ("boxes", "scores", "labels"):
                assert torch.equal(getattr(mine, name), other[name])


def test_what_is_taken_from_torchvisions_private_module_is_there():
    assert _utils.Matcher.BELOW_LOW_THRESHOLD == -1 and _utils.Matcher.BETWEEN_THRESHOLDS == -2
    assert issubclass(BetterMatcher, _utils.Matcher) and issubclass(Coder, _utils.BoxCoder)
    assert _utils.Matcher.set_low_quality_matches_ is not BetterMatcher.set_low_quality_matches_
    assert pytest.approx(math.log(1000 / 16)) == Coder((1.0, 1.0, 1.0, 1.0)).bbox_xform_clip


def test_anchors_keep_their_stride_and_sides_on_maps_of_any_size():
    """At 800 x 1344 torchvision's anchors of RetinaNet's fourth level are 61 pixels apart."""
    maps = [torch.empty(1, 1, -(-800 // s), -(-1344 // s)) for s in (8, 16, 32, 64, 128)]
    found = Anchors((8, 16, 32, 64, 128), [4 * 2 ** (i / 3) for i in range(3)])(maps)
    for stride, anchors, x in zip((8, 16, 32, 64, 128), found, maps, strict=True):
        height, width = x.shape[-2:]
        grid = anchors.view(height, width, 9, 4)
        centres = (grid[..., :2] + grid[..., 2:]) / 2
        assert torch.equal(centres[0, :, 0, 0], torch.arange(width) * float(stride))
        assert torch.equal(centres[:, 0, 0, 1], torch.arange(height) * float(stride))
        sides = grid[0, 0, :, 2:] - grid[0, 0, :, :2]
        assert sides.prod(1).sqrt().tolist() == pytest.approx(
            [4 * stride * 2 ** (i / 3) for i in range(3)] * 3, rel=1e-6
        )
        assert (sides[:, 1] / sides[:, 0]).tolist() == pytest.approx([0.5] * 3 + [1] * 3 + [2] * 3, rel=1e-6)


def test_boxes_are_pooled_from_the_level_of_their_size():
    pool = RoIPool((4, 8, 16, 32), 7)
    sides = torch.tensor([1.0, 111.9, 112.0, 223.0, 224.0, 447.0, 448.0, 2000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], 1)
    assert pool.levels_of(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_pooling_a_linear_map_gives_its_values_at_the_centres_of_the_bins():
    """A map whose value is the x of a pixel's centre; torchvision's own pooling is half a stride off."""
    x = (torch.arange(32.0) + 0.5) * 4
    maps = [x.expand(1, 1, 32, 32) / 1.0] + [torch.zeros(1, 1, s, s) for s in (16, 8, 4)]
    box = torch.tensor([[20.0, 20.0, 48.0, 48.0]])
    found = RoIPool((4, 8, 16, 32), 7)(maps, [box])[0, 0, 3]
    assert found.tolist() == pytest.approx([22.0 + 4 * i for i in range(7)], abs=1e-4)


def test_an_object_is_matched_to_its_best_anchors_from_the_least_iou_on():
    matcher = BetterMatcher(0.7, 0.3, 0.3)
    ious = torch.tensor(
        [
            [0.80, 0.50, 0.20, 0.00, 0.00],
            [0.00, 0.40, 0.10, 0.00, 0.00],  # below 0.7, but its best
            [0.00, 0.00, 0.00, 0.20, 0.00],  # below the least
            [0.00, 0.00, 0.00, 0.00, 0.00],  # overlaps nothing
        ]
    )
    assert matcher(ious).tolist() == [0, 1, -1, -1, -1], "anchor 1 overlaps object 0 more, and is the best of object 1"
    assert BetterMatcher(0.5, 0.4, 0.0)(ious).tolist() == [0, 1, -1, 2, -1]


def test_samples_follow_from_the_seed_alone_and_keep_the_share():
    positive, negative = torch.arange(100), torch.arange(100, 1000)
    first, second = sample(positive, negative, 256, 0.5, 7), sample(positive, negative, 256, 0.5, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert (len(first[0]), len(first[1])) == (100, 156), "there are fewer than 128 positive ones"
    assert not torch.equal(first[1], sample(positive, negative, 256, 0.5, 8)[1])
    few = sample(positive[:3], negative[:5], 256, 0.25, 0)
    assert (sorted(few[0].tolist()), sorted(few[1].tolist())) == ([0, 1, 2], [100, 101, 102, 103, 104])
    assert len(sample(positive, negative, 8, 0.25, 0)[0]) == 2


def test_averages_are_over_pairs_of_images():
    sums = [torch.tensor(float(v)) for v in (1, 3, 10, 20, 7)]
    counts = [2, 2, 10, 5, 0]
    expected = (2 * 4 / 4 + 2 * 30 / 15 + 1 * 7 / 1) / 5
    assert float(average(sums, counts, 2)) == pytest.approx(expected)
    assert float(average(sums, counts, 5)) == pytest.approx(41 / 19)


def test_loss_of_a_batch_is_the_mean_of_its_pairs():
    """So it does not depend on how many devices share a batch."""
    for name in ("mask_rcnn_lite", "retinanet_lite"):
        net = network(name)
        four = targets([[8, 8, 40, 40]], [[50, 10, 90, 60], [4, 4, 20, 20]], [], [[30, 20, 60, 50]])
        whole = losses(net, four)
        halves = []
        for part in (slice(0, 2), slice(2, 4)):
            half = Objects(*(field[part] for field in four[:6]), [])
            features = net(images(4)[part])
            halves.append(features.head.losses(features.features, half, 2))
        for key, value in whole.items():
            assert float(value) == pytest.approx(float(halves[0][key] + halves[1][key]) / 2, rel=1e-4), (name, key)
        assert net(images(4)).detections == []


def test_retinanets_loss_is_mmdets():
    """Sums over the anchors of a batch, divided by the number of matched ones, at least 1 an image."""
    net = network("retinanet_lite")
    objects = targets([[8, 8, 40, 40], [41, 9, 77, 50]], [], masks=False)
    found = net.train()(images(2))
    with torch.no_grad():
        mine = found.head.losses(found.features, objects, 2)
    anchors = torch.cat(found.features.anchors)
    classes = boxes = 0.0
    count = 0
    for image in range(2):
        ious = box_iou(objects.boxes[image], anchors)
        wanted, used, matched = torch.zeros(len(anchors), CLASSES), [], []
        for a in range(len(anchors)):
            if not len(ious):
                used.append(a)
                continue
            best = [g for g in range(len(ious)) if ious[g, a] == ious[g].max() and ious[g, a] > 0]
            own = best[-1] if best else int(ious[:, a].argmax())
            if best or ious[own, a] >= 0.5:
                matched.append((a, own))
                wanted[a, objects.labels[image][own]] = 1
            if best or ious[own, a] >= 0.5 or ious[own, a] < 0.4:
                used.append(a)
        logits = found.features.logits[image].detach()
        classes += float(sigmoid_focal_loss(logits[used], wanted[used], 0.25, 2.0).sum())
        for a, own in matched:
            box, anchor = objects.boxes[image][own], anchors[a]
            w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
            centre = (box[:2] + box[2:] - anchor[:2] - anchor[2:]) / 2 / torch.stack([w, h])
            offset = torch.cat([centre, ((box[2:] - box[:2]) / torch.stack([w, h])).log()])
            boxes += float((found.features.offsets[image, a].detach() - offset).abs().sum())
        count += max(1, len(matched))
    assert count > 3
    assert float(mine["class"]) == pytest.approx(classes / count, rel=1e-4)
    assert float(mine["box"]) == pytest.approx(boxes / count, rel=1e-4)


@pytest.mark.parametrize("head", ["mask_rcnn_lite", "retinanet_lite"])
def test_a_batch_without_objects_has_a_finite_loss_and_a_gradient_everywhere(head):
    """DistributedDataParallel waits for ever for a parameter without one."""
    net = network(head)
    found = losses(net, targets([], []))
    sum(found.values()).backward()
    assert all(math.isfinite(float(value)) for value in found.values())
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    zero = {"box", "mask", "proposal"} & found.keys()
    assert [float(found[key]) for key in sorted(zero)] == [0.0] * len(zero)


def test_an_object_without_a_mask_trains_no_mask():
    net = network("mask_rcnn_lite")
    objects = targets([[8, 8, 40, 40]], [[50, 10, 90, 60]])
    wrong = [torch.ones_like(mask) for mask in objects.masks]
    none = [torch.zeros_like(each) for each in objects.has_mask]
    assert float(losses(net, objects._replace(masks=wrong, has_mask=none))["mask"]) == 0
    assert float(losses(net, objects)["mask"]) > 0


@pytest.mark.parametrize("side", [8, 12, 16, 40])
def test_a_perfect_mask_is_pasted_as_it_was(side):
    """Torchvision's targets and pasting lose 16 points of IoU at 12 pixels."""
    generator = torch.Generator().manual_seed(side)
    mine, theirs = [], []
    for _ in range(20):
        top, left = torch.randint(2, 40, (2,), generator=generator).tolist()
        y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
        disc = ((y - top - side / 2 + 0.5) ** 2 + (x - left - side / 2 + 0.5) ** 2) < (side / 2) ** 2
        box = torch.from_numpy(boxes_of(disc[None].numpy()))
        mask = mask_targets(disc[None].to(torch.uint8), box, torch.tensor([0]), 28)[0]
        pasted, (row, column) = paste_mask(mask, box[0], 96, 96)
        whole = torch.zeros(96, 96, dtype=torch.bool)
        whole[row : row + pasted.shape[0], column : column + pasted.shape[1]] = pasted
        mine.append(float((whole & disc).sum() / (whole | disc).sum()))
        rounded = project_masks_on_boxes(disc[None].to(torch.uint8), box, torch.tensor([0]), 28)
        other = paste_masks_in_image(rounded[:, None], box, (96, 96))[0, 0] >= 0.5
        theirs.append(float((other & disc).sum() / (other | disc).sum()))
    assert sum(mine) / 20 >= (0.99 if side <= 28 else 0.98), "above 28 pixels the grid is coarser than the image"
    assert side != 12 or sum(theirs) / 20 == pytest.approx(0.842, abs=0.001)


def test_a_box_at_the_border_or_without_pixels_can_be_pasted():
    mask = torch.ones(28, 28)
    pasted, corner = paste_mask(mask, torch.tensor([-5.0, 90.0, 200.0, 96.0]), 96, 96)
    assert corner == (89, 0) and pasted[1:].all() and not pasted[0].any()
    assert not paste_mask(mask, torch.tensor([10.0, 10.0, 10.0, 10.0]), 96, 96)[0].any()


def test_initial_values_are_mmdets_and_the_backbone_begins_as_the_classifier():
    net = network("retinanet", 80)
    dense = net.head.dense
    assert dense.classification_head.cls_logits.bias.tolist() == pytest.approx([-math.log(99)] * 720)
    assert float(dense.classification_head.conv[0][0].weight.std()) == pytest.approx(0.01, rel=0.02)
    two = network("mask_rcnn", 80)
    head = two.head
    stds = {head.box_predictor.cls_score: 0.01, head.box_predictor.bbox_pred: 0.001, head.rpn.head.cls_logits: 0.01}
    for layer, std in stds.items():
        assert float(layer.weight.std()) == pytest.approx(std, rel=0.05) and not layer.bias.any()
    fan_out = 256 * 9
    assert float(head.mask_head[0][0].weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    plain = build_seeded(lambda: Pyramid(**SMALL, num_classes=10), 0)
    for name, value in two.backbone.named_parameters():
        assert torch.equal(value, plain.get_parameter(name)), name


def test_heads_of_two_backbones_begin_with_the_same_values():
    for head in ("mask_rcnn_lite", "retinanet_lite"):
        one, other = network(head), network(head, attn="sra", rates=[[2], [1], [1], [1]])
        assert all(torch.equal(a, b) for a, b in zip(one.head.parameters(), other.head.parameters(), strict=True))
        changed = zip(one.head.parameters(), network(head, seed=1).head.parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in changed)


@pytest.mark.parametrize("head", ["mask_rcnn_lite", "retinanet_lite"])
def test_detections_do_not_depend_on_the_batch_and_stay_within_the_image(head, monkeypatch):
    net = restless(network(head))
    batch = images(3)
    with torch.no_grad():
        together, alone = net(batch, [(64, 96), (50, 70), (64, 96)]).detections, net(batch[1:2], [(50, 70)]).detections
        monkeypatch.setattr(mask_rcnn, "AT_ONCE", 3)
        pieces = net(batch[1:2], [(50, 70)]).detections
    for found in (alone[0], pieces[0]):
        for a, b in zip(together[1], found, strict=True):
            assert a is b is None or torch.allclose(a, b, atol=1e-4), "the same values, up to the order of sums"
    boxes = together[1].boxes
    assert len(boxes) and boxes.min() >= 0 and boxes[:, 2].max() <= 70 and boxes[:, 3].max() <= 50


@pytest.mark.parametrize("head", ["mask_rcnn_lite", "retinanet_lite"])
def test_a_detector_trains_and_detects_in_bf16(head):
    net = network(head)
    objects = targets([[8, 8, 40, 40]], [[50, 10, 90, 60]])
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(net, objects)
        detections = net.eval()(images(2)).detections
    sum(found.values()).backward()
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())
    assert all(each.boxes.dtype == torch.float32 for each in detections)


def test_a_compiled_detector_finds_the_same():
    net = restless(network("mask_rcnn_lite"))
    compiled = torch.compile(net.forward, backend="eager")
    with torch.no_grad():
        plain, other = net(images(1)).detections[0], compiled(images(1)).detections[0]
    assert torch.allclose(plain.scores, other.scores, atol=1e-5) and len(plain.scores) > 3


def test_an_image_in_which_nothing_is_found_has_no_detections():
    net = network("mask_rcnn_lite").eval()
    net.head.box_predictor.cls_score.bias.data[0] = 100.0  # all background
    (found,) = net(images(1)).detections
    assert found.boxes.shape == (0, 4) and found.masks.shape == (0, 28, 28)
    quiet = network("retinanet_lite").eval()
    assert quiet(images(1)).detections[0].boxes.shape == (0, 4), "every class begins at a probability of 0.01"


class NoLoss(nn.Module):
    def __init__(self, channels, num_classes):
        super().__init__()

    def detect(self, features, sizes):
        return []


def test_a_head_without_a_method_is_refused_by_name():
    with pytest.raises(ComponentError, match=r"head: 'NoLoss' has no method losses\(\)"):
        build_detector("test_detectors.NoLoss", [8, 8, 8, 8], 3)
    with pytest.raises(ComponentError, match="'mask_rcn' is not known; did you mean 'mask_rcnn'"):
        build_detector("mask_rcn", [8, 8, 8, 8], 3)


def test_boxes_are_l1_and_classes_cross_entropy_over_all_that_are_sampled():
    """The second stage against its definition, on the proposals that it samples."""
    net = network("mask_rcnn_lite")
    objects = targets([[8, 8, 40, 40], [50, 10, 90, 60]], [[30, 20, 60, 50]])
    found = net.train()(images(2))
    head, features = net.head, found.features
    with torch.no_grad():
        mine = head.losses(features, objects, 2)
        proposals = head.rpn.propose(features.candidates, [(64, 96)] * 2)
        picked = [head._sample(each, objects, i) for i, each in enumerate(proposals)]
        logits, offsets = head._boxes(features, [each.boxes for each in picked])
    classes = boxes = 0.0
    start = 0
    for image, (own, _) in enumerate(picked):
        ious = box_iou(objects.boxes[image], own)
        for i, box in enumerate(own):
            g = int(ious[:, i].argmax())
            label = int(objects.labels[image][g]) + 1 if ious[g, i] >= 0.5 else 0
            classes += float(F.cross_entropy(logits[start + i][None], torch.tensor([label])))
            if label:
                code = Coder((10.0, 10.0, 5.0, 5.0)).encode_single(objects.boxes[image][g : g + 1], box[None])[0]
                boxes += float((offsets[start + i].view(-1, 4)[label] - code).abs().sum())
        start += len(own)
    assert float(mine["class"]) == pytest.approx(classes / start, rel=1e-4)
    assert float(mine["box"]) == pytest.approx(boxes / start, rel=1e-3)


@pytest.mark.parametrize("head", ["mask_rcnn_lite", "retinanet_lite"])
def test_detectors_fulfil_their_contract(head):
    assert len(check_detector(head)) == 9


class Batchwise(RetinaNetOfOurs):
    """Averages over whatever batch it gets, which depends on the devices."""

    def losses(self, features, targets, together):
        return super().losses(features, targets, len(targets.boxes))


class Outside(MaskRCNNOfOurs):
    def detect(self, features, sizes):
        return [each._replace(boxes=each.boxes + 1000) for each in super().detect(features, sizes)]


class Rising(MaskRCNNOfOurs):
    def detect(self, features, sizes):
        return [Detections(*(part.flip(0) for part in each)) for each in super().detect(features, sizes)]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Batchwise, "detector 'Batchwise': averages: 'class' of four images is not the mean of its pairs"),
        (Outside, "detector 'Outside': detections: a box is outside of 64 x 96"),
        (Rising, "detector 'Rising': detections: scores do not fall"),
    ],
)
def test_a_detector_that_breaks_its_contract_is_told_so(broken, message):
    with pytest.raises(ContractError, match=message):
        check_detector(broken, width=64, anchor_scale=1.5)

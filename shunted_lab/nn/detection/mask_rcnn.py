"""Mask R-CNN (arXiv 1703.06870) on a feature pyramid, with mmdet's settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

from shunted_lab.nn.detection.contract import Detections, Size, Targets
from shunted_lab.nn.detection.levels import PooledLevels
from shunted_lab.nn.detection.masks import mask_targets
from shunted_lab.nn.detection.parts import (
    Coder,
    FastRCNNPredictor,
    MaskRCNNHeads,
    MaskRCNNPredictor,
    TwoMLPHead,
    average,
    sample,
)
from shunted_lab.nn.detection.pool import RoIPool
from shunted_lab.nn.detection.rpn import Candidates, ProposalNet
from shunted_lab.nn.registry import DETECTOR

NEAR = 0.5  # IoU with an object from which on a proposal is trained for it; below it is background
SHARE = 0.25  # of the sampled proposals that are matched, at most
SCORE, OVERLAP, MOST = 0.05, 0.5, 100  # of a detection: least score, IoU of two of one class, number in an image
BOX_GRID, MASK_GRID = 7, 14
AT_ONCE = 128  # boxes whose masks are predicted at a time in evaluation


class Features(NamedTuple):
    """Levels P2 to P6, (B, C, H_l, W_l), and what the proposal network says of their anchors."""

    levels: list[Tensor]
    candidates: Candidates


class Sampled(NamedTuple):
    """Proposals of an image that are trained, the matched ones first.

    Args:
        boxes: (n, 4).
        which: (m,) the object of each matched one.
    """

    boxes: Tensor
    which: Tensor


@DETECTOR.register("mask_rcnn")
class MaskRCNN(nn.Module):
    """Proposals, then a class, a box and a mask for each.

    Inside, class 0 is the background, as in torchvision's parts: their last layers have a box and a mask for it too,
    which are not used. `Detections.labels` begin with the first class.

    Args:
        channels: of the backbone's maps, finest first.
        num_classes: K.
        width: channels of the pyramid and of the mask head.
        hidden: of the two fully connected layers.
        mask_layers: 3x3 convolutions of the mask head.
        anchor_scale: side of the anchors, in strides.
        candidates: proposals of each level before suppression, in training and evaluation.
        proposals: of an image after it.
        sampled: proposals of an image that are trained.
    """

    has_masks = True

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        width: int = 256,
        hidden: int = 1024,
        mask_layers: int = 4,
        anchor_scale: float = 8.0,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: int = 1000,
        sampled: int = 512,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.sampled = sampled
        self.levels = PooledLevels(channels, width)
        self.rpn = ProposalNet(width, self.levels.strides, anchor_scale, candidates, proposals)
        self.box_head = TwoMLPHead(width * BOX_GRID**2, hidden)
        self.box_predictor = FastRCNNPredictor(hidden, num_classes + 1)
        self.mask_head = MaskRCNNHeads(width, [width] * mask_layers, 1)
        self.mask_predictor = MaskRCNNPredictor(width, width, num_classes + 1)
        self.box_pool = RoIPool(self.levels.strides[:4], BOX_GRID)
        self.mask_pool = RoIPool(self.levels.strides[:4], MASK_GRID)
        self.coder = Coder((10.0, 10.0, 5.0, 5.0))

    def init_own_weights(self) -> None:
        """mmdet's: Xavier's uniform distribution in fully connected layers, normal 0.01 for classes and 0.001 for
        boxes, He's over the fan out in the mask head; biases 0. The proposal network keeps normal 0.01.
        """
        for layer in self.rpn.head.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                _zero(layer)
        for layer in (self.box_head.fc6, self.box_head.fc7):
            nn.init.xavier_uniform_(layer.weight)
            _zero(layer)
        for layer, std in ((self.box_predictor.cls_score, 0.01), (self.box_predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            _zero(layer)
        for layer in (*self.mask_head.modules(), *self.mask_predictor.modules()):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                _zero(layer)

    def forward(self, maps: Sequence[Tensor]) -> Features:
        """(B, C_i, H_i, W_i), finest first -> levels and candidates."""
        levels = self.levels(maps)
        return Features(levels, self.rpn(levels))

    def detect(self, features: Features, sizes: Sequence[Size]) -> list[Detections]:
        """The 100 best of each image after non-maximum suppression in each class, with their masks."""
        proposals = self.rpn.propose(features.candidates, sizes)
        logits, offsets = self._boxes(features, proposals)
        lengths = [len(each) for each in proposals]
        parts = zip(logits.split(lengths), offsets.split(lengths), proposals, sizes, strict=True)
        found = [self._choose(*part) for part in parts]
        masks = self._masks(features, found)
        return [each._replace(masks=mask) for each, mask in zip(found, masks, strict=True)]

    def _boxes(self, features: Features, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (n, K + 1) and offsets (n, 4 (K + 1)) of the boxes of all images."""
        logits, offsets = self.box_predictor(self.box_head(self.box_pool(features.levels, boxes)))
        return logits.float(), offsets.float()

    def _choose(self, logits: Tensor, offsets: Tensor, proposals: Tensor, size: Size) -> Detections:
        scores = logits.softmax(1)[:, 1:].flatten()
        boxes = self.coder.decode_single(offsets, proposals).unflatten(1, (-1, 4))[:, 1:].flatten(0, 1)
        labels = torch.arange(self.num_classes, device=scores.device).repeat(len(proposals))
        passing = (scores > SCORE).nonzero()[:, 0]
        boxes, scores, labels = clip_boxes_to_image(boxes[passing], size), scores[passing], labels[passing]
        solid = remove_small_boxes(boxes, 1e-2)
        boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
        keep = batched_nms(boxes, scores, labels, OVERLAP)[:MOST]
        return Detections(boxes[keep], scores[keep], labels[keep])

    def _masks(self, features: Features, found: Sequence[Detections]) -> list[Tensor]:
        """(n, 28, 28) probabilities of the detections of each image."""
        masks = []
        for image, each in enumerate(found):
            own = [x[image : image + 1] for x in features.levels]
            parts = [self._mask_logits(own, [boxes]) for boxes in each.boxes.split(AT_ONCE)]
            logits = torch.cat(parts) if parts else self._mask_logits(own, [each.boxes])
            masks.append(logits[torch.arange(len(logits)), each.labels + 1].sigmoid())
        return masks

    def _mask_logits(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """(n, K + 1, 28, 28) of the boxes of all images."""
        return self.mask_predictor(self.mask_head(self.mask_pool(levels, boxes))).float()

    def losses(self, features: Features, targets: Targets, together: int) -> dict[str, Tensor]:
        """Those of the proposals; cross entropy of the sampled ones, L1 of the matched ones, both divided by the number
        sampled; binary cross entropy of the masks, the mean over the matched ones that have one.
        """
        found = self.rpn.losses(features.candidates, targets, together)
        proposals = self.rpn.propose(features.candidates, targets.sizes)
        picked = [self._sample(each, targets, image) for image, each in enumerate(proposals)]
        logits, offsets = self._boxes(features, [each.boxes for each in picked])
        lengths = [len(each.boxes) for each in picked]
        classes, boxes = [], []
        for image, (logit, offset) in enumerate(zip(logits.split(lengths), offsets.split(lengths), strict=True)):
            own, which = picked[image]
            label = targets.labels[image][which] + 1
            wanted = torch.cat([label, label.new_zeros(len(own) - len(which))])
            classes.append(F.cross_entropy(logit, wanted, reduction="sum"))
            code = self.coder.encode_single(targets.boxes[image][which], own[: len(which)])
            moved = offset[: len(which)].unflatten(1, (-1, 4))[torch.arange(len(which)), label]
            boxes.append(F.l1_loss(moved, code, reduction="sum"))
        found |= {"class": average(classes, lengths, together), "box": average(boxes, lengths, together)}
        return found | {"mask": self._mask_loss(features, picked, targets, together)}

    def _sample(self, proposals: Tensor, targets: Targets, image: int) -> Sampled:
        """Proposals and objects of an image of which some are drawn."""
        objects = targets.boxes[image]
        boxes = torch.cat([objects, proposals])  # as in mmdet, an object is a proposal of itself
        if not len(objects):
            _, negative = sample(boxes.new_zeros(0).long(), _range(boxes), self.sampled, SHARE, targets.seeds[image])
            return Sampled(boxes[negative], negative[:0])
        best, which = box_iou(objects, boxes).max(0)
        near = best >= NEAR
        seed = targets.seeds[image] + 1
        positive, negative = sample(near.nonzero()[:, 0], (~near).nonzero()[:, 0], self.sampled, SHARE, seed)
        return Sampled(boxes[torch.cat([positive, negative])], which[positive])

    def _mask_loss(self, features: Features, picked: Sequence[Sampled], targets: Targets, together: int) -> Tensor:
        with_mask = [targets.has_mask[image][each.which] for image, each in enumerate(picked)]
        boxes = [each.boxes[: len(each.which)][own] for each, own in zip(picked, with_mask, strict=True)]
        which = [each.which[own] for each, own in zip(picked, with_mask, strict=True)]
        # Also of no box: its parameters take part, as DistributedDataParallel expects.
        logits = self._mask_logits(features.levels, boxes)
        size, sums = logits.shape[-1], []
        for image, logit in enumerate(logits.split([len(each) for each in boxes])):
            wanted = mask_targets(targets.masks[image], boxes[image], which[image], size)
            own = logit[torch.arange(len(logit)), targets.labels[image][which[image]] + 1]
            sums.append(F.binary_cross_entropy_with_logits(own, wanted, reduction="sum"))
        return average(sums, [len(each) * size**2 for each in boxes], together)

    def fixed_work(self, features: Features) -> tuple[Tensor, ...]:
        """1,000 boxes (all proposals) through the box head and 100 through the mask head, as mmdet's costs are counted;
        for an image with values non-maximum suppression and pooling are part of the work.
        """
        first, many, few = features.levels[0], self.rpn.proposals, MOST
        if first.device.type == "meta":
            pooled = [first.new_empty(n, first.shape[1], g, g) for n, g in ((many, BOX_GRID), (few, MASK_GRID))]
            logits, _ = self.box_predictor(self.box_head(pooled[0]))
            return logits, self.mask_predictor(self.mask_head(pooled[1]))
        height, width = (4 * side for side in first.shape[-2:])
        proposals = self.rpn.propose(features.candidates, [(height, width)] * len(first))
        boxes = [_repeated(each, many) for each in proposals]
        logits, offsets = self._boxes(features, boxes)
        chosen = [
            self._choose(*part, (height, width))
            for part in zip(logits.split(many), offsets.split(many), boxes, strict=True)
        ]
        labels = boxes[0].new_zeros(few, dtype=torch.long)
        masked = [each._replace(boxes=box[:few], labels=labels) for each, box in zip(chosen, boxes, strict=True)]
        return tuple(self._masks(features, masked))


def _zero(layer: nn.Module) -> None:
    assert isinstance(layer.bias, Tensor)
    nn.init.zeros_(layer.bias)


def _range(boxes: Tensor) -> Tensor:
    return torch.arange(len(boxes), device=boxes.device)


def _repeated(boxes: Tensor, count: int) -> Tensor:
    """`count` boxes, the given ones again and again."""
    return boxes[torch.arange(count, device=boxes.device) % len(boxes)]


@DETECTOR.register("mask_rcnn_lite")
def mask_rcnn_lite(channels: Sequence[int], num_classes: int, anchor_scale: float = 2.0) -> MaskRCNN:
    """Mask R-CNN for small experiments: 64 channels, 128 hidden units, two convolutions for masks, fewer proposals."""
    return MaskRCNN(channels, num_classes, 64, 128, 2, anchor_scale, (300, 200), 100, 64)

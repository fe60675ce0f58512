"""RetinaNet (arXiv 1708.02002), with mmdet's settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, sigmoid_focal_loss

from shunted_lab.nn.detection.anchors import Anchors
from shunted_lab.nn.detection.contract import Detections, Size, Targets
from shunted_lab.nn.detection.levels import ConvolvedLevels
from shunted_lab.nn.detection.parts import BELOW, BetterMatcher, Coder, RetinaNetHead, average
from shunted_lab.nn.registry import DETECTOR

CANDIDATES = 1000  # of each level, before non-maximum suppression
SCORE, OVERLAP, MOST = 0.05, 0.5, 100  # of a detection: least score, IoU of two of one class, number in an image
FAR, NEAR = 0.4, 0.5  # IoU with an object below which an anchor is background, and from which on it is matched


class Dense(NamedTuple):
    """Predictions at every anchor; the anchors of all levels follow one another.

    Args:
        logits: (B, A, K).
        offsets: (B, A, 4) from the anchors.
        anchors: (A_l, 4) of each level.
    """

    logits: Tensor
    offsets: Tensor
    anchors: list[Tensor]


@DETECTOR.register("retinanet")
class RetinaNet(nn.Module):
    """Classes and boxes at 9 anchors in each place of five levels, by focal loss.

    Args:
        channels: of the backbone's maps, finest first.
        num_classes: K.
        width: channels of the pyramid and of the towers.
        tower: 3x3 convolutions before the last one, for classes and for boxes.
        anchor_scale: side of the smallest anchors, in strides.
    """

    has_masks = False

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        width: int = 256,
        tower: int = 4,
        anchor_scale: float = 4.0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.levels = ConvolvedLevels(channels, width)
        self.anchors = Anchors(self.levels.strides, [anchor_scale * 2 ** (i / 3) for i in range(3)])
        # Its constructor sets mmdet's values: normal 0.01, and a probability of 0.01 for every class.
        self.dense = RetinaNetHead(width, self.anchors.per_place, num_classes)
        for part in (self.dense.classification_head, self.dense.regression_head):
            part.conv = part.conv[:tower]
        self.coder = Coder((1.0, 1.0, 1.0, 1.0))
        self.matcher = BetterMatcher(NEAR, FAR, 0.0)

    def forward(self, maps: Sequence[Tensor]) -> Dense:
        """(B, C_i, H_i, W_i), finest first -> predictions at all anchors."""
        levels = self.levels(maps)
        found = self.dense(levels)
        return Dense(found["cls_logits"].float(), found["bbox_regression"].float(), self.anchors(levels))

    def detect(self, features: Dense, sizes: Sequence[Size]) -> list[Detections]:
        """The 100 best of each image after non-maximum suppression in each class."""
        return [self._detect_one(features, i, size) for i, size in enumerate(sizes)]

    def _detect_one(self, features: Dense, image: int, size: Size) -> Detections:
        lengths = [len(each) for each in features.anchors]
        boxes, scores, labels = [], [], []
        for logits, offsets, anchors in zip(
            features.logits[image].split(lengths), features.offsets[image].split(lengths), features.anchors, strict=True
        ):
            probabilities = logits.sigmoid().flatten()
            passing = (probabilities > SCORE).nonzero()[:, 0]
            best, order = probabilities[passing].topk(min(CANDIDATES, len(passing)))
            place, label = passing[order] // self.num_classes, passing[order] % self.num_classes
            boxes.append(clip_boxes_to_image(self.coder.decode_single(offsets[place], anchors[place]), size))
            scores.append(best)
            labels.append(label)
        box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = batched_nms(box, score, label, OVERLAP)[:MOST]
        return Detections(box[keep], score[keep], label[keep])

    def losses(self, features: Dense, targets: Targets, together: int) -> dict[str, Tensor]:
        """Focal loss of all anchors but those between the thresholds, and L1 of the matched ones, both divided by the
        number of matched anchors, at least 1 an image."""
        anchors = torch.cat(features.anchors)
        classes, boxes, counts = [], [], []
        for image, (objects, labels) in enumerate(zip(targets.boxes, targets.labels, strict=True)):
            match = anchors.new_full((len(anchors),), BELOW, dtype=torch.long)
            if len(objects):
                match = self.matcher(box_iou(objects, anchors))
            matched = (match >= 0).nonzero()[:, 0]
            logits, wanted = features.logits[image], torch.zeros_like(features.logits[image])
            wanted[matched, labels[match[matched]]] = 1.0
            used = (match >= 0) | (match == BELOW)
            classes.append(sigmoid_focal_loss(logits[used], wanted[used], reduction="sum"))
            offsets = self.coder.encode_single(objects[match[matched]], anchors[matched])
            boxes.append(F.l1_loss(features.offsets[image][matched], offsets, reduction="sum"))
            counts.append(max(1, len(matched)))
        return {"class": average(classes, counts, together), "box": average(boxes, counts, together)}

    def fixed_work(self, features: Dense) -> Dense:
        """All convolutions are done; the choice of boxes is not counted, as in published costs."""
        return features


@DETECTOR.register("retinanet_lite")
def retinanet_lite(channels: Sequence[int], num_classes: int, anchor_scale: float = 1.5) -> RetinaNet:
    """RetinaNet for small experiments: 64 channels, two convolutions, smaller anchors."""
    return RetinaNet(channels, num_classes, 64, 2, anchor_scale)

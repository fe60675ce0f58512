"""The region proposal network of Mask R-CNN (arXiv 1506.01497), with mmdet's settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

from shunted_lab.nn.detection.anchors import Anchors
from shunted_lab.nn.detection.contract import Size, Targets
from shunted_lab.nn.detection.parts import BELOW, BetterMatcher, Coder, RPNHead, average, sample

FAR, NEAR = 0.3, 0.7  # IoU with an object below which an anchor is background, and from which on it is matched
SHARE = 0.5  # of the sampled anchors that are matched, at most
OVERLAP = 0.7  # IoU of two proposals of a level


class Candidates(NamedTuple):
    """Of every anchor; those of all levels follow one another.

    Args:
        logits: (B, A) whether there is an object.
        offsets: (B, A, 4) from the anchors.
        anchors: (A_l, 4) of each level.
    """

    logits: Tensor
    offsets: Tensor
    anchors: list[Tensor]


class ProposalNet(nn.Module):
    """Where objects may be, at every place of all levels.

    Args:
        width: channels of the levels.
        strides: of the levels.
        anchor_scale: side of the anchors, in strides.
        candidates: of each level before suppression, in training and evaluation.
        proposals: of an image after it.
        sampled: anchors of an image that are trained.
    """

    def __init__(
        self,
        width: int,
        strides: Sequence[int],
        anchor_scale: float,
        candidates: tuple[int, int] = (2000, 1000),
        proposals: int = 1000,
        sampled: int = 256,
    ):
        super().__init__()
        self.anchors = Anchors(strides, [anchor_scale])
        self.head = RPNHead(width, self.anchors.per_place)  # normal 0.01, biases 0
        self.candidates = candidates
        self.proposals = proposals
        self.sampled = sampled
        self.coder = Coder((1.0, 1.0, 1.0, 1.0))
        self.matcher = BetterMatcher(NEAR, FAR, FAR)

    def forward(self, levels: Sequence[Tensor]) -> Candidates:
        """(B, C, H_l, W_l) of all levels -> candidates."""
        logits, offsets = self.head(list(levels))
        flat = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]  # (B, A_l)
        moves = [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in offsets]  # (B, A_l, 4)
        return Candidates(torch.cat(flat, 1).float(), torch.cat(moves, 1).float(), self.anchors(levels))

    @torch.no_grad()
    def propose(self, found: Candidates, sizes: Sequence[Size]) -> list[Tensor]:
        """The proposals (n, 4) of each image, the best first."""
        lengths = [len(each) for each in found.anchors]
        level_of = torch.repeat_interleave(torch.tensor(lengths)).to(found.logits.device)
        anchors = torch.cat(found.anchors)
        most, chosen = self.candidates[0 if self.training else 1], []
        start = 0
        for logits in found.logits.split(lengths, 1):
            chosen.append(logits.topk(min(most, logits.shape[1]), 1).indices + start)
            start += logits.shape[1]
        best = torch.cat(chosen, 1)
        return [
            self._suppress(found.logits[i][at], found.offsets[i][at], anchors[at], level_of[at], size)
            for i, (at, size) in enumerate(zip(best, sizes, strict=True))
        ]

    def _suppress(self, logits: Tensor, offsets: Tensor, anchors: Tensor, level: Tensor, size: Size) -> Tensor:
        boxes = clip_boxes_to_image(self.coder.decode_single(offsets, anchors), size)
        keep = remove_small_boxes(boxes, 1e-3)
        boxes, scores, level = boxes[keep], logits[keep].sigmoid(), level[keep]
        return boxes[batched_nms(boxes, scores, level, OVERLAP)[: self.proposals]]

    def losses(self, found: Candidates, targets: Targets, together: int) -> dict[str, Tensor]:
        """Cross entropy of the sampled anchors and L1 of the matched ones, both divided by the number sampled."""
        anchors = torch.cat(found.anchors)
        logits, boxes, counts = [], [], []
        for image, (objects, seed) in enumerate(zip(targets.boxes, targets.seeds, strict=True)):
            match = anchors.new_full((len(anchors),), BELOW, dtype=torch.long)
            if len(objects):
                match = self.matcher(box_iou(objects, anchors))
            positive, negative = (which.nonzero()[:, 0] for which in (match >= 0, match == BELOW))
            positive, negative = sample(positive, negative, self.sampled, SHARE, seed)
            both = torch.cat([positive, negative])
            wanted = (match[both] >= 0).float()
            logits.append(F.binary_cross_entropy_with_logits(found.logits[image][both], wanted, reduction="sum"))
            offsets = self.coder.encode_single(objects[match[positive]], anchors[positive])
            boxes.append(F.l1_loss(found.offsets[image][positive], offsets, reduction="sum"))
            counts.append(len(both))
        return {"object": average(logits, counts, together), "proposal": average(boxes, counts, together)}

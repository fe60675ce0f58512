"""What is taken from torchvision's detectors, and how it is changed to agree with mmdet.

`torchvision.models.detection._utils` is private: it is imported in this file only, which tests/nn/test_detectors.py
holds against the installed version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead

__all__ = [
    "BELOW",
    "BetterMatcher",
    "Coder",
    "FastRCNNPredictor",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "RPNHead",
    "RetinaNetHead",
    "TwoMLPHead",
    "average",
    "sample",
]

BELOW = Matcher.BELOW_LOW_THRESHOLD  # the match of an anchor that is background; BETWEEN_THRESHOLDS is not trained


class Coder(BoxCoder):
    """Boxes as offsets from anchors or proposals, and back; the logarithms of both ratios of sides lie within
    log(1000 / 16), as in mmdet. Torchvision bounds them from above only.
    """

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """(n, 4 k) offsets of k boxes each, (n, 4) boxes -> (n, 4 k)."""
        codes = rel_codes.unflatten(1, (-1, 4))
        least = -math.log(1000 / 16) * codes.new_tensor(self.weights[2:])
        return super().decode_single(torch.cat([codes[..., :2], codes[..., 2:].maximum(least)], -1).flatten(1), boxes)


class BetterMatcher(Matcher):
    """Which object each anchor is trained for, by IoU: mmdet's `MaxIoUAssigner`.

    The anchors that overlap an object most are matched to it even below `high`, where this IoU is above 0 and at least
    `least`. Torchvision has no least IoU: an object that overlaps no anchor would be matched to all anchors.
    """

    def __init__(self, high: float, low: float, least: float):
        super().__init__(high, low, allow_low_quality_matches=True)
        self.least = least

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Change `matches` (N,) in place; `match_quality_matrix` is (objects, N)."""
        best = match_quality_matrix.max(1, keepdim=True).values
        is_best = (match_quality_matrix == best) & (best > 0) & (best >= self.least)
        order = torch.arange(len(best), device=best.device)[:, None]
        last = torch.where(is_best, order, -1).max(0).values  # of several objects the last one, as in mmdet
        matches.copy_(torch.where(last >= 0, last, matches))


def sample(positive: Tensor, negative: Tensor, count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw up to `count` candidates of an image, of which up to the `share` are positive.

    The draws depend on the seed and on the numbers of candidates alone: whichever device trains the image, and beside
    which others, and for two networks with the same candidates, they are the same.

    Args:
        positive, negative: indices.
    """
    generator = torch.Generator().manual_seed(seed)
    first = _drawn(positive, int(count * share), generator)
    return first, _drawn(negative, count - len(first), generator)


def _drawn(indices: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator)[:most].to(indices.device)]


def average(sums: Sequence[Tensor], counts: Sequence[Tensor | int], together: int) -> Tensor:
    """The loss of a batch: sums over images divided by counts, each over `together` images, then the mean.

    mmdet averages on each GPU, over the 2 images that it has. So the loss does not depend on the number of devices.
    """
    total, count = torch.stack(list(sums)), torch.as_tensor(counts, dtype=torch.float32, device=sums[0].device)
    parts = zip(total.split(together), count.split(together), strict=True)
    return torch.stack([len(s) * s.sum() / c.sum().clamp(min=1) for s, c in parts]).sum() / len(total)

"""The registry of heads for semantic segmentation, with those of this package registered, and the network with one.

A head is built with `channels` (of the backbone's four maps, finest first) and `num_classes`, beside options of its
own. `forward(maps)` returns logits (B, K, h, w) at any resolution; in training it may return a tuple, of which all but
the first are auxiliary and weighted by its `auxiliary_weight` in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

import shunted_lab.nn.segmentation.segformer
import shunted_lab.nn.segmentation.semantic_fpn
import shunted_lab.nn.segmentation.upernet  # noqa: F401  # each of the three registers its heads
from shunted_lab.nn.headed import HeadedNet
from shunted_lab.nn.registry import HEAD, ComponentError, Registry, Spec

__all__ = ["HEAD", "SegmentationNet", "build_head"]


class SegmentationNet(HeadedNet):
    """A backbone with a head: images (B, 3, H, W) -> logits (B, K, h, w) as the head returns them; in training a list
    of logits with their weight in the loss, of which the first are the head's and others auxiliary.
    """

    def forward(self, images: Tensor) -> Any:
        logits = self.head(self.backbone.forward_intermediates(images, intermediates_only=True))
        if not self.training:
            return logits
        main, *others = logits if isinstance(logits, tuple | list) else [logits]
        return [(main, 1.0), *((other, self.head.auxiliary_weight) for other in others)]


def build_head(spec: Spec, channels: Sequence[int], num_classes: int, registry: Registry = HEAD) -> nn.Module:
    """The head that `spec` names, one of the registry or a class at a dotted path.

    Raises:
        ComponentError: for a head that is not known or cannot be built.
    """
    return registry.build(spec, channels=list(channels), num_classes=num_classes)


def fault_of_logits(output: Any, batch: int, num_classes: int, training: bool = False) -> str | None:
    """What is wrong with the output of a head; None if nothing is."""
    logits = list(output) if isinstance(output, tuple | list) and training else [output]
    for each in logits:
        if not isinstance(each, Tensor):
            return f"returns a {type(each).__name__}; expected logits (B, K, h, w)"
        if each.ndim != 4 or tuple(each.shape[:2]) != (batch, num_classes):
            return f"returns {tuple(each.shape)}; expected ({batch}, {num_classes}, h, w)"
    return None if logits else "returns nothing; expected logits (B, K, h, w)"


def check_output(output: Any, batch: int, num_classes: int, name: str) -> None:
    """Raise ComponentError for the output of a head that breaks its contract."""
    if (fault := fault_of_logits(output, batch, num_classes)) is not None:
        raise ComponentError(f"head: '{name}' {fault}")

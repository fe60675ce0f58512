"""The registry of detectors' heads with those of this package registered, and the network with one.

A head is an `nn.Module` that is built with `channels` and `num_classes` and has the methods of `contract.Head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import shunted_lab.nn.detection.mask_rcnn
import shunted_lab.nn.detection.retinanet  # noqa: F401  # both register their heads
from shunted_lab.nn.detection.contract import Detections, Size
from shunted_lab.nn.headed import HeadedNet
from shunted_lab.nn.registry import DETECTOR, ComponentError, Registry, Spec

__all__ = ["DETECTOR", "Detected", "DetectionNet", "build_detector"]

METHODS = ("detect", "losses", "fixed_work")


class Detected(NamedTuple):
    """What a network returns for a batch: what its head makes of the maps, the detections (none in training), and the
    head, which computes the loss.
    """

    features: Any
    detections: list[Detections]
    head: Any
    classes: int


class DetectionNet(HeadedNet):
    """A backbone with a detector's head."""

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> Detected:
        """Images (B, 3, H, W), of which `sizes` are not padding; None: all."""
        features = self.head(self.backbone.forward_intermediates(images, intermediates_only=True))
        head: Any = self.head
        if self.training:
            return Detected(features, [], head, self.num_classes)
        whole = (images.shape[2], images.shape[3])
        detect = torch.compiler.disable(head.detect)  # its shapes depend on values: it stays as it is
        found = detect(features, [whole] * len(images) if sizes is None else sizes)
        return Detected(features, found, head, self.num_classes)

    def fixed_work(self, images: Tensor) -> Any:
        """A forward pass with as many boxes as published costs are of."""
        head: Any = self.head
        return head.fixed_work(self.head(self.backbone.forward_intermediates(images, intermediates_only=True)))


def build_detector(spec: Spec, channels: Sequence[int], num_classes: int, registry: Registry = DETECTOR) -> nn.Module:
    """The head that `spec` names, one of the registry or a class at a dotted path.

    Raises:
        ComponentError: for a head that is not known, cannot be built, or lacks a method of `contract.Head`.
    """
    head = registry.build(spec, channels=list(channels), num_classes=num_classes)
    if missing := [name for name in METHODS if not callable(getattr(head, name, None))]:
        raise ComponentError(f"head: '{type(head).__name__}' has no method {missing[0]}()")
    return head

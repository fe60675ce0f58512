"""What a batch of images with objects has beside the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

Size = tuple[int, int]  # height and width, pixels
MULTIPLE = 32  # batches are padded to multiples of the last map's stride


class Truth(NamedTuple):
    """What the detections of an image are compared with, at its original size. Nothing is left out.

    Args:
        name: of the image, in messages and results.
        size: of the image.
        boxes: (n, 4) float64: x0, y0, x1, y1.
        labels: (n,) classes 0 to K - 1.
        areas: (n,) pixels squared, by which objects count as small or large.
        crowd: (n,) booleans: regions of many objects, in which detections are neither right nor wrong.
        segments: of each object what `pycocotools` knows as a segmentation (polygons, RLE), or an array (H, W) of 0
            and 1; empty where only boxes are known.
    """

    name: str
    size: Size
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    segments: Sequence[Any] = ()


class Objects(NamedTuple):
    """The objects of a batch of B images, as `nn.detection.contract.Targets` has them.

    Args:
        boxes: (n, 4) float32 of each image: x0, y0, x1, y1 in pixels of the image as the network sees it.
        labels: (n,) int64, classes 0 to K - 1.
        masks: (n, H, W) uint8 in pixels of the batch; empty where no masks are trained.
        has_mask: (n,) booleans; an object without a mask trains its class and its box only.
        seeds: what is drawn for each image with: the same in whichever batch and on whichever device it is trained.
        sizes: of the images in the batch, which are padded below and on the right.
        truths: for images that are evaluated; empty in training.
        ranges: names of ranges [low, high) of areas, pixels squared, which are measured by themselves.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    masks: list[Tensor]
    has_mask: list[Tensor]
    seeds: list[int]
    sizes: list[Size]
    truths: list[Truth]
    ranges: Sequence[tuple[str, tuple[float, float]]] = ()


def seed_of(key: Sequence[int]) -> int:
    """A number below 2**62 that follows from a seed and the key of an image."""
    return int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> np.uint64(2))


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """(n, H, W) of 0 and 1 -> (n, 4) float32: x0, y0, x1, y1 of the pixels that are 1, x1 and y1 outside; all 0 for an
    empty mask.
    """
    found = np.zeros((len(masks), 4), np.float32)
    for axis in (0, 1):
        lines: Any = masks.any(1 + axis)  # of columns (n, W), then of rows (n, H)
        some = lines.any(1)
        first, last = lines.argmax(1), lines.shape[1] - lines[:, ::-1].argmax(1)
        found[some, axis], found[some, 2 + axis] = first[some], last[some]
    return found


def to_rle(segment: Any, size: Size) -> dict[str, Any]:
    """A segmentation as run lengths: polygons, uncompressed or compressed run lengths, or an array of 0 and 1."""
    from pycocotools import mask as coco_mask

    if isinstance(segment, np.ndarray):
        encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray(segment, np.uint8))
        return encoded
    if isinstance(segment, list):
        return coco_mask.merge(coco_mask.frPyObjects(segment, *size))
    return coco_mask.frPyObjects(segment, *size) if isinstance(segment["counts"], list) else segment

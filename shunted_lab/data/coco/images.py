"""The images of a split with their objects, read one by one; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from shunted_lab.data.coco.annotations import Annotations
from shunted_lab.data.decode import Undecodable, decode
from shunted_lab.data.objects import Truth


class Known(NamedTuple):
    """The objects of an image that are trained.

    Args:
        boxes: (n, 4) float64: x0, y0, x1, y1, within the image.
        labels: (n,) classes.
        numbers: (n,) of the annotations.
    """

    boxes: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class CocoImages:
    """Images of a split (`image_splits.ImageSplit`).

    Args:
        annotations: of the file.
        folder: of the images.
        chosen: numbers of the images in the file.
    """

    annotations: Annotations
    folder: Path
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> Sequence[int]:
        return [0] * len(self)

    @property
    def names(self) -> Sequence[str]:
        return [str(self.annotations.image_name[number]) for number in self.chosen]

    def where(self, index: int) -> str:
        return str(self.folder / str(self.annotations.image_name[self.chosen[index]]))

    def take(self, indices: Sequence[int]) -> CocoImages:
        return CocoImages(self.annotations, self.folder, [self.chosen[index] for index in indices])

    @property
    def is_wide(self) -> np.ndarray:
        """(N,) whether an image is wider than high."""
        sizes = self.annotations.image_size[np.asarray(self.chosen, int)]
        return np.asarray(sizes[:, 1] > sizes[:, 0])

    def decode(self, index: int) -> Image.Image:
        """The image, with the pixels as they are stored: boxes hold for these, whatever EXIF says.

        Raises:
            Undecodable: also for an image of another size than its annotation says.
        """
        image = decode(Path(self.where(index)).read_bytes())
        height, width = self.annotations.image_size[self.chosen[index]].tolist()
        if image.size != (width, height):
            raise Undecodable(f"is {image.width} x {image.height} pixels, and {width} x {height} in the annotations")
        return image

    def known(self, index: int) -> Known:
        """The objects that are trained, their boxes clipped to the image."""
        image = int(self.chosen[index])
        own = self.annotations.objects_of(image)
        numbers = np.arange(own.start, own.stop)[self.annotations.clean[own]]
        height, width = self.annotations.image_size[image].tolist()
        x, y, w, h = np.asarray(self.annotations.box[numbers]).reshape(-1, 4).T
        boxes = np.stack([x.clip(0, width), y.clip(0, height), (x + w).clip(0, width), (y + h).clip(0, height)], 1)
        return Known(boxes, np.asarray(self.annotations.label[numbers]).astype(np.int64), numbers)

    def mask(self, number: int, index: int) -> np.ndarray | None:
        """(H, W) uint8 of an object; None where it has no segmentation."""
        from pycocotools import mask as coco_mask

        from shunted_lab.data.objects import to_rle

        segment = self.annotations.segment(number)
        if segment is None:
            return None
        height, width = self.annotations.image_size[int(self.chosen[index])].tolist()
        found: np.ndarray = coco_mask.decode(to_rle(segment, (height, width)))
        return found

    def truth(self, index: int, has_masks: bool) -> Truth:
        """All objects as they are annotated, crowds as well; without a segmentation the mask is empty."""
        image = int(self.chosen[index])
        own = self.annotations.objects_of(image)
        x, y, w, h = np.asarray(self.annotations.box[own]).reshape(-1, 4).T
        height, width = self.annotations.image_size[image].tolist()
        segments = []
        if has_masks:
            found = (self.annotations.segment(number) for number in range(own.start, own.stop))
            segments = [
                {"size": [height, width], "counts": [height * width]} if each is None else each for each in found
            ]
        return Truth(
            str(self.annotations.image_name[image]),
            (height, width),
            np.stack([x, y, x + w, y + h], 1),
            np.asarray(self.annotations.label[own]).astype(np.int64),
            np.asarray(self.annotations.area[own]),
            np.asarray(self.annotations.crowd[own]),
            segments,
        )

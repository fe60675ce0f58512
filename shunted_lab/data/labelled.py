"""Images with label maps, decoded one by one; labels are renumbered here and nowhere else. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from shunted_lab.data.decode import Undecodable, decode, decode_labels, size_of
from shunted_lab.data.image_splits import picked

IGNORED = 255  # the class of a pixel that is neither trained nor counted


@dataclass(frozen=True)
class LabelledFiles:
    """Images of a split with their label maps (`image_splits.ImageSplit`).

    Args:
        pairs: files of an image and of its label map.
        classes: K; labels are 0 to K - 1, and 255.
        zero_is_ignored: labels in files are 1 to K, and 0 is not counted.
        reads_images: whether `decode` reads the images, too.
    """

    pairs: Sequence[tuple[str, str]]
    classes: int
    zero_is_ignored: bool
    reads_images: bool = True

    @property
    def labels(self) -> Sequence[int]:
        return [0] * len(self.pairs)  # a validation split is held out of all images together

    @property
    def names(self) -> Sequence[str]:
        return [Path(image).name for image, _ in self.pairs]

    def where(self, index: int) -> str:
        return self.pairs[index][0]

    def take(self, indices: Sequence[int]) -> LabelledFiles:
        return LabelledFiles(picked(self.pairs, indices), self.classes, self.zero_is_ignored)

    def labels_only(self) -> LabelledFiles:
        """The same, of which `decode` reads the size of the image only."""
        return LabelledFiles(self.pairs, self.classes, self.zero_is_ignored, reads_images=False)

    def decode(self, index: int) -> Image.Image:
        """The image; its label map is read too, and raises `Undecodable` as the image does."""
        if self.reads_images:
            return Image.fromarray(self.read(index)[0])
        path, labels = self.pairs[index]
        return Image.fromarray(self._labels(labels, size_of(Path(path).read_bytes())))

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 and (H, W) uint8, 255 where a pixel does not count.

        Raises:
            Undecodable: for what cannot be read, and for a label map of another size or with other values.
        """
        path, labels = self.pairs[index]
        image = np.asarray(decode(Path(path).read_bytes()))
        return image, self._labels(labels, image.shape[:2])

    def _labels(self, path: str, size: tuple[int, ...]) -> np.ndarray:
        try:
            values = decode_labels(Path(path).read_bytes())
        except Undecodable as error:
            raise Undecodable(f"its label map {path} {error}") from None
        if values.shape != size:
            shapes = (f"{height} x {width}" for height, width in (values.shape, size))
            raise Undecodable(f"its label map {path} is {next(shapes)}, and the image {next(shapes)} pixels")
        return to_classes(values, self.classes, self.zero_is_ignored, path)


def to_classes(values: np.ndarray, classes: int, zero_is_ignored: bool, where: str) -> np.ndarray:
    """Labels as they are in a file -> classes 0 to K - 1, and 255. The only place where labels are renumbered.

    Raises:
        Undecodable: for a label that is not a class.
    """
    if zero_is_ignored:
        values = np.where(values == IGNORED, IGNORED, values - np.uint8(1))  # 0 becomes 255
    wrong = values[(values >= classes) & (values != IGNORED)]
    if len(wrong):
        first = int(wrong[0]) + zero_is_ignored
        known = f"{int(zero_is_ignored)} to {classes - 1 + zero_is_ignored}"
        raise Undecodable(f"its label map {where} has the label {first}; there are {known}")
    return values

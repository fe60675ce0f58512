"""What a batch of images with a class for each pixel has beside the images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from shunted_lab.data.labelled import IGNORED as IGNORED


class LabelMaps(NamedTuple):
    """The classes of the pixels of a batch.

    Args:
        classes: (B, H, W) uint8, `IGNORED` where a pixel does not count. Evaluated at their original size, which may
            differ from that of the images that the network sees.
        sizes: (B, K) float32, the size of each class's object, 0 where an image has none; class 0 is the background.
            None where the data do not know sizes.
        ranges: of sizes [low, high), which are measured by themselves.
    """

    classes: Tensor
    sizes: Tensor | None = None
    ranges: tuple[tuple[float, float], ...] = ()

"""Images together with their label maps: resizing, cropping, colours; as mmseg's pipeline for ADE20K, by own draws.

Images are (H, W, 3) uint8, label maps (H, W) uint8. Every function that draws takes the generator to draw from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from shunted_lab.data.label_maps import IGNORED

Size = tuple[int, int]  # height, width
TRIES = 10  # crops that are drawn before one is taken in which a class covers too much


class ImageSizes(NamedTuple):
    """The sides of images: at most `short` and `long`, then stretched to multiples of `align`. Crops are `short`."""

    short: int
    long: float
    align: int


def fitted(size: Size, short: float, long: float) -> Size:
    """The largest size of the same aspect whose sides are at most `short` and `long`, rounded as in mmcv."""
    scale = min(long / max(size), short / min(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def aligned(size: Size, multiple: int) -> Size:
    """The next size whose sides are multiples: images are stretched to it (PVT's and SegFormer's `AlignResize`)."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear without antialiasing, as OpenCV's."""
    if image.shape[:2] == size:
        return image
    batch = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode="bilinear", antialias=False)[0].permute(1, 2, 0).numpy()


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """The nearest label above and to the left."""
    if labels.shape == size:
        return labels
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def draw_crop(labels: np.ndarray, side: int, cat_max_ratio: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """A crop of at most `side` x `side`, drawn again while one class covers `cat_max_ratio` of its labelled pixels."""
    for _ in range(TRIES if cat_max_ratio < 1 else 1):
        top, left = (int(rng.integers(max(0, length - side) + 1)) for length in labels.shape)
        crop = slice(top, top + side), slice(left, left + side)
        counts = np.bincount(labels[crop].ravel(), minlength=IGNORED + 1)[:IGNORED]
        if np.count_nonzero(counts) > 1 and counts.max() < cat_max_ratio * counts.sum():
            break
    return crop


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """mmseg's PhotoMetricDistortion: brightness +-32, contrast and saturation x 0.5 to 1.5, hue by up to a tenth of the
    circle, each with probability 1/2; contrast is changed before or after the colours.
    """
    image = _scaled(image, 1.0, rng.uniform(-32, 32)) if rng.random() < 0.5 else image
    late = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    image = image if late else _scaled(image, contrast)
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 18)) if rng.random() < 0.5 else 0
    if saturation != 1 or hue:
        hsv = np.array(Image.fromarray(image).convert("HSV"))
        hsv[..., 0] += np.uint8(round(hue * 256 / 180) % 256)  # wraps around
        hsv[..., 1] = _scaled(hsv[..., 1], saturation)
        changed = Image.merge("HSV", [Image.fromarray(part) for part in hsv.transpose(2, 0, 1)])
        image = np.asarray(changed.convert(mode="RGB"))
    return _scaled(image, contrast) if late else image


def _scaled(values: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
    if factor == 1 and offset == 0:
        return values
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

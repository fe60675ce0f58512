"""Draw one scene: two shapes of different classes over a real texture; the larger is `size_ratio` times the smaller.

Sizes are diameters of the circumscribed circle. The smaller one's is log-uniform, so that both fit between `SMALLEST`
and `LARGEST` of the side. Position, angle, texture, colour and brightness are drawn without a look at the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from shunted_lab.data.earth.tiles import BLOCK, find_tiles, load_picture

VERSION = 2  # to be counted up when the same configuration gives other images
SPLITS = ("train", "val", "test")
SMALLEST, LARGEST = 0.75 / 16, 0.75  # diameters, as shares of the image's side
EDGES = tuple(SMALLEST * 16 ** (i / 3) for i in (1, 2))  # between small, medium and large: equal steps of the logarithm
BINS = {"small": (0.0, EDGES[0]), "medium": EDGES, "large": (EDGES[1], 1.0)}


def size_ranges(size_ratio: float) -> list[tuple[str, tuple[float, float]]]:
    """Small, medium and large: those ranges of sizes [low, high) that objects can have at a ratio of sizes."""
    low, high, step = math.log(SMALLEST), math.log(LARGEST), math.log(size_ratio)
    spans = [(low, high - step), (low + step, high)]  # of the smaller and of the larger object
    return [
        (name, (a, b))
        for name, (a, b) in BINS.items()
        if any(max(math.exp(first), a) < min(math.exp(last) * 1.0001, b) for first, last in spans)
    ]


VISIBLE = 0.5  # share of a shape that another one leaves visible, at least
CONTRAST = 80.0, 96.0  # how much brighter than what is around it a shape is, on average: from, to (of 255)
DIM = 0.15  # of the brightness of the background: two objects, one on the other, still stay below 255
SPREAD = 20.0  # the values of a texture lie within this of their mean: 0.15 * 255 + 2 * 96 + 20 < 255
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def _box(x: np.ndarray, y: np.ndarray, a: float, b: float) -> np.ndarray:
    return np.maximum(np.abs(x) - a, np.abs(y) - b)


# Signed distances to the border of shapes whose circumscribed circle has radius 1: negative inside.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: np.hypot(x, y) - 1,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
    "square": lambda x, y: _box(x, y, math.sqrt(0.5), math.sqrt(0.5)),
    "triangle": lambda x, y: np.maximum(np.maximum(0.866 * x + 0.5 * y, 0.5 * y - 0.866 * x), -y) - 0.5,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.96, 0.28), _box(x, y, 0.28, 0.96)),
    "bar": lambda x, y: _box(x, y, 0.96, 0.28),
}
CLASS_NAMES = list(SHAPES)


@dataclass(frozen=True)
class Scene:
    """An image of S x S with its two objects, the larger one first; the smaller one lies on top."""

    image: np.ndarray  # (S, S, 3) uint8
    classes: np.ndarray  # (2,) int64
    sizes: np.ndarray  # (2,) float32, pixels
    boxes: np.ndarray  # (2, 4) float32: x0, y0, x1, y1 of the visible pixels
    instances: np.ndarray  # (S, S) uint8: 0 background, 1 the larger, 2 the smaller
    semantic: np.ndarray  # (S, S) uint8: 0 background, 1 + class


@dataclass(frozen=True)
class Scenes:
    """The scenes of a split, which are drawn one by one (see `draw_scene`)."""

    seed: int
    split: str
    count: int
    image_size: int
    size_ratio: float

    @property
    def name(self) -> str:
        """Of their folder in the cache."""
        scenes = f"scales{VERSION}-seed{self.seed}-ratio{self.size_ratio:g}"
        return f"{scenes}-{self.image_size}px-{self.split}{self.count}"

    def draw(self, index: int) -> Scene:
        return draw_scene(self.seed, self.split, index, self.image_size, self.size_ratio)


def draw_scene(seed: int, split: str, index: int, image_size: int, size_ratio: float) -> Scene:
    """The scene of a number; the same arguments give the same bytes.

    Args:
        seed: of the whole data set.
        split: train, val or test; each has its own places on Earth for its textures.
        index: which scene.
        image_size: S, pixels.
        size_ratio: diameter of the larger object over that of the smaller, 1 to 16.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    canvas = DIM * _texture(rng, split, image_size)
    low = rng.uniform(math.log(SMALLEST), math.log(LARGEST / size_ratio) + 1e-12)
    sizes = np.array([math.exp(low) * size_ratio, math.exp(low)], np.float32) * image_size
    classes = rng.permutation(len(CLASS_NAMES))[:2]
    covers = _place(rng, image_size, sizes, classes)
    for cover in covers:
        canvas = _paint(rng, canvas, cover, split)
    instances = np.zeros((image_size, image_size), np.uint8)
    for number, cover in enumerate(covers, 1):
        instances[_solid(cover)] = number
    semantic = np.append(0, 1 + classes).astype(np.uint8)[instances]
    boxes = np.array([_bounds(instances == number) for number in (1, 2)], np.float32)
    return Scene(np.round(canvas).astype(np.uint8), classes, sizes, boxes, instances, semantic)


@cache
def _picture() -> np.ndarray:
    return load_picture()


def _texture(rng: np.random.Generator, split: str, size: int) -> np.ndarray:
    """(size, size, 3) float32: a piece of one block of the split, larger ones enlarged."""
    tiles, cut = find_tiles()[split], min(size, BLOCK)
    index = int(rng.integers(len(tiles.labels)))
    corner = [int(v[index]) // BLOCK * BLOCK + int(rng.integers(BLOCK - cut + 1)) for v in (tiles.y, tiles.x)]
    piece = _picture()[corner[0] : corner[0] + cut, corner[1] : corner[1] + cut]
    if cut < size:
        piece = np.asarray(Image.fromarray(piece).resize((size, size), Image.Resampling.BICUBIC))
    return piece.astype(np.float32)


def _place(rng: np.random.Generator, size: int, diameters: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
    """Coverage (S, S) in [0, 1] of each shape, wholly inside, the first with at least `VISIBLE` of it in sight."""
    radii = diameters / 2
    for attempt in range(2000):
        angles = rng.uniform(0, 2 * math.pi, 2)
        spots = rng.uniform(size=(2, 2))
        if attempt >= 50:  # large shapes: in opposite corners
            spots[0] = rng.integers(2, size=2)
            spots[1] = 1 - spots[0]
        centres = [r + spot * (size - 2 * r) for r, spot in zip(radii, spots, strict=True)]
        first, second = (_cover(size, centres[i], radii[i], angles[i], CLASS_NAMES[int(classes[i])]) for i in range(2))
        below, above = _solid(first), _solid(second)
        if (below & ~above).sum() >= VISIBLE * below.sum():
            return [first, second]
    raise AssertionError("in opposite corners, some angles leave half in sight")


def _cover(size: int, centre: np.ndarray, radius: float, angle: float, name: str) -> np.ndarray:
    """(S, S): how much of each pixel a shape covers."""
    rows, columns = np.ogrid[:size, :size]
    dy, dx = (((at + 0.5 - c) / radius).astype(np.float32) for at, c in zip((rows, columns), centre, strict=True))
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return np.clip(0.5 - SHAPES[name](c * dx + s * dy, c * dy - s * dx) * radius, 0, 1).astype(np.float32)


def _solid(cover: np.ndarray) -> np.ndarray:
    """The pixels of a shape. One that is thinner than a pixel has those that it covers most."""
    return cover >= min(0.5, 0.8 * float(cover.max()))


def _paint(rng: np.random.Generator, canvas: np.ndarray, cover: np.ndarray, split: str) -> np.ndarray:
    """The canvas with a shape on it: a texture of the same split, brighter than what is around it."""
    y, x = np.nonzero(cover)
    near = np.s_[max(y.min() - 2, 0) : y.max() + 3, max(x.min() - 2, 0) : x.max() + 3]
    outside = cover[near] == 0
    around = float((canvas[near] @ LUMA)[outside].mean())
    material = _texture(rng, split, cover.shape[0])[near]
    inside = cover[near] > 0
    material = material - float((material @ LUMA)[inside].mean())
    spread = float(np.abs(material[inside]).mean())
    # Faint textures are made stronger, strong ones weaker, and outliers bent, not cut: no shape is a flat area.
    material = SPREAD * np.tanh(material * (min(max(spread, 6.0), 20.0) / max(spread, 0.5)) / SPREAD)
    material = material - float((material @ LUMA)[inside].mean())
    level = around + rng.uniform(*CONTRAST)
    canvas = canvas.copy()
    share = cover[near][..., None]
    canvas[near] = (1 - share) * canvas[near] + share * np.clip(material + level, 0, 255)
    return canvas


def _bounds(mask: np.ndarray) -> list[float]:
    """x0, y0, x1, y1 of a mask's pixels; x1 and y1 lie outside."""
    y, x = np.nonzero(mask)
    return [float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)]

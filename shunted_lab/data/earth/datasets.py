"""Tiles as data sets: whole batches cut from the picture in one go, or PIL images for a heavy recipe.

Both are resized by torch before they are normalised, so training and evaluation see the same pixels of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config.data import EarthConfig
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.data.augment import Pictures, Stats, is_light, symmetry, train_transform, turn
from shunted_lab.data.earth.tiles import CLASS_NAMES, TILE, Tiles, find_tiles, load_picture
from shunted_lab.data.module import Key, Splits

STATS: Stats = ((0.349, 0.348, 0.277), (0.278, 0.238, 0.244))  # of the training tiles


def earth_splits(data: EarthConfig, recipe: RecipeConfig, seed: int) -> Splits:
    """Training, validation and test tiles."""
    tiles = find_tiles()
    train: Dataset = TileBatches(tiles["train"], data.image_size, recipe, seed)
    if not is_light(recipe):
        transform = train_transform(recipe, data.image_size, "bicubic", STATS, fast=True)
        train = Pictures(partial(_image, tiles["train"]), tiles["train"].labels, transform, recipe, seed)  # type: ignore[arg-type]
    val, test = (TileBatches(tiles[side], data.image_size) for side in ("val", "test"))
    return Splits(train, val, test, CLASS_NAMES)


@cache
def picture() -> np.ndarray:
    """The whole picture, decoded once in a process."""
    return load_picture()


class TileBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batches `(B, 3, S, S)` (channels last in memory) and `(B,)`. With a recipe: a training side, indexed by key."""

    def __init__(self, tiles: Tiles, image_size: int, recipe: RecipeConfig | None = None, seed: int = 0):
        self.tiles = tiles
        self.image_size = image_size
        self.recipe = recipe
        self.seed = seed
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in STATS)

    def __len__(self) -> int:
        return len(self.tiles.labels)

    def __getitems__(self, keys: Sequence[Key | int]) -> tuple[Tensor, Tensor]:
        batch = np.empty((len(keys), TILE, TILE, 3), np.uint8)
        indices = []
        for place, key in enumerate(keys):
            index, which = (key, 0) if isinstance(key, int) else (key[1], self._symmetry(key))
            batch[place] = turn(cut(self.tiles, index), which)
            indices.append(index)
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)
        if self.image_size != TILE:
            pixels = F.interpolate(pixels, size=(self.image_size,) * 2, mode="bicubic", antialias=True)
        images = pixels.float().sub_(self.mean).div_(self.std)
        return images, torch.from_numpy(self.tiles.labels[indices])

    def _symmetry(self, key: Key) -> int:
        assert self.recipe is not None
        return symmetry(np.random.default_rng([self.seed, *key]), self.recipe)


def cut(tiles: Tiles, index: int) -> np.ndarray:
    """(64, 64, 3) uint8, a view of the picture."""
    y, x = int(tiles.y[index]), int(tiles.x[index])
    return picture()[y : y + TILE, x : x + TILE]


def _image(tiles: Tiles, index: int) -> Image.Image:
    return Image.fromarray(cut(tiles, index))

"""Tiles as data sets: whole batches cut from the picture at once, or PIL images for a recipe that needs them.

Both are resized by torch before they are normalized, so training and evaluation see the same pixels of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.data.dataset import TransformedImages
from shunted_lab.data.earth.tiles import (
    CLASS_NAMES,
    Tiles,
    Tiling,
    blocks_of,
    find_map_tiles,
    find_tiles,
    load_labels,
    load_picture,
)
from shunted_lab.data.label_maps import LabelMaps
from shunted_lab.data.module import Key, Splits
from shunted_lab.data.symmetry import apply_symmetry, draw_symmetry, needs_no_pil
from shunted_lab.data.transforms import train_transform


def earth_splits(tiling: Tiling, image_size: int, recipe: RecipeConfig, seed: int) -> Splits:
    """Training, validation and test tiles; a test tile's group is its block."""
    tiles = find_tiles(tiling)
    train: Dataset = TileBatches(tiles["train"], image_size, recipe, seed)
    if not needs_no_pil(recipe):
        transform = train_transform(recipe, image_size, "bicubic", tiling.stats, fast=True)
        train = TransformedImages(TileImages(tiles["train"]), tiles["train"].labels, transform, recipe, seed)  # type: ignore[arg-type]
    val, test = (TileBatches(tiles[split], image_size) for split in ("val", "test"))
    return Splits(train, val, test, CLASS_NAMES, test_groups=blocks_of(tiles["test"]))


def earth_map_splits(image_size: int, recipe: RecipeConfig, seed: int) -> Splits:
    """Training, validation and test tiles with the class of each pixel; a test tile's group is its block."""
    tiles = find_map_tiles()
    train = MapBatches(tiles["train"], image_size, recipe, seed)
    val, test = (MapBatches(tiles[split], image_size) for split in ("val", "test"))
    return Splits(train, val, test, CLASS_NAMES, test_groups=tiles["test"].labels)


@cache
def picture() -> np.ndarray:
    """The whole picture, decoded once in a process."""
    return load_picture()


@cache
def label_picture() -> np.ndarray:
    """The classes of all pixels, decoded once in a process."""
    return load_labels()


class TileBatches(Dataset[tuple[Tensor, Any]]):
    """Batches `(B, 3, S, S)` (channels last in memory) and `(B,)`. With a recipe: a training split, indexed by key."""

    def __init__(self, tiles: Tiles, image_size: int, recipe: RecipeConfig | None = None, seed: int = 0):
        self.tiles = tiles
        self.image_size = image_size
        self.recipe = recipe
        self.seed = seed
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in tiles.tiling.stats)

    def __len__(self) -> int:
        return len(self.tiles.labels)

    def __getitems__(self, keys: Sequence[Key | int]) -> tuple[Tensor, Any]:
        drawn = [(key, 0) if isinstance(key, int) else (key[1], self._symmetry(key)) for key in keys]
        batch = np.stack([apply_symmetry(cut(self.tiles, index), which) for index, which in drawn])
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)
        if self.image_size != self.tiles.tiling.tile:
            pixels = F.interpolate(pixels, size=(self.image_size,) * 2, mode="bicubic", antialias=True)
        images = pixels.float().sub_(self.mean).div_(self.std)
        return images, self._targets(drawn)

    def _targets(self, drawn: Sequence[tuple[int, int]]) -> Any:
        """Of tiles and the symmetries that they are shown in."""
        return torch.from_numpy(self.tiles.labels[[index for index, _ in drawn]])

    def _symmetry(self, key: Key) -> int:
        assert self.recipe is not None
        return draw_symmetry(np.random.default_rng([self.seed, *key]), self.recipe)


class MapBatches(TileBatches):
    """Batches `(B, 3, S, S)` and `LabelMaps` of 64 x 64 pixels, whatever S is."""

    def _targets(self, drawn: Sequence[tuple[int, int]]) -> LabelMaps:
        maps = [apply_symmetry(cut(self.tiles, index, label_picture()), which) for index, which in drawn]
        return LabelMaps(torch.from_numpy(np.stack(maps)))


def cut(tiles: Tiles, index: int, source: np.ndarray | None = None) -> np.ndarray:
    """(tile, tile, 3) uint8, a view of the picture; or (tile, tile) of another source of its size."""
    y, x, tile = int(tiles.y[index]), int(tiles.x[index]), tiles.tiling.tile
    return (picture() if source is None else source)[y : y + tile, x : x + tile]


@dataclass(frozen=True)
class TileImages:
    """Tiles one by one, as PIL images."""

    tiles: Tiles

    def decode(self, index: int) -> Image.Image:
        return Image.fromarray(cut(self.tiles, index))

    def where(self, index: int) -> str:
        return f"tile {index}"

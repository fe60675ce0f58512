"""Scenes as data sets: drawn once into a cache of files, then read in batches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.earth.tiles import STATS
from shunted_lab.data.label_maps import LabelMaps
from shunted_lab.data.module import Key, Splits
from shunted_lab.data.scales.scene import CLASS_NAMES, Scenes
from shunted_lab.data.symmetry import apply_symmetry, draw_symmetry
from shunted_lab.output.files import atomic


def scales_splits(scenes: Sequence[Scenes], cache: Path, recipe: RecipeConfig, seed: int) -> Splits:
    """Training, validation and test scenes; `seed` turns and flips those for training."""
    train, val, test = (cached(split, cache) for split in scenes)
    return Splits(SceneBatches(*train, recipe, seed), SceneBatches(*val), SceneBatches(*test), CLASS_NAMES)


def scales_map_splits(
    scenes: Sequence[Scenes], cache: Path, recipe: RecipeConfig, seed: int, ranges: Sequence[tuple[float, float]]
) -> Splits:
    """The same scenes with the class of each pixel, 0 for the background, and the size of its object.

    Args:
        ranges: of sizes, that are measured by themselves.
    """
    parts = []
    for split in scenes:
        drawn = *cached(split, cache), cached_maps(split, cache)
        parts.append(MaskBatches(*drawn, tuple(ranges), recipe if split.split == "train" else None, seed))
    train, val, test = parts
    return Splits(train, val, test, ["background", *CLASS_NAMES])


class SceneBatches(Dataset[tuple[Tensor, Any]]):
    """Batches `(B, 3, S, S)` (channels last in memory) and `(B, K)` float32: for each class the diameter of its object
    as a share of the image's side, 0 where there is none. With a recipe: a training split, indexed by key."""

    def __init__(self, images: np.ndarray, sizes: np.ndarray, recipe: RecipeConfig | None = None, seed: int = 0):
        self.images = images
        self.sizes = sizes
        self.recipe = recipe
        self.seed = seed
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in STATS)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitems__(self, keys: Sequence[Key | int]) -> tuple[Tensor, Any]:
        drawn = [(key, 0) if isinstance(key, int) else (key[1], self._symmetry(key)) for key in keys]
        batch = np.stack([apply_symmetry(self.images[index], which) for index, which in drawn])
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)
        return images, self._targets(drawn)

    def _symmetry(self, key: Key) -> int:
        assert self.recipe is not None
        return draw_symmetry(np.random.default_rng([self.seed, *key]), self.recipe)

    def _targets(self, drawn: Sequence[tuple[int, int]]) -> Any:
        """Of scenes and the symmetries that they are shown in."""
        return torch.from_numpy(self.sizes[[index for index, _ in drawn]])


class MaskBatches(SceneBatches):
    """Batches `(B, 3, S, S)` and `LabelMaps` with sizes.

    Args:
        images, sizes: as of `SceneBatches`.
        maps: (N, S, S) uint8, 0 for the background, 1 + class elsewhere.
        ranges: of sizes, that are measured by themselves.
    """

    def __init__(
        self,
        images: np.ndarray,
        sizes: np.ndarray,
        maps: np.ndarray,
        ranges: tuple[tuple[float, float], ...],
        recipe: RecipeConfig | None = None,
        seed: int = 0,
    ):
        super().__init__(images, sizes, recipe, seed)
        self.maps = maps
        self.ranges = ranges
        self.of_classes = np.pad(sizes, ((0, 0), (1, 0)))  # (N, 1 + K): the background has none

    def _targets(self, drawn: Sequence[tuple[int, int]]) -> LabelMaps:
        maps = np.stack([apply_symmetry(self.maps[index], which) for index, which in drawn])
        sizes = self.of_classes[[index for index, _ in drawn]]
        return LabelMaps(torch.from_numpy(maps), torch.from_numpy(sizes), self.ranges)


def cached(scenes: Scenes, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images `(N, S, S, 3)` uint8, mapped from a file, and sizes `(N, K)` float32; drawn unless they are in the cache.

    Processes that draw at the same time write the same bytes; the first to finish wins.

    Raises:
        ConfigError: if the cache cannot be written.
    """
    folder = cache / scenes.name
    try:
        if not folder.exists():
            _draw(scenes, folder)
        return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "sizes.npy")
    except OSError as error:
        raise ConfigError(
            f"data.cache: {folder} cannot be written or read ({error.strerror}); set data.cache=FOLDER"
        ) from None


def cached_maps(scenes: Scenes, cache: Path) -> np.ndarray:
    """Classes of the pixels, `(N, S, S)` uint8, mapped from a file beside the images, which are there; drawn unless
    they are too.

    Raises:
        ConfigError: if the cache cannot be written.
    """
    path = cache / scenes.name / "maps.npy"
    try:
        if not path.exists():
            maps = np.stack([scenes.draw(index).semantic for index in range(scenes.count)])
            with atomic(path) as file:
                np.save(file, maps)
        return np.load(path, mmap_mode="r")
    except OSError as error:
        raise ConfigError(
            f"data.cache: {path} cannot be written or read ({error.strerror}); set data.cache=FOLDER"
        ) from None


def _draw(scenes: Scenes, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        size, count = scenes.image_size, scenes.count
        images = np.lib.format.open_memmap(
            temporary / "images.npy", mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
        )
        sizes = np.zeros((count, len(CLASS_NAMES)), np.float32)
        for index in range(count):
            scene = scenes.draw(index)
            images[index] = scene.image
            sizes[index, scene.classes] = scene.sizes / size
        images.flush()  # write to disk
        with atomic(temporary / "sizes.npy") as file:
            np.save(file, sizes)
        if not folder.exists():
            temporary.rename(folder)
    except OSError:
        if not folder.exists():  # else another process has drawn them
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

"""Scenes as data sets: drawn once into a cache of files, then read in batches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.earth.tiles import STATS
from shunted_lab.data.module import Key, Splits
from shunted_lab.data.scales.scene import CLASS_NAMES, Scenes
from shunted_lab.data.symmetry import apply_symmetry, draw_symmetry
from shunted_lab.output.files import atomic


def scales_splits(scenes: Sequence[Scenes], cache: Path, recipe: RecipeConfig, seed: int) -> Splits:
    """Training, validation and test scenes; `seed` turns and flips those for training."""
    train, val, test = (cached(split, cache) for split in scenes)
    return Splits(SceneBatches(*train, recipe, seed), SceneBatches(*val), SceneBatches(*test), CLASS_NAMES)


class SceneBatches(Dataset[tuple[Tensor, Tensor]]):
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

    def __getitems__(self, keys: Sequence[Key | int]) -> tuple[Tensor, Tensor]:
        indices = [key if isinstance(key, int) else key[1] for key in keys]
        batch = self.images[indices]
        for place, key in enumerate(keys):
            if self.recipe is not None and not isinstance(key, int):
                which = draw_symmetry(np.random.default_rng([self.seed, *key]), self.recipe)
                batch[place] = apply_symmetry(batch[place], which)
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)
        return images, torch.from_numpy(self.sizes[indices])


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

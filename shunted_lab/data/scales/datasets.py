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

from shunted_lab.config.data import ScalesConfig
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.augment import symmetry, turn
from shunted_lab.data.cache import cache_folder
from shunted_lab.data.earth.datasets import STATS
from shunted_lab.data.module import Key, Splits
from shunted_lab.data.scales.scene import CLASS_NAMES, SPLITS, VERSION, Scene, draw_scene
from shunted_lab.output.files import atomic


def scales_splits(data: ScalesConfig, recipe: RecipeConfig, seed: int) -> Splits:
    """Training, validation and test scenes. The scenes are those of `data.scene_seed`; `seed` turns and flips them."""
    train, val, test = (SceneBatches(data, name, recipe if name == "train" else None, seed) for name in SPLITS)
    return Splits(train, val, test, CLASS_NAMES)


def scene_of(data: ScalesConfig, split: str, index: int) -> Scene:
    """A scene with its boxes and masks, drawn again: it is the image that a run has seen."""
    return draw_scene(data.scene_seed, split, index, data.image_size, data.size_ratio)


class SceneBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batches `(B, 3, S, S)` (channels last in memory) and `(B, K)` float32: for each class the diameter of its object
    as a share of the image's side, 0 where there is none. With a recipe: a training split, indexed by key."""

    def __init__(self, data: ScalesConfig, split: str, recipe: RecipeConfig | None = None, seed: int = 0):
        self.images, self.sizes = cached(data, split)
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
                batch[place] = turn(batch[place], symmetry(np.random.default_rng([self.seed, *key]), self.recipe))
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)
        return images, torch.from_numpy(self.sizes[indices])


def cached(data: ScalesConfig, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(N, S, S, 3)` uint8, mapped from a file, and sizes `(N, K)` float32; drawn where they are not yet.

    Processes that draw at the same time write the same bytes; the first to finish wins.

    Raises:
        ConfigError: if the cache cannot be written.
    """
    count = {"train": data.train_images, "val": data.val_images, "test": data.test_images}[split]
    name = f"scales{VERSION}-seed{data.scene_seed}-ratio{data.size_ratio:g}-{data.image_size}px-{split}{count}"
    folder = cache_folder(data.cache) / name
    try:
        if not folder.exists():
            _draw(data, split, count, folder)
        return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "sizes.npy")
    except OSError as error:
        raise ConfigError(
            f"data.cache: {folder} cannot be written or read ({error.strerror}); set data.cache=FOLDER"
        ) from None


def _draw(data: ScalesConfig, split: str, count: int, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        size = data.image_size
        images = np.lib.format.open_memmap(
            temporary / "images.npy", mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
        )
        sizes = np.zeros((count, len(CLASS_NAMES)), np.float32)
        for index in range(count):
            scene = scene_of(data, split, index)
            images[index] = scene.image
            sizes[index, scene.classes] = scene.sizes / size
        images.flush()  # to the disk
        with atomic(temporary / "sizes.npy") as file:
            np.save(file, sizes)
        if not folder.exists():
            temporary.rename(folder)
    except OSError:
        if not folder.exists():  # else another process has drawn them
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

"""Scenes as data sets: drawn once into a cache of files, then read in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.earth.tiles import EARTH
from shunted_lab.data.label_maps import LabelMaps
from shunted_lab.data.module import Key, Splits
from shunted_lab.data.objects import Objects, Truth, boxes_of, seed_of
from shunted_lab.data.scales.scene import CLASS_NAMES, Scene, Scenes
from shunted_lab.data.symmetry import apply_symmetry, draw_symmetry
from shunted_lab.output.files import atomic, atomic_folder

EVALUATED_IN = 8  # scenes with objects; up to 100 masks of each are predicted


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


def scales_object_splits(
    scenes: Sequence[Scenes],
    cache: Path,
    recipe: RecipeConfig,
    seed: int,
    ranges: Sequence[tuple[str, tuple[float, float]]],
    has_masks: bool,
) -> Splits:
    """The same scenes with a class, a box and a mask for each object.

    Args:
        ranges: of areas, that are measured by themselves.
        has_masks: whether masks are asked for.
    """
    parts = []
    for split in scenes:
        drawn = *cached(split, cache), *cached_objects(split, cache)
        parts.append(ObjectBatches(*drawn, ranges, has_masks, recipe if split.split == "train" else None, seed))
    train, val, test = parts
    return Splits(train, val, test, CLASS_NAMES, evaluated_in=EVALUATED_IN)


class SceneBatches(Dataset[tuple[Tensor, Any]]):
    """Batches `(B, 3, S, S)` (channels last in memory) and `(B, K)` float32: for each class the diameter of its object
    as a share of the image's side, 0 where there is none. With a recipe: a training split, indexed by key."""

    def __init__(self, images: np.ndarray, sizes: np.ndarray, recipe: RecipeConfig | None = None, seed: int = 0):
        self.images = images
        self.sizes = sizes
        self.recipe = recipe
        self.seed = seed
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in EARTH.stats)

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


class ObjectBatches(SceneBatches):
    """Batches `(B, 3, S, S)` and `Objects`, the larger object of each scene first.

    Args:
        images, sizes: as of `SceneBatches`.
        instances: (N, S, S) uint8, 0 for the background, 1 and 2 for the objects.
        classes: (N, 2) of the objects.
        ranges: of areas, that are measured by themselves.
        has_masks: whether masks are asked for.
    """

    def __init__(
        self,
        images: np.ndarray,
        sizes: np.ndarray,
        instances: np.ndarray,
        classes: np.ndarray,
        ranges: Sequence[tuple[str, tuple[float, float]]],
        has_masks: bool,
        recipe: RecipeConfig | None = None,
        seed: int = 0,
    ):
        super().__init__(images, sizes, recipe, seed)
        self.instances = instances
        self.classes = classes
        self.ranges = tuple(ranges)
        self.has_masks = has_masks

    def __getitems__(self, keys: Sequence[Key | int]) -> tuple[Tensor, Objects]:
        images, found = super().__getitems__(keys)
        seeds = [seed_of([self.seed, *((key,) if isinstance(key, int) else key)]) for key in keys]
        return images, found._replace(seeds=seeds)

    def _targets(self, drawn: Sequence[tuple[int, int]]) -> Objects:
        boxes, labels, masks, truths = [], [], [], []
        for index, which in drawn:
            instances = apply_symmetry(self.instances[index], which)
            own = np.stack([instances == number for number in (1, 2)])
            boxes.append(boxes_of(own))
            labels.append(self.classes[index])
            masks.append(own.astype(np.uint8))
            if self.recipe is None:
                truths.append(self._truth(index, boxes[-1], own))
        sides = self.images.shape[1:3]
        return Objects(
            [torch.from_numpy(each) for each in boxes],
            [torch.from_numpy(each) for each in labels],
            [torch.from_numpy(each) for each in masks] if self.has_masks else [],
            [torch.ones(len(each), dtype=torch.bool) for each in boxes],
            [],
            [(int(sides[0]), int(sides[1]))] * len(drawn),
            truths,
            self.ranges,
        )

    def _truth(self, index: int, boxes: np.ndarray, masks: np.ndarray) -> Truth:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        segments = list(masks.astype(np.uint8)) if self.has_masks else []
        shape = (int(masks.shape[1]), int(masks.shape[2]))
        none = np.zeros(len(boxes), bool)
        return Truth(f"scene {index}", shape, boxes.astype(np.float64), self.classes[index], areas, none, segments)


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
    """Classes of the pixels, `(N, S, S)` uint8, mapped from a file beside the images, which are there."""
    return _cached_file(scenes, cache, "maps", lambda scene: scene.semantic)


def cached_objects(scenes: Scenes, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Objects of the pixels, `(N, S, S)` uint8, and the objects' classes, `(N, 2)`, from files beside the images."""
    instances = _cached_file(scenes, cache, "instances", lambda scene: scene.instances)
    return instances, np.array(_cached_file(scenes, cache, "classes", lambda scene: scene.classes))


def _cached_file(scenes: Scenes, cache: Path, name: str, part: Callable[[Scene], np.ndarray]) -> np.ndarray:
    """A part of all scenes, mapped from a file; the scenes are drawn where it is absent.

    Raises:
        ConfigError: if the cache cannot be written.
    """
    path = cache / scenes.name / f"{name}.npy"
    try:
        if not path.exists():
            values = np.stack([part(scenes.draw(index)) for index in range(scenes.count)])
            with atomic(path) as file:
                np.save(file, values)
        return np.load(path, mmap_mode="r")
    except OSError as error:
        raise ConfigError(
            f"data.cache: {path} cannot be written or read ({error.strerror}); set data.cache=FOLDER"
        ) from None


def _draw(scenes: Scenes, folder: Path) -> None:
    size, count = scenes.image_size, scenes.count
    shape = (count, size, size, 3)
    with atomic_folder(folder) as temporary:
        images = np.lib.format.open_memmap(temporary / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        sizes = np.zeros((count, len(CLASS_NAMES)), np.float32)
        for index in range(count):
            scene = scenes.draw(index)
            images[index] = scene.image
            sizes[index, scene.classes] = scene.sizes / size
        images.flush()  # write to disk
        with atomic(temporary / "sizes.npy") as file:
            np.save(file, sizes)

"""Images with label maps as data sets: augmented crops for training, whole images for evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config.data import Stats
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.data.corrupt import Corrupt, refused, too_many
from shunted_lab.data.decode import Undecodable
from shunted_lab.data.geometry import ImageSizes, aligned, distort, draw_crop, fitted, resize_image, resize_labels
from shunted_lab.data.label_maps import IGNORED, LabelMaps
from shunted_lab.data.labelled import LabelledFiles
from shunted_lab.data.module import Key, Splits
from shunted_lab.data.symmetry import apply_symmetry, draw_symmetry

Pair = tuple[np.ndarray, np.ndarray]


def label_splits(
    files: Sequence[LabelledFiles],
    class_names: list[str],
    sizes: ImageSizes,
    stats: Stats,
    recipe: RecipeConfig,
    seed: int,
    max_corrupt: int,
) -> Splits:
    """Train, val and test of a data set of files; its images are evaluated one by one, since their sizes differ."""
    corrupt = Corrupt(len(files[0].pairs), max_corrupt)
    train = LabelCrops(files[0], stats, sizes, recipe, seed, corrupt)
    val, test = (WholeImages(part, stats, sizes) for part in files[1:])
    return Splits(train, val, test, class_names, evaluated_in=1)


def whole_image(stats: Stats, sizes: ImageSizes) -> Callable[[Any], Tensor]:
    """Prepares a PIL image as those that are evaluated: (3, H, W), normalized."""
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in stats)

    def prepare(image: Any) -> Tensor:
        pixels = np.asarray(image.convert(mode="RGB"))
        size = aligned(fitted(pixels.shape[:2], sizes.short, sizes.long), sizes.align)
        return (torch.from_numpy(np.array(resize_image(pixels, size))).permute(2, 0, 1) - mean) / std

    return prepare


class _Labelled(Dataset[tuple[Tensor, LabelMaps]], ABC):
    """Batches `(B, 3, H, W)`, padded with 0 after normalization, and `LabelMaps`, padded with 255."""

    def __init__(self, files: LabelledFiles, stats: Stats, sizes: ImageSizes):
        self.files = files
        self.sizes = sizes
        self.mean, self.std = (255 * torch.tensor(values).view(3, 1, 1) for values in stats)

    def __len__(self) -> int:
        return len(self.files.pairs)

    def __getitem__(self, key: Any) -> tuple[Tensor, LabelMaps]:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Any]) -> tuple[Tensor, LabelMaps]:
        pairs = [self.load(key) for key in keys]
        sides = self.side(pairs)
        images = torch.zeros(len(pairs), 3, *sides[0]).contiguous(memory_format=torch.channels_last)
        labels = torch.full((len(pairs), *sides[1]), IGNORED, dtype=torch.uint8)
        for i, (image, classes) in enumerate(pairs):
            (height, width), (h, w) = image.shape[:2], classes.shape
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            images[i, :, :height, :width] = (pixels - self.mean) / self.std
            labels[i, :h, :w] = torch.from_numpy(np.array(classes))
        return images, LabelMaps(labels)

    def side(self, pairs: Sequence[Pair]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Heights and widths of the batch of images, and of its labels: the largest."""
        shapes = [np.array([part.shape[:2] for part in parts]).max(0) for parts in zip(*pairs, strict=True)]
        first, second = ((int(height), int(width)) for height, width in shapes)
        return first, second

    @abstractmethod
    def load(self, key: Any) -> Pair:
        """An image and its label map, prepared."""


class LabelCrops(_Labelled):
    """The training split, indexed by key: resized by a drawn ratio, cropped, flipped, distorted.

    Args:
        sizes: of an image before the ratio.
        corrupt: notes what cannot be read; the next image of the split replaces it.
    """

    def __init__(
        self,
        files: LabelledFiles,
        stats: Stats,
        sizes: ImageSizes,
        recipe: RecipeConfig,
        seed: int,
        corrupt: Corrupt,
    ):
        super().__init__(files, stats, sizes)
        self.recipe = recipe
        self.seed = seed
        self.corrupt = corrupt

    @property
    def images(self) -> LabelledFiles:
        """Where images lie, for messages."""
        return self.files

    def side(self, pairs: Sequence[Pair]) -> tuple[tuple[int, int], tuple[int, int]]:
        square = (self.sizes.short, self.sizes.short)
        return square, square

    def load(self, key: Key) -> Pair:
        rng = np.random.default_rng([self.seed, *key])
        image, labels = self._read(key[1])
        low, high = self.recipe.resize_ratio or (1.0, 1.0)
        ratio = rng.uniform(low, high)
        size = fitted(labels.shape, self.sizes.short * ratio, self.sizes.long * ratio)
        image, labels = resize_image(image, size), resize_labels(labels, size)
        crop = draw_crop(labels, self.sizes.short, self.recipe.cat_max_ratio, rng)
        which = draw_symmetry(rng, self.recipe)
        image, labels = apply_symmetry(image[crop], which), apply_symmetry(labels[crop], which)
        return (distort(image, rng) if self.recipe.photometric_distortion else image), labels

    def _read(self, index: int) -> Pair:
        for other in chain(range(index, len(self)), range(index)):
            try:
                return self.files.read(other)
            except Undecodable as error:
                if self.corrupt.note(other, f"{self.files.where(other)} cannot be read ({error})"):
                    break
        raise too_many([self.files.where(i) for i in self.corrupt.found], self.corrupt)


class WholeImages(_Labelled):
    """A split that is evaluated: whole images, their shorter side `short`; label maps at their original size."""

    def load(self, key: int) -> Pair:
        try:
            image, labels = self.files.read(key)
        except Undecodable as error:
            raise refused(self.files.where(key), error) from None
        size = aligned(fitted(labels.shape, self.sizes.short, self.sizes.long), self.sizes.align)
        return resize_image(image, size), labels

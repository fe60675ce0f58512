"""Images with objects as data sets: resized, cropped and flipped for training, whole for evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.data.coco.images import CocoImages
from shunted_lab.data.corrupt import Corrupt, refused, too_many
from shunted_lab.data.decode import Undecodable
from shunted_lab.data.geometry import Size, fitted, resize_image, resize_labels
from shunted_lab.data.module import Key, Splits
from shunted_lab.data.objects import MULTIPLE, Objects, Truth, seed_of
from shunted_lab.data.symmetry import apply_symmetry, draw_symmetry

if TYPE_CHECKING:
    from shunted_lab.data.coco import CocoConfig

BEFORE_CROP = (400, 500, 600)  # shorter sides before a crop (DETR, mmdet's second policy)
CROP = 384, 600  # pixels of a crop's sides, drawn apart


def coco_splits(images: Sequence[CocoImages], data: CocoConfig, recipe: RecipeConfig, seed: int) -> Splits:
    """Train, val and test; images are evaluated one by one, since their sizes differ."""
    corrupt = Corrupt(len(images[0]), data.max_corrupt)
    train = TrainingObjects(images[0], data, seed, recipe, corrupt)
    val, test = (WholeObjects(part, data) for part in images[1:])
    order = AspectOrder(images[0].is_wide, data.batch_size)
    return Splits(train, val, test, list(images[2].annotations.names), order, evaluated_in=1)


class AspectOrder:
    """A random order in which the images of a batch are all wide, or none is: they are padded less (mmdet).

    What is left of the two kinds after whole batches comes last.

    Args:
        wide: (N,) booleans.
        batch: images of an optimizer step, on all devices together: the order does not depend on their number.
    """

    def __init__(self, wide: np.ndarray, batch: int):
        self.wide = wide
        self.batch = batch

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) indices."""
        batches, rest = [], []
        for kind in (True, False):
            own = rng.permutation(np.flatnonzero(self.wide == kind))
            whole = len(own) // self.batch * self.batch
            batches += list(own[:whole].reshape(-1, self.batch))
            rest.append(own[whole:])
        order = [batches[i] for i in rng.permutation(len(batches))]
        return np.concatenate([*order, *rest])


class Prepared(NamedTuple):
    """An image with its objects as the network sees them.

    Args:
        image: (H, W, 3) uint8.
        boxes: (n, 4).
        labels: (n,).
        masks: (n, H, W) uint8.
        has_mask: (n,) booleans.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    has_mask: np.ndarray


class _Objects(Dataset[tuple[Tensor, Objects]], ABC):
    """Batches `(B, 3, H, W)`, padded with 0 after normalization, and `Objects`.

    Args:
        data: how large images are, and whether masks are asked for.
        seed: of what is drawn for an image.
    """

    def __init__(self, images: CocoImages, data: CocoConfig, seed: int = 0):
        self.images = images
        self.short, self.long = data.image_size, data.long_side
        self.has_masks = data.has_masks
        self.ranges = tuple(data.area_ranges())
        self.seed = seed
        self.mean, self.std = (255 * torch.tensor(values).view(3, 1, 1) for values in data.stats)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, Objects]:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key | int]) -> tuple[Tensor, Objects]:
        loaded = [self.load(key) for key in keys]
        height, width = (-(-max(each.image.shape[a] for each in loaded) // MULTIPLE) * MULTIPLE for a in (0, 1))
        images = torch.zeros(len(loaded), 3, height, width).contiguous(memory_format=torch.channels_last)
        masks = []
        for i, each in enumerate(loaded):
            h, w = each.image.shape[:2]
            pixels = torch.from_numpy(np.array(each.image)).permute(2, 0, 1)
            images[i, :, :h, :w] = (pixels - self.mean) / self.std
            if self.has_masks:
                masks.append(torch.from_numpy(np.pad(each.masks, ((0, 0), (0, height - h), (0, width - w)))))
        numbers = [(key,) if isinstance(key, int) else key for key in keys]
        return images, Objects(
            [torch.from_numpy(each.boxes.astype(np.float32)) for each in loaded],
            [torch.from_numpy(each.labels) for each in loaded],
            masks,
            [torch.from_numpy(each.has_mask) for each in loaded],
            [seed_of([self.seed, *number]) for number in numbers],
            [(each.image.shape[0], each.image.shape[1]) for each in loaded],
            [truth for key in keys if (truth := self.truth(key)) is not None],
            self.ranges,
        )

    def truth(self, key: Key | int) -> Truth | None:
        """What the detections are compared with, where the split is evaluated."""
        return None

    @abstractmethod
    def load(self, key: Key | int) -> Prepared:
        """An image with its objects, prepared."""

    def original(self, index: int) -> Prepared:
        """An image with its objects as they are stored. It may raise `Undecodable`."""
        image = np.asarray(self.images.decode(index))
        known = self.images.known(index)
        masks = np.zeros((len(known.labels) if self.has_masks else 0, *image.shape[:2]), np.uint8)
        has_mask = np.zeros(len(known.labels), bool)
        for i, number in enumerate(known.numbers.tolist() if self.has_masks else []):
            mask = self.images.mask(number, index)
            if mask is not None and mask.any():
                masks[i], has_mask[i] = mask, True
        return Prepared(image, known.boxes, known.labels, masks, has_mask)


class WholeObjects(_Objects):
    """A split that is evaluated: whole images; what detections are compared with is at the original size."""

    def load(self, key: Key | int) -> Prepared:
        assert isinstance(key, int)
        try:
            found = self.original(key)
        except Undecodable as error:
            raise refused(self.images.where(key), error) from None
        return resized(found, fitted(_size(found), self.short, self.long))

    def truth(self, key: Key | int) -> Truth:
        assert isinstance(key, int)
        return self.images.truth(key, self.has_masks)


class TrainingObjects(_Objects):
    """The training split, indexed by key: resized, cropped and flipped.

    Args:
        corrupt: notes what cannot be read; the next image of the split replaces it.
    """

    def __init__(self, images: CocoImages, data: CocoConfig, seed: int, recipe: RecipeConfig, corrupt: Corrupt):
        super().__init__(images, data, seed)
        self.recipe = recipe
        self.corrupt = corrupt

    def load(self, key: Key | int) -> Prepared:
        assert isinstance(key, tuple)
        rng = np.random.default_rng([self.seed, *key])
        found = self._read(key[1])
        if self.recipe.random_crop and rng.random() < 0.5:
            found = resized(found, fitted(_size(found), int(rng.choice(BEFORE_CROP)), self.long))
            found = cropped(found, draw_crop(_size(found), rng))
        short = int(rng.choice(self.recipe.short_sides)) if self.recipe.short_sides else self.short
        found = resized(found, fitted(_size(found), short, self.long))
        return turned(found, draw_symmetry(rng, self.recipe))

    def _read(self, index: int) -> Prepared:
        for other in chain(range(index, len(self)), range(index)):
            try:
                return self.original(other)
            except Undecodable as error:
                if self.corrupt.note(other, f"{self.images.where(other)} cannot be read ({error})"):
                    break
        raise too_many([self.images.where(i) for i in self.corrupt.found], self.corrupt)


def _size(found: Prepared) -> Size:
    return found.image.shape[0], found.image.shape[1]


def resized(found: Prepared, size: Size) -> Prepared:
    """Another size: the image bilinear, masks nearest."""
    height, width = _size(found)
    scale = np.array([size[1] / width, size[0] / height] * 2)
    masks = np.zeros((len(found.masks), *size), np.uint8)
    for i, mask in enumerate(found.masks):
        masks[i] = resize_labels(mask, size)
    return found._replace(image=resize_image(found.image, size), boxes=found.boxes * scale, masks=masks)


def draw_crop(size: Size, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Row, column, height and width of a crop, the sides drawn apart; the whole side where it is shorter."""
    low, high = CROP
    height, width = (int(rng.integers(min(side, low), min(side, high) + 1)) for side in size)
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(size, (height, width), strict=True))
    return top, left, height, width


def cropped(found: Prepared, crop: tuple[int, int, int, int]) -> Prepared:
    """A part of the image. Objects outside are left out; one whose mask lies outside trains no mask (mmdet)."""
    top, left, height, width = crop
    boxes = found.boxes - [left, top, left, top]
    boxes = np.stack([boxes[:, i].clip(0, (width, height)[i % 2]) for i in range(4)], 1)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    masks = found.masks[:, top : top + height, left : left + width]
    masks = masks[kept] if len(masks) else masks
    has_mask = found.has_mask[kept]
    if len(masks):
        has_mask = has_mask & masks.any((1, 2))
    image = found.image[top : top + height, left : left + width]
    return Prepared(image, boxes[kept], found.labels[kept], masks, has_mask)


def turned(found: Prepared, which: int) -> Prepared:
    """Turned and flipped by one of the symmetries of `data.symmetry`."""
    height, width = _size(found)
    x0, y0, x1, y1 = found.boxes.T
    for _ in range(which % 4):  # a quarter turn: what was on the right is on top
        x0, y0, x1, y1 = y0, width - x1, y1, width - x0
        height, width = width, height
    if which >= 4:
        x0, x1 = width - x1, width - x0
    masks = np.stack([apply_symmetry(mask, which) for mask in found.masks]) if len(found.masks) else found.masks
    image = apply_symmetry(found.image, which)
    if not len(found.masks):
        masks = np.zeros((0, *image.shape[:2]), np.uint8)
    return found._replace(image=image, boxes=np.stack([x0, y0, x1, y1], 1), masks=masks)

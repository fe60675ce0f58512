"""Augmentation by key: an image of an epoch looks the same whoever loads it, in whatever order, on whatever model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import Compose, RandomHorizontalFlip

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.data.corrupt import Corrupt, refused, too_many
from shunted_lab.data.decode import Undecodable
from shunted_lab.data.module import Key

Stats = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and standard deviation, RGB in [0, 1]


def is_light(recipe: RecipeConfig) -> bool:
    """Whether only flips and turns are asked for, which need no PIL."""
    return not (recipe.random_resized_crop or recipe.rand_augment or recipe.color_jitter or recipe.random_erasing)


def symmetry(rng: np.random.Generator, recipe: RecipeConfig) -> int:
    """Which of the 8 symmetries of the square: quarter turns 0 to 3, plus 4 for a flip after them."""
    if recipe.dihedral:
        return int(rng.integers(8))
    return 4 * int(rng.random() < recipe.hflip)


def turn(image: np.ndarray, which: int) -> np.ndarray:
    """(H, W, 3) -> the same pixels, turned and flipped; a view."""
    image = np.rot90(image, which % 4)
    return image[:, ::-1] if which >= 4 else image


def train_transform(
    recipe: RecipeConfig, image_size: int, interpolation: str, stats: Stats, fast: bool = False
) -> Callable[[Any], Tensor]:
    """timm's training transform, which draws from the global generators (see `Pictures`).

    It takes PIL images and gives timm's tensors, bit for bit. With `fast` torch resizes in Pillow's place: the draws
    are timm's, and the resized pixels are at most 2 of 255 away (0.01 in the mean).
    """
    options: dict[str, Any] = {} if recipe.random_resized_crop else {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    options |= {"hflip": 0.0 if recipe.dihedral else recipe.hflip, "auto_augment": recipe.rand_augment}
    options |= {"color_jitter": recipe.color_jitter or None, "re_prob": recipe.random_erasing, "re_mode": "pixel"}
    options |= {"interpolation": interpolation, "mean": stats[0], "std": stats[1]}
    made = with_normalised(create_transform(image_size, is_training=True, **options), stats)
    if not fast:
        return made
    crop, *rest = made.transforms
    of_pictures = not isinstance(next(step for step in rest if not isinstance(step, RandomHorizontalFlip)), Normalised)
    return Compose([ResizedCrop(crop, interpolation), *([ToPicture()] if of_pictures else []), *rest])


def eval_transform(image_size: int, interpolation: str, crop_pct: float, stats: Stats) -> Callable[[Any], Tensor]:
    """Resize, centre crop, normalise."""
    made = create_transform(image_size, interpolation=interpolation, crop_pct=crop_pct, mean=stats[0], std=stats[1])
    return with_normalised(made, stats)


def with_normalised(made: Compose, stats: Stats) -> Compose:
    """timm's transform with `Normalised` in the place of its two last steps but random erasing."""
    names = [type(step).__name__ for step in made.transforms]
    at = names.index("MaybeToTensor")
    assert names[at + 1] == "Normalize"
    return Compose([*made.transforms[:at], Normalised(stats), *made.transforms[at + 2 :]])


class Normalised:
    """A PIL image, or (3, H, W) uint8, as normalised float32, channels last in memory: torchvision's arithmetic, on
    whole rows of pixels."""

    def __init__(self, stats: Stats):
        self.stats = stats
        self._rows = torch.empty(0, 0)  # mean and deviation of each value in a row of pixels

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        pixels = (image if isinstance(image, Tensor) else _tensor(image)).permute(1, 2, 0)
        height, width, _ = pixels.shape
        if self._rows.shape[1] != 3 * width:
            self._rows = torch.tensor(self.stats).repeat(1, width)
        mean, std = self._rows
        rows = torch.empty(height, 3 * width).copy_(pixels.reshape(height, 3 * width))
        return rows.div_(255).sub_(mean).div_(std).view(height, width, 3).permute(2, 0, 1)


class ResizedCrop:
    """timm's crop with timm's draws: a PIL image -> (3, S, S) uint8. Torch resizes with antialias, as Pillow does, in a
    third of its time; it rounds the weights of the filter to 16 bits."""

    def __init__(self, crop: RandomResizedCropAndInterpolation, interpolation: str):
        self.crop = crop
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Tensor:
        top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        part = np.array(image.crop((left, top, left + width, top + height)))
        batch = torch.from_numpy(part)[None].permute(0, 3, 1, 2)  # in this order, or torch does not see channels last
        return F.interpolate(batch, self.crop.size, mode=self.interpolation, antialias=True)[0]


class ToPicture:
    """(3, H, W) uint8 -> a PIL image, for what Pillow alone does as timm does it."""

    def __call__(self, image: Tensor) -> Image.Image:
        return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _tensor(image: Image.Image) -> Tensor:
    """(3, H, W) uint8, channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Python's, numpy's and torch's global generators may be seeded here; they are put back."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def seed_generators(seed: Sequence[int]) -> None:
    draws = np.random.SeedSequence(seed).generate_state(3)
    random.seed(int(draws[0]))
    np.random.seed(int(draws[1]))
    torch.default_generator.manual_seed(int(draws[2]))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images through a transform. With a recipe it is a training split: indexed by key, each with its own draws.

    Args:
        picture: index -> a PIL image, which `transform` takes. Where it may raise `Undecodable`, it has `where(index)`.
        corrupt: notes what cannot be decoded in a training split. Another image takes its place: the next of the split
            that can be, with its own label and the draws of the key, so that it follows from the index alone.
    """

    def __init__(
        self,
        picture: Any,
        labels: Sequence[int],
        transform: Callable[[Any], Tensor],
        recipe: RecipeConfig | None = None,
        seed: int = 0,
        corrupt: Corrupt | None = None,
    ):
        self.picture = picture
        self.labels = labels
        self.transform = transform
        self.recipe = recipe
        self.seed = seed
        self.corrupt = corrupt

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, int]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key | int]) -> list[tuple[Tensor, int]]:
        """The images of a batch, for which the generators are kept once: it takes as long as to crop an image.

        Raises:
            CorruptImages: for more corrupt images than may be replaced, or for any in a split that is evaluated.
        """
        with kept_generators():
            return [self._load(key) for key in keys]

    def _load(self, key: Key | int) -> tuple[Tensor, int]:
        if self.recipe is None:
            assert isinstance(key, int)
            return self.transform(self._decoded(key)[0]), int(self.labels[key])
        assert isinstance(key, tuple)
        image, index = self._decoded(key[1])
        if self.recipe.dihedral:
            which = symmetry(np.random.default_rng([self.seed, *key]), self.recipe)
            image = Image.fromarray(np.ascontiguousarray(turn(np.asarray(image), which)))
        seed_generators([self.seed, *key])
        return self.transform(image), int(self.labels[index])

    def _decoded(self, index: int) -> tuple[Image.Image, int]:
        """An image, and the index of which it is."""
        for other in chain(range(index, len(self)), range(index)):
            try:
                return self.picture(other), other
            except Undecodable as error:
                name = self.picture.where(other)
                if self.corrupt is None:
                    raise refused(name, error) from None
                if self.corrupt.note(other, f"{name} cannot be decoded ({error})"):
                    break
        assert self.corrupt is not None
        raise too_many([self.picture.where(i) for i in self.corrupt.found], self.corrupt)

"""Augmentation by key: an image of an epoch looks the same whoever loads it, in whatever order, on whatever model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset

from shunted_lab.config import RecipeConfig
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


def train_transform(recipe: RecipeConfig, image_size: int, interpolation: str, stats: Stats) -> Callable[[Any], Tensor]:
    """timm's training transform of a PIL image; it draws from the global generators (see `seeded`)."""
    options: dict[str, Any] = {} if recipe.random_resized_crop else {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    options |= {"hflip": 0.0 if recipe.dihedral else recipe.hflip, "auto_augment": recipe.rand_augment}
    options |= {"color_jitter": recipe.color_jitter or None, "re_prob": recipe.random_erasing, "re_mode": "pixel"}
    options |= {"interpolation": interpolation, "mean": stats[0], "std": stats[1]}
    return create_transform(image_size, is_training=True, **options)


def eval_transform(image_size: int, interpolation: str, crop_pct: float, stats: Stats) -> Callable[[Any], Tensor]:
    """Resize, centre crop, normalise."""
    return create_transform(image_size, interpolation=interpolation, crop_pct=crop_pct, mean=stats[0], std=stats[1])


@contextmanager
def seeded(seed: Sequence[int]) -> Iterator[None]:
    """Python's, numpy's and torch's global generators, seeded for a while and then put back."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    draws = np.random.SeedSequence(seed).generate_state(3)
    random.seed(int(draws[0]))
    np.random.seed(int(draws[1]))
    torch.default_generator.manual_seed(int(draws[2]))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images through a transform. With a recipe it is a training side: indexed by key, each with its own draws."""

    def __init__(
        self,
        picture: Callable[[int], Image.Image],
        labels: Sequence[int],
        transform: Callable[[Any], Tensor],
        recipe: RecipeConfig | None = None,
        seed: int = 0,
    ):
        self.picture = picture
        self.labels = labels
        self.transform = transform
        self.recipe = recipe
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, int]:
        if self.recipe is None:
            assert isinstance(key, int)
            return self.transform(self.picture(key)), int(self.labels[key])
        assert isinstance(key, tuple)
        image = self.picture(key[1])
        if self.recipe.dihedral:
            which = symmetry(np.random.default_rng([self.seed, *key]), self.recipe)
            image = Image.fromarray(np.ascontiguousarray(turn(np.asarray(image), which)))
        with seeded([self.seed, *key]):
            return self.transform(image), int(self.labels[key[1]])

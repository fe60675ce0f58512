"""Flips and quarter turns of whole images, which need no PIL: the light augmentation."""

from __future__ import annotations

import numpy as np

from shunted_lab.config.recipe import RecipeConfig


def needs_no_pil(recipe: RecipeConfig) -> bool:
    """Whether a recipe only flips and turns images."""
    return not (recipe.random_resized_crop or recipe.rand_augment or recipe.color_jitter or recipe.random_erasing)


def draw_symmetry(rng: np.random.Generator, recipe: RecipeConfig) -> int:
    """Draw one of the 8 symmetries of the square: 0 to 3 quarter turns, plus 4 for a horizontal flip after them."""
    if recipe.dihedral:
        return int(rng.integers(8))
    return 4 * int(rng.random() < recipe.hflip)


def apply_symmetry(image: np.ndarray, which: int) -> np.ndarray:
    """(H, W, 3) or (H, W) -> the same pixels, turned and flipped; a view. H and W change places after an odd turn."""
    image = np.rot90(image, which % 4)
    return image[:, ::-1] if which >= 4 else image

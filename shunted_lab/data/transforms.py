"""The transforms of timm with faster steps in them: resizing by torch, and normalizing of whole rows of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import Compose, RandomHorizontalFlip

from shunted_lab.config.data import Stats
from shunted_lab.config.recipe import RecipeConfig


def train_transform(
    recipe: RecipeConfig, image_size: int, interpolation: str, stats: Stats, fast: bool = False
) -> Callable[[Any], Tensor]:
    """timm's training transform, which draws from the global generators (see `dataset.TransformedImages`).

    It takes PIL images and gives timm's tensors, bit for bit. With `fast`, torch resizes instead of Pillow: the
    draws are timm's, and the resized pixels differ by at most 2 of 255 (0.01 on average).
    """
    options: dict[str, Any] = {} if recipe.random_resized_crop else {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    options |= {"hflip": 0.0 if recipe.dihedral else recipe.hflip, "auto_augment": recipe.rand_augment}
    options |= {"color_jitter": recipe.color_jitter or None, "re_prob": recipe.random_erasing, "re_mode": "pixel"}
    options |= {"interpolation": interpolation, "mean": stats[0], "std": stats[1]}
    made = with_normalize(create_transform(image_size, is_training=True, **options), stats)
    if not fast:
        return made
    crop, *rest = made.transforms
    needs_pil = not isinstance(next(step for step in rest if not isinstance(step, RandomHorizontalFlip)), Normalize)
    return Compose([ResizedCrop(crop, interpolation), *([ToPIL()] if needs_pil else []), *rest])


def eval_transform(image_size: int, interpolation: str, crop_pct: float, stats: Stats) -> Callable[[Any], Tensor]:
    """timm's transform for evaluation: resize, centre crop, normalize."""
    made = create_transform(image_size, interpolation=interpolation, crop_pct=crop_pct, mean=stats[0], std=stats[1])
    return with_normalize(made, stats)


def with_normalize(made: Compose, stats: Stats) -> Compose:
    """timm's transform with `Normalize` in place of its last two steps before random erasing."""
    names = [type(step).__name__ for step in made.transforms]
    at = names.index("MaybeToTensor")
    assert names[at + 1] == "Normalize"
    return Compose([*made.transforms[:at], Normalize(stats), *made.transforms[at + 2 :]])


class Normalize:
    """A PIL image, or (3, H, W) uint8, as normalized float32, channels last in memory: torchvision's arithmetic, on
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
    """timm's crop with timm's draws: a PIL image -> (3, S, S) uint8. Torch resizes with antialiasing, as Pillow does,
    in a third of the time; it rounds the weights of the filter to 16 bits."""

    def __init__(self, crop: RandomResizedCropAndInterpolation, interpolation: str):
        self.crop = crop
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Tensor:
        top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        part = np.array(image.crop((left, top, left + width, top + height)))
        batch = torch.from_numpy(part)[None].permute(0, 3, 1, 2)  # in this order, or torch does not see channels last
        return F.interpolate(batch, self.crop.size, mode=self.interpolation, antialias=True)[0]


class ToPIL:
    """(3, H, W) uint8 -> a PIL image, for the steps that only Pillow computes as timm does."""

    def __call__(self, image: Tensor) -> Image.Image:
        return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _tensor(image: Image.Image) -> Tensor:
    """(3, H, W) uint8, channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)

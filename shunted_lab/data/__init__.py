"""Data sets and their LightningDataModules. Importing this is instant; torch is imported by `make_datamodule`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shunted_lab.config.data import DataConfig, DataFacts
from shunted_lab.config.recipe import RecipeConfig

if TYPE_CHECKING:
    from torch import Tensor

    from shunted_lab.data.module import ImageData

__all__ = ["DataFacts", "check_data", "eval_transform", "make_datamodule", "whole_transform"]


def check_data(data: DataConfig, tested_only: bool = False) -> DataFacts:
    """Check that a data set is complete (`DataConfig.check`)."""
    return data.check(tested_only)


def make_datamodule(
    data: DataConfig, recipe: RecipeConfig, seed: int, num_workers: int = 0, batch_size: int | None = None
) -> ImageData:
    """The data module of a run. Batches are images `(B, 3, H, W)` float32 and their targets (`DataConfig.make_splits`).

    Args:
        data: which data set, and its sizes. Its files are taken as checked (`check_data`).
        recipe: augmentation of the training split.
        seed: with the epoch and the image, the only source of order and augmentation.
        num_workers: processes that load; changes no image.
        batch_size: images that are loaded at a time; None: `data.batch_size`, of one optimizer step on all devices.
    """
    from shunted_lab.data.module import ImageData

    return ImageData(
        data.make_splits(recipe, seed), batch_size or data.batch_size, seed, recipe.repeated_aug, num_workers
    )


def eval_transform(data: DataConfig) -> Callable[[Any], Tensor]:
    """Prepares a PIL image as those of the test split: (3, H, W) float32, normalized; where images are evaluated as a
    whole (`whole_transform`) as large as they are then, else (3, image_size, image_size).
    """
    if hasattr(data, "sizes"):
        return whole_transform(data)
    from shunted_lab.data.transforms import eval_transform

    interpolation, crop = getattr(data, "interpolation", "bicubic"), getattr(data, "crop_pct", 1.0)
    return eval_transform(data.image_size, interpolation, crop, data.stats)


def whole_transform(data: DataConfig) -> Callable[[Any], Tensor]:
    """Prepares a PIL image without a crop: (3, H, W) float32, normalized, as large as images with label maps or objects
    are evaluated; the shorter side is `image_size` where the data set has images of one size only.
    """
    from shunted_lab.data.geometry import ImageSizes
    from shunted_lab.data.label_crops import whole_image

    sizes = getattr(data, "sizes", None)
    return whole_image(data.stats, ImageSizes(data.image_size, 4 * data.image_size, 1) if sizes is None else sizes)

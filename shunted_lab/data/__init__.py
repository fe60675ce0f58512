"""Data sets and their LightningDataModules. Importing this is instant; torch is imported by `make_datamodule`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shunted_lab.config.data import DataConfig, DataFacts
from shunted_lab.config.recipe import RecipeConfig

if TYPE_CHECKING:
    from torch import Tensor

    from shunted_lab.data.module import ImageData

__all__ = ["DataFacts", "check_data", "eval_transform", "make_datamodule"]


def check_data(data: DataConfig, tested_only: bool = False) -> DataFacts:
    """Check that a data set is complete (`DataConfig.check`)."""
    return data.check(tested_only)


def make_datamodule(data: DataConfig, recipe: RecipeConfig, seed: int, num_workers: int = 0) -> ImageData:
    """The data module of a run. Batches are `(B, 3, image_size, image_size)` float32 and `(B,)` int64;
    of data=scales `(B, 6)` float32, the size of each class's object.

    Args:
        data: which data set, and its sizes. Its files are taken as checked (`check_data`).
        recipe: augmentation of the training split.
        seed: with the epoch and the image, the only source of order and augmentation.
        num_workers: processes that load; changes no image.
    """
    from shunted_lab.data.module import ImageData

    return ImageData(data.make_splits(recipe, seed), data.batch_size, seed, recipe.repeated_aug, num_workers)


def eval_transform(data: DataConfig) -> Callable[[Any], Tensor]:
    """Prepares a PIL image as those of the test split: (3, H, W) float32, normalized; of data with label maps in files
    as large as they are evaluated, else (3, image_size, image_size).
    """
    from shunted_lab.data.label_files import LabelFilesConfig

    if isinstance(data, LabelFilesConfig):
        from shunted_lab.data.label_crops import whole_image

        return whole_image(data.stats, data.sizes)
    from shunted_lab.data.transforms import eval_transform

    interpolation, crop = getattr(data, "interpolation", "bicubic"), getattr(data, "crop_pct", 1.0)
    return eval_transform(data.image_size, interpolation, crop, data.stats)

"""Where a data set must lie, and the errors that say so."""

from __future__ import annotations

from pathlib import Path

from shunted_lab.config.data import CIFAR100Config, FolderConfig, ImageNetConfig, INat2018Config
from shunted_lab.config.schema import ConfigError


def root_of(data: FolderConfig) -> Path:
    """The folder of a data set.

    Raises:
        ConfigError: if it is not a folder.
    """
    root = Path(data.root)
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise ConfigError(f"data.root: '{data.root}' {state}; data={data.name} expects {_tree(data)}")
    return root


def absent(data: FolderConfig, path: Path, what: str = "is absent") -> ConfigError:
    """The error for a path below `data.root` that is not as it must be."""
    return ConfigError(f"data.root: {path} {what}; data={data.name} expects {_tree(data)}")


def _tree(data: FolderConfig) -> str:
    if isinstance(data, CIFAR100Config):
        return "cifar-100-python/{train,test,meta} in it"
    if isinstance(data, ImageNetConfig):
        return "train/n01440764/*.JPEG and val/n01440764/*.JPEG in it, for 1000 classes"
    if isinstance(data, INat2018Config):
        year, images = data.year, f"train_val{data.year}"
        return (
            f"train{year}.json, val{year}.json, categories.json and {images}/SUPERCATEGORY/ID/*.jpg in it "
            f"(or {images}/ID/*.jpg)"
        )
    return "train/CLASS/*.jpg and val/CLASS/*.jpg (and test/CLASS/*.jpg, if there is one) in it"

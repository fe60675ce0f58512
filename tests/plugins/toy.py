"""A data set, a task and a command as a user would write them, in one file outside of the package.

The task is a regression: the mean brightness of an image, in grey values of 255, measured by the mean absolute error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import MeanAbsoluteError, MetricCollection

from shunted_lab.command import run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.data import DataConfig, DataFacts
from shunted_lab.config.help import help_text
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.schema import at_least, group, option
from shunted_lab.config.task import Goal, Metric, TaskConfig
from shunted_lab.data.module import Splits
from shunted_lab.nn import Pyramid
from shunted_lab.output.files import atomic
from shunted_lab.output.quantities import Unit

GREY = Unit("grey values", 255, 1)
STATS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@dataclass
class Patches(DataConfig):
    """Grey patches with noise, whose brightness is known."""

    image_size: int = option(32, "pixels on each side")
    batch_size: int = option(8, "images in a training batch")
    noise: float = option(0.05, "standard deviation of the noise, as a fraction of white")
    images: int = option(32, "images of each split")

    targets: ClassVar[tuple[str, ...]] = ("brightness",)
    synthetic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "data", self, "images")

    @property
    def stats(self) -> Any:
        return STATS

    def check(self, tested_only: bool = False) -> DataFacts:
        return DataFacts((), "patches-1")

    def make_splits(self, recipe: Any, seed: int) -> Splits:
        return Splits(*(Split(self, number) for number in range(3)), class_names=[])


class Split(Dataset[Any]):
    """(3, S, S) normalized images and their mean brightness in [0, 1]."""

    def __init__(self, data: Patches, number: int):
        rng = np.random.default_rng(number)
        self.values = rng.uniform(0.1, 0.9, data.images).astype(np.float32)
        noise = rng.normal(0, data.noise, (data.images, 1, data.image_size, data.image_size))
        pixels = torch.from_numpy((self.values[:, None, None, None] + noise).astype(np.float32))
        self.images = ((pixels - 0.5) / 0.25).expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.values)

    def __getitems__(self, keys: Sequence[Any]) -> tuple[Tensor, Tensor]:
        indices = [key if isinstance(key, int) else key[1] for key in keys]
        return self.images[indices], torch.from_numpy(self.values[indices])


class Regressor(nn.Module):
    """A backbone with one output."""

    def __init__(self, backbone: Pyramid):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)[:, 0]


@dataclass(frozen=True)
class Errors:
    """The brightness of each test image, and the error of its prediction."""

    targets: np.ndarray
    errors: np.ndarray
    class_names: tuple[str, ...] = ()
    is_binary: bool = False
    counts: None = None
    marks: None = None

    @property
    def scores(self) -> np.ndarray:
        return self.errors

    @property
    def images(self) -> str:
        return hashlib.sha256(self.targets.tobytes()).hexdigest()

    def per_class(self) -> None:
        return None

    def captions(self, images: Sequence[int]) -> list[str]:
        return [f"{255 * self.targets[i]:.0f}" for i in images]

    def write(self, folder: Path) -> Path:
        with atomic(folder / "errors.npz") as file:
            np.savez_compressed(file, targets=self.targets, errors=self.errors)
        return folder / "errors.npz"


@dataclass
class Brightness(TaskConfig):
    """Regression of the mean brightness."""

    weight: float = option(1.0, "factor of the loss")

    needs: ClassVar[str] = "brightness"

    def goal(self, data: Any, classes: int = 0) -> Goal:
        return Goal((Metric("mae", "Error", "Mean absolute error of the brightness", GREY, "min"),), "mae")

    def build(self, model: ModelConfig, classes: int) -> nn.Module:
        return Regressor(Pyramid(**model.options(), num_classes=1))

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return self.weight * (outputs.float() - targets).square().mean()

    def make_metrics(self, data: Any, classes: int) -> MetricCollection:
        return MetricCollection({"mae": MeanAbsoluteError()})

    def evidence_of_batch(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return targets, (outputs.float() - targets).abs()

    def evidence(self, parts: Sequence[np.ndarray], class_names: Sequence[str], data: DataConfig) -> Errors:
        return Errors(*parts)


HELP = """\
usage: python toy.py [data=NAME] [key=value ...]

Prints the number of pixels of a data set's images.
"""


@dataclass
class PixelsConfig:
    """The configuration of the command."""

    data: DataConfig = group("toy.Patches")
    factor: int = option(1, "printed so many times larger")


def main(overrides: Sequence[str] | None = None) -> int:
    return run_command(overrides, lambda: help_text(HELP, PixelsConfig), act)


def act(overrides: list[str]) -> None:
    config = compose_as(PixelsConfig, overrides)
    print(config.factor * config.data.image_size**2)

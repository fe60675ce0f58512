"""The configurations of the thin commands beside `run`: dashboard, attention, costs, evaluation and shards."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from shunted_lab.config import PRECISIONS, DataConfig
from shunted_lab.models import ModelConfig
from shunted_lab.schema import ConfigError, option, path_option, require, unknown

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass
class DashboardConfig:
    """The configuration of `python -m shunted_lab.dashboard`."""

    runs_dir: str = path_option("runs", "folder of all results")
    storage: str | None = option(None, "SQLAlchemy URL of further studies, as in study.storage")
    port: int = option(8080, "port on this machine; other machines cannot connect, since there is no login")
    refresh: float = option(5.0, "seconds between copies")

    def __post_init__(self) -> None:
        require(0 < self.port < 65536, "port", self.port, "is not between 1 and 65535")
        require(self.refresh > 0, "refresh", self.refresh, "is not above 0")


@dataclass
class AttentionConfig:
    """The configuration of `python -m shunted_lab.attention`."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"model": "shunted_s"}])
    model: ModelConfig = MISSING
    checkpoint: str = path_option(MISSING, "a run's folder, or a .ckpt in it; or official weights for model=...")
    image: str = path_option(MISSING, "the image file")
    mask: str | None = path_option(
        None, "an image whose bright pixels are the object: prints its share of the attention / its share of the area"
    )
    query: list[float] = option(
        [0.5, 0.5], "the point whose attention is drawn: y, x as fractions of height and width, in [0, 1)"
    )
    size: Any = option(
        None,
        "resize the image to this size: one number, or height x width, e.g. 224 or 800x1333; null keeps its own",
        type="int | HxW | null",
    )
    out: str = path_option("attention.png", "the figure: .png, .svg or .pdf")

    def __post_init__(self) -> None:
        inside = len(self.query) == 2 and all(0 <= value < 1 for value in self.query)
        require(inside, "query", self.query, "is not a point: y and x, each in [0, 1), e.g. [0.5,0.25]")
        if self.size is not None and not re.fullmatch(r"\d+(x\d+)?", str(self.size)):
            raise ConfigError(
                f"size: '{self.size}' is not a size; write one number, or height x width, e.g. 224 or 800x1333"
            )


@dataclass
class CostConfig:
    """The configuration of `python -m shunted_lab.cost`."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"model": "shunted_s"}])
    model: ModelConfig = MISSING
    size: Any = option(224, "pixels of the image: one number, or height x width, e.g. 800x1333", type="int | HxW")
    num_classes: int = option(1000, "number of classes; 0: without a head")
    measure: bool = option(False, "time a forward pass on the device, and its peak memory")
    training: bool = option(False, "measure forward and backward")
    batch_size: int = option(1, "images in the batch that is measured")
    repeats: int = option(10, "timed passes, after 3 for warm-up; the median is shown")
    device: str = option("auto", "where to measure: auto, cpu, cuda, mps")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+(x\d+)?", str(self.size)):
            raise ConfigError(
                f"size: '{self.size}' is not a size; write one number, or height x width, e.g. 224 or 800x1333"
            )
        require(min(self.height_width) >= 32, "size", self.size, "is too small for four stages: at least 32 x 32")
        require(self.num_classes >= 0, "num_classes", self.num_classes, "is negative")
        for name in ("batch_size", "repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "is too small: at least 1")
        if self.device not in DEVICES:
            raise unknown("device", self.device, DEVICES)
        require(self.measure or not self.training, "training", self.training, "does nothing without measure=true")

    @property
    def height_width(self) -> tuple[int, int]:
        height, _, width = str(self.size).partition("x")
        return int(height), int(width or height)


@dataclass
class EvaluateConfig:
    """The configuration of `python -m shunted_lab.evaluate`."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"model": "shunted_s"}, {"data": "imagenet"}])
    checkpoint: str = path_option(MISSING, "a run's folder, or a .ckpt in it; or a file of weights for model=...")
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    split: str = option("test", "which split of the data: test, val")
    limit_batches: int | None = option(None, "evaluate at most this many batches; null: all")
    device: str = option("auto", "auto, cpu, cuda, mps")
    precision: str | None = option(
        None, f"arithmetic: {', '.join(PRECISIONS)}; null: that of the run, or 32-true for a file of weights"
    )
    num_workers: int = option(0, "processes that load images")
    out: str | None = path_option(None, "a .json file for all results, the configuration and the versions of libraries")

    def __post_init__(self) -> None:
        if self.split not in ("test", "val"):
            raise unknown("split", self.split, ("test", "val"))
        if self.device not in DEVICES:
            raise unknown("device", self.device, DEVICES)
        if self.precision not in (None, *PRECISIONS):
            raise unknown("precision", self.precision, PRECISIONS)
        require(self.num_workers >= 0, "num_workers", self.num_workers, "is negative")
        good = self.limit_batches is None or self.limit_batches >= 1
        require(good, "limit_batches", self.limit_batches, "is too small: at least 1")
        if self.out is not None and not self.out.endswith(".json"):
            raise ConfigError(f"out: '{self.out}' is not a .json file")


@dataclass
class ConvertConfig:
    """The configuration of `python -m shunted_lab.data.shards`."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"data": "folder"}])
    data: DataConfig = MISSING
    out: str = path_option(MISSING, "folder of the shards, or an fsspec URL, e.g. s3://bucket/flowers")
    shard_mb: float = option(
        256.0, "largest size of a shard in megabytes (1e6 bytes); a larger image gets its own shard"
    )
    shuffle_seed: int = option(0, "seed of the order in which training images are written")
    verify: bool = option(True, "decode every image, and refuse images that cannot be decoded")

    def __post_init__(self) -> None:
        require(self.shard_mb > 0, "shard_mb", self.shard_mb, "is not above 0")
        require(self.shuffle_seed >= 0, "shuffle_seed", self.shuffle_seed, "is negative")

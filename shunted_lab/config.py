"""Every configuration dataclass and every preset; nothing heavy is imported here.

The dataclasses are the schema: Hydra refuses an unknown key or a wrong type, and each `__post_init__` refuses a value
that cannot work, in one line with the dotted key, the value and the choices. `metadata["help"]` goes into `--help`.

The dataclasses are not frozen: OmegaConf turns a frozen one into a read-only node, which no override could change.
Nobody assigns to one after it has been composed; `dataclasses.replace` makes the variants.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from shunted_lab.models import COMPONENTS, MODELS, ModelConfig
from shunted_lab.schema import ConfigError, at_least, fractions, nearest, option, require, unknown
from shunted_lab.studies import (
    MEASURED_LATER,
    RERUNS,
    ConfirmConfig,
    LaunchConfig,
    SearchConfig,
    SlurmConfig,
    StudyConfig,
)

__all__ = [
    "COMPONENTS",
    "MEASURED_LATER",
    "MODELS",
    "PRESETS",
    "Config",
    "ConfigError",
    "LaunchConfig",
    "ModelConfig",
    "SearchConfig",
    "SlurmConfig",
    "nearest",
    "unknown",
]

PRECISIONS = ("mixed", "32-true", "16-mixed", "bf16-mixed")
SCHEDULES = ("epoch", "step")


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass
class DataConfig:
    """What every data set has. Batches are `(B, 3, image_size, image_size)` images and `(B,)` labels."""

    name: str = MISSING
    image_size: int = option(224, "pixels on each side of an image as the model sees it; at least 32")
    batch_size: int = option(128, "images in a training batch")
    num_classes: int | None = option(None, "number of classes; null counts them")

    synthetic: ClassVar[bool] = False  # said wherever results are shown

    def __post_init__(self) -> None:
        require(self.name == type(self).name, "data.name", self.name, f"is fixed: '{type(self).name}'")
        # Strides reach 32 in the fourth stage.
        require(self.image_size >= 32, "data.image_size", self.image_size, "is too small for four stages: at least 32")
        at_least(1, "data", self, "batch_size")


@dataclass
class EarthConfig(DataConfig):
    """Satellite colour with land-cover labels; ships with the package (`data/earth/README.md`)."""

    name: str = "earth"
    image_size: int = option(64, "pixels on each side; tiles of 64 are resized to it")
    batch_size: int = option(64, "images in a training batch")
    num_classes: int | None = option(9, "number of classes; fixed")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes == 9, "data.num_classes", self.num_classes, "is wrong: earth has 9 classes")


@dataclass
class ScalesConfig(DataConfig):
    """SYNTHETIC: two shapes over real textures, whose sizes differ by a known factor (`data/scales/README.md`)."""

    name: str = "scales"
    image_size: int = option(128, "pixels on each side")
    batch_size: int = option(64, "images in a training batch")
    num_classes: int | None = option(6, "number of classes; fixed")
    size_ratio: float = option(4.0, "diameter of an image's larger object over that of the smaller: 1 to 16")
    scene_seed: int = option(0, "which scenes; all runs of an experiment see the same")
    train_images: int = option(4000, "scenes for training")
    val_images: int = option(500, "scenes for validation")
    test_images: int = option(1000, "scenes for the test")
    cache: str | None = option(
        None, "folder where scenes are kept once drawn; null: ~/.cache/shunted_lab", result=False
    )

    synthetic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes == 6, "data.num_classes", self.num_classes, "is wrong: scales has 6 classes")
        require(1 <= self.size_ratio <= 16, "data.size_ratio", self.size_ratio, "is not between 1 and 16")
        require(self.image_size >= 64, "data.image_size", self.image_size, "is too small for its objects: at least 64")
        at_least(0, "data", self, "scene_seed")
        at_least(1, "data", self, "train_images", "val_images", "test_images")


@dataclass
class FolderConfig(DataConfig):
    """Images in `root/train/CLASS/*` and `root/val/CLASS/*` (and `root/test/CLASS/*`, where there is one)."""

    name: str = "folder"
    root: str = field(default=MISSING, metadata={"help": "folder of the data set", "result": False})
    val_fraction: float = option(0.1, "share of train/ held back for validation, where val/ serves as the test")
    crop_pct: float = option(0.875, "evaluation: centre crop / resized shorter side")
    interpolation: str = option("bicubic", "resizing: bicubic, bilinear")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "is not between 0 and 1")
        require(0 < self.crop_pct <= 1, "data.crop_pct", self.crop_pct, "is not above 0 and at most 1")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise unknown("data.interpolation", self.interpolation, ("bicubic", "bilinear"))


@dataclass
class ImageNetConfig(FolderConfig):
    """ImageNet-1K in the usual folders: `root/train/n01440764/*.JPEG`, `root/val/n01440764/*.JPEG`."""

    name: str = "imagenet"
    num_classes: int | None = option(1000, "number of classes; fixed")
    val_fraction: float = option(0.01, "share of train/ held back for validation; val/ is the test")


@dataclass
class CIFAR100Config(FolderConfig):
    """CIFAR-100 as torchvision unpacks it: `root/cifar-100-python/{train,test,meta}`."""

    name: str = "cifar100"
    image_size: int = option(32, "pixels on each side; images of 32 are resized to it")
    num_classes: int | None = option(100, "number of classes; fixed")
    crop_pct: float = option(1.0, "evaluation: centre crop / resized shorter side")


@dataclass
class ShardsConfig(FolderConfig):
    """Images in tars, as `python -m shunted_lab.data.shards` writes them: for slow file systems and object storage."""

    name: str = "shards"
    root: str = field(default=MISSING, metadata={"help": "folder of the shards, or their fsspec URL", "result": False})
    mix_shards: int = option(16, "training shards whose images are shuffled together")
    cache: str | None = option(
        None, "folder where shards of a URL are kept; null: ~/.cache/shunted_lab/shards", result=False
    )
    cache_gb: float = option(
        50.0, "gigabytes (1e9 bytes) that the cache holds at most; the shards that were used last stay", result=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "data", self, "mix_shards")
        require(self.cache_gb > 0, "data.cache_gb", self.cache_gb, "is not above 0")


# --- recipe ----------------------------------------------------------------------------------------------------------


@dataclass
class RecipeConfig:
    """How a model is trained. The defaults are the paper's recipe for ImageNet-1K.

    They are those of DeiT (arXiv 2012.12877, table 9), on whose training script the authors' is built; `min_lr`,
    `warmup_lr`, `color_jitter` and `opt_eps` are that script's defaults, and its arithmetic is mixed (float16). Drop
    path and the gradient's clip differ by size: they are in the model's preset. Averages of the weights, gradient
    checkpointing and the compiler are not the paper's.
    """

    name: str = option("paper", "label of the preset, shown in tables", result=False)
    epochs: int = option(300, "passes over the training images")
    lr: float = option(5e-4, "peak learning rate, for lr_batch images in a batch")
    lr_batch: int | None = option(512, "lr is multiplied by batch / lr_batch; null takes lr as it is")
    min_lr: float = option(1e-5, "learning rate at the end of the cosine")
    warmup_epochs: float = option(5.0, "epochs of linear warm-up")
    warmup_lr: float = option(1e-6, "learning rate at the start of the warm-up")
    schedule: str = option("epoch", "when the rate changes: each epoch as in timm, or each step (cosine after warm-up)")
    weight_decay: float = option(0.05, "AdamW weight decay; none on biases and norms")
    opt_eps: float = option(1e-8, "AdamW epsilon")
    clip_grad: float | None = option(None, "largest gradient norm; 0 does not clip; null takes model.clip_grad")
    label_smoothing: float = option(0.1, "label smoothing")
    mixup: float = option(0.8, "mixup alpha; 0 is off")
    cutmix: float = option(1.0, "cutmix alpha; 0 is off")
    random_resized_crop: bool = option(True, "crops of random size and aspect")
    hflip: float = option(0.5, "probability of a horizontal flip")
    dihedral: bool = option(False, "one of the 8 flips and quarter turns; for images without an up side")
    rand_augment: str | None = option("rand-m9-mstd0.5-inc1", "RandAugment in timm's notation; null is off")
    color_jitter: float = option(0.4, "colour jitter; used where rand_augment is off, as in timm")
    random_erasing: float = option(0.25, "probability of erasing a rectangle")
    repeated_aug: int = option(3, "copies of an image in a row, each augmented anew; 1 is off")
    precision: str = option("mixed", "32-true, 16-mixed, bf16-mixed, or mixed: bf16 where the device has it, else 16")
    sync_bn: bool = option(True, "BatchNorm over the batches of all devices of a run, where it has several")
    ema: float | None = option(None, "decay of an average of the weights, tested in their place; null keeps none")
    grad_checkpointing: bool = option(False, "compute blocks again in the backward pass: less memory, more time")
    select: str = option("last", "which epoch is tested: last, or best (by validation)")
    limit_batches: int | None = option(None, "at most so many batches of each split; null takes all")

    def __post_init__(self) -> None:
        at_least(1, "recipe", self, "epochs", "repeated_aug")
        require(self.lr > 0, "recipe.lr", self.lr, "is not above 0")
        at_least(0, "recipe", self, "min_lr", "warmup_epochs", "warmup_lr", "weight_decay", "opt_eps")
        at_least(0, "recipe", self, "mixup", "cutmix", "color_jitter")
        require(self.clip_grad is None or self.clip_grad >= 0, "recipe.clip_grad", self.clip_grad, "is below 0")
        fractions("recipe", self, "hflip", "random_erasing", "label_smoothing")
        for name in ("lr_batch", "limit_batches"):
            value = getattr(self, name)
            require(value is None or value > 0, f"recipe.{name}", value, "is not above 0")
        require(
            not (self.dihedral and self.hflip),
            "recipe.hflip",
            self.hflip,
            "does nothing beside recipe.dihedral; set it to 0",
        )
        if self.rand_augment is not None and not re.fullmatch(r"rand(-[a-z]+[\d.]+)+", self.rand_augment):
            raise ConfigError(
                f"recipe.rand_augment: '{self.rand_augment}' is not of timm's form, e.g. rand-m9-mstd0.5-inc1"
            )
        require(self.ema is None or 0 < self.ema < 1, "recipe.ema", self.ema, "is not between 0 and 1")
        if self.schedule not in SCHEDULES:
            raise unknown("recipe.schedule", self.schedule, SCHEDULES)
        if self.select not in ("last", "best"):
            raise unknown("recipe.select", self.select, ("last", "best"))
        if self.precision not in PRECISIONS:
            raise unknown("recipe.precision", self.precision, PRECISIONS)


LITE_RECIPE = RecipeConfig(
    name="lite",
    epochs=4,
    lr=1.5e-3,
    lr_batch=None,
    warmup_epochs=0.5,
    schedule="step",
    mixup=0.0,
    cutmix=0.0,
    random_resized_crop=False,
    hflip=0.0,
    dihedral=True,
    rand_augment=None,
    color_jitter=0.0,
    random_erasing=0.0,
    repeated_aug=1,
    precision="32-true",
)


# --- experiment ------------------------------------------------------------------------------------------------------


@dataclass
class PaperConfig:
    """The published side of an experiment: the scale to count costs at, and numbers that have a source."""

    model: str = option("shunted_s", "model preset whose variants are counted")
    image_size: int = option(224, "pixels on each side")
    source: str | None = option(None, "where the numbers in rows stand")
    rows: dict[str, dict[str, Any]] = option({}, "VARIANT: {top1: %, params: M, flops: G}; unknown ones left out")


@dataclass
class Config:
    """The whole configuration of one command."""

    defaults: list[Any] = field(
        default_factory=lambda: [
            "_self_",
            {"model": "shunted_lite"},
            {"data": "earth"},
            {"recipe": "lite"},
            {"launch": "local"},
            {"experiment": None},
        ]
    )
    name: str = option("", "the experiment's name: its file's, and its folder's in runs_dir", result=False)
    description: str = option("", "one line for the table's caption", result=False)
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    recipe: RecipeConfig = MISSING
    launch: LaunchConfig = MISSING
    seeds: list[int] = option([0, 1, 2], "one run per seed and variant")
    baseline: str | None = option(None, "the variant that the others are compared with")
    variants: dict[str, dict[str, Any]] = option({}, "NAME: {dotted key: value}, one row of the table each")
    across: dict[str, dict[str, Any]] = option(
        {}, "SETTING: {dotted key: value}; every variant in each, compared with the baseline in the same one"
    )
    paper: PaperConfig | None = option(None, "costs at paper scale, and published numbers")
    search: SearchConfig | None = option(None, "a search, in place of variants that are all trained")
    confirm: ConfirmConfig | None = option(None, "take the best of a finished search as variants")
    study: StudyConfig = field(default_factory=StudyConfig)
    rerun: str | None = option(None, "train again what is kept: stale, failed, all", result=False)
    runs_dir: str = option("runs", "folder of all results", result=False)
    smoke: bool = option(False, "one epoch of two small batches: does everything work?")
    plan_only: bool = option(False, "print the plan and stop")

    def __post_init__(self) -> None:
        require(bool(self.seeds), "seeds", self.seeds, "is empty: at least one seed")
        require(min(self.seeds) >= 0, "seeds", self.seeds, "has a negative seed")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "has a seed twice")
        if self.rerun not in (None, *RERUNS):
            raise unknown("rerun", self.rerun, RERUNS)
        if self.search is not None:
            require(len(self.seeds) == 1, "seeds", self.seeds, "are too many for a search: its trials share one seed")
            require(self.confirm is None, "confirm", "", "and search exclude each other")
            require(not self.across, "across", list(self.across), "is not for a search")
            known = self.rerun in (None, "failed")
            require(known, "rerun", self.rerun, "is not for a search, only failed is; begin it anew with runs_dir=...")

    def baseline_of(self, variant: str) -> str:
        """The variant that another one is compared with: the baseline, in the same setting of `across`."""
        baseline = self.baseline or ""
        settings = [name for name in self.across if variant.endswith(f"-{name}")]
        return f"{baseline}-{max(settings, key=len)}" if settings else baseline


PRESETS: dict[str, dict[str, Any]] = {
    "model": MODELS,
    "data": {
        schema.name: schema()
        for schema in (EarthConfig, ScalesConfig, ImageNetConfig, FolderConfig, ShardsConfig, CIFAR100Config)
    },
    "recipe": {"paper": RecipeConfig(), "lite": LITE_RECIPE},
    "launch": {"local": LaunchConfig(), "slurm": SlurmConfig()},
}


# --- run -------------------------------------------------------------------------------------------------------------


@dataclass
class RunConfig:
    """Everything that one run is: what `config.yaml` in its folder holds."""

    model: ModelConfig
    data: DataConfig
    recipe: RecipeConfig
    launch: LaunchConfig
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.data, ScalesConfig):
            return
        for name in ("mixup", "cutmix", "random_resized_crop", "rand_augment", "color_jitter", "random_erasing"):
            value = getattr(self.recipe, name)
            require(not value, f"recipe.{name}", value, "would cut or hide objects of data=scales; take recipe=lite")
        require(
            self.recipe.repeated_aug == 1, "recipe.repeated_aug", self.recipe.repeated_aug, "is not for data=scales"
        )

    def smoke(self) -> RunConfig:
        """The same run, cut down until it only shows that everything works."""
        data: DataConfig = dataclasses.replace(self.data, batch_size=min(self.data.batch_size, 16))
        if isinstance(data, ScalesConfig):
            data = dataclasses.replace(data, train_images=64, val_images=32, test_images=32)
        recipe = dataclasses.replace(self.recipe, epochs=1, warmup_epochs=0.0, limit_batches=2)
        return dataclasses.replace(self, data=data, recipe=recipe)

    def fingerprint(self, data_identity: str, sources: Mapping[str, str]) -> str:
        """16 hex digits over all that can change the result: everything but paths, workers, devices and labels.

        Args:
            data_identity: tells data sets of the same name apart (`data.DataFacts.identity`).
            sources: component -> hash of its source (`nn.source.component_sources`).
        """
        parts = {"seed": self.seed, "data_identity": data_identity, "sources": dict(sources)}
        for key in ("model", "data", "recipe"):
            config = getattr(self, key)
            names = [f.name for f in dataclasses.fields(config) if f.metadata.get("result", True)]
            parts[key] = {name: getattr(config, name) for name in names}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

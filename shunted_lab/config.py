"""The whole configuration of a command and of a run, and every preset; nothing heavy is imported here.

Its parts stand beside it: `models.py`, `datasets.py`, `recipes.py`, `studies.py`.

The dataclasses are the schema: Hydra refuses an unknown key or a wrong type, and each `__post_init__` refuses a value
that cannot work, in one line with the dotted key, the value and the choices. `metadata["help"]` goes into `--help`.

The dataclasses are not frozen: OmegaConf turns a frozen one into a read-only node, which no override could change.
Nobody assigns to one after it has been composed; `dataclasses.replace` makes the variants.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from shunted_lab.datasets import (
    CIFAR100Config,
    DataConfig,
    EarthConfig,
    FolderConfig,
    ImageNetConfig,
    INat2018Config,
    INat2019Config,
    ScalesConfig,
    ShardsConfig,
)
from shunted_lab.models import COMPONENTS, MODELS, ModelConfig
from shunted_lab.quantities import counted
from shunted_lab.recipes import FINETUNE_RECIPE, LITE_RECIPE, PAPER_RECIPE, PRECISIONS, RecipeConfig
from shunted_lab.schema import ConfigError, nearest, option, path_option, require, unknown
from shunted_lab.studies import (
    MEASURED,
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
    "LITE_RECIPE",
    "MEASURED",
    "MEASURED_LATER",
    "MODELS",
    "PRECISIONS",
    "PRESETS",
    "CIFAR100Config",
    "Config",
    "ConfigError",
    "DataConfig",
    "EarthConfig",
    "FolderConfig",
    "INat2018Config",
    "INat2019Config",
    "ImageNetConfig",
    "LaunchConfig",
    "ModelConfig",
    "RecipeConfig",
    "ScalesConfig",
    "SearchConfig",
    "ShardsConfig",
    "SlurmConfig",
    "nearest",
    "unknown",
]

# --- experiment ------------------------------------------------------------------------------------------------------


@dataclass
class PaperConfig:
    """The published side of an experiment: the scale to count costs at, and numbers that have a source."""

    model: str = option("shunted_s", "model preset for the costs at paper scale")
    image_size: int = option(224, "pixels on each side")
    source: str | None = option(None, "publication that the numbers in rows are from")
    rows: dict[str, dict[str, Any]] = option({}, "VARIANT: {top1: %, params: M, flops: G}; leave unknown numbers out")


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
    baseline: str | None = option(None, "the variant that the others are compared with", literal=True)
    variants: dict[str, dict[str, Any]] = option({}, "NAME: {dotted key: value}; each is one row of the table")
    across: dict[str, dict[str, Any]] = option(
        {}, "SETTING: {dotted key: value}; every variant in each, compared with the baseline in the same one"
    )
    paper: PaperConfig | None = option(None, "costs at paper scale, and published numbers")
    search: SearchConfig | None = option(None, "search over a space instead of training all variants")
    confirm: ConfirmConfig | None = option(None, "train the best assignments of a finished search as variants")
    study: StudyConfig = field(default_factory=StudyConfig)
    only: Any = option(
        None,
        "train only this variant, or these: [a,b]; the table has all rows",
        result=False,
        type="str | list[str] | null",
    )
    rerun: str | None = option(
        None, "train finished or failed runs again: stale, failed, all; old results are kept", result=False
    )
    runs_dir: str = path_option("runs", "folder of all results", result=False)
    smoke: bool = option(False, "one epoch of two small batches, to test that everything works")
    plan_only: bool = option(False, "print what the call would do, and stop")

    def __post_init__(self) -> None:
        require(bool(self.seeds), "seeds", self.seeds, "is empty: at least one seed")
        require(min(self.seeds) >= 0, "seeds", self.seeds, "has a negative seed")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "has a seed twice")
        if self.rerun not in (None, *RERUNS):
            raise unknown("rerun", self.rerun, RERUNS)
        names = self.only if isinstance(self.only, list) else [self.only]
        good = bool(names) and not any(isinstance(name, list | dict) or name == "" for name in names)
        require(good, "only", self.only, "is neither a variant's name nor a list of names")
        if self.search is not None:
            require(
                self.only is None, "only", self.only, "is not supported for a search, which has no rows to choose from"
            )
            require(len(self.seeds) == 1, "seeds", self.seeds, "are too many for a search: all trials share one seed")
            require(self.confirm is None, "confirm", "", "cannot be combined with search")
            require(not self.across, "across", list(self.across), "is not supported for a search")
            known = self.rerun in (None, "failed")
            require(
                known,
                "rerun",
                self.rerun,
                "is not supported for a search, only failed is; start a new search with runs_dir=...",
            )

    def baseline_of(self, variant: str) -> str:
        """The variant that another one is compared with: the baseline, in the same setting of `across`."""
        baseline = self.baseline or ""
        settings = [name for name in self.across if variant.endswith(f"-{name}")]
        return f"{baseline}-{max(settings, key=len)}" if settings else baseline


PRESETS: dict[str, dict[str, Any]] = {
    "model": MODELS,
    "data": {
        schema.name: schema()
        for schema in (
            EarthConfig,
            ScalesConfig,
            ImageNetConfig,
            INat2018Config,
            INat2019Config,
            FolderConfig,
            ShardsConfig,
            CIFAR100Config,
        )
    },
    "recipe": {"paper": PAPER_RECIPE, "finetune": FINETUNE_RECIPE, "lite": LITE_RECIPE},
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
        self._check_batch()
        if not isinstance(self.data, ScalesConfig):
            return
        for name in ("mixup", "cutmix", "random_resized_crop", "rand_augment", "color_jitter", "random_erasing"):
            value = getattr(self.recipe, name)
            require(not value, f"recipe.{name}", value, "would cut or hide objects of data=scales; take recipe=lite")
        require(
            self.recipe.repeated_aug == 1,
            "recipe.repeated_aug",
            self.recipe.repeated_aug,
            "is not supported for data=scales",
        )

    def _check_batch(self) -> None:
        """Refuse a batch that its devices and parts do not divide, or whose parts are too small to be mixed."""
        launch, size = self.launch, self.data.batch_size
        keys = {f"launch.{name}": getattr(launch, name) for name in ("nodes_per_run", "devices_per_run", "accumulate")}
        over = " x ".join(f"{key}={value}" for key, value in keys.items() if value > 1)
        require(size % launch.parts == 0, "data.batch_size", size, f"is not divisible by {over}")
        mixes = self.recipe.mixup > 0 or self.recipe.cutmix > 0
        require(
            not mixes or self.per_device_batch_size > 1,
            "data.batch_size",
            size,
            f"{f'over {over} ' if over else ''}leaves 1 image for each device and step, but recipe.mixup and "
            "recipe.cutmix mix pairs of images; increase it, or set both to 0",
        )

    @property
    def per_device_batch_size(self) -> int:
        """Images that a device takes at a time."""
        return self.data.batch_size // self.launch.parts

    @property
    def batch_layout(self) -> str:
        """How a batch is trained, in words."""
        pieces = {"devices": self.launch.ranks, "parts": self.launch.accumulate}
        cut = [f"{count} {name}" for name, count in pieces.items() if count > 1]
        images = counted(self.per_device_batch_size, "image")
        return " x ".join([*cut, images]) if cut else f"batches of {images}"

    def smoke(self) -> RunConfig:
        """The same run, cut down until it only shows that everything works."""
        parts = self.launch.parts
        size = min(self.data.batch_size, max(16 // parts, 2) * parts)
        data: DataConfig = dataclasses.replace(self.data, batch_size=size)
        if isinstance(data, ScalesConfig):
            data = dataclasses.replace(data, train_images=64, val_images=32, test_images=32)
        recipe = dataclasses.replace(self.recipe, epochs=1, warmup_epochs=0.0, limit_batches=2)
        launch = dataclasses.replace(self.launch, keep="none") if self.launch.keep == "auto" else self.launch
        return dataclasses.replace(self, data=data, recipe=recipe, launch=launch)

    def fingerprint(self, data_identity: str, sources: Mapping[str, str]) -> str:
        """16 hex digits over all that can change the result: everything but paths, workers, devices and labels.

        Args:
            data_identity: tells data sets of the same name apart (`data.DataFacts.identity`).
            sources: what the result depends on beside the configuration (`study.plan.sources_of`).
        """
        parts = {"seed": self.seed, "data_identity": data_identity, "sources": dict(sources)}
        for key in ("model", "data", "recipe"):
            config = getattr(self, key)
            names = [f.name for f in dataclasses.fields(config) if f.metadata.get("result", True)]
            parts[key] = {name: getattr(config, name) for name in names}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

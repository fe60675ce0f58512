"""The configuration of one run, and its fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shunted_lab.config.data import DataConfig
from shunted_lab.config.launch import LaunchConfig
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.recipe import OF_DATA, RecipeConfig
from shunted_lab.config.schema import affecting_result, require
from shunted_lab.config.task import TaskConfig
from shunted_lab.output.quantities import counted


@dataclass
class RunConfig:
    """Everything that one run is: what `config.yaml` in its folder holds."""

    model: ModelConfig
    data: DataConfig
    task: TaskConfig
    recipe: RecipeConfig
    launch: LaunchConfig
    seed: int

    def __post_init__(self) -> None:
        self._check_task()
        self._check_batch()
        self.data.check_recipe(self.recipe)
        self.task.check_recipe(self.data, self.recipe)

    def _check_task(self) -> None:
        """Refuse data that do not have what the task needs, and a recipe that the task cannot be trained with."""
        have = f"needs images with {self.task.needs}, and data={self.data.name} has {' and '.join(self.data.targets)}"
        require(self.task.needs in self.data.targets, "task", self.task.name, have)
        self.data = self.data.for_target(self.task.needs)
        for name in (name for name in OF_DATA if name not in self.data.augments):
            value, off = getattr(self.recipe, name), getattr(RecipeConfig(), name)
            why = f"has no effect on data={self.data.name}; set it to {off}"
            require(value == off, f"recipe.{name}", value, why)

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

        together, own = self.task.images_together, self.per_device_batch_size
        require(
            own % together == 0,
            "data.batch_size",
            size,
            f"{f'over {over} ' if over else ''}leaves {counted(own, 'image')} for each device and step, and "
            f"task={self.task.name} averages its loss over {together} (task.loss_images); make it a multiple of them",
        )
        least = self.task.least_batch
        require(
            self.per_device_batch_size >= least,
            "data.batch_size",
            size,
            f"{f'over {over} ' if over else ''}leaves {counted(self.per_device_batch_size, 'image')} for each device "
            f"and step, and task={self.task.name} needs {least}: its BatchNorm sees one value an image",
        )

    def seed_of(self, source: str) -> int:
        """The seed of one source of variation (`recipe.SOURCES`): the run's own, which the variants of a seed share, or
        where `recipe.pair` leaves the source out, one of this configuration.
        """
        if source in self.recipe.pair:
            return self.seed
        text = json.dumps([self.seed, source, self._affecting()], sort_keys=True)
        return int(hashlib.sha256(text.encode()).hexdigest()[:7], 16)

    def _affecting(self) -> dict[str, dict[str, Any]]:
        """All options that can change the result."""
        found = {}
        for key in ("model", "data", "task", "recipe"):
            config = getattr(self, key)
            found[key] = {name: getattr(config, name) for name in affecting_result(config)}
        return found

    @property
    def freezes_bn(self) -> bool:
        """Whether the backbone's BatchNorm keeps the statistics of the weights that it begins with."""
        given = self.recipe.freeze_bn
        return self.model.checkpoint is not None if given is None else given

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
        together = self.task.images_together
        size = min(self.data.batch_size, max(16 // parts // together * together, together, 2) * parts)
        shorter: dict[str, Any] = {
            "warmup_epochs": 0.0,
            "warmup_steps": None,
            "milestones": [],
            "steps_per_epoch": None,
        }
        recipe = dataclasses.replace(self.recipe, epochs=1, limit_batches=2, **shorter)
        keep = "none" if self.launch.keep == "auto" else self.launch.keep
        launch = dataclasses.replace(self.launch, keep=keep, pictures=False)
        return dataclasses.replace(self, data=self.data.smoke(size), recipe=recipe, launch=launch)

    def fingerprint(self, data_identity: str, sources: Mapping[str, str]) -> str:
        """16 hex digits over all that can change the result: everything but paths, workers, devices and labels.

        Args:
            data_identity: tells data sets of the same name apart (`data.DataFacts.identity`).
            sources: what the result depends on beside the configuration (`study.plan.sources_of`).
        """
        parts = {"seed": self.seed, "data_identity": data_identity, "sources": dict(sources), **self._affecting()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

"""The configuration of a run from a file: to train it with its data set and its task, or to report without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shunted_lab.config.data import DataConfig, DataFacts, Stats
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.recipe import OF_DATA, RecipeConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.task import Goal, Metric, TaskConfig
from shunted_lab.output.quantities import Unit


@dataclass
class RecordedData(DataConfig):
    """A data set as a report needs it: its options and how it is described, without its class."""

    targets: ClassVar[tuple[str, ...]] = ("",)  # as `RecordedTask.needs`: they were composed together
    augments: ClassVar[tuple[str, ...]] = OF_DATA  # what was composed is not refused

    options: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:  # type: ignore[override]
        return bool(self.about["synthetic"])

    @property
    def regions(self) -> str:  # type: ignore[override]
        return str(self.about.get("regions", ""))  # studies of before 2026-11-27 did not record it

    @property
    def description(self) -> str:
        return str(self.about["description"])

    @property
    def preparation(self) -> str:
        return str(self.about["preparation"])

    @property
    def stats(self) -> Stats:
        raise NotImplementedError("a recorded data set has no images")

    def check(self, tested_only: bool = False) -> DataFacts:
        raise NotImplementedError("a recorded data set has no images")

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Any:
        raise NotImplementedError("a recorded data set has no images")


@dataclass
class RecordedTask(TaskConfig):
    """A task as a report needs it: what it measures, without its class."""

    options: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def per_class_meaning(self) -> str:  # type: ignore[override]
        return str(self.about["per_class_meaning"])

    def goal(self, data: DataConfig, classes: int = 0) -> Goal:
        return read_goal(self.about["goal"])

    def input_size(self, data: DataConfig) -> tuple[int, int]:
        height, width = self.about["input_size"]
        return height, width

    def build(self, *args: Any) -> Any:
        raise NotImplementedError("a recorded task builds nothing")

    loss = make_metrics = evidence_of_batch = evidence = build  # type: ignore[assignment]


def read_goal(found: Mapping[str, Any]) -> Goal:
    """The goal of a manifest."""
    metrics = tuple(Metric(**metric | {"unit": Unit(**metric["unit"])}) for metric in found["metrics"])
    return Goal(metrics, found["lead"], found["both_macs"])


def run_of(config: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of a run from its plain values.

    Args:
        about: what was recorded of its data and its task; None imports their classes.

    Raises:
        ConfigError: for a data set or a task that is not known (any more).
    """
    model, recipe = ModelConfig(**config["model"]), RecipeConfig(**config["recipe"])
    launch = type(PRESETS["launch"][config["launch"]["name"]])(**config["launch"])
    data, task = config["data"], config["task"]
    if about is not None:
        kept = {key: data[key] for key in ("name", "image_size", "batch_size", "num_classes")}
        recorded = RecordedData(**kept, options=data, about=dict(about["data"]))
        made = recorded, RecordedTask(task["name"], options=task, about=dict(about["task"]))
        return RunConfig(model, *made, recipe, launch, config["seed"])
    for key, options in (("data", data), ("task", task)):
        if options["name"] not in PRESETS[key]:
            raise ConfigError(f"{key}: '{options['name']}' is not known to this version")
    kinds = [type(PRESETS[key][options["name"]]) for key, options in (("data", data), ("task", task))]
    return RunConfig(model, kinds[0](**data), kinds[1](**task), recipe, launch, config["seed"])

"""The groups of the configuration and what can be chosen for each: `model=shunted_t data=imagenet`.

A preset of `model`, `recipe` and `launch` is a set of values. What is chosen for `data` and `task` is a class, which is
imported when it is chosen; a class of the user's own is chosen by its dotted path, `data=my_module.MyData`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from shunted_lab.config.data import DataConfig
from shunted_lab.config.launch import LaunchConfig, ManualConfig, RayConfig, SlurmConfig
from shunted_lab.config.model import MODELS
from shunted_lab.config.recipe import (
    ADE20K_SEGFORMER_RECIPE,
    ADE20K_SEMANTIC_FPN_RECIPE,
    ADE20K_UPERNET_RECIPE,
    COCO_MASK_RCNN_1X_RECIPE,
    COCO_MASK_RCNN_3X_RECIPE,
    COCO_RETINANET_1X_RECIPE,
    DETECT_LITE_RECIPE,
    FINETUNE_RECIPE,
    LITE_RECIPE,
    MINI_RECIPE,
    PAPER_RECIPE,
    SEGMENT_LITE_RECIPE,
    RecipeConfig,
)
from shunted_lab.config.schema import ConfigError

DATA_SETS = {
    "earth": "shunted_lab.data.earth.EarthConfig",
    "earth32": "shunted_lab.data.earth.Earth32Config",
    "scales": "shunted_lab.data.scales.ScalesConfig",
    "imagenet": "shunted_lab.data.imagenet.ImageNetConfig",
    "inat2018": "shunted_lab.data.inat.INat2018Config",
    "inat2019": "shunted_lab.data.inat.INat2019Config",
    "folder": "shunted_lab.data.folder.FolderConfig",
    "shards": "shunted_lab.data.shards.ShardsConfig",
    "ade20k": "shunted_lab.data.ade20k.ADE20KConfig",
    "coco": "shunted_lab.data.coco.CocoConfig",
    "segmentation_folder": "shunted_lab.data.segmentation_folder.SegmentationFolderConfig",
    "cifar100": "shunted_lab.data.cifar100.CIFAR100Config",
}
TASKS = {
    "classification": "shunted_lab.tasks.classification.Classification",
    "multilabel": "shunted_lab.tasks.multilabel.MultiLabelClassification",
    "segmentation": "shunted_lab.tasks.segmentation.Segmentation",
    "mask_rcnn": "shunted_lab.tasks.detection.InstanceSegmentation",
    "mask_rcnn_lite": "shunted_lab.tasks.detection.InstanceSegmentation",
    "instance_segmentation": "shunted_lab.tasks.detection.InstanceSegmentation",
    "retinanet": "shunted_lab.tasks.detection.Detection",
    "retinanet_lite": "shunted_lab.tasks.detection.Detection",
    "detection": "shunted_lab.tasks.detection.Detection",
}


RECIPES: tuple[RecipeConfig, ...] = (
    PAPER_RECIPE,
    FINETUNE_RECIPE,
    LITE_RECIPE,
    MINI_RECIPE,
    SEGMENT_LITE_RECIPE,
    DETECT_LITE_RECIPE,
    ADE20K_SEMANTIC_FPN_RECIPE,
    ADE20K_UPERNET_RECIPE,
    ADE20K_SEGFORMER_RECIPE,
    COCO_RETINANET_1X_RECIPE,
    COCO_MASK_RCNN_1X_RECIPE,
    COCO_MASK_RCNN_3X_RECIPE,
)


class Plugins(Mapping[str, Any]):
    """Name -> an instance of a registered class with its defaults, imported when it is asked for.

    A name with a dot is the path of a class that is not registered; it must be a subclass of what is registered.

    Args:
        group: the key, named in errors.
        paths: name -> `module.Class`.
        base: `module.Class` that every choice is a subclass of.
    """

    def __init__(self, group: str, paths: Mapping[str, str], base: str):
        self.group = group
        self.paths = paths
        self.base = base

    def __getitem__(self, name: str) -> Any:
        if name in self.paths:
            return _load(self.group, self.paths[name])(name)
        if "." not in name:
            raise KeyError(name)
        found, base = _load(self.group, name), _load(self.group, self.base)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ConfigError(f"{self.group}: '{name}' is not a subclass of {self.base}")
        return found(name)

    def __contains__(self, name: object) -> bool:
        return name in self.paths or (isinstance(name, str) and "." in name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def _load(group: str, path: str) -> Any:
    """The class at `module.Class`; a module of the user's own lies in the working directory or is installed.

    Raises:
        ConfigError: if there is no such module or class. An exception inside of the module keeps its traceback.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"{group}: '{path}' cannot be imported: there is no module '{error.name}'") from None
    except AttributeError as error:
        if error.obj is not sys.modules.get(module):
            raise
        raise ConfigError(f"{group}: '{path}' cannot be imported: {module} has no '{name}'") from None


PRESETS: dict[str, Mapping[str, Any]] = {
    "model": MODELS,
    "data": Plugins("data", DATA_SETS, "shunted_lab.config.data.DataConfig"),
    "task": Plugins("task", TASKS, "shunted_lab.config.task.TaskConfig"),
    "recipe": {recipe.name: recipe for recipe in RECIPES},
    "launch": {"local": LaunchConfig(), "slurm": SlurmConfig(), "ray": RayConfig(), "manual": ManualConfig()},
}


def task_for(data: DataConfig) -> str:
    """The first registered task for the first that the images of a data set have.

    Raises:
        ConfigError: if there is none.
    """
    for name, task in PRESETS["task"].items():
        if task.needs == data.targets[0]:
            return name
    raise ConfigError(f"task: is missing; no registered task needs {data.targets[0]}, which data={data.name} has")

"""LightningModules, one per task, and `train`, the one place where a Trainer is made. Importing this is instant."""

from collections.abc import Callable
from dataclasses import dataclass

from shunted_lab.config.data import DataConfig
from shunted_lab.data.scales import ScalesConfig


@dataclass(frozen=True)
class Goal:
    """What a task is measured by; its LightningModule takes it from here, and whoever must not import Lightning.

    `monitor` and `mode` are the only source for checkpoints, the study's direction and the choice of the best epoch;
    `headline` is the metric of the table, `label` its column, `meaning` its name in a caption. `columns` are further
    metrics that stand in the table, with their labels. All are fractions, and shown in percent. `metrics` gives the
    names of all metrics of a split, without its name, for a configuration of the data and a number of classes.
    """

    monitor: str
    mode: str
    headline: str
    label: str
    meaning: str
    metrics: Callable[[DataConfig, int], tuple[str, ...]]
    columns: tuple[tuple[str, str], ...] = ()


def _metrics_of_labels(data: DataConfig, num_classes: int) -> tuple[str, ...]:
    return ("top1", "top5", "loss") if num_classes > 5 else ("top1", "loss")


def _metrics_of_objects(data: DataConfig, num_classes: int) -> tuple[str, ...]:
    assert isinstance(data, ScalesConfig)
    return ("recall", *(f"recall_{name}" for name, _ in data.size_ranges()), "loss")


CLASSIFICATION = Goal("val/top1", "max", "test/top1", "Top-1", "Top-1 accuracy", _metrics_of_labels)
OBJECTS = Goal(
    "val/recall",
    "max",
    "test/recall",
    "Recall",
    "Recall (share of the objects whose class is among the highest scores, as many as the image has objects)",
    _metrics_of_objects,
    (("test/recall_small", "Small"), ("test/recall_medium", "Medium"), ("test/recall_large", "Large")),
)


def goal_of(data: DataConfig) -> Goal:
    """The goal of the task that a data set is for."""
    return OBJECTS if isinstance(data, ScalesConfig) else CLASSIFICATION

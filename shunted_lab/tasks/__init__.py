"""LightningModules, one per task, and `train`, the one place where a Trainer is made. Importing this is instant."""

from dataclasses import dataclass

from shunted_lab.config import DataConfig, ScalesConfig


@dataclass(frozen=True)
class Goal:
    """What a task is measured by; its LightningModule takes it from here, and whoever must not import Lightning.

    `monitor` and `mode` are the only source for checkpoints, the study's direction and the choice of the best epoch;
    `headline` is the metric of the table, `label` its column, `meaning` its name in a caption. `columns` are further
    metrics that stand in the table, with their labels. All are fractions, and shown in percent.
    """

    monitor: str
    mode: str
    headline: str
    label: str
    meaning: str
    columns: tuple[tuple[str, str], ...] = ()


CLASSIFICATION = Goal("val/top1", "max", "test/top1", "Top-1", "Top-1 accuracy")
OBJECTS = Goal(
    "val/recall",
    "max",
    "test/recall",
    "Recall",
    "Recall (share of the objects whose class is among the highest scores, as many as the image has objects)",
    (("test/recall_small", "Small"), ("test/recall_medium", "Medium"), ("test/recall_large", "Large")),
)


def goal_of(data: DataConfig) -> Goal:
    """The goal of the task that a data set is for."""
    return OBJECTS if isinstance(data, ScalesConfig) else CLASSIFICATION

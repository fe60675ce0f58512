"""LightningModules, one per task, and `train`, the one place where a Trainer is made. Importing this is instant."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What a task is measured by; its LightningModule takes it from here, and whoever must not import Lightning.

    `monitor` and `mode` are the only source for checkpoints, the study's direction and the choice of the best epoch;
    `headline` is the metric of the table.
    """

    monitor: str
    mode: str
    headline: str


CLASSIFICATION = Goal(monitor="val/top1", mode="max", headline="test/top1")

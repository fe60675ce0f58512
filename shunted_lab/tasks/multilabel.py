"""Which classes have an object in the image? Several labels per image, and recall by the size of the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from shunted_lab.config.data import DataConfig
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import require
from shunted_lab.config.task import Goal, Metric, Prediction, TaskConfig
from shunted_lab.tasks.classification import check_head_lr, class_prediction

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torchmetrics import MetricCollection

    from shunted_lab.tasks.predictions import Predictions

SIZES = ["small", "medium", "large"]
RECALL = Metric(
    "recall",
    "Recall",
    "Recall (share of the objects whose class is among the highest scores, as many as the image has objects)",
)


@dataclass
class MultiLabelClassification(TaskConfig):
    """The classes of the objects in each image, by binary cross entropy.

    Targets are (B, classes) sizes of each class's object, as shares of the image's side; 0 where there is none.
    """

    name: str = "multilabel"

    needs: ClassVar[str] = "sizes"
    per_class_meaning: ClassVar[str] = "Share of the objects of each class that were found"

    def goal(self, data: DataConfig, classes: int = 0) -> Goal:
        """Recall of all objects, and by their size: of the sizes that the data have, or of all that data may have."""
        names = [name for name, _ in data.size_ranges()] if classes else SIZES  # type: ignore[attr-defined]
        by_size = [
            Metric(f"recall_{n}", n.capitalize(), f"Recall of {n} objects", in_table=True, may_be_absent=True)
            for n in names
        ]
        return Goal((RECALL, *by_size), "recall")

    def check_recipe(self, data: DataConfig, recipe: RecipeConfig) -> None:
        check_head_lr(self, recipe)
        for name in ("mixup", "cutmix"):
            value = getattr(recipe, name)
            require(not value, f"recipe.{name}", value, "is not supported for several labels per image; set it to 0")

    def build(self, model: ModelConfig, classes: int) -> nn.Module:
        from shunted_lab.tasks.model import build_model

        return build_model(model, classes)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """`targets` are sizes (B, classes); smoothing moves both answers towards one half."""
        import torch.nn.functional as F

        logits = outputs.float()
        there = (targets > 0).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, there * (1 - smoothing) + smoothing / 2)

    def make_metrics(self, data: DataConfig, classes: int) -> MetricCollection:
        from torchmetrics import MetricCollection

        from shunted_lab.tasks.recall import ObjectRecall

        ranges = dict(data.size_ranges())  # type: ignore[attr-defined]
        by_size = {f"recall_{name}": ObjectRecall(*ends) for name, ends in ranges.items()}
        return MetricCollection({"recall": ObjectRecall(), **by_size}, compute_groups=False)

    def evidence_of_batch(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Which classes have an object, and which were found: (B, classes) booleans each."""
        from shunted_lab.tasks.recall import highest_scores

        return targets > 0, highest_scores(outputs, targets)

    def predict(
        self, net: Any, images: Tensor, size: tuple[int, int], class_names: Sequence[str], score: float, top: int
    ) -> Prediction:
        """The classes with the highest scores."""
        outputs = net(images)
        return class_prediction(outputs.float().sigmoid()[0].cpu().tolist(), class_names, top)

    def evidence(self, parts: Sequence[np.ndarray], class_names: Sequence[str], data: DataConfig) -> Predictions:
        from shunted_lab.tasks.predictions import Predictions

        targets, predicted = parts
        return Predictions(targets, predicted, class_names=tuple(class_names))

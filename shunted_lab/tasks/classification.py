"""Image classification: one label per image, cross entropy, top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from shunted_lab.config.data import DataConfig
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import require
from shunted_lab.config.task import Goal, Metric, Prediction, TaskConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torchmetrics import MetricCollection

    from shunted_lab.tasks.predictions import Predictions

TOP1 = Metric("top1", "Top-1", "Top-1 accuracy", is_proportion=True)
TOP5 = Metric("top5", "Top-5", "Top-5 accuracy")


@dataclass
class Classification(TaskConfig):
    """One of the classes of the data for each image."""

    name: str = "classification"

    needs: ClassVar[str] = "label"
    per_class_meaning: ClassVar[str] = "Share of the test images of each class that were classified correctly"

    def goal(self, data: DataConfig, classes: int = 0) -> Goal:
        return Goal((TOP1, TOP5) if _has_top5(classes) else (TOP1,), "top1")

    def check_recipe(self, data: DataConfig, recipe: RecipeConfig) -> None:
        check_head_lr(self, recipe)

    def build(self, model: ModelConfig, classes: int) -> nn.Module:
        from shunted_lab.tasks.model import build_model

        return build_model(model, classes)

    def augment(
        self, images: Tensor, targets: Tensor, recipe: RecipeConfig, classes: int, key: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Mixup and CutMix by timm: (B, 3, H, W) and (B,) -> (B, 3, H, W) and (B, classes).

        timm draws from numpy's global generator: it is seeded for this batch and rank, and put back afterwards. timm
        mixes pairs of images and takes an even number of them; of an odd batch the last image stays as it is.
        """
        if recipe.mixup == recipe.cutmix == 0:
            return images, targets
        import numpy as np
        import torch
        from timm.data.mixup import Mixup, mixup_target

        smoothing = recipe.label_smoothing
        mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=smoothing, num_classes=classes)
        even = len(images) // 2 * 2
        state = np.random.get_state()
        np.random.seed(list(key))
        try:
            mixed, probabilities = mixup(images[:even], targets[:even])
        finally:
            np.random.set_state(state)
        if even == len(images):
            return mixed, probabilities
        last = mixup_target(targets[even:], classes, smoothing=smoothing)
        return torch.cat([mixed, images[even:]]), torch.cat([probabilities, last])

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Cross entropy of logits (B, classes) with labels (B,), or with probabilities (B, classes) after mixup."""
        import torch.nn.functional as F

        return F.cross_entropy(outputs.float(), targets, label_smoothing=smoothing)

    def make_metrics(self, data: DataConfig, classes: int) -> MetricCollection:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        accuracies: dict[str, Any] = {"top1": MulticlassAccuracy(classes, average="micro")}
        if _has_top5(classes):
            accuracies["top5"] = MulticlassAccuracy(classes, average="micro", top_k=5)
        return MetricCollection(accuracies)

    def evidence_of_batch(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Labels, predicted classes and their probability, (B,) each."""
        confidence, predicted = outputs.float().softmax(1).max(1)
        return targets, predicted, confidence

    def predict(
        self, net: Any, images: Tensor, size: tuple[int, int], class_names: Sequence[str], score: float, top: int
    ) -> Prediction:
        """The classes with the highest probabilities."""
        outputs = net(images)
        return class_prediction(outputs.float().softmax(1)[0].cpu().tolist(), class_names, top)

    def evidence(self, parts: Sequence[np.ndarray], class_names: Sequence[str], data: DataConfig) -> Predictions:
        from shunted_lab.tasks.predictions import Predictions

        targets, predicted, confidence = parts
        return Predictions(targets, predicted, confidence, tuple(class_names))


def class_prediction(scores: Sequence[float], class_names: Sequence[str], top: int) -> Prediction:
    """The classes with the highest scores, as a prediction that is written below the image."""
    from shunted_lab.tasks.drawing import with_text

    names = class_names or [f"class {k}" for k in range(len(scores))]
    best = sorted(range(len(scores)), key=lambda k: -scores[k])[:top]
    found = [{"class": names[k], "score": round(scores[k], 4)} for k in best]
    lines = [f"{names[k]} {scores[k]:.3f}" for k in best]
    return Prediction(", ".join(lines), {"classes": found}, lambda image: with_text(image, lines))


def check_head_lr(task: TaskConfig, recipe: RecipeConfig) -> None:
    """Refuse a rate for what is outside the backbone, of a task whose head is a part of it."""
    why = f"has no effect on task={task.name}, whose head belongs to the backbone; set it to 1"
    require(recipe.head_lr == 1, "recipe.head_lr", recipe.head_lr, why)


def _has_top5(classes: int) -> bool:
    """Whether five guesses are fewer than all classes; so it is taken to be where their number is not known."""
    return classes == 0 or classes > 5

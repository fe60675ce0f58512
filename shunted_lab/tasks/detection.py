"""Object detection and instance segmentation: a class and a box, and a mask, for each object; average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shunted_lab.config.data import DataConfig
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.schema import ConfigError, at_least, option
from shunted_lab.config.task import Example, Goal, Metric, Prediction
from shunted_lab.output.quantities import counted
from shunted_lab.tasks.headed import MIXES, HeadedTask

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torchmetrics import MetricCollection

    from shunted_lab.data.objects import Objects
    from shunted_lab.nn import Pyramid
    from shunted_lab.nn.detection.heads import Detected
    from shunted_lab.tasks.average_precision import DetectionEvidence

# Names of the heads that ship with the package; they stand here so that a misspelt one is refused before torch is
# imported. tests/nn/test_detectors.py holds them against the registry.
OF_BOXES = ("retinanet", "retinanet_lite")
OF_MASKS = ("mask_rcnn", "mask_rcnn_lite")
Ranges = Sequence[tuple[str, tuple[float, float]]]
SHOWN = 0.3  # the least score of a detection that is drawn
MEANING = "mean over the classes and the IoU thresholds 0.50 to 0.95"


@dataclass
class Detection(HeadedTask):
    """A class and a box for each object in an image."""

    name: str = "detection"
    head: Any = option(
        None, f"the detector: {', '.join(OF_BOXES)}; or a class of your own by its path; null: that of task's name"
    )
    loss_images: int = option(
        2, "images over which the averages in the loss are taken, as on each GPU of mmdet, whatever the devices"
    )

    needs: ClassVar[str] = "boxes"
    heads: ClassVar[tuple[str, ...]] = OF_BOXES
    forms: ClassVar[tuple[str, ...]] = ("box",)  # what a detection must overlap with
    per_class_meaning: ClassVar[str] = "Box AP of each class on the test split"
    refuses: ClassVar[tuple[str, ...]] = (*MIXES, "label_smoothing")
    trained_on: ClassVar[str] = "boxes"
    recipe_hint: ClassVar[str] = "detect_lite"
    example_side: ClassVar[int] = 256

    def __post_init__(self) -> None:
        if self.head is None:
            self.head = self.name if self.name in self.heads else self.heads[0]
        super().__post_init__()
        at_least(1, "task", self, "loss_images")

    @property
    def images_together(self) -> int:
        return self.loss_images

    def goal(self, data: DataConfig, classes: int = 0) -> Goal:
        """Average precision of boxes, at two thresholds, and of objects by their size where the data know sizes."""
        metrics = [
            Metric("box_ap", "Box AP", f"Average precision of boxes ({MEANING})"),
            Metric("box_ap50", "AP50", "Average precision of boxes at an IoU of 0.50", in_table=True),
            Metric("box_ap75", "AP75", "Average precision of boxes at an IoU of 0.75", in_table=True),
        ]
        for name, _ in area_ranges(data):
            meaning = f"Average precision of the boxes of {name} objects"
            metrics.append(Metric(f"box_ap_{name}", f"AP {name}", meaning, in_table=True, may_be_absent=True))
        return Goal((*metrics, *self._more_metrics(data)), "box_ap", both_macs=True)

    def _more_metrics(self, data: DataConfig) -> list[Metric]:
        return []

    def build(self, model: ModelConfig, classes: int) -> nn.Module:
        if find_spec("pycocotools") is None:
            raise ConfigError(f"task: '{self.name}' needs pycocotools: pip install 'shunted_lab[detection]'")
        return super().build(model, classes)

    def network(self, backbone: Pyramid, channels: list[int], classes: int) -> nn.Module:
        from shunted_lab.nn.detection.heads import DetectionNet, build_detector

        head = build_detector(self.head, channels, classes)
        if "mask" in self.forms and not getattr(head, "has_masks", False):
            why = f"predicts no masks (has_masks), and task={self.name} needs them; take task=detection"
            raise ConfigError(f"task.head: '{self.head_name}' {why}")
        return DetectionNet(backbone, head, classes)

    def call(self, net: Any, images: Tensor) -> Any:
        """A forward pass in which no number of boxes depends on the image, as published costs are counted."""
        return net.fixed_work(images)

    def inputs(self, images: Tensor, targets: Objects) -> tuple[Any, ...]:
        """Images, and what of them is not padding."""
        return images, targets.sizes

    def for_evaluation(self, outputs: Detected, targets: Objects) -> Judged:
        """The detections at the images' original size, matched to the objects there."""
        from shunted_lab.tasks.ap_metric import matched
        from shunted_lab.tasks.found import at_size

        found = [
            at_size(each, size, truth.size)
            for each, size, truth in zip(outputs.detections, targets.sizes, targets.truths, strict=True)
        ]
        classes, ranges = outputs.classes, [each for _, each in targets.ranges]
        return Judged(outputs, matched(found, targets.truths, classes, self.forms, ranges))

    def loss(self, outputs: Any, targets: Objects, smoothing: float) -> Tensor:
        """The sum of the parts of the head's loss; of images that are not trained each by itself."""
        import torch

        trained = not isinstance(outputs, Judged)
        detected = outputs if trained else outputs.detected
        losses = detected.head.losses(detected.features, targets, self.loss_images if trained else 1)
        return torch.stack(list(losses.values())).sum()

    def make_metrics(self, data: DataConfig, classes: int) -> MetricCollection:
        from torchmetrics import MetricCollection

        from shunted_lab.tasks.ap_metric import APMetric

        found = {}
        for metric in self.goal(data, classes).metrics:
            form, _, kind = metric.key.partition("_ap")
            names = [name for name, _ in area_ranges(data)]
            area = 1 + names.index(kind[1:]) if kind.startswith("_") else 0
            found[metric.key] = APMetric({"50": 0, "75": 5}.get(kind), self.forms.index(form), area)
        return MetricCollection(found, compute_groups=[list(found)])  # type: ignore[arg-type]

    def example(self, picture: np.ndarray, outputs: Judged, targets: Objects, class_names: Sequence[str]) -> Example:
        """The true objects, and those that are found with a score from `SHOWN` on."""
        from shunted_lab.tasks.drawing import draw_objects
        from shunted_lab.tasks.found import at_size

        height, width = targets.sizes[0]
        picture = picture[:height, :width]
        true = [m.cpu().numpy()[:height, :width] > 0 for masks in targets.masks for m in masks]
        labels = targets.labels[0].tolist()
        truth = draw_objects(picture, targets.boxes[0].cpu().numpy(), labels, class_names, None, true)
        found = at_size(outputs.detected.detections[0], (height, width), (height, width)).at_least(SHOWN)
        row = [
            (truth, f"truth: {counted(len(labels), 'object')}"),
            (found.draw(picture, class_names), f"found: {len(found.scores)} (score of {SHOWN:g} or more)"),
        ]
        return Example(row, {*labels, *found.labels.tolist()})

    def predict(
        self, net: Any, images: Tensor, size: tuple[int, int], class_names: Sequence[str], score: float, top: int
    ) -> Prediction:
        """The objects in the original image with a score of at least `score`."""
        import torch.nn.functional as F

        from shunted_lab.data.objects import MULTIPLE
        from shunted_lab.tasks.found import at_size

        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        found = at_size(net(padded, [(height, width)]).detections[0], (height, width), size).at_least(score)
        objects = found.plain(class_names)
        text = ", ".join(f"{each['class']} {each['score']:.2f}" for each in objects) or "nothing"
        return Prediction(text, {"objects": objects}, lambda image: found.draw(image, class_names))

    def evidence_of_batch(self, outputs: Judged, targets: Objects) -> tuple[Tensor, ...]:
        """The fields of `average_precision.Marks`."""
        return outputs.marks

    def evidence(self, parts: Sequence[np.ndarray], class_names: Sequence[str], data: DataConfig) -> DetectionEvidence:
        from shunted_lab.tasks.average_precision import FIELDS, DetectionEvidence, Marks

        fields: Any = dict(zip(FIELDS, parts, strict=True))
        areas = tuple(name for name, _ in area_ranges(data))
        return DetectionEvidence(Marks(**fields, forms=self.forms, areas=areas, class_names=tuple(class_names)))


@dataclass
class InstanceSegmentation(Detection):
    """A class, a box and a mask for each object in an image."""

    name: str = "instance_segmentation"
    head: Any = option(
        None, f"the detector: {', '.join(OF_MASKS)}; or a class of your own by its path; null: that of task's name"
    )

    needs: ClassVar[str] = "masks"
    heads: ClassVar[tuple[str, ...]] = OF_MASKS
    forms: ClassVar[tuple[str, ...]] = ("box", "mask")

    def _more_metrics(self, data: DataConfig) -> list[Metric]:
        metrics = [
            Metric("mask_ap", "Mask AP", f"Average precision of masks ({MEANING})", in_table=True),
            Metric("mask_ap50", "Mask AP50", "Average precision of masks at an IoU of 0.50"),
            Metric("mask_ap75", "Mask AP75", "Average precision of masks at an IoU of 0.75"),
        ]
        for name, _ in area_ranges(data):
            meaning = f"Average precision of the masks of {name} objects"
            metrics.append(Metric(f"mask_ap_{name}", f"Mask AP {name}", meaning, may_be_absent=True))
        return metrics


class Judged(NamedTuple):
    """Of a batch that is not trained: what the network returned, and the fields of `average_precision.Marks`."""

    detected: Detected
    marks: tuple[Tensor, ...]


def area_ranges(data: DataConfig) -> Ranges:
    """The named ranges [low, high) of the areas of objects, pixels squared; none where the data have no such names."""
    found = getattr(data, "area_ranges", None)
    return () if found is None else found()

"""Semantic segmentation: a class for each pixel, by cross entropy; mean IoU, mean accuracy, pixel accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shunted_lab.config.data import DataConfig
from shunted_lab.config.schema import option
from shunted_lab.config.task import Example, Goal, Metric, Prediction
from shunted_lab.tasks.headed import HeadedTask

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torchmetrics import MetricCollection

    from shunted_lab.data.label_maps import LabelMaps
    from shunted_lab.nn import Pyramid
    from shunted_lab.tasks.iou import PixelEvidence
    from shunted_lab.tasks.overlap import Range

# Names of the heads that ship with the package; they stand here so that a misspelt one is refused before torch is
# imported. tests/nn/test_segmentation.py holds them against the registry.
HEADS = ("segformer", "segformer_lite", "semantic_fpn", "semantic_fpn_lite", "upernet", "upernet_lite")

MIOU = Metric("miou", "mIoU", "Mean IoU (intersection over union of the pixels of each class, mean over the classes)")
MACC = Metric("macc", "mAcc", "Mean over the classes of the share of their pixels that are right", in_table=True)
AACC = Metric("aacc", "aAcc", "Share of the pixels that are right", in_table=True)


@dataclass
class Segmentation(HeadedTask):
    """One of the classes of the data for each pixel."""

    name: str = "segmentation"
    head: Any = option(
        "semantic_fpn", f"what classifies pixels: {', '.join(HEADS)}; or a class of your own by its path"
    )

    needs: ClassVar[str] = "label map"
    per_class_meaning: ClassVar[str] = "IoU of each class on the test split"
    heads: ClassVar[tuple[str, ...]] = HEADS
    trained_on: ClassVar[str] = "label maps"
    recipe_hint: ClassVar[str] = "segment_lite"
    example_side: ClassVar[int] = 128

    @property
    def least_batch(self) -> int:
        """UPerNet pools the deepest map to one value a channel, before a BatchNorm."""
        return 2 if self.head_name.startswith("upernet") else 1

    def goal(self, data: DataConfig, classes: int = 0) -> Goal:
        """Mean IoU of all pixels, and of the objects by their size where the data know it."""
        by_size = []
        for name, _ in _size_ranges(data):
            meaning = f"Mean IoU of {name} objects, over the images with one"
            by_size.append(Metric(f"miou_{name}", f"mIoU {name}", meaning, in_table=True, may_be_absent=True))
        return Goal((MIOU, MACC, AACC, *by_size), "miou", both_macs=True)

    def network(self, backbone: Pyramid, channels: list[int], classes: int) -> nn.Module:
        from shunted_lab.nn.segmentation.heads import SegmentationNet, build_head

        return SegmentationNet(backbone, build_head(self.head, channels, classes), classes)

    def call(self, net: Any, images: Tensor) -> Any:
        """A forward pass; what a head of the user's returns is checked."""
        output = net(images)
        if self.sources and not net.training:
            from shunted_lab.nn.segmentation.heads import check_output

            check_output(output, len(images), net.num_classes, self.head_name)
        return output

    def for_evaluation(self, outputs: Tensor, targets: LabelMaps) -> Counted:
        """Logits (B, K, h, w) resized to the labels, and the counts of pixels of their largest class."""
        from shunted_lab.tasks.overlap import count_pixels

        logits = _resized(outputs, targets)
        return Counted(logits, count_pixels(logits.argmax(1), targets, outputs.shape[1], targets.ranges))

    def loss(self, outputs: Any, targets: LabelMaps, smoothing: float) -> Tensor:
        """Cross entropy of logits (B, K, h, w), resized to the labels: the sum over the pixels that count, divided by
        the number of all pixels, as in mmseg, so that a batch without any pixel that counts has the loss 0.

        In training `outputs` are pairs of logits and their weight: those of the head, and auxiliary ones.
        """
        if isinstance(outputs, Counted):
            return _cross_entropy(outputs.logits, targets)
        losses = [weight * _cross_entropy(_resized(logits, targets), targets, smoothing) for logits, weight in outputs]
        return sum(losses[1:], losses[0])

    def make_metrics(self, data: DataConfig, classes: int) -> MetricCollection:
        from torchmetrics import MetricCollection

        from shunted_lab.tasks.overlap import PixelMetric

        whole = {kind: PixelMetric(kind, classes) for kind in ("miou", "macc", "aacc")}
        sizes = {
            f"miou_{name}": PixelMetric("miou", classes, part, first=1)
            for part, (name, _) in enumerate(_size_ranges(data), 1)
        }
        return MetricCollection(whole | sizes, compute_groups=[list(whole), *([name] for name in sizes)])  # type: ignore[arg-type]

    def evidence_of_batch(self, outputs: Counted, targets: LabelMaps) -> tuple[Tensor, ...]:
        """Counts of all pixels, (B, 3, K)."""
        return (outputs.counts[:, 0],)

    def example(self, picture: np.ndarray, outputs: Counted, targets: LabelMaps, class_names: Sequence[str]) -> Example:
        """Image, true classes, predicted ones, and where they differ."""
        import numpy as np
        from PIL import Image

        from shunted_lab.data.label_maps import IGNORED
        from shunted_lab.tasks.drawing import coloured, differences

        true, predicted = targets.classes[0].cpu().numpy(), outputs.logits.argmax(1)[0].cpu().numpy()
        if picture.shape[:2] != true.shape:
            picture = np.asarray(Image.fromarray(picture).resize(true.shape[::-1]))
        counted = true != IGNORED
        share = (counted & (true == predicted)).sum() / max(1, counted.sum())
        row = [
            (picture, "image"),
            (coloured(true), "truth\n(white: not counted)"),
            (coloured(predicted), f"prediction\n{100 * share:.0f} % of pixels right"),
            (differences(picture, true, predicted), "red: wrong\nwhite: not counted"),
        ]
        return Example(row, set(np.unique(true[counted]).tolist()) | set(np.unique(predicted[counted]).tolist()))

    def predict(
        self, net: Any, images: Tensor, size: tuple[int, int], class_names: Sequence[str], score: float, top: int
    ) -> Prediction:
        """A class for each pixel of the original image, and the share of the pixels of each class."""
        import numpy as np

        from shunted_lab.nn.segmentation.layers import resized
        from shunted_lab.tasks.drawing import coloured, over, with_legend

        classes = resized(net(images).float(), size).argmax(1)[0].cpu().numpy().astype(np.uint8)
        counts = np.bincount(classes.ravel(), minlength=len(class_names)) / classes.size
        order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k] > 0]
        shares: list[dict[str, Any]] = [{"class": class_names[k], "share": round(float(counts[k]), 4)} for k in order]
        text = ", ".join(f"{each['class']} {100 * each['share']:.0f} %" for each in shares[:top])
        draw = lambda image: with_legend(over(image, coloured(classes)), class_names, sorted(order))  # noqa: E731
        return Prediction(text, {"classes": shares}, draw, classes)

    def evidence(self, parts: Sequence[np.ndarray], class_names: Sequence[str], data: DataConfig) -> PixelEvidence:
        from shunted_lab.tasks.iou import PixelEvidence

        return PixelEvidence(parts[0], tuple(class_names))


class Counted(NamedTuple):
    """Of a batch that is not trained: logits (B, K, H, W) of the labels' size, and counts (`overlap.count_pixels`)."""

    logits: Tensor
    counts: Tensor


def _resized(logits: Tensor, targets: LabelMaps) -> Tensor:
    from shunted_lab.nn.segmentation.layers import resized

    return resized(logits.float(), targets.classes.shape[-2:])


def _cross_entropy(logits: Tensor, targets: LabelMaps, smoothing: float = 0.0) -> Tensor:
    import torch.nn.functional as F

    from shunted_lab.data.label_maps import IGNORED

    options: dict[str, Any] = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": smoothing}
    found = F.cross_entropy(logits, targets.classes.long(), **options)
    return found / targets.classes.numel()


def _size_ranges(data: DataConfig) -> list[tuple[str, Range]]:
    """The named ranges of sizes [low, high) of objects; none where the data do not know sizes."""
    found = getattr(data, "size_ranges", None)
    return [] if found is None else found()

"""What is learned and measured: the contract of a task, and the metrics that it declares (tasks are in `tasks/`).

A task is a dataclass: its fields are the keys `task.*`. Its methods may import torch; importing its module must not,
since the plan, the report and `--help` read its goal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from omegaconf import MISSING

from shunted_lab.output.quantities import COSTS, LOSS, PERCENT, Unit

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torchmetrics import MetricCollection

    from shunted_lab.config.data import DataConfig
    from shunted_lab.config.model import ModelConfig
    from shunted_lab.config.recipe import RecipeConfig


@dataclass(frozen=True)
class Metric:
    """A metric of a task, which is measured on each split: `val/KEY`, `test/KEY`.

    Args:
        key: its name in results and overrides.
        label: its column in the table.
        meaning: its name in a caption.
        unit: what people are shown it in; results have base units (fractions for percent).
        direction: max or min, whichever is better.
        in_table: whether it has a column of its own; the leading metric always has.
        is_proportion: whether it is the share of the images that are right, so that Wilson's interval holds.
        may_be_absent: whether a split can have nothing that it is measured on, e.g. no object of a size. It is then NaN
            and not part of a result.
    """

    key: str
    label: str
    meaning: str
    unit: Unit = PERCENT
    direction: str = "max"
    in_table: bool = False
    is_proportion: bool = False
    may_be_absent: bool = False


@dataclass(frozen=True)
class Goal:
    """The metrics of a task, of which `lead` chooses checkpoints, directs searches and is compared in the table.

    `both_macs` says that the table shows GMACs without the attention products too, where both are published.

    Each task has `loss` beside them. It is the only source for the monitor of checkpoints, Optuna's direction, the
    objectives of a search, the table's columns, the axes of figures, and what commands print.
    """

    metrics: tuple[Metric, ...]
    lead: str
    both_macs: bool = False

    @property
    def leading(self) -> Metric:
        """The metric that leads."""
        return self.metric(self.lead)

    @property
    def monitor(self) -> str:
        """The leading metric of the validation split, as checkpoints and studies name it."""
        return f"val/{self.lead}"

    @property
    def mode(self) -> str:
        """Whether `max` or `min` of the monitor is best."""
        return self.leading.direction

    @property
    def headline(self) -> str:
        """The leading metric of the test split."""
        return f"test/{self.lead}"

    @property
    def columns(self) -> tuple[Metric, ...]:
        """The metrics beside the leading one that stand in the table."""
        return tuple(metric for metric in self.metrics if metric.in_table and metric.key != self.lead)

    def metric(self, key: str) -> Metric:
        """The metric of a key, with or without the name of a split."""
        return next(metric for metric in self.metrics if metric.key == key.rpartition("/")[2])

    def unit(self, name: str) -> Unit:
        """The unit of a metric, a loss or a cost: `val/top1`, `train/loss`, `latency`."""
        key = name.rpartition("/")[2]
        if key == "loss":
            return LOSS
        return COSTS[key] if key in COSTS else self.metric(key).unit

    def known(self, values: Mapping[str, float]) -> dict[str, float]:
        """Values by their names, `test/box_ap`, without those that a split has nothing for."""
        absent = {metric.key for metric in self.metrics if metric.may_be_absent}
        gone = [name for name, value in values.items() if math.isnan(value) and name.rpartition("/")[2] in absent]
        return {name: value for name, value in values.items() if name not in gone}

    def names(self, split: str) -> list[str]:
        """All that is measured on a split, as results name it."""
        return [f"{split}/{key}" for key in (*(metric.key for metric in self.metrics), "loss")]


class Evidence(Protocol):
    """What a run keeps of each image of the test split, in the order of the split, so that runs can be compared on it.

    It is compact on disk, and can be resampled: the score on any images is the mean of their `scores`; or, where there
    are `counts`, the mean intersection over union of the sums of their counts; or, where there are `marks`, average
    precision.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of `per_class`; none for a task without classes."""
        ...

    @property
    def scores(self) -> np.ndarray:
        """(N,) how well each image was predicted; larger is better where the goal's direction is max."""
        ...

    @property
    def counts(self) -> np.ndarray | None:
        """(N, 3, K) pixels of each image and class: correct ones, predicted ones, true ones; None for other tasks."""
        ...

    @property
    def marks(self) -> Any:
        """Which detections are right (`tasks.average_precision.Marks`); None for other tasks."""
        ...

    @property
    def is_binary(self) -> bool:
        """Whether scores are 0 or 1, so that McNemar's test compares two runs."""
        ...

    @property
    def images(self) -> str:
        """Digits that are the same for runs on the same images with the same targets, and for no others."""
        ...

    def per_class(self) -> np.ndarray | None:
        """(classes,) the score of each class, NaN for a class without images; None for a task without classes."""
        ...

    def captions(self, images: Sequence[int]) -> list[str]:
        """What was predicted for some images, in a few words."""
        ...

    def write(self, folder: Path) -> Path | None:
        """Write a file into a run's folder, whole or not at all; None where `evidence.npz` has all."""
        ...


@dataclass(frozen=True)
class Example:
    """Predictions for an image: pictures (H, W, 3) uint8 with up to two lines of text each, and the classes in them."""

    row: list[tuple[np.ndarray, str]]
    classes: set[int]


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Args:
        text: in a few words.
        values: plain values, for a JSON file.
        draw: the image (H, W, 3) uint8 at its original size -> the image with what is predicted.
        label_map: (H, W) uint8 classes of the pixels; None for other tasks.
    """

    text: str
    values: dict[str, Any]
    draw: Callable[[np.ndarray], np.ndarray]
    label_map: np.ndarray | None = None


@dataclass
class TaskConfig(ABC):
    """A task: its network, its loss, what it measures, and what it keeps as evidence.

    A task implements the abstract methods; the others have a default. `needs` is what each image of the data must have
    (`DataConfig.targets`). `per_class_meaning` is the caption of the figure of classes. Batches are
    `(images (B, 3, H, W), targets)`; `outputs` is what the network returns for images.
    """

    name: str = MISSING

    needs: ClassVar[str] = ""
    per_class_meaning: ClassVar[str] = ""
    sees_whole_images: ClassVar[bool] = False  # whether an image is not cropped before it is evaluated
    example_side: ClassVar[int] = 0  # pixels of a picture of `example`; 0: it draws none

    @abstractmethod
    def goal(self, data: DataConfig, classes: int = 0) -> Goal:
        """What is measured on `data`. `classes` is their number; 0 where it is not known: then all that may be."""

    def check_recipe(self, data: DataConfig, recipe: RecipeConfig) -> None:  # noqa: B027  # refuses nothing
        """Raise ConfigError for a recipe that this task cannot be trained with."""

    def input_size(self, data: DataConfig) -> tuple[int, int]:
        """Height and width of an image, at which costs are counted and measured."""
        return data.input_size

    @property
    def sources(self) -> tuple[str, ...]:
        """Dotted paths of the user's own classes that the network consists of, beside those of the model."""
        return ()

    @property
    def least_batch(self) -> int:
        """The fewest images that a device can train at a time."""
        return 1

    def call(self, net: nn.Module, images: Tensor) -> Any:
        """A forward pass of images (B, 3, H, W), for counting costs on `meta` and measuring them (`nn.count.Call`)."""
        return net(images)

    def inputs(self, images: Tensor, targets: Any) -> tuple[Any, ...]:
        """What the network is called with for a batch, whether it is trained or not."""
        return (images,)

    @property
    def images_together(self) -> int:
        """Images over which an average in the loss is taken; a device trains a multiple of it at a time."""
        return 1

    @abstractmethod
    def build(self, model: ModelConfig, classes: int) -> nn.Module:
        """The network: the backbone of `model` with the head of this task.

        Raises:
            ConfigError: for a model that cannot be built.
        """

    def augment(
        self, images: Tensor, targets: Any, recipe: RecipeConfig, classes: int, key: Sequence[int]
    ) -> tuple[Tensor, Any]:
        """Augmentation of a whole training batch, as mixup. `key` seeds what is drawn for it.

        Targets that are changed have label smoothing in them; those that are returned as they are do not.
        """
        return images, targets

    def for_evaluation(self, outputs: Any, targets: Any) -> Any:
        """What `loss`, the metrics and `evidence_of_batch` are given for a batch that is not trained, computed once."""
        return outputs

    @abstractmethod
    def loss(self, outputs: Any, targets: Any, smoothing: float) -> Tensor:
        """The loss of a batch, a mean over its images. `smoothing` is 0 where it is not trained."""

    @abstractmethod
    def make_metrics(self, data: DataConfig, classes: int) -> MetricCollection:
        """The metrics of the goal, by their keys; each takes `update(outputs, targets)`."""

    @abstractmethod
    def evidence_of_batch(self, outputs: Any, targets: Any) -> tuple[Tensor, ...]:
        """What is kept of a test batch: tensors (B, ...), on which batches are concatenated."""

    def example(self, picture: np.ndarray, outputs: Any, targets: Any, class_names: Sequence[str]) -> Example:
        """The prediction for one image beside the truth, where `example_side` is set.

        Args:
            picture: (H, W, 3) uint8, as the network sees it.
            outputs, targets: of `for_evaluation`, of a batch of this image.
        """
        raise NotImplementedError

    @property
    def predicts(self) -> bool:
        """Whether `predict` is implemented."""
        return type(self).predict is not TaskConfig.predict

    def predict(
        self, net: Any, images: Tensor, size: tuple[int, int], class_names: Sequence[str], score: float, top: int
    ) -> Prediction:
        """What the network says of one image.

        Args:
            images: (1, 3, H, W), prepared as for evaluation.
            size: height and width of the original image.
            score: the least score of an object.
            top: how many classes of an image to name.
        """
        raise NotImplementedError

    @abstractmethod
    def evidence(self, parts: Sequence[np.ndarray], class_names: Sequence[str], data: DataConfig) -> Evidence:
        """The evidence of the whole test split, from the arrays that `evidence_of_batch` gives, concatenated."""

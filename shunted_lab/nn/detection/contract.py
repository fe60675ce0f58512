"""What goes into a detector's head and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Size = tuple[int, int]  # height and width, pixels


class Detections(NamedTuple):
    """What was found in one image, the highest score first.

    Args:
        boxes: (n, 4) x0, y0, x1, y1, pixels of the image as the network sees it.
        scores: (n,) in [0, 1].
        labels: (n,) classes 0 to K - 1.
        masks: (n, M, M) probabilities within the box (`masks.paste_mask`); None for a detector of boxes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Targets(Protocol):
    """The objects of a batch of B images.

    `boxes[i]` is (n, 4), `labels[i]` (n,) int64, `masks[i]` (n, H, W) uint8 in pixels of the image, `has_mask[i]` (n,)
    booleans (masks without one are not trained); `masks` is empty where no masks are trained. `seeds[i]` is what is
    drawn for the image with, `sizes[i]` what of it is not padding.
    """

    @property
    def boxes(self) -> Sequence[Tensor]: ...

    @property
    def labels(self) -> Sequence[Tensor]: ...

    @property
    def masks(self) -> Sequence[Tensor]: ...

    @property
    def has_mask(self) -> Sequence[Tensor]: ...

    @property
    def seeds(self) -> Sequence[int]: ...

    @property
    def sizes(self) -> Sequence[Size]: ...


class Head(Protocol):
    """A detector's head, built with `channels` (of the backbone's four maps, finest first) and `num_classes`.

    It is an `nn.Module`. `has_masks` says whether its detections have masks; without it they have none.
    """

    def __call__(self, maps: Sequence[Tensor]) -> Any:
        """Maps (B, C_i, H_i, W_i), finest first -> what the other methods take: features, or dense predictions."""

    def detect(self, features: Any, sizes: Sequence[Size]) -> list[Detections]:
        """The detections of each image; boxes lie within its size, which may be less than that of the batch."""

    def losses(self, features: Any, targets: Targets, together: int) -> dict[str, Tensor]:
        """The parts of the loss, scalars, which are added; averages are over `together` images (`parts.average`)."""

    def fixed_work(self, features: Any) -> Any:
        """What costs and latencies are of: the work of `detect` on a number of boxes that depends on no value."""

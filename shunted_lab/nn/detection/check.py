"""`check_detector` holds a detector's head against its contract, as `check_component` does for other components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shunted_lab.nn.check import require, run_checks
from shunted_lab.nn.checked_head import CheckedHead
from shunted_lab.nn.detection.contract import Detections
from shunted_lab.nn.detection.heads import DETECTOR, build_detector

SIZES = [(64, 96), (96, 64)]  # of images: multiples of the last stride, as batches are padded
BOXES = [[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 60.0, 50.0]]

Detector = str | Callable[..., nn.Module]


class _Targets(NamedTuple):
    boxes: list[Tensor]
    labels: list[Tensor]
    masks: list[Tensor]
    has_mask: list[Tensor]
    seeds: list[int]
    sizes: list[tuple[int, int]]

    def part(self, own: slice) -> _Targets:
        fields: Any = (field[own] for field in self)
        return _Targets(*fields)


def check_detector(detector: Detector, **options: Any) -> list[str]:
    """Hold a detector's head against its contract, on the CPU.

    Args:
        detector: a registered name, a dotted path, or a class (or function) that builds a module.
        options: of the head, and `channels` and `num_classes` to test it with.

    Returns:
        The names of what was checked.

    Raises:
        ContractError: naming the check and what was found.
        ComponentError: if the head cannot be built.
    """
    subject = _Subject(detector, DETECTOR, options, build_detector)
    checks = {
        "detections": _check_detections,
        "losses": _check_losses,
        "no objects": _check_no_objects,
        "averages": _check_averages,
        "gradients": _check_gradients,
        "determinism": _check_determinism,
        "batch independence": _check_batch,
        "state dict": _check_state_dict,
        "cost": _check_cost,
    }
    return run_checks(f"detector '{subject.name}'", subject, checks)


class _Subject(CheckedHead):
    """A detector's head, with objects."""

    def targets(self, size: tuple[int, int], counts: Sequence[int] = (2, 1)) -> _Targets:
        """So many objects in each image."""
        boxes = [torch.tensor(BOXES[:count]).reshape(-1, 4) for count in counts]
        masks = [torch.ones(count, *size, dtype=torch.uint8) for count in counts]
        labels = [torch.arange(count) % self.classes for count in counts]
        has_mask = [torch.ones(count, dtype=torch.bool) for count in counts]
        return _Targets(boxes, labels, masks, has_mask, list(range(len(counts))), [size] * len(counts))


def _losses(head: Any, maps: list[Tensor], targets: _Targets, together: int = 2) -> dict[str, Tensor]:
    return dict(head.losses(head(maps), targets, together))


@torch.no_grad()
def _check_detections(subject: _Subject) -> None:
    """Boxes within the image, scores in [0, 1] that fall, labels of classes."""
    for size in SIZES:
        head = subject.build().eval()
        inner = (size[0] - 9, size[1] - 5)
        found = head.detect(head(subject.maps(size)), [size, inner])
        require(len(found) == 2, f"of 2 images it returns detections of {len(found)}")
        for each, (height, width) in zip(found, (size, inner), strict=True):
            require(isinstance(each, Detections), f"returns a {type(each).__name__}; expected Detections")
            count = len(each.scores)
            require(each.boxes.shape == (count, 4) and each.labels.shape == (count,), "boxes, scores, labels differ")
            bound = torch.tensor([width, height] * 2)
            require(bool(((each.boxes >= 0) & (each.boxes <= bound)).all()), f"a box is outside of {height} x {width}")
            known = bool(((each.labels >= 0) & (each.labels < subject.classes)).all())
            require(known, f"a label is not one of the {subject.classes} classes")
            require(bool((each.scores.diff() <= 0).all()), "scores do not fall")
            require(bool(((each.scores >= 0) & (each.scores <= 1)).all()), "a score is not in [0, 1]")


def _check_losses(subject: _Subject) -> None:
    found = _losses(subject.build().train(), subject.maps(SIZES[0]), subject.targets(SIZES[0]))
    require(bool(found), "there are none")
    for name, value in found.items():
        good = isinstance(value, Tensor) and value.ndim == 0 and bool(value.isfinite())
        require(good, f"'{name}' is not one finite number")


def _check_no_objects(subject: _Subject) -> None:
    """A batch without objects has a finite loss, and every parameter a gradient: processes of a run wait for it."""
    head = subject.build().train()
    found = _losses(head, subject.maps(SIZES[0]), subject.targets(SIZES[0], (0, 0)))
    for name, value in found.items():
        require(bool(value.isfinite()), f"'{name}' is not finite without objects")
    torch.stack(list(found.values())).sum().backward()
    for name, p in head.named_parameters():
        require(p.grad is not None, f"parameter '{name}' gets no gradient from a batch without objects")


def _check_averages(subject: _Subject) -> None:
    """The loss of four images is the mean of those of its pairs."""
    head, maps = subject.build().train(), subject.maps(SIZES[0], 4)
    targets = subject.targets(SIZES[0], (2, 1, 0, 1))
    whole = _losses(head, maps, targets)
    parts = [_losses(head, [x[own] for x in maps], targets.part(own)) for own in (slice(0, 2), slice(2, 4))]
    for name, value in whole.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        same = torch.allclose(value, mean, rtol=1e-3, atol=1e-5)
        require(same, f"'{name}' of four images is not the mean of its pairs: averages must be over `together` images")


def _check_gradients(subject: _Subject) -> None:
    head, maps = subject.build().train(), [x.requires_grad_() for x in subject.maps(SIZES[0])]
    torch.stack(list(_losses(head, maps, subject.targets(SIZES[0])).values())).sum().backward()
    for name, p in head.named_parameters():
        require(p.grad is not None, f"parameter '{name}' gets none")
        require(bool(p.grad.isfinite().all()), f"that of '{name}' is not finite")
    require(any(x.grad is not None and bool(x.grad.any()) for x in maps), "no map has an influence")


def _same(one: Sequence[Detections], other: Sequence[Detections]) -> bool:
    return all(
        len(a.scores) == len(b.scores)
        and torch.allclose(a.boxes, b.boxes, atol=1e-3)
        and torch.allclose(a.scores, b.scores, atol=1e-4)
        for a, b in zip(one, other, strict=True)
    )


@torch.no_grad()
def _check_determinism(subject: _Subject) -> None:
    head, maps = subject.build().eval(), subject.maps(SIZES[0])
    first, second = (head.detect(head(maps), [SIZES[0]] * 2) for _ in range(2))
    require(_same(first, second), "two passes in evaluation differ")


@torch.no_grad()
def _check_batch(subject: _Subject) -> None:
    head, maps = subject.build().eval(), subject.maps(SIZES[0])
    both = head.detect(head(maps), [SIZES[0]] * 2)
    one = head.detect(head([x[1:] for x in maps]), [SIZES[0]])
    require(_same(both[1:], one), "in evaluation an image's detections depend on the others in the batch")


@torch.no_grad()
def _check_state_dict(subject: _Subject) -> None:
    head, maps = subject.build(), subject.maps(SIZES[0])
    pair = [each.eval().detect(each(maps), [SIZES[0]] * 2) for each in (head, subject.reloaded(head))]
    require(_same(*pair), "another instance with the same state dict finds something else")


def _check_cost(subject: _Subject) -> None:
    subject.check_cost(SIZES[0], lambda head, maps: head.fixed_work(head(maps)))

"""`check_head` holds a head of segmentation against its contract, as `check_component` does for other components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shunted_lab.nn.check import require, run_checks
from shunted_lab.nn.checked_head import CheckedHead
from shunted_lab.nn.segmentation.heads import HEAD, build_head, fault_of_logits

SIZES = [(64, 64), (96, 72), (35, 61)]  # of images: whole strides, half ones, neither

Head = str | Callable[..., nn.Module]


def check_head(head: Head, **options: Any) -> list[str]:
    """Hold a head against its contract, on the CPU.

    Args:
        head: a registered name, a dotted path, or a class (or function) that builds a module.
        options: of the head, and `channels` and `num_classes` to test it with.

    Returns:
        The names of what was checked.

    Raises:
        ContractError: naming the check, the size of the image and what was found.
        ComponentError: if the head cannot be built.
    """
    subject = CheckedHead(head, HEAD, options, build_head)
    checks = {
        "shapes": _check_shapes,
        "gradients": _check_gradients,
        "bf16 autocast": _check_autocast,
        "determinism": _check_determinism,
        "batch independence": _check_batch,
        "state dict": _check_state_dict,
        "cost": _check_cost,
        "torch.export": _check_export,
    }
    return run_checks(f"head '{subject.name}'", subject, checks)


def _check_shapes(subject: CheckedHead) -> None:
    """Maps of any image go in, also of one that no stride divides; logits come out, in training and evaluation."""
    for size in SIZES:
        head, maps = subject.build(), subject.maps(size)
        for training in (True, False):
            output = head.train(training)(maps)
            fault = fault_of_logits(output, 2, subject.classes, training)
            require(fault is None, f"of an image of {size[0]} x {size[1]} it {fault}")
            auxiliary = training and isinstance(output, tuple | list) and len(output) > 1
            require(not auxiliary or hasattr(head, "auxiliary_weight"), "auxiliary logits need an `auxiliary_weight`")


def _all_logits(output: Any) -> list[Tensor]:
    return list(output) if isinstance(output, tuple | list) else [output]


def _check_gradients(subject: CheckedHead) -> None:
    """In training every parameter gets a finite gradient, and every map takes part."""
    head, maps = subject.build().train(), [x.requires_grad_() for x in subject.maps(SIZES[1])]
    torch.stack([(x * torch.randn_like(x)).sum() for x in _all_logits(head(maps))]).sum().backward()
    for name, p in head.named_parameters():
        require(p.grad is not None, f"parameter '{name}' gets none")
        require(bool(p.grad.isfinite().all()), f"that of '{name}' is not finite")
    for i, x in enumerate(maps):
        require(x.grad is not None and bool(x.grad.any()), f"map {i} (of {len(maps)}) has no influence")


def _check_autocast(subject: CheckedHead) -> None:
    head, maps = subject.build().train(), subject.maps(SIZES[0])
    with torch.autocast("cpu", torch.bfloat16):
        output = _all_logits(head(maps))
    require(all(bool(x.isfinite().all()) for x in output), "the output is not finite")


@torch.no_grad()
def _check_determinism(subject: CheckedHead) -> None:
    head, maps = subject.build().eval(), subject.maps(SIZES[1])
    require(torch.equal(head(maps), head(maps)), "two passes in evaluation differ")


@torch.no_grad()
def _check_batch(subject: CheckedHead) -> None:
    head, maps = subject.build().eval(), subject.maps(SIZES[1])
    both, one = head(maps)[1:], head([x[1:] for x in maps])
    same = torch.allclose(both, one, rtol=1e-3, atol=1e-5)
    require(same, "in evaluation an image's output depends on the others in the batch")


@torch.no_grad()
def _check_state_dict(subject: CheckedHead) -> None:
    head, maps = subject.build(), subject.maps(SIZES[0])
    same = torch.equal(head.eval()(maps), subject.reloaded(head).eval()(maps))
    require(same, "another instance with the same state dict gives another output")


def _check_cost(subject: CheckedHead) -> None:
    subject.check_cost(SIZES[0], lambda head, maps: head(maps))


@torch.no_grad()
def _check_export(subject: CheckedHead) -> None:
    head, maps = subject.build().eval(), subject.maps(SIZES[1])
    try:
        exported = torch.export.export(head, (maps,)).module()
    except Exception as error:
        require(False, f"{type(error).__name__}: {str(error).splitlines()[0]}", error)
    same = torch.allclose(exported(maps), head(maps), rtol=1e-3, atol=1e-5)
    require(same, "the exported program gives another output")

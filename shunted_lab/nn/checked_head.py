"""What `check_head` and `check_detector` have in common: how a head is built, and what it is fed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shunted_lab.nn.check import require
from shunted_lab.nn.registry import Registry

CHANNELS, CLASSES = (8, 12, 16, 20), 5


class CheckedHead:
    """A head that is checked.

    Args:
        head: a registered name, a dotted path, or a class (or function) that builds a module.
        registry: of its kind.
        options: of the head, and `channels` and `num_classes` to test it with.
        build: spec, channels, number of classes and registry -> a head.
    """

    def __init__(
        self,
        head: str | Callable[..., nn.Module],
        registry: Registry,
        options: dict[str, Any],
        build: Callable[..., nn.Module],
    ):
        self.name = head if isinstance(head, str) else getattr(head, "__name__", repr(head))
        self.registry = registry
        if not isinstance(head, str):  # a registry of its own, so that nothing is left behind
            self.registry = Registry(registry.kind)
            self.registry.register(self.name)(head)
        self.channels: Sequence[int] = options.pop("channels", CHANNELS)
        self.classes: int = options.pop("num_classes", CLASSES)
        self.spec = {"name": self.name, **options}
        self._build = build

    def build(self) -> Any:
        return self._build(self.spec, list(self.channels), self.classes, self.registry)

    def maps(self, size: tuple[int, int], batch: int = 2) -> list[Tensor]:
        """Of images of this size, at strides 4, 8, 16, 32."""
        strides = [2 ** (i + 2) for i in range(len(self.channels))]
        sides = [[-(-side // stride) for side in size] for stride in strides]
        return [torch.randn(batch, dim, *grid) for dim, grid in zip(self.channels, sides, strict=True)]

    def reloaded(self, head: nn.Module) -> Any:
        """Another instance with the state dict of `head`, which goes through a file."""
        file = io.BytesIO()
        torch.save(head.state_dict(), file)
        file.seek(0)
        other = self.build()
        try:
            other.load_state_dict(torch.load(file, weights_only=True))
        except Exception as error:
            require(False, f"another instance does not load it: {str(error).splitlines()[0]}", error)
        return other

    def check_cost(self, size: tuple[int, int], call: Callable[[Any, list[Tensor]], Any]) -> None:
        """It can be built and counted on `meta`, and its matrices are counted."""
        with torch.device("meta"):
            head, maps = self.build().eval(), self.maps(size)
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                call(head, maps)
        except Exception as error:
            require(False, f"it cannot be counted on the meta device: {str(error).splitlines()[0]}", error)
        require(counter.get_total_flops() > 0, "no multiply-accumulates are counted")

"""A backbone with a head of another task than classification."""

from __future__ import annotations

from torch import nn

from shunted_lab.nn.pyramid import Pyramid


class HeadedNet(nn.Module):
    """What networks for segmentation and detection have in common; `forward` is theirs.

    Args:
        head: takes the backbone's maps.
    """

    def __init__(self, backbone: Pyramid, head: nn.Module, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As the backbone's."""
        self.backbone.set_grad_checkpointing(enable)
